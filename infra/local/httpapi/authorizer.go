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

// MaxCached is how many answers are kept for one authorizer; the one that would
// expire first makes room. AWS documents no number.
const MaxCached = 1000

// authorizer is one Lambda authorizer: REQUEST, payload format 2.0, simple
// responses. The rules in this file are those of
// https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-lambda-authorizer.html
// except where a comment says otherwise.
type authorizer struct {
	function string
	identity identitySource
	cache    cache
	underWay singleflight.Group // by identity
}

func newAuthorizer(a routes.Authorizer) *authorizer {
	source, err := parseIdentitySource(a.IdentitySource)
	if err != nil {
		panic("httpapi: authorizer " + a.Name + ": " + err.Error())
	}
	return &authorizer{function: a.Function, identity: source, cache: cache{ttl: a.TTL}}
}

// authorize returns what the authorizer says about the caller, or the status of
// the refusal, which is 0 if there is none. An answer that is still cached is
// not asked for again, whatever the rest of the request; requests that come
// while the first of their identity is being judged wait for what it is told. A
// failure is never cached.
func (h *Handler) authorize(ctx context.Context, a *authorizer, q request) (about json.RawMessage, status int) {
	identity := a.identity.of(q)
	if identity == "" {
		return nil, http.StatusUnauthorized
	}
	v, ok := a.cache.get(identity, h.Now())
	if !ok {
		judge := func() (any, error) {
			v, err := h.ask(ctx, a, q.authorizerEvent(identity))
			if err == nil {
				a.cache.put(identity, v, h.Now())
			}
			return v, err
		}
		var judged any
		var err error
		if a.cache.ttl > 0 {
			judged, err, _ = a.underWay.Do(identity, judge)
		} else {
			judged, err = judge()
		}
		if err != nil {
			return nil, http.StatusInternalServerError
		}
		v = judged.(verdict)
	}
	if !v.authorized {
		return nil, http.StatusForbidden
	}
	return v.about, 0
}

// ask runs the authorizer's function, whether or not the client stays.
func (h *Handler) ask(ctx context.Context, a *authorizer, e authorizerEvent) (verdict, error) {
	payload, err := encode(e)
	if err != nil {
		return verdict{}, err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), h.AuthorizerTimeout)
	defer cancel()
	result, err := h.Invoker.Invoke(ctx, a.function, lambda.Request{
		Payload: payload,
		TraceID: e.Headers["x-amzn-trace-id"],
	})
	switch {
	case err != nil:
		return verdict{}, err
	case result.ErrorType != "":
		return verdict{}, errors.New(result.ErrorType)
	}
	return parseVerdict(result.Payload)
}

// identitySource is the place in a request that the caller's identity is read
// from. The names of headers are case-insensitive, those of query parameters
// are not. Of a header or parameter that is there more than once the values are
// joined, as they are in the event: the cache sees what the function sees.
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

// of returns the identity, empty where the request has none: to be present and
// empty is to be missing
// (https://docs.aws.amazon.com/apigatewayv2/latest/api-reference/apis-apiid-authorizers.html).
func (s identitySource) of(q request) string {
	if s.header {
		return q.Headers[s.name]
	}
	return q.QueryStringParameters[s.name]
}

// verdict is a simple response.
type verdict struct {
	authorized bool
	about      json.RawMessage // the context object, or nil
}

// parseVerdict reads {"isAuthorized": bool, "context": {...}}. The context's
// values may be of any type, unlike those of a REST API. An error says what is
// malformed.
func parseVerdict(payload []byte) (verdict, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(payload, &fields); err != nil {
		return verdict{}, err
	}
	var v verdict
	switch string(fields["isAuthorized"]) {
	case "true":
		v.authorized = true
	case "false":
	default:
		return verdict{}, fmt.Errorf("isAuthorized is %q", fields["isAuthorized"])
	}
	about := fields["context"]
	switch {
	case about == nil, string(about) == "null":
	case about[0] == '{':
		v.about = about
	default:
		return verdict{}, errors.New("context is no object")
	}
	return v, nil
}

// cache keeps the verdicts of one authorizer by identity. All live equally long,
// so the order in which they came is that in which they expire.
type cache struct {
	ttl time.Duration // 0: nothing is kept

	mu         sync.Mutex
	byIdentity map[string]*list.Element
	entries    list.List // of cached, first to expire first
}

type cached struct {
	identity string
	verdict  verdict
	expires  time.Time
}

func (c *cache) get(identity string, now time.Time) (verdict, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.byIdentity[identity]
	if e == nil {
		return verdict{}, false
	}
	entry := e.Value.(cached)
	if !now.Before(entry.expires) {
		c.remove(e)
		return verdict{}, false
	}
	return entry.verdict, true
}

// put replaces what is kept for the identity.
func (c *cache) put(identity string, v verdict, now time.Time) {
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
