-- The decision: promise.id is a UUID, idempotency_key.promise_id follows, and (workflow_execution_id, name) is what is
-- unique. Each table is written anew once, in place, so that whatever else was made of it (columns, grants, triggers)
-- stays; its indexes are built once, on what was written.
--
-- Locks all four tables against everybody from here to the end, or gives up after a second for each: whoever waits for
-- such a lock makes everyone who comes later wait behind it.

-- +goose Up
SET LOCAL lock_timeout = '1s';
SET LOCAL statement_timeout = 0;
SET LOCAL row_security = off; -- rows that a policy hides would be taken for gone: fail instead
SET LOCAL work_mem = '128MB';
SET LOCAL maintenance_work_mem = '256MB';
SET LOCAL jit = off;
LOCK TABLE workflow_execution, promise, idempotency_key, tenant IN ACCESS EXCLUSIVE MODE;

-- An old promise's UUID is a function of its old id: whoever kept one elsewhere can work out the new one, and a second
-- run after a first that was cut off comes to the same. It is the first 16 bytes of the id's SHA-256, with the seventh and
-- the ninth set to 0x80, which makes it version 8 of RFC 9562. (STABLE, as convert_to is: then it is inlined.)
CREATE FUNCTION pg_temp.promise_uuid(composite_id TEXT) RETURNS UUID LANGUAGE sql STABLE AS
    $$ SELECT encode(set_byte(set_byte(substr(sha256(convert_to(composite_id, 'UTF8')), 1, 16), 6, 128), 8, 128), 'hex')::UUID $$;

-- A key whose promise is gone, or that never had one, has nothing left to name. One that is free already (its time over,
-- its promise settled) makes room for the pending promise whose composite id it is.
DELETE FROM idempotency_key k WHERE NOT EXISTS (SELECT FROM promise p WHERE p.id = k.promise_id);
DELETE FROM idempotency_key k
USING promise old, promise p, workflow_execution w
WHERE k.key LIKE '________-____-____-____-____________:%'
  AND k.expires_at <= NOW() AND old.id = k.promise_id AND old.resolved
  AND NOT p.resolved AND p.workflow_execution_id || ':' || p.name = k.key
  AND w.id = p.workflow_execution_id AND w.tenant_id = k.tenant_id;

-- Without its constraints the keys' table is written like a file; they come back below, each built once. (One from
-- promise_id to promise would have kept either column from changing its type; it comes back under our name.)
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

-- The composite id of a pending promise stays usable, as a key, and no longer than that: the key's time is over at once,
-- and beyond its time a key lives only while its promise is pending. A key of that text which is there already keeps its
-- meaning. Where an id disagrees with its row's columns the columns win; the id itself is then a key, too.
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

-- The outcome, which only what follows needs, is filled in while each row is being written anyway. It is NULL while
-- pending. An infinite time would be read by nobody.
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

-- What a schema made by hand may have already is left as it is.
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
    FOR c IN -- one that does not cascade, or was never validated, is made anew
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
