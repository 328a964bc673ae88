package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
)

// A tenantClient is a tenant's client of the HTTP API.
type tenantClient struct {
	http *http.Client
	url  string // base of the tenant's resources
	key  string // an API key
}

// call makes one call and returns its answer with any status. It returns errShortened if a wait was shortened.
func (c tenantClient) call(ctx context.Context, method, path, body string) (status int, text []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, method, c.url+path, strings.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.key != "" {
		req.Header.Set("Authorization", "Bearer "+c.key)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	text, err = io.ReadAll(resp.Body)
	if err == nil && resp.Header.Get("Retry-After") != "" && resp.StatusCode == http.StatusOK {
		err = errShortened
	}
	return resp.StatusCode, text, err
}

// errShortened is the error of a wait that returned at once, because the tenant has too many waits.
var errShortened = errors.New("the wait was shortened")

// newTenantClient creates the tenant, if it does not exist, and an API key with those scopes.
func (r *runner) newTenantClient(ctx context.Context, slug string, scopes ...string) (tenantClient, error) {
	if err := r.manage(ctx, map[string]any{"action": "create-tenant", "slug": slug}, nil); err != nil {
		return tenantClient{}, err
	}
	var made struct{ APIKey string }
	err := r.manage(ctx, map[string]any{"action": "create-key", "tenant": slug, "name": "bench", "scopes": scopes}, &made)
	return tenantClient{http: r.client, url: r.HTTPURL + "/api/tenants/" + slug, key: made.APIKey}, err
}

// manage invokes manage-tenants.
func (r *runner) manage(ctx context.Context, payload, answer any) error {
	text, err := json.Marshal(payload)
	if err != nil {
		return err
	}
	status, err := r.post(ctx, r.LambdaURL+"/2015-03-31/functions/manage-tenants/invocations", string(text), answer)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("manage-tenants answered %d", status)
	}
	return err
}

// measureNeighbour runs the workflows of an honest tenant alone and beside a hostile one, in turns.
func measureNeighbour(ctx context.Context, c *cluster, o options, screen *progress) (_ neighbourReport, err error) {
	report := neighbourReport{Machine: thisMachine(ctx, c)}
	db, err := c.load(ctx, 20_000, 10_000, screen)
	if err != nil {
		return report, err
	}
	p, err := build(ctx, c.dir, screen)
	if err != nil {
		return report, err
	}
	service, err := p.startLocal(ctx, db.url)
	if err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, service.stop()) }()
	honest, err := service.newTenantClient(ctx, "honest", "create", "settle", "read")
	if err != nil {
		return report, err
	}
	neighbour, err := newHostile(ctx, service)
	if err != nil {
		return report, err
	}
	const turns = 3
	alone, beside := newRecord(), newRecord()
	for turn := range turns {
		for name, into := range map[string]*record{"alone": alone, "beside": beside} {
			screen.say("%s: turn %d of %d", name, turn+1, turns)
			end := func() {}
			if into == beside {
				end = neighbour.begin(ctx)
			}
			runWorkflows(ctx, honest, into, o.neighbour/(2*turns))
			end()
		}
	}
	report.Honest, report.Failures = compare(alone, beside), append(alone.failures, beside.failures...)
	report.Hostile = neighbour.statuses()
	return report, ctx.Err()
}

// A record keeps the times of the honest tenant's calls, and a line for each failure.
type record struct {
	mu       sync.Mutex
	took     map[string][]time.Duration
	failures []string
}

func newRecord() *record { return &record{took: map[string][]time.Duration{}} }

func (r *record) add(operation string, took time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.took[operation] = append(r.took[operation], took)
}

func (r *record) fail(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failures = append(r.failures, fmt.Sprintf(format, args...))
}

// runWorkflows runs four workflows of the honest tenant for d, and at least one round of each.
func runWorkflows(ctx context.Context, client tenantClient, r *record, d time.Duration) {
	begun := time.Now()
	var workflows sync.WaitGroup
	for range 4 {
		workflows.Go(func() {
			for first := true; ctx.Err() == nil && (first || time.Since(begun) < d); first = false {
				w := workflow{client, r, uuid.NewString()}
				w.round(ctx)
			}
		})
	}
	workflows.Wait()
}

// A workflow is one workflow execution of the honest tenant.
type workflow struct {
	tenantClient
	*record
	id string
}

// expect makes a call and records its time. It records a failure and returns false if the status is not want.
func (w workflow) expect(ctx context.Context, operation string, want int, method, path, body string, answer any) bool {
	begun := time.Now()
	status, text, err := w.call(ctx, method, path, body)
	took := time.Since(begun)
	switch {
	case ctx.Err() != nil:
		return false
	case err != nil:
		w.fail("%s: %v", operation, err)
		return false
	case status != want:
		w.fail("%s: answered %d after %v: %s", operation, status, took.Round(time.Millisecond), text)
		return false
	}
	w.add(operation, took)
	if err := json.Unmarshal(text, answer); err != nil {
		w.fail("%s: %v", operation, err)
		return false
	}
	return true
}

type promiseAnswer struct{ PromiseID, State, Outcome string }

// round creates two promises. One is settled while the workflow waits for it, the other by its deadline. Finally it checks
// that the workflow's event log is complete.
func (w workflow) round(ctx context.Context) {
	key := uuid.NewString()
	var made, settled, waited promiseAnswer
	if !w.expect(ctx, "create", http.StatusCreated, "POST", "/promises",
		`{"workflowExecutionId":"`+w.id+`","name":"payment","idempotencyKey":"`+key+`","timeoutMs":3600000}`, &made) {
		return
	}
	var waiting sync.WaitGroup
	var woken time.Time
	waiting.Go(func() {
		if w.expect(ctx, "wait", http.StatusOK, "GET", "/promises/id:"+made.PromiseID+"/wait?waitSeconds=20", "", &waited) {
			woken = time.Now()
		}
	})
	var list struct{ Promises []promiseAnswer }
	w.expect(ctx, "get", http.StatusOK, "GET", "/promises/key:"+key, "", &promiseAnswer{})
	if w.expect(ctx, "list", http.StatusOK, "GET", "/promises?workflowExecutionId="+w.id, "", &list) && len(list.Promises) != 1 {
		w.fail("list: %d promises of 1", len(list.Promises))
	}
	sent := time.Now()
	if w.expect(ctx, "settle", http.StatusOK, "POST", "/promises/key:"+key+"/resolve", `{"value":{"paid":true}}`, &settled) &&
		settled.Outcome != "settled" {
		w.fail("settle: %s", settled.Outcome)
	}
	waiting.Wait()
	switch {
	case ctx.Err() != nil || woken.IsZero():
	case waited.State != "resolved":
		w.fail("wait: %s", waited.State)
	default:
		w.add("settle to waiter", woken.Sub(sent))
	}
	w.expire(ctx)
}

// expire creates a promise with a short deadline and waits for its event.
func (w workflow) expire(ctx context.Context) {
	due := time.Now().Add(200 * time.Millisecond)
	if !w.expect(ctx, "create", http.StatusCreated, "POST", "/promises", `{"workflowExecutionId":"`+w.id+
		`","name":"approval","timeoutAt":"`+due.Format(time.RFC3339Nano)+`","onTimeout":{"reject":"too late"}}`, &promiseAnswer{}) {
		return
	}
	var log struct {
		Events []struct {
			SequenceNumber int
			EventType      string
		}
	}
	for after := 3; len(log.Events) == 0; { // the deadline's event is the fourth
		if !w.expect(ctx, "wait for events", http.StatusOK, "GET",
			fmt.Sprintf("/workflows/%s/events/wait?after=%d&waitSeconds=20", w.id, after), "", &log) {
			return
		}
	}
	w.add("deadline to event", time.Since(due))
	if !w.expect(ctx, "events", http.StatusOK, "GET", "/workflows/"+w.id+"/events", "", &log) {
		return
	}
	var types []string
	for i, e := range log.Events {
		types = append(types, e.EventType)
		if e.SequenceNumber != i+1 {
			w.fail("events: %d is followed by %d", i, e.SequenceNumber)
		}
	}
	if want := []string{"PROMISE_CREATED", "PROMISE_RESOLVED", "PROMISE_CREATED", "PROMISE_TIMEOUT"}; !slices.Equal(types, want) {
		w.fail("events: %v", types)
	}
}
