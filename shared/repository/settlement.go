package repository

import (
	"context"
	_ "embed" // the queries
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/flovyn/promises/shared/promise"
)

//go:embed queries/settle.sql
var settleSQL string

//go:embed queries/hold.sql
var holdSQL string

//go:embed queries/settle_batch.sql
var settleBatchSQL string

// Settle settles a promise. A value is kept byte for byte. It returns once the
// settlement is durable. A promise that is not pending is no error: the answer
// tells what stands.
func (r *Repository) Settle(
	ctx context.Context, tenant string, i promise.Identifier, s promise.SettleRequest,
) (promise.SettleResult, error) {
	id, key := arguments(i)
	row, err := run[settleRow](ctx, r, statement{
		op: "settle", sql: settleSQL, identifies: true,
		args: []any{
			tenant, id, key, string(s.State), s.Value, s.Message,
			string(s.By.Kind), orNull(s.By.ID), s.Comment,
		},
	})
	if err != nil {
		return promise.SettleResult{}, err
	}
	if row.Settled {
		return promise.SettleResult{PromiseID: row.PromiseID, State: s.State, Outcome: promise.OutcomeSettled}, nil
	}
	return promise.SettleResult{
		PromiseID: row.PromiseID, State: row.State, Outcome: promise.OutcomeAgainst(row.State, row.ByDeadline, row.Same),
	}, nil
}

type settleRow struct {
	PromiseID           uuid.UUID
	WorkflowExecutionID uuid.UUID
	State               promise.State
	ByDeadline          bool
	Same                bool
	Settled             bool
	OverdueSince        *time.Time
}

func (r settleRow) overdue() (passed, bool) {
	if r.OverdueSince == nil {
		return passed{}, false
	}
	return passed{r.PromiseID, r.WorkflowExecutionID, *r.OverdueSince}, true
}

// SettleEarly settles the promise of an idempotency key. If the key has none,
// or has expired, the settlement is held under the key for the time given: the
// promise that is created with the key by then is born settled with it. A
// settlement that equals the one of an expired key's promise is a duplicate of
// it. One that equals the held settlement is a duplicate, any other is a
// conflict; neither changes the held settlement or its expiry. CodeQuotaExceeded:
// the tenant has as many early settlements, or bytes of them, as it may have.
func (r *Repository) SettleEarly(
	ctx context.Context, tenant, key string, s promise.SettleRequest, hold time.Duration,
) (promise.SettleResult, error) {
	i, err := promise.ByIdempotencyKey(key)
	if err != nil {
		return promise.SettleResult{}, err
	}
	for range attempts {
		settled, err := r.Settle(ctx, tenant, i, s)
		if err != nil && !errors.Is(err, promise.ErrNotFound) {
			return promise.SettleResult{}, err
		}
		if settled.Outcome == promise.OutcomeSettled || settled.Outcome == promise.OutcomeDuplicate {
			return settled, nil
		}
		row, err := run[holdRow](ctx, r, statement{op: "hold", sql: holdSQL, confirms: true, args: []any{
			tenant, key, hold, string(s.State), s.Value, s.Message, string(s.By.Kind), orNull(s.By.ID), s.Comment, false,
		}})
		if err != nil {
			return promise.SettleResult{}, err
		}
		if row.HolderID != nil && *row.HolderID == settled.PromiseID { // the key has not expired
			return settled, nil
		}
		if row.ExpiresAt == nil {
			if row.Full {
				return promise.SettleResult{}, r.quotaExceeded(ctx, tenant, promise.LimitEarly)
			}
			continue
		}
		held := promise.SettleResult{State: s.State, Outcome: promise.OutcomeHeld, EarlyExpiresAt: row.ExpiresAt, EarlyExpired: row.LostHold}
		if !row.Held {
			held.State, held.Outcome = promise.Pending, promise.OutcomeAgainst(promise.Pending, false, row.Same)
		}
		return held, nil
	}
	return promise.SettleResult{}, contention(nil)
}

type holdRow struct {
	doubt
	ExpiresAt *time.Time
	HolderID  *uuid.UUID
	Held      bool
	Same      bool
	LostHold  bool
	Full      bool
}

// SettleBatch settles many promises in one statement, each by itself and in
// order: it answers for each item as Settle would, but goes by the keys as they
// were before the first. All are settled by the one that is named first. An
// error is the whole batch's, and nothing was written.
func (r *Repository) SettleBatch(
	ctx context.Context, tenant string, by promise.By, items []promise.Item,
) ([]promise.ItemResult, error) {
	ids, keys := make([]*string, len(items)), make([]*string, len(items))
	outcomes, values := make([]string, len(items)), make([][]byte, len(items))
	messages, comments := make([]*string, len(items)), make([]*string, len(items))
	for n, item := range items {
		ids[n], keys[n] = arguments(item.Promise)
		outcomes[n], values[n] = string(item.Result.State), item.Result.Value
		messages[n], comments[n] = item.Result.Message, item.Comment
	}
	rows, err := runAll[batchRow](ctx, r, statement{op: "settle batch", sql: settleBatchSQL, args: []any{
		tenant, ids, keys, outcomes, values, messages, comments, string(by.Kind), orNull(by.ID),
	}})
	if err != nil {
		return nil, err
	}
	judgements := make([]promise.ItemResult, len(items))
	first := map[uuid.UUID]promise.Result{} // what this batch has settled
	for n := range judgements {
		if len(rows) == 0 || rows[n].PromiseID == nil { // without the tenant there is no row at all
			judgements[n].Err = promise.ErrNotFound
			continue
		}
		row, result := rows[n], items[n].Result
		settled := promise.SettleResult{PromiseID: *row.PromiseID, State: row.State}
		earlier, again := first[settled.PromiseID]
		switch {
		case row.Settled:
			settled.State, settled.Outcome = result.State, promise.OutcomeSettled
			first[settled.PromiseID] = result
		case again:
			settled.State, settled.Outcome = earlier.State, promise.OutcomeAgainst(earlier.State, false, earlier.Same(result))
		default:
			settled.Outcome = promise.OutcomeAgainst(row.State, row.ByDeadline, row.Same)
		}
		judgements[n].SettleResult = settled
	}
	return judgements, nil
}

type batchRow struct {
	PromiseID  *uuid.UUID
	State      promise.State
	ByDeadline bool
	Same       bool
	Settled    bool
}

// runAll runs a statement of many rows, as run does one of a single row.
func runAll[T any](ctx context.Context, r *Repository, s statement) ([]T, error) {
	reconnected := false
	var err error
	for range attempts {
		var rows []T
		rows, err = all[T](r.db.Query(ctx, s.sql, s.args...))
		if err == nil {
			return rows, nil
		}
		if _, lost := lostRace(err); lost {
			continue
		}
		if pgconn.SafeToRetry(err) && !reconnected && ctx.Err() == nil {
			reconnected = true
			continue
		}
		return nil, interpret(s.op, err)
	}
	return nil, contention(err)
}

func all[T any](rows pgx.Rows, err error) ([]T, error) {
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByName[T])
}
