package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-lambda-go/lambda/messages"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/dbtest"
	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/repository"
	"github.com/flovyn/promises/shared/sweep"
	"github.com/flovyn/promises/shared/telemetry"
)

func newSweepHandler(t *testing.T) (*sweepHandler, *dbtest.DB) {
	t.Helper()
	db := dbtest.New(t)
	log := slog.New(slog.DiscardHandler)
	return &sweepHandler{log: log, sweeper: &sweep.Sweeper{
		Store: repository.New(db.Pool), Metrics: telemetry.NewMetrics(io.Discard, "expire-promises"), Log: log,
	}}, db
}

// nothingDue is a Store without due work.
type nothingDue struct{}

func (nothingDue) Expire(context.Context, int) (promise.ExpireResult, error) {
	return promise.ExpireResult{}, nil
}

func (nothingDue) ExpireWorkflow(context.Context, uuid.UUID, int) (promise.ExpireResult, error) {
	return promise.ExpireResult{}, nil
}

func (nothingDue) ExpireIdempotencyKeys(context.Context, int) (promise.ExpireKeysResult, error) {
	return promise.ExpireKeysResult{}, nil
}

func (nothingDue) DeleteSettled(context.Context, time.Duration, int) (promise.Deleted, error) {
	return promise.Deleted{}, nil
}

func (nothingDue) DeleteDestinations(context.Context, int) (int, error) { return 0, nil }

func (nothingDue) DeleteReceipts(context.Context, int) (int, error) { return 0, nil }

func (nothingDue) RefreshHeld(context.Context, uuid.UUID, int) (promise.HeldCount, error) {
	return promise.HeldCount{}, nil
}

func (nothingDue) SilentSources(context.Context) (int, error) { return 0, nil }

func (nothingDue) Uncounted(context.Context) ([]promise.Count, error) { return nil, nil }

func (nothingDue) CountMore(context.Context, []promise.Count, int) error { return nil }

func (nothingDue) StoreCounts(context.Context, []promise.Count) ([]promise.Full, error) {
	return nil, nil
}

func TestSweepPayloads(t *testing.T) {
	t.Parallel()
	h, _ := newSweepHandler(t)
	scheduled, err := os.ReadFile("../../events/expire-promises.scheduled.json")
	require.NoError(t, err)
	once, err := os.ReadFile("../../events/expire-promises.once.json")
	require.NoError(t, err)
	for name, c := range map[string]struct {
		payload string
		long    bool
	}{
		"an empty object":             {"{}", true},
		"an empty object with spaces": {" { }\n", true},
		"the scheduled sample":        {string(scheduled), true},
		"once: false":                 {`{"once":false}`, true},
		"the sample of once":          {string(once), false},
		"once: true":                  {`{"once":true}`, false},
	} {
		t.Run("valid: "+name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := *h
				h.sweeper = &sweep.Sweeper{Store: nothingDue{}, Metrics: h.sweeper.Metrics, Log: h.log}
				begun := time.Now()
				answer, err := h.Invoke(t.Context(), []byte(c.payload))
				require.NoError(t, err)
				require.JSONEq(t, `{"expired":0,"keysDeleted":0,"holdsExpired":0,"promisesDeleted":0,"eventsDeleted":0,"workflowsDeleted":0}`, string(answer))
				require.Equal(t, map[bool]time.Duration{true: sweepTime}[c.long], time.Since(begun))
			})
		})
	}
	for _, payload := range []string{
		"", " ", "null", "true", "1", `"once"`, "[]", `[{"once":true}]`, "{", `{"once"`, `{"once":true`, "{}{}", "{} x", `{"once":true},`,
		`{"once":1}`, `{"once":"true"}`, `{"once":null}`, `{"Once":true}`, `{"once":true,"x":1}`, `{"x":1}`,
		`{"once":false,"once":true}`, `{"detail-type":"Scheduled Event"}`, `{"source":"aws.scheduler"}`,
		`{"detail-type":1,"source":"aws.scheduler"}`, `{"detail-type":"x","source":"y","once":true}`,
	} {
		t.Run(fmt.Sprintf("invalid: %q", payload), func(t *testing.T) {
			_, err := h.Invoke(t.Context(), []byte(payload))
			require.NotEmpty(t, requireType(t, "invalid_payload", err).Message)
		})
	}
}

func TestSweepThatFails(t *testing.T) {
	t.Parallel()
	h, db := newSweepHandler(t)
	db.Exec(t, "DROP TABLE workflow_event_row CASCADE")
	db.Exec(t, "DROP TABLE idempotency_key")
	_, err := h.Invoke(t.Context(), []byte(`{"once":true}`))
	e := requireType(t, "sweep_failed", err)
	require.Contains(t, e.Message, "record deadlines: ")
	require.Contains(t, e.Message, "expire idempotency keys: ")
}

func requireType(t *testing.T, want string, err error) messages.InvokeResponse_Error {
	t.Helper()
	var e messages.InvokeResponse_Error
	require.True(t, errors.As(err, &e), "%v", err)
	require.Equal(t, want, e.Type)
	return e
}
