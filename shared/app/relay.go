package app

import (
	"context"
	"encoding/json"
	"log/slog"
	"time"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-lambda-go/lambda/messages"

	"github.com/flovyn/promises/shared/database"
	"github.com/flovyn/promises/shared/delivery"
	"github.com/flovyn/promises/shared/gateway"
	"github.com/flovyn/promises/shared/promise"
)

// relayTime is longer than two of the schedule's periods. So a relay is always at work,
// wherever in its minute the scheduler invokes the next one.
const relayTime = 2*time.Minute + 5*time.Second

// RunRelayDeliveries serves the scheduled relay of deliveries until Lambda ends the
// process. It starts as Run does. The payload {} and an event of EventBridge's scheduler
// relay for a little over two minutes, and an end of the process by SIGTERM ends the
// relay early. The answer is a delivery.RelayReport. An invalid payload is a Lambda
// function error of the type invalid_payload. sender returns the sender that invokes
// send-deliveries, given its name or ARN.
func RunRelayDeliveries(sender func(function string) delivery.BatchSender) {
	startWith(database.RelayPoolSize, func(s service) lambda.Handler {
		return &relayHandler{log: s.log, relay: &delivery.Relay{
			Store:    s.store,
			Sender:   sender(s.conf.SendFunction),
			Metrics:  s.metrics,
			Log:      s.log,
			Open:     s.openSecret,
			Encode:   encodePromise,
			Stopping: s.stopping,
			MaxCalls: s.conf.MaxSends,
		}}
	})
}

// encodePromise returns a promise as get-promise shows it, and without its contents.
func encodePromise(p promise.Promise) (data, reduced []byte) {
	return gateway.PromiseData(p), gateway.ReducedPromiseData(p, delivery.MaxCause)
}

type relayHandler struct {
	relay *delivery.Relay
	log   *slog.Logger
}

// Invoke implements lambda.Handler.
func (h *relayHandler) Invoke(ctx context.Context, payload []byte) ([]byte, error) {
	if once, ok := readSweep(payload); once || !ok {
		return nil, messages.InvokeResponse_Error{
			Type: "invalid_payload", Message: "The payload must be {} or a scheduled event of EventBridge.",
		}
	}
	report := h.relay.Run(ctx, relayTime)
	h.log.Info("relayed", "report", report)
	return json.Marshal(report)
}
