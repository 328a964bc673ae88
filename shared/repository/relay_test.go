package repository_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/dbtest"
	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/repository"
)

// A relayed is a schema with a tenant and its destination "orders", for the statements of the relay.
type relayed struct {
	*dbtest.DB
	*repository.Repository
	orders uuid.UUID
}

func setUpRelay(t *testing.T) relayed {
	t.Helper()
	r, db := setUp(t)
	return relayed{db, r, addDestination(t, db, tenant, "orders", promise.DestinationHTTPS)}
}

// addDestination adds a destination to a tenant, with a secret if its messages are signed.
func addDestination(t testing.TB, db *dbtest.DB, slug, name string, kind promise.DestinationKind) (id uuid.UUID) {
	t.Helper()
	require.NoError(t, db.Pool.QueryRow(t.Context(), `INSERT INTO destination (tenant_id, name, kind, address)
		SELECT id, $2, $3, 'https://example.com/hook' FROM tenant WHERE slug = $1 RETURNING id`, slug, name, kind).Scan(&id))
	if kind == promise.DestinationHTTPS {
		db.Exec(t, "INSERT INTO destination_secret (destination_id, version, sealed) VALUES ($1, 1, '\\x01' || sha256('')::BYTEA || '\\x00000000')", id)
	}
	return id
}

// settle creates n promises with one target, and settles them with a value, each a microsecond after the one before.
func (r relayed) settle(t testing.TB, n int, slug, destination, value string) {
	t.Helper()
	r.Exec(t, `SELECT promise_create($2, gen_random_uuid(), NULL, 'n', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 1000, FALSE,
		ARRAY[NULL, $3, NULL]::VARCHAR[]) FROM generate_series(1, $1)`, n, slug, destination)
	r.Exec(t, `UPDATE promise SET resolved = TRUE, outcome = 'resolved', value = $1, resolved_at = NOW(), resolved_by_sequence = 2, settled_by_kind = 'key'
		WHERE NOT resolved`, []byte(value))
}

// request asks for the due deliveries of a destination with a new lease.
func request(destination uuid.UUID) promise.ClaimRequest {
	return promise.ClaimRequest{
		Destination: destination, Lease: uuid.New(), LeaseTime: 45 * time.Second, Limit: 16, Bytes: 4 << 20, Largest: 1 << 20,
		DestinationCalls: 4, TenantCalls: 16,
	}
}

func (r relayed) claim(t testing.TB, c promise.ClaimRequest, status promise.ClaimStatus, n int) promise.Claim {
	t.Helper()
	claim, err := r.ClaimDeliveries(t.Context(), c)
	require.NoError(t, err)
	require.Equal(t, status, claim.Status)
	require.Len(t, claim.Deliveries, n)
	return claim
}

// record records the same result for all deliveries of a claim.
func (r relayed) record(t testing.TB, c promise.ClaimRequest, claim promise.Claim, result promise.DeliveryRecord) []uuid.UUID {
	t.Helper()
	report := promise.DeliveryReport{Lease: c.Lease, Destination: c.Destination}
	for _, d := range claim.Deliveries {
		result.ID = d.ID
		report.Deliveries = append(report.Deliveries, result)
	}
	recorded, err := r.RecordDeliveries(t.Context(), report)
	require.NoError(t, err)
	return recorded
}

// states returns the number of deliveries for each combination of state and another expression.
func (r relayed) states(t testing.TB, expression string) map[string]int {
	t.Helper()
	rows, err := r.Pool.Query(t.Context(), "SELECT CONCAT_WS(' ', state, "+expression+"), COUNT(*) FROM delivery GROUP BY 1")
	require.NoError(t, err)
	defer rows.Close()
	counts := map[string]int{}
	for rows.Next() {
		var name string
		var n int
		require.NoError(t, rows.Scan(&name, &n))
		counts[name] = n
	}
	require.NoError(t, rows.Err())
	return counts
}

var delivered = promise.DeliveryRecord{State: promise.DeliveryDelivered, Counted: true, Status: 200}

func TestClaim(t *testing.T) {
	t.Parallel()
	t.Run("the oldest first, and each once", func(t *testing.T) {
		t.Parallel()
		r := setUpRelay(t)
		r.settle(t, 20, tenant, "orders", `{"a":1}`)
		first := request(r.orders)
		claim := r.claim(t, first, promise.ClaimOpen, 16)
		require.NotNil(t, claim.Next)
		require.Equal(t, tenant, claim.Tenant)
		require.Equal(t, 1, count(t, r.DB, "SELECT COUNT(*) FROM destination WHERE updated_at = $1", claim.Destination.UpdatedAt))
		require.Equal(t, promise.Destination{
			ID: r.orders, Name: "orders", Kind: promise.DestinationHTTPS, Address: "https://example.com/hook", UpdatedAt: claim.Destination.UpdatedAt,
		}, claim.Destination)
		require.Len(t, claim.Secrets, 1)
		require.Equal(t, 1, claim.Secrets[0].Version)
		p := claim.Deliveries[0].Promise
		stored, err := r.Get(t.Context(), tenant, promise.ByID(p.ID))
		require.NoError(t, err)
		require.Len(t, stored.Deliveries, 1)
		stored.Deliveries = nil // a claim needs the promise alone
		require.Equal(t, stored, p)

		second := request(r.orders)
		second.Since = *claim.Next
		rest := r.claim(t, second, promise.ClaimOpen, 4)
		require.Nil(t, rest.Next)
		r.claim(t, request(r.orders), promise.ClaimOpen, 0)
		require.Equal(t, map[string]int{"due t": 20}, r.states(t, "due_at > NOW() + INTERVAL '30 seconds'"))
		require.Equal(t, 2, count(t, r.DB, "SELECT COUNT(*) FROM delivery_lease"))

		require.Len(t, r.record(t, first, claim, delivered), 16)
		require.Len(t, r.record(t, second, rest, delivered), 4)
		require.Equal(t, map[string]int{"delivered 1 200 t": 20}, r.states(t, "attempts, last_status, ended_at IS NOT NULL AND lease IS NULL"))
		require.Zero(t, count(t, r.DB, "SELECT COUNT(*) FROM delivery_lease"))
	})
	t.Run("calls of a destination and of a tenant are bounded", func(t *testing.T) {
		t.Parallel()
		r := setUpRelay(t)
		for _, name := range []string{"a", "b", "c", "d", "e"} {
			addDestination(t, r.DB, tenant, name, promise.DestinationSQS)
		}
		r.Tenant(t, "other")
		other := addDestination(t, r.DB, "other", "orders", promise.DestinationSQS)
		ids := []uuid.UUID{r.orders}
		for _, name := range []string{"orders", "a", "b", "c", "d"} {
			r.settle(t, 5, tenant, name, "1")
			var id uuid.UUID
			require.NoError(t, r.Pool.QueryRow(t.Context(), "SELECT id FROM destination WHERE name = $1 AND tenant_id <> (SELECT id FROM tenant WHERE slug = 'other')", name).Scan(&id))
			ids = append(ids, id)
		}
		r.settle(t, 1, "other", "orders", "1")
		one := func(destination uuid.UUID, status promise.ClaimStatus, n int) promise.ClaimRequest {
			c := request(destination)
			c.Limit = 1
			r.claim(t, c, status, n)
			return c
		}
		var first promise.ClaimRequest
		for _, id := range ids[1:5] {
			for range 4 {
				first = one(id, promise.ClaimOpen, 1)
			}
			if id != ids[4] {
				one(id, promise.ClaimDestinationFull, 0)
			}
		}
		one(ids[5], promise.ClaimTenantFull, 0)
		one(other, promise.ClaimOpen, 1)
		t.Run("an ended call makes room", func(t *testing.T) {
			_, err := r.RecordDeliveries(t.Context(), promise.DeliveryReport{Lease: first.Lease, Destination: first.Destination})
			require.NoError(t, err)
			one(ids[5], promise.ClaimOpen, 1)
			one(ids[5], promise.ClaimTenantFull, 0)
		})
		t.Run("an expired lease does not count", func(t *testing.T) {
			r.Exec(t, "UPDATE delivery_lease SET expires_at = NOW() WHERE destination_id = $1", ids[1])
			one(ids[5], promise.ClaimOpen, 1)
			require.NoError(t, r.ExpireLeases(t.Context(), 100))
			require.Equal(t, 18, count(t, r.DB, "SELECT COUNT(*) FROM delivery_lease"))
			r.Exec(t, "UPDATE delivery_lease SET expires_at = NOW() - INTERVAL '61 seconds' WHERE destination_id = $1", ids[1])
			require.NoError(t, r.ExpireLeases(t.Context(), 100))
			require.Equal(t, 14, count(t, r.DB, "SELECT COUNT(*) FROM delivery_lease"))
		})
	})
	t.Run("fits into its bytes", func(t *testing.T) {
		t.Parallel()
		r := setUpRelay(t)
		r.settle(t, 3, tenant, "orders", `"`+strings.Repeat("x", 1<<20)+`"`)
		r.settle(t, 9, tenant, "orders", `1`)
		claim := r.claim(t, request(r.orders), promise.ClaimOpen, 2)
		second := request(r.orders)
		second.Since = *claim.Next
		require.Nil(t, r.claim(t, second, promise.ClaimOpen, 10).Next)
		small := request(r.orders)
		r.settle(t, 2, tenant, "orders", `"`+strings.Repeat("x", 2<<20)+`"`)
		small.Bytes = 1
		require.NotNil(t, r.claim(t, small, promise.ClaimOpen, 1).Next, "at least one")
	})
	t.Run("a delivery that got no result is claimed alone, and the lease counts", func(t *testing.T) {
		t.Parallel()
		r := setUpRelay(t)
		r.settle(t, 3, tenant, "orders", "1")
		c := request(r.orders)
		c.LeaseTime = 0
		r.claim(t, c, promise.ClaimOpen, 3)
		r.settle(t, 2, tenant, "orders", "1")
		since := time.Time{}
		for n := range 3 {
			alone := request(r.orders)
			alone.Since = since
			claim := r.claim(t, alone, promise.ClaimOpen, 1)
			require.True(t, claim.Deliveries[0].Unanswered)
			require.Equal(t, 1, claim.Deliveries[0].Attempts)
			require.NotNil(t, claim.Next, "%d", n)
			since = *claim.Next
		}
		healthy := r.claim(t, request(r.orders), promise.ClaimOpen, 2)
		require.False(t, healthy.Deliveries[0].Unanswered)
		require.Equal(t, map[string]int{"due 1": 3, "due 0": 2}, r.states(t, "attempts"))
	})
	t.Run("a healthy delivery does not wait for one without a result", func(t *testing.T) {
		t.Parallel()
		r := setUpRelay(t)
		r.settle(t, 3, tenant, "orders", "1")
		r.Exec(t, "UPDATE delivery SET lease = gen_random_uuid() WHERE id = (SELECT id FROM delivery ORDER BY due_at OFFSET 1 LIMIT 1)")
		claim := r.claim(t, request(r.orders), promise.ClaimOpen, 2)
		c := request(r.orders)
		c.Since = *claim.Next
		require.True(t, r.claim(t, c, promise.ClaimOpen, 1).Deliveries[0].Unanswered)
	})
	t.Run("not from a destination that", func(t *testing.T) {
		t.Parallel()
		for name, c := range map[string]struct {
			change string
			status promise.ClaimStatus
		}{
			"is paused":                   {"UPDATE destination SET enabled = FALSE", promise.ClaimClosed},
			"is deleted":                  {"UPDATE destination SET deleted_at = NOW()", promise.ClaimClosed},
			"belongs to suspended tenant": {"UPDATE tenant SET suspended_at = NOW()", promise.ClaimClosed},
			"is gone":                     {"DELETE FROM promise; DELETE FROM destination", promise.ClaimClosed},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				r := setUpRelay(t)
				r.settle(t, 1, tenant, "orders", "1")
				for statement := range strings.SplitSeq(c.change, "; ") {
					r.Rewrite(t, "DELETE FROM delivery WHERE $1", strings.HasPrefix(statement, "DELETE FROM promise"))
					r.Rewrite(t, statement)
				}
				r.claim(t, request(r.orders), c.status, 0)
			})
		}
		t.Run("is locked", func(t *testing.T) {
			t.Parallel()
			r := setUpRelay(t)
			r.settle(t, 1, tenant, "orders", "1")
			tx, err := r.Pool.Begin(t.Context())
			require.NoError(t, err)
			_, err = tx.Exec(t.Context(), "SELECT FROM destination FOR NO KEY UPDATE")
			require.NoError(t, err)
			r.claim(t, request(r.orders), promise.ClaimLocked, 0)
			require.NoError(t, tx.Rollback(t.Context()))
			r.claim(t, request(r.orders), promise.ClaimOpen, 1)
		})
	})
	t.Run("by two relays at once, each delivery once", func(t *testing.T) {
		t.Parallel()
		r := setUpRelay(t)
		r.settle(t, 300, tenant, "orders", "1")
		var mu sync.Mutex
		claimed, calls := map[uuid.UUID]int{}, 0
		var relays sync.WaitGroup
		for range 2 {
			relays.Go(func() {
				for empty := 0; empty < 20; {
					c := request(r.orders)
					c.DestinationCalls, c.TenantCalls, c.Limit = 1000, 1000, 3
					claim, err := r.ClaimDeliveries(context.WithoutCancel(t.Context()), c)
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					calls++
					for _, d := range claim.Deliveries {
						claimed[d.ID]++
					}
					mu.Unlock()
					if claim.Status == promise.ClaimOpen && len(claim.Deliveries) == 0 {
						empty++
					}
				}
			})
		}
		relays.Wait()
		require.Len(t, claimed, 300, "%d calls", calls)
		for id, n := range claimed {
			require.Equal(t, 1, n, id)
		}
	})
}

func TestRecord(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		result promise.DeliveryRecord
		want   string
	}{
		{"delivered", delivered, "delivered 1 200"},
		{"gone", promise.DeliveryRecord{State: promise.DeliveryGone, Counted: true, Status: 400, Reason: "The task has ended."}, "gone 1 400 The task has ended."},
		{"failed, and due again", promise.DeliveryRecord{State: promise.DeliveryDue, Delay: time.Hour, Counted: true, Status: 500, Error: "status 500"}, "due 1 500 status 500 in 01:00:00"},
		{"throttled", promise.DeliveryRecord{State: promise.DeliveryDue, Delay: time.Minute, Error: "slow down"}, "due 0 slow down in 00:01:00"},
		{"dead", promise.DeliveryRecord{State: promise.DeliveryDead, Counted: true, Error: "status 500"}, "dead 1 status 500"},
		{"unanswered", promise.DeliveryRecord{State: promise.DeliveryDue, Delay: time.Second, Unanswered: true, Error: "lost"}, "due 0 lost in 00:00:01 leased"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := setUpRelay(t)
			r.settle(t, 1, tenant, "orders", "1")
			request := request(r.orders)
			claim := r.claim(t, request, promise.ClaimOpen, 1)
			require.Len(t, r.record(t, request, claim, c.result), 1)
			require.Equal(t, map[string]int{c.want: 1}, r.states(t, `attempts, last_status, last_error, end_reason,
				'in ' || DATE_TRUNC('second', due_at - NOW() + INTERVAL '0.9 seconds'), CASE WHEN lease IS NOT NULL THEN 'leased' END`))
			require.Equal(t, map[string]int{c.want[:strings.Index(c.want, " ")] + " t t": 1}, r.states(t, `(last_attempt_at IS NOT NULL) = (attempts > 0), (ended_at IS NULL) = (state = 'due')`))
			require.Zero(t, count(t, r.DB, "SELECT COUNT(*) FROM delivery_lease"))
			if !c.result.Unanswered {
				require.Empty(t, r.record(t, request, claim, delivered), "a repeated record changes nothing")
			}
		})
	}
	t.Run("under a lease that lost the delivery, nothing", func(t *testing.T) {
		t.Parallel()
		r := setUpRelay(t)
		r.settle(t, 2, tenant, "orders", "1")
		late := request(r.orders)
		late.LeaseTime = 0
		claim := r.claim(t, late, promise.ClaimOpen, 2)
		lost := r.claim(t, request(r.orders), promise.ClaimOpen, 1).Deliveries[0].ID // either, because both are due at the same time
		recorded := r.record(t, late, claim, delivered)
		require.Len(t, recorded, 1)
		require.NotEqual(t, lost, recorded[0])
		require.Equal(t, map[string]int{"due": 1, "delivered": 1}, r.states(t, "NULL"))
	})
	t.Run("an erased promise's delivery stays gone", func(t *testing.T) {
		t.Parallel()
		r := setUpRelay(t)
		r.settle(t, 1, tenant, "orders", "1")
		c := request(r.orders)
		claim := r.claim(t, c, promise.ClaimOpen, 1)
		_, err := r.Erase(t.Context(), tenant, promise.ByID(claim.Deliveries[0].Promise.ID))
		require.NoError(t, err)
		require.Empty(t, r.record(t, c, claim, delivered))
		require.Equal(t, map[string]int{"gone The promise was deleted.": 1}, r.states(t, "end_reason"))
	})
	t.Run("disables the destination, and what is due waits", func(t *testing.T) {
		t.Parallel()
		r := setUpRelay(t)
		r.settle(t, 2, tenant, "orders", "1")
		c := request(r.orders)
		c.Limit = 1
		claim := r.claim(t, c, promise.ClaimOpen, 1)
		report := promise.DeliveryReport{Lease: c.Lease, Destination: r.orders, Seen: claim.Destination.UpdatedAt, DisabledBecause: "It answered 410 Gone.", Deliveries: []promise.DeliveryRecord{
			{ID: claim.Deliveries[0].ID, State: promise.DeliveryDue, Counted: true, Status: 410, Error: "status 410"},
		}}
		stale := report
		stale.Lease = uuid.New()
		recorded, err := r.RecordDeliveries(t.Context(), stale)
		require.NoError(t, err)
		require.Empty(t, recorded)
		require.Equal(t, 1, count(t, r.DB, "SELECT COUNT(*) FROM destination WHERE enabled"), "another lease disables nothing")
		recorded, err = r.RecordDeliveries(t.Context(), report)
		require.NoError(t, err)
		require.Len(t, recorded, 1)
		require.Equal(t, 1, count(t, r.DB, "SELECT COUNT(*) FROM destination WHERE NOT enabled AND disabled_because = 'It answered 410 Gone.'"))
		r.claim(t, request(r.orders), promise.ClaimClosed, 0)
		look, err := r.FindAllDue(t.Context())
		require.NoError(t, err)
		require.Empty(t, look.Due)
		r.Exec(t, "UPDATE destination SET enabled = TRUE, disabled_because = NULL")
		r.claim(t, request(r.orders), promise.ClaimOpen, 2)
	})
}

// Its tenant has repaired and enabled a destination, and then a call that began before brings its 410.
func TestALateAnswerDoesNotDisableARepairedDestination(t *testing.T) {
	t.Parallel()
	r := setUpRelay(t)
	r.settle(t, 2, tenant, "orders", "1")
	var requests []promise.ClaimRequest
	var claims []promise.Claim
	for range 2 {
		c := request(r.orders)
		c.Limit = 1
		requests, claims = append(requests, c), append(claims, r.claim(t, c, promise.ClaimOpen, 1))
	}
	answer := func(n int) {
		recorded, err := r.RecordDeliveries(t.Context(), promise.DeliveryReport{
			Lease: requests[n].Lease, Destination: r.orders, Seen: claims[n].Destination.UpdatedAt, DisabledBecause: "It answered 410 Gone.",
			Deliveries: []promise.DeliveryRecord{{ID: claims[n].Deliveries[0].ID, State: promise.DeliveryDue, Counted: true, Status: 410}},
		})
		require.NoError(t, err)
		require.Len(t, recorded, 1)
	}
	answer(0)
	require.Equal(t, 1, count(t, r.DB, "SELECT COUNT(*) FROM destination WHERE NOT enabled AND disabled_because <> ''"))
	_, err := r.EnableDestination(t.Context(), tenant, "orders", true)
	require.NoError(t, err)
	answer(1)
	require.Equal(t, 1, count(t, r.DB, "SELECT COUNT(*) FROM destination WHERE enabled"))
}

func TestFindDue(t *testing.T) {
	t.Parallel()
	r := setUpRelay(t)
	ctx := t.Context()
	both := func(since time.Time) (recent, all promise.DueLook) {
		recent, err := r.FindDue(ctx, since)
		require.NoError(t, err)
		all, err = r.FindAllDue(ctx)
		require.NoError(t, err)
		return recent, all
	}
	recent, all := both(time.Time{})
	require.Empty(t, recent.Due)
	require.Empty(t, all.Due)
	require.WithinDuration(t, time.Now(), recent.At, time.Minute)
	require.False(t, all.At.Before(recent.At))

	second := addDestination(t, r.DB, tenant, "second", promise.DestinationSQS)
	paused := addDestination(t, r.DB, tenant, "paused", promise.DestinationSQS)
	deleted := addDestination(t, r.DB, tenant, "deleted", promise.DestinationSQS)
	r.Tenant(t, "suspended")
	addDestination(t, r.DB, "suspended", "orders", promise.DestinationSQS)
	for _, name := range []string{"orders", "second", "paused", "deleted"} {
		r.settle(t, 3, tenant, name, "1")
	}
	r.settle(t, 3, "suspended", "orders", "1")
	r.Exec(t, "UPDATE destination SET enabled = FALSE WHERE id = $1", paused)
	r.Exec(t, "UPDATE destination SET deleted_at = NOW() WHERE id = $1", deleted)
	r.Exec(t, "UPDATE tenant SET suspended_at = NOW() WHERE slug = 'suspended'")
	var oldest time.Time
	require.NoError(t, r.Pool.QueryRow(ctx, "SELECT MIN(due_at) FROM delivery WHERE destination_id = $1", second).Scan(&oldest))

	ids := func(look promise.DueLook) (found []uuid.UUID) {
		for _, d := range look.Due {
			found = append(found, d.ID)
			if d.ID == second {
				require.True(t, oldest.Equal(d.DueAt))
			}
		}
		return found
	}
	later, all := both(recent.At)
	require.ElementsMatch(t, []uuid.UUID{r.orders, second}, ids(later))
	require.ElementsMatch(t, []uuid.UUID{r.orders, second}, ids(all))
	require.Empty(t, later.Deleted)
	require.Equal(t, []uuid.UUID{deleted}, all.Deleted)
	nothing, _ := both(later.At)
	require.Empty(t, nothing.Due)

	t.Run("deliveries of a deleted destination end in batches", func(t *testing.T) {
		for _, want := range []int{2, 1, 0} {
			n, err := r.EndDeliveries(ctx, all.Deleted, 2)
			require.NoError(t, err)
			require.Equal(t, want, n)
		}
		_, all := both(recent.At)
		require.Empty(t, all.Deleted)
		require.Equal(t, 3, r.states(t, "end_reason")["gone The destination was deleted."])
	})
}

// The frequent look reads no entry that is older than its interval. So it does not become slower while a snapshot keeps 20,000 delivered
// deliveries' entries in the index.
func TestFindDueBehindALongSnapshot(t *testing.T) {
	t.Parallel()
	r := setUpRelay(t)
	r.Rewrite(t, `INSERT INTO delivery (tenant_id, promise_id, target, destination_id, state, created_at)
		SELECT tenant_id, gen_random_uuid(), 1, id, 'delivered', NOW() FROM destination CROSS JOIN generate_series(1, 20000)`)
	r.settle(t, 10, tenant, "orders", "1")
	r.Exec(t, "VACUUM ANALYZE delivery")
	conn, err := r.Pool.Acquire(t.Context())
	require.NoError(t, err)
	defer conn.Release()
	prepare(t, conn, "find_due")
	_, err = conn.Exec(t.Context(), "SET plan_cache_mode = force_generic_plan")
	require.NoError(t, err)
	look := func(since string) int {
		plan := explain(t, conn, "find_due", map[string]string{"since": since})
		return plan.SharedHit + plan.SharedRead
	}
	before := look("NOW() - INTERVAL '2 seconds'")

	tx, err := r.Pool.Begin(t.Context())
	require.NoError(t, err)
	defer tx.Rollback(context.Background()) //nolint:errcheck // it only reads
	_, err = tx.Exec(t.Context(), "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), "SELECT FROM delivery")
	require.NoError(t, err)
	r.Rewrite(t, `INSERT INTO delivery (tenant_id, promise_id, target, destination_id, state, due_at, created_at)
		SELECT tenant_id, gen_random_uuid(), 1, id, 'due', NOW() - INTERVAL '1 minute', NOW() FROM destination CROSS JOIN generate_series(1, 20000)`)
	r.Rewrite(t, "UPDATE delivery SET state = 'delivered', due_at = NULL")
	behind, unbounded := look("NOW() - INTERVAL '2 seconds'"), look("'-infinity'")
	require.LessOrEqual(t, behind, before+100, "the look of 2 s")
	require.Greater(t, unbounded, 2*(before+100), "the dead entries are there")
	t.Logf("buffers before %d, behind the snapshot %d, without a lower bound %d", before, behind, unbounded)
}

// addDeliveries adds 20,000 deliveries to 2,000 destinations, a tenth of them due, and 2,000 leases.
func addDeliveries(t *testing.T, db *dbtest.DB) {
	t.Helper()
	db.Exec(t, `INSERT INTO destination (tenant_id, name, kind) SELECT id, 'd' || n, 'sqs' FROM tenant CROSS JOIN generate_series(1, 50) n`)
	db.Exec(t, `INSERT INTO destination_secret (destination_id, version, sealed)
		SELECT id, n, '\x01' || sha256('') || '\x00000000'::BYTEA FROM destination CROSS JOIN generate_series(1, 2) n`)
	db.Rewrite(t, `INSERT INTO delivery (tenant_id, promise_id, target, destination_id, state, due_at, created_at)
		SELECT tenant_id, gen_random_uuid(), 1, id, CASE WHEN n = 1 THEN 'due' ELSE 'delivered' END, CASE WHEN n = 1 THEN NOW() - random() * INTERVAL '1 day' END, NOW()
		FROM destination CROSS JOIN generate_series(1, 10) n`)
	db.Exec(t, `INSERT INTO delivery_lease SELECT gen_random_uuid(), tenant_id, id, NOW() + (random() * 3600 - 3555) * INTERVAL '1 second' FROM destination`)
}

// requireRelayed sends values through every statement of the relay.
func requireRelayed(t *testing.T, r relayed) {
	t.Helper()
	r.settle(t, 2, tenant, "orders", `"'\\\x00 ä"`)
	look, err := r.FindAllDue(t.Context())
	require.NoError(t, err)
	require.Len(t, look.Due, 1)
	recent, err := r.FindDue(t.Context(), look.Due[0].DueAt.Add(-time.Microsecond))
	require.NoError(t, err)
	require.Equal(t, look.Due, recent.Due)
	c := request(r.orders)
	claim := r.claim(t, c, promise.ClaimOpen, 2)
	require.Equal(t, `"'\\\x00 ä"`, string(claim.Deliveries[0].Promise.Value))
	require.Len(t, claim.Secrets[0].Sealed, 37)
	require.Len(t, r.record(t, c, claim, promise.DeliveryRecord{State: promise.DeliveryDead, Counted: true, Status: 500, Error: `'\"{,}ä`, Reason: "NULL"}), 2)
	require.Equal(t, map[string]int{`dead '\"{,}ä NULL`: 2}, r.states(t, "last_error, end_reason"))
	n, err := r.EndDeliveries(t.Context(), []uuid.UUID{r.orders}, 10)
	require.NoError(t, err)
	require.Zero(t, n)
	require.NoError(t, r.ExpireLeases(t.Context(), 10))
}
