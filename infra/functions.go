package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsec2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsiam"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslambda"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslogs"
	"github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"

	"github.com/flovyn/promises/infra/build"
	"github.com/flovyn/promises/shared/config"
	"github.com/flovyn/promises/shared/routes"
)

// binaries is the path of a folder with the functions, built for deployment.
type binaries string

func buildFunctions(ctx context.Context) (binaries, error) {
	dir, err := os.MkdirTemp("", "promises-infra-")
	if err != nil {
		return "", err
	}
	if err := build.Functions(ctx, dir, build.Lambda); err != nil {
		os.RemoveAll(dir)
		return "", err
	}
	return binaries(dir), nil
}

// hash returns the SHA-256 of the function's binary, in hex.
func (b binaries) hash(function string) (string, error) {
	code, err := os.ReadFile(build.Binary(string(b), function))
	sum := sha256.Sum256(code)
	return hex.EncodeToString(sum[:]), err
}

const logLevel = "info"

// A function is an entry of routes.Functions with the settings that only the stack knows.
type function struct {
	routes.Function
	groups      []awsec2.ISecurityGroup // none: the function runs outside the VPC
	environment map[string]string
	statements  []awsiam.PolicyStatement
}

func newFunction(scope constructs.Construct, s settings, n network, code binaries, f function) awslambda.Function {
	stack := awscdk.Stack_Of(scope)
	name := s.stackName() + "-" + f.Name
	log := newLogGroup(scope, "Log", "/aws/lambda/"+name, s)
	role := awsiam.NewRole(scope, jsii.String("Role"), &awsiam.RoleProps{
		AssumedBy:   awsiam.NewServicePrincipal(jsii.String("lambda.amazonaws.com"), nil),
		Description: jsii.String(name),
	})
	log.GrantWrite(role)
	statements := f.statements
	if f.groups != nil {
		statements = append(slices.Clone(statements), vpcStatements(stack, name)...)
	}
	for _, statement := range statements {
		role.AddToPolicy(statement)
	}
	pointers := map[string]*string{}
	for k, v := range f.environment {
		pointers[k] = jsii.String(v)
	}

	props := &awslambda.FunctionProps{
		FunctionName: jsii.String(name),
		Runtime:      awslambda.Runtime_PROVIDED_AL2023(),
		Architecture: awslambda.Architecture_ARM_64(),
		Code:         awslambda.Code_FromAsset(jsii.String(filepath.Dir(build.Binary(string(code), f.Name))), nil),
		Handler:      jsii.String("bootstrap"),
		Environment:  &pointers,
		Role:         role,
		LogGroup:     log,
		// The functions write JSON themselves. Lambda's JSON log format would drop
		// the lines that carry metrics.
		LoggingFormat: awslambda.LoggingFormat_TEXT,
		MemorySize:    jsii.Number(f.MemoryMB),
		Timeout:       awscdk.Duration_Seconds(jsii.Number(f.Timeout.Seconds())),
		Tracing:       awslambda.Tracing_ACTIVE,
	}
	if f.groups != nil {
		props.Vpc, props.VpcSubnets, props.SecurityGroups = n.vpc, n.subnets, &f.groups
	}
	if s.Large {
		props.ReservedConcurrentExecutions = jsii.Number(concurrency[f.Name])
	}
	return awslambda.NewFunction(scope, jsii.String("Function"), props)
}

// environment returns the variables of a function in the VPC: the values that all of
// them share, with the given ones.
func environment(s settings, function string, given map[string]string) map[string]string {
	all := map[string]string{
		"DB_EXEC_MODE":       "exec",
		"DB_IAM_AUTH":        "true",
		"DB_PASSWORD_SECRET": "",
		"HTTP_ALIAS":         routes.HTTPAlias,
		"LOG_LEVEL":          logLevel,
		"MAX_SENDS":          strconv.Itoa(maxSends(s)),
		"MAX_VALUE_BYTES":    strconv.Itoa(1 << 20),
		"MAX_WAITS":          strconv.Itoa(maxWaits(s)),
		"PUBLIC_URL":         "",
		"RETENTION_DAYS":     strconv.Itoa(s.RetentionDays),
		"SEALING_KEYS":       "",
		"SEND_FUNCTION":      "",
		"SIGNING_KEY":        "",
		"SOURCE_URL_KEY":     "",
		"TOKEN_KEYS":         "",
	}
	maps.Copy(all, given)
	if names, read := slices.Sorted(maps.Keys(all)), deployedNames(); !slices.Equal(names, read) {
		panic(fmt.Sprintf("function %s: the environment sets %v, but the code reads %v", function, names, read))
	}
	return all
}

// deployedNames returns the variables of config.Names that a deployment sets. Only the
// local runner delivers to its own machine.
func deployedNames() []string {
	return slices.DeleteFunc(slices.Clone(config.Names), func(name string) bool { return name == "DELIVER_TO_LOOPBACK" })
}

// vpcStatements lets Lambda connect a function to the VPC, and denies the same actions
// to the function's code. Lambda and the code share one role; only
// lambda:SourceFunctionArn distinguishes their calls.
// https://docs.aws.amazon.com/lambda/latest/dg/configuration-vpc.html
func vpcStatements(stack awscdk.Stack, functionName string) []awsiam.PolicyStatement {
	actions := jsii.Strings(
		"ec2:AssignPrivateIpAddresses", "ec2:CreateNetworkInterface", "ec2:DeleteNetworkInterface",
		"ec2:DescribeNetworkInterfaces", "ec2:DescribeSubnets", "ec2:UnassignPrivateIpAddresses",
	)
	arn := stack.FormatArn(&awscdk.ArnComponents{
		Service: jsii.String("lambda"), Resource: jsii.String("function"),
		ArnFormat: awscdk.ArnFormat_COLON_RESOURCE_NAME, ResourceName: jsii.String(functionName),
	})
	return []awsiam.PolicyStatement{
		awsiam.NewPolicyStatement(&awsiam.PolicyStatementProps{
			Sid: jsii.String("ConnectToVpc"), Actions: actions, Resources: jsii.Strings("*"),
		}),
		awsiam.NewPolicyStatement(&awsiam.PolicyStatementProps{
			Sid: jsii.String("ButNotFromCode"), Effect: awsiam.Effect_DENY, Actions: actions, Resources: jsii.Strings("*"),
			Conditions: &map[string]any{"ArnEquals": map[string]any{"lambda:SourceFunctionArn": arn}},
		}),
	}
}

func logRetention(s settings) awslogs.RetentionDays {
	if s.guarded() {
		return awslogs.RetentionDays_THREE_MONTHS
	}
	return awslogs.RetentionDays_ONE_WEEK
}

// newLogGroup creates a log group. If name is empty, CloudFormation chooses the name.
func newLogGroup(scope constructs.Construct, id, name string, s settings) awslogs.LogGroup {
	var given *string
	if name != "" {
		given = jsii.String(name)
	}
	return awslogs.NewLogGroup(scope, jsii.String(id), &awslogs.LogGroupProps{
		LogGroupName: given, Retention: logRetention(s), RemovalPolicy: removal(s),
	})
}

func readSecretStatement(arn *string) awsiam.PolicyStatement {
	return secretStatement(arn, "GetSecretValue")
}

func secretStatement(arn *string, actions ...string) awsiam.PolicyStatement {
	for i, action := range actions {
		actions[i] = "secretsmanager:" + action
	}
	return awsiam.NewPolicyStatement(&awsiam.PolicyStatementProps{Actions: jsii.Strings(actions...), Resources: jsii.Strings(*arn)})
}
