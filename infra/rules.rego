# These rules apply to every template. Each exception stands here with its reason.
package promises

import rego.v1

# Actions that accept only the resource "*". A network interface has no name before it is created; functions.go denies these
# actions to the functions' own code. Traces belong to no resource.
without_resources := {
	"ec2:AssignPrivateIpAddresses", "ec2:CreateNetworkInterface", "ec2:DeleteNetworkInterface",
	"ec2:DescribeNetworkInterfaces", "ec2:DescribeSubnets", "ec2:UnassignPrivateIpAddresses",
	"xray:PutTelemetryRecords", "xray:PutTraceSegments",
}

# Allowed resources that end with a wildcard: the buckets for answers to CloudFormation, whose names are not known before
# the deployment, and all versions of one named function.
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
	v := make_diag_at("promises_no_wildcard_action", "ERROR", name, "Properties", sprintf("name the action in full, without a wildcard: %s", [action]))
}

violation contains v if {
	some [name, statement] in statements
	statement.NotAction
	v := make_diag_at("promises_no_wildcard_action", "ERROR", name, "Properties", "list the allowed actions in Action: NotAction allows all others")
}

violation contains v if {
	some [name, statement] in statements
	some resource in list(statement.Resource)
	resource == "*"
	some action in list(statement.Action)
	not action in without_resources
	v := make_diag_at("promises_no_wildcard_resource", "ERROR", name, "Properties", sprintf("name the resource of this action in full, without a wildcard: %s", [action]))
}

violation contains v if {
	some [name, statement] in statements
	some resource in list(statement.Resource)
	is_string(resource)
	contains(resource, "*")
	resource != "*"
	every wildcard in wildcards { not regex.match(wildcard, resource) }
	v := make_diag_at("promises_no_wildcard_resource", "ERROR", name, "Properties", sprintf("name the resource in full, without a wildcard: %s", [resource]))
}

# The secrets of keys, with the functions that may use them. create-promise reads the key that signs promise tokens. migrate
# writes it, but does not read it. A rotation of the keys that encrypt the secrets of destinations and sources keeps the former
# key, so migrate reads them too. Nothing writes the key in the URLs of webhooks: a new one would change each URL. The endpoint of
# Secrets Manager lets these calls through; the roles decide which functions may make them.
may_use := {
	"/signing-key": {
		"-create-promise": {"secretsmanager:GetSecretValue"},
		"-migrate": {"secretsmanager:DescribeSecret", "secretsmanager:PutSecretValue"},
	},
	"/sealing-keys": {
		"-manage-integrations": {"secretsmanager:GetSecretValue"},
		"-manage-tenants": {"secretsmanager:GetSecretValue"},
		"-receive-webhook": {"secretsmanager:GetSecretValue"},
		"-relay-deliveries": {"secretsmanager:GetSecretValue"},
		"-migrate": {"secretsmanager:DescribeSecret", "secretsmanager:GetSecretValue", "secretsmanager:PutSecretValue"},
	},
	"/source-url-key": {
		"-manage-integrations": {"secretsmanager:GetSecretValue"},
		"-receive-webhook": {"secretsmanager:GetSecretValue"},
	},
}

key_rules := {
	"/signing-key": "promises_signing_key", "/sealing-keys": "promises_sealing_keys", "/source-url-key": "promises_source_url_key",
}

names_secret(resource, key) if {
	some secret in resources_of_type("AWS::SecretsManager::Secret")
	endswith(resolve(secret, "Properties.Name"), key)
	refers(resource, secret)
}

names_secret(resource, key) if contains(json.marshal(resource), key)

# resolve() replaces a reference only if it is the whole property. Within a property, a reference keeps its JSON form.
refers(value, name) if contains(json.marshal(value), concat("", ["\"", name, "\""]))

# The role belongs to the function whose name has the suffix.
role_of(role, suffix) if {
	some function in resources_of_type("AWS::Lambda::Function")
	some name in resources_of_type("AWS::IAM::Role")
	refers(role, name)
	refers(resolve(function, "Properties.Role"), name)
	endswith(resolve(function, "Properties.FunctionName"), suffix)
}

# The statements of a policy, or of a role itself, apply to roles of functions with one of the suffixes and to nothing else.
only_for(name, suffixes) if {
	name in resources_of_type("AWS::IAM::Policy")
	not resolve(name, "Properties.Users")
	not resolve(name, "Properties.Groups")
	every role in resolve(name, "Properties.Roles") {
		some suffix in suffixes
		role_of(role, suffix)
	}
}

only_for(name, suffixes) if {
	name in resources_of_type("AWS::IAM::Role")
	some suffix in suffixes
	role_of({"Ref": name}, suffix)
}

policy_may(name, _, _) if name in resources_of_type("AWS::EC2::VPCEndpoint")

policy_may(name, key, action) if only_for(name, {suffix | some suffix, actions in may_use[key]; action in actions})

violation contains v if {
	some [name, statement] in statements
	some resource in list(statement.Resource)
	some key, rule in key_rules
	names_secret(resource, key)
	some action in list(statement.Action)
	not policy_may(name, key, action)
	v := make_diag_at(rule, "ERROR", name, "Properties", sprintf("let only the functions in may_use use this secret: %s", [action]))
}

violation contains v if {
	some name in resources_of_type("AWS::SecretsManager::ResourcePolicy")
	some key, rule in key_rules
	names_secret(resolve(name, "Properties.SecretId"), key)
	v := make_diag_at(rule, "ERROR", name, "Properties", "remove the resource policy of the secret: only the roles decide which functions use it")
}

# send-deliveries talks to strangers, so it must have no way to the data. It runs outside the VPC, its environment names no
# database and no secret, and its role may only send.
is_sender(name) if endswith(resolve(name, "Properties.FunctionName"), "-send-deliveries")

violation contains v if {
	some name in resources_of_type("AWS::Lambda::Function")
	is_sender(name)
	resolve(name, "Properties.VpcConfig")
	v := make_diag_at("promises_sender_outside", "ERROR", name, "Properties", "remove VpcConfig: send-deliveries must have no way to the database")
}

violation contains v if {
	some name in resources_of_type("AWS::Lambda::Function")
	is_sender(name)
	some variable, _ in resolve(name, "Properties.Environment.Variables")
	variable != "LOG_LEVEL"
	v := make_diag_at("promises_sender_outside", "ERROR", name, "Properties", sprintf("remove the variable %s: send-deliveries needs only LOG_LEVEL", [variable]))
}

sender_may := {
	"events:PutEvents", "kms:Decrypt", "kms:GenerateDataKey", "lambda:InvokeFunction", "lambda:SendDurableExecutionCallbackFailure",
	"lambda:SendDurableExecutionCallbackSuccess", "logs:CreateLogStream", "logs:PutLogEvents", "ses:SendEmail", "sns:Publish",
	"sqs:SendMessage", "states:SendTaskFailure", "states:SendTaskSuccess", "sts:AssumeRole", "xray:PutTelemetryRecords", "xray:PutTraceSegments",
}

# The statements of a policy, or of a role itself, apply to the role of a function with the suffix.
applies_to(name, suffix) if {
	some role in resolve(name, "Properties.Roles")
	role_of(role, suffix)
}

applies_to(name, suffix) if role_of({"Ref": name}, suffix)

violation contains v if {
	some [name, statement] in statements
	applies_to(name, "-send-deliveries")
	some action in list(statement.Action)
	not action in sender_may
	v := make_diag_at("promises_sender_rights", "ERROR", name, "Properties", sprintf("remove the action: send-deliveries may only send: %s", [action]))
}

violation contains v if {
	some [name, statement] in statements
	applies_to(name, "-send-deliveries")
	"lambda:InvokeFunction" in list(statement.Action)
	some resource in list(statement.Resource)
	some function in resources_of_type("AWS::Lambda::Function")
	refers(resource, function)
	v := make_diag_at("promises_sender_rights", "ERROR", name, "Properties", sprintf("remove the function: send-deliveries must not invoke a function of the stack: %s", [function]))
}

# receive-webhook hears strangers. Its role may read its keys, connect to Postgres as promises_webhook, and write logs and
# traces. It invokes nothing.
receiver_may := {
	"ec2:AssignPrivateIpAddresses", "ec2:CreateNetworkInterface", "ec2:DeleteNetworkInterface", "ec2:DescribeNetworkInterfaces",
	"ec2:DescribeSubnets", "ec2:UnassignPrivateIpAddresses", "logs:CreateLogStream", "logs:PutLogEvents", "rds-db:connect",
	"secretsmanager:GetSecretValue", "xray:PutTelemetryRecords", "xray:PutTraceSegments",
}

violation contains v if {
	some [name, statement] in statements
	applies_to(name, "-receive-webhook")
	some action in list(statement.Action)
	not action in receiver_may
	v := make_diag_at("promises_receiver_rights", "ERROR", name, "Properties", sprintf("remove the action: receive-webhook needs only those in receiver_may: %s", [action]))
}

violation contains v if {
	some [name, statement] in statements
	applies_to(name, "-receive-webhook")
	"rds-db:connect" in list(statement.Action)
	some resource in list(statement.Resource)
	not contains(json.marshal(resource), "/promises_webhook\"")
	v := make_diag_at("promises_receiver_rights", "ERROR", name, "Properties", "name the user promises_webhook: receive-webhook must connect as no other one")
}

# Only the functions of routes.Sending may invoke send-deliveries.
names_sender(value) if {
	some function in resources_of_type("AWS::Lambda::Function")
	is_sender(function)
	refers(value, function)
}

names_sender(value) if contains(json.marshal(value), "-send-deliveries")

may_send(name) if name in resources_of_type("AWS::EC2::VPCEndpoint")

may_send(name) if only_for(name, {"-manage-integrations", "-relay-deliveries"})

violation contains v if {
	some [name, statement] in statements
	some resource in list(statement.Resource)
	some action in list(statement.Action)
	startswith(action, "lambda:")
	names_sender(resource)
	not may_send(name)
	v := make_diag_at("promises_sender_callers", "ERROR", name, "Properties", "only relay-deliveries and manage-integrations may invoke send-deliveries")
}

violation contains v if {
	some type in ["AWS::Lambda::Permission", "AWS::Lambda::Alias", "AWS::Lambda::EventSourceMapping"]
	some name in resources_of_type(type)
	names_sender(resolve(name, "Properties.FunctionName"))
	v := make_diag_at("promises_sender_callers", "ERROR", name, "Properties", "remove it: only relay-deliveries and manage-integrations may invoke send-deliveries")
}

violation contains v if {
	some name in resources_of_type("AWS::Lambda::Function")
	some variable, _ in resolve(name, "Properties.Environment.Variables")
	variable == "DELIVER_TO_LOOPBACK"
	v := make_diag_at("promises_no_loopback", "ERROR", name, "Properties", "remove DELIVER_TO_LOOPBACK: a delivery on AWS must not reach a process of its own machine")
}

# The endpoint of Lambda lets functions out of the VPC, so it must let only invocations of send-deliveries pass. An endpoint
# without a policy lets every call pass.
violation contains v if {
	some name in resources_of_type("AWS::EC2::VPCEndpoint")
	not resolve(name, "Properties.PolicyDocument")
	v := make_diag_at("promises_endpoint_policy", "ERROR", name, "Properties", "set PolicyDocument: an endpoint without a policy lets every call pass")
}

passes(action, resource) if {
	action == "lambda:InvokeFunction"
	names_sender(resource)
}

violation contains v if {
	some [name, statement] in statements
	name in resources_of_type("AWS::EC2::VPCEndpoint")
	some action in list(statement.Action)
	startswith(action, "lambda:")
	some resource in list(statement.Resource)
	not passes(action, resource)
	v := make_diag_at("promises_endpoint_policy", "ERROR", name, "Properties", sprintf("let only invocations of send-deliveries pass: %s", [action]))
}

violation contains v if {
	some type in ["AWS::RDS::DBInstance", "AWS::RDS::DBCluster"]
	some name in resources_of_type(type)
	not resolve(name, "Properties.DBClusterIdentifier") # an Aurora instance has the encryption of its cluster
	some property in ["StorageEncrypted", "EnableIAMDatabaseAuthentication"]
	not resolve(name, sprintf("Properties.%s", [property])) == true
	v := make_diag_at("promises_databases_encrypted", "ERROR", name, "Properties", "set StorageEncrypted and EnableIAMDatabaseAuthentication to true: every database must be encrypted and accept IAM tokens")
}

# There are two exceptions. migrate reports to CloudFormation through S3, whose addresses change (the subnets have no other
# route). The CDK writes a group without egress as a rule for an address that cannot occur.
violation contains v if {
	some name in resources_of_type("AWS::EC2::SecurityGroup")
	some direction in ["SecurityGroupIngress", "SecurityGroupEgress"]
	some rule in resolve(name, sprintf("Properties.%s", [direction]))
	some property in ["CidrIp", "CidrIpv6"]
	rule[property]
	not rule.Description in {"to the S3 gateway endpoint", "Disallow all traffic"}
	v := make_diag_at("promises_no_open_security_group", "ERROR", name, "Properties", "name a security group in the rule: traffic must not be allowed by address")
}

violation contains v if {
	some type in ["AWS::EC2::SecurityGroupIngress", "AWS::EC2::SecurityGroupEgress"]
	some name in resources_of_type(type)
	some property in ["CidrIp", "CidrIpv6"]
	resolve(name, sprintf("Properties.%s", [property]))
	v := make_diag_at("promises_no_open_security_group", "ERROR", name, "Properties", "name a security group in the rule: traffic must not be allowed by address")
}

violation contains v if {
	some type in ["AWS::EC2::InternetGateway", "AWS::EC2::NatGateway", "AWS::EC2::EIP"]
	some name in resources_of_type(type)
	v := make_diag_at("promises_no_way_out", "ERROR", name, "Properties", "remove it: the VPC must have no route to the internet")
}

violation contains v if {
	some name in resources_of_type("AWS::Lambda::Url")
	v := make_diag_at("promises_no_function_url", "ERROR", name, "Properties", "remove the function URL: calls to it would bypass the authorizer")
}

names_alias(function) if {
	alias := resolve(function, "Properties.Environment.Variables.HTTP_ALIAS")
	is_string(alias)
	alias != ""
}

violation contains v if {
	some name in resources_of_type("AWS::Lambda::Function")
	startswith(resolve(name, "Properties.FunctionName"), "promises-") # the CDK's own functions have no name
	not is_sender(name) # API Gateway does not invoke it
	not names_alias(name)
	v := make_diag_at("promises_http_alias", "ERROR", name, "Properties", "set HTTP_ALIAS: without it a function trusts every event, not only the events of API Gateway")
}

# A policy for a function's ARN without a qualifier allows none of the function's aliases.
unqualified(resource) if {
	is_string(resource)
	regex.match(`:function:[A-Za-z0-9_-]+$`, resource)
}

unqualified(resource) if resource["__ref"] in resources_of_type("AWS::Lambda::Function")

# The only managed policy is the one for workflow engines.
violation contains v if {
	some name in resources_of_type("AWS::IAM::ManagedPolicy")
	some statement in list(resolve(name, "Properties.PolicyDocument.Statement"))
	statement.Effect == "Allow"
	"lambda:InvokeFunction" in list(statement.Action)
	some resource in list(statement.Resource)
	not unqualified(resource)
	v := make_diag_at("promises_engines_without_alias", "ERROR", name, "Properties", "name functions without a qualifier: an engine must not invoke the alias whose events a function trusts")
}

# The routes whose function verifies the token or the signature itself. They are the routes of the functions in
# routes.SelfVerifying.
self_verifying := {
	"POST /api/tenants/{slug}/webhooks/{source}",
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
	v := make_diag_at("promises_routes_authorized", "ERROR", name, "Properties", "set the authorizer: only a route whose function verifies the token or the signature itself may have none")
}

for_cloudwatch(statement, action) if {
	statement.Effect == "Allow"
	"cloudwatch.amazonaws.com" in list(statement.Principal.Service)
	action in list(statement.Action)
}

# A topic with its own policy loses the default policy of SNS, which lets the services of the account publish.
publishes(topic) if {
	some policy in resources_of_type("AWS::SNS::TopicPolicy")
	topic in resolve(policy, "Properties.Topics")
	some statement in list(resolve(policy, "Properties.PolicyDocument.Statement"))
	for_cloudwatch(statement, "sns:Publish")
	statement.Condition.StringEquals["aws:SourceAccount"]
}

# CloudWatch encrypts the messages that it publishes, so the topic's key must allow that.
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
	v := make_diag_at("promises_alarms_delivered", "ERROR", name, "Properties", sprintf("let CloudWatch publish the alarms of this account to the topic: %s", [topic]))
}

violation contains v if {
	some name in resources_of_type("AWS::CloudWatch::Alarm")
	some property in ["AlarmActions", "OKActions", "InsufficientDataActions"]
	some topic in resolve(name, sprintf("Properties.%s", [property]))
	not encrypts(topic)
	v := make_diag_at("promises_alarms_delivered", "ERROR", name, "Properties", sprintf("let CloudWatch use the key of the topic: %s", [topic]))
}
