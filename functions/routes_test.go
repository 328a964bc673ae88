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

// Every folder is a function of the table, every function has a folder and sample events, and every route and schedule names a
// function.
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
		t.Run("function "+f.Name, func(t *testing.T) {
			events, err := filepath.Glob("../events/" + f.Name + ".*.json")
			require.NoError(t, err)
			require.NotEmpty(t, events)
			require.Positive(t, f.Timeout)
			require.Positive(t, f.MemoryMB)
			require.Equal(t, f.Name != "migrate" && !slices.Contains(routes.Outside, f.Name), strings.Contains(migrations.Roles, "'"+f.Role+"'"), "%q is no role", f.Role)
			if f.Role != "" { // RDS Proxy does not forward cancel requests, so the server must end the role's statements
				require.Contains(t, migrations.Roles, "ALTER ROLE "+f.Role+" SET statement_timeout = ")
			}
		})
	}
	require.ElementsMatch(t, folders, names)
	seen := map[string]bool{}
	for _, r := range routes.HTTP {
		t.Run(r.Method+" "+r.Path, func(t *testing.T) {
			require.True(t, slices.Contains(names, r.Function), r.Function)
			require.False(t, seen[r.Method+r.Path], "the route is there twice")
			seen[r.Method+r.Path] = true
			require.True(t, strings.HasPrefix(r.Path, "/api/tenants/{slug}/"))
		})
	}
	for _, schedule := range routes.Schedules {
		t.Run("schedule of "+schedule.Function, func(t *testing.T) {
			require.Contains(t, names, schedule.Function)
			require.GreaterOrEqual(t, schedule.Every, time.Minute, "EventBridge's shortest time is a minute")
			require.Zero(t, schedule.Every%time.Minute)
		})
	}
}

// Each route names an authorizer, and each authorizer a function. Only the routes of functions that verify credentials themselves have
// no authorizer. The test also refuses settings that API Gateway refuses or ignores.
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
		t.Run("authorizer "+a.Name, func(t *testing.T) {
			i := slices.IndexFunc(routes.Functions, func(f routes.Function) bool { return f.Name == a.Function })
			require.GreaterOrEqual(t, i, 0, a.Function)
			require.LessOrEqual(t, routes.Functions[i].Timeout, 10*time.Second, "API Gateway waits no longer")
			require.Regexp(t, identitySource, a.IdentitySource)
			require.GreaterOrEqual(t, a.TTL, time.Duration(0))
			require.LessOrEqual(t, a.TTL, time.Hour)
			require.Zero(t, a.TTL%time.Second, "API Gateway counts seconds")
			require.True(t, used[a.Name])
		})
	}
	selfVerifying := map[string]string{"receive-webhook": "/webhooks/", "settle-callback": "/callbacks/"} // a part of each route
	for _, r := range routes.HTTP {
		t.Run(r.Method+" "+r.Path, func(t *testing.T) {
			if slices.Contains(routes.SelfVerifying, r.Function) {
				require.Empty(t, r.Authorizer)
				require.Contains(t, r.Path, selfVerifying[r.Function])
				return
			}
			require.Contains(t, names, r.Authorizer)
			for _, part := range selfVerifying {
				require.NotContains(t, r.Path, part)
			}
			require.NotContains(t, r.Path, "{token}")
		})
	}
	require.Len(t, selfVerifying, len(routes.SelfVerifying))
	for _, name := range routes.SelfVerifying {
		t.Run("function "+name+" has a route", func(t *testing.T) {
			require.True(t, slices.ContainsFunc(routes.HTTP, func(r routes.Route) bool { return r.Function == name }))
		})
	}
	slices.Sort(names)
	require.Len(t, slices.Compact(names), len(routes.Authorizers))
}

// A waiting call may occupy its process for as long as API Gateway waits. Every other call must end within ten seconds.
func TestOnlyWaitingTakesLong(t *testing.T) {
	t.Parallel()
	for _, r := range routes.HTTP {
		t.Run(r.Method+" "+r.Path, func(t *testing.T) {
			i := slices.IndexFunc(routes.Functions, func(f routes.Function) bool { return f.Name == r.Function })
			require.GreaterOrEqual(t, i, 0, r.Function)
			waits := slices.Contains(routes.Waiting, r.Function)
			require.Equal(t, waits, strings.HasSuffix(r.Path, "/wait"))
			long := waits || r.Function == "manage-integrations" // a test of a destination waits for the receiver
			require.Equal(t, long, routes.Functions[i].Timeout > 10*time.Second, r.Function)
		})
	}
}

// A valid answer about an API key is cached by the authorizer, then by API Gateway, and then serves a waiting call.
func TestRevocationTakesLessThanAMinute(t *testing.T) {
	t.Parallel()
	const waits = 25 * time.Second
	for _, a := range routes.Authorizers {
		t.Run(a.Name, func(t *testing.T) { require.Less(t, auth.PositiveTTL+a.TTL+waits, time.Minute) })
	}
}
