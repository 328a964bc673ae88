package repository_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/dbtest"
	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/repository"
)

// otherValue has, for each column type, an expression of the column that gives another value.
var otherValue = map[string]string{
	"uuid": "gen_random_uuid()", "character varying": "COALESCE(%[1]s, '') || 'x'", "text": "COALESCE(%[1]s, '') || 'x'",
	"boolean": "NOT %[1]s", "bytea": `'\x00'`, "jsonb": `'{"other": 1}'`, "integer": "COALESCE(%[1]s, 0) + 100",
	"timestamp with time zone": "NOW() + INTERVAL '1 hour'",
}

// mayChange lists the columns of a settled promise that a statement may set.
var mayChange = map[string]bool{"tokens_revoked_at": true}

func rowOf(t *testing.T, db *dbtest.DB, id uuid.UUID) (row string) {
	t.Helper()
	require.NoError(t, db.Pool.QueryRow(t.Context(), "SELECT p::TEXT FROM promise p WHERE id = $1", id.String()).Scan(&row))
	return row
}

func requireFinal(t *testing.T, trigger string, err error, what string) {
	t.Helper()
	var pg *pgconn.PgError
	require.True(t, errors.As(err, &pg), "%s: %v", what, err)
	require.Equal(t, "23001", pg.Code, "%s: %v", what, err)
	require.Equal(t, trigger, pg.ConstraintName, what)
	require.Equal(t, "promise", pg.TableName, what)
}

// settledEach creates a promise in each final state, with a value in every column that it can have.
func settledEach(t *testing.T, r *repository.Repository, db *dbtest.DB) map[promise.State]promise.Promise {
	t.Helper()
	comment, reason := "secret comment", "secret reason"
	workflow := uuid.New()
	made := map[promise.State]promise.Promise{}
	for _, state := range []promise.State{promise.Resolved, promise.Rejected, promise.Cancelled, promise.TimedOut} {
		d := withKey(promise.Draft{WorkflowExecutionID: workflow, Name: string(state)}, string(state), time.Hour)
		d.Metadata = []byte(`{"secret": 1.0}`)
		d.Timeout = new(time.Hour)
		if state != promise.TimedOut {
			d.OnTimeout = &promise.Result{State: promise.Resolved, Value: []byte(`"secret default"`)}
		}
		made[state] = create(t, r, d)
	}
	for state, s := range map[promise.State]promise.SettleRequest{
		promise.Resolved: resolved([]byte(`"secret value"`)), promise.Rejected: rejected("secret error"), promise.Cancelled: cancelled(reason),
	} {
		s.Comment = &comment
		got, err := r.Settle(t.Context(), tenant, promise.ByID(made[state].ID), s)
		require.NoError(t, err)
		require.Equal(t, promise.OutcomeSettled, got.Outcome)
	}
	db.Exec(t, "UPDATE promise SET timeout_at = NOW() WHERE id = $1", made[promise.TimedOut].ID.String())
	_, err := r.Expire(t.Context(), 10)
	require.NoError(t, err)
	for state, p := range made {
		stored, err := r.Get(t.Context(), tenant, promise.ByID(p.ID))
		require.NoError(t, err)
		require.Equal(t, state, stored.State)
		made[state] = stored
	}
	return made
}

// No statement changes a settled promise, sent by the superuser or by the owner. The test sets each column to another value and to
// NULL. A column that a later migration adds fails the test until promise_final or mayChange has it.
func TestASettledPromiseNeverChanges(t *testing.T) {
	t.Parallel()
	db := withRoles(t)
	db.Tenant(t, tenant)
	r := repository.New(db.Pool)
	promises := settledEach(t, r, db)
	rows, err := db.Pool.Query(t.Context(), `SELECT column_name::TEXT, data_type::TEXT FROM information_schema.columns
		WHERE table_schema = current_schema() AND table_name = 'promise'`)
	require.NoError(t, err)
	columns := map[string]string{}
	var name, kind string
	_, err = pgx.ForEachRow(rows, []any{&name, &kind}, func() error { columns[name] = kind; return nil })
	require.NoError(t, err)
	require.Greater(t, len(columns), 20)
	for name, role := range map[string]string{"superuser": "", "owner": "promises_owner"} {
		conn, err := db.Pool.Acquire(t.Context())
		require.NoError(t, err)
		if role != "" {
			_, err = conn.Exec(t.Context(), "SET SESSION AUTHORIZATION "+role)
			require.NoError(t, err)
		}
		final := 0
		for state, p := range promises {
			before := rowOf(t, db, p.ID)
			for column, kind := range columns {
				require.Contains(t, otherValue, kind, column)
				for as, value := range map[string]string{"another value": fmt.Sprintf(otherValue[kind]+"%.0[1]s", column), "NULL": "NULL"} {
					t.Run(fmt.Sprintf("%s, %s, %s to %s", name, state, column, as), func(t *testing.T) {
						_, err := conn.Exec(t.Context(), "UPDATE promise SET "+column+" = "+value+" WHERE id = $1", p.ID.String())
						switch {
						case mayChange[column] && value != "NULL":
							require.NoError(t, err)
							before = rowOf(t, db, p.ID)
						case err == nil:
							require.Equal(t, before, rowOf(t, db, p.ID), "it was NULL")
						default:
							var pg *pgconn.PgError
							require.True(t, errors.As(err, &pg), "%v", err)
							require.Equal(t, "23", pg.Code[:2], "%v", err) // Postgres evaluates a CHECK before the trigger
							if pg.ConstraintName == "promise_final" {
								require.Contains(t, pg.Message, p.ID.String())
								final++
							}
						}
					})
				}
			}
			require.Equal(t, before, rowOf(t, db, p.ID))
			for _, sql := range []string{
				// A CHECK would refuse each column of these alone.
				`UPDATE promise SET resolved = FALSE, outcome = NULL, settled_by_kind = NULL, settled_by_id = NULL, comment = NULL WHERE id = $1`,
				`UPDATE promise SET timeout_outcome = 'rejected', timeout_value = NULL, timeout_error = 'x' WHERE id = $1`,
				`UPDATE promise SET metadata = '{"secret": 1}' WHERE id = $1`, // equal as JSONB
				`UPDATE promise SET erased_at = NOW(), value = NULL, error = NULL, metadata = NULL, comment = NULL, timeout_outcome = NULL,
					timeout_value = NULL, timeout_error = NULL, name = 'x' WHERE id = $1`,
				`UPDATE promise SET erased_at = NOW() WHERE id = $1`,
				`UPDATE promise SET erased_at = NOW(), value = NULL, error = NULL, metadata = NULL, timeout_outcome = NULL,
					timeout_value = NULL, timeout_error = NULL, comment = 'x' WHERE id = $1`,
				`UPDATE promise SET resolved_by_sequence = resolved_by_sequence + 100 WHERE id = $1`,
				`INSERT INTO promise (id, workflow_execution_id, tenant_id, name, created_by_sequence)
					SELECT id, workflow_execution_id, tenant_id, name, 1 FROM promise WHERE id = $1
					ON CONFLICT (id) DO UPDATE SET error = 'other'`,
			} {
				t.Run(fmt.Sprintf("%s, %s, %s", name, state, sql), func(t *testing.T) {
					_, err := conn.Exec(t.Context(), sql, p.ID.String())
					requireFinal(t, "promise_final", err, sql)
				})
			}
			require.Equal(t, before, rowOf(t, db, p.ID))
		}
		require.Greater(t, final, 60, "the trigger refuses updates that the CHECKs allow")
		_, err = conn.Exec(t.Context(), "RESET SESSION AUTHORIZATION")
		require.NoError(t, err)
		conn.Release()
	}
}

func TestAllowedChangesOfASettledPromise(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	p := settledEach(t, r, db)[promise.Resolved]
	set := func(t *testing.T, sql string) error {
		_, err := db.Pool.Exec(t.Context(), "UPDATE promise SET "+sql+" WHERE id = $1", p.ID.String())
		return err
	}
	t.Run("a missing sequence number is set once", func(t *testing.T) {
		db.Exec(t, "ALTER TABLE promise DISABLE TRIGGER promise_final")
		require.NoError(t, set(t, "resolved_by_sequence = NULL"), "as in an adopted table")
		db.Exec(t, "ALTER TABLE promise ENABLE TRIGGER promise_final")
		require.NoError(t, set(t, "resolved_by_sequence = 77"))
		requireFinal(t, "promise_final", set(t, "resolved_by_sequence = 78"), "another number")
		requireFinal(t, "promise_final", set(t, "resolved_by_sequence = NULL"), "no number")
	})
	t.Run("a revocation moves forward only", func(t *testing.T) {
		require.NoError(t, set(t, "tokens_revoked_at = '2026-01-02'"))
		require.NoError(t, set(t, "tokens_revoked_at = '2026-01-03'"))
		requireFinal(t, "promise_final", set(t, "tokens_revoked_at = '2026-01-02'"), "revoked tokens would be valid again")
		requireFinal(t, "promise_final", set(t, "tokens_revoked_at = NULL"), "revoked tokens would be valid again")
	})
	t.Run("an adopted table's own column", func(t *testing.T) {
		db.Exec(t, "ALTER TABLE promise ADD COLUMN their_own TEXT")
		require.NoError(t, set(t, "their_own = 'x'"))
	})
	t.Run("an equal value", func(t *testing.T) { require.NoError(t, set(t, "name = name")) })
	t.Run("a deletion", func(t *testing.T) { db.Exec(t, "DELETE FROM promise WHERE id = $1", p.ID.String()) })
}

// A pending promise can be settled, extended and revoked, but its identity does not change.
func TestAPendingPromiseKeepsItsIdentity(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	db.Tenant(t, "stranger")
	p, q := create(t, r, withKey(draft("a"), "k", time.Hour)), create(t, r, draft("b"))
	before := rowOf(t, db, p.ID)
	for column, value := range map[string]string{
		"id": "gen_random_uuid()", "workflow_execution_id": "'" + q.WorkflowExecutionID.String() + "'", "name": "'x'",
		"tenant_id": "(SELECT id FROM tenant WHERE slug = 'stranger')", "idempotency_key": "NULL", "created_by_sequence": "7",
	} {
		t.Run(column, func(t *testing.T) {
			sql := "UPDATE promise SET " + column + " = " + value + ", timeout_at = NOW() WHERE id = $1"
			if column == "id" {
				db.Exec(t, "DELETE FROM idempotency_key") // its foreign key would refuse the update too
			}
			_, err := db.Pool.Exec(t.Context(), sql, p.ID.String())
			requireFinal(t, "promise_identity", err, sql)
			require.Equal(t, before, rowOf(t, db, p.ID))
		})
	}
	db.Exec(t, "UPDATE promise SET name = name, created_at = created_at WHERE id = $1", p.ID.String())
	_, err := db.Pool.Exec(t.Context(), "UPDATE promise SET erased_at = NOW() WHERE id = $1", p.ID.String())
	requireFinal(t, "promise_identity", err, "erased while pending")
	_, err = db.Pool.Exec(t.Context(), "UPDATE promise SET resolved = TRUE, outcome = 'resolved', value = '1', erased_at = NOW() WHERE id = $1", p.ID.String())
	requireFinal(t, "promise_identity", err, "settled and erased at once")
	require.Equal(t, before, rowOf(t, db, p.ID))
}

// If the trigger refuses a call, the service is at fault. The error for the log names the promise and the rule, the detail for the
// caller names neither.
func TestTheLogNamesTheRule(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	p := settledEach(t, r, db)[promise.Resolved]
	db.Exec(t, "CREATE FUNCTION meddle() RETURNS TRIGGER LANGUAGE plpgsql AS 'BEGIN NEW.comment = ''x''; RETURN NEW; END'")
	db.Exec(t, "CREATE TRIGGER meddle BEFORE UPDATE ON promise FOR EACH ROW EXECUTE FUNCTION meddle()")
	_, err := r.RevokeTokens(t.Context(), tenant, promise.ByID(p.ID))
	requireCode(t, promise.CodeInternal, err)
	requireFinal(t, "promise_final", err, "the cause")
	require.ErrorContains(t, err, "revoke tokens: ERROR: promise "+p.ID.String()+" is settled: a settled promise never changes")
	require.NotContains(t, promise.AsError(err).Detail, p.ID.String())
}

// erased returns the promise as Erase must leave it.
func erased(p promise.Promise, at *time.Time) promise.Promise {
	p.Value, p.Message, p.Metadata, p.Comment, p.OnTimeout, p.ErasedAt = nil, nil, nil, nil, nil, at
	return p
}

func TestErase(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	for state, p := range settledEach(t, r, db) {
		t.Run(string(state), func(t *testing.T) { requireErased(t, r, db, p) })
	}
	require.Equal(t, 8, count(t, db, "SELECT last_sequence_number FROM workflow_execution"), "Erase adds no event")
}

// requireErased erases a promise, and requires that no call returns its contents afterwards.
func requireErased(t *testing.T, r *repository.Repository, db *dbtest.DB, p promise.Promise) {
	log, err := r.ListEvents(t.Context(), tenant, p.WorkflowExecutionID, 0, 100)
	require.NoError(t, err)
	i := promise.ByID(p.ID)
	if p.State == promise.Rejected {
		i = byKey(t, string(p.State))
	}
	got, err := r.Erase(t.Context(), tenant, i)
	require.NoError(t, err)
	require.NotNil(t, got.ErasedAt)
	require.Equal(t, erased(p, got.ErasedAt), got)
	t.Run("a second erase changes nothing", func(t *testing.T) {
		for range 2 {
			again, err := r.Erase(t.Context(), tenant, i)
			require.NoError(t, err)
			require.Equal(t, got, again)
		}
	})
	t.Run("get", func(t *testing.T) {
		stored, err := r.Get(t.Context(), tenant, promise.ByID(p.ID))
		require.NoError(t, err)
		require.Equal(t, got, stored)
		stored, err = r.GetByWorkflowAndName(t.Context(), tenant, p.WorkflowExecutionID, p.Name)
		require.NoError(t, err)
		require.Equal(t, got, stored)
	})
	t.Run("list", func(t *testing.T) {
		for _, f := range []promise.Filter{{State: &p.State}, {WorkflowExecutionID: &p.WorkflowExecutionID, State: &p.State}} {
			listed, _, err := r.ListPromises(t.Context(), tenant, f, 10)
			require.NoError(t, err)
			require.Equal(t, []promise.Promise{got}, listed)
		}
	})
	t.Run("events", func(t *testing.T) {
		events, err := r.ListEvents(t.Context(), tenant, p.WorkflowExecutionID, 0, 100)
		require.NoError(t, err)
		require.Len(t, events, len(log))
		for n, e := range log {
			if e.PromiseID == p.ID && e.Settlement != nil {
				e.Settlement.Value, e.Settlement.Message, e.Settlement.Comment, e.ErasedAt = nil, nil, nil, got.ErasedAt
			}
			require.Equal(t, e, events[n])
		}
	})
	row := rowOf(t, db, p.ID)
	t.Run("the row has no contents", func(t *testing.T) {
		require.NotContains(t, row, "secret")
		require.NotContains(t, row, `\\x22736563726574`, "nor as bytea")
	})
	t.Run("the row never changes", func(t *testing.T) {
		for _, sql := range []string{"erased_at = NULL", "erased_at = NOW()", "value = 'x'", "comment = 'x'", "metadata = '{}'", "resolved = FALSE"} {
			_, err := db.Pool.Exec(t.Context(), "UPDATE promise SET "+sql+" WHERE id = $1", p.ID.String())
			require.Error(t, err, sql)
		}
		require.Equal(t, row, rowOf(t, db, p.ID))
	})
	t.Run("its tokens can be revoked", func(t *testing.T) {
		_, err = r.RevokeTokens(t.Context(), tenant, promise.ByID(p.ID))
		require.NoError(t, err)
	})
}

func TestEraseRefuses(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	db.Tenant(t, "stranger")
	p := settledEach(t, r, db)[promise.Resolved]
	pending := create(t, r, withKey(draft("pending"), "pending", time.Hour))
	for name, slug := range map[string]string{"another tenant's promise": "stranger", "an unknown tenant": "nobody"} {
		t.Run(name, func(t *testing.T) {
			for _, id := range []uuid.UUID{p.ID, pending.ID} {
				before := rowOf(t, db, id)
				_, err := r.Erase(t.Context(), slug, promise.ByID(id))
				requireCode(t, promise.CodeNotFound, err)
				_, err = r.Erase(t.Context(), slug, byKey(t, "pending"))
				requireCode(t, promise.CodeNotFound, err)
				require.Equal(t, before, rowOf(t, db, id))
			}
		})
	}
	t.Run("an unknown promise", func(t *testing.T) {
		_, err := r.Erase(t.Context(), tenant, promise.ByID(uuid.New()))
		requireCode(t, promise.CodeNotFound, err)
	})
	for name, i := range map[string]promise.Identifier{
		"a pending promise by id": promise.ByID(pending.ID), "a pending promise by key": byKey(t, "pending"),
	} {
		t.Run(name, func(t *testing.T) {
			before := rowOf(t, db, pending.ID)
			_, err := r.Erase(t.Context(), tenant, i)
			requireCode(t, promise.CodeConflict, err)
			require.Contains(t, promise.AsError(err).Detail, "pending")
			require.Equal(t, before, rowOf(t, db, pending.ID))
		})
	}
}

// The contents of an erased promise are unknown, so a repeated settlement is a conflict and no duplicate.
func TestSettleAnErasedPromise(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	promises := settledEach(t, r, db)
	bare := create(t, r, draft("without a reason"))
	withoutReason := promise.SettleRequest{Result: promise.Result{State: promise.Cancelled}, By: byDirect}
	_, err := r.Settle(t.Context(), tenant, promise.ByID(bare.ID), withoutReason)
	require.NoError(t, err)
	settle := func(t *testing.T, p promise.Promise, s promise.SettleRequest) promise.Outcome {
		got, err := r.Settle(t.Context(), tenant, promise.ByID(p.ID), s)
		require.NoError(t, err)
		return got.Outcome
	}
	cases := []struct {
		name string
		p    promise.Promise
		s    promise.SettleRequest
		want promise.Outcome
	}{
		{"resolved", promises[promise.Resolved], resolved([]byte(`"secret value"`)), promise.OutcomeConflict},
		{"rejected", promises[promise.Rejected], rejected("secret error"), promise.OutcomeConflict},
		{"cancelled, with its reason", promises[promise.Cancelled], cancelled("secret reason"), promise.OutcomeCancelled},
		{"cancelled, without its reason", promises[promise.Cancelled], withoutReason, promise.OutcomeCancelled},
		{"cancelled without a reason", bare, withoutReason, promise.OutcomeCancelled},
		{"timed out", promises[promise.TimedOut], resolved([]byte("1")), promise.OutcomeTimedOut},
	}
	for _, c := range cases {
		if c.p.State == promise.Resolved || c.p.State == promise.Rejected || c.p.ID == bare.ID {
			require.Equal(t, promise.OutcomeDuplicate, settle(t, c.p, c.s), "%s, before it is erased", c.name)
		}
	}
	for _, p := range append([]promise.Promise{bare}, promises[promise.Resolved], promises[promise.Rejected], promises[promise.Cancelled], promises[promise.TimedOut]) {
		_, err := r.Erase(t.Context(), tenant, promise.ByID(p.ID))
		require.NoError(t, err)
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			require.Equal(t, c.want, settle(t, c.p, c.s))
			if c.s.State != promise.Cancelled {
				batch, err := r.SettleBatch(t.Context(), tenant, byDirect, []promise.Item{item(promise.ByID(c.p.ID), c.s)})
				require.NoError(t, err)
				require.Equal(t, c.want, batch[0].SettleResult.Outcome)
			}
		})
	}
	t.Run("by an early settlement", func(t *testing.T) {
		settleEarly(t, r, "resolved", resolved([]byte(`"secret value"`)), promise.OutcomeConflict)
	})
}

// A repeated create finds an erased promise by its name and key, so that an engine can replay its history.
func TestCreateAnErasedPromiseAgain(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	p := settledEach(t, r, db)[promise.Resolved]
	got, err := r.Erase(t.Context(), tenant, promise.ByID(p.ID))
	require.NoError(t, err)
	d := withKey(promise.Draft{WorkflowExecutionID: p.WorkflowExecutionID, Name: p.Name, Metadata: []byte(`{"secret": 1.0}`)}, "resolved", time.Hour)
	d.OnTimeout = &promise.Result{State: promise.Resolved, Value: []byte(`"secret default"`)}
	again, err := r.Create(t.Context(), tenant, d)
	require.NoError(t, err)
	require.False(t, again.New)
	require.Equal(t, got, again.Promise)
	_, err = r.Create(t.Context(), tenant, withKey(d, "another", time.Hour))
	requireCode(t, promise.CodeCreateConflict, err)
}

// Erase first records a deadline that has passed.
func TestEraseAnOverduePromise(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	past := time.Now().Add(-time.Hour)
	d := draft("late")
	d.TimeoutAt, d.OnTimeout = &past, &promise.Result{State: promise.Rejected, Message: new("secret default")}
	p := create(t, r, d)
	got, err := r.Erase(t.Context(), tenant, promise.ByID(p.ID))
	require.NoError(t, err)
	require.Equal(t, promise.Rejected, got.State)
	require.Equal(t, promise.KindDeadline, got.SettledBy.Kind)
	require.True(t, got.ResolvedAt.Equal(*got.TimeoutAt))
	require.Equal(t, int32(2), *got.ResolvedBySequence)
	require.NotNil(t, got.ErasedAt)
	require.NotContains(t, rowOf(t, db, p.ID), "secret")
	require.Equal(t, "1 PROMISE_CREATED\n2 PROMISE_TIMEOUT", events(t, db, p.WorkflowExecutionID))
	expired, err := r.Expire(t.Context(), 10)
	require.NoError(t, err)
	require.Zero(t, expired.Expired)
}

// Before Erase records a deadline, it waits for a transaction that may have settled the promise in time.
func TestEraseWaitsForASettlement(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	p := create(t, r, draft("a"))
	db.Exec(t, "UPDATE promise SET timeout_at = NOW()")
	tx, err := db.Pool.Begin(t.Context())
	require.NoError(t, err)
	defer tx.Rollback(context.WithoutCancel(t.Context())) //nolint:errcheck // it is committed
	_, err = tx.Exec(t.Context(), "UPDATE workflow_execution SET last_sequence_number = 2")
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `UPDATE promise SET resolved = TRUE, outcome = 'resolved', value = '"secret"', resolved_at = created_at,
		resolved_by_sequence = 2, settled_by_kind = 'direct'`)
	require.NoError(t, err)

	type answer struct {
		p   promise.Promise
		err error
	}
	done := make(chan answer, 1)
	go func() {
		erased, err := r.Erase(context.Background(), tenant, promise.ByID(p.ID))
		done <- answer{erased, err}
	}()
	waitForLocks(t, db, 1, "workflow_execution", "erase")
	require.NoError(t, tx.Commit(t.Context()))
	a := <-done
	require.NoError(t, a.err)
	require.Equal(t, promise.Resolved, a.p.State)
	require.Equal(t, promise.KindDirect, a.p.SettledBy.Kind)
	require.NotNil(t, a.p.ErasedAt)
	require.NotContains(t, rowOf(t, db, p.ID), "secret")
	require.Equal(t, "1 PROMISE_CREATED\n2 PROMISE_RESOLVED", events(t, db, p.WorkflowExecutionID))
}

func TestPlansOfErase(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	p := create(t, r, withKey(draft("payment"), "k", time.Hour))
	late := draft("late")
	late.TimeoutAt = new(time.Now().Add(-time.Hour))
	q := create(t, r, late)
	_, err := r.Settle(t.Context(), tenant, promise.ByID(p.ID), resolved([]byte("1")))
	require.NoError(t, err)
	addManyPromises(t, db)
	addSources(t, db, 1000)
	db.Exec(t, `UPDATE receipt r SET promise_id = $1, body_ids = ARRAY(SELECT b.id FROM receipt_body b ORDER BY b.receipt_id <> r.id LIMIT 1)
		WHERE r.id IN (SELECT id FROM receipt LIMIT 2)`, q.ID)
	db.Exec(t, "ANALYZE")
	read := relationsReadBy(t, db, func(r *repository.Repository) {
		for _, i := range []promise.Identifier{byKey(t, "k"), promise.ByID(q.ID)} {
			_, err := r.Erase(t.Context(), tenant, i)
			require.NoError(t, err)
		}
	})
	require.Subset(t, read, []string{"promise_pkey", "idempotency_key_pkey", "workflow_execution_pkey", "idx_receipt_promise",
		"receipt_body_receipt_id_key", "receipt_body_pkey"})
	require.NotContains(t, read, "receipt", "a scan of the whole table")
	require.NotContains(t, read, "receipt_body", "a scan of the whole table")
}
