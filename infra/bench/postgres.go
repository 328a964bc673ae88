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

const tenant = "demo" // the local runner's

// cluster is a private Postgres, durable as the local runner's is.
type cluster struct {
	dir    string
	server *localpg.Server
	made   int // databases
}

func startPostgres(ctx context.Context, o options, screen *progress) (*cluster, error) {
	screen.say("Postgres")
	buffers := ""
	if o.growth { // as much as RDS gives, so that what is large lies in memory
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
	// No checkpoint but those of load, which would make whoever's turn it is pay.
	if err := c.set(ctx, "checkpoint_timeout = '1d'", "max_wal_size = '8GB'"); err != nil {
		return nil, errors.Join(err, c.stop())
	}
	return c, nil
}

// set changes settings of the server.
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

// loaded is a database with promises, all of them pending.
type loaded struct {
	url         string
	promises    int
	perWorkflow int
	used        int // have been settled, or are about to be
	added       atomic.Int64
	trip        time.Duration // what a round trip takes besides
}

// more numbers the promises that are created.
func (db *loaded) more() int { return int(db.added.Add(1)) }

// load makes a database with that many promises of the demo tenant, each with an idempotency key and a deadline.
func (c *cluster) load(ctx context.Context, promises, perWorkflow int, screen *progress) (*loaded, error) {
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
	db := &loaded{url: u.String(), promises: promises, perWorkflow: perWorkflow}
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
		"SET session_replication_role = replica", // foreign keys hold by how the rows are made
		"INSERT INTO tenant (slug) VALUES ('" + tenant + "')",
	} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return nil, err
		}
	}
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
				return nil, fmt.Errorf("load: %w", err)
			}
		}
	}
	screen.say("VACUUM ANALYZE")
	for _, sql := range []string{"VACUUM ANALYZE", "CHECKPOINT"} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return nil, err
		}
	}
	return db, nil
}

// pool connects to it; tracer, if it is not nil, is shown what is sent.
func (db *loaded) pool(ctx context.Context, size int, tracer pgx.QueryTracer) (*pgxpool.Pool, error) {
	conf, err := pgxpool.ParseConfig(db.url)
	if err != nil {
		return nil, err
	}
	conf.MaxConns = int32(size)
	if db.trip > 0 {
		dial := conf.ConnConfig.DialFunc
		conf.ConnConfig.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dial(ctx, network, address)
			return far{conn, db.trip}, err
		}
	}
	if tracer != nil {
		conf.ConnConfig.Tracer = tracer
		conf.AfterConnect = readAll
	}
	return pgxpool.NewWithConfig(ctx, conf)
}

// far is a connection to something that is so far away. What pgx sends for one round trip is one Write.
type far struct {
	net.Conn
	trip time.Duration
}

func (c far) Write(p []byte) (int, error) {
	time.Sleep(c.trip)
	return c.Conn.Write(p)
}

// readAll reads every page of every table and index, as a connection has that has been in use for long: the first time that a
// process of Postgres looks at a page of the memory that they share costs about as much as the rest of the look.
func readAll(ctx context.Context, conn *pgx.Conn) error {
	ctx = context.WithValue(ctx, ofPool{}, true)
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
	everything, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for _, sql := range everything {
		if _, err := tx.Exec(ctx, sql); err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
	}
	return nil
}

// take sets n promises apart, for one to settle each.
func (db *loaded) take(n int) (first int, _ error) {
	if db.used+n > db.promises {
		return 0, fmt.Errorf("%d promises are too few: all have been settled", db.promises)
	}
	first = db.used
	db.used += n
	return first, nil
}

// pick spreads the n-th promise to be settled over the whole table: neighbours in time are no neighbours in it.
func (db *loaded) pick(n int) int {
	return int(uint64(n) * 2_147_483_647 % uint64(db.promises)) // a prime, so that no promise comes twice
}
