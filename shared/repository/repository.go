// Package repository keeps promises and idempotency keys in Postgres.
//
// One operation is one statement and one round trip. A lost race repeats the
// statement. A deadline that has passed and is not recorded yet adds two
// statements: one waits for running transactions, one asks again. Every method
// can be repeated safely.
//
// Statements run under READ COMMITTED, each in a transaction of its own. All
// of them lock rows in this order, so that none can deadlock with another:
//
//  1. workflow_execution: whoever holds this row changes the workflow's
//     promises and hands out its sequence numbers
//  2. promise. A transaction that locks a pending promise FOR UPDATE has locked
//     its workflow execution before; see promise_await_settlements
//  3. idempotency_key
//
// What works on many workflows at once takes their rows in the order of their
// ids, or waits for none.
//
// A statement decides by its snapshot and proves the decision: one that waited
// for a lock while somebody else changed what it had seen ends in an error, is
// rolled back whole, and is run again. There are no advisory locks and no
// session state, on which RDS Proxy would pin a connection.
//
// Errors are *promise.Error, with the cause for the log. The tenant is always
// named by its slug; what belongs to another tenant is promise.ErrNotFound.
package repository

import (
	"context"
	_ "embed" // the queries
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Repository is safe for concurrent use.
type Repository struct {
	db        DB
	tenantIDs sync.Map // knownTenant by slug, of the tenants that this process has looked up
	now       func() time.Time
}

// DB is what the repository needs of a *pgxpool.Pool.
type DB interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

//go:embed queries/await_settlements.sql
var awaitSettlementsSQL string

// New returns a repository on db, whose schema is migrated.
func New(db DB) *Repository { return &Repository{db: db, now: time.Now} }

// attempts bounds how often a statement that lost a race is run again. The
// second look sees the winner, so more than two mean a chain of races on one
// promise or one key.
const attempts = 10

// statement is one of queries/, with its arguments.
type statement struct {
	op, sql string
	args    []any

	// identifies says that the arguments after the first are an id and a key,
	// of which one is NULL. Run again, the statement goes by the id that it
	// found: the key may belong to another promise by then.
	identifies bool

	// confirms says that the last argument is whether the deadline that the
	// statement asked about stands.
	confirms bool
}

func (s *statement) pin(promiseID string) {
	if s.identifies {
		s.args[1], s.args[2] = &promiseID, (*string)(nil)
	}
}

// doubtAgain is for a statement that is to be run on another state of things than
// the one that was confirmed to it. It returns what stays confirmed.
func (s *statement) doubtAgain(confirmed *passed) *passed {
	if !s.confirms {
		return confirmed
	}
	s.args[len(s.args)-1] = false
	return nil
}

// judged is a row that may tell of a promise past its deadline which nothing
// has recorded yet.
type judged interface {
	overdue() (passed, bool)
}

// passed is a deadline which has passed and which nothing has recorded.
type passed struct {
	promiseID, workflowExecutionID uuid.UUID
	at                             time.Time // zero where the statement does not tell, as the promise's id is
}

// same says whether both are one deadline of one workflow execution: whoever has
// waited for one of its promises has waited for all that have that deadline.
func (p passed) same(q passed) bool {
	return p.workflowExecutionID == q.workflowExecutionID && p.at.Equal(q.at)
}

// never is for rows that tell of no deadline.
type never struct{}

func (never) overdue() (passed, bool) { return passed{}, false }

// run runs a statement until its answer stands. It is run again where it lost a
// race, where its connection turned out dead before anything was sent, and
// where its answer is a deadline that nothing has recorded: a settlement that
// was in time may be about to commit, so those under way are waited for first.
// If one of them moved the deadline, and the new one has passed too, run waits
// again.
func run[T judged](ctx context.Context, r *Repository, s statement) (T, error) {
	reconnected := false
	var confirmed *passed
	var row T
	var err error
	for range attempts {
		row, err = one[T](r.db.Query(ctx, s.sql, s.args...))
		var deadline passed
		var overdue bool
		promiseID, lost := lostRace(err)
		switch {
		case err == nil:
			deadline, overdue = row.overdue()
		case lost:
			if promiseID != "" {
				s.pin(promiseID)
			}
			confirmed = s.doubtAgain(confirmed)
			continue
		case pgconn.SafeToRetry(err) && !reconnected && ctx.Err() == nil:
			reconnected = true
			confirmed = s.doubtAgain(confirmed)
			continue
		}
		if !overdue || confirmed != nil && confirmed.same(deadline) {
			if err != nil {
				return row, interpret(s.op, err)
			}
			return row, nil
		}
		if err = r.awaitSettlements(ctx, s.op, deadline); err != nil {
			return row, err
		}
		if deadline.promiseID != uuid.Nil {
			s.pin(deadline.promiseID.String())
		}
		if s.confirms {
			s.args[len(s.args)-1] = true
		}
		confirmed = &deadline
	}
	return row, contention(err)
}

// awaitSettlements waits until no settlement and no extension is running that
// may be in time for one of the deadlines. It does not wait for the sweep, which
// records them.
func (r *Repository) awaitSettlements(ctx context.Context, op string, deadlines ...passed) error {
	promises, workflows := make([]*string, len(deadlines)), make([]string, len(deadlines))
	for n, d := range deadlines {
		if d.promiseID != uuid.Nil {
			promises[n] = orNull(d.promiseID.String())
		}
		workflows[n] = d.workflowExecutionID.String()
	}
	if _, err := r.db.Exec(ctx, awaitSettlementsSQL, promises, workflows); err != nil {
		return interpret(op, err)
	}
	return nil
}

func one[T any](rows pgx.Rows, err error) (T, error) {
	if err != nil {
		var none T
		return none, err
	}
	return pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[T])
}
