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
	function    awslambda.Function
	resource    awscdk.CustomResource
	signingKey  *string // the ARN of the secret
	sealingKeys *string // the ARN of the secret
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
	sealingKeys := newSealingKeys(scope, s).SecretArn()
	n.allow(secretStatement(sealingKeys, "DescribeSecret", "GetSecretValue", "PutSecretValue"))

	migrate := newFunction(scope, s, n, code, function{
		Function: f, groups: []awsec2.ISecurityGroup{group},
		environment: environment(s, f.Name, map[string]string{
			"DATABASE_URL": *databaseURL(masterUser, db.host), "DB_IAM_AUTH": "false", "DB_PASSWORD_SECRET": *db.secretARN,
			"SIGNING_KEY": *signingKey, "SEALING_KEYS": *sealingKeys,
		}),
		statements: []awsiam.PolicyStatement{
			readSecretStatement(db.secretARN),
			secretStatement(signingKey, "DescribeSecret", "PutSecretValue"),
			secretStatement(sealingKeys, "DescribeSecret", "GetSecretValue", "PutSecretValue"), // a rotation keeps the former key
		},
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
		// contains the migrations, the database, or the secret of a key.
		// migrate compares Database with its previous value. If the database of a guarded
		// stage was replaced, migrate fails unless Snapshot names the snapshot that the
		// new one was restored from.
		Properties: &map[string]any{
			"Version": version, "Database": db.resourceID,
			"Guarded": strconv.FormatBool(s.guarded()), "Snapshot": s.Snapshot,
			"SigningKey": signingKey, "SealingKeys": sealingKeys,
		},
		// migrate reports its own timeout before this one ends.
		ServiceTimeout: awscdk.Duration_Seconds(jsii.Number(f.Timeout.Seconds() + 60)),
	})
	done.Node().AddDependency(db.construct, n.vpc, n.secrets, n.secretsGroup, n.s3, db.group, group)
	return migration{migrate, done, signingKey, sealingKeys}, nil
}

// newSigningKey creates the secret for the private key that signs promise tokens.
func newSigningKey(scope constructs.Construct, s settings) awssecretsmanager.Secret {
	return newEmptySecret(scope, s, "SigningKey", "signing-key",
		"SIGNING_KEY: the private key that signs promise tokens. Only migrate writes it, and only create-promise reads it")
}

// newSealingKeys creates the secret for the keys that encrypt the secrets of
// destinations.
func newSealingKeys(scope constructs.Construct, s settings) awssecretsmanager.Secret {
	return newEmptySecret(scope, s, "SealingKeys", "sealing-keys",
		"SEALING_KEYS: the keys that encrypt the secrets of destinations and sources, and the bodies of webhooks. Only migrate writes them")
}

// newEmptySecret creates a secret without a value; migrate writes it.
func newEmptySecret(scope constructs.Construct, s settings, id, name, description string) awssecretsmanager.Secret {
	secret := awssecretsmanager.NewSecret(scope, jsii.String(id), &awssecretsmanager.SecretProps{
		SecretName: jsii.String(s.stackName() + "/" + name), Description: jsii.String(description), RemovalPolicy: removal(s),
	})
	secret.Node().DefaultChild().(awscdk.CfnResource).AddPropertyDeletionOverride(jsii.String("GenerateSecretString"))
	return secret
}
