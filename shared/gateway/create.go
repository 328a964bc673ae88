package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/rawjson"
)

func create(ctx context.Context, h *Handler, c *call) (answer, error) {
	d, workflow, err := h.readDraft(c.body)
	if err != nil {
		return answer{}, err
	}
	tokens, err := h.readTokens(c)
	if err != nil {
		return answer{}, err
	}
	var sign SignToken
	if tokens != nil { // before the write: if signing is unavailable, no promise is created
		if sign, err = h.Signer(ctx); err != nil {
			return answer{}, &promise.Error{
				Code: promise.CodeUnavailable, Detail: "Tokens cannot be signed at the moment. Repeat the call.", Cause: err,
			}
		}
	}
	if d.WorkflowExecutionID, err = h.workflowExecutionID(ctx, c.tenant, workflow); err != nil {
		return answer{}, err
	}
	result, err := h.Store.Create(ctx, c.tenant, d)
	if err != nil {
		return answer{}, err
	}
	if result.EarlyExpired {
		h.logExpiredEarly(ctx, c.tenant, *d.IdempotencyKey)
	}
	status := http.StatusOK
	if result.New {
		status = http.StatusCreated
	}
	text := encodePromise(c.principal, result.Promise, &result.New)
	if tokens != nil {
		ttl := tokens.TTL
		if expires := c.principal.ExpiresAt; !expires.IsZero() { // no token outlives the API key that asked for it
			ttl = min(ttl, max(time.Until(expires), time.Second))
		}
		tokens.TTL, tokens.PromiseID, tokens.RevokedAt = ttl, result.Promise.ID, result.TokensRevokedAt
		token, err := sign(*tokens)
		if err != nil { // the promise exists: the repeated call gets its token
			return answer{}, err
		}
		h.setToken(&text, c, *tokens, token)
	}
	return answer{status: status, body: text}, nil
}

// readDraft reads the promise that a call creates. It returns the workflow execution
// apart from the draft, because an external id must first be looked up.
func (h *Handler) readDraft(o object) (d promise.Draft, workflow promise.Workflow, err error) {
	if workflow, err = requiredWorkflow(o); err != nil {
		return d, workflow, err
	}
	if workflow.ExternalID != "" {
		d.ExternalID = &workflow.ExternalID
	}
	if d.Name, err = o.requiredText("name"); err != nil {
		return d, workflow, err
	}
	if err := promise.CheckName(d.Name); err != nil {
		return d, workflow, within("name", err)
	}
	if err := readIdempotencyKey(o, &d); err != nil {
		return d, workflow, err
	}
	deadline, err := readDeadline(o)
	if err != nil {
		return d, workflow, err
	}
	d.Timeout, d.TimeoutAt = deadline.Timeout, deadline.At
	if d.OnTimeout, err = h.readOnTimeout(o); err != nil {
		return d, workflow, err
	}
	if raw, ok := o.get("metadata"); ok {
		if err := checkMetadata(raw); err != nil {
			return d, workflow, err
		}
		d.Metadata = raw
	}
	d.Notify, err = readNotify(o)
	return d, workflow, err
}

func readIdempotencyKey(o object, d *promise.Draft) error {
	ttl, err := o.optionalInteger("idempotencyKeyTtlSeconds", 1, int64(promise.MaxIdempotencyKeyTTL/time.Second))
	if err != nil {
		return err
	}
	if d.IdempotencyKey, err = o.optionalText("idempotencyKey"); err != nil {
		return err
	}
	if d.IdempotencyKey == nil {
		if ttl != nil {
			return fieldError("idempotencyKey", promise.CodeMissingField, "idempotencyKeyTtlSeconds needs an idempotencyKey. Send both, or neither.")
		}
		return nil
	}
	d.IdempotencyKeyTTL = promise.DefaultIdempotencyKeyTTL
	if ttl != nil {
		d.IdempotencyKeyTTL = time.Duration(*ttl) * time.Second
	}
	return within("idempotencyKey", promise.CheckIdempotencyKey(*d.IdempotencyKey))
}

// readOnTimeout reads {"resolve": any JSON} or {"reject": "text"}. A promise without
// a deadline may have onTimeout, because extend-promise can set the deadline later.
func (h *Handler) readOnTimeout(o object) (*promise.Result, error) {
	const name = "onTimeout"
	raw, ok := o.get(name)
	if !ok {
		return nil, nil
	}
	outcome, err := parseObject(raw, []string{"resolve", "reject"})
	if err != nil {
		return nil, within(name, err)
	}
	switch len(outcome) {
	case 2:
		return nil, fieldError(name, promise.CodeDuplicateField, "Send resolve or reject in onTimeout, not both.")
	case 0:
		return nil, fieldError(name, promise.CodeMissingField, `onTimeout must be {"resolve": any JSON} or {"reject": "text"}.`)
	}
	if value, ok := outcome.get("resolve"); ok {
		return &promise.Result{State: promise.Resolved, Value: value}, checkValue(name, value, h.MaxValueBytes)
	}
	message, err := readError(outcome, "reject", h.MaxValueBytes)
	return &promise.Result{State: promise.Rejected, Message: &message}, within(name, err)
}

// maxTokenTTL bounds how long a promise token is valid: a year.
const maxTokenTTL = 365 * 24 * time.Hour

// readTokens reads {"verbs": ["resolve", "reject"], "ttlSeconds": n, "body": "raw" or
// "json"}. A token lets its holder settle, so the API key needs the scope settle.
func (h *Handler) readTokens(c *call) (*TokenRequest, error) {
	const name = "tokens"
	raw, ok := c.body.get(name)
	if !ok {
		return nil, nil
	}
	r := TokenRequest{Tenant: c.tenant}
	if p := c.principal; p.Kind == promise.KindAPIKey {
		if !slices.Contains(p.Scopes, promise.ScopeSettle) {
			return nil, fieldError(name, promise.CodeForbidden, "The API key does not have the scope settle, which tokens needs. Use a key that has it, or leave tokens out.")
		}
		var err error
		if r.APIKeyID, err = promise.ParseID(p.ID); err != nil {
			return nil, promise.Fail(promise.CodeUnauthenticated, "The API key has no id. Use another API key.")
		}
	}
	tokens, err := parseObject(raw, []string{"verbs", "ttlSeconds", "body"})
	if err != nil {
		return nil, within(name, err)
	}
	list, err := tokens.required("verbs")
	if err != nil {
		return nil, within(name, err)
	}
	if list[0] != '[' {
		return nil, fieldError(name, promise.CodeWrongType, `verbs must be an array of "resolve" and "reject".`)
	}
	for item := range rawjson.Elements(list) {
		v := promise.Verb(rawjson.Unquote(item))
		if !v.Valid() || slices.Contains(r.Verbs, v) {
			return nil, fieldError(name, promise.CodeOutOfRange, "Each verb must be resolve or reject, and may appear once.")
		}
		r.Verbs = append(r.Verbs, v)
	}
	seconds, err := tokens.optionalInteger("ttlSeconds", 1, int64(maxTokenTTL/time.Second))
	switch {
	case err != nil:
		return nil, within(name, err)
	case seconds == nil || len(r.Verbs) == 0:
		return nil, fieldError(name, promise.CodeMissingField, `tokens must be {"verbs": ["resolve", "reject"], "ttlSeconds": n}.`)
	case h.Signer == nil:
		return nil, errors.New("SIGNING_KEY is not set, so no token can be signed")
	}
	r.TTL = time.Duration(*seconds) * time.Second
	body, err := tokens.optionalText("body")
	switch {
	case err != nil:
		return nil, within(name, err)
	case body != nil && *body != "raw" && *body != "json":
		return nil, fieldError(name, promise.CodeOutOfRange, `body must be "raw" or "json".`)
	}
	r.RawBody = body != nil && *body == "raw"
	return &r, nil
}

// setToken adds the token to the answer. If the HTTP API's address is known, it
// also adds the callback URLs that carry the token.
func (h *Handler) setToken(text *jsonObject, c *call, r TokenRequest, token string) {
	text.set("token", encode(token))
	base := h.baseURL(c)
	if base == "" {
		return
	}
	for _, v := range r.Verbs {
		callback := base + "/api/tenants/" + url.PathEscape(c.tenant) + "/callbacks/id:" + r.PromiseID.String() + "/" + string(v) +
			"?token=" + url.QueryEscape(token)
		text.set(string(v)+"Url", encode(callback))
	}
}

// maxMetadataNumber bounds a number's digits, and its exponent either way. Postgres'
// NUMERIC holds more.
const maxMetadataNumber = 300

// checkMetadata refuses JSON that JSONB cannot hold without loss: beyond the limits,
// or with one name twice in an object. JSONB writes numbers out, so 1e300 counts as
// the 301 digits that a later read returns.
func checkMetadata(raw json.RawMessage) error {
	const name = "metadata"
	if raw[0] != '{' {
		return fieldError(name, promise.CodeWrongType, "metadata must be a JSON object.")
	}
	if err := checkSize(name, len(raw), promise.MaxMetadataBytes); err != nil {
		return err
	}
	if err := checkEscapes(name, raw); err != nil {
		return err
	}
	size, err := expandedSize(raw, 1)
	if err != nil {
		return err
	}
	return checkSize(name, size, promise.MaxMetadataBytes)
}

// expandedSize returns the size of a valid JSON value with its numbers written out.
func expandedSize(raw []byte, depth int) (int, error) {
	const name = "metadata"
	if depth > maxMetadataDepth {
		return 0, tooDeep(name)
	}
	size := len(raw)
	switch raw[0] {
	case '{':
		names := map[string]bool{}
		for f := range rawjson.Fields(raw) {
			if names[string(f.Name)] {
				return 0, fieldError(name, promise.CodeDuplicateField, "metadata has an object with one name twice. Send each name once.")
			}
			names[string(f.Name)] = true
			n, err := expandedSize(f.Raw, depth+1)
			if err != nil {
				return 0, err
			}
			size += n - len(f.Raw)
		}
	case '[':
		for item := range rawjson.Elements(raw) {
			n, err := expandedSize(item, depth+1)
			if err != nil {
				return 0, err
			}
			size += n - len(item)
		}
	case '-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9':
		exponent, ok := exponentOf(string(raw))
		if !ok {
			return 0, fieldError(name, promise.CodeInvalidMetadata,
				"metadata has a number with too many digits. Send at most "+strconv.Itoa(maxMetadataNumber)+" digits, and no larger exponent.")
		}
		size += exponent
	}
	return size, nil
}

// exponentOf returns a number's exponent without its sign. ok reports whether the
// number is within the limits.
func exponentOf(number string) (exponent int, ok bool) {
	i := strings.IndexAny(number, "eE")
	if i < 0 {
		return 0, len(number) <= maxMetadataNumber
	}
	exponent, err := strconv.Atoi(number[i+1:])
	exponent = max(exponent, -exponent)
	return exponent, err == nil && i <= maxMetadataNumber && exponent <= maxMetadataNumber
}
