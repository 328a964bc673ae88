package repository_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/repository"
)

// A tenant's calls are counted up to its bound over all processes, and another tenant's apart from them.
func TestWaitsAreBoundedOverProcesses(t *testing.T) {
	t.Parallel()
	_, db := setUp(t)
	db.Tenant(t, "other")
	var processes []*repository.Repository
	for range 3 {
		processes = append(processes, repository.New(poolWith(t, db.URL, func(c *pgxpool.Config) { c.MaxConns = 2 })))
	}
	begin := func(process int, slug string, limit int) (uuid.UUID, bool) {
		id := uuid.New()
		counted, err := processes[process].BeginWait(t.Context(), slug, id, time.Minute, limit)
		require.NoError(t, err)
		return id, counted
	}
	var ids []uuid.UUID
	for n := range 5 {
		id, counted := begin(n%3, tenant, 5)
		require.True(t, counted)
		ids = append(ids, id)
	}
	for process := range processes {
		_, counted := begin(process, tenant, 5)
		require.False(t, counted)
	}
	_, counted := begin(0, "other", 5)
	require.True(t, counted)
	_, counted = begin(0, "nobody", 5)
	require.False(t, counted)

	require.NoError(t, processes[2].EndWait(t.Context(), "other", ids[0]), "another tenant's call is none of its")
	_, counted = begin(0, tenant, 5)
	require.False(t, counted)
	require.NoError(t, processes[2].EndWait(t.Context(), tenant, ids[0]))
	require.NoError(t, processes[2].EndWait(t.Context(), tenant, ids[0]), "again is a no-op")
	_, counted = begin(1, tenant, 5)
	require.True(t, counted)

	// Calls that began at the same time: more are counted than may wait, and exactly as many as may wait on.
	_, err := processes[0].KeepWait(t.Context(), "nobody", uuid.New(), 5)
	require.ErrorIs(t, err, promise.ErrNotFound)
	var burst []uuid.UUID
	for range 20 {
		id := uuid.New()
		db.Exec(t, "INSERT INTO tenant_wait SELECT id, $1::UUID, NOW() + INTERVAL '1 minute' FROM tenant WHERE slug = 'other'", id.String())
		burst = append(burst, id)
	}
	kept := 0
	for n, id := range burst {
		ok, err := processes[n%3].KeepWait(t.Context(), "other", id, 5)
		require.NoError(t, err)
		if ok {
			kept++
		}
	}
	require.LessOrEqual(t, kept, 5)
	require.GreaterOrEqual(t, kept, 4, "the fifth may be the call that was counted before")

	for limit, want := range map[string]bool{"7": true, "6": false, "0": false} {
		db.Exec(t, "UPDATE tenant SET max_waits = $1::TEXT::INT WHERE slug = $2", limit, tenant)
		id, counted := begin(0, tenant, 5)
		require.Equal(t, want || limit == "6", counted, "the tenant's own limit is %s", limit)
		if counted {
			require.NoError(t, processes[0].EndWait(t.Context(), tenant, id))
		}
	}
}

// The call of a killed process counts until it expires. Then any tenant's next call deletes it, 100 of them at most, and passes over
// those that another transaction has locked.
func TestWaitsOfKilledProcessesExpire(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	db.Tenant(t, "other")
	begin := func(slug string, limit int) bool {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		counted, err := r.BeginWait(ctx, slug, uuid.New(), time.Minute, limit)
		require.NoError(t, err)
		return counted
	}
	for range 150 {
		require.True(t, begin(tenant, 150))
	}
	require.False(t, begin(tenant, 150))
	db.Exec(t, "UPDATE tenant_wait SET expires_at = NOW()") // their processes were killed
	require.True(t, begin("other", 1))
	require.Equal(t, 51, count(t, db, "SELECT COUNT(*) FROM tenant_wait"), "100 were deleted, 50 are left")

	tx, err := db.Pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), "SELECT FROM tenant_wait FOR UPDATE")
	require.NoError(t, err)
	require.True(t, begin(tenant, 1), "expired calls are not counted, deleted or not")
	require.Equal(t, 52, count(t, db, "SELECT COUNT(*) FROM tenant_wait"))
	require.NoError(t, tx.Rollback(t.Context()))
	require.False(t, begin(tenant, 1))
	require.Equal(t, 2, count(t, db, "SELECT COUNT(*) FROM tenant_wait"))
}

// A row of a call that waits is written to no log and locks no row of the tenant.
func TestWaitsAreCheap(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	require.Equal(t, 2, count(t, db, `SELECT COUNT(*) FROM pg_class
		WHERE relnamespace = current_schema()::REGNAMESPACE AND relname IN ('tenant_wait', 'idx_tenant_wait_expires') AND relpersistence = 'u'`))
	tx, err := db.Pool.Begin(t.Context())
	require.NoError(t, err)
	defer tx.Rollback(context.WithoutCancel(t.Context())) //nolint:errcheck // nothing was written
	_, err = tx.Exec(t.Context(), "SELECT FROM tenant FOR UPDATE")
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	id := uuid.New()
	counted, err := r.BeginWait(ctx, tenant, id, time.Minute, 1)
	require.NoError(t, err)
	require.True(t, counted)
	require.NoError(t, r.EndWait(ctx, tenant, id))
}

// A database that takes no writes counts nothing, and says so.
func TestWaitsOfAReadOnlyDatabase(t *testing.T) {
	t.Parallel()
	_, db := setUp(t)
	r := repository.New(poolWith(t, db.URL, func(c *pgxpool.Config) {
		c.ConnConfig.RuntimeParams["default_transaction_read_only"] = "on"
	}))
	_, err := r.BeginWait(t.Context(), tenant, uuid.New(), time.Minute, 1)
	requireCode(t, promise.CodeUnavailable, err)
	requireCode(t, promise.CodeUnavailable, r.EndWait(t.Context(), tenant, uuid.New()))
}
