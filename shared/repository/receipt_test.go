package repository_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/repository"
)

// webhook returns a webhook with the event that resolves the promise of the key by the event's name.
func webhook(s promise.Source, event, key string) promise.ReceiptDraft {
	return promise.ReceiptDraft{
		SourceID: s.ID, Source: s.Name, Event: "id:" + event,
		Judgment: promise.Judgment{
			Rule: "1", Then: "resolve", Key: key, Result: promise.Result{State: promise.Resolved, Value: []byte(`"` + event + `"`)}, Hold: time.Hour,
		},
	}
}

// receive receives a webhook, and requires that the preview before it was right and that its receipt is stored.
func receive(t testing.TB, r *repository.Repository, d promise.ReceiptDraft, want promise.ReceiptOutcome) promise.ReceiptResult {
	t.Helper()
	preview, err := r.PreviewReceipt(t.Context(), tenant, d)
	require.NoError(t, err)
	got, err := r.Receive(t.Context(), tenant, d)
	require.NoError(t, err)
	require.Equal(t, want, got.Outcome)
	if preview.ReceiptID == uuid.Nil {
		preview.ReceiptID = got.ReceiptID
	}
	require.Equal(t, preview, got, "the preview")
	stored, _, err := r.GetReceipt(t.Context(), tenant, got.ReceiptID)
	require.NoError(t, err)
	require.Equal(t, want, stored.Outcome)
	require.Equal(t, got.PromiseID, stored.PromiseID)
	require.Equal(t, got.Key, stored.Key)
	return got
}

func TestReceiveSettles(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	s, _ := putSource(t, r, stripe())
	p := create(t, r, withKey(draft("a"), "k", time.Hour))
	got := receive(t, r, webhook(s, "e", "k"), promise.ReceiptSettled)
	require.Equal(t, &p.ID, got.PromiseID)
	stored := get(t, r, p.ID)
	require.Equal(t, `"e"`, string(stored.Value))
	require.Equal(t, &promise.By{Kind: promise.KindWebhook, ID: "stripe"}, stored.SettledBy)
	again := receive(t, r, webhook(s, "e", "k"), promise.ReceiptSettled)
	require.True(t, again.Repeated)
	require.Equal(t, "1 PROMISE_CREATED\n2 PROMISE_RESOLVED", events(t, db, p.WorkflowExecutionID))
}

func TestReceiveBeforeTheCreate(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	s, _ := putSource(t, r, stripe())
	held := receive(t, r, webhook(s, "e", "k"), promise.ReceiptHeld)
	require.Nil(t, held.PromiseID)
	require.False(t, held.Repeated)
	require.True(t, receive(t, r, webhook(s, "e", "k"), promise.ReceiptHeld).Repeated)
	p := create(t, r, withKey(draft("a"), "k", time.Hour))
	require.Equal(t, promise.Resolved, p.State)
	got := receive(t, r, webhook(s, "e", "k"), promise.ReceiptSettled)
	require.Equal(t, &p.ID, got.PromiseID)
	require.Equal(t, held.ReceiptID, got.ReceiptID)
	require.Zero(t, count(t, db, "SELECT COUNT(*) FROM idempotency_key WHERE held_receipt_id IS NOT NULL"))
}

// requireReceipts sends every statement on receipts. It leaves no source.
func requireReceipts(t *testing.T, r *repository.Repository) {
	t.Helper()
	ctx := t.Context()
	s, _ := putSource(t, r, stripe())
	d := webhook(s, `it's \x00 ä`, `'"{,}\x00`)
	text, _ := sealed(s.ID, 1)
	d.Item, d.Reason, d.Body = 7, `"why"`, &promise.KeptBody{ID: uuid.New(), Sealed: text}
	held := receive(t, r, d, promise.ReceiptHeld)
	p := create(t, r, withKey(draft("by a webhook"), d.Key, time.Hour))
	require.Equal(t, d.Result.Value, p.Value)
	stored, kept, err := r.GetReceipt(ctx, tenant, held.ReceiptID)
	require.NoError(t, err)
	require.Equal(t, d.Body, kept)
	require.Equal(t, promise.Receipt{
		ID: held.ReceiptID, SourceID: s.ID, Source: "stripe", Event: d.Event, Item: 7, Rule: "1", Key: d.Key, Outcome: promise.ReceiptSettled,
		PromiseID: &p.ID, Reason: d.Reason, ReceivedAt: stored.ReceivedAt, UpdatedAt: stored.UpdatedAt, ExpiresAt: stored.ExpiresAt, BodyKept: true,
	}, stored)
	failed := d
	failed.Body = nil
	failed.Event, failed.Judgment = "id:2", promise.Judgment{Then: "reject", Key: "none", Result: promise.Result{State: promise.Rejected, Message: new(`\'`)}}
	receive(t, r, failed, promise.ReceiptNotFound)
	hour := time.Hour
	for _, f := range []promise.ReceiptFilter{
		{Outcome: promise.ReceiptSettled}, {Source: "stripe", Outcome: promise.ReceiptSettled}, {Key: d.Key}, {PromiseID: &p.ID},
		{Key: d.Key, Source: "stripe", Outcome: promise.ReceiptSettled}, {PromiseID: &p.ID, Key: d.Key, Source: "stripe", Outcome: promise.ReceiptSettled},
	} {
		f.From, f.Before = new(stored.ReceivedAt), new(stored.ReceivedAt.Add(hour))
		list, more, err := r.ListReceipts(ctx, tenant, f, 10)
		require.NoError(t, err)
		require.False(t, more)
		require.Equal(t, []promise.Receipt{stored}, list)
		f.Before = new(stored.ReceivedAt)
		list, _, err = r.ListReceipts(ctx, tenant, f, 10)
		require.NoError(t, err)
		require.Empty(t, list, "before is not included")
	}
	_, err = r.DeleteReceipts(ctx, 10)
	require.NoError(t, err)
	_, err = r.RefreshHeld(ctx, uuid.Nil, 10)
	require.NoError(t, err)
	_, err = r.SilentSources(ctx)
	require.NoError(t, err)
	_, err = r.DeleteSource(ctx, tenant, "stripe")
	require.NoError(t, err)
}

// A walk over pages meets each receipt once, newest first, for each combination of filters.
func TestListReceipts(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	s, _ := putSource(t, r, stripe())
	id := uuid.New()
	db.Exec(t, `INSERT INTO receipt (id, tenant_id, source_id, source_name, event, item, key, outcome, promise_id, received_at, updated_at, expires_at)
		SELECT gen_random_uuid(), tenant_id, id, CASE WHEN n % 3 = 0 THEN 'other' ELSE name END, 'id:' || n, 0, 'k' || n % 2,
			(ARRAY['settled', 'held', 'ignored'])[1 + n % 3], CASE WHEN n % 4 = 0 THEN $1::UUID END,
			NOW() - (n / 10) * INTERVAL '1 minute', NOW(), NOW() + INTERVAL '1 day'
		FROM source CROSS JOIN generate_series(0, 99) n`, id)
	all, more, err := r.ListReceipts(t.Context(), tenant, promise.ReceiptFilter{}, 100)
	require.NoError(t, err)
	require.False(t, more)
	require.Len(t, all, 100)
	for i := range 64 {
		var f promise.ReceiptFilter
		if i&1 != 0 {
			f.Source = s.Name
		}
		if i&2 != 0 {
			f.Outcome = promise.ReceiptHeld
		}
		if i&4 != 0 {
			f.Key = "k1"
		}
		if i&8 != 0 {
			f.PromiseID = &id
		}
		if i&16 != 0 {
			f.From = &all[70].ReceivedAt
		}
		if i&32 != 0 {
			f.Before = &all[25].ReceivedAt
		}
		var want, got []promise.Receipt
		for _, x := range all {
			if (f.Source == "" || x.Source == f.Source) && (f.Outcome == "" || x.Outcome == f.Outcome) && (f.Key == "" || x.Key == f.Key) &&
				(f.PromiseID == nil || x.PromiseID != nil && *x.PromiseID == id) && (f.From == nil || !x.ReceivedAt.Before(*f.From)) &&
				(f.Before == nil || x.ReceivedAt.Before(*f.Before)) {
				want = append(want, x)
			}
		}
		for more := true; more; {
			var page []promise.Receipt
			page, more, err = r.ListReceipts(t.Context(), tenant, f, 7)
			require.NoError(t, err)
			got = append(got, page...)
			if more {
				last := page[len(page)-1]
				f.After = &promise.ReceiptCursor{ReceivedAt: last.ReceivedAt, ID: last.ID}
			}
		}
		require.Equal(t, want, got, "filter %+v", f)
	}
	_, _, err = r.ListReceipts(t.Context(), "nobody", promise.ReceiptFilter{}, 7)
	require.ErrorIs(t, err, promise.ErrNotFound)
	db.Tenant(t, "other")
	for _, x := range all[:1] {
		_, _, err = r.GetReceipt(t.Context(), "other", x.ID)
		require.ErrorIs(t, err, promise.ErrNotFound)
	}
	list, _, err := r.ListReceipts(t.Context(), "other", promise.ReceiptFilter{}, 7)
	require.NoError(t, err)
	require.Empty(t, list)
}
