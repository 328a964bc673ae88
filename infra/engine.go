package main

import (
	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsiam"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslambda"
	"github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"
)

// engineFunctions are those that a workflow engine invokes.
var engineFunctions = []string{
	"cancel-promise", "create-promise", "extend-promise", "get-promise", "list-events", "reject", "resolve-by-id", "resolve-by-key",
	"wait-events", "wait-promise",
}

// newEnginePolicy is for the roles of workflow engines: it lets them invoke
// engineFunctions and nothing else. A direct invoke names its tenant itself:
// whoever has this policy acts for every tenant. The ARNs have no qualifier, so
// that the policy does not allow the alias whose events a function believes.
func newEnginePolicy(scope constructs.Construct, s settings, functions map[string]awslambda.Function) awsiam.ManagedPolicy {
	var arns []string
	for _, name := range engineFunctions {
		arns = append(arns, *functions[name].FunctionArn())
	}
	policy := awsiam.NewManagedPolicy(scope, jsii.String("EnginePolicy"), &awsiam.ManagedPolicyProps{
		ManagedPolicyName: inRegion(scope, s.stackName()+"-engine"),
		Description:       jsii.String("Lets a workflow engine create promises, settle them and read them"),
		Statements: &[]awsiam.PolicyStatement{awsiam.NewPolicyStatement(&awsiam.PolicyStatementProps{
			Actions: jsii.Strings("lambda:InvokeFunction"), Resources: jsii.Strings(arns...),
		})},
	})
	// CloudFormation replaces a policy whose name changes. Engines still have the old one.
	policy.Node().DefaultChild().(awscdk.CfnResource).CfnOptions().SetUpdateReplacePolicy(awscdk.CfnDeletionPolicy_RETAIN)
	awscdk.Validations_Of(policy).Acknowledge(&awscdk.Acknowledgment{
		Id: jsii.String("CloudFormation-Validate::W3011"), Reason: jsii.String("with its stack, the policy goes: its functions do"),
	})
	return policy
}
