package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/aws/aws-lambda-go/cfn"
)

const (
	// resourceID never changes: with another one CloudFormation would take the
	// resource for replaced, and delete the old one.
	resourceID = "migration"

	// maxReason keeps the answer within the 4,096 bytes that CloudFormation takes.
	maxReason = 1500

	// answerTime is kept of the function's own time for the answer. Without one
	// CloudFormation waits for as long as the resource lets it.
	answerTime = 30 * time.Second

	// tries is how often the answer is sent, until it is taken.
	tries = 5
)

// deploy answers a custom resource of CloudFormation: to create it and to update
// it is to migrate, and to give the roles what they need; to delete it is
// nothing, since the data stays. Each may be repeated. An error says that CloudFormation
// could not be told: then Lambda repeats the call.
func (m migration) deploy(ctx context.Context, event cfn.Event) error {
	answer := cfn.NewResponse(&event)
	answer.PhysicalResourceID, answer.Status = resourceID, cfn.StatusSuccess
	if event.RequestType != cfn.RequestDelete {
		within, cancel := ctx, context.CancelFunc(func() {})
		if end, ok := ctx.Deadline(); ok {
			within, cancel = context.WithDeadline(ctx, end.Add(-answerTime))
		}
		result, err := m.run(within, options{Roles: true})
		cancel()
		if err != nil {
			m.log.Error("migration failed", "cause", err.Error())
			reason := []rune(err.Error())
			answer.Status, answer.Reason = cfn.StatusFailed, string(reason[:min(len(reason), maxReason)])
		} else {
			m.log.Info("migrated", "result", result)
		}
	}
	http.DefaultClient.Timeout = answerTime / tries // which cfn sends by
	var err error
	for try := range tries {
		if err = answer.Send(); err == nil {
			return nil
		}
		if broken, ok := errors.AsType[*url.Error](err); ok {
			err = broken.Err // the URL around it is a secret: whoever has it can answer
		}
		m.log.Warn("CloudFormation was not told", "try", try+1, "cause", err.Error())
		select {
		case <-ctx.Done():
			return fmt.Errorf("tell CloudFormation: %w", ctx.Err())
		case <-time.After(time.Duration(try) * time.Second / 2):
		}
	}
	return fmt.Errorf("tell CloudFormation: %w", err)
}
