package repository_test

import (
	"maps"
	"strconv"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

// A page reads only the promises that it shows, for every combination of filters, anywhere in a workflow of 50,000 promises. Most of them
// are settled, or most are pending. The planner's statistics mislead: most other workflows have one promise.
func TestAPageReadsNoMoreThanItShows(t *testing.T) {
	t.Parallel()
	const promises, limit = 50_000, 20
	for kind, row := range map[string]string{
		"settled": "TRUE, 'resolved', NOW(), NOW() - INTERVAL '1 day'",
		"pending": "FALSE, NULL, NULL, NOW() + n * INTERVAL '1 minute'",
	} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			_, db := setUp(t)
			large, small := uuid.NewString(), uuid.NewString()
			db.Exec(t, "INSERT INTO tenant (slug) VALUES ('neighbour')")
			db.Exec(t, `INSERT INTO workflow_execution (id, tenant_id)
				SELECT id::UUID, (SELECT id FROM tenant WHERE slug = 'neighbour') FROM unnest($1::TEXT[]) id
				UNION ALL SELECT gen_random_uuid(), (SELECT id FROM tenant WHERE slug = $2) FROM generate_series(1, $3::INT)`,
				[]string{large, small}, tenant, promises)
			insert := `INSERT INTO promise (workflow_execution_id, tenant_id, name, created_by_sequence, resolved, outcome, resolved_at,
				timeout_at, created_at) `
			db.Exec(t, insert+`SELECT id, tenant_id, 'p', 1, `+strings.ReplaceAll(row, "n *", "1 *")+`, NOW() - INTERVAL '1 hour' * random()
				FROM workflow_execution WHERE NOT id = ANY($1::TEXT[]::UUID[])`, []string{large, small})
			db.Exec(t, insert+`SELECT $1::TEXT::UUID, (SELECT id FROM tenant WHERE slug = 'neighbour'), n::TEXT, n, `+row+`, NOW() - n * INTERVAL '1 second'
				FROM generate_series(1, $2::INT) n`, large, promises)
			db.Exec(t, insert+`SELECT $1::TEXT::UUID, (SELECT id FROM tenant WHERE slug = 'neighbour'), outcome, 1, outcome IS NOT NULL, outcome,
				CASE WHEN outcome IS NOT NULL THEN NOW() END, NOW() + due * INTERVAL '1 hour', NOW() - INTERVAL '1 year'
				FROM (VALUES ('resolved', -1), ('rejected', -1), ('cancelled', 1), ('timed_out', -1), (NULL, 1)) p (outcome, due)
				WHERE outcome IS NOT NULL`, large)
			db.Exec(t, insert+`SELECT $1::TEXT::UUID, (SELECT id FROM tenant WHERE slug = 'neighbour'), 'overdue', 1, FALSE, NULL, NULL,
				NOW() - INTERVAL '1 second', NOW() - INTERVAL '2 years'`, large)
			db.Exec(t, "VACUUM ANALYZE promise, workflow_execution")
			conn, err := db.Pool.Acquire(t.Context())
			require.NoError(t, err)
			defer conn.Release()
			type call struct {
				statement string
				arguments map[string]string
			}
			calls := map[string]call{}
			page := func(afterAt, afterID string, more map[string]string) map[string]string {
				arguments := map[string]string{
					"tenant": "'neighbour'", "after_at": afterAt, "after_id": afterID, "limit": strconv.Itoa(limit + 1), "bytes": "1000000",
				}
				maps.Copy(arguments, more)
				return arguments
			}
			for _, state := range []string{"NULL", "'pending'", "'resolved'", "'rejected'", "'cancelled'", "'timed_out'"} {
				for where, cursor := range map[string][2]string{
					"first":  {"NULL", "NULL"},
					"middle": {"NOW() - INTERVAL '25000 seconds'", "gen_random_uuid()"},
					"end":    {"NOW() - INTERVAL '50001 seconds'", "gen_random_uuid()"},
				} {
					calls["list_promises "+state+" "+where] = call{
						"list_promises", page(cursor[0], cursor[1], map[string]string{"state": state}),
					}
					calls["list_promises_of_workflow "+state+" "+where] = call{
						"list_promises_of_workflow", page(cursor[0], cursor[1], map[string]string{"state": state, "workflow": "'" + large + "'"}),
					}
				}
			}
			for where, cursor := range map[string][2]string{
				"first":  {"NULL", "NULL"},
				"middle": {"NOW() + INTERVAL '25000 minutes'", "gen_random_uuid()"},
				"end":    {"NOW() + INTERVAL '49999 minutes'", "gen_random_uuid()"},
			} {
				calls["list_promises_due "+where] = call{
					"list_promises_due", page(cursor[0], cursor[1], map[string]string{"before": "NOW() + INTERVAL '10 years'"}),
				}
			}
			for _, name := range []string{"list_promises", "list_promises_of_workflow", "list_promises_due"} {
				prepare(t, conn, name)
			}
			for _, mode := range []string{"force_generic_plan", "force_custom_plan"} {
				_, err = conn.Exec(t.Context(), "SET plan_cache_mode = "+mode)
				require.NoError(t, err)
				for name, call := range calls {
					t.Run(mode+", "+name, func(t *testing.T) {
						plan := explain(t, conn, call.statement, call.arguments)
						rows := map[string]int{}
						plan.indexRows(rows)
						for index, n := range rows {
							// At most a page of each of the five states. The primary key is read for the page alone.
							require.LessOrEqual(t, n, 5*(limit+1), "rows of %s", index)
						}
						require.Less(t, plan.SharedHit+plan.SharedRead, 700)
						require.Zero(t, plan.TempWritten)
					})
				}
			}
		})
	}
}
