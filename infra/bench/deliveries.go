package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/shirou/gopsutil/v4/process"
	"golang.org/x/sync/errgroup"
)

const (
	deliveryTurns        = 4
	deliveryDestinations = 4 // the receiver is registered under so many names
	deliveryPatience     = 2 * time.Minute
	maxIdleTime          = 10 * time.Second

	// pollLead is the time from a waiter's call to the settlement. It makes about a dozen calls wait at once, at 50 settlements a
	// second.
	pollLead = 250 * time.Millisecond
)

// A deliveryTest measures how soon a settlement reaches its waiter, by a delivery and by a wait.
type deliveryTest struct {
	client   tenantClient
	receiver *receiver
	service  *process.Process // the runner's
	meter    meter
	screen   *progress
	rate     int
}

// measureDeliveries measures the service's own functions with a receiver on this machine: single deliveries beside waits, in turns, then a
// backlog, and the cost at rest.
func measureDeliveries(ctx context.Context, c *cluster, o options, screen *progress) (_ deliveryReport, err error) {
	report := deliveryReport{Machine: thisMachine(ctx, c), Rate: o.rate}
	db, err := c.load(ctx, 10_000, 10, screen)
	if err != nil {
		return report, err
	}
	p, err := build(ctx, c.dir, screen)
	if err != nil {
		return report, err
	}
	service, err := p.startLocal(ctx, db.url, "MAX_WAITS=200")
	if err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, service.stop()) }()
	d, err := newDeliveryTest(ctx, service, db, o, screen)
	if err != nil {
		return report, err
	}
	defer func() {
		d.meter.monitor.Close()
		err = errors.Join(err, d.receiver.stop())
	}()
	if report.Delivered, report.Polled, err = d.inTurns(ctx, o.deliveryTime); err != nil {
		return report, err
	}
	if report.Backlog, err = d.backlog(ctx, o.backlog); err != nil {
		return report, err
	}
	report.Idle, err = d.idle(ctx, min(maxIdleTime, o.deliveryTime))
	report.Repeated = d.receiver.repetitions()
	return report, err
}

func newDeliveryTest(ctx context.Context, service *runner, db *dataset, o options, screen *progress) (*deliveryTest, error) {
	d := &deliveryTest{
		client: tenantClient{http: service.client, url: service.HTTPURL + "/api/tenants/" + tenant, key: service.APIKey},
		screen: screen, rate: o.rate,
	}
	var err error
	if d.service, err = process.NewProcess(int32(service.cmd.Process.Pid)); err != nil {
		return nil, err
	}
	if d.meter, err = newMeter(ctx, db); err != nil {
		return nil, err
	}
	d.meter.callers = d.service
	if d.receiver, err = startReceiver(); err != nil {
		return nil, err
	}
	return d, d.register(ctx, true)
}

// destination returns the name under which the n-th promise's target is registered.
func destination(n int) string { return fmt.Sprintf("bench-%d", n%deliveryDestinations) }

// register registers the receiver as every destination, and enables or pauses it.
func (d *deliveryTest) register(ctx context.Context, enabled bool) error {
	for n := range deliveryDestinations {
		body := fmt.Sprintf(`{"kind":"https","url":%q,"enabled":%t}`, d.receiver.url, enabled)
		status, text, err := d.client.call(ctx, http.MethodPut, "/destinations/"+destination(n), body)
		if err == nil && status/100 != 2 {
			err = fmt.Errorf("PUT of a destination answered %d %s", status, text)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// inTurns measures deliveries and waits in turns, for about the given time each.
func (d *deliveryTest) inTurns(ctx context.Context, each time.Duration) (delivered, polled wakeups, err error) {
	n := max(1, int(each.Seconds()*float64(d.rate)/deliveryTurns))
	for turn := range deliveryTurns + 1 {
		count := n
		if turn == 0 { // starts the processes; not counted
			count = min(n, d.rate)
		}
		for name, into := range map[string]*wakeups{"delivery": &delivered, "wait": &polled} {
			d.screen.say("%s, %d settlements a second: turn %d of %d", name, d.rate, turn, deliveryTurns)
			w, err := d.wakeUp(ctx, count, into == &delivered)
			if err != nil {
				return delivered, polled, fmt.Errorf("%s: %w", name, err)
			}
			if turn > 0 {
				into.add(w)
			}
		}
	}
	delivered.finish()
	polled.finish()
	return delivered, polled, nil
}

// wakeUp settles n new promises at the rate, and measures the time from each answer to the waiter.
func (d *deliveryTest) wakeUp(ctx context.Context, n int, deliver bool) (w wakeups, err error) {
	promises, err := d.create(ctx, n, deliver)
	if err != nil {
		return w, err
	}
	before, err := d.cpu(ctx)
	if err != nil {
		return w, err
	}
	var waiting *waiters
	if !deliver {
		waiting = newWaiters()
	}
	answered, err := d.settleAtRate(ctx, promises, waiting)
	if err != nil {
		return w, err
	}
	var woken map[uuid.UUID]time.Time
	if deliver {
		woken, err = d.receiver.await(ctx, promises, deliveryPatience)
	} else {
		woken, err = waiting.await()
	}
	if err != nil {
		return w, err
	}
	after, err := d.cpu(ctx)
	if err != nil {
		return w, err
	}
	for id, at := range answered {
		w.times = append(w.times, max(0, woken[id].Sub(at)))
	}
	w.cpu = after.minus(before)
	return w, nil
}

// create creates n promises, with eight calls at once, and returns their ids.
func (d *deliveryTest) create(ctx context.Context, n int, notify bool) ([]uuid.UUID, error) {
	promises := make([]uuid.UUID, n)
	calls, ctx := errgroup.WithContext(ctx)
	calls.SetLimit(8)
	for i := range promises {
		calls.Go(func() error {
			targets := ""
			if notify {
				targets = fmt.Sprintf(`{"destination":%q}`, destination(i))
			}
			status, text, err := d.client.call(ctx, http.MethodPost, "/promises",
				fmt.Sprintf(`{"workflowExecutionId":%q,"name":"payment","timeoutMs":86400000,"notify":[%s]}`, uuid.NewString(), targets))
			if err == nil && status != http.StatusCreated {
				err = fmt.Errorf("create answered %d %s", status, text)
			}
			if err != nil {
				return err
			}
			var made struct {
				PromiseID uuid.UUID `json:"promiseId"`
			}
			err = json.Unmarshal(text, &made)
			promises[i] = made.PromiseID
			return err
		})
	}
	return promises, calls.Wait()
}

// settleAtRate settles the promises without waiting for earlier calls, and returns the time of each answer. If w is not nil, a
// waiter of each promise calls before.
func (d *deliveryTest) settleAtRate(ctx context.Context, promises []uuid.UUID, w *waiters) (map[uuid.UUID]time.Time, error) {
	var mu sync.Mutex
	answered := make(map[uuid.UUID]time.Time, len(promises))
	calls, either := errgroup.WithContext(ctx)
	begun := time.Now().Add(pollLead)
	for i, id := range promises {
		due := begun.Add(time.Duration(i) * time.Second / time.Duration(d.rate))
		time.Sleep(time.Until(due.Add(-pollLead)))
		if w != nil {
			w.start(ctx, d.client, id)
		}
		calls.Go(func() error {
			time.Sleep(time.Until(due))
			status, text, err := d.client.call(either, http.MethodPost, "/promises/id:"+id.String()+"/resolve", `{"value":`+string(value)+`}`)
			now := time.Now()
			if err == nil && status != http.StatusOK {
				err = fmt.Errorf("resolve answered %d %s", status, text)
			}
			mu.Lock()
			defer mu.Unlock()
			answered[id] = now
			return err
		})
	}
	return answered, calls.Wait()
}

// backlog makes n deliveries due at once, and measures how fast they arrive.
func (d *deliveryTest) backlog(ctx context.Context, n int) (b backlog, err error) {
	d.screen.say("backlog: %d promises", n)
	if err := d.register(ctx, false); err != nil {
		return b, err
	}
	promises, err := d.create(ctx, n, true)
	if err != nil {
		return b, err
	}
	if err := d.resolveAll(ctx, promises); err != nil {
		return b, err
	}
	d.screen.say("backlog: %d deliveries", n)
	// A delivery that became due while its destination was paused is found within a minute, and one that has just become due at once.
	if _, err := d.meter.monitor.Exec(ctx, "UPDATE delivery SET due_at = CLOCK_TIMESTAMP() WHERE state = 'due'"); err != nil {
		return b, err
	}
	before, err := d.cpu(ctx)
	if err != nil {
		return b, err
	}
	begun := time.Now()
	if err := d.register(ctx, true); err != nil {
		return b, err
	}
	arrived, err := d.receiver.await(ctx, promises, deliveryPatience)
	if err != nil {
		return b, err
	}
	after, err := d.cpu(ctx)
	if err != nil {
		return b, err
	}
	last := begun
	for _, at := range arrived {
		if at.After(last) {
			last = at
		}
	}
	b.Deliveries, b.Seconds, b.CPU = n, last.Sub(begun).Seconds(), after.minus(before).perThousand(n)
	b.PerSecond = float64(n) / b.Seconds
	return b, nil
}

// resolveAll settles the promises in batches.
func (d *deliveryTest) resolveAll(ctx context.Context, promises []uuid.UUID) error {
	for part := range slices.Chunk(promises, 100) {
		items := make([]map[string]any, len(part))
		for i, id := range part {
			items[i] = map[string]any{"identifier": "id:" + id.String(), "value": json.RawMessage(value)}
		}
		body, err := json.Marshal(map[string]any{"items": items})
		if err != nil {
			return err
		}
		status, text, err := d.client.call(ctx, http.MethodPost, "/promises/batch-resolve", string(body))
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("batch-resolve answered %d %s", status, text)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// idle measures the cost of a service without calls and deliveries, per minute.
func (d *deliveryTest) idle(ctx context.Context, duration time.Duration) (cpuTimes, error) {
	d.screen.say("at rest")
	before, err := d.cpu(ctx)
	if err != nil {
		return before, err
	}
	begun := time.Now()
	select {
	case <-ctx.Done():
		return before, ctx.Err()
	case <-time.After(duration):
	}
	after, err := d.cpu(ctx)
	return after.minus(before).scaled(time.Minute.Seconds() / time.Since(begun).Seconds()), err
}

// cpu returns the CPU time so far of the functions that wake waiters, and of Postgres. A process of theirs that ends takes its time with
// it; the runner ends none of them while there is room.
func (d *deliveryTest) cpu(ctx context.Context) (c cpuTimes, err error) {
	children, err := d.service.ChildrenWithContext(ctx)
	if err != nil {
		return c, err
	}
	for _, child := range children {
		path, err := child.ExeWithContext(ctx)
		if err != nil {
			continue // it has just ended
		}
		used, err := cpuTimeOf(ctx, child)
		if err != nil {
			continue
		}
		switch filepath.Base(filepath.Dir(path)) {
		case "relay-deliveries":
			c.Relay += used.Seconds()
		case "send-deliveries":
			c.Send += used.Seconds()
		case "wait-promise":
			c.Wait += used.Seconds()
		}
	}
	postgres, err := cpuTime(ctx, d.meter.postmaster, false)
	c.Postgres = postgres.Seconds()
	return c, err
}
