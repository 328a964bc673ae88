package client_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/google/uuid"

	"github.com/flovyn/promises/shared/client"
	"github.com/flovyn/promises/shared/client/invoke"
)

// A receiver verifies each message, does its work once for each id, and returns an error to get the message again.
func ExampleReceiver() {
	c, ctx := connect(), background()
	receiver := &client.Receiver{}
	server := httptest.NewServer(receiver)
	defer server.Close()
	destination, err := c.PutDestination(ctx, "receiver", server.URL+"/hook")
	if err != nil {
		fmt.Println(err)
		return
	}
	done := make(chan string)
	var seen sync.Map // in your database, beside the work that a message causes
	receiver.Secrets = []string{destination.Secret}
	receiver.Handle = func(_ context.Context, m client.Message) error {
		if _, again := seen.LoadOrStore(m.ID, true); again {
			return nil
		}
		payment, err := client.Value[Payment](m.Promise)
		if err != nil {
			return err
		}
		done <- fmt.Sprint(m.Type, " ", payment.Status)
		return nil
	}

	created, err := c.Create(ctx, client.Create{
		Workflow: client.WorkflowID("orders/receiver"), Name: "payment", Notify: []client.Target{{Destination: "receiver"}},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	if _, err := c.Resolve(ctx, created.Identifier, Payment{Status: "paid"}); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(<-done)
	// Output: promise.resolved paid
}

// A handler of your own verifies the bytes as they were received.
func ExampleVerifyDelivery() {
	secrets := []string{"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}
	body := []byte(`{"id":"msg_1"}`)
	header := http.Header{}
	header.Set("webhook-id", "msg_1")
	header.Set("webhook-timestamp", "1")
	header.Set("webhook-signature", "v1,AAAA")

	_, err := client.VerifyDelivery(secrets, header, body)
	fmt.Println(err)
	// Output: promises: the message is not verified: its time differs from the clock by more than 5 minutes
}

// The receiver changes over to the new secret while both are active.
func ExampleClient_RotateDestinationSecret() {
	c, ctx := connect(), background()
	first, err := c.PutDestination(ctx, "rotation", "http://127.0.0.1:9/hook")
	fmt.Println(first.New, strings.HasPrefix(first.Secret, "whsec_"), err)

	second, err := c.RotateDestinationSecret(ctx, "rotation", client.Rotation{})
	fmt.Println(second.Secret != first.Secret, len(second.Secrets), err)

	read, err := c.GetDestination(ctx, "rotation")
	fmt.Println(read.Secret == "", read.Secrets[0].Version, err)
	fmt.Println(c.DeleteDestination(ctx, "rotation"))
	// Output:
	// true true <nil>
	// true 2 <nil>
	// true 2 <nil>
	// <nil>
}

func ExampleClient_TestDestination() {
	c, ctx := connect(), background()
	if _, err := c.PutDestination(ctx, "tested", "http://127.0.0.1:9/hook"); err != nil {
		fmt.Println(err)
	}
	result, err := c.TestDestination(ctx, "tested")
	fmt.Println(result.Outcome, err)
	// Output: failed <nil>
}

func ExampleClient_Deliveries() {
	c, ctx := connect(), background()
	if _, err := c.PutDestination(ctx, "listed", "http://127.0.0.1:9/hook"); err != nil {
		fmt.Println(err)
	}
	created, err := c.Create(ctx, client.Create{
		Workflow: client.WorkflowID("orders/listed"), Name: "payment", Notify: []client.Target{{Destination: "listed"}},
	})
	if err != nil {
		fmt.Println(err)
	}
	for d, err := range c.Deliveries(ctx, client.DeliveryFilter{PromiseID: created.PromiseID}) {
		fmt.Println(d.Destination, d.State, err)
	}
	retried, more, err := c.RetryDeadDeliveries(ctx, "listed")
	fmt.Println(retried, more, err)
	// Output:
	// listed waiting <nil>
	// 0 false <nil>
}

// Stripe's webhooks settle promises as they are. The secret comes from Stripe.
func ExampleClient_PutSource() {
	c, ctx := connect(), background()
	source, err := c.PutSource(ctx, "stripe", client.SourceDefinition{
		Verifier: client.Verifier{Preset: "stripe"},
		Rules:    []client.Rule{{When: `body.type == "charge.succeeded"`, Key: `"stripe:" + body.data.object.id`, Then: "resolve"}},
	}, "")
	fmt.Println(source.New, source.URL != "", source.Secret == "", err) // enter source.URL at Stripe

	test, err := c.TestSource(ctx, "stripe", client.SourceTest{
		Headers: map[string]string{"content-type": "application/json"},
		Body:    []byte(`{"id":"evt_1","type":"charge.succeeded","data":{"object":{"id":"ch_1"}}}`),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(test.Verified, test.Items[0].Key, test.Items[0].Outcome)

	source, err = c.RotateSourceSecret(ctx, "stripe", "whsec_of_stripe_1234567890", client.Rotation{})
	fmt.Println(len(source.Secrets), err)
	fmt.Println(c.DeleteSource(ctx, "stripe"))
	// Output:
	// true true true <nil>
	// false stripe:ch_1 held
	// 1 <nil>
	// <nil>
}

func ExampleClient_Receipts() {
	c, ctx := connect(), background()
	for r, err := range c.Receipts(ctx, client.ReceiptFilter{Source: "unknown"}) {
		fmt.Println(r.Outcome, err)
	}
	_, err := c.Replay(ctx, uuid.Nil)
	fmt.Println(err)
	// Output: promises: replay-receipt: not_found: There is no such tenant, workflow execution, promise or delivery.
}

// An engine in AWS invokes the functions directly. Only the constructor differs.
func Example_invoke() {
	ctx := background()
	conf, err := config.LoadDefaultConfig(ctx) // for the local runner set AWS_ENDPOINT_URL_LAMBDA=http://127.0.0.1:3001
	if err != nil {
		fmt.Println(err)
		return
	}
	c := invoke.New(lambda.NewFromConfig(conf), "demo", "promises-dev-")
	created, err := c.Create(ctx, client.Create{Workflow: client.WorkflowID("executions/7"), Name: "payment", Key: "stripe:ch_12"})
	if err != nil {
		fmt.Println(err)
		return
	}

	if _, err := c.Resolve(ctx, client.Key("stripe:ch_12"), Payment{Status: "paid"}); err != nil {
		fmt.Println(err)
		return
	}
	payment, err := client.Await[Payment](ctx, c, created.Identifier)
	fmt.Println(payment.Status, err)
	// Output: paid <nil>
}

// A paused destination's deliveries wait. One that is repeated is due at once.
func ExampleClient_RetryDelivery() {
	c, ctx := connect(), background()
	if _, err := c.PutDestination(ctx, "paused", "http://127.0.0.1:9/hook"); err != nil {
		fmt.Println(err)
	}
	paused, err := c.EnableDestination(ctx, "paused", false)
	fmt.Println(paused.Enabled, err)
	created, err := c.Create(ctx, client.Create{
		Workflow: client.WorkflowID("orders/paused"), Name: "payment", Notify: []client.Target{{Destination: "paused"}},
	})
	if err != nil {
		fmt.Println(err)
	}
	if _, err := c.Resolve(ctx, created.Identifier, Payment{Status: "paid"}); err != nil {
		fmt.Println(err)
	}
	for d, err := range c.Deliveries(ctx, client.DeliveryFilter{PromiseID: created.PromiseID}) {
		if err != nil {
			fmt.Println(err)
			break
		}
		again, err := c.RetryDelivery(ctx, d.DeliveryID)
		fmt.Println(again.State, err)
	}
	// Output:
	// false <nil>
	// due <nil>
}

// A promise that is created without Notify notifies the default destination.
func ExampleClient_SetDefaultDestination() {
	c, ctx := connect(), background()
	if _, err := c.PutDestination(ctx, "usual", "http://127.0.0.1:9/hook"); err != nil {
		fmt.Println(err)
	}
	fmt.Println(c.SetDefaultDestination(ctx, "usual"))
	created, err := c.Create(ctx, client.Create{Workflow: client.WorkflowID("orders/usual"), Name: "payment"})
	if err != nil {
		fmt.Println(err)
	}
	read, err := c.Get(ctx, created.Identifier)
	fmt.Println(len(read.Deliveries), err)
	fmt.Println(c.SetDefaultDestination(ctx, "")) // none
	// Output:
	// <nil>
	// 1 <nil>
	// <nil>
}

// A disabled source refuses every request.
func ExampleClient_EnableSource() {
	c, ctx := connect(), background()
	source, err := c.PutSource(ctx, "builds", client.SourceDefinition{
		Verifier: client.Verifier{Preset: "github"}, Rules: []client.Rule{{Preset: "github.workflow_run"}},
	}, "")
	fmt.Println(source.Secret != "", err) // enter source.URL and source.Secret at GitHub
	source, err = c.EnableSource(ctx, "builds", false)
	fmt.Println(source.Enabled, err)
	for one, err := range c.Sources(ctx) {
		if one.Name == "builds" || err != nil {
			fmt.Println(one.Enabled, err)
		}
	}
	fmt.Println(c.DeleteSource(ctx, "builds"))
	// Output:
	// true <nil>
	// false <nil>
	// false <nil>
	// <nil>
}

// A callback URL is a secret. Revoking ends all that were handed out for the promise.
func ExampleClient_RevokeTokens() {
	c, ctx := connect(), background()
	created, err := c.Create(ctx, client.Create{
		Workflow: client.WorkflowID("orders/revoked"), Name: "approval", Tokens: &client.Tokens{Verbs: []string{"resolve"}, TTL: time.Hour},
	})
	fmt.Println(strings.Contains(created.ResolveURL, "token="), err)
	_, at, err := c.RevokeTokens(ctx, created.Identifier)
	fmt.Println(at.IsZero(), err)
	// Output:
	// true <nil>
	// false <nil>
}
