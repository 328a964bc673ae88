package gateway

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"runtime/debug"
	"slices"

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

	"put-destination":    {putFields, operatorPutsDestination},
	"list-destinations":  {[]string{"tenant"}, operatorListsDestinations},
	"delete-destination": {[]string{"tenant", "name"}, operatorDeletesDestination},
	"reencrypt":          {nil, reencrypt},
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
	var fields []string
	for _, action := range tenantActions {
		fields = append(fields, action.fields...)
	}
	name, err := readAction(payload, fields, slices.Collect(maps.Keys(tenantActions)))
	if err != nil {
		return nil, err
	}
	action := tenantActions[name]
	o, err := parseObject(payload, append([]string{"action"}, action.fields...))
	if err != nil {
		return nil, err
	}
	return action.do(ctx, h, o)
}
