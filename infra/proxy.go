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

// proxy is RDS Proxy: many processes of functions share few connections to
// Postgres. Who connects to it proves it with an IAM token, and so does the
// proxy to Postgres: no password exists for any user but the master.
type proxy struct {
	awsrds.DatabaseProxy
	group awsec2.SecurityGroup
	users awscdk.CfnResource // the policy that lets it connect to Postgres as each user
}

// newProxy puts the proxy in front of the database once that is migrated: callers
// stay with the database that they have until migrate has accepted another one.
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
		role.AddToPolicy(connects(scope, db.resourceID, user))
	}
	role.Node().AddDependency(schema.done) // until then, the proxy may connect to the old one
	p := awsrds.NewDatabaseProxy(scope, jsii.String("Proxy"), &awsrds.DatabaseProxyProps{
		ProxyTarget: db.target,
		Vpc:         n.vpc, VpcSubnets: n.subnets, SecurityGroups: &[]awsec2.ISecurityGroup{group},
		Role:              role,
		DefaultAuthScheme: awsrds.DefaultAuthScheme_IAM_AUTH,
		IamAuth:           jsii.Bool(true),
		RequireTLS:        jsii.Bool(true),

		MaxConnectionsPercent:     jsii.Number(proxyPercent),
		MaxIdleConnectionsPercent: jsii.Number(proxyPercent / 3),
		// Sooner than the function gives up: its caller is told 503 then.
		BorrowTimeout: awscdk.Duration_Seconds(jsii.Number(3)),
		// Longer than a process that is in use waits between two calls.
		IdleClientTimeout: awscdk.Duration_Minutes(jsii.Number(15)),
	})
	p.Node().AddDependency(db.construct, schema.done)
	allowed := role.Node().FindChild(jsii.String("DefaultPolicy")).Node().DefaultChild().(awscdk.CfnResource)
	return proxy{p, group, allowed}
}

// connects lets a role connect as the user to what has that id: db-..., cluster-...
// or prx-...
func connects(scope constructs.Construct, resourceID *string, user string) awsiam.PolicyStatement {
	return awsiam.NewPolicyStatement(&awsiam.PolicyStatementProps{
		Actions: jsii.Strings("rds-db:connect"),
		Resources: jsii.Strings(*awscdk.Stack_Of(scope).FormatArn(&awscdk.ArnComponents{
			Service: jsii.String("rds-db"), Resource: jsii.String("dbuser"),
			ArnFormat:    awscdk.ArnFormat_COLON_RESOURCE_NAME,
			ResourceName: jsii.String(*resourceID + "/" + user),
		})),
	})
}

// id is the prx-... that stands at the end of the proxy's ARN.
func (p proxy) id() *string {
	return awscdk.Fn_Select(jsii.Number(6), awscdk.Fn_Split(jsii.String(":"), p.DbProxyArn(), nil))
}

// url is where the functions find Postgres, without a password.
func (p proxy) url(user string) *string { return databaseURL(user, p.Endpoint()) }

func databaseURL(user string, host *string) *string {
	return jsii.String(fmt.Sprintf("postgres://%s@%s:%d/%s", user, *host, databasePort, databaseName))
}
