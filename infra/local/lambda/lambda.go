// Package lambda runs functions on this machine as AWS Lambda does. Each
// environment is one process of a function's binary. It receives one invocation
// at a time through the Lambda Runtime API.
package lambda

import (
	"errors"
	"io"
	"time"
)

// These are AWS Lambda's size limits, in bytes.
const (
	MaxPayload      = 6 << 20 // of a synchronous invocation
	MaxEventPayload = 1 << 20 // of an asynchronous invocation (type Event)
	MaxResponse     = 6<<20 + 100
)

// These are the region, the account and the version that functions see.
const (
	Region    = "us-east-1"
	AccountID = "123456789012"
	Version   = "$LATEST"
)

var (
	// ErrNotFound means that no function has the given name.
	ErrNotFound = errors.New("function not found")
	// ErrThrottled means that for half a second every environment was busy and no
	// further one could be started, or that the queue of events is full. The
	// function did not run, so the caller may repeat the call.
	ErrThrottled = errors.New("rate exceeded")
	// ErrClosed means that the service was closed.
	ErrClosed = errors.New("service closed")
)

// A Function is a function that the service can invoke.
type Function struct {
	Name     string
	Path     string // the binary, an absolute path
	Timeout  time.Duration
	MemoryMB int // shown to the function and in the report line; not enforced
	// Concurrency bounds the function's environments, as reserved concurrency does
	// on AWS, so that other functions get some too. If it is zero, only
	// MaxEnvironments bounds them.
	Concurrency int
	// Env adds variables, as KEY=value, to those that Lambda itself sets. The process
	// inherits no others.
	Env []string
}

// ARN returns the unqualified ARN for a function name. The function need not exist.
func ARN(name string) string {
	return "arn:aws:lambda:" + Region + ":" + AccountID + ":function:" + name
}

// Options are the settings of a Service. The zero value is valid.
type Options struct {
	// MaxEnvironments bounds the environments of all functions together, and so the
	// invocations that run at once. Zero means 60.
	//
	// An invocation runs in an idle environment of its function, or starts one. It
	// waits if its function has Concurrency environments. It also waits while the
	// function runs four invocations per processor and one of them started or ended
	// within the last 20 ms. Waiting invocations are served in the order of their
	// arrival.
	//
	// At MaxEnvironments, a new environment replaces the one that has been idle for
	// longest. If the function has other environments, it does so only after half a
	// second without use of that one, or without progress of its own.
	//
	// An invocation that has waited for half a second takes any place within these
	// bounds, or gets ErrThrottled.
	MaxEnvironments int
	// Output receives the functions' output. Each line comes in one Write, with the
	// function's name before it, and Writes never overlap. Nil discards the output.
	Output io.Writer
	// Report is called once for each invocation that ran, retries included, unless
	// Interrupt or Close ended it. It must be safe for concurrent use.
	Report func(Result)
	// InitTimeout bounds the time until an environment asks for its first
	// invocation. Zero means 10 s, as on Lambda. After a timeout the service starts
	// the process once more, and this time waits for the function's own timeout.
	InitTimeout time.Duration
	// EventRetryDelays are the waits before each retry of a failed event. Nil means
	// 1 s and 2 s; Lambda waits for minutes.
	EventRetryDelays []time.Duration
}

// A Request is a caller's input to one invocation.
type Request struct {
	Payload       []byte // JSON; an empty payload becomes {}
	RequestID     string // empty: the service generates one
	ClientContext string // JSON, or empty
	TraceID       string // an X-Amzn-Trace-Id header, or empty
	CalledBy      string // the function name in the invoked ARN; empty: Function.Name
	Qualifier     string // the caller's qualifier, part of the invoked ARN; may be empty
	Tail          bool   // whether the caller asked for the end of the log
}

// A Result is the outcome of one invocation.
type Result struct {
	Function  string
	RequestID string
	TraceID   string
	// Payload is the function's response. If ErrorType is set, it is the JSON that
	// describes the error.
	Payload []byte
	// ErrorType is set if the function failed. It is the type of the function's own
	// error, or Lambda's, such as Runtime.ExitError or Sandbox.Timedout.
	ErrorType string
	// TimedOut reports whether the function was killed at its timeout.
	TimedOut bool
	// Cold reports whether the environment was started for this invocation.
	Cold     bool
	Init     time.Duration // time for starting the environment
	Duration time.Duration // from the delivery of the event to the response
	// Log is the end of the invocation's log, at most 4 KiB. It is set if the
	// request's Tail was.
	Log []byte
}

// FunctionError returns the value of X-Amz-Function-Error, which is empty or
// Unhandled. (Only runtimes that AWS has withdrawn report Handled.)
func (r Result) FunctionError() string {
	if r.ErrorType == "" {
		return ""
	}
	return "Unhandled"
}

// These error types come from Lambda and not from a function.
const (
	errorExit       = "Runtime.ExitError"
	errorEntrypoint = "Runtime.InvalidEntrypoint"
	errorTimeout    = "Sandbox.Timedout"
	errorTooLarge   = "Function.ResponseSizeTooLarge"
	errorUnknown    = "Runtime.Unknown"
)
