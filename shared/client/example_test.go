package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/google/uuid"

	"github.com/flovyn/promises/shared/client"
)

// A Payment is the value of the examples' promises.
type Payment struct {
	Status string `json:"status"`
	Amount int    `json:"amount"`
}

// A workflow creates a promise and awaits it. An outside party, which knows the order's number, resolves it.
func Example() {
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	baseURL, tenant, apiKey := local.HTTPURL, local.Tenant, local.APIKey // the local runner prints them

	c, err := client.New(baseURL, tenant, apiKey)
	if err != nil {
		fmt.Println(err)
		return
	}
	created, err := c.Create(ctx, client.Create{
		Workflow: client.WorkflowID("orders/7"), Name: "payment", Key: "order-7", Timeout: 24 * time.Hour,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(created.State, created.Identifier)

	go func() { // the outside party
		result, err := c.Resolve(ctx, client.Key("order-7"), Payment{Status: "paid", Amount: 4200})
		if err != nil || result.State != client.Resolved {
			fmt.Println(result, err)
		}
	}()

	payment, err := client.Await[Payment](ctx, c, created.Identifier)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(payment.Status, payment.Amount)
	// Output:
	// pending key:order-7
	// paid 4200
}

// newTestClient returns a client of a local runner that was started with --ready-file.
func newTestClient(readyFile string) (*client.Client, error) {
	text, err := os.ReadFile(readyFile)
	if err != nil {
		return nil, err
	}
	var ready struct{ HTTPURL, Tenant, APIKey string }
	if err := json.Unmarshal(text, &ready); err != nil {
		return nil, err
	}
	return client.New(ready.HTTPURL, ready.Tenant, ready.APIKey)
}

func ExampleNew() {
	c, err := newTestClient(local.readyFile)
	if err != nil {
		fmt.Println(err)
		return
	}
	_, err = c.Get(background(), client.Key("unknown"))
	fmt.Println(errors.Is(err, client.CodeNotFound))
	// Output: true
}

// The deadline resolves the promise with a value, in place of timed_out.
func ExampleClient_Create() {
	c, ctx := connect(), background()
	order := client.Create{
		Workflow:  client.WorkflowID("orders/8"),
		Name:      "payment",
		Key:       "stripe:ch_8/b", // a key that a path cannot carry as it is
		Timeout:   24 * time.Hour,
		OnTimeout: client.ResolveOnTimeout(Payment{Status: "unpaid"}),
		Metadata:  map[string]string{"customer": "c-17"},
	}
	created, err := c.Create(ctx, order)
	fmt.Println(created.New, created.State, created.Identifier, err)

	again, err := c.Create(ctx, order) // as after a lost answer
	fmt.Println(again.New, again.PromiseID == created.PromiseID, err)

	order.Workflow = client.WorkflowID("orders/9")
	_, err = c.Create(ctx, order)
	var e *client.Error
	fmt.Println(errors.Is(err, client.CodeKeyConflict), errors.As(err, &e) && e.ExistingPromiseID == created.PromiseID)
	// Output:
	// true pending key64:c3RyaXBlOmNoXzgvYg <nil>
	// false true <nil>
	// true true
}

// A party without an account gets a URL that settles this promise alone.
func ExampleClient_Create_tokens() {
	c, ctx := connect(), background()
	created, err := c.Create(ctx, client.Create{
		Workflow: client.WorkflowID("orders/10"), Name: "approval",
		Tokens: &client.Tokens{Verbs: []string{"resolve", "reject"}, TTL: 24 * time.Hour},
	})
	fmt.Println(created.ResolveURL != "", created.RejectURL != "", err) // the URLs are secrets: send each to its party alone
	_, _, err = c.RevokeTokens(ctx, created.Identifier)
	fmt.Println(err)
	// Output:
	// true true <nil>
	// <nil>
}

// The first settlement stays. The same one again is a duplicate, which is a success.
func ExampleClient_Resolve() {
	c, ctx := connect(), background()
	id := pendingPromise(c, "resolve").Identifier

	for _, value := range []Payment{{Status: "paid"}, {Status: "paid"}, {Status: "refunded"}} {
		result, err := c.Resolve(ctx, id, value)
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(result.Outcome, result.State)
	}

	_, err := c.Resolve(ctx, id, Payment{Status: "refunded"}, client.Strict())
	if errors.Is(err, client.CodeConflict) {
		fmt.Println("strict:", client.CodeConflict)
	}
	// Output:
	// settled resolved
	// duplicate resolved
	// conflict resolved
	// strict: conflict
}

// A settlement may come before its promise: it is held for it.
func ExampleHold() {
	c, ctx := connect(), background()
	early, err := c.Resolve(ctx, client.Key("order-11"), "shipped", client.Hold(time.Hour), client.Comment("from the warehouse"))
	fmt.Println(early.Outcome, err)

	created, err := c.Create(ctx, client.Create{Workflow: client.WorkflowID("orders/11"), Name: "shipment", Key: "order-11"})
	fmt.Println(created.State, string(created.Value), created.Comment, err)
	// Output:
	// held <nil>
	// resolved "shipped" from the warehouse <nil>
}

func ExampleClient_Reject() {
	c, ctx := connect(), background()
	id := pendingPromise(c, "reject").Identifier
	result, err := c.Reject(ctx, id, "the card was declined")
	fmt.Println(result.Outcome, result.State, err)
	// Output: settled rejected <nil>
}

func ExampleClient_Cancel() {
	c, ctx := connect(), background()
	id := pendingPromise(c, "cancel").Identifier
	result, err := c.Cancel(ctx, id, client.Reason("the order was withdrawn"))
	fmt.Println(result.Outcome, result.State, err)

	_, err = c.Resolve(ctx, id, "too late", client.Strict())
	fmt.Println(errors.Is(err, client.CodeCancelled))
	// Output:
	// settled cancelled <nil>
	// true
}

// A promise that was not resolved is an error with the promise.
func ExampleAwait() {
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	c := connect()
	id := pendingPromise(c, "await").Identifier
	if _, err := c.Reject(ctx, id, "the card was declined"); err != nil {
		fmt.Println(err)
		return
	}

	payment, err := client.Await[Payment](ctx, c, id)
	var settled *client.SettledError
	switch {
	case err == nil:
		fmt.Println("paid:", payment.Amount)
	case errors.As(err, &settled) && settled.Promise.State == client.Rejected:
		fmt.Println("rejected:", settled.Promise.Error)
	case errors.As(err, &settled): // cancelled or timed_out
		fmt.Println(settled.Promise.State)
	case errors.Is(err, context.DeadlineExceeded):
		fmt.Println("still pending: await it again later")
	default:
		fmt.Println(err)
	}
	// Output: rejected: the card was declined
}

func ExampleClient_Await() {
	ctx, stop := context.WithTimeout(context.Background(), 1500*time.Millisecond)
	defer stop()
	c := connect()
	id := pendingPromise(c, "await-method").Identifier

	_, err := c.Await(ctx, id)
	fmt.Println(errors.Is(err, context.DeadlineExceeded))

	if _, err := c.Resolve(background(), id, json.RawMessage(`{"status": "paid"}`)); err != nil {
		fmt.Println(err)
	}
	p, err := c.Await(background(), id)
	fmt.Println(p.State, string(p.Value), err) // byte for byte
	// Output:
	// true
	// resolved {"status": "paid"} <nil>
}

func ExampleValue() {
	p, err := connect().Get(background(), pendingPromise(connect(), "value").Identifier)
	if err != nil {
		fmt.Println(err)
	}
	_, err = client.Value[Payment](p)
	fmt.Println(err)
	// Output: promises: the promise is pending
}

func ExampleClient_Extend() {
	c, ctx := connect(), background()
	id := pendingPromise(c, "extend").Identifier
	p, err := c.Extend(ctx, id, client.NewDeadline{After: time.Hour})
	fmt.Println(time.Until(p.TimeoutAt) > 50*time.Minute, err)
	// Output: true <nil>
}

func ExampleClient_Delete() {
	c, ctx := connect(), background()
	id := pendingPromise(c, "delete").Identifier
	_, err := c.Delete(ctx, id)
	fmt.Println(errors.Is(err, client.CodeConflict)) // it is pending

	if _, err := c.Resolve(ctx, id, "a personal text"); err != nil {
		fmt.Println(err)
	}
	p, err := c.Delete(ctx, id)
	fmt.Println(p.State, p.Value == nil, !p.ErasedAt.IsZero(), err)
	// Output:
	// true
	// resolved true true <nil>
}

func ExampleClient_BatchResolve() {
	c, ctx := connect(), background()
	first, second := pendingPromise(c, "batch-1"), pendingPromise(c, "batch-2")
	results, err := c.BatchResolve(ctx, []client.Item{
		{Promise: first.Identifier, Value: Payment{Status: "paid"}},
		{Promise: second.Identifier, Error: new("the card was declined")},
		{Promise: client.Key("order-unknown"), Value: 1},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, r := range results {
		fmt.Println(r.Outcome, r.State, errors.Is(r.Err, client.CodeNotFound))
	}
	// Output:
	// settled resolved false
	// settled rejected false
	//   true
}

func ExampleClient_List() {
	c, ctx := connect(), background()
	workflow := client.WorkflowID("orders/list")
	for _, name := range []string{"payment", "shipment", "invoice"} {
		if _, err := c.Create(ctx, client.Create{Workflow: workflow, Name: name}); err != nil {
			fmt.Println(err)
		}
	}
	for p, err := range c.List(ctx, client.Filter{Workflow: workflow, State: client.Pending, PageSize: 2}) {
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(p.Name)
	}
	// Output:
	// invoice
	// shipment
	// payment
}

// An engine keeps the number of the last event that it has handled.
func ExampleClient_Events() {
	c, ctx := connect(), background()
	created := pendingPromise(c, "events")
	if _, err := c.Resolve(ctx, created.Identifier, Payment{Status: "paid"}); err != nil {
		fmt.Println(err)
	}
	after := 0
	for e, err := range c.Events(ctx, client.WorkflowExecutionID(created.WorkflowExecutionID), after) {
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(e.SequenceNumber, e.EventType)
		after = e.SequenceNumber
	}
	fmt.Println("go on after", after)
	// Output:
	// 1 PROMISE_CREATED
	// 2 PROMISE_RESOLVED
	// go on after 2
}

func ExampleClient_WaitEvents() {
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	c := connect()
	created := pendingPromise(c, "wait-events")
	workflow := client.WorkflowExecutionID(created.WorkflowExecutionID)

	events, after, err := c.WaitEvents(ctx, workflow, 0)
	fmt.Println(len(events), after, err)

	go c.Resolve(ctx, created.Identifier, 1) //nolint:errcheck // the wait below fails without it
	events, after, err = c.WaitEvents(ctx, workflow, after)
	fmt.Println(events[0].EventType, after, err)
	// Output:
	// 1 1 <nil>
	// PROMISE_RESOLVED 2 <nil>
}

func ExampleError() {
	c := connect()
	_, err := c.Get(background(), client.ID(uuid.Nil))
	var e *client.Error
	if errors.As(err, &e) {
		fmt.Println(e.Op, e.Code, e.Status, e.Temporary, e.MaybeApplied)
	}
	fmt.Println(errors.Is(err, client.CodeNotFound))
	// Output:
	// get-promise not_found 404 false false
	// true
}

func ExampleKey() {
	fmt.Println(client.Key("stripe:ch_abc123"))
	fmt.Println(client.Key("a/b"))
	fmt.Println(client.ID(uuid.MustParse("3f0c1c9e-8f4b-4c57-9a1e-3b1c2d4e5f60")))
	// Output:
	// key:stripe:ch_abc123
	// key64:YS9i
	// id:3f0c1c9e-8f4b-4c57-9a1e-3b1c2d4e5f60
}

func ExampleParseIdentifier() {
	id, err := client.ParseIdentifier("key64:YS9i") // as a text that was handed out
	fmt.Println(id == client.Key("a/b"), err)
	_, err = client.ParseIdentifier("a/b")
	fmt.Println(err)
	// Output:
	// true <nil>
	// promises: invalid_identifier: An identifier begins with id:, key: or key64:.
}

// pendingPromise creates a promise in a workflow execution of its own.
func pendingPromise(c *client.Client, name string) client.Created {
	created, err := c.Create(background(), client.Create{Workflow: client.WorkflowExecutionID(uuid.New()), Name: name})
	if err != nil {
		panic(err)
	}
	return created
}
