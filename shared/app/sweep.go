package app

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"time"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-lambda-go/lambda/messages"

	"github.com/flovyn/promises/shared/database"
	"github.com/flovyn/promises/shared/rawjson"
	"github.com/flovyn/promises/shared/sweep"
)

// sweepTime is slightly longer than the schedule's period, so that a sweep is always
// running.
const sweepTime = time.Minute + 5*time.Second

// RunSweep serves the scheduled sweep until Lambda ends the process. It starts as Run
// does. The payload {} and an event of EventBridge's scheduler sweep for a little over
// a minute. The payload {"once": true} does the work that is due now. The answer is a
// sweep.Report. Errors are Lambda function errors of the type invalid_payload, with
// which nothing was done, or sweep_failed.
func RunSweep() {
	startWith(database.SweepPoolSize, func(s service) lambda.Handler {
		return &sweepHandler{log: s.log, sweeper: &sweep.Sweeper{
			Store:     s.store,
			Metrics:   s.metrics,
			Log:       s.log,
			Retention: time.Duration(s.conf.RetentionDays) * 24 * time.Hour,
		}}
	})
}

type sweepHandler struct {
	sweeper *sweep.Sweeper
	log     *slog.Logger
}

// Invoke implements lambda.Handler.
func (h *sweepHandler) Invoke(ctx context.Context, payload []byte) ([]byte, error) {
	once, ok := readSweep(payload)
	if !ok {
		return nil, messages.InvokeResponse_Error{
			Type: "invalid_payload", Message: `The payload must be {}, {"once": true} or a scheduled event of EventBridge.`,
		}
	}
	var report sweep.Report
	var err error
	if once {
		report, err = h.sweeper.Once(ctx)
	} else {
		report, err = h.sweeper.Run(ctx, sweepTime)
	}
	h.log.Info("swept", "once", once, "report", report)
	if err != nil {
		return nil, messages.InvokeResponse_Error{Type: "sweep_failed", Message: err.Error()}
	}
	return json.Marshal(report)
}

// readSweep reads a payload. Field names are exact, and none may be repeated. Only a
// scheduled event may have further fields. ok is false if the payload is invalid.
func readSweep(payload []byte) (once, ok bool) {
	fields, err := rawjson.ParseAny(payload)
	if err != nil {
		return false, false
	}
	if value, given := fields["once"]; given {
		once = string(value) == "true"
		return once, len(fields) == 1 && (once || string(value) == "false")
	}
	isText := func(name string) bool { return bytes.HasPrefix(fields[name], []byte(`"`)) }
	return false, len(fields) == 0 || isText("detail-type") && isText("source")
}
