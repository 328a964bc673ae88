package rule_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/webhook/rule"
)

// readyCases are requests as the senders make them, and what ready-made rules do. An empty
// then is ignore without a rule.
var readyCases = []struct {
	name, preset, body string
	then, key, message string
	value              string // empty: the body, byte for byte
}{
	{name: "charge", preset: "stripe.charge", then: "resolve", key: "stripe:ch_3QfAda", body: `{"id":"evt_1","object":"event","type":"charge.succeeded","data":{"object":{"id":"ch_3QfAda","object":"charge","amount":1999,"captured":true,"paid":true,"status":"succeeded","failure_message":null}}}`},
	{name: "charge that is only held", preset: "stripe.charge", body: `{"type":"charge.succeeded","data":{"object":{"id":"ch_1","captured":false,"status":"succeeded"}}}`},
	{name: "charge that is captured later", preset: "stripe.charge", then: "resolve", key: "stripe:ch_1", body: `{"type":"charge.captured","data":{"object":{"id":"ch_1","captured":true,"status":"succeeded"}}}`},
	{name: "charge that is declined", preset: "stripe.charge", then: "reject", key: "stripe:ch_1", message: "Your card was declined.", body: `{"type":"charge.failed","data":{"object":{"id":"ch_1","captured":false,"failure_message":"Your card was declined."}}}`},
	{name: "charge that fails without a message", preset: "stripe.charge", then: "reject", key: "stripe:ch_1", message: "the charge failed", body: `{"type":"charge.failed","data":{"object":{"id":"ch_1","failure_message":null}}}`},
	{name: "charge that fails without the field", preset: "stripe.charge", then: "reject", key: "stripe:ch_1", message: "the charge failed", body: `{"type":"charge.failed","data":{"object":{"id":"ch_1"}}}`},
	{name: "charge that expires", preset: "stripe.charge", then: "reject", key: "stripe:ch_1", message: "the charge was not captured", body: `{"type":"charge.expired","data":{"object":{"id":"ch_1","captured":false}}}`},
	{name: "charge that is pending", preset: "stripe.charge", body: `{"type":"charge.pending","data":{"object":{"id":"ch_1","captured":true,"status":"pending"}}}`},
	{name: "charge that is refunded", preset: "stripe.charge", body: `{"type":"charge.refunded","data":{"object":{"id":"ch_1","captured":true,"refunded":true}}}`},
	{name: "charge that is disputed", preset: "stripe.charge", body: `{"type":"charge.dispute.created","data":{"object":{"id":"dp_1","charge":"ch_1"}}}`},
	{name: "another object", preset: "stripe.charge", body: `{"type":"customer.created","data":{"object":{"id":"cus_1"}}}`},

	{
		name: "payment", preset: "stripe.payment_intent", then: "resolve", key: "stripe:pi_3QfAda",
		body:  `{"id":"evt_3QfAda","object":"event","api_version":"2026-10-28","created":1795000000,"data":{"object":{"id":"pi_3QfAda","object":"payment_intent","amount":9007199254740993,"amount_received":9007199254740993,"client_secret":"pi_3QfAda_secret_Lovelace","currency":"eur","latest_charge":"ch_3QfAda","metadata":{"order":"order-42"},"status":"succeeded"}},"livemode":true,"type":"payment_intent.succeeded"}`,
		value: `{"api_version":"2026-10-28","created":1795000000,"data":{"object":{"amount":9007199254740993,"amount_received":9007199254740993,"currency":"eur","id":"pi_3QfAda","latest_charge":"ch_3QfAda","metadata":{"order":"order-42"},"object":"payment_intent","status":"succeeded"}},"id":"evt_3QfAda","livemode":true,"object":"event","type":"payment_intent.succeeded"}`,
	},
	{
		name: "payment without a secret", preset: "stripe.payment_intent", then: "resolve", key: "stripe:pi_1",
		body:  `{"type":"payment_intent.succeeded","data":{"object":{"id":"pi_1","status":"succeeded"}}}`,
		value: `{"data":{"object":{"id":"pi_1","status":"succeeded"}},"type":"payment_intent.succeeded"}`,
	},
	{name: "payment that may be tried again", preset: "stripe.payment_intent", body: `{"type":"payment_intent.payment_failed","data":{"object":{"id":"pi_1","status":"requires_payment_method"}}}`},
	{name: "payment that is processed", preset: "stripe.payment_intent", body: `{"type":"payment_intent.processing","data":{"object":{"id":"pi_1"}}}`},
	{name: "payment that may be captured", preset: "stripe.payment_intent", body: `{"type":"payment_intent.amount_capturable_updated","data":{"object":{"id":"pi_1"}}}`},
	{name: "payment that is canceled", preset: "stripe.payment_intent", then: "reject", key: "stripe:pi_1", message: "the payment was canceled: abandoned", body: `{"type":"payment_intent.canceled","data":{"object":{"id":"pi_1","cancellation_reason":"abandoned"}}}`},
	{name: "payment that is canceled without a reason", preset: "stripe.payment_intent", then: "reject", key: "stripe:pi_1", message: "the payment was canceled: no reason", body: `{"type":"payment_intent.canceled","data":{"object":{"id":"pi_1","cancellation_reason":null}}}`},

	{
		name: "session that is paid", preset: "stripe.checkout_session", then: "resolve", key: "stripe:cs_test_1",
		body:  `{"type":"checkout.session.completed","data":{"object":{"id":"cs_test_1","amount_total":1999,"client_secret":"cs_test_1_secret_Lovelace","payment_status":"paid","ui_mode":"embedded"}}}`,
		value: `{"data":{"object":{"amount_total":1999,"id":"cs_test_1","payment_status":"paid","ui_mode":"embedded"}},"type":"checkout.session.completed"}`,
	},
	{
		name: "session without a payment", preset: "stripe.checkout_session", then: "resolve", key: "stripe:cs_test_1",
		body:  `{"type":"checkout.session.completed","data":{"object":{"id":"cs_test_1","client_secret":null,"payment_status":"no_payment_required"}}}`,
		value: `{"data":{"object":{"id":"cs_test_1","payment_status":"no_payment_required"}},"type":"checkout.session.completed"}`,
	},
	{name: "session that is not paid yet", preset: "stripe.checkout_session", body: `{"type":"checkout.session.completed","data":{"object":{"id":"cs_test_1","payment_status":"unpaid"}}}`},
	{name: "session that is paid later", preset: "stripe.checkout_session", then: "resolve", key: "stripe:cs_test_1", body: `{"data":{"object":{"id":"cs_test_1","payment_status":"paid"}},"type":"checkout.session.async_payment_succeeded"}`},
	{name: "session whose payment fails", preset: "stripe.checkout_session", then: "reject", key: "stripe:cs_test_1", message: "the payment failed", body: `{"type":"checkout.session.async_payment_failed","data":{"object":{"id":"cs_test_1","payment_status":"unpaid"}}}`},
	{name: "session that expires", preset: "stripe.checkout_session", then: "reject", key: "stripe:cs_test_1", message: "the checkout session expired", body: `{"type":"checkout.session.expired","data":{"object":{"id":"cs_test_1","payment_status":"unpaid"}}}`},

	{name: "review that approves", preset: "github.review", then: "resolve", key: "github:review:ada-org/engine#7", body: `{"action":"submitted","review":{"id":9007199254740993,"state":"approved","body":null,"user":{"login":"grace"}},"pull_request":{"number":7,"id":1},"repository":{"full_name":"ada-org/engine"}}`},
	{name: "review that requests changes", preset: "github.review", then: "reject", key: "github:review:ada-org/engine#7", message: "Please add a test.", body: `{"action":"submitted","review":{"state":"changes_requested","body":"Please add a test."},"pull_request":{"number":7},"repository":{"full_name":"ada-org/engine"}}`},
	{name: "review that requests changes in silence", preset: "github.review", then: "reject", key: "github:review:ada-org/engine#7", message: "changes were requested", body: `{"action":"submitted","review":{"state":"CHANGES_REQUESTED","body":null},"pull_request":{"number":7},"repository":{"full_name":"ada-org/engine"}}`},
	{name: "review that comments", preset: "github.review", body: `{"action":"submitted","review":{"state":"commented","body":"Nice."},"pull_request":{"number":7},"repository":{"full_name":"ada-org/engine"}}`},
	{name: "review that is dismissed", preset: "github.review", body: `{"action":"dismissed","review":{"state":"dismissed"},"pull_request":{"number":7},"repository":{"full_name":"ada-org/engine"}}`},
	{name: "pull request", preset: "github.review", body: `{"action":"opened","number":7,"pull_request":{"number":7},"repository":{"full_name":"ada-org/engine"}}`},

	{name: "run that succeeds", preset: "github.workflow_run", then: "resolve", key: "github:run:30433642", body: `{"action":"completed","workflow_run":{"id":30433642,"conclusion":"success","run_attempt":1}}`},
	{name: "run that is skipped", preset: "github.workflow_run", then: "resolve", key: "github:run:30433642", body: `{"action":"completed","workflow_run":{"id":30433642,"conclusion":"skipped"}}`},
	{name: "run that fails", preset: "github.workflow_run", then: "reject", key: "github:run:9007199254740993", message: "the workflow run ended with failure", body: `{"action":"completed","workflow_run":{"id":9007199254740993,"conclusion":"failure"}}`},
	{name: "run that times out", preset: "github.workflow_run", then: "reject", key: "github:run:1", message: "the workflow run ended with timed_out", body: `{"action":"completed","workflow_run":{"id":1,"conclusion":"timed_out"}}`},
	{name: "run that waits for a person", preset: "github.workflow_run", body: `{"action":"completed","workflow_run":{"id":1,"conclusion":"action_required"}}`},
	{name: "run that begins", preset: "github.workflow_run", body: `{"action":"requested","workflow_run":{"id":1,"conclusion":null}}`},

	{
		name: "button that resolves", preset: "slack.button", then: "resolve", key: "slack:order-42",
		body:  `{"type":"block_actions","token":"verification-token","trigger_id":"1.2.abc","response_url":"https://hooks.slack.example/actions/T1/2/3","user":{"id":"U1","username":"grace"},"team":{"id":"T1"},"channel":{"id":"C1","name":"orders"},"actions":[{"action_id":"promise.resolve","block_id":"b","value":"order-42","type":"button","action_ts":"1548426417.840180"}]}`,
		value: `{"actions":[{"action_id":"promise.resolve","action_ts":"1548426417.840180","block_id":"b","type":"button","value":"order-42"}],"channel":{"id":"C1","name":"orders"},"team":{"id":"T1"},"user":{"id":"U1","username":"grace"}}`,
	},
	{name: "button that rejects", preset: "slack.button", then: "reject", key: "slack:order-42", message: "rejected in Slack by grace", body: `{"type":"block_actions","user":{"id":"U1","username":"grace"},"actions":[{"action_id":"promise.reject","value":"order-42"}]}`},
	{name: "button of a user without a name", preset: "slack.button", then: "reject", key: "slack:order-42", message: "rejected in Slack by a user", body: `{"type":"block_actions","user":{"id":"U1"},"actions":[{"action_id":"promise.reject","value":"order-42"}]}`},
	{name: "another button", preset: "slack.button", body: `{"type":"block_actions","user":{"id":"U1"},"actions":[{"action_id":"open","value":"order-42"}]}`},
	{name: "modal", preset: "slack.button", body: `{"type":"view_submission","user":{"id":"U1"},"view":{"id":"V1"}}`},
}

func TestReadyRules(t *testing.T) {
	t.Parallel()
	tested := map[string]bool{}
	for _, c := range readyCases {
		tested[c.preset] = true
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			d := promise.SourceDefinition{KeyPrefix: c.preset[:1], HoldSeconds: 3600, Rules: []promise.SourceRule{{Preset: c.preset, HoldSeconds: pointer(60)}}}
			j := judgeOne(t, d, c.body)
			require.False(t, j.Failed, j.Reason)
			require.Equal(t, c.key, j.Key)
			if c.then == "" {
				require.Equal(t, "ignore", j.Then)
				require.Empty(t, j.Rule)
				return
			}
			require.Empty(t, j.Reason)
			require.Equal(t, c.then, j.Then)
			require.Equal(t, c.preset, j.Rule)
			require.EqualValues(t, 60e9, j.Hold)
			switch {
			case c.then == "reject":
				require.Equal(t, c.message, *j.Result.Message)
			case c.value == "":
				require.Equal(t, c.body, string(j.Result.Value))
			default:
				require.Equal(t, c.value, string(j.Result.Value))
			}
		})
	}
	for _, name := range rule.Ready() {
		require.True(t, tested[name], name)
	}
}

// A secret of the sender is in no part of a judgment, whether the promise resolves or
// rejects.
func TestReadyRulesStoreNoSecret(t *testing.T) {
	t.Parallel()
	stripe := func(kind string) string {
		return `{"type":"` + kind + `","data":{"object":{"id":"x_1","payment_status":"paid","client_secret":"planted","client_secret":"planted"}}}`
	}
	slack := func(action string) string {
		return `{"type":"block_actions","token":"planted","trigger_id":"planted","response_url":"https://planted.example","response_urls":[{"response_url":"planted"}],` +
			`"user":{"id":"U1"},"actions":[{"action_id":"` + action + `","value":"order-42"}]}`
	}
	for preset, bodies := range map[string][]string{
		"stripe.payment_intent":   {stripe("payment_intent.succeeded"), stripe("payment_intent.canceled")},
		"stripe.checkout_session": {stripe("checkout.session.completed"), stripe("checkout.session.async_payment_succeeded"), stripe("checkout.session.async_payment_failed"), stripe("checkout.session.expired")},
		"slack.button":            {slack("promise.resolve"), slack("promise.reject")},
	} {
		for _, body := range bodies {
			t.Run(preset+" "+body[:48], func(t *testing.T) {
				t.Parallel()
				j := judgeOne(t, promise.SourceDefinition{KeyPrefix: "s", Rules: []promise.SourceRule{{Preset: preset}}}, body)
				require.False(t, j.Failed, j.Reason)
				require.Equal(t, preset, j.Rule)
				require.NotContains(t, string(j.Result.Value), "planted")
				if j.Result.Message != nil {
					require.NotContains(t, *j.Result.Message, "planted")
				}
				require.NotContains(t, j.Key+j.EventID+j.Reason, "planted")
			})
		}
	}
}

// Ready and Expand have the same names, and the caller may change what Expand returns.
func TestExpand(t *testing.T) {
	t.Parallel()
	require.Equal(t, []string{"github.review", "github.workflow_run", "slack.button", "stripe.charge", "stripe.checkout_session", "stripe.payment_intent"}, rule.Ready())
	for _, name := range rule.Ready() {
		rules, ok := rule.Expand(name)
		require.True(t, ok)
		require.NotEmpty(t, rules)
		rules[0].Key = "changed"
		again, _ := rule.Expand(name)
		require.NotEqual(t, "changed", again[0].Key)
		for _, r := range again {
			require.NotEmpty(t, r.When, "a ready-made rule has a condition")
		}
	}
	_, ok := rule.Expand("stripe")
	require.False(t, ok)
}

// Ready-made rules and others work together, and each has its own name.
func TestReadyRulesAmongOthers(t *testing.T) {
	t.Parallel()
	d := promise.SourceDefinition{KeyPrefix: "stripe:", Rules: []promise.SourceRule{
		{When: "body.livemode == false", Then: "ignore"}, {Preset: "stripe.charge"}, resolve("body.type == 'payout.paid'", "'stripe:' + body.data.object.id"),
	}}
	require.Equal(t, "1", judgeOne(t, d, `{"livemode":false,"type":"charge.failed"}`).Rule)
	require.Equal(t, "stripe.charge", judgeOne(t, d, `{"livemode":true,"type":"charge.failed","data":{"object":{"id":"ch_1"}}}`).Rule)
	require.Equal(t, "3", judgeOne(t, d, `{"livemode":true,"type":"payout.paid","data":{"object":{"id":"po_1"}}}`).Rule)

	j := judgeOne(t, d, `{"livemode":true,"type":"charge.failed","data":{"object":{}}}`)
	require.True(t, j.Failed)
	require.Equal(t, "rule stripe.charge, key: no such key: id", j.Reason)
}
