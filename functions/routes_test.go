package functions_test

import (
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/migrations"
	"github.com/flovyn/promises/shared/auth"
	"github.com/flovyn/promises/shared/routes"
)

// Every folder is a function of the table, every function has its folder and its sample events, and every route leads
// to a function.
func TestRoutesNameTheFunctions(t *testing.T) {
	t.Parallel()
	mains, err := filepath.Glob("*/main.go")
	require.NoError(t, err)
	var folders, names []string
	for _, main := range mains {
		folders = append(folders, filepath.Dir(main))
	}
	for _, f := range routes.Functions {
		names = append(names, f.Name)
		events, err := filepath.Glob("../events/" + f.Name + ".*.json")
		require.NoError(t, err)
		require.NotEmpty(t, events, f.Name)
		require.Positive(t, f.Timeout)
		require.Positive(t, f.MemoryMB)
		require.Equal(t, f.Name != "migrate", strings.Contains(migrations.Roles, "'"+f.Role+"'"), "%s: %q is no role", f.Name, f.Role)
		if f.Role != "" { // RDS Proxy does not pass on a cancel request: the role's statements must end by themselves
			require.Contains(t, migrations.Roles, "ALTER ROLE "+f.Role+" SET statement_timeout = ", f.Name)
		}
	}
	require.ElementsMatch(t, folders, names)
	seen := map[string]bool{}
	for _, r := range routes.HTTP {
		require.True(t, slices.Contains(names, r.Function), r.Function)
		require.False(t, seen[r.Method+r.Path], r.Path)
		seen[r.Method+r.Path] = true
		require.True(t, strings.HasPrefix(r.Path, "/api/tenants/{slug}/"), r.Path)
	}
	for _, schedule := range routes.Schedules {
		require.Contains(t, names, schedule.Function)
		require.GreaterOrEqual(t, schedule.Every, time.Minute, "EventBridge knows no shorter time")
		require.Zero(t, schedule.Every%time.Minute)
	}
}

// Each route names an authorizer, and each authorizer a function; the routes of a function that verifies by itself, and no others,
// have none. Settings that API Gateway would refuse or ignore fail here.
func TestEveryRouteHasAnAuthorizer(t *testing.T) {
	t.Parallel()
	identitySource := regexp.MustCompile(`^\$request\.(header|querystring)\.[\w-]+$`)
	used := map[string]bool{}
	for _, r := range routes.HTTP {
		if r.Authorizer != "" {
			used[r.Authorizer] = true
		}
	}
	var names []string
	for _, a := range routes.Authorizers {
		names = append(names, a.Name)
		i := slices.IndexFunc(routes.Functions, func(f routes.Function) bool { return f.Name == a.Function })
		require.GreaterOrEqual(t, i, 0, a.Function)
		require.LessOrEqual(t, routes.Functions[i].Timeout, 10*time.Second, "API Gateway waits no longer")
		require.Regexp(t, identitySource, a.IdentitySource)
		require.GreaterOrEqual(t, a.TTL, time.Duration(0))
		require.LessOrEqual(t, a.TTL, time.Hour)
		require.Zero(t, a.TTL%time.Second, "API Gateway counts seconds")
		require.True(t, used[a.Name], a.Name)
	}
	for _, r := range routes.HTTP {
		if slices.Contains(routes.SelfVerifying, r.Function) {
			require.Empty(t, r.Authorizer, r.Path)
			require.Contains(t, r.Path, "/callbacks/")
			continue
		}
		require.Contains(t, names, r.Authorizer, r.Path)
		require.NotContains(t, r.Path, "/callbacks/")
		require.NotContains(t, r.Path, "{token}")
	}
	for _, name := range routes.SelfVerifying {
		require.True(t, slices.ContainsFunc(routes.HTTP, func(r routes.Route) bool { return r.Function == name }), name)
	}
	slices.Sort(names)
	require.Len(t, slices.Compact(names), len(routes.Authorizers))
}

// A call that waits keeps its process for as long as API Gateway waits; no other call of the API may.
func TestOnlyWaitingTakesLong(t *testing.T) {
	t.Parallel()
	for _, r := range routes.HTTP {
		i := slices.IndexFunc(routes.Functions, func(f routes.Function) bool { return f.Name == r.Function })
		require.GreaterOrEqual(t, i, 0, r.Function)
		waits := slices.Contains(routes.Waiting, r.Function)
		require.Equal(t, waits, strings.HasSuffix(r.Path, "/wait"), r.Path)
		require.Equal(t, waits, routes.Functions[i].Timeout > 10*time.Second, r.Function)
	}
}

// What was found out of a credential serves the authorizer, then the HTTP API, and then a call that waits.
func TestRevocationTakesLessThanAMinute(t *testing.T) {
	t.Parallel()
	const waits = 25 * time.Second
	for _, a := range routes.Authorizers {
		require.Less(t, auth.PositiveTTL+a.TTL+waits, time.Minute, a.Name)
	}
}
