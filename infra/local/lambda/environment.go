package lambda

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/google/uuid"
)

var (
	// errUndelivered means that the process exited before it received the invocation.
	errUndelivered = errors.New("environment gone")
	errInitTimeout = errors.New("init timed out")
)

// An invocation is one event that one environment handles.
type invocation struct {
	Request
	started  time.Time
	deadline time.Time

	answered chan struct{} // closed when payload, errorType and ended are set
	ended    time.Time
	payload  []byte
	// errorType is empty for a response.
	errorType string

	result Result
}

// An environment is one process and the Runtime API server that it calls. Between
// its first and its last invocation it is either in pool.idle or owned by the one
// goroutine that called run.
type environment struct {
	svc     *Service
	pool    *pool
	next    chan *invocation
	ready   chan struct{} // receives a token each time that the process asks for work
	initErr chan fault
	exited  chan struct{} // closed after the process has exited and its log is read

	idleSince time.Time // guarded by Service.mu

	server *http.Server
	logs   *logs

	mu      sync.Mutex
	cmd     *exec.Cmd
	killed  bool
	exitErr error
	current *invocation
	asked   bool // the process has asked for its first invocation
}

// A fault is a function's failure in the form that its caller receives.
type fault struct {
	errorType string
	payload   []byte
}

func newFault(errorType, message string) fault {
	payload, err := json.Marshal(struct {
		Type    string `json:"errorType"`
		Message string `json:"errorMessage"`
	}{errorType, message})
	if err != nil {
		panic(err) // two strings can always be marshalled
	}
	return fault{errorType, payload}
}

func newEnvironment(s *Service, p *pool) *environment {
	return &environment{
		svc: s, pool: p,
		next:    make(chan *invocation),
		ready:   make(chan struct{}, 1),
		initErr: make(chan fault, 1),
		exited:  make(chan struct{}),
	}
}

// start starts the process. After that, watch closes exited when the process ends.
func (e *environment) start() error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	r, w, err := os.Pipe()
	if err != nil {
		listener.Close()
		return err
	}
	defer w.Close() //nolint:errcheck // this process writes nothing to it
	cmd := exec.Command(e.pool.Path)
	cmd.Dir = filepath.Dir(e.pool.Path)
	cmd.Env = e.environ(listener.Addr().String())
	cmd.Stdout, cmd.Stderr = w, w
	// The process gets its own group. So Ctrl-C at the terminal reaches only the
	// runner, and killing the group also kills the function's child processes.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	killWithParent(cmd.SysProcAttr)

	e.mu.Lock()
	defer e.mu.Unlock()
	if e.killed {
		err = ErrClosed
	} else {
		err = cmd.Start()
	}
	if err != nil {
		listener.Close()
		_ = r.Close()
		return err
	}
	e.cmd = cmd
	e.logs = newLogs(e.pool.Name, e.svc.output, r)
	e.server = &http.Server{Handler: e.runtimeAPI(), ReadHeaderTimeout: 10 * time.Second}
	go e.server.Serve(listener) //nolint:errcheck // Serve returns when watch closes the server
	e.svc.wg.Add(1)
	go e.watch(r)
	return nil
}

// watch waits for the process to exit and then releases everything that it used.
func (e *environment) watch(r *os.File) {
	defer e.svc.wg.Done()
	err := e.cmd.Wait()
	e.svc.retire(e)
	syscall.Kill(-e.cmd.Process.Pid, syscall.SIGKILL) //nolint:errcheck // kills remaining child processes, if any
	select {
	case <-e.logs.ended:
	case <-time.After(time.Second):
	}
	_ = r.Close()
	<-e.logs.ended
	e.mu.Lock()
	e.exitErr = err
	e.mu.Unlock()
	close(e.exited)
	e.server.Close()
}

// kill kills the process. If start has not run yet, start will fail.
func (e *environment) kill() {
	e.mu.Lock()
	e.killed = true
	e.mu.Unlock()
	e.signal(syscall.SIGKILL)
}

// signal sends the signal to the process group, if the process is running.
func (e *environment) signal(s syscall.Signal) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.cmd == nil {
		return
	}
	select {
	case <-e.exited:
	default:
		syscall.Kill(-e.cmd.Process.Pid, s) //nolint:errcheck // the process may have exited
	}
}

// run starts the environment if it is new and runs the invocation. Then it makes the
// environment available again or ends it. The outcome is in inv.result. An error
// means that another environment may succeed.
func (e *environment) run(inv *invocation, initLimit time.Duration) error {
	inv.result = Result{Function: e.pool.Name, RequestID: inv.RequestID, TraceID: inv.TraceID}
	if e.logs == nil {
		inv.result.Cold = true
		begun := time.Now()
		f, err := e.initialise(inv, initLimit)
		inv.result.Init = time.Since(begun)
		if f != nil {
			e.end(inv, *f)
			return err
		}
	}
	return e.invoke(inv)
}

// initialise starts the process and waits until it asks for an invocation.
func (e *environment) initialise(inv *invocation, limit time.Duration) (*fault, error) {
	if err := e.start(); err != nil {
		e.svc.retire(e)
		f := newFault(errorEntrypoint, fmt.Sprintf("RequestId: %s Error: %v", inv.RequestID, err))
		return &f, nil
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-e.ready:
		return nil, nil
	case f := <-e.initErr:
		e.kill()
		<-e.exited
		return &f, nil
	case <-e.exited:
		f := e.exitFault(inv.RequestID)
		select {
		case f = <-e.initErr:
		default:
		}
		return &f, nil
	case <-timer.C:
		e.kill()
		<-e.exited
		inv.result.TimedOut = true
		f := e.timeoutFault(inv.RequestID)
		return &f, errInitTimeout
	}
}

func (e *environment) invoke(inv *invocation) error {
	e.logs.note(fmt.Sprintf("START RequestId: %s Version: %s\n", inv.RequestID, Version))
	e.mu.Lock()
	e.current = inv
	e.mu.Unlock()
	inv.started = time.Now()
	inv.deadline = inv.started.Add(e.pool.Timeout)
	select {
	case e.next <- inv:
	case <-e.exited:
		e.end(inv, e.exitFault(inv.RequestID))
		return errUndelivered
	}

	timer := time.NewTimer(time.Until(inv.deadline))
	defer timer.Stop()
	timedOut := false
	select {
	case <-inv.answered:
	case <-e.exited:
	case <-timer.C:
		timedOut = true
	}
	select {
	case <-inv.answered:
		e.endAnswered(inv)
		return nil
	default:
	}
	if !timedOut {
		e.end(inv, e.exitFault(inv.RequestID))
		return nil
	}
	e.kill()
	<-e.exited
	inv.result.TimedOut = true
	e.end(inv, e.timeoutFault(inv.RequestID))
	return nil
}

// endAnswered ends an invocation that has a response. It waits up to 100 ms for the
// process to ask for more work, so that the caller's next invocation finds the
// environment idle.
func (e *environment) endAnswered(inv *invocation) {
	const patience = 100 * time.Millisecond
	select {
	case <-e.ready:
		e.end(inv, fault{inv.errorType, inv.payload})
		e.svc.release(e)
		return
	case <-e.exited:
		e.end(inv, fault{inv.errorType, inv.payload})
		return
	case <-time.After(patience):
	}
	e.end(inv, fault{inv.errorType, inv.payload})
	e.svc.wg.Add(1)
	go func() {
		defer e.svc.wg.Done()
		select {
		case <-e.ready:
			e.svc.release(e)
		case <-e.exited:
		case <-time.After(time.Until(inv.deadline)):
			e.kill()
		}
	}()
}

// end fills in the invocation's result.
func (e *environment) end(inv *invocation, f fault) {
	r := &inv.result
	r.Payload, r.ErrorType = f.payload, f.errorType
	ended := time.Now()
	select {
	case <-inv.answered:
		ended = inv.ended
	default:
	}
	if !inv.started.IsZero() {
		r.Duration = ended.Sub(inv.started)
	}
	if e.logs == nil {
		return
	}
	e.logs.drain()
	if !inv.Tail { // reading the memory use takes a large part of an invocation's time
		e.logs.take()
		return
	}
	if inv.started.IsZero() {
		e.logs.note(fmt.Sprintf("START RequestId: %s Version: %s\n", inv.RequestID, Version))
	}
	if r.TimedOut {
		e.logs.note(fmt.Sprintf("%s %s Task timed out after %.2f seconds\n\n",
			ended.UTC().Format("2006-01-02T15:04:05.000Z"), inv.RequestID, e.pool.Timeout.Seconds()))
	}
	e.logs.note("END RequestId: " + inv.RequestID + "\n")
	e.logs.note(r.report(e.pool.Function, e.peakMemoryMB()))
	r.Log = e.logs.take()
}

func (e *environment) timeoutFault(requestID string) fault {
	return newFault(errorTimeout, fmt.Sprintf("RequestId: %s Error: Task timed out after %.2f seconds",
		requestID, e.pool.Timeout.Seconds()))
}

// exitFault returns the fault of an invocation whose process exited.
func (e *environment) exitFault(requestID string) fault {
	e.mu.Lock()
	defer e.mu.Unlock()
	why := "Runtime exited without providing a reason"
	if e.exitErr != nil {
		why = "Runtime exited with error: " + e.exitErr.Error()
	}
	return newFault(errorExit, "RequestId: "+requestID+" Error: "+why)
}

// environ returns all environment variables of the process: Lambda's reserved ones and
// Function.Env. Lambda sets no AWS_EXECUTION_ENV for functions with their own bootstrap.
func (e *environment) environ(runtimeAPI string) []string {
	stream := time.Now().UTC().Format("2006/01/02") + "/[" + Version + "]" + strings.ReplaceAll(uuid.NewString(), "-", "")
	return append([]string{
		"AWS_LAMBDA_RUNTIME_API=" + runtimeAPI,
		"AWS_LAMBDA_FUNCTION_NAME=" + e.pool.Name,
		"AWS_LAMBDA_FUNCTION_VERSION=" + Version,
		"AWS_LAMBDA_FUNCTION_MEMORY_SIZE=" + strconv.Itoa(e.pool.MemoryMB),
		"AWS_LAMBDA_INITIALIZATION_TYPE=on-demand",
		"AWS_LAMBDA_LOG_GROUP_NAME=/aws/lambda/" + e.pool.Name,
		"AWS_LAMBDA_LOG_STREAM_NAME=" + stream,
		"AWS_REGION=" + Region,
		"AWS_DEFAULT_REGION=" + Region,
		"AWS_ACCESS_KEY_ID=local",
		"AWS_SECRET_ACCESS_KEY=local",
		"AWS_SESSION_TOKEN=local",
		"_HANDLER=bootstrap",
		"LAMBDA_TASK_ROOT=" + filepath.Dir(e.pool.Path),
		"LAMBDA_RUNTIME_DIR=/var/runtime",
		"LANG=en_US.UTF-8",
		"PATH=/usr/local/bin:/usr/bin:/bin:/opt/bin",
		"TZ=:UTC",
	}, e.pool.Env...)
}

// peakMemoryMB returns the process's peak memory use, or 0 if the system has no /proc.
func (e *environment) peakMemoryMB() int {
	status, err := os.ReadFile("/proc/" + strconv.Itoa(e.cmd.Process.Pid) + "/status")
	if err != nil {
		return 0
	}
	_, after, _ := strings.Cut(string(status), "VmHWM:")
	kb, _, _ := strings.Cut(strings.TrimSpace(after), " ")
	n, err := strconv.Atoi(kb)
	if err != nil {
		return 0
	}
	return (n + 1023) / 1024
}
