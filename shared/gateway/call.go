package gateway

import (
	"encoding/base64"
	"encoding/json"
	"mime"
	"strings"
	"unicode/utf8"

	"github.com/flovyn/promises/shared/promise"
)

// isEvent says whether a payload is an API Gateway HTTP API event, payload
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

// event is what is read of such an event.
type event struct {
	slug        string
	identifier  string
	query       json.RawMessage // an object of strings, or nil
	contentType *string
	body        []byte
}

// readEvent takes what API Gateway made as it is, and leaves the body to be
// checked.
func readEvent(payload []byte) (event, error) {
	var ev event
	encoded := false
	for f := range fields(payload) {
		switch string(f.name) {
		case "pathParameters":
			for p := range fields(f.raw) {
				switch string(p.name) {
				case "slug":
					ev.slug = unquote(p.raw)
				case "identifier":
					ev.identifier = unquote(p.raw)
				}
			}
		case "queryStringParameters":
			ev.query = f.raw
		case "headers":
			for h := range fields(f.raw) {
				if string(h.name) == "content-type" {
					s := unquote(h.raw)
					ev.contentType = &s
				}
			}
		case "body":
			ev.body = []byte(unquote(f.raw))
		case "isBase64Encoded":
			encoded = string(f.raw) == "true"
		}
	}
	if encoded {
		body, err := base64.StdEncoding.DecodeString(string(ev.body))
		if err != nil {
			return ev, promise.Fail(promise.CodeMalformedJSON, "The body is not the base64 that it is said to be.")
		}
		ev.body = body
	}
	return ev, nil
}

// call is one call of either form, checked for what all operations share.
type call struct {
	tenant     string
	identifier promise.Identifier
	strict     bool
	body       object
}

func (op Operation) readHTTP(payload []byte) (*call, error) {
	ev, err := readEvent(payload)
	if err != nil {
		return nil, err
	}
	c := &call{tenant: ev.slug}
	if op.identifies != nil {
		if c.identifier, err = promise.ParseIdentifier(ev.identifier); err != nil {
			return nil, err
		}
		if err := op.identifies(c.identifier); err != nil {
			return nil, err
		}
	}
	if ev.query != nil {
		if c.strict, err = op.readQuery(ev.query); err != nil {
			return nil, err
		}
	}
	if op.body == nil {
		return c, checkTenant(c.tenant)
	}
	if t := ev.contentType; t != nil && !isJSON(*t) {
		return nil, promise.Fail(promise.CodeUnsupportedMediaType, "The body must be application/json, in UTF-8.")
	}
	if c.body, err = parseObject(ev.body, op.body); err != nil {
		return nil, err
	}
	return c, checkTenant(c.tenant)
}

func (op Operation) readQuery(query json.RawMessage) (strict bool, err error) {
	for f := range fields(query) {
		name, value := string(f.name), unquote(f.raw)
		if !op.settles || name != "strict" {
			return false, fail(promise.CodeInvalidParameter, name, "There is no such query parameter.")
		}
		if value != "true" && value != "false" {
			return false, fail(promise.CodeInvalidParameter, name, "It must be true or false.")
		}
		strict = value == "true"
	}
	return strict, nil
}

func (op Operation) readDirect(payload []byte) (*call, error) {
	body, err := parseObject(payload, op.directFields())
	if err != nil {
		return nil, err
	}
	c := &call{body: body}
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
	if c.strict, err = c.body.flag("strict"); err != nil {
		return nil, err
	}
	return c, checkTenant(c.tenant)
}

func (op Operation) directFields() []string {
	fields := append([]string{"tenant"}, op.body...)
	if op.identifies != nil {
		fields = append(fields, "promiseId", "key")
	}
	if op.settles {
		fields = append(fields, "strict")
	}
	return fields
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

// within adds the field at fault to an error of the domain's.
func within(name string, err error) error {
	if err == nil {
		return nil
	}
	e := *promise.AsError(err)
	e.Field = name
	return &e
}

func fail(code promise.Code, field, detail string) error {
	return &promise.Error{Code: code, Field: field, Detail: detail}
}
