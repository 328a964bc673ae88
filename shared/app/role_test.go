package app

import (
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/migrations"
)

// A call times out, and is answered 503, before Postgres ends its statement. Postgres ends the abandoned statement soon after.
func TestACallFitsInTheRolesTime(t *testing.T) {
	t.Parallel()
	for _, role := range []string{"promises_app", "promises_reader", "promises_admin"} {
		t.Run(role, func(t *testing.T) {
			match := regexp.MustCompile(`ALTER ROLE ` + role + ` SET statement_timeout = '(\w+)'`).FindStringSubmatch(migrations.Roles)
			require.NotNil(t, match)
			limit, err := time.ParseDuration(match[1])
			require.NoError(t, err)
			require.Greater(t, limit, callTimeout)
			require.LessOrEqual(t, limit, callTimeout+callTimeout/4)
		})
	}
}
