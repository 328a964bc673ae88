package rule

import (
	"maps"
	"slices"

	"github.com/flovyn/promises/shared/promise"
)

// A ready is a set of rules that has a name.
type ready struct {
	keys  string // the beginning of every key
	rules []promise.SourceRule
}

// readyRules has the ready-made rules by their names. They settle a promise only by a
// state that is final at the sender. Every other event matches no rule.
//
// They judge by the body alone, because the sender signs it. The value of stripe.charge
// and of GitHub's rules is the body, byte for byte. The other rules leave out what
// authorizes a request to the sender, and encode the rest again.
var readyRules = map[string]ready{
	// https://docs.stripe.com/api/events/types,
	// https://docs.stripe.com/payments/place-a-hold-on-a-payment-method.
	//
	// A charge succeeds twice if it is captured later: charge.succeeded with captured
	// false only holds the money. A hold that is never captured ends with charge.expired.
	// A refund comes after the success, and changes nothing.
	"stripe.charge": {keys: "stripe:", rules: []promise.SourceRule{
		{
			When: "body.type in ['charge.succeeded', 'charge.captured'] && body.data.object.captured == true",
			Key:  stripeKey,
			Then: thenResolve,
		},
		{
			When:  "body.type == 'charge.failed'",
			Key:   stripeKey,
			Then:  thenReject,
			Error: "body.data.object.?failure_message.orValue(null) in [null, ''] ? 'the charge failed' : body.data.object.failure_message",
		},
		{
			When:  "body.type == 'charge.expired'",
			Key:   stripeKey,
			Then:  thenReject,
			Error: "'the charge was not captured'",
		},
	}},

	// https://docs.stripe.com/payments/paymentintents/lifecycle.
	//
	// payment_intent.payment_failed is not final: the customer may try another payment
	// method.
	//
	// The value leaves out the client_secret, which should not be stored or logged:
	// https://docs.stripe.com/api/payment_intents/object.
	"stripe.payment_intent": {keys: "stripe:", rules: []promise.SourceRule{
		{
			When:  "body.type == 'payment_intent.succeeded'",
			Key:   stripeKey,
			Then:  thenResolve,
			Value: stripeValue,
		},
		{
			When:  "body.type == 'payment_intent.canceled'",
			Key:   stripeKey,
			Then:  thenReject,
			Error: "'the payment was canceled: ' + (body.data.object.?cancellation_reason.orValue(null) == null ? 'no reason' : string(body.data.object.cancellation_reason))",
		},
	}},

	// https://docs.stripe.com/checkout/fulfillment.
	//
	// A session that is completed with payment_status unpaid has a delayed payment method.
	// One of the async_payment events follows.
	//
	// The value leaves out the client_secret, which a session has unless Stripe hosts its
	// page: https://docs.stripe.com/api/checkout/sessions/object.
	"stripe.checkout_session": {keys: "stripe:", rules: []promise.SourceRule{
		{
			When: "body.type == 'checkout.session.async_payment_succeeded' || " +
				"(body.type == 'checkout.session.completed' && body.data.object.payment_status in ['paid', 'no_payment_required'])",
			Key:   stripeKey,
			Then:  thenResolve,
			Value: stripeValue,
		},
		{
			When:  "body.type in ['checkout.session.async_payment_failed', 'checkout.session.expired']",
			Key:   stripeKey,
			Then:  thenReject,
			Error: "body.type == 'checkout.session.expired' ? 'the checkout session expired' : 'the payment failed'",
		},
	}},

	// https://docs.github.com/en/webhooks/webhook-events-and-payloads#pull_request_review.
	//
	// A review that only comments decides nothing. The first review that decides settles
	// the promise.
	"github.review": {keys: "github:review:", rules: []promise.SourceRule{
		{
			When: "body.action == 'submitted' && body.review.state.lowerAscii() == 'approved'",
			Key:  reviewKey,
			Then: thenResolve,
		},
		{
			When:  "body.action == 'submitted' && body.review.state.lowerAscii() == 'changes_requested'",
			Key:   reviewKey,
			Then:  thenReject,
			Error: "body.review.?body.orValue(null) in [null, ''] ? 'changes were requested' : body.review.body",
		},
	}},

	// https://docs.github.com/en/webhooks/webhook-events-and-payloads#workflow_run,
	// https://docs.github.com/en/pull-requests/collaborating-with-pull-requests/collaborating-on-repositories-with-code-quality-features/troubleshooting-required-status-checks.
	//
	// A required check of GitHub is successful with success, neutral and skipped. A run with action_required waits for
	// a person. Attempts of a run have the same id, so the first one that is completed
	// settles the promise.
	"github.workflow_run": {keys: "github:run:", rules: []promise.SourceRule{
		{
			When: "body.action == 'completed' && body.workflow_run.conclusion in ['success', 'neutral', 'skipped']",
			Key:  runKey,
			Then: thenResolve,
		},
		{
			When:  "body.action == 'completed' && body.workflow_run.conclusion in ['failure', 'cancelled', 'timed_out', 'startup_failure', 'stale']",
			Key:   runKey,
			Then:  thenReject,
			Error: "'the workflow run ended with ' + body.workflow_run.conclusion",
		},
	}},

	// https://docs.slack.dev/reference/interaction-payloads/block_actions-payload.
	//
	// The value leaves out token, trigger_id and response_url of the payload, because each
	// of them authorizes a request to Slack or to the app.
	"slack.button": {keys: "slack:", rules: []promise.SourceRule{
		{
			When:  "body.type == 'block_actions' && body.actions.exists(a, a.action_id == 'promise.resolve')",
			Key:   "'slack:' + body.actions.filter(a, a.action_id == 'promise.resolve')[0].value",
			Then:  thenResolve,
			Value: "{?'user': body.?user, ?'team': body.?team, ?'channel': body.?channel, ?'container': body.?container, 'actions': body.actions}",
		},
		{
			When:  "body.type == 'block_actions' && body.actions.exists(a, a.action_id == 'promise.reject')",
			Key:   "'slack:' + body.actions.filter(a, a.action_id == 'promise.reject')[0].value",
			Then:  thenReject,
			Error: "'rejected in Slack by ' + (body.?user.?username.orValue(null) == null ? 'a user' : string(body.user.username))",
		},
	}},
}

const (
	stripeKey   = "'stripe:' + body.data.object.id"
	stripeValue = "body.omit('data.object.client_secret')"
	reviewKey   = "'github:review:' + body.repository.full_name + '#' + string(body.pull_request.number)"
	runKey      = "'github:run:' + string(body.workflow_run.id)"
)

// Ready returns the names of the ready-made rules, sorted.
func Ready() []string { return slices.Sorted(maps.Keys(readyRules)) }

// Expand returns the rules that a name stands for, in their order. ok is false for an
// unknown name. The caller may change the result.
func Expand(name string) (rules []promise.SourceRule, ok bool) {
	r, ok := readyRules[name]
	return slices.Clone(r.rules), ok
}
