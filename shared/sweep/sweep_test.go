package sweep_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/dbtest"
	"github.com/flovyn/promises/shared/localpg"
	"github.com/flovyn/promises/shared/migrate"
	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/repository"
	"github.com/flovyn/promises/shared/sweep"
	"github.com/flovyn/promises/shared/telemetry"
)

const (
	tenant = "acme"
	day    = 24 * time.Hour
)

// buffer is a bytes.Buffer for several goroutines.
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

func (s *service) on(pool *pgxpool.Pool) *sweep.Sweeper {
	return &sweep.Sweeper{
		Store:     repository.New(pool),
		Metrics:   telemetry.NewMetrics(&s.metrics, "expire-promises"),
		Log:       telemetry.NewLogger(&s.log, slog.LevelInfo),
		Retention: 90 * day,
	}
}

// metric lists the values that were told of a metric.
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

// due adds n promises whose deadlines have passed in the last minute, in workflow executions with equally many.
func (s *service) due(t testing.TB, n, workflows int) {
	t.Helper()
	s.add(t, "due", n, workflows)
	s.Exec(t, `UPDATE promise SET created_at = NOW() - INTERVAL '1 day', timeout_at = NOW() - random() * INTERVAL '1 minute'
		WHERE name LIKE 'due-%'`)
}

// settled adds n promises that were settled long ago, with keys.
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

// requireExpired wants n deadlines recorded, each by one event, and each workflow's log to be 1, 2, 3, ... up to the
// last number handed out.
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

// Deadlines are recorded as they pass, whatever is being deleted beside.
func TestDeadlinesAreRecordedBesideDeletions(t *testing.T) {
	t.Parallel()
	s := setUp(t)
	s.settled(t, 20_000, 2000)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	done := make(chan error, 1)
	go func() {
		_, err := s.sweeper.Run(ctx, time.Minute)
		done <- err
	}()
	workflows := []uuid.UUID{uuid.New(), uuid.New(), uuid.New()}
	const n = 150
	for i := range n {
		timeout := time.Duration(rand.Int64N(int64(2 * time.Second)))
		s.create(t, promise.Draft{
			WorkflowExecutionID: workflows[i%len(workflows)], Name: fmt.Sprint(i), Timeout: &timeout,
		})
		time.Sleep(10 * time.Millisecond)
	}
	require.Eventually(t, func() bool {
		return s.count(t, "workflow_event WHERE event_type = 'PROMISE_TIMEOUT'") == n
	}, time.Minute, 50*time.Millisecond)
	stop()
	require.NoError(t, <-done)
	s.Exec(t, "DELETE FROM workflow_execution WHERE NOT id = ANY($1)", workflows)
	s.requireExpired(t, n)
	var latest time.Duration
	require.NoError(t, s.Pool.QueryRow(t.Context(), `SELECT MAX(e.created_at - p.timeout_at)
		FROM workflow_event e JOIN promise p ON p.id = e.promise_id WHERE event_type = 'PROMISE_TIMEOUT'`).Scan(&latest))
	t.Logf("the latest came %v after its deadline", latest)
	require.NotEmpty(t, s.metric(t, sweep.MetricPromisesDeleted))
	sum := 0.0
	for _, value := range s.metric(t, sweep.MetricPromisesExpired) {
		sum += value
	}
	require.InDelta(t, n, sum, 0)
}

func TestManySweepers(t *testing.T) {
	t.Parallel()
	s := setUp(t)
	const n = 2000
	s.due(t, n, 5)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var wg sync.WaitGroup
	var total atomic.Int64
	for range 4 {
		pool, err := pgxpool.New(t.Context(), s.URL)
		require.NoError(t, err)
		t.Cleanup(pool.Close)
		wg.Go(func() {
			report, err := s.on(pool).Run(ctx, time.Hour)
			if err != nil {
				t.Error(err)
			}
			total.Add(int64(report.Expired))
		})
	}
	require.Eventually(t, func() bool { return s.count(t, "promise WHERE resolved") == n }, time.Minute, 20*time.Millisecond)
	stop()
	wg.Wait()
	require.EqualValues(t, n, total.Load())
	s.requireExpired(t, n)
}

// A settlement that is under way may still be in time: it is not waited for, and what comes after it is.
func TestASettlementUnderWayIsPassedOver(t *testing.T) {
	t.Parallel()
	s := setUp(t)
	s.due(t, 2000, 1) // more than a batch
	var busy uuid.UUID
	require.NoError(t, s.Pool.QueryRow(t.Context(), "SELECT id FROM workflow_execution").Scan(&busy))
	s.Exec(t, "UPDATE promise SET timeout_at = timeout_at - INTERVAL '1 hour'")
	past := time.Now().Add(-time.Minute)
	p := s.create(t, promise.Draft{WorkflowExecutionID: uuid.New(), Name: "free"})
	s.Exec(t, "UPDATE promise SET created_at = $2::TIMESTAMPTZ - INTERVAL '1 day', timeout_at = $2 WHERE id = $1", p.ID, past)

	tx, err := s.Pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), "SELECT FROM workflow_execution WHERE id = $1 FOR NO KEY UPDATE", busy)
	require.NoError(t, err)
	require.Equal(t, sweep.Report{Expired: 1}, s.once(t))
	s.requireExpired(t, 1)
	late := s.metric(t, sweep.MetricOldestOverdue)
	require.Len(t, late, 1)
	require.GreaterOrEqual(t, late[0], 60.0)
	require.Less(t, late[0], 3600.0, "not that of the one that is under way")
	_, err = tx.Exec(t.Context(), `WITH number AS (
			UPDATE workflow_execution SET last_sequence_number = last_sequence_number + 1 WHERE id = $1 RETURNING last_sequence_number
		)
		UPDATE promise SET resolved = TRUE, outcome = 'resolved', value = '1', resolved_at = NOW(), settled_by_kind = 'key',
			resolved_by_sequence = (SELECT last_sequence_number FROM number)
		WHERE workflow_execution_id = $1 AND name = 'due-7'`, busy)
	require.NoError(t, err)
	require.NoError(t, tx.Commit(t.Context()))
	require.Equal(t, sweep.Report{Expired: 1999}, s.once(t))
	s.requireExpired(t, 2000)
	require.Equal(t, sweep.Report{}, s.once(t))
	require.Equal(t, []float64{1, 1999}, s.metric(t, sweep.MetricPromisesExpired), "a count of 0 is not told")
	require.Zero(t, s.metric(t, sweep.MetricOldestOverdue)[2], "but that nothing is overdue is")
}

// A workflow that is always busy would be passed over for ever: a run waits for its turn at it.
func TestABusyWorkflowIsWaitedFor(t *testing.T) {
	t.Parallel()
	s := setUp(t)
	s.due(t, 3, 1)
	tx, err := s.Pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), "SELECT FROM workflow_execution FOR UPDATE")
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	done := make(chan sweep.Report, 1)
	go func() {
		report, _ := s.sweeper.Run(ctx, time.Minute)
		done <- report
	}()
	require.Eventually(t, func() bool {
		return s.count(t, `pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%FROM workflow_execution WHERE id = $1%'
			AND pid = ANY(SELECT pid FROM pg_locks WHERE relation = 'workflow_execution'::REGCLASS)`) == 1
	}, time.Minute, 5*time.Millisecond, "it stands in the queue")
	late := s.create(t, promise.Draft{WorkflowExecutionID: uuid.New(), Name: "another", Timeout: new(time.Duration)})
	require.Eventually(t, func() bool {
		return s.count(t, "workflow_event WHERE event_type = 'PROMISE_TIMEOUT' AND promise_id = $1", late.ID) == 1
	}, time.Minute, 5*time.Millisecond, "and the others go on")
	require.NoError(t, tx.Commit(t.Context()))
	require.Eventually(t, func() bool {
		return s.count(t, "workflow_event WHERE event_type = 'PROMISE_TIMEOUT'") == 4
	}, time.Minute, 5*time.Millisecond)
	stop()
	require.Equal(t, 4, (<-done).Expired)
}

func TestTheDeadlineBringsWhatTheCreationNamed(t *testing.T) {
	t.Parallel()
	s := setUp(t)
	no := "no answer"
	soon := 50 * time.Millisecond
	for name, onTimeout := range map[string]*promise.Result{
		"resolved":  {State: promise.Resolved, Value: []byte(` {"default": 1.0}`)},
		"rejected":  {State: promise.Rejected, Message: &no},
		"timed_out": nil,
	} {
		p := s.create(t, promise.Draft{WorkflowExecutionID: uuid.New(), Name: name, Timeout: &soon, OnTimeout: onTimeout})
		time.Sleep(soon)
		require.Equal(t, sweep.Report{Expired: 1}, s.once(t))
		got, err := s.repo.Get(t.Context(), tenant, promise.ByID(p.ID))
		require.NoError(t, err)
		require.Equal(t, promise.State(name), got.State)
		if onTimeout != nil {
			require.Equal(t, onTimeout.Value, got.Value)
			require.Equal(t, onTimeout.Message, got.Message)
		}
		require.Equal(t, &promise.By{Kind: promise.KindDeadline}, got.SettledBy)
		require.Equal(t, got.TimeoutAt, got.ResolvedAt)
		events, err := s.repo.ListEvents(t.Context(), tenant, p.WorkflowExecutionID, 1, 10)
		require.NoError(t, err)
		require.Len(t, events, 1)
		require.Equal(t, promise.EventTimeout, events[0].Type)
	}
	s.requireExpired(t, 3)
}

// One kind of work that fails all the time leaves the others alone, and is told of.
func TestAKindOfWorkThatFails(t *testing.T) {
	t.Parallel()
	s := setUp(t)
	s.settled(t, 1, 1)
	s.Exec(t, `CREATE FUNCTION fail() RETURNS TRIGGER LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'broken'; END $$`)
	s.Exec(t, "CREATE TRIGGER fail BEFORE DELETE ON promise FOR EACH ROW EXECUTE FUNCTION fail()")
	soon := 300 * time.Millisecond
	s.create(t, promise.Draft{WorkflowExecutionID: uuid.New(), Name: "p", Timeout: &soon})
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	both := make(chan bool, 1)
	go func() {
		both <- assert.Eventually(t, func() bool {
			return s.count(t, "promise WHERE settled_by_kind = 'deadline'") == 1 && len(s.metric(t, sweep.MetricSweepErrors)) > 0
		}, time.Minute, 20*time.Millisecond)
		stop()
	}()
	report, err := s.sweeper.Run(ctx, time.Hour)
	require.True(t, <-both)
	require.Regexp(t, `delete settled promises: failed \d+ times, first: .*broken`, err)
	require.Equal(t, sweep.Report{Expired: 1}, report)
	require.Contains(t, s.log.String(), `"level":"ERROR","msg":"cannot delete settled promises"`)

	s.due(t, 1, 1)
	report, err = s.sweeper.Once(t.Context())
	require.ErrorContains(t, err, "broken")
	require.Equal(t, sweep.Report{Expired: 1}, report)
	s.requireExpired(t, 2)
}

// The database is stopped in the middle of a run, and comes back: the run goes on with what has become due.
func TestDatabaseAway(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "promises-sweep-test-")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	require.NoError(t, os.Chmod(dir, 0o711)) //nolint:gosec // as root, Postgres runs as somebody else
	data := localpg.Options{Dir: filepath.Join(dir, "data")}
	server, err := localpg.Start(t.Context(), data)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Stop()) })
	conf, err := pgxpool.ParseConfig(server.URL())
	require.NoError(t, err)
	_, err = migrate.Run(t.Context(), conf.ConnConfig, migrate.Options{})
	require.NoError(t, err)

	var port atomic.Uint32 // another one after each start
	port.Store(uint32(conf.ConnConfig.Port))
	conf.BeforeConnect = func(_ context.Context, c *pgx.ConnConfig) error {
		c.Port = uint16(port.Load()) //nolint:gosec // it was one
		return nil
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), conf)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	s := &service{DB: &dbtest.DB{URL: server.URL(), Pool: pool}, repo: repository.New(pool)}
	s.Tenant(t, tenant)
	for name, timeout := range map[string]time.Duration{"before": 300 * time.Millisecond, "away": time.Hour} {
		s.create(t, promise.Draft{WorkflowExecutionID: uuid.New(), Name: name, Timeout: &timeout})
	}

	type outcome struct {
		report sweep.Report
		err    error
	}
	done := make(chan outcome, 1)
	running, stop := context.WithCancel(t.Context())
	defer stop()
	go func() {
		report, err := s.on(pool).Run(running, time.Minute)
		done <- outcome{report, err}
	}()
	require.Eventually(t, func() bool { return s.count(t, "promise WHERE resolved") == 1 }, time.Minute, 20*time.Millisecond)
	require.NoError(t, server.Stop())
	require.Eventually(t, func() bool { return len(s.metric(t, sweep.MetricSweepErrors)) > 1 }, time.Minute, 20*time.Millisecond)
	server, err = localpg.Start(t.Context(), data)
	require.NoError(t, err)
	again, err := pgxpool.ParseConfig(server.URL())
	require.NoError(t, err)
	conn, err := pgx.ConnectConfig(t.Context(), again.ConnConfig.Copy())
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), "UPDATE promise SET timeout_at = NOW() WHERE name = 'away'") // before the sweep finds the way back
	require.NoError(t, err)
	require.NoError(t, conn.Close(t.Context()))
	port.Store(uint32(again.ConnConfig.Port))
	require.Eventually(t, func() bool { return s.count(t, "promise WHERE resolved") == 2 }, time.Minute, 20*time.Millisecond)
	stop()
	o := <-done
	require.ErrorContains(t, o.err, "record deadlines: failed ")
	require.Equal(t, sweep.Report{Expired: 2}, o.report)
	s.requireExpired(t, 2)
}
