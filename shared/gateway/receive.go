package gateway

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/flovyn/promises/shared/promise"
)

// readWebhook verifies a request to a source, and reads its body.
func (h *Handler) readWebhook(ctx context.Context, ev *event) (*call, error) {
	c := h.newCall(ev)
	ctx, stop := context.WithDeadline(ctx, c.answerBy)
	defer stop()
	h.Metrics.Count("WebhooksReceived", 1)
	c.posted = posted{segment: ev.source, malformed: ev.malformed, WebhookRequest: promise.WebhookRequest{
		Header: readHeader(ev.headers), Query: ev.rawQuery, Body: ev.body, URL: h.sourceURL(c, ev.source),
	}}
	return c, h.verifyWebhook(ctx, c)
}

// verifyWebhook sets the call's webhook to its verified request.
func (h *Handler) verifyWebhook(ctx context.Context, c *call) error {
	c.webhook = nil
	v, err := h.Webhooks.Verify(ctx, c.tenant, c.posted.segment, c.posted.WebhookRequest)
	if err != nil {
		if promise.AsError(err).Code == promise.CodeUnauthenticated {
			h.Metrics.Count("WebhooksRefused", 1)
		}
		return err
	}
	c.principal = promise.Principal{By: promise.By{Kind: promise.KindWebhook, ID: v.Source.Name}, Tenant: c.tenant}
	if c.posted.malformed != nil {
		return c.posted.malformed
	}
	c.webhook, err = newWebhook(v, c.posted.Query, c.posted.Body)
	if err != nil && promise.AsError(err).Code != promise.CodeValueTooLarge { // its receipt says why, and the source how to answer
		c.webhook.fault, err = err, nil
	}
	return err
}

type receivedJSON struct {
	Outcome   promise.ReceiptOutcome `json:"outcome"`
	PromiseID *uuid.UUID             `json:"promiseId,omitempty"`
	ReceiptID *uuid.UUID             `json:"receiptId,omitempty"`
	Key       string                 `json:"key,omitempty"`
	Repeated  bool                   `json:"repeated,omitempty"`
}

type receivedItemsJSON struct {
	Items    int                            `json:"items"`
	Outcomes map[promise.ReceiptOutcome]int `json:"outcomes"`
}

// receiveWebhook judges a verified request and settles the promise that it names, or one
// for each of its items. It answers 200 whenever the sender must stop.
//
// If the source was deleted after it was read, another may have its name now. The request
// is then verified and judged once more, by what has the name.
func receiveWebhook(ctx context.Context, h *Handler, c *call) (answer, error) {
	a, err := h.receiveVerified(ctx, c)
	if !errors.Is(err, promise.ErrNoSource) {
		return a, err
	}
	h.Webhooks.Forget(c.tenant, c.webhook.Source.Name)
	if err := h.verifyWebhook(ctx, c); err != nil {
		return answer{}, err
	}
	if a, err = h.receiveVerified(ctx, c); errors.Is(err, promise.ErrNoSource) {
		h.Metrics.Count("WebhooksRefused", 1)
		return answer{}, WebhookRefused(err)
	}
	return a, err
}

func (h *Handler) receiveVerified(ctx context.Context, c *call) (answer, error) {
	w := c.webhook
	request := promise.WebhookRequest{Header: w.Header, Query: w.query, Body: w.received}
	if mediaType, body, ok := h.Webhooks.Handshake(w.Preset.Handshake, request, w.body); ok {
		return answer{status: http.StatusOK, body: body, mediaType: mediaType}, nil
	}
	drafts, each, err := h.judge(ctx, w)
	if err != nil {
		return answer{}, err
	}
	var result any
	if each {
		result, err = h.receiveItems(ctx, c, drafts)
	} else {
		result, err = h.receiveOne(ctx, c, drafts[0])
	}
	switch {
	case err != nil:
		return answer{}, err
	case w.Preset.NoAnswer:
		return answer{status: http.StatusOK, mediaType: "text/plain"}, nil
	}
	return answer{status: http.StatusOK, body: encode(result)}, nil
}

// receiveOne stores what became of a request without items.
func (h *Handler) receiveOne(ctx context.Context, c *call, d promise.ReceiptDraft) (any, error) {
	if err := h.keepIf(ctx, c, &d, d.Failed || c.webhook.Source.KeepBody); err != nil {
		return nil, err
	}
	r, err := h.receive(ctx, c, d)
	if err != nil {
		return nil, err
	}
	if r.Outcome == promise.ReceiptRuleFailed && c.webhook.Source.OnRuleError != promise.RuleErrorAccept {
		return nil, rulesFailed(r)
	}
	j := receivedJSON{Outcome: r.Outcome, PromiseID: r.PromiseID, Key: r.Key, Repeated: r.Repeated}
	if r.ReceiptID != uuid.Nil {
		j.ReceiptID = &r.ReceiptID
	}
	return j, nil
}

// receiveItems stores what became of each item, in their order. Only the item that has
// the body comes before all others, so that each of them finds the body if its promise is
// erased. An item that is ignored has no receipt, unless all are: then the request has one.
// If a limit of early settlements stops items, or if items have no receipt because their
// signed bytes made other keys before, the others are received nevertheless, and the error
// says so.
func (h *Handler) receiveItems(ctx context.Context, c *call, drafts []promise.ReceiptDraft) (any, error) {
	result := receivedItemsJSON{Items: len(drafts), Outcomes: map[promise.ReceiptOutcome]int{}}
	var full, unrecorded error
	var kept *promise.KeptBody
	if keep := keptItem(drafts, c.webhook.Source.KeepBody); keep >= 0 {
		var err error
		if kept, err = h.keep(ctx, c, drafts...); err != nil {
			return nil, err
		}
		drafts = slices.Concat(drafts[keep:keep+1], drafts[:keep], drafts[keep+1:])
	}
	received := 0
	for i, d := range drafts {
		if d.Then == ignore && !d.Failed {
			result.Outcomes[promise.ReceiptIgnored]++
			continue
		}
		received++
		switch {
		case i == 0:
			d.Body = kept
		case kept != nil:
			d.Body = &promise.KeptBody{ID: kept.ID}
		}
		r, err := h.receive(ctx, c, d)
		switch {
		case err != nil && promise.AsError(err).Code == promise.CodeQuotaExceeded:
			full = err
		case err != nil:
			return nil, err
		case r.ReceiptID == uuid.Nil && c.webhook.Source.OnRuleError != promise.RuleErrorAccept:
			unrecorded = rulesFailed(r)
		default:
			result.Outcomes[r.Outcome]++
		}
	}
	if received == 0 {
		d := c.webhook.draft(promise.Judgment{Then: ignore})
		if len(drafts) > 0 {
			d.Reason = drafts[0].Reason
		}
		if err := h.keepIf(ctx, c, &d, c.webhook.Source.KeepBody); err != nil {
			return nil, err
		}
		_, full = h.receive(ctx, c, d)
	}
	return result, cmp.Or(full, unrecorded)
}

func rulesFailed(r promise.ReceiptResult) error {
	return promise.Fail(promise.CodeRuleFailed, "The source's rules failed: "+r.Reason+".")
}

// keptItem returns the number of the item whose receipt has the body: the first that
// failed, or else the first that is received, if the source keeps bodies. One body is
// enough to replay them all. It returns -1 if none has it.
func keptItem(drafts []promise.ReceiptDraft, keepBody bool) int {
	first := -1
	for i, d := range drafts {
		if d.Failed {
			return i
		}
		if keepBody && first < 0 && d.Then != ignore {
			first = i
		}
	}
	return first
}

// keepIf adds the request to the draft if it is to be kept.
func (h *Handler) keepIf(ctx context.Context, c *call, d *promise.ReceiptDraft, kept bool) (err error) {
	if kept {
		d.Body, err = h.keep(ctx, c, *d)
	}
	return err
}

// receive stores what became of a request or an item. The result has the outcome
// rule_failed and no receipt if the same signed bytes have settled another key.
func (h *Handler) receive(ctx context.Context, c *call, d promise.ReceiptDraft) (promise.ReceiptResult, error) {
	r, err := h.Store.Receive(ctx, c.tenant, d)
	if err != nil {
		e := promise.AsError(err)
		if e.Code != promise.CodeRuleFailed {
			return r, err
		}
		r = promise.ReceiptResult{Outcome: promise.ReceiptRuleFailed, Reason: strings.TrimSuffix(e.Detail, ".")}
	}
	if r.Repeated {
		return r, nil
	}
	switch r.Outcome {
	case promise.ReceiptRuleFailed:
		h.Metrics.Count("WebhookRulesFailed", 1)
	case promise.ReceiptHeld:
		h.Metrics.Count("WebhooksHeld", 1)
	}
	return r, nil
}
