// Command receive-webhook is the Lambda behind the URLs of sources. It verifies their requests itself.
package main

import (
	"context"

	"github.com/flovyn/promises/shared/app"
	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/webhook/rule"
)

func main() { app.RunReceiveWebhook(compile) }

func compile(d promise.SourceDefinition) (app.Judge, error) {
	p, err := rule.Compile(d)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, in promise.WebhookInput) ([]promise.Judgment, bool, error) {
		judged, err := p.Judge(ctx, in)
		return judged.Items, judged.Each, err
	}, nil
}
