package gateway

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"

	"github.com/google/uuid"

	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/rawjson"
)

// A trialJSON says what a request to a source would do. It does not have the items.
type trialJSON struct {
	Verified  bool              `json:"verified"`
	Reason    string            `json:"reason,omitempty"`   // why it is not verified
	Disabled  bool              `json:"disabled,omitempty"` // the source refuses every request until it is enabled
	Handshake promise.Handshake `json:"handshake,omitempty"`
	Each      bool              `json:"each"`
}

type trialItemJSON struct {
	Event     string                 `json:"event"`
	Item      int                    `json:"item"`
	Rule      string                 `json:"rule,omitempty"`
	Then      string                 `json:"then,omitempty"`
	Key       string                 `json:"key,omitempty"`
	Error     *string                `json:"error,omitempty"`
	Outcome   promise.ReceiptOutcome `json:"outcome"`
	PromiseID *uuid.UUID             `json:"promiseId,omitempty"`
	Repeated  bool                   `json:"repeated,omitempty"`
	Reason    string                 `json:"reason,omitempty"`
}

// testSource shows what a request to a source would do, and writes nothing. It applies
// the rules to a request that is not verified, too.
func testSource(ctx context.Context, h *Handler, c *call) (answer, error) {
	request, err := readTrial(c.body)
	if err != nil {
		return answer{}, err
	}
	definition, err := h.readTrialDefinition(c)
	if err != nil {
		return answer{}, err
	}
	segment, err := h.Webhooks.Segment(ctx, c.tenant, c.name)
	if err != nil {
		return answer{}, err
	}
	request.URL = h.sourceURL(c, segment)
	s, secrets, err := h.Store.GetSource(ctx, c.tenant, c.name)
	if err != nil {
		return answer{}, err
	}
	if definition != nil {
		s.SourceDefinition = *definition
	}
	t := trialJSON{Verified: true, Disabled: !s.Enabled}
	v, err := h.Webhooks.VerifyAs(ctx, s, secrets, request)
	if err != nil {
		e := promise.AsError(err)
		if e.Code != promise.CodeUnauthenticated {
			return answer{}, err
		}
		t.Verified, t.Reason = false, e.Detail
	}
	w, err := newWebhook(v, request.Query, request.Body)
	if err != nil {
		return answer{}, within("body", err)
	}
	text, err := h.try(ctx, c, w, request, t, definition != nil)
	return answer{status: http.StatusOK, body: text}, err
}

// try returns the answer of a trial. unstored reports whether the definition of the
// source is not the stored one.
func (h *Handler) try(ctx context.Context, c *call, w *webhook, r promise.WebhookRequest, t trialJSON, unstored bool) ([]byte, error) {
	if _, _, ok := h.Webhooks.Handshake(w.Preset.Handshake, r, w.body); ok {
		t.Handshake = w.Preset.Handshake
		text := jsonObject(encode(t))
		text.set("items", []byte("[]"))
		return text, nil
	}
	id := w.Source.ID
	if unstored {
		w.Source.ID = uuid.Nil // its compiled rules are not kept
	}
	drafts, each, err := h.judge(ctx, w)
	if err != nil {
		return nil, err
	}
	t.Each = each
	items := make([]jsonObject, min(len(drafts), maxPage))
	for i := range items {
		drafts[i].SourceID = id
		if items[i], err = h.preview(ctx, c, drafts[i], each); err != nil {
			return nil, err
		}
	}
	list, fit := array(len(items), func(i int) []byte { return items[i] })
	text := jsonObject(encode(t))
	text.set("items", list)
	if fit < len(drafts) {
		text.set("more", []byte("true"))
	}
	return text, nil
}

// preview returns the item of an answer, with the outcome that the draft would have.
func (h *Handler) preview(ctx context.Context, c *call, d promise.ReceiptDraft, each bool) (jsonObject, error) {
	j := trialItemJSON{Event: d.Event, Item: d.Item, Rule: d.Rule, Then: d.Then, Key: d.Key, Error: d.Result.Message, Outcome: promise.ReceiptIgnored, Reason: d.Reason}
	if !each || d.Then != ignore || d.Failed {
		r, err := h.Store.PreviewReceipt(ctx, c.tenant, d)
		switch e := promise.AsError(err); {
		case err == nil:
			j.Outcome, j.PromiseID, j.Repeated = r.Outcome, r.PromiseID, r.Repeated
		case e.Code == promise.CodeRuleFailed || e.Code == promise.CodeQuotaExceeded: // the webhook's answer would be this error
			j.Outcome, j.Reason = promise.ReceiptOutcome(e.Code), e.Detail
		default:
			return nil, err
		}
	}
	text := jsonObject(encode(j))
	text.setValue("value", d.Result.Value)
	return text, nil
}

// readTrial reads a sample request.
func readTrial(o object) (r promise.WebhookRequest, err error) {
	if r.Header, err = readTrialHeaders(o); err != nil {
		return r, err
	}
	query, err := o.optionalText("query")
	if err != nil {
		return r, err
	}
	if query != nil {
		r.Query = strings.TrimPrefix(*query, "?")
	}
	body, err := o.optionalText("body")
	if err != nil {
		return r, err
	}
	encoded, err := o.optionalText("bodyBase64")
	switch {
	case err != nil:
		return r, err
	case body != nil && encoded != nil:
		return r, fieldError("bodyBase64", promise.CodeDuplicateField, "Send body or bodyBase64, not both.")
	case body != nil:
		r.Body = []byte(*body)
		return r, nil
	case encoded == nil:
		return r, fieldError("body", promise.CodeMissingField, `body is required: the request's body as a text, or bodyBase64. Send "" for an empty one.`)
	}
	if r.Body, err = base64.StdEncoding.DecodeString(*encoded); err != nil {
		return r, fieldError("bodyBase64", promise.CodeOutOfRange, "bodyBase64 must be standard base64, with padding.")
	}
	return r, nil
}

// readTrialHeaders reads an object of texts. Names may be in any case.
func readTrialHeaders(o object) (map[string]string, error) {
	const field = "headers"
	header := map[string]string{}
	raw, ok := o.get(field)
	if !ok {
		return header, nil
	}
	if raw[0] != '{' {
		return nil, fieldError(field, promise.CodeWrongType, `headers must be an object of texts, such as {"content-type": "application/json"}.`)
	}
	for f := range rawjson.Fields(json.RawMessage(raw)) {
		value, err := text(string(f.Name), f.Raw)
		if err != nil {
			return nil, within(field, err)
		}
		name := strings.ToLower(string(f.Name))
		if _, twice := header[name]; twice {
			return nil, fieldError(field+"."+name, promise.CodeDuplicateField, "The header appears twice. Send it once, with the values joined by a comma.")
		}
		header[name] = value
	}
	return header, nil
}

// readTrialDefinition reads a definition to try in place of the source's. It returns nil
// if there is none.
func (h *Handler) readTrialDefinition(c *call) (*promise.SourceDefinition, error) {
	const field = "definition"
	raw, ok := c.body.get(field)
	if !ok {
		return nil, nil
	}
	o, err := parseObject(raw, definitionFields)
	if err != nil {
		return nil, within(field, err)
	}
	d, err := readDefinition(o)
	if err == nil {
		err = h.Webhooks.CheckDefinition(c.name, &d)
	}
	return &d, within(field, err)
}
