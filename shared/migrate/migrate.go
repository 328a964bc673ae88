// Package migrate brings a database to the schema of migrations/.
package migrate

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"github.com/flovyn/promises/migrations"
)

// Result says what a call of Run found and did.
type Result struct {
	// Version is the schema's version now: the number of the last file.
	Version int64 `json:"version"`

	// Applied names the files that this call applied, in order. It is never nil.
	Applied []string `json:"applied"`
}

// Run applies the files that the database does not have yet, each in one
// transaction of its own. Calling it again does nothing; of several calls at
// once, on a database in whatever state, one does the work and the others wait
// for it, at most ten minutes, and then find nothing to do.
//
// The files go into the schema that databaseURL's search_path names first
// ("public", if it has none), which must exist; schemas do not wait for one
// another. databaseURL must lead to the database itself: the lock that makes
// the others wait belongs to the session, and behind RDS Proxy or another
// pooler a session is not ours to keep.
//
// A failed file leaves nothing of itself: the Result names the files that were
// applied before it, the error names the file, and the next Run starts with
// that one. The same is so when ctx ends. No error holds the password. log is
// told of each file and may be nil.
func Run(ctx context.Context, databaseURL string, log *slog.Logger) (Result, error) {
	return run(ctx, databaseURL, migrations.FS, log)
}

func run(ctx context.Context, databaseURL string, files fs.FS, log *slog.Logger) (_ Result, err error) {
	result := Result{Applied: []string{}}
	conf, err := pgx.ParseConfig(databaseURL)
	if err != nil {
		// pgx's own words may quote the URL, and with it the password.
		return result, errors.New("migrate: the database URL is neither a postgres:// URL nor keyword=value pairs that Postgres knows")
	}
	// Each statement runs once: preparing it would be a round trip for nothing.
	conf.DefaultQueryExecMode = pgx.QueryExecModeExec
	db := stdlib.OpenDB(*conf)
	defer func() { _ = db.Close() }()

	options := []goose.ProviderOption{
		goose.WithSessionLocker(schemaLock{wait: lockWait}),
		goose.WithDisableGlobalRegistry(true),
		goose.WithSlog(slog.New(slog.DiscardHandler)),
	}
	provider, err := goose.NewProvider(goose.DialectPostgres, db, files, options...)
	if err != nil {
		return result, fmt.Errorf("migrate: read the files: %w", err)
	}
	done, err := provider.Up(ctx)
	if partial, ok := errors.AsType[*goose.PartialError](err); ok {
		done = partial.Applied
		err = fmt.Errorf("%s: %w", path.Base(partial.Failed.Source.Path), partial.Err)
	}
	for _, file := range done {
		name := path.Base(file.Source.Path)
		result.Applied = append(result.Applied, name)
		result.Version = file.Source.Version
		if log != nil {
			log.InfoContext(ctx, "migration applied", "file", name, "duration", file.Duration.Round(time.Millisecond).String())
		}
	}
	if err != nil {
		return result, fmt.Errorf("migrate: %w", err)
	}
	if len(done) == 0 {
		if result.Version, err = provider.GetDBVersion(ctx); err != nil {
			return result, fmt.Errorf("migrate: read the version: %w", err)
		}
	}
	return result, nil
}

const (
	lockWait          = 10 * time.Minute
	codeLockTimeout   = "55P03" // lock_not_available
	lockNamespaceText = "github.com/flovyn/promises/shared/migrate:"
)

// schemaLock is a goose session locker on the schema that the session writes
// to. Unlike goose's own, it waits in the database: who waits goes on in the
// instant in which the lock is free, and not at the next look at it.
type schemaLock struct{ wait time.Duration }

func (l schemaLock) SessionLock(ctx context.Context, conn *sql.Conn) error {
	var schema sql.NullString
	if err := conn.QueryRowContext(ctx, "SELECT current_schema()").Scan(&schema); err != nil {
		return err
	}
	if !schema.Valid {
		return errors.New("the search_path names no schema that exists")
	}
	if _, err := conn.ExecContext(ctx, fmt.Sprintf("SET lock_timeout = %d", l.wait.Milliseconds())); err != nil {
		return err
	}
	_, err := conn.ExecContext(ctx, "SELECT pg_advisory_lock(hashtextextended($1, 0))", lockNamespaceText+schema.String)
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok && pg.Code == codeLockTimeout {
		return fmt.Errorf("another migration of the schema %q has been running for more than %v", schema.String, l.wait)
	}
	if err != nil {
		return fmt.Errorf("wait for another migration of the schema %q: %w", schema.String, err)
	}
	_, err = conn.ExecContext(ctx, "RESET lock_timeout")
	return err
}

// SessionUnlock leaves no error: the session ends with the call of Run, and the
// lock with the session.
func (schemaLock) SessionUnlock(ctx context.Context, conn *sql.Conn) error {
	_, _ = conn.ExecContext(ctx, "SELECT pg_advisory_unlock_all()")
	return nil
}
