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

// manager plays Secrets Manager's part: it takes what is signed as it must be, and answers with the next of answers.
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
		for name := range again.Header { // proxies and clients add some that are not signed
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
		io.WriteString(w, body) //nolint:errcheck // the test tells
	}
}

func TestGet(t *testing.T) {
	manager(t, answer(200, `{"ARN":"`+arn+`","SecretString":"{\"a\":1}"}`))
	s, err := secret.Get(t.Context(), arn)
	require.NoError(t, err)
	require.Equal(t, `{"a":1}`, s)

	t.Setenv("AWS_SECRET_ACCESS_KEY", "ANOTHER")
	_, err = secret.Get(t.Context(), arn)
	require.ErrorContains(t, err, "403")
}

// A version is named by its writer, and can be asked for without the secret.
func TestPut(t *testing.T) {
	manager(t, answer(200, `{"ARN":"`+arn+`"}`))
	version, err := secret.Version(t.Context(), arn)
	require.NoError(t, err)
	require.Empty(t, version, "an empty secret")

	manager(t, answer(200, `{"ARN":"`+arn+`","VersionIdsToStages":{"a":["AWSPREVIOUS"],"b":["AWSCURRENT"],"c":["AWSPENDING"]}}`))
	version, err = secret.Version(t.Context(), arn)
	require.NoError(t, err)
	require.Equal(t, "b", version)
	require.NoError(t, secret.Put(t.Context(), arn, strings.Repeat("v", 32), "hunter2"))

	t.Setenv("AWS_SECRET_ACCESS_KEY", "ANOTHER")
	err = secret.Put(t.Context(), arn, strings.Repeat("v", 32), "hunter2")
	require.ErrorContains(t, err, "403")
	require.NotContains(t, err.Error(), "hunter2")
	manager(t, answer(400, `{"__type":"AccessDeniedException","Message":"no"}`))
	require.True(t, secret.Denied(secret.Put(t.Context(), arn, strings.Repeat("v", 32), "hunter2")))
	_, err = secret.Version(t.Context(), arn)
	require.True(t, secret.Denied(err))
	manager(t, answer(400, `{"__type":"ResourceNotFoundException","Message":"no"}`))
	_, err = secret.Version(t.Context(), arn)
	require.ErrorContains(t, err, "ResourceNotFoundException")
	require.False(t, secret.Denied(err))
	require.False(t, secret.Denied(nil))

	_, err = secret.Version(t.Context(), "x")
	require.Error(t, err)
	require.ErrorContains(t, secret.Put(t.Context(), "hunter2", "v", "x"), "not the ARN of a secret")
}

func TestGetTriesAgain(t *testing.T) {
	calls := manager(t, answer(500, `{"__type":"InternalServiceError"}`), answer(200, `{"SecretString":"s"}`))
	s, err := secret.Get(t.Context(), arn)
	require.NoError(t, err)
	require.Equal(t, "s", s)
	require.EqualValues(t, 2, calls.Load())
}

func TestGetFails(t *testing.T) {
	told := make(chan struct{})
	calls := manager(t, answer(400, `{"__type":"ResourceNotFoundException","Message":"gone"}`), answer(200, `{"SecretBinary":"AAAA"}`),
		func(http.ResponseWriter) { <-told })
	_, err := secret.Get(t.Context(), arn)
	require.ErrorContains(t, err, "ResourceNotFoundException")
	require.EqualValues(t, 1, calls.Load(), "what is not there is not asked for again")
	_, err = secret.Get(t.Context(), arn)
	require.ErrorContains(t, err, "binary")
	_, err = secret.Get(t.Context(), arn)
	close(told)
	require.ErrorIs(t, err, context.DeadlineExceeded)

	for _, s := range []string{"", "k:c2VjcmV0", "arn:aws:secretsmanager:eu-west-3", "arn:aws:ssm:eu-west-3:1:parameter/x"} {
		_, err := secret.Get(t.Context(), s)
		require.Error(t, err)
		require.NotContains(t, err.Error(), "c2VjcmV0")
	}
	require.True(t, secret.IsARN(arn))
	require.True(t, secret.IsARN("arn:aws-cn:secretsmanager:cn-north-1:1:secret:x"))
	require.False(t, secret.IsARN("arn:c2VjcmV0"))
}
