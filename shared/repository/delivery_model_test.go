package repository_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/repository"
)

// For random sequences of calls, each promise is announced with one outcome, the right one, to the newest token of each target, and never before
// it is settled. The reference says which deliveries are due; at the end, everything that is due has arrived.
func TestDeliveryModel(t *testing.T) {
	t.Parallel()
	_, db := setUp(t)
	addDestination(t, db, tenant, "orders", promise.DestinationHTTPS)
	addDestination(t, db, tenant, "audit", promise.DestinationSQS)
	pool := poolWith(t, db.URL, func(c *pgxpool.Config) { c.MaxConns = 1 })
	rapid.Check(t, func(t *rapid.T) {
		_, err := pool.Exec(t.Context(), "WITH leases AS (DELETE FROM delivery_lease) DELETE FROM workflow_execution")
		require.NoError(t, err)
		m := &deliveryModel{pool: pool, r: repository.New(pool), byID: map[uuid.UUID]*refNotifier{}}
		m.Create(t)
		t.Repeat(rapid.StateMachineActions(m))
		m.arrive(t)
	})
}

// A deliveryModel makes each call to the repository and keeps what must follow from it.
type deliveryModel struct {
	pool   *pgxpool.Pool
	r      *repository.Repository
	all    []*refNotifier
	byID   map[uuid.UUID]*refNotifier
	tokens int
}

// A refNotifier is a promise with its targets.
type refNotifier struct {
	id      uuid.UUID
	draft   promise.Draft
	overdue bool
	result  promise.Result // Pending: not settled, or its deadline is not recorded yet
	erased  bool
	targets []refTarget
}

// A refTarget is the known state of one delivery.
type refTarget struct {
	id    uuid.UUID
	state promise.DeliveryState
	token string
}

// Check compares the states after every call.
func (m *deliveryModel) Check(t *rapid.T) {
	for _, n := range m.all {
		p, err := m.r.Get(t.Context(), tenant, promise.ByID(n.id))
		require.NoError(t, err)
		require.Len(t, p.Deliveries, len(n.targets))
		for i, d := range p.Deliveries {
			require.Equal(t, n.targets[i].state, d.State, "target %d of %s", i, n.draft.Name)
		}
	}
}

func (m *deliveryModel) newToken() string {
	m.tokens++
	return fmt.Sprint("token", m.tokens)
}

func (m *deliveryModel) Create(t *rapid.T) {
	d := promise.Draft{WorkflowExecutionID: uuid.New(), Name: fmt.Sprint("p", len(m.all)), Notify: []promise.Target{}}
	n := &refNotifier{result: promise.Result{State: promise.Pending}}
	for range rapid.IntRange(1, promise.MaxTargets).Draw(t, "targets") {
		kind := rapid.SampledFrom([]promise.DestinationKind{"", promise.DestinationStepFunctions, promise.DestinationDurableExecution}).Draw(t, "kind")
		target := promise.Target{Kind: kind}
		if kind == "" {
			target.Destination = rapid.SampledFrom([]string{"orders", "audit"}).Draw(t, "destination")
		} else {
			target.Token = m.newToken()
		}
		d.Notify = append(d.Notify, target)
	}
	state := promise.DeliveryWaiting
	if rapid.IntRange(0, 3).Draw(t, "early") == 0 {
		d = withKey(d, d.Name, time.Hour)
		s := anySettlement(t, promise.Resolved, promise.Rejected)
		_, err := m.r.SettleEarly(t.Context(), tenant, d.Name, s, time.Hour)
		require.NoError(t, err)
		n.result, state = s.Result, promise.DeliveryDue
	}
	result, err := m.r.Create(t.Context(), tenant, d)
	require.NoError(t, err)
	p, err := m.r.Get(t.Context(), tenant, promise.ByID(result.Promise.ID))
	require.NoError(t, err)
	n.id, n.draft = p.ID, d
	for i, target := range d.Notify {
		n.targets = append(n.targets, refTarget{p.Deliveries[i].ID, state, target.Token})
	}
	m.all, m.byID[p.ID] = append(m.all, n), n
}

// CreateAgain repeats a create, as an engine does: with new tokens.
func (m *deliveryModel) CreateAgain(t *rapid.T) {
	n := m.any(t)
	d := n.draft
	d.Notify = slices.Clone(d.Notify)
	for i, target := range d.Notify {
		if target.Kind != "" && rapid.Bool().Draw(t, "new token") {
			d.Notify[i].Token = m.newToken()
		}
	}
	result, err := m.r.Create(t.Context(), tenant, d)
	require.NoError(t, err)
	require.False(t, result.New)
	n.draft = d
	for i := range n.targets {
		if to := &n.targets[i]; to.token != d.Notify[i].Token {
			to.token = d.Notify[i].Token
			if to.state != promise.DeliveryWaiting {
				to.state = promise.DeliveryDue
			}
		}
	}
}

// CreateOther is a create with other targets: nothing changes.
func (m *deliveryModel) CreateOther(t *rapid.T) {
	n := m.any(t)
	d := n.draft
	d.Notify = append([]promise.Target{{Kind: promise.DestinationStepFunctions, Token: m.newToken()}}, d.Notify...)
	_, err := m.r.Create(t.Context(), tenant, d)
	require.Equal(t, promise.CodeCreateConflict, promise.AsError(err).Code)
}

func (m *deliveryModel) Settle(t *rapid.T) {
	n := m.any(t)
	s := anySettlement(t, promise.Resolved, promise.Rejected, promise.Cancelled)
	result, err := m.r.Settle(t.Context(), tenant, promise.ByID(n.id), s)
	require.NoError(t, err)
	if result.Outcome == promise.OutcomeSettled {
		require.False(t, n.overdue)
		n.settled(s.Result)
	}
}

func (n *refNotifier) settled(result promise.Result) {
	n.result = result
	for i := range n.targets {
		n.targets[i].state = promise.DeliveryDue
	}
}

// Overdue moves the deadline of a pending promise into the past.
func (m *deliveryModel) Overdue(t *rapid.T) {
	n := m.any(t)
	past := time.Now().Add(-time.Minute)
	if _, err := m.r.Extend(t.Context(), tenant, promise.ByID(n.id), promise.Deadline{At: &past}); err == nil {
		n.overdue = true
	}
}

func (m *deliveryModel) Extend(t *rapid.T) {
	n := m.any(t)
	_, err := m.r.Extend(t.Context(), tenant, promise.ByID(n.id), promise.Deadline{Timeout: new(time.Hour)})
	require.Equal(t, n.result.State == promise.Pending && !n.overdue, err == nil)
}

func (m *deliveryModel) Sweep(t *rapid.T) {
	_, err := m.r.Expire(t.Context(), 100)
	require.NoError(t, err)
	for _, n := range m.all {
		if n.overdue && n.result.State == promise.Pending {
			n.settled(promise.Result{State: promise.TimedOut})
		}
	}
}

func (m *deliveryModel) Erase(t *rapid.T) {
	n := m.any(t)
	if _, err := m.r.Erase(t.Context(), tenant, promise.ByID(n.id)); err != nil {
		require.Equal(t, promise.Pending, n.result.State)
		require.False(t, n.overdue)
		return
	}
	if n.result.State == promise.Pending {
		n.settled(promise.Result{State: promise.TimedOut})
	}
	if n.erased {
		return
	}
	n.erased = true
	for i := range n.targets {
		if to := &n.targets[i]; to.state == promise.DeliveryDue || to.state == promise.DeliveryDead {
			to.state = promise.DeliveryGone
		}
	}
}

func (m *deliveryModel) Retry(t *rapid.T) {
	n := m.any(t)
	i := rapid.IntRange(0, len(n.targets)-1).Draw(t, "target")
	to := &n.targets[i]
	_, err := m.r.RetryDelivery(t.Context(), tenant, to.id)
	allowed := to.state == promise.DeliveryDead || to.state == promise.DeliveryDue || to.state == promise.DeliveryDelivered && to.token == ""
	require.Equal(t, allowed, err == nil, "%s: %v", to.state, err)
	if allowed {
		to.state = promise.DeliveryDue
	}
}

// Relay sends everything that is due, each with any result.
func (m *deliveryModel) Relay(t *rapid.T) {
	m.relay(t, rapid.SampledFrom([]promise.DeliveryState{
		promise.DeliveryDelivered, promise.DeliveryDue, promise.DeliveryDead, promise.DeliveryGone,
	}))
}

// arrive sends until nothing is due any more.
func (m *deliveryModel) arrive(t *rapid.T) {
	m.Sweep(t)
	m.relay(t, rapid.Just(promise.DeliveryDelivered))
	for _, n := range m.all {
		for _, to := range n.targets {
			require.NotEqual(t, promise.DeliveryDue, to.state)
			require.Equal(t, n.result.State == promise.Pending, to.state == promise.DeliveryWaiting)
		}
	}
	m.Check(t)
}

func (m *deliveryModel) relay(t *rapid.T, results *rapid.Generator[promise.DeliveryState]) {
	look, err := m.r.FindAllDue(t.Context())
	require.NoError(t, err)
	for _, destination := range look.Due {
		for more := true; more; {
			more = m.claim(t, destination, results)
		}
	}
}

func (m *deliveryModel) claim(t *rapid.T, destination promise.DueDestination, results *rapid.Generator[promise.DeliveryState]) (more bool) {
	c := promise.ClaimRequest{
		Destination: destination.ID, Lease: uuid.New(), LeaseTime: time.Hour, Limit: 3, Bytes: 1 << 20, Largest: 1 << 20, DestinationCalls: 4,
		TenantCalls: 16,
	}
	claim, err := m.r.ClaimDeliveries(t.Context(), c)
	require.NoError(t, err)
	require.Equal(t, promise.ClaimOpen, claim.Status)
	report := promise.DeliveryReport{Lease: c.Lease, Destination: c.Destination}
	for _, d := range claim.Deliveries {
		n := m.byID[d.Promise.ID]
		i := slices.IndexFunc(n.targets, func(to refTarget) bool { return to.id == d.ID })
		to := &n.targets[i]
		require.Equal(t, promise.DeliveryDue, to.state)
		require.Equal(t, to.token, d.Token)
		require.NotEqual(t, promise.Pending, d.Promise.State)
		require.Equal(t, n.result.State, d.Promise.State)
		if !n.erased {
			require.Equal(t, n.result, promise.Result{State: d.Promise.State, Value: d.Promise.Value, Message: d.Promise.Message})
		}
		result := results.Draw(t, "result")
		if result == promise.DeliveryDue {
			report.Deliveries = append(report.Deliveries, promise.DeliveryRecord{ID: d.ID, State: result, Delay: -time.Second, Counted: true, Error: "no"})
			more = true
			continue
		}
		report.Deliveries = append(report.Deliveries, promise.DeliveryRecord{ID: d.ID, State: result, Counted: true})
		to.state = result
	}
	recorded, err := m.r.RecordDeliveries(t.Context(), report)
	require.NoError(t, err)
	require.Len(t, recorded, len(report.Deliveries))
	return more || claim.Next != nil
}

func (m *deliveryModel) any(t *rapid.T) *refNotifier {
	return rapid.SampledFrom(m.all).Draw(t, "promise")
}
