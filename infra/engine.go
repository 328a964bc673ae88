package main

import (
	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsiam"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslambda"
	"github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"
)

// engineFunctions names the functions that a workflow engine may invoke.
var engineFunctions = []string{
	"cancel-promise", "create-promise", "extend-promise", "get-promise", "list-events", "reject", "resolve-by-id", "resolve-by-key",
	"wait-events", "wait-promise",
}

// newEnginePolicy creates the managed policy for the roles of workflow engines. It lets
// them invoke engineFunctions and nothing else. A direct invoke names its own tenant, so
// a role with this policy acts for every tenant. The ARNs have no qualifier: the policy
// must not allow the alias, because a function trusts the events that reach it there.
func newEnginePolicy(scope constructs.Construct, s settings, functions map[string]awslambda.Function) awsiam.ManagedPolicy {
	var arns []string
	for _, name := range engineFunctions {
		arns = append(arns, *functions[name].FunctionArn())
	}
	policy := awsiam.NewManagedPolicy(scope, jsii.String("EnginePolicy"), &awsiam.ManagedPolicyProps{
		ManagedPolicyName: withRegion(scope, s.stackName()+"-engine"),
		Description:       jsii.String("Lets a workflow engine create promises, settle them and read them"),
		Statements: &[]awsiam.PolicyStatement{awsiam.NewPolicyStatement(&awsiam.PolicyStatementProps{
			Actions: jsii.Strings("lambda:InvokeFunction"), Resources: jsii.Strings(arns...),
		})},
	})
	// If the policy's name changes, CloudFormation replaces it. The old policy is kept,
	// because the roles of engines still have it attached.
	policy.Node().DefaultChild().(awscdk.CfnResource).CfnOptions().SetUpdateReplacePolicy(awscdk.CfnDeletionPolicy_RETAIN)
	awscdk.Validations_Of(policy).Acknowledge(&awscdk.Acknowledgment{
		Id: jsii.String("CloudFormation-Validate::W3011"), Reason: jsii.String("the policy is deleted with its stack, because the functions that it names are deleted too"),
	})
	return policy
}
