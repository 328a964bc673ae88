// Package lambda runs functions on this machine as AWS Lambda does: real
// binaries in environments of their own, driven through the Lambda Runtime
// API, one invocation at a time in each.
package lambda

import (
	"errors"
	"io"
	"time"
)

// Lambda's own limits, in bytes.
const (
	MaxPayload      = 6 << 20 // of a synchronous invocation
	MaxEventPayload = 1 << 20 // of an asynchronous one (type Event)
	MaxResponse     = 6<<20 + 100
)

// Where the functions pretend to be.
const (
	Region    = "us-east-1"
	AccountID = "123456789012"
	Version   = "$LATEST"
)

var (
	// ErrNotFound: there is no function of that name.
	ErrNotFound = errors.New("function not found")
	// ErrThrottled: for half a second every environment was busy and no more
	// could be started, or the queue of events is full. Nothing was run; the
	// caller may repeat.
	ErrThrottled = errors.New("rate exceeded")
	// ErrClosed: the service has been closed.
	ErrClosed = errors.New("service closed")
)

// Function is one function that the service can invoke.
type Function struct {
	Name     string
	Path     string // the binary, an absolute path
	Timeout  time.Duration
	MemoryMB int // told to the function and reported, not enforced
	// Concurrency bounds the function's environments, as reserved concurrency does
	// on AWS, so that it leaves room for others. Zero: only MaxEnvironments does.
	Concurrency int
	// Env is what the function's configuration adds, as KEY=value, to the
	// variables that Lambda itself sets. Nothing else is inherited.
	Env []string
}

// ARN is the unqualified ARN of the function of that name, existing or not.
func ARN(name string) string {
	return "arn:aws:lambda:" + Region + ":" + AccountID + ":function:" + name
}

// Options are the service's settings; the zero value is good.
type Options struct {
	// MaxEnvironments bounds the environments of all functions together, and
	// so the invocations that run at once; 60 if zero. Four for each processor of
	// one function run without further ado; one more whenever none of them has been
	// done for 20 ms. Others wait. At the bound a new environment takes the place of
	// one that has been idle for a second, or after half a second of waiting of any
	// that is idle; where there is none the answer is ErrThrottled then. A function
	// that has no environment gets the place of the first that is done. A function
	// that has as many as its Concurrency waits, and is answered, in the same way.
	MaxEnvironments int
	// Output receives what the functions print, each line with the function's
	// name before it, one Write for each line and never two at once. Nil
	// discards it.
	Output io.Writer
	// Report is called once for each invocation that ran, retries included, except
	// those that Interrupt or Close ended.
	// It must be safe for concurrent use.
	Report func(Result)
	// InitTimeout is how long an environment may take to ask for its first
	// invocation; Lambda's 10 s if zero. One that takes longer is started once
	// more and then given the function's timeout.
	InitTimeout time.Duration
	// EventRetryDelays are the waits before a failed event is run again, one
	// for each retry; 1 s and 2 s if nil (Lambda waits minutes).
	EventRetryDelays []time.Duration
}

// Request is what the caller of a function gives.
type Request struct {
	Payload       []byte // JSON; empty is handed over as {}
	RequestID     string // empty: one is made
	ClientContext string // JSON, or empty
	TraceID       string // an X-Amzn-Trace-Id header, or empty
	CalledBy      string // the name in the invoked ARN; empty: the function's own
	Qualifier     string // as the caller wrote it; part of the invoked ARN
	Tail          bool   // the caller wants the end of the log
}

// Result is how an invocation ended.
type Result struct {
	Function  string
	RequestID string
	TraceID   string
	// Payload is the function's response, or, where ErrorType is set, the
	// JSON that describes the error.
	Payload []byte
	// ErrorType is set if the function failed: its own error's type, or
	// Runtime.ExitError, Sandbox.Timedout, Function.ResponseSizeTooLarge, ...
	ErrorType string
	// TimedOut: the function ran into its timeout and was killed.
	TimedOut bool
	// Cold: the environment was started for this invocation.
	Cold     bool
	Init     time.Duration // how long that took
	Duration time.Duration // from handing the event over to the response
	// Log is the end, at most 4 KB, of the invocation's log, if Tail was asked.
	Log []byte
}

// FunctionError is the value of X-Amz-Function-Error: empty, or Unhandled.
// (Handled belongs to runtimes that AWS has withdrawn.)
func (r Result) FunctionError() string {
	if r.ErrorType == "" {
		return ""
	}
	return "Unhandled"
}

// The error types that come from Lambda, not from a function.
const (
	errorExit       = "Runtime.ExitError"
	errorEntrypoint = "Runtime.InvalidEntrypoint"
	errorTimeout    = "Sandbox.Timedout"
	errorTooLarge   = "Function.ResponseSizeTooLarge"
	errorUnknown    = "Runtime.Unknown"
)
