package delivery

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"time"

	"github.com/flovyn/promises/shared/promise"
)

// errMessage means that the message of a delivery cannot be made.
var errMessage = errors.New("make a message")

// errSecret means that one destination's secret cannot be decrypted.
var errSecret = errors.New("open a signing secret")

// run sends the deliveries of a call and records their results.
func (c *relaying) run(of *call) {
	begun := time.Now()
	results, err := c.attempt(of)
	if err != nil {
		c.failed("send deliveries", err)
		if errors.Is(err, ErrNotSent) && !errors.Is(err, errSecret) {
			c.rest()
		}
	} else {
		c.failing.Delete("send deliveries")
	}
	report := promise.DeliveryReport{Lease: of.request.Lease, Destination: of.request.Destination, Seen: of.claim.Destination.UpdatedAt}
	var counted []Result
	for _, d := range of.claim.Deliveries {
		result, ok := results[d.ID.String()]
		var record promise.DeliveryRecord
		switch {
		case ok || err == nil:
			record = recordOf(d, result)
		case errors.Is(err, ErrNotSent):
			result = Result{Outcome: Throttled, Error: "not sent: the service has not been able to start its sender"}
			record = recordOf(d, result)
		default:
			result = Result{Outcome: Failed, Error: "the sender stopped before it answered"}
			if errors.Is(err, errMessage) {
				result.Error = "the service could not make or sign the message: see its log"
			}
			record = recordUnanswered(d, result, len(of.claim.Deliveries) == 1)
		}
		if result.Outcome == Disabled {
			report.DisabledBecause = "The destination answered with status 410 (Gone)."
		}
		report.Deliveries = append(report.Deliveries, record)
		counted = append(counted, result)
	}
	c.record(report, begun.Add(leaseTime))
	c.logResults(of, report, counted, time.Since(begun))
}

// attempt sends the deliveries of a call. It returns the results by the deliveries' ids.
// A delivery that has already stopped the sender too often is not sent again.
func (c *relaying) attempt(of *call) (results map[string]Result, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	results = map[string]Result{}
	if d := of.claim.Deliveries[0]; d.Unanswered && d.Attempts > len(delays) {
		results[d.ID.String()] = Result{Outcome: Refused, Error: "no attempt had an answer: the relay or the sender stopped each time"}
		return results, nil
	}
	ctx, cancel := context.WithTimeout(c.ctx, sendTime)
	defer cancel()
	batch, err := c.batch(ctx, of.claim)
	if err != nil {
		return nil, err
	}
	sent, err := c.Sender.Send(ctx, batch)
	for _, result := range sent { // none after an error
		results[result.ID] = result
	}
	return results, err
}

// batch returns the batch of a claim, signed if it goes to an HTTPS receiver.
func (c *relaying) batch(ctx context.Context, claim promise.Claim) (Batch, error) {
	to := claim.Destination
	b := Batch{Destination: Destination{Kind: to.Kind, Address: to.Address, From: to.From, Region: to.Region, RoleARN: to.RoleARN}}
	var secrets []string
	for _, s := range claim.Secrets[:min(len(claim.Secrets), maxActive)] {
		secret, err := c.Open(ctx, to.ID, s.Version, s.Sealed)
		if err != nil {
			return Batch{}, fmt.Errorf("%w: %w: version %d for destination %s: %w", ErrNotSent, errSecret, s.Version, to.ID, err)
		}
		secrets = append(secrets, secret)
	}
	for _, d := range claim.Deliveries {
		p := d.Promise
		if p.State == promise.Pending || p.ResolvedAt == nil {
			return Batch{}, fmt.Errorf("%w: delivery %s is due, but promise %s is pending", errMessage, d.ID, p.ID)
		}
		sent := Delivery{ID: d.ID.String()}
		if to.Kind.TakesToken() {
			completion := NewCompletion(to.Kind, d.Token, p.ID, promise.Result{State: p.State, Value: p.Value, Message: p.Message})
			sent.Completion = &completion
		} else {
			data, reduced := c.Encode(p)
			message := Message{ID: sent.ID, Type: "promise." + string(p.State), Tenant: claim.Tenant, Group: p.WorkflowExecutionID.String()}.
				WithBody(to.Kind, *p.ResolvedAt, data, reduced)
			if to.Kind == HTTPS {
				var err error
				if message.Headers, err = SignHeaders(secrets, message.ID, time.Now(), message.Body); err != nil {
					return Batch{}, fmt.Errorf("%w: sign it for destination %s: %w", errMessage, to.ID, err)
				}
			}
			sent.Message = &message
		}
		b.Deliveries = append(b.Deliveries, sent)
	}
	return b, nil
}

// recordOf returns the record of one attempt's result.
func recordOf(d promise.ClaimedDelivery, r Result) promise.DeliveryRecord {
	record := promise.DeliveryRecord{ID: d.ID, State: promise.DeliveryDead, Counted: true, Status: r.Status, Error: plain(r.Error, MaxError)}
	switch r.Outcome {
	case Delivered:
		record.State, record.Error = promise.DeliveryDelivered, ""
	case Gone:
		record.State, record.Error, record.Reason = promise.DeliveryGone, "", "The task or callback has ended."
		if r.Error != "" {
			record.Reason = plain(r.Error, MaxError)
		}
	case Refused:
	case Disabled: // it waits until the destination is enabled again
		record.State, record.Delay, record.Counted = promise.DeliveryDue, delays[0], r.Status != 0
	default:
		if r.Outcome != Throttled && r.Outcome != Failed {
			r = Result{Outcome: Failed}
			record.Status, record.Error = 0, "the sender did not report this delivery"
		}
		record.Counted = r.Outcome == Failed
		if delay, again := RetryDelay(d.Attempts, r, rand.Float64()); again {
			record.State, record.Delay = promise.DeliveryDue, delay
		}
	}
	return record
}

// recordUnanswered returns the record of an attempt after which the sender did not
// answer. The delivery keeps the lease's mark, so that the next claim counts the attempt
// and takes the delivery alone: it may be the one that stops the sender. If it was alone
// already, it follows the schedule.
func recordUnanswered(d promise.ClaimedDelivery, r Result, alone bool) promise.DeliveryRecord {
	record := recordOf(d, r)
	if record.State == promise.DeliveryDue || !alone {
		record.State, record.Counted, record.Unanswered = promise.DeliveryDue, false, true
	}
	if !alone {
		record.Delay = delays[0]
	}
	return record
}

// record stores the report. While the database is unavailable, it repeats the statement
// until the lease ends: after that the deliveries may belong to another lease.
func (c *relaying) record(report promise.DeliveryReport, leaseEnd time.Time) {
	for c.ctx.Err() == nil {
		var recorded int
		if c.try("record deliveries", func(ctx context.Context) error {
			ids, err := c.Store.RecordDeliveries(ctx, report)
			recorded = len(ids)
			return err
		}) {
			c.count(report, recorded)
			return
		}
		if time.Now().Add(errorRest).After(leaseEnd) {
			return
		}
		sleep(c.ctx, errorRest)
	}
}

// count counts the results of a report.
func (c *relaying) count(report promise.DeliveryReport, recorded int) {
	if recorded < len(report.Deliveries) {
		c.Log.Info("deliveries left their lease before they were recorded", "lease", report.Lease, "sent", len(report.Deliveries), "recorded", recorded)
	}
	for _, d := range report.Deliveries {
		switch {
		case d.State == promise.DeliveryDelivered:
			c.total.delivered.Add(1)
		case d.State == promise.DeliveryDead:
			c.total.dead.Add(1)
			c.total.failed.Add(1)
		case d.State == promise.DeliveryDue && (d.Counted || d.Unanswered):
			c.total.failed.Add(1)
		}
	}
}

// logResults writes a line for each delivery of a call. It leaves out the error of an
// answer by https, which quotes the receiver, and so perhaps the promise's contents.
func (c *relaying) logResults(of *call, report promise.DeliveryReport, results []Result, took time.Duration) {
	for i, d := range report.Deliveries {
		attributes := []any{
			"deliveryId", d.ID, "tenant", of.claim.Tenant, "destination", of.claim.Destination.Name, "kind", of.claim.Destination.Kind,
			"outcome", results[i].Outcome, "state", d.State, "status", d.Status, "ms", took.Milliseconds(),
		}
		if quotes := of.claim.Destination.Kind == HTTPS && d.Status != 0; d.Error != "" && !quotes {
			attributes = append(attributes, "error", d.Error)
		}
		c.Log.Info("delivery attempted", attributes...)
	}
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
