package repository_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/repository"
)

func TestPlansOfSettle(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	p := create(t, r, draft("by id"))
	create(t, r, withKey(draft("by key"), "k", time.Hour))
	addManyPromises(t, db)
	for _, c := range []struct {
		name    string
		promise promise.Identifier
		indexes []string
	}{
		{"by id", promise.ByID(p.ID), []string{"promise_pkey", "workflow_execution_pkey"}},
		{"by key", byKey(t, "k"), []string{"promise_pkey", "workflow_execution_pkey", "idempotency_key_pkey"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			read := relationsReadBy(t, db, func(r *repository.Repository) {
				for _, outcome := range []promise.Outcome{promise.OutcomeSettled, promise.OutcomeConflict} {
					got, err := r.Settle(t.Context(), tenant, c.promise, resolved([]byte(outcome)))
					require.NoError(t, err)
					require.Equal(t, outcome, got.Outcome)
				}
			})
			require.Subset(t, read, c.indexes)
			require.NotContains(t, read, "idx_promise_tenant")
		})
	}
}

// TestPlansOfReceive covers receipt_settle and receipt_preview.
func TestPlansOfReceive(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	s, _ := putSource(t, r, stripe())
	create(t, r, withKey(draft("by key"), "k", time.Hour))
	addManyPromises(t, db)
	addSources(t, db, 2000)
	db.Exec(t, "ANALYZE")
	read := relationsReadBy(t, db, func(r *repository.Repository) {
		kept := webhook(s, "a", "k")
		kept.Body = &promise.KeptBody{ID: uuid.New(), Sealed: append([]byte{1}, make([]byte, 40)...)}
		receive(t, r, kept, promise.ReceiptSettled)
		kept.Body = &promise.KeptBody{ID: uuid.New()}
		receive(t, r, kept, promise.ReceiptSettled)
		receive(t, r, webhook(s, "b", "k"), promise.ReceiptConflict)
		receive(t, r, webhook(s, "c", "later"), promise.ReceiptHeld)
		receive(t, r, webhook(s, "c", "later"), promise.ReceiptHeld)
		receive(t, r, webhook(s, "d", "later"), promise.ReceiptConflict)
	})
	require.Subset(t, read, []string{
		"source_pkey", "receipt_tenant_id_source_name_event_item_key", "idempotency_key_pkey", "promise_pkey", "workflow_execution_pkey",
		"receipt_body_receipt_id_key", "receipt_body_pkey", "receipt_pkey",
	})
	for _, table := range []string{"source", "receipt", "receipt_body"} {
		require.NotContains(t, read, table, "a scan of the whole table")
	}
}

func TestPlansOfCreate(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	existing := withKey(draft("existing"), "k", time.Hour)
	create(t, r, existing)
	addManyPromises(t, db)
	require.Subset(t, relationsReadBy(t, db, func(r *repository.Repository) {
		created, err := r.Create(t.Context(), tenant, withKey(draft("new"), "new", time.Hour))
		require.NoError(t, err)
		require.True(t, created.New)
		created, err = r.Create(t.Context(), tenant, existing)
		require.NoError(t, err)
		require.False(t, created.New)
		_, err = r.Create(t.Context(), tenant, withKey(draft("other"), "k", time.Hour))
		requireCode(t, promise.CodeKeyConflict, err)
	}), []string{"promise_workflow_execution_id_name_key", "workflow_execution_pkey", "idempotency_key_pkey", "promise_pkey"})
}

func TestPlansOfAwaitSettlements(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	p := createOverdue(t, r, tenant, draft("overdue"), time.Hour)
	addManyPromises(t, db)
	require.Subset(t, relationsReadBy(t, db, func(r *repository.Repository) {
		got, err := r.Get(t.Context(), tenant, promise.ByID(p.ID))
		require.NoError(t, err)
		require.Equal(t, promise.TimedOut, got.State)
	}), []string{"promise_pkey", "workflow_execution_pkey"})
}

// An adopted table may have columns with the names of the functions' own variables.
func TestFunctionsUseTheirOwnVariables(t *testing.T) {
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
	t.Run("await settlements", func(t *testing.T) {
		late, err := r.Get(t.Context(), tenant, promise.ByID(createOverdue(t, r, tenant, draft("overdue"), time.Hour).ID))
		require.NoError(t, err)
		require.Equal(t, promise.TimedOut, late.State)
	})
	t.Run("create", func(t *testing.T) {
		again, err := r.Create(t.Context(), tenant, first)
		require.NoError(t, err)
		require.False(t, again.New)
		_, err = r.Create(t.Context(), tenant, withKey(draft("other"), "k", time.Hour))
		requireCode(t, promise.CodeKeyConflict, err)
	})
	t.Run("settle", func(t *testing.T) {
		for _, outcome := range []promise.Outcome{promise.OutcomeSettled, promise.OutcomeDuplicate} {
			got, err := r.Settle(t.Context(), tenant, promise.ByID(p.ID), resolved([]byte("1")))
			require.NoError(t, err)
			require.Equal(t, outcome, got.Outcome)
		}
		got, err := r.Settle(t.Context(), tenant, byKey(t, "k"), resolved([]byte("1")))
		require.NoError(t, err)
		require.Equal(t, promise.OutcomeDuplicate, got.Outcome)
	})
}

// An adopted table's own trigger may suppress the update of the workflow execution's row. Then nothing is settled, because there is
// no sequence number.
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

// A create in another tenant's workflow execution fails at once. It neither waits for the execution's row nor locks it.
func TestCreateInAnotherTenantsWorkflowLocksNothing(t *testing.T) {
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
