package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/routes"
)

var sampleDestinations = []string{
	"arn:aws:sqs:us-east-1:123456789012:orders.fifo", "arn:aws:sns:us-east-1:123456789012:orders", "arn:aws:events:us-east-1:123456789012:event-bus/orders",
	"arn:aws:lambda:us-east-1:123456789012:function:orders:live", "arn:aws:iam::210987654321:role/partners/orders", "arn:aws:ses:us-east-1:123456789012:identity/example.com",
	"arn:aws:kms:us-east-1:123456789012:key/12345678-1234-1234-1234-123456789012", "arn:aws:sqs:eu-west-1:123456789012:refunds",
}

var sendingFacts = []fact{
	{"send-deliveries has no way to the database", func(t *testing.T, tmpl template) {
		_, r := tmpl.function(t, "send-deliveries")
		require.NotContains(t, r.Properties, "VpcConfig")
		require.Equal(t, map[string]any{"LOG_LEVEL": "info"}, tmpl.functionVariables(t, "send-deliveries"))
	}},
	{"send-deliveries may log, write traces, use what the settings name, and nothing else", func(t *testing.T, tmpl template) {
		require.Equal(t, tmpl.sendRights(), tmpl.allowed(t, "send-deliveries"))
	}},
	{"send-deliveries may use a key only through SQS and SNS", func(t *testing.T, tmpl template) {
		keys := 0
		for _, r := range tmpl.ofType("AWS::IAM::Policy") {
			for _, s := range r.Properties["PolicyDocument"].(map[string]any)["Statement"].([]any) {
				if s := s.(map[string]any); strings.Contains(text(t, s["Action"]), "kms:") {
					keys++
					require.JSONEq(t, `{"StringLike":{"kms:ViaService":["sns.*.amazonaws.com*","sqs.*.amazonaws.com*"]}}`, text(t, s["Condition"]))
				}
			}
		}
		require.Equal(t, tmpl.settings["destinations"] != "", keys == 1)
	}},
	{"only manage-integrations and relay-deliveries may invoke send-deliveries", func(t *testing.T, tmpl template) {
		id, _ := tmpl.function(t, "send-deliveries")
		var allowed []string
		for _, f := range routes.Functions {
			for resource, actions := range tmpl.allowed(t, f.Name) {
				if strings.Contains(resource, id+`"`) {
					require.JSONEq(t, `{"Fn::GetAtt":["`+id+`","Arn"]}`, resource, "without a qualifier")
					require.Equal(t, []string{"lambda:InvokeFunction"}, actions, f.Name)
					allowed = append(allowed, f.Name)
				}
			}
		}
		require.ElementsMatch(t, routes.Sending, allowed)
		for _, kind := range []string{"AWS::Lambda::Permission", "AWS::Lambda::Alias", "AWS::IAM::ManagedPolicy", "AWS::Scheduler::Schedule"} {
			for other, r := range tmpl.ofType(kind) {
				require.NotContains(t, text(t, r.Properties), `"`+id+`"`, other)
			}
		}
	}},
	{"only they get its name", func(t *testing.T, tmpl template) {
		id, _ := tmpl.function(t, "send-deliveries")
		eachInVPC(func(f routes.Function) {
			name := tmpl.functionVariables(t, f.Name)["SEND_FUNCTION"]
			if slices.Contains(routes.Sending, f.Name) {
				require.Equal(t, map[string]any{"Ref": id}, name, f.Name)
			} else {
				require.Equal(t, "", name, f.Name)
			}
		})
	}},
	{"the endpoint of Lambda lets only invocations of send-deliveries pass", func(t *testing.T, tmpl template) {
		id, _ := tmpl.function(t, "send-deliveries")
		r := tmpl.lambdaEndpoint(t)
		require.Equal(t, true, r.Properties["PrivateDnsEnabled"])
		require.JSONEq(t, `[{"Effect":"Allow","Principal":{"AWS":"*"},"Action":"lambda:InvokeFunction","Resource":{"Fn::GetAtt":["`+id+`","Arn"]}}]`,
			text(t, r.Properties["PolicyDocument"].(map[string]any)["Statement"]))
	}},
	{"only they can connect to the endpoint of Lambda", func(t *testing.T, tmpl template) {
		groups := tmpl.lambdaEndpoint(t).Properties["SecurityGroupIds"].([]any)
		require.Len(t, groups, 1)
		require.NotContains(t, tmpl.Resources[target(groups[0])].Properties, "SecurityGroupIngress")
		var from []string
		for _, rule := range tmpl.ofType("AWS::EC2::SecurityGroupIngress") {
			if target(rule.Properties["GroupId"]) == target(groups[0]) {
				require.EqualValues(t, 443, rule.Properties["ToPort"])
				from = append(from, target(rule.Properties["SourceSecurityGroupId"]))
			}
		}
		require.Len(t, from, 1)
		eachInVPC(func(f routes.Function) {
			_, r := tmpl.function(t, f.Name)
			require.Equal(t, slices.Contains(routes.Sending, f.Name), strings.Contains(text(t, r.Properties["VpcConfig"]), `"`+from[0]+`"`), f.Name)
		})
	}},
}

// lambdaEndpoint returns the interface endpoint of Lambda.
func (tmpl template) lambdaEndpoint(t *testing.T) resource {
	t.Helper()
	for _, r := range tmpl.ofType("AWS::EC2::VPCEndpoint") {
		if joined(r.Properties["ServiceName"]) == "com.amazonaws.{Region}.lambda" {
			return r
		}
	}
	require.Fail(t, "the template has no endpoint of Lambda")
	return resource{}
}

// sendRights returns what the settings allow send-deliveries to do, by resource.
func (tmpl template) sendRights() map[string][]string {
	rights := map[string][]string{
		`"*"`: {"xray:PutTelemetryRecords", "xray:PutTraceSegments"},
	}
	for id := range tmpl.ofType("AWS::Logs::LogGroup") {
		if strings.HasPrefix(id, "Functionssenddeliveries") {
			rights[`{"Fn::GetAtt":["`+id+`","Arn"]}`] = []string{"logs:CreateLogStream", "logs:PutLogEvents"}
		}
	}
	if tmpl.settings["stateMachines"] != "" {
		for _, name := range []string{"us-east-1:123456789012:stateMachine:orders", "us-west-2:123456789012:stateMachine:refunds"} {
			rights[`"arn:aws:states:`+name+`"`] = []string{"states:SendTaskFailure", "states:SendTaskSuccess"}
		}
	}
	if tmpl.settings["durableFunctions"] != "" {
		rights[`"arn:aws:lambda:us-east-1:123456789012:function:approve:*"`] = []string{
			"lambda:SendDurableExecutionCallbackFailure", "lambda:SendDurableExecutionCallbackSuccess",
		}
	}
	if tmpl.settings["destinations"] != "" {
		for i, actions := range [][]string{
			{"sqs:SendMessage"}, {"sns:Publish"}, {"events:PutEvents"}, {"lambda:InvokeFunction"}, {"sts:AssumeRole"}, {"ses:SendEmail"},
			{"kms:Decrypt", "kms:GenerateDataKey"}, {"sqs:SendMessage"},
		} {
			rights[`"`+sampleDestinations[i]+`"`] = actions
		}
	}
	return rights
}

// allowed returns the actions that the policies of a function's role allow, in order, by the JSON of their resource. It fails
// if a role has no policy.
func (tmpl template) allowed(t *testing.T, function string) map[string][]string {
	t.Helper()
	_, f := tmpl.function(t, function)
	allowed := map[string][]string{}
	for _, r := range tmpl.ofType("AWS::IAM::Policy") {
		if !strings.Contains(text(t, r.Properties["Roles"]), `"`+target(f.Properties["Role"])+`"`) {
			continue
		}
		for _, s := range r.Properties["PolicyDocument"].(map[string]any)["Statement"].([]any) {
			s := s.(map[string]any)
			if s["Effect"] != "Allow" {
				continue
			}
			require.Nil(t, s["NotResource"])
			for _, resource := range list(s["Resource"]) {
				for _, action := range list(s["Action"]) {
					name := text(t, resource)
					allowed[name] = append(allowed[name], action.(string))
					slices.Sort(allowed[name])
				}
			}
		}
	}
	require.NotEmpty(t, allowed, function)
	return allowed
}

func list(v any) []any {
	if all, ok := v.([]any); ok {
		return all
	}
	return []any{v}
}
