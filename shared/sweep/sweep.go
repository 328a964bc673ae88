// Package sweep is the work that falls due by itself: deadlines are recorded,
// and what nobody needs any more is deleted.
package sweep

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/flovyn/promises/shared/promise"
)

// Store does one batch of each kind of work, for all tenants, and waits for
// nobody but where it says so. A batch that is not full means that no more can be done at the moment;
// Expire says so itself.
type Store interface {
	Expire(ctx context.Context, limit int) (promise.ExpireResult, error)

	// ExpireWorkflow alone waits: for its turn at one workflow execution.
	ExpireWorkflow(ctx context.Context, workflowExecutionID uuid.UUID, limit int) (promise.ExpireResult, error)

	ExpireIdempotencyKeys(ctx context.Context, limit int) (promise.ExpireKeysResult, error)
	DeleteSettled(ctx context.Context, age time.Duration, limit int) (promise.Deleted, error)

	// Uncounted begins a count of what each tenant has, CountMore goes on with
	// counts by at most limit rows of a kind, and StoreCounts stores those that are
	// done. It returns the tenants that are full now and were not, or the other way round.
	Uncounted(ctx context.Context) ([]promise.Count, error)
	CountMore(ctx context.Context, counts []promise.Count, limit int) error
	StoreCounts(ctx context.Context, counts []promise.Count) ([]promise.Full, error)
}

// Metrics counts and measures. It must be safe for concurrent use.
type Metrics interface {
	Count(name string, n int64)
	Gauge(name string, value float64, unit string)
}

// The metrics. A count says what was done since it was last told of.
const (
	MetricPromisesExpired = "PromisesExpired"
	MetricEarlyExpired    = "HoldsExpired"
	MetricKeysDeleted     = "KeysDeleted"
	MetricPromisesDeleted = "PromisesDeleted"
	MetricSweepErrors     = "SweepErrors" // batches that failed

	// MetricOldestOverdue is how late, in seconds, the latest of the deadlines
	// was recorded; 0 where none was due.
	MetricOldestOverdue = "OldestOverdueSeconds"
)

// Sweeper does the work of the schedule. It keeps nothing between two calls,
// and any number may work on one database at once.
type Sweeper struct {
	Store   Store
	Metrics Metrics
	Log     *slog.Logger

	// Retention is how long a promise is kept after it was settled; 0 is for ever.
	Retention time.Duration
}

// Report is what one call has done.
type Report struct {
	Expired          int `json:"expired"`
	KeysDeleted      int `json:"keysDeleted"`
	EarlyExpired     int `json:"holdsExpired"`
	PromisesDeleted  int `json:"promisesDeleted"`
	EventsDeleted    int `json:"eventsDeleted"`
	WorkflowsDeleted int `json:"workflowsDeleted"`
}

const (
	// A deadline that nobody knew of when its pass began, or whose workflow
	// somebody had in hand, is found after maxPause; deadlines that are closer
	// than minPause go in one batch.
	minPause, maxPause = 50 * time.Millisecond, 500 * time.Millisecond

	expireBatch = 1000 // locks its workflows' rows for some 50 ms; halved after a failure
	deleteBatch = 500

	// Deletions are in no hurry: full batches leave room for others in between,
	// and what was left is looked for again after a while.
	betweenBatches = 50 * time.Millisecond
	betweenRounds  = 10 * time.Second

	tellEvery = 15 * time.Second // gauge and counts; CloudWatch's own grain is a minute

	// reserve is left of the caller's own time, grace is for the batch under
	// way when the time is over, and patience for a batch in general.
	reserve, grace = time.Second, 500 * time.Millisecond
	patience       = 10 * time.Second
)

// Run works for d, or until ctx ends or is about to: at least a second of ctx's
// time is left then. A deadline that passes meanwhile is recorded within a
// second; the deletions never keep it waiting. A batch that fails is logged,
// counted and tried again, and the others go on: the error at the end tells of
// each kind of work that failed, even if it came right later. The report holds
// what was done all the same. That the time is over is no error.
func (s *Sweeper) Run(ctx context.Context, d time.Duration) (Report, error) {
	return s.work(ctx, d, func(c *call) {
		var both sync.WaitGroup
		both.Go(c.watchDeadlines)
		both.Go(c.tidyInRounds)
		both.Go(c.countInRounds)
		both.Wait()
	})
}

// Once does all that is due now. What somebody else has in hand, and what is
// left when ctx is about to end, stays for the next time. A kind of work that
// fails is given up, and the others are done; errors are as for Run.
func (s *Sweeper) Once(ctx context.Context) (Report, error) {
	const long = 24 * time.Hour
	return s.work(ctx, long, func(c *call) {
		c.recordDeadlines()
		c.tell()
		c.countTenants(false)
		c.tidy(0)
	})
}

// call is one Run or Once.
type call struct {
	*Sweeper
	open  context.Context // a batch begins only while it lasts
	limit context.Context // a batch under way ends with it

	deadlines, keys, settled kind
	counts                   counting

	report Report // Expired is the deadlines' goroutine's, the rest the deletions'
	untold untold // the deadlines' goroutine's

	// A Run waits for a workflow that was passed over, beside the deadlines, one
	// at a time. busy is the waiting goroutine's, the rest the deadlines'.
	watching bool
	busy     kind
	waiting  bool
	waited   chan promise.ExpireResult
}

// kind is one kind of work, and how it failed. It is one goroutine's.
type kind struct {
	name   string
	failed int
	first  error
	limit  int // of a batch of deadlines
}

// adapt halves the limit after a batch that failed, and doubles it after one
// that did not, up to expireBatch: a batch that is too large for the database
// does not fail for ever.
func (k *kind) adapt(err error) {
	if err != nil {
		k.limit = max(k.limit/2, 1)
	} else {
		k.limit = min(k.limit*2, expireBatch)
	}
}

// untold is what the metrics do not know of yet.
type untold struct {
	since   time.Time
	looked  bool // or nobody knows what is overdue
	expired int
	overdue time.Duration
}

func (s *Sweeper) work(ctx context.Context, d time.Duration, do func(*call)) (Report, error) {
	end := time.Now().Add(d)
	if deadline, ok := ctx.Deadline(); ok && deadline.Add(-reserve-grace).Before(end) {
		end = deadline.Add(-reserve - grace)
	}
	open, cancel := context.WithDeadline(ctx, end)
	defer cancel()
	limit, cancel := context.WithDeadline(ctx, end.Add(grace))
	defer cancel()
	c := &call{
		Sweeper: s, open: open, limit: limit,
		deadlines: kind{name: "record deadlines", limit: expireBatch},
		keys:      kind{name: "expire keys"},
		settled:   kind{name: "delete settled promises"},
		counts:    counting{work: kind{name: "count what tenants have"}, next: map[uuid.UUID]time.Time{}},
		busy:      kind{name: "record a busy workflow's deadlines", limit: expireBatch},
		waited:    make(chan promise.ExpireResult, 1),
	}
	do(c)
	return c.report, errors.Join(c.deadlines.err(), c.busy.err(), c.keys.err(), c.settled.err(), c.counts.work.err())
}

func (k *kind) err() error {
	if k.failed == 0 {
		return nil
	}
	return fmt.Errorf("%s: failed %d times, first: %w", k.name, k.failed, k.first)
}

// try does one batch. What the end of the time cut off has not failed.
func (c *call) try(k *kind, batch func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(c.limit, patience)
	defer cancel()
	err := batch(ctx)
	if err != nil && c.limit.Err() == nil {
		if k.failed++; k.first == nil {
			k.first = err
		}
		c.Metrics.Count(MetricSweepErrors, 1)
		c.Log.Error("cannot "+k.name, "cause", err.Error())
	}
	return err
}

// watchDeadlines records deadlines as they pass.
func (c *call) watchDeadlines() {
	c.watching = true
	for c.open.Err() == nil {
		pause := maxPause
		if next := c.recordDeadlines(); next != nil {
			pause = min(max(*next, minPause), maxPause)
		}
		if time.Since(c.untold.since) >= tellEvery {
			c.tell()
		}
		sleep(c.open, pause)
	}
	c.endWait()
	c.tell()
}

// wait begins to wait for a workflow that was passed over, unless another is
// waited for.
func (c *call) wait(workflowExecutionID uuid.UUID) {
	if c.waiting {
		return
	}
	c.waiting = true
	go func() {
		var e promise.ExpireResult
		c.busy.adapt(c.try(&c.busy, func(ctx context.Context) (err error) {
			e, err = c.Store.ExpireWorkflow(ctx, workflowExecutionID, c.busy.limit)
			return err
		}))
		c.waited <- e
	}()
}

// collect takes what a wait has come to, if it is over.
func (c *call) collect() {
	select {
	case e := <-c.waited:
		c.waiting = false
		c.count(e)
	default:
	}
}

func (c *call) endWait() {
	if c.waiting {
		c.waiting = false
		c.count(<-c.waited)
	}
}

func (c *call) count(e promise.ExpireResult) {
	c.report.Expired += e.Expired
	c.untold.expired += e.Expired
	c.untold.overdue = max(c.untold.overdue, e.Lateness)
}

// recordDeadlines records those that have passed, and returns how long it is
// until the next; nil: there is none, or nobody knows.
func (c *call) recordDeadlines() (next *time.Duration) {
	c.collect()
	for more := true; more && c.open.Err() == nil; {
		var e promise.ExpireResult
		err := c.try(&c.deadlines, func(ctx context.Context) (err error) {
			e, err = c.Store.Expire(ctx, c.deadlines.limit)
			return err
		})
		c.deadlines.adapt(err)
		if err != nil {
			return nil
		}
		c.untold.looked = true
		c.count(e)
		next, more = e.Next, e.More
		if e.Skipped != nil && !more && c.watching {
			c.wait(*e.Skipped)
			next = new(time.Duration)
		}
	}
	return next
}

func (c *call) tell() {
	if c.untold.looked {
		c.Metrics.Count(MetricPromisesExpired, int64(c.untold.expired))
		c.Metrics.Gauge(MetricOldestOverdue, c.untold.overdue.Seconds(), "Seconds")
	}
	c.untold = untold{since: time.Now()}
}

func (c *call) tidyInRounds() {
	for c.open.Err() == nil {
		c.tidy(betweenBatches)
		sleep(c.open, betweenRounds)
	}
}

// tidy deletes what may go: a batch of each kind in turn, until no kind has a
// full one.
func (c *call) tidy(pause time.Duration) {
	keys, holds, promises := c.report.KeysDeleted, c.report.EarlyExpired, c.report.PromisesDeleted
	more := []func() bool{c.expireKeys, c.deleteSettled}
	for len(more) > 0 && c.open.Err() == nil {
		more = slices.DeleteFunc(more, func(full func() bool) bool { return !full() })
		if len(more) > 0 {
			sleep(c.open, pause)
		}
	}
	c.Metrics.Count(MetricKeysDeleted, int64(c.report.KeysDeleted-keys))
	c.Metrics.Count(MetricEarlyExpired, int64(c.report.EarlyExpired-holds))
	c.Metrics.Count(MetricPromisesDeleted, int64(c.report.PromisesDeleted-promises))
}

func (c *call) expireKeys() (full bool) {
	c.try(&c.keys, func(ctx context.Context) error { //nolint:errcheck // see kind
		e, err := c.Store.ExpireIdempotencyKeys(ctx, deleteBatch)
		for _, h := range e.ExpiredEarly {
			c.Log.Warn("held settlement expired unused", "tenant", h.Tenant, "key", h.Key)
		}
		c.report.KeysDeleted += e.Released
		c.report.EarlyExpired += len(e.ExpiredEarly)
		full = e.Examined >= deleteBatch
		return err
	})
	return full
}

func (c *call) deleteSettled() (full bool) {
	if c.Retention == 0 {
		return false
	}
	c.try(&c.settled, func(ctx context.Context) error { //nolint:errcheck // see kind
		d, err := c.Store.DeleteSettled(ctx, c.Retention, deleteBatch)
		c.report.PromisesDeleted += d.Promises
		c.report.KeysDeleted += d.Keys
		c.report.EventsDeleted += d.Events
		c.report.WorkflowsDeleted += d.Workflows
		full = d.Promises >= deleteBatch
		return err
	})
	return full
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
