package gateway_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/promise"
)

// send calls a function with the headers and a body of any bytes. Like API Gateway, it encodes the body in base64.
func (s *service) send(t testing.TB, function, identifier string, body []byte, headers map[string]string) response {
	t.Helper()
	var e map[string]any
	require.NoError(t, json.Unmarshal(httpEvent(t, "POST", tenant, identifier, "", ""), &e))
	e["body"], e["isBase64Encoded"] = base64.StdEncoding.EncodeToString(body), true
	for name, value := range headers {
		e["headers"].(map[string]any)[name] = value
	}
	payload, err := json.Marshal(e)
	require.NoError(t, err)
	got, err := s.handler(t, function).Invoke(t.Context(), payload)
	require.NoError(t, err)
	return decodeResponse(t, got)
}

// utf16Bytes encodes a text in UTF-16, little endian.
func utf16Bytes(text string) (b []byte) {
	for _, unit := range utf16.Encode([]rune(text)) {
		b = append(b, byte(unit), byte(unit>>8))
	}
	return b
}

func TestContentTypes(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.promise(t)
	const accepted, refused = 200, 415
	for contentType, status := range map[string]int{
		"application/json; charset=utf8": accepted, "application/json;": accepted, "application/json, application/json": accepted,
		"text/plain": refused, "application/json; charset=latin1": refused, ";": refused,
	} {
		t.Run(contentType, func(t *testing.T) {
			a := s.send(t, "resolve", "id:"+promiseID, []byte(`{"value":1}`), map[string]string{"content-type": contentType})
			require.Equal(t, status, a.StatusCode)
		})
	}
	t.Run("no header", func(t *testing.T) {
		event := httpEvent(t, "POST", tenant, "id:"+promiseID, "", `{"value":1}`)
		event = bytes.Replace(event, []byte(`"content-type":"application/json"`), nil, 1)
		require.Equal(t, accepted, respond(t, s.handler(t, "resolve"), event).StatusCode)
	})
}

func TestEncodings_Refused(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.promise(t)
	before := s.snapshot(t)
	id := "id:" + promiseID
	for name, body := range map[string][]byte{
		"UTF-16 with a byte order mark":    append([]byte{0xff, 0xfe}, utf16Bytes(`{"value":1}`)...),
		"UTF-16, big endian":               {0xfe, 0xff, 0, '{', 0, '}'},
		"UTF-16 without a byte order mark": utf16Bytes(`{"value":1}`),
		"UTF-32":                           {'{', 0, 0, 0, '}', 0, 0, 0},
		"UTF-32, big endian":               {0, 0, 0, '{', 0, 0, 0, '}'},
	} {
		t.Run(name, func(t *testing.T) {
			p := requireProblem(t, 400, "invalid_utf8", s.send(t, "resolve", id, body, nil))
			require.Contains(t, p["detail"], "must be UTF-8. It looks like UTF-16")
		})
	}
	t.Run("an invalid byte", func(t *testing.T) {
		p := requireProblem(t, 400, "invalid_utf8", s.send(t, "resolve", id, []byte("\ufeff{\"value\":\"ä\xff\"}"), nil))
		require.Contains(t, p["detail"], "at byte 15.")
	})
	for _, encoding := range []string{"br", "deflate", "zstd", "gzip, br"} {
		t.Run("compressed with "+encoding, func(t *testing.T) {
			p := requireProblem(t, 415, "unsupported_media_type", s.send(t, "resolve", id, []byte{0x0b, 1, 2}, map[string]string{"content-encoding": encoding}))
			require.Contains(t, p["detail"], "compressed")
		})
	}
	whole := gzipped(t, `{"value":1}`)
	for name, body := range map[string][]byte{
		"gzip: only a part of the header": whole[:5], "gzip: the last byte is missing": whole[:len(whole)-1],
		"gzip: a byte behind it": append(bytes.Clone(whole), 'x'), "gzip: an unknown method": {0x1f, 0x8b, 0xff},
	} {
		t.Run(name, func(t *testing.T) {
			p := requireProblem(t, 400, "malformed_json", s.send(t, "resolve", id, body, map[string]string{"content-encoding": "gzip"}))
			require.Contains(t, p["detail"], "compressed")
		})
	}
	t.Run("gzip: a wrong checksum", func(t *testing.T) {
		damaged := bytes.Clone(whole)
		damaged[len(damaged)-5]++
		requireProblem(t, 400, "malformed_json", s.send(t, "resolve", id, damaged, nil))
	})
	t.Run("gzip: the error's position is in the decompressed text", func(t *testing.T) {
		p := requireProblem(t, 400, "malformed_json", s.send(t, "resolve", id, gzipped(t, `{"value":}`), nil))
		require.Contains(t, p["detail"], "unexpected } at byte 9.")
	})
	require.Equal(t, before, s.snapshot(t), "refused calls write nothing")
}

// Each accepted encoding of a body stands for the same value: the first call settles the promise, and the others are duplicates.
func TestEncodings_Accepted(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.promise(t)
	id := "id:" + promiseID
	outcome := "settled"
	for name, c := range map[string]struct {
		body    []byte
		headers map[string]string
	}{
		"a byte order mark":         {[]byte("\ufeff{\"value\":[1]}"), nil},
		"gzip":                      {gzipped(t, `{"value":[1]}`), map[string]string{"content-encoding": "gzip"}},
		"gzip, not declared":        {gzipped(t, `{"value":[1]}`), nil},
		"gzip of a byte order mark": {gzipped(t, "\ufeff{\"value\":[1]}"), map[string]string{"content-encoding": "GZIP"}},
		"plain, declared as gzip":   {[]byte(`{"value":[1]}`), map[string]string{"content-encoding": "gzip"}},
		"identity":                  {[]byte(`{"value":[1]}`), map[string]string{"content-encoding": "identity"}},
		"gzip of two members":       {append(gzipped(t, `{"value":`), gzipped(t, `[1]}`)...), nil},
	} {
		t.Run(name, func(t *testing.T) {
			a := s.send(t, "resolve", id, c.body, c.headers)
			require.Equal(t, 200, a.StatusCode)
			require.Contains(t, a.Body, `"outcome":"`+outcome+`"`)
			outcome = "duplicate"
		})
	}
	t.Run("a byte order mark, direct", func(t *testing.T) {
		got, err := s.direct(t, "resolve", "\ufeff"+payloadByID+`,"value":[1]}`)
		require.NoError(t, err)
		require.Contains(t, got, `"outcome":"duplicate"`)
	})
}

// A body that would decompress to gigabytes costs no more than a body at the limit. The test does not run in parallel, because the
// allocations of other tests would count.
func TestABombCostsNothing(t *testing.T) {
	s := newService(t)
	s.promise(t)
	bomb := bytes.Repeat(gzipped(t, strings.Repeat(" ", 1<<25)), 64) // 2 GiB of spaces, which JSON allows
	require.Less(t, len(bomb), 1<<22)
	t.Run("allocations", func(t *testing.T) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		a := s.send(t, "resolve", "id:"+promiseID, bomb, map[string]string{"content-encoding": "gzip"})
		runtime.ReadMemStats(&after)
		p := requireProblem(t, 413, "value_too_large", a)
		require.Contains(t, p["detail"], "compressed")
		require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(200<<20), "a tenth of the decompressed size")
	})
	t.Run("authorization comes before decompression", func(t *testing.T) {
		event := withAuthorizer(t, httpEvent(t, "POST", tenant, "id:"+promiseID, "", string(gzipped(t, "{"))), nil)
		requireProblem(t, 401, "unauthenticated", respond(t, s.handler(t, "resolve"), event))
	})
	largest := `{"value":1` + strings.Repeat(" ", 6<<20-len(`{"value":1}`)) + `}`
	t.Run("at the limit", func(t *testing.T) {
		require.Equal(t, 200, s.send(t, "resolve", "id:"+promiseID, gzipped(t, largest), nil).StatusCode)
	})
	t.Run("above the limit", func(t *testing.T) {
		requireProblem(t, 413, "value_too_large", s.send(t, "resolve", "id:"+promiseID, gzipped(t, largest+" "), nil))
	})
}

// The error for malformed JSON names the position of the fault, and nothing of the body's text.
func TestMalformedSaysWhere(t *testing.T) {
	t.Parallel()
	s := withoutDatabase()
	for body, detail := range map[string]string{
		``:                             "The JSON is missing. Send an object.",
		" \n":                          "The JSON is missing. Send an object.",
		`{"value":`:                    "The text must be JSON: it ends too early, at byte 9.",
		`{"value":"planted-secret`:     "The text must be JSON: it ends too early, at byte 24.",
		`{"value":1,}`:                 "The text must be JSON: unexpected } at byte 11.",
		`{"value":planted-secret}`:     "The text must be JSON: unexpected letter at byte 9.",
		`{"value":'planted-secret'}`:   "The text must be JSON: unexpected single quotation mark at byte 9.",
		`{"value":01}`:                 "The text must be JSON: unexpected digit at byte 10.",
		`{"value" "planted-secret"}`:   "The text must be JSON: unexpected quotation mark at byte 9.",
		"{\"value\":\"\n\"}":           "The text must be JSON: unexpected control character at byte 10.",
		`{"value":1} "planted-secret"`: "The JSON must end where its value ends: unexpected quotation mark at byte 12.",
		"\ufeff\ufeff{}":               "The text must be JSON: unexpected byte order mark at byte 3.",
		"\ufeff{\"value\":ä}":          "The text must be JSON: unexpected character outside ASCII at byte 12.",
		`{"value":+1}`:                 "The text must be JSON: unexpected character at byte 9.",
	} {
		t.Run(caseName(body), func(t *testing.T) {
			a := s.post(t, "resolve", "id:"+promiseID, "", body)
			code := "malformed_json"
			if strings.Contains(detail, "must end") {
				code = "trailing_data"
			}
			require.Equal(t, detail, requireProblem(t, 400, code, a)["detail"])
			require.NotContains(t, a.Body, "planted")
		})
	}
	t.Run("direct", func(t *testing.T) {
		_, err := s.direct(t, "resolve", payloadByID+`,"value":}`)
		require.Contains(t, requireFunctionError(t, "malformed_json", err)["detail"], "unexpected } at byte ")
	})
}

// The error for an unknown field or parameter lists the known ones.
func TestUnknownFieldListsTheKnown(t *testing.T) {
	t.Parallel()
	s := withoutDatabase()
	for _, c := range []struct{ function, identifier, body, fields string }{
		{"resolve", "id:" + promiseID, `{"status":"paid"}`, "value, comment, holdSeconds"},
		{"cancel-promise", "id:" + promiseID, `{"error":"x"}`, "reason, comment"},
		{"create-promise", "", `{"workflowExecutionId":"` + workflowID + `","name":"n","onTimeout":{"cancel":1}}`, "resolve, reject"},
		{"create-promise", "", `{"workflowExecutionId":"` + workflowID + `","name":"n","tokens":{"verb":"resolve"}}`, "verbs, ttlSeconds"},
	} {
		t.Run(caseName(c.function, c.fields), func(t *testing.T) {
			p := requireProblem(t, 400, "unknown_field", s.post(t, c.function, c.identifier, "", c.body))
			require.Contains(t, p["detail"], "The fields are: "+c.fields)
		})
	}
	t.Run("direct", func(t *testing.T) {
		_, err := s.direct(t, "get-promise", `{"tenant":"demo","id":"`+promiseID+`"}`)
		require.Contains(t, requireFunctionError(t, "unknown_field", err)["detail"], "The fields are: tenant, promiseId, key.")
	})
	t.Run("a parameter", func(t *testing.T) {
		p := requireProblem(t, 400, "invalid_parameter", s.post(t, "resolve", "id:"+promiseID, "Strict=true", `{"value":1}`))
		require.Contains(t, p["detail"], "The parameters are: strict.")
	})
	t.Run("a parameter of a call that takes none", func(t *testing.T) {
		p := requireProblem(t, 400, "invalid_parameter", s.post(t, "extend-promise", "id:"+promiseID, "timeoutMs=1", `{"timeoutMs":1}`))
		require.Contains(t, p["detail"], "This call takes none.")
	})
}

// API Gateway caches the authorizer's answer for some seconds. If the key expired in that time, the error says so.
func TestACredentialThatExpired(t *testing.T) {
	t.Parallel()
	s := withoutDatabase()
	p := keyHolder(tenant, promise.ScopeSettle)
	p.ExpiresAt = time.Now().Add(-time.Second)
	got, err := s.handler(t, "resolve").Invoke(t.Context(), withAuthorizer(t, httpEvent(t, "POST", tenant, "id:"+promiseID, "", `{"value":1}`), p.Texts()))
	require.NoError(t, err)
	require.Contains(t, requireProblem(t, 401, "unauthenticated", decodeResponse(t, got))["detail"],
		"expired at "+p.ExpiresAt.UTC().Format(time.RFC3339))
}

// For every key, create-promise answers with an identifier that works in a path and in a batch.
func TestIdentifierWorksEverywhere(t *testing.T) {
	t.Parallel()
	s := newService(t)
	get := func(identifier string) string {
		got, err := s.handler(t, "get-promise").Invoke(t.Context(), httpEvent(t, "GET", tenant, identifier, "", ""))
		require.NoError(t, err)
		a := decodeResponse(t, got)
		require.Equal(t, 200, a.StatusCode, a.Body)
		return a.Body
	}
	for i, c := range []struct{ key, prefix string }{
		{"stripe:ch_abc123", "key:stripe:ch_abc123"}, {"A-z0.9_~:-", "key:A-z0.9_~:-"}, {"a/b", "key64:YS9i"}, {"q?1", "key64:cT8x"},
		{".", "key64:Lg"}, {"..", "key64:Li4"}, {".a", "key:.a"}, {"a b", "key64:"}, {"ä", "key64:w6Q"}, {"%41", "key64:JTQx"}, {"+", "key64:Kw"},
		{"a/cancel", "key64:"}, {"a\\b", "key64:"}, {"a\nb", "key64:"}, {"a;b", "key64:"}, {"a@b", "key64:"}, {strings.Repeat("\U0001f600", 255), "key64:"},
		{workflowID + ":größe 50% /?", "key64:"},
	} {
		t.Run(caseName(c.key), func(t *testing.T) {
			p := s.answer(t, "create-promise", string(must(json.Marshal(map[string]any{
				"tenant": tenant, "workflowExecutionId": workflowID, "name": fmt.Sprint("n", i), "idempotencyKey": c.key,
			}))))
			id, identifier := p["promiseId"].(string), p["identifier"].(string)
			require.True(t, strings.HasPrefix(identifier, c.prefix), identifier)
			require.NotContains(t, strings.TrimPrefix(identifier, c.prefix), "/")
			require.Contains(t, get(identifier), id, "in a path")
			require.Contains(t, get("key:"+c.key), id, "unencoded, in a decoded path")
			a := s.answer(t, "batch-resolve", `{"tenant":"demo","items":[{"identifier":"`+identifier+`","value":1}]}`)
			result := a["results"].([]any)[0].(map[string]any)
			require.Equal(t, "settled", result["outcome"], "in a batch")
			require.Equal(t, id, result["promiseId"])
			require.Contains(t, s.post(t, "resolve", identifier, "", `{"value":1}`).Body, `"outcome":"duplicate"`)
			require.NotContains(t, s.answer(t, "get-promise", `{"tenant":"demo","promiseId":"`+id+`"}`), "identifier", "only a create answers with it")
		})
	}
	t.Run("without a key", func(t *testing.T) {
		p := s.answer(t, "create-promise", `{"tenant":"demo","workflowExecutionId":"`+workflowID+`","name":"without a key"}`)
		require.Equal(t, "id:"+p["promiseId"].(string), p["identifier"])
	})
	t.Run("an early settlement", func(t *testing.T) {
		held := s.post(t, "reject", "key64:cT8y", "", `{"error":"x","holdSeconds":60}`)
		require.Equal(t, 202, held.StatusCode)
		require.Contains(t, held.Body, `"idempotencyKey":"q?2","identifier":"key64:cT8y"`)
	})
}

// The identifier in an answer never names another promise: a repeated create of a settled promise answers with its id.
func TestIdentifierOfARepeatedCreate(t *testing.T) {
	t.Parallel()
	s := newService(t)
	create := func(name string) map[string]any {
		return s.answer(t, "create-promise", `{"tenant":"demo","workflowExecutionId":"`+workflowID+`","name":"`+name+`","idempotencyKey":"k/1"}`)
	}
	first := create("first")
	require.Equal(t, "key64:ay8x", first["identifier"])
	require.Equal(t, "key64:ay8x", create("first")["identifier"], "the key belongs to the promise while it is pending")
	s.answer(t, "resolve-by-key", `{"tenant":"demo","key":"k/1","value":1}`)
	byID := "id:" + first["promiseId"].(string)
	require.Equal(t, byID, create("first")["identifier"])
	s.db.Exec(t, "UPDATE idempotency_key SET expires_at = NOW()")
	second := create("second")
	require.Equal(t, "key64:ay8x", second["identifier"], "the second promise has taken the key over")
	require.Equal(t, true, second["created"])
	again := create("first")
	require.Equal(t, "k/1", again["idempotencyKey"])
	require.Equal(t, byID, again["identifier"])
}

// A reader can parse every answer with the deepest value that is accepted. The error for a deeper value is the same for every
// depth, for every field and in both forms of call.
func TestDeepValues(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.promise(t)
	nested := func(depth int) string {
		return strings.Repeat(`{"]":[`, depth/2) + `"[[["` + strings.Repeat("]}", depth/2)
	}
	id := "id:" + promiseID
	create := func(field, value string) string {
		return `"workflowExecutionId":"` + workflowID + `","name":"deep","` + field + `":` + value
	}
	before := s.snapshot(t)
	for _, depth := range []int{9_992, 9_994, 9_998, 10_000, 10_002, 20_000, 200_000} {
		for _, c := range []struct{ function, identifier, direct, fields, field string }{
			{"resolve", id, `"promiseId":"` + promiseID + `",`, `"value":` + nested(depth), "value"},
			{"create-promise", "", "", create("onTimeout", `{"resolve":`+nested(depth)+`}`), "onTimeout"},
			{"create-promise", "", "", create("metadata", `{"a":`+nested(depth)+`}`), "metadata"},
			{"cancel-promise", id, `"promiseId":"` + promiseID + `",`, `"reason":` + nested(max(depth, 10_002)), "reason"},
		} {
			t.Run(caseName(c.function, c.field, strconv.Itoa(depth)), func(t *testing.T) {
				p := requireProblem(t, 413, "value_too_large", s.post(t, c.function, c.identifier, "", `{`+c.fields+`}`))
				require.Equal(t, c.field, p["field"])
				_, err := s.direct(t, c.function, `{"tenant":"demo",`+c.direct+c.fields+`}`)
				require.Equal(t, c.field, requireFunctionError(t, "value_too_large", err)["field"])
			})
		}
		t.Run(caseName("batch-resolve", strconv.Itoa(depth)), func(t *testing.T) {
			items := `"items":[{"identifier":"` + id + `","value":` + nested(depth) + `}]}`
			a := s.post(t, "batch-resolve", "", "", "{"+items)
			require.Contains(t, a.Body, `"code":"value_too_large"`)
			got, err := s.direct(t, "batch-resolve", `{"tenant":"demo",`+items)
			require.Contains(t, got+fmt.Sprint(err), "value_too_large")
		})
	}
	for _, depth := range []int{100, 200} { // below the metadata's own object
		t.Run(caseName("create-promise", "metadata", strconv.Itoa(depth)), func(t *testing.T) {
			p := requireProblem(t, 413, "value_too_large", s.post(t, "create-promise", "", "", "{"+create("metadata", `{"a":`+nested(depth)+`}`)+"}"))
			require.Equal(t, "The field may be nested at most 100 levels deep.", p["detail"])
		})
	}
	require.Equal(t, before, s.snapshot(t), "refused calls write nothing")
	require.Equal(t, 200, s.post(t, "resolve", id, "", `{"value":`+nested(9_990)+`}`).StatusCode)
	require.Equal(t, 201, s.post(t, "create-promise", "", "", "{"+create("onTimeout", `{"resolve":`+nested(9_990)+`}`)+"}").StatusCode)
	for function, identifier := range map[string]string{"get-promise": id, "list-promises": "", "list-events": workflowID} {
		t.Run(function+" answers with the deepest value", func(t *testing.T) {
			got := s.post(t, function, identifier, "", "")
			require.Equal(t, 200, got.StatusCode)
			require.Contains(t, got.Body, nested(9_990))
			require.True(t, json.Valid([]byte(got.Body)))
		})
	}
}

// Every spelling of a time or a number reaches the database as the same value.
func TestTimesAndNumbersInCalls(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.promise(t)
	for _, c := range []struct{ fields, want string }{
		{`"timeoutAt":"2031-06-19t08:30:06.283185z"`, "2031-06-19T08:30:06.283185Z"},
		{`"timeoutAt":"2030-12-31T15:59:60-08:00"`, "2031-01-01T00:00:00Z"},
	} {
		t.Run(c.fields, func(t *testing.T) {
			require.Equal(t, c.want, s.answer(t, "extend-promise", payloadByID+`,`+c.fields+`}`)["timeoutAt"])
		})
	}
	for _, ms := range []string{"6e7", "60000000.0", "6.0E+7", "600000000e-1"} {
		t.Run(`"timeoutMs":`+ms, func(t *testing.T) {
			p := s.answer(t, "extend-promise", payloadByID+`,"timeoutMs":`+ms+`}`)
			at, err := time.Parse(time.RFC3339, p["timeoutAt"].(string))
			require.NoError(t, err)
			require.WithinDuration(t, time.Now().Add(60_000*time.Second), at, 10_000*time.Second)
		})
	}
	for query, code := range map[string]string{
		"limit=1e1": "", "limit=10.0": "", "state=pending&timeoutBefore=2031-01-01t00:00:00z": "", "state=pending&timeoutBefore=2016-12-31T23:59:60Z": "",
		"limit=1e400": "out_of_range", "limit=1.5": "invalid_parameter", "limit=1e": "invalid_parameter",
	} {
		t.Run(caseName(query, code), func(t *testing.T) {
			a := respond(t, s.handler(t, "list-promises"), httpEvent(t, "GET", tenant, "", query, ""))
			if code == "" {
				require.Equal(t, 200, a.StatusCode)
			} else {
				requireProblem(t, 400, code, a)
			}
		})
	}
}

func must(text []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return text
}
