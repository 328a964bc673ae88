package gateway

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/flovyn/promises/shared/promise"
)

// isEvent reports whether a payload is an API Gateway HTTP API event, payload
// format 2.0. No direct payload has its fields.
func isEvent(payload []byte) bool {
	version, context := false, false
	for f := range fields(payload) {
		switch string(f.name) {
		case "version":
			version = string(f.raw) == `"2.0"`
		case "requestContext":
			context = true
		}
	}
	return version && context
}

// An event holds the parts of an API Gateway event that a call uses.
type event struct {
	slug        string
	principal   promise.Principal
	domain      string
	identifier  string
	workflow    string
	query       json.RawMessage // an object of strings, or nil
	contentType *string
	body        []byte
	received    time.Time

	contentEncoding string

	routeKey      string
	authorization string
	rawQuery      string
	token         string // in the path
}

// readEvent reads an event. It trusts the form that API Gateway gives it, and does
// not check the body's contents.
func readEvent(payload []byte) (event, error) {
	var ev event
	encoded := false
	for f := range fields(payload) {
		switch string(f.name) {
		case "routeKey":
			ev.routeKey = unquote(f.raw)
		case "rawQueryString":
			ev.rawQuery = unquote(f.raw)
		case "pathParameters":
			ev.readPath(f.raw)
		case "queryStringParameters":
			ev.query = f.raw
		case "requestContext":
			for p := range fields(f.raw) {
				switch string(p.name) {
				case "domainName":
					ev.domain = unquote(p.raw)
				case "timeEpoch":
					if ms, err := strconv.ParseInt(string(p.raw), 10, 64); err == nil {
						ev.received = time.UnixMilli(ms)
					}
				case "authorizer":
					ev.principal = readPrincipal(p.raw)
				}
			}
		case "headers":
			ev.readHeaders(f.raw)
		case "body":
			ev.body = []byte(unquote(f.raw))
		case "isBase64Encoded":
			encoded = string(f.raw) == "true"
		}
	}
	if encoded {
		body, err := base64.StdEncoding.DecodeString(string(ev.body))
		if err != nil {
			return ev, promise.Fail(promise.CodeMalformedJSON, "isBase64Encoded is true but the body is not base64.")
		}
		ev.body = body
	}
	return ev, nil
}

func (ev *event) readHeaders(headers json.RawMessage) {
	for h := range fields(headers) {
		switch string(h.name) {
		case "content-type":
			s := unquote(h.raw)
			ev.contentType = &s
		case "content-encoding":
			ev.contentEncoding = unquote(h.raw)
		case "authorization":
			ev.authorization = unquote(h.raw)
		}
	}
}

func (ev *event) readPath(variables json.RawMessage) {
	for p := range fields(variables) {
		switch string(p.name) {
		case "slug":
			ev.slug = unquote(p.raw)
		case "identifier":
			ev.identifier = unquote(p.raw)
		case "workflowExecutionId":
			ev.workflow = unquote(p.raw)
		case "token":
			ev.token = unquote(p.raw)
		}
	}
}

// readPrincipal reads the principal that the authorizer found.
func readPrincipal(authorizer json.RawMessage) promise.Principal {
	texts := map[string]string{}
	for f := range fields(authorizer) {
		if string(f.name) == "lambda" {
			for p := range fields(f.raw) {
				texts[string(p.name)] = unquote(p.raw)
			}
		}
	}
	if texts["kind"] == string(promise.KindUnverified) {
		return promise.Principal{By: promise.By{Kind: promise.KindUnverified}}
	}
	return promise.ParsePrincipal(texts, time.Now())
}

// A call is one call of either form, after the checks that all operations share.
type call struct {
	tenant     string
	principal  promise.Principal
	domain     string // HTTP form: the host name in the URL
	identifier promise.Identifier
	workflow   promise.Workflow
	parameters parameters
	body       object
	answerBy   time.Time             // see Handler.Timeout
	request    promise.SettleRequest // of a callback URL's body
	malformed  error                 // why a callback URL's body is invalid; nil: it is valid
}

func (h *Handler) readHTTP(ctx context.Context, payload []byte) (*call, error) {
	op := h.Operation
	ev, err := readEvent(payload)
	c := &call{tenant: ev.slug, principal: ev.principal, domain: ev.domain, answerBy: h.answerBy(ev.received)}
	if c.principal.Kind == promise.KindUnverified {
		p, lookupErr := h.authenticate(ctx, ev.authorization, true, c.answerBy)
		if lookupErr != nil {
			return c, lookupErr
		}
		c.principal = p
	}
	if err == nil && op.checkIdentifier != nil {
		c.identifier, err = promise.ParseIdentifier(ev.identifier)
	}
	if err := c.principal.May(op.needs, c.tenant, c.identifier); err != nil {
		return c, err // authorization comes before every error about the call's form
	}
	if err != nil {
		return c, err
	}
	if op.checkIdentifier != nil {
		if err := op.checkIdentifier(c.identifier); err != nil {
			return c, err
		}
	}
	if op.ofWorkflow {
		if c.workflow, err = promise.ParseWorkflow(ev.workflow); err != nil {
			return c, err
		}
	}
	if c.parameters, err = op.readQuery(ev.query); err != nil {
		return c, err
	}
	if op.body == nil || op.bodyOptional && len(ev.body) == 0 {
		return c, checkTenant(c.tenant)
	}
	if t := ev.contentType; t != nil && !isJSON(*t) {
		return c, errNotJSON
	}
	if err = ev.decompress(); err != nil {
		return c, err
	}
	if c.body, err = parseObject(ev.body, op.body); err != nil {
		return c, err
	}
	return c, checkTenant(c.tenant)
}

var errNotJSON = promise.Fail(promise.CodeUnsupportedMediaType,
	"The content-type header must be application/json, a type that ends in +json, or absent, with the charset utf-8 or without a charset.")

// authenticate looks up a credential: the token of a callback URL, or an
// Authorization header whose lookup failed in the authorizer. API Gateway may have
// cached that failure from before the database recovered. If the lookup fails,
// authenticate returns CodeUnavailable.
func (h *Handler) authenticate(ctx context.Context, source string, inHeader bool, answerBy time.Time) (promise.Principal, error) {
	ctx, stop := context.WithDeadline(ctx, answerBy)
	defer stop()
	p, err := h.Authenticate(ctx, source, inHeader)
	if err != nil && promise.AsError(err).Code == promise.CodeInternal {
		err = &promise.Error{
			Code: promise.CodeUnavailable, Detail: "The credential cannot be checked at the moment. Repeat the call.", Cause: err,
		}
	}
	return p, err
}

func (op Operation) readQuery(query json.RawMessage) (parameters, error) {
	p := parameters{quoted: true}
	for f := range fields(query) {
		if !slices.Contains(op.parameters, string(f.name)) {
			if detail, ok := op.redirects[string(f.name)]; ok {
				return p, fieldError(string(f.name), promise.CodeInvalidParameter, detail)
			}
			detail := "There is no such query parameter. This call takes none."
			if len(op.parameters) > 0 {
				detail = "There is no such query parameter. The parameters are: " + strings.Join(op.parameters, ", ") + "."
			}
			return p, fieldError(string(f.name), promise.CodeInvalidParameter, detail)
		}
		p.object = append(p.object, f)
	}
	return p, nil
}

func (op Operation) readDirect(payload []byte) (*call, error) {
	if op.callback {
		return nil, promise.Fail(promise.CodeForbidden, op.name+" serves callback URLs alone. Invoke resolve-by-id or reject.")
	}
	body, err := parseObject(payload, op.directFields())
	if err != nil {
		if e := promise.AsError(err); e.Code == promise.CodeUnknownField && op.redirects[e.Field] != "" {
			err = fieldError(e.Field, e.Code, op.redirects[e.Field])
		}
		return nil, err
	}
	c := &call{principal: promise.Principal{By: promise.By{Kind: promise.KindDirect}}, parameters: parameters{object: body}, body: body}
	if c.tenant, err = c.body.requiredText("tenant"); err != nil {
		return nil, err
	}
	if op.checkIdentifier != nil {
		if c.identifier, err = c.body.promiseIdentifier(); err != nil {
			return nil, err
		}
		if err := op.checkIdentifier(c.identifier); err != nil {
			return nil, err
		}
	}
	if op.ofWorkflow {
		if c.workflow, err = requiredWorkflow(c.body); err != nil {
			return nil, err
		}
	}
	return c, checkTenant(c.tenant)
}

func (op Operation) directFields() []string {
	fields := slices.Concat([]string{"tenant"}, op.body, op.parameters)
	if op.checkIdentifier != nil {
		fields = append(fields, "promiseId", "key")
	}
	if op.ofWorkflow {
		fields = append(fields, "workflowExecutionId", "workflowId")
	}
	return fields
}

// parameters holds the parameters of a query, or the direct form's fields of the
// same names. A query's values are all strings (quoted); the direct form's values
// have their JSON types.
type parameters struct {
	object
	quoted bool
}

// queryNumber matches a JSON number without a sign.
var queryNumber = regexp.MustCompile(`^(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?$`)

// integer reads a whole number, or returns fallback if it is absent. A query may
// write the number in every form that JSON has, without a sign.
func (p parameters) integer(name string, fallback, low, high int64) (int64, error) {
	o := p.object
	if raw, ok := o.get(name); ok && p.quoted {
		number := unquote(raw)
		whole := queryNumber.MatchString(number)
		if whole {
			_, whole, _ = parseWhole(number)
		}
		if !whole {
			return 0, fieldError(name, promise.CodeInvalidParameter, name+" must be a whole number, without a sign.")
		}
		o = object{{[]byte(name), []byte(number)}}
	}
	n, err := o.optionalInteger(name, low, high)
	if n == nil || err != nil {
		return fallback, err
	}
	return *n, nil
}

func (p parameters) text(name string) (*string, error) {
	if raw, ok := p.get(name); ok && p.quoted {
		s := unquote(raw)
		return &s, nil
	}
	return p.optionalText(name)
}

func (p parameters) flag(name string) (bool, error) {
	raw, ok := p.get(name)
	if !ok || !p.quoted {
		return p.object.flag(name)
	}
	s := unquote(raw)
	if s != "true" && s != "false" {
		return false, fieldError(name, promise.CodeInvalidParameter, name+" must be true or false.")
	}
	return s == "true", nil
}

// checkTenant rejects slugs that Postgres cannot encode, as unknown tenants.
func checkTenant(slug string) error {
	if strings.ContainsRune(slug, 0) || !utf8.ValidString(slug) {
		return promise.ErrNotFound
	}
	return nil
}

// within adds the field to an error. If the error has a field, name is the field
// that contains it.
func within(name string, err error) error {
	if err == nil {
		return nil
	}
	e := *promise.AsError(err)
	if e.Field != "" {
		name += "." + e.Field
	}
	e.Field = name
	return &e
}

// fieldError returns an error about one field of the call.
func fieldError(field string, code promise.Code, detail string) error {
	return &promise.Error{Code: code, Field: field, Detail: detail}
}
