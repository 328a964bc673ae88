package gateway_test

import (
	"log/slog"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/gateway"
	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/repository"
)

// newTenantHandler returns the handler of manage-tenants on the service's database.
func newTenantHandler(s *service) *gateway.TenantHandler {
	return &gateway.TenantHandler{Store: repository.New(s.db.Pool), Timeout: time.Minute, Log: slog.New(slog.NewTextHandler(s.log, nil))}
}

// A direct invoke for a suspended tenant fails as forbidden, in every operation and with every kind of fields. For an unknown tenant it fails
// as not found. An HTTP call for a suspended tenant fails as not found, too, if its credential was authorized before the suspension.
func TestDirectInvokesOfASuspendedTenant(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.promise(t)
	store := repository.New(s.db.Pool)
	payloads := map[string][]string{
		"create-promise": {
			`"workflowExecutionId":"` + workflowID + `","name":"another"`,
			`"workflowExecutionId":"` + workflowID + `","name":"payment","idempotencyKey":"` + idempotencyKey + `"`,
			`"workflowId":"order-1","name":"payment"`,
		},
		"get-promise":    {`"promiseId":"` + promiseID + `"`, `"key":"` + idempotencyKey + `"`},
		"wait-promise":   {`"promiseId":"` + promiseID + `"`, `"key":"` + idempotencyKey + `","waitSeconds":25`},
		"resolve":        {`"promiseId":"` + promiseID + `","value":1`},
		"resolve-by-id":  {`"promiseId":"` + promiseID + `","value":1`},
		"resolve-by-key": {`"key":"` + idempotencyKey + `","value":1`, `"key":"new","value":1,"holdSeconds":60`},
		"reject":         {`"promiseId":"` + promiseID + `","error":"no"`},
		"cancel-promise": {`"key":"` + idempotencyKey + `"`},
		"extend-promise": {`"key":"` + idempotencyKey + `","timeoutMs":60000`},
		"list-promises":  {``, `"workflowExecutionId":"` + workflowID + `"`, `"workflowId":"order-1"`},
		"list-events":    {`"workflowExecutionId":"` + workflowID + `"`, `"workflowId":"order-1"`},
		"wait-events":    {`"workflowExecutionId":"` + workflowID + `","waitSeconds":25`, `"workflowId":"order-1"`},
		"delete-promise": {`"promiseId":"` + promiseID + `"`},
		"batch-resolve":  {`"items":[{"identifier":"id:` + promiseID + `","value":1},{"identifier":"key:new","value":1}]`},
		"revoke-tokens":  {`"promiseId":"` + promiseID + `"`},

		"list-deliveries":  {``, `"promiseId":"` + promiseID + `"`, `"destination":"orders"`},
		"retry-deliveries": {`"deliveryId":"` + deliveryID + `"`, `"destination":"orders","state":"dead"`},
		"manage-integrations": {
			`"action":"put-destination","name":"orders","kind":"https","url":"https://example.com/"`, `"action":"put-destination","name":"orders","enabled":true`,
			`"action":"get-destination","name":"orders"`, `"action":"list-destinations"`, `"action":"delete-destination","name":"orders"`,
			`"action":"rotate-secret","name":"orders"`, `"action":"test-destination","name":"orders"`, `"action":"set-default-destination","destination":"orders"`,
			`"action":"set-default-destination","destination":null`,
			`"action":"put-source","name":"stripe","verifier":{"preset":"stripe"},"rules":[]`, `"action":"put-source","name":"stripe","enabled":true`,
			`"action":"get-source","name":"stripe"`, `"action":"list-sources"`, `"action":"delete-source","name":"stripe"`,
			`"action":"rotate-source-secret","name":"stripe"`, `"action":"test-source","name":"stripe","body":""`,
			`"action":"replay-receipt","receiptId":"` + receiptID + `"`,
		},
		"list-receipts": {``, `"source":"stripe"`, `"key":"` + idempotencyKey + `"`, `"promiseId":"` + promiseID + `","outcome":"settled"`},
	}
	direct := func(slug, fields string) []byte {
		return []byte(strings.TrimSuffix(`{"tenant":"`+slug+`",`+fields, ",") + "}")
	}
	require.Len(t, payloads, len(operations)-2, "each operation but those of callback URLs and webhooks, which have no direct form")
	_, err := store.WorkflowExecutionID(t.Context(), tenant, "order-1") // an instance may know the workflow's UUID before the suspension
	require.NoError(t, err)
	s.store = store
	s.delivery(t, deliveryID, promise.DeliveryDead)
	suspended, err := store.SuspendTenant(t.Context(), tenant, true)
	require.NoError(t, err)
	require.NotNil(t, suspended.SuspendedAt)
	before := s.snapshot(t)
	for function, all := range payloads {
		for _, fields := range all {
			h := s.handler(t, function)
			t.Run(function+" {"+fields+"} is forbidden for a suspended tenant", func(t *testing.T) {
				_, err := h.Invoke(t.Context(), direct(tenant, fields))
				p := requireFunctionError(t, "forbidden", err)
				require.Equal(t, "The tenant is suspended. Resume it with manage-tenants before you repeat the call.", p["detail"])
			})
			t.Run(function+" {"+fields+"} does not find an unknown tenant", func(t *testing.T) {
				out, err := h.Invoke(t.Context(), direct("nobody", fields))
				if function == "batch-resolve" { // each item has an error of its own
					require.NoError(t, err)
					require.Contains(t, string(out), "not_found")
				} else {
					requireFunctionError(t, "not_found", err)
				}
			})
		}
	}
	t.Run("an HTTP call does not find a suspended tenant", func(t *testing.T) {
		out, err := s.handler(t, "get-promise").Invoke(t.Context(), httpEvent(t, "GET", tenant, "id:"+promiseID, "", ""))
		require.NoError(t, err)
		requireProblem(t, 404, "not_found", decodeResponse(t, out))
	})
	t.Run("a refused call changes nothing", func(t *testing.T) {
		require.Equal(t, before, s.snapshot(t))
	})
	t.Run("a call for a resumed tenant succeeds", func(t *testing.T) {
		_, err := store.SuspendTenant(t.Context(), tenant, false)
		require.NoError(t, err)
		_, err = s.handler(t, "resolve-by-key").Invoke(t.Context(), direct(tenant, payloads["resolve-by-key"][0]))
		require.NoError(t, err)
	})
}

// The error of a call beyond a limit names the limit and its value, in both forms.
func TestQuotaExceeded(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.promise(t)
	store := repository.New(s.db.Pool)
	_, err := store.SetLimits(t.Context(), tenant, map[string]*int64{
		promise.LimitPending: new(int64(1)), promise.LimitEarly: new(int64(0)), promise.LimitWorkflowPromises: new(int64(1)),
	})
	require.NoError(t, err)
	requireFull := func(t *testing.T, p map[string]any, quota string, limit float64) {
		t.Helper()
		require.Equal(t, "Quota exceeded", p["title"])
		require.Equal(t, quota, p["quota"])
		require.Equal(t, limit, p["limit"])
		require.NotEmpty(t, p["detail"])
	}
	both := func(function, method, identifier, fields, quota string, limit float64) {
		t.Run(function+" by HTTP exceeds "+quota, func(t *testing.T) {
			out, err := s.handler(t, function).Invoke(t.Context(), httpEvent(t, method, tenant, identifier, "", "{"+fields+"}"))
			require.NoError(t, err)
			r := decodeResponse(t, out)
			require.Equal(t, "5", r.Headers["retry-after"])
			requireFull(t, requireProblem(t, 429, "quota_exceeded", r), quota, limit)
		})
		t.Run(function+" in a direct invoke exceeds "+quota, func(t *testing.T) {
			payload := fields
			if text, ok := strings.CutPrefix(identifier, "key:"); ok {
				payload += `,"key":"` + text + `"`
			}
			_, err := s.handler(t, function).Invoke(t.Context(), []byte(`{"tenant":"`+tenant+`",`+payload+"}"))
			requireFull(t, requireFunctionError(t, "quota_exceeded", err), quota, limit)
		})
	}
	both("create-promise", "POST", "", `"workflowExecutionId":"`+workflowID+`","name":"another"`, "workflowPromises", 1)
	both("resolve", "POST", "key:new", `"value":1,"holdSeconds":60`, "held", 0)
	both("reject", "POST", "key:new", `"error":"no","holdSeconds":60`, "held", 0)
	counts, err := store.Uncounted(t.Context())
	require.NoError(t, err)
	require.NoError(t, store.CountMore(t.Context(), counts, 10))
	_, err = store.StoreCounts(t.Context(), counts)
	require.NoError(t, err)
	both("create-promise", "POST", "", `"workflowId":"order-1","name":"payment"`, "pending", 1)
	t.Run("no limit refuses a settlement", func(t *testing.T) {
		_, err := s.handler(t, "batch-resolve").Invoke(t.Context(), []byte(`{"tenant":"`+tenant+`","items":[{"identifier":"id:`+promiseID+`","value":1}]}`))
		require.NoError(t, err)
	})
	t.Run("list-tenants shows the limits and the counts", func(t *testing.T) {
		out, err := newTenantHandler(s).Invoke(t.Context(), []byte(`{"action":"list-tenants"}`))
		require.NoError(t, err)
		require.Contains(t, string(out), `"limits":{"held":0,"heldBytes":67108864,"pending":1,"workflowPromises":1},"counts":{"pending":1,"held":0,"heldBytes":0,"countedAt":"20`)
	})
}

// delete-tenant deletes as much as the call's time allows, and reports whether rows are left. A repeated call deletes the rest.
func TestADeletionInPieces(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.promise(t)
	h := newTenantHandler(s)
	manage := func(t *testing.T, payload string) string {
		t.Helper()
		out, err := h.Invoke(t.Context(), []byte(payload))
		require.NoError(t, err)
		return string(out)
	}
	dry := manage(t, `{"action":"delete-tenant","slug":"demo"}`)
	t.Run("without confirm it counts the tenant's rows", func(t *testing.T) {
		require.Contains(t, dry, `"dryRun":true,"contains":{"promises":1,"idempotencyKeys":1,"events":1,"workflowExecutions":1,"apiKeys":0}}`)
	})
	t.Run("confirm false is the same as no confirm", func(t *testing.T) {
		before := s.snapshot(t)
		require.Equal(t, dry, manage(t, `{"action":"delete-tenant","slug":"demo","confirm":false}`))
		require.Equal(t, before, s.snapshot(t))
	})
	manage(t, `{"action":"suspend-tenant","slug":"demo"}`)
	t.Run("a deletion is not done if the rows are locked until its time ends", func(t *testing.T) {
		tx, err := s.db.Pool.Begin(t.Context())
		require.NoError(t, err)
		_, err = tx.Exec(t.Context(), "SELECT FROM workflow_execution FOR UPDATE")
		require.NoError(t, err)
		h.Timeout = time.Second
		require.Contains(t, manage(t, `{"action":"delete-tenant","slug":"demo","confirm":true}`),
			`"deleted":{"promises":0,"idempotencyKeys":0,"events":0,"workflowExecutions":0,"apiKeys":0},"done":false}`)
		require.NoError(t, tx.Rollback(t.Context()))
	})
	t.Run("a tenant whose deletion has begun cannot be resumed", func(t *testing.T) {
		_, err := h.Invoke(t.Context(), []byte(`{"action":"resume-tenant","slug":"demo"}`))
		requireFunctionError(t, "forbidden", err)
	})
	h.Timeout = time.Minute
	t.Run("a repeated deletion is done", func(t *testing.T) {
		require.Contains(t, manage(t, `{"action":"delete-tenant","slug":"demo","confirm":true}`), `"done":true,"slugFreeAt":"20`)
	})
	t.Run("the slug of a deleted tenant cannot be used at once", func(t *testing.T) {
		_, err := h.Invoke(t.Context(), []byte(`{"action":"create-tenant","slug":"demo"}`))
		require.Contains(t, requireFunctionError(t, "forbidden", err)["detail"], "The slug is available again at ")
	})
}

// The error for an unknown field lists each field of manage-tenants once, although several actions share fields.
func TestManageTenantsListsItsFieldsOnce(t *testing.T) {
	t.Parallel()
	h := &gateway.TenantHandler{Log: slog.New(slog.DiscardHandler), Timeout: time.Minute}
	_, err := h.Invoke(t.Context(), []byte(`{"action":"list-tenants","place":1}`))
	detail := requireFunctionError(t, "unknown_field", err)["detail"].(string)
	for _, field := range []string{"action", "slug", "tenant", "keyId", "waits"} {
		t.Run(field, func(t *testing.T) {
			require.Equal(t, 1, len(regexp.MustCompile(`\b`+field+`\b`).FindAllString(detail, -1)), detail)
		})
	}
}

// A direct invoke may name a tenant in megabytes of text. The log keeps the beginning.
func TestLogTruncatesTheTenant(t *testing.T) {
	t.Parallel()
	s := withoutDatabase()
	h := s.handler(t, "get-promise")
	h.Store = failing{code: promise.CodeNotFound}
	_, err := h.Invoke(t.Context(), []byte(`{"tenant":"`+strings.Repeat("k", 100_000)+`","key":"x"}`))
	requireFunctionError(t, "not_found", err)
	require.Less(t, s.log.Len(), 2000)
}
