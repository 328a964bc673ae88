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

// A hostile is a tenant that attacks the service, together with callers without a valid credential. Each of its clients
// pauses between two calls, so that the attack does not simply use up the processors.
type hostile struct {
	service  *runner
	creator  tenantClient // with the scope create alone
	settler  tenantClient // with settle alone
	reader   tenantClient // with read alone
	stranger tenantClient // without a key

	pending  string // a promise that stays pending
	workflow string // the workflow execution of that promise, with many promises

	mu   sync.Mutex
	seen map[string]map[int]int // for each attack, the number of answers by status
}

const hostilePause = 250 * time.Millisecond

func newHostile(ctx context.Context, r *runner) (*hostile, error) {
	h := &hostile{service: r, workflow: uuid.NewString(), seen: map[string]map[int]int{}}
	for scope, into := range map[string]*tenantClient{"create": &h.creator, "settle": &h.settler, "read": &h.reader} {
		made, err := r.newTenantClient(ctx, "hostile", scope)
		if err != nil {
			return nil, err
		}
		*into = made
	}
	h.stranger = tenantClient{http: r.client, url: h.reader.url}
	// A short run reaches this quota. The default is 64 MiB.
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

// begin starts all attacks. end stops them and waits until they have ended.
func (h *hostile) begin(ctx context.Context) (end func()) {
	ctx, cancel := context.WithCancel(ctx)
	var clients sync.WaitGroup
	for _, attack := range []struct {
		name    string
		clients int
		do      func(context.Context) (status int, err error)
	}{
		{"large deadlines", 4, h.largeDeadline},
		{"waits", 26, h.wait}, // more than the tenant may have, but few enough that the runner has room for the honest tenant's
		{"waits for events", 10, h.waitForEvents},
		{"lists", 4, h.list},
		{"early settlements", 4, h.earlySettlement},
		{"made-up API keys", 4, h.madeUpKey},
		{"garbage on callbacks", 4, h.garbage},
		{"slow bodies", 40, h.slowBody},
	} {
		for range attack.clients {
			clients.Go(func() {
				for ctx.Err() == nil {
					status, err := attack.do(ctx)
					if ctx.Err() == nil && (err == nil || status != 0) {
						h.count(attack.name, status)
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

func (h *hostile) count(attack string, status int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.seen[attack] == nil {
		h.seen[attack] = map[int]int{}
	}
	h.seen[attack][status]++
}

// statuses returns the counts so far.
func (h *hostile) statuses() map[string]map[int]int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return maps.Clone(h.seen)
}

// largeDeadline creates a promise with a default outcome of 512 KB. Its deadline falls together with many others; one in four
// is in the year 1.
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

// list requests the pages that cost the database the most work.
func (h *hostile) list(ctx context.Context) (int, error) {
	query := []string{
		"workflowExecutionId=" + h.workflow, "workflowExecutionId=" + h.workflow + "&state=cancelled", "state=timed_out", "state=resolved", "",
		"state=pending&timeoutBefore=2100-01-01T00:00:00Z",
	}[rand.IntN(6)] //nolint:gosec // no secret
	status, _, err := h.reader.call(ctx, "GET", "/promises?limit=100&"+query, "")
	return status, err
}

// earlySettlement stores an early settlement for a promise that is never created.
func (h *hostile) earlySettlement(ctx context.Context) (int, error) {
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

// slowBody sends one byte of a large body every half second. It returns the status 0.
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
