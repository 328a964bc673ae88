// Package localpg runs a private Postgres on this machine, for infra/local and the
// tests. The server belongs to the process that starts it. It ends with that
// process, even if the process is killed. The package never touches another server.
//
// It uses the machine's Postgres 15 or later, found in PATH and then in the usual
// folders of Linux distributions and Homebrew. If the machine has none, the package
// downloads one once and keeps it. Postgres refuses to run as root; if root starts
// it, the server runs as the first of serverUsers that exists.
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

	// startTimeout leaves time to replay the log of a crashed cluster.
	startTimeout = 2 * time.Minute
	// stopTimeout leaves time for the checkpoint of a fast shutdown.
	stopTimeout = time.Minute
	// orphanTimeout limits the wait for the shutdown of a server whose owner has died.
	orphanTimeout = 15 * time.Second
)

// Options are the settings of a server. The zero value is a temporary server.
type Options struct {
	// Dir is the data folder. Start creates it if it does not exist, and it stays
	// after the server's end. If Dir is empty, the server gets a temporary folder
	// that is removed at its end. The temporary folder is in memory if the machine
	// has a memory file system with enough space.
	Dir string

	// Fresh deletes the cluster in Dir before the start.
	Fresh bool

	// Durable makes a commit survive a crash of the machine. Without it the server
	// is faster, but a crash of the machine may corrupt the cluster.
	Durable bool

	// SharedBuffers is Postgres's setting shared_buffers, such as "6GB"; the
	// default is 512MB.
	SharedBuffers string

	// Log gets lines about the progress of the start. It may be nil.
	Log io.Writer
}

// A Server is a running Postgres. Its methods are safe for concurrent use.
type Server struct {
	url  string
	dir  *dataDir
	proc *process

	stop    sync.Once
	stopErr error
}

// DefaultDir returns the default data folder: flovyn-promises in the user's cache
// folder. For root it is /var/lib/flovyn-promises, because the server's user cannot
// enter root's own folders. DefaultDir returns an error if the user has no home
// folder. It creates nothing.
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

// Start starts a server and returns once it accepts connections. The server listens
// on a free port of 127.0.0.1. Its database "promises" is empty, or the one that
// Dir already contains. ctx limits the start only; the server continues after ctx
// ends.
//
// Start fails, and leaves no server running, if
//   - the machine has no Postgres 15 or later and the download fails;
//   - another process uses Dir, or Dir contains files of another program;
//   - the cluster in Dir has a major version that is neither installed nor can be
//     downloaded;
//   - root calls it, and the server's user cannot enter Dir;
//   - the server does not start: the error then quotes the end of its log;
//   - ctx ends.
//
// After each of these failures, and after a start that was killed, Start can be
// called again.
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
		_, _ = fmt.Fprintf(log, "Postgres %s: creating a cluster in %s\n", bin.version, dir.path)
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

// errPortTaken is the error of a server whose port another process bound after
// freePort had found it.
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

// await returns once the database accepts connections. It creates the database if
// the cluster has none.
func (s *Server) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout,
		fmt.Errorf("no answer from the server in %v", startTimeout))
	defer cancel()
	// Another process that bound the port may accept the connection and never answer.
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
			return fmt.Errorf("the server stopped during its start; the end of its log:\n%s", s.dir.logTail())
		case <-ctx.Done():
			return fmt.Errorf("%w (%s); the end of its log:\n%s", context.Cause(ctx), s.address(), s.dir.logTail())
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

// URL returns the postgres:// URL of the database. It contains the password.
func (s *Server) URL() string { return s.url }

// Log returns the path of the server's log. Each start overwrites the log. In a
// temporary folder it is removed with the folder.
func (s *Server) Log() string { return s.dir.file(serverLog) }

func (s *Server) address() string {
	u, err := url.Parse(s.url)
	if err != nil {
		return "127.0.0.1"
	}
	return u.Host
}

// Stop disconnects the server's clients, shuts the server down and waits for its
// end. Committed data stays; a temporary folder is removed. A repeated call returns
// the result of the first one. If the server has not ended after a minute, Stop
// kills it and returns an error. The next start then recovers the cluster.
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
		"unix_socket_directories": "", // a socket in Dir could exceed the length limit of its path
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
