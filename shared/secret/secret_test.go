package secret_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/secret"
)

const arn = "arn:aws:secretsmanager:eu-west-3:123456789012:secret:promises/token-keys-AbCdEf"

// manager starts a fake Secrets Manager. It verifies the signature of each call, and answers with the next of answers.
func manager(t *testing.T, answers ...func(http.ResponseWriter)) *atomic.Int32 {
	t.Helper()
	calls := new(atomic.Int32)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || !strings.HasPrefix(r.Header.Get("X-Amz-Target"), "secretsmanager.") || !strings.Contains(string(body), `"SecretId":"`+arn+`"`) {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		made, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		again := r.Clone(context.Background())
		_, signed, _ := strings.Cut(r.Header.Get("Authorization"), "SignedHeaders=")
		signed, _, _ = strings.Cut(signed, ",")
		for name := range again.Header { // proxies and clients add unsigned headers
			if !strings.Contains(";"+signed+";", ";"+strings.ToLower(name)+";") {
				again.Header.Del(name)
			}
		}
		again.URL.Host, again.URL.Scheme = r.Host, "http"
		again.Body = io.NopCloser(bytes.NewReader(body))
		sum := sha256.Sum256(body)
		err = v4.NewSigner().SignHTTP(context.Background(), aws.Credentials{
			AccessKeyID: "AKID", SecretAccessKey: "SECRET", SessionToken: "SESSION",
		}, again, hex.EncodeToString(sum[:]), "secretsmanager", "eu-west-3", made)
		if err != nil || again.Header.Get("Authorization") != r.Header.Get("Authorization") {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		n := int(calls.Add(1))
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		answers[min(n, len(answers))-1](w)
	}))
	t.Cleanup(server.Close)
	t.Setenv("AWS_ENDPOINT_URL_SECRETS_MANAGER", server.URL)
	t.Setenv("AWS_ACCESS_KEY_ID", "AKID")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "SECRET")
	t.Setenv("AWS_SESSION_TOKEN", "SESSION")
	return calls
}

func answer(status int, body string) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) {
		w.WriteHeader(status)
		io.WriteString(w, body) //nolint:errcheck // the test would fail
	}
}

func TestGet(t *testing.T) {
	manager(t, answer(200, `{"ARN":"`+arn+`","SecretString":"{\"a\":1}"}`))
	t.Run("returns the secret", func(t *testing.T) {
		s, err := secret.Get(t.Context(), arn)
		require.NoError(t, err)
		require.Equal(t, `{"a":1}`, s)
	})
	t.Run("signs with the credentials in the environment", func(t *testing.T) {
		t.Setenv("AWS_SECRET_ACCESS_KEY", "ANOTHER")
		_, err := secret.Get(t.Context(), arn)
		require.ErrorContains(t, err, "403")
	})
}

func TestVersion(t *testing.T) {
	t.Run("an empty secret has none", func(t *testing.T) {
		manager(t, answer(200, `{"ARN":"`+arn+`"}`))
		version, err := secret.Version(t.Context(), arn)
		require.NoError(t, err)
		require.Empty(t, version)
	})
	t.Run("returns the current one", func(t *testing.T) {
		manager(t, answer(200, `{"ARN":"`+arn+`","VersionIdsToStages":{"a":["AWSPREVIOUS"],"b":["AWSCURRENT"],"c":["AWSPENDING"]}}`))
		version, err := secret.Version(t.Context(), arn)
		require.NoError(t, err)
		require.Equal(t, "b", version)
	})
	t.Run("access denied", func(t *testing.T) {
		manager(t, answer(400, `{"__type":"AccessDeniedException","Message":"no"}`))
		_, err := secret.Version(t.Context(), arn)
		require.True(t, secret.Denied(err))
	})
	t.Run("no such secret", func(t *testing.T) {
		manager(t, answer(400, `{"__type":"ResourceNotFoundException","Message":"no"}`))
		_, err := secret.Version(t.Context(), arn)
		require.ErrorContains(t, err, "ResourceNotFoundException")
		require.False(t, secret.Denied(err))
	})
	t.Run("not an ARN", func(t *testing.T) {
		_, err := secret.Version(t.Context(), "x")
		require.Error(t, err)
	})
}

func TestPut(t *testing.T) {
	version := strings.Repeat("v", 32)
	t.Run("stores a version", func(t *testing.T) {
		manager(t, answer(200, `{"ARN":"`+arn+`"}`))
		require.NoError(t, secret.Put(t.Context(), arn, version, "hunter2"))
	})
	t.Run("an error does not contain the secret", func(t *testing.T) {
		manager(t, answer(200, `{"ARN":"`+arn+`"}`))
		t.Setenv("AWS_SECRET_ACCESS_KEY", "ANOTHER")
		err := secret.Put(t.Context(), arn, version, "hunter2")
		require.ErrorContains(t, err, "403")
		require.NotContains(t, err.Error(), "hunter2")
	})
	t.Run("access denied", func(t *testing.T) {
		manager(t, answer(400, `{"__type":"AccessDeniedException","Message":"no"}`))
		require.True(t, secret.Denied(secret.Put(t.Context(), arn, version, "hunter2")))
	})
	t.Run("not an ARN", func(t *testing.T) {
		require.ErrorContains(t, secret.Put(t.Context(), "hunter2", "v", "x"), "not the ARN of a secret")
	})
}

func TestNoErrorIsNotADenial(t *testing.T) {
	t.Parallel()
	require.False(t, secret.Denied(nil))
}

func TestGetTriesAgain(t *testing.T) {
	calls := manager(t, answer(500, `{"__type":"InternalServiceError"}`), answer(200, `{"SecretString":"s"}`))
	s, err := secret.Get(t.Context(), arn)
	require.NoError(t, err)
	require.Equal(t, "s", s)
	require.EqualValues(t, 2, calls.Load())
}

func TestGetFails(t *testing.T) {
	t.Run("no such secret: no retry", func(t *testing.T) {
		calls := manager(t, answer(400, `{"__type":"ResourceNotFoundException","Message":"gone"}`))
		_, err := secret.Get(t.Context(), arn)
		require.ErrorContains(t, err, "ResourceNotFoundException")
		require.EqualValues(t, 1, calls.Load())
	})
	t.Run("a binary secret", func(t *testing.T) {
		manager(t, answer(200, `{"SecretBinary":"AAAA"}`))
		_, err := secret.Get(t.Context(), arn)
		require.ErrorContains(t, err, "binary")
	})
	t.Run("no answer", func(t *testing.T) {
		ended := make(chan struct{})
		manager(t, func(http.ResponseWriter) { <-ended })
		_, err := secret.Get(t.Context(), arn)
		close(ended)
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
	for _, s := range []string{"", "k:c2VjcmV0", "arn:aws:secretsmanager:eu-west-3", "arn:aws:ssm:eu-west-3:1:parameter/x"} {
		t.Run("not an ARN: "+s, func(t *testing.T) {
			_, err := secret.Get(t.Context(), s)
			require.Error(t, err)
			require.NotContains(t, err.Error(), "c2VjcmV0")
		})
	}
}

func TestIsARN(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]bool{
		arn: true, "arn:aws-cn:secretsmanager:cn-north-1:1:secret:x": true, "arn:c2VjcmV0": false,
	} {
		t.Run(s, func(t *testing.T) { require.Equal(t, want, secret.IsARN(s)) })
	}
}
