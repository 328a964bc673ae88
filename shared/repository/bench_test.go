package repository_test

import (
	"strconv"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/promise"
)

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
	key := func(k string) promise.Identifier { i, _ := promise.ByIdempotencyKey(k); return i }
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
