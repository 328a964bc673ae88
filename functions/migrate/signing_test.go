package main_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/auth"
	"github.com/flovyn/promises/shared/dbtest"
	"github.com/flovyn/promises/shared/dbtest/secrettest"
	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/repository"
)

var arn = secrettest.ARN("promises-dev/signing-key")

// keyring is a database, and the secret of its signing key.
type keyring struct {
	db      *dbtest.DB
	manager *secrettest.Manager
	*function
}

func newKeyring(t *testing.T) *keyring {
	t.Helper()
	k := &keyring{db: dbtest.Bare(t), manager: secrettest.Start(t, arn)}
	k.function = newFunction(t, k.db.URL, append(k.manager.Env(), "SIGNING_KEY="+arn)...)
	return k
}

// run invokes migrate, and returns the kid that it answers with.
func (k *keyring) run(t *testing.T, payload string) (kid string) {
	t.Helper()
	result := k.invoke(t, payload)
	require.Empty(t, result.ErrorType, "%s\n%s", result.Payload, &k.output)
	var answer struct {
		Version    int64
		SigningKey string
	}
	require.NoError(t, json.Unmarshal(result.Payload, &answer))
	require.Positive(t, answer.Version)
	return answer.SigningKey
}

// current is the key that signs; it must be the only one that is not retired.
func (k *keyring) current(t *testing.T) auth.SigningKey {
	t.Helper()
	version, text := k.manager.Current(arn)
	key, err := auth.ParseSigningKey(text)
	require.NoError(t, err)
	sum := sha256.Sum256(key.Public().PublicKey)
	require.Equal(t, hex.EncodeToString(sum[:]), version)
	require.Equal(t, []string{key.Public().KID}, k.kids(t, "verify_until IS NULL"))
	require.NotContains(t, k.output.String(), text[len(text)-20:])
	return key
}

func (k *keyring) kids(t *testing.T, where string) (kids []string) {
	t.Helper()
	require.NoError(t, k.db.Pool.QueryRow(t.Context(), "SELECT COALESCE(array_agg(kid ORDER BY created_at), '{}') FROM signing_key WHERE "+where).Scan(&kids))
	return kids
}

// verifies reports whether a token of the key is valid for a process that starts now.
func (k *keyring) verifies(t *testing.T, key auth.SigningKey) bool {
	t.Helper()
	now := time.Now()
	token, err := key.Sign(auth.Token{
		ID: uuid.New(), Tenant: "acme", PromiseID: uuid.New(), Verbs: []promise.Verb{promise.VerbResolve}, ExpiresAt: now.Add(365 * 24 * time.Hour),
	}, now)
	require.NoError(t, err)
	_, err = auth.NewVerifier(repository.New(k.db.Pool), auth.Always(auth.Keys{}), time.Now, slog.New(slog.DiscardHandler)).Verify(t.Context(), token, now)
	if err != nil {
		require.ErrorIs(t, err, auth.ErrTokenRefused)
	}
	return err == nil
}

// The first deployment makes a key, and no other changes it.
func TestADeploymentEnsuresASigningKey(t *testing.T) {
	t.Parallel()
	k := newKeyring(t)
	for _, kind := range []string{"create", "update", "update", "delete"} {
		status, _, reason := k.event(t, sample(t, "cloudformation-"+kind))
		require.Equal(t, "SUCCESS", status, reason)
	}
	first := k.current(t)
	require.True(t, k.verifies(t, first))
	require.Equal(t, first.Public().KID, k.run(t, `{}`))
	require.Equal(t, first.Public().KID, k.run(t, `{"roles":true}`))
	require.Equal(t, []string{first.Public().KID}, k.kids(t, "TRUE"), "a new database has no tokens of earlier releases")
	require.Equal(t, map[string]int{"DescribeSecret": 5, "PutSecretValue": 1}, k.manager.Calls(), "migrate never reads a private key")

	k.manager.Set(arn, "an-operator-wrote-this-by-himself-", "no key")
	repaired := k.run(t, `{}`)
	require.Equal(t, repaired, k.current(t).Public().KID)
	require.NotEqual(t, first.Public().KID, repaired)
	require.True(t, k.verifies(t, first), "its tokens stay valid")
}

// A rotation makes another key sign. The old one verifies until its last token has expired, or not at all if it is revoked.
func TestRotation(t *testing.T) {
	t.Parallel()
	k := newKeyring(t)
	k.run(t, `{}`)
	first := k.current(t)
	k.manager.Hook(func(operation, _ string) string {
		if operation == "PutSecretValue" {
			var registered bool
			err := k.db.Pool.QueryRow(t.Context(), `SELECT COUNT(*) = 2 AND MAX(created_at) < NOW() - INTERVAL '900 milliseconds'
				FROM signing_key WHERE verify_until IS NULL`).Scan(&registered)
			if err != nil || !registered {
				return "TheKeyCannotBeVerifiedEverywhereYet"
			}
		}
		return ""
	}, nil)
	kid := k.run(t, `{"rotateSigningKey":true}`)
	k.manager.Hook(nil, nil)
	second := k.current(t)
	require.Equal(t, kid, second.Public().KID)
	require.NotEqual(t, first.Public().KID, kid)
	require.True(t, k.verifies(t, first))
	require.True(t, k.verifies(t, second))
	require.Equal(t, []string{first.Public().KID}, k.kids(t, "verify_until BETWEEN NOW() + INTERVAL '365 days 23 hours' AND NOW() + INTERVAL '366 days'"))

	k.db.Exec(t, "UPDATE signing_key SET verify_until = NOW() + INTERVAL '1 hour' WHERE verify_until IS NOT NULL")
	k.run(t, `{}`)
	require.Equal(t, []string{first.Public().KID}, k.kids(t, "verify_until < NOW() + INTERVAL '2 hours'"), "a deployment does not put it off")
	k.db.Exec(t, "UPDATE signing_key SET verify_until = NOW() WHERE verify_until IS NOT NULL")
	require.False(t, k.verifies(t, first), "its time has come")
	require.Equal(t, []string{first.Public().KID, kid}, k.kids(t, "TRUE"))
	k.run(t, `{}`)
	require.Equal(t, []string{kid}, k.kids(t, "TRUE"))

	k.run(t, `{"rotateSigningKey":true}`)
	third := k.current(t)
	k.db.Exec(t, "INSERT INTO signing_key (kid, algorithm, verify_until) VALUES ('hs256', 'HS256', NOW() + INTERVAL '1 day')")
	k.run(t, `{"rotateSigningKey":true,"revoke":true}`)
	fourth := k.current(t)
	for _, revoked := range []auth.SigningKey{first, second, third} {
		require.False(t, k.verifies(t, revoked))
	}
	require.True(t, k.verifies(t, fourth))
	require.ElementsMatch(t, []string{"hs256", fourth.Public().KID}, k.kids(t, "TRUE"), "the tokens of earlier releases are another matter")
	require.Zero(t, k.manager.Calls()["GetSecretValue"])
}

// shell starts migrate from a shell.
func (k *keyring) shell(t *testing.T, args ...string) (cmd *exec.Cmd, stderr *buffer) {
	t.Helper()
	cmd, stderr = exec.Command(binary, args...), new(buffer)
	cmd.Env = append(os.Environ(), append(k.manager.Env(), "SIGNING_KEY="+arn, "DATABASE_URL="+k.db.URL)...)
	cmd.Stderr = stderr
	require.NoError(t, cmd.Start())
	return cmd, stderr
}

// Wherever a run is killed, no token is signed that cannot be verified, and the next run repairs it.
func TestKilledBetweenTheHalves(t *testing.T) {
	t.Parallel()
	for _, rotate := range []bool{false, true} {
		for _, put := range []bool{false, true} {
			t.Run(fmt.Sprintf("rotate=%v,put=%v", rotate, put), func(t *testing.T) {
				t.Parallel()
				k := newKeyring(t)
				args, before := []string{}, auth.SigningKey{}
				if rotate {
					k.run(t, `{}`)
					before, args = k.current(t), []string{"-rotate-signing-key"}
				}
				reached, killed := make(chan struct{}, 1), make(chan struct{})
				stop := func(operation, _ string) string {
					if operation == "PutSecretValue" {
						select {
						case reached <- struct{}{}:
						default: // the SDK's second try
						}
						<-killed
						return "InternalServiceError"
					}
					return ""
				}
				if put {
					k.manager.Hook(nil, func(operation, arn string) { stop(operation, arn) })
				} else {
					k.manager.Hook(stop, nil)
				}
				cmd, _ := k.shell(t, args...)
				<-reached
				_, text := k.manager.Current(arn)
				require.NoError(t, cmd.Process.Kill())
				close(killed)
				require.Error(t, cmd.Wait())
				k.manager.Hook(nil, nil)

				registered := k.kids(t, "verify_until IS NULL")
				if text != "" { // it signs by now
					key, err := auth.ParseSigningKey(text)
					require.NoError(t, err)
					require.Contains(t, registered, key.Public().KID)
					require.True(t, k.verifies(t, key))
				}
				require.Equal(t, put || rotate, text != "")
				require.Len(t, registered, map[bool]int{true: 2, false: 1}[rotate], "the public half is committed before")
				kid := k.run(t, `{}`)
				require.Equal(t, kid, k.current(t).Public().KID)
				_, after := k.manager.Current(arn)
				require.Equal(t, put || rotate, text == after, "a key that signs goes on")
				if rotate {
					require.True(t, k.verifies(t, before))
				}
			})
		}
	}
}

// Runs at once end with one key that signs, and every key that ever signed verifies.
func TestRunsAtOnce(t *testing.T) {
	t.Parallel()
	k := newKeyring(t)
	var mu sync.Mutex
	signed := map[string]bool{}
	k.manager.Hook(nil, func(string, string) {
		_, text := k.manager.Current(arn)
		mu.Lock()
		defer mu.Unlock()
		signed[text] = true
	})
	var runs sync.WaitGroup
	for i := range 8 {
		args := []string{}
		if i%4 == 3 {
			args = []string{"-rotate-signing-key"}
		}
		cmd, stderr := k.shell(t, args...)
		runs.Go(func() {
			if err := cmd.Wait(); err != nil {
				t.Errorf("%v: %v: %s", args, err, stderr)
			}
		})
	}
	runs.Wait()
	k.current(t)
	delete(signed, "")
	require.GreaterOrEqual(t, len(signed), 2)
	require.LessOrEqual(t, len(signed), 3, "one run made the first key, and two another each")
	for text := range signed {
		key, err := auth.ParseSigningKey(text)
		require.NoError(t, err)
		require.True(t, k.verifies(t, key))
	}
}

// The policies of a deployment take effect late: a denied call is repeated. Any other failure is the deployment's.
func TestPermissionsThatAreLate(t *testing.T) {
	t.Parallel()
	k := newKeyring(t)
	var calls atomic.Int32
	k.manager.Hook(func(string, string) string {
		if n := calls.Add(1); n == 1 || n == 3 {
			return "AccessDeniedException"
		}
		return ""
	}, nil)
	status, _, reason := k.event(t, sample(t, "cloudformation-create"))
	require.Equal(t, "SUCCESS", status, reason)
	require.EqualValues(t, 4, calls.Load())
	require.Contains(t, k.output.String(), "still denies the call")
	k.current(t)

	k.manager.Hook(func(string, string) string { return "ResourceNotFoundException" }, nil)
	status, _, reason = k.event(t, sample(t, "cloudformation-update"))
	require.Equal(t, "FAILED", status)
	require.Contains(t, reason, "ResourceNotFoundException")
	k.manager.Hook(nil, nil)
	k.current(t)
}

// SIGNING_KEY can be the key itself. Then migrate registers it, and whoever runs migrate rotates it.
func TestASigningKeyOfTheEnvironment(t *testing.T) {
	t.Parallel()
	k := &keyring{db: dbtest.Bare(t), manager: secrettest.Start(t)}
	first, second := auth.NewSigningKey(), auth.NewSigningKey()
	for _, key := range []auth.SigningKey{first, first, second} {
		k.function = newFunction(t, k.db.URL, append(k.manager.Env(), "SIGNING_KEY="+key.Text())...)
		require.Equal(t, key.Public().KID, k.run(t, `{}`))
		require.Equal(t, []string{key.Public().KID}, k.kids(t, "verify_until IS NULL"))
		require.True(t, k.verifies(t, first))
	}
	result := k.invoke(t, `{"rotateSigningKey":true}`)
	require.Equal(t, "migration_failed", result.ErrorType)
	require.Contains(t, string(result.Payload), "set another one and run migrate")
	require.NotContains(t, string(result.Payload), second.Text()[20:])
	require.Empty(t, k.manager.Calls())

	k.function = newFunction(t, k.db.URL)
	require.Empty(t, k.run(t, `{}`), "without a SIGNING_KEY nothing changes")
	require.Equal(t, []string{second.Public().KID}, k.kids(t, "verify_until IS NULL"))
	k.function = newFunction(t, k.db.URL, "SIGNING_KEY="+strings.Replace(second.Text(), "private", "public", 1))
	result = k.invoke(t, `{}`)
	require.Equal(t, "migration_failed", result.ErrorType)
	require.Contains(t, string(result.Payload), "SIGNING_KEY")
	require.NotContains(t, string(result.Payload), second.Text()[20:])
}

// A migrate of an earlier release, which a rollback deploys, leaves the keys of a later one alone.
func TestKeysOfALaterRelease(t *testing.T) {
	t.Parallel()
	k := newKeyring(t)
	k.run(t, `{}`)
	key := k.current(t)
	k.db.Exec(t, "INSERT INTO promises_schema_version (version_id, is_applied) VALUES (900, TRUE)")
	require.Empty(t, k.run(t, `{"rotateSigningKey":true}`))
	require.Equal(t, key.Public(), k.current(t).Public())
	require.Equal(t, 1, k.manager.Calls()["PutSecretValue"])
}
