package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/rawjson"
)

// maxItems bounds a batch.
const maxItems = 100

func resolve(ctx context.Context, h *Handler, c *call) (answer, error) {
	value, err := readValue(c.body, h.MaxValueBytes)
	if err != nil {
		return answer{}, err
	}
	return h.settle(ctx, c, promise.Result{State: promise.Resolved, Value: value})
}

func reject(ctx context.Context, h *Handler, c *call) (answer, error) {
	message, err := readError(c.body, "error", h.MaxValueBytes)
	if err != nil {
		return answer{}, err
	}
	return h.settle(ctx, c, promise.Result{State: promise.Rejected, Message: &message})
}

func cancel(ctx context.Context, h *Handler, c *call) (answer, error) {
	reason, err := readComment(c.body, "reason")
	if err != nil {
		return answer{}, err
	}
	return h.settle(ctx, c, promise.Result{State: promise.Cancelled, Message: reason})
}

// settle settles the call's promise. With holdSeconds, it may store the request as
// an early settlement. With strict, it returns an error if the promise, or the key's
// early settlement, has another outcome than the call asked for.
func (h *Handler) settle(ctx context.Context, c *call, result promise.Result) (answer, error) {
	strict, err := c.parameters.flag("strict")
	if err != nil {
		return answer{}, err
	}
	comment, err := readComment(c.body, "comment")
	if err != nil {
		return answer{}, err
	}
	holdSeconds, err := c.body.optionalInteger("holdSeconds", 1, int64(promise.MaxEarlyTTL/time.Second))
	if err != nil {
		return answer{}, err
	}
	request := promise.SettleRequest{Result: result, By: c.principal.By, Comment: comment}
	var s promise.SettleResult
	if holdSeconds == nil {
		s, err = h.Store.Settle(ctx, c.tenant, c.identifier, request)
	} else {
		idempotencyKey, ok := c.identifier.IdempotencyKey()
		if !ok {
			return answer{}, fieldError("holdSeconds", promise.CodeUnknownField, "holdSeconds needs a key. Name the promise by its key, or leave holdSeconds out.")
		}
		s, err = h.Store.SettleEarly(ctx, c.tenant, idempotencyKey, request, time.Duration(*holdSeconds)*time.Second)
		s.EarlyKey = c.identifier
		if s.EarlyExpired {
			h.logExpiredEarly(ctx, c.tenant, idempotencyKey)
		}
	}
	if err != nil {
		return answer{}, err
	}
	if err := h.checkOutcomeVisible(ctx, c, s); err != nil {
		return answer{}, err
	}
	if strict && s.Outcome != promise.OutcomeSettled && s.Outcome != promise.OutcomeDuplicate && s.Outcome != promise.OutcomeHeld {
		return answer{}, promise.NotPending(s)
	}
	status := http.StatusOK
	if s.Outcome == promise.OutcomeHeld {
		status = http.StatusAccepted
	}
	return answer{status: status, body: encode(toSettleResultJSON(s))}, nil
}

// checkOutcomeVisible returns CodeForbidden if the principal may not see the outcome
// of its call. It reads the promise only for a token that found it settled.
func (h *Handler) checkOutcomeVisible(ctx context.Context, c *call, s promise.SettleResult) error {
	if c.principal.SeesOutcome(nil) || s.Outcome == promise.OutcomeSettled {
		return nil
	}
	p, err := h.Store.Get(ctx, c.tenant, c.identifier)
	if err != nil || c.principal.SeesOutcome(p.SettledBy) {
		return err
	}
	return promise.Fail(promise.CodeForbidden, "This token can no longer be used: the promise was settled by other means than this token.")
}

func extend(ctx context.Context, h *Handler, c *call) (answer, error) {
	deadline, err := readDeadline(c.body)
	if err != nil {
		return answer{}, err
	}
	if deadline == (promise.Deadline{}) {
		return answer{}, fieldError("timeoutMs", promise.CodeMissingField, "The new deadline is missing. Send timeoutMs or timeoutAt.")
	}
	p, err := h.Store.Extend(ctx, c.tenant, c.identifier, deadline)
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusOK, body: encodePromise(c.principal, p, nil)}, nil
}

type tokensRevokedJSON struct {
	PromiseID       uuid.UUID `json:"promiseId"`
	TokensRevokedAt time.Time `json:"tokensRevokedAt"`
}

func revokeTokens(ctx context.Context, h *Handler, c *call) (answer, error) {
	r, err := h.Store.RevokeTokens(ctx, c.tenant, c.identifier)
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusOK, body: encode(tokensRevokedJSON{r.PromiseID, r.At.UTC()})}, nil
}

func deletePromise(ctx context.Context, h *Handler, c *call) (answer, error) {
	p, err := h.Store.Erase(ctx, c.tenant, c.identifier)
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusOK, body: encodePromise(c.principal, p, nil)}, nil
}

// batchResolve settles each item independently of the others. An item that cannot
// be read gets its own problem, and is not sent to the database.
func batchResolve(ctx context.Context, h *Handler, c *call) (answer, error) {
	raw, err := c.body.required("items")
	if err != nil {
		return answer{}, err
	}
	if raw[0] != '[' {
		return answer{}, fieldError("items", promise.CodeWrongType, "items must be an array.")
	}
	var results []promise.ItemResult
	var items []promise.Item
	var positions []int // of items in results
	for text := range rawjson.Elements(raw) {
		if len(results) == maxItems {
			return answer{}, fieldError("items", promise.CodeOutOfRange, "items must have 1 to "+strconv.Itoa(maxItems)+" items.")
		}
		item, err := h.readItem(text)
		if err == nil {
			items = append(items, item)
			positions = append(positions, len(results))
		}
		results = append(results, promise.ItemResult{Err: err})
	}
	if len(results) == 0 {
		return answer{}, fieldError("items", promise.CodeOutOfRange, "items must have 1 to "+strconv.Itoa(maxItems)+" items.")
	}
	if len(items) > 0 {
		answers, err := h.Store.SettleBatch(ctx, c.tenant, c.principal.By, items)
		if err != nil {
			return answer{}, err
		}
		found := false
		for i, r := range answers {
			results[positions[i]] = r
			found = found || !errors.Is(r.Err, promise.ErrNotFound)
		}
		if !found {
			if err := h.suspended(ctx, c); err != nil {
				return answer{}, err
			}
		}
	}
	return answer{status: http.StatusOK, body: encodeBatch(results)}, nil
}

func (h *Handler) readItem(text json.RawMessage) (promise.Item, error) {
	var item promise.Item
	o, err := parseObject(text, []string{"identifier", "value", "error", "comment"})
	if err != nil {
		return item, err
	}
	identifier, err := o.requiredText("identifier")
	if err != nil {
		return item, err
	}
	if item.Promise, err = promise.ParseIdentifier(identifier); err != nil {
		return item, within("identifier", err)
	}
	if item.Comment, err = readComment(o, "comment"); err != nil {
		return item, err
	}
	if _, ok := o.get("error"); !ok {
		item.Result.State = promise.Resolved
		item.Result.Value, err = readValue(o, h.MaxValueBytes)
		return item, err
	}
	if _, ok := o.get("value"); ok {
		return item, fieldError("error", promise.CodeDuplicateField, "Send value or error, not both.")
	}
	message, err := readError(o, "error", h.MaxValueBytes)
	item.Result = promise.Result{State: promise.Rejected, Message: &message}
	return item, err
}

func encodeBatch(items []promise.ItemResult) []byte {
	var results []any
	for _, item := range items {
		if item.Err != nil {
			results = append(results, toProblem(promise.AsError(item.Err)))
		} else {
			results = append(results, toSettleResultJSON(item.SettleResult))
		}
	}
	return encode(map[string]any{"results": results})
}
