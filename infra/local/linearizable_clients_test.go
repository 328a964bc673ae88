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

// A reply is any response of the service, with the fields of all kinds of response.
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

// text returns the error or the value of a settled promise.
func (r *reply) text() string {
	if r.Error != nil {
		return *r.Error
	}
	return string(r.Value)
}

// A subject is two promises and an idempotency key. Many clients call the newest subject concurrently, and older ones now and then.
type subject struct {
	index     int
	workflow  string
	creates   [2]operation // the create calls of the two promises
	longLived bool         // its promises stay pending for longer than their key's time to live
	born      time.Time
	calls     int
	lost      int
	ids       [2]string // empty until a client has received the id
}

const (
	clients = 8

	newestCalls         = 14                      // calls of a subject while it is the newest
	rushFrom            = 6                       // from this call of a subject
	rushTo              = 10                      // to this one most calls settle
	maxLost             = 5                       // lost answers of a subject; the checker tries both outcomes of each
	olderFor            = 2500 * time.Millisecond // an older subject is called for so long, until its key and its promises have expired
	keyTTL              = time.Second             // the shortest time to live that the API accepts
	subjectsPerWorkflow = 16                      // subjects that share a workflow execution, and so lock the same row
)

// A session is one run of the clients against a runner. mu guards the fields after it.
type session struct {
	runner *runner
	http   *http.Client
	begun  time.Time
	count  atomic.Int64

	mu          sync.Mutex
	subjects    []*subject
	cool        []*subject // older subjects that clients still call
	history     []*operation
	faults      []string // responses that no call may get
	finalStates []end
}

func newSession(r *runner) *session {
	return &session{
		runner: r, begun: time.Now(),
		http: &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: 2 * clients}},
	}
}

// run lets the clients make the given number of calls, and more until done returns true.
func (s *session) run(calls int, done func() bool) {
	var working sync.WaitGroup
	for client := range clients {
		working.Go(func() {
			for s.count.Add(1) <= int64(calls) || !done() {
				o, on := s.next(client)
				s.do(o, on)
				if o.reply == nil {
					time.Sleep(20*time.Millisecond + rand.N(200*time.Millisecond)) // otherwise failed calls would dominate the history
				}
			}
		})
	}
	working.Wait()
}

// next returns the next operation of a client and its subject.
func (s *session) next(client int) (*operation, *subject) {
	s.mu.Lock()
	defer s.mu.Unlock()
	on := s.pick()
	on.calls++
	o := operation{Client: client, Subject: on.index}
	chance := rand.IntN(100)
	switch {
	case on.longLived && time.Since(on.born) < keyTTL+100*time.Millisecond:
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
		o = on.creates[min(rand.IntN(3), 1)]
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

// pick returns the newest subject, an older one or a new one, at random.
func (s *session) pick() *subject {
	if len(s.cool) > 0 && rand.IntN(100) < 45 {
		i := rand.IntN(len(s.cool))
		on := s.cool[i]
		if on.lost < maxLost && time.Since(on.born) < olderFor {
			return on
		}
		s.cool[i] = s.cool[len(s.cool)-1]
		s.cool = s.cool[:len(s.cool)-1]
	}
	if n := len(s.subjects); n > 0 {
		if newest := s.subjects[n-1]; newest.calls < newestCalls && newest.lost < maxLost {
			return newest
		}
		s.cool = append(s.cool, s.subjects[n-1])
	}
	on := &subject{index: len(s.subjects), workflow: uuid.NewString(), born: time.Now()}
	if on.index%subjectsPerWorkflow > 0 {
		on.workflow = s.subjects[on.index-1].workflow
	}
	on.longLived = rand.IntN(3) == 0
	for i := range on.creates {
		d := operation{Subject: on.index, Action: create, Target: i, Keyed: rand.IntN(10) < 8, TTL: keyTTL}
		if rand.IntN(4) == 0 {
			d.TTL = promise.DefaultIdempotencyKeyTTL
		}
		if on.longLived {
			d.Timeout = new(keyTTL + time.Duration(rand.IntN(1000))*time.Millisecond)
		} else {
			d.anyDeadline(true)
		}
		if rand.IntN(4) == 0 {
			d.OnTimeout = `"late"`
		}
		on.creates[i] = d
	}
	s.subjects = append(s.subjects, on)
	return on
}

// anyDeadline gives the operation a random deadline in the near future or past. If none is true, it may leave it out.
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

// do makes the call and adds it to the history.
func (s *session) do(o *operation, on *subject) {
	method, path, body := o.request(on)
	req, err := http.NewRequest(method, s.runner.promises(path), strings.NewReader(body))
	if err != nil {
		panic(err) // method and path are always valid
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
	var got reply
	switch {
	case err != nil || o.Status == http.StatusTooManyRequests || o.Status >= 500:
		o.Return = never
		if json.Unmarshal(text, &got) == nil && got.Code == promise.CodeInternal {
			fault = "an internal error"
		}
	case json.Unmarshal(text, &got) != nil:
		fault = "not JSON"
	case o.Status == http.StatusOK || o.Status == http.StatusCreated && got.Created:
		if got.Resolved != (got.Outcome == promise.OutcomeSettled) || got.Resolved == got.AlreadyResolved && o.Action == settle {
			fault = "flags that contradict the outcome"
		}
		o.reply = &got
	case o.Status == http.StatusConflict && got.Code != "", o.Status == http.StatusNotFound && got.Code == promise.CodeNotFound:
		o.reply = &got
	default:
		fault = "an unexpected response"
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
		if got.Name == on.name(i) {
			on.ids[i] = got.PromiseID
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
		panic(err) // strings, numbers and a time can always be marshalled
	}
	return method, path, string(b)
}

// answers converts the replies of the history into the model's answers. Every promise's id must be known.
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
			require.NotEqual(t, noPromise, a.Promise, "an unknown promise: %v", o)
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
