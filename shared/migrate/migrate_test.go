package migrate_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/migrations"
	"github.com/flovyn/promises/shared/dbtest"
	"github.com/flovyn/promises/shared/migrate"
)

// lastVersion returns the number of the last file.
func lastVersion(t *testing.T) int {
	t.Helper()
	names := fileNames(t)
	number, err := strconv.Atoi(names[len(names)-1][:5])
	require.NoError(t, err)
	return number
}

func TestRun(t *testing.T) {
	t.Parallel()
	db := dbtest.Bare(t)
	var log bytes.Buffer
	first, err := migrate.Run(t.Context(), config(t, db.URL), migrate.Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
	require.NoError(t, err)
	require.Equal(t, fileNames(t), first.Applied)
	require.EqualValues(t, lastVersion(t), first.Version)
	t.Run("logs each file", func(t *testing.T) {
		for _, name := range first.Applied {
			require.Contains(t, log.String(), name)
		}
	})
	t.Run("promises have UUIDs", func(t *testing.T) {
		require.Equal(t, "uuid", one[string](t, db,
			`SELECT data_type::text FROM information_schema.columns
			 WHERE table_schema = current_schema() AND table_name = 'promise' AND column_name = 'id'`))
	})
	t.Run("the history is in the same schema", func(t *testing.T) {
		require.Equal(t, one[string](t, db, "SELECT current_schema()::text"), one[string](t, db,
			"SELECT relnamespace::regnamespace::text FROM pg_class WHERE oid = 'promises_schema_version'::regclass"))
	})
	t.Run("a repeated run does nothing", func(t *testing.T) {
		again, err := migrate.Run(t.Context(), config(t, db.URL), migrate.Options{})
		require.NoError(t, err)
		require.Equal(t, migrate.Result{Version: first.Version, Applied: []string{}}, again)
		text, err := json.Marshal(again)
		require.NoError(t, err)
		require.Contains(t, string(text), `"applied":[]`)
	})
}

// One of several concurrent runs applies the files, and the others find nothing to do.
func TestRunAtOnce(t *testing.T) {
	t.Parallel()
	db := dbtest.Bare(t)
	const calls = 8
	results := make([]migrate.Result, calls)
	errs := make([]error, calls)
	var wg sync.WaitGroup
	for i := range calls {
		wg.Go(func() { results[i], errs[i] = migrate.Run(t.Context(), config(t, db.URL), migrate.Options{}) })
	}
	wg.Wait()
	var applied []string
	for i := range calls {
		require.NoError(t, errs[i])
		require.EqualValues(t, lastVersion(t), results[i].Version)
		applied = append(applied, results[i].Applied...)
	}
	require.Equal(t, fileNames(t), applied)
	require.EqualValues(t, len(applied)+1, one[int64](t, db, "SELECT COUNT(*) FROM promises_schema_version"), "goose adds a first row of its own")
}

func TestSchemasDoNotWait(t *testing.T) {
	t.Parallel()
	slow, other := dbtest.Bare(t), dbtest.Bare(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done, slowConfig := make(chan error, 1), config(t, slow.URL)
	go func() {
		_, err := migrate.RunFiles(ctx, slowConfig, fstest.MapFS{
			"00001_slow.sql": {Data: []byte("-- +goose Up\nSELECT pg_sleep(3600);\n")},
		}, migrate.Options{})
		done <- err
	}()
	asleep := func() bool {
		return one[bool](t, other, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep')")
	}
	require.Eventually(t, asleep, time.Minute, 5*time.Millisecond)
	t.Run("a run in another schema does not wait", func(t *testing.T) {
		_, err := migrate.Run(t.Context(), config(t, other.URL), migrate.Options{})
		require.NoError(t, err)
	})
	t.Run("a run in the same schema waits until the first has ended", func(t *testing.T) {
		second := make(chan error, 1)
		go func() {
			_, err := migrate.Run(t.Context(), slowConfig, migrate.Options{})
			second <- err
		}()
		require.Eventually(t, func() bool {
			return one[bool](t, other, "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)")
		}, time.Minute, 5*time.Millisecond)
		cancel()
		require.ErrorIs(t, <-done, context.Canceled)
		require.NoError(t, <-second)
	})
}

// A run whose context ends while it waits for the lock changes nothing.
func TestCancelledWhileWaiting(t *testing.T) {
	t.Parallel()
	db := dbtest.Bare(t)
	holder, err := pgx.Connect(t.Context(), db.URL)
	require.NoError(t, err)
	defer func() { require.NoError(t, holder.Close(context.Background())) }()
	_, err = holder.Exec(t.Context(),
		"SELECT pg_advisory_lock(hashtextextended('github.com/flovyn/promises/shared/migrate:' || current_schema(), 0))")
	require.NoError(t, err)

	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	result, err := migrate.Run(ctx, config(t, db.URL), migrate.Options{})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Empty(t, result.Applied)
	require.False(t, one[bool](t, db, "SELECT to_regclass('tenant') IS NOT NULL"))
}

func TestFailingFile(t *testing.T) {
	t.Parallel()
	db := dbtest.Bare(t)
	files := fstest.MapFS{
		"00001_good.sql": {Data: []byte("-- +goose Up\nCREATE TABLE good ();\n")},
		"00002_bad.sql":  {Data: []byte("-- +goose Up\nCREATE TABLE half ();\nSELECT 1 / 0;\n")},
		"00003_next.sql": {Data: []byte("-- +goose Up\nCREATE TABLE next ();\n")},
	}
	result, err := migrate.RunFiles(t.Context(), config(t, db.URL), files, migrate.Options{})
	t.Run("the error and the result name the files", func(t *testing.T) {
		require.ErrorContains(t, err, "migrate: 00002_bad.sql: ERROR: division by zero")
		require.Equal(t, migrate.Result{Version: 1, Applied: []string{"00001_good.sql"}}, result)
	})
	t.Run("only the files before it have an effect", func(t *testing.T) {
		require.True(t, one[bool](t, db, "SELECT to_regclass('good') IS NOT NULL"))
		require.False(t, one[bool](t, db, "SELECT to_regclass('half') IS NOT NULL"))
		require.False(t, one[bool](t, db, "SELECT to_regclass('next') IS NOT NULL"))
	})
	t.Run("the next run starts with it", func(t *testing.T) {
		files["00002_bad.sql"] = &fstest.MapFile{Data: []byte("-- +goose Up\nCREATE TABLE half ();\n")}
		result, err := migrate.RunFiles(t.Context(), config(t, db.URL), files, migrate.Options{})
		require.NoError(t, err)
		require.Equal(t, migrate.Result{Version: 3, Applied: []string{"00002_bad.sql", "00003_next.sql"}}, result)
	})
}

// Functions of the previous releases run while 00009, 00010 and 00011 are applied. Their calls succeed, and their connections
// continue with the statements that they prepared.
func TestCallsOfThePreviousRelease(t *testing.T) {
	t.Parallel()
	for _, first := range []string{"00009", "00010", "00011"} {
		t.Run(first, func(t *testing.T) {
			t.Parallel()
			callsOfThePreviousRelease(t, first)
		})
	}
}

func callsOfThePreviousRelease(t *testing.T, first string) {
	t.Helper()
	db := dbtest.Bare(t)
	_, err := migrate.RunFiles(t.Context(), config(t, db.URL), filesBefore(t, first), migrate.Options{})
	require.NoError(t, err)
	db.Tenant(t, "acme")
	conn, err := pgx.Connect(t.Context(), db.URL)
	require.NoError(t, err)
	pid := conn.PgConn().PID()
	var call sync.WaitGroup
	defer func() {
		call.Wait()
		require.NoError(t, conn.Close(context.Background()))
	}()
	create := func(t *testing.T, key string) (id string) {
		t.Helper()
		rows, err := conn.Query(t.Context(), previousSQL(t, "create"), "acme", uuid.NewString(), "payment", key, time.Hour, nil, nil, nil,
			nil, nil, nil, false)
		require.NoError(t, err)
		made, err := pgx.CollectExactlyOneRow(rows, pgx.RowToMap)
		require.NoError(t, err)
		require.Equal(t, "created", made["found"])
		return uuid.UUID(made["id"].([16]byte)).String()
	}
	settleSQL := previousSQL(t, "settle")
	settle := func(t *testing.T, id, key any) (settled any, err error) {
		rows, _ := conn.Query(t.Context(), settleSQL, "acme", id, key, "resolved", []byte("1"), nil, "direct", nil, nil)
		got, err := pgx.CollectExactlyOneRow(rows, pgx.RowToMap)
		return got["settled"], err
	}
	// calls creates and settles a promise through the connection.
	calls := func(when string) {
		t.Helper()
		t.Run("calls "+when, func(t *testing.T) {
			id := create(t, when)
			settled, err := settle(t, nil, when)
			require.NoError(t, err)
			require.Equal(t, true, settled)
			settled, err = settle(t, id, nil)
			require.NoError(t, err)
			require.Equal(t, false, settled)
			_, err = settle(t, uuid.NewString(), nil)
			require.ErrorIs(t, err, pgx.ErrNoRows)
		})
	}
	// meanwhile starts the call f, runs others once the call waits for a lock, and waits for the call's end.
	meanwhile := func(f func() error, others func()) {
		done := make(chan error, 1)
		call.Go(func() { done <- f() })
		require.Eventually(t, func() bool {
			return one[bool](t, db, "SELECT COALESCE(wait_event_type = 'Lock', FALSE) FROM pg_stat_activity WHERE pid = $1", pid)
		}, time.Minute, time.Millisecond)
		others()
		require.NoError(t, <-done)
	}

	calls("before " + first)
	waits := create(t, "waits")
	tx, err := db.Pool.Begin(t.Context())
	require.NoError(t, err)
	defer tx.Rollback(context.Background()) //nolint:errcheck // the test rolls it back itself, unless it fails
	_, err = tx.Exec(t.Context(), "SELECT FROM workflow_execution WHERE id = (SELECT workflow_execution_id FROM promise WHERE id = $1) FOR UPDATE", waits)
	require.NoError(t, err)
	meanwhile(func() error {
		settled, err := settle(t, waits, nil)
		if err == nil && settled != true {
			err = errors.New("the call did not settle the promise")
		}
		return err
	}, func() { // files that lock no table do not wait for the call
		_, err = migrate.RunFiles(t.Context(), config(t, db.URL), filesBefore(t, "00011"), migrate.Options{})
		require.NoError(t, err)
		require.NoError(t, tx.Rollback(t.Context()))
	})
	calls("after the files before 00011")

	// A call that begins while 00011 has its locks continues after they are released.
	tx, err = db.Pool.Begin(t.Context())
	require.NoError(t, err)
	defer tx.Rollback(context.Background()) //nolint:errcheck // the same
	file, err := fs.ReadFile(migrations.FS, "00011_expired_keys_and_external_ids.sql")
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), string(file), pgx.QueryExecModeSimpleProtocol)
	require.NoError(t, err)
	meanwhile(func() error {
		create(t, "waits for 00011")
		return nil
	}, func() { require.NoError(t, tx.Commit(t.Context())) })
	settled, err := settle(t, nil, "waits for 00011")
	require.NoError(t, err)
	require.Equal(t, true, settled)
	calls("after 00011")
	for _, name := range []string{
		"00012_revoke_tokens.sql", "00013_deadlines_and_lists.sql", "00014_limits.sql", "00015_waits.sql", "00016_final_promises.sql",
		"00017_signing_keys.sql", "00018_plain_names.sql",
	} {
		file, err := fs.ReadFile(migrations.FS, name)
		require.NoError(t, err)
		db.Exec(t, string(file), pgx.QueryExecModeSimpleProtocol)
		calls("after " + name)
	}
}

// The previous release's functions create and settle after each file with their old grants. A run sets the new grants after the last
// file, and not at all if a file fails.
func TestThePreviousReleaseMayCreateAfterEachFile(t *testing.T) {
	t.Parallel()
	db := dbtest.Bare(t)
	_, err := migrate.RunFiles(t.Context(), config(t, db.URL), filesBefore(t, "00013"), migrate.Options{})
	require.NoError(t, err)
	db.Tenant(t, "acme")
	db.Exec(t, `DO $$
	BEGIN
		BEGIN
			CREATE ROLE promises_app;
		EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; -- all databases of the server share the roles
		END;
		EXECUTE format('GRANT USAGE ON SCHEMA %I TO promises_app', current_schema());
		GRANT SELECT ON tenant, workflow_execution, promise, idempotency_key, workflow_event, workflow_event_row, api_key TO promises_app;
		GRANT INSERT ON workflow_execution, promise, idempotency_key, workflow_event, workflow_event_row TO promises_app;
		GRANT UPDATE (last_sequence_number, external_id) ON workflow_execution TO promises_app;
		GRANT UPDATE (
			resolved, outcome, value, error, resolved_at, resolved_by_sequence, settled_by_kind, settled_by_id, comment,
			timeout_at, timeout_outcome, timeout_value, timeout_error, tokens_revoked_at
		) ON promise TO promises_app;
		GRANT UPDATE ON idempotency_key TO promises_app;
	END $$`)
	workflow := uuid.NewString()
	calls := func(file string) {
		t.Helper()
		t.Run("after "+file, func(t *testing.T) {
			conn, err := pgx.Connect(t.Context(), db.URL)
			require.NoError(t, err)
			defer conn.Close(context.Background()) //nolint:errcheck // it has no open transaction
			_, err = conn.Exec(t.Context(), "SET ROLE promises_app")
			require.NoError(t, err)
			for _, at := range []string{workflow, uuid.NewString()} {
				rows, _ := conn.Query(t.Context(), previousSQL(t, "create_with_external_id"), "acme", at, nil, file, file+at, time.Hour, nil, nil, nil, nil, nil, nil, false)
				made, err := pgx.CollectExactlyOneRow(rows, pgx.RowToMap)
				require.NoError(t, err)
				require.Equal(t, "created", made["found"])
				rows, _ = conn.Query(t.Context(), previousSQL(t, "settle"), "acme", nil, file+at, "resolved", []byte("1"), nil, "direct", nil, nil)
				settled, err := pgx.CollectExactlyOneRow(rows, pgx.RowToMap)
				require.NoError(t, err)
				require.Equal(t, true, settled["settled"])
			}
		})
	}
	calls("00012")
	for _, name := range []string{
		"00013_deadlines_and_lists.sql", "00014_limits.sql", "00015_waits.sql", "00016_final_promises.sql", "00017_signing_keys.sql",
		"00018_plain_names.sql",
	} {
		file, err := fs.ReadFile(migrations.FS, name)
		require.NoError(t, err)
		db.Exec(t, string(file), pgx.QueryExecModeSimpleProtocol)
		calls(name)
	}
}

// After 00014 the create of the release before it works with the statement that it prepared before. If a limit refuses the create, the
// error's class is one that the previous release answers with 503, and nothing is written.
func TestTheCreateOfThePreviousReleaseMeetsALimit(t *testing.T) {
	t.Parallel()
	db := dbtest.Bare(t)
	_, err := migrate.RunFiles(t.Context(), config(t, db.URL), filesBefore(t, "00013"), migrate.Options{})
	require.NoError(t, err)
	db.Tenant(t, "acme")
	conn, err := pgx.Connect(t.Context(), db.URL)
	require.NoError(t, err)
	defer conn.Close(context.Background()) //nolint:errcheck // the test has ended
	workflow := uuid.NewString()
	create := func(t *testing.T, name string) (found any, err error) {
		t.Helper()
		rows, _ := conn.Query(t.Context(), previousSQL(t, "create_with_external_id"), "acme", workflow, nil, name, nil, nil, nil, nil, nil,
			nil, nil, nil, false)
		made, err := pgx.CollectExactlyOneRow(rows, pgx.RowToMap)
		return made["found"], err
	}
	found, err := create(t, "a")
	require.NoError(t, err)
	require.Equal(t, "created", found)
	_, err = migrate.RunFiles(t.Context(), config(t, db.URL), filesBefore(t, "00019"), migrate.Options{})
	require.NoError(t, err)
	t.Run("below the limit it creates", func(t *testing.T) {
		found, err := create(t, "b")
		require.NoError(t, err)
		require.Equal(t, "created", found)
	})
	db.Exec(t, "UPDATE tenant SET max_workflow_promises = 2")
	t.Run("at the limit it finds an existing promise", func(t *testing.T) {
		found, err := create(t, "b")
		require.NoError(t, err)
		require.Equal(t, "existing", found)
	})
	for limit, sql := range map[string]string{
		"the workflow's promises":       "UPDATE tenant SET pending_full = FALSE, max_workflow_promises = 2",
		"the tenant's pending promises": "UPDATE tenant SET max_workflow_promises = NULL, pending_full = TRUE",
	} {
		t.Run("it is refused by the limit of "+limit, func(t *testing.T) {
			db.Exec(t, sql)
			_, err := create(t, "c")
			var pg *pgconn.PgError
			require.ErrorAs(t, err, &pg)
			require.Equal(t, "53Q00", pg.Code)
		})
	}
	require.Equal(t, 2, one[int](t, db, "SELECT COUNT(*)::INT FROM promise"))
}

// previousSQL returns a statement of a previous release. Those in a folder are of the release before that file, and the others work on each
// schema before 00019.
func previousSQL(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "before", name+".sql"))
	require.NoError(t, err)
	return string(text)
}

func TestErrorsContainNoPassword(t *testing.T) {
	t.Parallel()
	db := dbtest.Bare(t)
	wrong := "s3cret"
	if right := db.Pool.Config().ConnConfig.Password; right != "" {
		wrong = strings.ReplaceAll(db.URL, right, "s3cret")
	}
	for name, databaseURL := range map[string]string{
		"wrong password": wrong,
		"no server":      "postgres://u:s3cret@127.0.0.1:1/x",
	} {
		t.Run(name, func(t *testing.T) {
			_, err := migrate.Run(t.Context(), config(t, databaseURL), migrate.Options{})
			require.Error(t, err)
			require.NotContains(t, err.Error(), "s3cret")
		})
	}
}

func TestSchemaMustExist(t *testing.T) {
	t.Parallel()
	db := dbtest.Bare(t)
	nowhere := strings.ReplaceAll(db.URL, one[string](t, db, "SELECT current_schema()::text"), "nowhere")
	_, err := migrate.Run(t.Context(), config(t, nowhere), migrate.Options{})
	require.ErrorContains(t, err, "search_path names no existing schema")
}
