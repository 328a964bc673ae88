package repository_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/dbtest"
	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/repository"
)

// roundTrips counts the queries that pgx sends.
type roundTrips struct{ n atomic.Int32 }

func (r *roundTrips) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	r.n.Add(1)
	return ctx
}
func (r *roundTrips) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func TestOneRoundTrip(t *testing.T) {
	t.Parallel()
	_, db := setUp(t)
	trips := new(roundTrips)
	r := repository.New(poolWith(t, db.URL, func(c *pgxpool.Config) { c.ConnConfig.Tracer = trips }))
	ctx := t.Context()
	d := withKey(draft("a"), "k", time.Hour)
	past, unknown := time.Now().Add(-time.Hour), uuid.New()
	late := draft("late")
	late.TimeoutAt = &past
	p := create(t, r, d)
	q := create(t, r, draft("b"))
	o := create(t, r, late)
	e := create(t, r, draft("e"))
	notified := create(t, r, notifying("g", promise.Target{Kind: promise.DestinationStepFunctions, Token: "token"}))
	delivery := get(t, r, notified.ID).Deliveries[0].ID
	inState(t, db, delivery, promise.DeliveryDead)
	key, unknownKey := byKey(t, "k"), byKey(t, "unknown")
	source := stripe()
	held := webhook(promise.Source{ID: source.ID, Name: source.Name}, "held", "webhook")
	batch := []promise.Item{item(promise.ByID(create(t, r, draft("f")).ID), resolved([]byte("1"))),
		item(promise.ByID(o.ID), rejected("no")), item(unknownKey, resolved([]byte("1"))), item(key, rejected("no"))}
	for _, c := range []struct {
		name string
		trip int32
		call func() error
	}{
		{"create", 1, func() error { return errOf(r.Create(ctx, tenant, draft("c"))) }},
		{"create with a key", 1, func() error { return errOf(r.Create(ctx, tenant, withKey(draft("d"), "k2", time.Hour))) }},
		{"create again", 1, func() error { return errOf(r.Create(ctx, tenant, d)) }},
		{"get by id", 1, func() error { return errOf(r.Get(ctx, tenant, promise.ByID(p.ID))) }},
		{"get by key", 1, func() error { return errOf(r.Get(ctx, tenant, key)) }},
		{"get by name", 1, func() error { return errOf(r.GetByWorkflowAndName(ctx, tenant, p.WorkflowExecutionID, p.Name)) }},
		{"resolve by key", 1, func() error { return errOf(r.Settle(ctx, tenant, key, resolved([]byte("1")))) }},
		{"resolve again", 1, func() error { return errOf(r.Settle(ctx, tenant, key, resolved([]byte("1")))) }},
		{"reject by id", 1, func() error { return errOf(r.Settle(ctx, tenant, promise.ByID(q.ID), rejected("x"))) }},
		{"resolve by an unknown key", 1, func() error {
			if _, err := r.Settle(ctx, tenant, unknownKey, resolved([]byte("1"))); !errors.Is(err, promise.ErrNotFound) {
				return fmt.Errorf("not found, but %w", err)
			}
			return nil
		}},
		{"find by key", 1, func() error { return errOf(r.FindPromiseByIdempotencyKey(ctx, tenant, "k")) }},
		{"add a key", 1, func() error { return r.AddIdempotencyKey(ctx, tenant, "k3", p.ID, time.Hour) }},
		{"expire keys", 1, func() error { return errOf(r.ExpireIdempotencyKeys(ctx, 10)) }},
		{"extend", 1, func() error {
			return errOf(r.Extend(ctx, tenant, promise.ByID(e.ID), promise.Deadline{Timeout: new(time.Hour)}))
		}},
		{"cancel", 1, func() error { return errOf(r.Settle(ctx, tenant, promise.ByID(e.ID), cancelled("because"))) }},
		{"settle early, settled", 1, func() error { return errOf(r.SettleEarly(ctx, tenant, "k2", resolved([]byte("1")), time.Hour)) }},
		{"settle early, stored", 2, func() error { return errOf(r.SettleEarly(ctx, tenant, "k4", resolved([]byte("1")), time.Hour)) }},
		{"create with an early settlement", 1, func() error { return errOf(r.Create(ctx, tenant, withKey(draft("d"), "k4", time.Hour))) }},
		{"settle batch", 1, func() error { return errOf(r.SettleBatch(ctx, tenant, byDirect, batch)) }},
		{"list", 1, func() error {
			return errOf(pageOnly(r.ListPromises(ctx, tenant, promise.Filter{State: new(promise.Resolved)}, 10)))
		}},
		{"list a workflow", 1, func() error {
			return errOf(pageOnly(r.ListPromises(ctx, tenant, promise.Filter{WorkflowExecutionID: &p.WorkflowExecutionID}, 10)))
		}},
		{"list nothing, of a tenant not looked up before", 2, func() error {
			return errOf(pageOnly(r.ListPromises(ctx, tenant, promise.Filter{WorkflowExecutionID: &unknown}, 10)))
		}},
		{"list nothing again", 1, func() error {
			return errOf(pageOnly(r.ListPromises(ctx, tenant, promise.Filter{WorkflowExecutionID: &unknown}, 10)))
		}},
		{"list by name", 1, func() error {
			return errOf(pageOnly(r.ListPromises(ctx, tenant, promise.Filter{WorkflowExecutionID: &p.WorkflowExecutionID, Name: &p.Name}, 10)))
		}},
		{"list by deadline", 1, func() error {
			return errOf(pageOnly(r.ListPromises(ctx, tenant, promise.Filter{State: new(promise.Pending), TimeoutBefore: new(time.Now())}, 10)))
		}},
		{"list, overdue", 3, func() error { return errOf(pageOnly(r.ListPromises(ctx, tenant, promise.Filter{}, 10))) }},
		{"list events", 1, func() error { return errOf(r.ListEvents(ctx, tenant, p.WorkflowExecutionID, 0, 10)) }},
		{"token active", 1, func() error {
			return errOf(r.TokenActive(ctx, tenant, p.ID, uuid.Nil, nil))
		}},
		{"begin test", 1, func() error { return errOf(r.BeginTest(ctx, tenant, uuid.New(), time.Minute, 1)) }},
		{"begin test, beyond the bound", 1, func() error { return errOf(r.BeginTest(ctx, tenant, uuid.New(), time.Minute, 1)) }},
		{"end test", 1, func() error { return r.EndTest(ctx, uuid.New()) }},
		{"begin wait", 1, func() error { return errOf(r.BeginWait(ctx, tenant, uuid.New(), time.Minute, 1)) }},
		{"begin wait, beyond the bound", 1, func() error { return errOf(r.BeginWait(ctx, tenant, uuid.New(), time.Minute, 1)) }},
		{"keep wait", 1, func() error { return errOf(r.KeepWait(ctx, tenant, uuid.New(), 1)) }},
		{"end wait", 1, func() error { return r.EndWait(ctx, tenant, uuid.New()) }},
		{"list signing keys", 1, func() error { return errOf(r.ListSigningKeys(ctx)) }},
		{"revoke tokens by id", 1, func() error { return errOf(r.RevokeTokens(ctx, tenant, promise.ByID(p.ID))) }},
		{"revoke tokens by key", 1, func() error { return errOf(r.RevokeTokens(ctx, tenant, key)) }},
		{"erase", 1, func() error { return errOf(r.Erase(ctx, tenant, promise.ByID(p.ID))) }},
		{"erase again", 1, func() error { return errOf(r.Erase(ctx, tenant, key)) }},
		{"create with a target", 1, func() error {
			return errOf(r.Create(ctx, tenant, notifying("h", promise.Target{Kind: promise.DestinationStepFunctions, Token: "token"})))
		}},
		{"get with deliveries", 1, func() error { return errOf(r.Get(ctx, tenant, promise.ByID(notified.ID))) }},
		{"list deliveries", 1, func() error {
			_, _, err := r.ListDeliveries(ctx, tenant, promise.DeliveryFilter{}, 10)
			return err
		}},
		{"list deliveries of a promise", 1, func() error {
			_, _, err := r.ListDeliveries(ctx, tenant, promise.DeliveryFilter{PromiseID: &notified.ID}, 10)
			return err
		}},
		{"retry a delivery", 1, func() error { return errOf(r.RetryDelivery(ctx, tenant, delivery)) }},
		{"retry dead deliveries", 1, func() error {
			_, _, err := r.RetryDeadDeliveries(ctx, tenant, "stepFunctions", 10)
			return err
		}},
		{"put a destination", 1, func() error {
			return errOf2(r.PutDestination(ctx, tenant, orders(), nil, append([]byte{1}, make([]byte, 40)...)))
		}},
		{"put a destination again", 1, func() error {
			return errOf2(r.PutDestination(ctx, tenant, orders(), nil, append([]byte{1}, make([]byte, 40)...)))
		}},
		{"enable a destination", 1, func() error { return errOf(r.EnableDestination(ctx, tenant, "orders", true)) }},
		{"get a destination", 1, func() error { return errOf2(r.GetDestination(ctx, tenant, "orders")) }},
		{"list destinations", 1, func() error { return errOf(r.ListDestinations(ctx, tenant)) }},
		{"set the default destination", 1, func() error { return r.SetDefaultDestination(ctx, tenant, new("orders")) }},
		{"rotate a secret", 2, func() error {
			return errOf2(r.RotateDestinationSecret(ctx, tenant, "orders", promise.Rotation{}, sealed))
		}},
		{"delete a destination", 1, func() error { return errOf(r.DeleteDestination(ctx, tenant, "orders")) }},
		{"put a source", 2, func() error {
			_, _, _, err := r.PutSource(ctx, tenant, source)
			return err
		}},
		{"put a source again", 1, func() error {
			_, _, _, err := r.PutSource(ctx, tenant, source)
			return err
		}},
		{"get a source", 1, func() error { return errOf2(r.GetSource(ctx, tenant, "stripe")) }},
		{"list sources", 1, func() error { return errOf(r.ListSources(ctx, tenant)) }},
		{"rotate a source's secret", 2, func() error {
			return errOf2(r.RotateSourceSecret(ctx, tenant, "stripe", promise.Rotation{}, sealed))
		}},
		{"touch a source", 1, func() error { return r.TouchSource(ctx, tenant, "stripe", promise.SourceTouch{ID: source.ID}) }},
		{"receive, held", 1, func() error { return errOf(r.Receive(ctx, tenant, held)) }},
		{"receive again", 1, func() error { return errOf(r.Receive(ctx, tenant, held)) }},
		{"create with a webhook's early settlement", 1, func() error { return errOf(r.Create(ctx, tenant, withKey(draft("w"), "webhook", time.Hour))) }},
		{"receive, settled", 1, func() error { return errOf(r.Receive(ctx, tenant, held)) }},
		{"preview a receipt", 1, func() error { return errOf(r.PreviewReceipt(ctx, tenant, held)) }},
		{"list receipts", 1, func() error {
			_, _, err := r.ListReceipts(ctx, tenant, promise.ReceiptFilter{}, 10)
			return err
		}},
		{"delete a source", 1, func() error { return errOf(r.DeleteSource(ctx, tenant, "stripe")) }},
		{"resolve, overdue", 1, func() error { return errOf(r.Settle(ctx, tenant, promise.ByID(o.ID), rejected("late"))) }},
		{"get, overdue", 3, func() error { return errOf(r.Get(ctx, tenant, promise.ByID(o.ID))) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			trips.n.Store(0)
			require.NoError(t, c.call())
			require.Equal(t, c.trip, trips.n.Load())
		})
	}
}

// DB_EXEC_MODE can be each of pgx's modes. Every statement must work in each of them.
func TestEveryQueryExecMode(t *testing.T) {
	t.Parallel()
	for _, mode := range []pgx.QueryExecMode{
		pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeDescribeExec,
		pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol,
	} {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			_, db := setUp(t)
			r := repository.New(poolWith(t, db.URL, func(c *pgxpool.Config) { c.ConnConfig.DefaultQueryExecMode = mode }))
			ctx := t.Context()
			d := withKey(draft("a"), "k", time.Hour)
			timeout := 90 * time.Minute
			d.Timeout, d.Metadata = &timeout, []byte(`{"a": "\\x7b 'ä'"}`)
			p := create(t, r, d)
			require.JSONEq(t, string(d.Metadata), string(p.Metadata))
			require.Equal(t, timeout, p.TimeoutAt.Sub(p.CreatedAt))
			at := time.Now().Add(time.Hour).Truncate(time.Microsecond)
			q := create(t, r, promise.Draft{WorkflowExecutionID: p.WorkflowExecutionID, Name: "b", TimeoutAt: &at})
			require.True(t, at.Equal(*q.TimeoutAt))
			value := []byte("\"\\\\x00 ' ä\"")
			got, err := r.Settle(ctx, tenant, byKey(t, "k"), resolved(value))
			require.NoError(t, err)
			require.Equal(t, promise.OutcomeSettled, got.Outcome)
			got, err = r.Settle(ctx, tenant, promise.ByID(p.ID), resolved(value))
			require.NoError(t, err)
			require.Equal(t, promise.OutcomeDuplicate, got.Outcome)
			stored, err := r.Get(ctx, tenant, promise.ByID(p.ID))
			require.NoError(t, err)
			require.Equal(t, value, stored.Value)
			_, err = r.Settle(ctx, tenant, promise.ByID(q.ID), rejected("x"))
			require.NoError(t, err)
			stored, err = r.GetByWorkflowAndName(ctx, tenant, q.WorkflowExecutionID, "b")
			require.NoError(t, err)
			require.Equal(t, promise.Rejected, stored.State)
			require.NoError(t, r.AddIdempotencyKey(ctx, tenant, "k2", p.ID, time.Hour))
			found, err := r.FindPromiseByIdempotencyKey(ctx, tenant, "k2")
			require.NoError(t, err)
			require.Equal(t, p.ID, found)
			revoked, err := r.RevokeTokens(ctx, tenant, byKey(t, "k2"))
			require.NoError(t, err)
			active, err := r.TokenActive(ctx, tenant, p.ID, uuid.Nil, &revoked.At)
			require.NoError(t, err)
			require.True(t, active)
			wait := uuid.New()
			counted, err := r.BeginWait(ctx, tenant, wait, 1500*time.Millisecond, 1)
			require.NoError(t, err)
			require.True(t, counted)
			require.NoError(t, r.EndWait(ctx, tenant, wait))
			counted, err = r.BeginTest(ctx, tenant, wait, 1500*time.Millisecond, 1)
			require.NoError(t, err)
			require.True(t, counted)
			require.NoError(t, r.EndTest(ctx, wait))
			require.Zero(t, count(t, db, "SELECT COUNT(*) FROM delivery_lease"))
			require.Zero(t, count(t, db, "SELECT COUNT(*) FROM tenant_wait"))
			requireDestinations(t, r) // it leaves no destination
			requireReceipts(t, r)
			requireSources(t, r, db)
			requireRelayed(t, relayed{db, r, addDestination(t, db, tenant, "orders", promise.DestinationHTTPS)})
			db.Exec(t, "DELETE FROM delivery")
			_, err = r.ExpireIdempotencyKeys(ctx, 10)
			require.NoError(t, err)
			limited, err := r.SetLimits(ctx, tenant, map[string]*int64{promise.LimitPending: new(int64(9)), promise.LimitWaits: nil})
			require.NoError(t, err)
			require.EqualValues(t, 9, limited.Limits[promise.LimitPending])
			requireLifecycle(t, r, value)
			requireDeliveries(t, r, db)
		})
	}
}

// requireDeliveries sends each argument of the statements on deliveries.
func requireDeliveries(t *testing.T, r *repository.Repository, db *dbtest.DB) {
	t.Helper()
	p := create(t, r, notifying("with targets", promise.Target{Kind: promise.DestinationStepFunctions, Token: `'\'{",}`},
		promise.Target{Kind: promise.DestinationDurableExecution, Token: "QQ=="}))
	require.Equal(t, 1, count(t, db, `SELECT COUNT(*) FROM delivery WHERE token = $1`, `'\'{",}`))
	deliveries := get(t, r, p.ID).Deliveries
	require.Len(t, deliveries, 2)
	for _, d := range deliveries {
		inState(t, db, d.ID, promise.DeliveryDead)
	}
	for _, f := range []promise.DeliveryFilter{
		{}, {PromiseID: &p.ID}, {PromiseID: &p.ID, State: new(promise.DeliveryDead)}, {State: new(promise.DeliveryDead)},
	} {
		require.Len(t, walkDeliveries(t, r, f, 1, func() {}), 2)
		f.Destination = new("durableExecution")
		require.Len(t, walkDeliveries(t, r, f, 1, func() {}), 1)
	}
	d, err := r.RetryDelivery(t.Context(), tenant, deliveries[0].ID)
	require.NoError(t, err)
	require.Equal(t, promise.DeliveryDue, d.State)
	retried, more, err := r.RetryDeadDeliveries(t.Context(), tenant, "durableExecution", 10)
	require.NoError(t, err)
	require.Equal(t, 1, retried)
	require.False(t, more)
}

// requireLifecycle sends a value through every statement that takes one, and filters through every list.
func requireLifecycle(t *testing.T, r *repository.Repository, value []byte) {
	t.Helper()
	ctx := t.Context()
	early := resolved(value)
	early.By.ID, early.Comment = "\\'ä", new("it's \\x00")
	settleEarly(t, r, "early", early, promise.OutcomeHeld)
	settleEarly(t, r, "early", early, promise.OutcomeDuplicate)
	settleEarly(t, r, "early, and no", rejected("no"), promise.OutcomeHeld)
	d := withKey(draft("early"), "early", time.Hour)
	d.OnTimeout = &promise.Result{State: promise.Resolved, Value: value}
	p := create(t, r, d)
	require.Equal(t, value, p.Value)
	require.Equal(t, d.OnTimeout, p.OnTimeout)
	require.Equal(t, &early.By, p.SettledBy)
	require.Equal(t, early.Comment, p.Comment)

	in := func(name, key string) promise.Promise {
		return create(t, r, withKey(promise.Draft{WorkflowExecutionID: p.WorkflowExecutionID, Name: name}, key, time.Hour))
	}
	c, a, b := in("c", "'c'"), in("a", "'a'"), in("b", `{"\NULL,}`)
	at := time.Now().Add(time.Hour).Truncate(time.Microsecond)
	require.True(t, at.Equal(*extend(t, r, promise.ByID(a.ID), promise.Deadline{At: &at}).TimeoutAt))
	extend(t, r, byKey(t, "'a'"), promise.Deadline{Timeout: new(90 * time.Minute)})
	commented := resolved(value)
	commented.Comment = early.Comment
	items := []promise.Item{
		item(promise.ByID(a.ID), commented), item(byKey(t, `{"\NULL,}`), rejected(`{'",\}`)), item(byKey(t, "'a'"), resolved(value)),
		item(promise.ByID(uuid.New()), rejected("")), item(byKey(t, "NULL"), resolved([]byte("null"))),
	}
	got, err := r.SettleBatch(ctx, tenant, byDirect, items)
	require.NoError(t, err)
	require.Equal(t, []promise.ItemResult{
		{SettleResult: promise.SettleResult{PromiseID: a.ID, State: promise.Resolved, Outcome: promise.OutcomeSettled}},
		{SettleResult: promise.SettleResult{PromiseID: b.ID, State: promise.Rejected, Outcome: promise.OutcomeSettled}},
		{SettleResult: promise.SettleResult{PromiseID: a.ID, State: promise.Resolved, Outcome: promise.OutcomeDuplicate}},
		{Err: promise.ErrNotFound}, {Err: promise.ErrNotFound},
	}, got)
	got, err = r.SettleBatch(ctx, tenant, byDirect, []promise.Item{items[1], items[3]})
	require.NoError(t, err)
	require.Equal(t, promise.OutcomeDuplicate, got[0].SettleResult.Outcome)

	log, err := r.ListEvents(ctx, tenant, p.WorkflowExecutionID, 0, 100)
	require.NoError(t, err)
	require.Len(t, log, 9)
	require.Equal(t, value, log[1].Settlement.Value)
	require.Equal(t, value, log[7].Settlement.Value)
	require.Equal(t, early.Comment, log[7].Settlement.Comment)
	require.Equal(t, `{'",\}`, *log[8].Settlement.Message)
	for _, f := range []promise.Filter{
		{WorkflowExecutionID: &c.WorkflowExecutionID, State: new(promise.Pending), Name: new("c")},
		{WorkflowExecutionID: &c.WorkflowExecutionID, After: &promise.Cursor{CreatedAt: a.CreatedAt, ID: a.ID}, State: new(promise.Pending)},
		{After: &promise.Cursor{CreatedAt: a.CreatedAt, ID: a.ID}, State: new(promise.Pending)},
		{WorkflowExecutionID: &c.WorkflowExecutionID, After: &promise.Cursor{CreatedAt: a.CreatedAt, ID: a.ID}, Name: new("c")},
	} {
		found, more, err := r.ListPromises(ctx, tenant, f, 10)
		require.NoError(t, err)
		require.False(t, more)
		require.Equal(t, []promise.Promise{c}, found)
	}
	due := promise.Filter{State: new(promise.Pending), TimeoutBefore: new(time.Now().Add(2 * time.Hour))}
	for range 2 {
		first := in(uuid.NewString(), uuid.NewString())
		extend(t, r, promise.ByID(first.ID), promise.Deadline{Timeout: new(time.Hour)})
	}
	found, more, err := r.ListPromises(ctx, tenant, due, 1)
	require.NoError(t, err)
	require.True(t, more)
	due.After = new(due.CursorAfter(found[0]))
	found, more, err = r.ListPromises(ctx, tenant, due, 1)
	require.NoError(t, err)
	require.False(t, more)
	require.Len(t, found, 1)
	_, err = r.Expire(ctx, 10)
	require.NoError(t, err)
	_, err = r.DeleteSettled(ctx, time.Hour, 10)
	require.NoError(t, err)
}

// The generic plan of each statement, on a database of 200,000 promises, must read each table by an index. No statement may become slower
// as a table grows.
func TestPlans(t *testing.T) {
	t.Parallel()
	_, db := setUp(t)
	// 200,000 promises: forty tenants with 5,000 each, two in a workflow, half of them pending, some of these overdue.
	db.Exec(t, "INSERT INTO tenant (slug) SELECT 't' || n FROM generate_series(1, 39) n")
	db.Exec(t, `INSERT INTO workflow_execution (id, tenant_id, last_sequence_number)
		SELECT gen_random_uuid(), id, 4 FROM tenant CROSS JOIN generate_series(1, 2500)`)
	db.Exec(t, `INSERT INTO promise (workflow_execution_id, tenant_id, name, created_by_sequence, resolved, outcome, value,
			timeout_at, created_at, resolved_at, resolved_by_sequence, settled_by_kind)
		SELECT id, tenant_id, 'step-' || n, n, n > 1, CASE WHEN n > 1 THEN 'resolved' END, CASE WHEN n > 1 THEN 'null'::BYTEA END,
			NOW() + (random() * 1000 - 1) * INTERVAL '1 minute', NOW() - random() * INTERVAL '200 days', CASE WHEN n > 1 THEN NOW() END,
			CASE WHEN n > 1 THEN 2 + n END, CASE WHEN n > 1 THEN 'key' END
		FROM workflow_execution CROSS JOIN generate_series(1, 2) n`)
	db.Exec(t, "ANALYZE") // without statistics, the check of a foreign key may read a whole index for each row below
	db.Exec(t, `INSERT INTO workflow_event (workflow_execution_id, sequence_number, event_type, promise_id)
		SELECT workflow_execution_id, created_by_sequence, 'PROMISE_CREATED', id FROM promise`)
	db.Exec(t, `INSERT INTO idempotency_key (tenant_id, key, promise_id, expires_at, check_at)
		SELECT tenant_id, id::TEXT, id, NOW() + INTERVAL '1 day', NOW() + INTERVAL '7 days' FROM promise WHERE random() < 0.5`)
	db.Exec(t, `INSERT INTO api_key (tenant_id, name, hash, scopes)
		SELECT id, 'n', sha256((id::TEXT || n)::BYTEA), '{read}' FROM tenant CROSS JOIN generate_series(1, 500) n`)
	db.Exec(t, "INSERT INTO deleted_tenant SELECT 'gone-' || n, gen_random_uuid(), NOW() FROM generate_series(1, 2000) n")
	db.Exec(t, `INSERT INTO tenant_wait (tenant_id, id, expires_at)
		SELECT id, gen_random_uuid(), NOW() + random() * INTERVAL '30 seconds' FROM tenant CROSS JOIN generate_series(1, 500) n`)
	addDeliveries(t, db)
	db.Rewrite(t, `INSERT INTO delivery (tenant_id, promise_id, target, destination_id, state, created_at)
		SELECT p.tenant_id, p.id, 1, d.id, CASE WHEN p.resolved THEN 'delivered' ELSE 'waiting' END, p.created_at
		FROM (SELECT *, 1 + floor(random() * 50) AS n FROM promise WHERE random() < 0.1) p
		JOIN destination d ON d.tenant_id = p.tenant_id AND d.name = 'd' || p.n`)
	db.Exec(t, `INSERT INTO destination (tenant_id, name, kind, deleted_at)
		SELECT id, 'e' || n, 'https', CASE WHEN n > 90 THEN NOW() END FROM tenant CROSS JOIN generate_series(1, 100) n`)
	db.Exec(t, `INSERT INTO destination_secret (destination_id, version, sealed, retire_at)
		SELECT id, n, '\x01'::BYTEA || sha256(id::TEXT::BYTEA) || sha256(''), CASE WHEN n < 2 AND random() < 0.01 THEN NOW() END FROM destination CROSS JOIN generate_series(1, 2) n WHERE name LIKE 'e%'`)
	addSources(t, db, 100)
	db.Exec(t, "ANALYZE")
	wants := map[string][]string{
		"await_settlements": {}, // see TestPlansOfAwaitSettlements
		"claim_deliveries": {"destination_pkey", "idx_delivery_lease_expires", "idx_delivery_due_by_destination", "delivery_pkey", "promise_pkey",
			"workflow_execution_pkey", "destination_secret_pkey"},
		"put_destination":                 {"idx_destination_name", "destination_pkey"},
		"enable_destination":              {"idx_destination_name"},
		"get_destination":                 {"idx_destination_name", "destination_secret_pkey"},
		"list_destinations":               {"idx_destination"},
		"delete_destination":              {"idx_destination_name", "destination_pkey", "destination_secret_pkey"},
		"set_default_destination":         {"idx_destination_name"},
		"rotate_destination_secret":       {"destination_pkey", "destination_secret_pkey"},
		"list_texts_to_reseal":            {"idx_destination_secret_key", "idx_source_secret_key", "idx_receipt_body_key"},
		"reseal_texts":                    {"destination_secret_pkey", "source_secret_pkey", "receipt_body_pkey"},
		"get_source":                      {"source_tenant_id_name_key", "source_secret_pkey"},
		"list_sources":                    {"source_tenant_id_name_key"},
		"create_source":                   {"source_tenant_id_name_key"},
		"change_source":                   {"source_pkey", "source_secret_pkey"},
		"delete_source":                   {"source_tenant_id_name_key"},
		"touch_source":                    {"source_tenant_id_name_key", "source_pkey"},
		"receive":                         {"receipt_settle"},
		"preview_receipt":                 {"receipt_preview"},
		"list_receipts":                   {"Backward using idx_receipt_outcome", "receipt_pkey", "receipt_body_receipt_id_key"},
		"list_receipts_of_source":         {"Backward using idx_receipt_source", "receipt_pkey"},
		"list_receipts_of_key":            {"Backward using idx_receipt_key", "receipt_pkey"},
		"list_receipts_of_promise":        {"Backward using idx_receipt_promise", "receipt_pkey"},
		"get_receipt":                     {"receipt_pkey", "receipt_body_receipt_id_key"},
		"delete_receipts":                 {"idx_receipt_expires", "receipt_pkey", "idx_receipt_body_expires", "receipt_body_pkey", "idx_source_secret_retire", "source_secret_pkey"},
		"refresh_held":                    {"idx_receipt_held", "source_pkey"},
		"count_silent_sources":            {"idx_source_verified"},
		"delete_destinations":             {"idx_destination_deleted", "idx_delivery_destination", "destination_pkey", "idx_destination_secret_retire", "destination_secret_pkey"},
		"claim_recount":                   {"workflow_execution_pkey"},
		"end_deliveries":                  {"idx_delivery_due_by_destination", "delivery_pkey"},
		"expire_leases":                   {"idx_delivery_lease_expires", "delivery_lease_pkey"},
		"find_all_due":                    {"idx_delivery_due_by_destination", "destination_pkey"},
		"find_due":                        {"idx_delivery_due", "destination_pkey"},
		"record_deliveries":               {"destination_pkey", "delivery_pkey", "delivery_lease_pkey"},
		"count_early":                     {"idx_idempotency_key_held"},
		"count_pending":                   {"Index Only Scan using idx_promise_tenant"},
		"delete_tenant":                   {"tenant_delete"},
		"find_deleted_tenant":             {"deleted_tenant_pkey"},
		"find_tenant":                     {},
		"mark_deleted":                    {},
		"recount_workflow":                {"workflow_execution_pkey", "Index Only Scan using"},
		"set_limits":                      {},
		"store_counts":                    {},
		"tenant_contents":                 {"tenant_contents"},
		"uncounted_tenants":               {},
		"begin_wait":                      {"idx_tenant_wait_expires", "tenant_wait_pkey"},
		"begin_test":                      {"idx_delivery_lease_expires"},
		"end_test":                        {"delivery_lease_pkey"},
		"end_wait":                        {"tenant_wait_pkey"},
		"keep_wait":                       {"tenant_wait_pkey"},
		"create_api_key":                  {},
		"create_tenant":                   {},
		"find_api_key":                    {"api_key_hash_key"},
		"list_api_keys":                   {"idx_api_key_tenant"},
		"list_signing_keys":               {},
		"list_tenants":                    {},
		"revoke_api_key":                  {"api_key_pkey"},
		"suspend_tenant":                  {},
		"revoke_tokens":                   {"promise_pkey", "idempotency_key_pkey"},
		"token_active":                    {"promise_pkey", "api_key_pkey"},
		"create":                          {"promise_create"}, // see TestPlansOfCreate
		"add_idempotency_key":             {"promise_pkey", "idempotency_key_pkey"},
		"delete_settled":                  {"idx_promise_tenant", "promise_pkey", "workflow_event_row_pkey", "idx_idempotency_key_promise"},
		"delete_empty_workflows":          {"workflow_execution_pkey"},
		"erase":                           {"promise_erase"}, // see TestPlansOfErase
		"expire":                          {"idx_promise_due", "idx_promise_due_by_tenant", "promise_pkey", "workflow_execution_pkey"},
		"expire_idempotency_keys":         {"idx_idempotency_key_check", "idempotency_key_pkey", "promise_pkey"},
		"expire_workflow":                 {"workflow_execution_pkey", "idx_promise_due_by_tenant", "promise_pkey"},
		"extend":                          {"promise_pkey", "idempotency_key_pkey", "workflow_execution_pkey"},
		"find_promise_by_idempotency_key": {"idempotency_key_pkey", "promise_pkey"},
		"get":                             {"promise_pkey", "idempotency_key_pkey", "workflow_execution_pkey", "delivery_promise_id_target_key"},
		"list_deliveries":                 {"idx_destination", "Index Only Scan Backward using idx_delivery_destination", "delivery_pkey"},
		"list_deliveries_of_promise":      {"delivery_promise_id_target_key", "destination_pkey"},
		"retry_delivery":                  {"delivery_pkey", "destination_pkey"},
		"retry_dead_deliveries":           {"idx_destination", "Index Scan using idx_delivery_destination", "delivery_pkey"},
		"get_by_workflow_and_name":        {"promise_workflow_execution_id_name_key"},
		"store_early":                     {"promise_settle_early"},
		"list_events":                     {"workflow_execution_pkey", "workflow_event_row_pkey", "idx_promise_settled", "promise_pkey"},
		"list_promises":                   {"idx_promise_tenant", "idx_promise_due_by_tenant", "promise_pkey"},
		"list_promises_due":               {"idx_promise_due_by_tenant", "promise_pkey"},
		"list_promises_of_workflow":       {"idx_promise_list", "idx_promise_due_by_tenant", "promise_pkey"},
		"settle":                          {"promise_settle"}, // see TestPlansOfSettle
		"settle_batch":                    {"promise_pkey", "idempotency_key_pkey", "workflow_execution_pkey"},
		"tenant_id":                       {"tenant"},
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
			require.Contains(t, wants, name, "the list has no plan of the statement")
			sql := querySQL(t, name)
			require.True(t, strings.HasPrefix(sql, "-- "), "a comment describes the statement and its locks")
			prepare(t, conn, name)
			rows, err := conn.Query(t.Context(), "EXPLAIN "+execute(t, name, nil))
			require.NoError(t, err)
			lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
			require.NoError(t, err)
			plan := strings.Join(lines, "\n")
			for _, index := range wants[name] {
				require.Contains(t, plan, index, "%s", plan)
			}
			require.NotContains(t, strings.NewReplacer("Seq Scan on tenant", "", "Seq Scan on signing_key", "").Replace(plan), "Seq Scan", "%s", plan)
		})
	}
	require.Len(t, files, len(wants))
}

func TestADeadConnectionIsReplaced(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	pool := poolWith(t, db.URL, func(c *pgxpool.Config) { c.MaxConns = 1 })
	frozen := repository.New(pool)
	p := create(t, frozen, draft("a"))
	for range 3 {
		pid := 0
		require.NoError(t, pool.QueryRow(t.Context(), "SELECT pg_backend_pid()").Scan(&pid))
		time.Sleep(1100 * time.Millisecond) // pgxpool checks a connection that was idle for more than a second
		db.Exec(t, "SELECT pg_terminate_backend($1, 5000)", pid)
		_, err := frozen.Settle(t.Context(), tenant, promise.ByID(p.ID), resolved([]byte("1")))
		require.NoError(t, err)
	}
	stored, err := r.Get(t.Context(), tenant, promise.ByID(p.ID))
	require.NoError(t, err)
	require.Equal(t, promise.Resolved, stored.State)
}

// If the server process ends in the middle of a settlement, nothing of it is stored, and the error is CodeUnavailable.
func TestCutOffInTheMiddle(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	p := create(t, r, draft("a"))
	tx, err := db.Pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), "SELECT FROM promise FOR NO KEY UPDATE") // the settlement waits for this lock after it has its sequence number
	require.NoError(t, err)
	done := make(chan error, 1)
	pool := poolWith(t, db.URL, func(c *pgxpool.Config) { c.ConnConfig.RuntimeParams["application_name"] = "victim" })
	go func() {
		_, err := repository.New(pool).Settle(context.Background(), tenant, promise.ByID(p.ID), resolved([]byte("1")))
		done <- err
	}()
	waitForLocks(t, db, 1, "promise", "settle")
	db.Exec(t, "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'victim'")
	requireCode(t, promise.CodeUnavailable, <-done)
	require.NoError(t, tx.Rollback(t.Context()))
	require.Equal(t, "1 PROMISE_CREATED", events(t, db, p.WorkflowExecutionID))
	require.Equal(t, 1, count(t, db, "SELECT last_sequence_number FROM workflow_execution"))
	got, err := r.Settle(t.Context(), tenant, promise.ByID(p.ID), resolved([]byte("1")))
	require.NoError(t, err)
	require.Equal(t, promise.OutcomeSettled, got.Outcome)
}

func TestErrorsHaveNoPayload(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	db.Exec(t, "ALTER TABLE promise ADD CONSTRAINT never CHECK (created_by_sequence < 0) NOT VALID")
	d := withKey(draft("secret-name"), "secret-key", time.Hour)
	d.Metadata, _ = json.Marshal(map[string]string{"a": "secret-metadata"})
	_, _, err := unpack(r.Create(t.Context(), tenant, d))
	requireCode(t, promise.CodeInternal, err)
	require.NotContains(t, err.Error(), "secret")
	var pg *pgconn.PgError
	require.ErrorAs(t, err, &pg, "the log sees the cause")
	require.Equal(t, "never", pg.ConstraintName)
	_, err = r.Get(t.Context(), tenant, promise.ByID(uuid.New()))
	requireCode(t, promise.CodeNotFound, err)
}

// The log says once which operation failed, and why.
func TestErrorsNameTheOperation(t *testing.T) {
	t.Parallel()
	broken := repository.New(&stagedDB{beforeQuery: func(int) error { return errors.New("boom") }})
	ctx := t.Context()
	for want, call := range map[string]func() error{
		"repository: settle promise: boom": func() error { return errOf(broken.SettleEarly(ctx, tenant, "k", resolved([]byte("1")), time.Hour)) },
		"repository: get promise: boom":    func() error { return errOf(broken.Get(ctx, tenant, promise.ByID(uuid.New()))) },
		"repository: list promises: boom":  func() error { return errOf(pageOnly(broken.ListPromises(ctx, tenant, promise.Filter{}, 10))) },
		"repository: create tenant: boom": func() error {
			_, _, err := broken.CreateTenant(ctx, tenant)
			return err
		},
	} {
		t.Run(want, func(t *testing.T) {
			require.EqualError(t, call(), want)
		})
	}
}
