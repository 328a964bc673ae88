package delivery_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/dbtest"
	"github.com/flovyn/promises/shared/delivery"
	"github.com/flovyn/promises/shared/gateway"
	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/repository"
)

// inProcess sends batches with the real sender, in this process.
type inProcess struct{ https delivery.HTTPSSender }

func (s *inProcess) Send(ctx context.Context, b delivery.Batch) ([]delivery.Result, error) {
	return s.https.Send(ctx, b), nil
}

// metrics records metrics.
type metrics struct {
	mu     sync.Mutex
	values map[string]float64
}

func (m *metrics) Count(name string, n int64) { m.Gauge(name, float64(n), "Count") }

func (m *metrics) Gauge(name string, value float64, _ string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.values[name] += value
}

// A relayRig has a relay on a database with the tenant acme.
type relayRig struct {
	*dbtest.DB
	relay   *delivery.Relay
	metrics *metrics
	stop    func()
	log     *lockedBuffer
}

// A lockedBuffer is a bytes.Buffer that is safe for concurrent use.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func newRelayRig(t *testing.T) *relayRig {
	t.Helper()
	db := dbtest.New(t)
	db.Tenant(t, "acme")
	stopping := make(chan struct{})
	rig := &relayRig{DB: db, metrics: &metrics{values: map[string]float64{}}, stop: sync.OnceFunc(func() { close(stopping) }), log: &lockedBuffer{}}
	rig.relay = &delivery.Relay{
		Store: repository.New(db.Pool), Sender: &inProcess{delivery.HTTPSSender{Loopback: true}}, Metrics: rig.metrics,
		Log: slog.New(slog.NewJSONHandler(rig.log, nil)), Stopping: stopping, MaxCalls: 32,
		Open: func(_ context.Context, _ uuid.UUID, _ int, sealed []byte) (string, error) {
			return string(sealed[37:]), nil
		},
		Encode: func(p promise.Promise) (data, reduced []byte) {
			return gateway.PromiseData(p), gateway.ReducedPromiseData(p, delivery.MaxCause)
		},
	}
	return rig
}

// destination adds an https destination with secrets, the oldest first, and returns its id.
func (rig *relayRig) destination(t *testing.T, slug, name, url string, secrets ...string) (id uuid.UUID) {
	t.Helper()
	require.NoError(t, rig.Pool.QueryRow(t.Context(), `INSERT INTO destination (tenant_id, name, kind, address)
		SELECT id, $2, 'https', $3 FROM tenant WHERE slug = $1 RETURNING id`, slug, name, url).Scan(&id))
	for i, secret := range secrets {
		sealed := append(append([]byte{1}, make([]byte, 36)...), secret...)
		rig.Exec(t, "INSERT INTO destination_secret (destination_id, version, sealed) VALUES ($1, $2, $3)", id, i+1, sealed)
	}
	return id
}

// settle creates n promises with one target and resolves them.
func (rig *relayRig) settle(t *testing.T, n int, slug, destination, value string) {
	t.Helper()
	rig.Exec(t, `SELECT promise_create($2, gen_random_uuid(), NULL, 'n', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 1000, FALSE,
		ARRAY[NULL, $3, NULL]::VARCHAR[]) FROM generate_series(1, $1)`, n, slug, destination)
	rig.Exec(t, `UPDATE promise SET resolved = TRUE, outcome = 'resolved', value = $1, resolved_at = NOW(), resolved_by_sequence = 2, settled_by_kind = 'key'
		WHERE NOT resolved`, []byte(value))
}

// run runs the relay until the condition is met, and returns its report.
func (rig *relayRig) run(t *testing.T, until func() bool) delivery.RelayReport {
	t.Helper()
	reported := make(chan delivery.RelayReport, 1)
	go func() { reported <- rig.relay.Run(context.WithoutCancel(t.Context()), time.Hour) }()
	met := false
	for deadline := time.Now().Add(time.Minute); !met && time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		met = until()
	}
	rig.stop()
	report := <-reported
	require.True(t, met, "%v\n%s", report, rig.log)
	return report
}

func (rig *relayRig) count(t *testing.T, condition string) (n int) {
	t.Helper()
	require.NoError(t, rig.Pool.QueryRow(t.Context(), "SELECT COUNT(*) FROM delivery WHERE "+condition).Scan(&n))
	return n
}

func TestRelay(t *testing.T) {
	t.Parallel()
	t.Run("a message arrives, signed with both secrets", func(t *testing.T) {
		t.Parallel()
		rig := newRelayRig(t)
		secrets := []string{delivery.NewSecret(), delivery.NewSecret()}
		arrived := make(chan error, 10)
		server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			for _, secret := range secrets {
				oracle, bad := standardwebhooks.NewWebhook(secret)
				err = errors.Join(err, bad, oracle.Verify(body, r.Header))
			}
			if !bytes.Contains(body, []byte(`"value":{"a": 1e2}`)) || !bytes.Contains(body, []byte(`"type":"promise.resolved"`)) {
				err = errors.Join(err, errors.New(string(body)))
			}
			arrived <- err
		}))
		t.Cleanup(server.Close)
		rig.destination(t, "acme", "orders", server.URL, secrets...)
		rig.settle(t, 1, "acme", "orders", `{"a": 1e2}`)
		report := rig.run(t, func() bool {
			return rig.count(t, "state = 'delivered' AND attempts = 1 AND last_status = 200 AND lease IS NULL") == 1
		})
		require.NoError(t, <-arrived)
		require.Empty(t, arrived)
		require.Equal(t, delivery.RelayReport{Delivered: 1}, report)
		require.Contains(t, rig.log.String(), `"msg":"delivery attempted"`)
		require.Contains(t, rig.log.String(), `"outcome":"delivered"`)
		for _, secret := range secrets {
			require.NotContains(t, rig.log.String(), secret)
		}
		rig.metrics.mu.Lock()
		defer rig.metrics.mu.Unlock()
		require.EqualValues(t, 1, rig.metrics.values[delivery.MetricDelivered])
		require.GreaterOrEqual(t, rig.metrics.values[delivery.MetricRelayWorking], 1.0)
		require.Contains(t, rig.metrics.values, delivery.MetricOldestDue)
	})
	for _, c := range []struct {
		name, condition string
		answer          func(w http.ResponseWriter)
	}{
		{"500 is an attempt, and due again", "state = 'due' AND attempts = 1 AND last_status = 500 AND due_at > NOW() AND lease IS NULL",
			func(w http.ResponseWriter) { w.WriteHeader(500) }},
		{"410 disables the destination", "state = 'due' AND attempts = 1 AND (SELECT disabled_because LIKE '%410%' AND NOT enabled FROM destination)",
			func(w http.ResponseWriter) { w.WriteHeader(410) }},
		{"Retry-After is respected", "state = 'due' AND attempts = 1 AND due_at > NOW() + INTERVAL '59 minutes'",
			func(w http.ResponseWriter) { w.Header().Set("Retry-After", "3600"); w.WriteHeader(503) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			rig := newRelayRig(t)
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { c.answer(w) }))
			t.Cleanup(server.Close)
			rig.destination(t, "acme", "orders", server.URL, delivery.NewSecret())
			rig.settle(t, 1, "acme", "orders", "1")
			require.Equal(t, delivery.RelayReport{Failed: 1}, rig.run(t, func() bool { return rig.count(t, c.condition) == 1 }))
		})
	}
	t.Run("the log does not quote a receiver, which may quote the promise", func(t *testing.T) {
		t.Parallel()
		rig := newRelayRig(t)
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusUnprocessableEntity)
			_, _ = w.Write([]byte(`no account has the password "hunter2"`))
		}))
		t.Cleanup(server.Close)
		rig.destination(t, "acme", "orders", server.URL, delivery.NewSecret())
		rig.settle(t, 1, "acme", "orders", `"hunter2"`)
		rig.run(t, func() bool {
			return rig.count(t, "last_error = 'status 422: no account has the password \"hunter2\"'") == 1
		})
		require.Contains(t, rig.log.String(), `"outcome":"failed","state":"due","status":422`)
		require.NotContains(t, rig.log.String(), "hunter2")
	})
	t.Run("a destination without a secret does not end the relay", func(t *testing.T) {
		t.Parallel()
		rig := newRelayRig(t)
		rig.destination(t, "acme", "orders", "http://127.0.0.1:1")
		rig.settle(t, 1, "acme", "orders", "1")
		report := rig.run(t, func() bool { return rig.count(t, "state = 'due' AND last_error LIKE '%sign%' AND due_at > NOW()") == 1 })
		require.EqualValues(t, 1, report.Errors)
	})
	t.Run("deliveries of a deleted destination end", func(t *testing.T) {
		t.Parallel()
		rig := newRelayRig(t)
		rig.destination(t, "acme", "orders", "http://127.0.0.1:1", delivery.NewSecret())
		rig.settle(t, 3, "acme", "orders", "1")
		rig.Exec(t, "UPDATE destination SET deleted_at = NOW()")
		require.Zero(t, rig.run(t, func() bool {
			return rig.count(t, "state = 'gone' AND end_reason = 'The destination was deleted.'") == 3
		}))
	})
}

// A destination that never answers has 1,000 due deliveries. Another destination, of the same tenant or of another, gets its message
// meanwhile.
func TestADeadDestinationHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	rig := newRelayRig(t)
	rig.Tenant(t, "other")
	var hanging, most atomic.Int64
	release, arrived := make(chan struct{}), make(chan string, 10)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/dead" {
			arrived <- r.URL.Path
			return
		}
		if n := hanging.Add(1); n > most.Load() {
			most.Store(n)
		}
		<-release
	}))
	t.Cleanup(server.Close)
	rig.destination(t, "acme", "dead", server.URL+"/dead", delivery.NewSecret())
	rig.destination(t, "acme", "same tenant", server.URL+"/same", delivery.NewSecret())
	rig.destination(t, "other", "other tenant", server.URL+"/other", delivery.NewSecret())
	rig.settle(t, 1000, "acme", "dead", "1")
	settled := false
	rig.run(t, func() bool {
		if hanging.Load() < 64 {
			return false
		}
		if !settled {
			rig.settle(t, 1, "acme", "same tenant", "1")
			rig.settle(t, 1, "other", "other tenant", "1")
			settled = true
		}
		if rig.count(t, "state = 'delivered'") < 2 {
			return false
		}
		if settled && hanging.Load() >= 64 {
			rig.stop() // claims no more
			close(release)
		}
		return true
	})
	require.ElementsMatch(t, []string{"/same", "/other"}, []string{<-arrived, <-arrived})
	require.EqualValues(t, 64, most.Load(), "4 calls of 16 deliveries")
}

// A fragile sender stops without an answer at the delivery of a poisonous promise.
type fragile struct {
	inProcess
	err error // of a batch with the poison
}

func (s *fragile) Send(ctx context.Context, b delivery.Batch) ([]delivery.Result, error) {
	for _, d := range b.Deliveries {
		if bytes.Contains(d.Message.Body, []byte("poison")) {
			return nil, s.err
		}
	}
	return s.inProcess.Send(ctx, b)
}

func TestASenderThatFails(t *testing.T) {
	t.Parallel()
	setUp := func(t *testing.T, err error) *relayRig {
		t.Helper()
		rig := newRelayRig(t)
		rig.relay.Sender = &fragile{inProcess{delivery.HTTPSSender{Loopback: true}}, err}
		server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		t.Cleanup(server.Close)
		rig.destination(t, "acme", "orders", server.URL, delivery.NewSecret())
		rig.settle(t, 7, "acme", "orders", `"healthy"`)
		rig.settle(t, 1, "acme", "orders", `"poison"`)
		return rig
	}
	// again makes what waits for its next attempt due.
	again := func(t *testing.T, rig *relayRig) {
		t.Helper()
		rig.Exec(t, "UPDATE delivery SET due_at = NOW() WHERE state = 'due' AND due_at > NOW() AND NOT EXISTS (SELECT FROM delivery_lease l WHERE l.id = lease)")
	}
	t.Run("before it sent: no attempt", func(t *testing.T) {
		t.Parallel()
		rig := setUp(t, errors.Join(delivery.ErrNotSent, errors.New("throttled")))
		report := rig.run(t, func() bool {
			return rig.count(t, "state = 'due' AND attempts = 0 AND lease IS NULL AND due_at > NOW() AND last_error LIKE 'not sent%'") == 8
		})
		require.Equal(t, delivery.RelayReport{Errors: 1}, report)
	})
	t.Run("and may have sent: each delivery is tried alone", func(t *testing.T) {
		t.Parallel()
		rig := setUp(t, errors.New("it crashed"))
		rig.run(t, func() bool {
			again(t, rig)
			return rig.count(t, "state = 'delivered' AND attempts = 2") == 7 && rig.count(t, "state = 'dead' AND last_error LIKE '%stopped%' AND attempts >= 11") == 1
		})
		require.Equal(t, 1, bytes.Count([]byte(rig.log.String()), []byte(`"state":"dead"`)))
	})
}

// A store whose full look ends with the statement's timeout, as behind a long transaction that keeps millions of dead entries in the index.
type slowStore struct{ delivery.Store }

func (slowStore) FindAllDue(ctx context.Context) (promise.DueLook, error) {
	<-ctx.Done()
	return promise.DueLook{}, ctx.Err()
}

func TestASlowFullLookHoldsUpNoDelivery(t *testing.T) {
	t.Parallel()
	rig := newRelayRig(t)
	rig.relay.Store = slowStore{rig.relay.Store}
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(server.Close)
	rig.destination(t, "acme", "orders", server.URL, delivery.NewSecret())
	rig.settle(t, 1, "acme", "orders", "1")
	report := rig.run(t, func() bool { return rig.count(t, "state = 'delivered'") == 1 })
	require.Equal(t, delivery.RelayReport{Delivered: 1, Errors: 1}, report)
	require.Contains(t, rig.log.String(), "cannot find all due deliveries")
}

// A run ends in time for its last claim, and when it is stopped.
func TestRelayEndsInTime(t *testing.T) {
	t.Parallel()
	rig := newRelayRig(t)
	ctx, cancel := context.WithTimeout(t.Context(), 48*time.Second) // the time that a claim may take
	defer cancel()
	rig.destination(t, "acme", "orders", "http://127.0.0.1:1", delivery.NewSecret())
	rig.settle(t, 1, "acme", "orders", "1")
	require.Zero(t, rig.relay.Run(ctx, time.Hour))
	require.Equal(t, 1, rig.count(t, "state = 'due' AND attempts = 0 AND lease IS NULL"))
	rig.stop()
	require.Zero(t, rig.relay.Run(t.Context(), time.Hour).Delivered)
}

// A weighing sender records the size of each batch as JSON.
type weighing struct {
	mu    sync.Mutex
	sizes []int
}

func (s *weighing) Send(_ context.Context, b delivery.Batch) (results []delivery.Result, _ error) {
	text, err := json.Marshal(b)
	if err != nil {
		return nil, err
	}
	for _, d := range b.Deliveries {
		results = append(results, delivery.Result{ID: d.ID, Outcome: delivery.Delivered})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sizes = append(s.sizes, len(text))
	return results, nil
}

func TestABatchIsAtMost4MiB(t *testing.T) {
	t.Parallel()
	rig := newRelayRig(t)
	sender := &weighing{}
	rig.relay.Sender = sender
	rig.destination(t, "acme", "orders", "http://127.0.0.1:1", delivery.NewSecret())
	rig.settle(t, 6, "acme", "orders", `"`+strings.Repeat("x", 1_000_000)+`"`)
	rig.settle(t, 6, "acme", "orders", `"`+strings.Repeat("y", 400_000)+`"`)
	rig.settle(t, 6, "acme", "orders", "1")
	for _, text := range []string{strings.Repeat("\x01", 150_000), strings.Repeat("\x01", 300_000)} { // each is six bytes of JSON
		rig.Rewrite(t, "UPDATE promise SET outcome = 'rejected', error = $1, value = NULL WHERE id IN (SELECT id FROM promise WHERE value = '1' LIMIT 3)", text)
	}
	rig.run(t, func() bool { return rig.count(t, "state = 'delivered'") == 18 })
	require.Greater(t, slices.Max(sender.sizes), 2_500_000)
	require.LessOrEqual(t, slices.Max(sender.sizes), 4<<20)
}
