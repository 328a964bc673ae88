package migrate_test

import (
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/gateway"
	"github.com/flovyn/promises/shared/migrate"
	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/repository"
)

// API Gateway decodes a path before it routes it, so that a path cannot contain a legacy id whose name has a slash or a question
// mark. The form key64: names every adopted promise.
func TestLegacyIDsInAPath(t *testing.T) {
	t.Parallel()
	db := legacyDB(t)
	db.Exec(t, `INSERT INTO promise (id, workflow_execution_id, name, created_by_sequence)
		SELECT $1 || ':' || name, $1::UUID, name, n FROM (VALUES ('invoices/7?draft', 15), ('../cancel', 16)) AS v (name, n)`, w1.String())
	_, err := migrate.Run(t.Context(), config(t, db.URL), migrate.Options{})
	require.NoError(t, err)
	h := &gateway.Handler{
		Operation: gateway.GetPromise, Store: repository.New(db.Pool), Timeout: time.Minute, Log: slog.New(slog.DiscardHandler),
	}
	for _, name := range []string{"pay", "a:b:c", ":", "invoices/7?draft", "../cancel"} {
		t.Run(name, func(t *testing.T) {
			oldID := w1.String() + ":" + name
			i, err := promise.ByIdempotencyKey(oldID)
			require.NoError(t, err)
			require.NotContains(t, i.String(), "/")
			require.NotContains(t, i.String(), "?")
			require.Equal(t, strings.Contains(name, "/"), strings.HasPrefix(i.String(), "key64:"))
			event, err := json.Marshal(map[string]any{
				"version": "2.0", "pathParameters": map[string]string{"slug": "acme", "identifier": i.String()},
				"requestContext": map[string]any{"authorizer": map[string]any{"lambda": promise.Principal{
					By: promise.By{Kind: promise.KindAPIKey, ID: w1.String()}, Tenant: "acme", Scopes: promise.Scopes,
				}.Texts()}},
			})
			require.NoError(t, err)
			got, err := h.Invoke(t.Context(), event)
			require.NoError(t, err)
			require.Contains(t, string(got), `\"promiseId\":\"`+newID(oldID)+`\"`, oldID)
		})
	}
}
