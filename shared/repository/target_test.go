package repository_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/dbtest"
	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/repository"
)

func message(destination string) promise.Target { return promise.Target{Destination: destination} }

func task(token string) promise.Target {
	return promise.Target{Kind: promise.DestinationStepFunctions, Token: token}
}

func callback(id, destination string) promise.Target {
	return promise.Target{Kind: promise.DestinationDurableExecution, Token: id, Destination: destination}
}

func notify(d promise.Draft, targets ...promise.Target) promise.Draft {
	d.Notify = append([]promise.Target{}, targets...)
	return d
}

// A storedDelivery is a row of delivery, with its destination's name.
type storedDelivery struct {
	Target      int16
	Destination string
	Token       *string
	State       string
	Due         bool // its next attempt is due now
	ByDefault   bool
}

func deliveriesOf(t testing.TB, db *dbtest.DB, id uuid.UUID) []storedDelivery {
	t.Helper()
	rows, _ := db.Pool.Query(t.Context(), `SELECT v.target, d.name AS destination, v.token, v.state, COALESCE(v.due_at <= NOW(), FALSE) AS due, v.by_default
		FROM delivery v JOIN destination d ON d.id = v.destination_id WHERE v.promise_id = $1 ORDER BY v.target`, id)
	found, err := pgx.CollectRows(rows, pgx.RowToStructByName[storedDelivery])
	require.NoError(t, err)
	return found
}

func settlePromise(t testing.TB, r *repository.Repository, id uuid.UUID) {
	t.Helper()
	_, err := r.Settle(t.Context(), tenant, promise.ByID(id), resolved([]byte("1")))
	require.NoError(t, err)
}

func states(t testing.TB, db *dbtest.DB, id uuid.UUID) (found []string) {
	t.Helper()
	for _, d := range deliveriesOf(t, db, id) {
		found = append(found, d.State)
		require.Equal(t, d.State == "due", d.Due)
	}
	return found
}

func TestCreateWithTargets(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	addDestination(t, db, tenant, "orders", promise.DestinationHTTPS)
	addDestination(t, db, tenant, "abroad", promise.DestinationDurableExecution)

	p := create(t, r, notify(draft("p"), message("orders"), task("t1"), callback("c1", "abroad"), callback("c2", "")))
	require.Equal(t, []storedDelivery{
		{Target: 1, Destination: "orders", State: "waiting"},
		{Target: 2, Destination: "stepFunctions", Token: new("t1"), State: "waiting"},
		{Target: 3, Destination: "abroad", Token: new("c1"), State: "waiting"},
		{Target: 4, Destination: "durableExecution", Token: new("c2"), State: "waiting"},
	}, deliveriesOf(t, db, p.ID))

	t.Run("the destination of a kind is created once", func(t *testing.T) {
		var wg sync.WaitGroup
		for n := range 8 {
			wg.Go(func() {
				_, err := r.Create(t.Context(), tenant, notify(draft(fmt.Sprint("concurrent", n)), task(fmt.Sprint(n)), callback(fmt.Sprint(n), "")))
				require.NoError(t, err)
			})
		}
		wg.Wait()
		require.Equal(t, 2, count(t, db, "SELECT COUNT(*) FROM destination WHERE name = kind"))
	})
	t.Run("no target", func(t *testing.T) {
		require.Empty(t, deliveriesOf(t, db, create(t, r, draft("none")).ID))
		require.Empty(t, deliveriesOf(t, db, create(t, r, notify(draft("empty"))).ID))
	})
	t.Run("a key and its early settlement: due at once", func(t *testing.T) {
		settleEarly(t, r, "early", resolved([]byte("1")), promise.OutcomeHeld)
		p := create(t, r, notify(withKey(draft("early"), "early", time.Hour), message("orders"), task("t2")))
		require.Equal(t, promise.Resolved, p.State)
		require.Equal(t, []string{"due", "due"}, states(t, db, p.ID))
	})
}

func TestRefusedTargets(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	db.Tenant(t, "other")
	addDestination(t, db, tenant, "orders", promise.DestinationHTTPS)
	addDestination(t, db, tenant, "tasks", promise.DestinationStepFunctions)
	addDestination(t, db, tenant, "deleted", promise.DestinationHTTPS)
	addDestination(t, db, tenant, "broken", promise.DestinationHTTPS)
	addDestination(t, db, tenant, "paused", promise.DestinationHTTPS)
	db.Exec(t, "UPDATE destination SET deleted_at = NOW() WHERE name = 'deleted'")
	db.Exec(t, "UPDATE destination SET enabled = FALSE, disabled_because = 'It answered 410.' WHERE name = 'broken'")
	db.Exec(t, "UPDATE destination SET enabled = FALSE WHERE name = 'paused'")
	db.Exec(t, "INSERT INTO destination (tenant_id, name, kind) SELECT id, 'theirs', 'https' FROM tenant WHERE slug = 'other'")
	for _, c := range []struct {
		name   string
		target promise.Target
		code   promise.Code
		says   string
	}{
		{"unknown", message("nosuch"), promise.CodeUnknownDestination, `There is no destination "nosuch"`},
		{"another tenant's", message("theirs"), promise.CodeUnknownDestination, `There is no destination "theirs"`},
		{"deleted", message("deleted"), promise.CodeUnknownDestination, `There is no destination "deleted"`},
		{"a message to a kind with tokens", message("tasks"), promise.CodeUnknownDestination, `Name it within {"stepFunctions"`},
		{"a token for a kind without", callback("c", "orders"), promise.CodeUnknownDestination, `of the kind https, which takes no token`},
		{"a token of another kind", callback("c", "tasks"), promise.CodeUnknownDestination, `of the kind stepFunctions`},
		{"disabled by the service", message("broken"), promise.CodeDestinationDisabled, "It answered 410."},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := r.Create(t.Context(), tenant, notify(withKey(draft("p"), "k", time.Hour), message("orders"), c.target))
			e := promise.AsError(err)
			require.Equal(t, c.code, e.Code, err)
			require.Contains(t, e.Detail, c.says)
			require.Equal(t, "notify[1]", e.Field)
			require.Zero(t, count(t, db, "SELECT (SELECT COUNT(*) FROM promise) + (SELECT COUNT(*) FROM delivery) + (SELECT COUNT(*) FROM idempotency_key)"))
			require.Zero(t, count(t, db, "SELECT COUNT(*) FROM workflow_execution"))
		})
	}
	t.Run("a paused destination is accepted", func(t *testing.T) {
		p := create(t, r, notify(draft("paused"), message("paused")))
		require.Equal(t, []string{"waiting"}, states(t, db, p.ID))
	})
}

// However a promise is settled, its deliveries are due when the settlement is visible.
func TestEverySettlementMakesDeliveriesDue(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	addDestination(t, db, tenant, "orders", promise.DestinationHTTPS)
	past := time.Now().Add(-time.Hour)
	key := 0
	settle := func(s promise.SettleRequest) func(context.Context, promise.Promise) error {
		return func(ctx context.Context, p promise.Promise) error {
			_, err := r.Settle(ctx, tenant, promise.ByID(p.ID), s)
			return err
		}
	}
	expire := func(ctx context.Context, p promise.Promise) error {
		_, err := r.Expire(ctx, 10)
		return err
	}
	for _, c := range []struct {
		name  string
		draft promise.Draft
		by    func(ctx context.Context, p promise.Promise) error
	}{
		{"resolve by id", promise.Draft{}, settle(resolved([]byte("1")))},
		{"reject by id", promise.Draft{}, settle(rejected("no"))},
		{"cancel", promise.Draft{}, settle(cancelled(""))},
		{"resolve by key", promise.Draft{}, func(ctx context.Context, p promise.Promise) error {
			_, err := r.Settle(ctx, tenant, byKey(t, *p.IdempotencyKey), resolved([]byte("1")))
			return err
		}},
		{"an early settlement that finds the promise", promise.Draft{}, func(ctx context.Context, p promise.Promise) error {
			_, err := r.SettleEarly(ctx, tenant, *p.IdempotencyKey, resolved([]byte("1")), time.Hour)
			return err
		}},
		{"batch", promise.Draft{}, func(ctx context.Context, p promise.Promise) error {
			_, err := r.SettleBatch(ctx, tenant, promise.By{Kind: promise.KindDirect}, []promise.Item{{Promise: promise.ByID(p.ID), Result: promise.Result{State: promise.Resolved, Value: []byte("1")}}})
			return err
		}},
		{"deadline", promise.Draft{TimeoutAt: &past}, expire},
		{"deadline with a default outcome", promise.Draft{TimeoutAt: &past, OnTimeout: &promise.Result{State: promise.Resolved, Value: []byte("1")}}, expire},
		{"deadline of one workflow", promise.Draft{TimeoutAt: &past}, func(ctx context.Context, p promise.Promise) error {
			_, err := r.ExpireWorkflow(ctx, p.WorkflowExecutionID, 10)
			return err
		}},
		{"extension into the past, then the sweep", promise.Draft{}, func(ctx context.Context, p promise.Promise) error {
			if _, err := r.Extend(ctx, tenant, promise.ByID(p.ID), promise.Deadline{At: &past}); err != nil {
				return err
			}
			require.Equal(t, []string{"waiting", "waiting"}, states(t, db, p.ID))
			_, err := r.Expire(ctx, 10)
			return err
		}},
		{"a plain UPDATE", promise.Draft{}, func(ctx context.Context, p promise.Promise) error {
			_, err := db.Pool.Exec(ctx, "UPDATE promise SET resolved = TRUE, outcome = 'cancelled', resolved_at = NOW(), resolved_by_sequence = 99, settled_by_kind = 'direct' WHERE id = $1", p.ID)
			return err
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			key++
			d := c.draft
			d.WorkflowExecutionID, d.Name = uuid.New(), "p"
			p := create(t, r, notify(withKey(d, fmt.Sprint(key), time.Hour), message("orders"), task("t")))
			require.Equal(t, []string{"waiting", "waiting"}, states(t, db, p.ID))
			require.NoError(t, c.by(t.Context(), p))
			require.Equal(t, []string{"due", "due"}, states(t, db, p.ID))
			before := deliveriesOf(t, db, p.ID)
			_, err := r.Settle(t.Context(), tenant, promise.ByID(p.ID), resolved([]byte("1")))
			require.NoError(t, err)
			require.Equal(t, before, deliveriesOf(t, db, p.ID), "a second settlement changes nothing")
		})
	}
	t.Run("an erasure of an overdue promise ends them", func(t *testing.T) {
		p := create(t, r, notify(promise.Draft{WorkflowExecutionID: uuid.New(), Name: "p", TimeoutAt: &past}, message("orders")))
		require.NoError(t, errOf(r.Erase(t.Context(), tenant, promise.ByID(p.ID))))
		require.Equal(t, []string{"gone"}, states(t, db, p.ID))
		require.Equal(t, 1, count(t, db, "SELECT COUNT(*) FROM delivery WHERE end_reason = 'The promise was deleted.'"))
	})
}

// An engine that got no answer repeats the create with a new token: the promise's waiter is then behind the new one.
func TestARepeatedCreateReplacesTheToken(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	addDestination(t, db, tenant, "orders", promise.DestinationHTTPS)
	again := func(d promise.Draft, targets ...promise.Target) error {
		t.Helper()
		result, err := r.Create(t.Context(), tenant, notify(d, targets...))
		if err == nil {
			require.False(t, result.New)
		}
		return err
	}
	tokens := func(id uuid.UUID) (found []string) {
		for _, d := range deliveriesOf(t, db, id) {
			if d.Token != nil {
				found = append(found, *d.Token+" "+d.State)
			}
		}
		return found
	}
	t.Run("before the settlement", func(t *testing.T) {
		d := draft("before")
		p := create(t, r, notify(d, task("old"), message("orders")))
		require.NoError(t, again(d, task("new"), message("orders")))
		require.Equal(t, []string{"new waiting"}, tokens(p.ID))
		settlePromise(t, r, p.ID)
		require.Equal(t, []string{"new due"}, tokens(p.ID))
	})
	for _, former := range promise.DeliveryStates[1:] {
		t.Run("after the settlement, "+string(former), func(t *testing.T) {
			d := draft("after " + string(former))
			p := create(t, r, notify(d, task("old"), message("orders"), callback("same", "")))
			settlePromise(t, r, p.ID)
			db.Exec(t, `UPDATE delivery SET state = $2::VARCHAR, due_at = CASE WHEN $2::VARCHAR = 'due' THEN NOW() + INTERVAL '1 hour' END, lease = $1, attempts = 7,
				end_reason = 'x' WHERE promise_id = $1`, p.ID, string(former))
			require.NoError(t, again(d, task("new"), message("orders"), callback("same", "")))
			require.Equal(t, []string{"new due", "same " + string(former)}, tokens(p.ID))
			require.True(t, deliveriesOf(t, db, p.ID)[0].Due, "at once")
			require.Equal(t, 1, count(t, db, "SELECT COUNT(*) FROM delivery WHERE promise_id = '"+p.ID.String()+"' AND lease IS NULL AND attempts = 0 AND end_reason IS NULL"))
		})
	}
	t.Run("an erased promise notifies the new waiter", func(t *testing.T) {
		d := draft("erased")
		d.Metadata = []byte(`{"a":1}`)
		p := create(t, r, notify(d, task("old")))
		settlePromise(t, r, p.ID)
		db.Exec(t, "UPDATE delivery SET last_error = 'it quotes the value' WHERE promise_id = $1", p.ID)
		require.NoError(t, errOf(r.Erase(t.Context(), tenant, promise.ByID(p.ID))))
		require.Equal(t, []string{"old gone"}, tokens(p.ID))
		require.Zero(t, count(t, db, "SELECT COUNT(*) FROM delivery WHERE last_error IS NOT NULL AND promise_id = $1", p.ID))
		require.NoError(t, again(d, task("new")))
		require.Equal(t, []string{"new due"}, tokens(p.ID))
	})
	t.Run("a new token does not go to a deleted destination", func(t *testing.T) {
		addDestination(t, db, tenant, "abroad", promise.DestinationDurableExecution)
		for _, settled := range []bool{false, true} {
			d := draft(fmt.Sprint("deleted ", settled))
			p := create(t, r, notify(d, task("old"), callback("old", "abroad")))
			if settled {
				settlePromise(t, r, p.ID)
			}
			db.Exec(t, "UPDATE destination SET deleted_at = NOW() WHERE name IN ('stepFunctions', 'abroad') AND deleted_at IS NULL")
			e := promise.AsError(again(d, task("new"), callback("new", "abroad")))
			require.Equal(t, promise.CodeUnknownDestination, e.Code)
			require.Equal(t, "notify[1]", e.Field)
			addDestination(t, db, tenant, "abroad", promise.DestinationDurableExecution)
			require.NoError(t, again(d, task("new"), callback("new", "abroad")))
			settlePromise(t, r, p.ID)
			require.Equal(t, []string{"new due", "new due"}, tokens(p.ID))
			require.Equal(t, 2, count(t, db, "SELECT COUNT(*) FROM delivery v JOIN destination d ON d.id = v.destination_id WHERE v.promise_id = $1 AND d.deleted_at IS NULL", p.ID))
		}
	})
	t.Run("everything else is a conflict, and changes no token", func(t *testing.T) {
		d := draft("conflict")
		p := create(t, r, notify(d, task("old"), message("orders")))
		other := d
		other.Metadata = []byte(`{"other":true}`)
		for name, targets := range map[string][]promise.Target{
			"none":              {},
			"fewer":             {task("new")},
			"more":              {task("new"), message("orders"), callback("c", "")},
			"another order":     {message("orders"), task("new")},
			"another kind":      {callback("new", ""), message("orders")},
			"an unknown name":   {task("new"), message("nosuch")},
			"absent (nil list)": nil,
		} {
			t.Run(name, func(t *testing.T) {
				d := d
				d.Notify = targets
				_, err := r.Create(t.Context(), tenant, d)
				e := promise.AsError(err)
				require.Equal(t, promise.CodeCreateConflict, e.Code, err)
				require.Contains(t, e.Detail, "notify")
				require.Equal(t, p.ID, e.ExistingPromiseID)
			})
		}
		require.Equal(t, promise.CodeCreateConflict, promise.AsError(again(other, task("new"), message("orders"))).Code)
		require.Equal(t, []string{"old waiting"}, tokens(p.ID))
	})
}

func TestTheDefaultDestination(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	addDestination(t, db, tenant, "orders", promise.DestinationHTTPS)
	before := create(t, r, draft("before"))
	db.Exec(t, "UPDATE tenant SET default_destination_id = (SELECT id FROM destination)")
	w := uuid.New()
	d := promise.Draft{WorkflowExecutionID: w, Name: "p"}
	p := create(t, r, d)
	byDefault := []storedDelivery{{Target: 1, Destination: "orders", State: "waiting", ByDefault: true}}
	require.Equal(t, byDefault, deliveriesOf(t, db, p.ID))
	require.Equal(t, byDefault, deliveriesOf(t, db, create(t, r, promise.Draft{WorkflowExecutionID: w, Name: "the second of a workflow"}).ID))
	require.Empty(t, deliveriesOf(t, db, create(t, r, notify(draft("opted out"))).ID))

	t.Run("the repeated create", func(t *testing.T) {
		for _, same := range []promise.Draft{d, {WorkflowExecutionID: before.WorkflowExecutionID, Name: "before"}} {
			result, err := r.Create(t.Context(), tenant, same)
			require.NoError(t, err)
			require.False(t, result.New)
		}
		_, err := r.Create(t.Context(), tenant, notify(d))
		require.Equal(t, promise.CodeCreateConflict, promise.AsError(err).Code)
		_, err = r.Create(t.Context(), tenant, notify(d, message("orders")))
		require.Equal(t, promise.CodeCreateConflict, promise.AsError(err).Code)
	})
	t.Run("another default changes nothing for it", func(t *testing.T) {
		db.Exec(t, "UPDATE tenant SET default_destination_id = NULL")
		result, err := r.Create(t.Context(), tenant, d)
		require.NoError(t, err)
		require.False(t, result.New)
		require.Equal(t, byDefault, deliveriesOf(t, db, p.ID))
	})
}

// The first creates of a tenant name both kinds in different orders. The statement is not repeated here, so a deadlock is an error.
func TestKindsAreCreatedInOneOrder(t *testing.T) {
	t.Parallel()
	_, db := setUp(t)
	for n := range 5 {
		slug := fmt.Sprint("new", n)
		db.Tenant(t, slug)
		var creates sync.WaitGroup
		for i := range 8 {
			kinds := []string{"stepFunctions", "durableExecution"}
			creates.Go(func() {
				_, err := db.Pool.Exec(context.WithoutCancel(t.Context()), `SELECT promise_create($1, gen_random_uuid(), NULL, 'n', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
					1000, FALSE, ARRAY[$2, NULL, 't', $3, NULL, 't']::VARCHAR[])`, slug, kinds[i%2], kinds[1-i%2])
				if err != nil {
					t.Error(err)
				}
			})
		}
		creates.Wait()
	}
	require.Equal(t, 10, count(t, db, "SELECT COUNT(*) FROM destination"))
	require.Equal(t, 80, count(t, db, "SELECT COUNT(*) FROM delivery"))
}

// A create that has read the tenant's default destination waits, and meanwhile the destination is deleted.
func TestACreateBesideTheDeletionOfTheDefault(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	addDestination(t, db, tenant, "orders", promise.DestinationHTTPS)
	d := create(t, r, draft("first"))
	require.NoError(t, r.SetDefaultDestination(t.Context(), tenant, new("orders")))
	tx, err := db.Pool.Begin(t.Context())
	require.NoError(t, err)
	defer tx.Rollback(context.Background()) //nolint:errcheck // it only holds a lock
	_, err = tx.Exec(t.Context(), "SELECT FROM workflow_execution WHERE id = $1 FOR UPDATE", d.WorkflowExecutionID)
	require.NoError(t, err)
	created := make(chan error, 1)
	go func() {
		result, err := r.Create(context.WithoutCancel(t.Context()), tenant, promise.Draft{WorkflowExecutionID: d.WorkflowExecutionID, Name: "second"})
		if err == nil && !result.New {
			err = errors.New("it is not new")
		}
		created <- err
	}()
	waitForLocks(t, db, 1, "workflow_execution", "create")
	_, err = r.DeleteDestination(t.Context(), tenant, "orders")
	require.NoError(t, err)
	require.NoError(t, tx.Rollback(t.Context()))
	require.NoError(t, <-created)
	require.Zero(t, count(t, db, "SELECT COUNT(*) FROM delivery"))
	require.Equal(t, 2, count(t, db, "SELECT COUNT(*) FROM promise WHERE notifies IS NOT TRUE"))
}

// A repeated create and a settlement at the same time: the newest token is due in the end, in either order.
func TestARepeatedCreateBesideASettlement(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	for n := range 30 {
		d := draft(fmt.Sprint("p", n))
		p := create(t, r, notify(d, task("old")))
		var wg sync.WaitGroup
		wg.Go(func() { settlePromise(t, r, p.ID) })
		wg.Go(func() {
			_, err := r.Create(t.Context(), tenant, notify(d, task("new")))
			require.NoError(t, err)
		})
		wg.Wait()
		require.Equal(t, []storedDelivery{{Target: 1, Destination: "stepFunctions", Token: new("new"), State: "due", Due: true}}, deliveriesOf(t, db, p.ID))
	}
}

// Retention keeps a settled promise until its deliveries have ended, and then deletes them with it.
func TestRetentionKeepsDueDeliveries(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	addDestination(t, db, tenant, "orders", promise.DestinationHTTPS)
	var all []uuid.UUID
	for n, state := range promise.DeliveryStates[1:] {
		p := create(t, r, notify(draft(fmt.Sprint(n)), message("orders"), task("t")))
		settlePromise(t, r, p.ID)
		db.Exec(t, "UPDATE delivery SET state = $2::VARCHAR, due_at = CASE WHEN $2::VARCHAR = 'due' THEN due_at END WHERE promise_id = $1 AND target = 1", p.ID, string(state))
		db.Exec(t, "UPDATE delivery SET state = 'delivered', due_at = NULL WHERE promise_id = $1 AND target = 2", p.ID)
		all = append(all, p.ID)
	}
	time.Sleep(time.Millisecond)
	deleted, err := r.DeleteSettled(t.Context(), time.Millisecond, 100)
	require.NoError(t, err)
	require.EqualValues(t, 3, deleted.Promises)
	require.Equal(t, []string{"due", "delivered"}, states(t, db, all[0]))
	require.Equal(t, 2, count(t, db, "SELECT COUNT(*) FROM delivery"))
}
