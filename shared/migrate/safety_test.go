package migrate_test

import (
	"bytes"
	"encoding/json"
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

// everything is what a schema is made of, and what it holds.
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
		{"ALTER TABLE promise ADD COLUMN theirs TEXT NOT NULL", []string{"promise.theirs, of which nothing is known here, takes no NULL and has no default"}},
		{"ALTER TABLE workflow_execution ADD COLUMN kind INT NOT NULL", []string{"workflow_execution.kind"}},
		{"ALTER TABLE tenant DROP CONSTRAINT tenant_slug_key", []string{"tenant(slug) is neither"}},
		{"ALTER TABLE tenant ALTER COLUMN slug TYPE INT USING 1", []string{"tenant.slug is integer, not text"}},
		{"ALTER TABLE idempotency_key DROP CONSTRAINT idempotency_key_pkey", []string{"idempotency_key(key,tenant_id) is neither"}},
		{"ALTER TABLE promise RENAME TO p; CREATE VIEW promise AS SELECT * FROM p", []string{"promise is not an ordinary table"}},
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
			_, err = migrate.Run(t.Context(), db.URL, nil)
			require.ErrorContains(t, err, "refused, with nothing changed")
			for _, s := range c.says {
				require.ErrorContains(t, err, s)
			}
			require.Equal(t, before, everything(t, db))
			rehearsal, rehearsalErr := migrate.Rehearse(t.Context(), db.URL)
			require.NoError(t, rehearsalErr)
			require.Equal(t, err.Error(), "migrate: "+rehearsal.Refused)
			require.Equal(t, before, everything(t, db))
		})
	}
}

func TestTwoPromisesOfOneNameAreRefused(t *testing.T) {
	t.Parallel()
	db := dbtest.Bare(t)
	makeLegacy(t, db)
	fillLegacy(t, db)
	db.Exec(t, "INSERT INTO promise (id, workflow_execution_id, name, created_by_sequence) VALUES ('twin', $1, 'it''s', 1), ('other twin', $1, 'it''s', 2)", w2)
	rehearsal, err := migrate.Rehearse(t.Context(), db.URL)
	require.NoError(t, err)
	const says = `several promises have one name: workflow_execution_id 02000000-0000-0000-0000-000000000000, name 'it''s': ids 'other twin', 'twin'`
	require.Contains(t, rehearsal.Refused, says)
	before := everything(t, db)
	result, err := migrate.Run(t.Context(), db.URL, nil)
	require.ErrorContains(t, err, "00002_promise_uuid.sql: refused")
	require.ErrorContains(t, err, says)
	require.Equal(t, []string{"00001_init.sql"}, result.Applied)
	require.Subset(t, everything(t, db), before)
	db.Exec(t, "DELETE FROM promise WHERE id = 'twin'")
	result, err = migrate.Run(t.Context(), db.URL, nil)
	require.NoError(t, err)
	require.Len(t, result.Applied, len(fileNames(t))-1)
}

func TestARowWithoutItsWorkflowIsRefused(t *testing.T) {
	t.Parallel()
	db := dbtest.Bare(t)
	makeLegacy(t, db)
	db.Exec(t, "ALTER TABLE promise DROP CONSTRAINT promise_workflow_execution_id_fkey")
	db.Exec(t, "INSERT INTO promise (id, workflow_execution_id, name, created_by_sequence) VALUES ('x', $1, 'n', 1)", w2)
	_, err := migrate.Run(t.Context(), db.URL, nil)
	require.ErrorContains(t, err, `Key (workflow_execution_id)=(02000000-0000-0000-0000-000000000000) is not present in table "workflow_execution"`)
}

// A migration that cannot have its tables at once gives up, before those behind it have waited long, and can be repeated.
func TestABusyTable(t *testing.T) {
	t.Parallel()
	db := dbtest.Bare(t)
	makeLegacy(t, db)
	fillLegacy(t, db)
	tx, err := db.Pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), "SELECT COUNT(*) FROM promise") // a long report
	require.NoError(t, err)
	before := everything(t, db)
	failed := make(chan error, 1)
	go func() {
		_, err := migrate.Run(t.Context(), db.URL, nil)
		failed <- err
	}()
	require.Eventually(t, func() bool {
		return one[int](t, db, "SELECT COUNT(*) FROM pg_locks WHERE NOT granted AND relation = 'promise'::REGCLASS") == 1
	}, 10*time.Second, time.Millisecond)
	db.Exec(t, "UPDATE promise SET value = value WHERE name = 'pay'") // a writer behind the migration gets through, and soon
	err = <-failed
	require.ErrorContains(t, err, "00002_promise_uuid.sql: the tables are in use by others: nothing of this file was changed, repeat the call")
	require.NoError(t, tx.Commit(t.Context()))
	require.Subset(t, everything(t, db), before)
	_, err = migrate.Run(t.Context(), db.URL, nil)
	require.NoError(t, err)
}

func TestRehearse(t *testing.T) {
	t.Parallel()
	db := dbtest.Bare(t)
	makeLegacy(t, db)
	fillLegacy(t, db)
	before := everything(t, db)
	r, err := migrate.Rehearse(t.Context(), db.URL)
	require.NoError(t, err)
	require.Equal(t, before, everything(t, db), "all of it is rolled back")
	require.Empty(t, r.Refused)
	require.Equal(t, map[string]int64{"tenant": 2, "workflow_execution": 4, "promise": 19, "idempotency_key": 9}, r.Before)
	require.Equal(t, map[string]int64{"tenant": 2, "workflow_execution": 4, "promise": 19, "idempotency_key": 22}, r.After)
	require.EqualValues(t, 2, r.KeysDropped)
	require.EqualValues(t, 15, r.KeysAdded)
	require.Len(t, r.Files, len(fileNames(t)))
	for i, step := range r.Files {
		require.Equal(t, fileNames(t)[i], step.File)
		require.Positive(t, step.DurationMs)
	}
	require.Contains(t, r.Files[1].Locks, "promise: AccessExclusiveLock")
	require.Contains(t, r.Files[1].Locks, "idempotency_key: AccessExclusiveLock")

	_, err = migrate.Run(t.Context(), db.URL, nil)
	require.NoError(t, err)
	require.EqualValues(t, r.After["idempotency_key"], one[int64](t, db, "SELECT COUNT(*) FROM idempotency_key"))
	r, err = migrate.Rehearse(t.Context(), db.URL)
	require.NoError(t, err)
	require.Empty(t, r.Files)
	require.Equal(t, r.Before, r.After)

	r, err = migrate.Rehearse(t.Context(), dbtest.Bare(t).URL)
	require.NoError(t, err)
	require.Len(t, r.Files, len(fileNames(t)))
	require.Zero(t, r.Before["promise"])
}

// command builds functions/migrate, as it is run from a shell.
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

func TestCommand(t *testing.T) {
	t.Parallel()
	db := dbtest.Bare(t)
	makeLegacy(t, db)
	fillLegacy(t, db)
	run := command(t)
	before := everything(t, db)
	out, err := run(db.URL, "-dry-run").Output()
	require.NoError(t, err)
	var rehearsal migrate.Rehearsal
	require.NoError(t, json.Unmarshal(out, &rehearsal), "%s", out)
	require.EqualValues(t, 15, rehearsal.KeysAdded)
	require.Equal(t, before, everything(t, db))

	var stderr bytes.Buffer
	wrong := run(db.URL, "-dryrun")
	wrong.Stderr = &stderr
	require.Error(t, wrong.Run())
	require.Contains(t, stderr.String(), "-dryrun")
	require.Error(t, run(db.URL, "dry-run").Run(), "there are no arguments")
	require.Equal(t, before, everything(t, db), "what is misspelt is not the real thing")

	out, err = run(db.URL).Output()
	require.NoError(t, err)
	var result migrate.Result
	require.NoError(t, json.Unmarshal(out, &result), "%s", out)
	require.Equal(t, fileNames(t), result.Applied)
}

const manyPromises = `
SET session_replication_role = replica; -- spares the foreign keys' checks
INSERT INTO tenant VALUES ('ac000000-0000-0000-0000-000000000000', 'acme');
INSERT INTO workflow_execution SELECT md5(n::TEXT)::UUID, 'ac000000-0000-0000-0000-000000000000' FROM generate_series(0, 999) n;
INSERT INTO promise (id, workflow_execution_id, name, created_by_sequence)
	SELECT w || ':step-' || n, w, 'step-' || n, n / 1000 + 1 FROM (SELECT n, md5((n % 1000)::TEXT)::UUID AS w FROM generate_series(0, 19999) n) s;
INSERT INTO idempotency_key SELECT 'ac000000-0000-0000-0000-000000000000', md5(id), id, NOW() FROM promise;
SET session_replication_role = origin;`

// stage says how far a migration has come, and that it has come there wholly.
func stage(t *testing.T, db *dbtest.DB) string {
	t.Helper()
	files := "0"
	if one[bool](t, db, "SELECT to_regclass('promises_schema_version') IS NOT NULL") {
		files = one[string](t, db, "SELECT COALESCE(MAX(version_id), 0)::TEXT FROM promises_schema_version")
	}
	idType := one[string](t, db, "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'promise'::REGCLASS AND attname = 'id'")
	require.Equal(t, files >= "2", idType == "uuid", "%s files, but promise.id is %s", files, idType)
	require.Equal(t, files >= "3", one[bool](t, db, "SELECT to_regclass('workflow_event') IS NOT NULL"))
	require.Equal(t, 20000, one[int](t, db, "SELECT COUNT(*) FROM promise"))
	require.Equal(t, 20000, one[int](t, db, `SELECT COUNT(*) FROM idempotency_key k JOIN promise p ON p.id = k.promise_id
		WHERE k.key = md5(p.workflow_execution_id || ':' || p.name)`))
	return files
}

// TestKilledMigration kills the migrating process at moments spread over its work: the schema is the old one, whole, or the
// new one, whole, and the next run completes it.
func TestKilledMigration(t *testing.T) {
	t.Parallel()
	run := command(t)
	var stages []string
	for _, after := range []time.Duration{10, 50, 100, 200, 400} {
		db := dbtest.Bare(t)
		makeLegacy(t, db)
		_, err := db.Pool.Exec(t.Context(), manyPromises, pgx.QueryExecModeSimpleProtocol)
		require.NoError(t, err)
		cmd := run(db.URL)
		require.NoError(t, cmd.Start())
		time.Sleep(after * time.Millisecond)
		require.NoError(t, cmd.Process.Kill())
		_ = cmd.Wait()
		require.Eventually(t, func() bool { // the server is still at the last statement
			return one[int](t, db, `SELECT COUNT(*) FROM pg_locks WHERE relation = 'promise'::REGCLASS AND mode = 'AccessExclusiveLock'`) == 0
		}, time.Minute, 10*time.Millisecond)
		stages = append(stages, stage(t, db))
		_, err = migrate.Run(t.Context(), db.URL, nil)
		require.NoError(t, err)
		require.Equal(t, "3", stage(t, db))
	}
	t.Logf("killed after files %v", stages)
	require.Contains(t, strings.Join(stages, ""), "0")
}

// TestServerKilled crashes the server in the middle of the decision.
func TestServerKilled(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "migrate-")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	require.NoError(t, os.Chmod(dir, 0o711)) //nolint:gosec // Postgres runs as another user where root runs the tests
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
	_, err = tx.Exec(t.Context(), "LOCK TABLE workflow_execution IN ROW EXCLUSIVE MODE") // the second file waits, near its end
	require.NoError(t, err)
	migrated := make(chan error, 1)
	go func() {
		_, err := migrate.Run(t.Context(), db.URL, nil)
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
	_ = tx.Rollback(t.Context()) // its connection is gone
	db.Pool.Close()
	_ = server.Stop() // it is down already

	server, db = start()
	require.Equal(t, "1", stage(t, db), "cut off in the second file")
	_, err = migrate.Run(t.Context(), db.URL, nil)
	require.NoError(t, err)
	require.Equal(t, "3", stage(t, db))
	db.Pool.Close()
	require.NoError(t, server.Stop())
}
