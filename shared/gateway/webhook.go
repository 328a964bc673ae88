package gateway

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"math"
	"net/url"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/rawjson"
)

// ignore is the `then` of a judgment that settles nothing.
const ignore = "ignore"

// sourceURL returns the public URL of a source, or a part of it if the HTTP API's address
// is not known. segment is the last part.
func (h *Handler) sourceURL(c *call, segment string) string {
	return h.baseURL(c) + "/api/tenants/" + url.PathEscape(c.tenant) + "/webhooks/" + segment
}

// readHeader returns the headers of an event by their names in lower case. It joins the
// values of a repeated name by a comma, as API Gateway does.
func readHeader(headers json.RawMessage) map[string]string {
	header := map[string]string{}
	for f := range rawjson.Fields(headers) {
		name, value := strings.ToLower(string(f.Name)), rawjson.Unquote(f.Raw)
		if earlier, ok := header[name]; ok {
			value = earlier + "," + value
		}
		header[name] = value
	}
	return header
}

// newWebhook reads the body of a verified request.
func newWebhook(v VerifiedWebhook, query string, received []byte) (*webhook, error) {
	w := &webhook{VerifiedWebhook: v, query: query, received: received}
	text, err := decompress(received, v.Header["content-encoding"])
	if err == nil {
		w.body, err = webhookJSON(v.Header["content-type"], v.Source.Verifier.Preset, bytes.TrimPrefix(text, byteOrderMark))
	}
	return w, err
}

// webhookJSON converts a body to JSON. JSON stays as sent, whatever type the sender
// declares. A form becomes an object, and other text a JSON string. No body becomes null.
//
// Slack and GitHub can send an event as a form with one field, payload, which has JSON:
// then the body is that JSON (docs.slack.dev/interactivity/handling-user-interaction,
// docs.github.com/en/webhooks/using-webhooks/creating-webhooks).
func webhookJSON(contentType, preset string, text []byte) ([]byte, error) {
	if err := checkText(text); err != nil {
		return nil, err
	}
	body, err := rawValue(&contentType, text, math.MaxInt)
	switch {
	case err != nil:
		return nil, err
	case len(text) > 0 && contentType != "" && isJSON(contentType) && !bytes.Equal(body, text):
		return nil, promise.Fail(promise.CodeMalformedJSON, "The content-type header declares JSON, and the body is not JSON.")
	case preset == "slack" || preset == "github":
		return payloadOf(body, &contentType), nil
	}
	return body, nil
}

// payloadOf returns the JSON in the only field of a form, or the body if it is not such a
// form.
func payloadOf(body []byte, contentType *string) []byte {
	if !isForm(*contentType) {
		return body
	}
	var payload []byte
	fields := 0
	for f := range rawjson.Fields(body) {
		fields++
		if text := []byte(rawjson.Unquote(f.Raw)); string(f.Name) == "payload" && bytes.HasPrefix(text, []byte("{")) && json.Valid(text) {
			payload = text
		}
	}
	if fields != 1 || payload == nil {
		return body
	}
	return payload
}

// judge applies the rules of the source. Each draft says what became of the request, or
// of one item of it; the drafts of items come in the items' order. each reports whether
// the request has items. No draft has a body to keep. A body that cannot be read fails.
func (h *Handler) judge(ctx context.Context, w *webhook) (drafts []promise.ReceiptDraft, each bool, err error) {
	if w.fault != nil {
		reason := "body: " + strings.TrimSuffix(promise.AsError(w.fault).Detail, ".")
		return []promise.ReceiptDraft{w.draft(promise.Judgment{Failed: true, Reason: reason})}, false, nil
	}
	judgments, each, err := h.Webhooks.Judge(ctx, w.Source, promise.WebhookInput{Header: w.Header, Query: w.query, Body: w.body})
	if err != nil {
		return nil, false, &promise.Error{
			Code: promise.CodeUnavailable, Detail: "The rules did not end in time. Repeat the call.", Cause: err,
		}
	}
	earlier := map[string]int{}
	for _, j := range judgments {
		d := w.draft(h.limited(j))
		d.Item = earlier[d.Event]
		earlier[d.Event]++
		drafts = append(drafts, d)
	}
	return drafts, each, nil
}

// draft returns the draft of a judgment. An event has the id that its source's eventId
// makes, or else the id that the sender signed, or else the digest of the signed bytes.
func (w *webhook) draft(j promise.Judgment) promise.ReceiptDraft {
	d := promise.ReceiptDraft{SourceID: w.Source.ID, Source: w.Source.Name, Judgment: j}
	switch {
	case j.EventID != "":
		d.Event = "id:" + j.EventID
	case w.SignedID != "" && len(w.SignedID) <= promise.MaxEventID:
		d.Event = "id:" + w.SignedID
	default:
		d.Event = "sha256:" + hex.EncodeToString(w.Digest[:])
	}
	return d
}

// limited returns a judgment, or a failed one if its value or its error is larger than
// the service stores.
func (h *Handler) limited(j promise.Judgment) promise.Judgment {
	name, size := "value", len(j.Result.Value)
	if j.Result.Message != nil {
		name, size = "error", len(encode(*j.Result.Message))
	}
	if size <= h.MaxValueBytes {
		return j
	}
	j.Failed, j.Result = true, promise.Result{}
	j.Reason = "rule " + j.Rule + ", " + name + ": it has " + strconv.Itoa(size) + " bytes of JSON, and may have " + strconv.Itoa(h.MaxValueBytes)
	return j
}

// A keptWebhook is a request that is kept for a replay, as the JSON that is sealed.
type keptWebhook struct {
	Body     []byte            `json:"body"`    // as it was received
	Header   map[string]string `json:"headers"` // without credentials and signatures
	Query    string            `json:"query"`
	SignedID string            `json:"signedId,omitempty"`
	Digest   []byte            `json:"digest"`
}

// keep seals a request for a replay. It returns nil for a body that is larger than
// promise.MaxKeptBody. The id is the same for the same events of a source, so that a
// repeated request does not bring back a body that was erased.
func (h *Handler) keep(ctx context.Context, c *call, drafts ...promise.ReceiptDraft) (*promise.KeptBody, error) {
	w := c.webhook
	if len(w.received) > promise.MaxKeptBody {
		return nil, nil
	}
	events := []string{c.tenant, w.Source.Name}
	for _, d := range drafts {
		events = append(events, d.Event)
	}
	id := uuid.NewSHA1(uuid.Nil, encode(events))
	sealed, err := h.Webhooks.SealBody(ctx, id, encode(keptWebhook{w.received, w.Header, w.query, w.SignedID, w.Digest[:]}))
	return &promise.KeptBody{ID: id, Sealed: sealed}, err
}

// reopen returns a request that keep has sealed, for its source as it is now.
func (h *Handler) reopen(ctx context.Context, s promise.Source, preset promise.SourcePreset, kept promise.KeptBody) (*webhook, error) {
	text, err := h.Webhooks.OpenBody(ctx, kept)
	if err != nil {
		return nil, err
	}
	var k keptWebhook
	if err := json.Unmarshal(text, &k); err != nil {
		return nil, err
	}
	v := VerifiedWebhook{Source: s, Preset: preset, Header: k.Header, Verification: promise.Verification{SignedID: k.SignedID}}
	copy(v.Digest[:], k.Digest)
	return newWebhook(v, k.Query, k.Body)
}
