package sweep_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/dbtest"
	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/repository"
	"github.com/flovyn/promises/shared/sweep"
	"github.com/flovyn/promises/shared/telemetry"
)

const (
	tenant = "acme"
	day    = 24 * time.Hour
)

// A clockwork is a Store for tests with synctest's clock. Each of its batches takes some time.
type clockwork struct {
	mu        sync.Mutex
	takes     time.Duration
	fails     bool
	maxBatch  int   // if not 0, a larger batch of deadlines fails
	limits    []int // of the batches of deadlines
	deadlines []time.Time
	late      []time.Duration // of each deadline that was recorded
	passes    []time.Time     // the start of each pass over the deadlines
	deletions int
	values    map[string][]float64
}

func (c *clockwork) sweeper() *sweep.Sweeper {
	c.values = map[string][]float64{}
	return &sweep.Sweeper{Store: c, Metrics: c, Log: slog.New(slog.DiscardHandler), Retention: day}
}

func (c *clockwork) Count(name string, n int64) { c.Gauge(name, float64(n), "Count") }

func (c *clockwork) Gauge(name string, value float64, _ string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.values[name] = append(c.values[name], value)
}

func (c *clockwork) batch(ctx context.Context) error {
	select {
	case <-time.After(c.takes):
	case <-ctx.Done():
		return ctx.Err()
	}
	if c.fails {
		return errors.New("broken")
	}
	return nil
}

func (*clockwork) Uncounted(context.Context) ([]promise.Count, error) { return nil, nil }

func (*clockwork) CountMore(context.Context, []promise.Count, int) error { return nil }

func (*clockwork) StoreCounts(context.Context, []promise.Count) ([]promise.Full, error) {
	return nil, nil
}

func (c *clockwork) Expire(ctx context.Context, limit int) (e promise.ExpireResult, err error) {
	c.mu.Lock()
	c.passes = append(c.passes, time.Now())
	c.limits = append(c.limits, limit)
	tooLarge := c.maxBatch > 0 && limit > c.maxBatch
	c.mu.Unlock()
	if err := c.batch(ctx); err != nil {
		return e, err
	}
	if tooLarge {
		return e, errors.New("too large")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for e.Expired < limit && len(c.deadlines) > 0 {
		late := time.Since(c.deadlines[0])
		if late < 0 {
			e.Next = new(-late)
			break
		}
		e.Expired++
		e.Lateness = max(e.Lateness, late)
		c.late = append(c.late, late)
		c.deadlines = c.deadlines[1:]
	}
	e.More = e.Expired == limit
	return e, nil
}

func (c *clockwork) ExpireWorkflow(ctx context.Context, _ uuid.UUID, _ int) (promise.ExpireResult, error) {
	return promise.ExpireResult{}, c.batch(ctx)
}

func (c *clockwork) ExpireIdempotencyKeys(ctx context.Context, limit int) (promise.ExpireKeysResult, error) {
	if err := c.batch(ctx); err != nil {
		return promise.ExpireKeysResult{}, err
	}
	return promise.ExpireKeysResult{Examined: limit, Released: limit}, nil // the batch is always full
}

func (c *clockwork) DeleteSettled(ctx context.Context, _ time.Duration, _ int) (promise.Deleted, error) {
	c.mu.Lock()
	c.deletions++
	c.mu.Unlock()
	return promise.Deleted{}, c.batch(ctx)
}

func (c *clockwork) DeleteDestinations(ctx context.Context, _ int) (int, error) {
	return 0, c.batch(ctx)
}

func (c *clockwork) DeleteReceipts(ctx context.Context, _ int) (int, error) {
	return 0, c.batch(ctx)
}

func (c *clockwork) RefreshHeld(ctx context.Context, _ uuid.UUID, _ int) (promise.HeldCount, error) {
	return promise.HeldCount{}, c.batch(ctx)
}

func (c *clockwork) SilentSources(ctx context.Context) (int, error) {
	return 0, c.batch(ctx)
}

// A buffer is a bytes.Buffer for several goroutines.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// A service is a database with a tenant, and a Sweeper for it.
type service struct {
	*dbtest.DB
	repo         *repository.Repository
	sweeper      *sweep.Sweeper
	metrics, log buffer
}

func setUp(t testing.TB) *service {
	t.Helper()
	s := &service{DB: dbtest.New(t)}
	s.Tenant(t, tenant)
	s.repo = repository.New(s.Pool)
	s.sweeper = s.on(s.Pool)
	return s
}

// on returns a Sweeper that uses the pool.
func (s *service) on(pool *pgxpool.Pool) *sweep.Sweeper {
	return &sweep.Sweeper{
		Store:     repository.New(pool),
		Metrics:   telemetry.NewMetrics(&s.metrics, "expire-promises"),
		Log:       telemetry.NewLogger(&s.log, slog.LevelInfo),
		Retention: 90 * day,
	}
}

// metric returns the values that were written for a metric.
func (s *service) metric(t testing.TB, name string) (values []float64) {
	t.Helper()
	for line := range strings.Lines(s.metrics.String()) {
		var fields map[string]any
		require.NoError(t, json.Unmarshal([]byte(line), &fields), line)
		if value, ok := fields[name]; ok {
			values = append(values, value.(float64))
		}
	}
	return values
}

func (s *service) count(t testing.TB, sql string, args ...any) int {
	t.Helper()
	rows, err := s.Pool.Query(t.Context(), "SELECT COUNT(*) FROM "+sql, args...)
	require.NoError(t, err)
	n, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[int])
	require.NoError(t, err)
	return n
}

func (s *service) create(t testing.TB, d promise.Draft) promise.Promise {
	t.Helper()
	c, err := s.repo.Create(t.Context(), tenant, d)
	require.NoError(t, err)
	require.True(t, c.New)
	return c.Promise
}

func (s *service) once(t testing.TB) sweep.Report {
	t.Helper()
	report, err := s.sweeper.Once(t.Context())
	require.NoError(t, err)
	return report
}

// due adds n promises whose deadlines passed within the last minute, evenly spread over workflow executions.
func (s *service) due(t testing.TB, n, workflows int) {
	t.Helper()
	s.add(t, "due", n, workflows)
	s.Exec(t, `UPDATE promise SET created_at = NOW() - INTERVAL '1 day', timeout_at = NOW() - random() * INTERVAL '1 minute'
		WHERE name LIKE 'due-%'`)
}

// settled adds n promises that were settled long ago, with idempotency keys.
func (s *service) settled(t testing.TB, n, workflows int) {
	t.Helper()
	s.add(t, "settled", n, workflows)
	s.Exec(t, `INSERT INTO idempotency_key (tenant_id, key, promise_id, expires_at)
		SELECT tenant_id, id::TEXT, id, created_at + INTERVAL '1 year' FROM promise WHERE name LIKE 'settled-%'`)
	s.Exec(t, `WITH settled AS (
			UPDATE promise p SET resolved = TRUE, outcome = 'resolved', value = '1', created_at = NOW() - INTERVAL '91 days',
				resolved_at = NOW() - INTERVAL '91 days', resolved_by_sequence = w.last_sequence_number + created_by_sequence,
				settled_by_kind = 'key'
			FROM workflow_execution w WHERE w.id = p.workflow_execution_id AND p.name LIKE 'settled-%'
			RETURNING p.workflow_execution_id
		)
		UPDATE workflow_execution w SET last_sequence_number = 2 * last_sequence_number
		WHERE id IN (SELECT workflow_execution_id FROM settled)`)
}

func (s *service) add(t testing.TB, name string, n, workflows int) {
	t.Helper()
	s.Exec(t, `INSERT INTO workflow_execution (id, tenant_id, last_sequence_number)
		SELECT md5($1 || w)::UUID, (SELECT id FROM tenant), $2::INT / $3::INT FROM generate_series(1, $3) w`, name, n, workflows)
	s.Exec(t, `INSERT INTO promise (id, workflow_execution_id, tenant_id, name, created_by_sequence)
		SELECT md5($1 || w || ':' || n)::UUID, md5($1 || w)::UUID, (SELECT id FROM tenant), $1 || '-' || n, n
		FROM generate_series(1, $3::INT) w, generate_series(1, $2::INT / $3) n`, name, n, workflows)
	s.Exec(t, `INSERT INTO workflow_event_row (workflow_execution_id, sequence_number, event_type, promise_id)
		SELECT workflow_execution_id, created_by_sequence, 'PROMISE_CREATED', id FROM promise WHERE name LIKE $1 || '-%'`, name)
}

// requireExpired checks that n deadlines are recorded, each with one event, and that each workflow's log is numbered
// 1, 2, 3, ... up to its last sequence number.
func (s *service) requireExpired(t testing.TB, n int) {
	t.Helper()
	require.Equal(t, n, s.count(t, "promise WHERE settled_by_kind = 'deadline' AND resolved_at = timeout_at"))
	require.Equal(t, n, s.count(t, "workflow_event WHERE event_type = 'PROMISE_TIMEOUT'"))
	require.Equal(t, n, s.count(t, `workflow_event e JOIN promise p ON p.id = e.promise_id
		AND p.workflow_execution_id = e.workflow_execution_id AND p.resolved_by_sequence = e.sequence_number
		WHERE event_type = 'PROMISE_TIMEOUT'`))
	require.Zero(t, s.count(t, `workflow_execution w WHERE last_sequence_number <> (
		SELECT COUNT(*) FROM workflow_event e WHERE e.workflow_execution_id = w.id
		AND e.sequence_number BETWEEN 1 AND w.last_sequence_number)`))
}
