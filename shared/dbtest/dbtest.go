// Package dbtest gives each test a schema of its own on a real Postgres.
//
// The first call starts one private server for the test process. The server ends
// with the process, so that tests need no set-up and no cleaning. If DATABASE_URL is
// set, the schemas are created in that database instead and dropped at the end of
// each test. On a machine without Postgres the tests fail; they are never skipped.
package dbtest

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/localpg"
	"github.com/flovyn/promises/shared/migrate"
)

// A DB is a test's own schema. It is safe for concurrent use.
type DB struct {
	// URL connects to the schema, for tests that open further connections. They must
	// be closed before the test ends, because the schema is dropped then.
	URL string

	// Pool has at most eight connections. It is closed when the test ends.
	Pool *pgxpool.Pool
}

// New creates a schema and applies all files of migrations/ to it. The schema is
// dropped when the test and its subtests have ended. Parallel tests may call New,
// and a test may call it repeatedly; each call creates another schema.
func New(t testing.TB) *DB {
	t.Helper()
	db := Bare(t)
	_, err := migrate.Run(t.Context(), db.Pool.Config().ConnConfig, migrate.Options{})
	require.NoError(t, err)
	return db
}

// Bare creates an empty schema. It is New without the migrations.
func Bare(t testing.TB) *DB {
	t.Helper()
	admin, err := cluster()
	if err != nil {
		t.Fatal(err)
	}
	schema := "test_" + strings.ToLower(rand.Text())
	_, err = admin.pool.Exec(t.Context(), "CREATE SCHEMA "+schema)
	require.NoError(t, err)
	t.Cleanup(func() { drop(t, admin.pool, schema) })

	db := &DB{URL: withSearchPath(admin.url, schema)}
	conf, err := pgxpool.ParseConfig(db.URL)
	require.NoError(t, err)
	conf.MaxConns = 8
	db.Pool, err = pgxpool.NewWithConfig(t.Context(), conf)
	require.NoError(t, err)
	t.Cleanup(func() { closePool(t, db.Pool) })
	return db
}

// Exec runs a statement, or fails the test.
func (db *DB) Exec(t testing.TB, sql string, args ...any) {
	t.Helper()
	_, err := db.Pool.Exec(t.Context(), sql, args...)
	require.NoError(t, err)
}

// Rewrite runs a statement as Exec does, but without triggers. It can therefore
// change settled promises, which the triggers refuse to every statement of the
// service. The user must be a superuser.
func (db *DB) Rewrite(t testing.TB, sql string, args ...any) {
	t.Helper()
	require.NoError(t, pgx.BeginFunc(t.Context(), db.Pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(t.Context(), Unbound); err != nil {
			return err
		}
		_, err := tx.Exec(t.Context(), sql, args...)
		return err
	}))
}

// Unbound is a statement that disables triggers until the transaction ends.
const Unbound = "SET LOCAL session_replication_role = replica"

// Tenant adds a tenant and returns its id. A slug can be added once.
func (db *DB) Tenant(t testing.TB, slug string) uuid.UUID {
	t.Helper()
	rows, err := db.Pool.Query(t.Context(), "INSERT INTO tenant (slug) VALUES ($1) RETURNING id", slug)
	require.NoError(t, err)
	id, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[uuid.UUID])
	require.NoError(t, err)
	return id
}

type database struct {
	url  string
	pool *pgxpool.Pool
}

// cluster returns the database of this test process. The server stops by itself when
// the process ends.
var cluster = sync.OnceValues(func() (database, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	db := database{url: os.Getenv("DATABASE_URL")}
	if db.url == "" {
		server, err := localpg.Start(ctx, localpg.Options{})
		if err != nil {
			return database{}, err
		}
		db.url = server.URL()
	}
	var err error
	if db.pool, err = pgxpool.New(ctx, db.url); err != nil {
		return database{}, err
	}
	if err := db.pool.Ping(ctx); err != nil {
		return database{}, fmt.Errorf("connect to the tests' database: %w", err)
	}
	return db, nil
})

// withSearchPath adds the setting search_path to a URL or to keyword=value pairs.
func withSearchPath(databaseURL, schema string) string {
	u, err := url.Parse(databaseURL)
	if err != nil || !strings.HasPrefix(u.Scheme, "postgres") {
		return databaseURL + " search_path=" + schema
	}
	q := u.Query()
	q.Set("search_path", schema)
	u.RawQuery = q.Encode()
	return u.String()
}

// cleanupTimeout bounds the clean-up after a failed test that has not released its
// connections.
const cleanupTimeout = 2 * time.Minute

func closePool(t testing.TB, pool *pgxpool.Pool) {
	closed := make(chan struct{})
	go func() { pool.Close(); close(closed) }()
	select {
	case <-closed:
	case <-time.After(cleanupTimeout):
		t.Errorf("dbtest: the test did not release all connections of its pool")
	}
}

func drop(t testing.TB, pool *pgxpool.Pool, schema string) {
	ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
	defer cancel()
	if _, err := pool.Exec(ctx, "DROP SCHEMA "+schema+" CASCADE"); err != nil {
		t.Errorf("dbtest: drop the test's schema (is one of its connections still in a transaction?): %v", err)
	}
}
