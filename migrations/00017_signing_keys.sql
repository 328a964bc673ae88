-- The public halves of the Ed25519 keys that sign promise tokens; migrate keeps the private half in a secret. kid is derived from the key, and
-- fixes the algorithm. verify_until is set when another key takes over signing, to the time at which the last token of this one has expired.
--
-- The row hs256 has no key. Until its verify_until, tokens are valid that earlier releases signed with the HMAC secret in TOKEN_KEYS. A token
-- lives at most 365 days. One day more is for the functions of the previous release, which sign such tokens until they are replaced. A
-- database without a tenant has no tokens, and no such row.
--
-- The previous release runs on this schema: it neither reads nor writes the table.
--
-- Locks nothing.

-- +goose Up
SET LOCAL lock_timeout = '1s';
SET LOCAL statement_timeout = 0;
CREATE TABLE signing_key (
    kid TEXT PRIMARY KEY,
    algorithm TEXT NOT NULL DEFAULT 'EdDSA',
    public_key BYTEA,
    created_at TIMESTAMPTZ NOT NULL DEFAULT NOW(),
    verify_until TIMESTAMPTZ,
    CONSTRAINT signing_key_kind CHECK (CASE algorithm
        WHEN 'EdDSA' THEN public_key IS NOT NULL AND octet_length(public_key) = 32
            AND kid = 'ed25519:' || encode(substr(sha256(public_key), 1, 8), 'hex')
        WHEN 'HS256' THEN public_key IS NULL AND kid = 'hs256' AND verify_until IS NOT NULL
        ELSE FALSE
    END)
);
INSERT INTO signing_key (kid, algorithm, verify_until)
SELECT 'hs256', 'HS256', NOW() + INTERVAL '366 days' WHERE EXISTS (SELECT FROM tenant);
