// Package repository keeps promises, idempotency keys, destinations, deliveries, sources
// and receipts in Postgres.
//
// One operation is one statement and one round trip. A lost race repeats the
// statement. A deadline that has passed and is not recorded yet adds two
// statements: one waits for running transactions, one asks again. A settlement
// does both by itself. A put of a source and a rotation read first, in a statement of
// their own. A caller can safely repeat every method, but each rotation of a secret adds
// another one.
//
// Statements run under READ COMMITTED, each in a transaction of its own. All
// of them lock rows in this order, so that no two can deadlock:
//
//  1. workflow_execution: a transaction that has locked this row may change the
//     workflow's promises and assign its sequence numbers
//  2. promise: before a transaction locks a pending promise FOR UPDATE, it has
//     locked the workflow execution; see promise_await_settlements
//  3. idempotency_key
//  4. receipt, and then its kept body
//  5. destination and source, their secrets, and then the tenant's row for a change of
//     the default destination
//  6. delivery
//  7. delivery_lease
//
// delete_settled.sql is an exception. It locks settled promises and their keys
// before workflow executions, and says why that cannot deadlock.
//
// The last batch of tenant_delete.sql is another: it locks the destinations before the
// tenant. A create that began before the tenant's suspension may deadlock with it. Both
// are repeated.
//
// A statement for many workflows locks their rows in the order of their ids, or
// skips locked rows.
//
// A statement decides by its snapshot, and checks the decision once it has
// locked the row. If another transaction has changed the row meanwhile, the
// statement fails, is rolled back whole, and is run again. There are no advisory
// locks and no session state: RDS Proxy would pin a connection for either.
//
// Errors are *promise.Error, with the cause for the log. Methods name a tenant
// by its slug. A row of another tenant is promise.ErrNotFound.
package repository

import (
	"context"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// A Repository is safe for concurrent use.
type Repository struct {
	db        DB
	tenantIDs sync.Map // knownTenant by slug: the tenants that this process has looked up
	now       func() time.Time
}

// A DB is the part of a *pgxpool.Pool that the repository uses.
type DB interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// New returns a repository on db. The schema of db must be migrated.
func New(db DB) *Repository { return &Repository{db: db, now: time.Now} }
