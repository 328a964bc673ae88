package delivery

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/flovyn/promises/shared/promise"
)

// A Store finds, claims and records deliveries. It must be safe for concurrent use, and
// every method safe to repeat after an error.
type Store interface {
	// FindDue finds the destinations with deliveries that became due after a moment.
	// FindAllDue finds all, and the deleted destinations whose deliveries have not ended.
	FindDue(ctx context.Context, since time.Time) (promise.DueLook, error)
	FindAllDue(ctx context.Context) (promise.DueLook, error)

	// ClaimDeliveries gives due deliveries of one destination to a new lease. No other
	// claim returns them until the lease ends.
	ClaimDeliveries(ctx context.Context, c promise.ClaimRequest) (promise.Claim, error)

	// RecordDeliveries records the results of a lease's deliveries and ends the lease. It
	// returns the deliveries that the lease still had.
	RecordDeliveries(ctx context.Context, r promise.DeliveryReport) (recorded []uuid.UUID, err error)

	// EndDeliveries ends deliveries of deleted destinations, and returns their number, at
	// most limit. ExpireLeases deletes at most limit leases that have ended.
	EndDeliveries(ctx context.Context, destinations []uuid.UUID, limit int) (int, error)
	ExpireLeases(ctx context.Context, limit int) error
}

// A BatchSender makes one attempt for each delivery of a batch, and returns a Result for
// each, in any order. A delivery without a Result has failed. An error that is ErrNotSent
// means that it certainly made no attempt; after any other error it may have made some.
// It must be safe for concurrent use, and return soon after ctx ends.
type BatchSender interface {
	Send(ctx context.Context, b Batch) ([]Result, error)
}

// A Relay gives due deliveries to a sender and records the results. It keeps no state
// between runs, and any number of relays may work on one database at once. Every field
// but Stopping is required. A run calls the functions concurrently.
type Relay struct {
	Store   Store
	Sender  BatchSender
	Metrics Metrics
	Log     *slog.Logger

	// Open decrypts a signing secret of a destination.
	Open func(ctx context.Context, destination uuid.UUID, version int, sealed []byte) (string, error)

	// Encode returns a promise as a JSON object, and the same without its contents: see
	// Message.WithBody.
	Encode func(p promise.Promise) (data, reduced []byte)

	// MaxCalls bounds the calls of the sender that run at once. A tenant may have as many
	// of them as are free, so that a further tenant finds a free one until about five have
	// taken theirs. The same holds for the bytes that the calls hold.
	MaxCalls int

	// Stopping, once closed, makes Run claim no more.
	Stopping <-chan struct{}
}

const (
	// The pauses between two looks for due deliveries, and the time before the last look
	// from which each kind of look reads. A delivery is due at a time before its settlement
	// commits. Most commit at once; none commits later than statement_timeout permits.
	// The full look reads everything.
	lookPause, longPause, fullPause = 20 * time.Millisecond, time.Second, time.Minute
	lookBack, longBack              = 2 * time.Second, 15 * time.Second

	// These bound the calls of all relays.
	tenantCalls, destinationCalls = 16, 4

	maxClaim = 16        // deliveries of one call: HTTPSSender sends them at once
	maxBatch = 4 << 20   // bytes of one call as JSON; Lambda accepts 6 MiB
	maxHeld  = 128 << 20 // bytes of the calls that run, beyond which nothing is claimed

	fullRest   = 250 * time.Millisecond // before the next claim from a full tenant or destination
	lockedRest = 20 * time.Millisecond  // from a locked destination
	errorRest  = time.Second            // after an error of the database or of an invoke

	// A call of the sender ends within sendTime: the function's timeout of 30 s, and a
	// start. The rest of the lease is for the record. finish is the time that a claim may
	// take to its end.
	sendTime, leaseTime, finish = 38 * time.Second, 45 * time.Second, 48 * time.Second

	patience = 5 * time.Second // each statement's timeout
	endBatch = 500             // deliveries of deleted destinations in one statement
)

// A RelayReport counts what one Run did.
type RelayReport struct {
	Delivered int64 `json:"delivered"`
	Failed    int64 `json:"failed"` // attempts
	Dead      int64 `json:"dead"`
	Errors    int64 `json:"errors"`
}

// Run claims due deliveries for d, or until ctx or its deadline leaves no time to finish
// a claim, or until Stopping is closed. It returns when every claim is finished. A
// delivery of a settlement that commits meanwhile is claimed within about 20 ms, if its
// destination has less than its bound of calls.
//
// An error of the database or of the sender is logged, counted and repeated after a
// pause. Only the first error of an outage is logged.
func (r *Relay) Run(ctx context.Context, d time.Duration) RelayReport {
	end := time.Now().Add(d)
	if deadline, ok := ctx.Deadline(); ok && deadline.Add(-finish).Before(end) {
		end = deadline.Add(-finish)
	}
	runCtx, cancel := context.WithDeadline(ctx, end)
	defer cancel()
	go func() {
		select {
		case <-r.Stopping:
			cancel()
		case <-runCtx.Done():
		}
	}()
	c := &relaying{
		Relay: r, ctx: ctx, runCtx: runCtx, turns: newTurns(), lookedAt: time.Now(),
		foundAll: make(chan []promise.DueDestination, 1), ended: make(chan *call, r.MaxCalls),
	}
	for runCtx.Err() == nil {
		c.look()
		c.claimInTurn()
		c.wait()
	}
	c.calls.Wait()
	c.report()
	return RelayReport{c.total.delivered.Load(), c.total.failed.Load(), c.total.dead.Load(), c.total.errors.Load()}
}

// A relaying is the state of one Run. The goroutine of Run alone uses the fields that
// are not atomic.
type relaying struct {
	*Relay
	ctx    context.Context // of calls that run
	runCtx context.Context // nothing is claimed after its end
	turns  *turns

	lookedAt                     time.Time // the database's time of the last look, and this process's before the first
	nextLook, nextLong, nextFull time.Time
	looking                      bool                          // a full look runs
	foundAll                     chan []promise.DueDestination // its result, nil if it failed
	running                      int                           // calls
	held                         int                           // bytes of them
	calls                        sync.WaitGroup
	ended                        chan *call
	cleaning                     atomic.Bool
	failing                      sync.Map     // by the kind of work: its last try failed
	restUntil                    atomic.Int64 // Unix nanoseconds: nothing is claimed before
	total                        counts
	reported                     RelayReport
}

// A call is one call of the sender.
type call struct {
	*Relay
	request promise.ClaimRequest
	claim   promise.Claim
	of      *destination
	size    int
}

// failed logs and counts an error. It does not log a repeated one.
func (c *relaying) failed(work string, err error) {
	c.total.errors.Add(1)
	if _, again := c.failing.LoadOrStore(work, true); !again {
		c.Log.Error("cannot "+work, "cause", err.Error())
	}
}

// rest makes the relay claim nothing for a while.
func (c *relaying) rest() { c.restUntil.Store(time.Now().Add(errorRest).UnixNano()) }

// try runs a statement within its patience. It reports whether it succeeded.
func (c *relaying) try(work string, statement func(ctx context.Context) error) bool {
	ctx, cancel := context.WithTimeout(c.ctx, patience)
	defer cancel()
	if err := statement(ctx); err != nil {
		c.failed(work, err)
		c.rest()
		return false
	}
	c.failing.Delete(work)
	return true
}

func (c *relaying) resting() bool { return time.Now().UnixNano() < c.restUntil.Load() }

// look looks for destinations with due deliveries, if a look is due.
func (c *relaying) look() {
	now := time.Now()
	if now.Before(c.nextLook) || c.resting() {
		return
	}
	c.lookAtAll(now)
	back, long := lookBack, !now.Before(c.nextLong)
	if long {
		back = longBack
	}
	var found promise.DueLook
	if !c.try("find due deliveries", func(ctx context.Context) (err error) {
		found, err = c.Store.FindDue(ctx, c.lookedAt.Add(-back))
		return err
	}) {
		return
	}
	c.lookedAt, c.nextLook = found.At, time.Now().Add(lookPause)
	if long {
		c.nextLong = now.Add(longPause)
	}
	for _, d := range found.Due {
		c.turns.add(d)
	}
}

// lookAtAll takes the result of the full look, if it has ended, and begins one, if it is
// due. No claim waits for it: it takes seconds if a long transaction keeps many dead
// entries in the index, and then may fail each time.
func (c *relaying) lookAtAll(now time.Time) {
	select {
	case due := <-c.foundAll:
		c.looking = false
		for _, d := range due {
			c.turns.add(d)
		}
	default:
	}
	if c.looking || now.Before(c.nextFull) {
		return
	}
	c.looking, c.nextFull = true, now.Add(fullPause)
	c.report()
	c.calls.Go(func() {
		ctx, cancel := context.WithTimeout(c.ctx, patience)
		defer cancel()
		found, err := c.Store.FindAllDue(ctx)
		if err != nil {
			c.failed("find all due deliveries", err)
			c.foundAll <- nil
			return
		}
		c.failing.Delete("find all due deliveries")
		oldest := found.At
		for _, d := range found.Due {
			if d.DueAt.Before(oldest) {
				oldest = d.DueAt
			}
		}
		c.Metrics.Gauge(MetricOldestDue, found.At.Sub(oldest).Seconds(), "Seconds")
		c.foundAll <- found.Due
		c.cleanUp(found.Deleted)
	})
}

// cleanUp deletes old leases and ends the deliveries of deleted destinations, unless the
// cleaning of the full look before is still at it.
func (c *relaying) cleanUp(deleted []uuid.UUID) {
	if c.cleaning.Swap(true) {
		return
	}
	defer c.cleaning.Store(false)
	c.try("delete old leases", func(ctx context.Context) error { return c.Store.ExpireLeases(ctx, endBatch) })
	for n := endBatch; len(deleted) > 0 && n >= endBatch && c.runCtx.Err() == nil; {
		n = 0
		c.try("end deliveries of deleted destinations", func(ctx context.Context) (err error) {
			n, err = c.Store.EndDeliveries(ctx, deleted, endBatch)
			return err
		})
	}
}

// claimInTurn claims from one destination after another, until the next look is due or
// no call is free.
func (c *relaying) claimInTurn() {
	for c.runCtx.Err() == nil && time.Now().Before(c.nextLook) && !c.resting() && c.running < c.MaxCalls && c.held < maxHeld {
		d := c.turns.next(time.Now(), c.MaxCalls-c.running, maxHeld-c.held)
		if d == nil {
			return
		}
		c.claim(d)
	}
}

// claim claims from one destination, and starts a call with the deliveries.
func (c *relaying) claim(d *destination) {
	request := promise.ClaimRequest{
		Destination: d.id, Since: d.since, Lease: uuid.New(), LeaseTime: leaseTime, Limit: maxClaim, Bytes: maxBatch - maxBatch/32,
		Largest: maxPosted, DestinationCalls: destinationCalls, TenantCalls: tenantCalls,
	}
	var claim promise.Claim
	if !c.try("claim deliveries", func(ctx context.Context) (err error) {
		claim, err = c.Store.ClaimDeliveries(ctx, request)
		return err
	}) {
		return
	}
	now := time.Now()
	switch claim.Status {
	case promise.ClaimTenantFull:
		d.tenant.restUntil = now.Add(fullRest)
	case promise.ClaimDestinationFull:
		d.restUntil = now.Add(fullRest)
	case promise.ClaimLocked:
		d.restUntil = now.Add(lockedRest)
	default:
		if claim.Next != nil {
			d.since = *claim.Next
		} else {
			c.turns.done(d)
		}
	}
	if len(claim.Deliveries) == 0 {
		return
	}
	started := &call{Relay: c.Relay, request: request, claim: claim, of: d, size: sizeOf(claim)}
	d.begin(started.size)
	c.running, c.held = c.running+1, c.held+started.size
	c.calls.Go(func() {
		defer func() { c.ended <- started }()
		c.run(started)
	})
}

// wait waits until the next look is due, a call ends or the run ends.
func (c *relaying) wait() {
	pause := time.Until(c.nextLook)
	if c.resting() {
		pause = max(pause, time.Until(time.Unix(0, c.restUntil.Load())))
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case ended := <-c.ended:
		for more := true; more; {
			c.turns.end(ended.of, ended.size)
			c.running, c.held = c.running-1, c.held-ended.size
			select {
			case ended = <-c.ended:
			default:
				more = false
			}
		}
	case <-timer.C:
	case <-c.runCtx.Done():
	}
}

// sizeOf estimates the memory that a claim takes.
func sizeOf(claim promise.Claim) (size int) {
	for _, d := range claim.Deliveries {
		size += 4 * (1<<10 + len(d.Promise.Value) + len(d.Promise.Metadata))
		if d.Promise.Message != nil {
			size += 4 * len(*d.Promise.Message)
		}
	}
	return size
}
