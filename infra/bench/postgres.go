package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/shirou/gopsutil/v4/mem"

	"github.com/flovyn/promises/shared/localpg"
	"github.com/flovyn/promises/shared/migrate"
)

const tenant = "demo" // the tenant that the local runner creates

// A cluster is a private Postgres server that commits to disk, as the local runner's does.
type cluster struct {
	dir    string
	server *localpg.Server
	made   int // number of databases created
}

func startPostgres(ctx context.Context, o options, screen *progress) (*cluster, error) {
	screen.say("Postgres")
	buffers := ""
	if o.growth { // the same share as on RDS, so that large databases stay in memory
		memory, err := mem.VirtualMemoryWithContext(ctx)
		if err != nil {
			return nil, err
		}
		buffers = fmt.Sprintf("%dMB", memory.Total/4>>20)
	}
	dir, err := os.MkdirTemp(o.data, "promises-bench-")
	if err != nil {
		return nil, err
	}
	err = os.Chmod(dir, 0o711) // Postgres may have to run as another user
	var server *localpg.Server
	if err == nil {
		server, err = localpg.Start(ctx, localpg.Options{Dir: filepath.Join(dir, "data"), Durable: true, SharedBuffers: buffers})
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	c := &cluster{dir: dir, server: server}
	// Only load makes checkpoints: a checkpoint during a turn would slow down that turn's operation.
	if err := c.set(ctx, "checkpoint_timeout = '1d'", "max_wal_size = '8GB'"); err != nil {
		return nil, errors.Join(err, c.stop())
	}
	return c, nil
}

// set changes settings of the server and reloads them.
func (c *cluster) set(ctx context.Context, settings ...string) error {
	admin, err := pgx.Connect(ctx, c.server.URL())
	if err != nil {
		return err
	}
	defer admin.Close(ctx) //nolint:errcheck // nothing is lost with it
	for _, setting := range settings {
		if _, err := admin.Exec(ctx, "ALTER SYSTEM SET "+setting); err != nil {
			return err
		}
	}
	_, err = admin.Exec(ctx, "SELECT pg_reload_conf()")
	return err
}

func (c *cluster) stop() error { return errors.Join(c.server.Stop(), os.RemoveAll(c.dir)) }

// A dataset is a database that is filled with pending promises.
type dataset struct {
	url         string
	promises    int
	perWorkflow int
	reserved    int // promises that are settled, or reserved for a turn
	created     atomic.Int64
	roundTrip   time.Duration // added to each round trip
}

// nextCreated returns the number of the next promise that an operation creates.
func (db *dataset) nextCreated() int { return int(db.created.Add(1)) }

// load creates a database with promises of the demo tenant. Each promise has an idempotency key and a deadline.
func (c *cluster) load(ctx context.Context, promises, perWorkflow int, screen *progress) (*dataset, error) {
	name := "bench" + strconv.Itoa(c.made)
	c.made++
	admin, err := pgx.Connect(ctx, c.server.URL())
	if err != nil {
		return nil, err
	}
	defer admin.Close(ctx) //nolint:errcheck // nothing is lost with it
	if _, err := admin.Exec(ctx, "CREATE DATABASE "+name); err != nil {
		return nil, err
	}
	u, err := url.Parse(c.server.URL())
	if err != nil {
		return nil, err
	}
	u.Path = "/" + name
	db := &dataset{url: u.String(), promises: promises, perWorkflow: perWorkflow}
	conf, err := pgx.ParseConfig(db.url)
	if err != nil {
		return nil, err
	}
	if _, err := migrate.Run(ctx, conf, migrate.Options{}); err != nil {
		return nil, err
	}
	conn, err := pgx.ConnectConfig(ctx, conf)
	if err != nil {
		return nil, err
	}
	defer conn.Close(ctx) //nolint:errcheck // nothing is lost with it
	for _, sql := range []string{
		"SET synchronous_commit = off",
		"SET session_replication_role = replica", // skips the checks of foreign keys: the rows satisfy them
		"INSERT INTO tenant (slug) VALUES ('" + tenant + "')",
	} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return nil, err
		}
	}
	if err := fill(ctx, conn, promises, perWorkflow, screen); err != nil {
		return nil, err
	}
	screen.say("VACUUM ANALYZE")
	for _, sql := range []string{"VACUUM ANALYZE", "CHECKPOINT"} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return nil, err
		}
	}
	return db, nil
}

// fill inserts the promises with their workflow executions, events and keys.
func fill(ctx context.Context, conn *pgx.Conn, promises, perWorkflow int, screen *progress) error {
	const part = 50_000
	for from := 0; from < promises; from += part {
		screen.say("load %d of %d promises, %d in a workflow", from, promises, perWorkflow)
		to := min(from+part, promises) - 1
		for _, sql := range []string{
			`INSERT INTO workflow_execution (id, tenant_id, last_sequence_number)
			SELECT md5('w' || w)::UUID, (SELECT id FROM tenant), $3::INT
			FROM generate_series(($1::INT + $3 - 1) / $3, $2::INT / $3) w`,
			`INSERT INTO promise (id, workflow_execution_id, tenant_id, name, created_by_sequence, timeout_at, idempotency_key)
			SELECT md5(n::TEXT)::UUID, md5('w' || n / $3)::UUID, (SELECT id FROM tenant), 'step-' || n % $3, 1 + n % $3,
				NOW() + INTERVAL '1 day' + n * INTERVAL '1 ms', 'stripe:ch_' || n
			FROM generate_series($1::INT, $2::INT) n`,
			`INSERT INTO workflow_event_row (workflow_execution_id, sequence_number, event_type, promise_id)
			SELECT md5('w' || n / $3)::UUID, 1 + n % $3, 'PROMISE_CREATED', md5(n::TEXT)::UUID
			FROM generate_series($1::INT, $2::INT) n`,
			`INSERT INTO idempotency_key (tenant_id, key, promise_id, expires_at)
			SELECT (SELECT id FROM tenant), 'stripe:ch_' || n, md5(n::TEXT)::UUID, NOW() + INTERVAL '1 day' + $3::INT * INTERVAL '0'
			FROM generate_series($1::INT, $2::INT) n`,
		} {
			if _, err := conn.Exec(ctx, sql, from, to, perWorkflow); err != nil {
				return fmt.Errorf("load: %w", err)
			}
		}
	}
	return nil
}

// pool connects to the database. If tracer is not nil, it sees each statement.
func (db *dataset) pool(ctx context.Context, size int, tracer pgx.QueryTracer) (*pgxpool.Pool, error) {
	conf, err := pgxpool.ParseConfig(db.url)
	if err != nil {
		return nil, err
	}
	conf.MaxConns = int32(size)
	if db.roundTrip > 0 {
		dial := conf.ConnConfig.DialFunc
		conf.ConnConfig.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dial(ctx, network, address)
			return delayedConn{conn, db.roundTrip}, err
		}
	}
	if tracer != nil {
		conf.ConnConfig.Tracer = tracer
		conf.AfterConnect = readAll
	}
	return pgxpool.NewWithConfig(ctx, conf)
}

// A delayedConn delays each Write by the time of a round trip. pgx sends one Write for each round trip.
type delayedConn struct {
	net.Conn
	trip time.Duration
}

func (c delayedConn) Write(p []byte) (int, error) {
	time.Sleep(c.trip)
	return c.Conn.Write(p)
}

// readAll reads every page of every table and index, so that the connection costs as much as one in long use. A backend's
// first read of a page in shared memory is a page fault, which costs about as much as the rest of the read.
func readAll(ctx context.Context, conn *pgx.Conn) error {
	ctx = context.WithValue(ctx, poolSetup{}, true)
	tx, err := conn.Begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback(ctx) //nolint:errcheck // nothing was written
	for _, setting := range []string{"max_parallel_workers_per_gather = 0", "enable_seqscan = off", "enable_bitmapscan = off", "enable_sort = off"} {
		if _, err := tx.Exec(ctx, "SET LOCAL "+setting); err != nil {
			return err
		}
	}
	rows, err := tx.Query(ctx, `
		SELECT format('SELECT COUNT(ctid) FROM %s', oid::REGCLASS)
		FROM pg_class
		WHERE relnamespace = current_schema()::REGNAMESPACE AND relkind = 'r'
		UNION ALL
		SELECT format('SELECT COUNT(*) FROM (SELECT FROM %s WHERE %s ORDER BY %s) AS all_of_it', c.oid::REGCLASS,
			COALESCE(pg_get_expr(i.indpred, i.indrelid), 'TRUE'),
			(SELECT string_agg(pg_get_indexdef(i.indexrelid, n, TRUE), ', ' ORDER BY n) FROM generate_series(1, i.indnkeyatts) n))
		FROM pg_index i
		JOIN pg_class c ON c.oid = i.indrelid
		WHERE c.relnamespace = current_schema()::REGNAMESPACE`)
	if err != nil {
		return err
	}
	queries, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for _, sql := range queries {
		if _, err := tx.Exec(ctx, sql); err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
	}
	return nil
}

// reserve reserves n promises that no other turn settles, and returns the number of the first.
func (db *dataset) reserve(n int) (first int, _ error) {
	if db.reserved+n > db.promises {
		return 0, fmt.Errorf("all %d promises are settled: raise --promises", db.promises)
	}
	first = db.reserved
	db.reserved += n
	return first, nil
}

// spread maps the n-th settlement to a promise, so that consecutive settlements hit distant pages of the table.
func (db *dataset) spread(n int) int {
	return int(uint64(n) * 2_147_483_647 % uint64(db.promises)) // a prime, so that no promise is returned twice
}
