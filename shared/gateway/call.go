package gateway

import (
	"encoding/base64"
	"mime"
	"slices"
	"strings"
	"unicode/utf8"

	"encoding/json"

	"github.com/flovyn/promises/shared/promise"
)

// event is what is read of an API Gateway HTTP API event, payload format 2.0.
type event struct {
	Version        string            `json:"version"`
	PathParameters map[string]string `json:"pathParameters"`
	Query          map[string]string `json:"queryStringParameters"`
	Headers        struct {
		ContentType *string `json:"content-type"`
	} `json:"headers"`
	RequestContext struct {
		HTTP struct {
			Method string `json:"method"`
		} `json:"http"`
	} `json:"requestContext"`
	Body            string `json:"body"`
	IsBase64Encoded bool   `json:"isBase64Encoded"`
}

// parseEvent says whether a payload is an event. Anything else is a direct
// invoke's payload, one whose value is an event included: what makes an event
// stands at its top.
func parseEvent(payload []byte) (event, bool) {
	var ev event
	if !strings.Contains(string(payload), `"requestContext"`) {
		return ev, false
	}
	err := json.Unmarshal(payload, &ev)
	return ev, err == nil && ev.Version == "2.0" && ev.RequestContext.HTTP.Method != ""
}

// call is one call of either form, checked for what all operations share.
type call struct {
	tenant     string
	identifier promise.Identifier
	flags      map[string]bool // the operation's parameters
	body       object
}

func (h *Handler) read(payload []byte, ev event, isHTTP bool) (*call, error) {
	if isHTTP {
		return h.readEvent(ev)
	}
	return h.readDirect(payload)
}

func (h *Handler) readEvent(ev event) (*call, error) {
	op := h.Operation
	c := &call{tenant: ev.PathParameters["slug"], flags: map[string]bool{}}
	var err error
	if op.identifies != nil {
		s := ev.PathParameters["identifier"]
		if strings.ContainsRune(s, utf8.RuneError) {
			return nil, promise.Fail(promise.CodeInvalidUTF8, "The path must be percent-encoded UTF-8.")
		}
		if c.identifier, err = promise.ParseIdentifier(s); err != nil {
			return nil, err
		}
		if err := op.identifies(c.identifier); err != nil {
			return nil, err
		}
	}
	for name, s := range ev.Query {
		if !slices.Contains(op.parameters, name) {
			return nil, fail(promise.CodeInvalidParameter, name, "There is no such query parameter.")
		}
		if s != "true" && s != "false" {
			return nil, fail(promise.CodeInvalidParameter, name, "It must be true or false.")
		}
		c.flags[name] = s == "true"
	}
	if op.body == nil {
		return c, checkTenant(c.tenant)
	}
	if t := ev.Headers.ContentType; t != nil && !isJSON(*t) {
		return nil, promise.Fail(promise.CodeUnsupportedMediaType, "The body must be application/json, in UTF-8.")
	}
	body := []byte(ev.Body)
	if ev.IsBase64Encoded {
		if body, err = base64.StdEncoding.DecodeString(ev.Body); err != nil {
			return nil, promise.Fail(promise.CodeMalformedJSON, "The body is not the base64 that it is said to be.")
		}
	}
	if c.body, err = parseObject(body); err != nil {
		return nil, err
	}
	if err := c.body.only(op.body); err != nil {
		return nil, err
	}
	return c, checkTenant(c.tenant)
}

func (h *Handler) readDirect(payload []byte) (*call, error) {
	op := h.Operation
	c := &call{flags: map[string]bool{}}
	var err error
	if c.body, err = parseObject(payload); err != nil {
		return nil, err
	}
	known := append([]string{"tenant"}, op.body...)
	known = append(known, op.parameters...)
	if op.identifies != nil {
		known = append(known, "promiseId", "key")
	}
	if err := c.body.only(known); err != nil {
		return nil, err
	}
	if c.tenant, err = c.body.requiredText("tenant"); err != nil {
		return nil, err
	}
	if op.identifies != nil {
		if c.identifier, err = c.body.identifier(); err != nil {
			return nil, err
		}
		if err := op.identifies(c.identifier); err != nil {
			return nil, err
		}
	}
	for _, name := range op.parameters {
		if c.flags[name], err = c.body.flag(name); err != nil {
			return nil, err
		}
	}
	return c, checkTenant(c.tenant)
}

// checkTenant spares the database a slug that it cannot even be asked for.
func checkTenant(slug string) error {
	if strings.ContainsRune(slug, 0) || !utf8.ValidString(slug) {
		return promise.ErrNotFound
	}
	return nil
}

func isJSON(contentType string) bool {
	t, params, err := mime.ParseMediaType(contentType)
	if err != nil || t != "application/json" && !strings.HasSuffix(t, "+json") {
		return false
	}
	charset, given := params["charset"]
	return !given || strings.EqualFold(charset, "utf-8")
}

func fail(code promise.Code, field, detail string) error {
	return &promise.Error{Code: code, Field: field, Detail: detail}
}
