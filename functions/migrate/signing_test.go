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

// A keyring is a function with a database and the secret of its signing key.
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

// run invokes the function and returns the kid in its answer.
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

// current returns the key that signs. It requires that no other key is without an end.
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

// kids returns the kids of the rows that match, oldest first.
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
	_, err = auth.NewVerifier(repository.New(k.db.Pool), auth.Always(auth.VerificationKeys{}), time.Now, slog.New(slog.DiscardHandler)).Verify(t.Context(), token, now)
	if err != nil {
		require.ErrorIs(t, err, auth.ErrTokenRefused)
	}
	return err == nil
}

// The first deployment creates a key, and later ones keep it.
func TestADeploymentEnsuresASigningKey(t *testing.T) {
	t.Parallel()
	k := newKeyring(t)
	for _, kind := range []string{"create", "update", "update", "delete"} {
		status, _, reason := k.event(t, sample(t, "cloudformation-"+kind))
		require.Equal(t, "SUCCESS", status, reason)
	}
	first := k.current(t)
	t.Run("the first key verifies", func(t *testing.T) { require.True(t, k.verifies(t, first)) })
	for _, payload := range []string{`{}`, `{"roles":true}`} {
		t.Run("it stays after "+payload, func(t *testing.T) { require.Equal(t, first.Public().KID, k.run(t, payload)) })
	}
	t.Run("it is the only key, because a new database has no tokens of earlier releases", func(t *testing.T) {
		require.Equal(t, []string{first.Public().KID}, k.kids(t, "TRUE"))
	})
	t.Run("migrate never reads a private key", func(t *testing.T) {
		require.Equal(t, map[string]int{"DescribeSecret": 5, "PutSecretValue": 1}, k.manager.Calls())
	})
	t.Run("an invalid secret is replaced by a new key", func(t *testing.T) {
		k.manager.Set(arn, "an-operator-wrote-this-by-himself-", "no key")
		repaired := k.run(t, `{}`)
		require.Equal(t, repaired, k.current(t).Public().KID)
		require.NotEqual(t, first.Public().KID, repaired)
		require.True(t, k.verifies(t, first), "the tokens of the first key stay valid")
	})
}

// After a rotation a new key signs. The old key verifies until its last token has expired. A revoked key verifies nothing.
func TestRotation(t *testing.T) {
	t.Parallel()
	k := newKeyring(t)
	k.run(t, `{}`)
	first := k.current(t)
	var second, third, fourth auth.SigningKey
	t.Run("the public half is in the table 900 ms before the private half is in the secret", func(t *testing.T) {
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
		second = k.current(t)
		require.Equal(t, kid, second.Public().KID)
		require.NotEqual(t, first.Public().KID, kid)
	})
	t.Run("both keys verify", func(t *testing.T) {
		require.True(t, k.verifies(t, first))
		require.True(t, k.verifies(t, second))
	})
	t.Run("the old key ends after 366 days", func(t *testing.T) {
		require.Equal(t, []string{first.Public().KID}, k.kids(t, "verify_until BETWEEN NOW() + INTERVAL '365 days 23 hours' AND NOW() + INTERVAL '366 days'"))
	})
	t.Run("a deployment does not postpone the end", func(t *testing.T) {
		k.db.Exec(t, "UPDATE signing_key SET verify_until = NOW() + INTERVAL '1 hour' WHERE verify_until IS NOT NULL")
		k.run(t, `{}`)
		require.Equal(t, []string{first.Public().KID}, k.kids(t, "verify_until < NOW() + INTERVAL '2 hours'"))
	})
	t.Run("a key that has ended verifies nothing", func(t *testing.T) {
		k.db.Exec(t, "UPDATE signing_key SET verify_until = NOW() WHERE verify_until IS NOT NULL")
		require.False(t, k.verifies(t, first))
		require.Equal(t, []string{first.Public().KID, second.Public().KID}, k.kids(t, "TRUE"))
	})
	t.Run("the next run deletes a key that has ended", func(t *testing.T) {
		k.run(t, `{}`)
		require.Equal(t, []string{second.Public().KID}, k.kids(t, "TRUE"))
	})

	k.run(t, `{"rotateSigningKey":true}`)
	third = k.current(t)
	k.db.Exec(t, "INSERT INTO signing_key (kid, algorithm, verify_until) VALUES ('hs256', 'HS256', NOW() + INTERVAL '1 day')")
	k.run(t, `{"rotateSigningKey":true,"revoke":true}`)
	fourth = k.current(t)
	for name, revoked := range map[string]auth.SigningKey{"first": first, "second": second, "third": third} {
		t.Run("a revocation ends the "+name+" key", func(t *testing.T) { require.False(t, k.verifies(t, revoked)) })
	}
	t.Run("the new key verifies after a revocation", func(t *testing.T) { require.True(t, k.verifies(t, fourth)) })
	t.Run("a revocation keeps the tokens of earlier releases", func(t *testing.T) {
		require.ElementsMatch(t, []string{"hs256", fourth.Public().KID}, k.kids(t, "TRUE"))
	})
	t.Run("migrate never reads a private key", func(t *testing.T) { require.Zero(t, k.manager.Calls()["GetSecretValue"]) })
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

// If a run is killed before or after it writes the secret, the key that signs can be verified, and the next run repairs the rest.
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
						default: // the SDK tries again
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
				if text != "" { // the key in the secret signs
					key, err := auth.ParseSigningKey(text)
					require.NoError(t, err)
					require.Contains(t, registered, key.Public().KID)
					require.True(t, k.verifies(t, key))
				}
				require.Equal(t, put || rotate, text != "")
				require.Len(t, registered, map[bool]int{true: 2, false: 1}[rotate], "the public half is committed first")
				kid := k.run(t, `{}`)
				require.Equal(t, kid, k.current(t).Public().KID)
				_, after := k.manager.Current(arn)
				require.Equal(t, put || rotate, text == after, "a key that signs stays")
				if rotate {
					require.True(t, k.verifies(t, before))
				}
			})
		}
	}
}

// After concurrent runs one key signs, and each key that has signed verifies.
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
	require.LessOrEqual(t, len(signed), 3, "one run created the first key, and two runs rotated it")
	for text := range signed {
		key, err := auth.ParseSigningKey(text)
		require.NoError(t, err)
		require.True(t, k.verifies(t, key))
	}
}

// A deployment's policies take effect late, so that migrate repeats a denied call. Any other failure fails the deployment.
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
	t.Run("a denied call is repeated", func(t *testing.T) {
		status, _, reason := k.event(t, sample(t, "cloudformation-create"))
		require.Equal(t, "SUCCESS", status, reason)
		require.EqualValues(t, 4, calls.Load())
		require.Contains(t, k.output.String(), "still denies the call")
		k.current(t)
	})
	t.Run("another failure fails the deployment and keeps the key", func(t *testing.T) {
		k.manager.Hook(func(string, string) string { return "ResourceNotFoundException" }, nil)
		status, _, reason := k.event(t, sample(t, "cloudformation-update"))
		require.Equal(t, "FAILED", status)
		require.Contains(t, reason, "ResourceNotFoundException")
		k.manager.Hook(nil, nil)
		k.current(t)
	})
}

// SIGNING_KEY can be the key itself. Each run then registers the key, so that the operator rotates it with a new SIGNING_KEY.
func TestASigningKeyOfTheEnvironment(t *testing.T) {
	t.Parallel()
	k := &keyring{db: dbtest.Bare(t), manager: secrettest.Start(t)}
	first, second := auth.NewSigningKey(), auth.NewSigningKey()
	for _, c := range []struct {
		name string
		key  auth.SigningKey
	}{{"the first run", first}, {"a repeated run", first}, {"a run with a new key", second}} {
		k.function = newFunction(t, k.db.URL, append(k.manager.Env(), "SIGNING_KEY="+c.key.Text())...)
		t.Run(c.name, func(t *testing.T) {
			require.Equal(t, c.key.Public().KID, k.run(t, `{}`))
			require.Equal(t, []string{c.key.Public().KID}, k.kids(t, "verify_until IS NULL"))
			require.True(t, k.verifies(t, first))
		})
	}
	t.Run("migrate cannot rotate it", func(t *testing.T) {
		result := k.invoke(t, `{"rotateSigningKey":true}`)
		require.Equal(t, "migration_failed", result.ErrorType)
		require.Contains(t, string(result.Payload), "set another one and run migrate")
		require.NotContains(t, string(result.Payload), second.Text()[20:])
		require.Empty(t, k.manager.Calls())
	})
	k.function = newFunction(t, k.db.URL)
	t.Run("a run without SIGNING_KEY changes no key", func(t *testing.T) {
		require.Empty(t, k.run(t, `{}`))
		require.Equal(t, []string{second.Public().KID}, k.kids(t, "verify_until IS NULL"))
	})
	k.function = newFunction(t, k.db.URL, "SIGNING_KEY="+strings.Replace(second.Text(), "private", "public", 1))
	t.Run("an invalid key fails the run and stays secret", func(t *testing.T) {
		result := k.invoke(t, `{}`)
		require.Equal(t, "migration_failed", result.ErrorType)
		require.Contains(t, string(result.Payload), "SIGNING_KEY")
		require.NotContains(t, string(result.Payload), second.Text()[20:])
	})
}

// After a rollback, the migrate of the earlier release does not change the keys of the later release.
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
