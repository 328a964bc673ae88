-- The rights of each role: exactly these, whatever was granted before. The owner runs this after the last migration.

REVOKE ALL ON tenant, tenant_usage, tenant_wait, deleted_tenant, workflow_execution, promise, idempotency_key, workflow_event, workflow_event_row, api_key,
    signing_key, destination, destination_secret, delivery, delivery_lease, source, source_secret, receipt, receipt_body
    FROM promises_app, promises_reader, promises_sweeper, promises_admin, promises_relay, promises_manager, promises_webhook;
REVOKE ALL ON FUNCTION promise_race_lost(UUID), workflow_event_delete(), workflow_event_write(),
    promise_key_live(TIMESTAMPTZ, BOOLEAN, TIMESTAMPTZ, TIMESTAMPTZ),
    promise_key_names(TIMESTAMPTZ, BOOLEAN, TIMESTAMPTZ, TIMESTAMPTZ, TIMESTAMPTZ),
    promise_deadline_outcome(VARCHAR), promise_by_deadline(VARCHAR, VARCHAR),
    promise_key_uncertain(TIMESTAMPTZ, BOOLEAN, TIMESTAMPTZ, TIMESTAMPTZ),
    promise_create(VARCHAR, UUID, VARCHAR, VARCHAR, VARCHAR, INTERVAL, INTERVAL, TIMESTAMPTZ, JSONB, VARCHAR, BYTEA, TEXT, INT, BOOLEAN, VARCHAR[]),
    promise_settle(VARCHAR, UUID, VARCHAR, VARCHAR, BYTEA, TEXT, VARCHAR, VARCHAR, VARCHAR),
    promise_await_settlements(UUID[], UUID[]), promise_final(), promise_identity(), promise_erase(VARCHAR, UUID, VARCHAR),
    tenant_delete(VARCHAR, INT), tenant_contents(VARCHAR, INT),
    delivery_create(promise, TIMESTAMPTZ, VARCHAR[]),
    delivery_renew(promise, VARCHAR[]), delivery_due(),
    promise_settle_early(VARCHAR, VARCHAR, INTERVAL, VARCHAR, BYTEA, TEXT, VARCHAR, VARCHAR, VARCHAR, BOOLEAN, UUID, BOOLEAN),
    receipt_is_final(VARCHAR), receipt_end(UUID, VARCHAR, UUID, VARCHAR, UUID, TIMESTAMPTZ), receipt_keep(UUID, UUID, UUID, BYTEA),
    receipt_settle(VARCHAR, UUID, VARCHAR, INT, UUID, UUID, VARCHAR, VARCHAR, VARCHAR, BYTEA, TEXT, INTERVAL, VARCHAR, UUID, BYTEA),
    receipt_preview(VARCHAR, UUID, VARCHAR, INT, VARCHAR, VARCHAR, BYTEA, TEXT, INTERVAL)
    FROM PUBLIC, promises_app, promises_reader, promises_sweeper, promises_admin, promises_relay, promises_manager, promises_webhook;

-- The functions of the API that write. They delete nothing. In an existing promise they may write only the columns of a settlement, a deadline
-- and a revocation of tokens. The trigger promise_final keeps settled promises unchanged for every role, and delete-promise erases through
-- promise_erase alone. During a deployment the reading functions of the previous release still connect as this role: a later release revokes
-- SELECT on workflow_event_row.
GRANT SELECT ON tenant, tenant_usage, workflow_execution, promise, idempotency_key, workflow_event_row, api_key, signing_key TO promises_app;
GRANT INSERT ON workflow_execution, promise, idempotency_key, workflow_event_row TO promises_app;
GRANT UPDATE (last_sequence_number, external_id, promises_left, promises_counted_at) ON workflow_execution TO promises_app;
GRANT UPDATE (
    resolved, outcome, value, error, resolved_at, resolved_by_sequence, settled_by_kind, settled_by_id, comment,
    timeout_at, tokens_revoked_at
) ON promise TO promises_app;
GRANT UPDATE (
    promise_id, expires_at, check_at, held_until, held_at, held_outcome, held_value, held_error, held_by_kind, held_by_id, held_comment,
    held_receipt_id
) ON idempotency_key TO promises_app;
GRANT EXECUTE ON FUNCTION promise_race_lost(UUID), promise_await_settlements(UUID[], UUID[]),
    promise_key_live(TIMESTAMPTZ, BOOLEAN, TIMESTAMPTZ, TIMESTAMPTZ),
    promise_key_names(TIMESTAMPTZ, BOOLEAN, TIMESTAMPTZ, TIMESTAMPTZ, TIMESTAMPTZ),
    promise_deadline_outcome(VARCHAR), promise_by_deadline(VARCHAR, VARCHAR),
    promise_key_uncertain(TIMESTAMPTZ, BOOLEAN, TIMESTAMPTZ, TIMESTAMPTZ),
    promise_create(VARCHAR, UUID, VARCHAR, VARCHAR, VARCHAR, INTERVAL, INTERVAL, TIMESTAMPTZ, JSONB, VARCHAR, BYTEA, TEXT, INT, BOOLEAN, VARCHAR[]),
    promise_settle(VARCHAR, UUID, VARCHAR, VARCHAR, BYTEA, TEXT, VARCHAR, VARCHAR, VARCHAR),
    promise_erase(VARCHAR, UUID, VARCHAR),
    promise_settle_early(VARCHAR, VARCHAR, INTERVAL, VARCHAR, BYTEA, TEXT, VARCHAR, VARCHAR, VARCHAR, BOOLEAN, UUID, BOOLEAN),
    receipt_end(UUID, VARCHAR, UUID, VARCHAR, UUID, TIMESTAMPTZ),
    delivery_create(promise, TIMESTAMPTZ, VARCHAR[]),
    delivery_renew(promise, VARCHAR[]) TO promises_app;

-- These roles read deliveries without their tokens, and destinations without their addresses, because a URL may hold a secret.
-- retry-deliveries makes deliveries due again.
GRANT SELECT (id, tenant_id, name, kind, deleted_at) ON destination TO promises_app, promises_reader;
GRANT SELECT (
    id, tenant_id, promise_id, target, destination_id, by_default, state, due_at, lease, attempts, created_at, last_attempt_at, last_status,
    last_error, ended_at, end_reason
) ON delivery TO promises_app, promises_reader;
GRANT UPDATE (state, due_at, lease, attempts, ended_at, end_reason) ON delivery TO promises_app;

-- authorize, and the functions that read or wait. They write only the rows that count waiting calls, and call a function that waits for running
-- settlements. A role needs the right to update a row in order to skip it if it is locked.
GRANT SELECT ON tenant, tenant_usage, workflow_execution, promise, idempotency_key, workflow_event_row, api_key, signing_key TO promises_reader;
GRANT SELECT, INSERT, DELETE, UPDATE (expires_at) ON tenant_wait TO promises_reader;
GRANT SELECT ON receipt TO promises_reader;
GRANT SELECT (receipt_id, expires_at) ON receipt_body TO promises_reader;
GRANT EXECUTE ON FUNCTION promise_await_settlements(UUID[], UUID[]),
    promise_key_names(TIMESTAMPTZ, BOOLEAN, TIMESTAMPTZ, TIMESTAMPTZ, TIMESTAMPTZ), promise_deadline_outcome(VARCHAR) TO promises_reader;

-- expire-promises records deadlines, deletes expired rows, and counts the rows of tenants.
GRANT SELECT ON tenant TO promises_sweeper;
GRANT UPDATE (pending_full, held_full) ON tenant TO promises_sweeper;
GRANT SELECT, INSERT, UPDATE ON tenant_usage TO promises_sweeper;
GRANT SELECT, DELETE ON workflow_execution, promise, idempotency_key, workflow_event_row TO promises_sweeper;
GRANT INSERT ON workflow_event_row TO promises_sweeper;
GRANT UPDATE (last_sequence_number) ON workflow_execution TO promises_sweeper;
GRANT UPDATE (resolved, outcome, value, error, resolved_at, resolved_by_sequence, settled_by_kind) ON promise TO promises_sweeper;
GRANT UPDATE ON idempotency_key TO promises_sweeper;
GRANT SELECT (promise_id, destination_id, state) ON delivery TO promises_sweeper;
GRANT SELECT (id, deleted_at), UPDATE (deleted_at), DELETE ON destination TO promises_sweeper;
GRANT SELECT (destination_id, version, retire_at), UPDATE (retire_at), DELETE ON destination_secret TO promises_sweeper;
GRANT SELECT, UPDATE (updated_at), DELETE ON receipt TO promises_sweeper;
GRANT SELECT (id, expires_at), UPDATE (expires_at), DELETE ON receipt_body TO promises_sweeper;
GRANT SELECT (id, tenant_id, enabled, held_full, last_verified_at, last_refused_at, refused_since, updated_at), UPDATE (held_full) ON source TO promises_sweeper;
GRANT SELECT (source_id, version, retire_at), UPDATE (retire_at), DELETE ON source_secret TO promises_sweeper;
GRANT EXECUTE ON FUNCTION promise_race_lost(UUID), promise_key_live(TIMESTAMPTZ, BOOLEAN, TIMESTAMPTZ, TIMESTAMPTZ),
    promise_key_names(TIMESTAMPTZ, BOOLEAN, TIMESTAMPTZ, TIMESTAMPTZ, TIMESTAMPTZ), promise_deadline_outcome(VARCHAR),
    receipt_end(UUID, VARCHAR, UUID, VARCHAR, UUID, TIMESTAMPTZ) TO promises_sweeper;

-- manage-tenants reads no promise. It deletes a tenant through two functions that run as the owner.
GRANT SELECT, INSERT ON tenant, api_key TO promises_admin;
GRANT SELECT ON tenant_usage, deleted_tenant TO promises_admin;
GRANT UPDATE (suspended_at, deleted_at, pending_full, held_full, max_pending, max_workflow_promises, max_held, max_held_bytes, max_waits)
    ON tenant TO promises_admin;
GRANT EXECUTE ON FUNCTION tenant_delete(VARCHAR, INT), tenant_contents(VARCHAR, INT) TO promises_admin;
GRANT UPDATE (revoked_at, tokens_revoked_at) ON api_key TO promises_admin;

-- relay-deliveries reads the promises that it announces, and alone the tokens. It disables destinations.
GRANT SELECT ON tenant, promise, delivery, destination, destination_secret TO promises_relay;
GRANT SELECT (id, external_id) ON workflow_execution TO promises_relay;
GRANT UPDATE (state, due_at, lease, attempts, last_attempt_at, last_status, last_error, ended_at, end_reason) ON delivery TO promises_relay;
GRANT SELECT, INSERT, DELETE, UPDATE (expires_at) ON delivery_lease TO promises_relay;
GRANT UPDATE (enabled, disabled_because, updated_at) ON destination TO promises_relay;

-- receive-webhook verifies requests and settles by receipt_settle alone, which runs as the owner. It reads no promise.
GRANT SELECT ON tenant, tenant_usage, source, source_secret TO promises_webhook;
GRANT UPDATE (last_received_at, last_verified_at, last_refused_at, refused_since, last_refusal) ON source TO promises_webhook;
GRANT EXECUTE ON FUNCTION
    receipt_settle(VARCHAR, UUID, VARCHAR, INT, UUID, UUID, VARCHAR, VARCHAR, VARCHAR, BYTEA, TEXT, INTERVAL, VARCHAR, UUID, BYTEA)
    TO promises_webhook;

-- manage-integrations and manage-tenants manage destinations, sources and their secrets. They read no promise and no delivery. Only manage-tenants
-- replaces a secret's encryption. manage-integrations replays the bodies of webhooks.
GRANT SELECT ON tenant, tenant_usage, api_key, signing_key TO promises_manager;
GRANT UPDATE (default_destination_id) ON tenant TO promises_manager, promises_admin;
GRANT SELECT, INSERT (id, tenant_id, name, kind, address, mail_from, region, role_arn, enabled),
    UPDATE (address, mail_from, region, role_arn, enabled, disabled_because, updated_at, deleted_at)
    ON destination TO promises_manager, promises_admin;
GRANT SELECT, INSERT (destination_id, version, sealed), UPDATE (retire_at), DELETE ON destination_secret TO promises_manager;
GRANT SELECT (destination_id, version, sealed), INSERT (destination_id, version, sealed), UPDATE (sealed), DELETE
    ON destination_secret TO promises_admin;
GRANT SELECT, INSERT, DELETE ON delivery_lease TO promises_manager; -- tests of destinations
GRANT SELECT, INSERT (id, tenant_id, name, definition, enabled), UPDATE (definition, enabled, version, updated_at), DELETE ON source
    TO promises_manager;
GRANT SELECT, INSERT (source_id, version, sealed), UPDATE (retire_at), DELETE ON source_secret TO promises_manager;
GRANT SELECT ON receipt, receipt_body TO promises_manager;
GRANT EXECUTE ON FUNCTION
    receipt_settle(VARCHAR, UUID, VARCHAR, INT, UUID, UUID, VARCHAR, VARCHAR, VARCHAR, BYTEA, TEXT, INTERVAL, VARCHAR, UUID, BYTEA),
    receipt_preview(VARCHAR, UUID, VARCHAR, INT, VARCHAR, VARCHAR, BYTEA, TEXT, INTERVAL)
    TO promises_manager;
GRANT SELECT (source_id, version, sealed), UPDATE (sealed) ON source_secret TO promises_admin;
GRANT SELECT (id, sealed), UPDATE (sealed) ON receipt_body TO promises_admin;
