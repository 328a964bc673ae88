package repository_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/dbtest"
	"github.com/flovyn/promises/shared/migrate"
)

// withRoles is a schema whose roles may do what migrations/access says.
func withRoles(t *testing.T) *dbtest.DB {
	t.Helper()
	db := dbtest.Bare(t)
	_, err := migrate.Run(t.Context(), db.Pool.Config().ConnConfig, migrate.Options{Roles: true})
	require.NoError(t, err)
	return db
}

// What each role may run: the statements of its functions, and of the others those that only read what it reads, or write
// what it writes. A new statement fails the test until it has its line here, and its grants in migrations/access/grants.sql.
func TestRolesMayRunTheirStatements(t *testing.T) {
	t.Parallel()
	db := withRoles(t)
	const app, sweeper, admin = "promises_app", "promises_sweeper", "promises_admin"
	may := map[string][]string{
		"await_settlements":         {app, sweeper},
		"create":                    {app},
		"create_for_promise":        {app},
		"create_key":                {admin},
		"create_tenant":             {admin},
		"delete_empty_workflows":    {sweeper},
		"delete_settled":            {sweeper},
		"expire":                    {app, sweeper},
		"expire_keys":               {sweeper},
		"expire_workflow":           {app, sweeper},
		"extend":                    {app},
		"find_key":                  {app, admin},
		"find_promise_by_key":       {app, sweeper},
		"get":                       {app, sweeper},
		"get_by_workflow_and_name":  {app, sweeper},
		"hold":                      {app},
		"list_events":               {app, sweeper},
		"list_keys":                 {app, admin},
		"list_promises":             {app, sweeper},
		"list_promises_of_workflow": {app, sweeper},
		"list_signing_keys":         {app},
		"list_tenants":              {app, admin},
		"revoke_key":                {admin},
		"revoke_tokens":             {app},
		"settle":                    {app},
		"settle_batch":              {app},
		"suspend_tenant":            {admin},
		"tenant_id":                 {app, sweeper, admin},
		"token_active":              {app},
	}
	conn, err := db.Pool.Acquire(t.Context())
	require.NoError(t, err)
	defer conn.Release()
	files, err := filepath.Glob("queries/*.sql")
	require.NoError(t, err)
	require.Len(t, files, len(may))
	_, err = conn.Exec(t.Context(), "SET plan_cache_mode = force_generic_plan")
	require.NoError(t, err)
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".sql")
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		sql := string(text)
		_, err = conn.Exec(t.Context(), "PREPARE q_"+name+" AS "+sql)
		require.NoError(t, err)
		nulls := "(" + strings.TrimSuffix(strings.Repeat("NULL, ", parameters(sql)), ", ") + ")"
		if parameters(sql) == 0 {
			nulls = ""
		}
		var can []string
		for _, role := range []string{app, sweeper, admin} {
			_, err := conn.Exec(t.Context(), "SET ROLE "+role)
			require.NoError(t, err)
			if _, err = conn.Exec(t.Context(), "EXPLAIN EXECUTE q_"+name+nulls); err == nil {
				can = append(can, role)
			} else {
				requireForbidden(t, err, name+" as "+role)
			}
			_, err = conn.Exec(t.Context(), "RESET ROLE")
			require.NoError(t, err)
		}
		assert.Equal(t, may[name], can, name)
	}
}

func requireForbidden(t *testing.T, err error, what string) {
	t.Helper()
	var e *pgconn.PgError
	require.True(t, errors.As(err, &e), "%s: %v", what, err)
	require.Equal(t, "42501", e.Code, "%s: %v", what, err)
}

// What no role of a function may do, whatever statement it is made to send.
func TestRolesMayDoNothingElse(t *testing.T) {
	t.Parallel()
	db := withRoles(t)
	all := []string{"promises_app", "promises_sweeper", "promises_admin"}
	conn, err := db.Pool.Acquire(t.Context())
	require.NoError(t, err)
	defer conn.Release()
	var schema string
	require.NoError(t, conn.QueryRow(t.Context(), "SELECT current_schema()").Scan(&schema))
	for _, c := range []struct {
		sql   string
		roles []string
	}{
		{"CREATE TABLE mine (x INT)", all},
		{"CREATE TEMP TABLE mine (x INT)", all},
		{"CREATE SCHEMA mine", all},
		{"CREATE ROLE mine", all},
		{"CREATE FUNCTION mine() RETURNS INT LANGUAGE sql AS 'SELECT 1'", all},
		{"CREATE INDEX ON promise (error)", all},
		{"ALTER TABLE promise ADD COLUMN mine INT", all},
		{"ALTER TABLE promise DISABLE TRIGGER ALL", all},
		{"DROP TABLE promise", all},
		{"DROP SCHEMA " + schema + " CASCADE", all},
		{"TRUNCATE workflow_event_row", all},
		{"COPY promise TO PROGRAM 'true'", all},
		{"SELECT * FROM pg_authid", all},
		{"SELECT * FROM promises_schema_version", all},
		{"UPDATE promise SET name = 'x'", all},
		{"UPDATE promise SET tenant_id = gen_random_uuid()", all},
		{"UPDATE promise SET workflow_execution_id = gen_random_uuid()", all},
		{"UPDATE promise SET created_at = NOW()", all},
		{"UPDATE workflow_execution SET tenant_id = gen_random_uuid()", all},
		{"UPDATE workflow_event_row SET event_type = 'x'", all},
		{"UPDATE api_key SET hash = '\\x00'", all},
		{"UPDATE api_key SET scopes = '{}'", all},
		{"UPDATE tenant SET slug = 'x'", all},
		{"DELETE FROM tenant", all},
		{"DELETE FROM api_key", all},
		{"DELETE FROM promise", []string{"promises_app", "promises_admin"}},
		{"DELETE FROM workflow_execution", []string{"promises_app", "promises_admin"}},
		{"DELETE FROM workflow_event_row", []string{"promises_app", "promises_admin"}},
		{"DELETE FROM idempotency_key", []string{"promises_app", "promises_admin"}},
		{"INSERT INTO tenant (slug) VALUES ('x')", []string{"promises_app", "promises_sweeper"}},
		{"UPDATE tenant SET suspended_at = NULL", []string{"promises_app", "promises_sweeper"}},
		{"INSERT INTO api_key (name) VALUES ('x')", []string{"promises_app", "promises_sweeper"}},
		{"UPDATE api_key SET revoked_at = NULL", []string{"promises_app", "promises_sweeper"}},
		{"UPDATE api_key SET tokens_revoked_at = NULL", []string{"promises_app", "promises_sweeper"}},
		{"UPDATE promise SET tokens_revoked_at = NULL", []string{"promises_sweeper", "promises_admin"}},
		{"SELECT hash FROM api_key", []string{"promises_sweeper"}},
		{"SELECT kid FROM signing_key", []string{"promises_sweeper", "promises_admin"}},
		{"INSERT INTO signing_key (kid, public_key) VALUES ('x', '\\x00')", all},
		{"UPDATE signing_key SET verify_until = NULL", all},
		{"DELETE FROM signing_key", all},
		{"SELECT value FROM promise", []string{"promises_admin"}},
		{"SELECT * FROM workflow_event", []string{"promises_admin"}},
		{"SELECT * FROM workflow_event_row", []string{"promises_admin"}},
		{"UPDATE promise SET comment = 'x'", []string{"promises_sweeper", "promises_admin"}},
		{"INSERT INTO promise (name) VALUES ('x')", []string{"promises_sweeper", "promises_admin"}},
	} {
		for _, role := range c.roles {
			_, err := conn.Exec(t.Context(), "SET SESSION AUTHORIZATION "+role)
			require.NoError(t, err)
			_, err = conn.Exec(t.Context(), c.sql)
			requireForbidden(t, err, c.sql+" as "+role)
			_, err = conn.Exec(t.Context(), "SET ROLE promises_owner")
			requireForbidden(t, err, role)
			_, err = conn.Exec(t.Context(), "RESET SESSION AUTHORIZATION")
			require.NoError(t, err)
		}
	}
	_, err = conn.Exec(t.Context(), "SET SESSION AUTHORIZATION promises_owner; CREATE ROLE mine")
	requireForbidden(t, err, "the owner owns the schema and nothing else")
	_, err = conn.Exec(t.Context(), "RESET SESSION AUTHORIZATION")
	require.NoError(t, err)

	// Whatever was granted by hand is taken back by the next migration.
	db.Exec(t, "GRANT DELETE ON promise TO promises_app; GRANT UPDATE (name) ON promise TO promises_app")
	_, err = migrate.Run(t.Context(), db.Pool.Config().ConnConfig, migrate.Options{Roles: true})
	require.NoError(t, err)
	for _, sql := range []string{"DELETE FROM promise", "UPDATE promise SET name = 'x'"} {
		_, err := conn.Exec(t.Context(), "SET SESSION AUTHORIZATION promises_app")
		require.NoError(t, err)
		_, err = conn.Exec(t.Context(), sql)
		requireForbidden(t, err, sql)
		_, err = conn.Exec(t.Context(), "RESET SESSION AUTHORIZATION")
		require.NoError(t, err)
	}
}
