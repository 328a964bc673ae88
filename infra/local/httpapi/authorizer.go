package httpapi

import (
	"container/list"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/flovyn/promises/infra/local/lambda"
	"github.com/flovyn/promises/shared/routes"
)

// MaxCached bounds the cached decisions of one authorizer. When the cache is full, a
// new decision replaces the one that would expire first. AWS documents no bound.
const MaxCached = 1000

// An authorizer is a Lambda authorizer of type REQUEST with payload format 2.0 and
// simple responses. Unless a comment says otherwise, this file follows the rules of
// https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-lambda-authorizer.html
type authorizer struct {
	function string
	identity identitySource
	cache    cache
	inFlight singleflight.Group // by identity
}

func newAuthorizer(a routes.Authorizer) *authorizer {
	source, err := parseIdentitySource(a.IdentitySource)
	if err != nil {
		panic("httpapi: authorizer " + a.Name + ": " + err.Error())
	}
	return &authorizer{function: a.Function, identity: source, cache: cache{ttl: a.TTL}}
}

// authorize returns the authorizer's context of an allowed request, or the status of a
// refusal. The status is 0 if the request is allowed. A cached decision applies to every
// request with the same identity. While the first request of an identity waits for the
// authorizer, further ones wait for the same decision. A failure is never cached.
func (h *Handler) authorize(ctx context.Context, a *authorizer, q request) (callerContext json.RawMessage, status int) {
	identity := a.identity.read(q)
	if identity == "" {
		return nil, http.StatusUnauthorized
	}
	v, ok := a.cache.get(identity, h.Now())
	if !ok {
		decide := func() (any, error) {
			v, err := h.invokeAuthorizer(ctx, a, q.authorizerEvent(identity))
			if err == nil {
				a.cache.put(identity, v, h.Now())
			}
			return v, err
		}
		var shared any
		var err error
		if a.cache.ttl > 0 {
			shared, err, _ = a.inFlight.Do(identity, decide)
		} else {
			shared, err = decide()
		}
		if err != nil {
			return nil, http.StatusInternalServerError
		}
		v = shared.(decision)
	}
	if !v.authorized {
		return nil, http.StatusForbidden
	}
	return v.callerContext, 0
}

// invokeAuthorizer runs the authorizer's function, even if the client disconnects.
func (h *Handler) invokeAuthorizer(ctx context.Context, a *authorizer, e authorizerEvent) (decision, error) {
	payload, err := encode(e)
	if err != nil {
		return decision{}, err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), h.AuthorizerTimeout)
	defer cancel()
	result, err := h.Invoker.Invoke(ctx, a.function, lambda.Request{
		Payload: payload,
		TraceID: e.Headers["x-amzn-trace-id"],
	})
	switch {
	case err != nil:
		return decision{}, err
	case result.ErrorType != "":
		return decision{}, errors.New(result.ErrorType)
	}
	return parseDecision(result.Payload)
}

// An identitySource names the header or query parameter with the caller's identity.
// Header names are case-insensitive, and names of query parameters are
// case-sensitive. Repeated values are joined, as in the event, so that the cache uses
// the same identity as the function.
type identitySource struct {
	header bool
	name   string
}

func parseIdentitySource(expression string) (identitySource, error) {
	if name, ok := strings.CutPrefix(expression, "$request.header."); ok && name != "" {
		return identitySource{header: true, name: strings.ToLower(name)}, nil
	}
	if name, ok := strings.CutPrefix(expression, "$request.querystring."); ok && name != "" {
		return identitySource{name: name}, nil
	}
	return identitySource{}, fmt.Errorf("unknown identity source %q", expression)
}

// read returns the request's identity, or empty if it is missing. API Gateway treats an
// empty header or parameter as missing
// (https://docs.aws.amazon.com/apigatewayv2/latest/api-reference/apis-apiid-authorizers.html).
func (s identitySource) read(q request) string {
	if s.header {
		return q.Headers[s.name]
	}
	return q.QueryStringParameters[s.name]
}

// A decision is an authorizer's simple response.
type decision struct {
	authorized    bool
	callerContext json.RawMessage // the context object, or nil
}

// parseDecision parses {"isAuthorized": bool, "context": {...}}. The context's values
// may have any type, unlike those of a REST API.
func parseDecision(payload []byte) (decision, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(payload, &fields); err != nil {
		return decision{}, err
	}
	var v decision
	switch string(fields["isAuthorized"]) {
	case "true":
		v.authorized = true
	case "false":
	default:
		return decision{}, fmt.Errorf("isAuthorized is %q instead of true or false", fields["isAuthorized"])
	}
	callerContext := fields["context"]
	switch {
	case callerContext == nil, string(callerContext) == "null":
	case callerContext[0] == '{':
		v.callerContext = callerContext
	default:
		return decision{}, errors.New("context is not an object")
	}
	return v, nil
}

// A cache holds the decisions of one authorizer by identity. All have the same
// lifetime, so they expire in the order of their insertion.
type cache struct {
	ttl time.Duration // 0 disables the cache

	mu         sync.Mutex
	byIdentity map[string]*list.Element
	entries    list.List // of cached, ordered by expiry
}

type cached struct {
	identity string
	decision decision
	expires  time.Time
}

func (c *cache) get(identity string, now time.Time) (decision, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.byIdentity[identity]
	if e == nil {
		return decision{}, false
	}
	entry := e.Value.(cached)
	if !now.Before(entry.expires) {
		c.remove(e)
		return decision{}, false
	}
	return entry.decision, true
}

// put stores the identity's decision and replaces an earlier one.
func (c *cache) put(identity string, v decision, now time.Time) {
	if c.ttl <= 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.byIdentity[identity]; e != nil {
		c.remove(e)
	}
	if c.entries.Len() >= MaxCached {
		c.remove(c.entries.Front())
	}
	if c.byIdentity == nil {
		c.byIdentity = make(map[string]*list.Element)
	}
	c.byIdentity[identity] = c.entries.PushBack(cached{identity, v, now.Add(c.ttl)})
}

func (c *cache) remove(e *list.Element) {
	delete(c.byIdentity, c.entries.Remove(e).(cached).identity)
}
