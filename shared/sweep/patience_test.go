package sweep

import (
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/migrations"
)

// The sweep cancels a batch before Postgres ends its statement. So a batch that finishes within the sweep's patience also finishes
// within the role's statement_timeout.
func TestABatchFitsInTheRolesTime(t *testing.T) {
	t.Parallel()
	match := regexp.MustCompile(`ALTER ROLE promises_sweeper SET statement_timeout = '(\w+)'`).FindStringSubmatch(migrations.Roles)
	require.NotNil(t, match)
	limit, err := time.ParseDuration(match[1])
	require.NoError(t, err)
	require.Greater(t, limit, patience)
	require.LessOrEqual(t, limit, patience+patience/4, "an abandoned statement ends soon")
}
