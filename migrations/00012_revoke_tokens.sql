-- Revocation of promise tokens: all that one promise has, or all that one API key asked for. A token names the last revocation of its
-- promise's tokens when it was issued. It is valid while that is still the last one, so no clock decides between a token and a
-- revocation. The previous release runs on this schema: it neither reads nor writes the two columns.
--
-- Locks promise and api_key against everybody for a moment (neither is rewritten), or gives up after a second.

-- +goose Up
SET LOCAL lock_timeout = '1s';
SET LOCAL statement_timeout = 0;
ALTER TABLE promise ADD COLUMN tokens_revoked_at TIMESTAMPTZ;
ALTER TABLE api_key ADD COLUMN tokens_revoked_at TIMESTAMPTZ;
