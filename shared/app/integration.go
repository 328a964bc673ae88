package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/google/uuid"

	"github.com/flovyn/promises/shared/delivery"
	"github.com/flovyn/promises/shared/gateway"
	"github.com/flovyn/promises/shared/promise"
)

const integrationUsage = `usage: manage-integrations [--function <name>] <command>

  put-destination <tenant> <name> <url>             create a destination of the kind https, or change its URL; a new one's secret is shown once
  get-destination <tenant> <name>
  list-destinations <tenant>
  enable-destination <tenant> <name>                send to it again, even if the service disabled it
  pause-destination <tenant> <name>                 let its deliveries wait
  delete-destination <tenant> <name>                delete it, and end the deliveries to it
  rotate-secret <tenant> <name> [overlapSeconds=<number>] [replaceVersion=<number>]
                                                    make a new secret, which is shown once; the former one stays active for a day or as long as given
  test-destination <tenant> <name>                  send a signed test message, and show the answer
  set-default-destination <tenant> [<name>]         notify it of promises that are created without notify; without a name: none

  put-source <tenant> <name> @<file>                create a source of webhooks, or change it. The file has its definition in JSON, and perhaps its secret; a
                                                    secret that the service makes is shown once
  get-source <tenant> <name>
  list-sources <tenant>
  enable-source <tenant> <name>
  disable-source <tenant> <name>                    refuse every request to it
  delete-source <tenant> <name>                     delete it; its receipts stay
  rotate-source-secret <tenant> <name> [overlapSeconds=<number>] [replaceVersion=<number>] [@<file>]
                                                    as rotate-secret; the file has {"secret": "..."} if the sender makes the secret
  test-source <tenant> <name> @<file>               show what a request to it would do; the file has {"headers": {...}, "body": "..."}
  replay-receipt <tenant> <receiptId>               apply today's rules to the kept body of a webhook

  @<file>                                           send the JSON of a file, such as {"action": "list-destinations", "tenant": "acme"}

Each @<file> may be @-, which reads standard input.

With --function, the command invokes the deployed Lambda of that name or ARN, with the AWS credentials and the region
of the environment or the AWS profile. Without it, the command works on the database of DATABASE_URL, and needs
SEALING_KEYS for secrets and kept bodies, SOURCE_URL_KEY for sources, and SEND_FUNCTION for a test of a destination.
`

// A Send gives a batch to the function send-deliveries, and returns its results. A
// function that links one starts later, so only its main package chooses it.
type Send func(ctx context.Context, batch delivery.Batch) ([]delivery.Result, error)

// integrationTool returns the tool: see RunManageIntegrations.
func integrationTool[P Program](compile func(promise.SourceDefinition) (P, error), sender func(function string) Send) tool {
	return tool{
		name: "manage-integrations", usage: integrationUsage, optional: []string{"destination"},
		commands: map[string]shellCommand{
			"put-destination":         {action: "put-destination", args: []string{"tenant", "name", "url"}, fixed: map[string]any{"kind": "https"}},
			"get-destination":         {action: "get-destination", args: []string{"tenant", "name"}},
			"list-destinations":       {action: "list-destinations", args: []string{"tenant"}},
			"enable-destination":      {action: "put-destination", args: []string{"tenant", "name"}, fixed: map[string]any{"enabled": true}},
			"pause-destination":       {action: "put-destination", args: []string{"tenant", "name"}, fixed: map[string]any{"enabled": false}},
			"delete-destination":      {action: "delete-destination", args: []string{"tenant", "name"}},
			"rotate-secret":           {action: "rotate-secret", args: []string{"tenant", "name"}, pair: rotationField},
			"test-destination":        {action: "test-destination", args: []string{"tenant", "name"}},
			"set-default-destination": {action: "set-default-destination", args: []string{"tenant", "destination"}, fixed: map[string]any{"destination": nil}},

			"put-source":           {action: "put-source", args: []string{"tenant", "name"}, file: true, needed: "@<file>"},
			"get-source":           {action: "get-source", args: []string{"tenant", "name"}},
			"list-sources":         {action: "list-sources", args: []string{"tenant"}},
			"enable-source":        {action: "put-source", args: []string{"tenant", "name"}, fixed: map[string]any{"enabled": true}},
			"disable-source":       {action: "put-source", args: []string{"tenant", "name"}, fixed: map[string]any{"enabled": false}},
			"delete-source":        {action: "delete-source", args: []string{"tenant", "name"}},
			"rotate-source-secret": {action: "rotate-source-secret", args: []string{"tenant", "name"}, pair: rotationField, file: true},
			"test-source":          {action: "test-source", args: []string{"tenant", "name"}, file: true, needed: "@<file>"},
			"replay-receipt":       {action: "replay-receipt", args: []string{"tenant", "receiptId"}},
		},
		handler: func(s service) lambda.Handler {
			h := s.handler(gateway.ManageIntegrations)
			h.Integrations = s.integrations()
			h.Integrations.Test = s.testDestination(sender(s.conf.SendFunction))
			h.Webhooks = newWebhooks(s, compile)
			return h
		},
	}
}

// RunManageIntegrations serves gateway.ManageIntegrations until Lambda ends the process.
// In a shell it works as RunManageTenants does. compile is rule.Compile, and sender
// returns a Send for the function of a name.
func RunManageIntegrations[P Program](connect Connect, compile func(promise.SourceDefinition) (P, error), sender func(function string) Send) {
	integrationTool(compile, sender).run(connect)
}

// rotationField parses an argument such as overlapSeconds=3600.
func rotationField(arg string) (name string, value any, err error) {
	name, text, ok := strings.Cut(arg, "=")
	n, err := strconv.ParseInt(text, 10, 64)
	if !ok || err != nil || name != "overlapSeconds" && name != "replaceVersion" {
		return "", nil, usageError(fmt.Sprintf("%q is not an argument of a rotation. Write overlapSeconds=3600 or replaceVersion=2, for example.", arg))
	}
	return name, n, nil
}

// integrations returns what both functions need that put destinations.
func (s service) integrations() gateway.Integrations {
	return gateway.Integrations{
		CheckURL:  func(url string) error { return delivery.CheckURL(url, s.conf.DeliverToLoopback) },
		NewSecret: s.newSecret,
	}
}

// testDestination returns a function that sends a test message through the function
// send-deliveries.
func (s service) testDestination(send Send) func(
	ctx context.Context, tenant string, d promise.Destination, secrets []promise.DestinationSecret,
) (gateway.TestResult, error) {
	return func(ctx context.Context, tenant string, d promise.Destination, secrets []promise.DestinationSecret) (none gateway.TestResult, err error) {
		if s.conf.SendFunction == "" {
			return none, errors.New("SEND_FUNCTION is not set: it must be the name of the function send-deliveries")
		}
		m, err := testMessage(tenant, d, time.Now())
		if err != nil {
			return none, err
		}
		if d.Kind == promise.DestinationHTTPS {
			texts, err := s.openSecrets(ctx, d.ID, secrets)
			if err != nil {
				return none, err
			}
			if m.Headers, err = delivery.SignHeaders(texts, m.ID, time.Now(), m.Body); err != nil {
				return none, err
			}
		}
		results, err := send(ctx, delivery.Batch{
			Destination: delivery.Destination{Kind: d.Kind, Address: d.Address, From: d.From, Region: d.Region, RoleARN: d.RoleARN},
			Deliveries:  []delivery.Delivery{{ID: m.ID, Message: &m}},
		})
		if err != nil {
			return none, &promise.Error{
				Code: promise.CodeUnavailable, Detail: "The test message cannot be sent at the moment. Repeat the call.", Cause: err,
			}
		}
		if len(results) != 1 {
			return none, fmt.Errorf("send-deliveries returned %d results for one message", len(results))
		}
		return gateway.TestResult{Outcome: string(results[0].Outcome), Status: results[0].Status, Error: results[0].Error}, nil
	}
}

// testMessage returns a message of the type destination.test. Its data names the
// destination.
func testMessage(tenant string, d promise.Destination, now time.Time) (delivery.Message, error) {
	id := uuid.NewString()
	m := delivery.Message{ID: id, Type: "destination.test", Tenant: tenant, Group: id}
	var err error
	m.Body, err = json.Marshal(map[string]any{
		"id": m.ID, "type": m.Type, "timestamp": now.UTC().Format(time.RFC3339Nano), "tenant": tenant,
		"data": map[string]string{"destinationId": d.ID.String(), "destination": d.Name},
	})
	return m, err
}
