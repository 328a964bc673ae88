package repository_test

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/dbtest"
	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/repository"
)

// deleteDestination marks a destination as deleted, as manage-integrations does.
func deleteDestination(t testing.TB, db *dbtest.DB, name string) {
	t.Helper()
	db.Exec(t, "UPDATE destination SET deleted_at = NOW(), enabled = FALSE WHERE name = $1 AND deleted_at IS NULL", name)
}

// notifying returns a draft with targets.
func notifying(name string, targets ...promise.Target) promise.Draft {
	d := draft(name)
	d.Notify = targets
	return d
}

// inState puts a delivery into a state, with the columns that the state has.
func inState(t testing.TB, db *dbtest.DB, id uuid.UUID, state promise.DeliveryState) {
	t.Helper()
	db.Exec(t, `UPDATE delivery SET state = $2::VARCHAR, lease = NULL, attempts = 11,
			due_at = CASE WHEN $2::VARCHAR = 'due' THEN NOW() + INTERVAL '1 hour' END,
			last_attempt_at = CASE WHEN $2::VARCHAR <> 'waiting' THEN NOW() END, last_status = CASE WHEN $2::VARCHAR <> 'waiting' THEN 503 END,
			last_error = CASE WHEN $2::VARCHAR IN ('due', 'dead') THEN 'it answered 503' END,
			ended_at = CASE WHEN $2::VARCHAR IN ('delivered', 'gone', 'dead') THEN NOW() END,
			end_reason = CASE WHEN $2::VARCHAR = 'gone' THEN 'the task has ended' END
		WHERE id = $1`, id, string(state))
}

func get(t testing.TB, r *repository.Repository, id uuid.UUID) promise.Promise {
	t.Helper()
	p, err := r.Get(t.Context(), tenant, promise.ByID(id))
	require.NoError(t, err)
	return p
}

func TestDeliveriesOfAPromise(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	addDestination(t, db, tenant, "orders", promise.DestinationHTTPS)
	made := create(t, r, notifying("a",
		promise.Target{Kind: promise.DestinationStepFunctions, Token: "SECRET 1"}, promise.Target{Destination: "orders"},
		promise.Target{Kind: promise.DestinationDurableExecution, Token: "SECRET2"}))
	t.Run("a read has them in the order of the targets, without a token", func(t *testing.T) {
		p := get(t, r, made.ID)
		require.Len(t, p.Deliveries, 3)
		for i, want := range []promise.Delivery{
			{Destination: "stepFunctions", Kind: promise.DestinationStepFunctions}, {Destination: "orders", Kind: promise.DestinationHTTPS},
			{Destination: "durableExecution", Kind: promise.DestinationDurableExecution},
		} {
			got := p.Deliveries[i]
			require.NotEqual(t, uuid.Nil, got.ID)
			want.ID, want.PromiseID, want.State, want.CreatedAt = got.ID, made.ID, promise.DeliveryWaiting, got.CreatedAt
			require.Equal(t, want, got)
			require.True(t, made.CreatedAt.Equal(got.CreatedAt))
		}
		require.NotContains(t, fmt.Sprintf("%+v", p), "SECRET")
	})
	t.Run("a create, a list and an extension have none", func(t *testing.T) {
		require.Nil(t, made.Deliveries)
		page, _, err := r.ListPromises(t.Context(), tenant, promise.Filter{}, 10)
		require.NoError(t, err)
		require.Nil(t, page[0].Deliveries)
		extended, err := r.Extend(t.Context(), tenant, promise.ByID(made.ID), promise.Deadline{Timeout: new(time.Hour)})
		require.NoError(t, err)
		require.Nil(t, extended.Deliveries)
	})
	t.Run("a settlement makes them due", func(t *testing.T) {
		_, err := r.Settle(t.Context(), tenant, promise.ByID(made.ID), resolved([]byte("1")))
		require.NoError(t, err)
		for _, d := range get(t, r, made.ID).Deliveries {
			require.Equal(t, promise.DeliveryDue, d.State)
			require.NotNil(t, d.DueAt)
		}
	})
	for _, state := range promise.DeliveryStates {
		t.Run("a read and a list show the same of a delivery that is "+string(state), func(t *testing.T) {
			for _, d := range get(t, r, made.ID).Deliveries {
				inState(t, db, d.ID, state)
			}
			shown := get(t, r, made.ID).Deliveries
			listed, more, err := r.ListDeliveries(t.Context(), tenant, promise.DeliveryFilter{PromiseID: &made.ID}, 10)
			require.NoError(t, err)
			require.False(t, more)
			require.ElementsMatch(t, shown, listed)
			for _, d := range shown {
				require.Equal(t, state, d.State)
				require.Equal(t, 11, d.Attempts)
				require.Equal(t, state == promise.DeliveryDue, d.DueAt != nil)
				require.Equal(t, state != promise.DeliveryWaiting, d.LastAttemptAt != nil && d.LastStatus != nil)
				require.Equal(t, state == promise.DeliveryDue || state == promise.DeliveryDead, d.LastError != nil)
				require.Equal(t, state != promise.DeliveryWaiting && state != promise.DeliveryDue, d.EndedAt != nil)
				require.Equal(t, state == promise.DeliveryGone, d.EndReason != nil)
			}
		})
	}
	t.Run("the deliveries of another tenant's promise are not listed", func(t *testing.T) {
		db.Tenant(t, "other")
		listed, _, err := r.ListDeliveries(t.Context(), "other", promise.DeliveryFilter{PromiseID: &made.ID}, 10)
		require.NoError(t, err)
		require.Empty(t, listed)
	})
}

// A read of a promise without targets does not touch the deliveries: Postgres counts no scan of their table or of an index of it.
func TestOnlyAPromiseWithTargetsReadsDeliveries(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	without := create(t, r, draft("without"))
	with := create(t, r, notifying("with", promise.Target{Kind: promise.DestinationStepFunctions, Token: "token"}))
	addManyPromises(t, db)
	db.Exec(t, `INSERT INTO delivery (tenant_id, promise_id, target, destination_id, state, created_at)
		SELECT p.tenant_id, p.id, 1, d.id, 'waiting', NOW() FROM promise p CROSS JOIN destination d WHERE p.notifies IS NOT TRUE AND p.id <> $1`, without.ID)
	db.Exec(t, "ANALYZE delivery")
	reads := func(t *testing.T, p promise.Promise) []string {
		t.Helper()
		return relationsReadBy(t, db, func(r *repository.Repository) { get(t, r, p.ID) })
	}
	t.Run("without targets", func(t *testing.T) {
		read := reads(t, without)
		require.Contains(t, read, "promise_pkey")
		for _, name := range read {
			require.NotRegexp(t, "deliver|destination", name)
		}
	})
	t.Run("with targets", func(t *testing.T) {
		read := reads(t, with)
		require.Subset(t, read, []string{"promise_pkey", "delivery_promise_id_target_key"})
		require.NotContains(t, read, "delivery", "a scan of the whole table")
	})
}

// walkDeliveries reads a list page by page. It calls between after each page but the last.
func walkDeliveries(t testing.TB, r *repository.Repository, f promise.DeliveryFilter, limit int, between func()) []promise.Delivery {
	t.Helper()
	var all []promise.Delivery
	for {
		page, more, err := r.ListDeliveries(t.Context(), tenant, f, limit)
		require.NoError(t, err)
		require.LessOrEqual(t, len(page), limit)
		all = append(all, page...)
		if !more {
			return all
		}
		require.Len(t, page, limit)
		f.After = new(f.CursorAfter(page[limit-1]))
		between()
	}
}

// randomDeliveries creates promises with targets, and puts their deliveries into random states. Some have equal creation times. It returns
// them newest first.
func randomDeliveries(t testing.TB, r *repository.Repository, db *dbtest.DB, slug string, promises int, destinations ...string) []promise.Delivery {
	t.Helper()
	var all []promise.Delivery
	for n := range promises {
		d := notifying(fmt.Sprint("p", n), promise.Target{Kind: promise.DestinationStepFunctions, Token: "token"})
		for _, i := range rand.Perm(len(destinations))[:rand.IntN(len(destinations)+1)] {
			d.Notify = append(d.Notify, promise.Target{Destination: destinations[i]})
		}
		made, err := r.Create(t.Context(), slug, d)
		require.NoError(t, err)
		if n%2 == 0 {
			db.Exec(t, "UPDATE delivery SET created_at = DATE_TRUNC('minute', created_at) WHERE promise_id = $1", made.Promise.ID)
		}
		p, err := r.Get(t.Context(), slug, promise.ByID(made.Promise.ID))
		require.NoError(t, err)
		for _, delivery := range p.Deliveries {
			inState(t, db, delivery.ID, promise.DeliveryStates[rand.IntN(len(promise.DeliveryStates))])
		}
		p, err = r.Get(t.Context(), slug, promise.ByID(made.Promise.ID))
		require.NoError(t, err)
		all = append(all, p.Deliveries...)
	}
	slices.SortFunc(all, func(a, b promise.Delivery) int {
		return cmp.Or(b.CreatedAt.Compare(a.CreatedAt), bytes.Compare(b.ID[:], a.ID[:]))
	})
	return all
}

// Every combination of filters lists the same of random deliveries as a loop over all of them. A deleted destination's deliveries are listed
// with its name, but its name, which another destination may have by now, is no filter for them.
func TestListDeliveries(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	db.Tenant(t, "other")
	for _, slug := range []string{tenant, "other"} {
		addDestination(t, db, slug, "orders", promise.DestinationHTTPS)
	}
	for _, name := range []string{"queue", "old"} {
		addDestination(t, db, tenant, name, promise.DestinationSQS)
	}
	randomDeliveries(t, r, db, "other", 5, "orders")
	former := randomDeliveries(t, r, db, tenant, 20, "orders", "queue", "old")
	deleteDestination(t, db, "old")
	addDestination(t, db, tenant, "old", promise.DestinationHTTPS)
	all := append(randomDeliveries(t, r, db, tenant, 20, "orders", "old"), former...)
	slices.SortFunc(all, func(a, b promise.Delivery) int {
		return cmp.Or(b.CreatedAt.Compare(a.CreatedAt), bytes.Compare(b.ID[:], a.ID[:]))
	})

	states := []*promise.DeliveryState{nil}
	for _, s := range promise.DeliveryStates {
		states = append(states, &s)
	}
	for _, state := range states {
		for _, destination := range []*string{nil, new("orders"), new("queue"), new("old"), new("stepFunctions"), new("unknown")} {
			for _, of := range []*uuid.UUID{nil, &former[0].PromiseID, &all[0].PromiseID, new(uuid.New())} {
				f := promise.DeliveryFilter{PromiseID: of, Destination: destination, State: state}
				var want []promise.Delivery
				for _, d := range all {
					deleted := d.Destination == "old" && d.Kind == promise.DestinationSQS
					if (of == nil || *of == d.PromiseID) && (state == nil || *state == d.State) &&
						(destination == nil || *destination == d.Destination && !deleted) {
						want = append(want, d)
					}
				}
				t.Run(deliveryFilterName(f), func(t *testing.T) {
					require.Equal(t, want, walkDeliveries(t, r, f, 1+len(want)/2, func() {}))
				})
			}
		}
	}
	for limit := 1; limit <= len(all)+1; limit += 1 + len(all)/7 {
		t.Run(fmt.Sprint("pages of ", limit), func(t *testing.T) {
			require.Equal(t, all, walkDeliveries(t, r, promise.DeliveryFilter{}, limit, func() {}))
		})
	}
	t.Run("an unknown tenant", func(t *testing.T) {
		_, _, err := r.ListDeliveries(t.Context(), "nobody", promise.DeliveryFilter{}, 10)
		requireNotFound(t, err)
	})
	t.Run("a cursor of a list by deadline", func(t *testing.T) {
		f := promise.DeliveryFilter{After: &promise.Cursor{TimeoutAt: new(time.Now())}}
		_, _, err := r.ListDeliveries(t.Context(), tenant, f, 10)
		require.Equal(t, "cursor", requireCode(t, promise.CodeInvalidParameter, err).Field)
	})
	t.Run("a reader sees each delivery once, while others are added and their states change", func(t *testing.T) {
		var ids []uuid.UUID
		for _, d := range walkDeliveries(t, r, promise.DeliveryFilter{}, 7, func() {
			create(t, r, notifying(uuid.NewString(), promise.Target{Destination: "orders"}))
			inState(t, db, all[rand.IntN(len(all))].ID, promise.DeliveryDead)
		}) {
			ids = append(ids, d.ID)
		}
		require.Len(t, ids, len(all))
		for n, d := range all {
			require.Equal(t, d.ID, ids[n])
		}
	})
}

// deliveryFilterName names the fields that a filter has.
func deliveryFilterName(f promise.DeliveryFilter) string {
	name := "all"
	if f.State != nil {
		name = string(*f.State)
	}
	if f.Destination != nil {
		name += " to " + *f.Destination
	}
	if f.PromiseID != nil {
		name += " of promise " + f.PromiseID.String()
	}
	return name
}

// A tenant has 10,000 deliveries to 50 destinations. A page reads at most a page of each destination and state, and a retry reads the deliveries
// that it makes due, twice. The planner's statistics mislead: one destination has a quarter of all deliveries, and they are dead.
func TestAPageOfDeliveriesReadsNoMoreThanItMerges(t *testing.T) {
	t.Parallel()
	const destinations, deliveries, limit = 50, 10_000, 100
	_, db := setUp(t)
	db.Exec(t, "INSERT INTO tenant (slug) VALUES ('neighbour')")
	db.Exec(t, `INSERT INTO destination (tenant_id, name, kind) SELECT t.id, 'd' || n, 'https' FROM tenant t CROSS JOIN generate_series(1, $1::INT) n`, destinations)
	db.Exec(t, "INSERT INTO workflow_execution (id, tenant_id) SELECT gen_random_uuid(), id FROM tenant")
	db.Exec(t, `INSERT INTO promise (workflow_execution_id, tenant_id, name, created_by_sequence, notifies)
		SELECT w.id, w.tenant_id, n::TEXT, n, TRUE FROM workflow_execution w CROSS JOIN generate_series(1, $1::INT) n`, deliveries/4)
	db.Rewrite(t, `INSERT INTO delivery (tenant_id, promise_id, target, destination_id, state, created_at)
		SELECT p.tenant_id, p.id, n, d.id, (ARRAY['waiting', 'delivered', 'delivered', 'dead', 'gone'])[1 + (p.created_by_sequence * 4 + n) / $1::INT % 5],
			NOW() - p.created_by_sequence * INTERVAL '1 second'
		FROM promise p CROSS JOIN generate_series(1, 4) n
		JOIN destination d ON d.tenant_id = p.tenant_id AND d.name = 'd' || 1 + (p.created_by_sequence * 4 + n) % $1::INT`, destinations)
	db.Rewrite(t, `UPDATE delivery v SET state = 'dead', destination_id = (SELECT id FROM destination d WHERE d.tenant_id = v.tenant_id AND d.name = 'd7')
		WHERE v.target = 1`)
	db.Exec(t, "ANALYZE")
	conn, err := db.Pool.Acquire(t.Context())
	require.NoError(t, err)
	defer conn.Release()
	prepare(t, conn, "list_deliveries")
	prepare(t, conn, "retry_dead_deliveries")
	for _, mode := range []string{"force_generic_plan", "force_custom_plan"} {
		_, err = conn.Exec(t.Context(), "SET plan_cache_mode = "+mode)
		require.NoError(t, err)
		for name, c := range map[string]struct {
			arguments map[string]string
			parts     int // the pairs of a destination and a state that are read
		}{
			"all":                        {nil, 5 * destinations},
			"in the middle":              {map[string]string{"after_at": "NOW() - INTERVAL '1250 seconds'", "after_id": "gen_random_uuid()"}, 5 * destinations},
			"of a state":                 {map[string]string{"state": "'dead'"}, destinations},
			"of a destination":           {map[string]string{"destination": "'d7'"}, 5},
			"of a destination and state": {map[string]string{"destination": "'d7'", "state": "'dead'"}, 1},
		} {
			t.Run(mode+", "+name, func(t *testing.T) {
				arguments := map[string]string{"tenant": "'" + tenant + "'", "limit": strconv.Itoa(limit + 1)}
				for k, v := range c.arguments {
					arguments[k] = v
				}
				plan := explain(t, conn, "list_deliveries", arguments)
				rows := map[string]int{}
				plan.indexRows(rows)
				require.LessOrEqual(t, rows["idx_delivery_destination"], c.parts*(limit+1))
				require.LessOrEqual(t, rows["delivery_pkey"], limit+1)
				for index := range rows {
					require.Contains(t, []string{"idx_delivery_destination", "delivery_pkey", "idx_destination_tenant", "idx_destination_name", "destination_pkey", "tenant_slug_key"}, index)
				}
				require.Less(t, plan.SharedHit+plan.SharedRead, 300+10*limit+c.parts*(10+limit)) // the page, and a row of the table for each row of the index
				require.Zero(t, plan.TempWritten)
			})
		}
		t.Run(mode+", a retry", func(t *testing.T) {
			rows := map[string]int{}
			explain(t, conn, "retry_dead_deliveries", map[string]string{
				"tenant": "'" + tenant + "'", "destination": "'d7'", "limit": strconv.Itoa(limit),
			}).indexRows(rows)
			require.NotZero(t, rows["idx_delivery_destination"])
			require.LessOrEqual(t, rows["idx_delivery_destination"], 2*limit+1)
			require.LessOrEqual(t, rows["delivery_pkey"], limit)
		})
	}
}

// The database retries a delivery in exactly the cases in which the domain's rule has no error, unless a relay is sending it.
func TestRetryDelivery(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	addDestination(t, db, tenant, "orders", promise.DestinationHTTPS)
	addDestination(t, db, tenant, "deleted", promise.DestinationHTTPS)
	targets := []promise.Target{{Destination: "orders"}, {Destination: "deleted"}, {Kind: promise.DestinationStepFunctions, Token: "t"}}
	p := create(t, r, notifying("a", targets...))
	deleteDestination(t, db, "deleted")
	for i, d := range get(t, r, p.ID).Deliveries {
		for _, state := range promise.DeliveryStates {
			t.Run(string(state)+" to "+d.Destination, func(t *testing.T) {
				inState(t, db, d.ID, state)
				before := get(t, r, p.ID).Deliveries[i]
				got, err := r.RetryDelivery(t.Context(), tenant, d.ID)
				if want := promise.CheckRetry(before, d.Destination == "deleted"); want != nil {
					require.Equal(t, want, err)
					require.Equal(t, before, get(t, r, p.ID).Deliveries[i])
					return
				}
				require.NoError(t, err)
				require.Equal(t, get(t, r, p.ID).Deliveries[i], got)
				require.Equal(t, 1, count(t, db, "SELECT COUNT(*) FROM delivery WHERE id = $1 AND due_at <= NOW() AND due_at > NOW() - INTERVAL '10 minutes'", d.ID))
				before.State, before.DueAt, before.Attempts, before.EndedAt = promise.DeliveryDue, got.DueAt, 0, nil
				require.Equal(t, before, got, "nothing else changes")
			})
		}
	}
	t.Run("an unknown delivery", func(t *testing.T) {
		_, err := r.RetryDelivery(t.Context(), tenant, uuid.New())
		requireNotFound(t, err)
	})
	t.Run("another tenant's delivery", func(t *testing.T) {
		db.Tenant(t, "other")
		_, err := r.RetryDelivery(t.Context(), "other", get(t, r, p.ID).Deliveries[0].ID)
		requireNotFound(t, err)
	})
}

// A relay claims a delivery with a lease, and records its result only under that lease. A retry does not disturb a relay that is at work, and
// takes the delivery from one whose lease has ended.
func TestRetryBesideARelay(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		leaseFor string
		retried  bool
	}{"at work": {"30 seconds", false}, "whose lease has ended": {"-1 second", true}} {
		t.Run("a relay "+name, func(t *testing.T) {
			t.Parallel()
			r, db := setUp(t)
			p := create(t, r, notifying("a", promise.Target{Kind: promise.DestinationStepFunctions, Token: "t"}))
			d, lease := get(t, r, p.ID).Deliveries[0], uuid.New()
			db.Exec(t, "UPDATE delivery SET state = 'due', due_at = NOW() + $2::TEXT::INTERVAL, lease = $1, attempts = 3", lease, c.leaseFor)
			before := get(t, r, p.ID).Deliveries[0]
			got, err := r.RetryDelivery(t.Context(), tenant, d.ID)
			require.NoError(t, err)
			if !c.retried {
				require.Equal(t, before, got)
			}
			tag, err := db.Pool.Exec(t.Context(), "UPDATE delivery SET state = 'delivered', due_at = NULL, lease = NULL, ended_at = NOW() WHERE lease = $1", lease)
			require.NoError(t, err)
			require.Equal(t, !c.retried, tag.RowsAffected() == 1, "the relay records its result")
			want := promise.DeliveryDelivered
			if c.retried {
				want = promise.DeliveryDue
			}
			require.Equal(t, want, get(t, r, p.ID).Deliveries[0].State)
		})
	}
	t.Run("a relay that records the result at the same time", func(t *testing.T) {
		t.Parallel()
		r, db := setUp(t)
		p := create(t, r, notifying("a", promise.Target{Kind: promise.DestinationStepFunctions, Token: "t"}))
		d := get(t, r, p.ID).Deliveries[0]
		db.Exec(t, "UPDATE delivery SET state = 'due', due_at = NOW() - INTERVAL '1 second', lease = gen_random_uuid()")
		tx, err := db.Pool.Begin(t.Context())
		require.NoError(t, err)
		_, err = tx.Exec(t.Context(), "UPDATE delivery SET state = 'delivered', due_at = NULL, lease = NULL, ended_at = NOW()")
		require.NoError(t, err)
		done := make(chan error, 1)
		go func() { done <- errOf(r.RetryDelivery(context.Background(), tenant, d.ID)) }()
		waitForLocks(t, db, 1, "delivery", "retry_delivery")
		require.NoError(t, tx.Commit(t.Context()))
		requireCode(t, promise.CodeConflict, <-done)
		require.Equal(t, promise.DeliveryDelivered, get(t, r, p.ID).Deliveries[0].State)
	})
}

func TestRetryDeadDeliveries(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	db.Tenant(t, "other")
	addDestination(t, db, tenant, "orders", promise.DestinationHTTPS)
	addDestination(t, db, tenant, "queue", promise.DestinationSQS)
	addDestination(t, db, "other", "theirs", promise.DestinationHTTPS)
	db.Exec(t, "INSERT INTO workflow_execution (id, tenant_id) SELECT gen_random_uuid(), id FROM tenant WHERE slug = $1", tenant)
	db.Exec(t, `INSERT INTO promise (workflow_execution_id, tenant_id, name, created_by_sequence, notifies)
		SELECT w.id, w.tenant_id, n::TEXT, n, TRUE FROM workflow_execution w CROSS JOIN generate_series(1, 25) n`)
	db.Exec(t, `INSERT INTO delivery (tenant_id, promise_id, target, destination_id, state, created_at, attempts, ended_at)
		SELECT p.tenant_id, p.id, n, d.id, CASE WHEN p.created_by_sequence % 5 = 0 THEN 'gone' ELSE 'dead' END, NOW() - p.created_by_sequence * INTERVAL '1 minute', 11, NOW()
		FROM promise p CROSS JOIN generate_series(1, 2) n JOIN destination d ON d.tenant_id = p.tenant_id AND d.kind = (ARRAY['https', 'sqs'])[n]`)
	retry := func(t *testing.T, limit, retried int, more bool) {
		t.Helper()
		n, m, err := r.RetryDeadDeliveries(t.Context(), tenant, "orders", limit)
		require.NoError(t, err)
		require.Equal(t, retried, n)
		require.Equal(t, more, m)
	}
	const ofOrders = " FROM delivery v JOIN destination d ON d.id = v.destination_id WHERE d.name = 'orders'"
	t.Run("the oldest come first, due now with all attempts ahead", func(t *testing.T) {
		retry(t, 6, 6, true)
		require.Equal(t, 6, count(t, db, `SELECT COUNT(*)`+ofOrders+` AND v.state = 'due' AND v.due_at <= NOW() AND v.attempts = 0 AND v.lease IS NULL AND v.ended_at IS NULL`))
		require.Zero(t, count(t, db, `SELECT COUNT(*)`+ofOrders+` AND v.state = 'dead' AND v.created_at < (SELECT MAX(v.created_at)`+ofOrders+` AND v.state = 'due')`))
	})
	t.Run("a delivery that another call has locked is left, and counts as more", func(t *testing.T) {
		tx, err := db.Pool.Begin(t.Context())
		require.NoError(t, err)
		_, err = tx.Exec(t.Context(), "SELECT FROM delivery WHERE id = (SELECT v.id"+ofOrders+" AND v.state = 'dead' ORDER BY v.created_at LIMIT 1) FOR UPDATE")
		require.NoError(t, err)
		retry(t, 100, 13, true)
		require.NoError(t, tx.Rollback(t.Context()))
	})
	t.Run("the last one", func(t *testing.T) { retry(t, 1, 1, false) })
	t.Run("none is left", func(t *testing.T) { retry(t, 100, 0, false) })
	t.Run("gone deliveries and those of other destinations stay", func(t *testing.T) {
		require.Equal(t, 5, count(t, db, "SELECT COUNT(*)"+ofOrders+" AND v.state = 'gone'"))
		require.Equal(t, 20, count(t, db, "SELECT COUNT(*) FROM delivery WHERE state = 'dead' AND attempts = 11"))
	})
	for name, destination := range map[string]string{"an unknown destination": "nowhere", "another tenant's destination": "theirs", "a deleted destination": "queue"} {
		t.Run(name, func(t *testing.T) {
			deleteDestination(t, db, "queue")
			_, _, err := r.RetryDeadDeliveries(t.Context(), tenant, destination, 100)
			require.Equal(t, "destination", requireCode(t, promise.CodeUnknownDestination, err).Field)
		})
	}
	t.Run("an unknown tenant", func(t *testing.T) {
		_, _, err := r.RetryDeadDeliveries(t.Context(), "nobody", "orders", 100)
		requireNotFound(t, err)
	})
}

// Many retries at once, of one delivery and of all, beside relays that claim what is due: each delivery is sent, no result is recorded under a
// lost lease, and nothing deadlocks.
func TestRetriesAndRelaysAtOnce(t *testing.T) {
	t.Parallel()
	const deliveries = 60
	r, db := setUp(t)
	addDestination(t, db, tenant, "orders", promise.DestinationHTTPS)
	var ids []uuid.UUID
	for n := range deliveries {
		p := create(t, r, notifying(strconv.Itoa(n), promise.Target{Destination: "orders"}))
		ids = append(ids, get(t, r, p.ID).Deliveries[0].ID)
		inState(t, db, ids[n], promise.DeliveryDead)
	}
	errs := make(chan error, 7)
	for range 2 {
		go func() {
			for more := true; more; {
				var err error
				if _, more, err = r.RetryDeadDeliveries(context.Background(), tenant, "orders", 7); err != nil {
					errs <- err
					return
				}
			}
			errs <- nil
		}()
		go func() {
			for _, n := range rand.Perm(deliveries) {
				if _, err := r.RetryDelivery(context.Background(), tenant, ids[n]); err != nil {
					errs <- err
					return
				}
			}
			errs <- nil
		}()
	}
	for range 3 {
		go func() {
			for range deliveries {
				lease := uuid.New()
				_, err := db.Pool.Exec(context.Background(), `UPDATE delivery SET lease = $1, due_at = NOW() + INTERVAL '30 seconds'
					WHERE id IN (SELECT id FROM delivery WHERE state = 'due' AND due_at <= NOW() LIMIT 5 FOR UPDATE SKIP LOCKED)`, lease)
				if err == nil {
					_, err = db.Pool.Exec(context.Background(), `UPDATE delivery SET state = 'delivered', due_at = NULL, lease = NULL,
						attempts = attempts + 1, ended_at = NOW() WHERE lease = $1`, lease)
				}
				if err != nil {
					errs <- err
					return
				}
			}
			errs <- nil
		}()
	}
	for range cap(errs) {
		require.NoError(t, <-errs)
	}
	require.Zero(t, count(t, db, "SELECT COUNT(*) FROM delivery WHERE state NOT IN ('due', 'delivered')"))
	require.Zero(t, count(t, db, "SELECT COUNT(*) FROM delivery WHERE attempts > 1"), "each retry begins with no attempt")
	require.Zero(t, count(t, db, "SELECT COUNT(*) FROM delivery WHERE lease IS NOT NULL"))
}
