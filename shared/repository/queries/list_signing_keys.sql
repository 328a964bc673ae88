-- Lists the public halves of the signing keys whose tokens are valid, and the row hs256, which has no key, while tokens of earlier releases
-- are valid.
--
-- Returns: one row for each key.
-- Locks: none.
-- Indexes: none. The table has a few rows and is read whole.
SELECT kid, public_key FROM signing_key WHERE verify_until IS NULL OR verify_until > NOW()
