package app

import (
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/migrations"
)

// A call is given up, and answered 503, before Postgres ends its statement; an abandoned statement ends soon after.
func TestACallFitsInTheRolesTime(t *testing.T) {
	t.Parallel()
	for _, role := range []string{"promises_app", "promises_reader", "promises_admin"} {
		match := regexp.MustCompile(`ALTER ROLE ` + role + ` SET statement_timeout = '(\w+)'`).FindStringSubmatch(migrations.Roles)
		require.NotNil(t, match, role)
		limit, err := time.ParseDuration(match[1])
		require.NoError(t, err)
		require.Greater(t, limit, callTimeout)
		require.LessOrEqual(t, limit, callTimeout+callTimeout/4)
	}
}
