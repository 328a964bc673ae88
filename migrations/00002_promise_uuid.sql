-- The decision: promise.id is a UUID, and (workflow_execution_id, name) is what is unique.
-- Both tables are written anew, so that each row is read once and each index is built once, on loaded data.

-- +goose Up
LOCK TABLE promise, idempotency_key IN ACCESS EXCLUSIVE MODE;
ALTER TABLE promise RENAME TO promise_composite;
ALTER TABLE idempotency_key RENAME TO idempotency_key_composite;

CREATE TABLE promise (
    id                    UUID NOT NULL DEFAULT gen_random_uuid(),
    workflow_execution_id UUID NOT NULL,
    name                  VARCHAR(255) NOT NULL,
    resolved              BOOLEAN NOT NULL DEFAULT FALSE, -- settled, in whichever way
    value                 BYTEA,
    error                 TEXT,
    timeout_at            TIMESTAMPTZ,
    created_at            TIMESTAMPTZ NOT NULL DEFAULT NOW(),
    resolved_at           TIMESTAMPTZ,
    created_by_sequence   INT NOT NULL,
    resolved_by_sequence  INT
);
INSERT INTO promise (workflow_execution_id, name, resolved, value, error, timeout_at,
                     created_at, resolved_at, created_by_sequence, resolved_by_sequence)
SELECT workflow_execution_id, name, resolved, value, error, timeout_at,
       created_at, resolved_at, created_by_sequence, resolved_by_sequence
FROM promise_composite;

CREATE TABLE idempotency_key (
    tenant_id  UUID NOT NULL,
    key        VARCHAR(255) NOT NULL,
    promise_id UUID NOT NULL,
    expires_at TIMESTAMPTZ NOT NULL
);
-- The old composite id of a pending promise stays usable as a key, and no longer than that: its time is already
-- over, and a key outlives its time only while its promise is pending. A key of that text registered before keeps
-- its meaning. A key whose promise is gone has nothing left to name.
INSERT INTO idempotency_key (tenant_id, key, promise_id, expires_at)
SELECT DISTINCT ON (tenant_id, key) tenant_id, key, promise_id, expires_at
FROM (
    SELECT k.tenant_id, k.key, p.id AS promise_id, k.expires_at, 1 AS preference
    FROM idempotency_key_composite k
    JOIN promise_composite c ON c.id = k.promise_id
    JOIN promise p ON p.workflow_execution_id = c.workflow_execution_id AND p.name = c.name
    UNION ALL
    SELECT w.tenant_id, c.id, p.id, NOW(), 2
    FROM promise_composite c
    JOIN promise p ON p.workflow_execution_id = c.workflow_execution_id AND p.name = c.name
    JOIN workflow_execution w ON w.id = c.workflow_execution_id
    WHERE NOT c.resolved
) AS keys
ORDER BY tenant_id, key, preference;

DROP TABLE idempotency_key_composite;
DROP TABLE promise_composite;

ALTER TABLE promise
    ADD CONSTRAINT promise_pkey PRIMARY KEY (id),
    ADD CONSTRAINT promise_workflow_execution_id_name_key UNIQUE (workflow_execution_id, name),
    ADD CONSTRAINT promise_workflow_execution_id_fkey
        FOREIGN KEY (workflow_execution_id) REFERENCES workflow_execution (id) ON DELETE CASCADE;
CREATE INDEX idx_promise_workflow ON promise (workflow_execution_id);
CREATE INDEX idx_promise_pending ON promise (workflow_execution_id, resolved) WHERE resolved = FALSE;

ALTER TABLE idempotency_key
    ADD CONSTRAINT idempotency_key_pkey PRIMARY KEY (tenant_id, key),
    ADD CONSTRAINT idempotency_key_promise_id_fkey
        FOREIGN KEY (promise_id) REFERENCES promise (id) ON DELETE CASCADE;
CREATE INDEX idx_idempotency_key_promise ON idempotency_key (promise_id);
CREATE INDEX idx_idempotency_key_expires ON idempotency_key (expires_at);
