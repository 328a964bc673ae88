package client

import (
	"context"
	"iter"
	"time"

	"github.com/google/uuid"
)

// A ReceiptOutcome is what became of a webhook.
type ReceiptOutcome string

// The outcomes of webhooks. The first five are final.
const (
	ReceiptSettled    ReceiptOutcome = "settled"
	ReceiptDuplicate  ReceiptOutcome = "duplicate"
	ReceiptConflict   ReceiptOutcome = "conflict"
	ReceiptTimedOut   ReceiptOutcome = "timed_out"
	ReceiptCancelled  ReceiptOutcome = "cancelled"
	ReceiptHeld       ReceiptOutcome = "held"
	ReceiptExpired    ReceiptOutcome = "expired"
	ReceiptNotFound   ReceiptOutcome = "not_found"
	ReceiptIgnored    ReceiptOutcome = "ignored"
	ReceiptRuleFailed ReceiptOutcome = "rule_failed"
)

// A Receipt records what became of a webhook, or of one item of it.
type Receipt struct {
	ReceiptID  uuid.UUID      `json:"receiptId"`
	Source     string         `json:"source"`
	SourceID   uuid.UUID      `json:"sourceId"`
	Event      string         `json:"event"`
	Item       int            `json:"item"`
	Rule       string         `json:"rule"`
	Key        string         `json:"key"`
	Outcome    ReceiptOutcome `json:"outcome"`
	PromiseID  uuid.UUID      `json:"promiseId"`
	Reason     string         `json:"reason"`
	ReceivedAt time.Time      `json:"receivedAt"`
	UpdatedAt  time.Time      `json:"updatedAt"`
	ExpiresAt  time.Time      `json:"expiresAt"`
	BodyKept   bool           `json:"bodyKept"`
}

// A ReceiptFilter selects receipts. Zero fields select every receipt.
type ReceiptFilter struct {
	Source    string
	Outcome   ReceiptOutcome
	Key       string
	PromiseID uuid.UUID
	From      time.Time // received then or later
	Before    time.Time // received before
	PageSize  int       // receipts in one answer, 1 to 100; 0: 100
}

// Receipts returns the receipts that a filter selects, newest first, as List does.
func (c *Client) Receipts(ctx context.Context, filter ReceiptFilter) iter.Seq2[Receipt, error] {
	var f fields
	f.optional("source", filter.Source)
	f.optional("outcome", string(filter.Outcome))
	f.optional("key", filter.Key)
	if filter.PromiseID != uuid.Nil {
		f.text("promiseId", filter.PromiseID.String())
	}
	f.time("from", filter.From)
	f.time("before", filter.Before)
	return pages[Receipt](ctx, c, Request{Function: "list-receipts", Path: "/receipts", err: f.err}, "receipts", f.list, filter.PageSize)
}

// A Replayed is the result of a replay. A request with items has Items and Outcomes, and
// every other request the other fields.
type Replayed struct {
	Outcome   ReceiptOutcome `json:"outcome"`
	PromiseID uuid.UUID      `json:"promiseId"`
	ReceiptID uuid.UUID      `json:"receiptId"`
	Key       string         `json:"key"`
	Repeated  bool           `json:"repeated"`

	Items    int                    `json:"items"`
	Outcomes map[ReceiptOutcome]int `json:"outcomes"` // how many items have each outcome
}

// Replay applies today's rules of the source to the body that is kept of a webhook. It may
// be repeated: a receipt that is final is answered as it is. The error has CodeConflict if
// no body is kept.
func (c *Client) Replay(ctx context.Context, receiptID uuid.UUID) (Replayed, error) {
	id := receiptID.String()
	var replayed Replayed
	err := c.call(ctx, Request{
		Function: integrations, Action: "replay-receipt", Method: "POST", Path: "/receipts/" + id + "/replay",
		Target: []Field{{"receiptId", quote(id)}},
	}, &replayed)
	return replayed, err
}
