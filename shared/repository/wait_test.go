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

// All processes together count a tenant's waiting calls up to its limit. Each tenant has a count of its own.
func TestWaitsAreBoundedOverProcesses(t *testing.T) {
	t.Parallel()
	_, db := setUp(t)
	db.Tenant(t, "other")
	var processes []*repository.Repository
	for range 3 {
		processes = append(processes, repository.New(poolWith(t, db.URL, func(c *pgxpool.Config) { c.MaxConns = 2 })))
	}
	begin := func(t *testing.T, process int, slug string, limit int) (uuid.UUID, bool) {
		id := uuid.New()
		counted, err := processes[process].BeginWait(t.Context(), slug, id, time.Minute, limit)
		require.NoError(t, err)
		return id, counted
	}
	var ids []uuid.UUID
	t.Run("calls are counted up to the limit", func(t *testing.T) {
		for n := range 5 {
			id, counted := begin(t, n%3, tenant, 5)
			require.True(t, counted)
			ids = append(ids, id)
		}
		for process := range processes {
			_, counted := begin(t, process, tenant, 5)
			require.False(t, counted)
		}
	})
	t.Run("another tenant's call is counted separately", func(t *testing.T) {
		_, counted := begin(t, 0, "other", 5)
		require.True(t, counted)
	})
	t.Run("an unknown tenant's call is not counted", func(t *testing.T) {
		_, counted := begin(t, 0, "nobody", 5)
		require.False(t, counted)
	})
	t.Run("a tenant cannot end another tenant's call", func(t *testing.T) {
		require.NoError(t, processes[2].EndWait(t.Context(), "other", ids[0]))
		_, counted := begin(t, 0, tenant, 5)
		require.False(t, counted)
	})
	t.Run("a call that ended, in another process, makes room for one", func(t *testing.T) {
		require.NoError(t, processes[2].EndWait(t.Context(), tenant, ids[0]))
		require.NoError(t, processes[2].EndWait(t.Context(), tenant, ids[0]), "a second call changes nothing")
		_, counted := begin(t, 1, tenant, 5)
		require.True(t, counted)
	})
	t.Run("an unknown tenant's call cannot go on waiting", func(t *testing.T) {
		_, err := processes[0].KeepWait(t.Context(), "nobody", uuid.New(), 5)
		require.ErrorIs(t, err, promise.ErrNotFound)
	})
	t.Run("of concurrent calls only as many go on waiting as the limit allows", func(t *testing.T) {
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
	})

	for limit, want := range map[string]bool{"7": true, "6": true, "0": false} { // five calls wait
		t.Run("with a tenant's own limit of "+limit, func(t *testing.T) {
			db.Exec(t, "UPDATE tenant SET max_waits = $1::TEXT::INT WHERE slug = $2", limit, tenant)
			id, counted := begin(t, 0, tenant, 5)
			require.Equal(t, want, counted)
			if counted {
				require.NoError(t, processes[0].EndWait(t.Context(), tenant, id))
			}
		})
	}
}

// The call of a killed process counts until it expires. Then the next call of any tenant deletes at most 100 expired calls, and skips
// locked rows.
func TestWaitsOfKilledProcessesExpire(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	db.Tenant(t, "other")
	begin := func(t *testing.T, slug string, limit int) bool {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		counted, err := r.BeginWait(ctx, slug, uuid.New(), time.Minute, limit)
		require.NoError(t, err)
		return counted
	}
	for range 150 {
		require.True(t, begin(t, tenant, 150))
	}
	t.Run("a call counts until it expires", func(t *testing.T) { require.False(t, begin(t, tenant, 150)) })
	db.Exec(t, "UPDATE tenant_wait SET expires_at = NOW()") // as if their processes had been killed
	t.Run("any tenant's next call deletes 100 of 150", func(t *testing.T) {
		require.True(t, begin(t, "other", 1))
		require.Equal(t, 51, count(t, db, "SELECT COUNT(*) FROM tenant_wait"))
	})
	t.Run("locked rows are skipped, and do not count", func(t *testing.T) {
		tx, err := db.Pool.Begin(t.Context())
		require.NoError(t, err)
		_, err = tx.Exec(t.Context(), "SELECT FROM tenant_wait FOR UPDATE")
		require.NoError(t, err)
		require.True(t, begin(t, tenant, 1))
		require.Equal(t, 52, count(t, db, "SELECT COUNT(*) FROM tenant_wait"))
		require.NoError(t, tx.Rollback(t.Context()))
	})
	t.Run("the call after that deletes the rest", func(t *testing.T) {
		require.False(t, begin(t, tenant, 1))
		require.Equal(t, 2, count(t, db, "SELECT COUNT(*) FROM tenant_wait"))
	})
}

// The rows of waiting calls are not written to the write-ahead log. BeginWait and EndWait do not lock the tenant's row.
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

// On a read-only database BeginWait and EndWait fail with CodeUnavailable.
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
