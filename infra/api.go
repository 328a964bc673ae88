package main

import (
	"encoding/json"
	"slices"

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

// api is the HTTP API. It has the routes of routes.HTTP, each with its authorizer.
type api struct {
	awsapigatewayv2.HttpApi
	stage  awsapigatewayv2.CfnStage
	limit  throttle                   // of the whole API; throttle.forRoute derives each route's
	domain awsapigatewayv2.DomainName // nil if the API has API Gateway's own host name
	url    *string
}

func newAPI(parent constructs.Construct, s settings) api {
	scope := constructs.NewConstruct(parent, jsii.String("Api"))
	props := &awsapigatewayv2.HttpApiProps{
		ApiName: jsii.String(s.stackName()), CreateDefaultStage: jsii.Bool(false),
		DisableExecuteApiEndpoint: jsii.Bool(s.Domain != ""),
	}
	if s.CORSOrigins != nil {
		props.CorsPreflight = corsPreflight(s.CORSOrigins)
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

	a.limit = throttle{rate: 100, burst: 200}
	if s.Large {
		a.limit = throttle{rate: 2000, burst: 1000}
	}
	stage := awsapigatewayv2.NewHttpStage(scope, jsii.String("Stage"), &awsapigatewayv2.HttpStageProps{
		HttpApi: a.HttpApi, StageName: jsii.String("$default"), AutoDeploy: jsii.Bool(true), DomainMapping: mapping,
		DetailedMetricsEnabled: jsii.Bool(true),
		Throttle:               &awsapigatewayv2.ThrottleSettings{RateLimit: jsii.Number(a.limit.rate), BurstLimit: jsii.Number(a.limit.burst)},
	})
	a.stage = stage.Node().DefaultChild().(awsapigatewayv2.CfnStage)
	a.stage.SetAccessLogSettings(&awsapigatewayv2.CfnStage_AccessLogSettingsProperty{
		DestinationArn: newLogGroup(scope, "AccessLog", accessLogPrefix+s.stackName(), s).LogGroupArn(),
		Format:         jsii.String(accessLogFormat()),
	})
	return a
}

func corsPreflight(origins []string) *awsapigatewayv2.CorsPreflightOptions {
	var methods []awsapigatewayv2.CorsHttpMethod
	for _, m := range routes.CORS.Methods {
		methods = append(methods, awsapigatewayv2.CorsHttpMethod(m))
	}
	return &awsapigatewayv2.CorsPreflightOptions{
		AllowOrigins: jsii.Strings(origins...),
		AllowMethods: &methods,
		AllowHeaders: jsii.Strings(routes.CORS.Headers...),
		MaxAge:       awscdk.Duration_Seconds(jsii.Number(routes.CORS.MaxAge.Seconds())),
	}
}

// A throttle is the number of requests a second that API Gateway accepts, and the size
// of a burst.
type throttle struct{ rate, burst int }

// forRoute returns the throttle of one route. Each route has its own, so that a flood on
// one route does not throttle the others. A route that settles or creates gets the whole
// throttle of the API, a read half of it, a wait a quarter. A route without an
// authorizer is open to callers without a credential. It gets a tenth, and the one of
// webhooks a half: some providers never repeat a webhook that was answered 429.
func (t throttle) forRoute(route routes.Route) throttle {
	share := 1
	switch {
	case route.Function == "receive-webhook":
		share = 2
	case slices.Contains(routes.SelfVerifying, route.Function):
		share = 10
	case slices.Contains(routes.Waiting, route.Function):
		share = 4
	case route.Method == "GET":
		share = 2
	}
	return throttle{t.rate / share, t.burst / share}
}

// accessLogPrefix begins the name of the access log's group. One resource policy of
// CloudWatch Logs covers all groups with the prefix /aws/vendedlogs/. Any other group
// takes space in that policy, which is limited to 5,120 characters.
// https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/AWS-logs-infrastructure-CWL.html
const accessLogPrefix = "/aws/vendedlogs/apigateway/"

// accessLogFormat returns the format of the access log. It has the route and not the
// path, because paths contain idempotency keys and query strings contain tokens. API
// Gateway logs "-" for a variable that HTTP APIs do not have.
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
		panic(err) // impossible: the map holds only strings
	}
	return string(line)
}

// addTableRoutes adds the routes of routes.HTTP, and no others.
func (a api) addTableRoutes(functions map[string]awslambda.Function) {
	authorizers := map[string]awsapigatewayv2.IHttpRouteAuthorizer{}
	for _, authorizer := range routes.Authorizers {
		authorizers[authorizer.Name] = awsapigatewayv2authorizers.NewHttpLambdaAuthorizer(
			jsii.String(authorizer.Name), functions[authorizer.Function], &awsapigatewayv2authorizers.HttpLambdaAuthorizerProps{
				ResponseTypes:   &[]awsapigatewayv2authorizers.HttpLambdaResponseType{awsapigatewayv2authorizers.HttpLambdaResponseType_SIMPLE},
				IdentitySource:  jsii.Strings(authorizer.IdentitySource),
				ResultsCacheTtl: awscdk.Duration_Seconds(jsii.Number(authorizer.TTL.Seconds())),
			})
	}
	limits := map[string]any{}
	integrations := map[string]awsapigatewayv2.HttpRouteIntegration{}
	for _, route := range routes.HTTP {
		first := integrations[route.Function] == nil
		if first {
			alias := awslambda.NewAlias(functions[route.Function], jsii.String("HttpAlias"), &awslambda.AliasProps{
				AliasName: jsii.String(routes.HTTPAlias), Version: functions[route.Function].LatestVersion(),
			})
			integrations[route.Function] = awsapigatewayv2integrations.NewHttpLambdaIntegration(
				jsii.String(route.Function), alias, &awsapigatewayv2integrations.HttpLambdaIntegrationProps{
					PayloadFormatVersion: awsapigatewayv2.PayloadFormatVersion_VERSION_2_0(),
				})
		}
		added := a.AddRoutes(&awsapigatewayv2.AddRoutesOptions{
			Path:        jsii.String(route.Path),
			Methods:     &[]awsapigatewayv2.HttpMethod{awsapigatewayv2.HttpMethod(route.Method)},
			Integration: integrations[route.Function],
			Authorizer:  authorizers[route.Authorizer],
		})
		if first {
			setIntegrationURI((*added)[0], functions[route.Function])
		}
		limit := a.limit.forRoute(route)
		limits[route.Method+" "+route.Path] = map[string]any{
			"DetailedMetricsEnabled": true, "ThrottlingRateLimit": limit.rate, "ThrottlingBurstLimit": limit.burst,
		}
		for _, r := range *added { // the stage's settings can name only routes that exist
			a.stage.AddResourceDependency(r.Node().DefaultChild().(awscdk.CfnResource), nil)
		}
	}
	a.stage.SetRouteSettings(limits)
}

// setIntegrationURI writes the target of the route's integration as the function's ARN
// followed by the alias. The CDK writes a reference to the alias, from which SAM CLI
// cannot find the function.
func setIntegrationURI(route awsapigatewayv2.HttpRoute, f awslambda.Function) {
	for _, construct := range *route.Node().FindAll(constructs.ConstructOrder_PREORDER) {
		if integration, ok := construct.(awsapigatewayv2.CfnIntegration); ok {
			integration.SetIntegrationUri(awscdk.Fn_Join(jsii.String(""), &[]*string{f.FunctionArn(), jsii.String(":" + routes.HTTPAlias)}))
			integration.AddResourceDependency(f.Node().FindChild(jsii.String("HttpAlias")).Node().DefaultChild().(awscdk.CfnResource), nil)
		}
	}
}
