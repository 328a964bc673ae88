package gateway_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-lambda-go/lambda/messages"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/gateway"
	"github.com/flovyn/promises/shared/promise"
)

// A tenantRecorder is a TenantStore that records each call and does nothing else.
type tenantRecorder struct{ calls []storeCall }

func (r *tenantRecorder) note(method, tenant string, args ...any) {
	r.calls = append(r.calls, storeCall{method: method, tenant: tenant, args: args})
}

func (r *tenantRecorder) CreateTenant(_ context.Context, slug string) (promise.Tenant, bool, error) {
	r.note("CreateTenant", slug)
	return promise.Tenant{Slug: slug}, true, nil
}

func (r *tenantRecorder) ListTenants(context.Context) ([]promise.Tenant, error) {
	r.note("ListTenants", "")
	return nil, nil
}

func (r *tenantRecorder) SuspendTenant(_ context.Context, slug string, suspended bool) (promise.Tenant, error) {
	r.note("SuspendTenant", slug, suspended)
	return promise.Tenant{Slug: slug}, nil
}

func (r *tenantRecorder) SetLimits(_ context.Context, slug string, limits map[string]*int64) (promise.Tenant, error) {
	r.note("SetLimits", slug, limits)
	return promise.Tenant{Slug: slug}, nil
}

func (r *tenantRecorder) FindTenant(_ context.Context, slug string) (promise.Tenant, error) {
	r.note("FindTenant", slug)
	return promise.Tenant{Slug: slug}, nil
}

func (r *tenantRecorder) TenantContents(_ context.Context, slug string, bound int) (promise.Contents, error) {
	r.note("TenantContents", slug, bound)
	return promise.Contents{}, nil
}

func (r *tenantRecorder) DeleteTenant(_ context.Context, slug string, limit int) (promise.Deletion, error) {
	r.note("DeleteTenant", slug, limit)
	return promise.Deletion{Done: true}, nil
}

func (r *tenantRecorder) CreateAPIKey(_ context.Context, k promise.APIKey) (promise.APIKey, error) {
	r.note("CreateKey", k.Tenant, k)
	return k, nil
}

func (r *tenantRecorder) ListAPIKeys(_ context.Context, tenant string) ([]promise.APIKey, error) {
	r.note("ListKeys", tenant)
	return nil, nil
}

func (r *tenantRecorder) RevokeAPIKey(_ context.Context, tenant string, id uuid.UUID, tokens bool) (time.Time, *time.Time, error) {
	r.note("RevokeKey", tenant, id, tokens)
	return time.Now(), nil, nil
}

func (r *tenantRecorder) PutDestination(
	_ context.Context, tenant string, d promise.Destination, enabled *bool, sealed []byte,
) (promise.Destination, bool, error) {
	if (sealed != nil) != (d.Kind == promise.DestinationHTTPS) || d.ID == uuid.Nil {
		panic("only https has a secret, and each destination an id")
	}
	d.ID = uuid.Nil
	r.note("PutDestination", tenant, d, enabled)
	return d, true, nil
}

func (r *tenantRecorder) ListDestinations(_ context.Context, tenant string) ([]promise.Destination, error) {
	r.note("ListDestinations", tenant)
	return nil, nil
}

func (r *tenantRecorder) DeleteDestination(_ context.Context, tenant, name string) (uuid.UUID, error) {
	r.note("DeleteDestination", tenant, name)
	return uuid.UUID{1}, nil
}

var (
	slugText  = regexp.MustCompile(`^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$`)
	keyIDText = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)
)

// readTenantCall reads a call to manage-tenants and returns the store calls that must follow.
func (o *oracle) readTenantCall(payload []byte) []storeCall {
	all := []string{
		"action", "slug", "tenant", "name", "scopes", "expiresAt", "keyId", "tokens", "confirm",
		"pending", "workflowPromises", "held", "heldBytes", "waits", "kind", "url", "address", "from", "region", "roleArn", "enabled",
	}
	o.body = o.object(payload, all)
	action := *o.required("action")
	fields, known := map[string][]string{
		"create-tenant": {"slug"}, "list-tenants": {}, "suspend-tenant": {"slug"}, "resume-tenant": {"slug"},
		"set-limits": {"slug", "pending", "workflowPromises", "held", "heldBytes", "waits"}, "delete-tenant": {"slug", "confirm"},
		"create-key": {"tenant", "name", "scopes", "expiresAt"}, "list-keys": {"tenant"}, "revoke-key": {"tenant", "keyId", "tokens"},
		"put-destination":   {"tenant", "name", "kind", "url", "address", "from", "region", "roleArn", "enabled"},
		"list-destinations": {"tenant"}, "delete-destination": {"tenant", "name"}, "reencrypt": {},
	}[action]
	o.refuse(!known)
	o.object(payload, append(fields, "action"))
	var c storeCall
	switch action {
	case "create-tenant":
		c = storeCall{method: "CreateTenant", tenant: *o.required("slug")}
		o.refuse(!slugText.MatchString(c.tenant))
	case "list-tenants":
		c = storeCall{method: "ListTenants"}
	case "suspend-tenant", "resume-tenant":
		c = storeCall{method: "SuspendTenant", tenant: *o.required("slug"), args: []any{action == "suspend-tenant"}}
	case "set-limits":
		limits := map[string]*int64{}
		for name, bounds := range map[string][2]int64{
			"pending": {0, 1e9}, "workflowPromises": {1, 1e9}, "held": {0, 1e9}, "heldBytes": {0, 1 << 40}, "waits": {0, 1000},
		} {
			if raw, ok := o.body[name]; ok && string(raw) == "null" {
				limits[name] = nil
			} else if ok {
				limits[name] = o.integer(o.body, false, name, bounds[0], bounds[1])
			}
		}
		o.refuse(len(limits) == 0)
		c = storeCall{method: "SetLimits", tenant: *o.required("slug"), args: []any{limits}}
	case "delete-tenant":
		confirm := string(o.body["confirm"])
		o.refuse(confirm != "" && confirm != "true" && confirm != "false")
		slug := *o.required("slug")
		if confirm != "true" && !o.refused {
			return []storeCall{{method: "FindTenant", tenant: slug}, {method: "TenantContents", tenant: slug, args: []any{100_000}}}
		}
		c = storeCall{method: "DeleteTenant", tenant: slug, args: []any{2_000}}
	case "put-destination":
		c = storeCall{method: "PutDestination", tenant: *o.required("tenant"), args: []any{o.destination(), o.enabled()}}
	case "list-destinations":
		c = storeCall{method: "ListDestinations", tenant: *o.required("tenant")}
	case "delete-destination":
		c = storeCall{method: "DeleteDestination", tenant: *o.required("tenant"), args: []any{*o.required("name")}}
		o.refuse(!destinationText.MatchString(plain(o.body["name"])))
	case "reencrypt":
		if !o.refused {
			return []storeCall{{method: "Reencrypt"}}
		}
	case "list-keys":
		c = storeCall{method: "ListKeys", tenant: *o.required("tenant")}
	case "revoke-key":
		id := *o.required("keyId")
		o.refuse(!keyIDText.MatchString(id))
		tokens := string(o.body["tokens"])
		o.refuse(tokens != "" && tokens != "true" && tokens != "false")
		c = storeCall{method: "RevokeKey", tenant: *o.required("tenant"), args: []any{o.uuid(id), tokens == "true"}}
	case "create-key":
		k := promise.APIKey{Tenant: *o.required("tenant"), Name: *o.required("name"), Hash: []byte{1}}
		o.refuse(!nameText.MatchString(k.Name))
		o.refuse(json.Unmarshal(o.body["scopes"], &k.Scopes) != nil || len(k.Scopes) == 0)
		seen := map[promise.Scope]bool{}
		for _, s := range k.Scopes {
			o.refuse(!slices.Contains([]promise.Scope{"create", "settle", "read", "manage", "deliver"}, s) || seen[s])
			seen[s] = true
		}
		if s := o.text("expiresAt"); s != nil {
			at := o.time(*s)
			o.refuse(!at.After(time.Now()) || at.UTC().Year() > 9999)
			k.ExpiresAt = &at
		}
		c = storeCall{method: "CreateKey", tenant: k.Tenant, args: []any{k}}
	}
	if o.refused {
		return nil
	}
	return []storeCall{c}
}

// FuzzManageTenants calls manage-tenants with any bytes and compares the call with the oracle's reading of them.
func FuzzManageTenants(f *testing.F) {
	files, err := filepath.Glob("../../events/manage-tenants.*.json")
	require.NoError(f, err)
	require.NotEmpty(f, files)
	for _, file := range files {
		payload, err := os.ReadFile(file)
		require.NoError(f, err)
		f.Add(payload)
	}
	setLimits := `{"action":"set-limits","slug":"demo"`
	for _, rest := range []string{
		``, `,"pending":0`, `,"pending":null,"held":1e3`, `,"pending":-1`, `,"workflowPromises":0`, `,"heldBytes":1099511627777`, `,"heldBytes":1.5`, `,"waits":1`, `,"waits":1001`,
		`,"pending":"5"`, `,"confirm":true`, `,"pending":1,"pending":2`,
	} {
		f.Add([]byte(setLimits + rest + "}"))
	}
	f.Add([]byte(`{"action":"delete-tenant","slug":"demo","confirm":null}`))
	for _, c := range destinations {
		f.Add([]byte(`{"action":"put-destination","tenant":"demo","name":"orders",` + c.fields + `}`))
	}
	createKey := `{"action":"create-key","tenant":"demo","name":"n","scopes":`
	for _, payload := range []string{
		`{}`, `{"action":"drop"}`, `{"action":"list-tenants","slug":"demo"}`, `{"action":"create-tenant","slug":"-a"}`,
		`{"action":"create-tenant","slug":"` + strings.Repeat("a", 63) + `"}`, `{"action":"create-tenant","slug":"` + strings.Repeat("a", 64) + `"}`,
		`{"action":"create-tenant","slug":"a\n"}`, `{"action":"create-tenant","slug":"A"}`, `{"action":"list-tenants","action":"list-keys"}`,
		`{"action":"revoke-key","tenant":"demo","keyId":"` + strings.ToUpper(apiKeyID) + `"}`, `{"action":"revoke-key","tenant":"\u0000","keyId":"` + apiKeyID + `"}`,
		createKey + `[]}`, createKey + `null}`, createKey + `["read","read"]}`, createKey + `["Read"]}`, createKey + `[null]}`, createKey + `["\u0072ead"]}`,
		createKey + `["read"],"expiresAt":"2020-01-01T00:00:00Z"}`, createKey + `["read"],"expiresAt":"9999-12-31T23:59:59-00:01"}`,
		createKey + `["read"],"expiresAt":"2098-12-31t23:59:60.5z"}`, createKey + `["read"],"expiresAt":"9999-12-31T23:59:60Z"}`,
		createKey + `["read"],"expiresAt":"2098-12-31T22:59:60Z"}`, createKey + `["read"],"expiresAt":"9999-12-31T23:59:59,5Z"}`, createKey + `["create"],"keyId":"` + apiKeyID + `"}`,
	} {
		f.Add([]byte(payload))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		store := &tenantRecorder{}
		h := &gateway.TenantHandler{
			Store: store, Timeout: time.Minute, Log: slog.New(slog.DiscardHandler), Integrations: integrations,
			NewAPIKey: func() (string, []byte) { return "prk_", []byte{1} },
			Reencrypt: func(context.Context) (promise.Reencryption, error) {
				store.note("Reencrypt", "")
				return promise.Reencryption{Done: true}, nil
			},
		}
		out, err := h.Invoke(t.Context(), payload)
		var o oracle
		want := o.readTenantCall(payload)
		require.Equal(t, o.refused, err != nil, "%q", payload)
		require.Equal(t, want, store.calls, "%q", payload)
		if err == nil {
			require.True(t, json.Valid(out))
			return
		}
		var e messages.InvokeResponse_Error
		require.ErrorAs(t, err, &e)
		require.Contains(t, promise.Codes, promise.Code(e.Type))
		require.NotContains(t, []promise.Code{promise.CodeInternal, promise.CodeUnavailable}, promise.Code(e.Type), "%q", payload)
	})
}
