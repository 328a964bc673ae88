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

// legacyToken signs a token as earlier releases did.
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

func headerOf(t *testing.T, token string) (header struct{ Alg, Kid string }) {
	t.Helper()
	text, err := base64.RawURLEncoding.DecodeString(token[:strings.IndexByte(token, '.')])
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &header))
	return header
}

// A data folder of the previous release goes on: the tokens that it signed stay valid, and new ones have the new key. In a folder that
// the previous release never used, the same secret opens nothing.
func TestADataFolderOfThePreviousRelease(t *testing.T) {
	t.Parallel()
	data := filepath.Join(folder(t), "data")
	secret := []byte(strings.Repeat("s", 32))
	keys := "old:" + base64.RawURLEncoding.EncodeToString(secret)
	first := beginIn(t, []string{"TOKEN_KEYS=" + keys}, []string{local}, "--data", data).await(t)
	made := first.createWithToken(t)
	require.Equal(t, "EdDSA", headerOf(t, made.token).Alg)
	old := callback{path: strings.Replace(made.path, made.token, legacyToken(t, secret, "demo", made.promiseID), 1)}
	old.post(t, first.ready.HTTPURL, `{"value":1}`, 403)

	conn, err := pgx.Connect(t.Context(), first.ready.DatabaseURL)
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), `
		DROP TABLE signing_key;
		DROP DOMAIN promise_settlement;
		ALTER TYPE settle_result RENAME TO promise_settlement;
		DELETE FROM promises_schema_version WHERE version_id >= 17`, pgx.QueryExecModeSimpleProtocol)
	require.NoError(t, err)
	require.NoError(t, conn.Close(t.Context()))
	first.end(t, syscall.SIGINT)
	require.NoError(t, os.Remove(filepath.Join(data, signingKeyFile)))
	require.NoError(t, os.WriteFile(filepath.Join(data, tokenKeysFile), []byte(keys+"\n"), 0o600))

	second := begin(t, "", []string{local}, "--data", data).await(t)
	made.post(t, second.ready.HTTPURL, `{"value":1}`, 403) // the key that signed it is gone
	require.Contains(t, old.post(t, second.ready.HTTPURL, `{"value":1}`, 200), `"outcome":"settled"`)
	again := second.createWithToken(t)
	require.Equal(t, "EdDSA", headerOf(t, again.token).Alg)
	require.Contains(t, again.post(t, second.ready.HTTPURL, `{"value":1}`, 200), `"outcome":"settled"`)
	second.end(t, syscall.SIGINT)
}

// The signing key of a deployment is rotated while its functions run: tokens of the old key stay valid, those of the new one are at
// once, and a revocation ends all tokens before it.
func TestRotationOfADeployment(t *testing.T) {
	t.Parallel()
	d := deploy(t)
	require.Equal(t, "SUCCESS", d.cloudFormation(t, "create")["Status"])
	must := func(function, payload string) map[string]any {
		t.Helper()
		answer, problem := d.invoke(t, function, payload)
		require.Empty(t, problem, "%s %s\n%s", function, payload, d.output.String())
		return answer
	}
	must("manage-tenants", `{"action":"create-tenant","slug":"acme"}`)
	create := func(name string) callback {
		t.Helper()
		p := must("create-promise", `{"tenant":"acme","workflowExecutionId":"0b5c1f4e-6a0e-4f0a-9c58-2d1a3c7e9b10","name":"`+name+
			`","tokens":{"verbs":["resolve"],"ttlSeconds":31536000}}`)
		return callback{promiseID: p["promiseId"].(string), token: p["token"].(string)}
	}
	settle := func(c callback, want int) {
		t.Helper()
		status, answer := d.http(t, "POST", "/promises/id:"+c.promiseID+"/resolve", c.token, `{"value":1}`)
		require.Equal(t, want, status, "%v\n%s", answer, d.output.String())
		status, answer = d.http(t, "POST", "/callbacks/id:"+c.promiseID+"/resolve/"+c.token, "", `{"value":1}`)
		require.Equal(t, want, status, "%v\n%s", answer, d.output.String())
	}
	before, known := create("before"), create("known")
	settle(known, 200) // these processes have read the keys
	kid := must("migrate", `{"rotateSigningKey":true}`)["signingKey"]
	require.NotEqual(t, kid, headerOf(t, before.token).Kid)
	running, runningAPI := d.service, d.api
	d.start(t) // another process of create-promise, which reads the secret
	after := create("after")
	require.Equal(t, kid, headerOf(t, after.token).Kid)
	d.service, d.api = running, runningAPI
	settle(after, 200)
	settle(before, 200)

	late := create("late")
	must("migrate", `{"rotateSigningKey":true,"revoke":true}`)
	d.start(t)
	settle(late, 403)
	settle(create("last"), 200)
	require.NotContains(t, d.output.String(), "ed25519-private")
	require.NotContains(t, d.output.String(), "permission denied")
}
