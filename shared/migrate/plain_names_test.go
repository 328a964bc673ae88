package migrate_test

import (
	"context"
	"io/fs"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/migrations"
	"github.com/flovyn/promises/shared/dbtest"
	"github.com/flovyn/promises/shared/migrate"
)

// 00018 renames the type that promise_settle returns. A settlement of the previous release that waits for a lock meanwhile casts its
// result to the type's former name only afterwards.
func TestPlainNames(t *testing.T) {
	t.Parallel()
	db := dbtest.Bare(t)
	_, err := migrate.RunFiles(t.Context(), config(t, db.URL), filesBefore(t, "00018"), migrate.Options{})
	require.NoError(t, err)
	db.Tenant(t, "acme")
	conn, err := pgx.Connect(t.Context(), db.URL)
	require.NoError(t, err)
	defer conn.Close(context.Background()) //nolint:errcheck // the test has ended
	rows, _ := conn.Query(t.Context(), previousSQL(t, "create_with_external_id"), "acme", uuid.NewString(), nil, "payment", "key", time.Hour,
		nil, nil, nil, nil, nil, nil, false)
	created, err := pgx.CollectExactlyOneRow(rows, pgx.RowToMap)
	require.NoError(t, err)
	settleSQL := previousSQL(t, "settle")
	settle := func(t *testing.T) (map[string]any, error) {
		rows, _ := conn.Query(t.Context(), settleSQL, "acme", created["id"], nil, "resolved", []byte("1"), nil, "direct", nil, nil)
		return pgx.CollectExactlyOneRow(rows, pgx.RowToMap)
	}
	attributes := func(t *testing.T) []string {
		t.Helper()
		return lines(t, db, `SELECT oid::REGPROCEDURE || ' ' || (oid, proowner, proacl, provolatile, proparallel, proisstrict, prosecdef,
				proleakproof, proconfig, procost, prorows, proargnames, proargdefaults IS NULL, prorettype::OID)::TEXT
			FROM pg_proc WHERE pronamespace = current_schema()::REGNAMESPACE ORDER BY 1`)
	}
	want := attributes(t)

	locker, err := db.Pool.Begin(t.Context())
	require.NoError(t, err)
	defer locker.Rollback(context.Background()) //nolint:errcheck // rolled back below, unless the test fails
	_, err = locker.Exec(t.Context(), "SELECT FROM workflow_execution FOR UPDATE")
	require.NoError(t, err)
	type answer struct {
		row map[string]any
		err error
	}
	pid, waiting := conn.PgConn().PID(), make(chan answer, 1)
	go func() {
		row, err := settle(t)
		waiting <- answer{row, err}
	}()
	require.Eventually(t, func() bool {
		return one[bool](t, db, "SELECT COALESCE(wait_event_type = 'Lock', FALSE) FROM pg_stat_activity WHERE pid = $1", pid)
	}, time.Minute, time.Millisecond)
	file, err := fs.ReadFile(migrations.FS, "00018_plain_names.sql")
	require.NoError(t, err)
	db.Exec(t, string(file), pgx.QueryExecModeSimpleProtocol)
	require.NoError(t, locker.Rollback(t.Context()))
	first := <-waiting

	t.Run("a settlement that waits for a lock meanwhile succeeds", func(t *testing.T) {
		require.NoError(t, first.err)
		require.Equal(t, true, first.row["settled"])
	})
	t.Run("its connection keeps using the statement that it has prepared", func(t *testing.T) {
		row, err := settle(t)
		require.NoError(t, err)
		require.Equal(t, false, row["settled"])
		require.Equal(t, true, row["same"])
	})
	t.Run("each function keeps its owner, grants, arguments and settings", func(t *testing.T) {
		require.Equal(t, want, attributes(t))
	})
	t.Run("the type has its new name", func(t *testing.T) {
		require.Equal(t, "settle_result", one[string](t, db, "SELECT prorettype::REGTYPE::TEXT FROM pg_proc WHERE oid = 'promise_settle'::REGPROC"))
	})
}
