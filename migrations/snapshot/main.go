// Command snapshot writes a migration from the database functions of
// migrations/functions that differ from those that the migrations make.
//
//	go run ./migrations/snapshot NAME
//
// It writes the next file, or the generated part of the newest file if that is
// called NAME: everything from the marker on. The part above the marker is the
// author's. It holds, for example, the DROP FUNCTION of a former signature.
//
// The command applies everything to a temporary Postgres, or in DATABASE_URL, in
// one transaction that it rolls back.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5"

	"github.com/flovyn/promises/shared/localpg"
)

// marker begins the generated part of a migration.
const marker = "-- From here on: copies of files in migrations/functions. Edit those, and repeat `go run ./migrations/snapshot NAME`.\n"

// head begins a new migration. Its author completes it.
const head = `-- <The change and its reason.>
--
-- <Whether the functions of the previous release work on this schema.>
--
-- Locks no table.

-- +goose Up
SET LOCAL lock_timeout = '1s';
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	report, err := run(ctx, os.Args[1:], os.Getenv("DATABASE_URL"))
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "snapshot:", err)
		os.Exit(1)
	}
	fmt.Println(report)
}

func run(ctx context.Context, args []string, databaseURL string) (report string, err error) {
	if len(args) != 1 {
		return "", errors.New("usage, at the top of the repository: go run ./migrations/snapshot NAME")
	}
	if databaseURL == "" {
		server, err := localpg.Start(ctx, localpg.Options{Log: os.Stderr})
		if err != nil {
			return "", err
		}
		defer func() { _ = server.Stop() }()
		databaseURL = server.URL()
	}
	conn, err := pgx.Connect(ctx, databaseURL)
	if err != nil {
		return "", fmt.Errorf("connect to Postgres: %w", err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	tx, err := conn.Begin(ctx)
	if err != nil {
		return "", err
	}
	if err := exec(ctx, tx, "CREATE SCHEMA promises_snapshot; SET LOCAL search_path = promises_snapshot"); err != nil {
		return "", err
	}
	return snapshot(ctx, tx, "migrations", args[0]) // the transaction ends with the connection
}

var (
	validName = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)
	fileName  = regexp.MustCompile(`^(\d{5})_(.+)\.sql$`)
)

// snapshot writes the migration called name into dir, and returns a report for the
// author. The schema of tx must be empty. The caller rolls tx back.
func snapshot(ctx context.Context, tx pgx.Tx, dir, name string) (report string, err error) {
	if !validName.MatchString(name) {
		return "", fmt.Errorf("NAME is %q: send lower-case letters, digits and _, such as plain_names", name)
	}
	paths, err := filepath.Glob(filepath.Join(dir, "*.sql"))
	if err != nil {
		return "", err
	}
	if len(paths) == 0 {
		return "", fmt.Errorf("%s has no migrations: run the command at the top of the repository", dir)
	}
	file, text, newest := filepath.Join(dir, "00001_"+name+".sql"), head, 0
	for i, path := range paths {
		parts := fileName.FindStringSubmatch(filepath.Base(path))
		if parts == nil {
			return "", fmt.Errorf("%s: the name must be five digits, _ and a name", path)
		}
		script, err := os.ReadFile(path)
		if err != nil {
			return "", err
		}
		newest, _ = strconv.Atoi(parts[1]) // five digits
		file = filepath.Join(dir, fmt.Sprintf("%05d_%s.sql", newest+1, name))
		if parts[2] == name {
			if i < len(paths)-1 {
				return "", fmt.Errorf("%s has this name, and is not the newest file: choose another NAME", path)
			}
			file = path
			text, _, _ = strings.Cut(string(script), marker)
			script = []byte(text)
		}
		if err := exec(ctx, tx, string(script)); err != nil {
			return "", fmt.Errorf("%s: %w", path, err)
		}
	}
	changes, err := changed(ctx, tx, os.DirFS(filepath.Join(dir, "functions")))
	if err != nil {
		return "", fmt.Errorf("%s: %w", filepath.Join(dir, "functions"), err)
	}
	return write(file, text, changes)
}

// write writes the migration: the author's text, then the changes.
func write(file, text string, changes []change) (report string, err error) {
	former, err := os.ReadFile(file)
	isNew := errors.Is(err, os.ErrNotExist)
	if err != nil && !isNew {
		return "", err
	}
	if isNew && len(changes) == 0 {
		return "nothing changed: the migrations make the functions of migrations/functions", nil
	}
	text = strings.TrimRight(text, "\n") + "\n"
	var names []string
	for i, c := range changes {
		if i == 0 {
			text += "\n" + marker
		}
		text += "\n-- +goose StatementBegin\n" + strings.TrimRight(c.text, "\n") + "\n-- +goose StatementEnd\n"
		names = append(names, c.function)
	}
	if text == string(former) {
		return "nothing changed: " + file + " is complete", nil
	}
	slices.Sort(names)
	return fmt.Sprintf("wrote %s: %s", file, cmp.Or(strings.Join(names, ", "), "no function differs")), os.WriteFile(file, []byte(text), 0o644) //nolint:gosec // source
}

// exec executes the statements of a script. Postgres reads goose's annotations as
// comments, and no file has a Down part.
func exec(ctx context.Context, tx pgx.Tx, script string) error {
	_, err := tx.Conn().PgConn().Exec(ctx, script).ReadAll()
	return err
}
