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
	// errUndelivered: the environment died before it took the invocation.
	errUndelivered = errors.New("environment gone")
	errInitTimeout = errors.New("init timed out")
)

// invocation is one event on its way through one environment.
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

// environment is one process and the Runtime API that it talks to. Between its
// first and its last invocation it belongs either to Service.idle or to the
// one goroutine that is in run.
type environment struct {
	svc     *Service
	fn      Function
	next    chan *invocation
	ready   chan struct{} // a token for each time the process asks for work
	initErr chan fault
	exited  chan struct{} // closed when the process is gone and its log read

	idleSince time.Time // Service's

	server *http.Server
	logs   *logs

	mu      sync.Mutex
	cmd     *exec.Cmd
	doomed  bool
	exitErr error
	current *invocation
	asked   bool // has asked for its first invocation
}

// fault is why a function failed, as the caller is told.
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
		panic(err) // two strings
	}
	return fault{errorType, payload}
}

func newEnvironment(s *Service, f Function) *environment {
	return &environment{
		svc: s, fn: f,
		next:    make(chan *invocation),
		ready:   make(chan struct{}, 1),
		initErr: make(chan fault, 1),
		exited:  make(chan struct{}),
	}
}

// start starts the process; from then on exited will be closed some time.
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
	defer w.Close() //nolint:errcheck // nothing is written here
	cmd := exec.Command(e.fn.Path)
	cmd.Dir = filepath.Dir(e.fn.Path)
	cmd.Env = e.environ(listener.Addr().String())
	cmd.Stdout, cmd.Stderr = w, w
	// A group of its own: Ctrl-C at the terminal reaches the runner only, and
	// whatever the function starts dies with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	dieWithUs(cmd.SysProcAttr)

	e.mu.Lock()
	defer e.mu.Unlock()
	if e.doomed {
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
	e.logs = newLogs(e.fn.Name, e.svc.output, r)
	e.server = &http.Server{Handler: e.runtimeAPI(), ReadHeaderTimeout: 10 * time.Second}
	go e.server.Serve(listener) //nolint:errcheck // ends with watch's Close
	e.svc.wg.Add(1)
	go e.watch(r)
	return nil
}

// watch waits for the end of the process and clears up behind it.
func (e *environment) watch(r *os.File) {
	defer e.svc.wg.Done()
	err := e.cmd.Wait()
	e.svc.retire(e)
	syscall.Kill(-e.cmd.Process.Pid, syscall.SIGKILL) //nolint:errcheck // what it may have left behind
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

// kill ends the process, at once and for good. It may come before start.
func (e *environment) kill() {
	e.mu.Lock()
	e.doomed = true
	e.mu.Unlock()
	e.signal(syscall.SIGKILL)
}

// signal sends the signal to the process and what that started, if there is one.
func (e *environment) signal(s syscall.Signal) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.cmd == nil {
		return
	}
	select {
	case <-e.exited:
	default:
		syscall.Kill(-e.cmd.Process.Pid, s) //nolint:errcheck // it may be gone already
	}
}

// run starts the environment if it is new, runs the invocation, and makes the
// environment available again or sees to its end. The outcome is in
// inv.result; an error says that it may be worth another try elsewhere.
func (e *environment) run(inv *invocation, initLimit time.Duration) error {
	inv.result = Result{Function: e.fn.Name, RequestID: inv.RequestID, TraceID: inv.TraceID}
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
	inv.deadline = inv.started.Add(e.fn.Timeout)
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

// endAnswered ends an invocation that the function has answered. The answer
// waits a moment for the process to ask for more work, so that a caller's next
// invocation finds it.
func (e *environment) endAnswered(inv *invocation) {
	const moment = 100 * time.Millisecond
	select {
	case <-e.ready:
		e.end(inv, fault{inv.errorType, inv.payload})
		e.svc.release(e)
		return
	case <-e.exited:
		e.end(inv, fault{inv.errorType, inv.payload})
		return
	case <-time.After(moment):
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
	if !inv.Tail { // what it takes to report the memory is much of what an invocation takes
		e.logs.take()
		return
	}
	if inv.started.IsZero() {
		e.logs.note(fmt.Sprintf("START RequestId: %s Version: %s\n", inv.RequestID, Version))
	}
	if r.TimedOut {
		e.logs.note(fmt.Sprintf("%s %s Task timed out after %.2f seconds\n\n",
			ended.UTC().Format("2006-01-02T15:04:05.000Z"), inv.RequestID, e.fn.Timeout.Seconds()))
	}
	e.logs.note("END RequestId: " + inv.RequestID + "\n")
	e.logs.note(r.report(e.fn, e.peakMemoryMB()))
	r.Log = e.logs.take()
}

func (e *environment) timeoutFault(requestID string) fault {
	return newFault(errorTimeout, fmt.Sprintf("RequestId: %s Error: Task timed out after %.2f seconds",
		requestID, e.fn.Timeout.Seconds()))
}

// exitFault describes the end of a process that has exited.
func (e *environment) exitFault(requestID string) fault {
	e.mu.Lock()
	defer e.mu.Unlock()
	why := "Runtime exited without providing a reason"
	if e.exitErr != nil {
		why = "Runtime exited with error: " + e.exitErr.Error()
	}
	return newFault(errorExit, "RequestId: "+requestID+" Error: "+why)
}

// environ is the process's whole environment: Lambda's reserved variables, and
// the function's own. AWS_EXECUTION_ENV is not among them, as Lambda does not
// set it for runtimes that bring their own bootstrap.
func (e *environment) environ(runtimeAPI string) []string {
	stream := time.Now().UTC().Format("2006/01/02") + "/[" + Version + "]" + strings.ReplaceAll(uuid.NewString(), "-", "")
	return append([]string{
		"AWS_LAMBDA_RUNTIME_API=" + runtimeAPI,
		"AWS_LAMBDA_FUNCTION_NAME=" + e.fn.Name,
		"AWS_LAMBDA_FUNCTION_VERSION=" + Version,
		"AWS_LAMBDA_FUNCTION_MEMORY_SIZE=" + strconv.Itoa(e.fn.MemoryMB),
		"AWS_LAMBDA_INITIALIZATION_TYPE=on-demand",
		"AWS_LAMBDA_LOG_GROUP_NAME=/aws/lambda/" + e.fn.Name,
		"AWS_LAMBDA_LOG_STREAM_NAME=" + stream,
		"AWS_REGION=" + Region,
		"AWS_DEFAULT_REGION=" + Region,
		"AWS_ACCESS_KEY_ID=local",
		"AWS_SECRET_ACCESS_KEY=local",
		"AWS_SESSION_TOKEN=local",
		"_HANDLER=bootstrap",
		"LAMBDA_TASK_ROOT=" + filepath.Dir(e.fn.Path),
		"LAMBDA_RUNTIME_DIR=/var/runtime",
		"LANG=en_US.UTF-8",
		"PATH=/usr/local/bin:/usr/bin:/bin:/opt/bin",
		"TZ=:UTC",
	}, e.fn.Env...)
}

// peakMemoryMB is the most memory that the process has used, or 0 where the
// system does not tell.
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
