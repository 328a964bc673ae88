package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/promise"
)

// reply is an answer of the service's, whichever it is.
type reply struct {
	PromiseID          string
	Name               string
	State              promise.State
	Value              json.RawMessage
	Error              *string
	IdempotencyKey     *string
	TimeoutAt          *time.Time
	CreatedAt          time.Time
	ResolvedAt         *time.Time
	SettledBy          *struct{ Kind promise.PrincipalKind }
	CreatedBySequence  int32
	ResolvedBySequence *int32
	Created            bool
	Resolved           bool
	AlreadyResolved    bool
	Outcome            promise.Outcome
	Code               promise.Code
	ExistingPromiseID  string
}

// text is what it was settled with.
func (r *reply) text() string {
	if r.Error != nil {
		return *r.Error
	}
	return string(r.Value)
}

// subject is two promises and a key. Many clients work on it at once when it is new, and now and then for a while after.
type subject struct {
	index    int
	workflow string
	drafts   [2]operation
	patient  bool // its promises are pending for longer than their key's time to live
	born     time.Time
	calls    int
	lost     int
	ids      [2]string // as far as a client was told
}

const (
	clients = 8

	hotCalls   = 14 // of a subject while it is the newest,
	rushFrom   = 6  // and those of them that mostly settle
	rushTo     = 10
	maxLost    = 5                       // answers of a subject: each may have happened or not, and all that is to be tried
	coolFor    = 2500 * time.Millisecond // longer than a key lives, and a patient subject's promise
	keyTTL     = time.Second             // the shortest that can be asked for
	ofWorkflow = 16                      // subjects that share a workflow execution, and wait for its row
)

// session is one run of clients against a runner. Its fields after mu are guarded by it.
type session struct {
	runner *runner
	http   *http.Client
	begun  time.Time
	count  atomic.Int64

	mu       sync.Mutex
	subjects []*subject
	cool     []*subject // those that are not the newest, and still worked on
	history  []*operation
	faults   []string // answers that nobody should get
	ends     []end
}

func newSession(r *runner) *session {
	return &session{
		runner: r, begun: time.Now(),
		http: &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: 2 * clients}},
	}
}

// run has the clients at work until they have made so many calls and done says that it may end.
func (s *session) run(calls int, done func() bool) {
	var working sync.WaitGroup
	for client := range clients {
		working.Go(func() {
			for s.count.Add(1) <= int64(calls) || !done() {
				o, on := s.next(client)
				s.do(o, on)
				if o.reply == nil {
					time.Sleep(20*time.Millisecond + rand.N(200*time.Millisecond)) // or an outage is most of the history
				}
			}
		})
	}
	working.Wait()
}

// next is the next operation of a client.
func (s *session) next(client int) (*operation, *subject) {
	s.mu.Lock()
	defer s.mu.Unlock()
	on := s.pick()
	on.calls++
	o := operation{Client: client, Subject: on.index}
	chance := rand.IntN(100)
	switch {
	case on.patient && time.Since(on.born) < keyTTL+100*time.Millisecond:
		chance %= 55
	case rushFrom < on.calls && on.calls <= rushTo:
		chance = 45 + rand.IntN(55)
	}
	var known []int
	for i, id := range on.ids {
		if id != "" {
			known = append(known, i)
		}
	}
	switch {
	case chance < 25 || len(known) == 0 && chance < 60:
		o = on.drafts[min(rand.IntN(3), 1)]
		o.Client = client
		if rand.IntN(8) == 0 {
			o.Keyed = !o.Keyed
		}
		return &o, on
	case chance < 55:
		o.Action = get
	case chance < 85:
		o.Action = settle
		switch rand.IntN(4) {
		case 0, 1:
			o.State, o.Text = promise.Resolved, fmt.Sprintf(`{"n": %d}`, rand.IntN(2))
		case 2:
			o.State, o.Text = promise.Rejected, "declined"
		case 3:
			o.State = promise.Cancelled
		}
	default:
		o.Action = extend
		o.anyDeadline(false)
	}
	o.ByKey = len(known) == 0 || rand.IntN(2) == 0
	if !o.ByKey {
		o.Target = known[rand.IntN(len(known))]
		o.id = on.ids[o.Target]
	}
	return &o, on
}

// pick chooses a subject: mostly the newest.
func (s *session) pick() *subject {
	if len(s.cool) > 0 && rand.IntN(100) < 45 {
		i := rand.IntN(len(s.cool))
		on := s.cool[i]
		if on.lost < maxLost && time.Since(on.born) < coolFor {
			return on
		}
		s.cool[i] = s.cool[len(s.cool)-1]
		s.cool = s.cool[:len(s.cool)-1]
	}
	if n := len(s.subjects); n > 0 {
		if newest := s.subjects[n-1]; newest.calls < hotCalls && newest.lost < maxLost {
			return newest
		}
		s.cool = append(s.cool, s.subjects[n-1])
	}
	on := &subject{index: len(s.subjects), workflow: uuid.NewString(), born: time.Now()}
	if on.index%ofWorkflow > 0 {
		on.workflow = s.subjects[on.index-1].workflow
	}
	on.patient = rand.IntN(3) == 0
	for i := range on.drafts {
		d := operation{Subject: on.index, Action: create, Target: i, Keyed: rand.IntN(10) < 8, TTL: keyTTL}
		if rand.IntN(4) == 0 {
			d.TTL = promise.DefaultIdempotencyKeyTTL
		}
		if on.patient {
			d.Timeout = new(keyTTL + time.Duration(rand.IntN(1000))*time.Millisecond)
		} else {
			d.anyDeadline(true)
		}
		if rand.IntN(4) == 0 {
			d.OnTimeout = `"late"`
		}
		on.drafts[i] = d
	}
	s.subjects = append(s.subjects, on)
	return on
}

// anyDeadline gives the operation a deadline that comes soon, or perhaps none.
func (o *operation) anyDeadline(none bool) {
	soon := time.Duration(rand.IntN(400)-20) * time.Millisecond
	if rand.IntN(3) == 0 {
		soon /= 20
	}
	switch {
	case none && rand.IntN(3) == 0:
	case rand.IntN(2) == 0:
		o.Timeout = new(max(soon, 0).Truncate(time.Millisecond))
	default:
		o.TimeoutAt = new(time.Now().Add(soon).UnixMicro())
	}
}

func (on *subject) key() string       { return fmt.Sprintf("subject:%s:%d", on.workflow, on.index) }
func (on *subject) name(i int) string { return fmt.Sprintf("%d-%s", on.index, [2]string{"a", "b"}[i]) }

// do makes the call and records it.
func (s *session) do(o *operation, on *subject) {
	method, path, body := o.request(on)
	req, err := http.NewRequest(method, s.runner.promises(path), strings.NewReader(body))
	if err != nil {
		panic(err) // a method and a path of our own
	}
	req.Header.Set("Authorization", "Bearer "+s.runner.ready.APIKey)
	req.Header.Set("Content-Type", "application/json")

	called := time.Now()
	resp, err := s.http.Do(req)
	var text []byte
	if err == nil {
		o.Status = resp.StatusCode
		text, err = io.ReadAll(resp.Body)
		resp.Body.Close()
	}
	returned := time.Now()
	o.elapsed = [2]time.Duration{called.Sub(s.begun), returned.Sub(s.begun)}
	o.Call, o.Return = called.UnixMicro(), returned.UnixMicro()+1

	fault := ""
	var told reply
	switch {
	case err != nil || o.Status == http.StatusTooManyRequests || o.Status >= 500:
		o.Return = never
		if json.Unmarshal(text, &told) == nil && told.Code == promise.CodeInternal {
			fault = "an error that has no name"
		}
	case json.Unmarshal(text, &told) != nil:
		fault = "not JSON"
	case o.Status == http.StatusOK || o.Status == http.StatusCreated && told.Created:
		if told.Resolved != (told.Outcome == promise.OutcomeSettled) || told.Resolved == told.AlreadyResolved && o.Action == settle {
			fault = "flags that contradict the outcome"
		}
		o.reply = &told
	case o.Status == http.StatusConflict && told.Code != "", o.Status == http.StatusNotFound && told.Code == promise.CodeNotFound:
		o.reply = &told
	default:
		fault = "an answer that this call cannot get"
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	s.history = append(s.history, o)
	if fault != "" {
		s.faults = append(s.faults, fmt.Sprintf("%s: %v: %s %s %s: %s", fault, o, method, path, body, text))
	}
	if o.reply == nil {
		on.lost++
		return
	}
	for i := range on.ids {
		if told.Name == on.name(i) {
			on.ids[i] = told.PromiseID
		}
	}
}

func (o *operation) request(on *subject) (method, path, body string) {
	fields := map[string]any{}
	if o.Timeout != nil {
		fields["timeoutMs"] = o.Timeout.Milliseconds()
	}
	if o.TimeoutAt != nil {
		fields["timeoutAt"] = moment(*o.TimeoutAt)
	}
	method, path = "POST", "/promises/id:"+o.id
	if o.ByKey {
		path = "/promises/key:" + url.PathEscape(on.key())
	}
	switch o.Action {
	case create:
		path = "/promises"
		fields["workflowExecutionId"], fields["name"] = on.workflow, on.name(o.Target)
		if o.Keyed {
			fields["idempotencyKey"], fields["idempotencyKeyTtlSeconds"] = on.key(), int(o.TTL.Seconds())
		}
		if o.OnTimeout != "" {
			fields["onTimeout"] = map[string]any{"resolve": json.RawMessage(o.OnTimeout)}
		}
	case get:
		return "GET", path, ""
	case extend:
		path += "/extend"
	case settle:
		switch o.State {
		case promise.Resolved:
			return method, path + "/resolve", `{"value":` + o.Text + `}`
		case promise.Rejected:
			path, fields["error"] = path+"/reject", o.Text
		default:
			return method, path + "/cancel", ""
		}
	}
	b, err := json.Marshal(fields)
	if err != nil {
		panic(err) // texts, numbers and a moment
	}
	return method, path, string(b)
}

// answers puts what was told into the model's terms, once every promise's id is known.
func (s *session) answers(t *testing.T, witnesses map[int]*[2]witness) {
	t.Helper()
	for _, o := range s.history {
		on := s.subjects[o.Subject]
		o.Witness = witnesses[o.Subject]
		if o.reply == nil {
			continue
		}
		r := o.reply
		a := answer{Code: r.Code, Promise: noPromise, Created: r.Created, Outcome: r.Outcome, State: r.State, Text: r.text()}
		if id := r.PromiseID + r.ExistingPromiseID; id != "" {
			for i := range on.ids {
				if on.ids[i] == id {
					a.Promise = i
				}
			}
			require.NotEqual(t, noPromise, a.Promise, "a promise that there is not: %v", o)
		}
		if !r.CreatedAt.IsZero() {
			require.Equal(t, on.name(a.Promise), r.Name)
			a.CreatedAt, a.Deadline, a.Keyed = r.CreatedAt.UnixMicro(), never, r.IdempotencyKey != nil
			if r.TimeoutAt != nil {
				a.Deadline = r.TimeoutAt.UnixMicro()
			}
			if a.Keyed {
				require.Equal(t, on.key(), *r.IdempotencyKey)
			}
		}
		o.Answer = &a
	}
}
