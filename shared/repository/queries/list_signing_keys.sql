-- The public halves of the keys whose tokens are valid, and the row hs256 (without a key) while tokens of earlier releases are. No lock.
-- A few rows: the whole table is read.
SELECT kid, public_key FROM signing_key WHERE verify_until IS NULL OR verify_until > NOW()
