package httpapi_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"strings"

	"github.com/aws/aws-lambda-go/events"

	"github.com/flovyn/promises/infra/local/httpapi"
	"github.com/flovyn/promises/infra/local/lambda"
	"github.com/flovyn/promises/shared/routes"
)

// greeter is an Invoker with the function greet and the authorizer's function authorize.
type greeter struct{}

func (greeter) Invoke(_ context.Context, function string, req lambda.Request) (lambda.Result, error) {
	if function == "authorize" {
		return lambda.Result{Payload: []byte(`{"isAuthorized":true,"context":{"name":"Ada"}}`)}, nil
	}
	var e events.APIGatewayV2HTTPRequest
	if err := json.Unmarshal(req.Payload, &e); err != nil {
		return lambda.Result{}, err
	}
	greeting := fmt.Sprintf("%s, %s", e.PathParameters["greeting"], e.RequestContext.Authorizer.Lambda["name"])
	payload, err := json.Marshal(map[string]any{"statusCode": 201, "body": greeting})
	return lambda.Result{Payload: payload}, err
}

// The authorizer identifies the caller, and the route's function gets the path variable and the authorizer's context.
func ExampleNew() {
	api := httpapi.New(
		[]routes.Route{{Method: "POST", Path: "/greetings/{greeting}", Function: "greet", Authorizer: "key"}},
		[]routes.Authorizer{{Name: "key", Function: "authorize", IdentitySource: "$request.header.Authorization"}},
		greeter{})
	for _, key := range []string{"", "Bearer a"} {
		request := httptest.NewRequest("POST", "/greetings/Hello", strings.NewReader(""))
		request.Header.Set("Authorization", key)
		answer := httptest.NewRecorder()
		api.ServeHTTP(answer, request)
		fmt.Println(answer.Code, answer.Body)
	}
	// Output:
	// 401 {"message":"Unauthorized"}
	// 201 Hello, Ada
}
