package main

import (
	"context"
	"crypto/md5"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/shirou/gopsutil/v4/process"

	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/repository"
)

// measureTable measures every operation at every number of clients.
func measureTable(ctx context.Context, c *cluster, o options, screen *progress) ([]row, error) {
	db, err := c.load(ctx, o.promises, 10, screen)
	if err != nil {
		return nil, err
	}
	db.roundTrip = o.roundTrip
	if err := settleSome(ctx, db, screen); err != nil {
		return nil, err
	}
	var rows []row
	for _, clients := range o.clients {
		operations, done, err := databaseOperations(ctx, db, clients)
		if err != nil {
			return nil, err
		}
		more, err := inTurns(ctx, chosen(operations, o), clients, o.calls, screen)
		done()
		if err != nil {
			return nil, err
		}
		rows = append(rows, more...)
	}
	if o.http {
		more, err := measureHTTP(ctx, c, db, o, screen)
		if err != nil {
			return nil, err
		}
		rows = append(rows, more...)
	}
	return rows, nil
}

// settleSome settles some promises by key without measuring. After a checkpoint Postgres logs each changed page whole once,
// and no turn should pay for that.
func settleSome(ctx context.Context, db *dataset, screen *progress) error {
	screen.say("settle %d promises", db.promises/settledOneIn)
	operations, done, err := databaseOperations(ctx, db, 8)
	if err != nil {
		return err
	}
	defer done()
	_, err = oneTurn(ctx, operations[2], db.promises/settledOneIn, 8)
	return err
}

// chosen returns the operations whose names match --only.
func chosen(operations []operation, o options) []operation {
	return slices.DeleteFunc(operations, func(op operation) bool { return !o.only.MatchString(op.name) })
}

var value = []byte(`{"status":"paid","amount":4200}`)

// settledOneIn is the inverse of the share of promises that are settled before the measurement: one in 20.
const settledOneIn = 20

// Numbers of operations that need pending promises: of those that this process calls itself, and of those that it measures
// through the local runner.
const (
	settlingOperations     = 4
	settlingHTTPOperations = 3
)

// limit is the name of the operation that no settlement can be faster than: the bare UPDATE of one row.
const limit = "limit"

// databaseOperations returns the operations that this process calls itself, on a pool with one connection for each client.
// The limit and the settlements come first. The caller calls done at the end.
func databaseOperations(ctx context.Context, db *dataset, clients int) (_ []operation, done func(), err error) {
	m, err := newMeter(ctx, db)
	if err != nil {
		return nil, nil, err
	}
	statements := &statementCounter{}
	m.statements, m.singleProcess = statements, true
	pool, err := db.pool(ctx, clients, statements)
	if err == nil {
		m.callers, err = process.NewProcess(int32(os.Getpid()))
	}
	done = func() {
		m.monitor.Close()
		if pool != nil {
			pool.Close()
		}
	}
	if err != nil {
		done()
		return nil, nil, err
	}
	operations := append(limitAndSettlements(db, pool), otherOperations(db, pool)...)
	for i := range operations {
		operations[i].db, operations[i].meter = db, m
	}
	return operations, done, nil
}

// limitAndSettlements returns the limit, the settlement by id and the settlement by key.
func limitAndSettlements(db *dataset, pool *pgxpool.Pool) []operation {
	store := repository.New(pool)
	return []operation{
		{name: limit, settles: true, call: func(ctx context.Context, n int) error {
			_, err := pool.Exec(ctx, `UPDATE promise SET resolved = TRUE, outcome = 'resolved', value = $2, resolved_at = NOW(),
				resolved_by_sequence = 2 WHERE id = $1`, promiseID(db.spread(n)), value)
			return err
		}},
		{name: "settle by id", settles: true, call: func(ctx context.Context, n int) error {
			return resolve(ctx, store, promise.ByID(promiseID(db.spread(n))))
		}},
		{name: "settle by key", settles: true, call: func(ctx context.Context, n int) error {
			i, err := promise.ByIdempotencyKey(promiseKey(db.spread(n)))
			if err != nil {
				return err
			}
			return resolve(ctx, store, i)
		}},
	}
}

func resolve(ctx context.Context, store *repository.Repository, i promise.Identifier) error {
	got, err := store.Settle(ctx, tenant, i, promise.SettleRequest{
		Result: promise.Result{State: promise.Resolved, Value: value}, By: promise.By{Kind: promise.KindDirect},
	})
	if err == nil && got.Outcome != promise.OutcomeSettled {
		err = fmt.Errorf("the settlement of promise %s returned the outcome %s, not settled", got.PromiseID, got.Outcome)
	}
	return err
}

func otherOperations(db *dataset, pool *pgxpool.Pool) []operation {
	store := repository.New(pool)
	create := func(ctx context.Context, n int) (uuid.UUID, error) {
		key := promiseKey(-n)
		timeout := 24 * time.Hour
		made, err := store.Create(ctx, tenant, promise.Draft{
			WorkflowExecutionID: uuid.New(), Name: "payment", Timeout: &timeout, IdempotencyKey: &key, IdempotencyKeyTTL: 24 * time.Hour,
		})
		return made.Promise.ID, err
	}
	return []operation{
		{name: "transaction of seven", settles: true, call: func(ctx context.Context, n int) error {
			n = db.spread(n)
			return transactionOfSeven(ctx, pool, workflowID(n/db.perWorkflow), promiseID(n))
		}},
		{name: "create", call: func(ctx context.Context, _ int) error {
			_, err := create(ctx, db.nextCreated())
			return err
		}},
		{name: "create + settle", call: func(ctx context.Context, _ int) error {
			id, err := create(ctx, db.nextCreated())
			if err != nil {
				return err
			}
			return resolve(ctx, store, promise.ByID(id))
		}},
		{name: "get", call: func(ctx context.Context, n int) error {
			_, err := store.Get(ctx, tenant, promise.ByID(promiseID(db.spread(n))))
			return err
		}},
	}
}

// transactionOfSeven settles in the usual way: a transaction of seven statements, with an advisory lock on the workflow and
// an event row.
func transactionOfSeven(ctx context.Context, pool *pgxpool.Pool, workflow, id uuid.UUID) error {
	tx, err := pool.Begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback(ctx) //nolint:errcheck // after the commit there is nothing to roll back
	if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock(hashtextextended($1::TEXT, 0))", workflow.String()); err != nil {
		return err
	}
	var resolved bool
	if err := tx.QueryRow(ctx, `SELECT p.resolved FROM promise p JOIN tenant t ON t.id = p.tenant_id
		WHERE p.id = $1 AND t.slug = $2 FOR UPDATE OF p`, id, tenant).Scan(&resolved); err != nil {
		return err
	}
	if resolved {
		return fmt.Errorf("promise %s is already settled", id)
	}
	var number int
	if err := tx.QueryRow(ctx, `UPDATE workflow_execution SET last_sequence_number = last_sequence_number + 1
		WHERE id = $1 RETURNING last_sequence_number`, workflow).Scan(&number); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `UPDATE promise SET resolved = TRUE, outcome = 'resolved', value = $2, resolved_at = NOW(),
		resolved_by_sequence = $3 WHERE id = $1`, id, value, number); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `INSERT INTO workflow_event_row (workflow_execution_id, sequence_number, event_type, promise_id)
		VALUES ($1, $2, 'PROMISE_RESOLVED', $3)`, workflow, number, id); err != nil {
		return err
	}
	return tx.Commit(ctx)
}

func promiseID(n int) uuid.UUID { return uuid.UUID(md5.Sum([]byte(strconv.Itoa(n)))) }

func workflowID(n int) uuid.UUID { return uuid.UUID(md5.Sum([]byte("w" + strconv.Itoa(n)))) }

func promiseKey(n int) string { return "stripe:ch_" + strconv.Itoa(n) }
