-- The suspension of tenants, and API keys. Only the hash of a key is stored.
--
-- Locks tenant against all others, or gives up after a second.

-- +goose Up
SET LOCAL lock_timeout = '1s';
SET LOCAL statement_timeout = 0;
ALTER TABLE tenant ADD COLUMN suspended_at TIMESTAMPTZ;

CREATE TABLE api_key (
    id         UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id  UUID NOT NULL REFERENCES tenant (id) ON DELETE CASCADE,
    name       VARCHAR(255) NOT NULL,
    hash       BYTEA NOT NULL,
    scopes     VARCHAR(16)[] NOT NULL,
    created_at TIMESTAMPTZ NOT NULL DEFAULT NOW(),
    expires_at TIMESTAMPTZ,
    revoked_at TIMESTAMPTZ,
    CONSTRAINT api_key_hash_key UNIQUE (hash),
    CONSTRAINT api_key_hash_sha256 CHECK (OCTET_LENGTH(hash) = 32),
    CONSTRAINT api_key_scopes_known CHECK (CARDINALITY(scopes) > 0 AND scopes <@ ARRAY['create', 'settle', 'read']::VARCHAR[])
);
CREATE INDEX idx_api_key_tenant ON api_key (tenant_id);
