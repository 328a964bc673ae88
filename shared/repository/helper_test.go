package repository_test

import (
	"cmp"
	"context"
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/dbtest"
	"github.com/flovyn/promises/shared/migrate"
	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/repository"
)

const tenant = "acme"

// setUp returns a repository on a schema of its own, with the tenant.
func setUp(t testing.TB) (*repository.Repository, *dbtest.DB) {
	t.Helper()
	db := dbtest.New(t)
	db.Tenant(t, tenant)
	return repository.New(db.Pool), db
}

// withRoles returns a schema with the roles and grants of migrations/access.
func withRoles(t *testing.T) *dbtest.DB {
	t.Helper()
	db := dbtest.Bare(t)
	_, err := migrate.Run(t.Context(), db.Pool.Config().ConnConfig, migrate.Options{Roles: true})
	require.NoError(t, err)
	return db
}

func poolWith(t testing.TB, url string, change func(*pgxpool.Config)) *pgxpool.Pool {
	t.Helper()
	conf, err := pgxpool.ParseConfig(url)
	require.NoError(t, err)
	change(conf)
	pool, err := pgxpool.NewWithConfig(t.Context(), conf)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool
}

// A stagedDB is a database that calls a test's functions around the repository's
// own calls. Queries and waits are counted from 1.
type stagedDB struct {
	repository.DB
	beforeQuery func(n int) error // if it returns an error, the query fails with it
	beforeWait  func(n int)       // a wait is a call of promise_await_settlements
	afterWait   func(n int)

	queries, waits int
}

func (s *stagedDB) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	s.queries++
	if s.beforeQuery != nil {
		if err := s.beforeQuery(s.queries); err != nil {
			return nil, err
		}
	}
	return s.DB.Query(ctx, sql, args...)
}

func (s *stagedDB) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	s.waits++
	if s.beforeWait != nil {
		s.beforeWait(s.waits)
	}
	tag, err := s.DB.Exec(ctx, sql, args...)
	if s.afterWait != nil {
		s.afterWait(s.waits)
	}
	return tag, err
}

// querySQL returns a statement of queries/ as pgx sends it, with $1, $2, ...
func querySQL(t testing.TB, name string) string {
	t.Helper()
	sql, _ := positional(t, name)
	return sql
}

var argument = regexp.MustCompile(`(?m)--.*$|@(\w+)`)

// positional returns a statement of queries/ as pgx sends it, and the names of
// $1, $2, ...
func positional(t testing.TB, name string) (sql string, names []any) {
	t.Helper()
	text, err := os.ReadFile("queries/" + name + ".sql")
	require.NoError(t, err)
	args := pgx.StrictNamedArgs{}
	for _, found := range argument.FindAllStringSubmatch(string(text), -1) {
		if found[1] != "" {
			args[found[1]] = found[1]
		}
	}
	sql, names, err = args.RewriteQuery(t.Context(), nil, string(text), nil)
	require.NoError(t, err)
	return sql, names
}

// execute returns the EXECUTE command of a prepared statement of queries/. Each
// value is an expression of SQL; an argument without one is NULL.
func execute(t testing.TB, name string, values map[string]string) string {
	t.Helper()
	_, names := positional(t, name)
	texts := make([]string, len(names))
	for i, argument := range names {
		texts[i] = cmp.Or(values[argument.(string)], "NULL")
	}
	for argument := range values {
		require.Contains(t, names, argument)
	}
	if len(texts) == 0 {
		return "EXECUTE q_" + name
	}
	return "EXECUTE q_" + name + " (" + strings.Join(texts, ", ") + ")"
}

// waitForLocks waits until exactly n sessions wait for a lock while they run one
// of the statements of queries/, or any statement if none is given. It counts the
// sessions that use the table in this test's schema.
func waitForLocks(t testing.TB, db *dbtest.DB, n int, table string, statements ...string) {
	t.Helper()
	texts := make([]string, len(statements))
	for i, name := range statements {
		texts[i] = querySQL(t, name)
	}
	require.Eventually(t, func() bool {
		return count(t, db, `SELECT COUNT(DISTINCT a.pid) FROM pg_stat_activity a JOIN pg_locks l ON l.pid = a.pid
			WHERE a.wait_event_type = 'Lock' AND l.relation = $1::TEXT::REGCLASS AND a.query <> '' AND (
				CARDINALITY($2::TEXT[]) = 0 OR EXISTS (SELECT FROM unnest($2::TEXT[]) AS text WHERE starts_with(text, a.query))
			)`, table, texts) == n
	}, time.Minute, 5*time.Millisecond)
}

// A planNode is a node of EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON). Its counts
// include the nodes below it.
type planNode struct {
	IndexName   string     `json:"Index Name"`
	ActualRows  float64    `json:"Actual Rows"`
	ActualLoops float64    `json:"Actual Loops"`
	Removed     float64    `json:"Rows Removed by Filter"`
	SharedHit   int        `json:"Shared Hit Blocks"`
	SharedRead  int        `json:"Shared Read Blocks"`
	TempWritten int        `json:"Temp Written Blocks"`
	WALBytes    int        `json:"WAL Bytes"`
	Plans       []planNode `json:"Plans"`
}

// indexRows adds the rows that were read from each index to rows.
func (n planNode) indexRows(rows map[string]int) {
	if n.IndexName != "" {
		rows[n.IndexName] += int((n.ActualRows + n.Removed) * n.ActualLoops)
	}
	for _, below := range n.Plans {
		below.indexRows(rows)
	}
}

// explain runs a prepared statement, and returns its plan with the actual counts.
func explain(t *testing.T, conn *pgxpool.Conn, name string, values map[string]string) planNode {
	t.Helper()
	rows, err := conn.Query(t.Context(), "EXPLAIN (ANALYZE, BUFFERS, WAL, TIMING OFF, COSTS OFF, FORMAT JSON) "+execute(t, name, values))
	require.NoError(t, err)
	text, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[string])
	require.NoError(t, err)
	var plans []struct{ Plan planNode }
	require.NoError(t, json.Unmarshal([]byte(text), &plans))
	return plans[0].Plan
}

// prepare prepares a statement of queries/ for execute.
func prepare(t *testing.T, conn *pgxpool.Conn, name string) {
	t.Helper()
	_, err := conn.Exec(t.Context(), "PREPARE q_"+name+" AS "+querySQL(t, name))
	require.NoError(t, err)
}

// addManyPromises adds 2,000 promises, so that the planner uses the indexes.
func addManyPromises(t *testing.T, db *dbtest.DB) {
	t.Helper()
	db.Exec(t, `INSERT INTO workflow_execution (id, tenant_id, last_sequence_number)
		SELECT gen_random_uuid(), (SELECT id FROM tenant), 1 FROM generate_series(1, 2000)`)
	db.Exec(t, `INSERT INTO promise (workflow_execution_id, tenant_id, name, created_by_sequence) SELECT id, tenant_id, 'n', 1 FROM workflow_execution`)
	db.Exec(t, `INSERT INTO idempotency_key (tenant_id, key, promise_id, expires_at)
		SELECT tenant_id, id::TEXT, id, NOW() + INTERVAL '1 day' FROM promise`)
	db.Exec(t, "ANALYZE")
}

// relationsReadBy returns the tables and indexes that Postgres counts as read
// while f uses a repository. EXPLAIN shows no plan of a statement inside a
// function. It fails if f reads a whole table, and rolls everything back.
func relationsReadBy(t *testing.T, db *dbtest.DB, f func(*repository.Repository)) (read []string) {
	t.Helper()
	tx, err := db.Pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), "SET LOCAL plan_cache_mode = force_generic_plan")
	require.NoError(t, err)
	before := scans(t, tx)
	f(repository.New(tx))
	for name, n := range scans(t, tx) {
		if n > before[name] {
			read = append(read, name)
		}
	}
	require.NoError(t, tx.Rollback(t.Context()))
	for _, table := range []string{"promise", "workflow_execution", "idempotency_key"} {
		require.NotContains(t, read, table, "a scan of the whole table")
	}
	return read
}

// scans returns the number of scans that the transaction has started on each table
// and index.
func scans(t *testing.T, tx pgx.Tx) map[string]int {
	t.Helper()
	rows, err := tx.Query(t.Context(), `SELECT relname, pg_stat_get_xact_numscans(oid) AS n FROM pg_class
		WHERE relnamespace = current_schema()::REGNAMESPACE AND relkind IN ('r', 'i')`)
	require.NoError(t, err)
	counts := map[string]int{}
	var name string
	var n int
	_, err = pgx.ForEachRow(rows, []any{&name, &n}, func() error { counts[name] = n; return nil })
	require.NoError(t, err)
	return counts
}

func draft(name string) promise.Draft {
	return promise.Draft{WorkflowExecutionID: uuid.New(), Name: name}
}

func withKey(d promise.Draft, key string, ttl time.Duration) promise.Draft {
	d.IdempotencyKey, d.IdempotencyKeyTTL = &key, ttl
	return d
}

func byKey(t testing.TB, key string) promise.Identifier {
	t.Helper()
	i, err := promise.ByIdempotencyKey(key)
	require.NoError(t, err)
	return i
}

var byDirect = promise.By{Kind: promise.KindDirect, ID: "importer"}

func resolved(value []byte) promise.SettleRequest {
	return promise.SettleRequest{
		Result: promise.Result{State: promise.Resolved, Value: value}, By: promise.By{Kind: promise.KindDirect},
	}
}

func rejected(message string) promise.SettleRequest {
	return promise.SettleRequest{
		Result: promise.Result{State: promise.Rejected, Message: &message}, By: promise.By{Kind: promise.KindDirect},
	}
}

// cancelled returns a cancellation. An empty reason is none.
func cancelled(reason string) promise.SettleRequest {
	s := promise.SettleRequest{Result: promise.Result{State: promise.Cancelled}, By: promise.By{Kind: promise.KindDirect}}
	if reason != "" {
		s.Message = &reason
	}
	return s
}

// item returns a settle request as an item of a batch.
func item(i promise.Identifier, s promise.SettleRequest) promise.Item {
	return promise.Item{Promise: i, Result: s.Result, Comment: s.Comment}
}

// create creates a new promise.
func create(t testing.TB, r *repository.Repository, d promise.Draft) promise.Promise {
	t.Helper()
	p, created, err := unpack(r.Create(t.Context(), tenant, d))
	require.NoError(t, err)
	require.True(t, created)
	return p
}

// createOverdue creates a promise whose deadline passed before its creation.
func createOverdue(t testing.TB, r *repository.Repository, slug string, d promise.Draft, ago time.Duration) promise.Promise {
	t.Helper()
	d.TimeoutAt = new(time.Now().Add(-ago))
	created, err := r.Create(t.Context(), slug, d)
	require.NoError(t, err)
	return created.Promise
}

// settleEarly settles by key, or stores an early settlement under it for an hour,
// and requires an outcome.
func settleEarly(
	t testing.TB, r *repository.Repository, key string, s promise.SettleRequest, want promise.Outcome,
) promise.SettleResult {
	t.Helper()
	got, err := r.SettleEarly(t.Context(), tenant, key, s, time.Hour)
	require.NoError(t, err)
	require.Equal(t, want, got.Outcome)
	return got
}

// extend moves a deadline, and requires that Get returns the same promise.
func extend(t testing.TB, r *repository.Repository, i promise.Identifier, d promise.Deadline) promise.Promise {
	t.Helper()
	p, err := r.Extend(t.Context(), tenant, i, d)
	require.NoError(t, err)
	stored, err := r.Get(t.Context(), tenant, i)
	require.NoError(t, err)
	require.Equal(t, p, stored)
	return p
}

// inTime returns an open transaction that has changed a promise before its
// deadline. change sets the deadline, timeout from now, and reports whether it
// changed the promise in time. On a busy machine it gets another transaction and
// twice the time.
func inTime(t *testing.T, db *dbtest.DB, change func(tx pgx.Tx, timeout time.Duration) bool) pgx.Tx {
	t.Helper()
	for timeout := time.Second; ; timeout *= 2 {
		require.Less(t, timeout, 5*time.Minute, "no change was in time")
		tx, err := db.Pool.Begin(t.Context())
		require.NoError(t, err)
		if change(tx, timeout) {
			t.Cleanup(func() { tx.Rollback(context.Background()) }) //nolint:errcheck // the test may have committed it
			return tx
		}
		require.NoError(t, tx.Rollback(t.Context()))
	}
}

// extendedInTime returns a promise with the expired key k, whose deadline has
// passed, and an open transaction that extended the promise in time.
func extendedInTime(t *testing.T, db *dbtest.DB) (promise.Promise, pgx.Tx) {
	t.Helper()
	var p promise.Promise
	tx := inTime(t, db, func(tx pgx.Tx, timeout time.Duration) bool {
		d := withKey(draft("close call, "+timeout.String()), "k", time.Millisecond)
		d.Timeout = &timeout
		p = create(t, repository.New(db.Pool), d)
		_, err := repository.New(tx).Extend(t.Context(), tenant, promise.ByID(p.ID), promise.Deadline{Timeout: new(time.Hour)})
		if err != nil {
			requireCode(t, promise.CodeTimedOut, err)
		}
		return err == nil
	})
	_, err := tx.Exec(t.Context(), "SELECT pg_sleep_until($1::TIMESTAMPTZ + INTERVAL '10 ms')", p.TimeoutAt)
	require.NoError(t, err)
	return p, tx
}

// countAll counts all tenants as the sweep does, in slices of limit rows.
func countAll(t testing.TB, r *repository.Repository, limit int) (changed []promise.Full) {
	t.Helper()
	counts, err := r.Uncounted(t.Context())
	require.NoError(t, err)
	for open := true; open; {
		require.NoError(t, r.CountMore(t.Context(), counts, limit))
		open = false
		for _, c := range counts {
			open = open || !c.PendingDone || !c.EarlyDone
		}
	}
	changed, err = r.StoreCounts(t.Context(), counts)
	require.NoError(t, err)
	return changed
}

// unpack returns the parts of a create's result.
func unpack(c promise.CreateResult, err error) (p promise.Promise, created bool, _ error) {
	return c.Promise, c.New, err
}

// errOf drops a call's result.
func errOf[T any](_ T, err error) error { return err }

func errOf2[T, U any](_ T, _ U, err error) error { return err }

// pageOnly drops a list's report of more pages.
func pageOnly(promises []promise.Promise, _ bool, err error) ([]promise.Promise, error) {
	return promises, err
}

// matches reports whether the filter matches the promise.
func matches(f promise.Filter, p promise.Promise) bool {
	return (f.WorkflowExecutionID == nil || *f.WorkflowExecutionID == p.WorkflowExecutionID) &&
		(f.Name == nil || *f.Name == p.Name) &&
		(f.State == nil || *f.State == p.State) &&
		(f.TimeoutBefore == nil || p.TimeoutAt != nil && p.TimeoutAt.Before(*f.TimeoutBefore))
}

// count returns the number that a query returns.
func count(t testing.TB, db *dbtest.DB, sql string, args ...any) int {
	t.Helper()
	rows, err := db.Pool.Query(t.Context(), sql, args...)
	require.NoError(t, err)
	n, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[int])
	require.NoError(t, err)
	return n
}

// events returns a workflow's log as lines of "number type".
func events(t testing.TB, db *dbtest.DB, workflow uuid.UUID) string {
	t.Helper()
	rows, err := db.Pool.Query(t.Context(), `SELECT sequence_number || ' ' || event_type FROM workflow_event
		WHERE workflow_execution_id = $1 ORDER BY sequence_number`, workflow)
	require.NoError(t, err)
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	return strings.Join(lines, "\n")
}

// requireCode requires an error of that code, and returns it.
func requireCode(t testing.TB, want promise.Code, err error) promise.Error {
	t.Helper()
	require.Error(t, err)
	e := promise.AsError(err)
	require.Equal(t, want, e.Code, "%v", err)
	return *e
}

// requireNotFound requires promise.ErrNotFound itself, without a cause.
func requireNotFound(t testing.TB, err error) {
	t.Helper()
	require.Equal(t, error(promise.ErrNotFound), err)
}

// requireDense requires that each workflow's log has the numbers 1, 2, 3, ... up
// to the last number that was assigned.
func requireDense(t *testing.T, db *dbtest.DB) {
	t.Helper()
	require.Zero(t, count(t, db, `SELECT COUNT(*) FROM workflow_execution w WHERE last_sequence_number <> (
		SELECT COUNT(*) FROM workflow_event e WHERE e.workflow_execution_id = w.id
		AND e.sequence_number BETWEEN 1 AND w.last_sequence_number)`))
}

// requireOneSettlementEach requires n promises, all settled, each with one event of
// its settlement.
func requireOneSettlementEach(t *testing.T, db *dbtest.DB, n int) {
	t.Helper()
	require.Equal(t, n, count(t, db, `SELECT COUNT(*) FROM promise p WHERE resolved AND 1 = (
		SELECT COUNT(*) FROM workflow_event e WHERE e.promise_id = p.id AND e.event_type NOT IN ('PROMISE_CREATED', 'PROMISE_EXTENDED'))`))
}
