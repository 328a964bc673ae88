package gateway

import (
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/openapi/openapitest"
	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/routes"
)

// Name is the operation's name, for the tests of package gateway_test.
func (op Operation) Name() string { return op.name }

func describe(t *testing.T) *openapitest.Description {
	t.Helper()
	d, err := openapitest.Load()
	require.NoError(t, err)
	return d
}

// byRoute returns the operation of each route of the HTTP API.
func byRoute(t *testing.T) map[string]Operation {
	t.Helper()
	served := map[string]Operation{}
	for _, op := range []Operation{
		CreatePromise, GetPromise, WaitPromise, ListPromises, ListDeliveries, RetryDeliveries, ListReceipts, ListEvents, WaitEvents, Resolve, Reject,
		CancelPromise, BatchResolve, ExtendPromise, RevokeTokens, DeletePromise, SettleCallback, ReceiveWebhook,
	} {
		served[op.name] = op
	}
	list := map[string]Operation{}
	for _, r := range routes.HTTP {
		key := r.Method + " " + r.Path
		if op, ok := served[r.Function]; ok {
			list[key] = op
			continue
		}
		require.Equal(t, ManageIntegrations.name, r.Function)
		i := slices.IndexFunc(ManageIntegrations.members, func(m Operation) bool { return m.route == key })
		require.GreaterOrEqual(t, i, 0, key)
		list[key] = ManageIntegrations.members[i]
	}
	return list
}

// The description has the body's fields and the parameters of each operation, and no others.
func TestDescribedFields(t *testing.T) {
	t.Parallel()
	ops := byRoute(t)
	for id, o := range describe(t).Operations() {
		op := ops[o.Method+" "+o.Path]
		if op.webhook || op.callback {
			continue // they take any query, and bodies of several forms
		}
		t.Run(id, func(t *testing.T) {
			var parameters []string
			for _, p := range o.Parameters {
				parameters = append(parameters, p.Value.Name)
			}
			assert.ElementsMatch(t, op.parameters, parameters)
			if op.body == nil {
				assert.Nil(t, o.RequestBody)
				return
			}
			require.NotNil(t, o.RequestBody)
			if !op.ofDelivery {
				assert.Equal(t, !op.bodyOptional, o.RequestBody.Value.Required)
			}
			want := op.body
			if strings.Contains(o.Path, "{deliveryId}") { // the operation serves two routes
				want = nil
			}
			schema := o.RequestBody.Value.Content["application/json"].Schema.Value
			assert.ElementsMatch(t, want, slices.Collect(maps.Keys(schema.Properties)))
			assert.False(t, *schema.AdditionalProperties.Has, "the service refuses unknown fields")
		})
	}
}

// The description has the codes of the service, with their statuses.
func TestDescribedCodes(t *testing.T) {
	t.Parallel()
	d := describe(t)
	codes := map[promise.Code]int{}
	for _, o := range d.Operations() {
		for status, response := range o.Responses.Map() {
			n, err := strconv.Atoi(status)
			require.NoError(t, err)
			list, _ := response.Value.Extensions["x-codes"].([]any)
			if n >= 400 {
				require.NotEmpty(t, list, status)
			}
			for _, code := range list {
				codes[promise.Code(code.(string))] = n
			}
		}
	}
	want, names := map[promise.Code]int{}, []any{}
	for code, s := range statuses {
		want[code] = s.status
		names = append(names, string(code))
	}
	require.Equal(t, want, codes)
	require.ElementsMatch(t, names, d.Components.Schemas["Code"].Value.Enum)
}

// The description has the fields of each answer, and says which of them are always there.
func TestDescribedAnswers(t *testing.T) {
	t.Parallel()
	d := describe(t)
	for name, c := range map[string]struct {
		of   any
		more []string // fields that are added byte for byte
	}{
		"Problem":            {problemJSON{}, nil},
		"Promise":            {promiseJSON{}, []string{"value", "valueBase64", "onTimeout", "deliveries", "token", "resolveUrl", "rejectUrl"}},
		"StoredOnTimeout":    {onTimeoutJSON{}, []string{"resolve", "resolveBase64"}},
		"SettledBy":          {byJSON{}, nil},
		"TokensRevoked":      {tokensRevokedJSON{}, nil},
		"Event":              {eventJSON{}, []string{"value", "valueBase64"}},
		"Delivery":           {deliveryJSON{}, nil},
		"Retried":            {retriedJSON{}, nil},
		"Secret":             {secretJSON{}, nil},
		"Destination":        {destinationJSON{}, nil},
		"DeletedDestination": {deletedDestinationJSON{}, nil},
		"DestinationTest":    {testJSON{}, nil},
		"Source":             {sourceJSON{}, nil},
		"DeletedSource":      {deletedSourceJSON{}, nil},
		"SourceTest":         {trialJSON{}, []string{"items", "more"}},
		"SourceTestItem":     {trialItemJSON{}, []string{"value"}},
		"Receipt":            {receiptJSON{}, nil},
		"ReceivedOne":        {receivedJSON{}, nil},
		"ReceivedItems":      {receivedItemsJSON{}, nil},
		"StoredVerifier":     {promise.SourceVerifier{}, nil},
		"StoredRule":         {promise.SourceRule{}, nil},
		"Verifier":           {promise.SourceVerifier{}, nil},
		"HMACVerifier":       {promise.HMACVerifier{}, nil},
		"BasicVerifier":      {promise.BasicUser{}, nil},
		"Rule":               {promise.SourceRule{}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			schema := d.Components.Schemas[name].Value
			var fields, always []string
			for tag, omitted := range jsonFields(reflect.TypeOf(c.of)) {
				if name == "Source" && tag == "url" && omitted { // the definition's own is shown as signedUrl
					continue
				}
				fields = append(fields, tag)
				if !omitted {
					always = append(always, tag)
				}
			}
			assert.ElementsMatch(t, append(fields, c.more...), slices.Collect(maps.Keys(schema.Properties)))
			required := slices.DeleteFunc(slices.Clone(schema.Required), func(f string) bool { return slices.Contains(c.more, f) })
			assert.ElementsMatch(t, always, required)
		})
	}
}

// The two forms of a settlement have, together, the fields of settleResultJSON.
func TestDescribedSettlements(t *testing.T) {
	t.Parallel()
	schemas := describe(t).Components.Schemas
	var described []string
	for _, name := range []string{"PromiseSettlement", "HeldSettlement"} {
		s := schemas[name].Value
		assert.ElementsMatch(t, slices.Collect(maps.Keys(s.Properties)), s.Required, name)
		described = append(described, s.Required...)
	}
	slices.Sort(described)
	assert.Equal(t, slices.Sorted(maps.Keys(jsonFields(reflect.TypeFor[settleResultJSON]()))), slices.Compact(described))
}

// The answers accept fields that a later version may add.
func TestAnswersAreOpen(t *testing.T) {
	t.Parallel()
	for id, o := range describe(t).Operations() {
		for status, response := range o.Responses.Map() {
			for _, media := range response.Value.Content {
				assertOpen(t, id+" "+status, media.Schema.Value)
			}
		}
	}
}

func assertOpen(t *testing.T, place string, s *openapi3.Schema) {
	t.Helper()
	assert.False(t, s.AdditionalProperties.Has != nil && !*s.AdditionalProperties.Has, "%s is closed", place)
	for name, p := range s.Properties {
		assertOpen(t, place+"."+name, p.Value)
	}
	for _, list := range []openapi3.SchemaRefs{s.OneOf, s.AnyOf, s.AllOf, {s.Items}} {
		for _, part := range list {
			if part != nil {
				assertOpen(t, place, part.Value)
			}
		}
	}
}

// No body of a request has a default in its schema: generated clients would require the field.
func TestNoDefaultInBodies(t *testing.T) {
	t.Parallel()
	for name, s := range describe(t).Components.Schemas {
		for field, p := range s.Value.Properties {
			assert.Nil(t, p.Value.Default, "%s.%s", name, field)
		}
	}
}

// jsonFields returns the names of a struct's fields in JSON, and whether they may be absent.
func jsonFields(s reflect.Type) map[string]bool {
	fields := map[string]bool{}
	for _, f := range reflect.VisibleFields(s) {
		tag, ok := f.Tag.Lookup("json")
		if !ok {
			continue
		}
		name, options, _ := strings.Cut(tag, ",")
		if _, outer := fields[name]; outer && len(f.Index) > 1 {
			continue // the outer field hides it
		}
		outer := s.Field(f.Index[0])
		fields[name] = strings.Contains(options, "omit") || outer.Anonymous && outer.Type.Kind() == reflect.Pointer
	}
	return fields
}

// The description has the limits and the names that the service checks.
func TestDescribedLimits(t *testing.T) {
	t.Parallel()
	d := describe(t)
	schema := func(path string) *openapi3.Schema {
		names := strings.Split(path, ".")
		s := d.Components.Schemas[names[0]].Value
		for _, name := range names[1:] {
			require.Contains(t, s.Properties, name, path)
			s = s.Properties[name].Value
		}
		return s
	}
	for path, limit := range map[string]uint64{
		"CreatePromise.name": promise.MaxLength, "CreatePromise.idempotencyKey": promise.MaxLength, "CreatePromise.workflowId": promise.MaxExternalIDLength,
		"Comment": promise.MaxCommentLength, "Cancel.reason": promise.MaxCommentLength,
		"Rule.when": promise.MaxExpression, "Rule.key": promise.MaxExpression, "Rule.value": promise.MaxExpression, "Rule.error": promise.MaxExpression,
		"SourceDefinition.eventId": promise.MaxExpression, "PutSource.each": promise.MaxExpression,
	} {
		require.NotNil(t, schema(path).MaxLength, path)
		assert.Equal(t, limit, *schema(path).MaxLength, path)
	}
	for path, limit := range map[string]uint64{
		"CreatePromise.notify": promise.MaxTargets, "BatchResolve.items": maxItems, "PutSource.rules": promise.MaxSourceRules,
	} {
		require.NotNil(t, schema(path).MaxItems, path)
		assert.Equal(t, limit, *schema(path).MaxItems, path)
	}
	for path, limit := range map[string]int64{
		"CreatePromise.idempotencyKeyTtlSeconds": int64(promise.MaxIdempotencyKeyTTL.Seconds()), "CreatePromise.timeoutMs": promise.MaxTimeout.Milliseconds(),
		"Extend.timeoutMs": promise.MaxTimeout.Milliseconds(), "HoldSeconds": int64(promise.MaxEarlyTTL.Seconds()),
		"Rotate.overlapSeconds": int64(promise.MaxOverlap.Seconds()), "RotateSource.overlapSeconds": int64(promise.MaxOverlap.Seconds()),
		"PutSource.holdSeconds": int64(promise.MaxEarlyTTL.Seconds()), "Tokens.ttlSeconds": int64(maxTokenTTL.Seconds()),
	} {
		require.NotNil(t, schema(path).Max, path)
		assert.InDelta(t, limit, *schema(path).Max, 0, path)
	}
	assert.ElementsMatch(t, texts(promise.ReceiptOutcomes), schema("ReceiptOutcome").Enum)
}

// texts returns the elements of a slice of texts.
func texts[T ~string](list []T) (all []any) {
	for _, text := range list {
		all = append(all, string(text))
	}
	return all
}
