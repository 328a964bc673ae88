package repository_test

import (
	"strconv"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/promise"
)

// BenchmarkNotFound settles promises that the caller cannot see: an unknown id, the id of another tenant's promise, both by key,
// and an unknown tenant. Their times must not differ, or a caller could find out which ids exist. It reports each case's time
// divided by the unknown id's.
//
//	go test -run '^$' -bench NotFound -benchtime 20000x ./shared/repository
func BenchmarkNotFound(b *testing.B) {
	r, db := setUp(b)
	db.Tenant(b, "other")
	foreign, err := r.Create(b.Context(), "other", withKey(draft("foreign"), "foreign", time.Hour))
	require.NoError(b, err)
	for i := range 1000 { // so that the planner uses the indexes
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
