package repository

import (
	"context"
	_ "embed" // the queries
	"errors"

	"github.com/google/uuid"

	"github.com/flovyn/promises/shared/promise"
)

//go:embed queries/receive.sql
var receiveSQL string

// Receive settles the promise that a judged webhook names, and records the receipt, in
// one transaction. A settlement whose key has no promise is stored for the promise to
// come, if the judgment holds it. A webhook that settles nothing is only recorded.
//
// A receipt that was final before is returned, and nothing is done. Nothing is written
// with an error: CodeQuotaExceeded if the source or the tenant has as many early
// settlements as it may have, and CodeRuleFailed if the same signed bytes have settled
// another key.
func (r *Repository) Receive(ctx context.Context, tenant string, d promise.ReceiptDraft) (promise.ReceiptResult, error) {
	a := named{
		"tenant": tenant, "source": d.SourceID.String(), "event": d.Event, "item": d.Item, "receipt": uuid.NewString(), "id": nil,
		"rule": nullIfEmpty(d.Rule), "key": nullIfEmpty(d.Key), "outcome": receiptArgument(d.Judgment), "value": d.Result.Value,
		"error": d.Result.Message, "hold": nil, "reason": nullIfEmpty(d.Reason), "body_id": nil, "body": nil,
	}
	if d.Hold > 0 {
		a["hold"] = d.Hold
	}
	if d.Body != nil {
		a["body_id"], a["body"] = d.Body.ID.String(), d.Body.Sealed
	}
	row, err := run(ctx, r, "receive webhook", receiveSQL, argumentsFunc(func(known *learned) named {
		if known.promiseID == "" {
			return a
		}
		return a.with(named{"id": known.promiseID})
	}), one[receiptResultRow])
	if errors.Is(err, promise.ErrNotFound) {
		err = promise.ErrNoSource
	}
	if err != nil {
		return promise.ReceiptResult{}, err
	}
	return r.receiptResult(ctx, tenant, row)
}

// receiptArgument returns what receipt_settle is to do.
func receiptArgument(j promise.Judgment) string {
	switch {
	case j.Failed:
		return string(promise.ReceiptRuleFailed)
	case j.Then == "ignore":
		return string(promise.ReceiptIgnored)
	default:
		return string(j.Result.State)
	}
}

type receiptResultRow struct {
	ReceiptID *uuid.UUID
	Outcome   string
	PromiseID *uuid.UUID
	Repeated  bool
	Key       *string
	Reason    *string
}

// receiptResult returns the result of a row, or the error of an outcome that is no
// receipt's.
func (r *Repository) receiptResult(ctx context.Context, tenant string, row receiptResultRow) (promise.ReceiptResult, error) {
	result := promise.ReceiptResult{
		Outcome: promise.ReceiptOutcome(row.Outcome), PromiseID: row.PromiseID, Repeated: row.Repeated, Key: textOf(row.Key), Reason: textOf(row.Reason),
	}
	if row.ReceiptID != nil {
		result.ReceiptID = *row.ReceiptID
	}
	switch row.Outcome {
	case "source_full":
		return promise.ReceiptResult{}, promise.HeldBySourceExceeded()
	case "tenant_full":
		return promise.ReceiptResult{}, r.quotaExceeded(ctx, tenant, promise.LimitEarly)
	case "other_key":
		return promise.ReceiptResult{}, promise.Fail(promise.CodeRuleFailed, "The same signed bytes were received before, and made another key. "+
			"Headers and the query may change after the sender has signed: make the key of the body.")
	}
	return result, nil
}
