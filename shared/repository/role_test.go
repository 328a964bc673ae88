package repository_test

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/migrate"
)

// Each role may run the statements of its functions, and any statement that needs no other rights. A new statement fails the test until it
// has a line here, and its grants in migrations/access/grants.sql.
func TestRolesMayRunTheirStatements(t *testing.T) {
	t.Parallel()
	db := withRoles(t)
	const app, reader, sweeper, admin = "promises_app", "promises_reader", "promises_sweeper", "promises_admin"
	const relay, manager, webhook = "promises_relay", "promises_manager", "promises_webhook"
	may := map[string][]string{
		"await_settlements":               {app, reader},
		"claim_recount":                   {app},
		"count_early":                     {app, reader, sweeper},
		"count_pending":                   {app, reader, sweeper, relay},
		"begin_test":                      {manager},
		"begin_wait":                      {reader},
		"create":                          {app},
		"add_idempotency_key":             {app},
		"create_api_key":                  {admin},
		"create_tenant":                   {admin},
		"delete_empty_workflows":          {sweeper},
		"delete_settled":                  {sweeper},
		"delete_tenant":                   {admin},
		"end_test":                        {relay, manager},
		"end_wait":                        {reader},
		"erase":                           {app},
		"expire":                          {app, sweeper},
		"expire_idempotency_keys":         {sweeper},
		"expire_workflow":                 {app, sweeper},
		"extend":                          {app},
		"find_deleted_tenant":             {admin},
		"find_api_key":                    {app, reader, admin, manager},
		"find_promise_by_idempotency_key": {app, reader, sweeper},
		"find_tenant":                     {app, reader, sweeper, admin, manager, webhook},
		"get":                             {app, reader},
		"get_by_workflow_and_name":        {app, reader, sweeper, relay},
		"store_early":                     {app},
		"keep_wait":                       {reader},
		"list_deliveries":                 {app, reader, relay},
		"list_deliveries_of_promise":      {app, reader, relay},
		"retry_delivery":                  {app, relay},
		"retry_dead_deliveries":           {app, relay},
		"list_events":                     {app, reader, sweeper},
		"list_api_keys":                   {app, reader, admin, manager},
		"list_promises":                   {app, reader, sweeper, relay},
		"list_promises_due":               {app, reader, sweeper, relay},
		"list_promises_of_workflow":       {app, reader, sweeper},
		"list_signing_keys":               {app, reader, manager},
		"list_tenants":                    {app, reader, sweeper, admin, manager, webhook},
		"mark_deleted":                    {admin},
		"recount_workflow":                {app},
		"revoke_api_key":                  {admin},
		"revoke_tokens":                   {app},
		"set_limits":                      {admin},
		"settle":                          {app},
		"settle_batch":                    {app},
		"store_counts":                    {sweeper},
		"suspend_tenant":                  {admin},
		"tenant_contents":                 {admin},
		"tenant_id":                       {app, reader, sweeper, admin, relay, manager, webhook},
		"token_active":                    {app, reader},
		"put_destination":                 {admin, manager},
		"enable_destination":              {admin, relay, manager},
		"delete_destination":              {admin, manager},
		"set_default_destination":         {admin, manager},
		"list_texts_to_reseal":            {admin, manager},
		"list_destinations":               {admin, relay, manager},
		"get_destination":                 {relay, manager},
		"rotate_destination_secret":       {manager},
		"reseal_texts":                    {admin},
		"delete_destinations":             {sweeper},
		"claim_deliveries":                {relay},
		"record_deliveries":               {relay},
		"find_due":                        {relay},
		"find_all_due":                    {relay},
		"end_deliveries":                  {app, relay},
		"expire_leases":                   {relay},
		"uncounted_tenants":               {app, reader, sweeper, admin, relay, manager, webhook},
		"receive":                         {manager, webhook},
		"preview_receipt":                 {manager},
		"get_source":                      {manager, webhook},
		"list_sources":                    {manager, webhook},
		"create_source":                   {manager},
		"change_source":                   {manager},
		"delete_source":                   {manager},
		"touch_source":                    {webhook},
		"list_receipts":                   {reader, manager},
		"list_receipts_of_source":         {reader, manager},
		"list_receipts_of_key":            {reader, manager},
		"list_receipts_of_promise":        {reader, manager},
		"get_receipt":                     {manager},
		"delete_receipts":                 {sweeper},
		"refresh_held":                    {sweeper},
		"count_silent_sources":            {sweeper, manager, webhook},
	}
	conn, err := db.Pool.Acquire(t.Context())
	require.NoError(t, err)
	defer conn.Release()
	files, err := filepath.Glob("queries/*.sql")
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), "SET plan_cache_mode = force_generic_plan")
	require.NoError(t, err)
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".sql")
		t.Run(name, func(t *testing.T) {
			require.Contains(t, may, name, "the list has no roles for the statement")
			prepare(t, conn, name)
			var can []string
			for _, role := range []string{app, reader, sweeper, admin, relay, manager, webhook} {
				_, err := conn.Exec(t.Context(), "SET ROLE "+role)
				require.NoError(t, err)
				if _, err = conn.Exec(t.Context(), "EXPLAIN "+execute(t, name, nil)); err == nil {
					can = append(can, role)
				} else {
					requireForbidden(t, err, name+" as "+role)
				}
				_, err = conn.Exec(t.Context(), "RESET ROLE")
				require.NoError(t, err)
			}
			require.Equal(t, may[name], can)
		})
	}
	require.Len(t, files, len(may))
}

func requireForbidden(t *testing.T, err error, what string) {
	t.Helper()
	var e *pgconn.PgError
	require.True(t, errors.As(err, &e), "%s: %v", what, err)
	require.Equal(t, "42501", e.Code, "%s: %v", what, err)
}

// Each of these statements fails for each of its roles, even if an attacker makes a function send it.
func TestRolesMayDoNothingElse(t *testing.T) {
	t.Parallel()
	db := withRoles(t)
	all := []string{
		"promises_app", "promises_reader", "promises_sweeper", "promises_admin", "promises_manager", "promises_webhook", "promises_relay",
	}
	allButRelay := all[:6]
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
		{"UPDATE tenant SET max_held = 1", []string{"promises_app", "promises_sweeper"}},
		{"UPDATE tenant SET pending_full = FALSE", []string{"promises_app"}},
		{"UPDATE tenant SET deleted_at = NOW()", []string{"promises_app", "promises_sweeper"}},
		{"UPDATE tenant_usage SET held = 0", []string{"promises_app", "promises_admin"}},
		{"DELETE FROM tenant_usage", all},
		{"DELETE FROM deleted_tenant", all},
		{"SELECT tenant_delete('x', 1)", []string{"promises_app", "promises_sweeper"}},
		{"SELECT tenant_contents('x', 1)", []string{"promises_app", "promises_sweeper"}},
		{"DELETE FROM tenant", all},
		{"DELETE FROM api_key", all},
		{"UPDATE tenant_wait SET tenant_id = gen_random_uuid()", all},
		{"SELECT * FROM tenant_wait", []string{"promises_sweeper", "promises_admin"}},
		{"UPDATE tenant SET max_waits = 1000", []string{"promises_app", "promises_reader", "promises_sweeper"}},
		{"DELETE FROM promise", []string{"promises_app", "promises_reader", "promises_admin"}},
		{"DELETE FROM workflow_execution", []string{"promises_app", "promises_reader", "promises_admin"}},
		{"DELETE FROM workflow_event_row", []string{"promises_app", "promises_reader", "promises_admin"}},
		{"DELETE FROM idempotency_key", []string{"promises_app", "promises_reader", "promises_admin"}},
		{"INSERT INTO tenant (slug) VALUES ('x')", []string{"promises_app", "promises_reader", "promises_sweeper"}},
		{"UPDATE tenant SET suspended_at = NULL", []string{"promises_app", "promises_reader", "promises_sweeper"}},
		{"INSERT INTO api_key (name) VALUES ('x')", []string{"promises_app", "promises_reader", "promises_sweeper"}},
		{"UPDATE api_key SET revoked_at = NULL", []string{"promises_app", "promises_reader", "promises_sweeper"}},
		{"UPDATE api_key SET tokens_revoked_at = NULL", []string{"promises_app", "promises_reader", "promises_sweeper"}},
		{"UPDATE promise SET tokens_revoked_at = NULL", []string{"promises_reader", "promises_sweeper", "promises_admin"}},
		{"SELECT hash FROM api_key", []string{"promises_sweeper"}},
		{"SELECT kid FROM signing_key", []string{"promises_sweeper", "promises_admin"}},
		{"INSERT INTO signing_key (kid, public_key) VALUES ('x', '\\x00')", all},
		{"UPDATE signing_key SET verify_until = NULL", all},
		{"DELETE FROM signing_key", all},
		{"SELECT value FROM promise", []string{"promises_admin", "promises_manager"}},
		{"SELECT * FROM workflow_event", all},
		{"SELECT * FROM workflow_event_row", []string{"promises_admin"}},
		{"UPDATE promise SET comment = 'x'", []string{"promises_reader", "promises_sweeper", "promises_admin"}},
		{"INSERT INTO promise (name) VALUES ('x')", []string{"promises_reader", "promises_sweeper", "promises_admin"}},
		{"UPDATE promise SET erased_at = NOW()", all},
		{"UPDATE promise SET metadata = NULL", all},
		{"UPDATE promise SET timeout_value = NULL", all},
		{"UPDATE promise SET idempotency_key = 'x'", all},
		{"SELECT promise_erase('acme', NULL, NULL)", []string{"promises_reader", "promises_sweeper", "promises_admin"}},
		{"SELECT FROM workflow_execution FOR SHARE", []string{"promises_reader", "promises_admin"}},
		{"SELECT FROM tenant FOR SHARE", []string{"promises_app", "promises_reader"}},
		{"INSERT INTO workflow_execution (id) VALUES (gen_random_uuid())", []string{"promises_reader", "promises_sweeper", "promises_admin"}},
		{"INSERT INTO idempotency_key (key) VALUES ('x')", []string{"promises_reader", "promises_sweeper", "promises_admin"}},
		{"INSERT INTO workflow_event_row (event_type) VALUES ('x')", []string{"promises_reader", "promises_admin"}},
		{"UPDATE idempotency_key SET promise_id = NULL", []string{"promises_reader", "promises_admin"}},
		{"UPDATE idempotency_key SET tenant_id = NULL, key = 'x'", []string{"promises_app", "promises_reader", "promises_admin"}},
		{"UPDATE workflow_execution SET last_sequence_number = 1", []string{"promises_reader", "promises_admin"}},
		{"SELECT promise_race_lost(NULL)", []string{"promises_reader", "promises_admin"}},
		{"SELECT token FROM delivery", allButRelay},
		{"SELECT * FROM delivery", allButRelay},
		{"UPDATE delivery SET token = 'x'", all},
		{"UPDATE delivery SET destination_id = gen_random_uuid()", all},
		{"UPDATE delivery SET last_error = 'x'", allButRelay},
		{"UPDATE delivery SET state = 'due'", []string{"promises_reader", "promises_sweeper", "promises_admin", "promises_manager"}},
		{"SELECT last_error FROM delivery", []string{"promises_sweeper", "promises_admin", "promises_manager"}},
		{"INSERT INTO delivery (token) VALUES ('x')", all},
		{"DELETE FROM delivery", all},
		{"DELETE FROM delivery_lease", all[:4]},
		{"UPDATE delivery_lease SET expires_at = NOW()", allButRelay},
		{"SELECT address FROM destination", []string{"promises_app", "promises_reader", "promises_sweeper"}},
		{"SELECT role_arn FROM destination", []string{"promises_app", "promises_reader", "promises_sweeper"}},
		{"INSERT INTO destination (name) VALUES ('x')", []string{"promises_app", "promises_reader", "promises_sweeper", "promises_relay"}},
		{"UPDATE destination SET address = 'x'", []string{"promises_app", "promises_reader", "promises_sweeper", "promises_relay"}},
		{"UPDATE destination SET tenant_id = gen_random_uuid()", all},
		{"UPDATE destination SET name = 'x'", all},
		{"UPDATE destination SET kind = 'sqs'", all},
		{"SELECT sealed FROM destination_secret", []string{"promises_app", "promises_reader", "promises_sweeper"}},
		{"INSERT INTO destination_secret (sealed) VALUES ('x')", []string{"promises_app", "promises_reader", "promises_sweeper", "promises_relay"}},
		{"UPDATE destination_secret SET sealed = 'x'", []string{"promises_app", "promises_reader", "promises_sweeper", "promises_relay", "promises_manager"}},
		{"SELECT FROM promise", []string{"promises_webhook", "promises_manager"}},
		{"SELECT FROM idempotency_key", []string{"promises_webhook", "promises_manager"}},
		{"SELECT FROM workflow_execution", []string{"promises_webhook", "promises_manager"}},
		{"SELECT FROM workflow_event_row", []string{"promises_webhook", "promises_manager"}},
		{"SELECT FROM api_key", []string{"promises_webhook"}},
		{"SELECT FROM destination", []string{"promises_webhook"}},
		{"SELECT FROM destination_secret", []string{"promises_webhook"}},
		{"SELECT FROM delivery", []string{"promises_webhook"}},
		{"SELECT promise_settle(NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)", []string{"promises_webhook", "promises_manager"}},
		{"SELECT receipt_end(NULL, NULL, NULL, NULL, NULL, NULL)", []string{"promises_webhook", "promises_manager", "promises_reader"}},
		{"SELECT FROM receipt", []string{"promises_app", "promises_webhook", "promises_admin", "promises_relay"}},
		{"INSERT INTO receipt (event) VALUES ('x')", all},
		{"UPDATE receipt SET promise_id = NULL", all},
		{"UPDATE receipt SET expires_at = NOW()", all},
		{"DELETE FROM receipt", []string{"promises_app", "promises_reader", "promises_admin", "promises_manager", "promises_webhook", "promises_relay"}},
		{"SELECT sealed FROM receipt_body", []string{"promises_app", "promises_reader", "promises_sweeper", "promises_webhook", "promises_relay"}},
		{"INSERT INTO receipt_body (sealed) VALUES ('x')", all},
		{"DELETE FROM receipt_body", []string{"promises_app", "promises_reader", "promises_admin", "promises_manager", "promises_webhook", "promises_relay"}},
		{"SELECT definition FROM source", []string{"promises_app", "promises_reader", "promises_sweeper", "promises_admin", "promises_relay"}},
		{"INSERT INTO source (name) VALUES ('x')", []string{"promises_app", "promises_reader", "promises_sweeper", "promises_admin", "promises_relay", "promises_webhook"}},
		{"UPDATE source SET definition = 'x'", []string{"promises_app", "promises_reader", "promises_sweeper", "promises_admin", "promises_relay", "promises_webhook"}},
		{"UPDATE source SET enabled = TRUE", []string{"promises_app", "promises_reader", "promises_sweeper", "promises_admin", "promises_relay", "promises_webhook"}},
		{"UPDATE source SET tenant_id = gen_random_uuid()", all},
		{"UPDATE source SET name = 'x'", all},
		{"DELETE FROM source", []string{"promises_app", "promises_reader", "promises_sweeper", "promises_admin", "promises_relay", "promises_webhook"}},
		{"SELECT sealed FROM source_secret", []string{"promises_app", "promises_reader", "promises_sweeper", "promises_relay"}},
		{"INSERT INTO source_secret (sealed) VALUES ('x')", []string{"promises_app", "promises_reader", "promises_sweeper", "promises_admin", "promises_relay", "promises_webhook"}},
		{"UPDATE source_secret SET sealed = 'x'", []string{"promises_app", "promises_reader", "promises_sweeper", "promises_relay", "promises_manager", "promises_webhook"}},
		{"DELETE FROM source_secret", []string{"promises_app", "promises_reader", "promises_admin", "promises_relay", "promises_webhook"}},
		{"SET session_replication_role = replica", all},
		{"SELECT lo_creat(-1)", all},
		{"SELECT lo_create(0)", all},
		{"SELECT lo_from_bytea(0, 'x')", all},
		{"SELECT lo_put(1, 0, 'x')", all},
		{"SELECT lo_import('/etc/passwd')", all},
		{"SELECT lo_open(1, 131072)", all},
		{"SELECT lowrite(0, 'x')", all},
		{"SELECT lo_truncate(0, 0)", all},
		{"SELECT lo_truncate64(0, 0)", all},
	} {
		for _, role := range c.roles {
			t.Run(role+": "+c.sql, func(t *testing.T) {
				_, err := conn.Exec(t.Context(), "SET SESSION AUTHORIZATION "+role)
				require.NoError(t, err)
				_, err = conn.Exec(t.Context(), c.sql)
				requireForbidden(t, err, c.sql)
				_, err = conn.Exec(t.Context(), "SET ROLE promises_owner")
				requireForbidden(t, err, "it becomes the owner")
				_, err = conn.Exec(t.Context(), "RESET SESSION AUTHORIZATION")
				require.NoError(t, err)
			})
		}
	}
	t.Run("the owner owns the schema and nothing else", func(t *testing.T) {
		_, err := conn.Exec(t.Context(), "SET SESSION AUTHORIZATION promises_owner; CREATE ROLE mine")
		requireForbidden(t, err, "CREATE ROLE")
		_, err = conn.Exec(t.Context(), "RESET SESSION AUTHORIZATION")
		require.NoError(t, err)
	})
	t.Run("the next migration revokes grants that were made by hand", func(t *testing.T) {
		db.Exec(t, "GRANT DELETE ON promise TO promises_app; GRANT UPDATE (name) ON promise TO promises_app")
		_, err := migrate.Run(t.Context(), db.Pool.Config().ConnConfig, migrate.Options{Roles: true})
		require.NoError(t, err)
		for _, sql := range []string{"DELETE FROM promise", "UPDATE promise SET name = 'x'"} {
			_, err := conn.Exec(t.Context(), "SET SESSION AUTHORIZATION promises_app")
			require.NoError(t, err)
			_, err = conn.Exec(t.Context(), sql)
			requireForbidden(t, err, sql)
			_, err = conn.Exec(t.Context(), "RESET SESSION AUTHORIZATION")
			require.NoError(t, err)
		}
	})
}

// Exactly these roles may execute each function of the schema. A SECURITY DEFINER function looks up names in the schema of the tables, and
// in pg_temp last.
func TestRolesMayCallTheirFunctions(t *testing.T) {
	t.Parallel()
	db := withRoles(t)
	const app, reader, sweeper, admin = "promises_app", "promises_reader", "promises_sweeper", "promises_admin"
	callers := map[string][]string{
		"delivery_create":           {app},
		"delivery_due":              {},
		"delivery_renew":            {app},
		"promise_await_settlements": {app, reader},
		"promise_by_deadline":       {app},
		"promise_create":            {app},
		"promise_deadline_outcome":  {app, reader, sweeper},
		"promise_erase":             {app},
		"promise_final":             {},
		"promise_identity":          {},
		"promise_key_live":          {app, sweeper},
		"promise_key_names":         {app, reader, sweeper},
		"promise_key_uncertain":     {app},
		"promise_race_lost":         {app, sweeper},
		"promise_settle":            {app},
		"promise_settle_early":      {app},
		"receipt_end":               {app, sweeper},
		"receipt_is_final":          {},
		"receipt_keep":              {},
		"receipt_preview":           {"promises_manager"},
		"receipt_settle":            {"promises_manager", "promises_webhook"},
		"tenant_contents":           {admin},
		"tenant_delete":             {admin},
		"workflow_event_delete":     {},
		"workflow_event_write":      {},
	}
	definers := []string{"delivery_create", "delivery_due", "delivery_renew", "promise_await_settlements", "promise_erase", "receipt_end", "receipt_preview",
		"receipt_settle", "tenant_contents", "tenant_delete"}
	rows, err := db.Pool.Query(t.Context(), `SELECT p.proname::TEXT AS name, p.prosecdef AS definer, p.proconfig AS settings,
			current_schema()::TEXT AS schema, has_function_privilege('public', p.oid, 'EXECUTE') AS public,
			ARRAY(SELECT r.rolname::TEXT FROM pg_roles r WHERE has_function_privilege(r.oid, p.oid, 'EXECUTE') AND NOT r.rolsuper
				AND r.rolname <> 'promises_owner' ORDER BY 1) AS callers
		FROM pg_proc p WHERE p.pronamespace = current_schema()::REGNAMESPACE`)
	require.NoError(t, err)
	functions, err := pgx.CollectRows(rows, pgx.RowToStructByName[struct {
		Name, Schema    string
		Definer, Public bool
		Settings        []string
		Callers         []string
	}])
	require.NoError(t, err)
	seen := map[string]bool{}
	for _, f := range functions {
		t.Run(f.Name, func(t *testing.T) {
			want, known := callers[f.Name]
			assert.True(t, known, "the function has no line here")
			assert.Equal(t, want, f.Callers)
			assert.False(t, f.Public)
			assert.Equal(t, slices.Contains(definers, f.Name), f.Definer)
			if f.Definer {
				assert.Contains(t, f.Settings, "search_path="+f.Schema+", pg_temp")
			}
		})
		seen[f.Name] = true
	}
	for name := range callers {
		assert.True(t, seen[name], "the schema has no function %s", name)
	}
}
