package gateway

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/flovyn/promises/shared/promise"
)

var putFields = []string{"tenant", "name", "kind", "url", "address", "from", "region", "roleArn", "enabled"}

// operatorPutsDestination creates or changes a tenant's destination of any kind.
func operatorPutsDestination(ctx context.Context, h *TenantHandler, o object) (any, error) {
	texts := map[string]string{}
	for _, field := range putFields[:len(putFields)-1] {
		read := o.optionalText
		if field == "tenant" || field == "name" || field == "kind" {
			read = func(name string) (*string, error) {
				s, err := o.requiredText(name)
				return &s, err
			}
		}
		s, err := read(field)
		if err != nil {
			return nil, err
		}
		if s != nil {
			texts[field] = *s
		}
	}
	enabled, err := o.optionalFlag("enabled")
	if err != nil {
		return nil, err
	}
	d := promise.Destination{
		Name: texts["name"], Kind: promise.DestinationKind(texts["kind"]), Address: texts["address"], From: texts["from"],
		Region: texts["region"], RoleARN: texts["roleArn"],
	}
	_, hasURL := texts["url"]
	_, hasAddress := texts["address"]
	switch isHTTPS := d.Kind == promise.DestinationHTTPS; {
	case isHTTPS && hasAddress:
		return nil, fieldError("address", promise.CodeOutOfRange, "A destination of the kind https has a url. Send that instead.")
	case isHTTPS:
		d.Address = texts["url"]
	case hasURL && slices.Contains(promise.DestinationKinds, d.Kind):
		return nil, fieldError("url", promise.CodeOutOfRange, "Only a destination of the kind https has a url. Send address instead.")
	}
	if err := h.Integrations.check(d); err != nil {
		return nil, err
	}
	j, err := h.Integrations.put(ctx, h.Store, texts["tenant"], d, enabled)
	return j, h.destinationError(ctx, texts["tenant"], err)
}

func operatorListsDestinations(ctx context.Context, h *TenantHandler, o object) (any, error) {
	tenant, err := o.requiredText("tenant")
	if err != nil {
		return nil, err
	}
	destinations, err := h.Store.ListDestinations(ctx, tenant)
	list := make([]destinationJSON, len(destinations))
	for i, d := range destinations {
		list[i] = toDestinationJSON(d)
	}
	return map[string]any{"destinations": list}, h.destinationError(ctx, tenant, err)
}

func operatorDeletesDestination(ctx context.Context, h *TenantHandler, o object) (any, error) {
	tenant, err := o.requiredText("tenant")
	if err != nil {
		return nil, err
	}
	name, err := readName(o, promise.CheckDestinationName)
	if err != nil {
		return nil, err
	}
	id, err := h.Store.DeleteDestination(ctx, tenant, name)
	return deletedDestinationJSON{id, name, true}, h.destinationError(ctx, tenant, err)
}

// destinationError distinguishes an unknown tenant from a suspended one, in which the
// statements find nothing either.
func (h *TenantHandler) destinationError(ctx context.Context, tenant string, err error) error {
	switch {
	case errors.Is(err, promise.ErrNoDestination):
		return within("name", err)
	case !errors.Is(err, promise.ErrNotFound):
		return err
	}
	if _, err := h.Store.FindTenant(ctx, tenant); err != nil {
		return unknownTenant("tenant", err)
	}
	return fieldError("tenant", promise.CodeForbidden, "The tenant is suspended. Resume it before you repeat the call.")
}

// A reencryptionJSON counts the secrets that a call has encrypted again, and those that
// it cannot decrypt, up to the size of a batch.
type reencryptionJSON struct {
	Reencrypted int  `json:"reencrypted"`
	Unreadable  int  `json:"unreadable"`
	Done        bool `json:"done"`
}

// reencrypt encrypts as many secrets again with the newest sealing key as half the
// call's time allows.
func reencrypt(ctx context.Context, h *TenantHandler, _ object) (any, error) {
	begin := time.Now()
	var j reencryptionJSON
	for !j.Done && time.Since(begin) < h.Timeout/2 {
		r, err := h.Reencrypt(ctx)
		if err != nil {
			return nil, err
		}
		j.Reencrypted += r.Changed
		j.Unreadable, j.Done = r.Unreadable, r.Done
	}
	return j, nil
}
