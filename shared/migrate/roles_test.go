package migrate_test

import (
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/dbtest"
	"github.com/flovyn/promises/shared/localpg"
	"github.com/flovyn/promises/shared/migrate"
	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/repository"
	"github.com/flovyn/promises/shared/routes"
)

// ownServer starts a server with roles of its own, which stops when the test ends.
func ownServer(t *testing.T) *localpg.Server {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.Chmod(dir, 0o711))               //nolint:gosec // as root, Postgres runs as another user
	require.NoError(t, os.Chmod(filepath.Dir(dir), 0o711)) //nolint:gosec // the same
	server, err := localpg.Start(t.Context(), localpg.Options{Dir: filepath.Join(dir, "data")})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Stop()) })
	return server
}

// A master user like that of RDS, which is no superuser, creates the roles in its own database. It owns no object afterwards, and can
// repeat the run.
func TestRolesByAMasterUser(t *testing.T) {
	t.Parallel()
	server := ownServer(t)
	admin, err := pgx.Connect(t.Context(), server.URL())
	require.NoError(t, err)
	defer admin.Close(t.Context()) //nolint:errcheck // the server stops
	for _, sql := range []string{
		"CREATE ROLE master LOGIN CREATEROLE CREATEDB PASSWORD 'secret'",
		"CREATE ROLE rds_iam", "GRANT rds_iam TO master WITH ADMIN OPTION",
		"CREATE DATABASE workflows OWNER master",
	} {
		_, err := admin.Exec(t.Context(), sql)
		require.NoError(t, err, sql)
	}
	conf := config(t, server.URL())
	conf.User, conf.Password, conf.Database = "master", "secret", "workflows"
	for range 2 {
		result, err := migrate.Run(t.Context(), conf, migrate.Options{Roles: true})
		require.NoError(t, err)
		require.EqualValues(t, 22, result.Version)
	}
	master, err := pgx.ConnectConfig(t.Context(), conf)
	require.NoError(t, err)
	var large bool
	require.NoError(t, master.QueryRow(t.Context(), "SELECT has_function_privilege('promises_app', 'lo_create(oid)', 'EXECUTE')").Scan(&large))
	require.True(t, large, "only a superuser can revoke it, as migrations/README.md says")
	defer master.Close(t.Context()) //nolint:errcheck // the server stops
	owners := func(t *testing.T) (names []string) {
		t.Helper()
		rows, err := master.Query(t.Context(), `SELECT DISTINCT pg_get_userbyid(relowner)::TEXT FROM pg_class
			WHERE relnamespace = 'public'::REGNAMESPACE AND relkind IN ('r', 'i', 'S', 'v', 'c')
			UNION SELECT DISTINCT pg_get_userbyid(proowner)::TEXT FROM pg_proc WHERE pronamespace = 'public'::REGNAMESPACE`)
		require.NoError(t, err)
		names, err = pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(t, err)
		return names
	}
	t.Run("the owner owns every object", func(t *testing.T) { require.Equal(t, []string{migrate.Owner}, owners(t)) })
	t.Run("the functions' roles log in with IAM tokens", func(t *testing.T) { requireIAM(t, master) })
	t.Run("no role has a right on the server", func(t *testing.T) { requireUnprivileged(t, master) })
	t.Run("each role executes exactly its functions", func(t *testing.T) { requireExecutable(t, master) })
}

func requireIAM(t *testing.T, master *pgx.Conn) {
	t.Helper()
	var n int
	require.NoError(t, master.QueryRow(t.Context(), `SELECT COUNT(*) FROM pg_auth_members m
		WHERE m.roleid = 'rds_iam'::REGROLE AND pg_get_userbyid(m.member) LIKE 'promises\_%'`).Scan(&n))
	require.Equal(t, 7, n)
}

func requireUnprivileged(t *testing.T, master *pgx.Conn) {
	t.Helper()
	var n int
	require.NoError(t, master.QueryRow(t.Context(), `SELECT COUNT(*) FROM pg_roles
		WHERE rolname LIKE 'promises\_%' AND (rolsuper OR rolcreaterole OR rolcreatedb OR rolbypassrls OR rolreplication
			OR rolcanlogin AND rolname = 'promises_owner')`).Scan(&n))
	require.Zero(t, n)
}

func requireExecutable(t *testing.T, master *pgx.Conn) {
	t.Helper()
	rows, err := master.Query(t.Context(), `SELECT r.rolname || ' ' || p.proname FROM pg_proc p
		JOIN pg_roles r ON r.rolname LIKE 'promises\_%' AND r.rolname <> 'promises_owner' AND has_function_privilege(r.oid, p.oid, 'EXECUTE')
		WHERE p.pronamespace = 'public'::REGNAMESPACE ORDER BY 1`)
	require.NoError(t, err)
	calls, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	require.Equal(t, []string{
		"promises_admin tenant_contents", "promises_admin tenant_delete",
		"promises_app delivery_create", "promises_app delivery_renew",
		"promises_app promise_await_settlements", "promises_app promise_by_deadline", "promises_app promise_create",
		"promises_app promise_deadline_outcome", "promises_app promise_erase", "promises_app promise_key_live",
		"promises_app promise_key_names", "promises_app promise_key_uncertain", "promises_app promise_race_lost", "promises_app promise_settle",
		"promises_app promise_settle_early", "promises_app receipt_end", "promises_manager receipt_preview", "promises_manager receipt_settle",
		"promises_reader promise_await_settlements", "promises_reader promise_deadline_outcome", "promises_reader promise_key_names",
		"promises_sweeper promise_deadline_outcome", "promises_sweeper promise_key_live", "promises_sweeper promise_key_names",
		"promises_sweeper promise_race_lost", "promises_sweeper receipt_end", "promises_webhook receipt_settle",
	}, calls)
}

// RDS Proxy does not forward cancel requests. Therefore the server ends long statements of each role that a function connects as. The
// owner's statements, such as a migration's, have no limit.
func TestRolesEndTheirStatements(t *testing.T) {
	t.Parallel()
	server := ownServer(t)
	conf := config(t, server.URL())
	_, err := migrate.Run(t.Context(), conf, migrate.Options{Roles: true})
	require.NoError(t, err)
	admin, err := pgx.ConnectConfig(t.Context(), conf)
	require.NoError(t, err)
	t.Run("the owner has no limit", func(t *testing.T) {
		_, err := admin.Exec(t.Context(), "SET ROLE promises_owner")
		require.NoError(t, err)
		require.Equal(t, "0", timeoutOf(t, admin))
		_, err = admin.Exec(t.Context(), "RESET ROLE")
		require.NoError(t, err)
	})
	settings := map[string]string{"promises_app": "5s", "promises_reader": "5s", "promises_sweeper": "12s", "promises_admin": "5s",
		"promises_relay": "5s", "promises_manager": "5s", "promises_webhook": "5s"}
	for _, f := range routes.Functions {
		if f.Role != "" {
			require.Contains(t, settings, f.Role, "%s: a function's role needs a statement_timeout in migrations/access/roles.sql", f.Name)
		}
	}
	for role := range settings {
		_, err = admin.Exec(t.Context(), "ALTER ROLE "+role+" PASSWORD 'secret'")
		require.NoError(t, err)
	}
	workflow := uuid.NewString()
	_, err = admin.Exec(t.Context(), `INSERT INTO tenant (slug) VALUES ('acme');
		INSERT INTO workflow_execution (id, tenant_id) SELECT '`+workflow+`', id FROM tenant;
		INSERT INTO promise (workflow_execution_id, tenant_id, name, created_by_sequence)
			SELECT '`+workflow+`', id, 'p', 1 FROM tenant`, pgx.QueryExecModeSimpleProtocol)
	require.NoError(t, err)
	require.NoError(t, admin.Close(t.Context()))

	for role, setting := range settings {
		t.Run(role, func(t *testing.T) {
			t.Parallel()
			as := conf.Copy()
			as.User, as.Password = role, "secret"
			conn, err := pgx.ConnectConfig(t.Context(), as)
			require.NoError(t, err)
			defer conn.Close(t.Context()) //nolint:errcheck // the server stops
			require.Equal(t, setting, timeoutOf(t, conn))
			_, err = conn.Exec(t.Context(), "SELECT pg_sleep(3600)")
			var pg *pgconn.PgError
			require.ErrorAs(t, err, &pg)
			require.Equal(t, "57014", pg.Code)
		})
	}
	t.Run("a settlement", func(t *testing.T) {
		t.Parallel()
		blocker, err := pgx.ConnectConfig(t.Context(), conf)
		require.NoError(t, err)
		defer blocker.Close(t.Context()) //nolint:errcheck // the server stops
		_, err = blocker.Exec(t.Context(), "BEGIN; SELECT FROM workflow_execution FOR UPDATE")
		require.NoError(t, err)
		as, err := pgxpool.ParseConfig(server.URL())
		require.NoError(t, err)
		as.ConnConfig.User, as.ConnConfig.Password = "promises_app", "secret"
		pool, err := pgxpool.NewWithConfig(t.Context(), as)
		require.NoError(t, err)
		defer pool.Close()
		var id uuid.UUID
		require.NoError(t, pool.QueryRow(t.Context(), "SELECT id FROM promise").Scan(&id))
		_, err = repository.New(pool).Settle(t.Context(), "acme", promise.ByID(id), promise.SettleRequest{Result: promise.Result{State: promise.Resolved, Value: []byte("1")}, By: promise.By{Kind: promise.KindDirect}})
		failure := promise.AsError(err)
		require.Equal(t, promise.CodeUnavailable, failure.Code)
		require.ErrorContains(t, failure.Cause, "57014")
	})
}

func timeoutOf(t *testing.T, conn *pgx.Conn) (setting string) {
	t.Helper()
	require.NoError(t, conn.QueryRow(t.Context(), "SHOW statement_timeout").Scan(&setting))
	return setting
}

// A run with roles on a database that was migrated without roles makes the owner own every object.
func TestRolesTakeOver(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	db.Tenant(t, "acme")
	_, err := migrate.Run(t.Context(), config(t, db.URL), migrate.Options{Roles: true})
	require.NoError(t, err)
	require.Zero(t, one[int](t, db, `SELECT COUNT(*) FROM pg_class WHERE relnamespace = current_schema()::REGNAMESPACE
		AND relowner <> 'promises_owner'::REGROLE`))
	require.Equal(t, 1, one[int](t, db, "SELECT COUNT(*) FROM tenant"))
}

// A type of another owner that has the name of a later file's type keeps its owner, and the run fails.
func TestRoles_ForeignTypeKeepsItsOwner(t *testing.T) {
	t.Parallel()
	db := dbtest.Bare(t)
	_, err := migrate.RunFiles(t.Context(), config(t, db.URL), filesBefore(t, "00018"), migrate.Options{})
	require.NoError(t, err)
	db.Exec(t, "CREATE TYPE settle_result AS (a INT)")
	const owner = "SELECT typowner::REGROLE = current_user::REGROLE FROM pg_type WHERE oid = 'settle_result'::REGTYPE"
	require.True(t, one[bool](t, db, owner))
	_, err = migrate.Run(t.Context(), config(t, db.URL), migrate.Options{Roles: true})
	require.ErrorContains(t, err, "settle_result")
	require.True(t, one[bool](t, db, owner))
}

// Concurrent runs with roles succeed, although all schemas share the roles.
func TestRolesAtOnce(t *testing.T) {
	t.Parallel()
	var wg sync.WaitGroup
	errs := make([]error, 6)
	db := dbtest.Bare(t)
	for i := range errs {
		conf := config(t, db.URL)
		if i%2 == 0 {
			conf = config(t, dbtest.Bare(t).URL)
		}
		wg.Go(func() { _, errs[i] = migrate.Run(t.Context(), conf, migrate.Options{Roles: true}) })
	}
	wg.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
}

// A deployment that is rolled back runs the previous release's migrate on the later release's database. It changes nothing.
func TestADatabaseOfALaterRelease(t *testing.T) {
	t.Parallel()
	db := dbtest.Bare(t)
	later := fstest.MapFS{}
	for _, name := range []string{"00001_a.sql", "00900_b.sql"} {
		later[name] = &fstest.MapFile{Data: []byte("-- +goose Up\nCREATE TABLE t" + name[1:5] + " (x INT);\n")}
	}
	_, err := migrate.RunFiles(t.Context(), config(t, db.URL), later, migrate.Options{})
	require.NoError(t, err)
	tables := one[int](t, db, "SELECT COUNT(*) FROM pg_class WHERE relnamespace = current_schema()::REGNAMESPACE")
	for name, o := range map[string]migrate.Options{"a run": {}, "a run with roles": {Roles: true}} {
		t.Run(name, func(t *testing.T) {
			result, err := migrate.Run(t.Context(), config(t, db.URL), o)
			require.NoError(t, err)
			require.Equal(t, migrate.Result{Version: 900, Applied: []string{}}, result)
			require.Equal(t, tables, one[int](t, db, "SELECT COUNT(*) FROM pg_class WHERE relnamespace = current_schema()::REGNAMESPACE"))
		})
	}
	t.Run("a rehearsal", func(t *testing.T) {
		r, err := migrate.Rehearse(t.Context(), config(t, db.URL))
		require.NoError(t, err)
		require.Empty(t, r.Files)
	})
}
