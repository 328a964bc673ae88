package main_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/flovyn/promises/infra/local/invokeapi"
	"github.com/flovyn/promises/infra/local/lambda"
	"github.com/flovyn/promises/shared/dbtest"
	"github.com/flovyn/promises/shared/delivery"
	"github.com/flovyn/promises/shared/seal"
)

// shell is the path of the command as "go run" builds it, bootstrap that of the function as it is deployed.
var shell, bootstrap string

// TestMain builds the command and the function.
func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "manage-integrations-test-")
	if err != nil {
		panic(err)
	}
	shell, bootstrap = filepath.Join(dir, "manage-integrations"), filepath.Join(dir, "bootstrap")
	code := 1
	if build("-o", shell, ".") && build("-tags", "lambda.norpc", "-o", bootstrap, ".") {
		code = m.Run()
	}
	os.RemoveAll(dir)
	os.Exit(code)
}

func build(args ...string) bool {
	out, err := exec.Command("go", append([]string{"build"}, args...)...).CombinedOutput()
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s\n%v\n", out, err)
	}
	return err == nil
}

const name = "promises-prod-manage-integrations"

// A region is a Lambda API with the function, and with a sender in the place of send-deliveries.
type region struct {
	url    string
	output buffer
	env    []string // of the function
}

// A buffer is a bytes.Buffer that is safe for concurrent use.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func newRegion(t *testing.T, db *dbtest.DB) *region {
	t.Helper()
	r := &region{}
	var service atomic.Pointer[lambda.Service] // the functions' requests come from other processes, and order nothing
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if !strings.Contains(req.URL.Path, "/functions/sender/") {
			invokeapi.Handler{Service: service.Load()}.ServeHTTP(w, req)
			return
		}
		var batch delivery.Batch
		if err := json.NewDecoder(req.Body).Decode(&batch); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		sender := delivery.HTTPSSender{Loopback: true}
		json.NewEncoder(w).Encode(sender.Send(req.Context(), batch)) //nolint:errcheck // the function reports it
	}))
	t.Cleanup(api.Close)
	r.url = api.URL
	r.env = append(aws(r.url), "DATABASE_URL="+db.URL, "SEALING_KEYS="+seal.Generate().Text(), "SEND_FUNCTION=sender", "DELIVER_TO_LOOPBACK=true",
		"SOURCE_URL_KEY="+strings.Repeat("4a", 32))
	functions := lambda.New([]lambda.Function{{Name: name, Path: bootstrap, Timeout: 30 * time.Second, MemoryMB: 256, Env: r.env}},
		lambda.Options{Output: &r.output, InitTimeout: time.Minute})
	t.Cleanup(functions.Close)
	service.Store(functions)
	return r
}

// aws returns the environment of a caller with AWS credentials.
func aws(endpoint string) []string {
	return []string{
		"AWS_ENDPOINT_URL_LAMBDA=" + endpoint, "AWS_REGION=eu-central-1",
		"AWS_ACCESS_KEY_ID=AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY=hunter2", "AWS_SESSION_TOKEN=session",
	}
}

// run runs the command with the given environment only, and returns its exit code and output. It repeats the command if a call took too
// long, as on a busy machine.
func run(binary string, env []string, args ...string) (code int, stdout, stderr string) {
	for range 8 {
		cmd := exec.Command(binary, args...)
		cmd.Env = append([]string{"HOME=/nonexistent", "AWS_EC2_METADATA_DISABLED=true"}, env...)
		var out, failure bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &failure
		_ = cmd.Run() // the exit code has its result
		code, stdout, stderr = cmd.ProcessState.ExitCode(), out.String(), failure.String()
		if !strings.Contains(stderr, "Repeat the call") {
			break
		}
	}
	return code, stdout, stderr
}

// A receiver verifies each message with the secret that it knows.
type receiver struct {
	*httptest.Server

	mu     sync.Mutex // the requests come from other processes, and order nothing
	secret string
	seen   []map[string]any
}

// knows makes the receiver know a secret.
func (r *receiver) knows(secret string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.secret = secret
}

func (r *receiver) messages() []map[string]any {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.seen)
}

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	r := &receiver{}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		r.mu.Lock()
		defer r.mu.Unlock()
		hook, made := standardwebhooks.NewWebhook(r.secret)
		var message map[string]any
		if err != nil || made != nil || hook.Verify(body, req.Header) != nil || json.Unmarshal(body, &message) != nil {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		r.seen = append(r.seen, message)
	}))
	t.Cleanup(r.Close)
	return r
}

// The whole life of a destination, through the deployed function and in a database. The subtests run in order.
func TestADestination(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		function bool
	}{{"through the deployed function", true}, {"in a database", false}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			db := dbtest.New(t)
			db.Tenant(t, "acme")
			r, to := newRegion(t, db), newReceiver(t)
			do := func(t *testing.T, args ...string) map[string]any {
				t.Helper()
				env := r.env
				if c.function {
					env, args = aws(r.url), append([]string{"--function", name}, args...)
				}
				code, stdout, stderr := run(shell, env, args...)
				require.Zero(t, code, stderr)
				var answer map[string]any
				require.NoError(t, json.Unmarshal([]byte(stdout), &answer))
				return answer
			}
			secrets := []string{do(t, "put-destination", "acme", "orders", to.URL)["secret"].(string)}
			to.knows(secrets[0])
			t.Run("a repeated put shows no secret", func(t *testing.T) {
				again := do(t, "put-destination", "acme", "orders", to.URL)
				require.Equal(t, false, again["created"])
				require.NotContains(t, again, "secret")
			})
			t.Run("a test is signed with the secret", func(t *testing.T) {
				require.Equal(t, "delivered", do(t, "test-destination", "acme", "orders")["outcome"])
				require.Equal(t, []any{"destination.test", "acme"}, []any{to.messages()[0]["type"], to.messages()[0]["tenant"]})
			})
			t.Run("after a rotation both secrets sign, even while the destination is paused", func(t *testing.T) {
				require.Equal(t, false, do(t, "pause-destination", "acme", "orders")["enabled"])
				rotated := do(t, "rotate-secret", "acme", "orders", "overlapSeconds=3600")["secret"].(string)
				secrets = append(secrets, rotated)
				for _, secret := range secrets {
					to.knows(secret)
					require.Equal(t, "delivered", do(t, "test-destination", "acme", "orders")["outcome"])
				}
			})
			t.Run("another secret is refused, and the test says so", func(t *testing.T) {
				to.knows(delivery.NewSecret())
				tested := do(t, "test-destination", "acme", "orders")
				require.Equal(t, []any{"failed", 401.0}, []any{tested["outcome"], tested["status"]})
			})
			t.Run("the default", func(t *testing.T) {
				do(t, "set-default-destination", "acme", "orders")
				require.Equal(t, true, do(t, "get-destination", "acme", "orders")["default"])
				require.Nil(t, do(t, "set-default-destination", "acme")["destination"])
			})
			t.Run("delete", func(t *testing.T) {
				require.Equal(t, true, do(t, "enable-destination", "acme", "orders")["enabled"])
				require.Equal(t, true, do(t, "delete-destination", "acme", "orders")["deleted"])
				require.Empty(t, do(t, "list-destinations", "acme")["destinations"])
			})
			for _, secret := range secrets {
				require.NotContains(t, r.output.String(), secret, "the log has no secret")
			}
		})
	}
}

// The life of a source, through the deployed function and in a database. The subtests run in order.
func TestASource(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		return "@" + path
	}
	definition := file("source.json", `{"verifier":{"preset":"github"},"rules":[{"key":"'github:' + string(body.id)","then":"resolve"}]}`)
	request := file("request.json", `{"headers":{"X-GitHub-Event":"push"},"body":"{\"id\":9007199254740993}"}`)
	for _, function := range []bool{true, false} {
		t.Run(fmt.Sprint("through the deployed function: ", function), func(t *testing.T) {
			t.Parallel()
			db := dbtest.New(t)
			db.Tenant(t, "acme")
			r := newRegion(t, db)
			do := func(t *testing.T, args ...string) map[string]any {
				t.Helper()
				env := r.env
				if function {
					env, args = aws(r.url), append([]string{"--function", name}, args...)
				}
				code, stdout, stderr := run(shell, env, args...)
				require.Zero(t, code, stderr)
				var answer map[string]any
				require.NoError(t, json.Unmarshal([]byte(stdout), &answer))
				return answer
			}
			made := do(t, "put-source", "acme", "github", definition)
			secret := made["secret"].(string)
			require.Regexp(t, "^/api/tenants/acme/webhooks/github-[a-z2-7]{16}$", made["url"])
			t.Run("a test shows what a request would do", func(t *testing.T) {
				tested := do(t, "test-source", "acme", "github", request)
				require.Equal(t, false, tested["verified"])
				item := tested["items"].([]any)[0].(map[string]any)
				require.Equal(t, []any{"github:9007199254740993", "held"}, []any{item["key"], item["outcome"]})
				require.NotContains(t, do(t, "get-source", "acme", "github"), "lastReceivedAt")
			})
			t.Run("disable and enable", func(t *testing.T) {
				require.Equal(t, false, do(t, "disable-source", "acme", "github")["enabled"])
				require.Equal(t, true, do(t, "enable-source", "acme", "github")["enabled"])
			})
			t.Run("rotate", func(t *testing.T) {
				given := file(fmt.Sprint(function), `{"secret":"a secret of the sender"}`)
				require.Len(t, do(t, "rotate-source-secret", "acme", "github", "overlapSeconds=60", given)["secrets"], 2)
				require.NotEmpty(t, do(t, "rotate-source-secret", "acme", "github", "replaceVersion=1")["secret"])
			})
			t.Run("delete", func(t *testing.T) {
				require.Len(t, do(t, "list-sources", "acme")["sources"], 1)
				require.Equal(t, true, do(t, "delete-source", "acme", "github")["deleted"])
			})
			require.NotContains(t, r.output.String(), secret, "the log has no secret")
		})
	}
}

func TestUsageAndFailures(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	db.Tenant(t, "acme")
	env := []string{"DATABASE_URL=" + db.URL}
	keys := "SEALING_KEYS=" + seal.Generate().Text()
	for _, c := range []struct {
		args string
		env  []string
		code int
		says string
	}{
		{"", nil, 2, "usage: manage-integrations [--function <name>] <command>"},
		{"put-destination acme orders", nil, 2, "the argument url is missing"},
		{"list-destinations acme more", nil, 2, "takes no argument"},
		{"rotate-secret acme orders overlap=1", nil, 2, "is not an argument of a rotation"},
		{"list-destinations acme", nil, 2, "DATABASE_URL is not set"},
		{"get-destination acme orders", env, 1, "There is no such destination"},
		{"list-destinations nobody", env, 1, "There is no such tenant"},
		{"put-destination acme orders http://127.0.0.1:1/hunter2", env, 1, "url: The service cannot send to this URL"},
		{"put-destination acme orders https://example.com/", env, 1, "SEALING_KEYS is not set"},
		{"put-destination acme orders https://example.com/", append(env, "SEALING_KEYS=hunter2"), 1, "SEALING_KEYS: the key ring must have"},
		{"put-destination acme orders https://example.com/", append(env, keys), 0, ""},
		{"test-destination acme orders", append(env, keys), 1, "SEND_FUNCTION is not set"},
		{"put-source acme stripe", nil, 2, "the argument @<file> is missing"},
		{"put-source acme stripe stripe.json", nil, 2, "Write @ and the name of a file"},
		{"put-source acme stripe @/nonexistent/hunter3", env, 1, "no such file"},
		{"rotate-source-secret acme stripe overlap=1", nil, 2, "is not an argument of a rotation"},
		{"get-source acme stripe", env, 1, "There is no such source"},
		{"replay-receipt acme x", env, 1, "receiptId: A receipt's id is a UUID"},
		{"test-destination acme orders", append(env, keys, "SEND_FUNCTION=f", "AWS_ENDPOINT_URL_LAMBDA=http://127.0.0.1:1", "AWS_REGION=eu-central-1"), 1,
			"The test message cannot be sent at the moment"},
		{"test-destination acme orders", append(env, "SEALING_KEYS="+seal.Generate().Text(), "SEND_FUNCTION=f"), 1, "cannot be decrypted at the moment"},
	} {
		t.Run(c.args, func(t *testing.T) {
			code, _, stderr := run(shell, c.env, strings.Fields(c.args)...)
			require.Equal(t, c.code, code, stderr)
			require.Contains(t, stderr, c.says)
			require.NotContains(t, stderr, "hunter2")
		})
	}
	t.Run("the deployed build has no --function", func(t *testing.T) {
		code, _, stderr := run(bootstrap, aws("http://127.0.0.1:1"), "--function", name, "list-destinations", "acme")
		require.Equal(t, 1, code)
		require.Contains(t, stderr, "go run ./functions/manage-integrations")
	})
}
