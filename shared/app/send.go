package app

import (
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"time"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-lambda-go/lambda/messages"

	"github.com/flovyn/promises/shared/config"
	"github.com/flovyn/promises/shared/delivery"
	"github.com/flovyn/promises/shared/gateway"
	"github.com/flovyn/promises/shared/telemetry"
)

// sendMargin is the end of an invocation's time, in which the results are returned.
const sendMargin = time.Second

// A DeliverySender makes one attempt for each delivery of a batch, and returns soon after
// ctx ends, with a result for each.
type DeliverySender interface {
	Send(ctx context.Context, b delivery.Batch) []delivery.Result
}

// RunSendDeliveries serves the sender of deliveries until Lambda ends the process. It uses
// no database and no secret. aws returns the sender for the kinds that are AWS services;
// with endpointsOnly it calls no service of AWS itself. If the configuration is invalid,
// RunSendDeliveries logs the cause and exits at once.
//
// The payload is a delivery.Batch, and the answer a list with a delivery.Result for each
// of its deliveries. A payload that is none is a Lambda function error of the type
// invalid_payload. A batch that has no time left is answered without being sent.
func RunSendDeliveries(aws func(endpointsOnly bool) DeliverySender) {
	terminated() // the local runner's SIGTERM: an attempt that is under way ends by itself
	conf, err := config.LoadSender()
	log := telemetry.NewLogger(os.Stderr, conf.LogLevel)
	slog.SetDefault(log) // for aws-lambda-go's lines
	telemetry.QuietFunctionErrors()
	if err != nil {
		log.Error("cannot start", "cause", err.Error())
		os.Exit(1)
	}
	lambda.Start(&sendHandler{
		https: &delivery.HTTPSSender{Version: gateway.Version, Loopback: conf.DeliverToLoopback},
		aws:   aws(conf.DeliverToLoopback),
	})
}

type sendHandler struct{ https, aws DeliverySender }

// Invoke implements lambda.Handler.
func (h *sendHandler) Invoke(ctx context.Context, payload []byte) ([]byte, error) {
	var batch delivery.Batch
	if json.Unmarshal(payload, &batch) != nil || batch.Destination.Kind == "" || len(batch.Deliveries) == 0 {
		return nil, messages.InvokeResponse_Error{Type: "invalid_payload", Message: "The payload must be a batch of deliveries."}
	}
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline.Add(-sendMargin))
		defer cancel()
	}
	to := h.aws
	if batch.Destination.Kind == delivery.HTTPS {
		to = h.https
	}
	return json.Marshal(to.Send(ctx, batch))
}
