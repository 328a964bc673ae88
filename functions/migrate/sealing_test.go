package main_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/auth"
	"github.com/flovyn/promises/shared/dbtest"
	"github.com/flovyn/promises/shared/dbtest/secrettest"
	"github.com/flovyn/promises/shared/seal"
)

// The first run creates the sealing keys, and later ones keep them. A rotation adds a key, and never drops one that a text or a process needs.
func TestSealingKeys(t *testing.T) {
	t.Parallel()
	arn := secrettest.ARN("promises-dev/sealing-keys")
	db, manager := dbtest.Bare(t), secrettest.Start(t, arn)
	f := newFunction(t, db.URL, append(manager.Env(), "SEALING_KEYS="+arn)...)
	run := func(t *testing.T, payload string) any {
		t.Helper()
		result := f.invoke(t, payload)
		require.Empty(t, result.ErrorType, "%s", result.Payload)
		var answer map[string]any
		require.NoError(t, json.Unmarshal(result.Payload, &answer))
		return answer["sealingKey"]
	}
	refused := func(t *testing.T, why string) {
		t.Helper()
		_, before := manager.Current(arn)
		result := f.invoke(t, `{"rotateSealingKey":true}`)
		require.Equal(t, "migration_failed", result.ErrorType)
		require.Contains(t, string(result.Payload), why)
		_, after := manager.Current(arn)
		require.Equal(t, before, after)
	}
	current := func(t *testing.T) *seal.Keys {
		t.Helper()
		_, text := manager.Current(arn)
		keys, err := seal.Parse(text)
		require.NoError(t, err)
		return keys
	}
	const purpose = "destination_secret.sealed"
	id := uuid.New()
	store := func(t *testing.T, keys *seal.Keys) []byte {
		t.Helper()
		sealed, err := keys.Seal(purpose, id.String(), 1, []byte("whsec_hunter2"))
		require.NoError(t, err)
		db.Exec(t, `INSERT INTO destination_secret (destination_id, version, sealed) VALUES ($1, 1, $2)
			ON CONFLICT (destination_id, version) DO UPDATE SET sealed = EXCLUDED.sealed`, id, sealed)
		return sealed
	}

	require.Equal(t, "created", run(t, `{}`))
	first := current(t)
	t.Run("a later run keeps them, and does not read them", func(t *testing.T) {
		require.Nil(t, run(t, `{}`))
		require.Equal(t, first.Prefix(), current(t).Prefix())
		require.Zero(t, manager.Calls()["GetSecretValue"])
	})
	db.Exec(t, "INSERT INTO tenant (slug) VALUES ('acme')")
	db.Exec(t, "INSERT INTO destination (id, tenant_id, name, kind) SELECT $1, id, 'orders', 'https' FROM tenant", id)
	sealed := store(t, first)
	t.Run("a key that a process may not know yet is not rotated", func(t *testing.T) { refused(t, "too young") })
	manager.Age(arn, auth.KeysMaxStale)
	t.Run("a rotation keeps the former key", func(t *testing.T) {
		require.Equal(t, "rotated", run(t, `{"rotateSealingKey":true}`))
		require.NotEqual(t, first.Prefix(), current(t).Prefix())
		_, err := current(t).Open(purpose, id.String(), 1, sealed)
		require.NoError(t, err)
	})
	t.Run("a repeated rotation, after a lost answer, changes nothing", func(t *testing.T) { refused(t, "too young") })
	manager.Age(arn, auth.KeysMaxStale+time.Minute)
	t.Run("a rotation that would lose a text is refused", func(t *testing.T) { refused(t, "has not encrypted 1 secrets or kept bodies") })
	store(t, current(t))
	for table, insert := range map[string]string{
		"source_secret": `WITH s AS (INSERT INTO source (id, tenant_id, name, definition) SELECT $1, id, 's', '{}' FROM tenant RETURNING id)
			INSERT INTO source_secret (source_id, version, sealed) SELECT id, 1, $2 FROM s`,
		"receipt_body": `WITH r AS (
				INSERT INTO receipt (id, tenant_id, source_id, source_name, event, item, outcome, received_at, updated_at, expires_at)
				SELECT $1, id, $1, 's', 'e', 0, 'ignored', NOW(), NOW(), NOW() FROM tenant RETURNING id
			)
			INSERT INTO receipt_body (id, receipt_id, sealed, expires_at) SELECT id, id, $2, NOW() FROM r`,
	} {
		t.Run("so is one that would lose a text of "+table, func(t *testing.T) {
			db.Exec(t, insert, uuid.New(), sealed)
			refused(t, "run manage-tenants reencrypt")
			db.Exec(t, "DELETE FROM "+table)
		})
	}
	t.Run("after the reencryption it rotates", func(t *testing.T) {
		require.Equal(t, "rotated", run(t, `{"rotateSealingKey":true}`))
		require.False(t, current(t).HasKeyOf(sealed))
	})
	t.Run("an empty secret is not filled if a lost key has sealed texts", func(t *testing.T) {
		other := secrettest.Start(t, arn)
		g := newFunction(t, db.URL, append(other.Env(), "SEALING_KEYS="+arn)...)
		result := g.invoke(t, `{}`)
		require.Equal(t, "migration_failed", result.ErrorType)
		require.Contains(t, string(result.Payload), "restore the secret's former value")
	})
	t.Run("no sealing key in the log or in an answer", func(t *testing.T) {
		require.NotContains(t, f.output.String(), "aes256-seal:")
	})
	t.Run("SEALING_KEYS can be the ring itself, which migrate cannot rotate", func(t *testing.T) {
		g := newFunction(t, db.URL, "SEALING_KEYS="+first.Text())
		require.Equal(t, "migration_failed", g.invoke(t, `{"rotateSealingKey":true}`).ErrorType)
		require.Empty(t, g.invoke(t, `{}`).ErrorType)
		g = newFunction(t, db.URL, "SEALING_KEYS="+first.Text()[1:])
		result := g.invoke(t, `{}`)
		require.Equal(t, "migration_failed", result.ErrorType)
		require.NotContains(t, string(result.Payload), "aes256-seal:")
	})
}
