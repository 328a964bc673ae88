package routes_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/routes"
)

func TestPagesCanUseEveryRoute(t *testing.T) {
	t.Parallel()
	for _, r := range routes.HTTP {
		t.Run(r.Method+" "+r.Path, func(t *testing.T) { require.Contains(t, routes.CORS.Methods, r.Method) })
	}
}

func TestIsOrigin(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"https://app.example.com", "http://localhost:5173", "http://127.0.0.1:80"} {
		t.Run("origin "+s, func(t *testing.T) { require.True(t, routes.IsOrigin(s)) })
	}
	for _, s := range []string{"", "*", "null", "https://", "https://*", "https://*.example.com", "app.example.com", "https://app.example.com/", "ftp://app.example.com", " https://a.b"} {
		t.Run(fmt.Sprintf("no origin %q", s), func(t *testing.T) { require.False(t, routes.IsOrigin(s)) })
	}
}
