package migrate_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/migrations"
	"github.com/flovyn/promises/shared/dbtest"
	"github.com/flovyn/promises/shared/migrate"
)

// realLocks applies each file in its own transaction, as Run does. For each file it returns the strongest lock that blocks writers or
// readers, on each table that existed before the file.
func realLocks(t *testing.T, db *dbtest.DB) map[string][]string {
	t.Helper()
	locks := map[string][]string{}
	for _, file := range fileNames(t) {
		text, err := migrations.FS.ReadFile(file)
		require.NoError(t, err)
		tx, err := db.Pool.Begin(t.Context())
		require.NoError(t, err)
		_, err = tx.Exec(t.Context(), "CREATE TEMPORARY TABLE there ON COMMIT DROP AS SELECT oid, relname FROM pg_class WHERE relkind = 'r' AND relnamespace = current_schema()::REGNAMESPACE")
		require.NoError(t, err)
		_, err = tx.Conn().PgConn().Exec(t.Context(), string(text)).ReadAll()
		require.NoError(t, err, file)
		rows, err := tx.Query(t.Context(), `
			SELECT DISTINCT ON (there.oid) there.relname || ': ' || mode
			FROM pg_locks JOIN there ON there.oid = relation
			JOIN (VALUES ('ShareLock', 1), ('ShareRowExclusiveLock', 2), ('ExclusiveLock', 3), ('AccessExclusiveLock', 4)) strong (mode, rank) USING (mode)
			WHERE pid = pg_backend_pid() ORDER BY there.oid, rank DESC`)
		require.NoError(t, err)
		taken := []string{}
		for rows.Next() {
			var one string
			require.NoError(t, rows.Scan(&one))
			taken = append(taken, one)
		}
		require.NoError(t, rows.Err())
		slices.Sort(taken)
		require.NoError(t, tx.Commit(t.Context()))
		locks[file] = taken
	}
	return locks
}

// A rehearsal reports for each file the locks that a Run takes, although its transaction keeps the locks of all files. If this test
// misses a lock of a new file, add the lock to lockedBy.
func TestRehearsedLocks(t *testing.T) {
	t.Parallel()
	want := realLocks(t, legacyDB(t))
	require.Contains(t, want["00003_event_log.sql"], "promise: AccessExclusiveLock", "00002 takes the same lock")
	require.Empty(t, want["00007_promise_settle.sql"])

	for _, from := range []int{0, 1, 3, 5, 8} {
		t.Run(fmt.Sprintf("after %d files", from), func(t *testing.T) {
			t.Parallel()
			db := legacyDB(t)
			if from > 0 {
				_, err := migrate.RunFiles(t.Context(), config(t, db.URL), filesBefore(t, fileNames(t)[from]), migrate.Options{})
				require.NoError(t, err)
			}
			r, err := migrate.Rehearse(t.Context(), config(t, db.URL))
			require.NoError(t, err)
			require.Empty(t, r.Refused)
			require.Len(t, r.Files, len(fileNames(t))-from)
			for _, step := range r.Files {
				require.Equal(t, want[step.File], step.Locks, step.File)
			}
		})
	}
}
