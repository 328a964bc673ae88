package sweep_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/sweep"
)

// source adds a source and returns its id.
func (s *service) source(t testing.TB, name string) uuid.UUID {
	t.Helper()
	source, _, _, err := s.repo.PutSource(t.Context(), tenant, promise.SourcePut{
		ID: uuid.New(), Name: name, Definition: &promise.SourceDefinition{},
		Secret: func(uuid.UUID, []promise.SourceSecret, int) ([]byte, bool, error) {
			return append([]byte{1}, make([]byte, 40)...), false, nil
		},
	})
	require.NoError(t, err)
	return source.ID
}

func (s *service) receive(t testing.TB, source uuid.UUID, event, key string, hold time.Duration) (promise.ReceiptResult, error) {
	t.Helper()
	return s.repo.Receive(t.Context(), tenant, promise.ReceiptDraft{
		SourceID: source, Event: "id:" + event, Body: &promise.KeptBody{ID: uuid.New(), Sealed: append([]byte{1}, make([]byte, 40)...)},
		Judgment: promise.Judgment{Then: "resolve", Key: key, Hold: hold, Result: promise.Result{State: promise.Resolved, Value: []byte(`"` + event + `"`)}},
	})
}

func TestReceiptsAreDeleted(t *testing.T) {
	t.Parallel()
	s := setUp(t)
	id := s.source(t, "a")
	for _, event := range []string{"expired", "without a body", "kept"} {
		_, err := s.receive(t, id, event, event, 0)
		require.NoError(t, err)
	}
	s.Exec(t, "UPDATE receipt SET expires_at = NOW() - INTERVAL '1 second' WHERE key = 'expired'")
	s.Exec(t, "UPDATE receipt_body b SET expires_at = NOW() - INTERVAL '1 second' FROM receipt r WHERE r.id = b.receipt_id AND r.key = 'without a body'")
	s.Exec(t, "INSERT INTO source_secret (source_id, version, sealed, retire_at) SELECT source_id, 9, sealed, NOW() - INTERVAL '1 second' FROM source_secret")
	s.once(t)
	require.Equal(t, 2, s.count(t, "receipt WHERE key <> 'expired'"))
	require.Equal(t, 2, s.count(t, "receipt"))
	require.Equal(t, 1, s.count(t, "receipt_body b JOIN receipt r ON r.id = b.receipt_id AND r.key = 'kept'"))
	require.Equal(t, 1, s.count(t, "receipt_body"))
	require.Equal(t, 1, s.count(t, "source_secret"))
}

// A webhook that no promise has met ends on its receipt, and counts as no expired hold.
func TestWebhooksExpireOnTheirReceipts(t *testing.T) {
	t.Parallel()
	s := setUp(t)
	_, err := s.receive(t, s.source(t, "a"), "e", "k", time.Hour)
	require.NoError(t, err)
	s.Exec(t, "UPDATE idempotency_key SET expires_at = NOW(), held_until = NOW(), check_at = NOW()")
	require.Equal(t, sweep.Report{}, s.once(t))
	require.Equal(t, 1, s.count(t, "receipt WHERE outcome = 'expired'"))
	require.Zero(t, s.count(t, "idempotency_key"))
	require.Empty(t, s.metric(t, sweep.MetricEarlyExpired))
	require.NotContains(t, s.log.String(), "expired unused")
}

func TestSourcesThatHoldTooMuch(t *testing.T) {
	t.Parallel()
	s := setUp(t)
	full, other := s.source(t, "full"), s.source(t, "other")
	s.Exec(t, `INSERT INTO receipt (id, tenant_id, source_id, source_name, event, item, outcome, received_at, updated_at, expires_at)
		SELECT gen_random_uuid(), tenant_id, id, name, 'id:' || n, 0, 'held', NOW(), NOW(), NOW() + INTERVAL '1 day'
		FROM source CROSS JOIN generate_series(1, CASE name WHEN 'full' THEN $1 ELSE $1 - 1 END) n`, promise.MaxHeldBySource)
	s.Exec(t, `INSERT INTO receipt (id, tenant_id, source_id, source_name, event, item, outcome, received_at, updated_at, expires_at)
		SELECT gen_random_uuid(), id, gen_random_uuid(), 's', 'id:' || n, 0, 'held', NOW(), NOW(), NOW() + INTERVAL '1 day'
		FROM tenant CROSS JOIN generate_series(1, 250) n`) // of deleted sources: more than a batch
	s.once(t)
	_, err := s.receive(t, full, "e", "k", time.Hour)
	require.Equal(t, "heldBySource", promise.AsError(err).Quota.Name)
	require.Zero(t, s.count(t, "idempotency_key"))
	got, err := s.receive(t, other, "e", "k", time.Hour)
	require.NoError(t, err)
	require.Equal(t, promise.ReceiptHeld, got.Outcome)
	require.Contains(t, s.log.String(), full.String())
	s.Exec(t, "DELETE FROM receipt WHERE source_id = $1", full)
	s.once(t)
	got, err = s.receive(t, full, "e", "k2", time.Hour)
	require.NoError(t, err)
	require.Equal(t, promise.ReceiptHeld, got.Outcome)
	require.Equal(t, 1, s.count(t, "source WHERE held_full"), "the other source has reached the limit")
}

func TestSilentSources(t *testing.T) {
	t.Parallel()
	s := setUp(t)
	s.source(t, "a")
	for _, c := range []struct {
		name string
		set  string
		want int
	}{
		{"new", "last_verified_at = NULL, updated_at = NOW() - INTERVAL '2 days'", 0},
		{"refused, and never verified", "last_refused_at = NOW()", 0},
		{"refused once after it verified", "last_verified_at = NOW() - INTERVAL '16 minutes', last_refused_at = NOW(), refused_since = NOW()", 0},
		{"refused for nine minutes", "refused_since = NOW() - INTERVAL '9 minutes'", 0},
		{"refused for ten minutes", "last_refused_at = NOW(), refused_since = NOW() - INTERVAL '10 minutes'", 1},
		{"a paused source", "enabled = FALSE", 0},
		{"an enabled one", "enabled = TRUE", 1},
		{"verified lately", "last_verified_at = NOW() - INTERVAL '14 minutes'", 0},
		{"verified a day ago", "last_verified_at = NOW() - INTERVAL '25 hours'", 0},
		{"refused before it verified", "last_verified_at = NOW() - INTERVAL '16 minutes', last_refused_at = NOW() - INTERVAL '17 minutes', refused_since = NOW() - INTERVAL '30 minutes'", 0},
		{"refused before and after it verified", "last_refused_at = NOW()", 0},
		{"silent again", "refused_since = NOW() - INTERVAL '11 minutes'", 1},
		{"it may have verified after it refused", "refused_since = last_verified_at + INTERVAL '2 minutes'", 0},
		{"it has not", "refused_since = last_verified_at + INTERVAL '2 minutes 1 second'", 1},
		{"changed since", "updated_at = NOW() - INTERVAL '1 minute'", 0},
		{"changed before", "updated_at = refused_since - INTERVAL '1 second'", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			s.Exec(t, "UPDATE source SET "+c.set)
			n, err := s.repo.SilentSources(t.Context())
			require.NoError(t, err)
			require.Equal(t, c.want, n)
		})
	}
	s.once(t)
	require.Equal(t, []float64{1}, s.metric(t, sweep.MetricSourcesSilent))
	s.Exec(t, "UPDATE tenant SET suspended_at = NOW()")
	s.once(t)
	require.Equal(t, []float64{1, 0}, s.metric(t, sweep.MetricSourcesSilent), "a suspended tenant's sources refuse everything")
}
