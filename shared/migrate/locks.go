package migrate

import (
	"context"
	"slices"

	"github.com/jackc/pgx/v5"
)

// lockedBy lists the locks of each file that block writers or readers: for each
// table the strongest, under the table's name before the file. Rehearse needs the
// list, because its transaction keeps the locks of all earlier files: pg_locks does
// not show that a file takes one of them again.
var lockedBy = map[string][]string{
	"00001_init.sql": {"promise: ShareLock"},
	"00002_promise_uuid.sql": {
		"idempotency_key: AccessExclusiveLock", "promise: AccessExclusiveLock", "tenant: AccessExclusiveLock",
		"workflow_execution: AccessExclusiveLock",
	},
	"00003_event_log.sql":                     {"promise: AccessExclusiveLock", "workflow_execution: AccessExclusiveLock"},
	"00004_lifecycle.sql":                     {"idempotency_key: AccessExclusiveLock", "promise: AccessExclusiveLock", "workflow_event: AccessExclusiveLock"},
	"00005_credentials.sql":                   {"tenant: AccessExclusiveLock"},
	"00006_settled_events.sql":                {"promise: AccessExclusiveLock", "workflow_event: AccessExclusiveLock", "workflow_execution: AccessExclusiveLock"},
	"00011_expired_keys_and_external_ids.sql": {"idempotency_key: AccessExclusiveLock", "workflow_execution: AccessExclusiveLock"},
	"00012_revoke_tokens.sql":                 {"api_key: AccessExclusiveLock", "promise: AccessExclusiveLock"},
	"00013_deadlines_and_lists.sql":           {"promise: ShareLock"},
	"00014_limits.sql":                        {"idempotency_key: AccessExclusiveLock", "tenant: AccessExclusiveLock", "workflow_execution: AccessExclusiveLock"},
	"00015_waits.sql":                         {"tenant: AccessExclusiveLock"},
	"00016_final_promises.sql":                {"api_key: AccessExclusiveLock", "promise: AccessExclusiveLock"},
	"00020_deliveries.sql":                    {"api_key: AccessExclusiveLock", "promise: AccessExclusiveLock", "tenant: AccessExclusiveLock"},
	"00021_webhooks.sql":                      {"idempotency_key: AccessExclusiveLock", "tenant: ShareRowExclusiveLock"},
	"00022_receipt_bodies.sql":                {"receipt: AccessExclusiveLock", "source: AccessExclusiveLock"},
}

// strong lists the lock modes that block writers or readers, the weakest first.
var strong = []string{"ShareLock", "ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock"}

// A lock is a table lock: the table's oid and the mode.
type lock struct {
	Relation uint32
	Mode     string
}

// strongLocks returns the transaction's locks whose mode is in strong.
func strongLocks(ctx context.Context, tx pgx.Tx) ([]lock, error) {
	rows, err := tx.Query(ctx, `
		SELECT relation, mode FROM pg_locks
		WHERE pid = pg_backend_pid() AND locktype = 'relation' AND mode = ANY ($1)`, strong)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[lock])
}

// tableNames returns the names of the schema's tables by oid.
func tableNames(ctx context.Context, tx pgx.Tx) (map[uint32]string, error) {
	rows, err := tx.Query(ctx, `
		SELECT oid, relname::TEXT FROM pg_class
		WHERE relkind = 'r' AND relnamespace = quote_ident(current_schema())::REGNAMESPACE`)
	if err != nil {
		return nil, err
	}
	names := map[uint32]string{}
	var oid uint32
	var name string
	_, err = pgx.ForEachRow(rows, []any{&oid, &name}, func() error {
		names[oid] = name
		return nil
	})
	return names, err
}

// locksOf returns the strongest lock that the file takes on each table that existed
// before it. A lock counts if the transaction did not have it before the file, or
// if lockedBy lists it.
func locksOf(file string, tables map[uint32]string, before, held []lock) []string {
	locks := []string{}
	for relation, name := range tables {
		for _, mode := range slices.Backward(strong) {
			l, text := lock{relation, mode}, name+": "+mode
			if slices.Contains(held, l) && (!slices.Contains(before, l) || slices.Contains(lockedBy[file], text)) {
				locks = append(locks, text)
				break
			}
		}
	}
	slices.Sort(locks)
	return locks
}
