package main

import (
	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsec2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsiam"
	"github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"
)

// A network is a VPC without an internet gateway and without NAT. Functions in it reach
// Postgres and three AWS services:
//
//   - Secrets Manager: the functions read their keys there; migrate reads the master
//     user's password and writes the signing key and the sealing keys
//   - S3: migrate reports the result of the migration to CloudFormation there
//   - Lambda: relay-deliveries and manage-integrations invoke send-deliveries there
//
// Lambda sends logs, metrics and traces outside the VPC.
type network struct {
	vpc     awsec2.IVpc
	secrets awsec2.InterfaceVpcEndpoint
	// secretsGroup holds the rules that let functions connect to the endpoint secrets.
	// The endpoint does not depend on those rules, so dependents must name both.
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
		props.MaxAzs = jsii.Number(2) // CloudFormation takes the account's first two
	}
	vpc := awsec2.NewVpc(scope, jsii.String("Vpc"), props)
	// The CDK has a function that closes the default security group. Its own log group
	// would never expire.
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

// allowSecret lets calls that read the secret pass the endpoint, which blocks all calls
// that no statement allows. The roles decide which functions may read it.
func (n network) allowSecret(arn *string) { n.allow(readSecretStatement(arn)) }

func (n network) allow(statement awsiam.PolicyStatement) {
	statement.AddAnyPrincipal()
	n.secrets.AddToPolicy(statement)
}

// newSecurityGroup creates a security group that allows no traffic in or out.
func newSecurityGroup(scope constructs.Construct, id string, vpc awsec2.IVpc, description string) awsec2.SecurityGroup {
	return awsec2.NewSecurityGroup(scope, jsii.String(id), &awsec2.SecurityGroupProps{
		Vpc: vpc, Description: jsii.String(description), AllowAllOutbound: jsii.Bool(false),
	})
}
