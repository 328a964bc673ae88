package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	sdk "github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/infra/build"
	"github.com/flovyn/promises/infra/local/httpapi"
	"github.com/flovyn/promises/infra/local/lambda"
	"github.com/flovyn/promises/shared/auth"
	"github.com/flovyn/promises/shared/dbtest"
	"github.com/flovyn/promises/shared/dbtest/rdstest"
	"github.com/flovyn/promises/shared/dbtest/secrettest"
	"github.com/flovyn/promises/shared/openapi/openapitest"
	"github.com/flovyn/promises/shared/routes"
	"github.com/flovyn/promises/shared/seal"
	"github.com/flovyn/promises/shared/webhook"
)

var localBinary string // the binary of this package

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "local")
	if err != nil {
		panic(err)
	}
	localBinary = filepath.Join(dir, "local")
	build := exec.Command("go", "build", "-o", localBinary, ".")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		panic(err)
	}
	differ := checkExchanges()
	code := m.Run()
	os.RemoveAll(dir)
	if differ() {
		code = 1
	}
	os.Exit(code)
}

// checkExchanges compares all exchanges of the tests' default client with the description of the API. differ prints those that it does not allow.
func checkExchanges() (differ func() bool) {
	d, err := openapitest.Load()
	if err != nil {
		panic(err)
	}
	var mu sync.Mutex
	var faults []error
	http.DefaultTransport = &openapitest.Transport{Base: http.DefaultTransport, Description: d, Fault: func(err error) {
		mu.Lock()
		defer mu.Unlock()
		faults = append(faults, err)
	}}
	return func() bool {
		mu.Lock()
		defer mu.Unlock()
		for _, err := range faults {
			fmt.Fprintln(os.Stderr, "shared/openapi/openapi.yaml does not allow this:", err)
		}
		return len(faults) > 0
	}
}

// tempFolder returns a temporary folder that every user can enter. If root runs the
// tests, Postgres runs as another user.
func tempFolder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "promises-local-test-")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	require.NoError(t, os.Chmod(dir, 0o711)) //nolint:gosec // Postgres must enter it
	return dir
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

// A runner is a running process of this command.
type runner struct {
	cmd            *exec.Cmd
	stdout, stderr buffer
	ready          ready
	readyFile, tmp string
	exited         chan struct{}
}

// startRunner starts a runner with a data folder of its own and waits until it is ready.
func startRunner(t *testing.T) *runner {
	t.Helper()
	return startWith(t, "", []string{localBinary}, "--data", filepath.Join(tempFolder(t), "data")).awaitReady(t)
}

// startWith starts the command in its own process group, on free ports, with the given DATABASE_URL.
func startWith(t *testing.T, databaseURL string, command []string, args ...string) *runner {
	t.Helper()
	return startCommand(t, []string{"DATABASE_URL=" + databaseURL}, command, args...)
}

// startCommand starts the command like startWith, with the given environment variables.
func startCommand(t *testing.T, env, command []string, args ...string) *runner {
	t.Helper()
	dir := tempFolder(t)
	r := &runner{readyFile: filepath.Join(dir, "ready.json"), tmp: filepath.Join(dir, "tmp"), exited: make(chan struct{})}
	require.NoError(t, os.Mkdir(r.tmp, 0o711)) //nolint:gosec // see tempFolder
	command = append(append(command, "--http", "127.0.0.1:0", "--lambda", "localhost:0", "--ready-file", r.readyFile), args...)
	r.cmd = exec.Command(command[0], command[1:]...)
	r.cmd.Env = append(os.Environ(), "DATABASE_URL=", "TMPDIR="+r.tmp, "MAX_VALUE_BYTES=1000", "RETENTION_DAYS=1",
		"LOG_LEVEL=", "PUBLIC_URL=", "SEALING_KEYS=", "SIGNING_KEY=", "SOURCE_URL_KEY=", "TOKEN_KEYS=", "AWS_ENDPOINT_URL=")
	for _, service := range awsServices {
		r.cmd.Env = append(r.cmd.Env, "AWS_ENDPOINT_URL_"+service+"=")
	}
	r.cmd.Env = append(r.cmd.Env, env...)
	r.cmd.Stdout, r.cmd.Stderr = &r.stdout, &r.stderr
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	require.NoError(t, r.cmd.Start())
	go func() {
		r.cmd.Wait() //nolint:errcheck // the tests read ProcessState
		close(r.exited)
	}()
	t.Cleanup(func() {
		select {
		case <-r.exited:
		default:
			syscall.Kill(-r.cmd.Process.Pid, syscall.SIGTERM) //nolint:errcheck // it may just have exited
			<-r.exited
		}
	})
	return r
}

// awaitReady waits until the runner has written its ready file, and reads it.
func (r *runner) awaitReady(t *testing.T) *runner {
	t.Helper()
	for deadline := time.Now().Add(3 * time.Minute); ; {
		b, err := os.ReadFile(r.readyFile)
		if err == nil {
			require.NoError(t, json.Unmarshal(b, &r.ready))
			return r
		}
		select {
		case <-r.exited:
			require.FailNow(t, "the runner exited", "%s%s", &r.stdout, &r.stderr)
		case <-time.After(10 * time.Millisecond):
		}
		require.True(t, time.Now().Before(deadline), "not ready: %s%s", &r.stdout, &r.stderr)
	}
}

// stop sends the signal to the whole process group, as a terminal does. It checks that
// only the data is left.
func (r *runner) stop(t *testing.T, s syscall.Signal) {
	t.Helper()
	require.NoError(t, syscall.Kill(-r.cmd.Process.Pid, s))
	time.Sleep(20 * time.Millisecond)
	syscall.Kill(-r.cmd.Process.Pid, s) //nolint:errcheck // a second signal changes nothing
	<-r.exited
	require.True(t, r.cmd.ProcessState.Success(), "%v\n%s%s", r.cmd.ProcessState, &r.stdout, &r.stderr)
	require.NoFileExists(t, r.readyFile)
	left, err := os.ReadDir(r.tmp)
	require.NoError(t, err)
	require.Empty(t, left)
	require.Empty(t, processesIn(r.tmp))
	_, err = net.Dial("tcp", strings.TrimPrefix(r.ready.HTTPURL, "http://"))
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
}

// processesIn lists the processes whose binary is in the folder. Without /proc it
// returns none.
func processesIn(dir string) []string {
	exes, _ := filepath.Glob("/proc/[0-9]*/exe")
	var found []string
	for _, exe := range exes {
		if target, err := os.Readlink(exe); err == nil && strings.HasPrefix(target, dir) {
			found = append(found, target)
		}
	}
	return found
}

// call calls the demo tenant's API with the runner's API key.
func (r *runner) call(t *testing.T, method, path, body string) (int, map[string]any) {
	t.Helper()
	status, b := request(t, method, r.promises(path), "Bearer "+r.ready.APIKey, body)
	var fields map[string]any
	require.NoError(t, json.Unmarshal([]byte(b), &fields), "%s", b)
	return status, fields
}

// promises returns the URL of a path of the demo tenant.
func (r *runner) promises(path string) string { return r.ready.HTTPURL + "/api/tenants/demo" + path }

// request makes one HTTP request. If authorization is empty, it sends no such header.
func request(t *testing.T, method, url, authorization, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/json")
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(b)
}

// create creates a promise with an idempotency key and returns its id.
func (r *runner) create(t *testing.T, key string) (promiseID string) {
	t.Helper()
	status, p := r.call(t, "POST", "/promises", fmt.Sprintf(
		`{"workflowExecutionId":%q,"name":"payment","idempotencyKey":%q}`, uuid.NewString(), key))
	require.Equal(t, 201, status, "%v %s", p, &r.stderr)
	return p["promiseId"].(string)
}

// lambda invokes a function and asks for the end of its log.
func (r *runner) lambda(t *testing.T, function, payload string) *sdk.InvokeOutput {
	t.Helper()
	client := sdk.New(sdk.Options{
		BaseEndpoint: aws.String(r.ready.LambdaURL),
		Region:       "eu-central-1",
		Credentials:  credentials.NewStaticCredentialsProvider("key", "secret", ""),
	})
	out, err := client.Invoke(t.Context(), &sdk.InvokeInput{
		FunctionName: &function, Payload: []byte(payload), LogType: types.LogTypeTail,
	})
	require.NoError(t, err)
	return out
}

// requireSecrets checks the secret files of a data folder.
func requireSecrets(t *testing.T, data, apiKey string) {
	t.Helper()
	text := map[string]string{}
	for _, name := range []string{signingKeyFile, sealingKeysFile, sourceURLKeyFile, apiKeyFile} {
		path := filepath.Join(data, name)
		info, err := os.Stat(path)
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode(), name)
		b, err := os.ReadFile(path)
		require.NoError(t, err)
		text[name] = strings.TrimSuffix(string(b), "\n")
	}
	_, err := auth.ParseSigningKey(text[signingKeyFile])
	require.NoError(t, err)
	_, err = seal.Parse(text[sealingKeysFile])
	require.NoError(t, err)
	_, err = webhook.ParseURLKey(text[sourceURLKeyFile])
	require.NoError(t, err)
	require.True(t, auth.CheckAPIKey(apiKey))
	require.Equal(t, apiKey, text[apiKeyFile])
	temporary, err := filepath.Glob(filepath.Join(data, ".*"))
	require.NoError(t, err)
	require.Empty(t, temporary)
}

// A callback is a promise with a callback URL, which resolves it without another credential.
type callback struct{ promiseID, token, resolveURL, path string }

// createWithToken creates a promise with a token that may resolve it.
func (r *runner) createWithToken(t *testing.T) callback {
	t.Helper()
	status, p := r.call(t, "POST", "/promises", fmt.Sprintf(
		`{"workflowExecutionId":%q,"name":"approval","tokens":{"verbs":["resolve"],"ttlSeconds":600}}`, uuid.NewString()))
	require.Equal(t, 201, status, "%v %s", p, &r.stderr)
	require.NotContains(t, p, "rejectUrl")
	c := callback{promiseID: p["promiseId"].(string), token: p["token"].(string), resolveURL: p["resolveUrl"].(string)}
	u, err := url.Parse(c.resolveURL)
	require.NoError(t, err)
	require.Equal(t, c.token, u.Query().Get("token"))
	c.path = u.RequestURI()
	return c
}

// post sends the body to the callback URL of the runner at base, and returns the response's body.
func (c callback) post(t *testing.T, base, body string, want int) string {
	t.Helper()
	status, text := request(t, "POST", base+c.path, "", body)
	require.Equal(t, want, status, text)
	return text
}

// functionPIDs lists the processes of the runner's functions.
func (r *runner) functionPIDs() []int {
	var pids []int
	exes, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, exe := range exes {
		if target, err := os.Readlink(exe); err == nil && strings.HasPrefix(target, r.tmp) {
			if pid, err := strconv.Atoi(strings.Split(exe, "/")[2]); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// get reads a path of the demo tenant's API.
func (r *runner) get(path string) (status int, body string, err error) {
	req, err := http.NewRequest(http.MethodGet, r.promises(path), nil)
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("Authorization", "Bearer "+r.ready.APIKey)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

// rowCount returns the number of rows of a table.
func (r *runner) rowCount(t *testing.T, table string) (n int) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), r.ready.DatabaseURL)
	require.NoError(t, err)
	defer conn.Close(t.Context()) //nolint:errcheck // the connection only read
	require.NoError(t, conn.QueryRow(t.Context(), "SELECT COUNT(*) FROM "+table).Scan(&n))
	return n
}

// postmaster returns the process id of the Postgres server on a data folder.
func postmaster(data string) (pid int, err error) {
	text, err := os.ReadFile(filepath.Join(data, "cluster", "postmaster.pid"))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.SplitN(string(text), "\n", 2)[0])
}

// ports counts the ports that stableAddress has tried, from a random start.
var ports atomic.Uint32

func init() { ports.Store(rand.Uint32()) }

// stableAddress returns a loopback address that no other process takes while a proxy on it is stopped. Its port is below the
// range that the system assigns to clients and to listeners on port 0.
func stableAddress(t *testing.T) string {
	t.Helper()
	for {
		address := fmt.Sprintf("127.0.0.1:%d", 20_000+ports.Add(1)%12_000)
		if l, err := net.Listen("tcp", address); err == nil {
			require.NoError(t, l.Close())
			return address
		}
	}
}

// A deployment is the service in its production configuration. Each function runs in its own process and has its production
// role and query mode. It connects with IAM tokens to a stand-in for RDS Proxy.
type deployment struct {
	db      *dbtest.DB
	proxy   *rdstest.Proxy
	secrets *secrettest.Manager
	fns     []lambda.Function
	service *lambda.Service
	api     *httptest.Server
	output  buffer
	answers chan map[string]any // the responses to CloudFormation
	refuse  func() bool         // whether CloudFormation rejects the next response
}

// deploy starts a deployment on an empty database.
func deploy(t *testing.T) *deployment {
	t.Helper()
	d := &deployment{db: dbtest.Bare(t), answers: make(chan map[string]any, 100), refuse: func() bool { return false }}
	d.proxy = rdstest.Start(t, d.db.URL, rdstest.Options{})
	dir := t.TempDir()
	require.NoError(t, build.Functions(t.Context(), dir, build.Target{}))
	d.secrets = secrettest.Start(t, signingKeyARN, sealingKeysARN, sourceURLKeyARN, tokenKeysARN)
	d.secrets.Set(sourceURLKeyARN, "first", webhook.NewURLKey().Text()) // CloudFormation generates it
	fns := functions(dir, map[string]string{
		"DB_IAM_AUTH": "true", "DB_EXEC_MODE": "", "SIGNING_KEY": signingKeyARN, "SEALING_KEYS": sealingKeysARN, "SOURCE_URL_KEY": sourceURLKeyARN,
		"TOKEN_KEYS": tokenKeysARN, "RETENTION_DAYS": "1",
		"PUBLIC_URL": "https://promises.example.com", "MAX_VALUE_BYTES": "", "LOG_LEVEL": "",
	})
	for i, f := range routes.Functions {
		fns[i].Env = append(slices.Clone(fns[i].Env), d.secrets.Env()...)
		if f.Role != "" {
			fns[i].Env = append(fns[i].Env, "DATABASE_URL="+d.proxy.URL(f.Role, ""))
		} else {
			fns[i].Env = append(fns[i].Env, "DATABASE_URL="+d.db.URL, "DB_IAM_AUTH=false")
		}
	}
	d.fns = fns
	d.start(t)
	return d
}

// These are the names of a deployment's secrets.
var (
	signingKeyARN, sealingKeysARN = secrettest.ARN("promises-dev/signing-key"), secrettest.ARN("promises-dev/sealing-keys")
	sourceURLKeyARN, tokenKeysARN = secrettest.ARN("promises-dev/source-url-key"), secrettest.ARN("promises-dev/token-keys")
)

// start starts a new service of the functions. Processes of an earlier service keep running but get no more calls.
func (d *deployment) start(t *testing.T) {
	t.Helper()
	d.service = lambda.New(d.fns, lambda.Options{Output: &d.output})
	t.Cleanup(d.service.Close)
	d.api = httptest.NewServer(httpapi.New(routes.HTTP, routes.Authorizers, d.service))
	t.Cleanup(d.api.Close)
}

// cloudFormation sends the event of a custom resource to migrate, and returns the response that migrate uploads.
func (d *deployment) cloudFormation(t *testing.T, kind string) map[string]any {
	t.Helper()
	bucket := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var answer map[string]any
		if err != nil || r.Method != http.MethodPut || r.Header.Get("Content-Type") != "" || len(body) > 4096 ||
			r.URL.RawQuery != "X-Amz-Signature=hunter2" || json.Unmarshal(body, &answer) != nil || d.refuse() {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		d.answers <- answer
	}))
	defer bucket.Close()
	event, err := os.ReadFile("../../events/migrate.cloudformation-" + kind + ".json")
	require.NoError(t, err)
	payload := strings.Replace(string(event), "http://127.0.0.1:9/", bucket.URL+"/", 1)
	require.Contains(t, payload, bucket.URL)
	result, err := d.service.Invoke(t.Context(), "migrate", lambda.Request{Payload: []byte(payload)})
	require.NoError(t, err)
	require.Empty(t, result.ErrorType, "%s", result.Payload)
	answer := <-d.answers
	for name, want := range map[string]string{
		"StackId": "arn:aws:cloudformation:us-east-1:123456789012:stack/promises-dev/6f1c5a10", "LogicalResourceId": "MigrateDone",
		"RequestId": "7d6a2f2e-0c40-4a56-9f0e-2c2f6f1f4a11", "PhysicalResourceId": "migration/db-ABCDEFGHIJKLMNOPQRSTUVWXYZ",
	} {
		require.Equal(t, want, answer[name])
	}
	require.NotContains(t, d.output.String(), "hunter2", "the URL authorizes its holder to respond")
	return answer
}

// On a busy machine a call can fail with unavailable. Its caller may then repeat it after a second, which is always safe. Earlier calls would
// get the same error: a function that could not read its keys waits for a moment before it tries again.
const repeats = 8

// invoke invokes a function directly and returns its answer or the code of its problem.
func (d *deployment) invoke(t *testing.T, function, payload string) (answer map[string]any, problem string) {
	t.Helper()
	for range repeats {
		result, err := d.service.Invoke(t.Context(), function, lambda.Request{Payload: []byte(payload)})
		require.NoError(t, err)
		if problem = result.ErrorType; problem == "" {
			require.NoError(t, json.Unmarshal(result.Payload, &answer), "%s", result.Payload)
		}
		if problem != "unavailable" {
			break
		}
		time.Sleep(time.Second)
	}
	return answer, problem
}

// must invokes a function directly and requires an answer.
func (d *deployment) must(t *testing.T, function, payload string) map[string]any {
	t.Helper()
	answer, problem := d.invoke(t, function, payload)
	require.Empty(t, problem, "%s %s\n%s", function, payload, d.output.String())
	return answer
}

// http calls a route of the tenant acme, and repeats the call while it is unavailable.
func (d *deployment) http(t *testing.T, method, path, credential, body string) (int, map[string]any) {
	t.Helper()
	for range repeats {
		status, answer := d.httpOnce(t, method, path, credential, body)
		if status != http.StatusServiceUnavailable {
			return status, answer
		}
		time.Sleep(time.Second)
	}
	require.Fail(t, "unavailable", "%s %s\n%s", method, path, d.output.String())
	return 0, nil
}

func (d *deployment) httpOnce(t *testing.T, method, path, credential, body string) (int, map[string]any) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, d.api.URL+"/api/tenants/acme"+path, bytes.NewReader([]byte(body)))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/json")
	if credential != "" {
		req.Header.Set("Authorization", "Bearer "+credential)
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	var answer map[string]any
	require.NoError(t, json.NewDecoder(resp.Body).Decode(&answer), "%s %s: %d", method, path, resp.StatusCode)
	return resp.StatusCode, answer
}
