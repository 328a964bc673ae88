package app

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/delivery"
	"github.com/flovyn/promises/shared/promise"
)

// recording is a DeliverySender that records its batches.
type recording struct {
	batches  []delivery.Batch
	deadline time.Time
}

func (r *recording) Send(ctx context.Context, b delivery.Batch) (results []delivery.Result) {
	r.batches = append(r.batches, b)
	r.deadline, _ = ctx.Deadline()
	for _, d := range b.Deliveries {
		results = append(results, delivery.Result{ID: d.ID, Outcome: delivery.Delivered})
	}
	return results
}

func TestSendDeliveries(t *testing.T) {
	t.Parallel()
	received := make(chan string, 10)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { received <- r.Header.Get("webhook-id") }))
	t.Cleanup(server.Close)
	aws := &recording{}
	h := &sendHandler{https: &delivery.HTTPSSender{Loopback: true}, aws: aws}

	t.Run("https batches go to their receiver", func(t *testing.T) {
		payload, err := json.Marshal(delivery.Batch{
			Destination: delivery.Destination{Kind: delivery.HTTPS, Address: server.URL},
			Deliveries:  []delivery.Delivery{{ID: "1", Message: &delivery.Message{ID: "1", Body: []byte("{}"), Headers: map[string]string{"webhook-id": "msg-1"}}}},
		})
		require.NoError(t, err)
		answer, err := h.Invoke(t.Context(), payload)
		require.NoError(t, err)
		require.JSONEq(t, `[{"id":"1","outcome":"delivered","status":200}]`, string(answer))
		require.Equal(t, "msg-1", <-received)
		require.Empty(t, aws.batches)
	})
	t.Run("other kinds go to AWS, with a second left for the answer", func(t *testing.T) {
		sample, err := os.ReadFile("../../events/send-deliveries.step-functions.json")
		require.NoError(t, err)
		end := time.Now().Add(time.Hour)
		ctx, cancel := context.WithDeadline(t.Context(), end)
		defer cancel()
		answer, err := h.Invoke(ctx, sample)
		require.NoError(t, err)
		require.JSONEq(t, `[{"id":"0d3f3c9a-6a3b-4a4e-8d5f-2b7c9e1f0a11","outcome":"delivered"}]`, string(answer))
		require.Len(t, aws.batches, 1)
		require.Equal(t, "promise_timed_out", aws.batches[0].Deliveries[0].Completion.Error)
		require.True(t, end.Add(-time.Second).Equal(aws.deadline))
	})
	for _, payload := range []string{"", "null", "[]", "{}", `{"destination":{"kind":"sqs"}}`, `{"deliveries":[{"id":"1"}]}`, `{"destination":{"kind":"sqs"},"deliveries":[]}`} {
		t.Run("invalid: "+payload, func(t *testing.T) {
			_, err := h.Invoke(t.Context(), []byte(payload))
			require.NotEmpty(t, requireType(t, "invalid_payload", err).Message)
		})
	}
}

// idle is a Store without deliveries.
type idle struct{ delivery.Store }

func (idle) FindAllDue(context.Context) (promise.DueLook, error) { return promise.DueLook{}, nil }

func (idle) FindDue(context.Context, time.Time) (promise.DueLook, error) {
	return promise.DueLook{}, nil
}

func (idle) ExpireLeases(context.Context, int) error { return nil }

// ignored is a receiver of metrics that does nothing.
type ignored struct{}

func (ignored) Count(string, int64) {}

func (ignored) Gauge(string, float64, string) {}

func TestRelayPayloads(t *testing.T) {
	t.Parallel()
	stopped := make(chan struct{})
	close(stopped)
	log := slog.New(slog.DiscardHandler)
	h := &relayHandler{log: log, relay: &delivery.Relay{Store: idle{}, Metrics: ignored{}, Log: log, Stopping: stopped}}
	scheduled, err := os.ReadFile("../../events/relay-deliveries.scheduled.json")
	require.NoError(t, err)
	for _, payload := range []string{"{}", string(scheduled)} {
		answer, err := h.Invoke(t.Context(), []byte(payload))
		require.NoError(t, err)
		require.JSONEq(t, `{"delivered":0,"failed":0,"dead":0,"errors":0}`, string(answer))
	}
	for _, payload := range []string{"", "null", "[]", `{"once":true}`, `{"once":false,"x":1}`, `{"x":1}`} {
		t.Run("invalid: "+payload, func(t *testing.T) {
			_, err := h.Invoke(t.Context(), []byte(payload))
			require.NotEmpty(t, requireType(t, "invalid_payload", err).Message)
		})
	}
}
