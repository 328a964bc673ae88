package sweep_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/sweep"
)

// BenchmarkExpire records 100,000 deadlines that have passed, in 10,000 workflow executions.
//
//	go test -run '^$' -bench Expire -benchtime 1x ./shared/sweep
func BenchmarkExpire(b *testing.B) {
	const due, workflows = 100_000, 10_000
	for range b.N {
		b.StopTimer()
		s := setUp(b)
		s.due(b, due, workflows)
		s.Exec(b, "VACUUM ANALYZE")
		b.StartTimer()
		report, err := s.sweeper.Once(b.Context())
		require.NoError(b, err)
		require.Equal(b, sweep.Report{Expired: due}, report)
	}
	b.ReportMetric(b.Elapsed().Seconds()/float64(b.N), "s/100k")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkDeleteSettled deletes 100,000 promises, with two events and an idempotency key each, of 10,000 workflow executions.
func BenchmarkDeleteSettled(b *testing.B) {
	const settled, workflows = 100_000, 10_000
	for range b.N {
		b.StopTimer()
		s := setUp(b)
		s.settled(b, settled, workflows)
		s.Exec(b, "VACUUM ANALYZE")
		b.StartTimer()
		report, err := s.sweeper.Once(b.Context())
		require.NoError(b, err)
		require.Equal(b, sweep.Report{
			KeysDeleted: settled, PromisesDeleted: settled, EventsDeleted: 2 * settled, WorkflowsDeleted: workflows,
		}, report)
	}
	b.ReportMetric(b.Elapsed().Seconds()/float64(b.N), "s/100k")
	b.ReportMetric(0, "ns/op")
}
