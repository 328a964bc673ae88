package repository_test

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/repository"
)

// BenchmarkSettle settles promises through the repository beside the bare UPDATE of one row, which is the limit: eight
// clients each, in turns, in one run. of-limit is the one's operations a second divided by the other's.
//
//	go test -run '^$' -bench Settle -benchtime 40000x ./shared/repository
func BenchmarkSettle(b *testing.B) {
	const clients, turn = 8, 2000
	b.Run("by=id", func(b *testing.B) { benchmarkSettle(b, clients, turn, false) })
	b.Run("by=key", func(b *testing.B) { benchmarkSettle(b, clients, turn, true) })
}

func benchmarkSettle(b *testing.B, clients, turn int, useKey bool) {
	_, db := setUp(b)
	pool := poolWith(b, db.URL, func(c *pgxpool.Config) { c.MaxConns = int32(clients) })
	r := repository.New(pool)
	total := 2 * (b.N + turn)
	db.Exec(b, `INSERT INTO workflow_execution (id, tenant_id, last_sequence_number)
		SELECT md5('w' || n)::UUID, (SELECT id FROM tenant), 1 FROM generate_series(1, $1::INT) n`, total)
	db.Exec(b, `INSERT INTO promise (id, workflow_execution_id, tenant_id, name, created_by_sequence, timeout_at)
		SELECT md5(n::TEXT)::UUID, md5('w' || n)::UUID, (SELECT id FROM tenant), 'payment', 1, NOW() + INTERVAL '1 day'
		FROM generate_series(1, $1::INT) n`, total)
	db.Exec(b, `INSERT INTO idempotency_key (tenant_id, key, promise_id, expires_at)
		SELECT (SELECT id FROM tenant), 'stripe:' || n, md5(n::TEXT)::UUID, NOW() + INTERVAL '1 day'
		FROM generate_series(1, $1::INT) n`, total)
	db.Exec(b, "VACUUM ANALYZE")
	ids := make([]uuid.UUID, total)
	rows, err := pool.Query(b.Context(), "SELECT md5(n::TEXT)::UUID FROM generate_series(1, $1::INT) n", total)
	require.NoError(b, err)
	for i := 0; rows.Next(); i++ {
		require.NoError(b, rows.Scan(&ids[i]))
	}
	require.NoError(b, rows.Err())

	ctx := context.Background()
	value := []byte(`{"status":"paid","amount":4200}`)
	settle := func(n int) error {
		i := promise.ByID(ids[n])
		if useKey {
			i, _ = promise.ByKey("stripe:" + strconv.Itoa(n+1))
		}
		got, err := r.Settle(ctx, tenant, i, resolved(value))
		if err == nil && got.Outcome != promise.OutcomeSettled {
			err = fmt.Errorf("%s", got.Outcome)
		}
		return err
	}
	limit := func(n int) error {
		_, err := pool.Exec(ctx, `UPDATE promise SET resolved = TRUE, outcome = 'resolved', value = $2, resolved_at = NOW(),
			resolved_by_sequence = 2 WHERE id = $1`, ids[n], value)
		return err
	}
	inTurn := func(from, n int, f func(int) error) time.Duration {
		var wg sync.WaitGroup
		start := time.Now()
		for client := range clients {
			wg.Go(func() {
				for i := from + client; i < from+n; i += clients {
					if err := f(i); err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		return time.Since(start)
	}
	inTurn(0, turn, settle) // both sides start with warm connections
	inTurn(turn, turn, limit)
	var ours, theirs time.Duration
	b.ResetTimer()
	for done, next := 0, 2*turn; done < b.N; {
		n := min(turn, b.N-done)
		ours += inTurn(next, n, settle)
		theirs += inTurn(next+n, n, limit)
		done, next = done+n, next+2*n
	}
	b.StopTimer()
	b.ReportMetric(float64(b.N)/ours.Seconds(), "settles/s")
	b.ReportMetric(float64(b.N)/theirs.Seconds(), "limit/s")
	b.ReportMetric(theirs.Seconds()/ours.Seconds(), "of-limit")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkNotFound settles what is not there for the caller, in turns: an id that nobody has, and one of another tenant's
// promise; the same by key, and a tenant that is none. Whoever measures the time must not learn which it was: of-unknown
// is each one's time divided by the unknown id's.
//
//	go test -run '^$' -bench NotFound -benchtime 20000x ./shared/repository
func BenchmarkNotFound(b *testing.B) {
	r, db := setUp(b)
	db.Tenant(b, "other")
	foreign, err := r.Create(b.Context(), "other", withKey(draft("foreign"), "foreign", time.Hour))
	require.NoError(b, err)
	for i := range 1000 { // so that indexes are worth using
		create(b, r, withKey(draft("own"), strconv.Itoa(i), time.Hour))
	}
	db.Exec(b, "VACUUM ANALYZE")
	key := func(k string) promise.Identifier { i, _ := promise.ByKey(k); return i }
	cases := []struct {
		name, tenant string
		promise      promise.Identifier
	}{
		{"unknown", tenant, promise.ByID(uuid.New())},
		{"foreign", tenant, promise.ByID(foreign.Promise.ID)},
		{"unknown-key", tenant, key("unknown")},
		{"foreign-key", tenant, key("foreign")},
		{"unknown-tenant", "nobody", promise.ByID(foreign.Promise.ID)},
	}
	took := make([]time.Duration, len(cases))
	for i := range b.N {
		c := i % len(cases)
		begun := time.Now()
		_, err := r.Settle(b.Context(), cases[c].tenant, cases[c].promise, resolved([]byte("1")))
		took[c] += time.Since(begun)
		require.ErrorIs(b, err, promise.ErrNotFound)
	}
	for c := range cases[1:] {
		b.ReportMetric(float64(took[c+1])/float64(took[0]), cases[c+1].name+"/unknown")
	}
	b.ReportMetric(0, "ns/op")
}
