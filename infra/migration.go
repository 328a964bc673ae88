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

// A migration is the function migrate and the custom resource that runs it in a
// deployment. CloudFormation changes the dependents of that resource only after the
// schema was migrated, and changes none of them if the migration fails.
type migration struct {
	function   awslambda.Function
	resource   awscdk.CustomResource
	signingKey *string // the ARN of the secret
}

func newMigration(parent constructs.Construct, s settings, n network, db postgres, code binaries, f routes.Function, failed awssqs.IQueue) (migration, error) {
	scope := constructs.NewConstruct(parent, jsii.String("Migrate"))
	group := newSecurityGroup(scope, "SecurityGroup", n.vpc, "migrate")
	port := awsec2.Port_Tcp(jsii.Number(databasePort))
	db.group.AddIngressRule(group, port, jsii.String("from migrate"), nil)
	group.AddEgressRule(db.group, port, jsii.String("to Postgres"), nil)
	n.secrets.Connections().AllowDefaultPortFrom(group, jsii.String("from migrate"))
	// The rule allows every address because those of S3 change. The subnets have a
	// route only to the S3 gateway endpoint.
	group.AddEgressRule(awsec2.Peer_AnyIpv4(), awsec2.Port_HTTPS(), jsii.String("to the S3 gateway endpoint"), nil)
	n.allowSecret(db.secretARN)
	signingKey := newSigningKey(scope, s).SecretArn()
	n.allow(secretStatement(signingKey, "DescribeSecret", "GetSecretValue", "PutSecretValue"))

	migrate := newFunction(scope, s, n, code, function{
		Function: f, group: group,
		environment: map[string]string{
			"DATABASE_URL": *databaseURL(masterUser, db.host), "DB_IAM_AUTH": "false", "DB_PASSWORD_SECRET": *db.secretARN,
			"SIGNING_KEY": *signingKey,
		},
		statements: []awsiam.PolicyStatement{readSecretStatement(db.secretARN), secretStatement(signingKey, "DescribeSecret", "PutSecretValue")},
	})
	configureDeadLetters(migrate, failed, 2, f.Timeout)

	version, err := code.hash(f.Name)
	if err != nil {
		return migration{}, err
	}
	done := awscdk.NewCustomResource(scope, jsii.String("Done"), &awscdk.CustomResourceProps{
		ResourceType: jsii.String("Custom::Migration"),
		ServiceToken: migrate.FunctionArn(),
		// CloudFormation runs migrate again when a property changes: the binary, which
		// contains the migrations, the database, or the secret of the signing key.
		// migrate compares Database with its previous value. If the database of a guarded
		// stage was replaced, migrate fails unless Snapshot names the snapshot that the
		// new one was restored from.
		Properties: &map[string]any{
			"Version": version, "Database": db.resourceID,
			"Guarded": strconv.FormatBool(s.guarded()), "Snapshot": s.Snapshot, "SigningKey": signingKey,
		},
		// migrate reports its own timeout before this one ends.
		ServiceTimeout: awscdk.Duration_Seconds(jsii.Number(f.Timeout.Seconds() + 60)),
	})
	done.Node().AddDependency(db.construct, n.vpc, n.secrets, n.secretsGroup, n.s3, db.group, group)
	return migration{migrate, done, signingKey}, nil
}

// newSigningKey creates the secret for the private key that signs promise tokens. The
// secret starts empty; migrate writes the key.
func newSigningKey(scope constructs.Construct, s settings) awssecretsmanager.Secret {
	secret := awssecretsmanager.NewSecret(scope, jsii.String("SigningKey"), &awssecretsmanager.SecretProps{
		SecretName:    jsii.String(s.stackName() + "/signing-key"),
		Description:   jsii.String("SIGNING_KEY: the private key that signs promise tokens. Only migrate writes it, and only create-promise reads it"),
		RemovalPolicy: removal(s),
	})
	secret.Node().DefaultChild().(awscdk.CfnResource).AddPropertyDeletionOverride(jsii.String("GenerateSecretString"))
	return secret
}
