package main

import (
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// The runner routes an escaped path as AWS does, even if the caller meant another promise.
func TestPathsAsOnAWS(t *testing.T) {
	t.Parallel()
	r := startRunner(t)
	ids := map[string]string{}
	for _, key := range []string{"a", "a/b", "a?b", "a%2Fb", "order", "order?1", "café 100% #1+1"} {
		ids[key] = r.create(t, key)
	}
	notFound := map[string]any{"message": "Not Found"}
	for _, c := range []struct{ path, key string }{ // key: the key of the returned promise; empty if no route matches
		{"key:a", "a"},
		{"key:a%2Fb", ""},
		{"key:a%2fb", ""},
		{"key:a%252Fb", "a%2Fb"},
		{"key:a%3Fb", "a"},
		{"key:a%3Fb%2Fc", "a"},
		{"key:order%3F1", "order"},
		{"key:caf%C3%A9%20100%25%20%231%2B1", "café 100% #1+1"},
		{"key:caf%c3%a9%20100%25%20%231+1", "café 100% #1+1"},
	} {
		t.Run("GET "+c.path, func(t *testing.T) {
			status, p := r.call(t, "GET", "/promises/"+c.path, "")
			if c.key == "" {
				require.Equal(t, 404, status)
				require.Equal(t, notFound, p)
				return
			}
			require.Equal(t, 200, status, "%v", p)
			require.Equal(t, ids[c.key], p["promiseId"])
		})
	}
	for _, path := range []string{"key:a%2Fb/resolve", "key:a%3Fb/resolve", "key:order%3F1/cancel"} {
		t.Run("POST "+path, func(t *testing.T) {
			status, p := r.call(t, "POST", "/promises/"+path, `{"value":1}`)
			require.Equal(t, 404, status)
			require.Equal(t, notFound, p)
		})
	}
	t.Run("bytes that are not UTF-8", func(t *testing.T) {
		status, p := r.call(t, "GET", "/promises/key:a%FF", "")
		require.Equal(t, 400, status)
		require.Equal(t, "invalid_utf8", p["code"])
	})
	t.Run("POST key:a%2Fcancel is POST key:a/cancel", func(t *testing.T) {
		status, p := r.call(t, "POST", "/promises/key:a%2Fcancel", "")
		require.Equal(t, 200, status, p)
		require.Equal(t, ids["a"], p["promiseId"])
		for key, want := range map[string]string{"a": "cancelled", "a/b": "pending", "a?b": "pending", "order": "pending", "order?1": "pending"} {
			_, p = r.call(t, "GET", "/promises/id:"+ids[key], "")
			require.Equal(t, want, p["state"], key)
		}
	})
	t.Run("a URL that is too long", func(t *testing.T) {
		status, body := request(t, "GET", r.promises("/promises?name="+strings.Repeat("x", 11_000)), "Bearer "+r.ready.APIKey, "")
		require.Equal(t, 413, status)
		require.Equal(t, "HTTP header is larger than 10240 bytes.", body)
	})
	r.stop(t, syscall.SIGINT)
}
