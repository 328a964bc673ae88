package repository

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/flovyn/promises/shared/promise"
)

// codeRaceLost is promise_race_lost's, in migrations/.
const codeRaceLost = "PR001"

// lostRace says whether err is how a statement learns that the world has
// changed since its snapshot, and of which promise, where that is known.
func lostRace(err error) (promiseID string, lost bool) {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return "", false
	}
	switch pg.Code {
	case codeRaceLost:
		return pg.Detail, true
	case "40001", "40P01": // serialization_failure, deadlock_detected
		return "", true
	case "23505": // unique_violation: promise_workflow_execution_id_name_key, whatever an adopted database calls it
		return "", pg.TableName == "promise"
	case "23503": // foreign_key_violation
		// A workflow execution's tenant was deleted, or got an execution while it was.
		return "", pg.ConstraintName == "idempotency_key_promise_id_fkey" || pg.TableName == "workflow_execution"
	}
	return "", false
}

// interpret translates what Postgres and pgx say into the domain's errors.
func interpret(op string, err error) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return promise.ErrNotFound
	}
	cause := fmt.Errorf("repository: %s: %w", op, err)
	if away(err) {
		return &promise.Error{
			Code:   promise.CodeUnavailable,
			Detail: "The database cannot be reached at the moment. Repeat the call.",
			Cause:  cause,
		}
	}
	return cause
}

// away says whether err tells of the database's state and not of the statement:
// the same call may succeed later.
func away(err error) bool {
	var connect *pgconn.ConnectError
	if errors.As(err, &connect) { // whatever Postgres says of it: the statement was not even asked
		return true
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		if pg.SeverityUnlocalized == "FATAL" || pg.SeverityUnlocalized == "PANIC" { // the session's end, not the statement's
			return true
		}
		switch pg.Code[:2] {
		case "08", "28", "53", "57", "58": // connection, authorization, resources, operator, system
			return true
		}
		return pg.Code == "25006" || pg.Code == "55P03" // read_only_sql_transaction, lock_not_available
	}
	var network net.Error
	return errors.As(err, &network) || pgconn.SafeToRetry(err) ||
		errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed)
}

func keyConflict(holder uuid.UUID) error {
	return &promise.Error{
		Code: promise.CodeKeyConflict, Detail: "The idempotency key belongs to another promise.",
		ExistingPromiseID: holder,
	}
}

// contention is for a call that lost every one of its attempts.
func contention(cause error) error {
	return &promise.Error{
		Code: promise.CodeUnavailable, Detail: "Too many calls for this promise at once. Repeat the call.", Cause: cause,
	}
}
