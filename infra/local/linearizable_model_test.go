package main

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/flovyn/promises/shared/promise"
)

// A subject is two promises, a and b, that may ask for one idempotency key. Nothing else is shared with any other subject
// but their workflow execution's numbers, so a history is linearizable if and only if each subject's is.
const (
	noPromise = -1
	never     = int64(math.MaxInt64) // of a deadline, and of a return that did not come
)

// action is what an operation does.
type action string

const (
	create action = "create"
	get    action = "get"
	settle action = "settle"
	extend action = "extend"
)

// operation is one call of a client. Moments are microseconds of the wall clock, which is the database's own.
type operation struct {
	Client    int
	Subject   int
	Action    action
	ByKey     bool
	Target    int              // the promise of the subject, where it is not by key,
	id        string           // and its id
	Keyed     bool             // create: asks for the key,
	TTL       time.Duration    // for so long
	OnTimeout string           `json:",omitempty"` // create: the JSON that the deadline resolves it with
	Timeout   *time.Duration   `json:",omitempty"` // create, extend: counted by the database,
	TimeoutAt *int64           `json:",omitempty"` // or a moment
	State     promise.State    `json:",omitempty"` // settle
	Text      string           `json:",omitempty"` // settle: the value or the error
	Call      int64            // when it began, and when it had ended, at the latest:
	Return    int64            // never where the answer was lost
	Status    int              // of the answer
	Answer    *answer          `json:",omitempty"` // nil: lost. It may have happened, may still happen, or never
	Witness   *[2]witness      `json:"-"`
	reply     *reply           // the answer as it came
	elapsed   [2]time.Duration // call and return by the monotonic clock, which orders the history
}

// answer is what the service told. What does not belong to the action is empty.
type answer struct {
	Code      promise.Code    `json:",omitempty"`
	Promise   int             // which it is about, or noPromise
	Created   bool            `json:",omitempty"`
	Outcome   promise.Outcome `json:",omitempty"`
	State     promise.State   `json:",omitempty"`
	Text      string          `json:",omitempty"`
	Keyed     bool            `json:",omitempty"`
	CreatedAt int64           `json:",omitempty"`
	Deadline  int64           `json:",omitempty"` // never: there is none
}

// witness is what the end of the run tells of a promise and no answer may have told: when it was created, what it was
// settled with by a caller, and the deadlines that extensions gave it. The checker takes moments from it, which the database
// chose; whether and in which order anything happened is the checker's to find.
type witness struct {
	createdAt int64
	keyed     bool
	state     promise.State
	text      string
	deadlines []int64
}

// happened says whether an operation whose answer was lost can have had an effect. A settlement that had one stands to the
// end, and a creation or an extension is in the log. All others are left out, so that there is less to try.
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

// record is a promise in the model. The zero record does not exist.
type record struct {
	exists    bool
	createdAt int64
	keyed     bool
	expiresAt int64 // the key's time to live is over
	deadline  int64
	onTimeout string
	stored    promise.State // empty: nobody has settled it
	text      string
	settled   int64 // the moment at which the call settled it
	taken     int64 // the return of the create that took the key from the promise before it
}

// subjectState is the state of a subject. The clock is part of it: an operation takes effect at a moment between its call
// and its return, and no moment comes before that of an operation which is before it. So once anybody was told of a
// deadline, it has passed for everybody after them.
type subjectState struct {
	promises [2]record
	holder   int // whose the key was last
	now      int64
}

func moment(micros int64) time.Time { return time.UnixMicro(micros).UTC() }

// judge is the promise's state at a moment, by the domain's own rule, and what it brings.
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

// named is the promise that the key names at a moment.
func (s subjectState) named(now int64) int {
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

// owner is the promise that the key belongs to at a moment, so that no create may take it over.
func (s subjectState) owner(now int64) int {
	if s.holder == noPromise {
		return noPromise
	}
	r := s.promises[s.holder]
	if state, _ := r.judge(now); !promise.IdempotencyKeyIsLive(moment(r.expiresAt), state, moment(now)) {
		return noPromise
	}
	return s.holder
}

// targets are the promises that an operation may be about. One that goes by the key looks the promise up first: it stays
// with the one that it has found, also where that loses the key before the operation takes effect.
func (s subjectState) targets(o *operation, now int64) []int {
	if !o.ByKey {
		return []int{o.Target}
	}
	found := []int{s.named(now)}
	for i, r := range s.promises {
		if r.keyed && i != found[0] && s.promises[s.holder].taken >= o.Call {
			found = append(found, i)
		}
	}
	return found
}

// moments are those at which an operation may take effect, as far as that matters: the first one, and each at which
// something falls due.
func (s subjectState) moments(from, to int64) []int64 {
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

// deadlines are those that the operation may set, for a promise that it creates or extends.
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
		return append(list, never) // where it has no effect, no deadline tells of it
	}
	return []int64{never}
}

// telling is how the rest of an answer comes about.
type telling int

const (
	impossible telling = iota // the operation cannot have done this
	whole                     // there is no rest
	asRead                    // the promise as it is when the operation takes effect, or when something falls due after that

	// The promise as it was when it was written. That is before the commit, which is when the operation takes effect for
	// everybody else: who creates or extends a promise can be told that it is pending where its new deadline passes in
	// between. No statement knows when it will have been committed.
	asWritten
)

// apply is what the operation does to a promise at a moment, and what is to be told.
func (s subjectState) apply(o *operation, target int, now, deadline int64) (subjectState, answer, telling) {
	if o.Action == create {
		return s.create(o, now, deadline)
	}
	if target == noPromise || !s.promises[target].exists {
		return s, answer{Code: promise.CodeNotFound, Promise: noPromise}, whole
	}
	r := &s.promises[target]
	state, _ := r.judge(now)
	told := answer{Promise: target}
	if o.Action == get {
		return s, told, asRead
	}
	if state != promise.Pending {
		same := o.Action == settle && r.stored == o.State && r.text == o.Text
		told.State, told.Outcome = state, promise.OutcomeAgainst(state, r.stored == "", same)
		if o.Action == extend {
			told.Code = promise.NotPending(promise.SettleResult{State: state, Outcome: told.Outcome}).Code
		}
		return s, told, whole
	}
	if o.Action == settle {
		r.stored, r.text, r.settled = o.State, o.Text, now
		told.State, told.Outcome = o.State, promise.OutcomeSettled
		return s, told, whole
	}
	switch deadline {
	case never:
		return s, told, impossible
	case r.deadline:
		return s, told, asRead
	}
	r.deadline = deadline
	return s, told, asWritten
}

func (s subjectState) create(o *operation, now, deadline int64) (subjectState, answer, telling) {
	r := &s.promises[o.Target]
	if r.exists {
		if r.keyed != o.Keyed || r.onTimeout != o.OnTimeout {
			return s, answer{Code: promise.CodeCreateConflict, Promise: o.Target}, whole
		}
		return s, answer{Promise: o.Target}, asRead
	}
	if o.Keyed {
		if holder := s.owner(now); holder != noPromise {
			return s, answer{Code: promise.CodeKeyConflict, Promise: holder}, whole
		}
		s.holder = o.Target
	}
	at := o.Witness[o.Target].createdAt
	if at < o.Call || at > o.Return { // it is another call's
		return s, answer{}, impossible
	}
	*r = record{
		exists: true, createdAt: at, keyed: o.Keyed, expiresAt: at + o.TTL.Microseconds(), deadline: deadline, onTimeout: o.OnTimeout, taken: o.Return,
	}
	return s, answer{Promise: o.Target, Created: true}, asWritten
}

func (s subjectState) view(told answer, now int64) answer {
	r := s.promises[told.Promise]
	told.State, told.Text = r.judge(now)
	told.Keyed, told.CreatedAt, told.Deadline = r.keyed, r.createdAt, r.deadline
	return told
}

// step lists the states in which an operation can leave a subject, given what was told.
func (s subjectState) step(o *operation) []any {
	from := max(s.now, o.Call)
	var next []any
	add := func(after subjectState, now int64) {
		after.now = now
		next = append(next, after)
	}
	if o.Answer == nil {
		add(s, from) // it has not happened
	}
	for _, now := range s.moments(from, o.Return) {
		for _, target := range s.targets(o, now) {
			promiseOf := target
			if o.Action == create {
				promiseOf = o.Target
			}
			for _, deadline := range o.deadlines(promiseOf) {
				after, told, rest := s.apply(o, target, now, deadline)
				switch {
				case rest == impossible:
				case o.Answer == nil:
					add(after, now)
				case rest == whole:
					if told == *o.Answer {
						add(after, now)
					}
				default:
					since := now
					if rest == asWritten {
						since = o.Call
					}
					for _, seen := range after.moments(since, o.Return) {
						if after.view(told, seen) == *o.Answer {
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

// String tells the call and its answer in one line.
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
