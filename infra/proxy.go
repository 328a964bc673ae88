package main

import (
	"fmt"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsec2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsiam"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsrds"
	"github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"
)

// proxy is RDS Proxy, through which many processes share few connections to Postgres.
// The functions authenticate to the proxy with IAM tokens, and so does the proxy to
// Postgres. Only the master user has a password.
type proxy struct {
	awsrds.DatabaseProxy
	group         awsec2.SecurityGroup
	connectPolicy awscdk.CfnResource // lets the proxy connect to Postgres as each user
}

// newProxy creates the proxy after the migration. If the database is replaced, the proxy
// keeps its connection to the old one until migrate has accepted the new one.
func newProxy(parent constructs.Construct, s settings, n network, db postgres, schema migration, users []string) proxy {
	scope := constructs.NewConstruct(parent, jsii.String("Proxy"))
	group := newSecurityGroup(scope, "SecurityGroup", n.vpc, "RDS Proxy")
	db.group.AddIngressRule(group, awsec2.Port_Tcp(jsii.Number(databasePort)), jsii.String("from RDS Proxy"), nil)
	group.AddEgressRule(db.group, awsec2.Port_Tcp(jsii.Number(databasePort)), jsii.String("to Postgres"), nil)

	role := awsiam.NewRole(scope, jsii.String("Role"), &awsiam.RoleProps{
		AssumedBy:   awsiam.NewServicePrincipal(jsii.String("rds.amazonaws.com"), nil),
		Description: jsii.String("RDS Proxy: connects to Postgres as the functions' users"),
	})
	for _, user := range users {
		role.AddToPolicy(connectStatement(scope, db.resourceID, user))
	}
	role.Node().AddDependency(schema.resource) // until then the proxy may connect to the old database
	p := awsrds.NewDatabaseProxy(scope, jsii.String("Proxy"), &awsrds.DatabaseProxyProps{
		ProxyTarget: db.target,
		Vpc:         n.vpc, VpcSubnets: n.subnets, SecurityGroups: &[]awsec2.ISecurityGroup{group},
		Role:              role,
		DefaultAuthScheme: awsrds.DefaultAuthScheme_IAM_AUTH,
		IamAuth:           jsii.Bool(true),
		RequireTLS:        jsii.Bool(true),

		MaxConnectionsPercent:     jsii.Number(proxyPercent),
		MaxIdleConnectionsPercent: jsii.Number(proxyPercent / 3),
		// Shorter than the function's own timeout, so that its caller gets 503.
		BorrowTimeout: awscdk.Duration_Seconds(jsii.Number(3)),
		// Longer than the pause between two calls of a process that is in use.
		IdleClientTimeout: awscdk.Duration_Minutes(jsii.Number(15)),
	})
	p.Node().AddDependency(db.construct, schema.resource)
	allowed := role.Node().FindChild(jsii.String("DefaultPolicy")).Node().DefaultChild().(awscdk.CfnResource)
	return proxy{p, group, allowed}
}

// connectStatement lets a role connect as the user to the instance (db-...), cluster
// (cluster-...) or proxy (prx-...) with that resource id.
func connectStatement(scope constructs.Construct, resourceID *string, user string) awsiam.PolicyStatement {
	return awsiam.NewPolicyStatement(&awsiam.PolicyStatementProps{
		Actions: jsii.Strings("rds-db:connect"),
		Resources: jsii.Strings(*awscdk.Stack_Of(scope).FormatArn(&awscdk.ArnComponents{
			Service: jsii.String("rds-db"), Resource: jsii.String("dbuser"),
			ArnFormat:    awscdk.ArnFormat_COLON_RESOURCE_NAME,
			ResourceName: jsii.String(*resourceID + "/" + user),
		})),
	})
}

// id returns the proxy's resource id, prx-..., which is the last part of its ARN.
func (p proxy) id() *string {
	return awscdk.Fn_Select(jsii.Number(6), awscdk.Fn_Split(jsii.String(":"), p.DbProxyArn(), nil))
}

// url returns the DATABASE_URL of a function that connects as the user. It has no password.
func (p proxy) url(user string) *string { return databaseURL(user, p.Endpoint()) }

func databaseURL(user string, host *string) *string {
	return jsii.String(fmt.Sprintf("postgres://%s@%s:%d/%s", user, *host, databasePort, databaseName))
}
