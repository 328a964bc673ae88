-- promise.id becomes a UUID, idempotency_key.promise_id follows, and (workflow_execution_id, name) becomes unique. Each table is rewritten
-- once, in place, so that columns, grants and triggers that others have added stay. Each index is built once, on the rewritten rows.
--
-- Locks all four tables against all others from here to the end, or gives up after a second for each. A statement that waits for such a lock
-- makes all later ones wait behind it.

-- +goose Up
SET LOCAL lock_timeout = '1s';
SET LOCAL statement_timeout = 0;
SET LOCAL row_security = off; -- fails if a policy hides rows: the deletes below would take them for missing
SET LOCAL work_mem = '128MB';
SET LOCAL maintenance_work_mem = '256MB';
SET LOCAL jit = off;
LOCK TABLE workflow_execution, promise, idempotency_key, tenant IN ACCESS EXCLUSIVE MODE;

-- A promise's UUID is a function of its legacy id, so a client that has stored a legacy id can compute the UUID, and a repeated run after an
-- aborted one gets the same UUIDs. It is the first 16 bytes of the id's SHA-256, with the seventh and the ninth set to 0x80, which makes it
-- version 8 of RFC 9562. The function is STABLE, like convert_to, so that Postgres inlines it.
CREATE FUNCTION pg_temp.promise_uuid(composite_id TEXT) RETURNS UUID LANGUAGE sql STABLE AS
    $$ SELECT encode(set_byte(set_byte(substr(sha256(convert_to(composite_id, 'UTF8')), 1, 16), 6, 128), 8, 128), 'hex')::UUID $$;

-- A key without a promise names nothing and is deleted. So is an expired key of a settled promise, if its text is the composite id of a pending
-- promise, which needs it.
DELETE FROM idempotency_key k WHERE NOT EXISTS (SELECT FROM promise p WHERE p.id = k.promise_id);
DELETE FROM idempotency_key k
USING promise old, promise p, workflow_execution w
WHERE k.key LIKE '________-____-____-____-____________:%'
  AND k.expires_at <= NOW() AND old.id = k.promise_id AND old.resolved
  AND NOT p.resolved AND p.workflow_execution_id || ':' || p.name = k.key
  AND w.id = p.workflow_execution_id AND w.tenant_id = k.tenant_id;

-- Without constraints the keys' table is rewritten at the speed of a copy. They are added again below, each built once. A foreign key from
-- promise_id to promise would keep both columns from changing their type; it is added again under the name idempotency_key_promise_id_fkey.
CREATE TEMPORARY TABLE idempotency_key_constraint ON COMMIT DROP AS
SELECT conname, contype, pg_get_constraintdef(c.oid) AS definition
FROM pg_constraint c
WHERE conrelid = 'idempotency_key'::REGCLASS AND contype IN ('p', 'u', 'f')
  AND NOT (confrelid = 'promise'::REGCLASS AND EXISTS (
      SELECT FROM pg_attribute a WHERE a.attrelid = conrelid AND a.attname = 'promise_id' AND a.attnum = ANY(conkey)
  ));
-- +goose StatementBegin
DO $$
DECLARE
    c RECORD;
BEGIN
    FOR c IN
        SELECT conname FROM pg_constraint
        WHERE conrelid = 'idempotency_key'::REGCLASS AND contype IN ('p', 'u', 'f')
    LOOP
        EXECUTE format('ALTER TABLE idempotency_key DROP CONSTRAINT %I', c.conname);
    END LOOP;
END $$;
-- +goose StatementEnd

ALTER TABLE idempotency_key ALTER COLUMN promise_id TYPE UUID USING pg_temp.promise_uuid(promise_id);

-- The composite id of a pending promise becomes an idempotency key, which can settle the promise until it is settled: the key is inserted as
-- expired, and an expired key stays in force only while its promise is pending. An existing key with that text keeps its promise. If an id disagrees
-- with its row's columns, the key is made from the columns, and the id itself becomes a second key.
INSERT INTO idempotency_key (tenant_id, key, promise_id, expires_at)
SELECT w.tenant_id, p.workflow_execution_id || ':' || p.name, pg_temp.promise_uuid(p.id), NOW()
FROM promise p
JOIN workflow_execution w ON w.id = p.workflow_execution_id
WHERE NOT p.resolved
  AND LENGTH(p.name) <= 255 - 37
  AND NOT EXISTS (
      SELECT FROM idempotency_key k WHERE k.tenant_id = w.tenant_id AND k.key = p.workflow_execution_id || ':' || p.name
  );
INSERT INTO idempotency_key (tenant_id, key, promise_id, expires_at)
SELECT w.tenant_id, p.id, pg_temp.promise_uuid(p.id), NOW()
FROM promise p
JOIN workflow_execution w ON w.id = p.workflow_execution_id
WHERE NOT p.resolved
  AND p.id <> p.workflow_execution_id || ':' || p.name
  AND NOT EXISTS (SELECT FROM idempotency_key k WHERE k.tenant_id = w.tenant_id AND k.key = p.id);

-- The outcome is needed only later, but each row is being rewritten now. It is NULL while the promise is pending. Infinite times are refused,
-- because no client could read them.
ALTER TABLE promise
    ALTER COLUMN id DROP DEFAULT,
    ALTER COLUMN id TYPE UUID USING pg_temp.promise_uuid(id),
    ADD COLUMN outcome VARCHAR(16) GENERATED ALWAYS AS (
        CASE WHEN resolved THEN CASE WHEN error IS NULL THEN 'resolved' ELSE 'rejected' END END
    ) STORED,
    ADD CONSTRAINT promise_outcome CHECK (outcome IN ('resolved', 'rejected', 'timed_out', 'cancelled')),
    ADD CONSTRAINT promise_outcome_resolved CHECK (resolved = (outcome IS NOT NULL)),
    ADD CONSTRAINT promise_times_finite CHECK (
        isfinite(created_at) AND isfinite(timeout_at) IS NOT FALSE AND isfinite(resolved_at) IS NOT FALSE
    );
ALTER TABLE promise
    ALTER COLUMN id SET DEFAULT gen_random_uuid(),
    ALTER COLUMN resolved SET DEFAULT FALSE,
    ALTER COLUMN created_at SET DEFAULT NOW(),
    ALTER COLUMN outcome DROP EXPRESSION;

-- A schema that was made by hand may already have these; they stay unchanged.
ALTER TABLE tenant ALTER COLUMN id SET DEFAULT gen_random_uuid();
-- +goose StatementBegin
DO $$
DECLARE
    c RECORD;
BEGIN
    IF NOT EXISTS (
        SELECT FROM pg_constraint
        WHERE conrelid = 'promise'::REGCLASS AND conname = 'promise_workflow_execution_id_name_key'
    ) THEN
        ALTER TABLE promise ADD CONSTRAINT promise_workflow_execution_id_name_key UNIQUE (workflow_execution_id, name);
    END IF;
    FOR c IN -- a foreign key that does not cascade, or was never validated, is replaced
        SELECT k.conname FROM pg_constraint k
        JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attname = 'workflow_execution_id' AND k.conkey = ARRAY[a.attnum]
        WHERE k.contype = 'f' AND k.conrelid = 'promise'::REGCLASS AND k.confrelid = 'workflow_execution'::REGCLASS
          AND NOT (k.confdeltype = 'c' AND k.convalidated)
    LOOP
        EXECUTE format('ALTER TABLE promise DROP CONSTRAINT %I', c.conname);
    END LOOP;
    IF NOT EXISTS (
        SELECT FROM pg_constraint k
        JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attname = 'workflow_execution_id' AND k.conkey = ARRAY[a.attnum]
        WHERE k.contype = 'f' AND k.conrelid = 'promise'::REGCLASS AND k.confrelid = 'workflow_execution'::REGCLASS
    ) THEN
        ALTER TABLE promise ADD CONSTRAINT promise_workflow_execution_id_fkey
            FOREIGN KEY (workflow_execution_id) REFERENCES workflow_execution (id) ON DELETE CASCADE;
    END IF;
    FOR c IN SELECT * FROM idempotency_key_constraint ORDER BY contype DESC LOOP
        EXECUTE format('ALTER TABLE idempotency_key ADD CONSTRAINT %I %s', c.conname, c.definition);
    END LOOP;
END $$;
-- +goose StatementEnd
ALTER TABLE idempotency_key
    ALTER COLUMN promise_id SET NOT NULL,
    ADD CONSTRAINT idempotency_key_promise_id_fkey FOREIGN KEY (promise_id) REFERENCES promise (id) ON DELETE CASCADE;
CREATE INDEX idx_idempotency_key_promise ON idempotency_key (promise_id);
CREATE INDEX idx_idempotency_key_expires ON idempotency_key (expires_at);
DROP FUNCTION pg_temp.promise_uuid(TEXT);
