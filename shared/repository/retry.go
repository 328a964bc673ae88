package repository

import (
	"context"
	_ "embed" // the query
	"errors"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/flovyn/promises/shared/promise"
)

//go:embed queries/await_settlements.sql
var awaitSettlementsSQL string

// attempts bounds the tries of a call that loses a race each time. The second try
// sees the winner of the first race, so a third means another race for the same
// promise or key. It also bounds the waits of one try.
const attempts = 10

// errRaceLost is the error of a try that lost a race without an error of Postgres.
var errRaceLost = errors.New("another transaction came first")

// A learned holds the facts that the tries of one call have found so far.
type learned struct {
	promiseID string // the promise that the call's key named; empty: not known
	awaited   bool   // the call has waited for the transactions that may still move the deadline that it found
}

// retry repeats a try that lost a race, and once a try that sent nothing because its
// connection was dead. It returns the last try's error, or CodeUnavailable if every
// try lost a race.
func retry[T any](ctx context.Context, try func(known *learned) (T, error)) (T, error) {
	var known learned
	var result T
	var err error
	reconnected := false
	for range attempts {
		if result, err = try(&known); err == nil {
			return result, nil
		}
		if final := (*promise.Error)(nil); errors.As(err, &final) {
			return result, err
		}
		promiseID, lost := lostRace(err)
		switch {
		case lost && promiseID != "":
			known.promiseID = promiseID
		case lost:
		case pgconn.SafeToRetry(err) && !reconnected && ctx.Err() == nil:
			reconnected = true
		default:
			return result, err
		}
	}
	return result, contention(err)
}

// run returns the result of one statement, which retry repeats.
func run[T any](
	ctx context.Context, r *Repository, op, sql string, a arguments, collect func(pgx.Rows, error) (T, error),
) (T, error) {
	result, err := retry(ctx, func(known *learned) (T, error) {
		return collect(r.db.Query(ctx, sql, a.after(known)))
	})
	return result, interpret(op, err)
}

// confirm returns the result of one statement, as run does, but only once it is
// final. A result that depends on an unrecorded deadline is not final: a running
// transaction may have settled the promise in time, or extended it. So confirm
// waits for the running transactions and sends the statement again. If one of them
// has moved the deadline, and the new one has passed too, confirm waits again.
func confirm[T deadlineReporter](
	ctx context.Context, r *Repository, op, sql string, a arguments, collect func(pgx.Rows, error) (T, error),
) (T, error) {
	result, err := retry(ctx, func(known *learned) (result T, err error) {
		known.awaited = false // a try after a lost race may see other rows
		awaited := map[sharedDeadline]bool{}
		for range attempts {
			if result, err = collect(r.db.Query(ctx, sql, a.after(known))); err != nil {
				return result, err
			}
			unconfirmed := slices.DeleteFunc(result.unrecordedDeadlines(), func(d unrecordedDeadline) bool { return awaited[d.shared()] })
			if len(unconfirmed) == 0 {
				return result, nil
			}
			if err := r.awaitSettlements(ctx, unconfirmed); err != nil {
				return result, err
			}
			known.awaited = true
			for _, d := range unconfirmed {
				awaited[d.shared()] = true
				if d.promiseID != uuid.Nil {
					known.promiseID = d.promiseID.String()
				}
			}
		}
		return result, contention(nil)
	})
	return result, interpret(op, err)
}

// A deadlineReporter is a result that may depend on unrecorded deadlines.
type deadlineReporter interface {
	unrecordedDeadlines() []unrecordedDeadline
}

// An unrecordedDeadline is a promise's deadline that has passed while the
// promise's row still says that it is pending.
type unrecordedDeadline struct {
	promiseID, workflowExecutionID uuid.UUID // promiseID is zero if the row does not name the promise
	at                             time.Time // zero if the row has no deadline column
}

// A sharedDeadline is a deadline of any promises of a workflow execution. One wait
// serves them all.
type sharedDeadline struct {
	workflowExecutionID uuid.UUID
	at                  int64 // Unix microseconds, Postgres's resolution
}

func (d unrecordedDeadline) shared() sharedDeadline {
	return sharedDeadline{d.workflowExecutionID, d.at.UnixMicro()}
}

// awaitSettlements waits for the running settlements and extensions that may be
// in time for one of the deadlines. It does not wait for the sweep, which records
// deadlines.
func (r *Repository) awaitSettlements(ctx context.Context, deadlines []unrecordedDeadline) error {
	promises, workflows := make([]*string, len(deadlines)), make([]string, len(deadlines))
	for n, d := range deadlines {
		if d.promiseID != uuid.Nil {
			promises[n] = nullIfEmpty(d.promiseID.String())
		}
		workflows[n] = d.workflowExecutionID.String()
	}
	_, err := r.db.Exec(ctx, awaitSettlementsSQL, named{"promises": promises, "workflows": workflows})
	return err
}

// one returns the only row of a statement.
func one[T any](rows pgx.Rows, err error) (T, error) {
	if err != nil {
		var zero T
		return zero, err
	}
	return pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[T])
}

// all returns all rows of a statement.
func all[T any](rows pgx.Rows, err error) ([]T, error) {
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByName[T])
}
