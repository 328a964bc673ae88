package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/flovyn/promises/shared/promise"
)

// A TenantStore stores tenants and their API keys. It returns a *promise.Error for
// an expected failure. Every other error is a fault of the service.
type TenantStore interface {
	CreateTenant(ctx context.Context, slug string) (t promise.Tenant, created bool, err error)
	ListTenants(ctx context.Context) ([]promise.Tenant, error)
	SuspendTenant(ctx context.Context, slug string, suspended bool) (promise.Tenant, error)
	SetLimits(ctx context.Context, slug string, limits map[string]*int64) (promise.Tenant, error)
	FindTenant(ctx context.Context, slug string) (promise.Tenant, error)
	TenantContents(ctx context.Context, slug string, bound int) (promise.Contents, error)
	DeleteTenant(ctx context.Context, slug string, limit int) (promise.Deletion, error)
	CreateAPIKey(ctx context.Context, k promise.APIKey) (promise.APIKey, error)
	ListAPIKeys(ctx context.Context, tenant string) ([]promise.APIKey, error)
	RevokeAPIKey(
		ctx context.Context, tenant string, id uuid.UUID, tokens bool,
	) (revokedAt time.Time, tokensRevokedAt *time.Time, err error)

	DestinationPutter
}

// A TenantHandler manages tenants, their API keys and their destinations of every
// kind, by direct invoke alone: IAM authorizes its callers. It takes {"action": ...} with the fields of that action
// and answers with JSON. Its errors have the form of a Handler's. It implements
// lambda.Handler.
//
// An API key's secret is only in the answer to create-key. Each create-key makes
// another key. Every other action can be repeated safely.
type TenantHandler struct {
	Store     TenantStore
	NewAPIKey func() (secret string, hash []byte)

	Integrations Integrations // Test is not used

	// Reencrypt encrypts one batch of secrets again, with the newest sealing key.
	Reencrypt func(context.Context) (promise.Reencryption, error)

	Timeout time.Duration
	Log     *slog.Logger
}

type tenantJSON struct {
	TenantID    uuid.UUID  `json:"tenantId"`
	Slug        string     `json:"slug"`
	SuspendedAt *time.Time `json:"suspendedAt,omitempty"`
	DeletedAt   *time.Time `json:"deletedAt,omitempty"`
	Created     *bool      `json:"created,omitempty"`

	Limits map[string]int64 `json:"limits,omitempty"`
	Counts *countsJSON      `json:"counts,omitempty"`
}

type countsJSON struct {
	Pending   int64     `json:"pending"`
	Held      int64     `json:"held"`
	HeldBytes int64     `json:"heldBytes"`
	CountedAt time.Time `json:"countedAt"`
}

func toTenantJSON(t promise.Tenant) tenantJSON {
	j := tenantJSON{TenantID: t.ID, Slug: t.Slug, SuspendedAt: utc(t.SuspendedAt), DeletedAt: utc(t.DeletedAt), Limits: t.Limits}
	if u := t.Usage; u != nil {
		j.Counts = &countsJSON{Pending: u.Pending, Held: u.Early, HeldBytes: u.EarlyBytes, CountedAt: u.CountedAt.UTC()}
	}
	return j
}

func createTenant(ctx context.Context, h *TenantHandler, o object) (any, error) {
	slug, err := o.requiredText("slug")
	if err != nil {
		return nil, err
	}
	if err := promise.CheckSlug(slug); err != nil {
		return nil, within("slug", err)
	}
	t, created, err := h.Store.CreateTenant(ctx, slug)
	j := toTenantJSON(t)
	j.Created = &created
	return j, err
}

func listTenants(ctx context.Context, h *TenantHandler, _ object) (any, error) {
	tenants, err := h.Store.ListTenants(ctx)
	list := make([]tenantJSON, len(tenants))
	for i, t := range tenants {
		list[i] = toTenantJSON(t)
	}
	return map[string]any{"tenants": list}, err
}

func suspendTenant(suspended bool) func(context.Context, *TenantHandler, object) (any, error) {
	return func(ctx context.Context, h *TenantHandler, o object) (any, error) {
		slug, err := o.requiredText("slug")
		if err != nil {
			return nil, err
		}
		t, err := h.Store.SuspendTenant(ctx, slug, suspended)
		return toTenantJSON(t), unknownTenant("slug", err)
	}
}

type apiKeyJSON struct {
	KeyID     uuid.UUID       `json:"keyId"`
	APIKey    string          `json:"apiKey,omitempty"`
	Tenant    string          `json:"tenant"`
	Name      string          `json:"name"`
	Scopes    []promise.Scope `json:"scopes"`
	CreatedAt time.Time       `json:"createdAt"`
	ExpiresAt *time.Time      `json:"expiresAt,omitempty"`
	RevokedAt *time.Time      `json:"revokedAt,omitempty"`

	TokensRevokedAt *time.Time `json:"tokensRevokedAt,omitempty"`
}

func toAPIKeyJSON(k promise.APIKey) apiKeyJSON {
	return apiKeyJSON{
		KeyID: k.ID, Tenant: k.Tenant, Name: k.Name, Scopes: k.Scopes, CreatedAt: k.CreatedAt.UTC(),
		ExpiresAt: utc(k.ExpiresAt), RevokedAt: utc(k.RevokedAt), TokensRevokedAt: utc(k.TokensRevokedAt),
	}
}

func createAPIKey(ctx context.Context, h *TenantHandler, o object) (any, error) {
	var k promise.APIKey
	var err error
	if k.Tenant, err = o.requiredText("tenant"); err != nil {
		return nil, err
	}
	if k.Name, err = o.requiredText("name"); err != nil {
		return nil, err
	}
	if err := promise.CheckName(k.Name); err != nil {
		return nil, within("name", err)
	}
	if k.Scopes, err = readScopes(o); err != nil {
		return nil, err
	}
	at, err := o.optionalText("expiresAt")
	if err != nil {
		return nil, err
	}
	if at != nil {
		t, ok := parseTime(*at)
		if !ok {
			return nil, fieldError("expiresAt", promise.CodeWrongType, "expiresAt must be an RFC 3339 time, such as 2030-01-31T12:00:00Z.")
		}
		if !t.After(time.Now()) || t.UTC().Year() > 9999 {
			return nil, fieldError("expiresAt", promise.CodeOutOfRange, "expiresAt must be in the future and before the year 10000.")
		}
		k.ExpiresAt = &t
	}
	secret, hash := h.NewAPIKey()
	k.Hash = hash
	if k, err = h.Store.CreateAPIKey(ctx, k); err != nil {
		return nil, unknownTenant("tenant", err)
	}
	j := toAPIKeyJSON(k)
	j.APIKey = secret
	return j, nil
}

func readScopes(o object) ([]promise.Scope, error) {
	raw, err := o.required("scopes")
	if err != nil {
		return nil, err
	}
	var texts []string
	if json.Unmarshal(raw, &texts) != nil || texts == nil {
		return nil, fieldError("scopes", promise.CodeWrongType, "scopes must be an array of strings.")
	}
	var scopes []promise.Scope
	for _, text := range texts {
		s := promise.Scope(text)
		if !slices.Contains(promise.Scopes, s) || slices.Contains(scopes, s) {
			return nil, fieldError("scopes", promise.CodeOutOfRange, "Each scope must be create, settle, read, manage or deliver, and may appear once.")
		}
		scopes = append(scopes, s)
	}
	if len(scopes) == 0 {
		return nil, fieldError("scopes", promise.CodeOutOfRange, "scopes is empty. Send one or more of create, settle, read, manage and deliver.")
	}
	return scopes, nil
}

func listAPIKeys(ctx context.Context, h *TenantHandler, o object) (any, error) {
	tenant, err := o.requiredText("tenant")
	if err != nil {
		return nil, err
	}
	keys, err := h.Store.ListAPIKeys(ctx, tenant)
	list := make([]apiKeyJSON, len(keys))
	for i, k := range keys {
		list[i] = toAPIKeyJSON(k)
	}
	return map[string]any{"keys": list}, unknownTenant("tenant", err)
}

func revokeAPIKey(ctx context.Context, h *TenantHandler, o object) (any, error) {
	tenant, err := o.requiredText("tenant")
	if err != nil {
		return nil, err
	}
	text, err := o.requiredText("keyId")
	if err != nil {
		return nil, err
	}
	id, err := uuid.Parse(text)
	if err != nil || id.String() != text {
		return nil, fieldError("keyId", promise.CodeInvalidUUID, "keyId must be a UUID in lower case. List the tenant's keys to see their ids.")
	}
	tokens, err := o.flag("tokens")
	if err != nil {
		return nil, err
	}
	at, tokensAt, err := h.Store.RevokeAPIKey(ctx, tenant, id, tokens)
	if errors.Is(err, promise.ErrNotFound) { // either the tenant or the key is unknown
		if _, err = h.Store.ListAPIKeys(ctx, tenant); err == nil {
			err = fieldError("keyId", promise.CodeNotFound, "The tenant has no such key. List its keys to see their ids.")
		}
	}
	answer := map[string]any{"keyId": id, "revokedAt": at.UTC()}
	if tokensAt != nil {
		answer["tokensRevokedAt"] = tokensAt.UTC()
	}
	return answer, unknownTenant("tenant", err)
}

// unknownTenant turns promise.ErrNotFound into an error that names the tenant's
// field. The operator may learn which tenants exist; a tenant's callers may not.
func unknownTenant(field string, err error) error {
	if errors.Is(err, promise.ErrNotFound) {
		return fieldError(field, promise.CodeNotFound, "There is no such tenant. List the tenants, or create this one first.")
	}
	return err
}
