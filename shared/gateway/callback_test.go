package gateway_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/gateway"
	"github.com/flovyn/promises/shared/promise"
)

// settle calls a callback URL on a store that only records, and returns the calls that write.
func (c callback) settle(t testing.TB) (response, []storeCall) {
	t.Helper()
	store := &recorder{pending: true}
	h := &gateway.Handler{
		Operation: gateway.SettleCallback, Store: store, MaxValueBytes: 1 << 20, Timeout: time.Minute,
		Log: slog.New(slog.DiscardHandler), Authenticate: authenticate,
	}
	got, err := h.Invoke(t.Context(), c.event(t))
	require.NoError(t, err)
	return decodeResponse(t, got), slices.DeleteFunc(store.calls, func(c storeCall) bool { return c.method == "Get" })
}

// Senders of callbacks append parameters to the URL. Only the token matters.
func TestCallbackURLs(t *testing.T) {
	t.Parallel()
	const one = `{"value": 1 ,"comment":"c"}`
	for _, c := range []callback{
		{query: "token=" + sampleToken},
		{query: "token=" + url.QueryEscape(sampleToken)},
		{query: "utm_source=mail&token=" + sampleToken + "&utm_medium=%zz&&="},
		{query: "token=" + sampleToken + "&bodySHA256=abc&amp;x=1"},
		{query: "token=" + sampleToken + "?bodySHA256=abc"},
		{query: "token=" + sampleToken + "?"},
		{query: "token=" + sampleToken + "?token=x&y=?z"},
		{query: "token=" + sampleToken + "%3Futm=1"},
		{query: "%74oken=" + sampleToken},
		{query: "strict=true&waitSeconds=x&holdSeconds=1&token=" + sampleToken},
		{path: sampleToken},
		{path: sampleToken, query: "utm_source=mail"},
		{path: sampleToken, query: "token=x"},
	} {
		t.Run(caseName("path", c.path, "query", c.query), func(t *testing.T) {
			c.verb, c.body, c.contentType = "resolve", []byte(one), "application/json"
			got, calls := c.settle(t)
			require.Equal(t, 200, got.StatusCode, got.Body)
			require.Contains(t, got.Body, `"outcome":"settled"`)
			require.Equal(t, []storeCall{{
				method: "Settle", tenant: tenant, target: "id:" + promiseID, by: promise.By{Kind: promise.KindToken, ID: apiKeyID},
				args: []any{promise.SettleRequest{
					Result: promise.Result{State: promise.Resolved, Value: []byte("1")}, Comment: new("c"),
				}},
			}}, calls)
		})
	}
}

// A call is refused unless its token is valid for the route's verb and for the promise.
func TestCallbackTokens(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		callback
		status int
		code   string
	}{
		{"no token", callback{}, 401, "unauthenticated"},
		{"an empty token", callback{query: "token="}, 401, "unauthenticated"},
		{"a parameter without a value", callback{query: "token"}, 401, "unauthenticated"},
		{"only a question mark", callback{query: "token=?"}, 401, "unauthenticated"},
		{"the parameter's name in another case", callback{query: "Token=" + sampleToken}, 401, "unauthenticated"},
		{"in the value of another parameter", callback{query: "a=1?token=" + sampleToken}, 401, "unauthenticated"},
		{"an unknown token in the query", callback{query: "token=garbage"}, 403, "forbidden"},
		{"an unknown token in the path", callback{path: "garbage"}, 403, "forbidden"},
		{"an unknown token in the path, a valid one in the query", callback{path: "garbage", query: "token=" + sampleToken}, 403, "forbidden"},
		{"with a scheme before it", callback{query: "token=Bearer " + sampleToken}, 403, "forbidden"},
		{"the same token twice", callback{query: "token=" + sampleToken + "&token=" + sampleToken}, 403, "forbidden"},
		{"two tokens", callback{query: "token=" + sampleToken + "&token=x"}, 403, "forbidden"},
		{"two tokens, the second name escaped", callback{query: "token=x?&%74oken=" + sampleToken}, 403, "forbidden"},
		{"another promise", callback{query: "token=" + sampleToken, identifier: "id:" + workflowID}, 403, "forbidden"},
		{"the promise by its key", callback{query: "token=" + sampleToken, identifier: "key:" + idempotencyKey}, 403, "forbidden"},
		{"an invalid identifier", callback{query: "token=" + sampleToken, identifier: "x"}, 403, "forbidden"},
		{"a verb that no token has", callback{query: "token=" + sampleToken, verb: "cancel"}, 403, "forbidden"},
		{"another tenant", callback{query: "token=" + sampleToken, slug: "other"}, 404, "not_found"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.verb == "" {
				c.verb = "resolve"
			}
			c.body = []byte("{") // the caller does not learn that the body is malformed
			got, calls := c.settle(t)
			requireProblem(t, c.status, c.code, got)
			require.Empty(t, calls)
			require.NotContains(t, got.Body, sampleToken)
		})
	}
}

// With a token for JSON bodies, a callback takes the fields of resolve and reject, but not holdSeconds and strict.
func TestCallbackBodies(t *testing.T) {
	t.Parallel()
	for body, code := range map[string]string{
		``: "malformed_json", `{`: "malformed_json", `1`: "wrong_type", `{}`: "missing_field", `{"value":1,"holdSeconds":60}`: "unknown_field",
		`{"value":1,"strict":true}`: "unknown_field", `{"error":"x"}`: "unknown_field", `{"value":1,"comment":""}`: "out_of_range",
	} {
		t.Run(caseName("resolve", body, code), func(t *testing.T) {
			got, calls := callback{verb: "resolve", path: sampleToken, body: []byte(body)}.settle(t)
			requireProblem(t, 400, code, got)
			require.Empty(t, calls)
		})
	}
	t.Run("reject takes no value", func(t *testing.T) {
		got, _ := callback{verb: "reject", path: sampleToken, body: []byte(`{"value":1}`)}.settle(t)
		requireProblem(t, 400, "unknown_field", got)
	})
	t.Run("the content type must be JSON", func(t *testing.T) {
		got, _ := callback{verb: "resolve", path: sampleToken, contentType: "text/plain", body: []byte(`{"value":1}`)}.settle(t)
		requireProblem(t, 415, "unsupported_media_type", got)
	})
	t.Run("reject takes an error and a comment", func(t *testing.T) {
		got, calls := callback{verb: "reject", path: sampleToken, body: []byte(`{"error":"no","comment":"c"}`)}.settle(t)
		require.Equal(t, 200, got.StatusCode, got.Body)
		require.Equal(t, []any{promise.SettleRequest{
			Result: promise.Result{State: promise.Rejected, Message: new("no")}, Comment: new("c"),
		}}, calls[0].args)
	})
}

func TestRawBodies(t *testing.T) {
	t.Parallel()
	nested := strings.Repeat("[", 10_001) + strings.Repeat("]", 10_001)
	for _, c := range []struct{ contentType, body, value, code string }{
		{"", "", `null`, ""},
		{form, "", `null`, ""},
		{"application/json", "\ufeff", `null`, ""},
		{"application/json", " {\"b\": 1.0,\r\n\"a\":\"<\\u0000>\", \"a\":null}\n", " {\"b\": 1.0,\r\n\"a\":\"<\\u0000>\", \"a\":null}\n", ""},
		{"application/json", "\ufeff[1]", `[1]`, ""},
		{"", `"text"`, `"text"`, ""},
		{"text/plain; charset=utf-8", `-0.0E-7`, `-0.0E-7`, ""},
		{"application/octet-stream", `null`, `null`, ""},
		{"text/plain", "paid \"äöü\" <&>\r\n\u2028 \x1b", `"paid \"äöü\" <&>\r\n\u2028 \u001b"`, ""},
		{"", " ", `" "`, ""},
		{"application/json", `{"value":`, `"{\"value\":"`, ""},
		{"application/xml", "<ok/>", `"<ok/>"`, ""},
		{form, "status=paid&item=book&item=pen+%26+ink&empty=&flag", `{"status":"paid","item":["book","pen & ink"],"empty":"","flag":""}`, ""},
		{form + "; charset=UTF-8", "b=1&a=2&b=3&&a=", `{"b":["1","3"],"a":["2",""]}`, ""},
		{form + "; charset", "a=1", `{"a":"1"}`, ""},
		{form + ", " + form, "a=1", `{"a":"1"}`, ""},
		{form + ", text/plain", "a=1", `"a=1"`, ""},
		{strings.ToUpper(form), "=x&a%5B%5D=%C3%A4&100%=%zz%4&c=a;b=c", `{"":"x","a[]":"ä","100%":"%zz%4","c":"a;b=c"}`, ""},
		{form, "%22%3C%0A=\"", `{"\"<\n":"\""}`, ""},
		{form, `{"ok":true}`, `{"ok":true}`, ""},
		{form, ` [1, 2]`, ` [1, 2]`, ""},
		{form, `{"ok"=1`, `{"{\"ok\"":"1"}`, ""},
		{form, `42`, `{"42":""}`, ""},
		{"text/plain", "\xff", "", "invalid_utf8"},
		{"application/json", "\"\xff\"", "", "invalid_utf8"},
		{"image/png", "\x89PNG\r\n\x1a\n", "", "invalid_utf8"},
		{"", "\x1f\x8b\x08\x00", "", "malformed_json"},
		{"application/json", string(gzipped(t, "[1 ]")), `[1 ]`, ""},
		{"text/plain", string(gzipped(t, "\xff")), "", "invalid_utf8"},
		{"", "{\x00\"\x00a\x00", "", "nul_character"},
		{form, "a=%00", "", "nul_character"},
		{form, "%00=a", "", "nul_character"},
		{form, "a=%ff", "", "invalid_utf8"},
		{"", nested, "", "value_too_large"},
		{"application/json", nested[20 : len(nested)-20], "", ""},
		{"text/plain", strings.Repeat("a", 1<<20), "", "value_too_large"},
		{"text/plain", strings.Repeat("\x01", 200_000), "", "value_too_large"},
		{form, "a=" + strings.Repeat("%41", 1<<19), `{"a":"` + strings.Repeat("A", 1<<19) + `"}`, ""},
		{"", "[" + strings.Repeat(" ", 1<<20) + "]", "", "value_too_large"},
	} {
		t.Run(caseName(c.contentType, c.body, c.code), func(t *testing.T) {
			got, calls := callback{verb: "resolve", path: sampleToken + "raw", contentType: c.contentType, body: []byte(c.body)}.settle(t)
			switch {
			case c.code != "":
				status := 400
				if c.code == "value_too_large" {
					status = 413
				}
				requireProblem(t, status, c.code, got)
				require.Empty(t, calls)
			case c.value == "": // as deep as a value may be
				require.Equal(t, 200, got.StatusCode, got.Body)
			default:
				require.Equal(t, 200, got.StatusCode, got.Body)
				s := calls[0].args[0].(promise.SettleRequest)
				require.Equal(t, promise.Resolved, s.State)
				require.Equal(t, c.value, string(s.Value))
				require.True(t, json.Valid(s.Value))
			}
		})
	}
}

// A rejection's error is the body's text, unchanged.
func TestRawErrors(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ contentType, body, text, code string }{
		{"", "", "", ""},
		{"text/plain", "card \"declined\"\n", "card \"declined\"\n", ""},
		{"application/json", `{"error": "x"}`, `{"error": "x"}`, ""},
		{"application/json", `"x"`, `"x"`, ""},
		{form, "reason=card+declined", "reason=card+declined", ""},
		{"text/plain", "\ufeffno", "no", ""},
		{"text/plain", "\xff", "", "invalid_utf8"},
		{"text/plain", "a\x00", "", "nul_character"},
	} {
		t.Run(caseName(c.contentType, c.body, c.code), func(t *testing.T) {
			got, calls := callback{verb: "reject", query: "token=" + sampleToken + "raw", contentType: c.contentType, body: []byte(c.body)}.settle(t)
			if c.code != "" {
				requireProblem(t, 400, c.code, got)
				require.Empty(t, calls)
				return
			}
			require.Equal(t, 200, got.StatusCode, got.Body)
			require.Equal(t, []any{promise.SettleRequest{Result: promise.Result{State: promise.Rejected, Message: &c.text}}}, calls[0].args)
		})
	}
	t.Run("the limit counts the escaped text", func(t *testing.T) {
		got, calls := callback{verb: "reject", path: sampleToken + "raw", body: bytes.Repeat([]byte("\""), 1<<19)}.settle(t)
		requireProblem(t, 413, "value_too_large", got)
		require.Empty(t, calls)
	})
}

// However the promise was settled, a late call gets the same answer and writes nothing.
func TestLateCallbacks(t *testing.T) {
	t.Parallel()
	by := func(r promise.Result) promise.SettleRequest {
		return promise.SettleRequest{Result: r, By: promise.By{Kind: promise.KindAPIKey, ID: apiKeyID}}
	}
	for name, settle := range map[string]func(t *testing.T, s *service) error{
		"another value": func(t *testing.T, s *service) error {
			return errOf(s.store.Settle(t.Context(), tenant, promise.ByID(uuid.MustParse(promiseID)), by(promise.Result{State: promise.Resolved, Value: []byte(`"first"`)})))
		},
		"the same value": func(t *testing.T, s *service) error {
			return errOf(s.store.Settle(t.Context(), tenant, promise.ByID(uuid.MustParse(promiseID)), by(promise.Result{State: promise.Resolved, Value: []byte("1")})))
		},
		"rejected": func(t *testing.T, s *service) error {
			return errOf(s.store.Settle(t.Context(), tenant, promise.ByID(uuid.MustParse(promiseID)), by(promise.Result{State: promise.Rejected, Message: new("first")})))
		},
		"cancelled": func(t *testing.T, s *service) error {
			return errOf(s.store.Settle(t.Context(), tenant, promise.ByID(uuid.MustParse(promiseID)), by(promise.Result{State: promise.Cancelled, Message: new("first")})))
		},
		"by its deadline": func(t *testing.T, s *service) error {
			return errOf(s.store.Extend(t.Context(), tenant, promise.ByID(uuid.MustParse(promiseID)), promise.Deadline{Timeout: new(time.Duration)}))
		},
		"by the same token": func(t *testing.T, s *service) error {
			t.Helper()
			got, err := s.handler(t, "settle-callback").Invoke(t.Context(), callback{verb: "resolve", path: sampleToken, body: []byte(`{"value":1}`)}.event(t))
			require.Contains(t, string(got), `\"outcome\":\"settled\"`)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newService(t)
			s.promise(t)
			require.NoError(t, settle(t, s))
			before := s.snapshot(t)
			for _, c := range []callback{
				{verb: "resolve", path: sampleToken, body: []byte(`{"value":1}`)},
				{verb: "resolve", path: sampleToken, body: []byte(`{"value":1}`)},
				{verb: "reject", path: sampleToken, body: []byte(`{"error":"x"}`)},
				// Before the settlement these bodies are refused. Now a refusal would only make the sender repeat the call.
				{verb: "resolve", path: sampleToken, body: []byte("oops")},
				{verb: "resolve", path: sampleToken, body: []byte(`{"v":1}`)},
				{verb: "reject", path: sampleToken},
				{verb: "resolve", path: sampleToken, contentType: form, body: []byte("a=1")},
				{verb: "resolve", path: sampleToken + "raw", body: []byte("\xff")},
			} {
				got, err := s.handler(t, "settle-callback").Invoke(t.Context(), c.event(t))
				require.NoError(t, err)
				late := decodeResponse(t, got)
				require.Equal(t, 200, late.StatusCode)
				require.Equal(t, `{"alreadyResolved":true}`, late.Body)
			}
			require.Equal(t, before, s.snapshot(t))
		})
	}
}

func errOf[T any](_ T, err error) error { return err }

// A raw body is stored byte for byte, and a later read returns it.
func TestARawBodyIsTheValue(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.promise(t)
	const body = "\r\n {\"a\" : 1.0}\n"
	got, err := s.handler(t, "settle-callback").Invoke(t.Context(), callback{verb: "resolve", path: sampleToken + "raw", body: []byte(body)}.event(t))
	require.NoError(t, err)
	require.Contains(t, string(got), `\"outcome\":\"settled\"`)
	p, err := s.direct(t, "get-promise", `{"tenant":"demo","promiseId":"`+promiseID+`"}`)
	require.NoError(t, err)
	require.Contains(t, p, `"value":`+body+`}`)
	require.True(t, json.Valid([]byte(p)))
}

// If a token cannot be checked at the moment, the answer is 503, so that the sender repeats the call.
func TestCallbackUnavailable(t *testing.T) {
	t.Parallel()
	s := withoutDatabase()
	h := s.handler(t, "settle-callback")
	event := callback{verb: "resolve", path: sampleToken, body: []byte(`{"value":1}`)}.event(t)
	for _, failure := range []error{
		errors.New("the signing keys cannot be read"), context.DeadlineExceeded, promise.Fail(promise.CodeUnavailable, "away"),
	} {
		t.Run(failure.Error(), func(t *testing.T) {
			h.Authenticate = func(context.Context, string, bool) (promise.Principal, error) { return promise.Principal{}, failure }
			a := respond(t, h, event)
			requireProblem(t, 503, "unavailable", a)
			require.Equal(t, "1", a.Headers["retry-after"])
		})
	}
}

// A callback URL takes a token alone, and no other credential that the lookup may find.
func TestCallbackTakesTokensAlone(t *testing.T) {
	t.Parallel()
	s := withoutDatabase()
	h := s.handler(t, "settle-callback")
	event := callback{verb: "resolve", path: sampleToken, body: []byte(`{"value":1}`)}.event(t)
	for name, p := range map[string]promise.Principal{
		"an API key": keyHolder(tenant, promise.Scopes...), "a direct invoke": {By: promise.By{Kind: promise.KindDirect}}, "no principal": {},
	} {
		t.Run(name, func(t *testing.T) {
			h.Authenticate = func(_ context.Context, source string, inHeader bool) (promise.Principal, error) {
				require.Equal(t, sampleToken, source)
				require.False(t, inHeader)
				return p, nil
			}
			requireProblem(t, 403, "forbidden", respond(t, h, event))
		})
	}
}

// A token request names the API key that asked for the token, and the last revocation before it.
func TestTokenRequests(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.promise(t)
	var asked []gateway.TokenRequest
	h := s.handler(t, "create-promise")
	h.Signer = func(context.Context) (gateway.SignToken, error) {
		return func(r gateway.TokenRequest) (string, error) { asked = append(asked, r); return "t", nil }, nil
	}
	create := func(t *testing.T, tokens string, p *promise.Principal) response {
		t.Helper()
		body := `"workflowExecutionId":"` + workflowID + `","name":"payment","idempotencyKey":"` + idempotencyKey + `","tokens":` + tokens + `}`
		if p == nil {
			got, err := h.Invoke(t.Context(), []byte(`{"tenant":"demo",`+body))
			require.NoError(t, err)
			return response{StatusCode: 200, Body: string(got)}
		}
		got, err := h.Invoke(t.Context(), withAuthorizer(t, httpEvent(t, "POST", tenant, "", "", "{"+body), p.Texts()))
		require.NoError(t, err)
		return decodeResponse(t, got)
	}
	owner := keyHolder(tenant, promise.ScopeCreate, promise.ScopeSettle)
	require.Equal(t, 200, create(t, `{"verbs":["resolve"],"ttlSeconds":60}`, &owner).StatusCode)
	revoke := func(form func() (string, error)) time.Time {
		t.Helper()
		text, err := form()
		require.NoError(t, err)
		var r struct {
			PromiseID       string
			TokensRevokedAt time.Time
		}
		require.NoError(t, json.Unmarshal([]byte(text), &r))
		require.Equal(t, promiseID, r.PromiseID)
		return r.TokensRevokedAt
	}
	requireProblem(t, 400, "unknown_field", s.post(t, "revoke-tokens", "key:"+idempotencyKey, "", `{"x":1}`))
	first := revoke(func() (string, error) { return s.post(t, "revoke-tokens", "key:"+idempotencyKey, "", "").Body, nil })
	require.Equal(t, 200, create(t, `{"verbs":["reject","resolve"],"ttlSeconds":60,"body":"raw"}`, nil).StatusCode)
	second := revoke(func() (string, error) {
		return s.direct(t, "revoke-tokens", `{"tenant":"demo","promiseId":"`+promiseID+`"}`)
	})
	require.True(t, second.After(first))
	create(t, `{"verbs":["resolve"],"ttlSeconds":60,"body":"json"}`, &owner)

	id, of := uuid.MustParse(promiseID), uuid.MustParse(apiKeyID)
	one, both := []promise.Verb{promise.VerbResolve}, []promise.Verb{promise.VerbReject, promise.VerbResolve}
	for i := range asked {
		if at := asked[i].RevokedAt; at != nil {
			asked[i].RevokedAt = new(at.UTC())
		}
	}
	require.Equal(t, []gateway.TokenRequest{
		{Tenant: tenant, PromiseID: id, Verbs: one, TTL: time.Minute, APIKeyID: of},
		{Tenant: tenant, PromiseID: id, Verbs: both, TTL: time.Minute, RevokedAt: &first, RawBody: true},
		{Tenant: tenant, PromiseID: id, Verbs: one, TTL: time.Minute, APIKeyID: of, RevokedAt: &second},
	}, asked)

	before := s.snapshot(t)
	creator := keyHolder(tenant, promise.ScopeCreate, promise.ScopeRead)
	t.Run("a key without the scope settle gets no token", func(t *testing.T) {
		require.Equal(t, "tokens", requireProblem(t, 403, "forbidden", create(t, `{"verbs":["resolve"],"ttlSeconds":60}`, &creator))["field"])
	})
	t.Run("a key without an id gets no token", func(t *testing.T) {
		creator.Scopes, creator.ID = promise.Scopes, "no id"
		requireProblem(t, 401, "unauthenticated", create(t, `{"verbs":["resolve"],"ttlSeconds":60}`, &creator))
	})
	require.Equal(t, before, s.snapshot(t), "refused calls create no promise")
	require.Len(t, asked, 3)
}

// FuzzRawBody sends any body of any content type. The call is refused with a code, or its value is the body, its text, or its
// form as net/url reads it.
func FuzzRawBody(f *testing.F) {
	for _, body := range []string{
		``, `{"a":1}`, ` [1]`, `text`, `"text"`, "a=1&a=2&b=%C3%A4+%26", "a=%zz&%", "\ufeff1", "\xff", "a\x00", `{`, "%00", "=&=&", "a;b=c", "{}=1", "\u2028<",
	} {
		f.Add(form, []byte(body))
		f.Add("text/plain", []byte(body))
		f.Add("\v,\t", []byte(body))
	}
	f.Fuzz(func(t *testing.T, contentType string, body []byte) {
		if !utf8.ValidString(contentType) || bytes.HasPrefix(body, []byte{0x1f, 0x8b}) { // compressed
			return
		}
		got, calls := callback{verb: "resolve", path: sampleToken + "raw", contentType: contentType, body: body}.settle(t)
		text := strings.TrimPrefix(string(body), "\ufeff")
		fields, err := url.ParseQuery(text)
		isForm := strings.HasPrefix(strings.ToLower(contentType), form)
		if got.StatusCode != 200 {
			require.Contains(t, []int{400, 413}, got.StatusCode)
			require.Empty(t, calls)
			require.True(t, !utf8.ValidString(text) || strings.ContainsRune(text, 0) || len(text) > 1000 || isForm, "%q: %s", body, got.Body)
			return
		}
		value := calls[0].args[0].(promise.SettleRequest).Value
		require.True(t, json.Valid(value), "%q", value)
		if json.Valid([]byte(text)) && string(value) == text || text == "" && string(value) == "null" {
			return
		}
		var s string
		if json.Unmarshal(value, &s) == nil {
			require.Equal(t, text, s)
			require.False(t, json.Valid([]byte(text)))
			return
		}
		require.True(t, isForm)
		if err != nil { // net/url takes no stray percent sign and no semicolon
			return
		}
		var object map[string]any
		require.NoError(t, json.Unmarshal(value, &object))
		for name, values := range fields {
			if len(values) == 1 {
				require.Equal(t, values[0], object[name])
			} else {
				require.Len(t, object[name], len(values))
			}
		}
		require.Len(t, object, len(fields))
	})
}
