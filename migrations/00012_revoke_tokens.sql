-- Revocation of promise tokens: all tokens of a promise, or all that were made with an API key. A token contains the last revocation of its
-- promise's tokens at the time of its issue. It is valid while that is still the last one, so no clock decides between a token and a
-- revocation. The previous release runs on this schema: it neither reads nor writes the two columns.
--
-- Locks promise and api_key against all others for a moment (neither is rewritten), or gives up after a second.

-- +goose Up
SET LOCAL lock_timeout = '1s';
SET LOCAL statement_timeout = 0;
ALTER TABLE promise ADD COLUMN tokens_revoked_at TIMESTAMPTZ;
ALTER TABLE api_key ADD COLUMN tokens_revoked_at TIMESTAMPTZ;
