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

// SettleCallback settles a promise through a callback URL, for senders that cannot
// be changed. Its routes have no authorizer, so it verifies the URL's token itself.
// It ignores every query parameter but the token. With a token that was issued with
// "body": "raw", the whole body is the value or the error. It has no direct form.
var SettleCallback = Operation{name: "settle-callback", callback: true, do: settleCallback}

var (
	errNoToken = promise.Fail(promise.CodeUnauthenticated,
		"The URL has no token. Call the resolveUrl or rejectUrl exactly as create-promise returned it.")
	errSeveralTokens = promise.Fail(promise.CodeForbidden,
		"The URL has more than one token. Call the resolveUrl or rejectUrl exactly as create-promise returned it.")
	errInvalidToken = promise.Fail(promise.CodeForbidden,
		"The token is invalid, expired or revoked. Ask the system that gave you this URL for a new one.")
)

// readCallback reads a call of a callback URL.
func (h *Handler) readCallback(ctx context.Context, ev *event) (*call, error) {
	c := h.newCall(ev)
	target, malformed := promise.ParseIdentifier(ev.identifier)
	token, verb, err := readCallbackURL(ev)
	if err != nil {
		return c, err
	}
	if c.principal, err = h.authenticate(ctx, token, false, c.answerBy); err != nil {
		return c, err
	}
	if c.principal.Kind != promise.KindToken {
		return c, errInvalidToken
	}
	if err := c.principal.May(promise.Need{Verb: verb}, c.tenant, target); err != nil {
		return c, err // authorization comes before every error about the call's form
	}
	if malformed != nil {
		return c, malformed
	}
	c.identifier = target
	c.malformed = h.readCallbackBody(c, verb, ev)
	return c, nil
}

// readCallbackURL returns the URL's token and verb. The route alone decides where the
// token is, and whether the call resolves or rejects.
func readCallbackURL(ev *event) (token string, verb promise.Verb, err error) {
	path, inPath := strings.CutSuffix(ev.routeKey, "/{token}")
	verb = promise.Verb(path[strings.LastIndexByte(path, '/')+1:])
	token = ev.token
	if !inPath {
		token, err = queryToken(ev.rawQuery)
	}
	if err == nil && token == "" {
		err = errNoToken
	}
	return token, verb, err
}

// readCallbackBody reads the settlement from the body. With a raw token the whole
// body is the value or the error; otherwise it is the JSON that resolve and reject
// take.
func (h *Handler) readCallbackBody(c *call, verb promise.Verb, ev *event) error {
	if ev.malformed != nil {
		return ev.malformed
	}
	body, err := decompress(ev.body, ev.contentEncoding)
	if err != nil {
		return err
	}
	c.request.By = c.principal.By
	if c.principal.RawBody {
		c.request.Result, err = h.rawResult(verb, ev.contentType, body)
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
	if c.body, err = parseObject(body, known); err != nil {
		return err
	}
	if c.request.Comment, err = readComment(c.body, "comment"); err != nil {
		return err
	}
	if verb == promise.VerbReject {
		message, err := readError(c.body, "error", h.MaxValueBytes)
		c.request.Result = promise.Result{State: promise.Rejected, Message: &message}
		return err
	}
	value, err := readValue(c.body, h.MaxValueBytes)
	c.request.Result = promise.Result{State: promise.Resolved, Value: value}
	return err
}

// queryToken returns the token of a query string, or "" if it has none. The token
// ends at a question mark: some senders append "?name=value" to a URL that has a
// query already.
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

// settleCallback settles the promise and answers as resolve and reject do. If the
// promise was settled before, by any means, it answers 200 with alreadyResolved
// alone, even to an invalid body. The sender then stops repeating the call.
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

// rawResult converts a whole body to a result. A rejection's error is always the
// body's text.
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
	value, err := rawValue(contentType, body, h.MaxValueBytes)
	if err != nil {
		return promise.Result{}, err
	}
	return promise.Result{State: promise.Resolved, Value: value}, checkValue("value", value, h.MaxValueBytes)
}

// rawValue converts a body to a JSON value of at most limit bytes. An empty body becomes null, and JSON
// stays as sent. A form becomes an object, and other text a JSON string. A JSON
// object or array is JSON even if the sender declares a form, as curl -d does,
// because a form would percent-encode its first character.
func rawValue(contentType *string, body []byte, limit int) ([]byte, error) {
	if len(body) == 0 {
		return []byte("null"), nil
	}
	if first := bytes.TrimLeft(body, " \n\t\r"); bytes.HasPrefix(first, []byte("{")) || bytes.HasPrefix(first, []byte("[")) {
		// checkValue comes first: json.Valid is false for a value that is nested too deeply, which would make it text.
		if err := checkValue("value", body, limit); err != nil || json.Valid(body) {
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

// formValue converts a form to a JSON object, with the fields in the order of their
// first appearance. A repeated field becomes an array of its values.
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

// unescapeForm decodes a name or a value of a query or a form. Like browsers, it
// keeps a percent sign that begins no escape.
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

// checkText refuses a body that is not text in UTF-8. It also refuses NUL, which
// UTF-16 and binary data contain and text does not.
func checkText(body []byte) error {
	switch {
	case !utf8.Valid(body):
		return promise.Fail(promise.CodeInvalidUTF8, "The body is neither JSON nor text in UTF-8. Send one of the two.")
	case bytes.IndexByte(body, 0) >= 0:
		return promise.Fail(promise.CodeNULCharacter, "The body contains a NUL character. Send JSON or text in UTF-8.")
	}
	return nil
}
