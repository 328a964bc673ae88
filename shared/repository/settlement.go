package repository

import (
	"context"
	_ "embed" // the queries
	"errors"
	"time"

	"github.com/google/uuid"

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
	row, err := run(ctx, r, "settle promise", settleSQL, ofPromise(i, settleArguments(tenant, s)), one[settleRow])
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

func settleArguments(tenant string, s promise.SettleRequest) named {
	return named{
		"tenant": tenant, "outcome": string(s.State), "value": s.Value, "error": s.Message,
		"kind": string(s.By.Kind), "by": nullIfEmpty(s.By.ID), "comment": s.Comment,
	}
}

type settleRow struct {
	PromiseID  uuid.UUID
	State      promise.State
	ByDeadline bool
	Same       bool
	Won        bool `db:"settled"` // this call settled the promise
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
	return retry(ctx, func(*learned) (promise.SettleResult, error) {
		settled, err := r.Settle(ctx, tenant, i, s)
		if err != nil && !errors.Is(err, promise.ErrNotFound) {
			return promise.SettleResult{}, err
		}
		if settled.Outcome == promise.OutcomeSettled || settled.Outcome == promise.OutcomeDuplicate {
			return settled, nil
		}
		row, err := r.storeEarly(ctx, tenant, key, s, ttl)
		switch {
		case err != nil:
			return promise.SettleResult{}, err
		case row.HolderID != nil && *row.HolderID == settled.PromiseID: // the key has not expired
			return settled, nil
		case row.ExpiresAt == nil && row.Full:
			return promise.SettleResult{}, r.quotaExceeded(ctx, tenant, promise.LimitEarly)
		case row.ExpiresAt == nil:
			return promise.SettleResult{}, errRaceLost
		case !row.Stored:
			return promise.SettleResult{
				State: promise.Pending, Outcome: promise.OutcomeAgainst(promise.Pending, false, row.Same), EarlyExpiresAt: row.ExpiresAt,
				EarlyExpired: row.EarlyExpired,
			}, nil
		}
		return promise.SettleResult{
			State: s.State, Outcome: promise.OutcomeHeld, EarlyExpiresAt: row.ExpiresAt, EarlyExpired: row.EarlyExpired,
		}, nil
	})
}

func (r *Repository) storeEarly(ctx context.Context, tenant, key string, s promise.SettleRequest, ttl time.Duration) (earlyRow, error) {
	a := settleArguments(tenant, s)
	a["key"], a["ttl"] = key, ttl
	return confirm(ctx, r, "store early settlement", storeEarlySQL, withAwaited(a), one[earlyRow])
}

type earlyRow struct {
	uncertainKey
	ExpiresAt    *time.Time // of the early settlement that the key has now
	HolderID     *uuid.UUID // the promise that answers the call, if the key names one
	Stored       bool       // this call stored the early settlement
	Same         bool       // an equal one was already stored
	EarlyExpired bool       `db:"expired_unused"` // an expired one was replaced that no receipt records
	Full         bool       `db:"is_full"`        // the tenant has as many as it may have
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
		ids[n], keys[n] = identifierArguments(item.Promise)
		outcomes[n], values[n] = string(item.Result.State), item.Result.Value
		messages[n], comments[n] = item.Result.Message, item.Comment
	}
	rows, err := run(ctx, r, "settle batch", settleBatchSQL, named{
		"tenant": tenant, "ids": ids, "keys": keys, "outcomes": outcomes, "values": values, "errors": messages, "comments": comments,
		"kind": string(by.Kind), "by": nullIfEmpty(by.ID),
	}, all[batchRow])
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
