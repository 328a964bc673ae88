package client_test

import (
	"encoding/json"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/client"
	"github.com/flovyn/promises/shared/promise"
)

// oddKeys returns keys that a path cannot carry as they are, or only just, and random ones.
func oddKeys() []string {
	keys := []string{
		".", "..", "...", "a/../b", "a/b", "/", "//", "a?b", "a#b", "a%2Fb", "%", "%00", " ", "a b", "+", "a+b", "\\", "\"", "<>&", "key:x", "id:x",
		"key64:YQ", ":", "~", "é", "日本", "😀", "\u2028", "\u007f", "\t", "\n", "a;b", "a,b", strings.Repeat("ü", 255), strings.Repeat(".", 255), "A-Z_a-z.0~9:",
	}
	runes := []rune(".:/?#%&+ abcXYZ09_-~äß€😀\"\\'\t\u2028\ue000")
	for range 30 {
		key := ""
		for range 1 + rand.N(12) {
			key += string(runes[rand.N(len(runes))])
		}
		keys = append(keys, key)
	}
	return keys
}

// Each key names its promise, in a path and in a direct invoke.
func TestKeysNameTheirPromise(t *testing.T) {
	t.Parallel()
	for kind, c := range transports(t) {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			for _, key := range oddKeys() {
				created, err := c.Create(t.Context(), client.Create{Workflow: client.WorkflowExecutionID(uuid.New()), Name: "n", Key: key})
				if err != nil { // the random ones may repeat a key
					require.ErrorIs(t, err, client.CodeKeyConflict, "%q", key)
					continue
				}
				require.Equal(t, client.Key(key), created.Identifier, "%q", key)
				p, err := c.Get(t.Context(), client.Key(key))
				require.NoError(t, err, "%q", key)
				require.Equal(t, created.PromiseID, p.PromiseID, "%q", key)
			}
		})
	}
}

// Each workflow's own id names its log.
func TestWorkflowsNameTheirLog(t *testing.T) {
	t.Parallel()
	for kind, c := range transports(t) {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			for _, text := range []string{".", "a/b?c#d", "arn:aws:states:eu-central-1:123456789012:execution:m:n", "日本 %2F"} {
				created, err := c.Create(t.Context(), client.Create{Workflow: client.WorkflowID(text), Name: "n"})
				require.NoError(t, err)
				for e, err := range c.Events(t.Context(), client.WorkflowID(text), 0) {
					require.NoError(t, err, "%q", text)
					require.Equal(t, created.PromiseID, e.PromiseID, "%q", text)
				}
			}
		})
	}
}

// The client writes an identifier as the service does.
func TestIdentifierIsTheServices(t *testing.T) {
	t.Parallel()
	for _, key := range oddKeys() {
		theirs, err := promise.ByIdempotencyKey(key)
		require.NoError(t, err)
		require.Equal(t, theirs.String(), client.Key(key).String())
		parsed, err := client.ParseIdentifier(client.Key(key).String())
		require.NoError(t, err)
		require.Equal(t, client.Key(key), parsed)
	}
	for _, text := range []string{"", "id:", "id:x", "id:{3f0c1c9e-8f4b-4c57-9a1e-3b1c2d4e5f60}", "key64:YQ==", "key64:YR", "key64:Y\nQ", "other:x", "x"} {
		_, err := client.ParseIdentifier(text)
		require.Error(t, err, "%q", text)
	}
}

func TestIdentifierInJSON(t *testing.T) {
	t.Parallel()
	text, err := json.Marshal(map[string]client.Identifier{"i": client.Key("a/b")})
	require.NoError(t, err)
	var back map[string]client.Identifier
	require.NoError(t, json.Unmarshal(text, &back))
	require.Equal(t, client.Key("a/b"), back["i"])
}
