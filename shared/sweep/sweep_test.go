package sweep_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
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
)

// Deadlines are recorded as they pass, while old promises are being deleted.
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
	t.Logf("the latest deadline was recorded after %v", latest)
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

// A transaction that locks a workflow may still settle its promises in time, so Once skips the workflow. The subtests run in order.
func TestALockedWorkflowIsSkipped(t *testing.T) {
	t.Parallel()
	s := setUp(t)
	s.due(t, 2000, 1) // more than a batch
	var locked uuid.UUID
	require.NoError(t, s.Pool.QueryRow(t.Context(), "SELECT id FROM workflow_execution").Scan(&locked))
	s.Exec(t, "UPDATE promise SET timeout_at = timeout_at - INTERVAL '1 hour'")
	past := time.Now().Add(-time.Minute)
	p := s.create(t, promise.Draft{WorkflowExecutionID: uuid.New(), Name: "free"})
	s.Exec(t, "UPDATE promise SET created_at = $2::TIMESTAMPTZ - INTERVAL '1 day', timeout_at = $2 WHERE id = $1", p.ID, past)

	tx, err := s.Pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), "SELECT FROM workflow_execution WHERE id = $1 FOR NO KEY UPDATE", locked)
	require.NoError(t, err)
	t.Run("deadlines of other workflows are recorded", func(t *testing.T) {
		require.Equal(t, sweep.Report{Expired: 1}, s.once(t))
		s.requireExpired(t, 1)
	})
	t.Run("the lateness metric excludes the skipped workflow", func(t *testing.T) {
		late := s.metric(t, sweep.MetricOldestOverdue)
		require.Len(t, late, 1)
		require.GreaterOrEqual(t, late[0], 60.0)
		require.Less(t, late[0], 3600.0)
	})
	t.Run("the transaction's settlement stays, and the other deadlines are recorded", func(t *testing.T) {
		_, err = tx.Exec(t.Context(), `WITH number AS (
				UPDATE workflow_execution SET last_sequence_number = last_sequence_number + 1 WHERE id = $1 RETURNING last_sequence_number
			)
			UPDATE promise SET resolved = TRUE, outcome = 'resolved', value = '1', resolved_at = NOW(), settled_by_kind = 'key',
				resolved_by_sequence = (SELECT last_sequence_number FROM number)
			WHERE workflow_execution_id = $1 AND name = 'due-7'`, locked)
		require.NoError(t, err)
		require.NoError(t, tx.Commit(t.Context()))
		require.Equal(t, sweep.Report{Expired: 1999}, s.once(t))
		s.requireExpired(t, 2000)
	})
	t.Run("without due deadlines, only a lateness of 0 is written", func(t *testing.T) {
		require.Equal(t, sweep.Report{}, s.once(t))
		require.Equal(t, []float64{1, 1999}, s.metric(t, sweep.MetricPromisesExpired))
		require.Zero(t, s.metric(t, sweep.MetricOldestOverdue)[2])
	})
}

// A workflow that is always locked would always be skipped, so Run waits for its lock.
func TestRunWaitsForALockedWorkflow(t *testing.T) {
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
	}, time.Minute, 5*time.Millisecond, "Run waits for the lock")
	late := s.create(t, promise.Draft{WorkflowExecutionID: uuid.New(), Name: "another", Timeout: new(time.Duration)})
	require.Eventually(t, func() bool {
		return s.count(t, "workflow_event WHERE event_type = 'PROMISE_TIMEOUT' AND promise_id = $1", late.ID) == 1
	}, time.Minute, 5*time.Millisecond, "other deadlines are recorded meanwhile")
	require.NoError(t, tx.Commit(t.Context()))
	require.Eventually(t, func() bool {
		return s.count(t, "workflow_event WHERE event_type = 'PROMISE_TIMEOUT'") == 4
	}, time.Minute, 5*time.Millisecond)
	stop()
	require.Equal(t, 4, (<-done).Expired)
}

func TestADeadlineSettlesWithTheCreationsOutcome(t *testing.T) {
	t.Parallel()
	s := setUp(t)
	no := "no answer"
	soon := 50 * time.Millisecond
	for name, onTimeout := range map[string]*promise.Result{
		"resolved":  {State: promise.Resolved, Value: []byte(` {"default": 1.0}`)},
		"rejected":  {State: promise.Rejected, Message: &no},
		"timed_out": nil,
	} {
		t.Run(name, func(t *testing.T) {
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
		})
	}
	s.requireExpired(t, 3)
}

// If one kind of work always fails, the other kinds are done, and the failure is logged and returned. The subtests run in order.
func TestAKindOfWorkThatFails(t *testing.T) {
	t.Parallel()
	s := setUp(t)
	s.settled(t, 1, 1)
	s.Exec(t, `CREATE FUNCTION fail() RETURNS TRIGGER LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'broken'; END $$`)
	s.Exec(t, "CREATE TRIGGER fail BEFORE DELETE ON promise FOR EACH ROW EXECUTE FUNCTION fail()")
	t.Run("in Run", func(t *testing.T) {
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
	})
	t.Run("in Once", func(t *testing.T) {
		s.due(t, 1, 1)
		report, err := s.sweeper.Once(t.Context())
		require.ErrorContains(t, err, "broken")
		require.Equal(t, sweep.Report{Expired: 1}, report)
		s.requireExpired(t, 2)
	})
}

// The database stops during a run and starts again. The run then records the deadlines that have passed.
func TestRunContinuesAfterARestartOfTheDatabase(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "promises-sweep-test-")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	require.NoError(t, os.Chmod(dir, 0o711)) //nolint:gosec // as root, Postgres runs as another user
	data := localpg.Options{Dir: filepath.Join(dir, "data")}
	server, err := localpg.Start(t.Context(), data)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Stop()) })
	conf, err := pgxpool.ParseConfig(server.URL())
	require.NoError(t, err)
	_, err = migrate.Run(t.Context(), conf.ConnConfig, migrate.Options{})
	require.NoError(t, err)

	var port atomic.Uint32 // each start has another port
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
	for name, timeout := range map[string]time.Duration{"before": 300 * time.Millisecond, "during": time.Hour} {
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
	_, err = conn.Exec(t.Context(), "UPDATE promise SET timeout_at = NOW() WHERE name = 'during'") // before the sweep connects again
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
