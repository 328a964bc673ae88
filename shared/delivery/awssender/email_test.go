package awssender_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/delivery"
	"github.com/flovyn/promises/shared/delivery/awssender"
)

// The mail says what happened to which promise. It quotes a short value only, and no text adds a line.
func TestMailText(t *testing.T) {
	mailed := func(t *testing.T, body string) (subject, text string) {
		s := startAWS(t, success)
		d := message("1", body)
		require.Equal(t, delivery.Delivered, awssender.New().Send(t.Context(), delivery.Batch{Destination: destinations[delivery.Email], Deliveries: []delivery.Delivery{d}})[0].Outcome)
		var in struct {
			Content struct {
				Simple struct {
					Subject struct{ Data string }
					Body    struct{ Text struct{ Data string } }
				}
			}
		}
		require.NoError(t, json.Unmarshal([]byte(s.only(t).Body), &in))
		return in.Content.Simple.Subject.Data, in.Content.Simple.Body.Text.Data
	}
	t.Run("resolved", func(t *testing.T) {
		subject, text := mailed(t, `{"timestamp":"2026-11-27T03:05:06Z","data":{"promiseId":"p","name":"approve\r\nBcc: x@example.com","workflowId":"wf-1","value": {"a":"b\n"}}}`)
		require.Equal(t, "promise.resolved: approve  Bcc: x@example.com", subject)
		require.Equal(t, "Event: promise.resolved\nPromise: p\nName: approve  Bcc: x@example.com\nWorkflow: wf-1\nTenant: acme\nTime: 2026-11-27T03:05:06Z\n"+
			"Value: {\"a\":\"b\\n\"}\nMessage: 1\n", text)
	})
	t.Run("rejected", func(t *testing.T) {
		_, text := mailed(t, `{"data":{"promiseId":"p","error":"`+strings.Repeat("é", 1001)+`"}}`)
		require.Contains(t, text, "\nError: "+strings.Repeat("é", 1000)+"... (cut)\n")
	})
	t.Run("value omitted", func(t *testing.T) {
		_, text := mailed(t, `{"data":{"promiseId":"p","valueOmitted":true}}`)
		require.Contains(t, text, "\nThe value is too long for this mail. Read it with get-promise.\n")
	})
	t.Run("malformed body", func(t *testing.T) {
		startAWS(t, success)
		require.Equal(t, delivery.Refused, send(t, destinations[delivery.Email], message("1", `secret`))[0].Outcome)
	})
}
