# What must hold of every template, whatever is added to it. What is excepted is excepted here, with its reason.
package promises

import rego.v1

# Actions that know no resources: network interfaces are made before they have a name (and the functions' own code is
# denied them, see functions.go), and traces belong to none.
without_resources := {
	"ec2:AssignPrivateIpAddresses", "ec2:CreateNetworkInterface", "ec2:DeleteNetworkInterface",
	"ec2:DescribeNetworkInterfaces", "ec2:DescribeSubnets", "ec2:UnassignPrivateIpAddresses",
	"xray:PutTelemetryRecords", "xray:PutTraceSegments",
}

# Resources with a wildcard at their end: the buckets in which CloudFormation takes answers, whose names nobody knows; the
# versions of a function that is named.
wildcards := {`^arn:[a-z-]+:s3:::cloudformation-custom-resource-response-\*$`, `:function:[A-Za-z0-9_-]+:\*$`}

list(x) := x if is_array(x)
list(x) := [x] if not is_array(x)

statements contains [name, statement] if {
	some type in ["AWS::IAM::Policy", "AWS::IAM::ManagedPolicy", "AWS::EC2::VPCEndpoint"]
	some name in resources_of_type(type)
	some statement in list(resolve(name, "Properties.PolicyDocument.Statement"))
	statement.Effect == "Allow"
}

statements contains [name, statement] if {
	some name in resources_of_type("AWS::IAM::Role")
	some policy in resolve(name, "Properties.Policies")
	some statement in list(policy.PolicyDocument.Statement)
	statement.Effect == "Allow"
}

violation contains v if {
	some [name, statement] in statements
	some action in list(statement.Action)
	contains(action, "*")
	v := make_diag_at("promises_no_wildcard_action", "ERROR", name, "Properties", sprintf("an action is named in full: %s", [action]))
}

violation contains v if {
	some [name, statement] in statements
	statement.NotAction
	v := make_diag_at("promises_no_wildcard_action", "ERROR", name, "Properties", "an action is named, not excepted")
}

violation contains v if {
	some [name, statement] in statements
	some resource in list(statement.Resource)
	resource == "*"
	some action in list(statement.Action)
	not action in without_resources
	v := make_diag_at("promises_no_wildcard_resource", "ERROR", name, "Properties", sprintf("a resource is named in full: %s", [action]))
}

violation contains v if {
	some [name, statement] in statements
	some resource in list(statement.Resource)
	is_string(resource)
	contains(resource, "*")
	resource != "*"
	every wildcard in wildcards { not regex.match(wildcard, resource) }
	v := make_diag_at("promises_no_wildcard_resource", "ERROR", name, "Properties", sprintf("a resource is named in full: %s", [resource]))
}

# The private key that signs promise tokens: create-promise reads it, migrate writes it without reading it, and no other role may do
# anything with it. The endpoint of Secrets Manager lets these calls through; the roles decide who makes them.
may_sign := {
	"-create-promise": {"secretsmanager:GetSecretValue"},
	"-migrate": {"secretsmanager:DescribeSecret", "secretsmanager:PutSecretValue"},
}

signing_key(resource) if {
	some secret in resources_of_type("AWS::SecretsManager::Secret")
	endswith(resolve(secret, "Properties.Name"), "/signing-key")
	refers(resource, secret)
}

signing_key(resource) if contains(json.marshal(resource), "/signing-key")

# A reference is resolved at a property, and stands as it is within one.
refers(value, name) if contains(json.marshal(value), concat("", ["\"", name, "\""]))

role_may(role, action) if {
	some function in resources_of_type("AWS::Lambda::Function")
	some name in resources_of_type("AWS::IAM::Role")
	refers(role, name)
	refers(resolve(function, "Properties.Role"), name)
	some suffix, actions in may_sign
	endswith(resolve(function, "Properties.FunctionName"), suffix)
	action in actions
}

policy_may(name, action) if name in resources_of_type("AWS::EC2::VPCEndpoint")

policy_may(name, action) if {
	name in resources_of_type("AWS::IAM::Policy")
	not resolve(name, "Properties.Users")
	not resolve(name, "Properties.Groups")
	every role in resolve(name, "Properties.Roles") { role_may(role, action) }
}

policy_may(name, action) if role_may(name, action)

violation contains v if {
	some [name, statement] in statements
	some resource in list(statement.Resource)
	signing_key(resource)
	some action in list(statement.Action)
	not policy_may(name, action)
	v := make_diag_at("promises_signing_key", "ERROR", name, "Properties", sprintf("only create-promise reads the signing key, and only migrate writes it: %s", [action]))
}

violation contains v if {
	some name in resources_of_type("AWS::SecretsManager::ResourcePolicy")
	signing_key(resolve(name, "Properties.SecretId"))
	v := make_diag_at("promises_signing_key", "ERROR", name, "Properties", "the roles decide who uses the signing key, and it has no policy of its own")
}

violation contains v if {
	some type in ["AWS::RDS::DBInstance", "AWS::RDS::DBCluster"]
	some name in resources_of_type(type)
	not resolve(name, "Properties.DBClusterIdentifier") # an instance of Aurora is encrypted as its cluster is
	some property in ["StorageEncrypted", "EnableIAMDatabaseAuthentication"]
	not resolve(name, sprintf("Properties.%s", [property])) == true
	v := make_diag_at("promises_databases_encrypted", "ERROR", name, "Properties", "every database is encrypted, and takes IAM tokens")
}

# Excepted are migrate, which tells CloudFormation by S3, whose addresses nobody knows (no other has a route), and the way in
# which the CDK writes a group that lets nothing out.
violation contains v if {
	some name in resources_of_type("AWS::EC2::SecurityGroup")
	some direction in ["SecurityGroupIngress", "SecurityGroupEgress"]
	some rule in resolve(name, sprintf("Properties.%s", [direction]))
	some property in ["CidrIp", "CidrIpv6"]
	rule[property]
	not rule.Description in {"to the S3 gateway endpoint", "Disallow all traffic"}
	v := make_diag_at("promises_no_open_security_group", "ERROR", name, "Properties", "nothing is let in or out by its address")
}

violation contains v if {
	some type in ["AWS::EC2::SecurityGroupIngress", "AWS::EC2::SecurityGroupEgress"]
	some name in resources_of_type(type)
	some property in ["CidrIp", "CidrIpv6"]
	resolve(name, sprintf("Properties.%s", [property]))
	v := make_diag_at("promises_no_open_security_group", "ERROR", name, "Properties", "nothing is let in or out by its address")
}

violation contains v if {
	some type in ["AWS::EC2::InternetGateway", "AWS::EC2::NatGateway", "AWS::EC2::EIP"]
	some name in resources_of_type(type)
	v := make_diag_at("promises_no_way_out", "ERROR", name, "Properties", "the VPC has no way in or out")
}

violation contains v if {
	some name in resources_of_type("AWS::Lambda::Url")
	v := make_diag_at("promises_no_function_url", "ERROR", name, "Properties", "a function has no URL of its own: it would go past the authorizer")
}

names_alias(function) if {
	alias := resolve(function, "Properties.Environment.Variables.HTTP_ALIAS")
	is_string(alias)
	alias != ""
}

violation contains v if {
	some name in resources_of_type("AWS::Lambda::Function")
	startswith(resolve(name, "Properties.FunctionName"), "promises-") # the CDK's own have no name
	not names_alias(name)
	v := make_diag_at("promises_http_alias", "ERROR", name, "Properties", "HTTP_ALIAS is set: without an alias a function believes every event")
}

# A function's ARN without a qualifier allows none of its aliases.
unqualified(resource) if {
	is_string(resource)
	regex.match(`:function:[A-Za-z0-9_-]+$`, resource)
}

unqualified(resource) if resource["__ref"] in resources_of_type("AWS::Lambda::Function")

# The managed policy is that of the engines.
violation contains v if {
	some name in resources_of_type("AWS::IAM::ManagedPolicy")
	some statement in list(resolve(name, "Properties.PolicyDocument.Statement"))
	statement.Effect == "Allow"
	"lambda:InvokeFunction" in list(statement.Action)
	some resource in list(statement.Resource)
	not unqualified(resource)
	v := make_diag_at("promises_engines_without_alias", "ERROR", name, "Properties", "an engine invokes functions without a qualifier: never the alias whose events they believe")
}

# Routes whose function verifies the token of the URL itself: those of routes.SelfVerifying.
self_verifying := {
	"POST /api/tenants/{slug}/callbacks/{identifier}/resolve",
	"POST /api/tenants/{slug}/callbacks/{identifier}/reject",
	"POST /api/tenants/{slug}/callbacks/{identifier}/resolve/{token}",
	"POST /api/tenants/{slug}/callbacks/{identifier}/reject/{token}",
}

authorized(name) if {
	resolve(name, "Properties.AuthorizationType") == "CUSTOM"
	resolve(name, "Properties.AuthorizerId")
}

authorized(name) if resolve(name, "Properties.RouteKey") in self_verifying

violation contains v if {
	some name in resources_of_type("AWS::ApiGatewayV2::Route")
	not authorized(name)
	v := make_diag_at("promises_routes_authorized", "ERROR", name, "Properties", "every route has the authorizer, or verifies the token itself")
}

for_cloudwatch(statement, action) if {
	statement.Effect == "Allow"
	"cloudwatch.amazonaws.com" in list(statement.Principal.Service)
	action in list(statement.Action)
}

# A topic with a policy of its own has lost the one by which SNS lets in the services of its account.
publishes(topic) if {
	some policy in resources_of_type("AWS::SNS::TopicPolicy")
	topic in resolve(policy, "Properties.Topics")
	some statement in list(resolve(policy, "Properties.PolicyDocument.Statement"))
	for_cloudwatch(statement, "sns:Publish")
	statement.Condition.StringEquals["aws:SourceAccount"]
}

# CloudWatch encrypts what it publishes.
encrypts(topic) if {
	key := resolve(topic, "Properties.KmsMasterKeyId")
	every action in ["kms:Decrypt", "kms:GenerateDataKey*"] {
		some statement in list(resolve(key, "Properties.KeyPolicy.Statement"))
		for_cloudwatch(statement, action)
	}
}

violation contains v if {
	some name in resources_of_type("AWS::CloudWatch::Alarm")
	some property in ["AlarmActions", "OKActions", "InsufficientDataActions"]
	some topic in resolve(name, sprintf("Properties.%s", [property]))
	not publishes(topic)
	v := make_diag_at("promises_alarms_delivered", "ERROR", name, "Properties", sprintf("CloudWatch may publish this account's alarms to the topic: %s", [topic]))
}

violation contains v if {
	some name in resources_of_type("AWS::CloudWatch::Alarm")
	some property in ["AlarmActions", "OKActions", "InsufficientDataActions"]
	some topic in resolve(name, sprintf("Properties.%s", [property]))
	not encrypts(topic)
	v := make_diag_at("promises_alarms_delivered", "ERROR", name, "Properties", sprintf("CloudWatch may use the key of the topic: %s", [topic]))
}
