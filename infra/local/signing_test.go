package main

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// legacyToken returns a token that is signed like those of earlier releases.
func legacyToken(t *testing.T, secret []byte, tenant, promiseID string) string {
	t.Helper()
	token := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{
		"iss": "promises", "aud": "promise", "sub": promiseID, "ten": tenant, "vrb": []string{"resolve"},
		"iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix(), "jti": uuid.NewString(),
	})
	token.Header["kid"] = "old"
	text, err := token.SignedString(secret)
	require.NoError(t, err)
	return text
}

// headerOf decodes a token's header.
func headerOf(t *testing.T, token string) (header struct{ Alg, Kid string }) {
	t.Helper()
	text, err := base64.RawURLEncoding.DecodeString(token[:strings.IndexByte(token, '.')])
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &header))
	return header
}

// Tokens in a data folder of the previous release stay valid, and new tokens are signed with the new key. In a folder that the previous
// release never used, the same secret signs no valid tokens.
func TestDataFolderOfThePreviousRelease(t *testing.T) {
	t.Parallel()
	data := filepath.Join(tempFolder(t), "data")
	secret := []byte(strings.Repeat("s", 32))
	keys := "old:" + base64.RawURLEncoding.EncodeToString(secret)
	first := startCommand(t, []string{"TOKEN_KEYS=" + keys}, []string{localBinary}, "--data", data).awaitReady(t)
	made := first.createWithToken(t)
	old := callback{path: strings.Replace(made.path, made.token, legacyToken(t, secret, "demo", made.promiseID), 1)}
	t.Run("a new folder signs with EdDSA", func(t *testing.T) { require.Equal(t, "EdDSA", headerOf(t, made.token).Alg) })
	t.Run("a new folder refuses a legacy token", func(t *testing.T) { old.post(t, first.ready.HTTPURL, `{"value":1}`, 403) })

	conn, err := pgx.Connect(t.Context(), first.ready.DatabaseURL)
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), `
		DROP TABLE signing_key, delivery_lease, delivery, destination_secret, destination, receipt_body, receipt, source_secret, source;
		DROP FUNCTION delivery_due, delivery_create, delivery_renew, promise_create, promise_settle_early, receipt_end, receipt_is_final, receipt_keep,
			receipt_preview, receipt_settle CASCADE; -- with the trigger
		DROP TYPE early_result, receipt_result;
		ALTER TABLE idempotency_key DROP COLUMN held_receipt_id;
		ALTER TABLE promise DROP COLUMN notifies;
		ALTER TABLE tenant DROP COLUMN default_destination_id;
		ALTER TYPE settle_result RENAME TO promise_settlement;
		DELETE FROM promises_schema_version WHERE version_id >= 17`, pgx.QueryExecModeSimpleProtocol)
	require.NoError(t, err)
	require.NoError(t, conn.Close(t.Context()))
	first.stop(t, syscall.SIGINT)
	require.NoError(t, os.Remove(filepath.Join(data, signingKeyFile)))
	require.NoError(t, os.WriteFile(filepath.Join(data, tokenKeysFile), []byte(keys+"\n"), 0o600))

	second := startWith(t, "", []string{localBinary}, "--data", data).awaitReady(t)
	t.Run("an old folder refuses a token whose signing key is gone", func(t *testing.T) {
		made.post(t, second.ready.HTTPURL, `{"value":1}`, 403)
	})
	t.Run("an old folder accepts a legacy token", func(t *testing.T) {
		require.Contains(t, old.post(t, second.ready.HTTPURL, `{"value":1}`, 200), `"outcome":"settled"`)
	})
	t.Run("an old folder signs with EdDSA", func(t *testing.T) {
		again := second.createWithToken(t)
		require.Equal(t, "EdDSA", headerOf(t, again.token).Alg)
		require.Contains(t, again.post(t, second.ready.HTTPURL, `{"value":1}`, 200), `"outcome":"settled"`)
	})
	second.stop(t, syscall.SIGINT)
}

// A deployment's signing key is rotated while its functions run. Tokens of the old key stay valid, and tokens of the new key are valid at
// once. A rotation with revoke invalidates all earlier tokens.
func TestSigningKeyRotation(t *testing.T) {
	t.Parallel()
	d := deploy(t)
	require.Equal(t, "SUCCESS", d.cloudFormation(t, "create")["Status"])
	d.must(t, "manage-tenants", `{"action":"create-tenant","slug":"acme"}`)
	create := func(name string) callback {
		t.Helper()
		p := d.must(t, "create-promise", `{"tenant":"acme","workflowExecutionId":"0b5c1f4e-6a0e-4f0a-9c58-2d1a3c7e9b10","name":"`+name+
			`","tokens":{"verbs":["resolve"],"ttlSeconds":31536000}}`)
		return callback{promiseID: p["promiseId"].(string), token: p["token"].(string)}
	}
	settle := func(t *testing.T, c callback, want int) {
		t.Helper()
		status, answer := d.http(t, "POST", "/promises/id:"+c.promiseID+"/resolve", c.token, `{"value":1}`)
		require.Equal(t, want, status, "%v\n%s", answer, d.output.String())
		status, answer = d.http(t, "POST", "/callbacks/id:"+c.promiseID+"/resolve/"+c.token, "", `{"value":1}`)
		require.Equal(t, want, status, "%v\n%s", answer, d.output.String())
	}
	before, known := create("before"), create("known")
	settle(t, known, 200) // the running processes have now read the keys
	kid := d.must(t, "migrate", `{"rotateSigningKey":true}`)["signingKey"]
	require.NotEqual(t, kid, headerOf(t, before.token).Kid)
	running, runningAPI := d.service, d.api
	d.start(t) // a new process of create-promise reads the secret
	after := create("after")
	require.Equal(t, kid, headerOf(t, after.token).Kid)
	d.service, d.api = running, runningAPI
	t.Run("running processes accept a token of the new key", func(t *testing.T) { settle(t, after, 200) })
	t.Run("running processes accept a token of the old key", func(t *testing.T) { settle(t, before, 200) })

	revoked := create("late")
	d.must(t, "migrate", `{"rotateSigningKey":true,"revoke":true}`)
	d.start(t)
	t.Run("after a revocation an earlier token is refused", func(t *testing.T) { settle(t, revoked, 403) })
	last := create("last")
	t.Run("after a revocation a new token is accepted", func(t *testing.T) { settle(t, last, 200) })
	t.Run("no private key is printed", func(t *testing.T) { require.NotContains(t, d.output.String(), "ed25519-private") })
	t.Run("every role has the rights that it needs", func(t *testing.T) { require.NotContains(t, d.output.String(), "permission denied") })
}
