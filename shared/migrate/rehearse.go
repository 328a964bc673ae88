package migrate

import (
	"context"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/flovyn/promises/migrations"
)

// Rehearsal says what a Run would find and do.
type Rehearsal struct {
	Version int64  `json:"version"` // that the schema has now
	Files   []Step `json:"files"`   // that a Run would apply, in order; never nil

	// Refused is why a Run would fail, in the words of its error; empty if it
	// would not.
	Refused string `json:"refused,omitempty"`

	// Before and After count each table's rows. A table that is not there has
	// none.
	Before map[string]int64 `json:"before"`
	After  map[string]int64 `json:"after,omitempty"`

	// KeysDropped are the idempotency keys without a promise, and free ones that
	// make room; KeysAdded are the composite ids that go on as keys.
	KeysDropped int64 `json:"keysDropped"`
	KeysAdded   int64 `json:"keysAdded"`

	// Triggers are those of others on the tables, which stay as they are: one
	// that takes an id for text must be changed with it.
	Triggers []string `json:"triggers,omitempty"`
}

// Step is one file, applied and rolled back.
type Step struct {
	File       string   `json:"file"`
	DurationMs float64  `json:"durationMs"` // of this file alone: how long a Run would hold its locks
	Locks      []string `json:"locks"`      // of this file alone: "table: mode", if it keeps writers or readers out
}

// Rehearse does all that Run would do, on the real data, in one transaction,
// reports it and rolls it back. Meanwhile it holds the locks of all the files
// together, as long as it takes: on a large database rehearse on a copy, or
// when nobody minds. It can be repeated, and fails as Run does, except that
// what Run would refuse is in the Rehearsal.
func Rehearse(ctx context.Context, conf *pgx.ConnConfig) (Rehearsal, error) {
	r := Rehearsal{Files: []Step{}}
	db, err := open(ctx, conf)
	if err != nil {
		return r, err
	}
	defer func() { _ = db.Close() }()
	var refused error
	err = withConn(ctx, db, func(conn *pgx.Conn) error {
		if r.Version, err = currentVersion(ctx, conn); err != nil {
			return err
		}
		if r.Version < decision {
			if refused = checkLegacy(ctx, conn); refused != nil {
				return nil
			}
		}
		tx, err := conn.Begin(ctx)
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
		refused, err = r.apply(ctx, tx)
		return err
	})
	if err != nil {
		return r, fmt.Errorf("migrate: rehearse: %w", err)
	}
	if refused != nil {
		r.Refused = explain(ctx, db, refused).Error()
	}
	return r, nil
}

func (r *Rehearsal) apply(ctx context.Context, tx pgx.Tx) (refused, err error) {
	if _, err := tx.Exec(ctx, "SET LOCAL row_security = off; SET LOCAL statement_timeout = 0", pgx.QueryExecModeSimpleProtocol); err != nil {
		return nil, err
	}
	if r.Before, err = countRows(ctx, tx); err != nil {
		return nil, err
	}
	if r.Triggers, err = column(ctx, tx.Conn(), triggersSQL); err != nil {
		return nil, err
	}
	files, err := fs.Glob(migrations.FS, "*.sql")
	if err != nil {
		return nil, err
	}
	var held []lock
	for _, file := range files {
		version, err := strconv.ParseInt(strings.SplitN(path.Base(file), "_", 2)[0], 10, 64)
		if err != nil {
			return nil, err
		}
		if version <= r.Version {
			continue
		}
		text, err := fs.ReadFile(migrations.FS, file)
		if err != nil {
			return nil, err
		}
		tables, err := tableNames(ctx, tx)
		if err != nil {
			return nil, err
		}
		begun := time.Now()
		// goose's marks are comments to Postgres, and no file has a way down: the file is a statement list.
		done, err := tx.Conn().PgConn().Exec(ctx, string(text)).ReadAll()
		if err != nil {
			return fmt.Errorf("%s: %w", file, err), nil
		}
		step := Step{File: file, DurationMs: float64(time.Since(begun).Microseconds()) / 1000}
		before := held
		if held, err = strongLocks(ctx, tx); err != nil {
			return nil, err
		}
		step.Locks = locksOf(file, tables, before, held)
		for _, statement := range done { // keys are all that is ever deleted
			if statement.CommandTag.Delete() {
				r.KeysDropped += statement.CommandTag.RowsAffected()
			}
		}
		r.Files = append(r.Files, step)
	}
	if r.After, err = countRows(ctx, tx); err != nil {
		return nil, err
	}
	r.KeysAdded = r.After["idempotency_key"] - r.Before["idempotency_key"] + r.KeysDropped
	return nil, nil
}

func countRows(ctx context.Context, tx pgx.Tx) (map[string]int64, error) {
	rows := map[string]int64{}
	for _, table := range legacy {
		rows[table.name] = 0
		n, err := count(ctx, tx, "SELECT COUNT(*) FROM pg_class WHERE oid = to_regclass($1)", table.name)
		if err != nil {
			return nil, err
		}
		if n > 0 {
			if rows[table.name], err = count(ctx, tx, "SELECT COUNT(*) FROM "+table.name); err != nil {
				return nil, err
			}
		}
	}
	return rows, nil
}

func count(ctx context.Context, tx pgx.Tx, sql string, args ...any) (n int64, err error) {
	err = tx.QueryRow(ctx, sql, args...).Scan(&n)
	return n, err
}
