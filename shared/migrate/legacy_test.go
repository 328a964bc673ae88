package migrate_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/dbtest"
	"github.com/flovyn/promises/shared/migrate"
	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/repository"
)

// everyColumn lists the legacy promises without their ids.
const everyColumn = `SELECT (workflow_execution_id, name, resolved, value, error, timeout_at, created_at, resolved_at,
	created_by_sequence, resolved_by_sequence)::TEXT FROM promise ORDER BY workflow_execution_id, name`

// A keyRow is a row of idempotency_key.
type keyRow struct{ Tenant, Key, PromiseID, ExpiresAt string }

// keysOfPromises returns the idempotency keys that have a promise.
func keysOfPromises(t *testing.T, db *dbtest.DB) []keyRow {
	t.Helper()
	rows, err := db.Pool.Query(t.Context(),
		"SELECT tenant_id::TEXT AS tenant, key, promise_id::TEXT, expires_at::TEXT FROM idempotency_key WHERE promise_id IS NOT NULL")
	require.NoError(t, err)
	all, err := pgx.CollectRows(rows, pgx.RowToStructByName[keyRow])
	require.NoError(t, err)
	return all
}

func TestLegacyDataIsWhole(t *testing.T) {
	t.Parallel()
	db := legacyDB(t)
	before := lines(t, db, everyColumn)
	oldIDs := lines(t, db, "SELECT id FROM promise ORDER BY id")
	oldKeys := keysOfPromises(t, db)
	result, err := migrate.Run(t.Context(), config(t, db.URL), migrate.Options{})
	require.NoError(t, err)
	require.Equal(t, fileNames(t), result.Applied)

	t.Run("every column of every promise is kept", func(t *testing.T) {
		require.Equal(t, before, lines(t, db, everyColumn))
	})
	t.Run("each id becomes the UUID that the README documents", func(t *testing.T) {
		var ids []string
		for _, old := range oldIDs {
			ids = append(ids, newID(old))
		}
		require.ElementsMatch(t, ids, lines(t, db, "SELECT id::TEXT FROM promise"))
	})
	t.Run("settled promises get their outcome", func(t *testing.T) {
		require.Equal(t, []string{
			"failed=rejected", "failed without words=rejected", "größe 50% /?=resolved", "not even JSON=resolved",
			"nothing=resolved", "odd too=resolved",
		}, lines(t, db, `SELECT name || '=' || outcome FROM promise WHERE outcome IS NOT NULL ORDER BY name COLLATE "C"`))
	})
	t.Run("the log continues after the highest number of each workflow", func(t *testing.T) {
		require.Equal(t, []string{"1 20", "2 4", "3 1", "4 0"}, lines(t, db,
			`SELECT get_byte(uuid_send(id), 0) || ' ' || last_sequence_number FROM workflow_execution ORDER BY 1`))
	})

	keys := map[[2]string]keyRow{}
	for _, k := range keysOfPromises(t, db) {
		keys[[2]string{k.Tenant, k.Key}] = k
	}
	dropped := 0
	for _, old := range oldKeys {
		id := [2]string{old.Tenant, old.Key}
		got, ok := keys[id]
		t.Run("the legacy key "+old.Key, func(t *testing.T) {
			switch old.Key {
			case "of a promise that is gone":
				require.False(t, ok)
				dropped++
			case w2.String() + ":swap": // the expired key gives way to the pending promise with that id
				require.Equal(t, newID("swapped"), got.PromiseID)
			default:
				require.True(t, ok)
				require.Equal(t, newID(old.PromiseID), got.PromiseID)
				require.Equal(t, old.ExpiresAt, got.ExpiresAt)
				delete(keys, id)
			}
		})
	}
	require.Equal(t, 1, dropped)
	t.Run("the legacy ids become keys", func(t *testing.T) {
		added := map[string]string{}
		for _, k := range keys {
			added[k.Key] = k.PromiseID
		}
		a, b, c := w1.String(), w2.String(), w3.String()
		require.Equal(t, map[string]string{
			a + ":pay":                         newID(a + ":pay"),
			a + ":a:b:c":                       newID(a + ":a:b:c"),
			a + "::":                           newID(a + "::"),
			a + ":":                            newID(a + ":"),
			a + ":overdue":                     newID(a + ":overdue"),
			a + ":of another":                  newID(b + ":of another"),
			b + ":of another":                  newID(b + ":of another"),
			a + ":odd":                         newID("no-id-at-all"),
			"no-id-at-all":                     newID("no-id-at-all"),
			a + ":swap":                        newID(b + ":swap"),
			b + ":swap":                        newID("swapped"),
			"swapped":                          newID("swapped"),
			"long":                             newID("long"),
			b + ":" + strings.Repeat("m", 218): newID(b + ":" + strings.Repeat("m", 218)),
			c + ":pay":                         newID(c + ":pay"),
		}, added, "b:pay was a caller's own key already")
	})
	t.Run("a repeated run does nothing", func(t *testing.T) {
		again, err := migrate.Run(t.Context(), config(t, db.URL), migrate.Options{})
		require.NoError(t, err)
		require.Empty(t, again.Applied)
	})
}

// A caller that knows a legacy id settles the id's promise, and no other promise.
func TestNoCallerIsCutOff(t *testing.T) {
	t.Parallel()
	db := legacyDB(t)
	_, err := migrate.Run(t.Context(), config(t, db.URL), migrate.Options{})
	require.NoError(t, err)
	r := repository.New(db.Pool)
	resolve := func(t *testing.T, tenant, key string) (promise.SettleResult, error) {
		t.Helper()
		i, err := promise.ByIdempotencyKey(key)
		require.NoError(t, err)
		return r.Settle(t.Context(), tenant, i, promise.SettleRequest{
			Result: promise.Result{State: promise.Resolved, Value: []byte("1")}, By: promise.By{Kind: promise.KindDirect},
		})
	}

	t.Run("each promise belongs to its workflow's tenant", func(t *testing.T) {
		require.Equal(t, []string{"2"}, lines(t, db, "SELECT COUNT(DISTINCT tenant_id)::TEXT FROM promise"))
		require.Empty(t, lines(t, db, `SELECT p.name FROM promise p JOIN workflow_execution w ON w.id = p.workflow_execution_id
			WHERE p.tenant_id <> w.tenant_id`))
	})
	for _, c := range []struct{ name, tenant, key, oldID string }{
		{"a composite id", "acme", w1.String() + ":pay", w1.String() + ":pay"},
		{"a composite id with colons in the name", "acme", w1.String() + ":a:b:c", w1.String() + ":a:b:c"},
		{"the composite id of a promise with another id", "acme", w1.String() + ":odd", "no-id-at-all"},
		{"the composite id of a promise with another composite id", "acme", w1.String() + ":swap", w2.String() + ":swap"},
		{"a composite id that was an expired key", "acme", w2.String() + ":swap", "swapped"},
		{"an id that is not composite", "acme", "long", "long"},
		{"a caller's own key that equals a composite id", "acme", w2.String() + ":pay", w1.String() + "::"},
		{"a composite id of another tenant", "other", w3.String() + ":pay", w3.String() + ":pay"},
	} {
		t.Run("settles by "+c.name, func(t *testing.T) {
			got, err := resolve(t, c.tenant, c.key)
			require.NoError(t, err)
			require.Equal(t, promise.SettleResult{
				PromiseID: uuid.MustParse(newID(c.oldID)), State: promise.Resolved, Outcome: promise.OutcomeSettled,
			}, got)
		})
	}
	t.Run("a repeated call is a duplicate for seven days after the settlement", func(t *testing.T) {
		got, err := resolve(t, "acme", w1.String()+":pay")
		require.NoError(t, err)
		require.Equal(t, promise.OutcomeDuplicate, got.Outcome)
	})
	for _, c := range []struct{ name, key string }{
		{"settled long ago", w1.String() + ":failed"},
		{"timed out long ago", w1.String() + ":overdue"},
		{"another tenant's", w3.String() + ":pay"},
	} {
		t.Run("does not find a promise that is "+c.name, func(t *testing.T) {
			_, err := resolve(t, "acme", c.key)
			require.Equal(t, error(promise.ErrNotFound), err)
		})
	}
	t.Run("the settlement's event has the next number of its workflow", func(t *testing.T) {
		require.Equal(t, []string{"21 PROMISE_RESOLVED"}, lines(t, db, `SELECT sequence_number || ' ' || event_type FROM workflow_event
			WHERE promise_id = '`+newID(w1.String()+":pay")+`'`))
	})

	key, mine := "live", "mine"
	d := promise.Draft{WorkflowExecutionID: w1, Name: "pay", IdempotencyKey: &key, IdempotencyKeyTTL: time.Hour}
	t.Run("a repeated create with the promise's own key finds it", func(t *testing.T) {
		again, err := r.Create(t.Context(), "acme", d)
		require.NoError(t, err)
		require.False(t, again.New)
		require.Equal(t, newID(w1.String()+":pay"), again.Promise.ID.String())
	})
	d.IdempotencyKey = &mine
	t.Run("a repeated create with another key conflicts", func(t *testing.T) {
		_, err := r.Create(t.Context(), "acme", d)
		require.Equal(t, promise.CodeCreateConflict, promise.AsError(err).Code)
	})
}

// The migrations change the tables and do not replace them, so that other applications' objects on them stay.
func TestWhatOthersAddedStays(t *testing.T) {
	t.Parallel()
	db := dbtest.Bare(t)
	makeLegacy(t, db)
	role := "role_" + strings.ToLower(strings.ReplaceAll(uuid.NewString(), "-", ""))
	_, err := db.Pool.Exec(t.Context(), `
		CREATE ROLE `+role+`;
		GRANT SELECT, UPDATE ON promise, idempotency_key TO `+role+`;
		ALTER TABLE promise ADD COLUMN note TEXT DEFAULT 'theirs';
		ALTER TABLE promise ADD CONSTRAINT promise_workflow_execution_id_name_key UNIQUE (workflow_execution_id, name);
		ALTER TABLE idempotency_key ADD CONSTRAINT their_key FOREIGN KEY (promise_id) REFERENCES promise (id) ON DELETE CASCADE;
		ALTER TABLE idempotency_key ADD COLUMN created_at TIMESTAMPTZ NOT NULL DEFAULT NOW();
		ALTER TABLE idempotency_key ADD CONSTRAINT their_unique UNIQUE (promise_id, key);
		CREATE INDEX their_index ON promise (id, note);
		COMMENT ON COLUMN promise.id IS 'theirs';
		CREATE FUNCTION their_function() RETURNS TRIGGER LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
		CREATE TRIGGER their_trigger BEFORE UPDATE ON promise FOR EACH ROW EXECUTE FUNCTION their_function();`,
		pgx.QueryExecModeSimpleProtocol)
	require.NoError(t, err)
	db.Exec(t, "INSERT INTO tenant VALUES ($1, 'acme')", acme)
	db.Exec(t, "INSERT INTO workflow_execution VALUES ($1, $2)", w1, acme)
	db.Exec(t, "INSERT INTO promise (id, workflow_execution_id, name, created_by_sequence) VALUES ($1, $2, 'n', 1)", w1.String()+":n", w1)
	db.Exec(t, "INSERT INTO idempotency_key VALUES ($1, 'k', $2, NOW())", acme, w1.String()+":n")

	_, err = migrate.Run(t.Context(), config(t, db.URL), migrate.Options{})
	require.NoError(t, err)
	for _, c := range []struct {
		kind, sql string
		want      []string
	}{
		{"a column", "SELECT note FROM promise", []string{"theirs"}},
		{"a comment", "SELECT col_description('promise'::REGCLASS, attnum) FROM pg_attribute WHERE attrelid = 'promise'::REGCLASS AND attname = 'id'", []string{"theirs"}},
		{"privileges", fmt.Sprintf(
			"SELECT concat(has_table_privilege('%s', 'promise', 'UPDATE'), ' ', has_table_privilege('%[1]s', 'idempotency_key', 'SELECT'))", role), []string{"t t"}},
		{"a trigger", "SELECT tgname::TEXT FROM pg_trigger WHERE tgrelid = 'promise'::REGCLASS AND NOT tgisinternal ORDER BY 1",
			[]string{"promise_delivery_due", "promise_final", "promise_identity", "their_trigger"}},
		{"a constraint", "SELECT conname::TEXT FROM pg_constraint WHERE conrelid = 'idempotency_key'::REGCLASS ORDER BY conname", []string{
			"idempotency_key_held", "idempotency_key_pkey", "idempotency_key_promise_id_fkey", "idempotency_key_tenant_id_fkey", "their_unique",
		}},
	} {
		t.Run(c.kind, func(t *testing.T) { require.Equal(t, c.want, lines(t, db, c.sql)) })
	}
	t.Run("an index", func(t *testing.T) {
		require.Contains(t, lines(t, db, "SELECT indexname::TEXT FROM pg_indexes WHERE tablename = 'promise' AND schemaname = current_schema()"), "their_index")
	})
	db.Exec(t, "DROP OWNED BY "+role)
	db.Exec(t, "DROP ROLE "+role)
}

// An adopted database has the same schema as a new one.
func TestSchemaAfterwards(t *testing.T) {
	t.Parallel()
	adopted, fresh := dbtest.Bare(t), dbtest.New(t)
	makeLegacy(t, adopted)
	_, err := migrate.Run(t.Context(), config(t, adopted.URL), migrate.Options{})
	require.NoError(t, err)
	for kind, sql := range map[string]string{
		"columns": `SELECT table_name || '.' || column_name || ' ' || data_type || ' ' || is_nullable || ' ' || COALESCE(column_default, '')
			FROM information_schema.columns WHERE table_schema = current_schema() AND table_name <> 'tenant' ORDER BY 1`,
		"indexes": `SELECT regexp_replace(indexdef, ' ON \w+\.', ' ON ') FROM pg_indexes
			WHERE schemaname = current_schema() AND tablename <> 'tenant' ORDER BY 1`,
		"constraints": `SELECT conrelid::REGCLASS || ' ' || conname || ' ' || pg_get_constraintdef(oid) FROM pg_constraint
			WHERE connamespace = current_schema()::REGNAMESPACE AND conname <> 'idempotency_key_tenant_id_fkey' ORDER BY 1`,
	} {
		t.Run(kind, func(t *testing.T) { require.Equal(t, lines(t, fresh, sql), lines(t, adopted, sql)) })
	}
	t.Run("the columns of promise", func(t *testing.T) { requireColumnsOfPromise(t, fresh) })
}

func requireColumnsOfPromise(t *testing.T, fresh *dbtest.DB) {
	t.Helper()
	require.Equal(t, []string{
		"comment character varying YES ", "created_at timestamp with time zone NO now()", "created_by_sequence integer NO ",
		"erased_at timestamp with time zone YES ", "error text YES ",
		"id uuid NO gen_random_uuid()", "idempotency_key character varying YES ", "metadata jsonb YES ",
		"name character varying NO ", "notifies boolean YES ", "outcome character varying YES ", "resolved boolean NO false",
		"resolved_at timestamp with time zone YES ", "resolved_by_sequence integer YES ", "settled_by_id character varying YES ",
		"settled_by_kind character varying YES ", "tenant_id uuid NO ", "timeout_at timestamp with time zone YES ",
		"timeout_error text YES ", "timeout_outcome character varying YES ", "timeout_value bytea YES ",
		"tokens_revoked_at timestamp with time zone YES ", "value bytea YES ", "workflow_execution_id uuid NO ",
	}, lines(t, fresh, `SELECT column_name || ' ' || data_type || ' ' || is_nullable || ' ' || COALESCE(column_default, '')
		FROM information_schema.columns WHERE table_schema = current_schema() AND table_name = 'promise' ORDER BY 1`))
}
