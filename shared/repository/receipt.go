package repository

import (
	"context"
	_ "embed" // the queries
	"errors"
	"time"

	"github.com/google/uuid"

	"github.com/flovyn/promises/shared/promise"
)

//go:embed queries/receive.sql
var receiveSQL string

//go:embed queries/preview_receipt.sql
var previewReceiptSQL string

//go:embed queries/list_receipts.sql
var listReceiptsSQL string

//go:embed queries/list_receipts_of_source.sql
var listReceiptsOfSourceSQL string

//go:embed queries/list_receipts_of_key.sql
var listReceiptsOfKeySQL string

//go:embed queries/list_receipts_of_promise.sql
var listReceiptsOfPromiseSQL string

//go:embed queries/get_receipt.sql
var getReceiptSQL string

// Receive settles the promise that a judged webhook names, and records the receipt, in
// one transaction. A settlement whose key has no promise is stored for the promise to
// come, if the judgment holds it. A webhook that settles nothing is only recorded.
//
// A receipt that was final before is returned, and nothing is done. So is one whose early
// settlement still waits. Nothing is written with an error: CodeQuotaExceeded if the
// source or the tenant has as many early settlements as it may have, and CodeRuleFailed if
// the same signed bytes have made another key.
func (r *Repository) Receive(ctx context.Context, tenant string, d promise.ReceiptDraft) (promise.ReceiptResult, error) {
	a := receiptArguments(tenant, d).with(named{
		"receipt": uuid.NewString(), "id": nil, "rule": nullIfEmpty(d.Rule), "reason": nullIfEmpty(d.Reason), "body_id": nil, "body": nil,
	})
	if d.Body != nil {
		a["body_id"], a["body"] = d.Body.ID.String(), d.Body.Sealed
	}
	row, err := run(ctx, r, "receive webhook", receiveSQL, argumentsFunc(func(known *learned) named {
		if known.promiseID == "" || d.Hold > 0 { // a settlement that may be held is for the promise that the key has now, or for the next one
			return a
		}
		return a.with(named{"id": known.promiseID})
	}), one[receiptResultRow])
	return r.receiptResult(ctx, tenant, row, err)
}

// PreviewReceipt returns what Receive would return, and writes nothing. Its Body is not
// needed. A concurrent call may make the result differ.
func (r *Repository) PreviewReceipt(ctx context.Context, tenant string, d promise.ReceiptDraft) (promise.ReceiptResult, error) {
	row, err := run(ctx, r, "preview receipt", previewReceiptSQL, receiptArguments(tenant, d), one[receiptResultRow])
	result, err := r.receiptResult(ctx, tenant, row, err)
	if err == nil && !result.Repeated {
		result.Reason = d.Reason
	}
	return result, err
}

func receiptArguments(tenant string, d promise.ReceiptDraft) named {
	a := named{
		"tenant": tenant, "source": d.SourceID.String(), "event": d.Event, "item": d.Item, "key": nullIfEmpty(d.Key),
		"outcome": receiptArgument(d.Judgment), "value": d.Result.Value, "error": d.Result.Message, "hold": nil,
	}
	if d.Hold > 0 {
		a["hold"] = d.Hold
	}
	return a
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
func (r *Repository) receiptResult(ctx context.Context, tenant string, row receiptResultRow, err error) (promise.ReceiptResult, error) {
	if errors.Is(err, promise.ErrNotFound) {
		err = promise.ErrNoSource
	}
	if err != nil {
		return promise.ReceiptResult{}, err
	}
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

// ListReceipts lists the receipts that match the filter, newest first, at most limit of
// them. more reports whether others follow. A source that is deleted still has its
// receipts. An unknown source, key or promise has none.
//
// A page over all keys reads up to a page of each outcome. A page of a key or a promise
// may read all its receipts.
func (r *Repository) ListReceipts(
	ctx context.Context, tenant string, f promise.ReceiptFilter, limit int,
) (receipts []promise.Receipt, more bool, err error) {
	sql, a := listReceiptsStatement(tenant, f, limit)
	rows, err := run(ctx, r, "list receipts", sql, a, all[receiptRow])
	if err != nil {
		return nil, false, err
	}
	if len(rows) == 0 {
		_, err := r.tenantID(ctx, tenant)
		return nil, false, err
	}
	for _, row := range rows[:min(len(rows), limit)] {
		receipts = append(receipts, row.receipt())
	}
	return receipts, len(rows) > limit, nil
}

func listReceiptsStatement(tenant string, f promise.ReceiptFilter, limit int) (sql string, a named) {
	a = named{
		"tenant": tenant, "outcome": nullIfEmpty(string(f.Outcome)), "from": f.From, "before": f.Before, "after_at": nil, "after_id": nil,
		"limit": limit + 1,
	}
	if f.After != nil {
		a["after_at"], a["after_id"] = f.After.ReceivedAt, f.After.ID.String()
	}
	switch {
	case f.PromiseID != nil:
		a["promise"], a["key"], a["source"] = f.PromiseID.String(), nullIfEmpty(f.Key), nullIfEmpty(f.Source)
		return listReceiptsOfPromiseSQL, a
	case f.Key != "":
		a["key"], a["source"] = f.Key, nullIfEmpty(f.Source)
		return listReceiptsOfKeySQL, a
	case f.Source != "":
		a["source"] = f.Source
		return listReceiptsOfSourceSQL, a
	}
	return listReceiptsSQL, a
}

type receiptRow struct {
	ID         uuid.UUID
	SourceID   uuid.UUID
	Source     string
	Event      string
	Item       int
	Rule       *string
	Key        *string
	Outcome    promise.ReceiptOutcome
	PromiseID  *uuid.UUID
	Reason     *string
	ReceivedAt time.Time
	UpdatedAt  time.Time
	ExpiresAt  time.Time
	BodyKept   bool
}

func (r receiptRow) receipt() promise.Receipt {
	return promise.Receipt{
		ID: r.ID, SourceID: r.SourceID, Source: r.Source, Event: r.Event, Item: r.Item, Rule: textOf(r.Rule), Key: textOf(r.Key), Outcome: r.Outcome,
		PromiseID: r.PromiseID, Reason: textOf(r.Reason), ReceivedAt: r.ReceivedAt, UpdatedAt: r.UpdatedAt, ExpiresAt: r.ExpiresAt, BodyKept: r.BodyKept,
	}
}

// GetReceipt returns a receipt and the body that is kept for a replay; nil: none is. The
// error is promise.ErrNotFound if the tenant has no such receipt.
func (r *Repository) GetReceipt(ctx context.Context, tenant string, id uuid.UUID) (promise.Receipt, *promise.KeptBody, error) {
	row, err := run(ctx, r, "get receipt", getReceiptSQL, named{"tenant": tenant, "id": id.String()}, one[receiptBodyRow])
	if err != nil {
		return promise.Receipt{}, nil, err
	}
	if row.BodyID == nil {
		return row.receipt(), nil, nil
	}
	return row.receipt(), &promise.KeptBody{ID: *row.BodyID, Sealed: row.Sealed}, nil
}

type receiptBodyRow struct {
	receiptRow
	BodyID *uuid.UUID
	Sealed []byte
}
