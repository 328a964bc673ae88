package main

import (
	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsec2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsiam"
	"github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"
)

// network is a VPC without a way in or out: no internet gateway, no NAT. What
// runs in it reaches Postgres and the two services that it needs:
//
//   - Secrets Manager: the functions read the keys of promise tokens there, migrate
//     reads the master user's password and writes the signing key
//   - S3, where CloudFormation wants to be told how the migration went
//
// Logs, metrics and traces leave Lambda by ways of its own.
type network struct {
	vpc     awsec2.IVpc
	secrets awsec2.InterfaceVpcEndpoint
	// secretsGroup has the rules that let functions in to secrets, which depends on
	// none of them.
	secretsGroup awsec2.SecurityGroup
	s3           awsec2.GatewayVpcEndpoint
	subnets      *awsec2.SubnetSelection
}

func newNetwork(parent constructs.Construct, s settings) network {
	scope := constructs.NewConstruct(parent, jsii.String("Network"))
	subnets := &awsec2.SubnetSelection{SubnetType: awsec2.SubnetType_PRIVATE_ISOLATED}
	props := &awsec2.VpcProps{
		IpAddresses:                  awsec2.IpAddresses_Cidr(jsii.String("10.0.0.0/20")),
		NatGateways:                  jsii.Number(0),
		CreateInternetGateway:        jsii.Bool(false),
		RestrictDefaultSecurityGroup: jsii.Bool(true),
		SubnetConfiguration: &[]*awsec2.SubnetConfiguration{{
			Name: jsii.String("isolated"), SubnetType: awsec2.SubnetType_PRIVATE_ISOLATED, CidrMask: jsii.Number(23),
		}},
	}
	if s.Zones != nil {
		props.AvailabilityZones = jsii.Strings(s.Zones...)
	} else {
		props.MaxAzs = jsii.Number(2) // the first two of the account
	}
	vpc := awsec2.NewVpc(scope, jsii.String("Vpc"), props)
	// The CDK's function that closes the default security group would make a log
	// group that is kept for ever.
	closer := awscdk.Stack_Of(scope).Node().FindChild(jsii.String("Custom::VpcRestrictDefaultSGCustomResourceProvider"))
	closer.Node().FindChild(jsii.String("Handler")).(awscdk.CfnResource).AddPropertyOverride(
		jsii.String("LoggingConfig.LogGroup"), newLogGroup(scope, "DefaultSecurityGroupLog", "", s).LogGroupName())

	vpc.AddFlowLog(jsii.String("Rejected"), &awsec2.FlowLogOptions{
		TrafficType: awsec2.FlowLogTrafficType_REJECT,
		Destination: awsec2.FlowLogDestination_ToCloudWatchLogs(newLogGroup(scope, "RejectedLog", "", s), nil),
	})

	s3 := vpc.AddGatewayEndpoint(jsii.String("S3"), &awsec2.GatewayVpcEndpointOptions{
		Service: awsec2.GatewayVpcEndpointAwsService_S3(),
		Subnets: &[]*awsec2.SubnetSelection{subnets},
	})
	s3.AddToPolicy(awsiam.NewPolicyStatement(&awsiam.PolicyStatementProps{
		Principals: &[]awsiam.IPrincipal{awsiam.NewAnyPrincipal()},
		Actions:    jsii.Strings("s3:PutObject"),
		Resources: jsii.Strings(*awscdk.Stack_Of(scope).FormatArn(&awscdk.ArnComponents{
			Service: jsii.String("s3"), Region: jsii.String(""), Account: jsii.String(""),
			Resource: jsii.String("cloudformation-custom-resource-response-*"),
		})),
	}))

	secretsGroup := newSecurityGroup(scope, "SecretsManagerEndpoint", vpc, "The endpoint of Secrets Manager")
	secrets := vpc.AddInterfaceEndpoint(jsii.String("SecretsManager"), &awsec2.InterfaceVpcEndpointOptions{
		Service: awsec2.InterfaceVpcEndpointAwsService_SECRETS_MANAGER(),
		Subnets: subnets,
		Open:    jsii.Bool(false), SecurityGroups: &[]awsec2.ISecurityGroup{secretsGroup},
	})
	return network{vpc: vpc, secrets: secrets, secretsGroup: secretsGroup, s3: s3, subnets: subnets}
}

// allowSecret lets the secret be read through the endpoint, which lets through
// nothing else. Who may read it is for the roles to say.
func (n network) allowSecret(arn *string) { n.allow(readsSecret(arn)) }

func (n network) allow(statement awsiam.PolicyStatement) {
	statement.AddAnyPrincipal()
	n.secrets.AddToPolicy(statement)
}

// newSecurityGroup is closed, in and out, until something is allowed.
func newSecurityGroup(scope constructs.Construct, id string, vpc awsec2.IVpc, of string) awsec2.SecurityGroup {
	return awsec2.NewSecurityGroup(scope, jsii.String(id), &awsec2.SecurityGroupProps{
		Vpc: vpc, Description: jsii.String(of), AllowAllOutbound: jsii.Bool(false),
	})
}
