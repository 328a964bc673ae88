package repository

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/flovyn/promises/shared/promise"
)

// codeRaceLost is the SQLSTATE that promise_race_lost raises.
const codeRaceLost = "PR001"

// lostRace reports whether err means that another transaction changed rows after
// the statement's snapshot. promiseID is the promise that it changed, or empty if
// err does not name one.
func lostRace(err error) (promiseID string, lost bool) {
	if errors.Is(err, errRaceLost) {
		return "", true
	}
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return "", false
	}
	switch pg.Code {
	case codeRaceLost:
		return pg.Detail, true
	case "40001", "40P01": // serialization_failure, deadlock_detected
		return "", true
	case "23505": // unique_violation: a concurrent create took the name; an adopted database may have another name for the constraint
		return "", pg.TableName == "promise"
	case "23503": // foreign_key_violation
		// A key's promise was deleted meanwhile; a workflow execution's tenant was; or
		// the tenant got a workflow execution while it was being deleted; the tenant of a
		// destination or a source, or a delivery's destination, was deleted, or got one
		// meanwhile.
		return "", pg.ConstraintName == "idempotency_key_promise_id_fkey" ||
			slices.Contains([]string{"workflow_execution", "destination", "delivery", "source"}, pg.TableName)
	}
	return "", false
}

// interpret translates an error of Postgres or pgx into one of the domain. It
// returns nil and errors of the domain unchanged.
func interpret(op string, err error) error {
	if known := (*promise.Error)(nil); err == nil || errors.As(err, &known) {
		return err
	}
	if errors.Is(err, pgx.ErrNoRows) {
		return promise.ErrNotFound
	}
	cause := fmt.Errorf("repository: %s: %w", op, err)
	if unavailable(err) {
		return &promise.Error{
			Code:   promise.CodeUnavailable,
			Detail: "The database is unavailable. Repeat the call.",
			Cause:  cause,
		}
	}
	return cause
}

// unavailable reports whether err is due to the database's state and not to the
// statement, so that the same call may succeed later.
func unavailable(err error) bool {
	var connect *pgconn.ConnectError
	if errors.As(err, &connect) { // there was no connection, so the statement did not run
		return true
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		if pg.SeverityUnlocalized == "FATAL" || pg.SeverityUnlocalized == "PANIC" { // the session ended, not only the statement
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
		Code: promise.CodeKeyConflict, Detail: "The idempotency key belongs to another promise: existingPromiseId. Send another key.",
		ExistingPromiseID: holder,
	}
}

// createConflict returns the error for a promise that exists already and differs from
// the one that the call creates.
func createConflict(existing uuid.UUID, differs string) error {
	return &promise.Error{
		Code:              promise.CodeCreateConflict,
		Detail:            "The promise exists already, with another " + differs + ". Send the same " + differs + " or another name.",
		ExistingPromiseID: existing,
	}
}

// contention returns the error for a call that lost a race in each of its attempts.
func contention(cause error) error {
	return &promise.Error{
		Code: promise.CodeUnavailable, Detail: "Too many concurrent calls change the same rows. Repeat the call.", Cause: cause,
	}
}
