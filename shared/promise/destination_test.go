package promise_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/promise"
)

func TestCheckDestinationName(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"a", "7", "orders-eu", strings.Repeat("a", 63), "stepFunctions", "durableExecution"} {
		t.Run(name+" is valid", func(t *testing.T) { require.NoError(t, promise.CheckDestinationName(name)) })
	}
	for _, name := range []string{
		"", "-a", "a-", "Orders", "a_b", "a.b", "a b", "ä", "a\n", "a\x00", strings.Repeat("a", 64), "stepfunctions ", "StepFunctions", "lambdA",
	} {
		t.Run(name+" is invalid", func(t *testing.T) {
			require.Equal(t, promise.CodeInvalidName, promise.AsError(promise.CheckDestinationName(name)).Code)
		})
	}
}

func TestKindNamesInTheError(t *testing.T) {
	t.Parallel()
	err := promise.AsError(promise.CheckDestination(promise.Destination{Name: "a", Kind: "fax"}))
	require.Equal(t, "kind", err.Field)
	for _, kind := range promise.DestinationKinds {
		t.Run(string(kind), func(t *testing.T) { require.Contains(t, err.Detail, string(kind)) })
	}
}
