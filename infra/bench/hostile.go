package main

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/flovyn/promises/shared/auth"
)

// A hostile is a tenant that does its worst, and strangers without a credential beside it. It does not try to fill the processors:
// between two calls each of its clients pauses.
type hostile struct {
	service  *runner
	creator  customer // with the scope create alone
	settler  customer // with settle alone
	reader   customer // with read alone
	stranger customer // without a key

	pending  string // a promise that nothing settles
	workflow string // its workflow execution, of many promises

	mu   sync.Mutex
	seen map[string]map[int]int // how often each act was answered with each status
}

const hostilePause = 250 * time.Millisecond

func newHostile(ctx context.Context, r *runner) (*hostile, error) {
	h := &hostile{service: r, workflow: uuid.NewString(), seen: map[string]map[int]int{}}
	for scope, into := range map[string]*customer{"create": &h.creator, "settle": &h.settler, "read": &h.reader} {
		made, err := r.newCustomer(ctx, "hostile", scope)
		if err != nil {
			return nil, err
		}
		*into = made
	}
	h.stranger = customer{http: r.client, url: h.reader.url}
	// A quota that it reaches in a short run: the default one is 64 MiB.
	err := r.manage(ctx, map[string]any{"action": "set-limits", "slug": "hostile", "heldBytes": 4 << 20}, nil)
	if err != nil {
		return nil, err
	}
	for i := range 500 {
		status, text, err := h.creator.call(ctx, "POST", "/promises",
			fmt.Sprintf(`{"workflowExecutionId":%q,"name":"p%d","idempotencyKey":"p%d"}`, h.workflow, i, i))
		if err != nil || status != http.StatusCreated {
			return nil, fmt.Errorf("the hostile tenant's create answered %d %s: %w", status, text, err)
		}
	}
	h.pending = "key:p0"
	return h, nil
}

// begin does all of it at once. end stops it, and returns when it has.
func (h *hostile) begin(ctx context.Context) (end func()) {
	ctx, cancel := context.WithCancel(ctx)
	var clients sync.WaitGroup
	for _, act := range []struct {
		name    string
		clients int
		do      func(context.Context) (status int, err error)
	}{
		{"large deadlines", 4, h.largeDeadline},
		{"waits", 26, h.wait}, // more than it may, and no more than the runner has room for beside the honest tenant's
		{"waits for events", 10, h.waitForEvents},
		{"lists", 4, h.list},
		{"early settlements", 4, h.hold},
		{"made-up API keys", 4, h.madeUpKey},
		{"garbage on callbacks", 4, h.garbage},
		{"slow bodies", 40, h.slowBody},
	} {
		for range act.clients {
			clients.Go(func() {
				for ctx.Err() == nil {
					status, err := act.do(ctx)
					if ctx.Err() == nil && (err == nil || status != 0) {
						h.count(act.name, status)
					}
					select {
					case <-ctx.Done():
					case <-time.After(hostilePause):
					}
				}
			})
		}
	}
	return func() {
		cancel()
		clients.Wait()
	}
}

func (h *hostile) count(act string, status int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.seen[act] == nil {
		h.seen[act] = map[int]int{}
	}
	h.seen[act][status]++
}

// statuses returns what was counted.
func (h *hostile) statuses() map[string]map[int]int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return maps.Clone(h.seen)
}

// largeDeadline creates a promise with a default outcome of 512 KB, due together with many others. Each fourth deadline
// was in the year 1.
func (h *hostile) largeDeadline(ctx context.Context) (int, error) {
	due := time.Now().Truncate(2 * time.Second).Add(4 * time.Second)
	if rand.IntN(4) == 0 { //nolint:gosec // no secret
		due = time.Date(1, 1, 2, 0, 0, 0, 0, time.UTC)
	}
	status, _, err := h.creator.call(ctx, "POST", "/promises", `{"workflowExecutionId":"`+uuid.NewString()+`","name":"n","timeoutAt":"`+
		due.Format(time.RFC3339)+`","onTimeout":{"resolve":"`+strings.Repeat("x", 512<<10)+`"}}`)
	return status, err
}

func (h *hostile) wait(ctx context.Context) (int, error) {
	status, _, err := h.reader.call(ctx, "GET", "/promises/"+h.pending+"/wait?waitSeconds=25", "")
	return status, err
}

func (h *hostile) waitForEvents(ctx context.Context) (int, error) {
	status, _, err := h.reader.call(ctx, "GET", "/workflows/"+h.workflow+"/events/wait?after=500&waitSeconds=25", "")
	return status, err
}

// list reads what takes the most work to find.
func (h *hostile) list(ctx context.Context) (int, error) {
	query := []string{
		"workflowExecutionId=" + h.workflow, "workflowExecutionId=" + h.workflow + "&state=cancelled", "state=timed_out", "state=resolved", "",
		"state=pending&timeoutBefore=2100-01-01T00:00:00Z",
	}[rand.IntN(6)] //nolint:gosec // no secret
	status, _, err := h.reader.call(ctx, "GET", "/promises?limit=100&"+query, "")
	return status, err
}

// hold stores an early settlement for a promise that nobody will create.
func (h *hostile) hold(ctx context.Context) (int, error) {
	status, _, err := h.settler.call(ctx, "POST", "/promises/key:"+uuid.NewString()+"/resolve",
		`{"holdSeconds":604800,"value":"`+strings.Repeat("x", 256<<10)+`"}`)
	return status, err
}

// madeUpKey calls with a well-formed API key that does not exist.
func (h *hostile) madeUpKey(ctx context.Context) (int, error) {
	c := h.stranger
	c.key = auth.NewAPIKey()
	status, _, err := c.call(ctx, "GET", "/promises", "")
	return status, err
}

func (h *hostile) garbage(ctx context.Context) (int, error) {
	status, _, err := h.stranger.call(ctx, "POST", "/callbacks/id:"+uuid.NewString()+"/resolve?token=eyJhbGciOiJub25lIn0.e30."+uuid.NewString(),
		strings.Repeat("[", 64<<10))
	return status, err
}

// slowBody sends a byte of a large body every half a second. The status is 0.
func (h *hostile) slowBody(ctx context.Context) (int, error) {
	conn, err := net.Dial("tcp", strings.TrimPrefix(h.service.HTTPURL, "http://"))
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	text := "POST /api/tenants/hostile/callbacks/id:" + uuid.NewString() + "/resolve?token=x HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5000000\r\n\r\n"
	for n := 0; ctx.Err() == nil && n < 4; n++ {
		if _, err := conn.Write([]byte(text)); err != nil {
			return 0, err
		}
		text = "x"
		select {
		case <-ctx.Done():
		case <-time.After(500 * time.Millisecond):
		}
	}
	return 0, nil
}
