package main

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/routes"
)

// The local runner accepts the name that a function has in any stage.
func TestPlainNames(t *testing.T) {
	t.Parallel()
	for _, stage := range []string{"dev", "production", "a", "pull-request-12345-a"} {
		t.Run(stage, func(t *testing.T) {
			s, err := readSettings(map[string]any{"stage": stage})
			require.NoError(t, err)
			for _, f := range routes.Functions {
				require.Equal(t, f.Name, routes.PlainName(s.stackName()+"-"+f.Name))
			}
		})
	}
}
