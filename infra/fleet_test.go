package main

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/database"
)

var fleetFacts = []fact{
	{"fleetConnections agrees with the template", func(t *testing.T, tmpl template) {
		if tmpl.large {
			connections, _ := tmpl.fleet()
			require.Equal(t, fleetConnections(), connections)
		}
	}},
	{"reserved executions and headroom leave 100 of 1,000 unreserved", func(t *testing.T, tmpl template) {
		if tmpl.large {
			_, reserved := tmpl.fleet()
			require.LessOrEqual(t, reserved+headroom, 900)
			require.GreaterOrEqual(t, headroom, 20, "the planned functions need them")
		}
	}},
	{"connections and headroom fit into RDS Proxy", func(t *testing.T, tmpl template) {
		if tmpl.large {
			connections, _ := tmpl.fleet()
			most, percent := tmpl.connectionLimits(t)
			require.LessOrEqual(t, float64(connections+headroom*database.PoolSize), float64(most)*percent/100)
		}
	}},
	{"RDS Proxy leaves at least 50 connections of Postgres to others", func(t *testing.T, tmpl template) {
		if tmpl.large {
			most, percent := tmpl.connectionLimits(t)
			require.GreaterOrEqual(t, float64(most)*(100-percent)/100, 50.0)
		}
	}},
}

// fleet returns the most connections that the functions can open to the proxy, and the executions that they reserve.
func (tmpl template) fleet() (connections, reserved int) {
	for _, r := range tmpl.ofType("AWS::Lambda::Function") {
		n, _ := r.Properties["ReservedConcurrentExecutions"].(float64)
		reserved += int(n)
		switch strings.TrimPrefix(fmt.Sprint(r.Properties["FunctionName"]), "promises-"+tmpl.stage+"-") {
		case "migrate", "send-deliveries":
		case "expire-promises":
			connections += int(n) * database.SweepPoolSize
		case "relay-deliveries":
			connections += int(n) * database.RelayPoolSize
		default:
			connections += int(n) * database.PoolSize
		}
	}
	return connections, reserved
}

// connectionLimits returns max_connections of Postgres and the percentage of them that RDS Proxy may open.
func (tmpl template) connectionLimits(t *testing.T) (most int, percent float64) {
	t.Helper()
	for _, kind := range []string{"AWS::RDS::DBClusterParameterGroup", "AWS::RDS::DBParameterGroup"} {
		for _, r := range tmpl.ofType(kind) {
			if s, ok := r.Properties["Parameters"].(map[string]any)["max_connections"].(string); ok {
				var err error
				most, err = strconv.Atoi(s)
				require.NoError(t, err)
			}
		}
	}
	for _, r := range tmpl.ofType("AWS::RDS::DBProxyTargetGroup") {
		percent = r.Properties["ConnectionPoolConfigurationInfo"].(map[string]any)["MaxConnectionsPercent"].(float64)
	}
	require.Positive(t, most)
	require.Positive(t, percent)
	return most, percent
}
