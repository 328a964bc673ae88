package main

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/routes"
)

// The local runner takes every name that this app gives to a function.
func TestPlainNames(t *testing.T) {
	t.Parallel()
	for _, stage := range []string{"dev", "production", "a", "pull-request-12345-a"} {
		s, err := readSettings(map[string]any{"stage": stage})
		require.NoError(t, err)
		for _, f := range routes.Functions {
			require.Equal(t, f.Name, routes.PlainName(s.stackName()+"-"+f.Name))
		}
	}
}
