package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A fault in an ARN is named, with the form that the ARN must have.
func TestRefusedRights(t *testing.T) {
	t.Parallel()
	const account = "us-east-1:123456789012:"
	for _, c := range []struct{ name, setting, value, message string }{
		{"wildcard", "stateMachines", "arn:aws:states:" + account + "stateMachine:*", "must have the form arn:aws:states:REGION:ACCOUNT:stateMachine:NAME; wildcards are not allowed"},
		{"wildcard in a name", "stateMachines", "arn:aws:states:" + account + "stateMachine:orders-?", "must have the form"},
		{"wildcard for the region", "destinations", "arn:aws:sqs:*:123456789012:orders", "must have the form arn:aws:sqs:REGION:ACCOUNT:NAME"},
		{"wildcard for the account", "destinations", "arn:aws:sqs:us-east-1:*:orders", "must have the form"},
		{"everything", "destinations", "*", `"*" must be the ARN of a resource of sqs, sns, events, lambda, iam, ses, kms, in full and without wildcards`},
		{"a policy variable", "destinations", "arn:aws:sqs:" + account + "${aws:username}", "must have the form"},
		{"an execution", "stateMachines", "arn:aws:states:" + account + "execution:orders:1", "must have the form"},
		{"another service", "stateMachines", "arn:aws:sqs:" + account + "orders", "must be the ARN of a resource of states"},
		{"a table", "destinations", "arn:aws:dynamodb:" + account + "table/orders", "must be the ARN of a resource of sqs"},
		{"a URL", "destinations", "https://sqs.us-east-1.amazonaws.com/123456789012/orders", "must be the ARN of a resource of sqs"},
		{"white space", "destinations", " arn:aws:sqs:" + account + "orders", `" arn:aws:sqs:us-east-1:123456789012:orders" must have the form`},
		{"a space after a comma", "destinations", "arn:aws:sqs:" + account + "orders, arn:aws:sqs:" + account + "refunds", `" arn:aws:sqs:us-east-1:123456789012:refunds" must have the form`},
		{"a comma at the end", "destinations", "arn:aws:sqs:" + account + "orders,", `"" must be the ARN`},
		{"twice", "destinations", "arn:aws:sqs:" + account + "orders,arn:aws:sqs:" + account + "orders", `orders" occurs twice`},
		{"a durable function's version", "durableFunctions", "arn:aws:lambda:" + account + "function:approve:1", "without a version or an alias"},
		{"a durable function's versions", "durableFunctions", "arn:aws:lambda:" + account + "function:approve:*", "without a version or an alias"},
		{"a function's versions", "destinations", "arn:aws:lambda:" + account + "function:orders:*", "must have the form arn:aws:lambda"},
		{"a layer", "destinations", "arn:aws:lambda:" + account + "layer:orders", "must have the form arn:aws:lambda"},
		{"a subscription", "destinations", "arn:aws:sns:" + account + "orders:12345678-1234-1234-1234-123456789012", "must have the form arn:aws:sns"},
		{"a rule", "destinations", "arn:aws:events:" + account + "rule/orders", "must have the form arn:aws:events"},
		{"a user", "destinations", "arn:aws:iam::123456789012:user/anna", "must have the form arn:aws:iam::ACCOUNT:role/NAME"},
		{"all roles below a path", "destinations", "arn:aws:iam::123456789012:role/partners/*", "must have the form arn:aws:iam"},
		{"a role without a name", "destinations", "arn:aws:iam::123456789012:role/partners/", "must have the form arn:aws:iam"},
		{"a template of SES", "destinations", "arn:aws:ses:" + account + "template/orders", "must have the form arn:aws:ses"},
		{"an alias of a key", "destinations", "arn:aws:kms:" + account + "alias/orders", "which is not an alias"},
		{"a function of this service", "destinations", "arn:aws:lambda:" + account + "function:promises-production-resolve-by-id", "is a function of this service"},
		{"the alias of a function of this service", "destinations", "arn:aws:lambda:" + account + "function:promises-dev-resolve:http", "is a function of this service"},
		{"too many", "destinations", manyQueues(100), "and 2500 fit into the policy: use a role"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := readSettings(map[string]any{c.setting: c.value})
			require.ErrorContains(t, err, "-c "+c.setting+"="+c.value+": ")
			require.ErrorContains(t, err, c.message)
		})
	}
}

func TestAcceptedRights(t *testing.T) {
	t.Parallel()
	for setting, values := range map[string][]string{
		"stateMachines":    {"arn:aws-us-gov:states:us-gov-west-1:123456789012:stateMachine:Orders_1"},
		"durableFunctions": {"arn:aws-cn:lambda:cn-north-1:123456789012:function:approve"},
		"destinations": append([]string{
			"arn:aws:events:eu-west-1:123456789012:event-bus/default", "arn:aws:lambda:eu-west-1:123456789012:function:orders",
			"arn:aws:lambda:eu-west-1:123456789012:function:orders:$LATEST", "arn:aws:lambda:eu-west-1:123456789012:function:promises-consumer",
			"arn:aws:ses:eu-west-1:123456789012:identity/promises+alarms@example.com", "arn:aws:sns:eu-west-1:123456789012:orders.fifo",
			"arn:aws:kms:eu-west-1:123456789012:key/mrk-1234567890abcdef1234567890abcdef", manyQueues(60),
		}, sampleDestinations...),
	} {
		for _, value := range values {
			t.Run(setting+"="+value, func(t *testing.T) {
				s, err := readSettings(map[string]any{setting: value})
				require.NoError(t, err)
				require.Equal(t, strings.Split(value, ","), *s.arns(setting))
			})
		}
	}
}

func manyQueues(n int) string {
	var arns []string
	for i := range n {
		arns = append(arns, fmt.Sprintf("arn:aws:sqs:us-east-1:123456789012:q%d", i))
	}
	return strings.Join(arns, ",")
}
