// Package delivery notifies the waiters of settled promises: workflows in Step
// Functions, durable functions, queues, topics, buses, functions, mailboxes and signed
// webhooks.
//
// A Relay claims due deliveries from a Store, makes their messages and gives them to a
// BatchSender, which reaches the sender in another process. There an HTTPSSender sends
// to webhooks, and package awssender to AWS services.
package delivery

import (
	"errors"
	"time"

	"github.com/flovyn/promises/shared/promise"
)

// A Kind is a kind of destination.
type Kind = promise.DestinationKind

// The kinds. StepFunctions and DurableExecution complete a task or a callback of a
// workflow; the other kinds receive messages.
const (
	HTTPS            = promise.DestinationHTTPS
	SQS              = promise.DestinationSQS
	SNS              = promise.DestinationSNS
	EventBridge      = promise.DestinationEventBridge
	Lambda           = promise.DestinationLambda
	Email            = promise.DestinationEmail
	StepFunctions    = promise.DestinationStepFunctions
	DurableExecution = promise.DestinationDurableExecution
)

// A Batch holds deliveries to one destination.
type Batch struct {
	Destination Destination `json:"destination"`
	Deliveries  []Delivery  `json:"deliveries"`
}

// A Destination is the place to which deliveries go.
type Destination struct {
	Kind Kind `json:"kind"`

	// Address is an https URL, a queue's URL, the ARN of a topic, a bus or a function, or
	// an email address. It is empty for StepFunctions and DurableExecution.
	Address string `json:"address,omitempty"`

	From    string `json:"from,omitempty"`    // Email: the verified sender
	Region  string `json:"region,omitempty"`  // AWS kinds; empty: the sender's own region
	RoleARN string `json:"roleArn,omitempty"` // AWS kinds: the role that the sender assumes; empty: its own
}

// A Delivery is one attempt to notify one waiter. Exactly one of Message and
// Completion is set.
type Delivery struct {
	ID         string      `json:"id"`
	Message    *Message    `json:"message,omitempty"`
	Completion *Completion `json:"completion,omitempty"`
}

// A Message is sent to a destination. Every attempt sends the same ID and Body.
type Message struct {
	ID      string            `json:"id"`
	Type    string            `json:"type"` // such as promise.resolved
	Tenant  string            `json:"tenant"`
	Group   string            `json:"group"`             // the workflow execution: the message group in FIFO queues and topics
	Body    []byte            `json:"body"`              // a JSON object
	Headers map[string]string `json:"headers,omitempty"` // HTTPS: the signature, made for this attempt
}

// A Completion ends a task of Step Functions or a callback of a durable function.
type Completion struct {
	Token  string `json:"token"`            // the task token or the callback id: a secret
	Output []byte `json:"output,omitempty"` // JSON: the task succeeded; nil: it failed with Error and Cause
	Error  string `json:"error,omitempty"`
	Cause  string `json:"cause,omitempty"`
}

// An Outcome is the result of one attempt.
type Outcome string

// The outcomes.
const (
	Delivered Outcome = "delivered"
	Gone      Outcome = "gone"      // the task, callback or execution has ended, or is unknown in that account and region
	Failed    Outcome = "failed"    // the attempt failed, and a later one may succeed
	Refused   Outcome = "refused"   // no later attempt can succeed: the delivery is dead
	Disabled  Outcome = "disabled"  // HTTPS: 410 Gone, which disables the destination; its deliveries wait until it is enabled
	Throttled Outcome = "throttled" // not sent, or the destination's service limits this sender: not counted as an attempt
)

// A Result reports one attempt.
type Result struct {
	ID      string  `json:"id"` // the delivery's
	Outcome Outcome `json:"outcome"`
	Status  int     `json:"status,omitempty"` // the HTTP status, if there was an answer

	// Error says why the attempt failed, in at most MaxError bytes. It holds no token, no
	// signature and no credential.
	Error      string        `json:"error,omitempty"`
	RetryAfter time.Duration `json:"retryAfter,omitempty"` // the shortest time to the next attempt, if the destination names one; in JSON nanoseconds
}

// MaxError is the largest length of a Result's Error, in bytes.
const MaxError = 500

// ErrNotSent means that a batch certainly reached no destination.
var ErrNotSent = errors.New("not sent")
