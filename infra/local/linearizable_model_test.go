package main

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/flovyn/promises/shared/promise"
)

// A subject is two promises, a and b, that may claim the same idempotency key. Subjects share only the sequence numbers of their workflow
// execution. Therefore a history is linearizable if and only if the history of each subject is.
const (
	noPromise = -1
	never     = int64(math.MaxInt64) // no deadline, or the return of a call without an answer
)

// An action is the kind of an operation.
type action string

const (
	create action = "create"
	get    action = "get"
	settle action = "settle"
	extend action = "extend"
)

// An operation is one call of a client. Times are in microseconds of the wall clock, which the database shares.
type operation struct {
	Client    int
	Subject   int
	Action    action
	ByKey     bool
	Target    int              // the promise of the subject, unless ByKey
	id        string           // the target's id
	Keyed     bool             // create: claims the key
	TTL       time.Duration    // create: the key's time to live
	OnTimeout string           `json:",omitempty"` // create: the JSON value that the deadline resolves the promise with
	Timeout   *time.Duration   `json:",omitempty"` // create, extend: relative to the database's clock
	TimeoutAt *int64           `json:",omitempty"` // create, extend: absolute
	State     promise.State    `json:",omitempty"` // settle
	Text      string           `json:",omitempty"` // settle: the value or the error
	Call      int64            // the call's start
	Return    int64            // the call's end, or never if the answer was lost
	Status    int              // the HTTP status
	Answer    *answer          `json:",omitempty"` // nil if lost: the operation may have taken effect, or may still do so
	Witness   *[2]witness      `json:"-"`
	reply     *reply           // the response as received
	elapsed   [2]time.Duration // start and end by the monotonic clock, which orders the history
}

// An answer is the service's response in the model's terms. Fields that the action does not return are empty.
type answer struct {
	Code      promise.Code    `json:",omitempty"`
	Promise   int             // the answer's promise, or noPromise
	Created   bool            `json:",omitempty"`
	Outcome   promise.Outcome `json:",omitempty"`
	State     promise.State   `json:",omitempty"`
	Text      string          `json:",omitempty"`
	Keyed     bool            `json:",omitempty"`
	CreatedAt int64           `json:",omitempty"`
	Deadline  int64           `json:",omitempty"` // never if there is no deadline
}

// A witness holds facts about a promise that are read at the end of the run, because answers with these facts may have been lost. It has the
// creation time, a caller's settlement, and the deadlines of extensions. The checker takes from it only times that the database has
// chosen. The checker itself determines whether and in which order operations took effect.
type witness struct {
	createdAt int64
	keyed     bool
	state     promise.State
	text      string
	deadlines []int64
}

// happened reports whether an operation with a lost answer can have had an effect. A settlement with an effect is final, and a creation or
// an extension is in the log. The history omits all other such operations, so that the checker has fewer cases to try.
func (o *operation) happened() bool {
	for i, w := range o.Witness {
		switch {
		case !o.ByKey && i != o.Target:
		case o.Action == create && w.createdAt >= o.Call && w.keyed == o.Keyed,
			o.Action == settle && w.state == o.State && w.text == o.Text,
			o.Action == extend && slices.ContainsFunc(w.deadlines, func(d int64) bool {
				return o.TimeoutAt != nil && *o.TimeoutAt == d || o.Timeout != nil && d-o.Timeout.Microseconds() >= o.Call
			}):
			return true
		}
	}
	return false
}

// A record is a promise in the model. The zero record is a promise that does not exist.
type record struct {
	exists    bool
	createdAt int64
	keyed     bool
	expiresAt int64 // the end of the key's time to live
	deadline  int64
	onTimeout string
	stored    promise.State // empty until a call has settled it
	text      string
	settled   int64 // the time of that settlement
	taken     int64 // the end of the create call that took the key over from the other promise
}

// A subjectState is the state of a subject, including its clock. An operation takes effect at a time between its start and its end, and
// not before the operation that precedes it in the order. So after one answer has shown a passed deadline, all later operations see
// it as passed.
type subjectState struct {
	promises [2]record
	holder   int // the promise that claimed the key last
	now      int64
}

func moment(micros int64) time.Time { return time.UnixMicro(micros).UTC() }

// judge returns the promise's state and its value or error at a given time, by the domain's own rule.
func (r record) judge(now int64) (state promise.State, text string) {
	var stored *promise.State
	var timeoutAt *time.Time
	var onTimeout *promise.Result
	if r.stored != "" {
		stored, text = &r.stored, r.text
	}
	if r.deadline != never {
		timeoutAt = new(moment(r.deadline))
	}
	if r.onTimeout != "" {
		onTimeout = &promise.Result{State: promise.Resolved, Value: []byte(r.onTimeout)}
	}
	state = promise.Judge(stored, timeoutAt, onTimeout, moment(now))
	if stored == nil && state == promise.Resolved {
		text = r.onTimeout
	}
	return state, text
}

// foundByKey returns the promise that a call by key finds at a given time.
func (s subjectState) foundByKey(now int64) int {
	if s.holder == noPromise {
		return noPromise
	}
	r := s.promises[s.holder]
	state, _ := r.judge(now)
	settledAt := moment(r.deadline)
	if r.stored != "" {
		settledAt = moment(r.settled)
	}
	if !promise.IdempotencyKeyNamesPromise(moment(r.expiresAt), state, &settledAt, moment(now)) {
		return noPromise
	}
	return s.holder
}

// keyOwner returns the promise that owns the key at a given time, so that no create may take the key over.
func (s subjectState) keyOwner(now int64) int {
	if s.holder == noPromise {
		return noPromise
	}
	r := s.promises[s.holder]
	if state, _ := r.judge(now); !promise.IdempotencyKeyIsLive(moment(r.expiresAt), state, moment(now)) {
		return noPromise
	}
	return s.holder
}

// targets returns the promises that an operation may apply to. An operation by key first looks the promise up. It keeps that promise even
// if another promise takes the key over before the operation takes effect.
func (s subjectState) targets(o *operation, now int64) []int {
	if !o.ByKey {
		return []int{o.Target}
	}
	found := []int{s.foundByKey(now)}
	for i, r := range s.promises {
		if r.keyed && i != found[0] && s.promises[s.holder].taken >= o.Call {
			found = append(found, i)
		}
	}
	return found
}

// effectTimes returns the times at which an operation may take effect with different results. These are the first possible time, and each time at
// which a deadline passes or the key expires.
func (s subjectState) effectTimes(from, to int64) []int64 {
	list := []int64{from}
	for _, r := range s.promises {
		for _, due := range []int64{r.deadline, r.expiresAt} {
			if r.exists && due != never && due > from && due <= to {
				list = append(list, due)
			}
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// deadlines returns the deadlines that a create or extend operation may set.
func (o *operation) deadlines(target int) []int64 {
	switch {
	case o.Action != create && o.Action != extend || target == noPromise:
	case o.TimeoutAt != nil:
		return []int64{*o.TimeoutAt}
	case o.Timeout == nil:
	case o.Action == create:
		return []int64{o.Witness[target].createdAt + o.Timeout.Microseconds()}
	default:
		var list []int64
		for _, d := range o.Witness[target].deadlines {
			if at := d - o.Timeout.Microseconds(); o.Call <= at && at <= o.Return {
				list = append(list, d)
			}
		}
		return append(list, never) // an extension without an effect left no deadline
	}
	return []int64{never}
}

// A completion says how to complete an answer with the promise's state.
type completion int

const (
	impossible    completion = iota // the operation cannot have had this effect
	complete                        // the answer is complete
	withReadState                   // add the state at the time of the effect, or at a later time at which a deadline passes or the key expires

	// Add the state at the time of the write, which precedes the commit. Other calls see the effect only after the commit. If
	// the new deadline passes in between, the answer of a create or extend shows the promise as pending, although other
	// calls never see it pending. A statement cannot know the time of its commit.
	withWrittenState
)

// apply returns the state after the operation takes effect on a promise at a given time, and the answer to expect.
func (s subjectState) apply(o *operation, target int, now, deadline int64) (subjectState, answer, completion) {
	if o.Action == create {
		return s.create(o, now, deadline)
	}
	if target == noPromise || !s.promises[target].exists {
		return s, answer{Code: promise.CodeNotFound, Promise: noPromise}, complete
	}
	r := &s.promises[target]
	state, _ := r.judge(now)
	expected := answer{Promise: target}
	if o.Action == get {
		return s, expected, withReadState
	}
	if state != promise.Pending {
		same := o.Action == settle && r.stored == o.State && r.text == o.Text
		expected.State, expected.Outcome = state, promise.OutcomeAgainst(state, r.stored == "", same)
		if o.Action == extend {
			expected.Code = promise.NotPending(promise.SettleResult{State: state, Outcome: expected.Outcome}).Code
		}
		return s, expected, complete
	}
	if o.Action == settle {
		r.stored, r.text, r.settled = o.State, o.Text, now
		expected.State, expected.Outcome = o.State, promise.OutcomeSettled
		return s, expected, complete
	}
	switch deadline {
	case never:
		return s, expected, impossible
	case r.deadline:
		return s, expected, withReadState
	}
	r.deadline = deadline
	return s, expected, withWrittenState
}

func (s subjectState) create(o *operation, now, deadline int64) (subjectState, answer, completion) {
	r := &s.promises[o.Target]
	if r.exists {
		if r.keyed != o.Keyed || r.onTimeout != o.OnTimeout {
			return s, answer{Code: promise.CodeCreateConflict, Promise: o.Target}, complete
		}
		return s, answer{Promise: o.Target}, withReadState
	}
	if o.Keyed {
		if holder := s.keyOwner(now); holder != noPromise {
			return s, answer{Code: promise.CodeKeyConflict, Promise: holder}, complete
		}
		s.holder = o.Target
	}
	at := o.Witness[o.Target].createdAt
	if at < o.Call || at > o.Return { // another call created it
		return s, answer{}, impossible
	}
	*r = record{
		exists: true, createdAt: at, keyed: o.Keyed, expiresAt: at + o.TTL.Microseconds(), deadline: deadline, onTimeout: o.OnTimeout, taken: o.Return,
	}
	return s, answer{Promise: o.Target, Created: true}, withWrittenState
}

// view completes the answer with the promise's state at a given time.
func (s subjectState) view(expected answer, now int64) answer {
	r := s.promises[expected.Promise]
	expected.State, expected.Text = r.judge(now)
	expected.Keyed, expected.CreatedAt, expected.Deadline = r.keyed, r.createdAt, r.deadline
	return expected
}

// step returns the states in which an operation can leave a subject, given its answer.
func (s subjectState) step(o *operation) []any {
	from := max(s.now, o.Call)
	var next []any
	add := func(after subjectState, now int64) {
		after.now = now
		next = append(next, after)
	}
	if o.Answer == nil {
		add(s, from) // without an effect
	}
	for _, now := range s.effectTimes(from, o.Return) {
		for _, target := range s.targets(o, now) {
			promiseOf := target
			if o.Action == create {
				promiseOf = o.Target
			}
			for _, deadline := range o.deadlines(promiseOf) {
				after, expected, rest := s.apply(o, target, now, deadline)
				switch {
				case rest == impossible:
				case o.Answer == nil:
					add(after, now)
				case rest == complete:
					if expected == *o.Answer {
						add(after, now)
					}
				default:
					since := now
					if rest == withWrittenState {
						since = o.Call
					}
					for _, seen := range after.effectTimes(since, o.Return) {
						if after.view(expected, seen) == *o.Answer {
							add(after, max(now, seen))
							break
						}
					}
				}
			}
		}
	}
	return next
}

var linearizable = (&porcupine.NondeterministicModel{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		subjects := map[int][]porcupine.Operation{}
		for _, h := range history {
			subject := h.Input.(*operation).Subject
			subjects[subject] = append(subjects[subject], h)
		}
		var parts [][]porcupine.Operation
		for _, part := range subjects {
			parts = append(parts, part)
		}
		return parts
	},
	Init: func() []any { return []any{subjectState{holder: noPromise}} },
	Step: func(state, input, _ any) []any { return state.(subjectState).step(input.(*operation)) },
	DescribeOperation: func(input, _ any) string {
		o := input.(*operation)
		return o.String()
	},
	DescribeState: func(state any) string { return fmt.Sprintf("%+v", state) },
}).ToModel()

// String describes the call and its answer in one line.
func (o *operation) String() string {
	s := string(o.Action)
	if o.ByKey {
		s += " by key"
	} else {
		s += " " + [2]string{"a", "b"}[o.Target]
	}
	if o.Keyed {
		s += fmt.Sprintf(" with the key for %v", o.TTL)
	}
	if o.Timeout != nil {
		s += fmt.Sprintf(" timeout %v", *o.Timeout)
	}
	if o.TimeoutAt != nil {
		s += fmt.Sprintf(" until %v", moment(*o.TimeoutAt))
	}
	s += " " + string(o.State) + " " + o.Text + o.OnTimeout
	if o.Answer == nil {
		return s + fmt.Sprintf(" -> lost (%d)", o.Status)
	}
	return s + fmt.Sprintf(" -> %d %+v", o.Status, *o.Answer)
}
