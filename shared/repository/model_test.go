package repository_test

import (
	"flag"
	"strconv"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/flovyn/promises/shared/dbtest"
	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/repository"
)

// The defaults of go test. The flags -rapid.checks and -rapid.steps override them.
func init() {
	for name, value := range map[string]string{"rapid.checks": "100", "rapid.steps": "60", "rapid.nofailfile": "true"} {
		if err := flag.Set(name, value); err != nil {
			panic(err)
		}
	}
}

// For random sequences of calls, the repository returns the same results as a reference that uses the pure rules alone, and has the same
// promises and logs at the end.
//
// Deadlines and times to live are odd numbers of half hours, and the clock moves by whole hours. So the milliseconds of a call never
// matter. The test moves all stored times back instead of the clock forward.
func TestModel(t *testing.T) {
	t.Parallel()
	_, db := setUp(t)
	db.Tenant(t, "other")
	pool := poolWith(t, db.URL, func(c *pgxpool.Config) { c.MaxConns = 1 })
	rapid.Check(t, func(t *rapid.T) {
		// Deletes the rows of the previous check. The workflows' events are deleted with them.
		_, err := pool.Exec(t.Context(), "WITH keys AS (DELETE FROM idempotency_key) DELETE FROM workflow_execution")
		require.NoError(t, err)
		m := &modelCheck{
			pool: pool, r: repository.New(pool), want: newReference(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)),
			workflows: []uuid.UUID{uuid.New(), uuid.New(), uuid.New()},
		}
		t.Repeat(rapid.StateMachineActions(m))
		m.requireSame(t)
	})
}

// A modelCheck makes each call to the repository and to the reference.
type modelCheck struct {
	pool      *pgxpool.Pool
	r         *repository.Repository
	want      *reference
	workflows []uuid.UUID
}

// Check runs after every call. It does nothing: the calls compare their results, and requireSame compares the rest at the end.
func (m *modelCheck) Check(*rapid.T) {}

func (m *modelCheck) Create(t *rapid.T) {
	slug := anyTenant(t)
	d := promise.Draft{WorkflowExecutionID: m.anyWorkflow(t), Name: anyOf(t, "name", "a", "b", "c", "d")}
	if key := anyOf(t, "key", "", "k1", "k2", "k3", "k4"); key != "" {
		d.IdempotencyKey, d.IdempotencyKeyTTL = &key, halfHours(t, "ttl", 1, 3, 7)
	}
	if metadata := anyOf(t, "metadata", "", "", "", `{"a": 1}`); metadata != "" {
		d.Metadata = []byte(metadata)
	}
	switch anyOf(t, "onTimeout", "", "", "", "resolved", "rejected") {
	case "resolved":
		d.OnTimeout = &promise.Result{State: promise.Resolved, Value: []byte("1")}
	case "rejected":
		d.OnTimeout = &promise.Result{State: promise.Rejected, Message: new("x")}
	}
	model := d
	switch anyOf(t, "deadline", "none", "timeout", "at") {
	case "timeout":
		d.Timeout = new(halfHours(t, "timeout", 1, 3, 5))
		model.Timeout = d.Timeout
	case "at":
		d.TimeoutAt, model.TimeoutAt = m.anyMoment(t, "timeoutAt")
	}
	got, err := m.r.Create(t.Context(), slug, d)
	want, made, wantErr := m.want.create(slug, model)
	if made != nil {
		made.ID, want.Promise.ID = got.Promise.ID, got.Promise.ID
	}
	requireSameError(t, wantErr, err)
	if err == nil {
		got.Promise = m.promise(got.Promise)
		require.Equal(t, want, got)
	}
}

func (m *modelCheck) Register(t *rapid.T) {
	slug, key, ttl := anyTenant(t), anyKey(t), halfHours(t, "ttl", 1, 3, 7)
	id := m.anyID(t)
	requireSameError(t, m.want.register(slug, key, id, ttl), m.r.AddIdempotencyKey(t.Context(), slug, key, id, ttl))
}

func (m *modelCheck) Get(t *rapid.T) {
	slug, i := anyTenant(t), m.anyIdentifier(t)
	p := m.want.find(slug, i)
	got, err := m.r.Get(t.Context(), slug, i)
	if p == nil {
		requireSameError(t, promise.ErrNotFound, err)
		return
	}
	require.NoError(t, err)
	require.Equal(t, m.want.read(p), m.promise(got))
	got, err = m.r.GetByWorkflowAndName(t.Context(), slug, p.WorkflowExecutionID, p.Name)
	require.NoError(t, err)
	require.Equal(t, m.want.read(p), m.promise(got))
	if key, ok := i.IdempotencyKey(); ok {
		id, err := m.r.FindPromiseByIdempotencyKey(t.Context(), slug, key)
		require.NoError(t, err)
		require.Equal(t, p.ID, id)
	}
}

func (m *modelCheck) Settle(t *rapid.T) {
	slug, i, s := anyTenant(t), m.anyIdentifier(t), anySettlement(t, promise.Resolved, promise.Rejected, promise.Cancelled)
	got, err := m.r.Settle(t.Context(), slug, i, s)
	want, wantErr := m.want.settle(m.want.find(slug, i), s)
	requireSameError(t, wantErr, err)
	require.Equal(t, want, got)
}

func (m *modelCheck) SettleEarly(t *rapid.T) {
	slug, key, s := anyTenant(t), anyKey(t), anySettlement(t, promise.Resolved, promise.Rejected)
	ttl := halfHours(t, "ttl", 1, 3, 7)
	got, err := m.r.SettleEarly(t.Context(), slug, key, s, ttl)
	require.NoError(t, err)
	got.EarlyExpiresAt = m.moment(got.EarlyExpiresAt)
	i, err := promise.ByIdempotencyKey(key)
	require.NoError(t, err)
	require.Equal(t, m.want.settleEarly(slug, i, s, ttl), got)
}

func (m *modelCheck) SettleBatch(t *rapid.T) {
	items := make([]promise.Item, rapid.IntRange(0, 6).Draw(t, "items"))
	for n := range items {
		items[n] = item(m.anyIdentifier(t), anySettlement(t, promise.Resolved, promise.Rejected))
	}
	slug := anyTenant(t)
	got, err := m.r.SettleBatch(t.Context(), slug, byDirect, items)
	require.NoError(t, err)
	require.Equal(t, m.want.settleBatch(slug, byDirect, items), got)
}

func (m *modelCheck) Extend(t *rapid.T) {
	slug, i := anyTenant(t), m.anyIdentifier(t)
	p := m.want.find(slug, i)
	var d promise.Deadline
	var to time.Time
	same := false
	switch anyOf(t, "deadline", "timeout", "at", "same") {
	case "same": // the deadline that it has already
		if stored, err := m.r.Get(t.Context(), slug, i); err == nil && stored.State == promise.Pending && stored.TimeoutAt != nil {
			d.At, same = stored.TimeoutAt, true
			break
		}
		fallthrough
	case "timeout":
		d.Timeout = new(halfHours(t, "timeout", 1, 3, 5))
		to = m.want.now.Add(*d.Timeout)
	case "at":
		at, model := m.anyMoment(t, "timeoutAt")
		d.At, to = at, *model
	}
	got, err := m.r.Extend(t.Context(), slug, i, d)
	if same {
		require.NoError(t, err)
		require.Equal(t, m.want.read(p), m.promise(got))
		return
	}
	want, wantErr := m.want.extend(p, to)
	requireSameError(t, wantErr, err)
	if err == nil {
		require.Equal(t, want, m.promise(got))
	}
}

func (m *modelCheck) List(t *rapid.T) {
	var f promise.Filter
	if rapid.Bool().Draw(t, "of one workflow") {
		f.WorkflowExecutionID = new(m.anyWorkflow(t))
	}
	if name := anyOf(t, "name", "", "", "a", "b"); name != "" {
		f.Name = &name
	}
	if state := anyOf(t, "state", "", "", "pending", "resolved", "rejected", "cancelled", "timed_out"); state != "" {
		f.State = new(promise.State(state))
	}
	model := f
	if rapid.Bool().Draw(t, "by deadline") {
		hours := time.Duration(rapid.IntRange(-3, 3).Draw(t, "hours")) * time.Hour
		f.TimeoutBefore, model.TimeoutBefore = new(time.Now().Add(hours)), new(m.want.now.Add(hours))
	}
	if invalid := f.Check(); invalid != nil {
		_, _, err := m.r.ListPromises(t.Context(), tenant, f, 10)
		requireSameError(t, invalid, err)
		return
	}
	m.requireSameList(t, anyTenant(t), f, model, rapid.IntRange(1, 4).Draw(t, "limit"))
}

func (m *modelCheck) requireSameList(t *rapid.T, slug string, f, model promise.Filter, limit int) {
	var all []promise.Promise
	for more := true; more; {
		var page []promise.Promise
		var err error
		page, more, err = m.r.ListPromises(t.Context(), slug, f, limit)
		require.NoError(t, err)
		for _, p := range page {
			f.After = new(f.CursorAfter(p))
			all = append(all, m.promise(p))
		}
		require.True(t, len(page) == limit || !more)
	}
	require.Equal(t, m.want.list(slug, model), all)
}

func (m *modelCheck) ListEvents(t *rapid.T) {
	after, limit := int32(rapid.IntRange(0, 12).Draw(t, "after")), rapid.IntRange(1, 10).Draw(t, "limit")
	m.requireSameEvents(t, anyTenant(t), m.anyWorkflow(t), after, limit)
}

func (m *modelCheck) requireSameEvents(t *rapid.T, slug string, workflow uuid.UUID, after int32, limit int) {
	got, err := m.r.ListEvents(t.Context(), slug, workflow, after, limit)
	for n, e := range got {
		got[n].CreatedAt, got[n].TimeoutAt = *m.moment(&e.CreatedAt), m.moment(e.TimeoutAt)
	}
	want, wantErr := m.want.listEvents(slug, workflow, after, limit)
	requireSameError(t, wantErr, err)
	require.Equal(t, want, got)
}

func (m *modelCheck) Expire(t *rapid.T) {
	limit := rapid.IntRange(1, 4).Draw(t, "limit")
	got, err := m.r.Expire(t.Context(), limit)
	require.NoError(t, err)
	require.Equal(t, m.want.expire(limit), got.Expired)
}

func (m *modelCheck) ExpireIdempotencyKeys(t *rapid.T) {
	got, err := m.r.ExpireIdempotencyKeys(t.Context(), 100)
	require.NoError(t, err)
	released, expired := m.want.expireKeys()
	require.Equal(t, released, got.Released)
	var early []refKeyName
	for _, e := range got.ExpiredEarly {
		early = append(early, refKeyName{e.Tenant, e.Key})
	}
	require.ElementsMatch(t, expired, early)
	again, err := m.r.ExpireIdempotencyKeys(t.Context(), 100)
	require.NoError(t, err)
	require.Zero(t, again, "no key is examined twice")
}

func (m *modelCheck) MoveTheClock(t *rapid.T) {
	by := time.Duration(rapid.SampledFrom([]int{1, 2, 3, 4, 1, 2, 3, 4, 100, 168}).Draw(t, "hours")) * time.Hour
	require.NoError(t, pgx.BeginFunc(t.Context(), m.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(t.Context(), dbtest.Unbound); err != nil {
			return err
		}
		_, err := tx.Exec(t.Context(), `
		WITH promises AS (
			UPDATE promise SET timeout_at = timeout_at - $1::INTERVAL, created_at = created_at - $1, resolved_at = resolved_at - $1
		), events AS (
			UPDATE workflow_event_row SET created_at = created_at - $1, timeout_at = timeout_at - $1
		)
		UPDATE idempotency_key SET expires_at = expires_at - $1, held_at = held_at - $1, held_until = held_until - $1,
			check_at = check_at - $1`, by)
		return err
	}))
	m.want.now = m.want.now.Add(by)
}

// requireSame compares all promises and logs.
func (m *modelCheck) requireSame(t *rapid.T) {
	for _, slug := range []string{tenant, "other"} {
		m.requireSameList(t, slug, promise.Filter{}, promise.Filter{}, 100)
		for _, state := range []promise.State{promise.Pending, promise.Resolved, promise.Rejected, promise.Cancelled, promise.TimedOut} {
			f := promise.Filter{State: &state}
			m.requireSameList(t, slug, f, f, 100)
		}
		for _, w := range m.workflows {
			m.requireSameEvents(t, slug, w, 0, 1000)
		}
	}
}

func requireSameError(t *rapid.T, want, got error) {
	if want == nil {
		require.NoError(t, got)
		return
	}
	require.Error(t, got)
	w, g := promise.AsError(want), promise.AsError(got)
	require.Equal(t, w.Code, g.Code, "%v", got)
	require.Equal(t, w.ExistingPromiseID, g.ExistingPromiseID)
	require.Equal(t, w.SettleResult, g.SettleResult)
}

// moment converts a time of the repository to the reference's clock.
func (m *modelCheck) moment(at *time.Time) *time.Time {
	if at == nil {
		return nil
	}
	return new(m.want.now.Add(time.Until(*at).Round(30 * time.Minute)))
}

func (m *modelCheck) promise(p promise.Promise) promise.Promise {
	p.CreatedAt, p.TimeoutAt, p.ResolvedAt = *m.moment(&p.CreatedAt), m.moment(p.TimeoutAt), m.moment(p.ResolvedAt)
	return p
}

// anyMoment returns a time at least half an hour from now, by the repository's clock and by the reference's.
func (m *modelCheck) anyMoment(t *rapid.T, label string) (at, model *time.Time) {
	from := halfHours(t, label, -3, -1, 1, 3, 5)
	return new(time.Now().Add(from)), new(m.want.now.Add(from))
}

func (m *modelCheck) anyWorkflow(t *rapid.T) uuid.UUID {
	return m.workflows[rapid.IntRange(0, len(m.workflows)-1).Draw(t, "workflow")]
}

func (m *modelCheck) anyID(t *rapid.T) uuid.UUID {
	if n := rapid.IntRange(0, len(m.want.promises)).Draw(t, "promise"); n > 0 {
		return m.want.promises[n-1].ID
	}
	return uuid.New()
}

func (m *modelCheck) anyIdentifier(t *rapid.T) promise.Identifier {
	if rapid.Bool().Draw(t, "by id") {
		return promise.ByID(m.anyID(t))
	}
	i, err := promise.ByIdempotencyKey(anyKey(t))
	require.NoError(t, err)
	return i
}

func anyTenant(t *rapid.T) string { return anyOf(t, "tenant", tenant, tenant, tenant, "other") }

func anyKey(t *rapid.T) string { return anyOf(t, "key", "k1", "k2", "k3", "k4") }

func anyOf(t *rapid.T, label string, values ...string) string {
	return rapid.SampledFrom(values).Draw(t, label)
}

func halfHours(t *rapid.T, label string, numbers ...int) time.Duration {
	return time.Duration(rapid.SampledFrom(numbers).Draw(t, label)) * 30 * time.Minute
}

func anySettlement(t *rapid.T, states ...promise.State) promise.SettleRequest {
	n := rapid.IntRange(1, 2).Draw(t, "content")
	s := promise.SettleRequest{
		Result: promise.Result{State: rapid.SampledFrom(states).Draw(t, "to")},
		By:     promise.By{Kind: promise.KindDirect, ID: anyOf(t, "by", "", "importer")},
	}
	switch s.State {
	case promise.Resolved:
		s.Value = strconv.AppendInt(nil, int64(n), 10)
	case promise.Rejected:
		s.Message = new(strconv.Itoa(n))
	case promise.Cancelled:
		s.Message = []*string{nil, new("because")}[n-1]
	}
	if comment := anyOf(t, "comment", "", "so be it"); comment != "" {
		s.Comment = &comment
	}
	return s
}
