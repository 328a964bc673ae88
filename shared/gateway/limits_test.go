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

func newTenantHandler(s *service) *gateway.TenantHandler {
	return &gateway.TenantHandler{Store: repository.New(s.db.Pool), Timeout: time.Minute, Log: slog.New(slog.NewTextHandler(s.log, nil))}
}

// For a suspended tenant, every operation answers every direct invoke with forbidden. For an unknown tenant it answers with
// not_found, and so does the HTTP form, where the authorizer refuses a suspended tenant's credential.
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
	}
	direct := func(slug, fields string) []byte {
		return []byte(strings.TrimSuffix(`{"tenant":"`+slug+`",`+fields, ",") + "}")
	}
	require.Len(t, payloads, len(operations)-1, "all but the callback URLs, which have no direct form")
	_, err := store.WorkflowExecutionID(t.Context(), tenant, "order-1") // so that the id is stored before the tenant is suspended
	require.NoError(t, err)
	s.store = store
	suspended, err := store.SuspendTenant(t.Context(), tenant, true)
	require.NoError(t, err)
	require.NotNil(t, suspended.SuspendedAt)
	before := s.snapshot(t)
	for function, all := range payloads {
		for _, fields := range all {
			h := s.handler(t, function)
			t.Run(caseName(function, fields, "suspended"), func(t *testing.T) {
				_, err := h.Invoke(t.Context(), direct(tenant, fields))
				p := requireFunctionError(t, "forbidden", err)
				require.Equal(t, "The tenant is suspended. Resume it with manage-tenants before you repeat the call.", p["detail"])
			})
			t.Run(caseName(function, fields, "unknown"), func(t *testing.T) {
				out, err := h.Invoke(t.Context(), direct("nobody", fields))
				if function == "batch-resolve" {
					require.NoError(t, err)
					require.Contains(t, string(out), "not_found")
				} else {
					requireFunctionError(t, "not_found", err)
				}
			})
		}
	}
	t.Run("the HTTP form", func(t *testing.T) {
		requireProblem(t, 404, "not_found", respond(t, s.handler(t, "get-promise"), httpEvent(t, "GET", tenant, "id:"+promiseID, "", "")))
	})
	require.Equal(t, before, s.snapshot(t), "refused calls write nothing")
	t.Run("a resumed tenant", func(t *testing.T) {
		_, err := store.SuspendTenant(t.Context(), tenant, false)
		require.NoError(t, err)
		_, err = s.handler(t, "resolve-by-key").Invoke(t.Context(), direct(tenant, payloads["resolve-by-key"][0]))
		require.NoError(t, err)
	})
}

// In both forms, the error names the limit that the call met.
func TestQuotaExceeded(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.promise(t)
	store := repository.New(s.db.Pool)
	_, err := store.SetLimits(t.Context(), tenant, map[string]*int64{
		promise.LimitPending: new(int64(1)), promise.LimitEarly: new(int64(0)), promise.LimitWorkflowPromises: new(int64(1)),
	})
	require.NoError(t, err)
	requireFull := func(p map[string]any, quota string, limit float64) {
		t.Helper()
		require.Equal(t, "Quota exceeded", p["title"])
		require.Equal(t, quota, p["quota"])
		require.Equal(t, limit, p["limit"])
		require.NotEmpty(t, p["detail"])
	}
	both := func(function, method, identifier, fields, quota string, limit float64) {
		t.Run(caseName(function, quota), func(t *testing.T) {
			r := respond(t, s.handler(t, function), httpEvent(t, method, tenant, identifier, "", "{"+fields+"}"))
			require.Equal(t, "5", r.Headers["retry-after"])
			requireFull(requireProblem(t, 429, "quota_exceeded", r), quota, limit)
			if text, ok := strings.CutPrefix(identifier, "key:"); ok {
				fields += `,"key":"` + text + `"`
			}
			_, err := s.handler(t, function).Invoke(t.Context(), []byte(`{"tenant":"`+tenant+`",`+fields+"}"))
			requireFull(requireFunctionError(t, "quota_exceeded", err), quota, limit)
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
	t.Run("list-tenants shows limits and counts", func(t *testing.T) {
		out, err := newTenantHandler(s).Invoke(t.Context(), []byte(`{"action":"list-tenants"}`))
		require.NoError(t, err)
		require.Contains(t, string(out), `"limits":{"held":0,"heldBytes":67108864,"pending":1,"workflowPromises":1},"counts":{"pending":1,"held":0,"heldBytes":0,"countedAt":"20`)
	})
}

// A deletion deletes as much as the call's time allows, and reports whether rows are left.
func TestADeletionInPieces(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.promise(t)
	h := newTenantHandler(s)
	manage := func(payload string) string {
		t.Helper()
		out, err := h.Invoke(t.Context(), []byte(payload))
		require.NoError(t, err)
		return string(out)
	}
	t.Run("without confirm, it counts and deletes nothing", func(t *testing.T) {
		before := s.snapshot(t)
		dry := manage(`{"action":"delete-tenant","slug":"demo"}`)
		require.Contains(t, dry, `"dryRun":true,"contains":{"promises":1,"idempotencyKeys":1,"events":1,"workflowExecutions":1,"apiKeys":0}}`)
		require.Equal(t, dry, manage(`{"action":"delete-tenant","slug":"demo","confirm":false}`))
		require.Equal(t, before, s.snapshot(t))
	})
	manage(`{"action":"suspend-tenant","slug":"demo"}`)
	t.Run("while another transaction locks the rows, it is not done", func(t *testing.T) {
		tx, err := s.db.Pool.Begin(t.Context())
		require.NoError(t, err)
		_, err = tx.Exec(t.Context(), "SELECT FROM workflow_execution FOR UPDATE")
		require.NoError(t, err)
		h.Timeout = time.Second
		require.Contains(t, manage(`{"action":"delete-tenant","slug":"demo","confirm":true}`),
			`"deleted":{"promises":0,"idempotencyKeys":0,"events":0,"workflowExecutions":0,"apiKeys":0},"done":false}`)
		require.NoError(t, tx.Rollback(t.Context()))
	})
	t.Run("a tenant that is being deleted cannot be resumed", func(t *testing.T) {
		_, err := h.Invoke(t.Context(), []byte(`{"action":"resume-tenant","slug":"demo"}`))
		requireFunctionError(t, "forbidden", err)
	})
	t.Run("a later call completes it", func(t *testing.T) {
		h.Timeout = time.Minute
		require.Contains(t, manage(`{"action":"delete-tenant","slug":"demo","confirm":true}`), `"done":true,"slugFreeAt":"20`)
	})
	t.Run("the slug is reserved for some time", func(t *testing.T) {
		_, err := h.Invoke(t.Context(), []byte(`{"action":"create-tenant","slug":"demo"}`))
		require.Contains(t, requireFunctionError(t, "forbidden", err)["detail"], "The slug is free again at ")
	})
}

// The error for an unknown field lists each field of manage-tenants once, even if several actions share it.
func TestManageTenantsListsItsFieldsOnce(t *testing.T) {
	t.Parallel()
	h := &gateway.TenantHandler{Log: slog.New(slog.DiscardHandler), Timeout: time.Minute}
	_, err := h.Invoke(t.Context(), []byte(`{"action":"list-tenants","place":1}`))
	detail := requireFunctionError(t, "unknown_field", err)["detail"].(string)
	for _, field := range []string{"action", "slug", "tenant", "keyId", "waits"} {
		require.Equal(t, 1, len(regexp.MustCompile(`\b`+field+`\b`).FindAllString(detail, -1)), "%s in %s", field, detail)
	}
}
