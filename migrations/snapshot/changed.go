package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const (
	codeUndefinedFunction = "42883" // undefined_function
	codeInvalidFunction   = "42P13" // invalid_function_definition: for example another return type
)

// A change is a file of migrations/functions that changes its function.
type change struct{ function, text string }

// A function is a row of pg_proc.
type function struct {
	OID        uint32
	Name       string
	Signature  string
	Definition string
	Version    string // the row's place in pg_proc: each CREATE OR REPLACE makes another version
}

// functions returns the functions of the schema.
func functions(ctx context.Context, tx pgx.Tx) (map[uint32]function, error) {
	rows, err := tx.Query(ctx, `
		SELECT oid, proname::TEXT, oid::REGPROCEDURE::TEXT, pg_get_functiondef(oid) || COALESCE(proacl::TEXT, ''), ctid::TEXT
		FROM pg_proc WHERE pronamespace = current_schema()::REGNAMESPACE`)
	if err != nil {
		return nil, err
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[function])
	if err != nil {
		return nil, err
	}
	byOID := map[uint32]function{}
	for _, f := range all {
		byOID[f.OID] = f
	}
	return byOID, nil
}

// changed applies the files of folder to the schema that the migrations make. It
// returns the files that change their function, in the order in which Postgres
// accepts them: a function in SQL needs those that it calls. It refuses a folder
// that does not have exactly the functions of the schema and new ones.
func changed(ctx context.Context, tx pgx.Tx, folder fs.FS) (changes []change, err error) {
	migrated, err := functions(ctx, tx)
	if err != nil {
		return nil, err
	}
	files, err := fs.Glob(folder, "*.sql")
	if err != nil {
		return nil, err
	}
	defined := map[uint32]bool{}
	for len(files) > 0 {
		var later []string
		for _, file := range files {
			text, err := fs.ReadFile(folder, file)
			if err != nil {
				return nil, err
			}
			name := strings.TrimSuffix(file, ".sql")
			made, err := define(ctx, tx, name, string(text), migrated)
			if isCode(err, codeUndefinedFunction) && len(later) < len(files)-1 {
				later = append(later, file)
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("%s: %w", file, err)
			}
			differs := false
			for _, f := range made {
				defined[f.OID] = true
				differs = differs || f.Definition != migrated[f.OID].Definition
			}
			if differs {
				changes = append(changes, change{name, string(text)})
			}
		}
		files = later
	}
	for _, f := range migrated {
		if !defined[f.OID] {
			return nil, fmt.Errorf("no file defines the function %s of the schema: add one, or drop the function in the author's part of the migration",
				f.Signature)
		}
	}
	return changes, nil
}

// define executes the file of the function called name, and returns the functions
// that it defines. It refuses other functions and a changed signature.
func define(ctx context.Context, tx pgx.Tx, name, text string, migrated map[uint32]function) (made []function, err error) {
	former, err := functions(ctx, tx)
	if err != nil {
		return nil, err
	}
	err = pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error { return exec(ctx, tx, text) }) // a savepoint
	if isCode(err, codeInvalidFunction) {
		return nil, fmt.Errorf("%w: a changed signature needs statements by hand, because a call of the previous release may use the former one", err)
	}
	if err != nil {
		return nil, err
	}
	current, err := functions(ctx, tx)
	if err != nil {
		return nil, err
	}
	known := false // the schema had a function of this name
	for _, f := range migrated {
		known = known || f.Name == name
	}
	for _, f := range current {
		if f.Version == former[f.OID].Version {
			continue
		}
		if f.Name != name {
			return nil, fmt.Errorf("it defines %s: a file has the name of its function", f.Signature)
		}
		if _, replaced := migrated[f.OID]; known && !replaced {
			return nil, fmt.Errorf("it adds %s beside the former signature: a changed signature needs statements by hand", f.Signature)
		}
		made = append(made, f)
	}
	if len(made) == 0 {
		return nil, errors.New("it defines no function")
	}
	return made, nil
}

func isCode(err error, code string) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	return ok && pg.Code == code
}
