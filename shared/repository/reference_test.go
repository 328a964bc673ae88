package repository_test

import (
	"cmp"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/flovyn/promises/shared/promise"
)

// A reference is a repository without a database: it applies the rules of package promise to maps and slices. Its clock moves only when
// a test moves it.
type reference struct {
	now       time.Time
	promises  []*refPromise // in the order of their creation
	workflows map[uuid.UUID]*refWorkflow
	keys      map[refKeyName]*refKey
	deadlines int // the number of deadlines that were set
}

type refPromise struct {
	promise.Promise // as recorded: Pending until an event records a settlement
	tenant          string
	deadline        int // the number of its deadline, in the order in which all deadlines were set
}

type refWorkflow struct {
	tenant string
	log    []refEvent
}

type refEvent struct {
	kind      promise.EventType
	promise   *refPromise
	at        time.Time
	timeoutAt *time.Time
}

type refKeyName struct{ tenant, key string }

// A refKey is an idempotency key. It belongs to a promise, or has an early settlement, or both.
type refKey struct {
	promise    *refPromise
	expiresAt  time.Time // for the promise
	early      *promise.SettleRequest
	earlyAt    time.Time
	earlyUntil time.Time
	checkAt    time.Time // when the sweep examines the key next
}

func newReference(now time.Time) *reference {
	return &reference{now: now, workflows: map[uuid.UUID]*refWorkflow{}, keys: map[refKeyName]*refKey{}}
}

// read returns a promise as a call reads it now.
func (m *reference) read(p *refPromise) promise.Promise {
	q := p.Promise
	if q.State != promise.Pending {
		return q
	}
	if q.State = promise.Judge(nil, q.TimeoutAt, q.OnTimeout, m.now); q.State != promise.Pending {
		q.ResolvedAt, q.SettledBy = q.TimeoutAt, &promise.By{Kind: promise.KindDeadline}
		if q.OnTimeout != nil {
			q.Value, q.Message = q.OnTimeout.Value, q.OnTimeout.Message
		}
	}
	return q
}

func (m *reference) find(tenant string, i promise.Identifier) *refPromise {
	if key, ok := i.IdempotencyKey(); ok {
		k := m.keys[refKeyName{tenant, key}]
		if k == nil || !m.names(k) {
			return nil
		}
		return k.promise
	}
	id, _ := i.ID()
	for _, p := range m.promises {
		if p.ID == id && p.tenant == tenant {
			return p
		}
	}
	return nil
}

func (m *reference) lives(k *refKey) bool {
	return k.promise != nil && promise.IdempotencyKeyIsLive(k.expiresAt, m.read(k.promise).State, m.now)
}

func (m *reference) names(k *refKey) bool {
	if k.promise == nil {
		return false
	}
	p := m.read(k.promise)
	return promise.IdempotencyKeyNamesPromise(k.expiresAt, p.State, p.ResolvedAt, m.now)
}

// record appends an event and returns its number.
func (m *reference) record(p *refPromise, kind promise.EventType, timeoutAt *time.Time) int32 {
	w := m.workflows[p.WorkflowExecutionID]
	w.log = append(w.log, refEvent{kind, p, m.now, timeoutAt})
	return int32(len(w.log))
}

func (m *reference) apply(p *refPromise, s promise.SettleRequest, at time.Time, kind promise.EventType) {
	n := m.record(p, kind, nil)
	p.State, p.Value, p.Message, p.SettledBy, p.Comment = s.State, s.Value, s.Message, &s.By, s.Comment
	p.ResolvedAt, p.ResolvedBySequence = &at, &n
}

func (m *reference) setDeadline(p *refPromise, at *time.Time) {
	m.deadlines++
	p.TimeoutAt, p.deadline = at, m.deadlines
}

// create also returns the promise that it has created. The caller sets its id.
func (m *reference) create(tenant string, d promise.Draft) (created promise.CreateResult, made *refPromise, _ error) {
	w := m.workflows[d.WorkflowExecutionID]
	if w != nil && w.tenant != tenant {
		return promise.CreateResult{}, nil, promise.ErrNotFound
	}
	var key *refKey
	var name refKeyName
	if d.IdempotencyKey != nil {
		name = refKeyName{tenant, *d.IdempotencyKey}
		key = m.keys[name]
	}
	for _, p := range m.promises {
		if p.WorkflowExecutionID != d.WorkflowExecutionID || p.Name != d.Name {
			continue
		}
		sameKey := equal(p.IdempotencyKey, d.IdempotencyKey) || key != nil && key.promise == p
		sameOnTimeout := (p.OnTimeout == nil) == (d.OnTimeout == nil) && (p.OnTimeout == nil || p.OnTimeout.Same(*d.OnTimeout))
		if !sameKey || string(p.Metadata) != string(d.Metadata) || !sameOnTimeout {
			return promise.CreateResult{}, nil, &promise.Error{Code: promise.CodeCreateConflict, ExistingPromiseID: p.ID}
		}
		return promise.CreateResult{Promise: m.read(p)}, nil, nil
	}
	if key != nil && m.lives(key) {
		return promise.CreateResult{}, nil, &promise.Error{Code: promise.CodeKeyConflict, ExistingPromiseID: key.promise.ID}
	}
	if w == nil {
		m.workflows[d.WorkflowExecutionID] = &refWorkflow{tenant: tenant}
	}
	p := &refPromise{tenant: tenant, Promise: promise.Promise{
		WorkflowExecutionID: d.WorkflowExecutionID, Name: d.Name, State: promise.Pending, Metadata: d.Metadata,
		IdempotencyKey: d.IdempotencyKey, OnTimeout: d.OnTimeout, CreatedAt: m.now,
	}}
	switch {
	case d.TimeoutAt != nil:
		m.setDeadline(p, d.TimeoutAt)
	case d.Timeout != nil:
		m.setDeadline(p, new(m.now.Add(*d.Timeout)))
	}
	m.promises = append(m.promises, p)
	p.CreatedBySequence = m.record(p, promise.EventCreated, nil)
	lost := false
	if key != nil && key.early != nil {
		if promise.EarlySettles(key.earlyAt, key.earlyUntil, p.TimeoutAt, m.now) {
			m.apply(p, *key.early, m.now, promise.EventTypeOf(key.early.State))
		} else {
			lost = true
		}
	}
	if d.IdempotencyKey != nil {
		m.keys[name] = &refKey{
			expiresAt: m.now.Add(d.IdempotencyKeyTTL), promise: p, checkAt: m.now.Add(max(d.IdempotencyKeyTTL, promise.IdempotencyKeyGrace)),
		}
	}
	return promise.CreateResult{Promise: m.read(p), New: true, EarlyExpired: lost}, p, nil
}

func equal[T comparable](a, b *T) bool { return (a == nil) == (b == nil) && (a == nil || *a == *b) }

func (m *reference) register(tenant, key string, id uuid.UUID, ttl time.Duration) error {
	p, name := m.find(tenant, promise.ByID(id)), refKeyName{tenant, key}
	if p == nil {
		return promise.ErrNotFound
	}
	if k := m.keys[name]; k != nil {
		switch {
		case k.early != nil:
			return promise.Fail(promise.CodeKeyConflict, "")
		case m.lives(k) && k.promise != p:
			return &promise.Error{Code: promise.CodeKeyConflict, ExistingPromiseID: k.promise.ID}
		case m.lives(k):
			return nil
		}
	}
	m.keys[name] = &refKey{expiresAt: m.now.Add(ttl), promise: p, checkAt: m.now.Add(ttl)}
	return nil
}

func (m *reference) settle(p *refPromise, s promise.SettleRequest) (promise.SettleResult, error) {
	if p == nil {
		return promise.SettleResult{}, promise.ErrNotFound
	}
	if q := m.read(p); q.State != promise.Pending {
		return against(q, s.Result), nil
	}
	m.apply(p, s, m.now, promise.EventTypeOf(s.State))
	return promise.SettleResult{PromiseID: p.ID, State: s.State, Outcome: promise.OutcomeSettled}, nil
}

// against returns the result of a call that found the promise settled.
func against(p promise.Promise, r promise.Result) promise.SettleResult {
	same := r.Same(promise.Result{State: p.State, Value: p.Value, Message: p.Message})
	return promise.SettleResult{
		PromiseID: p.ID, State: p.State, Outcome: promise.OutcomeAgainst(p.State, p.SettledBy.Kind == promise.KindDeadline, same),
	}
}

func (m *reference) settleEarly(tenant string, i promise.Identifier, s promise.SettleRequest, ttl time.Duration) promise.SettleResult {
	key, _ := i.IdempotencyKey()
	name := refKeyName{tenant, key}
	k := m.keys[name]
	if p := m.find(tenant, i); p != nil {
		alive := m.lives(k)
		settled, _ := m.settle(p, s)
		if alive || settled.Outcome == promise.OutcomeDuplicate {
			return settled
		}
	}
	if k != nil && k.early != nil && k.earlyUntil.After(m.now) {
		outcome := promise.OutcomeAgainst(promise.Pending, false, k.early.Same(s.Result))
		return promise.SettleResult{State: promise.Pending, Outcome: outcome, EarlyExpiresAt: new(k.earlyUntil)}
	}
	lost := k != nil && k.early != nil
	until := m.now.Add(ttl)
	switch {
	case k == nil:
		k = &refKey{checkAt: until}
		m.keys[name] = k
	case k.promise == nil || until.Before(k.checkAt):
		k.checkAt = until
	}
	k.early, k.earlyAt, k.earlyUntil = &s, m.now, until
	return promise.SettleResult{State: s.State, Outcome: promise.OutcomeHeld, EarlyExpiresAt: &until, EarlyExpired: lost}
}

// settleBatch looks up all keys before it settles anything.
func (m *reference) settleBatch(tenant string, by promise.By, items []promise.Item) []promise.ItemResult {
	found := make([]*refPromise, len(items))
	for n, item := range items {
		found[n] = m.find(tenant, item.Promise)
	}
	results := make([]promise.ItemResult, len(items))
	for n, item := range items {
		results[n].SettleResult, results[n].Err = m.settle(found[n], promise.SettleRequest{Result: item.Result, By: by, Comment: item.Comment})
	}
	return results
}

func (m *reference) extend(p *refPromise, to time.Time) (promise.Promise, error) {
	if p == nil {
		return promise.Promise{}, promise.ErrNotFound
	}
	if q := m.read(p); q.State != promise.Pending {
		return promise.Promise{}, promise.NotPending(against(q, promise.Result{}))
	}
	m.setDeadline(p, &to)
	m.record(p, promise.EventExtended, &to)
	return m.read(p), nil
}

// list returns the promises that match the filter, newest first, or by deadline.
func (m *reference) list(tenant string, f promise.Filter) []promise.Promise {
	ordered := slices.Clone(m.promises)
	if slices.Reverse(ordered); f.TimeoutBefore != nil {
		ordered = m.byDeadline(func(*refPromise) bool { return true })
	}
	var found []promise.Promise
	for _, p := range ordered {
		if q := m.read(p); p.tenant == tenant && matches(f, q) {
			found = append(found, q)
		}
	}
	return found
}

// byDeadline returns the chosen promises that have a deadline, the soonest first.
func (m *reference) byDeadline(choose func(*refPromise) bool) []*refPromise {
	var found []*refPromise
	for _, p := range m.promises {
		if p.TimeoutAt != nil && choose(p) {
			found = append(found, p)
		}
	}
	slices.SortFunc(found, func(a, b *refPromise) int {
		return cmp.Or(a.TimeoutAt.Compare(*b.TimeoutAt), a.deadline-b.deadline)
	})
	return found
}

func (m *reference) listEvents(tenant string, workflow uuid.UUID, after int32, limit int) ([]promise.Event, error) {
	w := m.workflows[workflow]
	switch {
	case w == nil || w.tenant != tenant:
		return nil, promise.ErrNotFound
	case int(after) > len(w.log):
		return nil, promise.Fail(promise.CodeOutOfRange, "")
	}
	var events []promise.Event
	for n, e := range w.log {
		number := int32(n + 1)
		if number <= after || len(events) == limit {
			continue
		}
		event := promise.Event{
			SequenceNumber: number, Type: e.kind, PromiseID: e.promise.ID, PromiseName: e.promise.Name, CreatedAt: e.at, TimeoutAt: e.timeoutAt,
		}
		if p := e.promise; equal(p.ResolvedBySequence, &number) {
			event.Settlement = &promise.SettleRequest{
				Result: promise.Result{State: p.State, Value: p.Value, Message: p.Message}, By: *p.SettledBy, Comment: p.Comment,
			}
		}
		events = append(events, event)
	}
	return events, nil
}

func (m *reference) expire(limit int) int {
	due := m.byDeadline(func(p *refPromise) bool { return p.State == promise.Pending && m.read(p).State != promise.Pending })
	turns, turn := map[*refPromise]int{}, map[string]int{} // each tenant's first deadline comes before any tenant's second
	for _, p := range due {
		turn[p.tenant]++
		turns[p] = turn[p.tenant]
	}
	slices.SortStableFunc(due, func(a, b *refPromise) int {
		order := cmp.Or(turns[a]-turns[b], later(*a.TimeoutAt, a.CreatedAt).Compare(later(*b.TimeoutAt, b.CreatedAt)))
		if order == 0 && a.CreatedAt.After(*a.TimeoutAt) {
			return slices.Index(m.promises, a) - slices.Index(m.promises, b)
		}
		return order
	})
	due = due[:min(limit, len(due))]
	// Within a workflow execution, a batch assigns the numbers in the order of the deadlines.
	for _, p := range m.byDeadline(func(p *refPromise) bool { return slices.Contains(due, p) }) {
		q := m.read(p)
		m.apply(p, promise.SettleRequest{
			Result: promise.Result{State: q.State, Value: q.Value, Message: q.Message}, By: *q.SettledBy,
		}, *q.TimeoutAt, promise.EventTimeout)
	}
	return len(due)
}

// expireKeys returns the number of keys that it has released, and the keys whose early settlement has expired.
func (m *reference) expireKeys() (released int, expired []refKeyName) {
	for name, k := range m.keys {
		if k.checkAt.After(m.now) {
			continue
		}
		if k.early != nil && !k.earlyUntil.After(m.now) {
			k.early = nil
			expired = append(expired, name)
		}
		end := time.Time{}
		if k.promise != nil && k.promise.State == promise.Pending { // no settlement is recorded
			end = later(k.expiresAt, m.now.Add(promise.IdempotencyKeyGrace))
		} else if k.promise != nil {
			end = later(k.expiresAt, k.promise.ResolvedAt.Add(promise.IdempotencyKeyGrace))
		}
		if k.promise != nil && !end.After(m.now) {
			k.promise = nil
			released++
		}
		switch {
		case k.promise == nil && k.early == nil:
			delete(m.keys, name)
		case k.promise == nil || k.early != nil && k.earlyUntil.Before(end):
			k.checkAt = k.earlyUntil
		default:
			k.checkAt = end
		}
	}
	return released, expired
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
