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

// newService is the one stack of a stage.
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
		} else {
			roles[f.Role] = true
		}
	}
	failed := newDeadLetterQueue(stack)
	schema, err := newMigration(stack, s, n, db, code, migrate, failed)
	if err != nil {
		return err
	}
	p := newProxy(stack, s, n, db, schema, slices.Sorted(maps.Keys(roles)))
	a := newAPI(stack, s)
	functions := newFunctions(stack, s, n, p, a, schema, code)
	for _, f := range functions {
		changed := f.Node().DefaultChild().(awslambda.CfnFunction)
		changed.AddResourceDependency(schema.done.Node().DefaultChild().(awscdk.CfnResource), nil)
		changed.AddResourceDependency(p.users, nil) // or a function with a new user could not connect yet
	}
	// The previous release does not read a default value from where this one's sweep leaves it.
	for _, f := range functions {
		if sweep := functions["expire-promises"]; f != sweep {
			sweep.Node().DefaultChild().(awslambda.CfnFunction).AddResourceDependency(f.Node().DefaultChild().(awscdk.CfnResource), nil)
		}
	}
	signAfterVerifiers(functions)
	a.serve(functions)
	newSchedules(stack, functions, failed)
	policy := newEnginePolicy(stack, s, functions)
	functions[migrate.Name] = schema.function
	m := measures{functions: functions, api: a, proxy: p, database: db, failed: failed}
	newAlarms(stack, s, m)
	newDashboard(stack, s, m)

	output := func(id, description string, value *string) {
		awscdk.NewCfnOutput(stack, jsii.String(id), &awscdk.CfnOutputProps{Description: jsii.String(description), Value: value})
	}
	output("Url", "Where the HTTP API is", a.url)
	if a.domain != nil {
		output("DomainTarget", "Where the domain's CNAME must point", a.domain.RegionalDomainName())
	}
	output("EnginePolicyArn", "Managed policy that lets a workflow engine invoke the functions", policy.ManagedPolicyArn())
	return nil
}

// inRegion completes a name that is global in an account, so that a stage can be in
// two regions of it.
func inRegion(scope constructs.Construct, name string) *string {
	return jsii.String(name + "-" + *awscdk.Stack_Of(scope).Region())
}

// newFunctions makes every function but migrate. They share a security group
// and the legacy keys of tokens; each has a role of its own.
func newFunctions(parent constructs.Construct, s settings, n network, p proxy, a api, schema migration, code binaries) map[string]awslambda.Function {
	scope := constructs.NewConstruct(parent, jsii.String("Functions"))
	port := awsec2.Port_Tcp(jsii.Number(databasePort))
	group := newSecurityGroup(scope, "SecurityGroup", n.vpc, "The functions")
	p.group.AddIngressRule(group, port, jsii.String("from the functions"), nil)
	group.AddEgressRule(p.group, port, jsii.String("to RDS Proxy"), nil)
	n.secrets.Connections().AllowDefaultPortFrom(group, jsii.String("from the functions"))

	tokenKeys := newTokenKeys(scope, s)
	n.allowSecret(tokenKeys.SecretArn())
	functions := map[string]awslambda.Function{}
	for _, f := range routes.Functions {
		if f.Name == "migrate" {
			continue
		}
		may := []awsiam.PolicyStatement{connects(scope, p.id(), f.Role)}
		environment := map[string]string{"DATABASE_URL": *p.url(f.Role), "PUBLIC_URL": *a.url}
		if !withoutTokens[f.Name] {
			environment["TOKEN_KEYS"] = *tokenKeys.SecretArn()
			may = append(may, readsSecret(tokenKeys.SecretArn()))
		}
		if slices.Contains(routes.Signing, f.Name) {
			environment["SIGNING_KEY"] = *schema.signingKey
			may = append(may, readsSecret(schema.signingKey))
		}
		functions[f.Name] = newFunction(constructs.NewConstruct(scope, jsii.String(f.Name)), s, n, code, function{
			Function: f, group: group, environment: environment, may: may,
		})
	}
	return functions
}

// withoutTokens neither make promise tokens nor are called with any.
var withoutTokens = map[string]bool{"expire-promises": true, "manage-tenants": true, "resolve-by-id": true, "resolve-by-key": true}

// signAfterVerifiers has the functions that sign tokens changed after those that
// verify them: a function of the previous release does not know a new key.
func signAfterVerifiers(functions map[string]awslambda.Function) {
	of := func(name string) awslambda.CfnFunction {
		return functions[name].Node().DefaultChild().(awslambda.CfnFunction)
	}
	for name := range functions {
		if !withoutTokens[name] && !slices.Contains(routes.Signing, name) {
			of("create-promise").AddResourceDependency(of(name), nil)
		}
	}
}

// newTokenKeys makes the secret with which earlier releases signed promise tokens,
// as TOKEN_KEYS wants it: 64 letters and digits, which is 48 bytes of base64url. It
// verifies their tokens, and signs none. It can go when each stage has had its
// signing key for a year. Its properties stay as they are, the description too, which
// is of an earlier release, so that CloudFormation leaves its value alone.
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
