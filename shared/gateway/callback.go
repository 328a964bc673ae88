package gateway

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/flovyn/promises/shared/promise"
)

// SettleCallback settles a promise for the holder of a callback URL, whose
// sender cannot be changed. It verifies the token of the URL itself: its routes
// have no authorizer. It ignores every query parameter but the token. A token
// that was issued with "body": "raw" makes the whole body the value or the error.
// It has no direct form.
var SettleCallback = Operation{name: "settle-callback", callback: true, do: settleCallback}

var (
	errNoToken = promise.Fail(promise.CodeUnauthenticated,
		"The URL has no token. Call the resolveUrl or rejectUrl exactly as create-promise answered it.")
	errSeveralTokens = promise.Fail(promise.CodeForbidden,
		"The URL has more than one token. Call the resolveUrl or rejectUrl exactly as create-promise answered it.")
	errInvalidToken = promise.Fail(promise.CodeForbidden,
		"The token is invalid, expired or revoked. Ask for a new URL where this one came from.")
)

// readCallback reads a call of a callback URL. The route alone decides where the
// token is and what the call does.
func (h *Handler) readCallback(ctx context.Context, payload []byte) (*call, error) {
	ev, malformed := readEvent(payload)
	c := &call{tenant: ev.slug, domain: ev.domain, answerBy: h.answerBy(ev.received)}
	path, inPath := strings.CutSuffix(ev.routeKey, "/{token}")
	verb := promise.Verb(path[strings.LastIndexByte(path, '/')+1:])
	token, err := ev.token, error(nil)
	if !inPath {
		token, err = queryToken(ev.rawQuery)
	}
	switch {
	case err != nil:
		return c, err
	case token == "":
		return c, errNoToken
	}
	if c.principal, err = h.authenticate(ctx, token, false, c.answerBy); err != nil {
		return c, err
	}
	if c.principal.Kind != promise.KindToken {
		return c, errInvalidToken
	}
	identifier, err := promise.ParseIdentifier(ev.identifier)
	if err := c.principal.May(promise.Need{Verb: verb}, c.tenant, identifier); err != nil {
		return c, err // before the caller learns anything about the call itself
	}
	if err != nil {
		return c, err
	}
	c.identifier = identifier
	if c.malformed = malformed; malformed == nil {
		c.malformed = h.readCallbackBody(c, verb, ev)
	}
	return c, nil
}

// readCallbackBody reads the whole body of a raw token, or the JSON that resolve and
// reject take, too.
func (h *Handler) readCallbackBody(c *call, verb promise.Verb, ev event) (err error) {
	if err := ev.decompress(); err != nil {
		return err
	}
	c.request.By = c.principal.By
	if c.principal.RawBody {
		c.request.Result, err = h.rawResult(verb, ev.contentType, ev.body)
		return err
	}
	if t := ev.contentType; t != nil && !isJSON(*t) {
		return promise.Fail(promise.CodeUnsupportedMediaType, errNotJSON.Detail+
			` If the sender cannot be changed, create the token with "body": "raw".`)
	}
	known := []string{"value", "comment"}
	if verb == promise.VerbReject {
		known[0] = "error"
	}
	if c.body, err = parseObject(ev.body, known); err != nil {
		return err
	}
	if c.request.Comment, err = readComment(c.body, "comment"); err != nil {
		return err
	}
	if verb == promise.VerbReject {
		message, err := h.readError(c.body, "error")
		c.request.Result = promise.Result{State: promise.Rejected, Message: &message}
		return err
	}
	value, err := h.readValue(c.body)
	c.request.Result = promise.Result{State: promise.Resolved, Value: value}
	return err
}

// queryToken returns the token of a query string, or "" if it has none. A sender
// that appends "?name=value" to a URL with a query makes that part of the token,
// so the token ends at a question mark.
func queryToken(query string) (token string, err error) {
	found := false
	for pair := range strings.SplitSeq(query, "&") {
		name, value, _ := strings.Cut(pair, "=")
		if unescapeForm(name) != "token" {
			continue
		}
		if found {
			return "", errSeveralTokens
		}
		found = true
		token, _, _ = strings.Cut(unescapeForm(value), "?")
	}
	return token, nil
}

// settleCallback answers a call that settled the promise as resolve and reject
// do. A later call, whatever settled the promise before it and whatever its body,
// gets 200 and learns that alone: its sender stops repeating it.
func settleCallback(ctx context.Context, h *Handler, c *call) (answer, error) {
	alreadyResolved := answer{status: http.StatusOK, body: []byte(`{"alreadyResolved":true}`)}
	if c.malformed != nil {
		p, err := h.Store.Get(ctx, c.tenant, c.identifier)
		if err != nil || p.State == promise.Pending {
			return answer{}, cmp.Or(err, c.malformed)
		}
		return alreadyResolved, nil
	}
	s, err := h.Store.Settle(ctx, c.tenant, c.identifier, c.request)
	switch {
	case err != nil:
		return answer{}, err
	case s.Outcome != promise.OutcomeSettled:
		return alreadyResolved, nil
	}
	return answer{status: http.StatusOK, body: encode(toSettleResultJSON(s))}, nil
}

// rawResult makes a result of a whole body. A rejection's error is the body's
// text, whatever its shape.
func (h *Handler) rawResult(verb promise.Verb, contentType *string, body []byte) (promise.Result, error) {
	body = bytes.TrimPrefix(body, []byte("\ufeff"))
	if err := checkText(body); err != nil {
		return promise.Result{}, err
	}
	if verb == promise.VerbReject {
		message := string(body)
		r := promise.Result{State: promise.Rejected, Message: &message}
		return r, checkSize("error", len(encode(message)), h.MaxValueBytes)
	}
	value, err := h.rawValue(contentType, body)
	if err != nil {
		return promise.Result{}, err
	}
	return promise.Result{State: promise.Resolved, Value: value}, h.checkValue("value", value)
}

// rawValue makes a value of a body: null of none, JSON as it is, an object of a
// form, a JSON string of other text. A JSON object or array is JSON even if the
// sender declares a form, as curl -d does: a form encodes their first character.
func (h *Handler) rawValue(contentType *string, body []byte) ([]byte, error) {
	if len(body) == 0 {
		return []byte("null"), nil
	}
	if first := body[min(skipSpace(body, 0), len(body)-1)]; first == '{' || first == '[' {
		// json.Valid is false for what is nested too deep: that is not text.
		if err := h.checkValue("value", body); err != nil || json.Valid(body) {
			return body, err
		}
	}
	switch {
	case contentType != nil && isForm(*contentType):
		return formValue(body)
	case json.Valid(body):
		return body, nil
	}
	return encode(string(body)), nil
}

// formValue makes a JSON object of a form, its fields in the order of their first
// appearance. A field that is repeated becomes an array of its values.
func formValue(body []byte) ([]byte, error) {
	var names []string
	values := map[string][]string{}
	for pair := range strings.SplitSeq(string(body), "&") {
		if pair == "" {
			continue
		}
		name, value, _ := strings.Cut(pair, "=")
		name, value = unescapeForm(name), unescapeForm(value)
		for _, s := range []string{name, value} {
			if err := checkText([]byte(s)); err != nil {
				return nil, err
			}
		}
		if _, again := values[name]; !again {
			names = append(names, name)
		}
		values[name] = append(values[name], value)
	}
	object := []byte{'{'}
	for i, name := range names {
		if i > 0 {
			object = append(object, ',')
		}
		object = append(append(object, encode(name)...), ':')
		if list := values[name]; len(list) > 1 {
			object = append(object, encode(list)...)
		} else {
			object = append(object, encode(list[0])...)
		}
	}
	return append(object, '}'), nil
}

var percent = regexp.MustCompile(`%([0-9A-Fa-f]{2})?`)

// unescapeForm decodes a name or a value of a query or a form. A percent sign
// that begins no escape stands for itself, as browsers read it.
func unescapeForm(s string) string {
	text, err := url.QueryUnescape(s)
	if err == nil {
		return text
	}
	text, _ = url.QueryUnescape(percent.ReplaceAllStringFunc(s, func(escape string) string {
		if escape == "%" {
			return "%25"
		}
		return escape
	}))
	return text
}

// checkText refuses bytes that are no text. It refuses NUL, too, which UTF-16
// and binary data have and text does not.
func checkText(body []byte) error {
	switch {
	case !utf8.Valid(body):
		return promise.Fail(promise.CodeInvalidUTF8, "The body is neither JSON nor text in UTF-8. Send one of the two.")
	case bytes.IndexByte(body, 0) >= 0:
		return promise.Fail(promise.CodeNULCharacter, "The body holds a NUL character. Send JSON or text in UTF-8.")
	}
	return nil
}
