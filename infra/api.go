package main

import (
	"encoding/json"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsapigatewayv2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsapigatewayv2authorizers"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsapigatewayv2integrations"
	"github.com/aws/aws-cdk-go/awscdk/v2/awscertificatemanager"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslambda"
	"github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"

	"github.com/flovyn/promises/shared/routes"
)

// api is the HTTP API: the routes of the table, each behind its authorizer.
type api struct {
	awsapigatewayv2.HttpApi
	domain awsapigatewayv2.DomainName // nil for API Gateway's own
	url    *string
}

func newAPI(parent constructs.Construct, s settings) api {
	scope := constructs.NewConstruct(parent, jsii.String("Api"))
	props := &awsapigatewayv2.HttpApiProps{
		ApiName: jsii.String(s.stackName()), CreateDefaultStage: jsii.Bool(false),
		DisableExecuteApiEndpoint: jsii.Bool(s.Domain != ""),
	}
	if s.CORSOrigins != nil {
		props.CorsPreflight = &awsapigatewayv2.CorsPreflightOptions{
			AllowOrigins: jsii.Strings(s.CORSOrigins...),
			AllowMethods: &[]awsapigatewayv2.CorsHttpMethod{awsapigatewayv2.CorsHttpMethod_GET, awsapigatewayv2.CorsHttpMethod_POST},
			AllowHeaders: jsii.Strings("authorization", "content-type"),
			MaxAge:       awscdk.Duration_Hours(jsii.Number(1)),
		}
	}
	a := api{HttpApi: awsapigatewayv2.NewHttpApi(scope, jsii.String("Http"), props)}

	var mapping *awsapigatewayv2.DomainMappingOptions
	if s.Domain != "" {
		a.domain = awsapigatewayv2.NewDomainName(scope, jsii.String("Domain"), &awsapigatewayv2.DomainNameProps{
			DomainName:     jsii.String(s.Domain),
			SecurityPolicy: awsapigatewayv2.SecurityPolicy_TLS_1_2,
			Certificate: awscertificatemanager.NewCertificate(scope, jsii.String("Certificate"), &awscertificatemanager.CertificateProps{
				DomainName: jsii.String(s.Domain), Validation: awscertificatemanager.CertificateValidation_FromDns(nil),
			}),
		})
		mapping = &awsapigatewayv2.DomainMappingOptions{DomainName: a.domain}
		a.url = jsii.String("https://" + s.Domain)
	} else {
		a.url = a.ApiEndpoint()
	}

	rate, burst := 100, 200
	if s.Large {
		rate, burst = 2000, 1000
	}
	stage := awsapigatewayv2.NewHttpStage(scope, jsii.String("Stage"), &awsapigatewayv2.HttpStageProps{
		HttpApi: a.HttpApi, StageName: jsii.String("$default"), AutoDeploy: jsii.Bool(true), DomainMapping: mapping,
		DetailedMetricsEnabled: jsii.Bool(true),
		Throttle:               &awsapigatewayv2.ThrottleSettings{RateLimit: jsii.Number(rate), BurstLimit: jsii.Number(burst)},
	})
	stage.Node().DefaultChild().(awsapigatewayv2.CfnStage).SetAccessLogSettings(&awsapigatewayv2.CfnStage_AccessLogSettingsProperty{
		DestinationArn: newLogGroup(scope, "AccessLog", accessLogPrefix+s.stackName(), s).LogGroupArn(),
		Format:         jsii.String(accessLogFormat()),
	})
	return a
}

// accessLogPrefix begins the name of the access log's group. CloudWatch Logs allows
// all groups with the prefix /aws/vendedlogs/ at once. Any other group takes space
// in a resource policy of the account, which ends at 5,120 characters.
// https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/AWS-logs-infrastructure-CWL.html
const accessLogPrefix = "/aws/vendedlogs/apigateway/"

// accessLogFormat tells of a request by its route: paths have keys in them, and
// query strings tokens. API Gateway logs "-" for a name that HTTP APIs do not have.
// https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-logging-variables.html
func accessLogFormat() string {
	format := map[string]string{}
	for _, name := range []string{
		"authorizer.error", "error.message", "extendedRequestId", "httpMethod", "identity.sourceIp",
		"integration.error", "integration.latency", "integration.status", "protocol", "requestId", "requestTime",
		"responseLatency", "responseLength", "routeKey", "status",
	} {
		format[name] = "$context." + name
	}
	line, err := json.Marshal(format)
	if err != nil {
		panic(err) // strings
	}
	return string(line)
}

// serve adds the routes of the table, and nothing else.
func (a api) serve(functions map[string]awslambda.Function) {
	authorizers := map[string]awsapigatewayv2.IHttpRouteAuthorizer{}
	for _, authorizer := range routes.Authorizers {
		authorizers[authorizer.Name] = awsapigatewayv2authorizers.NewHttpLambdaAuthorizer(
			jsii.String(authorizer.Name), functions[authorizer.Function], &awsapigatewayv2authorizers.HttpLambdaAuthorizerProps{
				ResponseTypes:   &[]awsapigatewayv2authorizers.HttpLambdaResponseType{awsapigatewayv2authorizers.HttpLambdaResponseType_SIMPLE},
				IdentitySource:  jsii.Strings(authorizer.IdentitySource),
				ResultsCacheTtl: awscdk.Duration_Seconds(jsii.Number(authorizer.TTL.Seconds())),
			})
	}
	integrations := map[string]awsapigatewayv2.HttpRouteIntegration{}
	for _, route := range routes.HTTP {
		if integrations[route.Function] == nil {
			integrations[route.Function] = awsapigatewayv2integrations.NewHttpLambdaIntegration(
				jsii.String(route.Function), functions[route.Function], &awsapigatewayv2integrations.HttpLambdaIntegrationProps{
					PayloadFormatVersion: awsapigatewayv2.PayloadFormatVersion_VERSION_2_0(),
				})
		}
		a.AddRoutes(&awsapigatewayv2.AddRoutesOptions{
			Path:        jsii.String(route.Path),
			Methods:     &[]awsapigatewayv2.HttpMethod{awsapigatewayv2.HttpMethod(route.Method)},
			Integration: integrations[route.Function],
			Authorizer:  authorizers[route.Authorizer],
		})
	}
}
