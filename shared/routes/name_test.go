package routes_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/routes"
)

func TestPlainName(t *testing.T) {
	t.Parallel()
	for _, f := range routes.Functions {
		t.Run(f.Name+" without a stage", func(t *testing.T) { require.Equal(t, f.Name, routes.PlainName(f.Name)) })
		for _, stage := range []string{"dev", "x", "production", "pull-request-12345-a", "a-", "a--b", "promises", "resolve-by-id", "list-promises"} {
			t.Run(f.Name+" in the stage "+stage, func(t *testing.T) {
				require.Equal(t, f.Name, routes.PlainName("promises-"+stage+"-"+f.Name))
			})
		}
	}
	for name, want := range map[string]string{
		"promises-x-batch-resolve":       "batch-resolve",
		"promises-x-batch-batch-resolve": "batch-resolve",
		"promises-batch-resolve":         "resolve", // in the stage batch
	} {
		t.Run(name+" is "+want, func(t *testing.T) { require.Equal(t, want, routes.PlainName(name)) })
	}
	for _, name := range []string{
		"", "promises-", "promises-dev", "promises-dev-", "promises-dev-nothing", "promises--resolve", "promises-Dev-resolve", "promises-1-resolve",
		"promises-pull-request-12345-ab-resolve", "promises-dev-resolve-", "promises-dev-Resolve", "promise-dev-resolve", "dev-resolve",
		"promises_dev_resolve", "promises-dev_1-resolve", "promises-dev-resolve\n", "x-promises-dev-resolve",
	} {
		t.Run(fmt.Sprintf("%q is unchanged", name), func(t *testing.T) { require.Equal(t, name, routes.PlainName(name)) })
	}
}
