package httpapi

import (
	"encoding/base64"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/flovyn/promises/infra/local/lambda"
	"github.com/flovyn/promises/shared/routes"
)

// event is what a function behind an HTTP API gets, payload format 2.0.
type event struct {
	Version               string            `json:"version"`
	RouteKey              string            `json:"routeKey"`
	RawPath               string            `json:"rawPath"`
	RawQueryString        string            `json:"rawQueryString"`
	Cookies               []string          `json:"cookies,omitempty"`
	Headers               map[string]string `json:"headers"`
	QueryStringParameters map[string]string `json:"queryStringParameters,omitempty"`
	RequestContext        requestContext    `json:"requestContext"`
	PathParameters        map[string]string `json:"pathParameters,omitempty"`
	Body                  string            `json:"body,omitempty"`
	IsBase64Encoded       bool              `json:"isBase64Encoded"`
}

type requestContext struct {
	AccountID    string      `json:"accountId"`
	APIID        string      `json:"apiId"`
	DomainName   string      `json:"domainName"`
	DomainPrefix string      `json:"domainPrefix"`
	HTTP         httpContext `json:"http"`
	RequestID    string      `json:"requestId"`
	RouteKey     string      `json:"routeKey"`
	Stage        string      `json:"stage"`
	Time         string      `json:"time"`
	TimeEpoch    int64       `json:"timeEpoch"`
}

type httpContext struct {
	Method    string `json:"method"`
	Path      string `json:"path"`
	Protocol  string `json:"protocol"`
	SourceIP  string `json:"sourceIp"`
	UserAgent string `json:"userAgent"`
}

func newEvent(r *http.Request, route routes.Route, variables map[string]string, body []byte, requestID string, now time.Time) event {
	routeKey := route.Method + " " + route.Path
	rawPath := r.URL.EscapedPath()
	sourceIP, _, _ := net.SplitHostPort(r.RemoteAddr)
	domain := hostname(r.Host)
	prefix, _, _ := strings.Cut(domain, ".")
	e := event{
		Version:               "2.0",
		RouteKey:              routeKey,
		RawPath:               rawPath,
		RawQueryString:        r.URL.RawQuery,
		Cookies:               cookies(r.Header),
		Headers:               headers(r, sourceIP, len(body)),
		QueryStringParameters: query(r.URL.RawQuery),
		PathParameters:        variables,
		RequestContext: requestContext{
			AccountID:    lambda.AccountID,
			APIID:        "local",
			DomainName:   domain,
			DomainPrefix: prefix,
			HTTP: httpContext{
				Method:    r.Method,
				Path:      rawPath,
				Protocol:  r.Proto,
				SourceIP:  sourceIP,
				UserAgent: r.UserAgent(),
			},
			RequestID: requestID,
			RouteKey:  routeKey,
			Stage:     "$default",
			Time:      now.UTC().Format("02/Jan/2006:15:04:05 -0700"),
			TimeEpoch: now.UnixMilli(),
		},
	}
	switch {
	case len(body) == 0:
	case isText(r.Header.Get("Content-Type")) && utf8.Valid(body):
		e.Body = string(body)
	default:
		e.Body = base64.StdEncoding.EncodeToString(body)
		e.IsBase64Encoded = true
	}
	return e
}

// isText says which bodies an HTTP API hands over as they are. AWS documents
// no list; this is the one that was measured. Form data is not in it.
func isText(contentType string) bool {
	mediaType, _, _ := strings.Cut(contentType, ";")
	mediaType = strings.ToLower(strings.TrimSpace(mediaType))
	switch mediaType {
	case "application/json", "application/xml", "application/javascript":
		return true
	}
	return strings.HasPrefix(mediaType, "text/")
}

// notHeaders are hop by hop, or have a field of their own in the event.
var notHeaders = []string{"Connection", "Cookie", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade"}

func headers(r *http.Request, sourceIP string, bodySize int) map[string]string {
	h := make(map[string]string, len(r.Header)+6)
	for name, values := range r.Header {
		if !slices.Contains(notHeaders, name) {
			h[strings.ToLower(name)] = strings.Join(values, ",")
		}
	}
	h["host"] = r.Host
	h["content-length"] = strconv.Itoa(bodySize)
	h["x-forwarded-proto"] = "http"
	h["x-forwarded-port"] = ""
	if local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		_, h["x-forwarded-port"], _ = net.SplitHostPort(local.String())
	}
	if before := h["x-forwarded-for"]; before != "" {
		sourceIP = before + ", " + sourceIP
	}
	h["x-forwarded-for"] = sourceIP
	if !strings.Contains(h["x-amzn-trace-id"], "Root=") {
		h["x-amzn-trace-id"] = lambda.NewTraceRoot()
	}
	return h
}

func cookies(h http.Header) []string {
	var list []string
	for _, line := range h.Values("Cookie") {
		for c := range strings.SplitSeq(line, ";") {
			if c = strings.TrimSpace(c); c != "" {
				list = append(list, c)
			}
		}
	}
	return list
}

// query decodes a query string; the values of one name are joined by commas.
func query(raw string) map[string]string {
	var q map[string]string
	for pair := range strings.SplitSeq(raw, "&") {
		if pair == "" {
			continue
		}
		name, value, _ := strings.Cut(pair, "=")
		name, value = unescapeQuery(name), unescapeQuery(value)
		if q == nil {
			q = make(map[string]string)
		}
		if before, again := q[name]; again {
			value = before + "," + value
		}
		q[name] = value
	}
	return q
}

// unescapeQuery leaves what is no valid escape as it is.
func unescapeQuery(s string) string {
	if decoded, err := url.QueryUnescape(s); err == nil {
		return decoded
	}
	return s
}

func hostname(hostport string) string {
	if host, _, err := net.SplitHostPort(hostport); err == nil {
		return host
	}
	return hostport
}
