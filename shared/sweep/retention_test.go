package sweep_test

import (
	"context"
	"encoding/json"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/repository"
	"github.com/flovyn/promises/shared/sweep"
)

// Retention counts from the time at which a deadline was recorded, because the engine learns of the timeout only then.
func TestRetentionCountsFromTheRecord(t *testing.T) {
	t.Parallel()
	s := setUp(t)
	s.due(t, 3, 1)
	s.Exec(t, "UPDATE promise SET timeout_at = NOW() - INTERVAL '200 days', created_at = NOW() - INTERVAL '300 days'")
	require.Equal(t, sweep.Report{Expired: 3}, s.once(t))
	require.Equal(t, 3, s.count(t, "workflow_event WHERE event_type = 'PROMISE_TIMEOUT'"))
	s.Exec(t, "UPDATE workflow_event_row SET created_at = NOW() - INTERVAL '91 days'")
	require.Equal(t, 3, s.once(t).PromisesDeleted)
}

// If two sweeps delete the last promises of a workflow, possibly neither sees that the workflow is empty. A later sweep deletes it.
func TestWorkflowsThatMayBeEmpty(t *testing.T) {
	t.Parallel()
	s := setUp(t)
	kept := s.create(t, promise.Draft{WorkflowExecutionID: uuid.New(), Name: "kept"}).WorkflowExecutionID
	empty, locked := uuid.New(), uuid.New()
	for _, id := range []uuid.UUID{empty, locked} {
		s.create(t, promise.Draft{WorkflowExecutionID: id, Name: "gone"})
	}
	s.Exec(t, "DELETE FROM promise WHERE name = 'gone'")
	sql, err := os.ReadFile("../repository/queries/delete_empty_workflows.sql")
	require.NoError(t, err)
	given := pgx.StrictNamedArgs{"workflows": []string{kept.String(), empty.String(), locked.String()}}
	t.Run("a locked workflow is skipped", func(t *testing.T) {
		tx, err := s.Pool.Begin(t.Context())
		require.NoError(t, err)
		_, err = tx.Exec(t.Context(), "SELECT FROM workflow_execution WHERE id = $1 FOR SHARE", locked)
		require.NoError(t, err)
		s.Exec(t, string(sql), given)
		require.Equal(t, 2, s.count(t, "workflow_execution"))
		require.NoError(t, tx.Commit(t.Context()))
	})
	t.Run("a later sweep deletes it, and keeps a workflow with a promise", func(t *testing.T) {
		s.Exec(t, string(sql), given)
		require.Equal(t, 1, s.count(t, "workflow_execution WHERE id = $1", kept))
		require.Equal(t, 1, s.count(t, "workflow_execution"))
	})
}

// The subtests run in order on one database.
func TestRetention(t *testing.T) {
	t.Parallel()
	s := setUp(t)
	ctx := t.Context()
	emptied, kept := uuid.New(), uuid.New()
	key := "k"
	old := s.create(t, promise.Draft{WorkflowExecutionID: emptied, Name: "old", IdempotencyKey: &key, IdempotencyKeyTTL: 365 * day})
	hour := time.Hour
	_, err := s.repo.Extend(ctx, tenant, promise.ByID(old.ID), promise.Deadline{Timeout: &hour})
	require.NoError(t, err)
	second := s.create(t, promise.Draft{WorkflowExecutionID: kept, Name: "second"})
	pending := s.create(t, promise.Draft{WorkflowExecutionID: kept, Name: "pending"})
	lately := s.create(t, promise.Draft{WorkflowExecutionID: uuid.New(), Name: "settled lately"})
	young := s.create(t, promise.Draft{WorkflowExecutionID: uuid.New(), Name: "young"})
	for _, p := range []promise.Promise{old, second, lately, young} {
		_, err := s.repo.Settle(ctx, tenant, promise.ByID(p.ID), promise.SettleRequest{
			Result: promise.Result{State: promise.Resolved, Value: []byte("1")}, By: promise.By{Kind: promise.KindDirect},
		})
		require.NoError(t, err)
	}
	s.Rewrite(t, "UPDATE promise SET created_at = created_at - INTERVAL '91 days', timeout_at = NULL WHERE id <> $1", young.ID)
	t.Run("an old promise that was settled just now is kept", func(t *testing.T) {
		require.Equal(t, sweep.Report{}, s.once(t))
	})
	s.Rewrite(t, "UPDATE promise SET resolved_at = resolved_at - INTERVAL '89 days' WHERE id = $1", lately.ID)
	s.Rewrite(t, "UPDATE promise SET resolved_at = resolved_at - INTERVAL '91 days' WHERE id IN ($1, $2)", old.ID, second.ID)
	t.Run("a retention of 0 keeps all promises", func(t *testing.T) {
		s.sweeper.Retention = 0
		require.Equal(t, sweep.Report{}, s.once(t))
		s.sweeper.Retention = 90 * day
	})
	var report sweep.Report
	t.Run("promises settled 91 days ago are deleted", func(t *testing.T) {
		report = s.once(t)
		require.Equal(t, sweep.Report{KeysDeleted: 1, PromisesDeleted: 2, EventsDeleted: 5, WorkflowsDeleted: 1}, report)
		require.Equal(t, 0, s.count(t, "idempotency_key"))
	})
	for _, p := range []promise.Promise{pending, lately, young} {
		t.Run("kept: "+p.Name, func(t *testing.T) {
			_, err := s.repo.Get(ctx, tenant, promise.ByID(p.ID))
			require.NoError(t, err)
		})
	}
	t.Run("workflows and events of the kept promises stay", func(t *testing.T) {
		require.Equal(t, 3, s.count(t, "promise"))
		require.Equal(t, 3, s.count(t, "workflow_execution"))
		require.Equal(t, 5, s.count(t, "workflow_event"), "one of the pending promise, and two of each of the others")
	})
	t.Run("the metrics count what was deleted", func(t *testing.T) {
		require.Equal(t, []float64{2}, s.metric(t, sweep.MetricPromisesDeleted))
		require.Equal(t, []float64{1}, s.metric(t, sweep.MetricKeysDeleted))
	})
	t.Run("the report's JSON", func(t *testing.T) {
		text, err := json.Marshal(report)
		require.NoError(t, err)
		require.JSONEq(t, `{"expired":0,"keysDeleted":1,"holdsExpired":0,"promisesDeleted":2,"eventsDeleted":5,"workflowsDeleted":1}`, string(text))
	})
}

// While sweeps delete empty workflow executions, callers create promises in them. Each created promise stays, with its
// idempotency key, its event and its workflow execution.
func TestCreationRacesWithRetention(t *testing.T) {
	t.Parallel()
	s := setUp(t)
	const workflows = 400
	s.settled(t, 2*workflows, workflows)
	rows, err := s.Pool.Query(t.Context(), "SELECT id FROM workflow_execution ORDER BY random()")
	require.NoError(t, err)
	ids, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	require.NoError(t, err)
	s.sweeper.Store = smallBatches{s.repo}

	stop := make(chan struct{})
	var sweepers, creators sync.WaitGroup
	var deleted atomic.Int64
	for range 2 {
		sweepers.Go(func() {
			for {
				report, err := s.sweeper.Once(context.Background())
				if err != nil {
					t.Error(err)
				}
				deleted.Add(int64(report.PromisesDeleted))
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	for creator := range 4 {
		creators.Go(func() {
			for i := creator; i < len(ids); i += 4 {
				key := "new:" + ids[i].String()
				_, err := s.repo.Create(context.Background(), tenant, promise.Draft{
					WorkflowExecutionID: ids[i], Name: "new", IdempotencyKey: &key, IdempotencyKeyTTL: time.Hour,
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	creators.Wait()
	close(stop)
	sweepers.Wait()
	deleted.Add(int64(s.once(t).PromisesDeleted)) // the promises that each of the two skipped
	for _, id := range ids {
		p, err := s.repo.GetByWorkflowAndName(t.Context(), tenant, id, "new")
		require.NoError(t, err)
		found, err := s.repo.FindPromiseByIdempotencyKey(t.Context(), tenant, "new:"+id.String())
		require.NoError(t, err)
		require.Equal(t, p.ID, found)
	}
	require.EqualValues(t, 2*workflows, deleted.Load())
	require.Equal(t, workflows, s.count(t, "promise"))
	require.Equal(t, workflows, s.count(t, "workflow_event"))
	require.Equal(t, workflows, s.count(t, `workflow_event e JOIN promise p ON p.id = e.promise_id
		AND p.workflow_execution_id = e.workflow_execution_id AND p.created_by_sequence = e.sequence_number
		JOIN workflow_execution w ON w.id = p.workflow_execution_id AND w.last_sequence_number = e.sequence_number`))
}

// smallBatches is a Store that deletes in small statements, so that deletions take longer.
type smallBatches struct{ *repository.Repository }

func (s smallBatches) DeleteSettled(ctx context.Context, age time.Duration, limit int) (total promise.Deleted, err error) {
	for n := 0; n < limit; n += 5 {
		d, err := s.Repository.DeleteSettled(ctx, age, 5)
		total.Promises += d.Promises
		total.Workflows += d.Workflows
		if err != nil || d.Promises == 0 {
			return total, err
		}
	}
	return total, nil
}

// The subtests run in order on one database.
func TestEarlySettlementsThatExpire(t *testing.T) {
	t.Parallel()
	s := setUp(t)
	early := promise.SettleRequest{
		Result: promise.Result{State: promise.Resolved, Value: []byte(`"secret"`)}, By: promise.By{Kind: promise.KindDirect},
	}
	for _, key := range []string{"stripe:ch_1", "stripe:ch_2", "live"} {
		_, err := s.repo.SettleEarly(t.Context(), tenant, key, early, time.Hour)
		require.NoError(t, err)
	}
	s.Exec(t, "UPDATE idempotency_key SET held_until = NOW(), check_at = NOW() WHERE key <> 'live'")
	t.Run("are deleted once", func(t *testing.T) {
		require.Equal(t, sweep.Report{EarlyExpired: 2}, s.once(t))
		require.Equal(t, sweep.Report{}, s.once(t))
		require.Equal(t, 1, s.count(t, "idempotency_key"))
	})
	t.Run("are counted", func(t *testing.T) {
		require.Equal(t, []float64{2}, s.metric(t, sweep.MetricEarlyExpired))
	})
	t.Run("are logged with their key and without their value", func(t *testing.T) {
		log := s.log.String()
		require.Equal(t, 2, strings.Count(log, `"level":"WARN","msg":"held settlement expired unused","tenant":"acme","key":"stripe:ch_`), log)
		require.NotContains(t, log, "secret")
	})
}

func TestExpiredKeysAreDeleted(t *testing.T) {
	t.Parallel()
	s := setUp(t)
	s.settled(t, 1200, 1200)
	s.Rewrite(t, "UPDATE promise SET created_at = NOW() - INTERVAL '8 days', resolved_at = NOW() - INTERVAL '8 days'")
	s.Exec(t, "UPDATE idempotency_key SET expires_at = NOW(), check_at = NOW()")
	key := "pending"
	p := s.create(t, promise.Draft{WorkflowExecutionID: uuid.New(), Name: "p", IdempotencyKey: &key})
	s.Exec(t, "UPDATE idempotency_key SET expires_at = NOW(), check_at = NOW() WHERE promise_id = $1", p.ID)
	require.Equal(t, sweep.Report{KeysDeleted: 1200}, s.once(t))
	require.Equal(t, 1, s.count(t, "idempotency_key"), "the key of a pending promise stays")
	require.Equal(t, 1, s.count(t, "idempotency_key WHERE check_at > NOW() + INTERVAL '6 days'"), "and is not checked again for a week")
}
