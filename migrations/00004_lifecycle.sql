-- Default outcomes for deadlines, the caller and the comment of a settlement, early settlements (settlements that arrive before their promise is
-- created), and the indexes for lists and due deadlines.
--
-- Locks promise, idempotency_key and workflow_event against all others from here to the end, or gives up after a second for each.

-- +goose Up
SET LOCAL lock_timeout = '1s';
SET LOCAL statement_timeout = 0;
SET LOCAL row_security = off;
SET LOCAL work_mem = '128MB';
SET LOCAL maintenance_work_mem = '256MB';
SET LOCAL jit = off;
LOCK TABLE promise, idempotency_key, workflow_event IN ACCESS EXCLUSIVE MODE;

-- A list of a tenant's promises must not read those of all tenants. The tenant with the most promises becomes the column's default, which
-- rewrites no row. The rows of the other tenants are updated once.
-- +goose StatementBegin
DO $$
DECLARE
    most UUID;
BEGIN
    SELECT w.tenant_id INTO most
    FROM promise p JOIN workflow_execution w ON w.id = p.workflow_execution_id
    GROUP BY w.tenant_id ORDER BY COUNT(*) DESC LIMIT 1;
    EXECUTE format('ALTER TABLE promise ADD COLUMN tenant_id UUID NOT NULL DEFAULT %L::UUID',
                   COALESCE(most, '00000000-0000-0000-0000-000000000000'));
    UPDATE promise p SET tenant_id = w.tenant_id
    FROM workflow_execution w
    WHERE w.id = p.workflow_execution_id AND w.tenant_id <> most;
END $$;
-- +goose StatementEnd

-- settled_by_kind is 'deadline' if the deadline settled the promise. error is the text of a rejection or the reason of a cancellation.
ALTER TABLE promise
    ALTER COLUMN tenant_id DROP DEFAULT,
    ADD COLUMN timeout_outcome VARCHAR(16),
    ADD COLUMN timeout_value   BYTEA,
    ADD COLUMN timeout_error   TEXT,
    ADD COLUMN settled_by_kind VARCHAR(16),
    ADD COLUMN settled_by_id   VARCHAR(255),
    ADD COLUMN comment         VARCHAR(1000),
    ADD CONSTRAINT promise_timeout_outcome CHECK (
        CASE timeout_outcome
            WHEN 'resolved' THEN timeout_value IS NOT NULL AND timeout_error IS NULL
            WHEN 'rejected' THEN timeout_value IS NULL AND timeout_error IS NOT NULL
            ELSE timeout_outcome IS NULL AND timeout_value IS NULL AND timeout_error IS NULL
        END
    ),
    ADD CONSTRAINT promise_settled_by CHECK (resolved OR settled_by_kind IS NULL AND settled_by_id IS NULL AND comment IS NULL);
CREATE INDEX idx_promise_due ON promise (timeout_at) WHERE resolved = FALSE;
CREATE INDEX idx_promise_tenant ON promise (tenant_id, outcome, created_at DESC, id DESC);

-- The deadline that a PROMISE_EXTENDED event set.
ALTER TABLE workflow_event ADD COLUMN timeout_at TIMESTAMPTZ;

-- A key belongs to a promise, or stores an early settlement for the promise that will be created with it.
ALTER TABLE idempotency_key
    ALTER COLUMN promise_id DROP NOT NULL,
    ADD COLUMN held_outcome VARCHAR(16),
    ADD COLUMN held_value   BYTEA,
    ADD COLUMN held_error   TEXT,
    ADD COLUMN held_by_kind VARCHAR(16),
    ADD COLUMN held_by_id   VARCHAR(255),
    ADD COLUMN held_comment VARCHAR(1000),
    ADD COLUMN held_at      TIMESTAMPTZ,
    ADD CONSTRAINT idempotency_key_held CHECK (
        CASE held_outcome
            WHEN 'resolved' THEN promise_id IS NULL AND held_at IS NOT NULL AND held_value IS NOT NULL AND held_error IS NULL
            WHEN 'rejected' THEN promise_id IS NULL AND held_at IS NOT NULL AND held_value IS NULL AND held_error IS NOT NULL
            ELSE held_outcome IS NULL AND promise_id IS NOT NULL AND held_at IS NULL
        END
    );
