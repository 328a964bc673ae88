package repository_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/repository"
)

// The same event at the same moment has one effect and one answer, whatever its outcome is.
func TestOneEventAtOnce(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	s, _ := putSource(t, r, stripe())
	create(t, r, withKey(draft("a"), "pending", time.Hour))
	create(t, r, withKey(draft("b"), "cancelled", time.Hour))
	require.NoError(t, errOf(r.Settle(t.Context(), tenant, byKey(t, "cancelled"), cancelled(""))))
	not := func(d promise.ReceiptDraft) promise.ReceiptDraft { d.Hold = 0; return d }
	ignored := promise.ReceiptDraft{SourceID: s.ID, Event: "id:ignored", Judgment: promise.Judgment{Then: "ignore"}}
	for want, d := range map[promise.ReceiptOutcome]promise.ReceiptDraft{
		promise.ReceiptSettled: webhook(s, "pending", "pending"), promise.ReceiptCancelled: webhook(s, "cancelled", "cancelled"),
		promise.ReceiptHeld: webhook(s, "held", "held"), promise.ReceiptNotFound: not(webhook(s, "none", "none")), promise.ReceiptIgnored: ignored,
	} {
		t.Run(string(want), func(t *testing.T) {
			answers, errs := make([]promise.ReceiptResult, callers), make([]error, callers)
			atOnce(t, db.URL, func(r *repository.Repository, caller int) {
				answers[caller], errs[caller] = r.Receive(context.Background(), tenant, d)
			})
			anew := 0
			for caller, got := range answers {
				require.NoError(t, errs[caller])
				require.Equal(t, want, got.Outcome)
				require.Equal(t, answers[0].ReceiptID, got.ReceiptID)
				require.Equal(t, answers[0].PromiseID, got.PromiseID)
				if !got.Repeated {
					anew++
				}
			}
			if want.Final() || want == promise.ReceiptHeld {
				require.Equal(t, 1, anew)
			}
		})
	}
	require.Equal(t, 5, count(t, db, "SELECT COUNT(*) FROM receipt"))
	require.Equal(t, 1, count(t, db, "SELECT COUNT(*) FROM workflow_event WHERE event_type = 'PROMISE_RESOLVED'"))
	requireDense(t, db)
}

// Of different events for one key one settles, before the create as after it.
func TestManyEventsForOneKey(t *testing.T) {
	t.Parallel()
	for _, early := range []bool{false, true} {
		t.Run(fmt.Sprint("early: ", early), func(t *testing.T) {
			t.Parallel()
			r, db := setUp(t)
			s, _ := putSource(t, r, stripe())
			if !early {
				create(t, r, withKey(draft("a"), "k", time.Hour))
			}
			answers, errs := make([]promise.ReceiptResult, callers), make([]error, callers)
			atOnce(t, db.URL, func(r *repository.Repository, caller int) {
				answers[caller], errs[caller] = r.Receive(context.Background(), tenant, webhook(s, fmt.Sprint(caller), "k"))
			})
			winner, first := -1, promise.ReceiptSettled
			if early {
				first = promise.ReceiptHeld
			}
			for caller, got := range answers {
				require.NoError(t, errs[caller])
				if got.Outcome == first {
					require.Equal(t, -1, winner)
					winner = caller
				} else {
					require.Equal(t, promise.ReceiptConflict, got.Outcome)
				}
			}
			if early {
				create(t, r, withKey(draft("a"), "k", time.Hour))
			}
			stored, err := r.Get(t.Context(), tenant, byKey(t, "k"))
			require.NoError(t, err)
			require.Equal(t, fmt.Sprintf("%q", fmt.Sprint(winner)), string(stored.Value))
			require.Equal(t, callers, count(t, db, "SELECT COUNT(*) FROM receipt"))
			require.Equal(t, 1, count(t, db, "SELECT COUNT(*) FROM receipt WHERE outcome = 'settled' AND promise_id = $1", stored.ID))
			requireDense(t, db)
		})
	}
}

// A create and the webhook for it race: the promise has the webhook's value each time, and one event says so.
func TestTheWebhookRacesTheCreate(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	s, _ := putSource(t, r, stripe())
	const pairs, workers = 1000, 4
	outcomes := make([]promise.ReceiptOutcome, pairs)
	errs := make([]error, 2*pairs)
	var wg sync.WaitGroup
	for worker := range workers {
		wg.Go(func() {
			for i := worker; i < pairs; i += workers {
				key := fmt.Sprint(i)
				var both sync.WaitGroup
				both.Go(func() {
					time.Sleep(time.Duration(rand.Int64N(int64(time.Millisecond))))
					_, errs[2*i] = r.Create(context.Background(), tenant, withKey(draft(key), key, time.Hour))
				})
				both.Go(func() {
					time.Sleep(time.Duration(rand.Int64N(int64(time.Millisecond))))
					got, err := r.Receive(context.Background(), tenant, webhook(s, key, key))
					outcomes[i], errs[2*i+1] = got.Outcome, err
				})
				both.Wait()
			}
		})
	}
	wg.Wait()
	counts := map[promise.ReceiptOutcome]int{}
	for i, err := range errs {
		require.NoError(t, err)
		counts[outcomes[i/2]]++
	}
	t.Logf("outcomes of the webhooks, twice: %v", counts)
	require.Equal(t, 2*pairs, counts[promise.ReceiptSettled]+counts[promise.ReceiptHeld])
	require.Equal(t, pairs, count(t, db, `SELECT COUNT(*) FROM promise p JOIN receipt r ON r.promise_id = p.id AND r.outcome = 'settled'
		WHERE p.outcome = 'resolved' AND convert_from(p.value, 'UTF8') = '"' || p.name || '"' AND r.key = p.name AND p.settled_by_kind = 'webhook'`))
	require.Equal(t, pairs, count(t, db, "SELECT COUNT(*) FROM workflow_event WHERE event_type = 'PROMISE_RESOLVED'"))
	require.Zero(t, count(t, db, "SELECT COUNT(*) FROM idempotency_key WHERE held_at IS NOT NULL OR held_receipt_id IS NOT NULL"))
	requireDense(t, db)
}

// An erasure waits for a webhook that keeps its body and does not settle the promise, and deletes the body.
func TestEraseBesideAWebhook(t *testing.T) {
	t.Parallel()
	for name, ofAnother := range map[string]bool{"its own body": false, "the body of another item": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, db := setUp(t)
			s, _ := putSource(t, r, stripe())
			p := create(t, r, withKey(draft("a"), "k", time.Hour))
			require.NoError(t, errOf(r.Settle(t.Context(), tenant, promise.ByID(p.ID), resolved([]byte("1")))))
			id := uuid.New()
			text, _ := sealed(id, 1)
			late := webhook(s, "late", "k")
			late.Body = &promise.KeptBody{ID: id, Sealed: text}
			if ofAnother {
				failed := promise.ReceiptDraft{SourceID: s.ID, Event: "id:failed", Judgment: promise.Judgment{Failed: true}, Body: late.Body}
				receive(t, r, failed, promise.ReceiptRuleFailed)
				late.Body = &promise.KeptBody{ID: id}
			}
			tx, err := db.Pool.Begin(t.Context())
			require.NoError(t, err)
			defer tx.Rollback(context.Background()) //nolint:errcheck // committed below, unless the test fails
			got, err := repository.New(tx).Receive(t.Context(), tenant, late)
			require.NoError(t, err)
			require.Equal(t, promise.ReceiptConflict, got.Outcome)
			erased := make(chan error, 1)
			go func() { erased <- errOf(r.Erase(context.Background(), tenant, promise.ByID(p.ID))) }()
			waitForLocks(t, db, 1, "promise", "erase")
			require.NoError(t, tx.Commit(t.Context()))
			require.NoError(t, <-erased)
			require.Zero(t, count(t, db, "SELECT COUNT(*) FROM receipt_body"))
		})
	}
}
