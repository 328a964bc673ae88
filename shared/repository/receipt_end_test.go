package repository_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/dbtest"
	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/repository"
)

// expireEarly lets the early settlement of a key expire, without the sweep.
func expireEarly(t testing.TB, db *dbtest.DB, key string) {
	t.Helper()
	db.Exec(t, "UPDATE idempotency_key SET expires_at = NOW(), held_until = NOW(), check_at = NOW() WHERE key = $1", key)
}

func outcomeOf(t testing.TB, r *repository.Repository, result promise.ReceiptResult) promise.Receipt {
	t.Helper()
	got, _, err := r.GetReceipt(t.Context(), tenant, result.ReceiptID)
	require.NoError(t, err)
	return got
}

// An event whose early settlement has expired is held again under another key, because the rules have changed. The end of the former key's early
// settlement does not concern it any more.
func TestReceiptOfAFormerKey(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*testing.T, *repository.Repository, promise.Source){
		"the sweep": func(t *testing.T, r *repository.Repository, _ promise.Source) {
			require.NoError(t, errOf(r.ExpireIdempotencyKeys(t.Context(), 10)))
		},
		"a create": func(t *testing.T, r *repository.Repository, _ promise.Source) {
			create(t, r, withKey(draft("former"), "former", time.Hour))
		},
		"another event": func(t *testing.T, r *repository.Repository, s promise.Source) {
			receive(t, r, webhook(s, "id:other", "former"), promise.ReceiptHeld)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, db := setUp(t)
			s, _ := putSource(t, r, stripe())
			receive(t, r, webhook(s, "id:e", "former"), promise.ReceiptHeld)
			expireEarly(t, db, "former")
			held := receive(t, r, webhook(s, "id:e", "present"), promise.ReceiptHeld)
			end(t, r, s)
			require.Equal(t, promise.ReceiptHeld, outcomeOf(t, r, held).Outcome)
			again := receive(t, r, webhook(s, "id:e", "third"), promise.ReceiptHeld)
			require.Equal(t, "present", again.Key, "an event waits under one key")
			require.Equal(t, promise.Resolved, create(t, r, withKey(draft("present"), "present", time.Hour)).State)
			require.Equal(t, promise.Pending, create(t, r, withKey(draft("third"), "third", time.Hour)).State)
			require.Equal(t, promise.ReceiptSettled, outcomeOf(t, r, held).Outcome)
		})
	}
}

// An event that was compared with an early settlement shares its fate. If that expires unused, the event is judged anew, so nothing is lost. If it
// settles a promise, the event never settles a later one.
func TestReceiptsComparedWithAnEarlySettlement(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		value   string
		outcome promise.ReceiptOutcome
	}{"the same": {`1`, promise.ReceiptDuplicate}, "another": {`2`, promise.ReceiptConflict}} {
		for by, hold := range map[string]func(*testing.T, *repository.Repository, promise.Source){
			"a webhook": func(t *testing.T, r *repository.Repository, s promise.Source) {
				first := webhook(s, "id:e", "k")
				first.Result.Value = []byte(`1`)
				receive(t, r, first, promise.ReceiptHeld)
			},
			"a caller": func(t *testing.T, r *repository.Repository, _ promise.Source) {
				require.NoError(t, errOf(r.SettleEarly(t.Context(), tenant, "k", resolved([]byte(`1`)), time.Hour)))
			},
		} {
			t.Run(name+" as that of "+by, func(t *testing.T) {
				t.Parallel()
				r, db := setUp(t)
				s, _ := putSource(t, r, stripe())
				second := webhook(s, "id:f", "k")
				second.Result.Value = []byte(c.value)
				hold(t, r, s)
				compared := receive(t, r, second, c.outcome)
				requireRepeated(t, r, db, second, compared)

				expireEarly(t, db, "k")
				require.NoError(t, errOf(r.ExpireIdempotencyKeys(t.Context(), 10)))
				require.Equal(t, promise.ReceiptExpired, outcomeOf(t, r, compared).Outcome)
				first := create(t, r, withKey(draft("first"), "k", time.Hour))
				require.Equal(t, promise.Pending, first.State)
				receive(t, r, second, promise.ReceiptSettled)
				require.Equal(t, c.value, string(get(t, r, first.ID).Value))

				db.Exec(t, "DELETE FROM receipt")
				db.Exec(t, "DELETE FROM idempotency_key")
				hold(t, r, s)
				compared = receive(t, r, second, c.outcome)
				born := create(t, r, withKey(draft("born"), "k", 10*24*time.Hour))
				require.Equal(t, promise.Resolved, born.State)
				got := outcomeOf(t, r, compared)
				require.Equal(t, c.outcome, got.Outcome)
				require.Equal(t, born.ID, *got.PromiseID)
				require.True(t, got.ExpiresAt.After(time.Now().Add(17*24*time.Hour)), "it stays longer than the key names the promise")
				db.Exec(t, "DELETE FROM idempotency_key")
				later := create(t, r, withKey(draft("later"), "k", time.Hour))
				receive(t, r, second, c.outcome)
				require.Equal(t, promise.Pending, get(t, r, later.ID).State)
			})
		}
	}
}
