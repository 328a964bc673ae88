package gateway

import (
	"context"
	"encoding/json"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/flovyn/promises/shared/promise"
)

// CreatePromise creates a promise: 201, or 200 with "created": false.
var CreatePromise = Operation{
	name: "create-promise",
	body: []string{
		"workflowExecutionId", "name", "idempotencyKey", "idempotencyKeyTtlSeconds", "timeoutMs", "timeoutAt", "metadata",
	},
	do: create,
}

// GetPromise reads a promise.
var GetPromise = Operation{name: "get-promise", identifies: anyIdentifier, do: get}

// Resolve resolves a promise by either identifier: it hands over to
// ResolveByID or ResolveByKey. API Gateway cannot route on the part of a path
// segment that tells them apart.
var Resolve = Operation{
	name: "resolve", body: resolveFields, identifies: anyIdentifier, settles: true,
	do: func(ctx context.Context, h *Handler, c *call) (answer, error) {
		if _, ok := c.identifier.ID(); ok {
			return ResolveByID.do(ctx, h, c)
		}
		return ResolveByKey.do(ctx, h, c)
	},
}

// ResolveByID resolves a promise by its id, and by nothing else.
var ResolveByID = Operation{
	name: "resolve-by-id", body: resolveFields, settles: true, do: resolve,
	identifies: func(i promise.Identifier) error {
		if _, ok := i.ID(); !ok {
			return promise.Fail(promise.CodeInvalidIdentifier, "resolve-by-id takes an id, not a key.")
		}
		return nil
	},
}

// ResolveByKey resolves a promise by its idempotency key, and by nothing else.
var ResolveByKey = Operation{
	name: "resolve-by-key", body: resolveFields, settles: true, do: resolve,
	identifies: func(i promise.Identifier) error {
		if _, ok := i.Key(); !ok {
			return promise.Fail(promise.CodeInvalidIdentifier, "resolve-by-key takes a key, not an id.")
		}
		return nil
	},
}

// Reject rejects a promise by either identifier.
var Reject = Operation{
	name: "reject", body: []string{"error"}, identifies: anyIdentifier, settles: true, do: reject,
}

var resolveFields = []string{"value"}

func anyIdentifier(promise.Identifier) error { return nil }

func create(ctx context.Context, h *Handler, c *call) (answer, error) {
	d, err := readDraft(c.body)
	if err != nil {
		return answer{}, err
	}
	made, err := h.Store.Create(ctx, c.tenant, d)
	if err != nil {
		return answer{}, err
	}
	status := http.StatusOK
	if made.New {
		status = http.StatusCreated
	}
	return answer{status, encodePromise(made.Promise, &made.New)}, nil
}

func readDraft(o object) (promise.Draft, error) {
	var d promise.Draft
	s, err := o.requiredText("workflowExecutionId")
	if err != nil {
		return d, err
	}
	if d.WorkflowExecutionID, err = promise.ParseWorkflowExecutionID(s); err != nil {
		return d, within("workflowExecutionId", err)
	}
	if d.Name, err = o.requiredText("name"); err != nil {
		return d, err
	}
	if err := promise.CheckName(d.Name); err != nil {
		return d, within("name", err)
	}
	if err := draftKey(o, &d); err != nil {
		return d, err
	}
	if err := draftTimeout(o, &d); err != nil {
		return d, err
	}
	if raw, ok := o.get("metadata"); ok {
		if err := checkMetadata(raw); err != nil {
			return d, err
		}
		d.Metadata = raw
	}
	return d, nil
}

func draftKey(o object, d *promise.Draft) error {
	ttl, err := o.optionalInteger("idempotencyKeyTtlSeconds", 1, int64(promise.MaxKeyTTL/time.Second))
	if err != nil {
		return err
	}
	if d.IdempotencyKey, err = o.optionalText("idempotencyKey"); err != nil {
		return err
	}
	if d.IdempotencyKey == nil {
		if ttl != nil {
			return fail(promise.CodeMissingField, "idempotencyKey", "A time to live needs the key that it is for.")
		}
		return nil
	}
	d.IdempotencyKeyTTL = promise.DefaultKeyTTL
	if ttl != nil {
		d.IdempotencyKeyTTL = time.Duration(*ttl) * time.Second
	}
	return within("idempotencyKey", promise.CheckKey(*d.IdempotencyKey))
}

// rfc3339 is stricter than time.Parse, which takes a comma for the point, one
// digit for an hour, and offsets of a day and more.
var rfc3339 = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)$`)

func draftTimeout(o object, d *promise.Draft) error {
	ms, err := o.optionalInteger("timeoutMs", 0, promise.MaxTimeout.Milliseconds())
	if err != nil {
		return err
	}
	at, err := o.optionalText("timeoutAt")
	switch {
	case err != nil:
		return err
	case ms != nil && at != nil:
		return fail(promise.CodeDuplicateField, "timeoutAt", "Give timeoutMs or timeoutAt, and not both.")
	case ms != nil:
		timeout := time.Duration(*ms) * time.Millisecond
		d.Timeout = &timeout
	case at != nil:
		t, err := time.Parse(time.RFC3339, *at)
		if err != nil || !rfc3339.MatchString(*at) {
			return fail(promise.CodeWrongType, "timeoutAt", "The field must be an RFC 3339 time.")
		}
		d.TimeoutAt = &t
		return within("timeoutAt", promise.CheckTimeoutAt(t, time.Now()))
	}
	return nil
}

func get(ctx context.Context, h *Handler, c *call) (answer, error) {
	p, err := h.Store.Get(ctx, c.tenant, c.identifier)
	if err != nil {
		return answer{}, err
	}
	return answer{http.StatusOK, encodePromise(p, nil)}, nil
}

func resolve(ctx context.Context, h *Handler, c *call) (answer, error) {
	value, err := c.body.required("value")
	if err != nil {
		return answer{}, err
	}
	if err := checkSize("value", len(value), h.MaxValueBytes); err != nil {
		return answer{}, err
	}
	return settled(c)(h.Store.Settle(ctx, c.tenant, c.identifier, promise.Settlement{Result: promise.Result{State: promise.Resolved, Value: value}, By: promise.Principal{Kind: promise.Direct}}))
}

func reject(ctx context.Context, h *Handler, c *call) (answer, error) {
	raw, err := c.body.required("error")
	if err != nil {
		return answer{}, err
	}
	if err := checkSize("error", len(raw), h.MaxValueBytes); err != nil {
		return answer{}, err
	}
	message, err := text("error", raw)
	if err != nil {
		return answer{}, err
	}
	return settled(c)(h.Store.Settle(ctx, c.tenant, c.identifier, promise.Settlement{Result: promise.Result{State: promise.Rejected, Error: &message}, By: promise.Principal{Kind: promise.Direct}}))
}

// settled answers a settle call. Whoever asked to be strict gets an error where
// the promise is not what the call wanted it to be.
func settled(c *call) func(promise.Settled, error) (answer, error) {
	return func(s promise.Settled, err error) (answer, error) {
		if err != nil {
			return answer{}, err
		}
		if c.strict {
			if code, late := lateCodes[s.Outcome]; late {
				return answer{}, &promise.Error{Code: code, Detail: lateDetails[code], Settled: &s}
			}
		}
		return answer{http.StatusOK, encodeSettled(s)}, nil
	}
}

var lateCodes = map[promise.Outcome]promise.Code{
	promise.OutcomeConflict:  promise.CodeConflict,
	promise.OutcomeTimedOut:  promise.CodeTimedOut,
	promise.OutcomeCancelled: promise.CodeCancelled,
}

var lateDetails = map[promise.Code]string{
	promise.CodeConflict:  "The promise had been settled otherwise.",
	promise.CodeTimedOut:  "The promise's deadline had passed.",
	promise.CodeCancelled: "The promise had been cancelled.",
}

func checkSize(name string, size, limit int) error {
	if size > limit {
		return fail(promise.CodeValueTooLarge, name, "The field may have at most "+strconv.Itoa(limit)+" bytes of JSON.")
	}
	return nil
}

// What Postgres' NUMERIC and its stack hold, with room to spare.
const (
	maxMetadataDepth  = 100
	maxMetadataNumber = 300 // digits, and the exponent either way
)

// checkMetadata refuses what JSONB cannot hold as it is: beyond its limits, or
// with one name twice in an object. JSONB writes numbers out, so that 1e300
// counts as the 301 digits that come back.
func checkMetadata(raw json.RawMessage) error {
	const name = "metadata"
	if raw[0] != '{' {
		return fail(promise.CodeWrongType, name, "The field must be a JSON object.")
	}
	if err := checkSize(name, len(raw), promise.MaxMetadataBytes); err != nil {
		return err
	}
	if err := checkEscapes(name, raw); err != nil {
		return err
	}
	size, err := writtenOut(raw, 1)
	if err != nil {
		return err
	}
	return checkSize(name, size, promise.MaxMetadataBytes)
}

// writtenOut is the size of a valid JSON value with its numbers written out.
func writtenOut(raw []byte, depth int) (int, error) {
	const name = "metadata"
	if depth > maxMetadataDepth {
		return 0, fail(promise.CodeInvalidMetadata, name, "The field is nested too deeply.")
	}
	size := len(raw)
	switch raw[0] {
	case '{':
		names := map[string]bool{}
		for f := range fields(raw) {
			if names[string(f.name)] {
				return 0, fail(promise.CodeDuplicateField, name, "An object in the field has one name twice.")
			}
			names[string(f.name)] = true
			n, err := writtenOut(f.raw, depth+1)
			if err != nil {
				return 0, err
			}
			size += n - len(f.raw)
		}
	case '[':
		for i := space(raw, 1); raw[i] != ']'; {
			item := raw[i:valueEnd(raw, i)]
			n, err := writtenOut(item, depth+1)
			if err != nil {
				return 0, err
			}
			size += n - len(item)
			if i = space(raw, i+len(item)); raw[i] == ',' {
				i = space(raw, i+1)
			}
		}
	case '-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9':
		exponent, ok := exponentOf(string(raw))
		if !ok {
			return 0, fail(promise.CodeInvalidMetadata, name, "The field holds a number with too many digits.")
		}
		size += exponent
	}
	return size, nil
}

// exponentOf is a number's exponent without its sign; ok says that the number
// is within the limits.
func exponentOf(number string) (exponent int, ok bool) {
	i := strings.IndexAny(number, "eE")
	if i < 0 {
		return 0, len(number) <= maxMetadataNumber
	}
	exponent, err := strconv.Atoi(number[i+1:])
	exponent = max(exponent, -exponent)
	return exponent, err == nil && i <= maxMetadataNumber && exponent <= maxMetadataNumber
}
