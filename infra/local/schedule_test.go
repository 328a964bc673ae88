package main

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/routes"
)

// The scheduled sweep records deadlines and deletes old promises without a call. Ctrl-C interrupts it.
func TestSchedule(t *testing.T) {
	t.Parallel()
	r := startRunner(t)
	ready := time.Now()
	status, p := r.call(t, "POST", "/promises", fmt.Sprintf(`{"workflowExecutionId":%q,"name":"approval","timeoutMs":1500}`, uuid.NewString()))
	require.Equal(t, 201, status, p)
	conn, err := pgx.Connect(t.Context(), r.ready.DatabaseURL)
	require.NoError(t, err)
	defer conn.Close(t.Context()) //nolint:errcheck // nothing is lost with it
	t.Run("a deadline is recorded", func(t *testing.T) {
		var late time.Duration
		require.Eventually(t, func() bool {
			return conn.QueryRow(t.Context(), `SELECT e.created_at - p.timeout_at
			FROM workflow_event e JOIN promise p ON p.id = e.promise_id
			WHERE p.id = $1 AND event_type = 'PROMISE_TIMEOUT'`, p["promiseId"]).Scan(&late) == nil
		}, time.Minute, 20*time.Millisecond, "%s", &r.stderr)
		t.Logf("recorded %v after the deadline", late)
	})
	t.Run("a promise older than RETENTION_DAYS is deleted", func(t *testing.T) {
		_, err = conn.Exec(t.Context(), "SET session_replication_role = replica") // without it a trigger keeps a settled promise's times
		require.NoError(t, err)
		_, err = conn.Exec(t.Context(), `UPDATE promise SET created_at = created_at - INTERVAL '2 days', resolved_at = resolved_at - INTERVAL '2 days'`)
		require.NoError(t, err)
		_, err = conn.Exec(t.Context(), `UPDATE workflow_event_row SET created_at = created_at - INTERVAL '2 days'`)
		require.NoError(t, err)
		r.lambda(t, "expire-promises", `{"once":true}`)
		status, _ = r.call(t, "GET", "/promises/id:"+p["promiseId"].(string), "")
		require.Equal(t, 404, status)
	})

	r.stop(t, syscall.SIGINT)
	t.Run("Ctrl-C interrupts a sweep", func(t *testing.T) {
		begun := 1 + int(time.Since(ready)/routes.Schedules[0].Every)
		require.Less(t, strings.Count(r.stderr.String(), `"msg":"swept","once":false`), begun, "at least one sweep did not finish")
		require.NotContains(t, r.stdout.String(), "Runtime.ExitError", "an interrupted sweep is no failure")
	})
	t.Run("metrics are not printed", func(t *testing.T) { require.NotContains(t, r.stderr.String(), `"_aws"`) })
}
