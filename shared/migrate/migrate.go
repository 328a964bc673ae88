// Package migrate applies the files of migrations/ to a database.
package migrate

import (
	"cmp"
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

// A Result reports the version that a call of Run reached and the files that it applied.
type Result struct {
	// Version is the number of the last file that the schema has.
	Version int64 `json:"version"`

	// Applied lists the files that this call applied, in order. It is never nil.
	Applied []string `json:"applied"`
}

// Owner is the role that owns every object of the schema after a Run with Options.Roles.
const Owner = "promises_owner"

// Options are the optional parts of a Run. The zero value is valid.
type Options struct {
	// Roles makes Run create the roles of migrations/access first. The user who
	// connects must have the right to create roles. Owner then applies the files
	// and owns every object. At the end the other roles get exactly the grants of
	// migrations/access.
	Roles bool

	// Log gets a line for each applied file. It may be nil.
	Log *slog.Logger
}

// Run applies the files that the database does not have yet, each in its own
// transaction. A repeated call does nothing. If several calls run at once, one
// of them applies the files. The others wait for it, at most ten minutes, and
// then find nothing to do.
//
// The files go into the first schema of conf's search_path ("public" by
// default), which must exist. Runs in different schemas do not wait for each
// other. conf must connect to the database itself: the lock between calls
// belongs to the session, and RDS Proxy or another pooler would share the
// session with other clients.
//
// Run adopts a database that has the legacy tables (00001) but no history table.
// If the tables differ from the legacy ones, Run changes nothing and returns an
// error that names every difference.
//
// A failed file changes nothing. The Result lists the files that were applied
// before it, the error names the failed file, and the next Run starts with it.
// The same holds if ctx ends, the process is killed or the server stops; the
// Result's version is then 0, because Run can no longer read it. A file waits at
// most one second for each table lock (00009: ten seconds) and then fails;
// repeat the call. No error contains the password.
//
// If a later release has migrated the database, Run changes neither its schema
// nor its roles. A deployment can therefore be rolled back.
func Run(ctx context.Context, conf *pgx.ConnConfig, o Options) (Result, error) {
	return run(ctx, conf, migrations.FS, o)
}

// historyTable is goose's table of applied files. It has a name of its own,
// because other applications in the same schema may use goose too.
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
		if result.Version >= uuidVersion {
			return nil
		}
		return checkLegacy(ctx, conn)
	})
	if err != nil {
		return result, fmt.Errorf("migrate: %w", err)
	}
	if result.Version > last {
		if o.Log != nil {
			o.Log.WarnContext(ctx, "a later release migrated this database: nothing changed", "version", result.Version, "known", last)
		}
		return result, nil
	}

	err = result.apply(ctx, db, files, o.Log)
	if err == nil && o.Roles {
		err = withConn(ctx, db, func(conn *pgx.Conn) error { return grant(ctx, conn) })
	}
	if err != nil {
		return result, fmt.Errorf("migrate: %w", err)
	}
	return result, nil
}

// apply applies the missing files. It records them and the version that the schema
// has afterwards.
func (r *Result) apply(ctx context.Context, db *sql.DB, files fs.FS, log *slog.Logger) error {
	provider, err := goose.NewProvider(goose.DialectPostgres, db, files, goose.WithTableName(historyTable),
		goose.WithDisableGlobalRegistry(true), goose.WithSlog(slog.New(slog.DiscardHandler)))
	if err != nil {
		return fmt.Errorf("read the files: %w", err)
	}
	done, err := provider.Up(ctx)
	if partial, ok := errors.AsType[*goose.PartialError](err); ok {
		done = partial.Applied
		err = fmt.Errorf("%s: %w", path.Base(partial.Failed.Source.Path), explain(ctx, db, partial.Err))
	}
	for _, file := range done {
		name := path.Base(file.Source.Path)
		r.Applied = append(r.Applied, name)
		if log != nil {
			log.InfoContext(ctx, "migration applied", "file", name, "duration", file.Duration.Round(time.Millisecond).String())
		}
	}
	var versionErr error
	r.Version, versionErr = provider.GetDBVersion(ctx)
	return cmp.Or(err, versionErr)
}

// WithLock calls f in a session that has Run's lock, so that concurrent calls run
// one after another. If a later release has migrated the database, WithLock returns
// nil and does not call f. conf has the same requirements as in Run.
func WithLock(ctx context.Context, conf *pgx.ConnConfig, f func(*pgx.Conn) error) error {
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

// lastVersion returns the number of the last file.
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

// become creates the roles and sets the session's role to Owner.
func become(ctx context.Context, conn *pgx.Conn) error {
	if _, err := conn.Exec(ctx, migrations.Roles, pgx.QueryExecModeSimpleProtocol); err != nil {
		return fmt.Errorf("create the roles: %w", err)
	}
	if _, err := conn.Exec(ctx, "SET ROLE "+Owner); err != nil {
		return fmt.Errorf("set role %s: %w", Owner, err)
	}
	return nil
}

// grant replaces the roles' grants in one transaction.
func grant(ctx context.Context, conn *pgx.Conn) error {
	// Postgres runs the statements of one simple query in one transaction.
	if _, err := conn.Exec(ctx, migrations.Grants, pgx.QueryExecModeSimpleProtocol); err != nil {
		return fmt.Errorf("grant the roles their privileges: %w", err)
	}
	return nil
}

// open opens the session of a migration and locks its schema.
func open(ctx context.Context, conf *pgx.ConnConfig) (*sql.DB, error) {
	conf = conf.Copy()
	// Each statement runs once, so that preparing it would only add a round trip.
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

// uuidVersion is the version of 00002, which replaces the legacy tables' text ids by UUIDs.
const uuidVersion = 2

// currentVersion returns the schema's version, or 0 if there is no history table.
func currentVersion(ctx context.Context, conn *pgx.Conn) (version int64, err error) {
	var known bool
	err = conn.QueryRow(ctx, "SELECT to_regclass(quote_ident(current_schema()) || '."+historyTable+"') IS NOT NULL").Scan(&known)
	if err != nil || !known {
		return 0, err
	}
	err = conn.QueryRow(ctx, "SELECT COALESCE(MAX(version_id), 0) FROM "+historyTable+" WHERE is_applied").Scan(&version)
	return version, err
}

// explain adds the operator's next step to the error of a failed file.
func explain(ctx context.Context, db *sql.DB, err error) error {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	switch {
	case !ok:
		return err
	case pg.Code == codeLockTimeout || pg.Code == codeDeadlock:
		return fmt.Errorf("the tables are in use by other transactions: this file changed nothing, repeat the call: %w", err)
	case pg.ConstraintName == "promise_workflow_execution_id_name_key":
		return refusal(ctx, db, err, "several promises of a workflow have the same name, rename all but one", duplicatesSQL)
	case pg.ConstraintName == "promise_times_finite":
		return refusal(ctx, db, err, "promises have an infinite time, set a finite one or NULL: ids", infiniteSQL)
	case pg.Detail != "":
		return fmt.Errorf("%w: %s", err, pg.Detail)
	}
	return err
}

// refusal adds the rows on which a file failed to its error.
func refusal(ctx context.Context, db *sql.DB, err error, what, rowsSQL string) error {
	var rows []string
	if rowsErr := withConn(ctx, db, func(conn *pgx.Conn) (err error) {
		rows, err = column(ctx, conn, rowsSQL)
		return err
	}); rowsErr != nil {
		return errors.Join(err, rowsErr)
	}
	return fmt.Errorf("refused, this file changed nothing: %s: %s: %w", what, strings.Join(rows, "; "), err)
}

// oneSession is a connector that connects once. The lock belongs to the session:
// in a second session the migration would continue without the lock.
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

// lockSchema locks the session's current schema until the session ends. Goose's
// own lock does not suffice: goose reads the history and creates its table before
// it takes the lock, and polls for the lock at intervals of whole seconds.
func lockSchema(ctx context.Context, db *sql.DB) error {
	var schema sql.NullString
	if err := db.QueryRowContext(ctx, "SELECT current_schema()").Scan(&schema); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	if !schema.Valid {
		return errors.New("search_path names no existing schema: create one of its schemas first")
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
