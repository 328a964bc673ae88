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
	// maxReason keeps the answer within the 4,096 bytes that CloudFormation takes.
	maxReason = 1500

	// answerTime is kept of the function's own time for the answer. Without one
	// CloudFormation waits for as long as the resource lets it.
	answerTime = 30 * time.Second

	// tries is how often the answer is sent, until it is taken.
	tries = 5
)

// deploy answers a custom resource of CloudFormation. To create or to update the
// resource is to migrate and to give the roles what they need. An update that
// would lose a guarded database's data fails (see checkReplacement). To delete
// the resource does nothing: the data stays. Each may be repeated. An error says
// that CloudFormation did not take the answer; Lambda then repeats the call.
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

// deploySchema migrates, and leaves time for the answer.
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
