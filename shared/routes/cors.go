package routes

import (
	"net/url"
	"strings"
	"time"
)

// CORS says what pages of the web origins that may call the HTTP API can use:
// these methods and headers. A browser may keep the answer for MaxAge. The
// origins themselves are a setting; by default there are none.
var CORS = struct {
	Methods []string
	Headers []string
	MaxAge  time.Duration
}{[]string{"GET", "POST", "DELETE"}, []string{"authorization", "content-type"}, time.Hour}

// IsOrigin reports whether s is a web origin, in the form in which browsers send
// it: https://app.example.com. A pattern is not one.
func IsOrigin(s string) bool {
	u, err := url.Parse(s)
	return err == nil && u.Host != "" && !strings.Contains(u.Host, "*") && (u.Scheme == "https" || u.Scheme == "http") && s == u.Scheme+"://"+u.Host
}
