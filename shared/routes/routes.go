// Package routes is the one table of what the service offers: which function
// answers which method and path, and what each function is given to run with.
// The infrastructure and the local runner both read it, so they cannot
// disagree.
package routes

import "time"

// Route is one route of the HTTP API. Path is in API Gateway's notation: a
// {variable} stands for one whole path segment.
type Route struct {
	Method   string
	Path     string
	Function string
}

// HTTP lists the routes of the HTTP API.
var HTTP = []Route{
	{"POST", "/api/tenants/{slug}/promises", "create-promise"},
	{"GET", "/api/tenants/{slug}/promises/{identifier}", "get-promise"},
	{"POST", "/api/tenants/{slug}/promises/{identifier}/resolve", "resolve"},
	{"POST", "/api/tenants/{slug}/promises/{identifier}/reject", "reject"},
}

// Function is one Lambda. Its code is functions/{Name}, its sample events are
// events/{Name}.*.json.
type Function struct {
	Name     string
	Timeout  time.Duration
	MemoryMB int
}

// Functions lists every Lambda, those without a route included.
var Functions = []Function{
	{"create-promise", 10 * time.Second, 256},
	{"get-promise", 10 * time.Second, 256},
	{"reject", 10 * time.Second, 256},
	{"resolve", 10 * time.Second, 256},
	{"resolve-by-id", 10 * time.Second, 256},
	{"resolve-by-key", 10 * time.Second, 256},
	{"migrate", 15 * time.Minute, 256},
}
