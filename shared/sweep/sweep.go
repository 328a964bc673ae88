// Package sweep does the scheduled work: it records deadlines, deletes expired
// idempotency keys, expired early settlements, old settled promises, deleted
// destinations and expired receipts. It counts the pending promises and early settlements
// of each tenant, the early settlements of each source, and the silent sources.
package sweep

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/flovyn/promises/shared/promise"
)

// A Store does the sweep's work in batches. Each method does one batch for all
// tenants and skips locked rows, unless it says that it waits. If a batch is not
// full, no more work can be done at the moment; Expire returns that in More.
type Store interface {
	Expire(ctx context.Context, limit int) (promise.ExpireResult, error)

	// ExpireWorkflow waits for the lock of the workflow execution.
	ExpireWorkflow(ctx context.Context, workflowExecutionID uuid.UUID, limit int) (promise.ExpireResult, error)

	ExpireIdempotencyKeys(ctx context.Context, limit int) (promise.ExpireKeysResult, error)
	DeleteSettled(ctx context.Context, age time.Duration, limit int) (promise.Deleted, error)

	// DeleteDestinations deletes the rows of deleted destinations, and retired secrets.
	DeleteDestinations(ctx context.Context, limit int) (int, error)

	// DeleteReceipts deletes expired receipts, expired bodies, and retired secrets of
	// sources. RefreshHeld counts the early settlements of the sources after an id.
	// SilentSources counts the sources that refuse everything and did not before.
	DeleteReceipts(ctx context.Context, limit int) (int, error)
	RefreshHeld(ctx context.Context, after uuid.UUID, limit int) (promise.HeldCount, error)
	SilentSources(ctx context.Context) (int, error)

	// Uncounted starts a count for each tenant. CountMore continues each count by at
	// most limit rows of each kind. StoreCounts stores finished counts, and returns
	// the tenants that have become full or have stopped being full.
	Uncounted(ctx context.Context) ([]promise.Count, error)
	CountMore(ctx context.Context, counts []promise.Count, limit int) error
	StoreCounts(ctx context.Context, counts []promise.Count) ([]promise.Full, error)
}

// Metrics receives counts and measurements. It must be safe for concurrent use.
type Metrics interface {
	Count(name string, n int64)
	Gauge(name string, value float64, unit string)
}

// The names of the metrics. Each count covers the time since the previous one.
const (
	MetricPromisesExpired = "PromisesExpired"
	MetricEarlyExpired    = "HoldsExpired"
	MetricKeysDeleted     = "KeysDeleted"
	MetricPromisesDeleted = "PromisesDeleted"
	MetricSweepErrors     = "SweepErrors" // batches that failed

	// MetricOldestOverdue is the longest time, in seconds, from a deadline until it
	// was recorded; 0 if none was due.
	MetricOldestOverdue = "OldestOverdueSeconds"

	// MetricSourcesSilent is the number of enabled sources that have verified a webhook
	// within a day, but none within 15 minutes, and have refused others for 10 minutes
	// since.
	MetricSourcesSilent = "SourcesSilent"
)

// A Sweeper does the scheduled work. It keeps no state between calls, and any number
// of sweepers may work on one database at once.
type Sweeper struct {
	Store   Store
	Metrics Metrics
	Log     *slog.Logger

	// Retention is the time for which a settled promise is kept; 0 means for ever.
	Retention time.Duration
}

// A Report counts what one Run or Once did.
type Report struct {
	Expired          int `json:"expired"`
	KeysDeleted      int `json:"keysDeleted"`
	EarlyExpired     int `json:"holdsExpired"`
	PromisesDeleted  int `json:"promisesDeleted"`
	EventsDeleted    int `json:"eventsDeleted"`
	WorkflowsDeleted int `json:"workflowsDeleted"`
}

const (
	// minPause and maxPause bound the time between two passes over the deadlines. A
	// pass finds the deadlines that were added since the last one, and those whose
	// workflow was locked. Deadlines less than minPause apart share a batch.
	minPause, maxPause = 50 * time.Millisecond, 500 * time.Millisecond

	expireBatch = 1000 // locks its workflows' rows for about 50 ms; halved after a failure
	deleteBatch = 500

	// Deletions are not urgent. A pause after each full batch leaves the database to
	// other calls. A round ends when no kind has a full batch, and the next round
	// starts betweenRounds later.
	betweenBatches = 50 * time.Millisecond
	betweenRounds  = 10 * time.Second

	reportInterval = 15 * time.Second // of the deadlines' metrics; CloudWatch's resolution is a minute

	// reserve stays unused at the end of the caller's deadline; grace lets the last
	// batch finish; patience is each batch's timeout.
	reserve, grace = time.Second, 500 * time.Millisecond
	patience       = 10 * time.Second
)

// Run works for d or until ctx ends. If ctx has a deadline, Run returns at least a
// second before it. A deadline of a promise that passes meanwhile is recorded within
// a second; deletions do not delay it. A batch that fails is logged, counted and
// repeated, and the other work continues. The error names each kind of work that
// failed, even if a later batch succeeded. The Report is complete even then. The end
// of the time is not an error.
func (s *Sweeper) Run(ctx context.Context, d time.Duration) (Report, error) {
	return s.sweep(ctx, d, func(c *call) {
		var both sync.WaitGroup
		both.Go(c.watchDeadlines)
		both.Go(c.cleanUpInRounds)
		both.Go(c.countInRounds)
		both.Wait()
	})
}

// Once does all work that is due now. It leaves locked rows, and the work that does
// not fit into ctx's deadline, to the next call. A kind of work that fails is not
// repeated, and the other kinds are done. It returns errors as Run does.
func (s *Sweeper) Once(ctx context.Context) (Report, error) {
	const long = 24 * time.Hour
	return s.sweep(ctx, long, func(c *call) {
		c.recordDeadlines()
		c.reportDeadlines()
		c.countTenants(false)
		c.cleanUp(0)
	})
}

// A call is one Run or Once.
type call struct {
	*Sweeper
	runCtx   context.Context // no batch begins after its end
	batchCtx context.Context // a running batch is cancelled at its end

	deadlines, keys, settled, destinations work
	receipts, held, silent                 work
	counts                                 counting
	heldAfter                              uuid.UUID // the last source that refreshHeld has counted in this round

	// The deadlines' goroutine alone uses report.Expired and unreported; the
	// deletions' goroutine alone uses the rest of report.
	report     Report
	unreported unreported

	// If a pass skips a locked workflow, Run waits for the workflow in another
	// goroutine, while passes continue. It waits for one workflow at a time. The
	// waiting goroutine alone uses skipped, the deadlines' goroutine the rest.
	watching   bool // whether this call is a Run
	skipped    work
	waiting    bool
	waitResult chan promise.ExpireResult
}

// work is the state of one kind of work. One goroutine alone uses it.
type work struct {
	name   string
	failed int   // batches
	first  error // of the first batch that failed
	limit  int   // of the next batch of deadlines
}

// adapt halves the limit after a batch that failed and doubles it after a success,
// up to expireBatch. So a batch that is too large for the database becomes smaller.
func (w *work) adapt(err error) {
	if err != nil {
		w.limit = max(w.limit/2, 1)
	} else {
		w.limit = min(w.limit*2, expireBatch)
	}
}

// unreported is the state of the deadlines' metrics since the last report.
type unreported struct {
	since   time.Time // the last report
	passed  bool      // whether a pass has succeeded; without one, the values are unknown
	expired int
	overdue time.Duration
}

// sweep calls do with a call that lasts for d, or until ctx is about to end.
func (s *Sweeper) sweep(ctx context.Context, d time.Duration, do func(*call)) (Report, error) {
	end := time.Now().Add(d)
	if deadline, ok := ctx.Deadline(); ok && deadline.Add(-reserve-grace).Before(end) {
		end = deadline.Add(-reserve - grace)
	}
	runCtx, cancel := context.WithDeadline(ctx, end)
	defer cancel()
	batchCtx, cancel := context.WithDeadline(ctx, end.Add(grace))
	defer cancel()
	c := &call{
		Sweeper: s, runCtx: runCtx, batchCtx: batchCtx,
		deadlines: work{name: "record deadlines", limit: expireBatch},
		keys:      work{name: "expire idempotency keys"},
		settled:   work{name: "delete settled promises"},

		destinations: work{name: "delete destinations"},
		receipts:     work{name: "delete receipts"},
		held:         work{name: "count what sources hold"},
		silent:       work{name: "count silent sources"},

		counts:     counting{work: work{name: "count what tenants have"}, next: map[uuid.UUID]time.Time{}},
		skipped:    work{name: "record a skipped workflow's deadlines", limit: expireBatch},
		waitResult: make(chan promise.ExpireResult, 1),
	}
	do(c)
	return c.report, errors.Join(c.deadlines.err(), c.skipped.err(), c.keys.err(), c.settled.err(), c.destinations.err(),
		c.receipts.err(), c.held.err(), c.silent.err(), c.counts.work.err())
}

func (w *work) err() error {
	if w.failed == 0 {
		return nil
	}
	return fmt.Errorf("%s: failed %d times, first: %w", w.name, w.failed, w.first)
}

// try does one batch, and records its failure. A batch cut off by the end of the
// call's time is not a failure.
func (c *call) try(w *work, batch func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(c.batchCtx, patience)
	defer cancel()
	err := batch(ctx)
	if err != nil && c.batchCtx.Err() == nil {
		if w.failed++; w.first == nil {
			w.first = err
		}
		c.Metrics.Count(MetricSweepErrors, 1)
		c.Log.Error("cannot "+w.name, "cause", err.Error())
	}
	return err
}

// watchDeadlines records deadlines as they pass.
func (c *call) watchDeadlines() {
	c.watching = true
	for c.runCtx.Err() == nil {
		pause := maxPause
		if next := c.recordDeadlines(); next != nil {
			pause = min(max(*next, minPause), maxPause)
		}
		if time.Since(c.unreported.since) >= reportInterval {
			c.reportDeadlines()
		}
		sleep(c.runCtx, pause)
	}
	c.endWait()
	c.reportDeadlines()
}

// wait starts a goroutine that waits for a skipped workflow's lock and records the
// workflow's deadlines. It does nothing while such a goroutine runs.
func (c *call) wait(workflowExecutionID uuid.UUID) {
	if c.waiting {
		return
	}
	c.waiting = true
	go func() {
		var e promise.ExpireResult
		c.skipped.adapt(c.try(&c.skipped, func(ctx context.Context) (err error) {
			e, err = c.Store.ExpireWorkflow(ctx, workflowExecutionID, c.skipped.limit)
			return err
		}))
		c.waitResult <- e
	}()
}

// collect adds the result of a finished wait.
func (c *call) collect() {
	select {
	case e := <-c.waitResult:
		c.waiting = false
		c.count(e)
	default:
	}
}

// endWait waits for the running wait, if any, and adds its result.
func (c *call) endWait() {
	if c.waiting {
		c.waiting = false
		c.count(<-c.waitResult)
	}
}

// count adds the result to the report and the metrics.
func (c *call) count(e promise.ExpireResult) {
	c.report.Expired += e.Expired
	c.unreported.expired += e.Expired
	c.unreported.overdue = max(c.unreported.overdue, e.Lateness)
}

// recordDeadlines records the deadlines that have passed. It returns the time until
// the next one, or nil if there is none or the pass failed. If a Run skips a locked
// workflow, recordDeadlines starts a wait for it and returns zero.
func (c *call) recordDeadlines() (next *time.Duration) {
	c.collect()
	for more := true; more && c.runCtx.Err() == nil; {
		var e promise.ExpireResult
		err := c.try(&c.deadlines, func(ctx context.Context) (err error) {
			e, err = c.Store.Expire(ctx, c.deadlines.limit)
			return err
		})
		c.deadlines.adapt(err)
		if err != nil {
			return nil
		}
		c.unreported.passed = true
		c.count(e)
		next, more = e.Next, e.More
		if e.Skipped != nil && !more && c.watching {
			c.wait(*e.Skipped)
			next = new(time.Duration)
		}
	}
	return next
}

// reportDeadlines writes the deadlines' metrics.
func (c *call) reportDeadlines() {
	if c.unreported.passed {
		c.Metrics.Count(MetricPromisesExpired, int64(c.unreported.expired))
		c.Metrics.Gauge(MetricOldestOverdue, c.unreported.overdue.Seconds(), "Seconds")
	}
	c.unreported = unreported{since: time.Now()}
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
