package main

import (
	"maps"
	"slices"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsec2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsiam"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslambda"
	"github.com/aws/aws-cdk-go/awscdk/v2/awssecretsmanager"
	"github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"

	"github.com/flovyn/promises/shared/routes"
)

// newService creates the stack of a stage.
func newService(app awscdk.App, s settings, code binaries) error {
	if err := checkFleet(s); err != nil {
		return err
	}
	stack := awscdk.NewStack(app, jsii.String(s.stackName()), &awscdk.StackProps{
		Description:           jsii.String("Durable promises for workflow engines, stage " + s.Stage),
		TerminationProtection: jsii.Bool(s.guarded()),
		AnalyticsReporting:    jsii.Bool(false),
	})

	n := newNetwork(stack, s)
	db := newDatabase(stack, s, n)
	roles := map[string]bool{}
	var migrate routes.Function
	for _, f := range routes.Functions {
		if f.Name == "migrate" {
			migrate = f
		} else if f.Role != "" {
			roles[f.Role] = true
		}
	}
	queue := newDeadLetterQueue(stack)
	schema, err := newMigration(stack, s, n, db, code, migrate, queue)
	if err != nil {
		return err
	}
	p := newProxy(stack, s, n, db, schema, slices.Sorted(maps.Keys(roles)))
	a := newAPI(stack, s)
	functions := newFunctions(stack, s, n, p, a, schema, code)
	for _, f := range functions {
		changed := f.Node().DefaultChild().(awslambda.CfnFunction)
		changed.AddResourceDependency(schema.resource.Node().DefaultChild().(awscdk.CfnResource), nil)
		changed.AddResourceDependency(p.connectPolicy, nil) // else a function with a new user could not connect yet
	}
	// The sweep changes last: the previous release's functions do not find a default
	// value in the place to which this release's sweep writes it.
	for _, f := range functions {
		if sweep := functions["expire-promises"]; f != sweep {
			sweep.Node().DefaultChild().(awslambda.CfnFunction).AddResourceDependency(f.Node().DefaultChild().(awscdk.CfnResource), nil)
		}
	}
	updateSignersAfterVerifiers(functions)
	a.addTableRoutes(functions)
	newSchedules(stack, functions, queue)
	policy := newEnginePolicy(stack, s, functions)
	functions[migrate.Name] = schema.function
	m := monitored{functions: functions, api: a, proxy: p, database: db, deadLetters: queue}
	newAlarms(stack, s, m)
	newDashboard(stack, s, m)

	output := func(id, description string, value *string) {
		awscdk.NewCfnOutput(stack, jsii.String(id), &awscdk.CfnOutputProps{Description: jsii.String(description), Value: value})
	}
	output("Url", "URL of the HTTP API", a.url)
	if a.domain != nil {
		output("DomainTarget", "Target of the CNAME record of the domain", a.domain.RegionalDomainName())
	}
	output("EnginePolicyArn", "ARN of the managed policy that lets a workflow engine invoke the functions", policy.ManagedPolicyArn())
	return nil
}

// withRegion appends the region to a name that must be unique in the account, so that
// one account can have the same stage in two regions.
func withRegion(scope constructs.Construct, name string) *string {
	return jsii.String(name + "-" + *awscdk.Stack_Of(scope).Region())
}

// newFunctions creates all functions except migrate. Each has its own role. Those in the
// VPC share a security group and the legacy keys of tokens.
func newFunctions(parent constructs.Construct, s settings, n network, p proxy, a api, schema migration, code binaries) map[string]awslambda.Function {
	scope := constructs.NewConstruct(parent, jsii.String("Functions"))
	port := awsec2.Port_Tcp(jsii.Number(databasePort))
	group := newSecurityGroup(scope, "SecurityGroup", n.vpc, "The functions")
	p.group.AddIngressRule(group, port, jsii.String("from the functions"), nil)
	group.AddEgressRule(p.group, port, jsii.String("to RDS Proxy"), nil)
	n.secrets.Connections().AllowDefaultPortFrom(group, jsii.String("from the functions"))

	tokenKeys, urlKey := newTokenKeys(scope, s).SecretArn(), newSourceURLKey(scope, s).SecretArn()
	n.allowSecret(tokenKeys)
	n.allowSecret(urlKey)
	functions := newOutsideFunctions(scope, s, code)
	sending := newSending(scope, n, functions["send-deliveries"])
	for _, f := range routes.Functions {
		if f.Name == "migrate" || slices.Contains(routes.Outside, f.Name) {
			continue
		}
		groups := []awsec2.ISecurityGroup{group}
		statements := []awsiam.PolicyStatement{connectStatement(scope, p.id(), f.Role)}
		given := map[string]string{"DATABASE_URL": *p.url(f.Role), "PUBLIC_URL": *a.url}
		read := func(variable string, secret *string) {
			given[variable] = *secret
			statements = append(statements, readSecretStatement(secret))
		}
		if !withoutTokens[f.Name] {
			read("TOKEN_KEYS", tokenKeys)
		}
		if slices.Contains(routes.Signing, f.Name) {
			read("SIGNING_KEY", schema.signingKey)
		}
		if slices.Contains(routes.Sealing, f.Name) {
			read("SEALING_KEYS", schema.sealingKeys)
		}
		if slices.Contains(routes.Addressing, f.Name) {
			read("SOURCE_URL_KEY", urlKey)
		}
		if slices.Contains(routes.Sending, f.Name) {
			given["SEND_FUNCTION"] = *sending.function.FunctionName()
			statements = append(statements, sending.statement())
			groups = append(groups, sending.group)
		}
		functions[f.Name] = newFunction(constructs.NewConstruct(scope, jsii.String(f.Name)), s, n, code, function{
			Function: f, groups: groups, environment: environment(s, f.Name, given), statements: statements,
		})
	}
	return functions
}

// withoutTokens names the functions that neither sign nor verify promise tokens.
var withoutTokens = map[string]bool{
	"expire-promises": true, "manage-tenants": true, "receive-webhook": true, "relay-deliveries": true, "resolve-by-id": true, "resolve-by-key": true,
	"send-deliveries": true,
}

// updateSignersAfterVerifiers makes CloudFormation change the functions that verify
// tokens before the ones that sign them. A function of the previous release does not
// know a new key.
func updateSignersAfterVerifiers(functions map[string]awslambda.Function) {
	resource := func(name string) awslambda.CfnFunction {
		return functions[name].Node().DefaultChild().(awslambda.CfnFunction)
	}
	for name := range functions {
		if !withoutTokens[name] && !slices.Contains(routes.Signing, name) {
			resource("create-promise").AddResourceDependency(resource(name), nil)
		}
	}
}

// newTokenKeys creates the secret that signed the promise tokens of earlier releases, in
// the format of TOKEN_KEYS: 64 letters and digits, which is 48 bytes of base64url. It
// verifies those tokens and signs none. Once each stage has had its signing key for a
// year, this secret can be removed. Do not change its properties, not even the
// description: after a change CloudFormation could generate a new value.
func newTokenKeys(scope constructs.Construct, s settings) awssecretsmanager.Secret {
	return awssecretsmanager.NewSecret(scope, jsii.String("TokenKeys"), &awssecretsmanager.SecretProps{
		SecretName:  jsii.String(s.stackName() + "/token-keys"),
		Description: jsii.String("TOKEN_KEYS: the keys that sign promise tokens, separated by commas; the first signs, all verify"),
		GenerateSecretString: &awssecretsmanager.SecretStringGenerator{
			PasswordLength: jsii.Number(64), ExcludePunctuation: jsii.Bool(true),
		},
		RemovalPolicy: removal(s),
	})
}

// newSourceURLKey creates the secret for the key of the checksums in the URLs of
// sources. Secrets Manager generates it: 64 hexadecimal digits, which are all the
// characters that are left. Nothing rotates it, because each URL depends on it. Do not
// change its properties, as with newTokenKeys.
// https://docs.aws.amazon.com/secretsmanager/latest/apireference/API_GetRandomPassword.html
func newSourceURLKey(scope constructs.Construct, s settings) awssecretsmanager.Secret {
	return awssecretsmanager.NewSecret(scope, jsii.String("SourceUrlKey"), &awssecretsmanager.SecretProps{
		SecretName:  jsii.String(s.stackName() + "/source-url-key"),
		Description: jsii.String("SOURCE_URL_KEY: the key of the checksums in the URLs of webhooks. A new value changes every URL"),
		GenerateSecretString: &awssecretsmanager.SecretStringGenerator{
			PasswordLength: jsii.Number(64), ExcludePunctuation: jsii.Bool(true), ExcludeUppercase: jsii.Bool(true),
			ExcludeCharacters: jsii.String("ghijklmnopqrstuvwxyz"),
		},
		RemovalPolicy: removal(s),
	})
}
