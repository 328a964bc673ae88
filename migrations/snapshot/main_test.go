package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/dbtest"
)

// inTransaction runs f in a transaction of db, and rolls it back.
func inTransaction(t *testing.T, db *dbtest.DB, f func(tx pgx.Tx)) {
	t.Helper()
	tx, err := db.Pool.Begin(t.Context())
	require.NoError(t, err)
	defer tx.Rollback(context.Background()) //nolint:errcheck // it only ends the transaction
	f(tx)
}

// changesOf returns the changes that the files make in db.
func changesOf(t *testing.T, db *dbtest.DB, files fs.FS) (changes []change, err error) {
	t.Helper()
	inTransaction(t, db, func(tx pgx.Tx) { changes, err = changed(t.Context(), tx, files) })
	return changes, err
}

// folder returns a copy of migrations/functions.
func folder(t *testing.T) fstest.MapFS {
	t.Helper()
	files := fstest.MapFS{}
	paths, err := filepath.Glob("../functions/*")
	require.NoError(t, err)
	require.NotEmpty(t, paths)
	for _, path := range paths {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		files[filepath.Base(path)] = &fstest.MapFile{Data: text}
	}
	return files
}

// edit replaces a text of the file, which must have it once.
func edit(t *testing.T, files fstest.MapFS, file, old, with string) {
	t.Helper()
	text := string(files[file].Data)
	require.Equal(t, 1, strings.Count(text, old), "%s in %s", old, file)
	files[file] = &fstest.MapFile{Data: []byte(strings.Replace(text, old, with, 1))}
}

// The migrations make exactly the functions of the folder.
func TestFunctionsAreMigrated(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	changes, err := changesOf(t, db, folder(t))
	require.NoError(t, err)
	for _, c := range changes {
		t.Errorf("no migration makes migrations/functions/%s.sql: run `go run ./migrations/snapshot NAME`", c.function)
	}
}

// Each migration has a row in the table of files, and its author has completed its head.
func TestFilesAreDescribed(t *testing.T) {
	t.Parallel()
	table, err := os.ReadFile("../README.md")
	require.NoError(t, err)
	paths, err := filepath.Glob("../*.sql")
	require.NoError(t, err)
	require.NotEmpty(t, paths)
	for _, path := range paths {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		for line := range strings.Lines(head) {
			if strings.Contains(line, "<") && strings.Contains(string(text), line) {
				t.Errorf("%s still has the line %s", path, line)
			}
		}
		if row := "| `" + filepath.Base(path) + "` |"; !strings.Contains(string(table), row) {
			t.Errorf("migrations/README.md has no row %s", row)
		}
	}
}

func TestChanged(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	const liveOld, liveNew = "OR NOT resolved", "OR resolved IS FALSE"
	for _, c := range []struct {
		name   string
		change func(t *testing.T, files fstest.MapFS)
		want   []string // functions
		err    string
	}{
		{"a body", func(t *testing.T, files fstest.MapFS) {
			edit(t, files, "promise_key_live.sql", liveOld, liveNew)
		}, []string{"promise_key_live"}, ""},
		{"a comment in a body", func(t *testing.T, files fstest.MapFS) {
			edit(t, files, "promise_settle.sql", "-- the default outcome, or NULL", "-- the default outcome")
		}, []string{"promise_settle"}, ""},
		{"a head alone", func(t *testing.T, files fstest.MapFS) {
			edit(t, files, "promise_settle.sql", "-- Settles a pending promise", "-- Ends a pending promise")
		}, nil, ""},
		{"a volatility", func(t *testing.T, files fstest.MapFS) {
			edit(t, files, "promise_key_live.sql", "STABLE", "VOLATILE")
		}, []string{"promise_key_live"}, ""},
		{"a setting that a text forgets", func(t *testing.T, files fstest.MapFS) {
			edit(t, files, "workflow_event_delete.sql", " SET search_path FROM CURRENT", "")
		}, []string{"workflow_event_delete"}, ""},
		{"a right", func(t *testing.T, files fstest.MapFS) {
			edit(t, files, "tenant_delete.sql", "REVOKE ALL", "GRANT ALL")
			edit(t, files, "tenant_delete.sql", "FROM PUBLIC", "TO PUBLIC")
		}, []string{"tenant_delete"}, ""},
		{"a function follows the one that it calls", func(_ *testing.T, files fstest.MapFS) {
			files["a.sql"] = &fstest.MapFile{Data: []byte("CREATE OR REPLACE FUNCTION a() RETURNS INT LANGUAGE sql AS 'SELECT b()'")}
			files["b.sql"] = &fstest.MapFile{Data: []byte("CREATE OR REPLACE FUNCTION b() RETURNS INT LANGUAGE sql AS 'SELECT 1'")}
		}, []string{"b", "a"}, ""},
		{"a function calls an unknown one", func(_ *testing.T, files fstest.MapFS) {
			files["a.sql"] = &fstest.MapFile{Data: []byte("CREATE OR REPLACE FUNCTION a() RETURNS INT LANGUAGE sql AS 'SELECT b()'")}
		}, nil, "a.sql: ERROR: function b() does not exist"},
		{"a file that is missing", func(_ *testing.T, files fstest.MapFS) {
			delete(files, "promise_final.sql")
		}, nil, "no file defines the function promise_final() of the schema"},
		{"a file that is called otherwise", func(_ *testing.T, files fstest.MapFS) {
			files["promise_ended.sql"] = files["promise_final.sql"]
			delete(files, "promise_final.sql")
		}, nil, "promise_ended.sql: it defines promise_final(): a file has the name of its function"},
		{"a file without a function", func(_ *testing.T, files fstest.MapFS) {
			files["nothing.sql"] = &fstest.MapFile{Data: []byte("SELECT 1")}
		}, nil, "nothing.sql: it defines no function"},
		{"another argument", func(t *testing.T, files fstest.MapFS) {
			edit(t, files, "promise_race_lost.sql", "promise_id UUID", "promise_id UUID, reason TEXT")
		}, nil, "promise_race_lost.sql: it adds promise_race_lost(uuid,text) beside the former signature"},
		{"another argument's name", func(t *testing.T, files fstest.MapFS) {
			edit(t, files, "promise_race_lost.sql", "(promise_id UUID", "(id UUID")
		}, nil, "a changed signature needs statements by hand"},
		{"another result", func(t *testing.T, files fstest.MapFS) {
			edit(t, files, "promise_race_lost.sql", "RETURNS UUID", "RETURNS TEXT")
		}, nil, "a changed signature needs statements by hand"},
		{"a text that Postgres refuses", func(t *testing.T, files fstest.MapFS) {
			edit(t, files, "promise_race_lost.sql", "BEGIN", "BEGINS")
		}, nil, "promise_race_lost.sql: ERROR: syntax error"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			files := folder(t)
			c.change(t, files)
			changes, err := changesOf(t, db, files)
			if c.err != "" {
				require.ErrorContains(t, err, c.err)
				return
			}
			require.NoError(t, err)
			var got []string
			for _, change := range changes {
				got = append(got, change.function)
			}
			require.Equal(t, c.want, got)
		})
	}
	t.Run("an overload without a file", func(t *testing.T) {
		t.Parallel()
		db := dbtest.New(t)
		db.Exec(t, "CREATE FUNCTION promise_key_live(x INT) RETURNS INT LANGUAGE sql AS 'SELECT 1'")
		_, err := changesOf(t, db, folder(t))
		require.ErrorContains(t, err, "no file defines the function promise_key_live(integer) of the schema")
	})
}

// copyMigrations copies migrations/ into a temporary folder.
func copyMigrations(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	require.NoError(t, os.CopyFS(dir, os.DirFS("..")))
	return dir
}

// take writes the migration called name into dir, as the command does in an empty schema.
func take(t *testing.T, dir, name string) (report string, err error) {
	t.Helper()
	inTransaction(t, dbtest.Bare(t), func(tx pgx.Tx) { report, err = snapshot(t.Context(), tx, dir, name) })
	return report, err
}

// replace replaces a text of a file.
func replace(t *testing.T, path, old, with string) {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, 1, strings.Count(string(text), old), "%s in %s", old, path)
	require.NoError(t, os.WriteFile(path, []byte(strings.Replace(string(text), old, with, 1)), 0o600))
}

// apply applies the files of dir that db does not have, as migrate does.
func apply(t *testing.T, db *dbtest.DB, dir string) {
	t.Helper()
	std := stdlib.OpenDBFromPool(db.Pool)
	defer func() { require.NoError(t, std.Close()) }()
	provider, err := goose.NewProvider(goose.DialectPostgres, std, os.DirFS(dir), goose.WithTableName("promises_schema_version"))
	require.NoError(t, err)
	_, err = provider.Up(t.Context())
	require.NoError(t, err)
}

// A migration that the command writes makes the functions of the folder. As long as it is the newest file, the command writes it again.
func TestSnapshot(t *testing.T) {
	t.Parallel()
	dir := copyMigrations(t)
	functions := filepath.Join(dir, "functions")
	live, names := filepath.Join(functions, "promise_key_live.sql"), filepath.Join(functions, "promise_key_names.sql")
	const former, latter = "expires_at > moment", "moment < expires_at"
	file := filepath.Join(dir, nextFile(t, dir, "new_rule"))

	report, err := take(t, dir, "new_rule")
	require.NoError(t, err)
	require.Contains(t, report, "nothing changed")
	require.NoFileExists(t, file)

	replace(t, live, former, latter)
	report, err = take(t, dir, "new_rule")
	require.NoError(t, err)
	require.Equal(t, "wrote "+file+": promise_key_live", report)
	t.Run("the migration makes the functions of the folder", func(t *testing.T) {
		db := dbtest.New(t)
		changes, err := changesOf(t, db, os.DirFS(functions))
		require.NoError(t, err)
		require.Len(t, changes, 1)
		apply(t, db, dir)
		changes, err = changesOf(t, db, os.DirFS(functions))
		require.NoError(t, err)
		require.Empty(t, changes)
	})

	replace(t, file, head, "-- A newer rule.\n\n-- +goose Up\nCOMMENT ON TABLE promise IS 'new';\n")
	written, err := os.ReadFile(file)
	require.NoError(t, err)
	t.Run("a repeated call changes nothing", func(t *testing.T) {
		report, err := take(t, dir, "new_rule")
		require.NoError(t, err)
		require.Equal(t, "nothing changed: "+file+" is complete", report)
	})
	t.Run("a further change is added below the author's part", func(t *testing.T) {
		replace(t, names, former, latter)
		report, err := take(t, dir, "new_rule")
		require.NoError(t, err)
		require.Equal(t, "wrote "+file+": promise_key_live, promise_key_names", report)
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		require.True(t, strings.HasPrefix(string(text), string(written)))
		replace(t, names, latter, former)
	})
	t.Run("a change that is taken back is removed", func(t *testing.T) {
		replace(t, live, latter, former)
		report, err := take(t, dir, "new_rule")
		require.NoError(t, err)
		require.Equal(t, "wrote "+file+": no function differs", report)
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		require.Equal(t, "-- A newer rule.\n\n-- +goose Up\nCOMMENT ON TABLE promise IS 'new';\n", string(text))
	})
}

// The author's part drops the former signature, and the command adds the new one.
func TestAnotherSignature(t *testing.T) {
	t.Parallel()
	dir := copyMigrations(t)
	replace(t, filepath.Join(dir, "functions", "promise_race_lost.sql"), "promise_id UUID", "promise_id UUID, reason TEXT")
	_, err := take(t, dir, "reasons")
	require.ErrorContains(t, err, "a changed signature needs statements by hand")
	name := nextFile(t, dir, "reasons")
	require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte("-- +goose Up\nDROP FUNCTION promise_race_lost(UUID);\n"), 0o600))
	report, err := take(t, dir, "reasons")
	require.NoError(t, err)
	require.Equal(t, "wrote "+filepath.Join(dir, name)+": promise_race_lost", report)
	db := dbtest.New(t)
	apply(t, db, dir)
	changes, err := changesOf(t, db, os.DirFS(filepath.Join(dir, "functions")))
	require.NoError(t, err)
	require.Empty(t, changes)
}

func TestNames(t *testing.T) {
	t.Parallel()
	t.Run("refuses a folder without migrations", func(t *testing.T) {
		_, err := take(t, t.TempDir(), "names")
		require.ErrorContains(t, err, "has no migrations: run the command at the top of the repository")
	})
	dir := copyMigrations(t)
	for _, name := range []string{"", "Plain", "plain-names", "../plain", "plain.sql", "1st", "größe"} {
		t.Run("refuses "+name, func(t *testing.T) {
			_, err := take(t, dir, name)
			require.ErrorContains(t, err, "send lower-case letters, digits and _")
		})
	}
	t.Run("refuses the name of an older file", func(t *testing.T) {
		_, err := take(t, dir, "init")
		require.ErrorContains(t, err, "00001_init.sql has this name, and is not the newest file")
	})
	t.Run("refuses a file without a number", func(t *testing.T) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "plain.sql"), nil, 0o600))
		_, err := take(t, dir, "names")
		require.ErrorContains(t, err, "plain.sql: the name must be five digits, _ and a name")
	})
}

// The command itself, on a Postgres that it starts or on that of DATABASE_URL, of which it leaves nothing.
func TestRun(t *testing.T) {
	top := t.TempDir() // the command writes a file if a function of the checkout has no migration yet
	require.NoError(t, os.CopyFS(filepath.Join(top, "migrations"), os.DirFS("..")))
	t.Chdir(top)
	t.Run("without a name", func(t *testing.T) {
		_, err := run(t.Context(), nil, "")
		require.ErrorContains(t, err, "go run ./migrations/snapshot NAME")
	})
	t.Run("on its own Postgres", func(t *testing.T) {
		report, err := run(t.Context(), []string{"new_rule"}, "")
		require.NoError(t, err)
		require.Contains(t, report, "nothing changed")
	})
	t.Run("on another", func(t *testing.T) {
		db := dbtest.Bare(t)
		report, err := run(t.Context(), []string{"new_rule"}, db.URL)
		require.NoError(t, err)
		require.Contains(t, report, "nothing changed")
		var left bool
		require.NoError(t, db.Pool.QueryRow(t.Context(), "SELECT to_regnamespace('promises_snapshot') IS NOT NULL").Scan(&left))
		require.False(t, left)
	})
}

// nextFile returns the name of the next migration.
func nextFile(t *testing.T, dir, name string) string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*.sql"))
	require.NoError(t, err)
	return fmt.Sprintf("%05d_%s.sql", len(paths)+1, name)
}
