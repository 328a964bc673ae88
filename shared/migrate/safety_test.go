package migrate_test

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/dbtest"
	"github.com/flovyn/promises/shared/localpg"
	"github.com/flovyn/promises/shared/migrate"
)

// everything lists the objects of the schema, and the rows of its tables.
func everything(t testing.TB, db *dbtest.DB) []string {
	t.Helper()
	all := lines(t, db, `
		SELECT c.relname || ' ' || c.relkind::TEXT || ' ' || COALESCE(a.attname || ' ' || format_type(a.atttypid, a.atttypmod), '')
		FROM pg_class c LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
		WHERE c.relnamespace = current_schema()::REGNAMESPACE
		UNION ALL
		SELECT conrelid::REGCLASS || ' ' || conname || ' ' || pg_get_constraintdef(oid) FROM pg_constraint
		WHERE connamespace = current_schema()::REGNAMESPACE
		UNION ALL
		SELECT proname FROM pg_proc WHERE pronamespace = current_schema()::REGNAMESPACE
		ORDER BY 1`)
	for _, table := range lines(t, db, `SELECT relname::TEXT FROM pg_class
		WHERE relnamespace = current_schema()::REGNAMESPACE AND relkind = 'r' ORDER BY 1`) {
		all = append(all, lines(t, db, "SELECT x::TEXT FROM "+table+" x ORDER BY 1")...)
	}
	return all
}

func TestTablesThatDoNotFitAreRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		change string
		says   []string
	}{
		{"ALTER TABLE promise DROP COLUMN error, DROP COLUMN timeout_at", []string{"promise.error is missing", "promise.timeout_at is missing"}},
		{"ALTER TABLE promise ALTER COLUMN id TYPE UUID USING gen_random_uuid()", []string{"promise.id is uuid, not character varying(255)"}},
		{"ALTER TABLE promise ALTER COLUMN created_at TYPE TIMESTAMP", []string{"promise.created_at is timestamp without time zone, not timestamp with time zone"}},
		{"ALTER TABLE promise ALTER COLUMN value TYPE TEXT", []string{"promise.value is text, not bytea"}},
		{"ALTER TABLE promise ALTER COLUMN created_by_sequence TYPE BIGINT", []string{"promise.created_by_sequence is bigint, not integer"}},
		{"ALTER TABLE promise DROP CONSTRAINT promise_pkey", []string{"promise(id) is neither a primary key nor unique"}},
		{"ALTER TABLE promise ADD COLUMN theirs TEXT NOT NULL", []string{"promise.theirs is an unknown column that takes no NULL and has no default"}},
		{"ALTER TABLE workflow_execution ADD COLUMN kind INT NOT NULL", []string{"workflow_execution.kind"}},
		{"ALTER TABLE tenant DROP CONSTRAINT tenant_slug_key", []string{"tenant(slug) is neither"}},
		{"ALTER TABLE tenant ALTER COLUMN slug TYPE INT USING 1", []string{"tenant.slug is integer, not text"}},
		{"ALTER TABLE idempotency_key DROP CONSTRAINT idempotency_key_pkey", []string{"idempotency_key(key,tenant_id) is neither"}},
		{"ALTER TABLE promise RENAME TO p; CREATE VIEW promise AS SELECT * FROM p", []string{"promise is not an ordinary table"}},
		{"ALTER TABLE promise ALTER COLUMN resolved DROP NOT NULL", []string{"promise.resolved may be NULL"}},
		{"ALTER TABLE promise ALTER COLUMN error SET DEFAULT ''", []string{"promise.error has a default"}},
		{"ALTER TABLE promise ALTER COLUMN error SET NOT NULL", []string{"promise.error may not be NULL"}},
		{"ALTER TABLE promise ALTER COLUMN created_by_sequence DROP NOT NULL", []string{"promise.created_by_sequence may be NULL"}},
		{"ALTER TABLE promise ALTER COLUMN created_by_sequence ADD GENERATED ALWAYS AS IDENTITY", []string{"promise.created_by_sequence is generated"}},
		{"ALTER TABLE idempotency_key ALTER COLUMN expires_at DROP NOT NULL", []string{"idempotency_key.expires_at may be NULL"}},
		{"CREATE TABLE workflow_event (x INT)", []string{"the relation workflow_event is there already"}},
		{"ALTER TABLE promise ADD COLUMN metadata TEXT", []string{"promise.metadata is there already"}},
		{"ALTER TABLE promise ADD COLUMN tokens_revoked_at DATE", []string{"promise.tokens_revoked_at is there already"}},
		{"CREATE TABLE api_key (x INT)", []string{"the relation api_key is there already"}},
		{"ALTER TABLE tenant ADD COLUMN suspended_at DATE", []string{"tenant.suspended_at is there already"}},
		{"ALTER TABLE promise ADD COLUMN comment TEXT", []string{"promise.comment is there already"}},
		{"ALTER TABLE idempotency_key ADD COLUMN held_at DATE", []string{"idempotency_key.held_at is there already"}},
		{"ALTER TABLE idempotency_key ADD COLUMN check_at DATE", []string{"idempotency_key.check_at is there already"}},
		{"ALTER TABLE workflow_execution ADD COLUMN external_id TEXT", []string{"workflow_execution.external_id is there already"}},
		{"CREATE INDEX idx_promise_due ON promise (timeout_at)", []string{"the relation idx_promise_due is there already"}},
		{"ALTER TABLE promise ADD CONSTRAINT promise_settled_by CHECK (resolved IS NOT NULL)", []string{"the constraint promise_settled_by is there already"}},
		{"ALTER TABLE workflow_execution ADD COLUMN last_sequence_number INT", []string{"workflow_execution.last_sequence_number is there already"}},
		{"CREATE FUNCTION promise_race_lost(INT) RETURNS INT LANGUAGE sql AS 'SELECT 1'", []string{"the function promise_race_lost is there already"}},
		{"CREATE FUNCTION promise_settle_before() RETURNS INT LANGUAGE sql AS 'SELECT 1'", []string{"the function promise_settle_before is there already"}},
		{"CREATE FUNCTION promise_key_uncertain() RETURNS INT LANGUAGE sql AS 'SELECT 1'", []string{"the function promise_key_uncertain is there already"}},
		{"CREATE TYPE promise_creation AS ENUM ('x')", []string{"the type promise_creation is there already"}},
		{"CREATE TYPE promise_settlement AS (x INT)", []string{"the relation promise_settlement is there already"}},
		{"CREATE TYPE settle_result AS (x INT)", []string{"the relation settle_result is there already"}},
		{"CREATE DOMAIN settle_result AS INT", []string{"the type settle_result is there already"}},
		{"CREATE UNIQUE INDEX promise_workflow_execution_id_name_key ON promise (workflow_execution_id, name)", []string{"promise_workflow_execution_id_name_key is not a constraint"}},
		{"ALTER TABLE promise ADD CONSTRAINT promise_workflow_execution_id_name_key UNIQUE (workflow_execution_id, name, id)", []string{"promise_workflow_execution_id_name_key is not a constraint"}},
		{"ALTER TABLE promise ADD CONSTRAINT c CHECK (id LIKE workflow_execution_id::TEXT || ':%') NOT VALID", []string{"the constraint c of promise takes promise.id for text"}},
		{"CREATE INDEX i ON promise (id varchar_pattern_ops)", []string{"the index i on promise.id is for text alone"}},
		{"CREATE FUNCTION f() RETURNS TRIGGER LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; CREATE TRIGGER t BEFORE UPDATE OF id ON promise FOR EACH ROW EXECUTE FUNCTION f()", []string{"trigger t on table promise uses promise.id"}},
		{"ALTER TABLE promise ADD COLUMN g TEXT GENERATED ALWAYS AS (id || 'x') STORED", []string{"uses promise.id: drop it"}},
		{"DROP TABLE promise, workflow_execution; ALTER TABLE tenant RENAME TO t; " + promiseAlone, []string{"tenant is missing", "workflow_execution is missing"}},
		{"CREATE TABLE child () INHERITS (promise)", []string{"promise is not an ordinary table"}},
		{"CREATE TABLE x (t UUID, k VARCHAR(255), CONSTRAINT fk FOREIGN KEY (t, k) REFERENCES idempotency_key)", []string{"the foreign key fk of x refers to idempotency_key"}},
		{"CREATE VIEW v AS SELECT id, name FROM promise", []string{"the view v uses promise.id: drop it"}},
		{"CREATE TABLE x (promise_id VARCHAR(255) CONSTRAINT fk REFERENCES promise (id))", []string{"the foreign key fk of x refers to promise.id: drop it"}},
	} {
		t.Run(c.change, func(t *testing.T) {
			t.Parallel()
			db := dbtest.Bare(t)
			makeLegacy(t, db)
			_, err := db.Pool.Exec(t.Context(), c.change, pgx.QueryExecModeSimpleProtocol)
			require.NoError(t, err)
			before := everything(t, db)
			_, err = migrate.Run(t.Context(), config(t, db.URL), migrate.Options{})
			require.ErrorContains(t, err, "refused, with nothing changed")
			for _, s := range c.says {
				require.ErrorContains(t, err, s)
			}
			require.Equal(t, before, everything(t, db))
			rehearsal, rehearsalErr := migrate.Rehearse(t.Context(), config(t, db.URL))
			require.NoError(t, rehearsalErr)
			require.Equal(t, err.Error(), "migrate: "+rehearsal.Refused)
			require.Equal(t, before, everything(t, db))
		})
	}
}

const promiseAlone = `CREATE TABLE promise (id VARCHAR(255) PRIMARY KEY, workflow_execution_id UUID NOT NULL, name VARCHAR(255) NOT NULL,
	resolved BOOLEAN NOT NULL, value BYTEA, error TEXT, timeout_at TIMESTAMPTZ, created_at TIMESTAMPTZ NOT NULL, resolved_at TIMESTAMPTZ,
	created_by_sequence INT NOT NULL, resolved_by_sequence INT)`

// A run must not mistake rows that a policy hides from its user for deleted rows.
func TestHiddenRowsAreRefused(t *testing.T) {
	t.Parallel()
	db := dbtest.Bare(t)
	owner := "owner_" + strings.ToLower(rand.Text())
	schema := one[string](t, db, "SELECT current_schema()::TEXT")
	_, err := db.Pool.Exec(t.Context(), legacyDDL+insertLegacy+`
		CREATE ROLE `+owner+` LOGIN PASSWORD 'secret';
		ALTER SCHEMA `+schema+` OWNER TO `+owner+`;
		ALTER TABLE tenant OWNER TO `+owner+`;
		ALTER TABLE workflow_execution OWNER TO `+owner+`;
		ALTER TABLE promise OWNER TO `+owner+`;
		ALTER TABLE idempotency_key OWNER TO `+owner+`;
		ALTER TABLE promise ENABLE ROW LEVEL SECURITY;
		ALTER TABLE promise FORCE ROW LEVEL SECURITY;
		CREATE POLICY none ON promise USING (FALSE)`, pgx.QueryExecModeSimpleProtocol)
	require.NoError(t, err)
	conf, err := pgx.ParseConfig(db.URL)
	require.NoError(t, err)
	asOwner := fmt.Sprintf("host=%s port=%d dbname=%s user=%s password=secret search_path=%s",
		conf.Host, conf.Port, conf.Database, owner, schema)
	t.Run("forced row-level security is refused", func(t *testing.T) {
		_, err := migrate.Run(t.Context(), config(t, asOwner), migrate.Options{})
		require.ErrorContains(t, err, "promise has row-level security, which hides rows from this user")
		require.Equal(t, 11, one[int](t, db, "SELECT COUNT(*) FROM idempotency_key"))
	})

	// Other tests on this server change the right to create temporary tables under the same lock.
	const lock = "SELECT pg_advisory_xact_lock(hashtextextended('github.com/flovyn/promises/migrations/access', 0)); "
	db.Exec(t, lock+"GRANT TEMPORARY ON DATABASE "+conf.Database+" TO "+owner, pgx.QueryExecModeSimpleProtocol)
	db.Exec(t, "ALTER TABLE promise NO FORCE ROW LEVEL SECURITY")
	t.Run("the owner of the tables migrates them without being a superuser", func(t *testing.T) {
		_, err := migrate.Run(t.Context(), config(t, asOwner), migrate.Options{})
		require.NoError(t, err)
		require.Equal(t, 23, one[int](t, db, "SELECT COUNT(*) FROM idempotency_key"))
	})
	for _, sql := range []string{"REASSIGN OWNED BY " + owner + " TO CURRENT_USER", "DROP OWNED BY " + owner, "DROP ROLE " + owner} {
		db.Exec(t, lock+sql, pgx.QueryExecModeSimpleProtocol)
	}
}

func TestTablesBehindTheFirstSchemaAreRefused(t *testing.T) {
	t.Parallel()
	db, first := dbtest.Bare(t), dbtest.Bare(t)
	makeLegacy(t, db)
	behind, front := one[string](t, db, "SELECT current_schema()::TEXT"), one[string](t, first, "SELECT current_schema()::TEXT")
	_, err := migrate.Run(t.Context(), config(t, strings.ReplaceAll(first.URL, front, front+"%2C"+behind)), migrate.Options{})
	require.ErrorContains(t, err, "promise is in the schema "+behind+", not in the first of the search_path")
	require.Empty(t, everything(t, first))
}

// Each run checks the tables until 00002 is applied, not only the first run.
func TestCheckedAgainAfterAFirstTry(t *testing.T) {
	t.Parallel()
	db := legacyDB(t)
	db.Exec(t, "INSERT INTO promise (id, workflow_execution_id, name, created_by_sequence) VALUES ('twin', $1, 'pay', 9)", w2)
	_, err := migrate.Run(t.Context(), config(t, db.URL), migrate.Options{})
	require.ErrorContains(t, err, "several promises of a workflow have the same name")
	db.Exec(t, "DELETE FROM promise WHERE id = 'twin'")
	db.Exec(t, "CREATE TABLE workflow_event (x INT)")
	_, err = migrate.Run(t.Context(), config(t, db.URL), migrate.Options{})
	require.ErrorContains(t, err, "the relation workflow_event is there already")
	require.Equal(t, "character varying(255)", one[string](t, db,
		"SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'promise'::REGCLASS AND attname = 'id'"))
}

func TestInfiniteTimesAreRefused(t *testing.T) {
	t.Parallel()
	db := legacyDB(t)
	db.Exec(t, "UPDATE promise SET timeout_at = 'infinity' WHERE id = 'long'")
	_, err := migrate.Run(t.Context(), config(t, db.URL), migrate.Options{})
	require.ErrorContains(t, err, "promises have an infinite time, set a finite one or NULL: ids: 'long'")
	db.Exec(t, "UPDATE promise SET timeout_at = NULL WHERE id = 'long'")
	_, err = migrate.Run(t.Context(), config(t, db.URL), migrate.Options{})
	require.NoError(t, err)
}

func TestTwoPromisesOfOneNameAreRefused(t *testing.T) {
	t.Parallel()
	db := legacyDB(t)
	db.Exec(t, "INSERT INTO promise (id, workflow_execution_id, name, created_by_sequence) VALUES ('twin', $1, 'it''s', 1), ('other twin', $1, 'it''s', 2)", w2)
	const says = `several promises of a workflow have the same name, rename all but one: workflow_execution_id 02000000-0000-0000-0000-000000000000, name 'it''s': ids 'other twin', 'twin'`
	t.Run("a rehearsal names them", func(t *testing.T) {
		rehearsal, err := migrate.Rehearse(t.Context(), config(t, db.URL))
		require.NoError(t, err)
		require.Contains(t, rehearsal.Refused, says)
	})
	t.Run("a run names them and changes nothing", func(t *testing.T) {
		before := everything(t, db)
		result, err := migrate.Run(t.Context(), config(t, db.URL), migrate.Options{})
		require.ErrorContains(t, err, "00002_promise_uuid.sql: refused")
		require.ErrorContains(t, err, says)
		require.Equal(t, []string{"00001_init.sql"}, result.Applied)
		require.Subset(t, everything(t, db), before)
	})
	t.Run("a run succeeds once one of them is deleted", func(t *testing.T) {
		db.Exec(t, "DELETE FROM promise WHERE id = 'twin'")
		result, err := migrate.Run(t.Context(), config(t, db.URL), migrate.Options{})
		require.NoError(t, err)
		require.Len(t, result.Applied, len(fileNames(t))-1)
	})
}

func TestARowWithoutItsWorkflowIsRefused(t *testing.T) {
	t.Parallel()
	db := dbtest.Bare(t)
	makeLegacy(t, db)
	db.Exec(t, "ALTER TABLE promise DROP CONSTRAINT promise_workflow_execution_id_fkey")
	db.Exec(t, "INSERT INTO promise (id, workflow_execution_id, name, created_by_sequence) VALUES ('x', $1, 'n', 1)", w2)
	_, err := migrate.Run(t.Context(), config(t, db.URL), migrate.Options{})
	require.ErrorContains(t, err, `Key (workflow_execution_id)=(02000000-0000-0000-0000-000000000000) is not present in table "workflow_execution"`)
}

// A run that waits too long for a table's lock fails, so that the statements behind it continue. It can be repeated.
func TestABusyTable(t *testing.T) {
	t.Parallel()
	db := legacyDB(t)
	tx, err := db.Pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), "SELECT COUNT(*) FROM promise") // a long report
	require.NoError(t, err)
	before := everything(t, db)
	const inUse = "00002_promise_uuid.sql: the tables are in use by other transactions: this file changed nothing, repeat the call"
	for waits := false; !waits; { // the run may have failed before the test saw it wait
		failed, conf := make(chan error, 1), config(t, db.URL)
		go func() {
			_, err := migrate.Run(t.Context(), conf, migrate.Options{})
			failed <- err
		}()
		for err = nil; err == nil && !waits; {
			waits = one[int](t, db, "SELECT COUNT(*) FROM pg_locks WHERE NOT granted AND relation = 'promise'::REGCLASS") == 1
			select {
			case err = <-failed:
			default:
			}
		}
		if waits {
			db.Exec(t, "UPDATE promise SET value = value WHERE name = 'pay'") // a writer behind the run gets the lock soon
		}
		if err == nil {
			err = <-failed
		}
		require.ErrorContains(t, err, inUse)
	}
	require.NoError(t, tx.Commit(t.Context()))
	require.Subset(t, everything(t, db), before)
	_, err = migrate.Run(t.Context(), config(t, db.URL), migrate.Options{})
	require.NoError(t, err)
}

// 00006 deletes event rows. A rehearsal must not count them as idempotency keys.
func TestRehearse_LaterDeletionsAreNotKeys(t *testing.T) {
	t.Parallel()
	db := dbtest.Bare(t)
	_, err := migrate.RunFiles(t.Context(), config(t, db.URL), filesBefore(t, "00006"), migrate.Options{})
	require.NoError(t, err)
	db.Exec(t, `WITH t AS (INSERT INTO tenant (slug) VALUES ('acme') RETURNING id),
			w AS (INSERT INTO workflow_execution (id, tenant_id, last_sequence_number) SELECT gen_random_uuid(), id, 2 FROM t RETURNING id, tenant_id),
			p AS (INSERT INTO promise (workflow_execution_id, tenant_id, name, created_by_sequence, resolved, outcome, value, resolved_at,
					resolved_by_sequence, settled_by_kind)
				SELECT id, tenant_id, 'payment', 1, TRUE, 'resolved', '1', NOW(), 2, 'direct' FROM w RETURNING id, workflow_execution_id)
		INSERT INTO workflow_event (workflow_execution_id, sequence_number, event_type, promise_id)
		SELECT workflow_execution_id, n, type, id FROM p, (VALUES (1, 'PROMISE_CREATED'), (2, 'PROMISE_RESOLVED')) e (n, type)`)
	r, err := migrate.Rehearse(t.Context(), config(t, db.URL))
	require.NoError(t, err)
	require.Empty(t, r.Refused)
	require.Zero(t, r.KeysDropped)
	require.Zero(t, r.KeysAdded)
}

func TestRehearse(t *testing.T) {
	t.Parallel()
	db := legacyDB(t)
	before := everything(t, db)
	r, err := migrate.Rehearse(t.Context(), config(t, db.URL))
	require.NoError(t, err)
	require.Empty(t, r.Refused)
	t.Run("rolls everything back", func(t *testing.T) {
		require.Equal(t, before, everything(t, db))
	})
	t.Run("counts the rows", func(t *testing.T) {
		require.Equal(t, map[string]int64{"tenant": 2, "workflow_execution": 4, "promise": 19, "idempotency_key": 11}, r.Before)
		require.Equal(t, map[string]int64{"tenant": 2, "workflow_execution": 4, "promise": 19, "idempotency_key": 23}, r.After)
		require.EqualValues(t, 3, r.KeysDropped)
		require.EqualValues(t, 15, r.KeysAdded)
	})
	t.Run("reports each file", func(t *testing.T) {
		require.Len(t, r.Files, len(fileNames(t)))
		for i, step := range r.Files {
			require.Equal(t, fileNames(t)[i], step.File)
			require.Positive(t, step.DurationMs)
		}
		require.Contains(t, r.Files[1].Locks, "promise: AccessExclusiveLock")
		require.Contains(t, r.Files[1].Locks, "idempotency_key: AccessExclusiveLock")
	})
	t.Run("predicts the run's result", func(t *testing.T) {
		_, err := migrate.Run(t.Context(), config(t, db.URL), migrate.Options{})
		require.NoError(t, err)
		require.EqualValues(t, r.After["idempotency_key"], one[int64](t, db, "SELECT COUNT(*) FROM idempotency_key"))
	})
	t.Run("finds nothing to do on a current schema", func(t *testing.T) {
		r, err := migrate.Rehearse(t.Context(), config(t, db.URL))
		require.NoError(t, err)
		require.Empty(t, r.Files)
		require.Equal(t, r.Before, r.After)
	})
	t.Run("works on an empty schema", func(t *testing.T) {
		r, err := migrate.Rehearse(t.Context(), config(t, dbtest.Bare(t).URL))
		require.NoError(t, err)
		require.Len(t, r.Files, len(fileNames(t)))
		require.Zero(t, r.Before["promise"])
	})
}

// command builds functions/migrate for a shell, and returns a function that prepares its call.
func command(t *testing.T) func(databaseURL string, args ...string) *exec.Cmd {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "migrate")
	out, err := exec.Command("go", "build", "-o", binary, "../../functions/migrate").CombinedOutput()
	require.NoError(t, err, "%s", out)
	return func(databaseURL string, args ...string) *exec.Cmd {
		cmd := exec.Command(binary, args...)
		cmd.Env = append(os.Environ(), "DATABASE_URL="+databaseURL)
		return cmd
	}
}

// The command rehearses or runs, and never runs if a flag is misspelt.
func TestCommand(t *testing.T) {
	t.Parallel()
	db := legacyDB(t)
	run := command(t)
	before := everything(t, db)
	t.Run("-dry-run prints a rehearsal", func(t *testing.T) {
		out, err := run(db.URL, "-dry-run").Output()
		require.NoError(t, err)
		var rehearsal migrate.Rehearsal
		require.NoError(t, json.Unmarshal(out, &rehearsal), "%s", out)
		require.EqualValues(t, 15, rehearsal.KeysAdded)
		require.Equal(t, before, everything(t, db))
	})
	t.Run("a misspelt flag changes nothing", func(t *testing.T) {
		var stderr bytes.Buffer
		wrong := run(db.URL, "-dryrun")
		wrong.Stderr = &stderr
		require.Error(t, wrong.Run())
		require.Contains(t, stderr.String(), "-dryrun")
		require.Equal(t, before, everything(t, db))
	})
	t.Run("an argument changes nothing", func(t *testing.T) {
		require.Error(t, run(db.URL, "dry-run").Run(), "the command takes flags only")
		require.Equal(t, before, everything(t, db))
	})
	t.Run("without flags it migrates", func(t *testing.T) {
		out, err := run(db.URL).Output()
		require.NoError(t, err)
		var result migrate.Result
		require.NoError(t, json.Unmarshal(out, &result), "%s", out)
		require.Equal(t, fileNames(t), result.Applied)
	})
}

const manyPromises = `
SET session_replication_role = replica; -- skips the checks of foreign keys
INSERT INTO tenant VALUES ('ac000000-0000-0000-0000-000000000000', 'acme');
INSERT INTO workflow_execution SELECT md5(n::TEXT)::UUID, 'ac000000-0000-0000-0000-000000000000' FROM generate_series(0, 999) n;
INSERT INTO promise (id, workflow_execution_id, name, created_by_sequence)
	SELECT w || ':step-' || n, w, 'step-' || n, n / 1000 + 1 FROM (SELECT n, md5((n % 1000)::TEXT)::UUID AS w FROM generate_series(0, 19999) n) s;
INSERT INTO idempotency_key SELECT 'ac000000-0000-0000-0000-000000000000', md5(id), id, NOW() FROM promise;
SET session_replication_role = origin;`

// stage returns the version that a migration has reached, and requires that the schema has all of that version and nothing of a later one.
func stage(t *testing.T, db *dbtest.DB) int {
	t.Helper()
	files := 0
	if one[bool](t, db, "SELECT to_regclass('promises_schema_version') IS NOT NULL") {
		files = one[int](t, db, "SELECT COALESCE(MAX(version_id), 0) FROM promises_schema_version")
	}
	idType := one[string](t, db, "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'promise'::REGCLASS AND attname = 'id'")
	require.Equal(t, files >= 2, idType == "uuid", "%d files, but promise.id is %s", files, idType)
	require.Equal(t, files >= 3, one[bool](t, db, "SELECT to_regclass('workflow_event') IS NOT NULL"))
	require.Equal(t, files >= 4, one[bool](t, db, "SELECT to_regclass('idx_promise_due') IS NOT NULL"))
	require.Equal(t, files >= 5, one[bool](t, db, "SELECT to_regclass('api_key') IS NOT NULL"))
	require.Equal(t, files >= 6, one[bool](t, db, "SELECT to_regclass('workflow_event_row') IS NOT NULL"))
	require.Equal(t, files >= 16, one[bool](t, db, "SELECT to_regproc('promise_erase') IS NOT NULL"))
	require.Equal(t, files >= 7, one[bool](t, db, "SELECT to_regproc('promise_settle') IS NOT NULL"))
	require.Equal(t, files >= 8, one[bool](t, db, "SELECT COUNT(*) > 0 FROM pg_proc WHERE proname = 'promise_create' AND pronamespace = current_schema()::REGNAMESPACE"))
	require.Equal(t, files >= 9 && files < 19, one[bool](t, db, "SELECT to_regtype('promise_settlement') IS NOT NULL"))
	require.Equal(t, files >= 19, one[bool](t, db, "SELECT to_regproc('promise_by_deadline') IS NOT NULL"))
	require.Equal(t, files >= 20, one[bool](t, db, "SELECT to_regclass('delivery') IS NOT NULL"))
	require.Equal(t, files >= 21, one[bool](t, db, "SELECT to_regclass('receipt') IS NOT NULL"))
	require.Equal(t, files >= 22, one[bool](t, db, `SELECT EXISTS (SELECT FROM pg_attribute
		WHERE attrelid = to_regclass('receipt') AND attname = 'body_ids')`))
	require.Equal(t, files >= 10, one[bool](t, db, "SELECT COUNT(*) > 0 FROM pg_proc WHERE oid = to_regproc('promise_settle') AND prosrc LIKE '%key_until%'"))
	require.Equal(t, files >= 11, one[bool](t, db, "SELECT to_regclass('idx_idempotency_key_check') IS NOT NULL"))
	require.Equal(t, 20000, one[int](t, db, "SELECT COUNT(*) FROM promise"))
	require.Equal(t, 20000, one[int](t, db, `SELECT COUNT(*) FROM idempotency_key k JOIN promise p ON p.id = k.promise_id
		WHERE k.key = md5(p.workflow_execution_id || ':' || p.name)`))
	return files
}

// TestKilledMigration kills the migrating process at several moments of its work. Afterwards the schema is entirely that of one file,
// and the next run completes it.
func TestKilledMigration(t *testing.T) {
	t.Parallel()
	run := command(t)
	var stages []int
	for _, after := range []time.Duration{0, 50, 100, 200, 400} { // ms after 00002 got its locks
		db := dbtest.Bare(t)
		makeLegacy(t, db)
		_, err := db.Pool.Exec(t.Context(), manyPromises, pgx.QueryExecModeSimpleProtocol)
		require.NoError(t, err)
		cmd := run(db.URL)
		require.NoError(t, cmd.Start())
		require.Eventually(t, func() bool {
			return one[int](t, db, `SELECT COUNT(*) FROM pg_locks WHERE relation = 'idempotency_key'::REGCLASS
				AND mode = 'AccessExclusiveLock' AND granted`) == 1
		}, time.Minute, time.Millisecond)
		time.Sleep(after * time.Millisecond)
		require.NoError(t, cmd.Process.Kill())
		_ = cmd.Wait()
		require.Eventually(t, func() bool { // the server still runs the last statement
			return one[int](t, db, `SELECT COUNT(*) FROM pg_locks WHERE relation = 'promise'::REGCLASS AND mode = 'AccessExclusiveLock'`) == 0
		}, time.Minute, 10*time.Millisecond)
		stages = append(stages, stage(t, db))
		_, err = migrate.Run(t.Context(), config(t, db.URL), migrate.Options{})
		require.NoError(t, err)
		require.Equal(t, 22, stage(t, db))
	}
	t.Logf("killed after files %v", stages)
	require.Equal(t, 1, stages[0], "killed during 00002")
}

// TestServerKilled crashes the server during 00002.
func TestServerKilled(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "migrate-")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	require.NoError(t, os.Chmod(dir, 0o711)) //nolint:gosec // as root, Postgres runs as another user
	data := filepath.Join(dir, "data")
	start := func() (*localpg.Server, *dbtest.DB) {
		server, err := localpg.Start(t.Context(), localpg.Options{Dir: data, Durable: true})
		require.NoError(t, err)
		pool, err := pgxpool.New(t.Context(), server.URL())
		require.NoError(t, err)
		return server, &dbtest.DB{URL: server.URL(), Pool: pool}
	}
	server, db := start()
	makeLegacy(t, db)
	_, err = db.Pool.Exec(t.Context(), manyPromises, pgx.QueryExecModeSimpleProtocol)
	require.NoError(t, err)
	db.Exec(t, "ALTER TABLE promise DROP CONSTRAINT promise_workflow_execution_id_fkey")
	tx, err := db.Pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), "LOCK TABLE workflow_execution IN ROW EXCLUSIVE MODE") // 00002 waits for it near its end
	require.NoError(t, err)
	migrated, conf := make(chan error, 1), config(t, db.URL)
	go func() {
		_, err := migrate.Run(t.Context(), conf, migrate.Options{})
		migrated <- err
	}()
	require.Eventually(t, func() bool {
		return one[int](t, db, "SELECT COUNT(*) FROM pg_locks WHERE NOT granted AND relation = 'workflow_execution'::REGCLASS") == 1
	}, time.Minute, time.Millisecond)
	pidFile, err := os.ReadFile(filepath.Join(data, "cluster", "postmaster.pid"))
	require.NoError(t, err)
	var postmaster int
	require.NoError(t, json.Unmarshal(pidFile[:bytes.IndexByte(pidFile, '\n')], &postmaster))
	require.NoError(t, syscall.Kill(postmaster, syscall.SIGQUIT))
	require.Error(t, <-migrated)
	_ = tx.Rollback(t.Context()) // its connection is closed
	db.Pool.Close()
	_ = server.Stop() // it has ended already

	server, db = start()
	require.Equal(t, 1, stage(t, db), "killed during 00002")
	_, err = migrate.Run(t.Context(), config(t, db.URL), migrate.Options{})
	require.NoError(t, err)
	require.Equal(t, 22, stage(t, db))
	db.Pool.Close()
	require.NoError(t, server.Stop())
}
