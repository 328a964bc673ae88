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

// A Rehearsal reports the state that a Run would find and the changes that it would make.
type Rehearsal struct {
	Version int64  `json:"version"` // the schema's version now
	Files   []Step `json:"files"`   // the files that a Run would apply, in order; never nil

	// Refused is the error that a Run would return; empty if it would succeed.
	Refused string `json:"refused,omitempty"`

	// Before and After count each table's rows. A missing table counts as empty.
	Before map[string]int64 `json:"before"`
	After  map[string]int64 `json:"after,omitempty"`

	// KeysDropped counts the deleted idempotency keys: those without a promise, and
	// expired ones whose text is the legacy id of another promise. KeysAdded counts
	// the legacy ids that become idempotency keys.
	KeysDropped int64 `json:"keysDropped"`
	KeysAdded   int64 `json:"keysAdded"`

	// Triggers lists the triggers on the tables that the migrations did not create.
	// A Run leaves them unchanged. A trigger that treats an id as text must be
	// changed together with it.
	Triggers []string `json:"triggers,omitempty"`
}

// A Step reports one file of a Rehearsal.
type Step struct {
	File       string   `json:"file"`
	DurationMs float64  `json:"durationMs"` // of this file alone; a Run keeps the file's locks for that long
	Locks      []string `json:"locks"`      // of this file alone, "table: mode": the locks that block writers or readers
}

// Rehearse applies the files to the real data in one transaction, reports each
// step and rolls everything back. Until then it keeps the locks of all files
// together. If the database is large, rehearse on a copy or without traffic.
// Rehearse can be repeated. Its errors are Run's, except that a refusal is
// returned in Rehearsal.Refused.
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
		if r.Version < uuidVersion {
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
		// Postgres reads goose's marks as comments, and no file has a Down part: the whole file can be executed.
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
		for _, statement := range done {
			if version == uuidVersion && statement.CommandTag.Delete() { // no later file deletes idempotency keys
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
