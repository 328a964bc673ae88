package routes

import (
	"net/url"
	"strings"
	"time"
)

// CORS lists the methods and headers that web pages may use with the HTTP API. A
// browser may cache the preflight response for MaxAge. The allowed origins are a
// setting of the deployment; by default none is allowed.
var CORS = struct {
	Methods []string
	Headers []string
	MaxAge  time.Duration
}{[]string{"GET", "POST", "PUT", "DELETE"}, []string{"authorization", "content-type"}, time.Hour}

// IsOrigin reports whether s is a web origin, in the form in which browsers send
// it: https://app.example.com. A pattern is not an origin.
func IsOrigin(s string) bool {
	u, err := url.Parse(s)
	return err == nil && u.Host != "" && !strings.Contains(u.Host, "*") && (u.Scheme == "https" || u.Scheme == "http") && s == u.Scheme+"://"+u.Host
}
