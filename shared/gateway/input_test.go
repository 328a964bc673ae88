package gateway_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/config"
	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/repository"
)

func TestBadBodies(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.promise(t)
	before := s.snapshot(t)
	const id = "id:" + promiseID
	long := strings.Repeat("ä", 256)
	create := func(fields string) string {
		return `{"workflowExecutionId":"` + workflowID + `","name":"n"` + fields + `}`
	}
	for _, c := range []struct {
		function, body, code, field string
	}{
		{"resolve", ``, "malformed_json", ""},
		{"resolve", `   `, "malformed_json", ""},
		{"resolve", `value=1`, "malformed_json", ""},
		{"resolve", `{"value":1`, "malformed_json", ""},
		{"resolve", `{"value":1,}`, "malformed_json", ""},
		{"resolve", `{"value" 1}`, "malformed_json", ""},
		{"resolve", `{"value":01}`, "malformed_json", ""},
		{"resolve", `{"value":NaN}`, "malformed_json", ""},
		{"resolve", `{value:1}`, "malformed_json", ""},
		{"resolve", `{"value":'1'}`, "malformed_json", ""},
		{"resolve", "\ufeff\ufeff" + `{"value":1}`, "malformed_json", ""},
		{"resolve", `{"value":1}{"value":1}`, "trailing_data", ""},
		{"resolve", `{"value":1} x`, "trailing_data", ""},
		{"resolve", `{"value":1}]`, "trailing_data", ""},
		{"resolve", `[1]`, "wrong_type", ""},
		{"resolve", `null`, "wrong_type", ""},
		{"resolve", `"value"`, "wrong_type", ""},
		{"resolve", `{}`, "missing_field", "value"},
		{"resolve", `{"data":1}`, "unknown_field", "data"},
		{"resolve", `{"Value":1}`, "unknown_field", "Value"},
		{"resolve", `{"value":1,"tenant":"demo"}`, "unknown_field", "tenant"},
		{"resolve", `{"value":1,"value":1}`, "duplicate_field", "value"},
		{"resolve", `{"value":1,"\u0076alue":2}`, "duplicate_field", "value"},
		{"reject", `{"error":null}`, "wrong_type", "error"},
		{"reject", `{"error":1}`, "wrong_type", "error"},
		{"reject", `{"error":"a\u0000b"}`, "nul_character", "error"},
		{"reject", `{"error":"\ud800"}`, "invalid_utf8", "error"},
		{"reject", `{"error":"\ud800\u0041"}`, "invalid_utf8", "error"},
		{"reject", `{"error":"\udc00\ud800"}`, "invalid_utf8", "error"},
		{"reject", `{"value":1}`, "unknown_field", "value"},
		{"create-promise", `{"name":"n"}`, "missing_field", "workflowExecutionId"},
		{"create-promise", `{"workflowExecutionId":"` + workflowID + `"}`, "missing_field", "name"},
		{"create-promise", create(`,"name":"m"`), "duplicate_field", "name"},
		{"create-promise", `{"workflowExecutionId":"` + workflowID + `","name":""}`, "invalid_name", ""},
		{"create-promise", `{"workflowExecutionId":"` + workflowID + `","name":"` + long + `"}`, "invalid_name", ""},
		{"create-promise", `{"workflowExecutionId":"` + workflowID + `","name":"a\u0000"}`, "nul_character", "name"},
		{"create-promise", `{"workflowExecutionId":"` + workflowID + `","name":7}`, "wrong_type", "name"},
		{"create-promise", `{"workflowExecutionId":"urn:uuid:` + workflowID + `","name":"n"}`, "invalid_uuid", ""},
		{"create-promise", `{"workflowExecutionId":"{` + workflowID + `}","name":"n"}`, "invalid_uuid", ""},
		{"create-promise", `{"workflowExecutionId":"","name":"n"}`, "invalid_uuid", ""},
		{"create-promise", create(`,"idempotencyKey":""`), "invalid_key", ""},
		{"create-promise", create(`,"idempotencyKey":"` + long + `"`), "invalid_key", ""},
		{"create-promise", create(`,"idempotencyKey":null`), "wrong_type", "idempotencyKey"},
		{"create-promise", create(`,"idempotencyKey":"\u0000"`), "nul_character", "idempotencyKey"},
		{"create-promise", create(`,"idempotencyKeyTtlSeconds":60`), "missing_field", "idempotencyKey"},
		{"create-promise", create(`,"idempotencyKey":"k","idempotencyKeyTtlSeconds":0`), "out_of_range", "idempotencyKeyTtlSeconds"},
		{"create-promise", create(`,"idempotencyKey":"k","idempotencyKeyTtlSeconds":1e-3`), "wrong_type", "idempotencyKeyTtlSeconds"},
		{"create-promise", create(`,"idempotencyKey":"k","idempotencyKeyTtlSeconds":1e9`), "out_of_range", "idempotencyKeyTtlSeconds"},
		{"create-promise", create(`,"timeoutMs":1e400`), "out_of_range", "timeoutMs"},
		{"create-promise", create(`,"timeoutMs":0.5`), "wrong_type", "timeoutMs"},
		{"create-promise", create(`,"timeoutAt":"2030-01-01t00:00:60z"`), "wrong_type", "timeoutAt"},
		{"create-promise", create(`,"timeoutAt":"2030-12-31T23:60:00Z"`), "wrong_type", "timeoutAt"},
		{"resolve by key", `{"value":1,"holdSeconds":604800.5}`, "wrong_type", "holdSeconds"},
		{"extend-promise", `{"timeoutMs":3155328000001e-1}`, "wrong_type", "timeoutMs"},
		{"create-promise", create(`,"timeoutMs":-1`), "out_of_range", "timeoutMs"},
		{"create-promise", create(`,"timeoutMs":315532800001`), "out_of_range", "timeoutMs"},
		{"create-promise", create(`,"timeoutMs":99999999999999999999`), "out_of_range", "timeoutMs"},
		{"create-promise", create(`,"timeoutMs":1.5`), "wrong_type", "timeoutMs"},
		{"create-promise", create(`,"timeoutMs":"1000"`), "wrong_type", "timeoutMs"},
		{"create-promise", create(`,"timeoutMs":1,"timeoutAt":"2030-01-01T00:00:00Z"`), "duplicate_field", "timeoutAt"},
		{"create-promise", create(`,"timeoutAt":"tomorrow"`), "wrong_type", "timeoutAt"},
		{"create-promise", create(`,"timeoutAt":"2030-01-01T00:00:00"`), "wrong_type", "timeoutAt"},
		{"create-promise", create(`,"timeoutAt":"2030-1-01T00:00:00Z"`), "wrong_type", "timeoutAt"},
		{"create-promise", create(`,"timeoutAt":"2030-01-01T00:00:00,5Z"`), "wrong_type", "timeoutAt"},
		{"create-promise", create(`,"timeoutAt":"2030-01-01T1:00:00Z"`), "wrong_type", "timeoutAt"},
		{"create-promise", create(`,"timeoutAt":"2030-01-01T00:00:00+24:00"`), "wrong_type", "timeoutAt"},
		{"create-promise", create(`,"timeoutAt":"2030-01-01T00:00:00+23:60"`), "wrong_type", "timeoutAt"},
		{"create-promise", create(`,"timeoutAt":"2030-02-30T00:00:00Z"`), "wrong_type", "timeoutAt"},
		{"create-promise", create(`,"timeoutAt":"9999-01-01T00:00:00Z"`), "out_of_range", "timeoutAt"},
		{"create-promise", create(`,"timeoutAt":"0000-01-01T00:00:00+23:59"`), "out_of_range", "timeoutAt"},
		{"create-promise", create(`,"metadata":{"a":[{"b":1,"\u0062":2}]}`), "duplicate_field", "metadata"},
		{"create-promise", create(`,"idempotencyKey":"a\ufffd"`), "invalid_utf8", "idempotencyKey"},
		{"create-promise", create(`,"metadata":[]`), "wrong_type", "metadata"},
		{"create-promise", create(`,"metadata":null`), "wrong_type", "metadata"},
		{"create-promise", create(`,"metadata":{"a":"\u0000"}`), "nul_character", "metadata"},
		{"create-promise", create(`,"metadata":{"\udead":1}`), "invalid_utf8", "metadata"},
		{"create-promise", create(`,"metadata":{"a":1e301}`), "invalid_metadata", "metadata"},
		{"create-promise", create(`,"metadata":{"a":1e-99999999999999999999}`), "invalid_metadata", "metadata"},
		{"create-promise", create(`,"metadata":{"a":` + strings.Repeat("9", 301) + `}`), "invalid_metadata", "metadata"},
		{"create-promise", create(`,"onTimeout":null`), "wrong_type", "onTimeout"},
		{"create-promise", create(`,"onTimeout":"resolve"`), "wrong_type", "onTimeout"},
		{"create-promise", create(`,"onTimeout":{}`), "missing_field", "onTimeout"},
		{"create-promise", create(`,"onTimeout":{"resolve":1,"reject":"x"}`), "duplicate_field", "onTimeout"},
		{"create-promise", create(`,"onTimeout":{"resolve":1,"resolve":1}`), "duplicate_field", "onTimeout.resolve"},
		{"create-promise", create(`,"onTimeout":{"cancel":1}`), "unknown_field", "onTimeout.cancel"},
		{"create-promise", create(`,"onTimeout":{"reject":null}`), "wrong_type", "onTimeout.reject"},
		{"create-promise", create(`,"onTimeout":{"reject":"\u0000"}`), "nul_character", "onTimeout.reject"},
		{"resolve", `{"value":1,"comment":null}`, "wrong_type", "comment"},
		{"resolve", `{"value":1,"comment":""}`, "out_of_range", "comment"},
		{"resolve", `{"value":1,"comment":"` + strings.Repeat("ä", 1001) + `"}`, "out_of_range", "comment"},
		{"resolve", `{"value":1,"comment":"\u0000"}`, "nul_character", "comment"},
		{"resolve", `{"value":1,"holdSeconds":60}`, "unknown_field", "holdSeconds"},
		{"resolve by key", `{"value":1,"holdSeconds":0}`, "out_of_range", "holdSeconds"},
		{"resolve by key", `{"value":1,"holdSeconds":604801}`, "out_of_range", "holdSeconds"},
		{"resolve by key", `{"value":1,"holdSeconds":"60"}`, "wrong_type", "holdSeconds"},
		{"reject", `{"error":"x","comment":7}`, "wrong_type", "comment"},
		{"cancel-promise", `{"reason":null}`, "wrong_type", "reason"},
		{"cancel-promise", `{"reason":"` + strings.Repeat("ä", 1001) + `"}`, "out_of_range", "reason"},
		{"cancel-promise", `{"error":"x"}`, "unknown_field", "error"},
		{"cancel-promise", `null`, "wrong_type", ""},
		{"cancel-promise", ` `, "malformed_json", ""},
		{"extend-promise", `{}`, "missing_field", "timeoutMs"},
		{"extend-promise", ``, "malformed_json", ""},
		{"extend-promise", `{"timeoutMs":null}`, "wrong_type", "timeoutMs"},
		{"extend-promise", `{"timeoutMs":-1}`, "out_of_range", "timeoutMs"},
		{"extend-promise", `{"timeoutMs":315532800001}`, "out_of_range", "timeoutMs"},
		{"extend-promise", `{"timeoutAt":"9999-01-01T00:00:00Z"}`, "out_of_range", "timeoutAt"},
		{"extend-promise", `{"timeoutMs":1,"timeoutAt":"2030-01-01T00:00:00Z"}`, "duplicate_field", "timeoutAt"},
		{"extend-promise", `{"timeout":1}`, "unknown_field", "timeout"},
		{"batch-resolve", `{}`, "missing_field", "items"},
		{"batch-resolve", `{"items":null}`, "wrong_type", "items"},
		{"batch-resolve", `{"items":[]}`, "out_of_range", "items"},
		{"batch-resolve", `{"items":[` + strings.Repeat("1,", 100) + `1]}`, "out_of_range", "items"},
		{"batch-resolve", `{"items":[1,]}`, "malformed_json", ""},
	} {
		t.Run(caseName(c.function, strings.ReplaceAll(c.body, workflowID, "UUID"), c.code), func(t *testing.T) {
			identifier := id
			switch c.function {
			case "resolve by key":
				c.function, identifier = "resolve", "key:"+idempotencyKey
			case "batch-resolve", "create-promise":
				identifier = ""
			}
			a := s.post(t, c.function, identifier, "", c.body)
			p := requireProblem(t, 400, c.code, a)
			if c.field != "" {
				require.Equal(t, c.field, p["field"])
			}

			e := httpEvent(t, "POST", tenant, identifier, "", "")
			e = bytes.Replace(e, []byte(`"body":""`), []byte(`"body":"`+base64.StdEncoding.EncodeToString([]byte(c.body))+`"`), 1)
			e = bytes.Replace(e, []byte(`"isBase64Encoded":false`), []byte(`"isBase64Encoded":true`), 1)
			require.Equal(t, a, respond(t, s.handler(t, c.function), e), "the same body in base64 has the same answer")
		})
	}
	require.Equal(t, before, s.snapshot(t), "refused calls write nothing")
}

func TestInvalidUTF8(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.promise(t)
	before := s.snapshot(t)
	e := httpEvent(t, "POST", tenant, "id:"+promiseID, "", "")
	e = bytes.Replace(e, []byte(`"body":""`), []byte(`"body":"`+base64.StdEncoding.EncodeToString([]byte("{\"value\":\"\xff\"}"))+`"`), 1)
	e = bytes.Replace(e, []byte(`"isBase64Encoded":false`), []byte(`"isBase64Encoded":true`), 1)
	t.Run("in a body", func(t *testing.T) {
		requireProblem(t, 400, "invalid_utf8", respond(t, s.handler(t, "resolve"), e))
	})
	t.Run("in a direct payload", func(t *testing.T) {
		_, err := s.direct(t, "resolve", "{\"tenant\":\"demo\",\"key\":\""+idempotencyKey+"\",\"value\":\"\xff\"}")
		requireFunctionError(t, "invalid_utf8", err)
	})
	t.Run("in a path", func(t *testing.T) {
		requireProblem(t, 400, "invalid_utf8", s.post(t, "resolve", "key:\xff", "", `{"value":1}`))
	})
	require.Equal(t, before, s.snapshot(t), "refused calls write nothing")
}

func TestBadIdentifiers(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.promise(t)
	before := s.snapshot(t)
	const format = "Invalid UUID format for promise ID"
	const prefix = "Identifier must start with 'id:' or 'key:' prefix, or 'key64:' for a key in base64url"
	for _, c := range []struct{ function, identifier, code, detail string }{
		{"resolve", promiseID, "invalid_identifier", prefix},
		{"resolve", "", "invalid_identifier", prefix},
		{"resolve", "Id:" + promiseID, "invalid_identifier", prefix},
		{"resolve", "KEY:" + idempotencyKey, "invalid_identifier", prefix},
		{"resolve", " id:" + promiseID, "invalid_identifier", prefix},
		{"resolve", "id:", "invalid_uuid", format},
		{"resolve", "id: " + promiseID, "invalid_uuid", format},
		{"resolve", "id:urn:uuid:" + promiseID, "invalid_uuid", format},
		{"resolve", "id:{" + promiseID + "}", "invalid_uuid", format},
		{"resolve", "id:" + strings.ReplaceAll(promiseID, "-", ""), "invalid_uuid", format},
		{"resolve", "id:" + promiseID[:35] + "g", "invalid_uuid", format},
		{"resolve", "id:" + workflowID + ":payment", "invalid_uuid", format +
			". This is a pre-UUID id, which is an idempotency key now. Send key:<id> instead of id:<id>."},
		{"resolve", "key:", "invalid_key", ""},
		{"resolve", "key:" + strings.Repeat("k", 256), "invalid_key", ""},
		{"resolve", "key:a\x00", "nul_character", ""},
		{"resolve", "key:a\ufffd", "invalid_utf8", ""},
		{"resolve", "key64:", "invalid_key", ""},
		{"resolve", "key64:YQ==", "invalid_identifier", ""},
		{"resolve", "key64:YR", "invalid_identifier", ""},
		{"resolve", "key64:YS9\n", "invalid_identifier", ""},
		{"resolve", "key64:/w", "invalid_identifier", ""},
		{"resolve", "key64:_w", "invalid_utf8", ""},
		{"resolve", "key64:AA", "nul_character", ""},
		{"resolve", "Key64:YQ", "invalid_identifier", prefix},
	} {
		t.Run(caseName(c.identifier, c.code), func(t *testing.T) {
			p := requireProblem(t, 400, c.code, s.post(t, c.function, c.identifier, "", `{"value":1}`))
			if c.detail != "" {
				require.Equal(t, c.detail, p["detail"])
			}
		})
	}
	require.Equal(t, before, s.snapshot(t), "refused calls write nothing")

	t.Run("the digits of a UUID have no case, and null is a value", func(t *testing.T) {
		got := s.post(t, "resolve", "id:"+strings.ToUpper(promiseID), "", `{"value":null}`)
		require.Equal(t, 200, got.StatusCode)
	})
}

func TestBadDirectCalls(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.promise(t)
	before := s.snapshot(t)
	for _, c := range []struct{ function, payload, code string }{
		{"resolve-by-id", `{"tenant":"demo","key":"` + idempotencyKey + `","value":1}`, "invalid_identifier"},
		{"resolve-by-key", `{"tenant":"demo","promiseId":"` + promiseID + `","value":1}`, "invalid_identifier"},
		{"resolve-by-id", `{"tenant":"demo","promiseId":"` + promiseID + `","value":1,"holdSeconds":60}`, "unknown_field"},
		{"wait-promise", payloadByID + `,"waitSeconds":"1"}`, "wrong_type"},
		{"list-promises", `{"tenant":"demo","limit":"10"}`, "wrong_type"},
		{"list-events", `{"tenant":"demo","workflowExecutionId":"` + workflowID + `","after":1.5}`, "wrong_type"},
		{"list-events", `{"tenant":"demo"}`, "missing_field"},
	} {
		t.Run(caseName(c.function, c.payload, c.code), func(t *testing.T) {
			_, err := s.direct(t, c.function, c.payload)
			requireFunctionError(t, c.code, err)
		})
	}
	for payload, code := range map[string]string{
		`{"tenant":"demo","value":1}`:                                            "invalid_identifier",
		`{"tenant":"demo","promiseId":"` + promiseID + `","key":"k","value":1}`:  "invalid_identifier",
		`{"tenant":"demo","promiseId":"id:` + promiseID + `","value":1}`:         "invalid_uuid",
		`{"tenant":"demo","promiseId":null,"value":1}`:                           "wrong_type",
		`{"tenant":7,"promiseId":"` + promiseID + `","value":1}`:                 "wrong_type",
		`{"promiseId":"` + promiseID + `","value":1}`:                            "missing_field",
		`{"tenant":"demo","promiseId":"` + promiseID + `"}`:                      "missing_field",
		`{"tenant":"demo","promiseId":"` + promiseID + `","value":1,"strict":1}`: "wrong_type",
		`{"tenant":"demo","identifier":"id:` + promiseID + `","value":1}`:        "unknown_field",
		`[]`: "wrong_type",
		``:   "malformed_json",
	} {
		t.Run(caseName("resolve", payload, code), func(t *testing.T) {
			_, err := s.direct(t, "resolve", payload)
			requireFunctionError(t, code, err)
		})
	}
	require.Equal(t, before, s.snapshot(t), "refused calls write nothing")
}

func TestBadParameters(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.promise(t)
	before := s.snapshot(t)
	for _, query := range []string{"strict=1", "strict=", "strict=TRUE", "strict=true&strict=false", "Strict=true", "x=1"} {
		t.Run(caseName("resolve", query), func(t *testing.T) {
			requireProblem(t, 400, "invalid_parameter", s.post(t, "resolve", "id:"+promiseID, query, `{"value":1}`))
		})
	}
	byDeadline := promise.Cursor{TimeoutAt: new(time.Now()), ID: uuid.New()}.String()
	newestFirst := promise.Cursor{CreatedAt: time.Now(), ID: uuid.New()}.String()
	for _, c := range []struct{ function, query, code string }{
		{"wait-promise", "waitSeconds=26", "out_of_range"},
		{"wait-promise", "waitSeconds=-1", "invalid_parameter"},
		{"wait-promise", "waitSeconds=1.5", "invalid_parameter"},
		{"wait-promise", "waitSeconds=1e-1", "invalid_parameter"},
		{"wait-promise", "waitSeconds=1e400", "out_of_range"},
		{"wait-promise", "waitSeconds=1.", "invalid_parameter"},
		{"wait-promise", "waitSeconds=", "invalid_parameter"},
		{"wait-promise", "waitSeconds=%2B1", "invalid_parameter"},
		{"wait-promise", "waitSeconds=01", "invalid_parameter"},
		{"wait-promise", "waitSeconds=1&waitSeconds=1", "invalid_parameter"},
		{"get-promise", "strict=true", "invalid_parameter"},
		{"list-promises", "limit=0", "out_of_range"},
		{"list-promises", "limit=101", "out_of_range"},
		{"list-promises", "limit=99999999999999999999", "out_of_range"},
		{"list-promises", "limit=ten", "invalid_parameter"},
		{"list-promises", "state=Pending", "invalid_parameter"},
		{"list-promises", "state=", "invalid_parameter"},
		{"list-promises", "name=", "invalid_name"},
		{"list-promises", "name=a%00", "nul_character"},
		{"list-promises", "workflowExecutionId=x", "invalid_uuid"},
		{"list-promises", "timeoutBefore=tomorrow", "invalid_parameter"},
		{"list-promises", "timeoutBefore=2030-01-01T00:00:00 00:00", "invalid_parameter"},
		{"list-promises", "timeoutBefore=2030-01-01T00:00:60Z", "invalid_parameter"},
		{"list-promises", "name=a", "invalid_parameter"},
		{"list-promises", "name=a&state=pending", "invalid_parameter"},
		{"list-promises", "timeoutBefore=2030-01-01T00:00:00Z", "invalid_parameter"},
		{"list-promises", "timeoutBefore=2030-01-01T00:00:00Z&state=timed_out", "invalid_parameter"},
		{"list-promises", "timeoutBefore=2030-01-01T00:00:00Z&state=pending&workflowExecutionId=" + workflowID, "invalid_parameter"},
		{"list-promises", "timeoutBefore=2030-01-01T00:00:00Z&state=pending&workflowId=w&name=a", "invalid_parameter"},
		{"list-promises", "cursor=" + byDeadline, "invalid_parameter"},
		{"list-promises", "state=pending&cursor=" + byDeadline, "invalid_parameter"},
		{"list-promises", "state=pending&timeoutBefore=2030-01-01T00:00:00Z&cursor=" + newestFirst, "invalid_parameter"},
		{"list-promises", "cursor=", "invalid_parameter"},
		{"list-promises", "cursor=AAAA", "invalid_parameter"},
		{"list-promises", "cursor=" + strings.Repeat("f", 32), "invalid_parameter"},
		{"list-promises", "waitSeconds=1", "invalid_parameter"},
		{"list-deliveries", "limit=0", "out_of_range"},
		{"list-deliveries", "limit=101", "out_of_range"},
		{"list-deliveries", "state=Dead", "invalid_parameter"},
		{"list-deliveries", "state=", "invalid_parameter"},
		{"list-deliveries", "destination=Orders", "invalid_name"},
		{"list-deliveries", "destination=", "invalid_name"},
		{"list-deliveries", "promiseId=x", "invalid_uuid"},
		{"list-deliveries", "promiseId=id:" + promiseID, "invalid_uuid"},
		{"list-deliveries", "cursor=AAAA", "invalid_parameter"},
		{"list-deliveries", "cursor=" + byDeadline, "invalid_parameter"},
		{"list-deliveries", "deliveryId=" + deliveryID, "invalid_parameter"},
		{"list-receipts", "limit=0", "out_of_range"},
		{"list-receipts", "source=Stripe", "invalid_name"},
		{"list-receipts", "source=", "invalid_name"},
		{"list-receipts", "outcome=failed", "invalid_parameter"},
		{"list-receipts", "key=", "invalid_key"},
		{"list-receipts", "promiseId=key:a", "invalid_uuid"},
		{"list-receipts", "from=yesterday", "invalid_parameter"},
		{"list-receipts", "before=2030-01-01", "invalid_parameter"},
		{"list-receipts", "cursor=" + byDeadline, "invalid_parameter"},
		{"list-receipts", "item=0", "invalid_parameter"},
		{"retry-deliveries", "state=dead", "invalid_parameter"},
		{"list-events", "after=-1", "invalid_parameter"},
		{"list-events", "after=2147483648", "out_of_range"},
		{"list-events", "after=2", "out_of_range"},
		{"list-events", "limit=0", "out_of_range"},
		{"list-events", "from=1", "invalid_parameter"},
	} {
		t.Run(caseName(c.function, c.query, c.code), func(t *testing.T) {
			identifier := "id:" + promiseID
			switch c.function {
			case "list-events":
				identifier = workflowID
			case "retry-deliveries":
				identifier = deliveryID
			}
			got := respond(t, s.handler(t, c.function), httpEvent(t, "GET", tenant, identifier, c.query, ""))
			require.NotEmpty(t, requireProblem(t, 400, c.code, got)["field"])
		})
	}
	for payload, field := range map[string]string{
		`"name":"a"`: "name", `"name":"a","state":"pending"`: "name",
		`"timeoutBefore":"2030-01-01T00:00:00Z"`:                                                     "timeoutBefore",
		`"timeoutBefore":"2030-01-01T00:00:00Z","state":"pending","workflowId":"w"`:                  "timeoutBefore",
		`"timeoutBefore":"2030-01-01T00:00:00Z","state":"pending","cursor":"` + newestFirst + `"`:    "cursor",
		`"workflowExecutionId":"` + workflowID + `","state":"pending","cursor":"` + byDeadline + `"`: "cursor",
	} {
		t.Run(caseName("list-promises, direct", payload, field), func(t *testing.T) {
			_, err := s.direct(t, "list-promises", `{"tenant":"demo",`+payload+`}`)
			requireFunctionError(t, "invalid_parameter", err)
			require.ErrorContains(t, err, field)
		})
	}
	t.Run("list-events: a workflow execution that is not a UUID", func(t *testing.T) {
		requireProblem(t, 400, "invalid_uuid", s.post(t, "list-events", "x", "", ""))
	})
	require.Equal(t, before, s.snapshot(t), "refused calls write nothing")
}

func TestSizeLimits(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.promise(t)
	post := func(t *testing.T, function, identifier, body string) response {
		t.Helper()
		h := s.handler(t, function)
		h.MaxValueBytes = 20
		got, err := h.Invoke(t.Context(), httpEvent(t, "POST", tenant, identifier, "", body))
		require.NoError(t, err)
		return decodeResponse(t, got)
	}
	nineteen := `"` + strings.Repeat("x", 17) + `"`
	t.Run("a value above the limit", func(t *testing.T) {
		requireProblem(t, 413, "value_too_large", post(t, "resolve", "id:"+promiseID, `{"value":[`+nineteen+`]}`))
	})
	t.Run("an error above the limit, with its quotes", func(t *testing.T) {
		requireProblem(t, 413, "value_too_large", post(t, "reject", "id:"+promiseID, `{"error":"`+strings.Repeat("x", 19)+`"}`))
	})
	metadata := func(t *testing.T, text string) response {
		t.Helper()
		return post(t, "create-promise", "", `{"workflowExecutionId":"`+workflowID+`","name":"n","metadata":`+text+`}`)
	}
	t.Run("metadata above its limit", func(t *testing.T) {
		requireProblem(t, 413, "value_too_large", metadata(t, `{"a":"`+strings.Repeat("x", 64<<10)+`"}`))
	})
	t.Run("metadata above its limit once its numbers are written out", func(t *testing.T) {
		requireProblem(t, 413, "value_too_large", metadata(t, `{"a":[`+strings.Repeat("1e300,", 300)+`1]}`))
	})
	t.Run("the spaces around a value do not count", func(t *testing.T) {
		require.Equal(t, 200, post(t, "resolve", "id:"+promiseID, `{"value":   `+nineteen+`    }`).StatusCode)
	})
}

// An answer with the largest value and metadata fits Lambda's 6 MB, even if all of their characters need escaping.
func TestLargestAnswerFitsLambda(t *testing.T) {
	t.Parallel()
	s := newService(t)
	body := `{"workflowExecutionId":"` + workflowID + `","name":"n","metadata":{"":"` +
		strings.Repeat(`\"`, (promise.MaxMetadataBytes-8)/2) + `"}}`
	a := s.post(t, "create-promise", "", "", body)
	require.Equal(t, 201, a.StatusCode, a.Body[:100])
	var made struct{ PromiseID string }
	require.NoError(t, json.Unmarshal([]byte(a.Body), &made))
	h := s.handler(t, "resolve")
	h.MaxValueBytes = config.MaxMaxValueBytes
	value := `"` + strings.Repeat(`\"`, (config.MaxMaxValueBytes-2)/2) + `"`
	require.Len(t, value, config.MaxMaxValueBytes)
	payload, err := json.Marshal(map[string]any{"tenant": tenant, "promiseId": made.PromiseID, "value": json.RawMessage(value)})
	require.NoError(t, err)
	_, err = h.Invoke(t.Context(), payload)
	require.NoError(t, err)
	got, err := s.handler(t, "get-promise").Invoke(t.Context(), httpEvent(t, "GET", tenant, "id:"+made.PromiseID, "", ""))
	require.NoError(t, err)
	require.Less(t, len(got), 6_000_000)
	require.Contains(t, decodeResponse(t, got).Body, value)
}

// A body with very many fields is refused at the first unknown field.
func TestManyFields(t *testing.T) {
	t.Parallel()
	s := withoutDatabase()
	var body strings.Builder
	body.WriteString("{")
	for i := range 400_000 {
		fmt.Fprintf(&body, `"f%d":0,`, i)
	}
	body.WriteString(`"value":1}`)
	h := s.handler(t, "resolve")
	got, err := h.Invoke(t.Context(), httpEvent(t, "POST", tenant, "id:"+promiseID, "", body.String()))
	require.NoError(t, err)
	requireProblem(t, 400, "unknown_field", decodeResponse(t, got))
}

func TestDatabaseAway(t *testing.T) {
	t.Parallel()
	for name, listen := range map[string]bool{"refuses connections": false, "never answers": true} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			if listen {
				defer func() { require.NoError(t, l.Close()) }()
			} else {
				require.NoError(t, l.Close())
			}
			pool, err := pgxpool.New(t.Context(), "postgres://someone:secret-password@"+l.Addr().String()+"/promises?sslmode=disable")
			require.NoError(t, err)
			defer pool.Close()
			away := &service{store: repository.New(pool), log: new(bytes.Buffer)}
			h := away.handler(t, "resolve")
			h.Timeout = time.Second
			a := respond(t, h, httpEvent(t, "POST", tenant, "id:"+promiseID, "", `{"value":"secret-value"}`))
			requireProblem(t, 503, "unavailable", a)
			require.Equal(t, "1", a.Headers["retry-after"])
			require.Contains(t, away.log.String(), "cause=", "the cause is in the log")
			require.NotContains(t, away.log.String()+a.Body, "secret-")
		})
	}
}

func TestFaultIsInternal(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.promise(t)
	event := httpEvent(t, "POST", tenant, "id:"+promiseID, "", `{"value":1}`)
	t.Run("an error of the database", func(t *testing.T) {
		s.db.Exec(t, "DROP FUNCTION promise_settle")
		a := respond(t, s.handler(t, "resolve"), event)
		p := requireProblem(t, 500, "internal", a)
		require.Equal(t, "The service failed. The cause is in its log.", p["detail"])
		require.NotContains(t, a.Body, "promise_settle")
		require.Contains(t, s.log.String(), "function promise_settle(")
	})
	t.Run("a panic", func(t *testing.T) {
		h := s.handler(t, "resolve")
		h.Store = nil
		a := respond(t, h, event)
		requireProblem(t, 500, "internal", a)
		require.NotContains(t, a.Body, "goroutine")
		require.Contains(t, s.log.String(), "goroutine")
	})
}

func TestEveryCodeHasAStatus(t *testing.T) {
	t.Parallel()
	s := withoutDatabase()
	text, err := os.ReadFile(filepath.Join("../..", reference))
	require.NoError(t, err)
	t.Run("Codes lists every constant", func(t *testing.T) {
		source, err := os.ReadFile("../promise/error.go")
		require.NoError(t, err)
		var constants []promise.Code
		for _, found := range regexp.MustCompile(`(?m)^\tCode\w+\s+Code = "(\w+)"`).FindAllSubmatch(source, -1) {
			constants = append(constants, promise.Code(found[1]))
		}
		require.ElementsMatch(t, constants, promise.Codes)
	})
	for _, code := range promise.Codes {
		t.Run(string(code), func(t *testing.T) {
			h := s.handler(t, "get-promise")
			h.Store = failing{code: code}
			got, err := h.Invoke(t.Context(), httpEvent(t, "GET", tenant, "id:"+promiseID, "", ""))
			require.NoError(t, err)
			a := decodeResponse(t, got)
			require.GreaterOrEqual(t, a.StatusCode, 400)
			requireProblem(t, a.StatusCode, string(code), a)
			row := regexp.MustCompile(fmt.Sprintf("(?m)^\\|.*<a id=\"%s\"></a>`%s`.*\\| %d \\|", code, code, a.StatusCode))
			require.True(t, row.Match(text), "%s has a row with the code's anchor and the status %d", reference, a.StatusCode)
			_, err = h.Invoke(t.Context(), []byte(`{"tenant":"demo","promiseId":"`+promiseID+`"}`))
			requireFunctionError(t, string(code), err)
		})
	}
}
