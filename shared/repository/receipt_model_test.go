package repository_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/repository"
)

// For random sequences of calls, webhooks, receipts, keys and promises are as the plain model says, each preview foresees its webhook, and an event
// settles one promise at most.
func TestReceiptModel(t *testing.T) {
	t.Parallel()
	_, db := setUp(t)
	pool := poolWith(t, db.URL, func(c *pgxpool.Config) { c.MaxConns = 1 })
	rapid.Check(t, func(t *rapid.T) {
		_, err := pool.Exec(t.Context(), "WITH w AS (DELETE FROM workflow_execution), k AS (DELETE FROM idempotency_key), s AS (DELETE FROM source) DELETE FROM receipt")
		require.NoError(t, err)
		m := &receiptModel{pool: pool, r: repository.New(pool), keys: map[string]*hookedKey{}, receipts: map[string]*hookedReceipt{}}
		for _, key := range []string{"j", "k"} {
			m.keys[key] = &hookedKey{}
		}
		m.PutSource(t)
		t.Repeat(rapid.StateMachineActions(m))
	})
}

type receiptModel struct {
	pool     *pgxpool.Pool
	r        *repository.Repository
	source   promise.Source
	keys     map[string]*hookedKey
	receipts map[string]*hookedReceipt // by event
	promises []*hookedPromise
}

type hookedKey struct {
	promise *hookedPromise
	expired bool
	early   *hookedEarly
}

type hookedPromise struct {
	id                          uuid.UUID
	result                      promise.Result
	overdue, byDeadline, erased bool
}

type hookedEarly struct {
	result  promise.Result
	event   string // empty: of a caller
	expired bool
}

type hookedReceipt struct {
	key     string
	outcome promise.ReceiptOutcome
	promise *hookedPromise
}

func sameResult(a, b promise.Result) bool { return a.State == b.State && bytes.Equal(a.Value, b.Value) }

// live reports whether no create may take the key over.
func (k *hookedKey) live() bool {
	return k.promise != nil && (!k.expired || k.promise.result.State == promise.Pending && !k.promise.overdue)
}

func (k *hookedKey) waits() bool { return k.early != nil && !k.early.expired }

// settle settles the key's promise, or says why it does not.
func (k *hookedKey) settle(with promise.Result) promise.Outcome {
	p := k.promise
	switch {
	case p.byDeadline || p.result.State == promise.Pending && p.overdue:
		return promise.OutcomeTimedOut
	case p.result.State == promise.Pending:
		p.result = with
		return promise.OutcomeSettled
	}
	return promise.OutcomeAgainst(p.result.State, false, !p.erased && sameResult(p.result, with))
}

// hold stores an early settlement, or compares it with the one that waits.
func (m *receiptModel) hold(k *hookedKey, with hookedEarly) promise.Outcome {
	if k.waits() {
		return promise.OutcomeAgainst(promise.Pending, false, sameResult(k.early.result, with.result))
	}
	if k.early != nil {
		m.endEarly(k, with.event)
	}
	k.early = &with
	return promise.OutcomeHeld
}

// endEarly discards an early settlement that was not used. Its receipt expires with it, and so do those that were compared with it. The caller writes
// the receipt of one event itself.
func (m *receiptModel) endEarly(k *hookedKey, but string) {
	for event, r := range m.receipts {
		if m.waitsOn(r, k) && event != but {
			r.outcome = promise.ReceiptExpired
		}
	}
	k.early = nil
}

// waitsOn reports whether a receipt shares the fate of the early settlement of a key.
func (m *receiptModel) waitsOn(r *hookedReceipt, k *hookedKey) bool {
	return r.key != "" && m.keys[r.key] == k && r.promise == nil &&
		(r.outcome == promise.ReceiptHeld || r.outcome == promise.ReceiptDuplicate || r.outcome == promise.ReceiptConflict)
}

func anyResult(t *rapid.T) promise.Result {
	return promise.Result{State: promise.Resolved, Value: []byte(rapid.SampledFrom([]string{"1", "2"}).Draw(t, "value"))}
}

func (m *receiptModel) anyKey(t *rapid.T) string {
	return rapid.SampledFrom([]string{"j", "k"}).Draw(t, "key")
}

func (m *receiptModel) PutSource(t *rapid.T) {
	if rapid.Bool().Draw(t, "delete") {
		if _, err := m.r.DeleteSource(t.Context(), tenant, "stripe"); err != nil {
			require.ErrorIs(t, err, promise.ErrNoSource)
		}
	}
	p := stripe()
	p.Enabled = new(rapid.Bool().Draw(t, "enabled"))
	var err error
	m.source, _, _, err = m.r.PutSource(t.Context(), tenant, p)
	require.NoError(t, err)
}

func (m *receiptModel) Receive(t *rapid.T) {
	event := rapid.SampledFrom([]string{"id:a", "id:b", "id:c", "sha256:" + strings.Repeat("0", 64)}).Draw(t, "event")
	d := promise.ReceiptDraft{SourceID: m.source.ID, Source: "stripe", Event: event}
	switch d.Then = rapid.SampledFrom([]string{"resolve", "resolve", "resolve", "resolve", "ignore", "fail"}).Draw(t, "then"); d.Then {
	case "resolve":
		d.Key, d.Result = m.anyKey(t), anyResult(t)
		if rapid.IntRange(0, 3).Draw(t, "hold") > 0 {
			d.Hold = time.Hour
		}
	case "fail":
		d.Failed = true
	}
	want, repeated := m.receive(d)
	preview, previewErr := m.r.PreviewReceipt(t.Context(), tenant, d)
	got, err := m.r.Receive(t.Context(), tenant, d)
	if want == nil {
		require.Equal(t, promise.CodeRuleFailed, promise.AsError(err).Code)
		require.Equal(t, err, previewErr)
		return
	}
	require.NoError(t, err)
	require.NoError(t, previewErr)
	if preview.ReceiptID == uuid.Nil {
		preview.ReceiptID = got.ReceiptID
	}
	require.Equal(t, preview, got)
	require.Equal(t, want.outcome, got.Outcome)
	require.Equal(t, repeated, got.Repeated)
	if want.promise == nil {
		require.Nil(t, got.PromiseID)
	} else {
		require.Equal(t, &want.promise.id, got.PromiseID)
	}
}

// receive returns the receipt after a webhook, or nil if it is refused.
func (m *receiptModel) receive(d promise.ReceiptDraft) (want *hookedReceipt, repeated bool) {
	former := m.receipts[d.Event]
	if former != nil {
		k := m.keys[former.key]
		if former.outcome.Final() || former.outcome == promise.ReceiptHeld && k.waits() && k.early.event == d.Event {
			if strings.HasPrefix(d.Event, "sha256:") && d.Then == "resolve" && d.Key != former.key {
				return nil, false
			}
			return former, true
		}
	}
	want = &hookedReceipt{key: d.Key}
	m.receipts[d.Event] = want
	switch {
	case d.Failed:
		want.outcome = promise.ReceiptRuleFailed
		return want, false
	case d.Then == "ignore":
		want.outcome = promise.ReceiptIgnored
		return want, false
	}
	k := m.keys[d.Key]
	want.outcome = promise.ReceiptNotFound
	if k.promise != nil {
		want.outcome, want.promise = promise.ReceiptOutcome(k.settle(d.Result)), k.promise
	}
	if d.Hold > 0 && want.outcome != promise.ReceiptSettled && want.outcome != promise.ReceiptDuplicate && !k.live() {
		want.outcome, want.promise = promise.ReceiptOutcome(m.hold(k, hookedEarly{result: d.Result, event: d.Event})), nil
	}
	return want, false
}

func (m *receiptModel) Create(t *rapid.T) {
	key := m.anyKey(t)
	k := m.keys[key]
	d := withKey(draft(fmt.Sprint("p", len(m.promises))), key, time.Hour)
	p := &hookedPromise{result: promise.Result{State: promise.Pending}}
	if p.overdue = rapid.IntRange(0, 4).Draw(t, "overdue") == 0; p.overdue {
		d.TimeoutAt = new(time.Now().Add(-time.Minute))
	}
	created, err := m.r.Create(t.Context(), tenant, d)
	if k.live() {
		require.Equal(t, promise.CodeKeyConflict, promise.AsError(err).Code)
		return
	}
	require.NoError(t, err)
	require.Equal(t, k.early != nil && k.early.event == "" && (k.early.expired || p.overdue), created.EarlyExpired, "a webhook that expires counts none")
	p.id = created.Promise.ID
	if k.waits() && !p.overdue {
		p.result = k.early.result
		for _, r := range m.receipts {
			if !m.waitsOn(r, k) {
				continue
			}
			if r.promise = p; r.outcome == promise.ReceiptHeld {
				r.outcome = promise.ReceiptSettled
			}
		}
		k.early = nil
	}
	if k.early != nil {
		m.endEarly(k, "")
	}
	k.promise, k.expired = p, false
	m.promises = append(m.promises, p)
}

func (m *receiptModel) Settle(t *rapid.T) {
	key := m.anyKey(t)
	k, s := m.keys[key], promise.SettleRequest{Result: anyResult(t), By: byDirect}
	got, err := m.r.SettleEarly(t.Context(), tenant, key, s, time.Hour)
	require.NoError(t, err)
	want := promise.Outcome("")
	if k.promise != nil {
		want = k.settle(s.Result)
	}
	if want != promise.OutcomeSettled && want != promise.OutcomeDuplicate && !k.live() {
		want = m.hold(k, hookedEarly{result: s.Result})
	}
	require.Equal(t, want, got.Outcome)
}

// EndKey lets the key of a promise expire. The promise keeps it for its grace period.
func (m *receiptModel) EndKey(t *rapid.T) {
	key := m.anyKey(t)
	_, err := m.pool.Exec(t.Context(), "UPDATE idempotency_key SET expires_at = NOW(), check_at = NOW() WHERE key = $1 AND promise_id IS NOT NULL", key)
	require.NoError(t, err)
	m.keys[key].expired = true
}

// EndEarly lets the early settlement of a key expire.
func (m *receiptModel) EndEarly(t *rapid.T) {
	key := m.anyKey(t)
	_, err := m.pool.Exec(t.Context(), `UPDATE idempotency_key SET held_until = NOW(), check_at = NOW(),
		expires_at = CASE WHEN promise_id IS NULL THEN NOW() ELSE expires_at END WHERE key = $1 AND held_at IS NOT NULL`, key)
	require.NoError(t, err)
	if k := m.keys[key]; k.early != nil {
		k.early.expired = true
	}
}

// Overdue moves the deadline of a pending promise into the past.
func (m *receiptModel) Overdue(t *rapid.T) {
	p := m.keys[m.anyKey(t)].promise
	if p == nil {
		return
	}
	_, err := m.r.Extend(t.Context(), tenant, promise.ByID(p.id), promise.Deadline{At: new(time.Now().Add(-time.Minute))})
	if p.result.State == promise.Pending && !p.overdue {
		require.NoError(t, err)
		p.overdue = true
	}
}

func (p *hookedPromise) record() {
	if p.result.State == promise.Pending && p.overdue {
		p.result, p.byDeadline = promise.Result{State: promise.TimedOut}, true
	}
}

func (m *receiptModel) Erase(t *rapid.T) {
	p := m.keys[m.anyKey(t)].promise
	if p == nil {
		return
	}
	_, err := m.r.Erase(t.Context(), tenant, promise.ByID(p.id))
	p.record()
	require.Equal(t, p.result.State != promise.Pending, err == nil)
	p.erased = err == nil
}

func (m *receiptModel) Sweep(t *rapid.T) {
	_, err := m.r.Expire(t.Context(), 100)
	require.NoError(t, err)
	_, err = m.r.ExpireIdempotencyKeys(t.Context(), 100)
	require.NoError(t, err)
	_, err = m.r.DeleteReceipts(t.Context(), 100)
	require.NoError(t, err)
	for _, p := range m.promises {
		p.record()
	}
	for _, k := range m.keys {
		if k.early != nil && k.early.expired {
			m.endEarly(k, "")
		}
	}
}

// Check compares every receipt and every promise after each call.
func (m *receiptModel) Check(t *rapid.T) {
	list, _, err := m.r.ListReceipts(t.Context(), tenant, promise.ReceiptFilter{}, 100)
	require.NoError(t, err)
	require.Len(t, list, len(m.receipts))
	settled := map[uuid.UUID]string{}
	for _, x := range list {
		want := m.receipts[x.Event]
		require.Equal(t, want.outcome, x.Outcome, x.Event)
		require.Equal(t, want.key, x.Key)
		if want.promise == nil {
			require.Nil(t, x.PromiseID)
		} else {
			require.Equal(t, want.promise.id, *x.PromiseID)
		}
		if x.Outcome == promise.ReceiptSettled {
			require.Empty(t, settled[*x.PromiseID])
			settled[*x.PromiseID] = x.Event
		}
	}
	rows, err := m.pool.Query(t.Context(), "SELECT id, outcome AS state, value, settled_by_kind = 'webhook' AS hooked FROM promise")
	require.NoError(t, err)
	stored, err := pgx.CollectRows(rows, pgx.RowToStructByName[struct {
		ID     uuid.UUID
		State  *promise.State
		Value  []byte
		Hooked *bool
	}])
	require.NoError(t, err)
	require.Len(t, stored, len(m.promises))
	byID := map[uuid.UUID]*hookedPromise{}
	for _, p := range m.promises {
		byID[p.id] = p
	}
	for _, p := range stored {
		want := byID[p.ID]
		require.Equal(t, want.result.State == promise.Pending, p.State == nil)
		require.True(t, p.State == nil || *p.State == want.result.State)
		require.True(t, want.erased || bytes.Equal(want.result.Value, p.Value))
		require.True(t, p.Hooked == nil || !*p.Hooked || settled[p.ID] != "", "the event that settled a promise has a receipt that says so")
	}
}
