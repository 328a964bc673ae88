package main

import (
	"strconv"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsec2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsiam"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslambda"
	"github.com/aws/aws-cdk-go/awscdk/v2/awssecretsmanager"
	"github.com/aws/aws-cdk-go/awscdk/v2/awssqs"
	"github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"

	"github.com/flovyn/promises/shared/routes"
)

// migration is the function migrate, and the custom resource that runs it in a
// deployment: what depends on the resource is changed after the schema, and not
// at all if that fails.
type migration struct {
	function   awslambda.Function
	done       awscdk.CustomResource
	signingKey *string // the ARN of the secret
}

func newMigration(parent constructs.Construct, s settings, n network, db postgres, code binaries, f routes.Function, failed awssqs.IQueue) (migration, error) {
	scope := constructs.NewConstruct(parent, jsii.String("Migrate"))
	group := newSecurityGroup(scope, "SecurityGroup", n.vpc, "migrate")
	port := awsec2.Port_Tcp(jsii.Number(databasePort))
	db.group.AddIngressRule(group, port, jsii.String("from migrate"), nil)
	group.AddEgressRule(db.group, port, jsii.String("to Postgres"), nil)
	n.secrets.Connections().AllowDefaultPortFrom(group, jsii.String("from migrate"))
	// To S3, of which nobody can tell the addresses. No other has a route.
	group.AddEgressRule(awsec2.Peer_AnyIpv4(), awsec2.Port_HTTPS(), jsii.String("to the S3 gateway endpoint"), nil)
	n.allowSecret(db.secretARN)
	signingKey := newSigningKey(scope, s).SecretArn()
	n.allow(usesSecret(signingKey, "DescribeSecret", "GetSecretValue", "PutSecretValue"))

	migrate := newFunction(scope, s, n, code, function{
		Function: f, group: group,
		environment: map[string]string{
			"DATABASE_URL": *databaseURL(masterUser, db.host), "DB_IAM_AUTH": "false", "DB_PASSWORD_SECRET": *db.secretARN,
			"SIGNING_KEY": *signingKey,
		},
		may: []awsiam.PolicyStatement{readsSecret(db.secretARN), usesSecret(signingKey, "DescribeSecret", "PutSecretValue")},
	})
	deadLetters(migrate, failed, 2, f.Timeout)

	version, err := code.hash(f.Name)
	if err != nil {
		return migration{}, err
	}
	done := awscdk.NewCustomResource(scope, jsii.String("Done"), &awscdk.CustomResourceProps{
		ResourceType: jsii.String("Custom::Migration"),
		ServiceToken: migrate.FunctionArn(),
		// CloudFormation runs it again when a property changes: with each change of
		// migrate, the files of the schema in it included, with another database, and
		// with another secret for the signing key.
		// migrate compares Database with what it was before: it refuses a new database
		// in the place of a guarded one, unless Snapshot names what it was made from.
		Properties: &map[string]any{
			"Version": version, "Database": db.resourceID,
			"Guarded": strconv.FormatBool(s.guarded()), "Snapshot": s.Snapshot, "SigningKey": signingKey,
		},
		// migrate tells in time that it ran out of time.
		ServiceTimeout: awscdk.Duration_Seconds(jsii.Number(f.Timeout.Seconds() + 60)),
	})
	done.Node().AddDependency(db.construct, n.vpc, n.secrets, n.secretsGroup, n.s3, db.group, group)
	return migration{migrate, done, signingKey}, nil
}

// newSigningKey makes the secret of the private key that signs promise tokens. It
// is empty: migrate writes it.
func newSigningKey(scope constructs.Construct, s settings) awssecretsmanager.Secret {
	secret := awssecretsmanager.NewSecret(scope, jsii.String("SigningKey"), &awssecretsmanager.SecretProps{
		SecretName:    jsii.String(s.stackName() + "/signing-key"),
		Description:   jsii.String("SIGNING_KEY: the private key that signs promise tokens. migrate writes it, create-promise reads it"),
		RemovalPolicy: removal(s),
	})
	secret.Node().DefaultChild().(awscdk.CfnResource).AddPropertyDeletionOverride(jsii.String("GenerateSecretString"))
	return secret
}
