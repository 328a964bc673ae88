package gateway_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/gateway"
	"github.com/flovyn/promises/shared/promise"
)

func TestPromiseData(t *testing.T) {
	t.Parallel()
	id, workflow := uuid.New(), uuid.New()
	at := time.Date(2031, 6, 19, 8, 30, 6, 0, time.UTC)
	comment, sequence := "by hand", int32(2)
	p := promise.Promise{
		ID: id, WorkflowExecutionID: workflow, Name: "charge", State: promise.Resolved, Value: []byte(`{"paid": 1e2}`), Metadata: []byte(`{"order":7}`),
		CreatedAt: at, ResolvedAt: &at, SettledBy: &promise.By{Kind: promise.KindDirect}, Comment: &comment, CreatedBySequence: 1, ResolvedBySequence: &sequence,
		OnTimeout: &promise.Result{State: promise.Resolved, Value: []byte(`"late"`)},
	}
	head := `{"promiseId":"` + id.String() + `","workflowExecutionId":"` + workflow.String() + `","name":"charge","state":`
	tail := `"createdAt":"2031-06-19T08:30:06Z","resolvedAt":"2031-06-19T08:30:06Z","settledBy":{"kind":"direct"},"comment":"by hand",` +
		`"createdBySequence":1,"resolvedBySequence":2`

	t.Run("has the contents, the value byte for byte", func(t *testing.T) {
		require.Equal(t, head+`"resolved","metadata":{"order":7},`+tail+`,"value":{"paid": 1e2}}`, string(gateway.PromiseData(p)))
	})
	t.Run("reduced, has neither value nor metadata", func(t *testing.T) {
		require.Equal(t, head+`"resolved",`+tail+`}`, string(gateway.ReducedPromiseData(p, 10)))
	})
	t.Run("reduced, of a pending promise, has no default outcome", func(t *testing.T) {
		pending := p
		pending.State = promise.Pending
		require.Contains(t, string(gateway.PromiseData(pending)), `"onTimeout"`)
		require.NotContains(t, string(gateway.ReducedPromiseData(pending, 10)), `"onTimeout"`)
	})
	for name, c := range map[string]struct{ message, want string }{
		"shorter than the limit": {"declined", "declined"},
		"as long as the limit":   {strings.Repeat("é", 10), strings.Repeat("é", 10)},
		"longer than the limit":  {strings.Repeat("🐟", 11), strings.Repeat("🐟", 10)},
	} {
		t.Run("reduced, cuts an error that is "+name, func(t *testing.T) {
			rejected := p
			rejected.State, rejected.Value, rejected.Message = promise.Rejected, nil, &c.message
			var whole, reduced struct{ Error string }
			require.NoError(t, json.Unmarshal(gateway.PromiseData(rejected), &whole))
			require.NoError(t, json.Unmarshal(gateway.ReducedPromiseData(rejected, 10), &reduced))
			require.Equal(t, c.message, whole.Error)
			require.Equal(t, c.want, reduced.Error)
			require.Equal(t, c.message, *rejected.Message)
		})
	}
}
