package repository

import (
	"context"
	_ "embed" // the queries
	"time"

	"github.com/google/uuid"

	"github.com/flovyn/promises/shared/promise"
)

//go:embed queries/add_idempotency_key.sql
var addIdempotencyKeySQL string

//go:embed queries/find_promise_by_idempotency_key.sql
var findPromiseByIdempotencyKeySQL string

//go:embed queries/expire_idempotency_keys.sql
var expireIdempotencyKeysSQL string

// AddIdempotencyKey registers one more idempotency key for an existing promise.
// The key lives for ttl and, in any case, while the promise is pending. If the
// promise already has the key, nothing changes. If the key belongs to another
// promise, the error is CodeKeyConflict with ExistingPromiseID. If the key has an
// early settlement, the error is CodeKeyConflict without ExistingPromiseID.
func (r *Repository) AddIdempotencyKey(
	ctx context.Context, tenant, key string, promiseID uuid.UUID, ttl time.Duration,
) error {
	row, err := confirm(ctx, r, "add idempotency key", addIdempotencyKeySQL, withAwaited(named{
		"tenant": tenant, "key": key, "promise": promiseID.String(), "ttl": ttl,
	}), one[registrationRow])
	switch {
	case err != nil:
		return err
	case row.HasEarly:
		return promise.Fail(promise.CodeKeyConflict,
			"The idempotency key has an early settlement for a promise that is created with it. Choose another key.")
	case *row.HolderID != promiseID:
		return keyConflict(*row.HolderID)
	}
	return nil
}

type registrationRow struct {
	uncertainKey
	HolderID *uuid.UUID // nil only if HasEarly
	HasEarly bool       `db:"held"`
}

// An uncertainKey is embedded in rows about an idempotency key. If Uncertain, the
// key has expired and its promise's deadline has passed, but a running extension
// may still keep the promise pending, and the key with it.
type uncertainKey struct {
	Uncertain           bool `db:"doubtful"`
	WorkflowExecutionID *uuid.UUID
}

func (k uncertainKey) unrecordedDeadlines() []unrecordedDeadline {
	if !k.Uncertain {
		return nil
	}
	return []unrecordedDeadline{{workflowExecutionID: *k.WorkflowExecutionID}}
}

type keyHolderRow struct {
	HolderID uuid.UUID
}

// FindPromiseByIdempotencyKey returns the id of the promise that a key names. If it
// names none, the error is promise.ErrNotFound.
func (r *Repository) FindPromiseByIdempotencyKey(ctx context.Context, tenant, key string) (uuid.UUID, error) {
	row, err := run(ctx, r, "find promise by idempotency key", findPromiseByIdempotencyKeySQL, named{
		"tenant": tenant, "key": key,
	}, one[keyHolderRow])
	if err != nil {
		return uuid.Nil, err
	}
	return row.HolderID, nil
}

type expiredKeyRow struct {
	Tenant   *string // Tenant and Key are set if the key's early settlement has expired
	Key      *string
	Released bool `db:"freed"` // the key no longer names its promise
	Ended    bool // the early settlement ended on its receipts
}

// ExpireIdempotencyKeys examines at most limit idempotency keys whose check is
// due, of all tenants, the oldest first. It releases the keys that no longer name
// their promise, and deletes the early settlements that have expired. Examined is
// less than limit if no other key is due or other transactions have locked the
// rest.
func (r *Repository) ExpireIdempotencyKeys(ctx context.Context, limit int) (promise.ExpireKeysResult, error) {
	rows, err := run(ctx, r, "expire idempotency keys", expireIdempotencyKeysSQL, named{"limit": limit}, all[expiredKeyRow])
	result := promise.ExpireKeysResult{Examined: len(rows)}
	for _, row := range rows {
		if row.Released {
			result.Released++
		}
		if row.Key != nil {
			early := promise.ExpiredEarly{Key: *row.Key}
			if row.Tenant != nil {
				early.Tenant = *row.Tenant
			}
			result.ExpiredEarly = append(result.ExpiredEarly, early)
		}
	}
	return result, err
}
