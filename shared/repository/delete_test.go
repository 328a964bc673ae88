package repository_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/dbtest"
	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/repository"
)

// fill gives a tenant rows of every kind: workflows with promises in each state, moved and passed deadlines, idempotency keys with and
// without early settlements, and an API key.
func fill(t testing.TB, r *repository.Repository, slug string, workflows int) {
	t.Helper()
	ctx := t.Context()
	for n := range workflows {
		first := draft("p0")
		for i := range 5 {
			d := promise.Draft{WorkflowExecutionID: first.WorkflowExecutionID, Name: fmt.Sprint("p", i), Timeout: new(time.Hour)}
			p, _, err := unpack(r.Create(ctx, slug, withKey(d, fmt.Sprint(n, "-", i), time.Hour)))
			require.NoError(t, err)
			switch i {
			case 1:
				_, err = r.Settle(ctx, slug, promise.ByID(p.ID), resolved([]byte("1")))
			case 2:
				_, err = r.Extend(ctx, slug, promise.ByID(p.ID), promise.Deadline{Timeout: new(2 * time.Hour)})
			case 3:
				_, err = r.Extend(ctx, slug, promise.ByID(p.ID), promise.Deadline{Timeout: new(time.Duration(0))})
			}
			require.NoError(t, err)
		}
		_, err := r.SettleEarly(ctx, slug, fmt.Sprint("early ", n), resolved([]byte("1")), time.Hour)
		require.NoError(t, err)
	}
	_, err := r.Expire(ctx, 1000)
	require.NoError(t, err)
	_, err = r.CreateAPIKey(ctx, promise.APIKey{Tenant: slug, Name: "n", Hash: []byte(fmt.Sprintf("%-32s", slug)), Scopes: promise.Scopes})
	require.NoError(t, err)
	countAll(t, r, 100)
}

// rowsOf returns the number of rows in each table.
func rowsOf(t testing.TB, db *dbtest.DB) (rows []int) {
	t.Helper()
	for _, table := range []string{"promise", "workflow_execution", "workflow_event_row", "idempotency_key", "api_key", "tenant_usage", "tenant"} {
		rows = append(rows, count(t, db, "SELECT COUNT(*) FROM "+table))
	}
	return rows
}

func deleteAll(t testing.TB, r *repository.Repository, slug string, batch int) (total promise.Contents, last promise.Deletion) {
	t.Helper()
	for !last.Done {
		d, err := r.DeleteTenant(t.Context(), slug, batch)
		require.NoError(t, err)
		last = d
		total.Promises += d.Deleted.Promises
		total.Keys += d.Deleted.Keys
		total.Events += d.Deleted.Events
		total.Executions += d.Deleted.Executions
		total.APIKeys += d.Deleted.APIKeys
	}
	return total, last
}

func TestDeleteTenant(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	fill(t, r, tenant, 3)
	before := rowsOf(t, db)
	for _, batch := range []int{1, 7, 1000} {
		t.Run(fmt.Sprintf("in batches of %d", batch), func(t *testing.T) {
			const slug = "gone"
			db.Exec(t, "DELETE FROM deleted_tenant")
			made, created, err := r.CreateTenant(t.Context(), slug)
			require.NoError(t, err)
			require.True(t, created)
			fill(t, r, slug, 4)
			want := promise.Contents{Promises: 20, Keys: 24, Events: 36, Executions: 4, APIKeys: 1}
			got, err := r.TenantContents(t.Context(), slug, 100)
			require.NoError(t, err)
			require.Equal(t, want, got)
			got, err = r.TenantContents(t.Context(), slug, 10)
			require.NoError(t, err)
			require.Equal(t, promise.Contents{Promises: 11, Keys: 11, Events: 11, Executions: 4, APIKeys: 1}, got, "each count ends after 10")

			_, err = r.DeleteTenant(t.Context(), slug, batch)
			requireCode(t, promise.CodeForbidden, err)
			_, err = r.SuspendTenant(t.Context(), slug, true)
			require.NoError(t, err)
			deleted, last := deleteAll(t, r, slug, batch)
			require.Equal(t, want, deleted)
			require.Equal(t, made.ID, last.TenantID)
			require.Equal(t, before, rowsOf(t, db), "other tenants keep their rows")
		})
	}
	t.Run("an unknown tenant", func(t *testing.T) {
		_, err := r.DeleteTenant(t.Context(), "nobody", 10)
		require.ErrorIs(t, err, promise.ErrNotFound)
		_, err = r.TenantContents(t.Context(), "nobody", 10)
		require.ErrorIs(t, err, promise.ErrNotFound)
	})
	t.Run("a deleted tenant", func(t *testing.T) {
		again, err := r.DeleteTenant(t.Context(), "gone", 10)
		require.NoError(t, err)
		require.True(t, again.Done)
	})
}

// The slug of a deleted tenant is unavailable for promise.SlugReuseDelay. Then a tenant with another id can get it.
func TestTheSlugOfADeletedTenant(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	fill(t, r, tenant, 2)
	old, err := r.SuspendTenant(t.Context(), tenant, true)
	require.NoError(t, err)
	d, err := r.DeleteTenant(t.Context(), tenant, 5)
	require.NoError(t, err)
	require.False(t, d.Done)
	for name, call := range map[string]func(context.Context) error{
		"a tenant that is being deleted cannot be resumed": func(ctx context.Context) error {
			return errOf(r.SuspendTenant(ctx, tenant, false))
		},
		"a tenant that is being deleted cannot be created": func(ctx context.Context) error {
			_, _, err := r.CreateTenant(ctx, tenant)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := requireCode(t, promise.CodeForbidden, call(t.Context()))
			require.Contains(t, e.Detail, "is being deleted")
		})
	}
	t.Run("a tenant that is being deleted gets no API key", func(t *testing.T) {
		_, err := r.CreateAPIKey(t.Context(), promise.APIKey{Tenant: tenant, Name: "n", Hash: make([]byte, 32), Scopes: promise.Scopes})
		require.ErrorIs(t, err, promise.ErrNotFound)
	})
	require.Equal(t, 1, count(t, db, "SELECT COUNT(*) FROM tenant WHERE suspended_at IS NOT NULL AND deleted_at IS NOT NULL"))
	_, last := deleteAll(t, r, tenant, 1000)
	t.Run("the slug is unavailable at first", func(t *testing.T) {
		_, _, err := r.CreateTenant(t.Context(), tenant)
		e := requireCode(t, promise.CodeForbidden, err)
		require.Contains(t, e.Detail, last.FreeAt.UTC().Format(time.RFC3339))
	})
	t.Run("later the slug gets a new tenant", func(t *testing.T) {
		db.Exec(t, "UPDATE deleted_tenant SET deleted_at = deleted_at - $1::INTERVAL", promise.SlugReuseDelay)
		fresh, created, err := r.CreateTenant(t.Context(), tenant)
		require.NoError(t, err)
		require.True(t, created)
		require.NotEqual(t, old.ID, fresh.ID)
		create(t, r, draft("a"))
	})
}

// Concurrent deletions that are cut off anywhere are completed by the next calls, while another tenant works and the sweep
// runs.
func TestDeletionsThatAreCutOff(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	_, _, err := r.CreateTenant(t.Context(), "gone")
	require.NoError(t, err)
	fill(t, r, "gone", 60)
	_, err = r.SuspendTenant(t.Context(), "gone", true)
	require.NoError(t, err)

	stop := make(chan struct{})
	var honest, deleters sync.WaitGroup
	honest.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			p, _, err := unpack(r.Create(context.Background(), tenant, withKey(draft("a"), fmt.Sprint("k", n), time.Hour)))
			if err == nil {
				_, err = r.Settle(context.Background(), tenant, promise.ByID(p.ID), resolved([]byte("1")))
			}
			if err != nil {
				t.Error(err)
				return
			}
		}
	})
	honest.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			_, err := r.DeleteSettled(context.Background(), 0, 10)
			if err == nil {
				_, err = r.ExpireIdempotencyKeys(context.Background(), 100)
			}
			if err != nil {
				t.Error(err)
				return
			}
		}
	})
	for range 2 {
		deleters.Go(func() {
			pool := poolWith(t, db.URL, func(c *pgxpool.Config) {
				c.MaxConns, c.ConnConfig.RuntimeParams["application_name"] = 1, "deleter"
			})
			victim := repository.New(pool)
			for {
				d, err := victim.DeleteTenant(context.Background(), "gone", 3)
				if err == nil && d.Done {
					return
				}
				if err != nil && promise.AsError(err).Code != promise.CodeUnavailable {
					t.Error(err)
					return
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { deleters.Wait(); close(done) }()
	for killed := false; !killed; {
		select {
		case <-done:
			killed = true
		default:
			db.Exec(t, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'deleter' AND state = 'active' AND random() < 0.3")
			time.Sleep(5 * time.Millisecond)
		}
	}
	close(stop)
	honest.Wait()
	require.Equal(t, 1, count(t, db, "SELECT COUNT(*) FROM tenant"))
	for _, table := range []string{"promise", "workflow_execution", "idempotency_key", "api_key", "tenant_usage"} {
		require.Zero(t, count(t, db, "SELECT COUNT(*) FROM "+table+" WHERE tenant_id <> (SELECT id FROM tenant)"), table)
	}
	require.Zero(t, count(t, db, `SELECT COUNT(*) FROM workflow_event_row e
		WHERE NOT EXISTS (SELECT FROM workflow_execution w WHERE w.id = e.workflow_execution_id)`))
	require.Equal(t, 1, count(t, db, "SELECT COUNT(*) FROM deleted_tenant"))
}

// A create that found its tenant before the suspension, and commits while the last batch deletes the tenant, leaves no rows.
func TestACreateDuringTheLastBatchLeavesNoRows(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	tx, err := db.Pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = repository.New(tx).Create(t.Context(), tenant, draft("late"))
	require.NoError(t, err)
	_, err = r.SuspendTenant(t.Context(), tenant, true)
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() {
		for {
			d, err := r.DeleteTenant(context.Background(), tenant, 10)
			if err != nil || d.Done {
				done <- err
				return
			}
		}
	}()
	waitForLocks(t, db, 1, "tenant", "delete_tenant")
	require.NoError(t, tx.Commit(t.Context()))
	require.NoError(t, <-done)
	require.Equal(t, []int{0, 0, 0, 0, 0, 0, 0}, rowsOf(t, db))
}
