-- A bound on a tenant's calls that wait at the same time, counted over all processes. tenant_wait has a row for each waiting call. The table is
-- unlogged: a row is worthless once its call has ended, and neither an insert nor a delete waits for the disk. It is empty after a crash of the
-- server, and a standby cannot read it. The row of a killed process counts until it expires. There is no foreign key, because it would lock the
-- tenant's row for each wait.
--
-- tenant.max_waits overrides the functions' default (MAX_WAITS). The previous release runs on this schema: it uses neither.
--
-- Locks tenant against all others for a moment (it is read whole once), or gives up after a second.

-- +goose Up
SET LOCAL lock_timeout = '1s';
SET LOCAL statement_timeout = 0;
ALTER TABLE tenant ADD COLUMN max_waits INT CONSTRAINT tenant_max_waits CHECK (max_waits >= 0);

CREATE UNLOGGED TABLE tenant_wait (
    tenant_id UUID NOT NULL,
    id UUID NOT NULL,
    expires_at TIMESTAMPTZ NOT NULL,
    CONSTRAINT tenant_wait_pkey PRIMARY KEY (tenant_id, id)
);
CREATE INDEX idx_tenant_wait_expires ON tenant_wait (expires_at);
