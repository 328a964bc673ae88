package main

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/jsii-runtime-go"
	"github.com/stretchr/testify/require"
)

// TestRules synthesises one resource for each case. The rule that the case names must report it, and no other rule of
// rules.guard and rules.rego may.
func TestRules(t *testing.T) {
	needNode(t)
	allow := func(action, resource any) map[string]any {
		return map[string]any{"PolicyDocument": map[string]any{"Statement": []any{
			map[string]any{"Effect": "Allow", "Action": action, "Resource": resource},
		}}}
	}
	open := []any{map[string]any{"CidrIp": "0.0.0.0/0", "IpProtocol": "tcp", "FromPort": 1, "ToPort": 2}}
	const arn, policy, group = "arn:aws:s3:::x/y", "AWS::IAM::ManagedPolicy", "AWS::EC2::SecurityGroup"
	const function = "arn:aws:lambda:eu-west-1:123456789012:function:f"
	const alarm, topic, topicPolicy, key = "AWS::CloudWatch::Alarm", "AWS::SNS::Topic", "AWS::SNS::TopicPolicy", "AWS::KMS::Key"
	ref := func(id string) any { return map[string]any{"Ref": id} }
	get := func(id string) any { return map[string]any{"Fn::GetAtt": []any{id, "Arn"}} }
	joined := func(parts ...any) any { return map[string]any{"Fn::Join": []any{"", parts}} }
	withAlias := func(name string) map[string]any {
		return map[string]any{
			"FunctionName": "promises-dev-f", "Role": arn, "Code": map[string]any{"ZipFile": "x"}, "Environment": map[string]any{"Variables": map[string]any{"HTTP_ALIAS": name}},
		}
	}
	sends := func(property string, actions ...any) map[string]any {
		return map[string]any{"ComparisonOperator": "GreaterThanThreshold", "EvaluationPeriods": 1, property: actions}
	}
	encryptedBy := func(id string) map[string]any {
		return map[string]any{"KmsMasterKeyId": map[string]any{"Fn::GetAtt": []any{id, "Arn"}}}
	}
	statement := func(effect, action, resource, principal, condition any) map[string]any {
		return map[string]any{"Effect": effect, "Action": action, "Resource": resource, "Principal": principal, "Condition": condition}
	}
	service := func(name string) any { return map[string]any{"Service": name} }
	insecure := map[string]any{"Bool": map[string]any{"aws:SecureTransport": "false"}}
	ours := map[string]any{"StringEquals": map[string]any{"aws:SourceAccount": ref("AWS::AccountId")}}
	type topicStatement func(topic string) map[string]any
	denied := topicStatement(func(topic string) map[string]any { return statement("Deny", "sns:Publish", ref(topic), "*", insecure) })
	allowed := topicStatement(func(topic string) map[string]any {
		return statement("Allow", "sns:Publish", ref(topic), service("cloudwatch.amazonaws.com"), ours)
	})
	allowedForAnyAccount := topicStatement(func(topic string) map[string]any {
		return statement("Allow", "sns:Publish", ref(topic), service("cloudwatch.amazonaws.com"), insecure)
	})
	policyOf := func(topic string, statements ...topicStatement) map[string]any {
		var all []any
		for _, s := range statements {
			all = append(all, s(topic))
		}
		return map[string]any{"Topics": []any{ref(topic)}, "PolicyDocument": map[string]any{"Version": "2012-10-17", "Statement": all}}
	}
	usedBy := func(name string) map[string]any {
		return map[string]any{"KeyPolicy": map[string]any{"Version": "2012-10-17", "Statement": []any{
			statement("Allow", []any{"kms:Decrypt", "kms:GenerateDataKey*"}, "*", service(name), ours),
		}}}
	}
	grants := func(action, secret any, roles ...string) map[string]any {
		p := allow(action, secret)
		var names []any
		for _, role := range roles {
			names = append(names, ref(role))
		}
		p["PolicyName"], p["Roles"] = "p", names
		return p
	}
	runs := func(name, role string) map[string]any {
		return map[string]any{"FunctionName": "promises-dev-" + name, "Role": map[string]any{"Fn::GetAtt": []any{role, "Arn"}}, "Code": map[string]any{},
			"Environment": map[string]any{"Variables": map[string]any{"HTTP_ALIAS": "http"}}}
	}
	outside := func(role string, more map[string]any) map[string]any {
		f := map[string]any{"FunctionName": "promises-dev-send-deliveries", "Role": get(role), "Code": map[string]any{}}
		maps.Copy(f, more)
		return f
	}
	variables := func(name string) map[string]any {
		return map[string]any{"Environment": map[string]any{"Variables": map[string]any{name: "x"}}}
	}
	const sender = "arn:aws:lambda:eu-west-1:123456789012:function:promises-dev-send-deliveries"
	const secretARN = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:promises-dev/signing-key-AbCdEf"
	dbUser := func(name string) any {
		return joined("arn:aws:rds-db:eu-west-1:123456789012:dbuser:", ref("AWS::StackId"), "/"+name)
	}
	webhookUser, appUser := dbUser("promises_webhook"), dbUser("promises_app")
	const read, write = "secretsmanager:GetSecretValue", "secretsmanager:PutSecretValue"
	cases := []struct {
		id, kind   string
		properties map[string]any
		rule       string
	}{
		{"Action", policy, allow("s3:*", arn), "promises_no_wildcard_action"},
		{"ActionInAList", policy, allow([]any{"s3:GetObject", "s3:Put*"}, arn), "promises_no_wildcard_action"},
		{"NamedAction", policy, allow([]any{"s3:GetObject"}, arn), ""},
		{"Resource", policy, allow("s3:GetObject", "*"), "promises_no_wildcard_resource"},
		{"ResourceInAList", policy, allow("s3:GetObject", []any{arn, "*"}), "promises_no_wildcard_resource"},
		{"ResourceAmongExceptions", policy, allow([]any{"xray:PutTraceSegments", "s3:GetObject"}, "*"), "promises_no_wildcard_resource"},
		{"PartOfAResource", policy, allow("s3:GetObject", "arn:aws:s3:::x/*"), "promises_no_wildcard_resource"},
		{"AllFunctions", "AWS::IAM::Policy", allow("lambda:InvokeFunction", "arn:aws:lambda:eu-west-1:123456789012:*"), "promises_no_wildcard_resource"},
		{"ExceptedResource", policy, allow([]any{"xray:PutTraceSegments"}, "*"), ""},
		{"VersionsOfAFunction", "AWS::IAM::Policy", allow("lambda:InvokeFunction", []any{function, function + ":*"}), ""},
		{"Engine", policy, allow("lambda:InvokeFunction", []any{function, get("Named")}), ""},
		{"EngineOfAllVersions", policy, allow("lambda:InvokeFunction", []any{function, function + ":*"}), "promises_engines_without_alias"},
		{"EngineOfTheAlias", policy, allow("lambda:InvokeFunction", function+":http"), "promises_engines_without_alias"},
		{"EngineOfTheAliasJoined", policy, allow("lambda:InvokeFunction", joined(get("Named"), ":http")), "promises_engines_without_alias"},
		{"EngineOfTheAliasReferred", policy, allow("lambda:InvokeFunction", []any{get("Named"), ref("Alias")}), "promises_engines_without_alias"},
		{"Alias", "AWS::Lambda::Alias", map[string]any{"FunctionName": ref("Named"), "FunctionVersion": "$LATEST", "Name": "http"}, ""},
		{"Named", "AWS::Lambda::Function", withAlias("http"), ""},
		{"EmptyAlias", "AWS::Lambda::Function", withAlias(""), "promises_http_alias"},
		{"NoAlias", "AWS::Lambda::Function", map[string]any{"FunctionName": "promises-dev-f", "Role": arn, "Code": map[string]any{"ZipFile": "x"}}, "promises_http_alias"},
		{"FunctionOfTheCDK", "AWS::Lambda::Function", map[string]any{"Role": arn, "Code": map[string]any{"ZipFile": "x"}}, ""},
		{"Inline", "AWS::IAM::Role", map[string]any{
			"AssumeRolePolicyDocument": map[string]any{}, "Policies": []any{func() any {
				p := allow("s3:GetObject", "*")
				p["PolicyName"] = "p"
				return p
			}()},
		}, "promises_no_wildcard_resource"},
		{"Endpoint", "AWS::EC2::VPCEndpoint", allow("s3:PutObject", "*"), "promises_no_wildcard_resource"},
		{"PublicDatabase", "AWS::RDS::DBInstance", map[string]any{"PubliclyAccessible": true, "StorageEncrypted": true, "EnableIAMDatabaseAuthentication": true}, "promises_no_public_database"},
		{"DatabaseOfUnknownAccess", "AWS::RDS::DBInstance", map[string]any{"StorageEncrypted": true, "EnableIAMDatabaseAuthentication": true}, "promises_no_public_database"},
		{"UnencryptedDatabase", "AWS::RDS::DBInstance", map[string]any{"PubliclyAccessible": false, "EnableIAMDatabaseAuthentication": true}, "promises_databases_encrypted"},
		{"UnencryptedCluster", "AWS::RDS::DBCluster", map[string]any{"StorageEncrypted": false, "EnableIAMDatabaseAuthentication": true}, "promises_databases_encrypted"},
		{"ClusterWithPasswords", "AWS::RDS::DBCluster", map[string]any{"StorageEncrypted": true}, "promises_databases_encrypted"},
		{"ProxyWithoutTLS", "AWS::RDS::DBProxy", map[string]any{"DefaultAuthScheme": "IAM_AUTH"}, "promises_proxy_secure"},
		{"ProxyWithPasswords", "AWS::RDS::DBProxy", map[string]any{"RequireTLS": true}, "promises_proxy_secure"},
		{"OpenIn", group, map[string]any{"GroupDescription": "x", "SecurityGroupIngress": open}, "promises_no_open_security_group"},
		{"OpenOut", group, map[string]any{"GroupDescription": "x", "SecurityGroupEgress": open}, "promises_no_open_security_group"},
		{"OpenInRule", "AWS::EC2::SecurityGroupIngress", map[string]any{"IpProtocol": "tcp", "CidrIp": "10.0.0.0/8"}, "promises_no_open_security_group"},
		{"OpenOutRule", "AWS::EC2::SecurityGroupEgress", map[string]any{"IpProtocol": "tcp", "CidrIpv6": "::/0"}, "promises_no_open_security_group"},
		{"InternetGateway", "AWS::EC2::InternetGateway", map[string]any{}, "promises_no_way_out"},
		{"LogWithoutRetention", "AWS::Logs::LogGroup", map[string]any{}, "promises_logs_end"},
		{"Log", "AWS::Logs::LogGroup", map[string]any{"RetentionInDays": 7}, ""},
		{"UnencryptedQueue", "AWS::SQS::Queue", map[string]any{}, "promises_queues_encrypted"},
		{"UnencryptedQueueExplicit", "AWS::SQS::Queue", map[string]any{"SqsManagedSseEnabled": false}, "promises_queues_encrypted"},
		{"Queue", "AWS::SQS::Queue", map[string]any{"SqsManagedSseEnabled": true}, ""},
		{"UnencryptedTopic", "AWS::SNS::Topic", map[string]any{}, "promises_topics_encrypted"},
		{"OpenRoute", "AWS::ApiGatewayV2::Route", map[string]any{"ApiId": "a", "RouteKey": "GET /x"}, "promises_routes_authorized"},
		{"OpenRouteExplicit", "AWS::ApiGatewayV2::Route", map[string]any{"ApiId": "a", "RouteKey": "GET /x", "AuthorizationType": "NONE", "AuthorizerId": "b"}, "promises_routes_authorized"},
		{"RouteWithoutAuthorizer", "AWS::ApiGatewayV2::Route", map[string]any{"ApiId": "a", "RouteKey": "GET /x", "AuthorizationType": "CUSTOM"}, "promises_routes_authorized"},
		{"Callback", "AWS::ApiGatewayV2::Route", map[string]any{"ApiId": "a", "RouteKey": "POST /api/tenants/{slug}/callbacks/{identifier}/resolve"}, ""},
		{"AnotherCallback", "AWS::ApiGatewayV2::Route", map[string]any{"ApiId": "a", "RouteKey": "POST /api/tenants/{slug}/callbacks/{identifier}/cancel"}, "promises_routes_authorized"},
		{"Authorized", "AWS::ApiGatewayV2::Route", map[string]any{"ApiId": "a", "RouteKey": "GET /x", "AuthorizationType": "CUSTOM", "AuthorizerId": "b"}, ""},
		{"Alarm", alarm, sends("OKActions", ref("Topic")), ""},
		{"AlarmWithoutActions", alarm, map[string]any{"ComparisonOperator": "GreaterThanThreshold", "EvaluationPeriods": 1}, ""},
		{"AlarmOfTopicWithoutPolicy", alarm, sends("AlarmActions", ref("TopicWithoutPolicy")), "promises_alarms_delivered"},
		{"DeniedAlarm", alarm, sends("AlarmActions", ref("DenyingTopic")), "promises_alarms_delivered"},
		{"DeniedRecovery", alarm, sends("OKActions", ref("DenyingTopic")), "promises_alarms_delivered"},
		{"DeniedInsufficientData", alarm, sends("InsufficientDataActions", ref("Topic"), ref("DenyingTopic")), "promises_alarms_delivered"},
		{"AlarmOfAnyAccount", alarm, sends("AlarmActions", ref("TopicOfAllAccounts")), "promises_alarms_delivered"},
		{"AlarmOfTopicWithLockedKey", alarm, sends("AlarmActions", ref("LockedTopic")), "promises_alarms_delivered"},
		{"AlarmOfTopicOutsideTheStack", alarm, sends("AlarmActions", "arn:aws:sns:eu-west-1:123456789012:elsewhere"), "promises_alarms_delivered"},
		{"Topic", topic, encryptedBy("TopicKey"), ""},
		{"TopicPolicy", topicPolicy, policyOf("Topic", denied, allowed), ""},
		{"TopicKey", key, usedBy("cloudwatch.amazonaws.com"), ""},
		{"TopicWithoutPolicy", topic, encryptedBy("TopicKey"), ""},
		{"DenyingTopic", topic, encryptedBy("TopicKey"), ""},
		{"DenyingTopicPolicy", topicPolicy, policyOf("DenyingTopic", denied), ""},
		{"TopicOfAllAccounts", topic, encryptedBy("TopicKey"), ""},
		{"TopicOfAllAccountsPolicy", topicPolicy, policyOf("TopicOfAllAccounts", allowedForAnyAccount), ""},
		{"LockedTopic", topic, encryptedBy("LockedTopicKey"), ""},
		{"LockedTopicPolicy", topicPolicy, policyOf("LockedTopic", allowed), ""},
		{"LockedTopicKey", key, usedBy("events.amazonaws.com"), ""},
		{"SigningKey", "AWS::SecretsManager::Secret", map[string]any{"Name": "promises-dev/signing-key"}, ""},
		{"OtherSecret", "AWS::SecretsManager::Secret", map[string]any{"Name": "promises-dev/token-keys"}, ""},
		{"Creates", "AWS::Lambda::Function", runs("create-promise", "CreateRole"), ""},
		{"Migrates", "AWS::Lambda::Function", runs("migrate", "MigrateRole"), ""},
		{"Lists", "AWS::Lambda::Function", runs("list-promises", "ListRole"), ""},
		{"Reads", "AWS::IAM::Policy", grants(read, ref("SigningKey"), "CreateRole"), ""},
		{"Writes", "AWS::IAM::Policy", grants([]any{write, "secretsmanager:DescribeSecret"}, ref("SigningKey"), "MigrateRole"), ""},
		{"ReadsAnother", "AWS::IAM::Policy", grants(read, ref("OtherSecret"), "ListRole"), ""},
		{"ListReads", "AWS::IAM::Policy", grants(read, ref("SigningKey"), "ListRole"), "promises_signing_key"},
		{"ListReadsAmongOthers", "AWS::IAM::Policy", grants([]any{read}, []any{ref("OtherSecret"), ref("SigningKey")}, "ListRole"), "promises_signing_key"},
		{"ListReadsByARN", "AWS::IAM::Policy", grants(read, secretARN, "ListRole"), "promises_signing_key"},
		{"SharedRead", "AWS::IAM::Policy", grants(read, ref("SigningKey"), "CreateRole", "ListRole"), "promises_signing_key"},
		{"MigrateReads", "AWS::IAM::Policy", grants([]any{write, read}, ref("SigningKey"), "MigrateRole"), "promises_signing_key"},
		{"CreateWrites", "AWS::IAM::Policy", grants(write, ref("SigningKey"), "CreateRole"), "promises_signing_key"},
		{"CreateDeletes", "AWS::IAM::Policy", grants("secretsmanager:DeleteSecret", ref("SigningKey"), "CreateRole"), "promises_signing_key"},
		{"ManagedPolicyReads", policy, allow(read, ref("SigningKey")), "promises_signing_key"},
		{"UserReads", "AWS::IAM::Policy", func() map[string]any {
			p := grants(read, ref("SigningKey"), "CreateRole")
			p["Users"] = []any{"anna"}
			return p
		}(), "promises_signing_key"},
		{"SecretPolicy", "AWS::SecretsManager::ResourcePolicy", map[string]any{"SecretId": ref("SigningKey"), "ResourcePolicy": map[string]any{}}, "promises_signing_key"},
		{"OtherSecretPolicy", "AWS::SecretsManager::ResourcePolicy", map[string]any{"SecretId": ref("OtherSecret"), "ResourcePolicy": map[string]any{}}, ""},
		{"KeyEndpoint", "AWS::EC2::VPCEndpoint", allow([]any{read, write}, ref("SigningKey")), ""},
		{"CreateRole", "AWS::IAM::Role", map[string]any{"AssumeRolePolicyDocument": map[string]any{}}, ""},
		{"MigrateRole", "AWS::IAM::Role", map[string]any{"AssumeRolePolicyDocument": map[string]any{}}, ""},
		{"ListRole", "AWS::IAM::Role", map[string]any{
			"AssumeRolePolicyDocument": map[string]any{}, "Policies": []any{grants(read, ref("SigningKey"))},
		}, "promises_signing_key"},
		{"SealingKeys", "AWS::SecretsManager::Secret", map[string]any{"Name": "promises-dev/sealing-keys"}, ""},
		{"Relays", "AWS::Lambda::Function", runs("relay-deliveries", "RelayRole"), ""},
		{"RelayRole", "AWS::IAM::Role", map[string]any{"AssumeRolePolicyDocument": map[string]any{}}, ""},
		{"RelayReads", "AWS::IAM::Policy", grants(read, ref("SealingKeys"), "RelayRole"), ""},
		{"MigrateRotates", "AWS::IAM::Policy", grants([]any{read, write}, ref("SealingKeys"), "MigrateRole"), ""},
		{"RelayWrites", "AWS::IAM::Policy", grants([]any{read, write}, ref("SealingKeys"), "RelayRole"), "promises_sealing_keys"},
		{"RelayReadsTheOther", "AWS::IAM::Policy", grants(read, ref("SigningKey"), "RelayRole"), "promises_signing_key"},
		{"CreateReadsTheOther", "AWS::IAM::Policy", grants(read, ref("SealingKeys"), "CreateRole"), "promises_sealing_keys"},
		{"SealingKeysPolicy", "AWS::SecretsManager::ResourcePolicy", map[string]any{"SecretId": ref("SealingKeys"), "ResourcePolicy": map[string]any{}}, "promises_sealing_keys"},
		{"URLKey", "AWS::SecretsManager::Secret", map[string]any{"Name": "promises-dev/source-url-key"}, ""},
		{"Receives", "AWS::Lambda::Function", runs("receive-webhook", "ReceiveRole"), ""},
		{"ReceiveRole", "AWS::IAM::Role", map[string]any{"AssumeRolePolicyDocument": map[string]any{}}, ""},
		{"ReceiveReads", "AWS::IAM::Policy", grants(read, []any{ref("URLKey"), ref("SealingKeys")}, "ReceiveRole"), ""},
		{"ReceiveConnects", "AWS::IAM::Policy", grants("rds-db:connect", webhookUser, "ReceiveRole"), ""},
		{"ReceiveAndRelayRead", "AWS::IAM::Policy", grants(read, ref("URLKey"), "ReceiveRole", "RelayRole"), "promises_source_url_key"},
		{"MigrateWritesURLKey", "AWS::IAM::Policy", grants(write, ref("URLKey"), "MigrateRole"), "promises_source_url_key"},
		{"URLKeyPolicy", "AWS::SecretsManager::ResourcePolicy", map[string]any{"SecretId": ref("URLKey"), "ResourcePolicy": map[string]any{}}, "promises_source_url_key"},
		{"ReceiveInvokes", "AWS::IAM::Policy", grants("lambda:InvokeFunction", function, "ReceiveRole"), "promises_receiver_rights"},
		{"ReceiveConnectsAsApp", "AWS::IAM::Policy", grants("rds-db:connect", []any{webhookUser, appUser}, "ReceiveRole"), "promises_receiver_rights"},
		{"ReceiveSharesRights", "AWS::IAM::Policy", grants("s3:GetObject", arn, "ListRole", "ReceiveRole"), "promises_receiver_rights"},
		{"AppConnects", "AWS::IAM::Policy", grants("rds-db:connect", appUser, "ListRole"), ""},
		{"Webhook", "AWS::ApiGatewayV2::Route", map[string]any{"ApiId": "a", "RouteKey": "POST /api/tenants/{slug}/webhooks/{source}"}, ""},
		{"AnotherWebhook", "AWS::ApiGatewayV2::Route", map[string]any{"ApiId": "a", "RouteKey": "GET /api/tenants/{slug}/webhooks/{source}"}, "promises_routes_authorized"},
		{"Sender", "AWS::Lambda::Function", outside("SenderRole", variables("LOG_LEVEL")), ""},
		{"SenderInVPC", "AWS::Lambda::Function", outside("SenderRole", map[string]any{"VpcConfig": map[string]any{"SubnetIds": []any{"s"}}}), "promises_sender_outside"},
		{"SenderWithDatabase", "AWS::Lambda::Function", outside("SenderRole", variables("DATABASE_URL")), "promises_sender_outside"},
		{"SenderWithKeys", "AWS::Lambda::Function", outside("SenderRole", variables("SEALING_KEYS")), "promises_sender_outside"},
		{"Loopback", "AWS::Lambda::Function", func() map[string]any {
			f := withAlias("http")
			f["Environment"].(map[string]any)["Variables"].(map[string]any)["DELIVER_TO_LOOPBACK"] = "false"
			return f
		}(), "promises_no_loopback"},
		{"SenderRole", "AWS::IAM::Role", map[string]any{"AssumeRolePolicyDocument": map[string]any{}}, ""},
		{"SenderSends", "AWS::IAM::Policy", grants([]any{"sqs:SendMessage", "sts:AssumeRole"}, arn, "SenderRole"), ""},
		{"SenderInvokes", "AWS::IAM::Policy", grants("lambda:InvokeFunction", function, "SenderRole"), ""},
		{"SenderConnects", "AWS::IAM::Policy", grants("rds-db:connect", arn, "SenderRole"), "promises_sender_rights"},
		{"SenderReadsQueue", "AWS::IAM::Policy", grants([]any{"sqs:SendMessage", "sqs:ReceiveMessage"}, arn, "SenderRole"), "promises_sender_rights"},
		{"SenderReadsSecret", "AWS::IAM::Policy", grants(read, ref("OtherSecret"), "SenderRole"), "promises_sender_rights"},
		{"SenderSharesRights", "AWS::IAM::Policy", grants("rds-db:connect", arn, "RelayRole", "SenderRole"), "promises_sender_rights"},
		{"SenderInvokesOwn", "AWS::IAM::Policy", grants("lambda:InvokeFunction", get("Lists"), "SenderRole"), "promises_sender_rights"},
		{"SecondSender", "AWS::Lambda::Function", outside("SecondSenderRole", variables("LOG_LEVEL")), ""},
		{"SecondSenderRole", "AWS::IAM::Role", map[string]any{
			"AssumeRolePolicyDocument": map[string]any{}, "Policies": []any{grants("rds-db:connect", arn)},
		}, "promises_sender_rights"},
		{"RelaySends", "AWS::IAM::Policy", grants("lambda:InvokeFunction", get("Sender"), "RelayRole"), ""},
		{"ListSends", "AWS::IAM::Policy", grants("lambda:InvokeFunction", get("Sender"), "ListRole"), "promises_sender_callers"},
		{"ListSendsByARN", "AWS::IAM::Policy", grants("lambda:InvokeFunction", []any{function, sender}, "ListRole"), "promises_sender_callers"},
		{"RelayAndListSend", "AWS::IAM::Policy", grants("lambda:InvokeFunction", get("Sender"), "RelayRole", "ListRole"), "promises_sender_callers"},
		{"EngineSends", policy, allow("lambda:InvokeFunction", get("Sender")), "promises_sender_callers"},
		{"SenderPermission", "AWS::Lambda::Permission", map[string]any{"FunctionName": get("Sender"), "Action": "lambda:InvokeFunction", "Principal": "s3.amazonaws.com"}, "promises_sender_callers"},
		{"OtherPermission", "AWS::Lambda::Permission", map[string]any{"FunctionName": get("Named"), "Action": "lambda:InvokeFunction", "Principal": "s3.amazonaws.com"}, ""},
		{"SenderAlias", "AWS::Lambda::Alias", map[string]any{"FunctionName": ref("Sender"), "FunctionVersion": "$LATEST", "Name": "x"}, "promises_sender_callers"},
		{"LambdaEndpoint", "AWS::EC2::VPCEndpoint", allow("lambda:InvokeFunction", get("Sender")), ""},
		{"LambdaEndpointOfAnother", "AWS::EC2::VPCEndpoint", allow("lambda:InvokeFunction", []any{get("Sender"), get("Named")}), "promises_endpoint_policy"},
		{"LambdaEndpointOfAll", "AWS::EC2::VPCEndpoint", allow([]any{"lambda:InvokeFunction", "lambda:GetFunction"}, get("Sender")), "promises_endpoint_policy"},
		{"OpenEndpoint", "AWS::EC2::VPCEndpoint", map[string]any{"ServiceName": "com.amazonaws.eu-west-1.lambda"}, "promises_endpoint_policy"},
		{"URL", "AWS::Lambda::Url", map[string]any{"AuthType": "AWS_IAM", "TargetFunctionArn": function}, "promises_no_function_url"},
	}

	t.Setenv("JSII_SILENCE_WARNING_END_OF_LIFE_NODE_VERSION", "20")
	dir := filepath.Join(t.TempDir(), "cdk.out")
	app := awscdk.NewApp(&awscdk.AppProps{Outdir: jsii.String(dir), AnalyticsReporting: jsii.Bool(false), Context: &map[string]any{
		"@aws-cdk/core:validateAgainstDefaultRules": true,
	}})
	stack := awscdk.NewStack(app, jsii.String("broken"), nil)
	for _, c := range cases {
		r := awscdk.NewCfnResource(stack, jsii.String(c.id), &awscdk.CfnResourceProps{Type: jsii.String(c.kind), Properties: &c.properties})
		r.OverrideLogicalId(jsii.String(c.id))
	}
	addValidationRules(app)
	require.Panics(t, func() { app.Synth(nil) }, "a broken rule must fail the synthesis")

	text, err := os.ReadFile(filepath.Join(dir, "validation-report.json"))
	require.NoError(t, err)
	var report struct {
		PluginReports []struct {
			Violations []struct {
				RuleName, Severity  string
				ViolatingConstructs []struct{ ConstructPath string }
			}
		}
	}
	require.NoError(t, json.Unmarshal(text, &report))
	found := map[string][]string{} // the rules that report each case
	for _, r := range report.PluginReports {
		for _, v := range r.Violations {
			for _, at := range v.ViolatingConstructs {
				if id := filepath.Base(at.ConstructPath); len(v.RuleName) > 9 && v.RuleName[:9] == "promises_" {
					require.Equal(t, "error", v.Severity)
					found[id] = append(found[id], v.RuleName)
				}
			}
		}
	}
	for _, c := range cases {
		t.Run(c.id, func(t *testing.T) {
			if c.rule == "" {
				require.Empty(t, found[c.id])
				return
			}
			require.Contains(t, found[c.id], c.rule)
			for _, rule := range found[c.id] {
				require.Equal(t, c.rule, rule)
			}
		})
	}
}
