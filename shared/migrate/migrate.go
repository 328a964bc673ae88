// Package migrate brings a database to the schema of migrations/.
package migrate

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path"
	"strings"
	"sync/atomic"
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

// Owner is the role that owns everything where roles are asked for.
const Owner = "promises_owner"

// Options say what else a Run does. The zero value is good.
type Options struct {
	// Roles has the roles of migrations/access made by the user who connects, who
	// may make roles; has everything done and owned by Owner; and gives the
	// other roles exactly what they need, in the end.
	Roles bool

	// Log is told of each file. It may be nil.
	Log *slog.Logger
}

// Run applies the files that the database does not have yet, each in one
// transaction of its own. Calling it again does nothing; of several calls at
// once, on a database in whatever state, one does the work and the others wait
// for it, at most ten minutes, and then find nothing to do.
//
// The files go into the schema that the search_path of conf names first
// ("public", if it has none), which must exist; schemas do not wait for one
// another. conf must lead to the database itself: the lock that makes
// the others wait belongs to the session, and behind RDS Proxy or another
// pooler a session is not ours to keep.
//
// A database that has the tables of the time before the decision, but no
// history here, is adopted. One whose tables are others is refused with every
// difference named, before anything is changed.
//
// A failed file leaves nothing of itself: the Result names the files that were
// applied before it, the error names the file, and the next Run starts with
// that one. The same is so when ctx ends, when the process is killed or the
// server stops; only that the Result's version is then 0: it can no longer be
// read. A file that does not get each of its tables within a second (00009: ten),
// because others use them, fails in that way: repeat the call. No error holds the password.
//
// A database that has files which are not known here, because a later release
// has migrated it, is left as it is, its roles too: so a deployment can be rolled
// back.
func Run(ctx context.Context, conf *pgx.ConnConfig, o Options) (Result, error) {
	return run(ctx, conf, migrations.FS, o)
}

// historyTable is where goose keeps which files were applied: a name of our own,
// since others use goose, too.
const historyTable = "promises_schema_version"

func run(ctx context.Context, conf *pgx.ConnConfig, files fs.FS, o Options) (_ Result, err error) {
	result := Result{Applied: []string{}}
	db, err := open(ctx, conf)
	if err != nil {
		return result, err
	}
	defer func() { _ = db.Close() }()
	last, err := lastVersion(files)
	if err != nil {
		return result, fmt.Errorf("migrate: read the files: %w", err)
	}
	err = withConn(ctx, db, func(conn *pgx.Conn) error {
		if result.Version, err = currentVersion(ctx, conn); err != nil || result.Version > last {
			return err
		}
		if o.Roles {
			if err := become(ctx, conn); err != nil {
				return err
			}
		}
		if result.Version >= decision {
			return nil
		}
		return checkLegacy(ctx, conn)
	})
	if err != nil {
		return result, fmt.Errorf("migrate: %w", err)
	}
	if result.Version > last {
		if o.Log != nil {
			o.Log.WarnContext(ctx, "the database is of a later release", "version", result.Version, "known", last)
		}
		return result, nil
	}

	provider, err := goose.NewProvider(goose.DialectPostgres, db, files, goose.WithTableName(historyTable),
		goose.WithDisableGlobalRegistry(true), goose.WithSlog(slog.New(slog.DiscardHandler)))
	if err != nil {
		return result, fmt.Errorf("migrate: read the files: %w", err)
	}
	done, err := provider.Up(ctx)
	if partial, ok := errors.AsType[*goose.PartialError](err); ok {
		done = partial.Applied
		err = fmt.Errorf("%s: %w", path.Base(partial.Failed.Source.Path), explain(ctx, db, partial.Err))
	}
	for _, file := range done {
		name := path.Base(file.Source.Path)
		result.Applied = append(result.Applied, name)
		if o.Log != nil {
			o.Log.InfoContext(ctx, "migration applied", "file", name, "duration", file.Duration.Round(time.Millisecond).String())
		}
	}
	var versionErr error
	result.Version, versionErr = provider.GetDBVersion(ctx)
	if err == nil {
		err = versionErr
	}
	if err == nil && o.Roles {
		err = withConn(ctx, db, func(conn *pgx.Conn) error { return grant(ctx, conn) })
	}
	if err != nil {
		return result, fmt.Errorf("migrate: %w", err)
	}
	return result, nil
}

// Locked calls f in a session that holds the lock of Run, so that of several
// calls at once each finds what the one before it did. It does not call f if the
// database is of a later release. conf is that of Run.
func Locked(ctx context.Context, conf *pgx.ConnConfig, f func(*pgx.Conn) error) error {
	last, err := lastVersion(migrations.FS)
	if err != nil {
		return fmt.Errorf("migrate: read the files: %w", err)
	}
	db, err := open(ctx, conf)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	return withConn(ctx, db, func(conn *pgx.Conn) error {
		version, err := currentVersion(ctx, conn)
		if err != nil || version > last {
			return err
		}
		return f(conn)
	})
}

// lastVersion is the number of the last file.
func lastVersion(files fs.FS) (last int64, err error) {
	names, err := fs.Glob(files, "*.sql")
	for _, name := range names {
		var version int64
		if version, err = goose.NumericComponent(name); err != nil {
			return 0, err
		}
		last = max(last, version)
	}
	return last, err
}

// become makes the roles, and the session the owner's.
func become(ctx context.Context, conn *pgx.Conn) error {
	if _, err := conn.Exec(ctx, migrations.Roles, pgx.QueryExecModeSimpleProtocol); err != nil {
		return fmt.Errorf("make the roles: %w", err)
	}
	if _, err := conn.Exec(ctx, "SET ROLE "+Owner); err != nil {
		return fmt.Errorf("become %s: %w", Owner, err)
	}
	return nil
}

// grant gives the roles what they need: all of it, or none.
func grant(ctx context.Context, conn *pgx.Conn) error {
	// Several statements of the simple protocol are one transaction.
	if _, err := conn.Exec(ctx, migrations.Grants, pgx.QueryExecModeSimpleProtocol); err != nil {
		return fmt.Errorf("grant the roles what they need: %w", err)
	}
	return nil
}

// open opens the one session of a migration, and locks its schema.
func open(ctx context.Context, conf *pgx.ConnConfig) (*sql.DB, error) {
	conf = conf.Copy()
	// Each statement runs once: preparing it would be a round trip for nothing.
	conf.DefaultQueryExecMode = pgx.QueryExecModeExec
	db := sql.OpenDB(&oneSession{Connector: stdlib.GetConnector(*conf)})
	db.SetMaxOpenConns(1)
	if err := lockSchema(ctx, db); err != nil {
		_ = db.Close()
		return nil, fmt.Errorf("migrate: %w", err)
	}
	return db, nil
}

func withConn(ctx context.Context, db *sql.DB, f func(*pgx.Conn) error) error {
	c, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	return c.Raw(func(driverConn any) error { return f(driverConn.(*stdlib.Conn).Conn()) })
}

// decision is the version from which on the tables are no longer those of old.
const decision = 2

// currentVersion is 0 for a database without a history.
func currentVersion(ctx context.Context, conn *pgx.Conn) (version int64, err error) {
	var known bool
	err = conn.QueryRow(ctx, "SELECT to_regclass(quote_ident(current_schema()) || '."+historyTable+"') IS NOT NULL").Scan(&known)
	if err != nil || !known {
		return 0, err
	}
	err = conn.QueryRow(ctx, "SELECT COALESCE(MAX(version_id), 0) FROM "+historyTable+" WHERE is_applied").Scan(&version)
	return version, err
}

// explain says of a file's failure what the operator can do about it.
func explain(ctx context.Context, db *sql.DB, err error) error {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	switch {
	case !ok:
		return err
	case pg.Code == codeLockTimeout || pg.Code == codeDeadlock:
		return fmt.Errorf("the tables are in use by others: nothing of this file was changed, repeat the call: %w", err)
	case pg.ConstraintName == "promise_workflow_execution_id_name_key":
		return refusal(ctx, db, err, "several promises have one name", duplicatesSQL)
	case pg.ConstraintName == "promise_times_finite":
		return refusal(ctx, db, err, "promises with an infinite time, set it or make it NULL: ids", infiniteSQL)
	case pg.Detail != "":
		return fmt.Errorf("%w: %s", err, pg.Detail)
	}
	return err
}

// refusal names the rows on which a file failed.
func refusal(ctx context.Context, db *sql.DB, err error, what, rowsSQL string) error {
	var rows []string
	if lookErr := withConn(ctx, db, func(conn *pgx.Conn) (err error) {
		rows, err = column(ctx, conn, rowsSQL)
		return err
	}); lookErr != nil {
		return errors.Join(err, lookErr)
	}
	return fmt.Errorf("refused, with nothing of this file changed: %s: %s: %w", what, strings.Join(rows, "; "), err)
}

// oneSession connects once: the lock is the session's, and a migration that
// went on in another would go on without it.
type oneSession struct {
	driver.Connector
	used atomic.Bool
}

func (c *oneSession) Connect(ctx context.Context) (driver.Conn, error) {
	if c.used.Swap(true) {
		return nil, errors.New("the connection to the database was lost")
	}
	return c.Connector.Connect(ctx)
}

const (
	lockWait        = 10 * time.Minute
	lockPrefix      = "github.com/flovyn/promises/shared/migrate:"
	codeLockTimeout = "55P03" // lock_not_available
	codeDeadlock    = "40P01" // deadlock_detected
)

// lockSchema locks the schema that the session writes to, until the session
// ends. Goose has a lock of its own, which does not serve: goose looks at the
// database and makes its table before it takes it, and waits by looking again
// after whole seconds.
func lockSchema(ctx context.Context, db *sql.DB) error {
	var schema sql.NullString
	if err := db.QueryRowContext(ctx, "SELECT current_schema()").Scan(&schema); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	if !schema.Valid {
		return errors.New("the search_path names no schema that exists")
	}
	if _, err := db.ExecContext(ctx, fmt.Sprintf("SET lock_timeout = %d", lockWait.Milliseconds())); err != nil {
		return fmt.Errorf("lock the schema %q: %w", schema.String, err)
	}
	_, err := db.ExecContext(ctx, "SELECT pg_advisory_lock(hashtextextended($1, 0))", lockPrefix+schema.String)
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok && pg.Code == codeLockTimeout {
		return fmt.Errorf("another migration of the schema %q has been running for more than %v", schema.String, lockWait)
	}
	if err == nil {
		_, err = db.ExecContext(ctx, "RESET lock_timeout")
	}
	if err != nil {
		return fmt.Errorf("lock the schema %q: %w", schema.String, err)
	}
	return nil
}
