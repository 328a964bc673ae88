package repository_test

import (
	"errors"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/dbtest"
	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/repository"
)

// orders returns a destination with another id for each call.
func orders() promise.Destination {
	return promise.Destination{ID: uuid.New(), Name: "orders", Kind: promise.DestinationHTTPS, Address: "https://example.com/hooks?a='\\x00"}
}

// sealed returns a text of the form that the database accepts.
func sealed(id uuid.UUID, version int) ([]byte, error) {
	return append([]byte{1, 'k', 'k', 'k', 'k', 'k', 'k', 'k', 'k'}, []byte(id.String()+strconv.Itoa(version))...), nil
}

func put(t testing.TB, r *repository.Repository, d promise.Destination) promise.Destination {
	t.Helper()
	var text []byte
	if d.Kind == promise.DestinationHTTPS {
		text, _ = sealed(d.ID, 1)
	}
	stored, _, err := r.PutDestination(t.Context(), tenant, d, nil, text)
	require.NoError(t, err)
	return stored
}

func versions(secrets []promise.DestinationSecret) (list []int) {
	for _, s := range secrets {
		list = append(list, s.Version)
	}
	return list
}

// requireDestinations sends every statement on destinations.
func requireDestinations(t *testing.T, r *repository.Repository) {
	t.Helper()
	ctx := t.Context()
	d := orders()
	stored := put(t, r, d)
	require.Equal(t, d.Address, stored.Address)
	stored, secrets, err := r.GetDestination(ctx, tenant, "orders")
	require.NoError(t, err)
	require.Equal(t, d.ID, stored.ID)
	want, _ := sealed(d.ID, 1)
	require.Equal(t, want, secrets[0].Sealed)
	_, secrets, err = r.RotateDestinationSecret(ctx, tenant, "orders", promise.Rotation{Overlap: time.Hour}, sealed)
	require.NoError(t, err)
	require.Equal(t, []int{2, 1}, versions(secrets))
	require.NoError(t, r.SetDefaultDestination(ctx, tenant, new("orders")))
	require.NoError(t, r.SetDefaultDestination(ctx, tenant, nil))
	_, err = r.EnableDestination(ctx, tenant, "orders", false)
	require.NoError(t, err)
	list, err := r.ListDestinations(ctx, tenant)
	require.NoError(t, err)
	require.Len(t, list, 1)
	toReseal, err := r.TextsToReseal(ctx, []byte("\x01zzzzzzzz"), 10, 1<<20)
	require.NoError(t, err)
	require.Len(t, toReseal, 2)
	n, err := r.ResealTexts(ctx, toReseal, [][]byte{append([]byte("\x01zzzzzzzz"), want...), append([]byte("\x01zzzzzzzz"), want...)})
	require.NoError(t, err)
	require.Equal(t, 2, n)
	_, err = r.DeleteDestination(ctx, tenant, "orders")
	require.NoError(t, err)
	_, err = r.DeleteDestinations(ctx, 10)
	require.NoError(t, err)
}

func TestPutDestination(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	first := orders()
	text, _ := sealed(first.ID, 1)
	stored, created, err := r.PutDestination(t.Context(), tenant, first, nil, text)
	require.NoError(t, err)
	require.True(t, created)
	require.True(t, stored.Enabled, "a new destination is enabled")
	t.Run("the same again keeps the id and the secret", func(t *testing.T) {
		again, created, err := r.PutDestination(t.Context(), tenant, orders(), nil, text)
		require.NoError(t, err)
		require.False(t, created)
		require.Equal(t, first.ID, again.ID)
		require.Equal(t, 1, count(t, db, "SELECT COUNT(*) FROM destination_secret"))
	})
	t.Run("another address changes it", func(t *testing.T) {
		other := orders()
		other.Address = "https://example.org/"
		require.Equal(t, "https://example.org/", put(t, r, other).Address)
	})
	t.Run("without enabled a paused destination stays paused", func(t *testing.T) {
		_, err := r.EnableDestination(t.Context(), tenant, "orders", false)
		require.NoError(t, err)
		require.False(t, put(t, r, orders()).Enabled)
	})
	t.Run("enabled clears the service's reason, and a put without it does not", func(t *testing.T) {
		db.Exec(t, "UPDATE destination SET enabled = FALSE, disabled_because = 'gone'")
		require.Equal(t, "gone", put(t, r, orders()).DisabledBecause)
		enabled, _, err := r.PutDestination(t.Context(), tenant, orders(), new(true), text)
		require.NoError(t, err)
		require.True(t, enabled.Enabled)
		require.Empty(t, enabled.DisabledBecause)
	})
	t.Run("another kind is a conflict", func(t *testing.T) {
		_, _, err := r.PutDestination(t.Context(), tenant, promise.Destination{ID: uuid.New(), Name: "orders", Kind: promise.DestinationSQS, Address: "q"}, nil, nil)
		requireCode(t, promise.CodeConflict, err)
	})
	t.Run("a kind without secrets gets none", func(t *testing.T) {
		queue := put(t, r, promise.Destination{ID: uuid.New(), Name: "queue", Kind: promise.DestinationSQS, Address: "q", Region: "eu-central-1", RoleARN: "r"})
		_, secrets, err := r.GetDestination(t.Context(), tenant, "queue")
		require.NoError(t, err)
		require.Empty(t, secrets)
		require.Equal(t, "eu-central-1", queue.Region)
		_, _, err = r.RotateDestinationSecret(t.Context(), tenant, "queue", promise.Rotation{}, sealed)
		requireCode(t, promise.CodeConflict, err)
	})
	t.Run("the limit", func(t *testing.T) {
		db.Exec(t, "INSERT INTO destination (tenant_id, name, kind, deleted_at) SELECT id, 'gone', 'sqs', NOW() FROM tenant")
		db.Exec(t, "INSERT INTO destination (tenant_id, name, kind) SELECT id, 'd' || n, 'sqs' FROM tenant CROSS JOIN generate_series(1, 97) n")
		put(t, r, promise.Destination{ID: uuid.New(), Name: "hundredth", Kind: promise.DestinationSQS, Address: "q"})
		_, _, err := r.PutDestination(t.Context(), tenant, promise.Destination{ID: uuid.New(), Name: "more", Kind: promise.DestinationSQS}, nil, nil)
		requireCode(t, promise.CodeQuotaExceeded, err)
		put(t, r, orders()) // an existing one can be changed
	})
	t.Run("an unknown tenant, and a suspended one", func(t *testing.T) {
		_, _, err := r.PutDestination(t.Context(), "nobody", orders(), nil, text)
		require.ErrorIs(t, err, promise.ErrNotFound)
		_, err = r.SuspendTenant(t.Context(), tenant, true)
		require.NoError(t, err)
		_, _, err = r.PutDestination(t.Context(), tenant, orders(), nil, text)
		require.ErrorIs(t, err, promise.ErrNotFound)
	})
}

func TestDeleteDestination(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	d := put(t, r, orders())
	require.NoError(t, r.SetDefaultDestination(t.Context(), tenant, new("orders")))
	p := create(t, r, draft("a"))
	require.Equal(t, 1, count(t, db, "SELECT COUNT(*) FROM delivery"), "the default destination")
	id, err := r.DeleteDestination(t.Context(), tenant, "orders")
	require.NoError(t, err)
	require.Equal(t, d.ID, id)
	t.Run("it is not the default, and has no secrets", func(t *testing.T) {
		require.Equal(t, 1, count(t, db, "SELECT COUNT(*) FROM tenant WHERE default_destination_id IS NULL"))
		require.Zero(t, count(t, db, "SELECT COUNT(*) FROM destination_secret"))
	})
	t.Run("it does not exist any more", func(t *testing.T) {
		for name, call := range map[string]func() error{
			"delete": func() error { return errOf(r.DeleteDestination(t.Context(), tenant, "orders")) },
			"get":    func() error { return errOf2(r.GetDestination(t.Context(), tenant, "orders")) },
			"enable": func() error { return errOf(r.EnableDestination(t.Context(), tenant, "orders", true)) },
			"rotate": func() error {
				return errOf2(r.RotateDestinationSecret(t.Context(), tenant, "orders", promise.Rotation{}, sealed))
			},
		} {
			require.ErrorIs(t, call(), promise.ErrNoDestination, name)
		}
		requireCode(t, promise.CodeUnknownDestination, r.SetDefaultDestination(t.Context(), tenant, new("orders")))
	})
	t.Run("its name is free", func(t *testing.T) {
		require.NotEqual(t, d.ID, put(t, r, orders()).ID)
	})
	age := func() {
		db.Exec(t, "UPDATE destination SET deleted_at = NOW() - INTERVAL '11 minutes' WHERE deleted_at IS NOT NULL")
	}
	t.Run("its row stays while it has deliveries", func(t *testing.T) {
		age()
		n, err := r.DeleteDestinations(t.Context(), 10)
		require.NoError(t, err)
		require.Zero(t, n)
	})
	t.Run("its row is deleted after its deliveries", func(t *testing.T) {
		db.Exec(t, "DELETE FROM delivery WHERE promise_id = $1", p.ID)
		n, err := r.DeleteDestinations(t.Context(), 10)
		require.NoError(t, err)
		require.Equal(t, 1, n)
		require.Equal(t, 1, count(t, db, "SELECT COUNT(*) FROM destination"))
	})
	t.Run("a row that was just deleted stays for a while", func(t *testing.T) {
		_, err := r.DeleteDestination(t.Context(), tenant, "orders")
		require.NoError(t, err)
		n, err := r.DeleteDestinations(t.Context(), 10)
		require.NoError(t, err)
		require.Zero(t, n)
	})
}

func TestDefaultDestination(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	put(t, r, orders())
	put(t, r, promise.Destination{ID: uuid.New(), Name: "stepFunctions", Kind: promise.DestinationStepFunctions})
	require.NoError(t, r.SetDefaultDestination(t.Context(), tenant, new("orders")))
	d, _, err := r.GetDestination(t.Context(), tenant, "orders")
	require.NoError(t, err)
	require.True(t, d.Default)
	t.Run("a kind that takes a token", func(t *testing.T) {
		requireCode(t, promise.CodeConflict, r.SetDefaultDestination(t.Context(), tenant, new("stepFunctions")))
	})
	t.Run("an unknown name, and another tenant's", func(t *testing.T) {
		db.Tenant(t, "other")
		requireCode(t, promise.CodeUnknownDestination, r.SetDefaultDestination(t.Context(), tenant, new("nothing")))
		requireCode(t, promise.CodeUnknownDestination, r.SetDefaultDestination(t.Context(), "other", new("orders")))
		require.ErrorIs(t, r.SetDefaultDestination(t.Context(), "nobody", nil), promise.ErrNotFound)
	})
	t.Run("a refused call changes nothing", func(t *testing.T) {
		list, err := r.ListDestinations(t.Context(), tenant)
		require.NoError(t, err)
		require.Equal(t, []bool{true, false}, []bool{list[0].Default, list[1].Default})
	})
}

func TestRotateDestinationSecret(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	put(t, r, orders())
	rotate := func(t *testing.T, rotation promise.Rotation) ([]int, error) {
		t.Helper()
		_, secrets, err := r.RotateDestinationSecret(t.Context(), tenant, "orders", rotation, sealed)
		if err != nil {
			return nil, err
		}
		_, stored, err := r.GetDestination(t.Context(), tenant, "orders")
		require.NoError(t, err)
		require.Equal(t, versions(stored), versions(secrets), "it returns what is stored")
		for i, s := range stored {
			require.Equal(t, i == 0, s.RetireAt == nil)
		}
		return versions(secrets), nil
	}
	day := promise.Rotation{Overlap: 24 * time.Hour}
	active, err := rotate(t, day)
	require.NoError(t, err)
	require.Equal(t, []int{2, 1}, active)
	require.Equal(t, 1, count(t, db, "SELECT COUNT(*) FROM destination_secret WHERE retire_at BETWEEN NOW() + INTERVAL '23 hours' AND NOW() + INTERVAL '24 hours'"))
	t.Run("a third one is refused: only the caller knows which one the receiver has", func(t *testing.T) {
		_, err := rotate(t, day)
		requireCode(t, promise.CodeConflict, err)
		require.Contains(t, promise.AsError(err).Detail, "Active: version 2, and version 1 until 20")
		_, err = rotate(t, promise.Rotation{Ends: 3})
		requireCode(t, promise.CodeConflict, err)
	})
	t.Run("a call whose answer was lost is repeated in place of the newest", func(t *testing.T) {
		active, err := rotate(t, promise.Rotation{Overlap: time.Hour, Ends: 2})
		require.NoError(t, err)
		require.Equal(t, []int{3, 1}, active)
	})
	t.Run("the older one can end instead", func(t *testing.T) {
		active, err := rotate(t, promise.Rotation{Overlap: time.Hour, Ends: 1})
		require.NoError(t, err)
		require.Equal(t, []int{4, 3}, active)
	})
	t.Run("a retired secret is not active, and the next rotation deletes it", func(t *testing.T) {
		db.Exec(t, "UPDATE destination_secret SET retire_at = NOW() WHERE version = 3")
		active, err := rotate(t, promise.Rotation{Overlap: time.Hour})
		require.NoError(t, err)
		require.Equal(t, []int{5, 4}, active)
		require.Equal(t, 2, count(t, db, "SELECT COUNT(*) FROM destination_secret"))
	})
	t.Run("the sweep deletes a retired secret", func(t *testing.T) {
		db.Exec(t, "UPDATE destination_secret SET retire_at = NOW() - INTERVAL '1 second' WHERE version = 4")
		n, err := r.DeleteDestinations(t.Context(), 10)
		require.NoError(t, err)
		require.Equal(t, 1, n)
	})
	t.Run("without an overlap the former one ends at once", func(t *testing.T) {
		active, err := rotate(t, promise.Rotation{})
		require.NoError(t, err)
		require.Equal(t, []int{6}, active)
	})
}

// together calls n functions at the same time and returns their errors.
func together(n int, call func(i int) error) []error {
	failures := make([]error, n)
	var calls sync.WaitGroup
	for i := range n {
		calls.Go(func() { failures[i] = call(i) })
	}
	calls.Wait()
	return failures
}

// If destinations are put, deleted, rotated and made the default at the same time, each call sees a whole state.
func TestDestinationsAtOnce(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	ctx := t.Context()
	const callers = 8
	t.Run("one of several puts creates it, with one secret", func(t *testing.T) {
		var mu sync.Mutex
		news := 0
		for _, err := range together(callers, func(int) error {
			d := orders()
			text, _ := sealed(d.ID, 1)
			_, created, err := r.PutDestination(ctx, tenant, d, nil, text)
			mu.Lock()
			defer mu.Unlock()
			if created {
				news++
			}
			return err
		}) {
			require.NoError(t, err)
		}
		require.Equal(t, 1, news)
		require.Equal(t, 1, count(t, db, "SELECT COUNT(*) FROM destination_secret"))
	})
	t.Run("one of several rotations wins, the others are refused", func(t *testing.T) {
		failures := together(callers, func(int) error {
			return errOf2(r.RotateDestinationSecret(ctx, tenant, "orders", promise.Rotation{Overlap: time.Hour}, sealed))
		})
		failures = slices.DeleteFunc(failures, func(err error) bool { return err == nil })
		require.Len(t, failures, callers-1)
		for _, err := range failures {
			requireCode(t, promise.CodeConflict, err)
		}
	})
	t.Run("whatever comes first, a deleted destination has no secret and is no default", func(t *testing.T) {
		for range 10 {
			put(t, r, orders())
			for _, err := range together(callers, func(i int) error {
				switch i % 4 {
				case 0:
					return errOf2(r.RotateDestinationSecret(ctx, tenant, "orders", promise.Rotation{}, sealed))
				case 1:
					return r.SetDefaultDestination(ctx, tenant, new("orders"))
				case 2:
					return errOf(r.EnableDestination(ctx, tenant, "orders", i > 4))
				}
				return errOf(r.DeleteDestination(ctx, tenant, "orders"))
			}) {
				if err != nil && !errors.Is(err, promise.ErrNoDestination) {
					require.Contains(t, []promise.Code{promise.CodeUnknownDestination, promise.CodeConflict}, promise.AsError(err).Code, err)
				}
			}
			requireNothingLeft(t, db)
		}
	})
}

func requireNothingLeft(t *testing.T, db *dbtest.DB) {
	t.Helper()
	require.Zero(t, count(t, db, "SELECT COUNT(*) FROM destination WHERE deleted_at IS NULL"))
	require.Zero(t, count(t, db, "SELECT COUNT(*) FROM destination_secret"))
	require.Zero(t, count(t, db, "SELECT COUNT(*) FROM tenant WHERE default_destination_id IS NOT NULL"))
}

// A row that a transaction has locked delays a deletion, which then works on what the transaction has left.
func TestADeletionSeesARotationThatCameFirst(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	d := put(t, r, orders())
	tx, err := db.Pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), "UPDATE destination SET updated_at = CLOCK_TIMESTAMP()")
	require.NoError(t, err)
	text, _ := sealed(d.ID, 2)
	_, err = tx.Exec(t.Context(), "INSERT INTO destination_secret (destination_id, version, sealed) VALUES ($1, 2, $2)", d.ID, text)
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), "UPDATE tenant SET default_destination_id = $1", d.ID)
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() { done <- errOf(r.DeleteDestination(t.Context(), tenant, "orders")) }()
	waitForLocks(t, db, 1, "destination", "delete_destination")
	require.NoError(t, tx.Commit(t.Context()))
	require.NoError(t, <-done)
	requireNothingLeft(t, db)
}
