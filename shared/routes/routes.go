// Package routes is the one table of what the service offers: which function
// answers which method and path, which one says beforehand who calls, and what
// each is given to run with. The infrastructure and the local runner both read
// it, so they cannot disagree.
package routes

import "time"

// Route is one route of the HTTP API. Path is in API Gateway's notation: a
// {variable} stands for one whole path segment. Authorizer is the name of one
// of Authorizers. Only a route of one of SelfVerifying has none.
type Route struct {
	Method     string
	Path       string
	Function   string
	Authorizer string
}

// HTTP lists the routes of the HTTP API.
var HTTP = []Route{
	{"POST", "/api/tenants/{slug}/promises", "create-promise", "credential"},
	{"GET", "/api/tenants/{slug}/promises", "list-promises", "credential"},
	{"POST", "/api/tenants/{slug}/promises/batch-resolve", "batch-resolve", "credential"},
	{"GET", "/api/tenants/{slug}/promises/{identifier}", "get-promise", "credential"},
	{"GET", "/api/tenants/{slug}/promises/{identifier}/wait", "wait-promise", "credential"},
	{"DELETE", "/api/tenants/{slug}/promises/{identifier}", "delete-promise", "credential"},
	{"POST", "/api/tenants/{slug}/promises/{identifier}/resolve", "resolve", "credential"},
	{"POST", "/api/tenants/{slug}/promises/{identifier}/reject", "reject", "credential"},
	{"POST", "/api/tenants/{slug}/promises/{identifier}/cancel", "cancel-promise", "credential"},
	{"POST", "/api/tenants/{slug}/promises/{identifier}/extend", "extend-promise", "credential"},
	{"POST", "/api/tenants/{slug}/promises/{identifier}/revoke-tokens", "revoke-tokens", "credential"},
	{"GET", "/api/tenants/{slug}/workflows/{workflowExecutionId}/events", "list-events", "credential"},
	{"GET", "/api/tenants/{slug}/workflows/{workflowExecutionId}/events/wait", "wait-events", "credential"},
	{"POST", "/api/tenants/{slug}/callbacks/{identifier}/resolve", "settle-callback", ""},
	{"POST", "/api/tenants/{slug}/callbacks/{identifier}/reject", "settle-callback", ""},
	{"POST", "/api/tenants/{slug}/callbacks/{identifier}/resolve/{token}", "settle-callback", ""},
	{"POST", "/api/tenants/{slug}/callbacks/{identifier}/reject/{token}", "settle-callback", ""},
}

// HTTPAlias is the alias through which API Gateway invokes a function that has
// a route. The function believes no other invocation's event.
const HTTPAlias = "http"

// Waiting lists the functions whose calls may wait for long. Their concurrency
// is apart from that of every other function.
var Waiting = []string{"wait-events", "wait-promise"}

// SelfVerifying lists the functions that verify the caller's credential
// themselves. Their routes have no authorizer, and a throttle of their own.
var SelfVerifying = []string{"settle-callback"}

// Authorizer is a Lambda authorizer of the HTTP API: REQUEST, payload format
// 2.0, simple responses. Function is asked who calls before a route's own
// function runs. IdentitySource says where the request carries the credential,
// in API Gateway's notation: $request.header.Name or $request.querystring.name.
// A request in which that is missing or empty API Gateway answers itself, 401.
//
// What Function answered, yes or no, stands for TTL (0: not at all; at most an
// hour) for every request with the same value in IdentitySource, on all routes
// of the authorizer. So the answer may say who calls, and must not depend on
// anything else in the request: whether the caller may do what the route does
// is for the route's function to judge, each time.
type Authorizer struct {
	Name           string
	Function       string
	IdentitySource string
	TTL            time.Duration
}

// Authorizers lists the authorizers of the HTTP API. "credential" reads the
// header that API clients send.
var Authorizers = []Authorizer{
	{"credential", "authorize", "$request.header.Authorization", 15 * time.Second},
}

// Function is one Lambda. Its code is functions/{Name}, its sample events are
// events/{Name}.*.json. Role is the role in Postgres that it connects as where
// each has one of its own (migrations/access says what it may do); empty for migrate,
// which makes them.
type Function struct {
	Name     string
	Timeout  time.Duration
	MemoryMB int
	Role     string
}

// The roles in Postgres.
const (
	app     = "promises_app"
	reader  = "promises_reader"
	sweeper = "promises_sweeper"
	admin   = "promises_admin"
)

// Functions lists every Lambda, those without a route included.
var Functions = []Function{
	{"authorize", 10 * time.Second, 256, reader}, // as long as API Gateway waits for an authorizer
	{"batch-resolve", 10 * time.Second, 256, app},
	{"cancel-promise", 10 * time.Second, 256, app},
	{"create-promise", 10 * time.Second, 256, app},
	{"delete-promise", 10 * time.Second, 256, app},
	{"extend-promise", 10 * time.Second, 256, app},
	{"get-promise", 10 * time.Second, 256, reader},
	{"list-events", 10 * time.Second, 256, reader},
	{"list-promises", 10 * time.Second, 256, reader},
	{"manage-tenants", 10 * time.Second, 256, admin},
	{"reject", 10 * time.Second, 256, app},
	{"resolve", 10 * time.Second, 256, app},
	{"resolve-by-id", 10 * time.Second, 256, app},
	{"resolve-by-key", 10 * time.Second, 256, app},
	{"revoke-tokens", 10 * time.Second, 256, app},
	{"settle-callback", 10 * time.Second, 256, app},
	{"wait-events", 30 * time.Second, 256, reader}, // as long as API Gateway waits
	{"wait-promise", 30 * time.Second, 256, reader},
	{"expire-promises", 75 * time.Second, 256, sweeper},
	{"migrate", 15 * time.Minute, 256, ""},
}

// Signing lists the functions that are given SIGNING_KEY, the key that signs
// promise tokens: create-promise signs, and migrate makes the key.
var Signing = []string{"create-promise", "migrate"}

// Schedule is a Function that is invoked without being asked, again and again:
// as an event, and whether or not its last invocation has ended. It must be
// content with any payload that the scheduler sends, {} among them.
type Schedule struct {
	Function string
	Every    time.Duration
}

// Schedules lists what runs by itself.
var Schedules = []Schedule{
	{"expire-promises", time.Minute},
}
