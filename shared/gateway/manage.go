package gateway

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/flovyn/promises/shared/promise"
)

// A tenantAction is one action of manage-tenants, with the fields that it takes.
type tenantAction struct {
	fields []string
	do     func(ctx context.Context, h *TenantHandler, o object) (any, error)
}

var tenantActions = map[string]tenantAction{
	"create-tenant":  {[]string{"slug"}, createTenant},
	"list-tenants":   {nil, listTenants},
	"suspend-tenant": {[]string{"slug"}, suspendTenant(true)},
	"resume-tenant":  {[]string{"slug"}, suspendTenant(false)},
	"set-limits":     {append([]string{"slug"}, limitNames...), setLimits},
	"delete-tenant":  {[]string{"slug", "confirm"}, deleteTenant},
	"create-key":     {[]string{"tenant", "name", "scopes", "expiresAt"}, createAPIKey},
	"list-keys":      {[]string{"tenant"}, listAPIKeys},
	"revoke-key":     {[]string{"tenant", "keyId", "tokens"}, revokeAPIKey},
}

// Invoke answers one call.
func (h *TenantHandler) Invoke(ctx context.Context, payload []byte) (out []byte, err error) {
	ctx, stop := context.WithTimeout(ctx, h.Timeout)
	defer stop()
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
		}
		if err != nil {
			e := promise.AsError(err)
			logFailure(ctx, h.Log, e, slog.String("operation", "manage-tenants"))
			out, err = nil, functionError(e)
		}
	}()
	answer, err := h.run(ctx, payload)
	if err != nil {
		return nil, err
	}
	return encode(answer), nil
}

func (h *TenantHandler) run(ctx context.Context, payload []byte) (any, error) {
	all, err := parseObject(payload, tenantFields())
	if err != nil {
		return nil, err
	}
	name, err := all.requiredText("action")
	if err != nil {
		return nil, err
	}
	action, ok := tenantActions[name]
	if !ok {
		return nil, fieldError("action", promise.CodeOutOfRange, "There is no such action. The actions are: "+strings.Join(slices.Sorted(maps.Keys(tenantActions)), ", ")+".")
	}
	o, err := parseObject(payload, append([]string{"action"}, action.fields...))
	if err != nil {
		return nil, err
	}
	return action.do(ctx, h, o)
}

// tenantFields returns the fields of all actions, sorted and each once. The error
// for an unknown field lists them.
func tenantFields() []string {
	all := []string{"action"}
	for _, action := range tenantActions {
		all = append(all, action.fields...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}
