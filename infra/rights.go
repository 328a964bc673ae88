package main

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/aws/aws-cdk-go/awscdk/v2/awsiam"
	"github.com/aws/jsii-runtime-go"

	"github.com/flovyn/promises/shared/routes"
)

// A right lets send-deliveries use the resources with one form of ARN.
type right struct {
	form    string         // of the ARN, for messages
	pattern *regexp.Regexp // of the ARN; it accepts no wildcard
	actions []string
	suffix  string   // added to the ARN in the policy
	through []string // if set, the services that must make the call for the function
}

// arnPattern returns the pattern of an ARN in a region and an account.
func arnPattern(service, resource string) *regexp.Regexp {
	return regexp.MustCompile(`^arn:aws(-[a-z]+)*:` + service + `:[a-z]{2,4}(-[a-z]+)+-[0-9]:[0-9]{12}:(` + resource + `)$`)
}

const functionName = `function:[A-Za-z0-9_-]{1,64}`

// sendRights lists, by setting, what send-deliveries may do with each resource.
var sendRights = map[string][]right{
	"stateMachines": {{
		form:    "arn:aws:states:REGION:ACCOUNT:stateMachine:NAME",
		pattern: arnPattern("states", `stateMachine:[A-Za-z0-9_.+=@-]{1,80}`),
		actions: []string{"states:SendTaskSuccess", "states:SendTaskFailure"},
	}},
	// Lambda authorizes a callback against the ARN of its durable execution, which begins
	// with the function, a version and a colon. An alias grants nothing.
	// https://docs.aws.amazon.com/lambda/latest/dg/durable-security.html
	"durableFunctions": {{
		form:    "arn:aws:lambda:REGION:ACCOUNT:function:NAME, without a version or an alias, because the right applies to every version",
		pattern: arnPattern("lambda", functionName),
		actions: []string{"lambda:SendDurableExecutionCallbackSuccess", "lambda:SendDurableExecutionCallbackFailure"},
		suffix:  ":*",
	}},
	"destinations": {
		{
			form:    "arn:aws:sqs:REGION:ACCOUNT:NAME",
			pattern: arnPattern("sqs", `[A-Za-z0-9_-]{1,80}|[A-Za-z0-9_-]{1,75}\.fifo`),
			actions: []string{"sqs:SendMessage"},
		}, {
			form:    "arn:aws:sns:REGION:ACCOUNT:NAME",
			pattern: arnPattern("sns", `[A-Za-z0-9_-]{1,256}|[A-Za-z0-9_-]{1,251}\.fifo`),
			actions: []string{"sns:Publish"},
		}, {
			form:    "arn:aws:events:REGION:ACCOUNT:event-bus/NAME",
			pattern: arnPattern("events", `event-bus/[A-Za-z0-9_./-]{1,256}`),
			actions: []string{"events:PutEvents"},
		}, {
			form:    "arn:aws:lambda:REGION:ACCOUNT:function:NAME, with the version or the alias of the destination if it has one",
			pattern: arnPattern("lambda", functionName+`(:([A-Za-z0-9_-]{1,128}|\$LATEST))?`),
			actions: []string{"lambda:InvokeFunction"},
		}, {
			form:    "arn:aws:iam::ACCOUNT:role/NAME",
			pattern: regexp.MustCompile(`^arn:aws(-[a-z]+)*:iam::[0-9]{12}:role/([A-Za-z0-9_+=.@-]+/)*[A-Za-z0-9_+=.@-]{1,64}$`),
			actions: []string{"sts:AssumeRole"},
		}, {
			form:    "arn:aws:ses:REGION:ACCOUNT:identity/DOMAIN or identity/ADDRESS",
			pattern: arnPattern("ses", `identity/([A-Za-z0-9_+=.-]+@)?[A-Za-z0-9.-]{1,253}`),
			actions: []string{"ses:SendEmail"},
		}, {
			form:    "arn:aws:kms:REGION:ACCOUNT:key/ID, which is not an alias",
			pattern: arnPattern("kms", `key/([0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|mrk-[0-9a-f]{32})`),
			actions: []string{"kms:Decrypt", "kms:GenerateDataKey"},
			through: []string{"sns.*.amazonaws.com*", "sqs.*.amazonaws.com*"},
		},
	},
}

// maxRightsBytes bounds the ARNs in one setting. The inline policies of a role hold
// 10,240 characters.
const maxRightsBytes = 2500

// checkRights returns the faults of the ARNs in a setting of sendRights, or "".
func checkRights(setting string, arns []string) string {
	var faults []string
	bytes := 0
	for i, arn := range arns {
		bytes += len(arn)
		if _, reason := findRight(setting, arn); reason != "" {
			faults = append(faults, reason)
		} else if slices.Contains(arns[:i], arn) {
			faults = append(faults, fmt.Sprintf("%q occurs twice", arn))
		}
	}
	if bytes > maxRightsBytes {
		faults = append(faults, fmt.Sprintf("the ARNs have %d characters, and %d fit into the policy: use a role with these rights, and name the role in destinations", bytes, maxRightsBytes))
	}
	return strings.Join(faults, "; ")
}

// findRight returns the right that an ARN in a setting stands for, or the reason why it
// stands for none.
func findRight(setting, arn string) (right, string) {
	parts := strings.Split(arn, ":")
	var forms []string
	for _, r := range sendRights[setting] {
		if r.pattern.MatchString(arn) {
			if name := parts[6:]; r.actions[0] == "lambda:InvokeFunction" && routes.PlainName(name[0]) != name[0] {
				return right{}, fmt.Sprintf("%q is a function of this service: a delivery must not invoke it", arn)
			}
			return r, ""
		}
		if len(parts) > 2 && strings.Split(r.form, ":")[2] == parts[2] {
			return right{}, fmt.Sprintf("%q must have the form %s; wildcards are not allowed", arn, r.form)
		}
		forms = append(forms, strings.Split(r.form, ":")[2])
	}
	return right{}, fmt.Sprintf("%q must be the ARN of a resource of %s, in full and without wildcards", arn, strings.Join(forms, ", "))
}

// sendStatements returns the rights of send-deliveries: none by default.
func (s settings) sendStatements() (statements []awsiam.PolicyStatement) {
	for _, setting := range slices.Sorted(maps.Keys(sendRights)) {
		for _, r := range sendRights[setting] {
			var resources []string
			for _, arn := range *s.arns(setting) {
				if r.pattern.MatchString(arn) {
					resources = append(resources, arn+r.suffix)
				}
			}
			if resources == nil {
				continue
			}
			props := &awsiam.PolicyStatementProps{Actions: jsii.Strings(r.actions...), Resources: jsii.Strings(resources...)}
			if r.through != nil {
				props.Conditions = &map[string]any{"StringLike": map[string]any{"kms:ViaService": r.through}}
			}
			statements = append(statements, awsiam.NewPolicyStatement(props))
		}
	}
	return statements
}
