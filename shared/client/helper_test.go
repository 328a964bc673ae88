package client_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/client"
	"github.com/flovyn/promises/shared/client/invoke"
)

// A runner is a running process of the local runner.
type runner struct {
	HTTPURL, LambdaURL, DatabaseURL, Tenant, APIKey string

	readyFile string
	cmd       *exec.Cmd
	output    bytes.Buffer
	exited    chan struct{}
}

var (
	runnerBinary string
	folder       string  // of this test process, which every user can enter, because Postgres runs as another user than root
	local        *runner // serves all tests and examples
)

// TestMain starts the local runner once, with a Postgres of its own.
func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	var err error
	if folder, err = os.MkdirTemp("", "promises-client-test-"); err == nil {
		err = os.Chmod(folder, 0o711) //nolint:gosec // see folder
	}
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(folder)
	runnerBinary = filepath.Join(folder, "local")
	if out, err := exec.Command("go", "build", "-o", runnerBinary, "../../infra/local").CombinedOutput(); err != nil {
		panic(string(out))
	}
	if local, err = start("", "127.0.0.1:0"); err != nil {
		panic(err)
	}
	defer local.stop(syscall.SIGTERM)
	for name, value := range map[string]string{ // as the SDK's config finds them
		"AWS_ENDPOINT_URL_LAMBDA": local.LambdaURL, "AWS_REGION": "eu-central-1", "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
	} {
		os.Setenv(name, value) //nolint:errcheck // it fails for invalid names only
	}
	return m.Run()
}

// start starts a runner that serves HTTP at an address, and waits until it is ready. With an empty databaseURL it has a Postgres of
// its own.
func start(databaseURL, address string) (*runner, error) {
	dir, err := os.MkdirTemp(folder, "runner-")
	if err == nil {
		err = os.Chmod(dir, 0o711) //nolint:gosec // see folder
	}
	if err != nil {
		return nil, err
	}
	readyFile := filepath.Join(dir, "ready.json")
	r := &runner{readyFile: readyFile, exited: make(chan struct{})}
	r.cmd = exec.Command(runnerBinary, "--http", address, "--lambda", "127.0.0.1:0", "--data", filepath.Join(dir, "data"), "--ready-file", readyFile)
	r.cmd.Env = append(os.Environ(), "DATABASE_URL="+databaseURL, "TMPDIR="+dir)
	for _, name := range []string{"MAX_VALUE_BYTES", "MAX_WAITS", "PUBLIC_URL", "SEALING_KEYS", "SIGNING_KEY", "SOURCE_URL_KEY", "TOKEN_KEYS", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_LAMBDA"} {
		r.cmd.Env = append(r.cmd.Env, name+"=")
	}
	r.cmd.Stdout, r.cmd.Stderr = io.Discard, &r.output
	if err := r.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		r.cmd.Wait() //nolint:errcheck // the caller reads the output
		close(r.exited)
	}()
	for deadline := time.Now().Add(3 * time.Minute); ; time.Sleep(10 * time.Millisecond) {
		text, err := os.ReadFile(readyFile)
		if err == nil {
			return r, json.Unmarshal(text, r)
		}
		select {
		case <-r.exited:
			return nil, fmt.Errorf("the runner exited: %s", &r.output)
		default:
		}
		if time.Now().After(deadline) {
			r.stop(syscall.SIGKILL)
			return nil, errors.New("the runner is not ready")
		}
	}
}

// stop sends a signal and waits until the runner has exited.
func (r *runner) stop(s os.Signal) {
	r.cmd.Process.Signal(s) //nolint:errcheck // it may just have exited
	<-r.exited
}

// connect returns a client of the local runner's HTTP API.
func connect(options ...client.Option) *client.Client {
	c, err := client.New(local.HTTPURL, local.Tenant, local.APIKey, options...)
	if err != nil {
		panic(err)
	}
	return c
}

// lambdaClient returns a client of the local runner's Invoke API.
func lambdaClient() *lambda.Client {
	return lambda.New(lambda.Options{
		Region: "eu-central-1", BaseEndpoint: aws.String(local.LambdaURL), Credentials: credentials.NewStaticCredentialsProvider("key", "secret", ""),
	})
}

// transports returns a client of each kind, for a tenant of its own each.
func transports(t *testing.T) map[string]*client.Client {
	t.Helper()
	slug := "t" + strings.ReplaceAll(uuid.NewString(), "-", "")[:12]
	key := newTenant(t, slug+"-http")
	newTenant(t, slug+"-direct")
	h, err := client.New(local.HTTPURL, slug+"-http", key)
	require.NoError(t, err)
	return map[string]*client.Client{"http": h, "direct": invoke.New(lambdaClient(), slug+"-direct", "promises-dev-")}
}

// newTenant makes a tenant with an API key that has every scope.
func newTenant(t *testing.T, slug string) (apiKey string) {
	t.Helper()
	invokeFunction(t, `{"action":"create-tenant","slug":"`+slug+`"}`)
	var key struct{ APIKey string }
	text := invokeFunction(t, `{"action":"create-key","tenant":"`+slug+`","name":"test","scopes":["create","settle","read","manage","deliver"]}`)
	require.NoError(t, json.Unmarshal(text, &key))
	require.NotEmpty(t, key.APIKey)
	return key.APIKey
}

func invokeFunction(t *testing.T, payload string) []byte {
	t.Helper()
	out, err := lambdaClient().Invoke(t.Context(), &lambda.InvokeInput{FunctionName: aws.String("manage-tenants"), Payload: []byte(payload)})
	require.NoError(t, err)
	require.Nil(t, out.FunctionError, "%s", out.Payload)
	return out.Payload
}

// A script is a server that gives its handlers, one for each request in turn. The last one answers all further requests.
type script struct {
	mu       sync.Mutex
	handlers []http.HandlerFunc
	requests []*http.Request
	bodies   []string
}

func (s *script) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body) // a broken request fails the test by its count
	s.mu.Lock()
	s.requests, s.bodies = append(s.requests, r), append(s.bodies, string(body))
	h := s.handlers[min(len(s.requests), len(s.handlers))-1]
	s.mu.Unlock()
	h(w, r)
}

func (s *script) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.requests)
}

// answers returns a handler that gives a status and a body. A body with a code is a problem.
func answers(status int, body string, headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.WriteHeader(status)
		io.WriteString(w, body) //nolint:errcheck // the caller has left
	}
}

// cuts ends the connection without an answer.
func cuts(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

// problem returns a problem of the service.
func problem(code string, status int) string {
	return fmt.Sprintf(`{"type":"t","title":"T","status":%d,"detail":"D.","code":%q}`, status, code)
}

func background() context.Context { return context.Background() }

// postSigned posts a webhook as GitHub does.
func postSigned(ctx context.Context, url, secret, body string) error {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(body))
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Hub-Signature-256", "sha256="+hex.EncodeToString(mac.Sum(nil)))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(resp.Body) // a text for the test's log
		return fmt.Errorf("status %d: %s", resp.StatusCode, text)
	}
	return nil
}
