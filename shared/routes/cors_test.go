package routes_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/routes"
)

func TestPagesCanUseEveryRoute(t *testing.T) {
	t.Parallel()
	for _, r := range routes.HTTP {
		require.Contains(t, routes.CORS.Methods, r.Method, r.Path)
	}
}

func TestIsOrigin(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"https://app.example.com", "http://localhost:5173", "http://127.0.0.1:80"} {
		require.True(t, routes.IsOrigin(s), s)
	}
	for _, s := range []string{"", "*", "null", "https://", "https://*", "https://*.example.com", "app.example.com", "https://app.example.com/", "ftp://app.example.com", " https://a.b"} {
		require.False(t, routes.IsOrigin(s), s)
	}
}
