package app

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"time"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-lambda-go/lambda/messages"
	"github.com/google/uuid"

	"github.com/flovyn/promises/shared/auth"
	"github.com/flovyn/promises/shared/database"
	"github.com/flovyn/promises/shared/delivery"
	"github.com/flovyn/promises/shared/gateway"
	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/seal"
	"github.com/flovyn/promises/shared/secret"
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
			Open:     s.openSecret(),
			Encode:   encodePromise,
			Stopping: s.stopping,
		}}
	})
}

// encodePromise returns a promise as get-promise shows it, and without its contents.
func encodePromise(p promise.Promise) (data, reduced []byte) {
	return gateway.PromiseData(p), gateway.ReducedPromiseData(p, delivery.MaxCause)
}

// secretPurpose binds an encrypted signing secret to its column.
const secretPurpose = "destination_secret.sealed"

// openSecret returns a function that decrypts the signing secrets of destinations. A key
// ring in Secrets Manager is read when it is first needed.
func (s service) openSecret() func(context.Context, uuid.UUID, int, []byte) (string, error) {
	keys := s.sealingKeys()
	return func(ctx context.Context, destination uuid.UUID, version int, sealed []byte) (string, error) {
		ring, err := keys(ctx)
		if err != nil {
			return "", err
		}
		opened, err := ring.Open(secretPurpose, destination.String(), version, sealed)
		return string(opened), err
	}
}

// sealingKeys returns the source of the key ring of SEALING_KEYS.
func (s service) sealingKeys() func(context.Context) (*seal.Keys, error) {
	text := s.conf.SealingKeys
	if secret.IsARN(text) {
		return auth.NewCached("sealing keys", parsed(text, seal.Parse), time.Now, s.log).Get
	}
	keys, err := seal.Parse(text)
	if err != nil {
		err = fmt.Errorf("SEALING_KEYS: %w", err)
	}
	return func(context.Context) (*seal.Keys, error) { return keys, err }
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
