package migrate_test

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/dbtest"
	"github.com/flovyn/promises/shared/migrate"
	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/repository"
)

// makeLegacy makes the tables of the time before the decision, by hand.
func makeLegacy(t testing.TB, db *dbtest.DB) {
	t.Helper()
	_, err := db.Pool.Exec(t.Context(), legacyDDL, pgx.QueryExecModeSimpleProtocol)
	require.NoError(t, err)
}

const legacyDDL = `
CREATE TABLE tenant (id UUID PRIMARY KEY, slug TEXT NOT NULL UNIQUE);
CREATE TABLE workflow_execution (id UUID PRIMARY KEY, tenant_id UUID NOT NULL REFERENCES tenant (id));
CREATE TABLE promise (
	id VARCHAR(255) PRIMARY KEY,
	workflow_execution_id UUID NOT NULL REFERENCES workflow_execution (id) ON DELETE CASCADE,
	name VARCHAR(255) NOT NULL,
	resolved BOOLEAN NOT NULL DEFAULT FALSE,
	value BYTEA,
	error TEXT,
	timeout_at TIMESTAMPTZ,
	created_at TIMESTAMPTZ NOT NULL DEFAULT NOW(),
	resolved_at TIMESTAMPTZ,
	created_by_sequence INT NOT NULL,
	resolved_by_sequence INT
);
CREATE INDEX idx_promise_workflow ON promise (workflow_execution_id);
CREATE INDEX idx_promise_pending ON promise (workflow_execution_id, resolved) WHERE resolved = FALSE;
CREATE TABLE idempotency_key (
	tenant_id UUID NOT NULL REFERENCES tenant (id),
	key VARCHAR(255) NOT NULL,
	promise_id VARCHAR(255), -- a key can have been taken before its promise was made
	expires_at TIMESTAMPTZ NOT NULL,
	PRIMARY KEY (tenant_id, key)
);`

// newID is what migrations/README.md says the UUID of an old promise is.
func newID(oldID string) string {
	h := sha256.Sum256([]byte(oldID))
	h[6], h[8] = 0x80, 0x80
	return uuid.UUID(h[:16]).String()
}

// The legacy data set: two tenants, two workflows of the first, one of the second.
var (
	acme       = uuid.UUID{0xac}
	w1, w2, w3 = uuid.UUID{1}, uuid.UUID{2}, uuid.UUID{3}
)

const insertLegacy = `
INSERT INTO tenant VALUES ('ac000000-0000-0000-0000-000000000000', 'acme'), ('07000000-0000-0000-0000-000000000000', 'other');
INSERT INTO workflow_execution VALUES
	('01000000-0000-0000-0000-000000000000', 'ac000000-0000-0000-0000-000000000000'),
	('02000000-0000-0000-0000-000000000000', 'ac000000-0000-0000-0000-000000000000'),
	('03000000-0000-0000-0000-000000000000', '07000000-0000-0000-0000-000000000000'),
	('04000000-0000-0000-0000-000000000000', '07000000-0000-0000-0000-000000000000');
INSERT INTO promise SELECT w || ':' || name, w::UUID, name, resolved, value, error, timeout_at, created_at, resolved_at, c, r FROM (VALUES
	('01000000-0000-0000-0000-000000000000', 'pay', FALSE, NULL::BYTEA, NULL, '2099-01-01Z'::TIMESTAMPTZ, '2024-01-01 00:00:00.123456Z'::TIMESTAMPTZ, NULL::TIMESTAMPTZ, 1, NULL::INT),
	('01000000-0000-0000-0000-000000000000', 'a:b:c', FALSE, NULL, NULL, NULL, '2024-01-02Z', NULL, 2, NULL),
	('01000000-0000-0000-0000-000000000000', ':', FALSE, NULL, NULL, NULL, '2024-01-02Z', NULL, 3, NULL),
	('01000000-0000-0000-0000-000000000000', '', FALSE, NULL, NULL, NULL, '2024-01-02Z', NULL, 4, NULL),
	('01000000-0000-0000-0000-000000000000', 'größe 50% /?', TRUE, '\x7b2261223a205b31205d7d', NULL, NULL, '2024-01-03Z', '2024-02-01Z', 5, 17),
	('01000000-0000-0000-0000-000000000000', 'not even JSON', TRUE, '\x00ff', NULL, NULL, '2024-01-03Z', '2024-02-01Z', 6, 18),
	('01000000-0000-0000-0000-000000000000', 'nothing', TRUE, NULL, NULL, NULL, '2024-01-03Z', NULL, 7, NULL),
	('01000000-0000-0000-0000-000000000000', 'failed', TRUE, NULL, 'no funds', NULL, '2024-01-03Z', '2024-02-01Z', 8, 19),
	('01000000-0000-0000-0000-000000000000', 'failed without words', TRUE, NULL, '', NULL, '2024-01-03Z', '2024-02-01Z', 9, 20),
	('01000000-0000-0000-0000-000000000000', 'overdue', FALSE, NULL, NULL, '2024-03-01Z', '2024-01-03Z', NULL, 10, NULL),
	('02000000-0000-0000-0000-000000000000', 'pay', FALSE, NULL, NULL, NULL, '2024-01-03Z', NULL, 1, NULL),
	('03000000-0000-0000-0000-000000000000', 'pay', FALSE, NULL, NULL, NULL, '2024-01-03Z', NULL, 1, NULL)
) AS v (w, name, resolved, value, error, timeout_at, created_at, resolved_at, c, r);
INSERT INTO promise (id, workflow_execution_id, name, resolved, created_by_sequence) VALUES
	('02000000-0000-0000-0000-000000000000:of another', '01000000-0000-0000-0000-000000000000', 'of another', FALSE, 11),
	('no-id-at-all', '01000000-0000-0000-0000-000000000000', 'odd', FALSE, 12),
	('odd and settled', '01000000-0000-0000-0000-000000000000', 'odd too', TRUE, 13),
	-- the id of one is what the columns of the next make
	('02000000-0000-0000-0000-000000000000:swap', '01000000-0000-0000-0000-000000000000', 'swap', FALSE, 14),
	('swapped', '02000000-0000-0000-0000-000000000000', 'swap', FALSE, 2),
	('long', '02000000-0000-0000-0000-000000000000', repeat('n', 255), FALSE, 3),
	('02000000-0000-0000-0000-000000000000:' || repeat('m', 218), '02000000-0000-0000-0000-000000000000', repeat('m', 218), FALSE, 4);
INSERT INTO idempotency_key VALUES
	('ac000000-0000-0000-0000-000000000000', 'live', '01000000-0000-0000-0000-000000000000:pay', '2099-01-01Z'),
	('ac000000-0000-0000-0000-000000000000', 'second of the same', '01000000-0000-0000-0000-000000000000:pay', '2099-01-01Z'),
	('ac000000-0000-0000-0000-000000000000', 'expired, pending', '01000000-0000-0000-0000-000000000000:a:b:c', '2024-01-03Z'),
	('ac000000-0000-0000-0000-000000000000', 'expired, settled', '01000000-0000-0000-0000-000000000000:failed', '2024-01-03Z'),
	('ac000000-0000-0000-0000-000000000000', 'of the odd', 'no-id-at-all', '2099-01-01Z'),
	('ac000000-0000-0000-0000-000000000000', 'of a promise that is gone', '01000000-0000-0000-0000-000000000000:gone', '2099-01-01Z'),
	('ac000000-0000-0000-0000-000000000000', 'without a promise', NULL, '2099-01-01Z'),
	('07000000-0000-0000-0000-000000000000', 'live', '03000000-0000-0000-0000-000000000000:pay', '2099-01-01Z'),
	('ac000000-0000-0000-0000-000000000000', '02000000-0000-0000-0000-000000000000:swap', '01000000-0000-0000-0000-000000000000:failed', '2024-01-03Z'),
	('ac000000-0000-0000-0000-000000000000', 'zzzzzzzz-zzzz-zzzz-zzzz-zzzzzzzzzzzz:looks like one', '01000000-0000-0000-0000-000000000000:failed', '2024-01-03Z'),
	-- somebody's own key, of the text of another promise's id
	('ac000000-0000-0000-0000-000000000000', '02000000-0000-0000-0000-000000000000:pay', '01000000-0000-0000-0000-000000000000::', '2099-01-01Z');`

func fillLegacy(t testing.TB, db *dbtest.DB) {
	t.Helper()
	_, err := db.Pool.Exec(t.Context(), insertLegacy, pgx.QueryExecModeSimpleProtocol)
	require.NoError(t, err)
}

func lines(t testing.TB, db *dbtest.DB, sql string) []string {
	t.Helper()
	rows, err := db.Pool.Query(t.Context(), sql)
	require.NoError(t, err)
	all, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	return all
}

const everyColumn = `SELECT (workflow_execution_id, name, resolved, value, error, timeout_at, created_at, resolved_at,
	created_by_sequence, resolved_by_sequence)::TEXT FROM promise ORDER BY workflow_execution_id, name`

func TestLegacyDataIsWhole(t *testing.T) {
	t.Parallel()
	db := dbtest.Bare(t)
	makeLegacy(t, db)
	fillLegacy(t, db)
	before := lines(t, db, everyColumn)
	oldIDs := lines(t, db, "SELECT id FROM promise ORDER BY id")
	type key struct{ Tenant, Key, PromiseID, ExpiresAt string }
	keys := func() []key {
		rows, err := db.Pool.Query(t.Context(),
			"SELECT tenant_id::TEXT AS tenant, key, promise_id::TEXT, expires_at::TEXT FROM idempotency_key WHERE promise_id IS NOT NULL")
		require.NoError(t, err)
		all, err := pgx.CollectRows(rows, pgx.RowToStructByName[key])
		require.NoError(t, err)
		return all
	}
	oldKeys := keys()

	result, err := migrate.Run(t.Context(), config(t, db.URL), migrate.Options{})
	require.NoError(t, err)
	require.Equal(t, fileNames(t), result.Applied)

	require.Equal(t, before, lines(t, db, everyColumn))
	var ids []string
	for _, old := range oldIDs {
		ids = append(ids, newID(old))
	}
	require.ElementsMatch(t, ids, lines(t, db, "SELECT id::TEXT FROM promise"))
	require.Equal(t, []string{
		"failed=rejected", "failed without words=rejected", "größe 50% /?=resolved", "not even JSON=resolved",
		"nothing=resolved", "odd too=resolved",
	}, lines(t, db, `SELECT name || '=' || outcome FROM promise WHERE outcome IS NOT NULL ORDER BY name COLLATE "C"`))
	require.Equal(t, []string{"1 20", "2 4", "3 1", "4 0"}, lines(t, db,
		`SELECT get_byte(uuid_send(id), 0) || ' ' || last_sequence_number FROM workflow_execution ORDER BY 1`))

	// Each old key, but for those without a promise, names its promise's new id; what is new are composite ids.
	migrated := map[[2]string]key{}
	for _, k := range keys() {
		migrated[[2]string{k.Tenant, k.Key}] = k
	}
	dropped := 0
	for _, old := range oldKeys {
		got, ok := migrated[[2]string{old.Tenant, old.Key}]
		if old.Key == "of a promise that is gone" {
			require.False(t, ok)
			dropped++
			continue
		}
		if old.Key == w2.String()+":swap" { // free already: it makes room for the pending promise of that id
			require.Equal(t, newID("swapped"), got.PromiseID)
			continue
		}
		require.True(t, ok, old.Key)
		require.Equal(t, newID(old.PromiseID), got.PromiseID, old.Key)
		require.Equal(t, old.ExpiresAt, got.ExpiresAt, old.Key)
		delete(migrated, [2]string{old.Tenant, old.Key})
	}
	require.Equal(t, 1, dropped)
	added := map[string]string{}
	for _, k := range migrated {
		added[k.Key] = k.PromiseID
	}
	a, b, c := w1.String(), w2.String(), w3.String()
	require.Equal(t, map[string]string{
		a + ":pay":                         newID(a + ":pay"),
		a + ":a:b:c":                       newID(a + ":a:b:c"),
		a + "::":                           newID(a + "::"),
		a + ":":                            newID(a + ":"),
		a + ":overdue":                     newID(a + ":overdue"),
		a + ":of another":                  newID(b + ":of another"),
		b + ":of another":                  newID(b + ":of another"),
		a + ":odd":                         newID("no-id-at-all"),
		"no-id-at-all":                     newID("no-id-at-all"),
		a + ":swap":                        newID(b + ":swap"),
		b + ":swap":                        newID("swapped"),
		"swapped":                          newID("swapped"),
		"long":                             newID("long"),
		b + ":" + strings.Repeat("m", 218): newID(b + ":" + strings.Repeat("m", 218)),
		c + ":pay":                         newID(c + ":pay"),
	}, added, "b:pay was somebody's own key already")

	again, err := migrate.Run(t.Context(), config(t, db.URL), migrate.Options{})
	require.NoError(t, err)
	require.Empty(t, again.Applied)
}

// Whoever holds an old id settles with it, and with nothing else than what it meant.
func TestNoCallerIsCutOff(t *testing.T) {
	t.Parallel()
	db := dbtest.Bare(t)
	makeLegacy(t, db)
	fillLegacy(t, db)
	_, err := migrate.Run(t.Context(), config(t, db.URL), migrate.Options{})
	require.NoError(t, err)
	require.Equal(t, []string{"2"}, lines(t, db, "SELECT COUNT(DISTINCT tenant_id)::TEXT FROM promise"))
	require.Empty(t, lines(t, db, `SELECT p.name FROM promise p JOIN workflow_execution w ON w.id = p.workflow_execution_id
		WHERE p.tenant_id <> w.tenant_id`))
	r := repository.New(db.Pool)
	ctx := t.Context()
	resolve := func(tenant, key string) (promise.SettleResult, error) {
		i, err := promise.ByIdempotencyKey(key)
		require.NoError(t, err)
		return r.Settle(ctx, tenant, i, promise.SettleRequest{
			Result: promise.Result{State: promise.Resolved, Value: []byte("1")}, By: promise.By{Kind: promise.KindDirect},
		})
	}
	for _, c := range []struct{ tenant, key, oldID string }{
		{"acme", w1.String() + ":pay", w1.String() + ":pay"},
		{"acme", w1.String() + ":a:b:c", w1.String() + ":a:b:c"},
		{"acme", w1.String() + ":odd", "no-id-at-all"},
		{"acme", w1.String() + ":swap", w2.String() + ":swap"},
		{"acme", w2.String() + ":swap", "swapped"},
		{"acme", "long", "long"},
		{"acme", w2.String() + ":pay", w1.String() + "::"},
		{"other", w3.String() + ":pay", w3.String() + ":pay"},
	} {
		got, err := resolve(c.tenant, c.key)
		require.NoError(t, err, c.key)
		require.Equal(t, promise.SettleResult{
			PromiseID: uuid.MustParse(newID(c.oldID)), State: promise.Resolved, Outcome: promise.OutcomeSettled,
		}, got, c.key)
	}
	got, err := resolve("acme", w1.String()+":pay")
	require.NoError(t, err)
	require.Equal(t, promise.OutcomeDuplicate, got.Outcome, "its key names it for seven days after the settlement")
	for _, key := range []string{w1.String() + ":failed", w1.String() + ":overdue", w3.String() + ":pay"} {
		_, err := resolve("acme", key)
		require.Equal(t, error(promise.ErrNotFound), err, "%s: settled, timed out long ago, or another tenant's", key)
	}
	// The log goes on from the highest number that a promise had.
	require.Equal(t, []string{"21 PROMISE_RESOLVED"}, lines(t, db, `SELECT sequence_number || ' ' || event_type FROM workflow_event
		WHERE promise_id = '`+newID(w1.String()+":pay")+`'`))

	// A promise of old is created again as it was: with the key that it had, and no other.
	key := "live"
	d := promise.Draft{WorkflowExecutionID: w1, Name: "pay", IdempotencyKey: &key, IdempotencyKeyTTL: time.Hour}
	again, err := r.Create(ctx, "acme", d)
	require.NoError(t, err)
	require.False(t, again.New)
	require.Equal(t, newID(w1.String()+":pay"), again.Promise.ID.String())
	mine := "mine"
	d.IdempotencyKey = &mine
	_, err = r.Create(ctx, "acme", d)
	require.Equal(t, promise.CodeCreateConflict, promise.AsError(err).Code)
}

// What else was made of the tables stays: they are changed, not replaced.
func TestWhatOthersAddedStays(t *testing.T) {
	t.Parallel()
	db := dbtest.Bare(t)
	makeLegacy(t, db)
	role := "role_" + strings.ToLower(strings.ReplaceAll(uuid.NewString(), "-", ""))
	_, err := db.Pool.Exec(t.Context(), `
		CREATE ROLE `+role+`;
		GRANT SELECT, UPDATE ON promise, idempotency_key TO `+role+`;
		ALTER TABLE promise ADD COLUMN note TEXT DEFAULT 'theirs';
		ALTER TABLE promise ADD CONSTRAINT promise_workflow_execution_id_name_key UNIQUE (workflow_execution_id, name);
		ALTER TABLE idempotency_key ADD CONSTRAINT their_key FOREIGN KEY (promise_id) REFERENCES promise (id) ON DELETE CASCADE;
		ALTER TABLE idempotency_key ADD COLUMN created_at TIMESTAMPTZ NOT NULL DEFAULT NOW();
		ALTER TABLE idempotency_key ADD CONSTRAINT their_unique UNIQUE (promise_id, key);
		CREATE INDEX their_index ON promise (id, note);
		COMMENT ON COLUMN promise.id IS 'theirs';
		CREATE FUNCTION their_function() RETURNS TRIGGER LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
		CREATE TRIGGER their_trigger BEFORE UPDATE ON promise FOR EACH ROW EXECUTE FUNCTION their_function();`,
		pgx.QueryExecModeSimpleProtocol)
	require.NoError(t, err)
	db.Exec(t, "INSERT INTO tenant VALUES ($1, 'acme')", acme)
	db.Exec(t, "INSERT INTO workflow_execution VALUES ($1, $2)", w1, acme)
	db.Exec(t, "INSERT INTO promise (id, workflow_execution_id, name, created_by_sequence) VALUES ($1, $2, 'n', 1)", w1.String()+":n", w1)
	db.Exec(t, "INSERT INTO idempotency_key VALUES ($1, 'k', $2, NOW())", acme, w1.String()+":n")

	_, err = migrate.Run(t.Context(), config(t, db.URL), migrate.Options{})
	require.NoError(t, err)
	require.Equal(t, []string{"theirs"}, lines(t, db, "SELECT note FROM promise"))
	require.Equal(t, []string{"theirs"}, lines(t, db,
		"SELECT col_description('promise'::REGCLASS, attnum) FROM pg_attribute WHERE attrelid = 'promise'::REGCLASS AND attname = 'id'"))
	require.Equal(t, []string{"t t"}, lines(t, db, fmt.Sprintf(
		"SELECT concat(has_table_privilege('%s', 'promise', 'UPDATE'), ' ', has_table_privilege('%[1]s', 'idempotency_key', 'SELECT'))", role)))
	require.Equal(t, []string{"promise_final", "promise_identity", "their_trigger"}, lines(t, db, "SELECT tgname::TEXT FROM pg_trigger WHERE tgrelid = 'promise'::REGCLASS AND NOT tgisinternal ORDER BY 1"))
	require.Contains(t, lines(t, db, "SELECT indexname::TEXT FROM pg_indexes WHERE tablename = 'promise' AND schemaname = current_schema()"), "their_index")
	require.Equal(t, []string{
		"idempotency_key_held", "idempotency_key_pkey", "idempotency_key_promise_id_fkey", "idempotency_key_tenant_id_fkey", "their_unique",
	},
		lines(t, db, "SELECT conname::TEXT FROM pg_constraint WHERE conrelid = 'idempotency_key'::REGCLASS ORDER BY conname"))
	db.Exec(t, "DROP OWNED BY "+role)
	db.Exec(t, "DROP ROLE "+role)
}

// What follows the decision, to the last column: DESIGN's table.
func TestSchemaAfterwards(t *testing.T) {
	t.Parallel()
	adopted, fresh := dbtest.Bare(t), dbtest.New(t)
	makeLegacy(t, adopted)
	_, err := migrate.Run(t.Context(), config(t, adopted.URL), migrate.Options{})
	require.NoError(t, err)
	for what, sql := range map[string]string{
		"columns": `SELECT table_name || '.' || column_name || ' ' || data_type || ' ' || is_nullable || ' ' || COALESCE(column_default, '')
			FROM information_schema.columns WHERE table_schema = current_schema() AND table_name <> 'tenant' ORDER BY 1`,
		"indexes": `SELECT regexp_replace(indexdef, ' ON \w+\.', ' ON ') FROM pg_indexes
			WHERE schemaname = current_schema() AND tablename <> 'tenant' ORDER BY 1`,
		"constraints": `SELECT conrelid::REGCLASS || ' ' || conname || ' ' || pg_get_constraintdef(oid) FROM pg_constraint
			WHERE connamespace = current_schema()::REGNAMESPACE AND conname <> 'idempotency_key_tenant_id_fkey' ORDER BY 1`,
	} {
		require.Equal(t, lines(t, fresh, sql), lines(t, adopted, sql), what)
	}
	require.Equal(t, []string{
		"comment character varying YES ", "created_at timestamp with time zone NO now()", "created_by_sequence integer NO ",
		"erased_at timestamp with time zone YES ", "error text YES ",
		"id uuid NO gen_random_uuid()", "idempotency_key character varying YES ", "metadata jsonb YES ",
		"name character varying NO ", "outcome character varying YES ", "resolved boolean NO false",
		"resolved_at timestamp with time zone YES ", "resolved_by_sequence integer YES ", "settled_by_id character varying YES ",
		"settled_by_kind character varying YES ", "tenant_id uuid NO ", "timeout_at timestamp with time zone YES ",
		"timeout_error text YES ", "timeout_outcome character varying YES ", "timeout_value bytea YES ",
		"tokens_revoked_at timestamp with time zone YES ", "value bytea YES ", "workflow_execution_id uuid NO ",
	}, lines(t, fresh, `SELECT column_name || ' ' || data_type || ' ' || is_nullable || ' ' || COALESCE(column_default, '')
		FROM information_schema.columns WHERE table_schema = current_schema() AND table_name = 'promise' ORDER BY 1`))
}
