package gateway_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/promise"
)

// send calls a function with any bytes as the body, in base64 as API Gateway sends a body that is no text. headers replace the sample event's.
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

// utf16Bytes returns a text in UTF-16, little endian.
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
		t.Run(fmt.Sprintf("%q is answered with %d", contentType, status), func(t *testing.T) {
			a := s.send(t, "resolve", "id:"+promiseID, []byte(`{"value":1}`), map[string]string{"content-type": contentType})
			require.Equal(t, status, a.StatusCode)
		})
	}
	t.Run("a call without a Content-Type is accepted", func(t *testing.T) {
		got, err := s.handler(t, "resolve").Invoke(t.Context(),
			bytes.Replace(httpEvent(t, "POST", tenant, "id:"+promiseID, "", `{"value":1}`), []byte(`"content-type":"application/json"`), nil, 1))
		require.NoError(t, err)
		require.Equal(t, 200, decodeResponse(t, got).StatusCode)
	})
}

// The encoding of a body is UTF-8, with or without a byte order mark, plain or compressed with gzip.
func TestEncodings(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.promise(t)
	before := s.snapshot(t)
	id := "id:" + promiseID
	for name, body := range map[string][]byte{
		"UTF-16 with a byte order mark":    append([]byte{0xff, 0xfe}, utf16Bytes(`{"value":1}`)...),
		"big-endian UTF-16":                {0xfe, 0xff, 0, '{', 0, '}'},
		"UTF-16 without a byte order mark": utf16Bytes(`{"value":1}`),
		"UTF-32":                           {'{', 0, 0, 0, '}', 0, 0, 0},
		"big-endian UTF-32":                {0, 0, 0, '{', 0, 0, 0, '}'},
	} {
		t.Run("refuses "+name, func(t *testing.T) {
			p := requireProblem(t, 400, "invalid_utf8", s.send(t, "resolve", id, body, nil))
			require.Contains(t, p["detail"], "must be UTF-8. It looks like UTF-16")
		})
	}
	t.Run("names the byte that is not UTF-8", func(t *testing.T) {
		p := requireProblem(t, 400, "invalid_utf8", s.send(t, "resolve", id, []byte("\ufeff{\"value\":\"ä\xff\"}"), nil))
		require.Contains(t, p["detail"], "at byte 15.")
	})

	for _, encoding := range []string{"br", "deflate", "zstd", "gzip, br"} {
		t.Run("refuses Content-Encoding "+encoding, func(t *testing.T) {
			p := requireProblem(t, 415, "unsupported_media_type", s.send(t, "resolve", id, []byte{0x0b, 1, 2}, map[string]string{"content-encoding": encoding}))
			require.Contains(t, p["detail"], "compressed")
		})
	}
	whole := gzipped(t, `{"value":1}`)
	for name, body := range map[string][]byte{
		"cut off in its header":       whole[:5],
		"without its last byte":       whole[:len(whole)-1],
		"followed by another byte":    append(bytes.Clone(whole), 'x'),
		"that ends after three bytes": {0x1f, 0x8b, 0xff},
	} {
		t.Run("refuses gzip "+name, func(t *testing.T) {
			p := requireProblem(t, 400, "malformed_json", s.send(t, "resolve", id, body, map[string]string{"content-encoding": "gzip"}))
			require.Contains(t, p["detail"], "compressed")
		})
	}
	t.Run("refuses gzip with a wrong checksum", func(t *testing.T) {
		damaged := bytes.Clone(whole)
		damaged[len(damaged)-5]++ // the checksum's last byte
		requireProblem(t, 400, "malformed_json", s.send(t, "resolve", id, damaged, nil))
	})
	t.Run("counts the bytes of a syntax error after decompression", func(t *testing.T) {
		p := requireProblem(t, 400, "malformed_json", s.send(t, "resolve", id, gzipped(t, `{"value":}`), nil))
		require.Contains(t, p["detail"], "unexpected } at byte 9.")
	})
	t.Run("a refused body changes nothing", func(t *testing.T) {
		require.Equal(t, before, s.snapshot(t))
	})

	outcome := "settled" // of the first body that is accepted; each later one has the same value
	for name, c := range map[string]struct {
		body    []byte
		headers map[string]string
	}{
		"a byte order mark":               {[]byte("\ufeff{\"value\":[1]}"), nil},
		"gzip":                            {gzipped(t, `{"value":[1]}`), map[string]string{"content-encoding": "gzip"}},
		"gzip that no header declares":    {gzipped(t, `{"value":[1]}`), nil},
		"gzip of a byte order mark":       {gzipped(t, "\ufeff{\"value\":[1]}"), map[string]string{"content-encoding": "GZIP"}},
		"a plain body declared as gzip":   {[]byte(`{"value":[1]}`), map[string]string{"content-encoding": "gzip"}},
		"Content-Encoding identity":       {[]byte(`{"value":[1]}`), map[string]string{"content-encoding": "identity"}},
		"gzip that consists of two parts": {append(gzipped(t, `{"value":`), gzipped(t, `[1]}`)...), nil},
	} {
		t.Run("accepts "+name, func(t *testing.T) {
			want := outcome
			outcome = "duplicate"
			a := s.send(t, "resolve", id, c.body, c.headers)
			require.Equal(t, 200, a.StatusCode)
			require.Contains(t, a.Body, `"outcome":"`+want+`"`)
		})
	}
	t.Run("accepts a byte order mark in a direct invoke", func(t *testing.T) {
		got, err := s.direct(t, "resolve", "\ufeff"+payloadByID+`,"value":[1]}`)
		require.NoError(t, err)
		require.Contains(t, got, `"outcome":"duplicate"`)
	})
}

// A compressed body is read up to the limit of a plain one. The test is not parallel: it measures allocations, and other tests allocate too.
func TestDecompressionStopsAtTheLimit(t *testing.T) {
	s := newService(t)
	s.promise(t)
	t.Run("a body that decompresses to gigabytes allocates less than a tenth of that", func(t *testing.T) {
		bomb := bytes.Repeat(gzipped(t, strings.Repeat(" ", 1<<25)), 64) // 2 GiB of spaces, which JSON allows
		require.Less(t, len(bomb), 1<<22)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		a := s.send(t, "resolve", "id:"+promiseID, bomb, map[string]string{"content-encoding": "gzip"})
		runtime.ReadMemStats(&after)
		p := requireProblem(t, 413, "value_too_large", a)
		require.Contains(t, p["detail"], "compressed")
		require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(200<<20))
	})
	t.Run("a caller without a credential is refused before its body is read", func(t *testing.T) {
		got, err := s.handler(t, "resolve").Invoke(t.Context(), withAuthorizer(t, httpEvent(t, "POST", tenant, "id:"+promiseID, "", string(gzipped(t, "{"))), nil))
		require.NoError(t, err)
		requireProblem(t, 401, "unauthenticated", decodeResponse(t, got))
	})
	largest := `{"value":1` + strings.Repeat(" ", 6<<20-len(`{"value":1}`)) + `}`
	t.Run("a body that decompresses to 6 MiB is accepted", func(t *testing.T) {
		require.Equal(t, 200, s.send(t, "resolve", "id:"+promiseID, gzipped(t, largest), nil).StatusCode)
	})
	t.Run("a body that decompresses to 6 MiB and a byte is refused", func(t *testing.T) {
		requireProblem(t, 413, "value_too_large", s.send(t, "resolve", "id:"+promiseID, gzipped(t, largest+" "), nil))
	})
}

// The error names the kind of the character that is not JSON, and its byte. It quotes no text of the call, which may be a secret.
func TestMalformedSaysWhere(t *testing.T) {
	t.Parallel()
	s := withoutDatabase()
	for _, c := range []struct{ name, code, body, detail string }{
		{"empty", "malformed_json", ``,
			"The JSON is missing. Send an object."},
		{"only space", "malformed_json", " \n",
			"The JSON is missing. Send an object."},
		{"cut off before a value", "malformed_json", `{"value":`,
			"The text must be JSON: it ends too early, at byte 9."},
		{"cut off in a string", "malformed_json", `{"value":"planted-secret`,
			"The text must be JSON: it ends too early, at byte 24."},
		{"a comma before the end", "malformed_json", `{"value":1,}`,
			"The text must be JSON: unexpected } at byte 11."},
		{"a word without quotation marks", "malformed_json", `{"value":planted-secret}`,
			"The text must be JSON: unexpected letter at byte 9."},
		{"single quotation marks", "malformed_json", `{"value":'planted-secret'}`,
			"The text must be JSON: unexpected single quotation mark at byte 9."},
		{"a leading zero", "malformed_json", `{"value":01}`,
			"The text must be JSON: unexpected digit at byte 10."},
		{"no colon", "malformed_json", `{"value" "planted-secret"}`,
			"The text must be JSON: unexpected quotation mark at byte 9."},
		{"a line break in a string", "malformed_json", "{\"value\":\"\n\"}",
			"The text must be JSON: unexpected control character at byte 10."},
		{"a second value", "trailing_data", `{"value":1} "planted-secret"`,
			"The JSON must end where its value ends: unexpected quotation mark at byte 12."},
		{"a second byte order mark", "malformed_json", "\ufeff\ufeff{}",
			"The text must be JSON: unexpected byte order mark at byte 3."},
		{"a letter outside ASCII", "malformed_json", "\ufeff{\"value\":ä}",
			"The text must be JSON: unexpected character outside ASCII at byte 12."},
		{"a plus sign", "malformed_json", `{"value":+1}`,
			"The text must be JSON: unexpected character at byte 9."},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := s.post(t, "resolve", "id:"+promiseID, "", c.body)
			require.Equal(t, c.detail, requireProblem(t, 400, c.code, a)["detail"])
			require.NotContains(t, a.Body, "planted")
		})
	}
	t.Run("a direct invoke", func(t *testing.T) {
		_, err := s.direct(t, "resolve", payloadByID+`,"value":}`)
		require.Contains(t, requireFunctionError(t, "malformed_json", err)["detail"], "unexpected } at byte ")
	})
}

func TestUnknownNamesWhatThereIs(t *testing.T) {
	t.Parallel()
	s := withoutDatabase()
	for _, c := range []struct{ name, function, identifier, body, fields string }{
		{"resolve", "resolve", "id:" + promiseID, `{"status":"paid"}`, "value, comment, holdSeconds"},
		{"cancel-promise", "cancel-promise", "id:" + promiseID, `{"error":"x"}`, "reason, comment"},
		{"onTimeout", "create-promise", "", `{"workflowExecutionId":"` + workflowID + `","name":"n","onTimeout":{"cancel":1}}`, "resolve, reject"},
		{"tokens", "create-promise", "", `{"workflowExecutionId":"` + workflowID + `","name":"n","tokens":{"verb":"resolve"}}`, "verbs, ttlSeconds"},
	} {
		t.Run("the error for an unknown field lists the fields of "+c.name, func(t *testing.T) {
			p := requireProblem(t, 400, "unknown_field", s.post(t, c.function, c.identifier, "", c.body))
			require.Contains(t, p["detail"], "The fields are: "+c.fields)
		})
	}
	t.Run("a direct invoke gets the fields of the direct form", func(t *testing.T) {
		_, err := s.direct(t, "get-promise", `{"tenant":"demo","id":"`+promiseID+`"}`)
		require.Contains(t, requireFunctionError(t, "unknown_field", err)["detail"], "The fields are: tenant, promiseId, key.")
	})
	t.Run("the error for an unknown parameter lists the parameters", func(t *testing.T) {
		p := requireProblem(t, 400, "invalid_parameter", s.post(t, "resolve", "id:"+promiseID, "Strict=true", `{"value":1}`))
		require.Contains(t, p["detail"], "The parameters are: strict.")
	})
	t.Run("the error for a parameter says that the operation has none", func(t *testing.T) {
		p := requireProblem(t, 400, "invalid_parameter", s.post(t, "extend-promise", "id:"+promiseID, "timeoutMs=1", `{"timeoutMs":1}`))
		require.Contains(t, p["detail"], "This call takes none.")
	})
}

// API Gateway caches the authorizer's answer for some seconds. An API key may expire in that time, and the operation then refuses it.
func TestErrorSaysWhenTheCredentialExpired(t *testing.T) {
	t.Parallel()
	s := withoutDatabase()
	p := keyHolder(tenant, promise.ScopeSettle)
	p.ExpiresAt = time.Now().Add(-time.Second)
	got, err := s.handler(t, "resolve").Invoke(t.Context(), withAuthorizer(t, httpEvent(t, "POST", tenant, "id:"+promiseID, "", `{"value":1}`), p.Texts()))
	require.NoError(t, err)
	require.Contains(t, requireProblem(t, 401, "unauthenticated", decodeResponse(t, got))["detail"],
		"expired at "+p.ExpiresAt.UTC().Format(time.RFC3339))
}

// create-promise answers with an identifier that every operation accepts, in a path and in a body, for every idempotency key.
func TestIdentifierWorksEverywhere(t *testing.T) {
	t.Parallel()
	s := newService(t)
	get := func(t *testing.T, identifier string) string {
		got, err := s.handler(t, "get-promise").Invoke(t.Context(), httpEvent(t, "GET", tenant, identifier, "", ""))
		require.NoError(t, err)
		a := decodeResponse(t, got)
		require.Equal(t, 200, a.StatusCode, a.Body)
		return a.Body
	}
	for _, c := range []struct{ name, key, prefix string }{
		{"letters and an underscore", "stripe:ch_abc123", "key:stripe:ch_abc123"},
		{"each kind of character that a path carries", "A-z0.9_~:-", "key:A-z0.9_~:-"},
		{"a slash", "a/b", "key64:YS9i"},
		{"a question mark", "q?1", "key64:cT8x"},
		{"one dot", ".", "key64:Lg"},
		{"two dots", "..", "key64:Li4"},
		{"a dot and a letter", ".a", "key:.a"},
		{"a space", "a b", "key64:"},
		{"a letter outside ASCII", "ä", "key64:w6Q"},
		{"a percent sign", "%41", "key64:JTQx"},
		{"a plus sign", "+", "key64:Kw"},
		{"the name of an operation in a path", "a/cancel", "key64:"},
		{"a backslash", "a\\b", "key64:"},
		{"a line break", "a\nb", "key64:"},
		{"a semicolon", "a;b", "key64:"},
		{"an at sign", "a@b", "key64:"},
		{"255 characters of four bytes", strings.Repeat("\U0001f600", 255), "key64:"},
		{"a UUID and a text", workflowID + ":größe 50% /?", "key64:"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := s.answer(t, "create-promise", string(must(json.Marshal(map[string]any{
				"tenant": tenant, "workflowExecutionId": workflowID, "name": c.name, "idempotencyKey": c.key,
			}))))
			id, identifier := p["promiseId"].(string), p["identifier"].(string)
			t.Run("is encoded only if a path cannot carry it", func(t *testing.T) {
				require.True(t, strings.HasPrefix(identifier, c.prefix), "%q: %s", c.key, identifier)
				require.NotContains(t, strings.TrimPrefix(identifier, c.prefix), "/")
			})
			t.Run("is found by its identifier in a path", func(t *testing.T) {
				require.Contains(t, get(t, identifier), id)
			})
			t.Run("is found by its plain key, if a decoded path carries it", func(t *testing.T) {
				require.Contains(t, get(t, "key:"+c.key), id)
			})
			t.Run("is settled in a batch, and a repeat in a path is a duplicate", func(t *testing.T) {
				a := s.answer(t, "batch-resolve", `{"tenant":"demo","items":[{"identifier":"`+identifier+`","value":1}]}`)
				result := a["results"].([]any)[0].(map[string]any)
				require.Equal(t, "settled", result["outcome"])
				require.Equal(t, id, result["promiseId"])
				require.Contains(t, s.post(t, "resolve", identifier, "", `{"value":1}`).Body, `"outcome":"duplicate"`)
			})
			t.Run("get-promise returns no identifier", func(t *testing.T) {
				require.NotContains(t, s.answer(t, "get-promise", `{"tenant":"demo","promiseId":"`+id+`"}`), "identifier")
			})
		})
	}
	t.Run("a promise without a key has the identifier of its id", func(t *testing.T) {
		p := s.answer(t, "create-promise", `{"tenant":"demo","workflowExecutionId":"`+workflowID+`","name":"without a key"}`)
		require.Equal(t, "id:"+p["promiseId"].(string), p["identifier"])
	})
	t.Run("an early settlement has the identifier of its key", func(t *testing.T) {
		held := s.post(t, "reject", "key64:cT8y", "", `{"error":"x","holdSeconds":60}`)
		require.Equal(t, 202, held.StatusCode)
		require.Contains(t, held.Body, `"idempotencyKey":"q?2","identifier":"key64:cT8y"`)
	})
}

// A repeated create of a settled promise returns the promise's id as its identifier: its key may name another promise by then.
func TestIdentifierOfARepeatedCreate(t *testing.T) {
	t.Parallel()
	s := newService(t)
	create := func(t *testing.T, name string) map[string]any {
		return s.answer(t, "create-promise", `{"tenant":"demo","workflowExecutionId":"`+workflowID+`","name":"`+name+`","idempotencyKey":"k/1"}`)
	}
	first := create(t, "first")
	byID := "id:" + first["promiseId"].(string)
	t.Run("a new promise has the identifier of its key", func(t *testing.T) {
		require.Equal(t, "key64:ay8x", first["identifier"])
	})
	t.Run("a pending promise has the identifier of its key", func(t *testing.T) {
		require.Equal(t, "key64:ay8x", create(t, "first")["identifier"])
	})
	s.answer(t, "resolve-by-key", `{"tenant":"demo","key":"k/1","value":1}`)
	t.Run("a settled promise has the identifier of its id", func(t *testing.T) {
		require.Equal(t, byID, create(t, "first")["identifier"])
	})
	s.db.Exec(t, "UPDATE idempotency_key SET expires_at = NOW()")
	second := create(t, "second")
	t.Run("a new promise that takes over an expired key has the identifier of the key", func(t *testing.T) {
		require.Equal(t, "key64:ay8x", second["identifier"])
		require.Equal(t, true, second["created"])
	})
	t.Run("the first promise still shows its key, and has the identifier of its id", func(t *testing.T) {
		again := create(t, "first")
		require.Equal(t, "k/1", again["idempotencyKey"])
		require.Equal(t, byID, again["identifier"])
	})
}

// Each operation that returns a value can return every value that a call may send: a value that cannot be encoded would fail the whole page.
// A value that is nested deeper is refused with one code, for every depth, every field and both forms of call.
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
			t.Run(fmt.Sprintf("%s %d deep is refused by HTTP", c.field, depth), func(t *testing.T) {
				p := requireProblem(t, 413, "value_too_large", s.post(t, c.function, c.identifier, "", `{`+c.fields+`}`))
				require.Equal(t, c.field, p["field"])
			})
			t.Run(fmt.Sprintf("%s %d deep is refused in a direct invoke", c.field, depth), func(t *testing.T) {
				_, err := s.direct(t, c.function, `{"tenant":"demo",`+c.direct+c.fields+`}`)
				require.Equal(t, c.field, requireFunctionError(t, "value_too_large", err)["field"])
			})
		}
		items := `"items":[{"identifier":"` + id + `","value":` + nested(depth) + `}]}`
		t.Run(fmt.Sprintf("a batch's value %d deep is refused by HTTP", depth), func(t *testing.T) {
			require.Contains(t, s.post(t, "batch-resolve", "", "", "{"+items).Body, `"code":"value_too_large"`)
		})
		t.Run(fmt.Sprintf("a batch's value %d deep is refused in a direct invoke", depth), func(t *testing.T) {
			got, err := s.direct(t, "batch-resolve", `{"tenant":"demo",`+items)
			require.Contains(t, got+fmt.Sprint(err), "value_too_large")
		})
	}
	for _, depth := range []int{100, 200} { // the metadata's own object is one more
		t.Run(fmt.Sprintf("metadata %d deep is refused", depth), func(t *testing.T) {
			p := requireProblem(t, 413, "value_too_large", s.post(t, "create-promise", "", "", "{"+create("metadata", `{"a":`+nested(depth)+`}`)+"}"))
			require.Equal(t, "The field may be nested at most 100 levels deep.", p["detail"])
		})
	}
	t.Run("a refused value changes nothing", func(t *testing.T) {
		require.Equal(t, before, s.snapshot(t))
	})
	require.Equal(t, 200, s.post(t, "resolve", id, "", `{"value":`+nested(9_990)+`}`).StatusCode)
	require.Equal(t, 201, s.post(t, "create-promise", "", "", "{"+create("onTimeout", `{"resolve":`+nested(9_990)+`}`)+"}").StatusCode)
	for function, identifier := range map[string]string{"get-promise": id, "list-promises": "", "list-events": workflowID} {
		t.Run(function+" returns a value 9990 deep", func(t *testing.T) {
			got := s.post(t, function, identifier, "", "")
			require.Equal(t, 200, got.StatusCode)
			require.Contains(t, got.Body, nested(9_990))
			require.True(t, json.Valid([]byte(got.Body)))
		})
	}
}

// Each notation of a time or a number reaches the database as the same value.
func TestTimesAndNumbersInCalls(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.promise(t)
	for name, c := range map[string]struct{ fields, want string }{
		"lower-case t and z": {`"timeoutAt":"2031-06-19t08:30:06.283185z"`, "2031-06-19T08:30:06.283185Z"},
		"a leap second":      {`"timeoutAt":"2030-12-31T15:59:60-08:00"`, "2031-01-01T00:00:00Z"},
	} {
		t.Run("timeoutAt with "+name, func(t *testing.T) {
			require.Equal(t, c.want, s.answer(t, "extend-promise", payloadByID+`,`+c.fields+`}`)["timeoutAt"])
		})
	}
	for _, ms := range []string{"6e7", "60000000.0", "6.0E+7", "600000000e-1"} {
		t.Run("timeoutMs "+ms+" is 60000 seconds", func(t *testing.T) {
			p := s.answer(t, "extend-promise", payloadByID+`,"timeoutMs":`+ms+`}`)
			at, err := time.Parse(time.RFC3339, p["timeoutAt"].(string))
			require.NoError(t, err)
			require.WithinDuration(t, time.Now().Add(60_000*time.Second), at, 10_000*time.Second)
		})
	}
	list := func(t *testing.T, query string) response {
		got, err := s.handler(t, "list-promises").Invoke(t.Context(), httpEvent(t, "GET", tenant, "", query, ""))
		require.NoError(t, err)
		return decodeResponse(t, got)
	}
	for _, query := range []string{
		"limit=1e1", "limit=10.0", "state=pending&timeoutBefore=2031-01-01t00:00:00z", "state=pending&timeoutBefore=2016-12-31T23:59:60Z",
	} {
		t.Run("list-promises accepts "+query, func(t *testing.T) {
			require.Equal(t, 200, list(t, query).StatusCode)
		})
	}
	for query, code := range map[string]string{"limit=1e400": "out_of_range", "limit=1.5": "invalid_parameter", "limit=1e": "invalid_parameter"} {
		t.Run("list-promises refuses "+query, func(t *testing.T) {
			requireProblem(t, 400, code, list(t, query))
		})
	}
}

func must(text []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return text
}
