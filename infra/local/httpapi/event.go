package httpapi

import (
	"encoding/base64"
	"encoding/json"
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

// An event is the input of a function behind an HTTP API, payload format 2.0.
type event struct {
	Version string `json:"version"`
	request
	Body            string `json:"body,omitempty"`
	IsBase64Encoded bool   `json:"isBase64Encoded"`
}

// An authorizerEvent is the input of a Lambda authorizer, payload format 2.0:
// https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-lambda-authorizer.html
type authorizerEvent struct {
	Version        string   `json:"version"`
	Type           string   `json:"type"`
	RouteARN       string   `json:"routeArn"`
	IdentitySource []string `json:"identitySource"`
	request
}

// A request holds the fields that both events share, which is everything except the
// body. Fields without a value are omitted, as in events recorded on AWS. Also omitted
// are stageVariables and requestContext.authentication, which AWS adds only with
// mutual TLS.
type request struct {
	RouteKey              string            `json:"routeKey"`
	RawPath               string            `json:"rawPath"`
	RawQueryString        string            `json:"rawQueryString"`
	Cookies               []string          `json:"cookies,omitempty"`
	Headers               map[string]string `json:"headers"`
	QueryStringParameters map[string]string `json:"queryStringParameters,omitempty"`
	RequestContext        requestContext    `json:"requestContext"`
	PathParameters        map[string]string `json:"pathParameters,omitempty"`
}

type requestContext struct {
	AccountID    string             `json:"accountId"`
	APIID        string             `json:"apiId"`
	Authorizer   *authorizerContext `json:"authorizer,omitempty"`
	DomainName   string             `json:"domainName"`
	DomainPrefix string             `json:"domainPrefix"`
	HTTP         httpContext        `json:"http"`
	RequestID    string             `json:"requestId"`
	RouteKey     string             `json:"routeKey"`
	Stage        string             `json:"stage"`
	Time         string             `json:"time"`
	TimeEpoch    int64              `json:"timeEpoch"`
}

// An authorizerContext holds a Lambda authorizer's context object, or null if the
// authorizer returned none.
type authorizerContext struct {
	Lambda json.RawMessage `json:"lambda"`
}

type httpContext struct {
	Method    string `json:"method"`
	Path      string `json:"path"`
	Protocol  string `json:"protocol"`
	SourceIP  string `json:"sourceIp"`
	UserAgent string `json:"userAgent"`
}

const (
	apiID = "local"
	stage = "$default"
)

// newRequest converts everything except the body, which may not have arrived yet.
func newRequest(r *http.Request, path string, route routes.Route, variables map[string]string, requestID string, now time.Time) request {
	routeKey := route.Method + " " + route.Path
	sourceIP, _, _ := net.SplitHostPort(r.RemoteAddr)
	domain := hostname(r.Host)
	prefix, _, _ := strings.Cut(domain, ".")
	return request{
		RouteKey:              routeKey,
		RawPath:               path,
		RawQueryString:        r.URL.RawQuery,
		Cookies:               cookies(r.Header),
		Headers:               headers(r, sourceIP),
		QueryStringParameters: query(r.URL.RawQuery),
		PathParameters:        variables,
		RequestContext: requestContext{
			AccountID:    lambda.AccountID,
			APIID:        apiID,
			DomainName:   domain,
			DomainPrefix: prefix,
			HTTP: httpContext{
				Method:    r.Method,
				Path:      path,
				Protocol:  r.Proto,
				SourceIP:  sourceIP,
				UserAgent: r.UserAgent(),
			},
			RequestID: requestID,
			RouteKey:  routeKey,
			Stage:     stage,
			Time:      now.UTC().Format("02/Jan/2006:15:04:05 -0700"),
			TimeEpoch: now.UnixMilli(),
		},
	}
}

// authorizerEvent returns the authorizer's input for this request and identity. The ARN
// contains the requested path and not the route's pattern.
func (q request) authorizerEvent(identity string) authorizerEvent {
	arn := "arn:aws:execute-api:" + lambda.Region + ":" + lambda.AccountID + ":" + apiID
	return authorizerEvent{
		Version:        "2.0",
		Type:           "REQUEST",
		RouteARN:       arn + "/" + stage + "/" + q.RequestContext.HTTP.Method + q.RawPath,
		IdentitySource: []string{identity},
		request:        q,
	}
}

// event returns the route function's input, which is the request with its body.
func (q request) event(contentType string, body []byte) event {
	q.Headers["content-length"] = strconv.Itoa(len(body))
	e := event{Version: "2.0", request: q}
	switch {
	case len(body) == 0:
	case isText(contentType) && utf8.Valid(body):
		e.Body = string(body)
	default:
		e.Body = base64.StdEncoding.EncodeToString(body)
		e.IsBase64Encoded = true
	}
	return e
}

// isText reports whether an HTTP API puts a body of this type into the event as text,
// without base64. AWS documents no list, so this one was measured. It excludes form
// data.
func isText(contentType string) bool {
	mediaType, _, _ := strings.Cut(contentType, ";")
	mediaType = strings.ToLower(strings.TrimSpace(mediaType))
	switch mediaType {
	case "application/json", "application/xml", "application/javascript":
		return true
	}
	return strings.HasPrefix(mediaType, "text/")
}

// omittedHeaders lists hop-by-hop headers and headers with a separate event field.
var omittedHeaders = []string{"Connection", "Cookie", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade"}

func headers(r *http.Request, sourceIP string) map[string]string {
	h := make(map[string]string, len(r.Header)+6)
	for name, values := range r.Header {
		if !slices.Contains(omittedHeaders, name) {
			h[strings.ToLower(name)] = strings.Join(values, ",")
		}
	}
	h["host"] = r.Host
	if r.ContentLength >= 0 {
		h["content-length"] = strconv.FormatInt(r.ContentLength, 10)
	}
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

// query decodes a query string. It joins the values of a repeated name with commas.
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

// unescapeQuery decodes percent escapes. If one is invalid, it returns s unchanged.
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
