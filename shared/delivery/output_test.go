package delivery_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/delivery"
	"github.com/flovyn/promises/shared/promise"
)

const secretToken = "QUtJRFRPS0VO"

var promiseID = uuid.MustParse("0197e6a0-1111-7222-8333-444455556666")

func TestCompletionOfResolved(t *testing.T) {
	t.Parallel()
	const head = `{"promiseId":"0197e6a0-1111-7222-8333-444455556666","state":"resolved"`
	output := func(kind delivery.Kind, value []byte) string {
		c := delivery.NewCompletion(kind, secretToken, promiseID, promise.Result{State: promise.Resolved, Value: value})
		require.Equal(t, delivery.Completion{Token: secretToken, Output: c.Output}, c)
		require.True(t, json.Valid(c.Output))
		require.LessOrEqual(t, len(c.Output), delivery.Limit(kind))
		return string(c.Output)
	}
	for _, kind := range []delivery.Kind{delivery.StepFunctions, delivery.DurableExecution} {
		t.Run(string(kind), func(t *testing.T) {
			for _, value := range []string{`null`, `1e2`, ` { "a" : "<\u00e9é>" } `, "\"\uFFFF\u2028\""} {
				require.Equal(t, head+`,"value":`+value+`}`, output(kind, []byte(value)), "byte for byte")
			}
			require.Equal(t, head+`,"valueOmitted":true}`, output(kind, nil), "erased")
			require.Equal(t, head+`,"valueOmitted":true}`, output(kind, []byte(`not JSON`)))

			room := delivery.Limit(kind) - len(head+`,"value":}`)
			fits := `"` + strings.Repeat("é", (room-2)/2) + strings.Repeat("x", (room-2)%2) + `"`
			require.Len(t, fits, room)
			require.Equal(t, head+`,"value":`+fits+`}`, output(kind, []byte(fits)))
			require.Equal(t, head+`,"valueOmitted":true}`, output(kind, []byte(fits+` `)), "one byte more")
		})
	}
	require.Equal(t, 262_144, delivery.Limit(delivery.StepFunctions))
	require.Equal(t, 1_000_000, delivery.Limit(delivery.DurableExecution))
}

func TestCompletionOfOthers(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("é", delivery.MaxCause-1)
	for _, c := range []struct {
		name    string
		state   promise.State
		message *string
		error   string
		cause   string
	}{
		{"rejected", promise.Rejected, new("no way"), "promise_rejected", "no way"},
		{"timed out", promise.TimedOut, nil, "promise_timed_out", ""},
		{"cancelled", promise.Cancelled, new("changed"), "promise_cancelled", "changed"},
		{"cancelled without a reason", promise.Cancelled, nil, "promise_cancelled", ""},
		{"erased", promise.Rejected, nil, "promise_rejected", ""},
		{"the longest", promise.Rejected, new(long + "x"), "promise_rejected", long + "x"},
		{"cut", promise.Rejected, new(long + "xy"), "promise_rejected", long + "x"},
		{"cut before a pair", promise.Rejected, new(long + "😀"), "promise_rejected", long},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := delivery.NewCompletion(delivery.StepFunctions, secretToken, promiseID, promise.Result{State: c.state, Message: c.message})
			require.Equal(t, delivery.Completion{Token: secretToken, Error: c.error, Cause: c.cause}, got)
			require.LessOrEqual(t, len(utf16.Encode([]rune(got.Cause))), delivery.MaxCause)
		})
	}
}

func TestMessageBody(t *testing.T) {
	t.Parallel()
	m := delivery.Message{ID: "msg_1", Type: "promise.resolved", Tenant: "acme", Group: "wf"}
	at := time.Date(2026, 11, 27, 4, 5, 6, 789_000_000, time.FixedZone("", 3600))
	const head = `{"id":"msg_1","type":"promise.resolved","timestamp":"2026-11-27T03:05:06.789Z","tenant":"acme"`
	const reduced = `{"promiseId":"p"}`
	for _, kind := range []delivery.Kind{delivery.HTTPS, delivery.SQS, delivery.SNS, delivery.EventBridge, delivery.Lambda, delivery.Email} {
		t.Run(string(kind), func(t *testing.T) {
			with := func(data, reduced string) string {
				got := m.WithBody(kind, at, []byte(data), []byte(reduced))
				require.True(t, json.Valid(got.Body))
				require.LessOrEqual(t, len(got.Body), delivery.Limit(kind))
				body := string(got.Body)
				got.Body = nil
				require.Equal(t, m, got)
				return body
			}
			require.Equal(t, head+`,"data":{"promiseId":"p","value": 1e2 }}`, with(`{"promiseId":"p","value": 1e2 }`, reduced), "byte for byte")

			room := delivery.Limit(kind) - len(head+`,"data":{"value":""}}`)
			data := `{"value":"` + strings.Repeat("x", room) + `"}`
			require.Equal(t, head+`,"data":`+data+`}`, with(data, reduced))
			require.Equal(t, head+`,"data":{"promiseId":"p","valueOmitted":true}}`, with(data[:len(data)-1]+` }`, reduced), "one byte more")
			require.Equal(t, head+`,"data":{"valueOmitted":true}}`, with(data[:len(data)-1]+` }`, "{}\n"))
		})
	}
	t.Run("characters that a queue rejects are escaped", func(t *testing.T) {
		for kind, want := range map[delivery.Kind]string{delivery.SQS: `\ufffe\uffff`, delivery.SNS: `\ufffe\uffff`, delivery.EventBridge: "\uFFFE\uFFFF"} {
			body := m.WithBody(kind, at, []byte("{\"value\":\"\uFFFE\uFFFF\"}"), nil).Body
			require.Equal(t, head+`,"data":{"value":"`+want+`"}}`, string(body))
		}
	})
	t.Run("the caller's bytes stay", func(t *testing.T) {
		room := append(make([]byte, 0, 100), reduced...)
		m.WithBody(delivery.HTTPS, at, make([]byte, delivery.Limit(delivery.HTTPS)), room)
		require.Equal(t, reduced, string(room))
		require.Equal(t, make([]byte, 10), room[len(room):len(room)+10])
	})
}
