package main

import (
	"slices"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsec2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsiam"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslambda"
	"github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"

	"github.com/flovyn/promises/shared/routes"
)

// newOutsideFunctions creates the functions of routes.Outside. They have no way to the
// database: no place in the VPC, no address, no credentials and no secret. Their role
// allows only the rights of the settings StateMachines, DurableFunctions and
// Destinations.
func newOutsideFunctions(scope constructs.Construct, s settings, code binaries) map[string]awslambda.Function {
	functions := map[string]awslambda.Function{}
	for _, f := range routes.Functions {
		if slices.Contains(routes.Outside, f.Name) {
			functions[f.Name] = newFunction(constructs.NewConstruct(scope, jsii.String(f.Name)), s, network{}, code, function{
				Function: f, environment: map[string]string{"LOG_LEVEL": logLevel}, statements: s.sendStatements(),
			})
		}
	}
	awscdk.NewCfnOutput(awscdk.Stack_Of(scope), jsii.String("SenderRoleArn"), &awscdk.CfnOutputProps{
		Description: jsii.String("ARN of the role of send-deliveries, which roles and resources of other accounts must allow"),
		Value:       functions["send-deliveries"].Role().RoleArn(),
	})
	return functions
}

// sending lets the functions of routes.Sending invoke send-deliveries through the
// Lambda endpoint of the VPC.
type sending struct {
	function awslambda.Function
	group    awsec2.SecurityGroup // only this group may connect to the endpoint
}

// newSending creates the endpoint. It lets no call pass except an invocation of sender.
func newSending(parent constructs.Construct, n network, sender awslambda.Function) sending {
	scope := constructs.NewConstruct(parent, jsii.String("Sending"))
	endpoint := awsec2.NewInterfaceVpcEndpoint(scope, jsii.String("Lambda"), &awsec2.InterfaceVpcEndpointProps{
		Vpc: n.vpc, Subnets: n.subnets,
		Service: awsec2.InterfaceVpcEndpointAwsService_LAMBDA(), PrivateDnsEnabled: jsii.Bool(true),
		Open: jsii.Bool(false), SecurityGroups: &[]awsec2.ISecurityGroup{newSecurityGroup(scope, "LambdaEndpoint", n.vpc, "The endpoint of Lambda")},
	})
	to := sending{function: sender, group: newSecurityGroup(scope, "SecurityGroup", n.vpc, "The functions that invoke send-deliveries")}
	endpoint.Connections().AllowDefaultPortFrom(to.group, jsii.String("from the functions that invoke send-deliveries"))
	statement := to.statement()
	statement.AddAnyPrincipal()
	endpoint.AddToPolicy(statement)
	return to
}

// statement allows an invocation of send-deliveries, without a qualifier.
func (s sending) statement() awsiam.PolicyStatement {
	return awsiam.NewPolicyStatement(&awsiam.PolicyStatementProps{
		Actions: jsii.Strings("lambda:InvokeFunction"), Resources: &[]*string{s.function.FunctionArn()},
	})
}
