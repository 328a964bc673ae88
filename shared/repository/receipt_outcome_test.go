package repository_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/dbtest"
	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/repository"
)

// contents returns all rows of the schema.
func contents(t testing.TB, db *dbtest.DB) string {
	t.Helper()
	rows, err := db.Pool.Query(t.Context(), "SELECT relname::TEXT FROM pg_class WHERE relnamespace = current_schema()::REGNAMESPACE AND relkind = 'r' ORDER BY 1")
	require.NoError(t, err)
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	require.Contains(t, tables, "receipt")
	var all strings.Builder
	for _, table := range tables {
		var text string
		require.NoError(t, db.Pool.QueryRow(t.Context(), "SELECT COALESCE(string_agg(x::TEXT, E'\n' ORDER BY x::TEXT), '') FROM "+table+" x").Scan(&text))
		fmt.Fprintf(&all, "%s:\n%s\n", table, text)
	}
	return all.String()
}

// requireRepeated requires that the same webhook is answered from its receipt, and that nothing is written.
func requireRepeated(t testing.TB, r *repository.Repository, db *dbtest.DB, d promise.ReceiptDraft, want promise.ReceiptResult) {
	t.Helper()
	before := contents(t, db)
	want.Repeated = true
	require.Equal(t, want, receive(t, r, d, want.Outcome))
	require.Equal(t, before, contents(t, db))
}

func TestReceiveOutcomes(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	s, _ := putSource(t, r, stripe())
	same := func(key string) promise.SettleRequest { return resolved([]byte(`"` + key + `"`)) }
	settle := func(t *testing.T, key string, with promise.SettleRequest) {
		t.Helper()
		create(t, r, withKey(draft(key), key, time.Hour))
		require.NoError(t, errOf(r.Settle(t.Context(), tenant, byKey(t, key), with)))
	}
	overdue := func(t *testing.T, key string, with *promise.Result) {
		t.Helper()
		d := withKey(draft(key), key, time.Hour)
		d.OnTimeout = with
		createOverdue(t, r, tenant, d, time.Minute)
	}
	for _, c := range []struct {
		name    string
		prepare func(t *testing.T, key string)
		change  func(d *promise.ReceiptDraft)
		want    promise.ReceiptOutcome
	}{
		{"pending", func(t *testing.T, key string) { create(t, r, withKey(draft(key), key, time.Hour)) }, nil, promise.ReceiptSettled},
		{"settled with the same bytes", func(t *testing.T, key string) { settle(t, key, same(key)) }, nil, promise.ReceiptDuplicate},
		{"settled with others", func(t *testing.T, key string) { settle(t, key, rejected("no")) }, nil, promise.ReceiptConflict},
		{"cancelled", func(t *testing.T, key string) { settle(t, key, cancelled("")) }, nil, promise.ReceiptCancelled},
		{"past an unrecorded deadline", func(t *testing.T, key string) { overdue(t, key, nil) }, nil, promise.ReceiptTimedOut},
		{"resolved by its deadline with the same bytes", func(t *testing.T, key string) {
			overdue(t, key, new(same(key).Result))
			require.NoError(t, errOf(r.Expire(t.Context(), 10)))
		}, nil, promise.ReceiptTimedOut},
		{"no promise", nil, nil, promise.ReceiptHeld},
		{"an equal early settlement", func(t *testing.T, key string) { settleEarly(t, r, key, same(key), promise.OutcomeHeld) }, nil, promise.ReceiptDuplicate},
		{"another early settlement", func(t *testing.T, key string) { settleEarly(t, r, key, rejected("no"), promise.OutcomeHeld) }, nil, promise.ReceiptConflict},
		{"no promise, and no hold", nil, func(d *promise.ReceiptDraft) { d.Hold = 0 }, promise.ReceiptNotFound},
		{"a rejection", func(t *testing.T, key string) { create(t, r, withKey(draft(key), key, time.Hour)) }, func(d *promise.ReceiptDraft) {
			d.Result = promise.Result{State: promise.Rejected, Message: new("declined")}
		}, promise.ReceiptSettled},
		{"ignored", nil, func(d *promise.ReceiptDraft) {
			d.Judgment = promise.Judgment{Then: "ignore", Reason: "when: no such key"}
		}, promise.ReceiptIgnored},
		{"rule failed", nil, func(d *promise.ReceiptDraft) {
			d.Judgment = promise.Judgment{Rule: "2", Failed: true, Reason: "no such key"}
		}, promise.ReceiptRuleFailed},
		{"after the early settlement of another kind expired", func(t *testing.T, key string) {
			settleEarly(t, r, key, rejected("no"), promise.OutcomeHeld)
			db.Exec(t, "UPDATE idempotency_key SET held_until = NOW(), expires_at = NOW() WHERE key = $1", key)
		}, nil, promise.ReceiptHeld},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.prepare != nil {
				c.prepare(t, c.name)
			}
			d := webhook(s, c.name, c.name)
			if c.change != nil {
				c.change(&d)
			}
			got := receive(t, r, d, c.want)
			require.False(t, got.Repeated)
			require.Equal(t, d.Reason, got.Reason)
			if c.want.Final() || c.want == promise.ReceiptHeld {
				requireRepeated(t, r, db, d, got)
			} else {
				require.Equal(t, got, receive(t, r, d, c.want), "it is judged anew, on the same receipt")
			}
		})
	}
	require.Equal(t, 14, count(t, db, "SELECT COUNT(*) FROM receipt"))
	require.Zero(t, count(t, db, `SELECT COUNT(*) FROM receipt r JOIN idempotency_key k ON k.tenant_id = r.tenant_id AND k.key = r.key
		WHERE r.expires_at <= GREATEST(k.expires_at, k.held_until, NOW()) + INTERVAL '168 hours'`), "a receipt outlives its key")
}

// A webhook that is refused writes nothing, in any table.
func TestReceiveRefusals(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	s, _ := putSource(t, r, stripe())
	create(t, r, withKey(draft("a"), "a", time.Hour))
	signed := webhook(s, "", "a")
	signed.Event = "sha256:" + strings.Repeat("0", 64)
	receive(t, r, signed, promise.ReceiptSettled)
	waits := webhook(s, "", "b")
	waits.Event = "sha256:" + strings.Repeat("1", 64)
	receive(t, r, waits, promise.ReceiptHeld)
	refused := func(t *testing.T, d promise.ReceiptDraft, code promise.Code) promise.Error {
		t.Helper()
		before := contents(t, db)
		_, err := r.PreviewReceipt(t.Context(), tenant, d)
		preview := requireCode(t, code, err)
		_, err = r.Receive(t.Context(), tenant, d)
		got := requireCode(t, code, err)
		require.Equal(t, preview, got)
		require.Equal(t, before, contents(t, db))
		return got
	}
	for _, former := range []promise.ReceiptDraft{signed, waits} {
		t.Run("the same bytes with another key than "+former.Key, func(t *testing.T) {
			former.Key = "c"
			create(t, r, withKey(draft("c"), "c"+former.Event[:8], time.Hour))
			refused(t, former, promise.CodeRuleFailed)
		})
	}
	t.Run("the source is full", func(t *testing.T) {
		db.Exec(t, "UPDATE source SET held_full = TRUE; UPDATE tenant SET held_full = TRUE")
		require.Equal(t, "heldBySource", refused(t, webhook(s, "e", "k"), promise.CodeQuotaExceeded).Quota.Name)
	})
	t.Run("the tenant is full", func(t *testing.T) {
		db.Exec(t, "UPDATE source SET held_full = FALSE")
		refused(t, webhook(s, "e", "k"), promise.CodeQuotaExceeded)
	})
	t.Run("a promise that exists is settled all the same", func(t *testing.T) {
		create(t, r, withKey(draft("d"), "d", time.Hour))
		receive(t, r, webhook(s, "d", "d"), promise.ReceiptSettled)
	})
	t.Run("another source id, another tenant, a suspended one", func(t *testing.T) {
		unknown := webhook(s, "e", "k")
		unknown.SourceID = uuid.New()
		refused(t, unknown, promise.CodeNotFound)
		db.Tenant(t, "other")
		_, err := r.Receive(t.Context(), "other", webhook(s, "e", "k"))
		require.ErrorIs(t, err, promise.ErrNoSource)
		require.NoError(t, errOf(r.SuspendTenant(t.Context(), tenant, true)))
		refused(t, webhook(s, "e", "k"), promise.CodeNotFound)
	})
}

// A settled event is answered from its receipt, even after its key has passed on: it never settles the next promise. Another event does.
func TestAnEventSettlesOnePromise(t *testing.T) {
	t.Parallel()
	for name, early := range map[string]bool{"the webhook comes first": true, "the create comes first": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, db := setUp(t)
			s, _ := putSource(t, r, stripe())
			e := webhook(s, "e", "k")
			var first promise.Promise
			if early {
				receive(t, r, e, promise.ReceiptHeld)
				first = create(t, r, withKey(draft("first"), "k", time.Hour))
			} else {
				first = create(t, r, withKey(draft("first"), "k", time.Hour))
				receive(t, r, e, promise.ReceiptSettled)
			}
			settled := receive(t, r, e, promise.ReceiptSettled)
			require.Equal(t, &first.ID, settled.PromiseID)
			requireRepeated(t, r, db, e, settled)
			db.Exec(t, "UPDATE idempotency_key SET expires_at = NOW()") // the grace period begins
			other := receive(t, r, webhook(s, "f", "k"), promise.ReceiptHeld)
			require.Nil(t, other.PromiseID, "a webhook with other bytes waits for the next promise")
			requireRepeated(t, r, db, e, settled)
			duplicate := webhook(s, "e", "k")
			duplicate.Event = "id:g"
			require.Equal(t, &first.ID, receive(t, r, duplicate, promise.ReceiptDuplicate).PromiseID)
			second := create(t, r, withKey(draft("second"), "k", time.Hour))
			require.Equal(t, `"f"`, string(second.Value))
			require.Equal(t, &second.ID, receive(t, r, webhook(s, "f", "k"), promise.ReceiptSettled).PromiseID)
			db.Exec(t, "UPDATE idempotency_key SET expires_at = NOW()")
			third := create(t, r, withKey(draft("third"), "k", time.Hour))
			requireRepeated(t, r, db, e, settled)
			require.Equal(t, promise.Pending, get(t, r, third.ID).State)
		})
	}
}

// An event whose settlement waits is answered so, whatever its rules say now.
func TestAHeldEventIsNotJudgedAnew(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	s, _ := putSource(t, r, stripe())
	held := receive(t, r, webhook(s, "e", "k"), promise.ReceiptHeld)
	create(t, r, withKey(draft("other"), "other", time.Hour))
	for name, change := range map[string]func(*promise.ReceiptDraft){
		"another key":  func(d *promise.ReceiptDraft) { d.Key = "other" },
		"no hold":      func(d *promise.ReceiptDraft) { d.Hold = 0 },
		"ignored":      func(d *promise.ReceiptDraft) { d.Judgment = promise.Judgment{Then: "ignore"} },
		"a rule fails": func(d *promise.ReceiptDraft) { d.Judgment = promise.Judgment{Failed: true} },
	} {
		t.Run(name, func(t *testing.T) {
			d := webhook(s, "e", "k")
			change(&d)
			requireRepeated(t, r, db, d, held)
		})
	}
}

func TestAHeldEventThatExpires(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	s, _ := putSource(t, r, stripe())
	e := webhook(s, "e", "k")
	held := receive(t, r, e, promise.ReceiptHeld)
	expire := func() {
		db.Exec(t, "UPDATE idempotency_key SET expires_at = NOW(), held_until = NOW(), check_at = NOW()")
	}
	requireOutcome := func(t *testing.T, want promise.ReceiptOutcome) {
		t.Helper()
		stored, _, err := r.GetReceipt(t.Context(), tenant, held.ReceiptID)
		require.NoError(t, err)
		require.Equal(t, want, stored.Outcome)
	}
	t.Run("the sweep records it, and counts none", func(t *testing.T) {
		expire()
		expired, err := r.ExpireIdempotencyKeys(t.Context(), 10)
		require.NoError(t, err)
		require.Equal(t, 1, expired.Examined)
		require.Empty(t, expired.ExpiredEarly)
		requireOutcome(t, promise.ReceiptExpired)
	})
	t.Run("then the same event is held again", func(t *testing.T) {
		require.Equal(t, held, receive(t, r, e, promise.ReceiptHeld))
	})
	t.Run("it is held again without a sweep, too", func(t *testing.T) {
		expire()
		require.Equal(t, held, receive(t, r, e, promise.ReceiptHeld))
	})
	t.Run("another event takes its place", func(t *testing.T) {
		expire()
		receive(t, r, webhook(s, "f", "k"), promise.ReceiptHeld)
		requireOutcome(t, promise.ReceiptExpired)
		receive(t, r, e, promise.ReceiptConflict)
	})
	t.Run("an early settlement of a caller takes its place, and counts no expired one", func(t *testing.T) {
		held = receive(t, r, webhook(s, "g", "k2"), promise.ReceiptHeld)
		expire()
		require.False(t, settleEarly(t, r, "k2", rejected("no"), promise.OutcomeHeld).EarlyExpired)
		requireOutcome(t, promise.ReceiptExpired)
	})
	t.Run("a create after the expiry", func(t *testing.T) {
		held = receive(t, r, webhook(s, "h", "k3"), promise.ReceiptHeld)
		expire()
		created, err := r.Create(t.Context(), tenant, withKey(draft("late"), "k3", time.Hour))
		require.NoError(t, err)
		require.False(t, created.EarlyExpired)
		require.Equal(t, promise.Pending, created.Promise.State)
		requireOutcome(t, promise.ReceiptExpired)
		require.Equal(t, &created.Promise.ID, receive(t, r, webhook(s, "h", "k3"), promise.ReceiptSettled).PromiseID)
	})
	t.Run("a create whose deadline came before the webhook", func(t *testing.T) {
		held = receive(t, r, webhook(s, "i", "k4"), promise.ReceiptHeld)
		p := createOverdue(t, r, tenant, withKey(draft("overdue"), "k4", time.Hour), time.Minute)
		requireOutcome(t, promise.ReceiptExpired)
		require.Equal(t, &p.ID, receive(t, r, webhook(s, "i", "k4"), promise.ReceiptTimedOut).PromiseID)
	})
}

func TestARuleThatFailedIsJudgedAnew(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	s, _ := putSource(t, r, stripe())
	p := create(t, r, withKey(draft("a"), "k", time.Hour))
	d := webhook(s, "e", "k")
	failed := d
	failed.Judgment = promise.Judgment{Rule: "1", Failed: true, Reason: "no such key"}
	first, second := uuid.New(), uuid.New()
	text, _ := sealed(first, 1)
	failed.Body = &promise.KeptBody{ID: first, Sealed: text}
	got := receive(t, r, failed, promise.ReceiptRuleFailed)
	failed.Body = &promise.KeptBody{ID: second, Sealed: text}
	receive(t, r, failed, promise.ReceiptRuleFailed)
	stored, kept, err := r.GetReceipt(t.Context(), tenant, got.ReceiptID)
	require.NoError(t, err)
	require.True(t, stored.BodyKept)
	require.Equal(t, &promise.KeptBody{ID: second, Sealed: text}, kept, "the newest body is kept")
	d.Rule = "2"
	settled := receive(t, r, d, promise.ReceiptSettled)
	require.Equal(t, got.ReceiptID, settled.ReceiptID)
	require.Equal(t, &p.ID, settled.PromiseID)
	stored, kept, err = r.GetReceipt(t.Context(), tenant, got.ReceiptID)
	require.NoError(t, err)
	require.Equal(t, []any{"2", "k", ""}, []any{stored.Rule, stored.Key, stored.Reason})
	require.NotNil(t, kept)

	require.NoError(t, errOf(r.Erase(t.Context(), tenant, promise.ByID(p.ID))))
	_, kept, err = r.GetReceipt(t.Context(), tenant, got.ReceiptID)
	require.NoError(t, err)
	require.Nil(t, kept, "an erased promise keeps no body")
	later := webhook(s, "later", "k")
	later.Hold, later.Body = 0, &promise.KeptBody{ID: uuid.New(), Sealed: text}
	receive(t, r, later, promise.ReceiptConflict)
	require.Zero(t, count(t, db, "SELECT COUNT(*) FROM receipt_body"))
}

func TestReceiptsOutliveTheirSource(t *testing.T) {
	t.Parallel()
	r, _ := setUp(t)
	s, _ := putSource(t, r, stripe())
	create(t, r, withKey(draft("a"), "k", time.Hour))
	settled := receive(t, r, webhook(s, "e", "k"), promise.ReceiptSettled)
	receive(t, r, webhook(s, "f", "early"), promise.ReceiptHeld)
	require.NoError(t, errOf(r.DeleteSource(t.Context(), tenant, "stripe")))
	p := create(t, r, withKey(draft("b"), "early", time.Hour))
	require.Equal(t, `"f"`, string(p.Value), "a deleted source loses no settlement")
	s, _ = putSource(t, r, stripe())
	require.Equal(t, settled.ReceiptID, receive(t, r, webhook(s, "e", "k"), promise.ReceiptSettled).ReceiptID)
}

func TestDeletedTenantsHaveNoReceipts(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	p := stripe()
	p.Secret = another
	s, _ := putSource(t, r, p)
	for i := range 5 {
		d := webhook(s, fmt.Sprint(i), fmt.Sprint(i))
		text, _ := sealed(s.ID, i)
		d.Body = &promise.KeptBody{ID: uuid.New(), Sealed: text}
		receive(t, r, d, promise.ReceiptHeld)
	}
	require.NoError(t, errOf(r.SuspendTenant(t.Context(), tenant, true)))
	require.NoError(t, errOf(db.Pool.Exec(t.Context(), "UPDATE tenant SET deleted_at = NOW()")))
	for done := false; !done; {
		require.NoError(t, db.Pool.QueryRow(t.Context(), "SELECT done FROM tenant_delete($1, 2)", tenant).Scan(&done))
	}
	for _, table := range []string{"source", "source_secret", "receipt", "receipt_body", "idempotency_key", "tenant"} {
		require.Zero(t, count(t, db, "SELECT COUNT(*) FROM "+table), table)
	}
}
