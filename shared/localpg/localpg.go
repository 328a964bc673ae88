// Package localpg runs a private Postgres on this machine: for infra/local and
// for the tests. The server belongs to the process that starts it and dies with
// it, whichever way it dies; nobody else's server is touched.
//
// The server binaries are those of the machine (PATH, then the usual places of
// Linux distributions and Homebrew), version 15 or later; where there are none,
// they are downloaded once and kept. Postgres refuses to run as root: started
// by root, it runs as the user postgres, or nobody where there is no such user.
package localpg

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const (
	userName     = "promises"
	databaseName = "promises"

	// A server that finds a crashed cluster replays its log before it answers.
	startTimeout = 2 * time.Minute
	// A fast shutdown writes a checkpoint.
	stopTimeout = time.Minute
	// How long to wait for a server whose owner has died to finish its shutdown.
	orphanTimeout = 15 * time.Second
)

// Options say what Start runs.
type Options struct {
	// Dir is the data folder. It is kept between starts, and made where it does
	// not exist. Empty: a temporary one, in memory where the machine has a
	// memory file system with room, removed when the server ends.
	Dir string

	// Fresh throws away the cluster in Dir first.
	Fresh bool

	// Durable makes a commit survive a crash of the machine. Without it the
	// server is faster, and a crash of the machine may ruin the cluster.
	Durable bool

	// SharedBuffers is Postgres's setting, such as "6GB". Empty: 512MB.
	SharedBuffers string

	// Log is told of progress, in lines for a person. It may be nil.
	Log io.Writer
}

// Server is a running Postgres. Its methods are safe for concurrent use.
type Server struct {
	url  string
	dir  *dataDir
	proc *process

	stop    sync.Once
	stopErr error
}

// DefaultDir returns the folder in which a server's data lives where nobody
// says otherwise: flovyn-promises in the user's cache folder; for root, whose
// own folders the server's user cannot reach, /var/lib/flovyn-promises.
// It fails where the user has no home. It creates nothing.
func DefaultDir() (string, error) {
	if os.Geteuid() == 0 {
		return "/var/lib/flovyn-promises", nil
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("default data folder: %w", err)
	}
	return filepath.Join(cache, "flovyn-promises"), nil
}

// Start starts a server and returns once it answers: on 127.0.0.1 only, at a
// free port, with the empty database "promises" or the one that Dir holds. ctx
// bounds the start, not the server's life.
//
// It fails, and leaves no server behind, if
//   - no Postgres 15 or later is found and none can be downloaded;
//   - Dir is in use by another process, holds things that this package did not
//     make, or holds a cluster of a major version that is not to be had here;
//   - it is called by root, and the server's user cannot reach Dir;
//   - the server does not come up: the error holds its last words;
//   - ctx ends.
//
// It can be called again after each of them. A start that was killed half-way
// is no obstacle.
func Start(ctx context.Context, o Options) (*Server, error) {
	s, err := start(ctx, o, machine())
	if err != nil {
		return nil, fmt.Errorf("start Postgres: %w", err)
	}
	return s, nil
}

func start(ctx context.Context, o Options, src source) (_ *Server, err error) {
	log := o.Log
	if log == nil {
		log = io.Discard
	}
	owner, err := serverUser()
	if err != nil {
		return nil, err
	}
	dir, err := openDataDir(ctx, o.Dir, owner)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			dir.close()
		}
	}()
	if o.Fresh {
		if err := dir.empty(); err != nil {
			return nil, err
		}
	}
	major, err := dir.major()
	if err != nil {
		return nil, err
	}
	bin, err := src.find(ctx, major, owner, log)
	if err != nil {
		return nil, err
	}
	if major == 0 {
		_, _ = fmt.Fprintf(log, "Postgres %s: making a cluster in %s\n", bin.version, dir.path)
		if err := dir.initdb(ctx, bin, o.Durable); err != nil {
			return nil, err
		}
	}
	password, err := dir.password()
	if err != nil {
		return nil, err
	}

	const attempts = 5
	for attempt := 1; ; attempt++ {
		port, err := src.port()
		if err != nil {
			return nil, err
		}
		s, err := serve(ctx, dir, bin, port, password, o)
		if errors.Is(err, errPortTaken) && attempt < attempts {
			continue
		}
		if err != nil {
			return nil, err
		}
		_, _ = fmt.Fprintf(log, "Postgres %s: running on %s\n", bin.version, s.address())
		return s, nil
	}
}

// errPortTaken: somebody took the port between our finding it free and the
// server's binding it.
var errPortTaken = errors.New("the port was taken")

func serve(ctx context.Context, dir *dataDir, bin binaries, port int, password string, o Options) (*Server, error) {
	args := append([]string{bin.path("postgres"), "-D", dir.cluster()}, settings(port, o)...)
	proc, err := dir.run(args)
	if err != nil {
		return nil, err
	}
	s := &Server{dir: dir, proc: proc, url: (&url.URL{
		Scheme:   "postgres",
		User:     url.UserPassword(userName, password),
		Host:     net.JoinHostPort("127.0.0.1", strconv.Itoa(port)),
		Path:     "/" + databaseName,
		RawQuery: "sslmode=disable",
	}).String()}
	if err := s.await(ctx); err != nil {
		if stopErr := proc.stop(stopTimeout); stopErr != nil && !errors.Is(stopErr, errExit) {
			err = errors.Join(err, stopErr)
		}
		if dir.logHas("could not bind IPv4 address") {
			return nil, errPortTaken
		}
		return nil, err
	}
	return s, nil
}

// await returns once the database answers, made if it was not there.
func (s *Server) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout,
		fmt.Errorf("no answer from the server in %v", startTimeout))
	defer cancel()
	// Whoever has taken the port may accept our connection and say nothing.
	pinging, stopPinging := context.WithCancel(ctx)
	defer stopPinging()
	go func() {
		select {
		case <-s.proc.done:
			stopPinging()
		case <-pinging.Done():
		}
	}()
	for {
		err := s.ping(pinging)
		if err == nil {
			return nil
		}
		select {
		case <-s.proc.done:
			return fmt.Errorf("the server stopped at once; its last words:\n%s", s.dir.logTail())
		case <-ctx.Done():
			return fmt.Errorf("%w (%s); its last words:\n%s", context.Cause(ctx), s.address(), s.dir.logTail())
		default:
		}
		if pg, ok := errors.AsType[*pgconn.PgError](err); ok && pg.Code != codeStartingUp {
			return fmt.Errorf("connect: %w", err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

const (
	codeStartingUp = "57P03" // cannot_connect_now
	codeNoDatabase = "3D000" // invalid_catalog_name
)

func (s *Server) ping(ctx context.Context) error {
	conf, err := pgx.ParseConfig(s.url)
	if err != nil {
		return err
	}
	conn, err := pgx.ConnectConfig(ctx, conf)
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok && pg.Code == codeNoDatabase {
		conf.Database = "postgres"
		if conn, err = pgx.ConnectConfig(ctx, conf); err == nil {
			_, err = conn.Exec(ctx, "CREATE DATABASE "+databaseName)
		}
	}
	if conn != nil {
		_ = conn.Close(ctx)
	}
	return err
}

// URL returns the postgres:// URL of the database. It holds the password.
func (s *Server) URL() string { return s.url }

// Log returns the path of the server's log. It begins anew at each start, and is
// removed with a temporary folder.
func (s *Server) Log() string { return s.dir.file(serverLog) }

func (s *Server) address() string {
	u, err := url.Parse(s.url)
	if err != nil {
		return "127.0.0.1"
	}
	return u.Host
}

// Stop shuts the server down, whatever its clients are doing, and waits for its
// end. What was committed is kept, unless the folder was a temporary one: that
// is removed. Called again, it returns what the first call returned. It fails
// if the server did not end by itself in a minute: it is killed then, and
// repairs the cluster when it starts again.
func (s *Server) Stop() error {
	s.stop.Do(func() {
		if err := s.proc.stop(stopTimeout); err != nil {
			s.stopErr = fmt.Errorf("stop Postgres: %w", err)
		}
		s.dir.close()
	})
	return s.stopErr
}

func settings(port int, o Options) []string {
	set := map[string]string{
		"listen_addresses":        "127.0.0.1",
		"port":                    strconv.Itoa(port),
		"unix_socket_directories": "", // its path could be longer than a socket's may be
		"shared_buffers":          cmp.Or(o.SharedBuffers, "512MB"),
		"max_connections":         "200",
		"logging_collector":       "off",
		"log_destination":         "stderr",
	}
	if !o.Durable {
		set["fsync"] = "off"
		set["synchronous_commit"] = "off"
		set["full_page_writes"] = "off"
		set["max_connections"] = "300"
		set["wal_level"] = "minimal"
		set["max_wal_senders"] = "0"
		set["max_wal_size"] = "256MB"
	}
	args := make([]string, 0, 2*len(set))
	for name, value := range set {
		args = append(args, "-c", name+"="+value)
	}
	return args
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port, nil
}
