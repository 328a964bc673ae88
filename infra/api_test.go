package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/routes"
)

var routeFacts = []fact{
	{"the routes are those of the table, each with its function and authorizer", func(t *testing.T, tmpl template) {
		var found []routes.Route
		for _, r := range tmpl.ofType("AWS::ApiGatewayV2::Route") {
			method, path, _ := strings.Cut(r.Properties["RouteKey"].(string), " ")
			route := routes.Route{Method: method, Path: path, Function: tmpl.functionName(tmpl.Resources[target(tmpl.integration(t, r).Properties["IntegrationUri"])])}
			if authorizer, ok := tmpl.Resources[target(r.Properties["AuthorizerId"])]; ok {
				require.Equal(t, "AWS::ApiGatewayV2::Authorizer", authorizer.Type)
				route.Authorizer = authorizer.Properties["Name"].(string)
			}
			found = append(found, route)
		}
		require.ElementsMatch(t, routes.HTTP, found)
	}},
	{"integrations use payload format 2.0", func(t *testing.T, tmpl template) {
		for _, r := range tmpl.ofType("AWS::ApiGatewayV2::Route") {
			require.Equal(t, "2.0", tmpl.integration(t, r).Properties["PayloadFormatVersion"])
		}
	}},
	{"integrations invoke the function through its alias", func(t *testing.T, tmpl template) {
		for _, r := range tmpl.ofType("AWS::ApiGatewayV2::Route") {
			tmpl.requireAlias(t, tmpl.integration(t, r))
		}
	}},
	{"only functions with a route have an alias", func(t *testing.T, tmpl template) {
		routed := map[string]bool{}
		for _, r := range routes.HTTP {
			routed[r.Function] = true
		}
		require.Len(t, tmpl.ofType("AWS::Lambda::Alias"), len(routed))
	}},
	{"the authorizers are those of the table", func(t *testing.T, tmpl template) {
		authorizers := map[string]map[string]any{}
		for _, a := range tmpl.ofType("AWS::ApiGatewayV2::Authorizer") {
			authorizers[a.Properties["Name"].(string)] = a.Properties
		}
		require.Len(t, tmpl.ofType("AWS::ApiGatewayV2::Authorizer"), len(routes.Authorizers))
		for _, want := range routes.Authorizers {
			id, _ := tmpl.function(t, want.Function)
			require.Contains(t, authorizers, want.Name)
			p := authorizers[want.Name]
			require.Equal(t, id, target(p["AuthorizerUri"]), want.Name)
			require.Equal(t, true, p["EnableSimpleResponses"], want.Name)
			require.Equal(t, "2.0", p["AuthorizerPayloadFormatVersion"], want.Name)
			require.Equal(t, []any{want.IdentitySource}, p["IdentitySource"], want.Name)
			require.EqualValues(t, want.TTL.Seconds(), p["AuthorizerResultTtlInSeconds"], want.Name)
		}
	}},
	{"CORS is off unless corsOrigins is set", func(t *testing.T, tmpl template) {
		for _, r := range tmpl.ofType("AWS::ApiGatewayV2::Api") {
			require.Equal(t, tmpl.settings["corsOrigins"] != "", r.Properties["CorsConfiguration"] != nil)
			if tmpl.settings["corsOrigins"] != "" {
				require.JSONEq(t, `{"AllowOrigins":["https://app.example.com"],"AllowMethods":["GET","POST","PUT","DELETE"],
					"AllowHeaders":["authorization","content-type"],"MaxAge":3600}`, text(t, r.Properties["CorsConfiguration"]))
			}
		}
	}},
	{"a domain turns off API Gateway's own host name", func(t *testing.T, tmpl template) {
		for _, r := range tmpl.ofType("AWS::ApiGatewayV2::Api") {
			require.Equal(t, tmpl.settings["domain"] != "", r.Properties["DisableExecuteApiEndpoint"] == true)
		}
	}},
	{"the throttle of the API depends on the size", func(t *testing.T, tmpl template) {
		for _, r := range tmpl.ofType("AWS::ApiGatewayV2::Stage") {
			all := r.Properties["DefaultRouteSettings"].(map[string]any)
			require.NotEmpty(t, all["ThrottlingRateLimit"])
			require.EqualValues(t, map[bool]int{true: 2000, false: 100}[tmpl.large], all["ThrottlingRateLimit"])
			require.EqualValues(t, map[bool]int{true: 1000, false: 200}[tmpl.large], all["ThrottlingBurstLimit"])
		}
	}},
	{"each route has its own throttle", checkThrottles},
	{"the stage depends on each route", func(t *testing.T, tmpl template) {
		for _, r := range tmpl.ofType("AWS::ApiGatewayV2::Stage") {
			for id := range tmpl.ofType("AWS::ApiGatewayV2::Route") {
				require.Contains(t, r.DependsOn, id, "its settings can name only routes that exist")
			}
		}
	}},
	{"the access log has no path and no query string", func(t *testing.T, tmpl template) {
		for _, r := range tmpl.ofType("AWS::ApiGatewayV2::Stage") {
			for _, secret := range []string{"$context.path", "queryString", "$context.authorizer.principalId"} {
				require.NotContains(t, text(t, r.Properties["AccessLogSettings"]), secret, "paths contain keys, query strings contain tokens")
			}
		}
	}},
	{"the access log has only variables of HTTP APIs", func(t *testing.T, tmpl template) {
		for _, r := range tmpl.ofType("AWS::ApiGatewayV2::Stage") {
			var line map[string]string
			require.NoError(t, json.Unmarshal([]byte(r.Properties["AccessLogSettings"].(map[string]any)["Format"].(string)), &line))
			for name, variable := range line {
				require.Equal(t, "$context."+name, variable)
				require.Contains(t, httpAPIVariables, name, `API Gateway would log "-"`)
			}
		}
	}},
	{"the access log's group has the prefix that needs no resource policy", func(t *testing.T, tmpl template) {
		for _, r := range tmpl.ofType("AWS::ApiGatewayV2::Stage") {
			log := tmpl.Resources[target(r.Properties["AccessLogSettings"].(map[string]any)["DestinationArn"])]
			require.Equal(t, "/aws/vendedlogs/apigateway/promises-"+tmpl.stage, log.Properties["LogGroupName"])
		}
	}},
}

// integration returns the integration of a route.
func (tmpl template) integration(t *testing.T, route resource) resource {
	t.Helper()
	integration := tmpl.Resources[target(route.Properties["Target"])]
	require.Equal(t, "AWS::ApiGatewayV2::Integration", integration.Type)
	return integration
}

// requireAlias checks that the integration invokes its function through the alias, that API Gateway may do so, and that API
// Gateway has no permission for the function without the alias.
func (tmpl template) requireAlias(t *testing.T, integration resource) {
	t.Helper()
	uri := integration.Properties["IntegrationUri"]
	function := target(uri)
	require.Equal(t, map[string]any{"Fn::Join": []any{"", []any{map[string]any{"Fn::GetAtt": []any{function, "Arn"}}, ":http"}}}, uri)
	aliases := 0
	for id, alias := range tmpl.ofType("AWS::Lambda::Alias") {
		if target(alias.Properties["FunctionName"]) != function {
			continue
		}
		aliases++
		require.Equal(t, routes.HTTPAlias, alias.Properties["Name"])
		require.Equal(t, "$LATEST", alias.Properties["FunctionVersion"])
		require.Contains(t, integration.DependsOn, id)
		permissions := 0
		for _, p := range tmpl.ofType("AWS::Lambda::Permission") {
			if p.Properties["Principal"] == "apigateway.amazonaws.com" && target(p.Properties["FunctionName"]) == id {
				permissions++
			}
			require.NotEqual(t, function, target(p.Properties["FunctionName"]), "a permission without the alias")
		}
		require.Positive(t, permissions)
	}
	require.Equal(t, 1, aliases)
}

// checkThrottles compares each route's throttle with its share of the API's: a route without an authorizer has a tenth, a
// wait a quarter, a read and a webhook half.
func checkThrottles(t *testing.T, tmpl template) {
	for _, r := range tmpl.ofType("AWS::ApiGatewayV2::Stage") {
		all := r.Properties["DefaultRouteSettings"].(map[string]any)
		own := r.Properties["RouteSettings"].(map[string]any)
		require.Len(t, own, len(tmpl.ofType("AWS::ApiGatewayV2::Route")))
		for _, route := range tmpl.ofType("AWS::ApiGatewayV2::Route") {
			name := route.Properties["RouteKey"].(string)
			require.Contains(t, own, name)
			throttle := own[name].(map[string]any)
			share := 1.0
			switch {
			case strings.Contains(name, "/webhooks/"):
				share = 2
			case route.Properties["AuthorizationType"] == "NONE":
				share = 10
			case strings.HasSuffix(name, "/wait"):
				share = 4
			case strings.HasPrefix(name, "GET "):
				share = 2
			}
			require.InDelta(t, all["ThrottlingRateLimit"], throttle["ThrottlingRateLimit"].(float64)*share, 0, name)
			require.InDelta(t, all["ThrottlingBurstLimit"], throttle["ThrottlingBurstLimit"].(float64)*share, 0, name)
		}
	}
}

// httpAPIVariables lists the $context variables of the access log of an HTTP API. Any other name after "authorizer." is a key
// in the answer of the authorizer.
// https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-logging-variables.html
var httpAPIVariables = []string{
	"accountId", "apiId", "authorizer.error", "awsEndpointRequestId", "awsEndpointRequestId2", "customDomain.basePathMatched", "dataProcessed", "domainName", "domainPrefix", "error.message",
	"error.messageString", "error.responseType", "extendedRequestId", "httpMethod", "identity.accountId", "identity.caller",
	"identity.clientCert.clientCertPem", "identity.clientCert.issuerDN", "identity.clientCert.serialNumber",
	"identity.clientCert.subjectDN", "identity.clientCert.validity.notAfter", "identity.clientCert.validity.notBefore",
	"identity.cognitoAuthenticationProvider", "identity.cognitoAuthenticationType", "identity.cognitoIdentityId",
	"identity.cognitoIdentityPoolId", "identity.principalOrgId", "identity.sourceIp", "identity.user", "identity.userAgent",
	"identity.userArn", "integration.error", "integration.integrationStatus", "integration.latency", "integration.requestId",
	"integration.status", "integrationErrorMessage", "integrationLatency", "integrationStatus", "path", "protocol", "requestId",
	"requestTime", "requestTimeEpoch", "responseLatency", "responseLength", "routeKey", "stage", "status",
}
