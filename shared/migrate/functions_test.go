package migrate_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/dbtest"
	"github.com/flovyn/promises/shared/migrate"
)

// 00020 replaces database functions, one of them with another signature. It gives up behind a settlement of the previous release, which goes on. The previous
// release's statements work before the new grants and after them, on the connection that prepared them and on a new one.
func TestFunctionsOfThePreviousRelease(t *testing.T) {
	t.Parallel()
	db := dbtest.Bare(t)
	_, err := migrate.RunFiles(t.Context(), config(t, db.URL), filesBefore(t, "00020"), migrate.Options{})
	require.NoError(t, err)
	db.Tenant(t, "acme")
	db.Exec(t, `DO $$
	DECLARE
		function TEXT;
	BEGIN
		BEGIN
			CREATE ROLE promises_app;
		EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; -- all databases of the server share the roles
		END;
		EXECUTE format('GRANT USAGE ON SCHEMA %I TO promises_app', current_schema());
		EXECUTE format('GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA %I TO promises_app', current_schema());
		FOR function IN SELECT oid::REGPROCEDURE FROM pg_proc WHERE pronamespace = current_schema()::REGNAMESPACE LOOP
			EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', function);
			EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO promises_app', function);
		END LOOP;
	END $$`)
	connect := func(t *testing.T) *pgx.Conn {
		t.Helper()
		conn, err := pgx.Connect(t.Context(), db.URL)
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close(context.Background()) })
		_, err = conn.Exec(t.Context(), "SET ROLE promises_app")
		require.NoError(t, err)
		return conn
	}
	run := func(conn *pgx.Conn, name string, args pgx.StrictNamedArgs) (map[string]any, error) {
		rows, _ := conn.Query(t.Context(), previousSQL(t, "00020/"+name), args)
		return pgx.CollectExactlyOneRow(rows, pgx.RowToMap)
	}
	create := func(t *testing.T, conn *pgx.Conn, key string, timeoutAt, outcome, message any) (id any) {
		t.Helper()
		made, err := run(conn, "create", pgx.StrictNamedArgs{
			"tenant": "acme", "workflow": uuid.NewString(), "external_id": nil, "name": "payment", "key": key, "key_ttl": time.Hour,
			"timeout": nil, "timeout_at": timeoutAt, "metadata": nil, "deadline_outcome": outcome, "deadline_value": nil,
			"deadline_error": message, "workflow_limit": 1000, "awaited": false,
		})
		require.NoError(t, err)
		require.Equal(t, "created", made["found"])
		return made["id"]
	}
	settle := func(conn *pgx.Conn, id, key any) (map[string]any, error) {
		return run(conn, "settle", pgx.StrictNamedArgs{
			"tenant": "acme", "id": id, "key": key, "outcome": "resolved", "value": []byte("1"), "error": nil, "kind": "direct", "by": nil,
			"comment": nil,
		})
	}
	first := connect(t)
	calls := func(when string) {
		t.Helper()
		for name, conn := range map[string]*pgx.Conn{"the first connection": first, "a new connection": connect(t)} {
			t.Run(when+" on "+name, func(t *testing.T) {
				key := when + name
				id := create(t, conn, key, nil, nil, nil)
				got, err := settle(conn, nil, key)
				require.NoError(t, err)
				require.Equal(t, []any{"resolved", true, false}, []any{got["state"], got["settled"], got["by_deadline"]})
				got, err = settle(conn, id, nil)
				require.NoError(t, err)
				require.Equal(t, []any{"resolved", false, true}, []any{got["state"], got["settled"], got["same"]})
				_, err = settle(conn, uuid.NewString(), nil)
				require.ErrorIs(t, err, pgx.ErrNoRows)

				overdue := create(t, conn, "overdue"+key, time.Now().Add(-time.Hour), "rejected", "too late")
				for range 2 { // the deadline is recorded by the erasure
					got, err = settle(conn, overdue, nil)
					require.NoError(t, err)
					require.Equal(t, []any{"rejected", true}, []any{got["state"], got["by_deadline"]})
					got, err = run(conn, "erase", pgx.StrictNamedArgs{"tenant": "acme", "id": overdue, "key": nil})
					require.NoError(t, err)
					require.Equal(t, "rejected", got["outcome"])
				}
			})
		}
	}
	const staying = `pronamespace = current_schema()::REGNAMESPACE AND proname <> 'promise_create' AND proname NOT LIKE 'delivery_%'`
	attributes := func() []string {
		return lines(t, db, `SELECT oid::REGPROCEDURE || ' ' || (oid, proowner, proacl, provolatile, proparallel, proisstrict, prosecdef,
				proconfig, procost, prorows, proargnames, prorettype)::TEXT
			FROM pg_proc WHERE `+staying+` ORDER BY 1`)
	}

	calls("before the file")
	before := attributes()
	require.Len(t, before, 15)
	waits := create(t, first, "waits", nil, nil, nil)
	locker, err := db.Pool.Begin(t.Context())
	require.NoError(t, err)
	defer locker.Rollback(context.Background()) //nolint:errcheck // rolled back below, unless the test fails
	_, err = locker.Exec(t.Context(), "SELECT FROM workflow_execution FOR UPDATE")
	require.NoError(t, err)
	pid, waiting := first.PgConn().PID(), make(chan error, 1)
	var settled map[string]any
	go func() {
		var err error
		settled, err = settle(first, waits, nil)
		waiting <- err
	}()
	require.Eventually(t, func() bool {
		return one[bool](t, db, "SELECT COALESCE(wait_event_type = 'Lock', FALSE) FROM pg_stat_activity WHERE pid = $1", pid)
	}, time.Minute, time.Millisecond)
	_, err = migrate.RunFiles(t.Context(), config(t, db.URL), filesBefore(t, "00021"), migrate.Options{})
	require.ErrorContains(t, err, "the tables are in use by other transactions: this file changed nothing")
	require.NoError(t, locker.Rollback(t.Context()))
	require.NoError(t, <-waiting)
	require.Equal(t, true, settled["settled"])
	_, err = migrate.RunFiles(t.Context(), config(t, db.URL), filesBefore(t, "00021"), migrate.Options{})
	require.NoError(t, err)

	t.Run("each function that stays keeps its owner, grants, arguments and settings", func(t *testing.T) {
		require.Equal(t, before, attributes())
	})
	t.Run("promise_create has its new signature alone", func(t *testing.T) {
		require.Equal(t, 15, one[int](t, db, "SELECT pronargs FROM pg_proc WHERE pronamespace = current_schema()::REGNAMESPACE AND proname = 'promise_create'"))
	})
	calls("before the new grants")
	_, err = migrate.Run(t.Context(), config(t, db.URL), migrate.Options{Roles: true})
	require.NoError(t, err)
	calls("after the new grants")
}

// After 00021 the previous release still creates promises and stores early settlements with its own statements and grants, and its sweep lets early
// settlements expire, also those of webhooks. A receipt then stays held, and its event is judged anew.
func TestEarlySettlementsOfThePreviousRelease(t *testing.T) {
	t.Parallel()
	db := dbtest.Bare(t)
	_, err := migrate.RunFiles(t.Context(), config(t, db.URL), filesBefore(t, "00021"), migrate.Options{})
	require.NoError(t, err)
	db.Tenant(t, "acme")
	db.Exec(t, `DO $$
	DECLARE
		function TEXT;
	BEGIN
		BEGIN
			CREATE ROLE promises_app;
		EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; -- all databases of the server share the roles
		END;
		EXECUTE format('GRANT USAGE ON SCHEMA %I TO promises_app', current_schema());
		EXECUTE format('GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA %I TO promises_app', current_schema());
		GRANT UPDATE ON workflow_execution, promise TO promises_app;
		GRANT UPDATE (
			promise_id, expires_at, check_at, held_until, held_at, held_outcome, held_value, held_error, held_by_kind, held_by_id, held_comment
		) ON idempotency_key TO promises_app;
	END $$`)
	connect := func(t *testing.T) *pgx.Conn {
		t.Helper()
		conn, err := pgx.Connect(t.Context(), db.URL)
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close(context.Background()) })
		_, err = conn.Exec(t.Context(), "SET ROLE promises_app")
		require.NoError(t, err)
		return conn
	}
	run := func(t *testing.T, conn *pgx.Conn, name string, args pgx.StrictNamedArgs) map[string]any {
		t.Helper()
		rows, _ := conn.Query(t.Context(), previousSQL(t, "00021/"+name), args)
		row, err := pgx.CollectExactlyOneRow(rows, pgx.RowToMap)
		require.NoError(t, err)
		return row
	}
	create := func(t *testing.T, conn *pgx.Conn, key string) map[string]any {
		t.Helper()
		return run(t, conn, "create", pgx.StrictNamedArgs{
			"tenant": "acme", "workflow": uuid.NewString(), "external_id": nil, "name": "payment", "key": key, "key_ttl": time.Hour,
			"timeout": nil, "timeout_at": nil, "metadata": nil, "deadline_outcome": nil, "deadline_value": nil, "deadline_error": nil,
			"workflow_limit": 1000, "awaited": false, "notify": nil,
		})
	}
	store := func(t *testing.T, conn *pgx.Conn, key string) map[string]any {
		t.Helper()
		return run(t, conn, "store_early", pgx.StrictNamedArgs{
			"tenant": "acme", "key": key, "ttl": time.Hour, "outcome": "resolved", "value": []byte("1"), "error": nil, "kind": "direct", "by": nil,
			"comment": nil, "awaited": false,
		})
	}
	first := connect(t)
	calls := func(when string) {
		t.Helper()
		for name, conn := range map[string]*pgx.Conn{"the first connection": first, "a new connection": connect(t)} {
			t.Run(when+" on "+name, func(t *testing.T) {
				key := when + name
				require.Equal(t, true, store(t, conn, key)["held"])
				require.Equal(t, []any{false, true}, []any{store(t, conn, key)["held"], store(t, conn, key)["same"]})
				require.Equal(t, "resolved", create(t, conn, key)["outcome"])
				require.Nil(t, create(t, conn, "new "+key)["outcome"])
			})
		}
	}
	calls("before the file")
	_, err = migrate.RunFiles(t.Context(), config(t, db.URL), filesBefore(t, "00022"), migrate.Options{})
	require.NoError(t, err)
	calls("after the file, with the old grants")
	_, err = migrate.Run(t.Context(), config(t, db.URL), migrate.Options{Roles: true})
	require.NoError(t, err)
	calls("after the new grants")

	db.Exec(t, "INSERT INTO source (id, tenant_id, name, definition) SELECT gen_random_uuid(), id, 's', '{}' FROM tenant")
	receive := func(t *testing.T, event, key string) string {
		t.Helper()
		return one[string](t, db, `SELECT (receipt_settle('acme', (SELECT id FROM source), $1, 0, gen_random_uuid(), NULL, NULL, $2, 'resolved', '2', NULL,
			INTERVAL '1 hour', NULL, NULL, NULL)).outcome`, event, key)
	}
	t.Run("its create uses the early settlement of a webhook", func(t *testing.T) {
		require.Equal(t, "held", receive(t, "id:1", "webhook"))
		require.Equal(t, "resolved", create(t, first, "webhook")["outcome"])
		require.Equal(t, "settled", receive(t, "id:1", "webhook"))
	})
	for name, end := range map[string]func(t *testing.T, key string){
		"its sweep expires it": func(t *testing.T, _ string) {
			rows, err := db.Pool.Query(t.Context(), previousSQL(t, "00021/expire_idempotency_keys"), pgx.StrictNamedArgs{"limit": 100})
			require.NoError(t, err)
			_, err = pgx.CollectRows(rows, pgx.RowToMap)
			require.NoError(t, err)
		},
		"its early settlement replaces it": func(t *testing.T, key string) {
			require.Equal(t, true, store(t, first, key)["held"])
			require.Equal(t, "resolved", create(t, first, key)["outcome"])
		},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, "held", receive(t, "id:"+name, name))
			db.Exec(t, "UPDATE idempotency_key SET expires_at = NOW(), held_until = NOW(), check_at = NOW() WHERE key = $1", name)
			end(t, name)
			require.Equal(t, "held", one[string](t, db, "SELECT outcome FROM receipt WHERE key = $1", name))
			require.Contains(t, []string{"held", "conflict"}, receive(t, "id:"+name, name))
		})
	}
}

// The planner replaces a call of each rule by its expression, so that a rule costs a statement nothing and may use its indexes.
func TestRulesAreInlined(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	for _, rule := range []string{
		"promise_deadline_outcome(p.timeout_outcome)",
		"promise_by_deadline(p.outcome, p.settled_by_kind)",
		"promise_key_live(k.expires_at, p.resolved, p.timeout_at, NOW())",
		"promise_key_names(k.expires_at, p.resolved, p.resolved_at, p.timeout_at, NOW())",
		"promise_key_uncertain(k.expires_at, p.resolved, p.timeout_at, NOW())",
	} {
		t.Run(rule, func(t *testing.T) {
			t.Parallel()
			plan := lines(t, db, "EXPLAIN (VERBOSE, COSTS OFF) SELECT "+rule+" FROM promise p JOIN idempotency_key k ON k.promise_id = p.id")
			require.NotContains(t, strings.Join(plan, "\n"), rule[:strings.IndexByte(rule, '(')])
		})
	}
}

// After 00022 the previous release still receives webhooks and records when a source was last used, with its own statements.
func TestWebhooksOfThePreviousRelease(t *testing.T) {
	t.Parallel()
	db := dbtest.Bare(t)
	_, err := migrate.RunFiles(t.Context(), config(t, db.URL), filesBefore(t, "00022"), migrate.Options{})
	require.NoError(t, err)
	db.Tenant(t, "acme")
	source := uuid.NewString()
	db.Exec(t, "INSERT INTO source (id, tenant_id, name, definition) SELECT $1, id, 's', '{}' FROM tenant", source)
	first, err := pgx.Connect(t.Context(), db.URL)
	require.NoError(t, err)
	t.Cleanup(func() { _ = first.Close(context.Background()) })
	calls := func(when string) {
		t.Helper()
		for event, outcome := range map[string]string{when: "ignored", "known": "rule_failed"} {
			rows, _ := first.Query(t.Context(), previousSQL(t, "00022/receive"), pgx.StrictNamedArgs{
				"tenant": "acme", "source": source, "event": "id:" + event, "item": 0, "receipt": uuid.NewString(), "id": nil, "rule": nil, "key": nil,
				"outcome": outcome, "value": nil, "error": nil, "hold": nil, "reason": nil, "body_id": uuid.NewString(),
				"body": append([]byte{1}, make([]byte, 40)...),
			})
			row, err := pgx.CollectExactlyOneRow(rows, pgx.RowToMap)
			require.NoError(t, err, when)
			require.Equal(t, outcome, row["outcome"], when)
		}
		_, err := first.Exec(t.Context(), previousSQL(t, "00022/touch_source"), pgx.StrictNamedArgs{"tenant": "acme", "name": "s", "refusal": when})
		require.NoError(t, err, when)
	}
	calls("before the file")
	_, err = migrate.RunFiles(t.Context(), config(t, db.URL), filesBefore(t, "00023"), migrate.Options{})
	require.NoError(t, err)
	calls("after the file")
	require.Equal(t, 3, one[int](t, db, "SELECT COUNT(*) FROM receipt_body"))
}
