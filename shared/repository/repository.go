// Package repository keeps promises and idempotency keys in Postgres.
//
// One operation is one statement and one round trip. A lost race repeats the
// statement. A deadline that has passed and is not recorded yet adds two
// statements: one waits for running transactions, one asks again. A caller can
// safely repeat every method.
//
// Statements run under READ COMMITTED, each in a transaction of its own. All
// of them lock rows in this order, so that no two can deadlock:
//
//  1. workflow_execution: a transaction that has locked this row may change the
//     workflow's promises and assign its sequence numbers
//  2. promise: before a transaction locks a pending promise FOR UPDATE, it has
//     locked the workflow execution; see promise_await_settlements
//  3. idempotency_key
//
// delete_settled.sql is the exception. It locks settled promises and their keys
// before workflow executions, and says why that cannot deadlock.
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
	_ "embed" // the queries
	"sync"
	"time"

	"github.com/google/uuid"
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

//go:embed queries/await_settlements.sql
var awaitSettlementsSQL string

// New returns a repository on db. The schema of db must be migrated.
func New(db DB) *Repository { return &Repository{db: db, now: time.Now} }

// attempts bounds the runs of a statement that loses a race each time. The second
// run sees the winner of the first race, so a third means another race on the
// same promise or key.
const attempts = 10

// A statement is a query of queries/ with its arguments.
type statement struct {
	op, sql string // op names the operation in errors
	args    []any

	// byIdentifier is true if args[1] is a promise's id and args[2] an idempotency
	// key, one of which is NULL. A repeated run looks the promise up by the id that
	// the first run found, because the key may name another promise by then.
	byIdentifier bool

	// takesConfirmation is true if the last argument says that run has waited for
	// the transactions that may still extend the promise. The statement then treats
	// the deadline that it reported as final.
	takesConfirmation bool
}

// useID makes the next run look the promise up by its id.
func (s *statement) useID(promiseID string) {
	if s.byIdentifier {
		s.args[1], s.args[2] = &promiseID, (*string)(nil)
	}
}

// resetConfirmation clears the confirmation argument before a retry, because the
// retry may see other rows. It returns the deadline that stays confirmed: none if
// the statement takes a confirmation, otherwise confirmed.
func (s *statement) resetConfirmation(confirmed *unrecordedDeadline) *unrecordedDeadline {
	if !s.takesConfirmation {
		return confirmed
	}
	s.args[len(s.args)-1] = false
	return nil
}

// A deadlineReporter is a result row that may depend on an unrecorded deadline.
// unrecordedDeadline returns that deadline, and false if there is none.
type deadlineReporter interface {
	unrecordedDeadline() (unrecordedDeadline, bool)
}

// An unrecordedDeadline is a promise's deadline that has passed while the
// promise's row still says that it is pending.
type unrecordedDeadline struct {
	promiseID, workflowExecutionID uuid.UUID // promiseID is zero if the row does not name the promise
	at                             time.Time // zero if the row has no deadline column
}

// sameWait reports whether one wait serves both deadlines. One wait on a workflow
// execution covers all its promises with the same deadline.
func (d unrecordedDeadline) sameWait(other unrecordedDeadline) bool {
	return d.workflowExecutionID == other.workflowExecutionID && d.at.Equal(other.at)
}

// noDeadline is embedded in rows that depend on no deadline.
type noDeadline struct{}

func (noDeadline) unrecordedDeadline() (unrecordedDeadline, bool) { return unrecordedDeadline{}, false }

// run repeats a statement until its row is final. There are three reasons to
// repeat it:
//   - It lost a race.
//   - Its connection was dead before anything was sent. run repeats this once.
//   - Its row depends on an unrecorded deadline. A running transaction may have
//     settled the promise in time, or extended it, so run first waits for the
//     running transactions. If one of them moved the deadline, and the new one has
//     passed too, run waits again.
func run[T deadlineReporter](ctx context.Context, r *Repository, s statement) (T, error) {
	reconnected := false
	var confirmed *unrecordedDeadline // run has waited for it
	var row T
	var err error
	for range attempts {
		row, err = collectOne[T](r.db.Query(ctx, s.sql, s.args...))
		var deadline unrecordedDeadline
		var unrecorded bool
		promiseID, lost := lostRace(err)
		switch {
		case err == nil:
			deadline, unrecorded = row.unrecordedDeadline()
		case lost:
			if promiseID != "" {
				s.useID(promiseID)
			}
			confirmed = s.resetConfirmation(confirmed)
			continue
		case pgconn.SafeToRetry(err) && !reconnected && ctx.Err() == nil:
			reconnected = true
			confirmed = s.resetConfirmation(confirmed)
			continue
		}
		if !unrecorded || confirmed != nil && confirmed.sameWait(deadline) {
			if err != nil {
				return row, interpret(s.op, err)
			}
			return row, nil
		}
		if err = r.awaitSettlements(ctx, s.op, deadline); err != nil {
			return row, err
		}
		if deadline.promiseID != uuid.Nil {
			s.useID(deadline.promiseID.String())
		}
		if s.takesConfirmation {
			s.args[len(s.args)-1] = true
		}
		confirmed = &deadline
	}
	return row, contention(err)
}

// awaitSettlements waits for the running settlements and extensions that may be
// in time for one of the deadlines. It does not wait for the sweep, which records
// deadlines.
func (r *Repository) awaitSettlements(ctx context.Context, op string, deadlines ...unrecordedDeadline) error {
	promises, workflows := make([]*string, len(deadlines)), make([]string, len(deadlines))
	for n, d := range deadlines {
		if d.promiseID != uuid.Nil {
			promises[n] = nullIfEmpty(d.promiseID.String())
		}
		workflows[n] = d.workflowExecutionID.String()
	}
	if _, err := r.db.Exec(ctx, awaitSettlementsSQL, promises, workflows); err != nil {
		return interpret(op, err)
	}
	return nil
}

func collectOne[T any](rows pgx.Rows, err error) (T, error) {
	if err != nil {
		var zero T
		return zero, err
	}
	return pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[T])
}
