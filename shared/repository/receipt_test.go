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
