-- Who may do what: exactly this, whatever was granted before. Run by the owner, after the last migration.

REVOKE ALL ON tenant, workflow_execution, promise, idempotency_key, workflow_event, workflow_event_row, api_key, signing_key
    FROM promises_app, promises_sweeper, promises_admin;
REVOKE ALL ON FUNCTION promise_race_lost(UUID), workflow_event_delete(), workflow_event_write(),
    promise_key_live(TIMESTAMPTZ, BOOLEAN, TIMESTAMPTZ, TIMESTAMPTZ),
    promise_key_names(TIMESTAMPTZ, BOOLEAN, TIMESTAMPTZ, TIMESTAMPTZ, TIMESTAMPTZ),
    promise_create(VARCHAR, UUID, VARCHAR, VARCHAR, VARCHAR, INTERVAL, INTERVAL, TIMESTAMPTZ, JSONB, VARCHAR, BYTEA, TEXT, BOOLEAN),
    promise_create(VARCHAR, UUID, VARCHAR, VARCHAR, INTERVAL, INTERVAL, TIMESTAMPTZ, JSONB, VARCHAR, BYTEA, TEXT, BOOLEAN),
    promise_settle(VARCHAR, UUID, VARCHAR, VARCHAR, BYTEA, TEXT, VARCHAR, VARCHAR, VARCHAR),
    promise_create_before(VARCHAR, UUID, VARCHAR, VARCHAR, INTERVAL, INTERVAL, TIMESTAMPTZ, JSONB, VARCHAR, BYTEA, TEXT, BOOLEAN),
    promise_settle_before(VARCHAR, UUID, VARCHAR, VARCHAR, BYTEA, TEXT, VARCHAR, VARCHAR, VARCHAR)
    FROM PUBLIC, promises_app;

-- The API: it deletes nothing, and writes of a promise that is there only what a settlement, another deadline or a revocation of its tokens writes.
GRANT SELECT ON tenant, workflow_execution, promise, idempotency_key, workflow_event, workflow_event_row, api_key, signing_key TO promises_app;
GRANT INSERT ON workflow_execution, promise, idempotency_key, workflow_event, workflow_event_row TO promises_app;
GRANT UPDATE (last_sequence_number, external_id) ON workflow_execution TO promises_app;
GRANT UPDATE (
    resolved, outcome, value, error, resolved_at, resolved_by_sequence, settled_by_kind, settled_by_id, comment,
    timeout_at, timeout_outcome, timeout_value, timeout_error, tokens_revoked_at
) ON promise TO promises_app;
GRANT UPDATE ON idempotency_key TO promises_app;
GRANT EXECUTE ON FUNCTION promise_race_lost(UUID),
    promise_key_live(TIMESTAMPTZ, BOOLEAN, TIMESTAMPTZ, TIMESTAMPTZ),
    promise_key_names(TIMESTAMPTZ, BOOLEAN, TIMESTAMPTZ, TIMESTAMPTZ, TIMESTAMPTZ),
    promise_create(VARCHAR, UUID, VARCHAR, VARCHAR, VARCHAR, INTERVAL, INTERVAL, TIMESTAMPTZ, JSONB, VARCHAR, BYTEA, TEXT, BOOLEAN),
    promise_create(VARCHAR, UUID, VARCHAR, VARCHAR, INTERVAL, INTERVAL, TIMESTAMPTZ, JSONB, VARCHAR, BYTEA, TEXT, BOOLEAN),
    promise_settle(VARCHAR, UUID, VARCHAR, VARCHAR, BYTEA, TEXT, VARCHAR, VARCHAR, VARCHAR) TO promises_app;

-- expire-promises: records deadlines, and deletes what is over.
GRANT SELECT (id, slug) ON tenant TO promises_sweeper;
GRANT SELECT, DELETE ON workflow_execution, promise, idempotency_key, workflow_event, workflow_event_row TO promises_sweeper;
GRANT INSERT ON workflow_event, workflow_event_row TO promises_sweeper;
GRANT UPDATE (last_sequence_number) ON workflow_execution TO promises_sweeper;
GRANT UPDATE (resolved, outcome, value, error, resolved_at, resolved_by_sequence, settled_by_kind) ON promise TO promises_sweeper;
GRANT UPDATE ON idempotency_key TO promises_sweeper;
GRANT EXECUTE ON FUNCTION promise_race_lost(UUID), promise_key_live(TIMESTAMPTZ, BOOLEAN, TIMESTAMPTZ, TIMESTAMPTZ),
    promise_key_names(TIMESTAMPTZ, BOOLEAN, TIMESTAMPTZ, TIMESTAMPTZ, TIMESTAMPTZ) TO promises_sweeper;

-- manage-tenants: sees no promise.
GRANT SELECT, INSERT ON tenant, api_key TO promises_admin;
GRANT UPDATE (suspended_at) ON tenant TO promises_admin;
GRANT UPDATE (revoked_at, tokens_revoked_at) ON api_key TO promises_admin;
