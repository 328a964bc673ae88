package gateway_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/aws/aws-lambda-go/lambda/messages"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/gateway"
	"github.com/flovyn/promises/shared/promise"
)

// functionNames lists the functions. A fuzz target names a function by its index, a byte.
var functionNames = slices.Sorted(maps.Keys(functions))

// fuzzLimit is a small limit of values, so that mutated values exceed it.
const fuzzLimit = 300

// invoke makes a call and checks the rules for every call: the handler does not panic or
// answer 500, the code of a problem is one of the closed set, and a refused call does not
// reach the store.
func invoke(t *testing.T, function string, payload []byte) (calls []storeCall, body []byte, refused bool) {
	store := &recorder{}
	h := &gateway.Handler{
		Operation: operations[function], Store: store, MaxValueBytes: fuzzLimit, Timeout: time.Minute,
		Log: slog.New(slog.DiscardHandler), Authenticate: authenticate, PublicURL: "https://api.example.com",
		Signer: func(context.Context) (gateway.SignToken, error) {
			return func(gateway.TokenRequest) (string, error) { return "a+/=&#?%", nil }, nil
		},
	}
	before := bytes.Clone(payload)
	out, err := h.Invoke(t.Context(), payload)
	require.True(t, bytes.Equal(before, payload), "the handler does not write to the payload")
	problem := ""
	if err != nil {
		var e messages.InvokeResponse_Error
		require.ErrorAs(t, err, &e)
		require.Nil(t, out)
		problem = e.Message
	} else if is, _ := isHTTPEvent(payload); is {
		r := decodeResponse(t, out)
		if out = []byte(r.Body); r.StatusCode >= 300 {
			require.Equal(t, "application/problem+json", r.Headers["content-type"])
			problem = r.Body
		}
	}
	if problem == "" {
		require.True(t, json.Valid(out), "%q", out)
		return store.calls, out, false
	}
	var p struct {
		Code   promise.Code
		Status int
	}
	require.NoError(t, json.Unmarshal([]byte(problem), &p), problem)
	require.Contains(t, promise.Codes, p.Code)
	require.Less(t, p.Status, 500, "%s\n%q", problem, payload)
	require.GreaterOrEqual(t, p.Status, 400, problem)
	require.Empty(t, store.calls, "refused: %s\n%q", problem, payload)
	return nil, nil, true
}

// check makes a call of either form and compares its effect with the oracle's.
func check(t *testing.T, function string, payload []byte) (o *oracle, calls []storeCall) {
	calls, body, refused := invoke(t, function, payload)
	o = &oracle{limit: fuzzLimit}
	is, odd := isHTTPEvent(payload)
	if odd {
		return &oracle{refused: true}, nil
	}
	read := o.readDirect
	if is {
		read = o.readEvent
		o.refuse(functions[function].unrouted)
	}
	want := read(function, payload)
	require.Equal(t, o.refused, refused, "%s %q", function, payload)
	if !refused {
		require.Equal(t, want, calls, "%s %q", function, payload)
		checkAnswer(t, o, body)
	}
	return o, calls
}

// checkAnswer checks the order of a batch's results, and the callback URLs.
func checkAnswer(t *testing.T, o *oracle, body []byte) {
	var a struct {
		Results    []struct{ Code string }
		ResolveURL string
		RejectURL  string
		NextCursor string
		NextAfter  *int32
	}
	require.NoError(t, json.Unmarshal(body, &a), "%q", body)
	require.Len(t, a.Results, len(o.results))
	for i, r := range a.Results {
		require.Equal(t, o.results[i], r.Code == "", "item %d", i)
	}
	for verb, text := range map[string]string{"resolve": a.ResolveURL, "reject": a.RejectURL} {
		if text == "" {
			continue
		}
		u, err := url.Parse(text)
		require.NoError(t, err)
		require.Equal(t, "/api/tenants/"+o.tenant+"/callbacks/id:"+settledPromise.ID.String()+"/"+verb, u.Path)
		require.Equal(t, url.Values{"token": {"a+/=&#?%"}}, u.Query())
	}
}

// eachSampleEvent calls each with the sample events of the functions, except for the large one.
func eachSampleEvent(f *testing.F, each func(function byte, payload []byte)) {
	files, err := filepath.Glob("../../events/*.json")
	require.NoError(f, err)
	require.NotEmpty(f, files)
	for _, file := range files {
		name, _, _ := strings.Cut(filepath.Base(file), ".")
		payload, err := os.ReadFile(file)
		require.NoError(f, err)
		if i := slices.Index(functionNames, name); i >= 0 && len(payload) < 1<<16 {
			each(byte(i), payload)
		}
	}
}

// FuzzEvent sends any bytes as API Gateway's event.
func FuzzEvent(f *testing.F) {
	eachSampleEvent(f, func(function byte, payload []byte) {
		if is, _ := isHTTPEvent(payload); is {
			f.Add(function, payload)
			f.Add(function, minimalEvent(f, payload))
		}
	})
	for _, payload := range []string{
		`{"version":"2.0","requestContext":{}`, `{"version":"2.0","requestContext":null}`, `{"version":"1.0","requestContext":{}}`,
		`{"version":"2\u002e0","requestContext":{}}`, `{"version":"2.0","requestContext":{"authorizer":{"lambda":[]}},"pathParameters":"x"}`,
		`{"version":"2.0","requestContext":{},"pathParameters":{"identifier":7},"isBase64Encoded":true,"body":null}`,
	} {
		f.Add(byte(4), []byte(payload))
	}
	f.Fuzz(func(t *testing.T, function byte, payload []byte) {
		check(t, functionNames[int(function)%len(functionNames)], payload)
	})
}

// minimalEvent removes the fields of an event that a call ignores. A mutation is then
// more likely to change a field that matters.
func minimalEvent(f *testing.F, payload []byte) []byte {
	ev := object(payload)
	for name, keep := range map[string][]string{"headers": {"authorization", "content-type", "content-encoding"}, "requestContext": {"authorizer"}} {
		part := object(ev[name])
		maps.DeleteFunc(part, func(name string, _ json.RawMessage) bool { return !slices.Contains(keep, name) })
		ev[name] = join(part)
	}
	for _, name := range []string{"rawPath", "rawQueryString"} {
		delete(ev, name)
	}
	var text bytes.Buffer
	require.NoError(f, json.Compact(&text, join(ev)))
	return text.Bytes()
}

// A request holds the parts of an HTTP request to the service that a call uses.
type request struct {
	slug, identifier, query string // percent-encoded
	contentType             string
	body                    []byte
	how                     byte
}

// The bits of how.
const (
	inBase64 = 1 << iota
	noContentType
	byToken
	ofAnother
	fewScopes
	expired
	unverified
)

// event returns API Gateway's event for the request. ok is false if API Gateway
// refuses the request itself.
func (r request) event(t testing.TB) (payload []byte, ok bool) {
	slug, err1 := url.PathUnescape(r.slug)
	identifier, err2 := url.PathUnescape(r.identifier)
	query, err3 := url.ParseQuery(r.query)
	if err1 != nil || err2 != nil || err3 != nil || !utf8.ValidString(r.contentType) {
		return nil, false
	}
	p := keyHolder(slug, promise.Scopes...)
	if r.how&byToken != 0 {
		p = promise.Principal{
			By: promise.By{Kind: promise.KindToken, ID: apiKeyID}, Tenant: slug, PromiseID: uuid.MustParse(promiseID),
			Verbs: []promise.Verb{promise.VerbResolve, promise.VerbReject},
		}
	}
	if r.how&ofAnother != 0 {
		p.Tenant, p.PromiseID = slug+"x", uuid.UUID{1}
	}
	if r.how&fewScopes != 0 {
		p.Scopes, p.Verbs = p.Scopes[:min(1, len(p.Scopes))], p.Verbs[:min(1, len(p.Verbs))]
	}
	if r.how&expired != 0 {
		p.ExpiresAt = time.Now().Add(-time.Second)
	}
	if r.how&unverified != 0 {
		p.Kind = promise.KindUnverified
	}
	headers, parameters := map[string]string{"authorization": "Bearer prk_…"}, map[string]string{}
	for name, values := range query {
		parameters[name] = strings.Join(values, ",")
	}
	if r.how&noContentType == 0 {
		headers["content-type"] = r.contentType
	}
	body, encoded, route := string(r.body), false, "POST /api/tenants/{slug}/promises/{identifier}/resolve"
	if r.how&inBase64 != 0 || !utf8.Valid(r.body) {
		body, encoded = base64.StdEncoding.EncodeToString(r.body), true
	}
	variables := map[string]string{"slug": slug, "identifier": identifier, "workflowExecutionId": identifier}
	if identifier != "" {
		variables["deliveryId"] = identifier
	}
	payload, err := json.Marshal(map[string]any{
		"version": "2.0", "routeKey": route, "rawQueryString": r.query, "headers": headers, "body": body, "isBase64Encoded": encoded,
		"pathParameters": variables,
		"requestContext": map[string]any{"authorizer": map[string]any{"lambda": p.Texts()}}, "queryStringParameters": parameters,
	})
	require.NoError(t, err)
	return payload, true
}

// FuzzRequest sends an HTTP request, and then the equal direct invoke. Both must reach
// the store as the same call.
func FuzzRequest(f *testing.F) {
	metadata := func(text string) []byte {
		return []byte(`{"workflowExecutionId":"` + workflowID + `","name":"n","metadata":` + text + `}`)
	}
	notify := func(text string) []byte {
		return []byte(`{"workflowExecutionId":"` + workflowID + `","name":"n","notify":` + text + `}`)
	}
	for i := range functionNames {
		for _, c := range []request{
			{"demo", "id:" + promiseID, "", "application/json", []byte(`{"value": {"b":1, "a":[1.0,"\u00e4ä"]} ,"comment":"\ud83d\ude00"}`), 0},
			{"demo", "id:" + promiseID, "strict=true&token=x", "application/json", []byte(`{"value":null}`), byToken | fewScopes},
			{"demo", "key:stripe%3Ach_abc123%2F%C3%A4", "strict=false", "application/json", []byte(`{"error":"no","comment":"x","holdSeconds":60}`), inBase64},
			{"demo", "key:a%20b", "", "application/vnd.api+json; charset=UTF-8", []byte(`{"value":"","holdSeconds":604800}`), inBase64},
			{"demo", "id:" + strings.ToUpper(promiseID), "waitSeconds=25", "", nil, noContentType},
			{"demo", "id:" + promiseID, "", "application/json", []byte(`{"reason":"no need"}`), 0},
			{"demo", "id:" + promiseID, "", "application/json", []byte(`{"timeoutMs":315532800000}`), 0},
			{"demo", "id:" + promiseID, "", "application/json", []byte(`{"timeoutAt":"2026-01-31T24:00:00.5+23:59"}`), 0},
			{"demo", "id:" + promiseID, "", "application/json;", []byte(`{"timeoutAt":"2016-12-31t23:59:60z"}`), 0},
			{"demo", "id:" + promiseID, "", "application/json, application/json", []byte(`{"timeoutAt":"1998-12-31T15:59:60.25-08:00"}`), 0},
			{"demo", "id:" + promiseID, "", "application/json;charset=us-ascii", []byte(`{"timeoutAt":"2016-12-31T23:59:60+01:00"}`), 0},
			{"demo", "id:" + promiseID, "waitSeconds=2.5e1", "application/json; charset=utf8", []byte(`{"timeoutMs":315532800.0e3}`), 0},
			{"demo", "id:" + promiseID, "", "application/json,text/plain", []byte(`{"timeoutMs":1e400}`), 0},
			{"demo", "id:" + promiseID, "", `application/json; profile="a,b"`, []byte(`{"timeoutMs":-0.0}`), 0},
			{"demo", "key64:c3RyaXBlOmNoXzEvw6Q", "", "", []byte("\ufeff" + `{"value":1,"holdSeconds":60.0}`), 0},
			{"demo", "key64:c3RyaXBlOmNoXzEvw6R", "", "application/json", []byte(`{"error":"x"}`), 0},
			{"demo", "key64:LgA", "", "application/json", []byte("{\x00\"\x00v\x00"), 0},
			{"demo", "id:" + promiseID, "", "application/json", gzipped(f, `{"value": [1]}`), 0},
			{"demo", "id:" + promiseID, "", "application/json", gzipped(f, `{"error":"x"}`)[:20], 0},
			{"demo", "id:" + promiseID, "", "application/json", append(gzipped(f, `{"error":`), gzipped(f, `"x"}`)...), 0},
			{"demo", workflowID, "after=7&limit=100&waitSeconds=0", "", nil, fewScopes},
			{"demo", workflowID, "after=7.0&limit=1e2&waitSeconds=0e9", "", nil, 0},
			{"demo", "workflowId:order-1", "", "", nil, 0},
			{"demo", "workflowId64:YS9i", "limit=1", "", nil, 0},
			{"demo", "workflowId64:YS9i=", "", "", nil, 0},
			{"demo", "", "workflowId=order%2F1&state=pending", "", nil, 0},
			{"demo", "", "workflowId=a&workflowExecutionId=" + workflowID, "", nil, 0},
			{"demo", "", "", "application/json", []byte(`{"workflowId":"order/1","name":"n"}`), 0},
			{"demo", "", "workflowExecutionId=" + workflowID + "&name=a%00b&state=timed_out&limit=01", "", nil, 0},
			{"demo", "", "name=%f0%90%80%80&state=pending&timeoutBefore=2030-01-01T00:00:00%2B01:00&limit=1&cursor=AAZGk8gkuMB9nx86PB5OW4pXDC9vH0oR", "", nil, 0},
			{"demo", "", "state=pending&timeoutBefore=2030-01-01T00:00:00Z&limit=1&cursor=" + promise.Cursor{TimeoutAt: new(time.Now())}.String(), "", nil, 0},
			{"demo", "", "state=pending&cursor=" + promise.Cursor{TimeoutAt: new(time.Now())}.String(), "", nil, 0},
			{"demo", "", "state=pending&timeoutBefore=2030-01-01T00:00:00Z&cursor=AAZGk8gkuMB9nx86PB5OW4pXDC9vH0oR", "", nil, 0},
			{"demo", "", "workflowId=w&name=a&cursor=AAZGk8gkuMB9nx86PB5OW4pXDC9vH0oR", "", nil, 0},
			{"demo", "", "limit=01", "", nil, 0},
			{"demo", "", "promiseId=" + promiseID + "&destination=orders&state=dead&limit=1&cursor=AAZGk8gkuMB9nx86PB5OW4pXDC9vH0oR", "", nil, 0},
			{"demo", "", "destination=stepFunctions&state=Dead", "", nil, 0},
			{"demo", "", "source=a-1&outcome=timed_out&key=k&promiseId=" + promiseID + "&from=2030-01-01T00:00:00Z&before=2030-01-01T00:00:00.5%2B01:00&cursor=AAZGk8gkuMB9nx86PB5OW4pXDC9vH0oR", "", nil, 0},
			{"demo", "", "source=stepFunctions&outcome=&key=&from=", "", nil, 0},
			{"demo", deliveryID, "", "", nil, 0},
			{"demo", strings.ToUpper(deliveryID), "", "application/json", []byte(`{}`), 0},
			{"demo", deliveryID, "", "application/json", []byte(`{"state":"dead"}`), 0},
			{"demo", "", "", "application/json", []byte(`{"destination":"orders","state":"dead"}`), 0},
			{"demo", "", "", "application/json", []byte(`{"destination":"Orders","state":"gone"}`), 0},
			{"demo", "", "", "application/json", notify(`[]`), 0},
			{"demo", "", "", "application/json", notify(`[{"destination":"a-1"},{"stepFunctions":{"taskToken":"\u0041 b"}},` +
				`{"durableExecution":{"callbackId":"QQ==","destination":"orders"}},{"destination":"a"}]`), 0},
			{"demo", "", "", "application/json", notify(`[{"destination":"a"},{"destination":"a"}]`), 0},
			{"demo", "", "", "application/json", notify(`[{"stepFunctions":{"taskToken":"QQ==","destination":"a"}},{"durableExecution":{"callbackId":"QQ=="}}]`), 0},
			{"demo", "", "", "application/json", notify(`[{"durableExecution":{"callbackId":"Q==Q"},"destination":"a"},7]`), 0},
			{"demo", "id:" + promiseID, "strict=TRUE", "application/json", []byte(`{"value":1}`), 0},
			{"demo", "id:" + promiseID, "", "application/json", []byte(`{"value":12}`), expired},
			{"demo", "id:" + promiseID, "", "application/json", []byte(`{"value":1}`), inBase64},
			{"demo", "id:" + promiseID, "", "application/json", []byte(`{"timeoutAt":"2026-01-31T2:00:00Z"}`), 0},
			{"demo", "", "", "application/json", metadata(`{"a":[` + strings.Repeat("1e300,", 220) + `1]}`), 0},
			{"demo", "", "", "application/json", metadata(`{"a":` + strings.Repeat("[", 99) + strings.Repeat("]", 99) + `}`), 0},
			{"demo", "", "", "application/json", metadata(`{"a":` + strings.Repeat("[", 99) + "1" + strings.Repeat("]", 99) + `}`), 0},
			{"demo%00", "ID:" + promiseID, "cursor=" + strings.Repeat("_", 32), "application/json", []byte("{\"value\":1}\n\x00"), expired},
			{"a%2Fb", "", "", "application/json", []byte(`{"items":[{"identifier":"id:` + promiseID + `","value":[]},{"identifier":"key:k","error":"e"},` +
				`{"identifier":"k"},7,{"identifier":"key:a","value":1,"error":"x"},{"identifier":"key:\ufffd","value":1}]}`), 0},
			{"d m%3F", "", "", "application/json", []byte(`{"workflowExecutionId":"` + workflowID + `","name":"n","idempotencyKey":"k","timeoutMs":1,` +
				`"idempotencyKeyTtlSeconds":1,"onTimeout":{"resolve":{"a": 1}},"metadata":{"a":[1e300,{"b":"\\"}]},"tokens":{"verbs":["reject","resolve"],"ttlSeconds":60}}`), 0},
			{"demo", "", "", "application/json", []byte(`{"workflowExecutionId":"` + workflowID + `","name":"n","timeoutAt":"2026-01-01T00:00:00Z",` +
				`"onTimeout":{"reject":"late"},"metadata":{"a":{"a":1,"\u0061":2}}}`), unverified},
			{"demo", "id:" + promiseID, "token=token", "application/json", []byte(`{"value":1,"value":2}`), unverified},
			{"demo", "id:" + promiseID, "token=token", "application/json", []byte(`{"value":"` + strings.Repeat("x", fuzzLimit) + `"}`), unverified},
			{"demo", "id:" + promiseID, "token=token", "application/json", []byte(`{"value":-0.0E-7}`), unverified},
			{"demo", "id:" + promiseID, "", "text/plain", []byte(`{"value":1}`), byToken | ofAnother},
		} {
			f.Add(byte(i), c.slug, c.identifier, c.query, c.contentType, c.body, c.how)
		}
	}
	f.Fuzz(func(t *testing.T, number byte, slug, identifier, query, contentType string, body []byte, how byte) {
		function := functionNames[int(number)%len(functionNames)]
		payload, ok := request{slug, identifier, query, contentType, body, how}.event(t)
		if !ok {
			return
		}
		o, calls := check(t, function, payload)
		if o.refused {
			return
		}
		again, same := check(t, function, o.direct(t, function))
		require.False(t, again.refused)
		require.Equal(t, withoutCaller(calls), withoutCaller(same), "%q", payload)
	})
}

// withoutCaller removes the callers' principals from the calls.
func withoutCaller(calls []storeCall) []storeCall {
	for i := range calls {
		calls[i].by = promise.By{}
	}
	return calls
}

// direct returns the direct form of a call that was read in the HTTP form.
func (o *oracle) direct(t testing.TB, function string) []byte {
	quote := func(s string) json.RawMessage {
		text, err := json.Marshal(s)
		require.NoError(t, err)
		return text
	}
	all := map[string]json.RawMessage{"tenant": quote(o.tenant)}
	maps.Copy(all, o.body)
	if prefix, rest, ok := strings.Cut(o.target, ":"); ok {
		all[map[string]string{"id": "promiseId", "key": "key"}[prefix]] = quote(rest)
	}
	if functions[function].ofWorkflow {
		all["workflowExecutionId"] = quote(o.workflow.String())
		if o.externalID != nil {
			delete(all, "workflowExecutionId")
			all["workflowId"] = quote(*o.externalID)
		}
	}
	if o.delivery != nil {
		all["deliveryId"] = quote(o.delivery.String())
	}
	for name, raw := range o.query {
		switch name {
		case "strict", "limit", "after", "waitSeconds":
			raw = json.RawMessage(plain(raw))
		}
		all[name] = raw
	}
	return join(all)
}

// join writes an object, with its values byte for byte.
func join(all map[string]json.RawMessage) []byte {
	text := []byte("{")
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if len(text) > 1 {
			text = append(text, ',')
		}
		text = append(append(append(text, `"`+name+`" : `...), all[name]...), ' ')
	}
	return append(text, '}')
}

// FuzzDirect sends any bytes as the payload of a direct invoke, and then the equal HTTP
// event.
func FuzzDirect(f *testing.F) {
	eachSampleEvent(f, func(function byte, payload []byte) {
		if is, _ := isHTTPEvent(payload); !is {
			f.Add(function, payload)
		}
	})
	for i := range functionNames {
		for _, payload := range []string{
			`{}`, `null`, `{"tenant":"demo"}`, `{"tenant":"demo","promiseId":"` + promiseID + `","key":"k"}`, `{"tenant":"demo","key":"k"}`,
			`{"tenant":"demo","promiseId":"` + promiseID + `","value":{"a" : "\ud800"},"strict":true}`,
			`{"tenant":"demo","key":"k","value":1,"value":1}`, `{"tenant":"demo","KEY":"k","value":1}`,
			`{"tenant":"","key":"k","error":"\u0000"}`, `{"tenant":"demo","key":"` + strings.Repeat("ä", 256) + `","value":1}`,
			`{"tenant":"demo","items":[{"identifier":"ID:` + promiseID + `","value":1},{"identifier":"key:k","value":1}]}`,
			`{"tenant":"demo","workflowExecutionId":"` + workflowID + `","limit":-0,"after":2147483648}`,
			`{"tenant":"demo","workflowId":"order/1","name":"n"}`, `{"tenant":"demo","workflowId":"ä"}`, `{"tenant":"demo","workflowId":""}`,
			`{"tenant":"demo","workflowId":"` + strings.Repeat("ä", 256) + `","name":"n"}`,
			`{"tenant":"demo","workflowId":"a","workflowExecutionId":"` + workflowID + `","name":"n"}`,
			`{"tenant":"demo","workflowExecutionId":"` + workflowID + `","limit":1.0e1,"after":214748364.70e1}`,
			`{"tenant":"demo","items":[{"identifier":"key64:YS9i","value":1},{"identifier":"key64:YS9i=","value":1}]}`,
			"\ufeff" + `{"tenant":"demo","key":"a/b","value":1}`,
			`{"tenant":"demo","workflowExecutionId":"` + workflowID + `","name":"\ud83d","state":"resolved","timeoutBefore":"2030-01-01T00:00:00,5Z"}`,
		} {
			f.Add(byte(i), []byte(payload))
		}
	}
	f.Fuzz(func(t *testing.T, number byte, payload []byte) {
		if bytes.Contains(payload, []byte("requestContext")) { // FuzzEvent covers events
			return
		}
		function := functionNames[int(number)%len(functionNames)]
		o, calls := check(t, function, payload)
		if o.refused || o.tenant == "" || functions[function].unrouted {
			return
		}
		again, same := check(t, function, o.http(t, function))
		require.False(t, again.refused, "%q", payload)
		require.Equal(t, withoutCaller(calls), withoutCaller(same), "%q", payload)
	})
}

// http returns the HTTP form of a call that was read in the direct form.
func (o *oracle) http(t testing.TB, function string) []byte {
	body, query := map[string]json.RawMessage{}, url.Values{}
	for _, name := range functions[function].body {
		if raw, ok := o.body[name]; ok {
			body[name] = raw
		}
	}
	for _, name := range functions[function].query {
		if raw, ok := o.body[name]; ok && raw[0] == '"' {
			query.Set(name, plain(raw))
		} else if ok {
			query.Set(name, strings.TrimPrefix(string(raw), "-")) // -0
		}
	}
	identifier := o.target
	if key, ok := strings.CutPrefix(identifier, "key:"); ok {
		identifier = "key64:" + base64.RawURLEncoding.EncodeToString([]byte(key))
	}
	if functions[function].ofWorkflow {
		identifier = o.workflow.String()
		if o.externalID != nil {
			identifier = "workflowId64:" + base64.RawURLEncoding.EncodeToString([]byte(*o.externalID))
		}
	}
	if o.delivery != nil {
		identifier = o.delivery.String()
	}
	r := request{url.PathEscape(o.tenant), url.PathEscape(identifier), query.Encode(), "application/json", join(body), 0}
	payload, ok := r.event(t)
	require.True(t, ok)
	return payload
}
