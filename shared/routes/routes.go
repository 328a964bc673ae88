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
	{"GET", "/api/tenants/{slug}/promises", "list-promises"},
	{"POST", "/api/tenants/{slug}/promises/batch-resolve", "batch-resolve"},
	{"GET", "/api/tenants/{slug}/promises/{identifier}", "get-promise"},
	{"POST", "/api/tenants/{slug}/promises/{identifier}/resolve", "resolve"},
	{"POST", "/api/tenants/{slug}/promises/{identifier}/reject", "reject"},
	{"POST", "/api/tenants/{slug}/promises/{identifier}/cancel", "cancel-promise"},
	{"POST", "/api/tenants/{slug}/promises/{identifier}/extend", "extend-promise"},
	{"GET", "/api/tenants/{slug}/workflows/{workflowExecutionId}/events", "list-events"},
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
	{"batch-resolve", 10 * time.Second, 256},
	{"cancel-promise", 10 * time.Second, 256},
	{"create-promise", 10 * time.Second, 256},
	{"extend-promise", 10 * time.Second, 256},
	{"get-promise", 30 * time.Second, 256}, // as long as API Gateway waits
	{"list-events", 30 * time.Second, 256},
	{"list-promises", 10 * time.Second, 256},
	{"reject", 10 * time.Second, 256},
	{"resolve", 10 * time.Second, 256},
	{"resolve-by-id", 10 * time.Second, 256},
	{"resolve-by-key", 10 * time.Second, 256},
	{"expire-promises", 75 * time.Second, 256},
	{"migrate", 15 * time.Minute, 256},
}

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
