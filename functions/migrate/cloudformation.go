package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/aws/aws-lambda-go/cfn"
)

const (
	// maxReason keeps the answer within CloudFormation's limit of 4,096 bytes.
	maxReason = 1500

	// answerTime is the part of the function's time that is reserved for the answer.
	// Without an answer CloudFormation waits until the resource's timeout.
	answerTime = 30 * time.Second

	// tries limits the attempts to send the answer.
	tries = 5
)

// deploy handles an event of the CloudFormation custom resource. A create or an
// update runs the migration with roles. An update that would lose a guarded
// database's data fails (see checkReplacement). A delete does nothing, so that the
// data stays. Each event may be repeated. deploy returns an error only if
// CloudFormation did not accept the answer; Lambda then repeats the call.
func (m migration) deploy(ctx context.Context, event cfn.Event) error {
	answer := cfn.NewResponse(&event)
	answer.PhysicalResourceID, answer.Status = cmp.Or(event.PhysicalResourceID, physicalID(event)), cfn.StatusSuccess
	if event.RequestType != cfn.RequestDelete {
		err := checkReplacement(event)
		if err == nil {
			err = m.deploySchema(ctx)
		}
		if err != nil {
			m.log.Error("migration failed", "cause", err.Error())
			reason := []rune(err.Error())
			answer.Status, answer.Reason = cfn.StatusFailed, string(reason[:min(len(reason), maxReason)])
		} else {
			answer.PhysicalResourceID = physicalID(event)
		}
	}
	return m.send(ctx, answer)
}

// deploySchema migrates within the function's time less answerTime.
func (m migration) deploySchema(ctx context.Context) error {
	if end, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, end.Add(-answerTime))
		defer cancel()
	}
	result, err := m.run(ctx, options{Roles: true})
	if err == nil {
		m.log.Info("migrated", "result", result)
	}
	return err
}

func (m migration) send(ctx context.Context, answer *cfn.Response) error {
	http.DefaultClient.Timeout = answerTime / tries // cfn sends the answer with this client
	var err error
	for try := range tries {
		if err = answer.Send(); err == nil {
			return nil
		}
		if broken, ok := errors.AsType[*url.Error](err); ok {
			err = broken.Err // the URL in the outer error is a secret: it authorizes an answer
		}
		m.log.Warn("CloudFormation did not accept the answer", "try", try+1, "cause", err.Error())
		select {
		case <-ctx.Done():
			return fmt.Errorf("answer CloudFormation: %w", ctx.Err())
		case <-time.After(time.Duration(try) * time.Second / 2):
		}
	}
	return fmt.Errorf("answer CloudFormation: %w", err)
}
