package database

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// ConnectPatience is the time for which a deployment waits for a database that is
// still starting.
const ConnectPatience = time.Minute

// The pause between two tries doubles, from firstPause up to longestPause.
const firstPause, longestPause = 250 * time.Millisecond, 5 * time.Second

// Retry calls try until it succeeds. It repeats try only if try failed to connect and
// the cause may be temporary: a refused or silent connection, a name that does not
// resolve, a server that is starting or stopping, or a server without free
// connections. It returns every other error at once: a wrong password, an unknown
// database, an untrusted certificate, or an error after the connection was made.
//
// Retry gives up after patience or when ctx ends, and returns try's last error. It
// logs each failed try that it repeats, with the cause, which contains no secret.
func Retry(ctx context.Context, patience time.Duration, log *slog.Logger, try func(context.Context) error) error {
	end := time.Now().Add(patience)
	for n, pause := 1, firstPause; ; n, pause = n+1, min(2*pause, longestPause) {
		err := try(ctx)
		if err == nil || !temporary(err) {
			return err
		}
		left := time.Until(end)
		if left <= 0 || ctx.Err() != nil {
			return fmt.Errorf("no connection to the database after %d tries: %w", n, err)
		}
		pause = min(pause, left)
		log.WarnContext(ctx, "cannot connect to the database yet", "try", n, "nextTryIn", pause.String(), "cause", err.Error())
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// temporary reports whether err is a failure to connect whose cause may be temporary.
func temporary(err error) bool {
	var connect *pgconn.ConnectError
	var unprepared notConnected
	if !errors.As(err, &connect) && !errors.As(err, &unprepared) {
		return false
	}
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch pg.Code {
		case "57P01", "57P02", "57P03": // admin_shutdown, crash_shutdown, cannot_connect_now
			return true
		}
		return len(pg.Code) == 5 && (pg.Code[:2] == "08" || pg.Code[:2] == "53") // connection, resources
	}
	if _, untrusted := errors.AsType[*tls.CertificateVerificationError](err); untrusted {
		return false
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && (op.Op == "remote error" || op.Op == "local error") { // TLS alerts
		return false
	}
	var network net.Error
	return errors.As(err, &network) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}
