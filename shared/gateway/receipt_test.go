package gateway_test

import (
	"cmp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// receipt makes the receipt that the sample events name: of a webhook whose rule failed,
// with a kept body. The source's rules are correct again.
func (s *service) receipt(t testing.TB) {
	t.Helper()
	s.source(t, `,"eventId":"body.id"`)
	s.integrate(t, `"action":"put-source","name":"stripe","verifier":{"preset":"stripe"},"rules":[{"key":"body.data.object.charge","then":"resolve"}]`)
	requireProblem(t, 422, "rule_failed", s.webhook(t, charge("evt_1", "succeeded", "ch_abc123")))
	s.db.Exec(t, "ALTER TABLE receipt_body DROP CONSTRAINT receipt_body_receipt_id_fkey")
	s.db.Exec(t, "UPDATE receipt SET id = $1", receiptID)
	s.db.Exec(t, "UPDATE receipt_body SET receipt_id = $1", receiptID)
	s.source(t, "")
}

// receipts lists the receipts of a filter, and returns one field of each.
func (s *service) receipts(t testing.TB, filter, field string) []any {
	t.Helper()
	var values []any
	for _, r := range s.answer(t, "list-receipts", `{"tenant":"demo"`+filter+`}`)["receipts"].([]any) {
		values = append(values, r.(map[string]any)[field])
	}
	return values
}

func (s *service) count(t testing.TB, table string) (n int) {
	t.Helper()
	require.NoError(t, s.db.Pool.QueryRow(t.Context(), "SELECT COUNT(*) FROM "+table).Scan(&n))
	return n
}

func TestListReceipts(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.promise(t)
	s.source(t, "")
	s.webhook(t, charge("evt_1", "succeeded", "ch_abc123"))
	s.webhook(t, charge("evt_2", "succeeded", "ch_later"))
	s.webhook(t, charge("evt_3", "pending", "ch_abc123"))
	s.webhook(t, `{"id":"evt_4","type":"charge.succeeded"}`)
	t.Run("newest first, with all that is known", func(t *testing.T) {
		page := s.answer(t, "list-receipts", `{"tenant":"demo"}`)
		require.NotContains(t, page, "nextCursor")
		first := page["receipts"].([]any)[3].(map[string]any)
		for _, field := range []string{"receiptId", "sourceId", "receivedAt", "updatedAt", "expiresAt"} {
			require.NotEmpty(t, first[field], field)
			delete(first, field)
		}
		require.Equal(t, map[string]any{
			"source": "stripe", "event": "id:evt_1", "item": 0.0, "rule": "1", "key": idempotencyKey, "outcome": "settled", "promiseId": promiseID,
			"bodyKept": false,
		}, first)
	})
	all := []any{"id:evt_4", "id:evt_3", "id:evt_2", "id:evt_1"}
	for filter, want := range map[string][]any{
		``: all, `,"source":"stripe"`: all, `,"source":"other"`: nil,
		`,"outcome":"held"`: {"id:evt_2"}, `,"outcome":"ignored"`: {"id:evt_3"}, `,"outcome":"rule_failed","source":"stripe"`: {"id:evt_4"},
		`,"key":"` + idempotencyKey + `"`: {"id:evt_1"}, `,"promiseId":"` + promiseID + `"`: {"id:evt_1"},
		`,"promiseId":"` + promiseID + `","outcome":"held"`: nil,
		`,"before":"2020-01-01T00:00:00Z"`:                  nil, `,"from":"2020-01-01T00:00:00Z","before":"2120-01-01T00:00:00Z"`: all,
	} {
		t.Run(caseName(filter), func(t *testing.T) {
			require.Equal(t, want, s.receipts(t, filter, "event"))
		})
	}
	t.Run("pages", func(t *testing.T) {
		var seen []any
		for filter := `,"limit":3`; filter != ""; {
			page := s.answer(t, "list-receipts", `{"tenant":"demo"`+filter+`}`)
			for _, r := range page["receipts"].([]any) {
				seen = append(seen, r.(map[string]any)["event"])
			}
			if filter = ""; page["nextCursor"] != nil {
				filter = `,"limit":3,"cursor":"` + page["nextCursor"].(string) + `"`
			}
		}
		require.Equal(t, all, seen)
	})
	t.Run("a failed rule has its reason and a kept body", func(t *testing.T) {
		require.Equal(t, []any{true}, s.receipts(t, `,"outcome":"rule_failed"`, "bodyKept"))
		require.NotEmpty(t, s.receipts(t, `,"outcome":"rule_failed"`, "reason")[0])
	})
	t.Run("the receipts of a deleted source stay", func(t *testing.T) {
		s.integrate(t, `"action":"delete-source","name":"stripe"`)
		require.Equal(t, all, s.receipts(t, `,"source":"stripe"`, "event"))
	})
}

func TestReplayReceipt(t *testing.T) {
	t.Parallel()
	const replay = `"action":"replay-receipt","receiptId":"` + receiptID + `"`
	t.Run("today's rules apply, and the result is final", func(t *testing.T) {
		t.Parallel()
		s := newService(t)
		s.promise(t)
		s.receipt(t)
		want := map[string]any{"receiptId": receiptID, "outcome": "settled", "promiseId": promiseID, "key": idempotencyKey}
		require.Equal(t, want, s.integrate(t, replay))
		before := s.snapshot(t)
		require.Equal(t, want, s.integrate(t, replay))
		require.Equal(t, before, s.snapshot(t), "a repeated replay writes nothing")
		require.Equal(t, []any{"settled"}, s.receipts(t, "", "outcome"))
		settled := s.answer(t, "get-promise", payloadByID+`}`)
		require.Equal(t, map[string]any{"kind": "webhook", "id": "stripe"}, settled["settledBy"])
		require.Equal(t, map[string]any{"id": "evt_1", "type": "charge.succeeded", "data": map[string]any{
			"object": map[string]any{"id": "ch_abc123", "failure_message": "declined"},
		}}, settled["value"])
		s.integrate(t, `"action":"delete-source","name":"stripe"`)
		require.Equal(t, want, s.integrate(t, replay), "a final receipt needs no source")
	})
	t.Run("a new eventId makes no second receipt", func(t *testing.T) {
		t.Parallel()
		s := newService(t)
		s.promise(t)
		s.receipt(t)
		s.source(t, `,"eventId":"'new-' + body.id"`)
		require.Equal(t, "settled", s.integrate(t, replay)["outcome"])
		require.Equal(t, []any{"id:evt_1"}, s.receipts(t, "", "event"))
	})
	t.Run("a disabled source replays", func(t *testing.T) {
		t.Parallel()
		s := newService(t)
		s.receipt(t)
		s.integrate(t, `"action":"put-source","name":"stripe","enabled":false`)
		require.Equal(t, "held", s.integrate(t, replay)["outcome"])
	})
	for name, c := range map[string]struct{ sql, code, says string }{
		"without a kept body": {"DELETE FROM receipt_body", "conflict", "Let the sender repeat it"},
		"without a source":    {"DELETE FROM source", "conflict", "Put a source of this name first"},
		"a rule still fails":  {`UPDATE source SET version = version + 1, definition = '{"verifier":{"preset":"stripe"},"keyPrefix":"other:","rules":[{"key":"body.id","then":"resolve"}],"onRuleError":"refuse"}'`, "rule_failed", "rule"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newService(t)
			s.receipt(t)
			s.db.Exec(t, c.sql)
			_, err := s.direct(t, "manage-integrations", `{"tenant":"demo",`+replay+`}`)
			require.Contains(t, requireFunctionError(t, c.code, err)["detail"], c.says)
			require.Equal(t, []any{"rule_failed"}, s.receipts(t, "", "outcome"))
		})
	}
	t.Run("all items of a request are replayed", func(t *testing.T) {
		t.Parallel()
		s := newService(t)
		s.promise(t)
		put := func(key, eventID string) {
			s.integrate(t, `"action":"put-source","name":"stripe","verifier":{"preset":"stripe"},"secret":"`+sourceSecret+
				`","each":"body.list","eventId":"`+eventID+`","rules":[{"key":"`+key+`","then":"resolve","value":"item"}]`)
		}
		put("item.charge", "item.id")
		got := s.webhook(t, `{"list":[{"id":"a","charge":"`+idempotencyKey+`"},{"id":"b"},{"id":"c"}]}`)
		require.JSONEq(t, `{"items":3,"outcomes":{"settled":1,"rule_failed":2}}`, got.Body)
		id := ""
		for _, r := range s.answer(t, "list-receipts", `{"tenant":"demo"}`)["receipts"].([]any) {
			if r := r.(map[string]any); r["bodyKept"] == true {
				id = r["receiptId"].(string)
			}
		}
		again := `"action":"replay-receipt","receiptId":"` + id + `"`
		put("'stripe:' + item.id", "'new-' + item.id")
		_, err := s.direct(t, "manage-integrations", `{"tenant":"demo",`+again+`}`)
		require.Contains(t, requireFunctionError(t, "conflict", err)["detail"], "eventId")
		put("has(item.charge) ? item.charge : 'stripe:' + item.id", "item.id")
		for range 2 {
			require.Equal(t, map[string]any{"items": 3.0, "outcomes": map[string]any{"settled": 1.0, "held": 2.0}}, s.integrate(t, again))
		}
	})
}

const itemSource = `"action":"put-source","name":"stripe","verifier":{"preset":"stripe"},"secret":"` + sourceSecret +
	`","each":"body.list","eventId":"item.id","rules":[{"key":"item.key","then":"resolve","value":"item"}],`

// The body of a request with items goes with the first of its promises that is erased, whichever item has it. A repeated request does not bring it back,
// and a later one with an erased promise keeps none.
func TestEraseAPromiseOfAnItem(t *testing.T) {
	t.Parallel()
	const erased, failing, waiting = `{"id":"b","key":"` + idempotencyKey + `"}`, `{"id":"a"}`, `{"id":"a","key":"stripe:a"}`
	for name, c := range map[string]struct{ source, before, body, after, again string }{
		"the body of the first item":      {`"keepBody":true`, "", waiting + "," + erased, "", ""},
		"the body of a failed item":       {`"onRuleError":"accept"`, "", erased + "," + failing, "", ""},
		"repeated in other bytes":         {`"onRuleError":"accept"`, "", erased + "," + failing, "", erased + ", " + failing},
		"the body's item was refused":     {`"keepBody":true`, "UPDATE source SET held_full = TRUE", waiting + "," + erased, "UPDATE source SET held_full = FALSE", ""},
		"another request, after its item": {`"onRuleError":"accept"`, "", erased, "", `{"id":"c","key":"` + idempotencyKey + `"},` + failing},
		"another request, before it":      {`"onRuleError":"accept"`, "", erased, "", failing + `,{"id":"c","key":"` + idempotencyKey + `"}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newService(t)
			s.promise(t)
			s.integrate(t, itemSource+c.source)
			s.db.Exec(t, c.before)
			s.webhook(t, `{"list":[`+c.body+`]}`)
			s.answer(t, "delete-promise", `{"tenant":"demo","key":"`+idempotencyKey+`"}`)
			require.Equal(t, 0, s.count(t, "receipt_body"))
			s.db.Exec(t, c.after)
			require.Equal(t, 200, s.webhook(t, `{"list":[`+cmp.Or(c.again, c.body)+`]}`).StatusCode)
			require.Equal(t, 0, s.count(t, "receipt_body"))
			require.GreaterOrEqual(t, s.count(t, "receipt"), 2)
		})
	}
}

// A body that is kept later has the items that were final before, too: of a request that kept none, and of other requests.
func TestEraseAPromiseOfAFinalItem(t *testing.T) {
	t.Parallel()
	const final = `{"id":"b","key":"` + idempotencyKey + `"}`
	for _, before := range []bool{true, false} {
		t.Run(map[bool]string{true: "erased before", false: "erased after"}[before], func(t *testing.T) {
			t.Parallel()
			s := newService(t)
			s.promise(t)
			s.integrate(t, itemSource+`"onRuleError":"accept"`)
			post := func(other string) {
				t.Helper()
				require.JSONEq(t, `{"items":2,"outcomes":{"rule_failed":1,"settled":1}}`, s.webhook(t, `{"list":[`+final+`,{"id":"`+other+`"}]}`).Body)
			}
			s.webhook(t, `{"list":[`+final+`]}`)
			require.Equal(t, 0, s.count(t, "receipt_body"))
			want := 0
			if !before {
				post("a")
				post("c")
				require.Equal(t, 2, s.count(t, "receipt_body"))
				want = 2
			}
			require.Equal(t, want, s.count(t, "receipt_body"))
			s.answer(t, "delete-promise", `{"tenant":"demo","key":"`+idempotencyKey+`"}`)
			require.Equal(t, 0, s.count(t, "receipt_body"))
			post("a")
			post("c")
			require.Equal(t, 0, s.count(t, "receipt_body"))
		})
	}
}

// The first item that fails has the body, also if another one had it before.
func TestTheBodyMoves(t *testing.T) {
	t.Parallel()
	s := newService(t)
	rules := func(key string) {
		s.integrate(t, strings.Replace(itemSource, "item.key", key, 1)+`"onRuleError":"accept"`)
	}
	kept := func() []any {
		t.Helper()
		require.Equal(t, 200, s.webhook(t, `{"list":[{"id":"a","first":"stripe:a"},{"id":"b","second":"stripe:b"}]}`).StatusCode)
		return append(s.receipts(t, `,"outcome":"rule_failed"`, "event"), s.receipts(t, `,"outcome":"rule_failed"`, "bodyKept")...)
	}
	rules("item.first")
	require.Equal(t, []any{"id:b", true}, kept())
	rules("item.none")
	require.Equal(t, []any{"id:b", true}, kept(), "the early settlement of the other item waits")
	s.db.Exec(t, "UPDATE receipt SET outcome = 'expired' WHERE event = 'id:a'")
	require.Equal(t, []any{"id:a", "id:b", true, false}, kept())
	require.Equal(t, 1, s.count(t, "receipt_body"))
}

// Each event keeps its body, also if another has the same bytes. An event that fails again after its body has expired keeps it again.
func TestKeptBodies(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.source(t, `,"onRuleError":"accept"`)
	now := time.Now()
	post := func() {
		for i := range 2 { // without an id, the signed time distinguishes the events
			require.Equal(t, 200, s.webhookOf(t, now.Add(time.Duration(i)*time.Second), `{"type":"charge.succeeded"}`).StatusCode)
		}
	}
	post()
	require.Equal(t, []any{true, true}, s.receipts(t, `,"outcome":"rule_failed"`, "bodyKept"))
	for _, ended := range []string{"UPDATE receipt_body SET expires_at = NOW() - INTERVAL '1 second'", "DELETE FROM receipt_body"} {
		s.db.Exec(t, ended)
		require.Equal(t, []any{false, false}, s.receipts(t, "", "bodyKept"))
		post()
		require.Equal(t, []any{true, true}, s.receipts(t, "", "bodyKept"))
	}
}
