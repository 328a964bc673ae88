-- The schema of the legacy tables, whose promise.id is a text. A database that already has these tables keeps them: see README.md.

-- +goose Up
SET LOCAL lock_timeout = '1s';
SET LOCAL statement_timeout = 0;
CREATE TABLE IF NOT EXISTS tenant (
    id   UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    slug VARCHAR(255) NOT NULL UNIQUE
);

CREATE TABLE IF NOT EXISTS workflow_execution (
    id        UUID PRIMARY KEY,
    tenant_id UUID NOT NULL REFERENCES tenant (id)
);

CREATE TABLE IF NOT EXISTS promise (
    id                    VARCHAR(255) PRIMARY KEY, -- "{workflow_execution_id}:{name}"
    workflow_execution_id UUID NOT NULL REFERENCES workflow_execution (id) ON DELETE CASCADE,
    name                  VARCHAR(255) NOT NULL,
    resolved              BOOLEAN NOT NULL DEFAULT FALSE,
    value                 BYTEA,
    error                 TEXT,
    timeout_at            TIMESTAMPTZ,
    created_at            TIMESTAMPTZ NOT NULL DEFAULT NOW(),
    resolved_at           TIMESTAMPTZ,
    created_by_sequence   INT NOT NULL,
    resolved_by_sequence  INT
);
CREATE INDEX IF NOT EXISTS idx_promise_workflow ON promise (workflow_execution_id);
CREATE INDEX IF NOT EXISTS idx_promise_pending ON promise (workflow_execution_id, resolved) WHERE resolved = FALSE;

CREATE TABLE IF NOT EXISTS idempotency_key (
    tenant_id  UUID NOT NULL,
    key        VARCHAR(255) NOT NULL,
    promise_id VARCHAR(255) NOT NULL,
    expires_at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (tenant_id, key)
);
