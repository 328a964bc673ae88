package gateway

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/flovyn/promises/shared/promise"
)

type receiptJSON struct {
	ReceiptID  uuid.UUID              `json:"receiptId"`
	Source     string                 `json:"source"`
	SourceID   uuid.UUID              `json:"sourceId"`
	Event      string                 `json:"event"`
	Item       int                    `json:"item"`
	Rule       string                 `json:"rule,omitempty"`
	Key        string                 `json:"key,omitempty"`
	Outcome    promise.ReceiptOutcome `json:"outcome"`
	PromiseID  *uuid.UUID             `json:"promiseId,omitempty"`
	Reason     string                 `json:"reason,omitempty"`
	ReceivedAt time.Time              `json:"receivedAt"`
	UpdatedAt  time.Time              `json:"updatedAt"`
	ExpiresAt  time.Time              `json:"expiresAt"`
	BodyKept   bool                   `json:"bodyKept"`
}

func toReceiptJSON(r promise.Receipt) receiptJSON {
	return receiptJSON{
		ReceiptID: r.ID, Source: r.Source, SourceID: r.SourceID, Event: r.Event, Item: r.Item, Rule: r.Rule, Key: r.Key, Outcome: r.Outcome,
		PromiseID: r.PromiseID, Reason: r.Reason, ReceivedAt: r.ReceivedAt.UTC(), UpdatedAt: r.UpdatedAt.UTC(), ExpiresAt: r.ExpiresAt.UTC(),
		BodyKept: r.BodyKept,
	}
}

func listReceipts(ctx context.Context, h *Handler, c *call) (answer, error) {
	limit, err := c.parameters.integer("limit", maxPage, 1, maxPage)
	if err != nil {
		return answer{}, err
	}
	filter, err := readReceiptFilter(c.parameters)
	if err != nil {
		return answer{}, err
	}
	receipts, more, err := h.Store.ListReceipts(ctx, c.tenant, filter, int(limit))
	if err != nil {
		return answer{}, err
	}
	if len(receipts) == 0 {
		if err := h.suspended(ctx, c); err != nil {
			return answer{}, err
		}
	}
	text, fit := page("receipts", len(receipts), func(i int) []byte { return encode(toReceiptJSON(receipts[i])) })
	if more || fit < len(receipts) {
		last := receipts[fit-1]
		text.set("nextCursor", encode(promise.Cursor{CreatedAt: last.ReceivedAt, ID: last.ID}.String()))
	}
	return answer{status: http.StatusOK, body: text}, nil
}

func readReceiptFilter(p parameters) (f promise.ReceiptFilter, err error) {
	for _, name := range []string{"source", "outcome", "key", "promiseId", "from", "before", "cursor"} {
		s, err := p.text(name)
		if err == nil && s != nil {
			err = within(name, setReceiptFilter(&f, name, *s))
		}
		if err != nil {
			return f, err
		}
	}
	return f, nil
}

// setReceiptFilter sets the part of a filter that a parameter names.
func setReceiptFilter(f *promise.ReceiptFilter, name, text string) error {
	switch name {
	case "source":
		f.Source = text
		return promise.CheckSourceName(text)
	case "outcome":
		f.Outcome = promise.ReceiptOutcome(text)
		if !slices.Contains(promise.ReceiptOutcomes, f.Outcome) {
			return promise.Fail(promise.CodeInvalidParameter, "outcome must be "+outcomeNames()+".")
		}
	case "key":
		f.Key = text
		return promise.CheckIdempotencyKey(text)
	case "promiseId":
		id, err := promise.ParseID(text)
		f.PromiseID = &id
		return err
	case "cursor":
		cursor, err := promise.ParseCursor(text)
		if err == nil && cursor.TimeoutAt != nil {
			err = promise.Fail(promise.CodeInvalidParameter, "The cursor comes from another list. Send a nextCursor of this one.")
		}
		f.After = &promise.ReceiptCursor{ReceivedAt: cursor.CreatedAt, ID: cursor.ID}
		return err
	case "from":
		return setTime(&f.From, name, text)
	case "before":
		return setTime(&f.Before, name, text)
	}
	return nil
}

func setTime(to **time.Time, name, text string) error {
	at, ok := parseTime(text)
	if !ok {
		return promise.Fail(promise.CodeInvalidParameter, name+" must be an RFC 3339 time, such as 2030-01-31T12:00:00Z.")
	}
	*to = &at
	return nil
}

// outcomeNames returns "settled, ... or rule_failed".
func outcomeNames() string {
	names := make([]string, len(promise.ReceiptOutcomes))
	for i, o := range promise.ReceiptOutcomes {
		names[i] = string(o)
	}
	last := len(names) - 1
	return strings.Join(names[:last], ", ") + " or " + names[last]
}

// replayReceipt applies today's rules of a receipt's source to the request that is kept,
// and stores the result. A receipt that is final is answered as it is.
func replayReceipt(ctx context.Context, h *Handler, c *call) (answer, error) {
	r, kept, err := h.Store.GetReceipt(ctx, c.tenant, c.receipt)
	if err != nil {
		return answer{}, err
	}
	if kept == nil && !r.Outcome.Final() {
		return answer{}, promise.Fail(promise.CodeConflict, "No body is kept of this webhook. Let the sender repeat it, or settle the promise by its key. "+
			"A source with keepBody keeps each body for 7 days.")
	}
	result := any(receivedJSON{Outcome: r.Outcome, PromiseID: r.PromiseID, ReceiptID: &r.ID, Key: r.Key})
	if kept != nil {
		s, _, err := h.Store.GetSource(ctx, c.tenant, r.Source)
		switch {
		case err == nil:
			result, err = h.replay(ctx, c, r, s, *kept, result)
		case errors.Is(err, promise.ErrNoSource) && r.Outcome.Final():
			err = nil
		case errors.Is(err, promise.ErrNoSource):
			err = promise.Fail(promise.CodeConflict, "The source "+r.Source+" does not exist any more. Put a source of this name first: its rules are applied.")
		}
		if err != nil {
			return answer{}, err
		}
	}
	return answer{status: http.StatusOK, body: encode(result)}, nil
}

// replay judges a request that is kept and stores the result. final is the answer if the
// receipt is final and is that of the whole request. The receipt of an item stands for
// all items of its request.
func (h *Handler) replay(
	ctx context.Context, c *call, r promise.Receipt, s promise.Source, kept promise.KeptBody, final any,
) (any, error) {
	w, err := h.reopen(ctx, s, promise.SourcePreset{}, kept)
	if err != nil {
		return nil, err
	}
	c.webhook = w
	drafts, each, err := h.judge(ctx, w)
	switch {
	case err != nil:
		return nil, err
	case !each && r.Outcome.Final():
		return final, nil
	case !each:
		drafts[0].Event, drafts[0].Item = r.Event, r.Item
		return h.receiveOne(ctx, c, drafts[0])
	case strings.HasPrefix(r.Event, "id:") && !slices.ContainsFunc(drafts, func(d promise.ReceiptDraft) bool { return d.Event == r.Event }):
		return nil, promise.Fail(promise.CodeConflict, "The source's eventId no longer makes the id of this receipt's event, so its items could be "+
			"settled twice. Put the source with its former eventId and each, then repeat the call.")
	}
	return h.receiveItems(ctx, c, drafts)
}
