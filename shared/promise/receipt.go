package promise

import (
	"time"

	"github.com/google/uuid"
)

// A ReceiptOutcome is what became of a webhook.
type ReceiptOutcome string

// The outcomes. The first five are final: the same event is answered with them again,
// and nothing else happens. Every other outcome is judged anew.
const (
	ReceiptSettled    ReceiptOutcome = "settled"
	ReceiptDuplicate  ReceiptOutcome = "duplicate"
	ReceiptConflict   ReceiptOutcome = "conflict"
	ReceiptTimedOut   ReceiptOutcome = "timed_out"
	ReceiptCancelled  ReceiptOutcome = "cancelled"
	ReceiptHeld       ReceiptOutcome = "held"        // it waits for its promise
	ReceiptExpired    ReceiptOutcome = "expired"     // it waited, and no promise came
	ReceiptNotFound   ReceiptOutcome = "not_found"   // its key has no promise, and its rule holds nothing
	ReceiptIgnored    ReceiptOutcome = "ignored"     // no rule matched, or one said so
	ReceiptRuleFailed ReceiptOutcome = "rule_failed" // a rule matched, and failed
)

// ReceiptOutcomes lists every outcome.
var ReceiptOutcomes = []ReceiptOutcome{
	ReceiptSettled, ReceiptDuplicate, ReceiptConflict, ReceiptTimedOut, ReceiptCancelled, ReceiptHeld, ReceiptExpired, ReceiptNotFound,
	ReceiptIgnored, ReceiptRuleFailed,
}

// Final reports whether the same event is answered with this outcome again.
func (o ReceiptOutcome) Final() bool {
	switch o {
	case ReceiptSettled, ReceiptDuplicate, ReceiptConflict, ReceiptTimedOut, ReceiptCancelled:
		return true
	default:
		return false
	}
}

// A Receipt records what became of a webhook, or of one item of it.
type Receipt struct {
	ID         uuid.UUID
	SourceID   uuid.UUID
	Source     string // the source's name
	Event      string // id:, and the id that the sender signed, or sha256:, and the digest of the signed bytes
	Item       int    // the number of earlier items of the request with the same event; 0 for a request without items
	Rule       string // see Judgment; empty: none matched
	Key        string // empty: no rule made one
	Outcome    ReceiptOutcome
	PromiseID  *uuid.UUID
	Reason     string // see Judgment
	ReceivedAt time.Time
	UpdatedAt  time.Time // when the outcome was last decided
	ExpiresAt  time.Time // when the sweep deletes the receipt
	BodyKept   bool      // a replay is possible
}

// ParseReceiptID parses a receipt's id. It fails with CodeInvalidUUID.
func ParseReceiptID(s string) (uuid.UUID, error) {
	id, ok := parseUUID(s)
	if !ok {
		return uuid.Nil, Fail(CodeInvalidUUID, "A receipt's id is a UUID. List the receipts to see their ids.")
	}
	return id, nil
}

// A ReceiptDraft is a webhook, or an item of it, that has been verified and judged.
type ReceiptDraft struct {
	SourceID uuid.UUID
	Source   string // its name
	Event    string // see Receipt
	Item     int
	Judgment
	Body *KeptBody // nil: none is kept of the request
}

// A KeptBody is a request that is kept for a replay.
type KeptBody struct {
	ID     uuid.UUID
	Sealed []byte // a JSON text, encrypted; see package seal. nil: the receipt of another item of the request has it
}

// A ReceiptResult is what became of a ReceiptDraft.
type ReceiptResult struct {
	ReceiptID uuid.UUID
	Outcome   ReceiptOutcome
	PromiseID *uuid.UUID // nil: no promise has the key
	Repeated  bool       // the receipt was final before: nothing was done
	Key       string     // the receipt's
	Reason    string     // the receipt's
}

// A ReceiptFilter selects receipts. Zero fields select every receipt.
type ReceiptFilter struct {
	Source    string
	Outcome   ReceiptOutcome
	Key       string
	PromiseID *uuid.UUID
	From      *time.Time // received at this time or later
	Before    *time.Time // received before this time
	After     *ReceiptCursor
}

// A ReceiptCursor is the place of a receipt in a list, newest first.
type ReceiptCursor struct {
	ReceivedAt time.Time
	ID         uuid.UUID
}
