package repository

import (
	"context"
	_ "embed" // the queries
	"time"

	"github.com/google/uuid"

	"github.com/flovyn/promises/shared/promise"
)

//go:embed queries/create_for_promise.sql
var createForPromiseSQL string

//go:embed queries/find_promise_by_key.sql
var findPromiseByKeySQL string

//go:embed queries/expire_keys.sql
var expireKeysSQL string

// AddIdempotencyKey registers one more idempotency key for a promise that
// exists. The key lives for ttl and for as long as the promise is pending. The
// same key for the same promise again changes nothing. A key that belongs to
// another promise is CodeKeyConflict, with ExistingPromiseID; one that holds a
// settlement is CodeKeyConflict without.
func (r *Repository) AddIdempotencyKey(
	ctx context.Context, tenant, key string, promiseID uuid.UUID, ttl time.Duration,
) error {
	for range attempts {
		row, err := run[registrationRow](ctx, r, statement{
			op: "create key", sql: createForPromiseSQL, confirms: true, args: []any{tenant, key, promiseID.String(), ttl, false},
		})
		switch {
		case err != nil:
			return err
		case row.Held:
			return promise.Fail(promise.CodeKeyConflict, "The idempotency key holds a settlement for the promise that is created with it.")
		case row.HolderID == nil:
			continue
		case *row.HolderID != promiseID:
			return keyConflict(*row.HolderID)
		}
		return nil
	}
	return contention(nil)
}

type registrationRow struct {
	doubt
	HolderID *uuid.UUID
	Held     bool
}

// doubt is for rows that may tell of a key which is free if its promise's
// deadline stands.
type doubt struct {
	Doubtful            bool
	WorkflowExecutionID *uuid.UUID
}

func (d doubt) overdue() (passed, bool) {
	if !d.Doubtful {
		return passed{}, false
	}
	return passed{workflowExecutionID: *d.WorkflowExecutionID}, true
}

type keyRow struct {
	never
	HolderID uuid.UUID
}

// FindPromiseByIdempotencyKey returns the promise that a key names. A key that names none
// is promise.ErrNotFound.
func (r *Repository) FindPromiseByIdempotencyKey(ctx context.Context, tenant, key string) (uuid.UUID, error) {
	row, err := run[keyRow](ctx, r, statement{op: "find promise by key", sql: findPromiseByKeySQL, args: []any{tenant, key}})
	if err != nil {
		return uuid.Nil, err
	}
	return row.HolderID, nil
}

type expiredKeyRow struct {
	Tenant *string
	Key    *string // an early settlement under it has expired
	Freed  bool
}

// ExpireIdempotencyKeys looks at no more than limit idempotency keys that are due for it,
// of all tenants, the oldest first. It frees the keys that no longer name their
// promise, and deletes the early settlements that have expired. Looked is less
// than limit if no other key is due, or other transactions have locked the
// rest.
func (r *Repository) ExpireIdempotencyKeys(ctx context.Context, limit int) (promise.ExpireKeysResult, error) {
	rows, err := runAll[expiredKeyRow](ctx, r, statement{op: "expire keys", sql: expireKeysSQL, args: []any{limit}})
	e := promise.ExpireKeysResult{Examined: len(rows)}
	for _, row := range rows {
		if row.Freed {
			e.Released++
		}
		if row.Key != nil {
			h := promise.ExpiredEarly{Key: *row.Key}
			if row.Tenant != nil {
				h.Tenant = *row.Tenant
			}
			e.ExpiredEarly = append(e.ExpiredEarly, h)
		}
	}
	return e, err
}
