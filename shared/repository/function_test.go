package repository_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/dbtest"
	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/repository"
)

// manyPromises makes so many that an index is worth its while.
func manyPromises(t *testing.T, db *dbtest.DB) {
	t.Helper()
	db.Exec(t, `INSERT INTO workflow_execution (id, tenant_id, last_sequence_number)
		SELECT gen_random_uuid(), (SELECT id FROM tenant), 1 FROM generate_series(1, 2000)`)
	db.Exec(t, `INSERT INTO promise (workflow_execution_id, tenant_id, name, created_by_sequence) SELECT id, tenant_id, 'n', 1 FROM workflow_execution`)
	db.Exec(t, `INSERT INTO idempotency_key (tenant_id, key, promise_id, expires_at)
		SELECT tenant_id, id::TEXT, id, NOW() + INTERVAL '1 day' FROM promise`)
	db.Exec(t, "ANALYZE")
}

// readBy are the tables and indexes that the database counts as read by what f has a repository do: what a function
// runs inside is no plan that can be shown. All of it is taken back.
func readBy(t *testing.T, db *dbtest.DB, f func(*repository.Repository)) (read []string) {
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
		require.NotContains(t, read, table, "from its beginning")
	}
	return read
}

func TestPlansOfSettle(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	byID, byKey := create(t, r, draft("by id")), create(t, r, withKey(draft("by key"), "k", time.Hour))
	manyPromises(t, db)
	key, err := promise.ByIdempotencyKey(*byKey.IdempotencyKey)
	require.NoError(t, err)
	for i, indexes := range map[promise.Identifier][]string{
		promise.ByID(byID.ID): {"promise_pkey", "workflow_execution_pkey"},
		key:                   {"promise_pkey", "workflow_execution_pkey", "idempotency_key_pkey"},
	} {
		read := readBy(t, db, func(r *repository.Repository) {
			for _, outcome := range []promise.Outcome{promise.OutcomeSettled, promise.OutcomeConflict} {
				got, err := r.Settle(t.Context(), tenant, i, resolved([]byte(outcome)))
				require.NoError(t, err)
				require.Equal(t, outcome, got.Outcome)
			}
		})
		require.Subset(t, read, indexes)
		require.NotContains(t, read, "idx_promise_tenant")
	}
}

func TestPlansOfCreate(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	there := withKey(draft("there"), "k", time.Hour)
	create(t, r, there)
	manyPromises(t, db)
	require.Subset(t, readBy(t, db, func(r *repository.Repository) {
		made, err := r.Create(t.Context(), tenant, withKey(draft("new"), "new", time.Hour))
		require.NoError(t, err)
		require.True(t, made.New)
		made, err = r.Create(t.Context(), tenant, there)
		require.NoError(t, err)
		require.False(t, made.New)
		_, err = r.Create(t.Context(), tenant, withKey(draft("other"), "k", time.Hour))
		requireCode(t, promise.CodeKeyConflict, err)
	}), []string{"promise_workflow_execution_id_name_key", "workflow_execution_pkey", "idempotency_key_pkey", "promise_pkey"})
}

func TestPlansOfAwaitSettlements(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	p := overdue(t, r, tenant, draft("overdue"), time.Hour)
	manyPromises(t, db)
	require.Subset(t, readBy(t, db, func(r *repository.Repository) {
		got, err := r.Get(t.Context(), tenant, promise.ByID(p.ID))
		require.NoError(t, err)
		require.Equal(t, promise.TimedOut, got.State)
	}), []string{"promise_pkey", "workflow_execution_pkey"})
}

// Tables that were adopted may have columns of any name.
func TestFunctionsUseTheirOwnNames(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	db.Exec(t, `DO $$
		DECLARE
			name TEXT;
			place TEXT;
		BEGIN
			FOR name IN
				SELECT DISTINCT unnest(proargnames) FROM pg_proc
				WHERE pronamespace = current_schema()::REGNAMESPACE AND proname IN ('promise_create', 'promise_settle', 'promise_await_settlements')
				UNION
				SELECT unnest(regexp_matches(prosrc, '^    (\w+) \w+(?:;| :=)', 'gn')) FROM pg_proc
				WHERE pronamespace = current_schema()::REGNAMESPACE AND proname IN ('promise_create', 'promise_settle', 'promise_await_settlements')
			LOOP
				FOREACH place IN ARRAY ARRAY['tenant', 'workflow_execution', 'promise', 'idempotency_key', 'workflow_event_row'] LOOP
					EXECUTE format('ALTER TABLE %I ADD COLUMN IF NOT EXISTS %I TEXT', place, name);
				END LOOP;
			END LOOP;
		END $$`)
	var added int
	require.NoError(t, db.Pool.QueryRow(t.Context(), `SELECT COUNT(*) FROM information_schema.columns
		WHERE table_schema = current_schema() AND column_name IN ('moment', 'workflow')`).Scan(&added))
	require.Equal(t, 10, added)
	first := withKey(draft("first"), "k", time.Hour)
	p := create(t, r, first)
	late, err := r.Get(t.Context(), tenant, promise.ByID(overdue(t, r, tenant, draft("overdue"), time.Hour).ID))
	require.NoError(t, err)
	require.Equal(t, promise.TimedOut, late.State)
	made, err := r.Create(t.Context(), tenant, first)
	require.NoError(t, err)
	require.False(t, made.New)
	_, err = r.Create(t.Context(), tenant, withKey(draft("other"), "k", time.Hour))
	requireCode(t, promise.CodeKeyConflict, err)
	for _, outcome := range []promise.Outcome{promise.OutcomeSettled, promise.OutcomeDuplicate} {
		got, err := r.Settle(t.Context(), tenant, promise.ByID(p.ID), resolved([]byte("1")))
		require.NoError(t, err)
		require.Equal(t, outcome, got.Outcome)
	}
	key, err := promise.ByIdempotencyKey("k")
	require.NoError(t, err)
	got, err := r.Settle(t.Context(), tenant, key, resolved([]byte("1")))
	require.NoError(t, err)
	require.Equal(t, promise.OutcomeDuplicate, got.Outcome)
}

// A trigger of somebody else's may keep the workflow execution's row from being written: nothing is settled without a number.
func TestNoSettlementWithoutANumber(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	p := create(t, r, draft("payment"))
	db.Exec(t, "CREATE FUNCTION refuse() RETURNS TRIGGER LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
	db.Exec(t, "CREATE TRIGGER refuse BEFORE UPDATE ON workflow_execution FOR EACH ROW EXECUTE FUNCTION refuse()")
	_, err := r.Settle(t.Context(), tenant, promise.ByID(p.ID), resolved([]byte("1")))
	require.Error(t, err)
	db.Exec(t, "DROP TRIGGER refuse ON workflow_execution")
	got, err := r.Settle(t.Context(), tenant, promise.ByID(p.ID), resolved([]byte("2")))
	require.NoError(t, err)
	require.Equal(t, promise.OutcomeSettled, got.Outcome)
}

// scans are how often the connection has begun to read each table and index.
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

// A create in another tenant's workflow execution is told so at once, and keeps nobody from its row.
func TestCreateInAWorkflowOfOthersLocksNothing(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	db.Exec(t, "INSERT INTO tenant (slug) VALUES ('stranger')")
	d := draft("theirs")
	create(t, r, d)
	tx, err := db.Pool.Begin(t.Context())
	require.NoError(t, err)
	defer tx.Rollback(context.WithoutCancel(t.Context())) //nolint:errcheck // nothing was written
	_, err = tx.Exec(t.Context(), "SELECT FROM workflow_execution WHERE id = $1 FOR UPDATE", d.WorkflowExecutionID.String())
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	d.Name = "ours"
	_, err = r.Create(ctx, "stranger", d)
	requireCode(t, promise.CodeNotFound, err)
}
