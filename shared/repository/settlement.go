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

//go:embed queries/store_early.sql
var storeEarlySQL string

//go:embed queries/settle_batch.sql
var settleBatchSQL string

// Settle settles a promise, and returns once the settlement is durable. The value
// is stored byte for byte. If the promise is not pending, Settle returns its
// stored state and no error.
func (r *Repository) Settle(
	ctx context.Context, tenant string, i promise.Identifier, s promise.SettleRequest,
) (promise.SettleResult, error) {
	id, key := identifierArgs(i)
	row, err := run[settleRow](ctx, r, statement{
		op: "settle promise", sql: settleSQL, byIdentifier: true,
		args: []any{
			tenant, id, key, string(s.State), s.Value, s.Message,
			string(s.By.Kind), nullIfEmpty(s.By.ID), s.Comment,
		},
	})
	if err != nil {
		return promise.SettleResult{}, err
	}
	if row.Won {
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
	Won                 bool       `db:"settled"`       // this call settled the promise
	UnrecordedSince     *time.Time `db:"overdue_since"` // the deadline, if it has passed and is not recorded
}

func (r settleRow) unrecordedDeadline() (unrecordedDeadline, bool) {
	if r.UnrecordedSince == nil {
		return unrecordedDeadline{}, false
	}
	return unrecordedDeadline{r.PromiseID, r.WorkflowExecutionID, *r.UnrecordedSince}, true
}

// SettleEarly settles the promise of an idempotency key. If the key has no promise
// or has expired, SettleEarly stores an early settlement under the key for ttl. A
// promise that is created with the key within ttl is created settled with it.
//
// A request that equals the settlement of an expired key's promise is a duplicate
// of that. If the key already has an early settlement, an equal request is a
// duplicate and any other is a conflict; neither changes the early settlement or
// its expiry. The error is CodeQuotaExceeded if the tenant already has as many
// early settlements, or bytes of them, as it may have.
func (r *Repository) SettleEarly(
	ctx context.Context, tenant, key string, s promise.SettleRequest, ttl time.Duration,
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
		row, err := run[earlyRow](ctx, r, statement{op: "store early settlement", sql: storeEarlySQL, takesConfirmation: true, args: []any{
			tenant, key, ttl, string(s.State), s.Value, s.Message, string(s.By.Kind), nullIfEmpty(s.By.ID), s.Comment, false,
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
		early := promise.SettleResult{
			State: s.State, Outcome: promise.OutcomeHeld, EarlyExpiresAt: row.ExpiresAt, EarlyExpired: row.EarlyExpired,
		}
		if !row.Stored {
			early.State, early.Outcome = promise.Pending, promise.OutcomeAgainst(promise.Pending, false, row.Same)
		}
		return early, nil
	}
	return promise.SettleResult{}, contention(nil)
}

type earlyRow struct {
	uncertainKey
	ExpiresAt    *time.Time // of the early settlement that the key has now
	HolderID     *uuid.UUID // the promise that answers the call, if the key names one
	Stored       bool       `db:"held"` // this call stored the early settlement
	Same         bool       // an equal one was already stored
	EarlyExpired bool       `db:"lost_hold"` // an expired one was replaced
	Full         bool       // the tenant has as many as it may have
}

// SettleBatch settles many promises in one statement. It returns for each item the
// result that Settle would return if it settled the items in order, except that
// all keys are looked up before the first item is settled. Each settlement stores
// by. An error concerns the whole batch: no item was settled, or, if the connection
// was lost before the answer, either none or all of them.
func (r *Repository) SettleBatch(
	ctx context.Context, tenant string, by promise.By, items []promise.Item,
) ([]promise.ItemResult, error) {
	ids, keys := make([]*string, len(items)), make([]*string, len(items))
	outcomes, values := make([]string, len(items)), make([][]byte, len(items))
	messages, comments := make([]*string, len(items)), make([]*string, len(items))
	for n, item := range items {
		ids[n], keys[n] = identifierArgs(item.Promise)
		outcomes[n], values[n] = string(item.Result.State), item.Result.Value
		messages[n], comments[n] = item.Result.Message, item.Comment
	}
	rows, err := runAll[batchRow](ctx, r, statement{op: "settle batch", sql: settleBatchSQL, args: []any{
		tenant, ids, keys, outcomes, values, messages, comments, string(by.Kind), nullIfEmpty(by.ID),
	}})
	if err != nil {
		return nil, err
	}
	results := make([]promise.ItemResult, len(items))
	settledHere := map[uuid.UUID]promise.Result{} // by promise, if an item of this batch settled it
	for n := range results {
		if len(rows) == 0 || rows[n].PromiseID == nil { // an unknown tenant has no rows
			results[n].Err = promise.ErrNotFound
			continue
		}
		row, result := rows[n], items[n].Result
		settled := promise.SettleResult{PromiseID: *row.PromiseID, State: row.State}
		earlier, again := settledHere[settled.PromiseID]
		switch {
		case row.Won:
			settled.State, settled.Outcome = result.State, promise.OutcomeSettled
			settledHere[settled.PromiseID] = result
		case again:
			settled.State, settled.Outcome = earlier.State, promise.OutcomeAgainst(earlier.State, false, earlier.Same(result))
		default:
			settled.Outcome = promise.OutcomeAgainst(row.State, row.ByDeadline, row.Same)
		}
		results[n].SettleResult = settled
	}
	return results, nil
}

type batchRow struct {
	PromiseID  *uuid.UUID
	State      promise.State
	ByDeadline bool
	Same       bool
	Won        bool `db:"settled"` // this item settled the promise
}

// runAll returns all rows of a statement that depends on no deadline. Like run, it
// repeats the statement after a lost race, and once on a dead connection.
func runAll[T any](ctx context.Context, r *Repository, s statement) ([]T, error) {
	reconnected := false
	var err error
	for range attempts {
		var rows []T
		rows, err = collectAll[T](r.db.Query(ctx, s.sql, s.args...))
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

func collectAll[T any](rows pgx.Rows, err error) ([]T, error) {
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByName[T])
}
