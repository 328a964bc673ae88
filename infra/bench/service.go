package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"
	"github.com/shirou/gopsutil/v4/process"

	"github.com/flovyn/promises/infra/local/httpapi"
	"github.com/flovyn/promises/infra/local/lambda"
	"github.com/flovyn/promises/shared/routes"
)

// A runner is a process that serves HTTP: the local runner on a dataset, or a runner whose only function does nothing. Both
// have the same HTTP API and start functions in the same environment.
type runner struct {
	cmd    *exec.Cmd
	exited chan error
	output output // printed by the functions
	client *http.Client

	HTTPURL   string `json:"httpUrl"`
	LambdaURL string `json:"lambdaUrl"`
	APIKey    string `json:"apiKey"`
}

// programs holds the paths of the programs that the benchmark builds and runs.
type programs struct{ dir, local, empty string }

func build(ctx context.Context, dir string, screen *progress) (programs, error) {
	p := programs{dir: dir, local: filepath.Join(dir, "local"), empty: filepath.Join(dir, "empty")}
	for binary, folder := range map[string]string{p.local: "infra/local", p.empty: "infra/build/testdata/empty"} {
		screen.say("build %s", folder)
		cmd := exec.CommandContext(ctx, "go", "build", "-tags", "lambda.norpc", "-o", binary, "github.com/flovyn/promises/"+folder)
		if out, err := cmd.CombinedOutput(); err != nil {
			return p, fmt.Errorf("build %s: %w\n%s", folder, err, out)
		}
	}
	return p, nil
}

// startLocal starts the local runner on a database, with more environment variables. The runner removes its ready file when it
// ends.
func (p programs) startLocal(ctx context.Context, databaseURL string, env ...string) (*runner, error) {
	ready := filepath.Join(p.dir, "ready.json")
	return start(ctx, ready, append(env, "DATABASE_URL="+databaseURL),
		p.local, "--http", "127.0.0.1:0", "--lambda", "127.0.0.1:0", "--ready-file", ready)
}

func (p programs) startEmptyService(ctx context.Context) (*runner, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return start(ctx, filepath.Join(p.dir, "nothing.json"), []string{"EMPTY=" + p.empty},
		self, emptyServiceArgument, filepath.Join(p.dir, "nothing.json"))
}

// start runs a command and waits until it has written the ready file.
func start(ctx context.Context, ready string, env []string, command ...string) (*runner, error) {
	r := &runner{exited: make(chan error, 1), client: &http.Client{
		Transport: &http.Transport{MaxIdleConnsPerHost: 2000},
		Timeout:   time.Minute,
	}}
	r.cmd = exec.CommandContext(ctx, command[0], command[1:]...)
	r.cmd.Env = append(os.Environ(), env...)
	r.cmd.Stderr = &r.output
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // so that Ctrl-C reaches only this process, which interrupts the command
	r.cmd.Cancel = func() error { return r.cmd.Process.Signal(os.Interrupt) }
	if err := r.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { r.exited <- r.cmd.Wait() }()
	for {
		text, err := os.ReadFile(ready)
		if err == nil {
			return r, json.Unmarshal(text, r)
		}
		select {
		case err := <-r.exited:
			return nil, fmt.Errorf("%s ended: %w\n%s", command[0], err, r.output.After(0))
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (r *runner) stop() error {
	r.client.CloseIdleConnections()
	if err := r.cmd.Process.Signal(os.Interrupt); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return <-r.exited
}

// post makes one call and returns its status. If answer is not nil and the status is 2xx, it decodes the body into answer.
func (r *runner) post(ctx context.Context, url, body string, answer any) (status int, err error) {
	return r.postWith(ctx, url, body, http.Header{"Authorization": {"Bearer " + r.APIKey}}, answer)
}

// postWith is post with other headers in place of the API key.
func (r *runner) postWith(ctx context.Context, url, body string, header http.Header, answer any) (status int, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header = header
	req.Header.Set("Content-Type", "application/json")
	resp, err := r.client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || answer == nil || resp.StatusCode/100 != 2 {
		return resp.StatusCode, err
	}
	return resp.StatusCode, json.Unmarshal(text, answer)
}

func (r *runner) promises(path string) string {
	return r.HTTPURL + "/api/tenants/" + tenant + "/promises" + path
}

// settled is the answer of a call that settles.
type settled struct {
	Outcome string `json:"outcome"`
}

// resolve settles over HTTP.
func (r *runner) resolve(ctx context.Context, id uuid.UUID, got *settled) (status int, err error) {
	return r.post(ctx, r.promises("/id:"+id.String()+"/resolve"), `{"value":`+string(value)+`}`, got)
}

// invokeResolve settles through the Lambda Invoke API.
func (r *runner) invokeResolve(ctx context.Context, id uuid.UUID, got *settled) (status int, err error) {
	return r.post(ctx, r.LambdaURL+"/2015-03-31/functions/resolve-by-id/invocations",
		`{"tenant":"`+tenant+`","promiseId":"`+id.String()+`","value":`+string(value)+`}`, got)
}

// mustSettle wraps settle and returns an error unless the call settled the promise.
func mustSettle(settle func(context.Context, uuid.UUID, *settled) (int, error)) func(context.Context, uuid.UUID) error {
	return func(ctx context.Context, id uuid.UUID) error {
		var got settled
		status, err := settle(ctx, id, &got)
		if err == nil && (status != http.StatusOK || got.Outcome != "settled") {
			err = fmt.Errorf("answered %d %q", status, got.Outcome)
		}
		return err
	}
}

func (r *runner) create(ctx context.Context) (id uuid.UUID, status int, err error) {
	var made struct {
		PromiseID uuid.UUID `json:"promiseId"`
	}
	status, err = r.post(ctx, r.promises(""),
		`{"workflowExecutionId":"`+uuid.NewString()+`","name":"payment","idempotencyKey":"`+uuid.NewString()+`","timeoutMs":86400000}`, &made)
	return made.PromiseID, status, err
}

// serviceOperations returns the operations that go through the local runner.
func serviceOperations(db *dataset, service *runner) []operation {
	return []operation{
		{name: "HTTP: settle by id", settles: true, call: func(ctx context.Context, n int) error {
			return mustSettle(service.resolve)(ctx, promiseID(db.spread(n)))
		}},
		{name: "HTTP: create + settle", call: func(ctx context.Context, _ int) error {
			id, status, err := service.create(ctx)
			if err == nil && status != http.StatusCreated {
				err = fmt.Errorf("create answered %d", status)
			}
			if err != nil {
				return err
			}
			return mustSettle(service.resolve)(ctx, id)
		}},
		{name: "Invoke: settle by id", settles: true, call: func(ctx context.Context, n int) error {
			return mustSettle(service.invokeResolve)(ctx, promiseID(db.spread(n)))
		}},
	}
}

// emptyOperation calls a function that does nothing and does not use Postgres.
func emptyOperation(empty *runner) operation {
	return operation{name: "HTTP: nothing", call: func(ctx context.Context, _ int) error {
		status, err := empty.post(ctx, empty.HTTPURL+"/nothing", `{}`, nil)
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("answered %d", status)
		}
		return err
	}}
}

// measureHTTP measures the whole service over HTTP: the local runner and the processes of the functions.
func measureHTTP(ctx context.Context, c *cluster, db *dataset, o options, screen *progress) (_ []row, err error) {
	p, err := build(ctx, c.dir, screen)
	if err != nil {
		return nil, err
	}
	statements, err := countStatements(ctx, c, p, db, o, screen)
	if err != nil {
		return nil, fmt.Errorf("statements: %w", err)
	}
	service, err := p.startLocal(ctx, db.url)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, service.stop()) }()
	empty, err := p.startEmptyService(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, empty.stop()) }()
	m, err := newMeter(ctx, db)
	if err != nil {
		return nil, err
	}
	defer m.monitor.Close()
	operations := append([]operation{emptyOperation(empty)}, serviceOperations(db, service)...)
	for i := range operations {
		called := service
		if i == 0 {
			called = empty
		}
		operations[i].db, operations[i].meter = db, m
		if operations[i].meter.callers, err = process.NewProcess(int32(called.cmd.Process.Pid)); err != nil {
			return nil, err
		}
	}
	operations = chosen(operations, o)
	var rows []row
	for _, clients := range o.clients {
		own, done, err := databaseOperations(ctx, db, clients)
		if err != nil {
			return nil, err
		}
		more, err := inTurns(ctx, append(operations, own[0]), clients, o.callsHTTP(), screen) // own[0] is the limit
		done()
		if err != nil {
			return nil, err
		}
		computeRatios(more)
		more = more[:len(operations)]
		for i := range more {
			more[i].Statements = statements[more[i].Operation]
		}
		rows = append(rows, more...)
	}
	return rows, nil
}

// emptyServiceArgument makes this program a runner of a function that does nothing.
const emptyServiceArgument = "serve-nothing"

// runEmptyService serves that function over HTTP, as the local runner serves its functions, until ctx ends.
func runEmptyService(ctx context.Context, ready string) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	service := lambda.New([]lambda.Function{{
		Name: "empty", Path: os.Getenv("EMPTY"), Timeout: 10 * time.Second, MemoryMB: 256,
		Env: []string{"GOMAXPROCS=1"}, // the service's functions set it too
	}},
		lambda.Options{Output: io.Discard})
	defer service.Close()
	server := &http.Server{
		Handler:           httpapi.New([]routes.Route{{Method: "POST", Path: "/nothing", Function: "empty"}}, nil, service),
		ReadHeaderTimeout: 10 * time.Second,
	}
	defer context.AfterFunc(ctx, func() { server.Close() })()
	text, err := json.Marshal(runner{HTTPURL: "http://" + listener.Addr().String()})
	if err != nil {
		return err
	}
	if err := os.WriteFile(ready+".part", text, 0o600); err != nil {
		return err
	}
	if err := os.Rename(ready+".part", ready); err != nil {
		return err
	}
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
