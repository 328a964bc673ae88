package repository

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// The first use of a statement rewrites it, and each later use is as strict.
func TestNamedArgumentsAreStrict(t *testing.T) {
	t.Parallel()
	const sql = "SELECT @b, @a, @b -- @comment"
	for _, use := range []string{"first", "second"} {
		t.Run(use, func(t *testing.T) {
			got, args, err := named{"a": 1, "b": nil}.RewriteQuery(t.Context(), nil, sql, nil)
			require.NoError(t, err)
			require.Equal(t, "SELECT $1, $2, $1 -- @comment", got)
			require.Equal(t, []any{nil, 1}, args)
		})
	}
	for name, a := range map[string]named{
		"missing":             {"a": 1},
		"unknown":             {"a": 1, "b": 2, "c": 3},
		"unknown for missing": {"a": 1, "c": 3},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := a.RewriteQuery(t.Context(), nil, sql, nil)
			require.Error(t, err)
			_, _, err = a.RewriteQuery(t.Context(), nil, sql+" of "+name, nil)
			require.Error(t, err)
			_, _, err = named{"a": 1, "b": 2}.RewriteQuery(t.Context(), nil, sql+" of "+name, nil)
			require.NoError(t, err, "the failed use leaves nothing behind")
		})
	}
}
