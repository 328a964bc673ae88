package migrate_test

import (
	"io/fs"
	"slices"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/migrations"
	"github.com/flovyn/promises/shared/dbtest"
	"github.com/flovyn/promises/shared/migrate"
)

// realLocks applies each file in a transaction of its own, as Run does, and returns the strongest lock against writers or readers
// that each one takes on each table that was there before it.
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

// A rehearsal reports the locks of each file as a Run takes them, though its one transaction has those of all files. A file whose
// locks are missing here has them added to lockedBy.
func TestRehearsedLocks(t *testing.T) {
	t.Parallel()
	legacyDB := func() *dbtest.DB {
		db := dbtest.Bare(t)
		makeLegacy(t, db)
		fillLegacy(t, db)
		return db
	}
	want := realLocks(t, legacyDB())
	require.Contains(t, want["00003_event_log.sql"], "promise: AccessExclusiveLock", "as 00002 does")
	require.Empty(t, want["00007_promise_settle.sql"])

	for _, from := range []int{0, 1, 3, 5, 8} { // files that were applied before
		db := legacyDB()
		first := fstest.MapFS{}
		for _, file := range fileNames(t)[:from] {
			text, err := fs.ReadFile(migrations.FS, file)
			require.NoError(t, err)
			first[file] = &fstest.MapFile{Data: text}
		}
		if from > 0 {
			_, err := migrate.RunFiles(t.Context(), config(t, db.URL), first, migrate.Options{})
			require.NoError(t, err)
		}
		r, err := migrate.Rehearse(t.Context(), config(t, db.URL))
		require.NoError(t, err)
		require.Empty(t, r.Refused)
		require.Len(t, r.Files, len(fileNames(t))-from)
		for _, step := range r.Files {
			require.Equal(t, want[step.File], step.Locks, "%s, rehearsed after %d files", step.File, from)
		}
	}
}
