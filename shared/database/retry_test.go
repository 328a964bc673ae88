package database_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/database"
	"github.com/flovyn/promises/shared/dbtest"
	"github.com/flovyn/promises/shared/dbtest/rdstest"
	"github.com/flovyn/promises/shared/localpg"
)

// logged is a log that can be read while it is written.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// await waits until the log contains the text.
func (l *logged) await(t *testing.T, text string) {
	t.Helper()
	require.Eventually(t, func() bool { return strings.Contains(l.String(), text) }, 5*time.Minute, 10*time.Millisecond,
		"%s is not in the log", text)
}

// connect returns a function that connects once, and closes the connection.
func connect(o database.Options) func(context.Context) error {
	return func(ctx context.Context) error {
		conf, err := database.ConnConfig(ctx, o)
		if err != nil {
			return err
		}
		conn, err := pgx.ConnectConfig(ctx, conf)
		if err != nil {
			return err
		}
		return conn.Close(ctx)
	}
}

// A real server starts late. At first nothing listens on its port, then something that does not respond, then a server that is
// stopping, then a server without free connections. At last the server accepts the connection.
func TestRetryUntilTheDatabaseIsThere(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	require.NoError(t, os.Chmod(dir, 0o711))               //nolint:gosec // as root, Postgres runs as another user
	require.NoError(t, os.Chmod(filepath.Dir(dir), 0o711)) //nolint:gosec // the same
	data := filepath.Join(dir, "data")
	server, err := localpg.Start(t.Context(), localpg.Options{Dir: data})
	require.NoError(t, err)
	admin, err := pgx.Connect(t.Context(), server.URL())
	require.NoError(t, err)
	_, err = admin.Exec(t.Context(), "CREATE ROLE late LOGIN CONNECTION LIMIT 0 PASSWORD 'hunter2'", pgx.QueryExecModeSimpleProtocol)
	require.NoError(t, err)

	late := dbtest.NewLate(t)
	u, err := url.Parse(late.URL(t, server.URL()))
	require.NoError(t, err)
	u.User = url.UserPassword("late", "hunter2")
	var log logged
	done := make(chan error, 1)
	go func() {
		done <- database.Retry(t.Context(), time.Hour, slog.New(slog.NewTextHandler(&log, nil)), connect(database.Options{URL: u.String()}))
	}()
	log.await(t, "connection refused")
	late.Listen(t)
	log.await(t, "timeout: context deadline exceeded")

	pid, err := os.ReadFile(filepath.Join(data, "cluster", "postmaster.pid"))
	require.NoError(t, err)
	postmaster, err := strconv.Atoi(string(pid[:bytes.IndexByte(pid, '\n')]))
	require.NoError(t, err)
	require.NoError(t, syscall.Kill(postmaster, syscall.SIGTERM)) // the server waits for admin's session and accepts no other
	late.Serve(t, server.URL())
	log.await(t, "SQLSTATE 57P03")
	require.NoError(t, admin.Close(t.Context()))
	_ = server.Stop() // the server stops after the SIGTERM

	server, err = localpg.Start(t.Context(), localpg.Options{Dir: data})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Stop()) })
	late.Serve(t, server.URL())
	log.await(t, "SQLSTATE 53300")
	admin, err = pgx.Connect(t.Context(), server.URL())
	require.NoError(t, err)
	defer admin.Close(t.Context()) //nolint:errcheck // the server stops
	_, err = admin.Exec(t.Context(), "ALTER ROLE late CONNECTION LIMIT -1")
	require.NoError(t, err)
	require.NoError(t, <-done)
	require.Contains(t, log.String(), "try=1 ")
	require.Contains(t, log.String(), "try=2 ")
	require.NotContains(t, log.String(), "hunter2")
}

// Retry returns at once if the cause is permanent, or if the error came after the connection was made.
func TestRetryGivesUp(t *testing.T) {
	db, name := role(t)
	proxy := rdstest.Start(t, db.URL, rdstest.Options{Password: "right"})
	proxy.Setenv(t)
	stranger := rdstest.Start(t, db.URL, rdstest.Options{})
	secret := func(password string) func(context.Context) (string, error) {
		return func(context.Context) (string, error) {
			return `{"username":"` + name + `","password":"` + password + `"}`, nil
		}
	}
	u, err := url.Parse(db.URL)
	require.NoError(t, err)
	u.Path = "/nowhere"
	broken := errors.New("read tcp: " + io.ErrUnexpectedEOF.Error())
	for what, c := range map[string]struct {
		try   func(context.Context) error
		cause string
	}{
		"wrong password":    {connect(database.Options{URL: proxy.URL(name, ""), Secret: secret("wrong")}), "28P01"},
		"unknown database":  {connect(database.Options{URL: u.String()}), "3D000"},
		"another authority": {connect(database.Options{URL: proxy.URL(name, "&sslrootcert="+stranger.CAFile), Secret: secret("right")}), "unknown authority"},
		"no secret":         {connect(database.Options{URL: proxy.URL(name, ""), Secret: func(context.Context) (string, error) { return "", errors.New("access denied") }}), "access denied"},
		"no URL":            {connect(database.Options{URL: "postgres://[::1/x"}), "DATABASE_URL"},
		"after the connect": {func(context.Context) error { return broken }, "read tcp"},
		"a query that lost its connection": {func(context.Context) error {
			return &net.OpError{Op: "read", Err: syscall.ECONNRESET}
		}, "reset"},
		"shut down after the connect": {func(context.Context) error { return &pgconn.PgError{Code: "57P01", Message: "terminated"} }, "57P01"},
	} {
		t.Run(what, func(t *testing.T) {
			tries := 0
			err := database.Retry(t.Context(), time.Hour, slog.New(slog.DiscardHandler), func(ctx context.Context) error {
				tries++
				return c.try(ctx)
			})
			require.ErrorContains(t, err, c.cause)
			require.Equal(t, 1, tries)
		})
	}
}

func TestRetryEnds(t *testing.T) {
	t.Parallel()
	refused := connect(database.Options{URL: "postgres://u:hunter2@" + dbtest.NewLate(t).Address + "/x"})
	t.Run("patience ends", func(t *testing.T) {
		err := database.Retry(t.Context(), 0, slog.New(slog.DiscardHandler), refused)
		require.ErrorContains(t, err, "no connection to the database after 1 tries")
		require.ErrorContains(t, err, "connection refused")
		require.NotContains(t, err.Error(), "hunter2")
	})
	t.Run("patience ends while a name does not resolve", func(t *testing.T) {
		unknown := connect(database.Options{URL: "postgres://u@nowhere.invalid/x"})
		err := database.Retry(t.Context(), 0, slog.New(slog.DiscardHandler), unknown)
		require.ErrorContains(t, err, "after 1 tries", "a name may not be known yet: %v", err)
	})
	t.Run("the context ends", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var log logged
		done := make(chan error, 1)
		go func() { done <- database.Retry(ctx, time.Hour, slog.New(slog.NewTextHandler(&log, nil)), refused) }()
		log.await(t, "try=2 ")
		cancel()
		require.ErrorContains(t, <-done, "no connection to the database after")
	})
}

func TestRetryReadsTheSecretAgain(t *testing.T) {
	t.Parallel()
	db := dbtest.Bare(t)
	proxy := rdstest.Start(t, db.URL, rdstest.Options{Password: "right"})
	db.Exec(t, "DO $$ BEGIN CREATE ROLE retry_test; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$")
	reads := 0
	require.NoError(t, database.Retry(t.Context(), time.Hour, slog.New(slog.DiscardHandler), connect(database.Options{
		URL: proxy.URL("retry_test", ""), Secret: func(ctx context.Context) (string, error) {
			if reads++; reads == 1 {
				_, err := net.Dial("tcp", dbtest.NewLate(t).Address)
				return "", err
			}
			return `{"username":"retry_test","password":"right"}`, nil
		},
	})))
	require.Equal(t, 2, reads)
}
