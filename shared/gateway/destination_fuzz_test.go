package gateway_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
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

// A destinationRecorder is a Store that records the calls about destinations.
type destinationRecorder struct {
	gateway.Store
	tenantRecorder
}

func (r *destinationRecorder) FindTenant(ctx context.Context, slug string) (promise.Tenant, error) {
	return r.tenantRecorder.FindTenant(ctx, slug)
}

func (r *destinationRecorder) PutDestination(
	ctx context.Context, tenant string, d promise.Destination, enabled *bool, sealed []byte,
) (promise.Destination, bool, error) {
	return r.tenantRecorder.PutDestination(ctx, tenant, d, enabled, sealed)
}

func (r *destinationRecorder) ListDestinations(ctx context.Context, tenant string) ([]promise.Destination, error) {
	return r.tenantRecorder.ListDestinations(ctx, tenant)
}

func (r *destinationRecorder) DeleteDestination(ctx context.Context, tenant, name string) (uuid.UUID, error) {
	return r.tenantRecorder.DeleteDestination(ctx, tenant, name)
}

func (r *destinationRecorder) EnableDestination(_ context.Context, tenant, name string, enabled bool) (promise.Destination, error) {
	r.note("EnableDestination", tenant, name, enabled)
	return promise.Destination{}, nil
}

func (r *destinationRecorder) BeginTest(context.Context, string, uuid.UUID, time.Duration, int) (bool, error) {
	return true, nil
}

func (r *destinationRecorder) EndTest(context.Context, uuid.UUID) error { return nil }

func (r *destinationRecorder) GetDestination(_ context.Context, tenant, name string) (promise.Destination, []promise.DestinationSecret, error) {
	r.note("GetDestination", tenant, name)
	return promise.Destination{}, nil, nil
}

func (r *destinationRecorder) RotateDestinationSecret(
	_ context.Context, tenant, name string, rotation promise.Rotation, _ func(uuid.UUID, int) ([]byte, error),
) (promise.Destination, []promise.DestinationSecret, error) {
	r.note("RotateDestinationSecret", tenant, name, rotation)
	return promise.Destination{}, nil, nil
}

func (r *destinationRecorder) SetDefaultDestination(_ context.Context, tenant string, name *string) error {
	r.note("SetDefaultDestination", tenant, name)
	return nil
}

// integrationFields are the fields of each action of manage-integrations, beside tenant and action.
var integrationFields = map[string][]string{
	"list-destinations": {"limit", "cursor"}, "get-destination": {"name"}, "put-destination": {"name", "kind", "url", "enabled"},
	"delete-destination": {"name"}, "rotate-secret": {"name", "overlapSeconds", "replaceVersion"}, "test-destination": {"name"},
	"set-default-destination": {"destination"},

	"list-sources": {"limit", "cursor"}, "get-source": {"name"}, "delete-source": {"name"},
	"put-source": append([]string{"name", "secret", "enabled"}, definitionNames...), "rotate-source-secret": {"name", "secret", "overlapSeconds", "replaceVersion"},
	"test-source": {"name", "headers", "query", "body", "bodyBase64", "definition"}, "replay-receipt": {"receiptId"},
}

// readIntegrationCall reads a direct call to manage-integrations and returns the store calls that must follow.
func (o *oracle) readIntegrationCall(payload []byte) []storeCall {
	all := []string{"tenant", "action"}
	for _, fields := range integrationFields {
		all = append(all, fields...)
	}
	o.body = o.object(payload, all)
	action := *o.required("action")
	fields, known := integrationFields[action]
	o.refuse(!known)
	o.object(payload, append([]string{"tenant", "action"}, fields...))
	c := storeCall{tenant: *o.required("tenant")}
	name := ""
	if slices.Contains(fields, "name") {
		name = *o.required("name")
		o.refuse(!destinationText.MatchString(name) && !strings.Contains(action, "source"))
		o.refuse(!sourceText.MatchString(name) && strings.Contains(action, "source"))
	}
	if strings.Contains(action, "source") || action == "replay-receipt" {
		o.sourceCall(action, name, &c)
	}
	switch action {
	case "list-destinations":
		o.integer(o.body, false, "limit", 1, 100)
		o.refuse(o.text("cursor") != nil) // no text of the corpus is a cursor
		c.method = "ListDestinations"
	case "get-destination", "test-destination":
		c.method, c.args = "GetDestination", []any{name}
	case "put-destination":
		enabled := o.enabled()
		_, hasKind := o.body["kind"]
		_, hasURL := o.body["url"]
		if c.method = "EnableDestination"; enabled != nil && !hasKind && !hasURL {
			c.args = []any{name, *enabled}
			break
		}
		d := promise.Destination{Name: name, Kind: promise.DestinationKind(*o.required("kind")), Address: *o.required("url")}
		o.refuse(d.Kind != promise.DestinationHTTPS || promise.CheckDestination(d) != nil || integrations.CheckURL(d.Address) != nil)
		c.method, c.args = "PutDestination", []any{d, enabled}
	case "delete-destination":
		c.method, c.args = "DeleteDestination", []any{name}
	case "rotate-secret":
		overlap := o.orDefault(o.integer(o.body, false, "overlapSeconds", 0, 604_800), 86_400)
		ends := o.orDefault(o.integer(o.body, false, "replaceVersion", 1, 2_147_483_647), 0)
		c.method = "RotateDestinationSecret"
		c.args = []any{name, promise.Rotation{Overlap: time.Duration(overlap) * time.Second, Ends: int(ends)}}
	case "set-default-destination":
		var to *string
		if string(o.body["destination"]) != "null" {
			to = o.required("destination")
			o.refuse(!destinationText.MatchString(*to))
		}
		c.method, c.args = "SetDefaultDestination", []any{to}
	}
	if o.refused {
		return nil
	}
	return []storeCall{c}
}

// FuzzManageIntegrations calls manage-integrations directly with any bytes and compares the call with the oracle's reading of them.
func FuzzManageIntegrations(f *testing.F) {
	files, err := filepath.Glob("../../events/manage-integrations.*.json")
	require.NoError(f, err)
	require.NotEmpty(f, files)
	for _, file := range files {
		payload, err := os.ReadFile(file)
		require.NoError(f, err)
		f.Add(payload)
	}
	put := `{"tenant":"demo","action":"put-destination","name":"orders"`
	for _, payload := range []string{
		`{}`, `{"action":"list-destinations","tenant":"\u0000"}`, `{"action":"list-destinations","tenant":"demo","limit":1e2}`, put + `}`,
		put + `,"enabled":true}`, put + `,"enabled":null}`, put + `,"enabled":true,"url":"https://example.com/"}`, put + `,"kind":"https","url":"https://10.0.0.1/"}`,
		put + `,"kind":"sqs","url":"https://example.com/"}`, put + `,"kind":"https","url":"https://example.com/","address":""}`,
		`{"tenant":"demo","action":"rotate-secret","name":"orders","overlapSeconds":0.0,"replaceVersion":2147483647}`,
		`{"tenant":"demo","action":"rotate-secret","name":"orders","replaceVersion":0}`, `{"tenant":"demo","action":"set-default-destination","destination":null}`,
		`{"tenant":"demo","action":"set-default-destination","destination":"Orders"}`, `{"tenant":"demo","action":"get-destination","name":"stepFunctions"}`,
	} {
		f.Add([]byte(payload))
	}
	for _, payload := range sourceSeeds {
		f.Add([]byte(payload))
	}
	webhooks := newWebhooks(f, nil, slog.New(slog.DiscardHandler))
	f.Fuzz(func(t *testing.T, payload []byte) {
		if is, odd := isHTTPEvent(payload); is || odd {
			return // TestSampleEvents has the routes
		}
		store := &destinationRecorder{}
		h := &gateway.Handler{
			Operation: gateway.ManageIntegrations, Store: store, Timeout: time.Minute, Log: slog.New(slog.DiscardHandler), Integrations: integrations,
			Webhooks: webhooks, MaxValueBytes: 1 << 20,
		}
		out, err := h.Invoke(t.Context(), payload)
		o := oracle{webhooks: webhooks}
		want := o.readIntegrationCall(payload)
		if !o.unread { // the rules judge a sample, and a receipt does not exist
			require.Equal(t, o.refused, err != nil, "%q", payload)
			require.Equal(t, want, store.calls, "%q", payload)
		}
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
