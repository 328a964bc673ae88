// Package routes lists the routes, authorizers, functions and schedules of the
// service. The infrastructure and the local runner both read these tables, so they
// cannot differ.
package routes

import "time"

// A Route is a route of the HTTP API. Path is in API Gateway's notation: a {variable}
// stands for one whole path segment. Authorizer is the Name of one of Authorizers. It
// is empty only for functions in SelfVerifying.
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
	{"GET", "/api/tenants/{slug}/deliveries", "list-deliveries", "credential"},
	{"POST", "/api/tenants/{slug}/deliveries/retry", "retry-deliveries", "credential"},
	{"POST", "/api/tenants/{slug}/deliveries/{deliveryId}/retry", "retry-deliveries", "credential"},
	{"GET", "/api/tenants/{slug}/destinations", "manage-integrations", "credential"},
	{"GET", "/api/tenants/{slug}/destinations/{name}", "manage-integrations", "credential"},
	{"PUT", "/api/tenants/{slug}/destinations/{name}", "manage-integrations", "credential"},
	{"DELETE", "/api/tenants/{slug}/destinations/{name}", "manage-integrations", "credential"},
	{"POST", "/api/tenants/{slug}/destinations/{name}/rotate-secret", "manage-integrations", "credential"},
	{"POST", "/api/tenants/{slug}/destinations/{name}/test", "manage-integrations", "credential"},
	{"PUT", "/api/tenants/{slug}/default-destination", "manage-integrations", "credential"},
	{"GET", "/api/tenants/{slug}/sources", "manage-integrations", "credential"},
	{"GET", "/api/tenants/{slug}/sources/{name}", "manage-integrations", "credential"},
	{"PUT", "/api/tenants/{slug}/sources/{name}", "manage-integrations", "credential"},
	{"DELETE", "/api/tenants/{slug}/sources/{name}", "manage-integrations", "credential"},
	{"POST", "/api/tenants/{slug}/sources/{name}/rotate-secret", "manage-integrations", "credential"},
	{"POST", "/api/tenants/{slug}/sources/{name}/test", "manage-integrations", "credential"},
	{"GET", "/api/tenants/{slug}/receipts", "list-receipts", "credential"},
	{"POST", "/api/tenants/{slug}/receipts/{receiptId}/replay", "manage-integrations", "credential"},
	{"POST", "/api/tenants/{slug}/webhooks/{source}", "receive-webhook", ""},
	{"POST", "/api/tenants/{slug}/callbacks/{identifier}/resolve", "settle-callback", ""},
	{"POST", "/api/tenants/{slug}/callbacks/{identifier}/reject", "settle-callback", ""},
	{"POST", "/api/tenants/{slug}/callbacks/{identifier}/resolve/{token}", "settle-callback", ""},
	{"POST", "/api/tenants/{slug}/callbacks/{identifier}/reject/{token}", "settle-callback", ""},
}

// HTTPAlias is the alias through which API Gateway invokes the functions that have
// routes. A function trusts an API Gateway event only if it comes through this alias.
const HTTPAlias = "http"

// Waiting lists the functions whose calls may wait for a long time. Their reserved
// concurrency is separate from that of the other functions.
var Waiting = []string{"wait-events", "wait-promise"}

// SelfVerifying lists the functions that verify the caller's credential themselves.
// Their routes have no authorizer, and a separate throttle.
var SelfVerifying = []string{"receive-webhook", "settle-callback"}

// An Authorizer is a Lambda authorizer of the HTTP API: REQUEST, payload format 2.0,
// simple responses. API Gateway invokes Function to authenticate the caller before it
// invokes a route's function. IdentitySource is the place of the credential in the
// request, in API Gateway's notation: $request.header.Name or
// $request.querystring.name. If it is missing or empty, API Gateway answers 401.
//
// API Gateway caches Function's answer, yes or no, for TTL (at most an hour; 0 turns
// the cache off). The answer applies to every request with the same value in
// IdentitySource, on all routes of the authorizer. So the answer may identify the
// caller, and must not depend on the rest of the request. The route's function
// decides, for each call, whether the caller may do it.
type Authorizer struct {
	Name           string
	Function       string
	IdentitySource string
	TTL            time.Duration
}

// Authorizers lists the authorizers of the HTTP API. "credential" reads the
// Authorization header.
var Authorizers = []Authorizer{
	{"credential", "authorize", "$request.header.Authorization", 15 * time.Second},
}

// A Function is a Lambda function. Its code is in functions/{Name}, its sample events
// are events/{Name}.*.json. Role is the Postgres role that the function connects as
// if the deployment has separate roles; migrations/access defines their rights. Role
// is empty for migrate, which creates the roles.
type Function struct {
	Name     string
	Timeout  time.Duration
	MemoryMB int
	Role     string
}

// The Postgres roles.
const (
	app     = "promises_app"
	reader  = "promises_reader"
	sweeper = "promises_sweeper"
	admin   = "promises_admin"
	relay   = "promises_relay"
	manager = "promises_manager"
	webhook = "promises_webhook"
)

// Functions lists every Lambda function, including those without a route.
var Functions = []Function{
	{"authorize", 10 * time.Second, 256, reader}, // API Gateway's limit for an authorizer
	{"batch-resolve", 10 * time.Second, 256, app},
	{"cancel-promise", 10 * time.Second, 256, app},
	{"create-promise", 10 * time.Second, 256, app},
	{"delete-promise", 10 * time.Second, 256, app},
	{"extend-promise", 10 * time.Second, 256, app},
	{"get-promise", 10 * time.Second, 256, reader},
	{"list-deliveries", 10 * time.Second, 256, reader},
	{"list-events", 10 * time.Second, 256, reader},
	{"list-promises", 10 * time.Second, 256, reader},
	{"list-receipts", 10 * time.Second, 256, reader},
	{"manage-integrations", 30 * time.Second, 256, manager}, // API Gateway's limit: a test waits for the receiver
	{"manage-tenants", 10 * time.Second, 256, admin},
	{"receive-webhook", 10 * time.Second, 512, webhook}, // rules compile in proportion to the memory's share of a CPU
	{"reject", 10 * time.Second, 256, app},
	{"resolve", 10 * time.Second, 256, app},
	{"resolve-by-id", 10 * time.Second, 256, app},
	{"resolve-by-key", 10 * time.Second, 256, app},
	{"retry-deliveries", 10 * time.Second, 256, app},
	{"revoke-tokens", 10 * time.Second, 256, app},
	{"settle-callback", 10 * time.Second, 256, app},
	{"wait-events", 30 * time.Second, 256, reader}, // API Gateway's limit
	{"wait-promise", 30 * time.Second, 256, reader},
	{"expire-promises", 75 * time.Second, 256, sweeper},
	{"relay-deliveries", 180 * time.Second, 512, relay},
	{"send-deliveries", 30 * time.Second, 1024, ""},
	{"migrate", 15 * time.Minute, 256, ""},
}

// Signing lists the functions that receive SIGNING_KEY, the key that signs promise
// tokens: create-promise signs tokens, and migrate generates the key.
var Signing = []string{"create-promise", "migrate"}

// Sealing lists the functions that receive SEALING_KEYS, the keys that encrypt the
// secrets of destinations and sources, and the bodies of webhooks: migrate generates
// them.
var Sealing = []string{"manage-integrations", "manage-tenants", "receive-webhook", "relay-deliveries", "migrate"}

// Addressing lists the functions that receive SOURCE_URL_KEY, the key of the checksums
// in the URLs of sources.
var Addressing = []string{"manage-integrations", "receive-webhook"}

// Outside lists the functions that run outside the VPC, without a database.
var Outside = []string{"send-deliveries"}

// Sending lists the functions that receive SEND_FUNCTION, the name of send-deliveries,
// and may invoke it.
var Sending = []string{"manage-integrations", "relay-deliveries"}

// A Schedule is a Function that a scheduler invokes periodically, asynchronously, and
// even if the previous invocation is still running. The function must accept every
// payload that a scheduler sends, including {}.
type Schedule struct {
	Function string
	Every    time.Duration
}

// Schedules lists the scheduled functions.
var Schedules = []Schedule{
	{"expire-promises", time.Minute},
	{"relay-deliveries", time.Minute},
}
