package httpapi

import (
	"net/url"
	"strings"

	"github.com/flovyn/promises/shared/routes"
)

// A router selects a route as API Gateway does, by method and complete path. A
// {variable} matches one non-empty segment, and a literal segment takes precedence over
// a variable. The router does not clean or redirect paths, so a path with a trailing or
// doubled slash is a different path.
type router []pattern

type pattern struct {
	route    routes.Route
	segments []string
}

func newRouter(table []routes.Route) router {
	r := make(router, len(table))
	for i, route := range table {
		r[i] = pattern{route, strings.Split(route.Path, "/")}
	}
	return r
}

// path returns the path that the API routes by and passes to functions. API Gateway
// decodes a path once, before routing. An encoded slash therefore separates segments,
// and a decoded "?" ends the path; the query string stays as it was sent (recorded
// events and reports: github.com/hotsock/voker/pull/8,
// github.com/aws/aws-lambda-dotnet/pull/1901). So an identifier with %2F matches
// another route or none, and "a%3Fb" names "a".
//
// No recorded event shows an invalid escape, or decoded bytes that are not UTF-8.
// net/http answers an invalid escape, such as %zz, with 400 before it calls the handler.
// Each byte that is not UTF-8 becomes U+FFFD, because an event is JSON. The functions
// reject a key with this character.
func path(u *url.URL) string {
	decoded, _, _ := strings.Cut(u.Path, "?")
	return string([]rune(decoded))
}

// match returns the route for a request and its path variables, which are
// segments of the decoded path.
func (r router) match(method, path string) (route routes.Route, variables map[string]string, ok bool) {
	segments := strings.Split(path, "/")
	var best *pattern
	for i := range r {
		p := &r[i]
		if p.route.Method == method && p.matches(segments) && (best == nil || p.moreSpecific(best)) {
			best = p
		}
	}
	if best == nil {
		return routes.Route{}, nil, false
	}
	for i, s := range best.segments {
		if name, is := variable(s); is {
			if variables == nil {
				variables = make(map[string]string)
			}
			variables[name] = segments[i]
		}
	}
	return best.route, variables, true
}

func (p *pattern) matches(segments []string) bool {
	if len(segments) != len(p.segments) {
		return false
	}
	for i, s := range p.segments {
		if _, is := variable(s); is && segments[i] == "" || !is && segments[i] != s {
			return false
		}
	}
	return true
}

// moreSpecific compares two patterns that match the same path.
func (p *pattern) moreSpecific(q *pattern) bool {
	for i := range p.segments {
		_, pv := variable(p.segments[i])
		_, qv := variable(q.segments[i])
		if pv != qv {
			return qv
		}
	}
	return false
}

func variable(segment string) (name string, is bool) {
	if strings.HasPrefix(segment, "{") && strings.HasSuffix(segment, "}") {
		return segment[1 : len(segment)-1], true
	}
	return "", false
}
