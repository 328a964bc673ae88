package promise

import (
	"regexp"
	"time"

	"github.com/google/uuid"
)

// A DestinationKind is a kind of destination.
type DestinationKind string

// The kinds. DestinationStepFunctions and DestinationDurableExecution complete a task
// or a callback of a workflow, which a token names; the other kinds receive messages.
const (
	DestinationHTTPS            DestinationKind = "https"
	DestinationSQS              DestinationKind = "sqs"
	DestinationSNS              DestinationKind = "sns"
	DestinationEventBridge      DestinationKind = "eventbridge"
	DestinationLambda           DestinationKind = "lambda"
	DestinationEmail            DestinationKind = "email"
	DestinationStepFunctions    DestinationKind = "stepFunctions"
	DestinationDurableExecution DestinationKind = "durableExecution"
)

// TakesToken reports whether a target of this kind has a token.
func (k DestinationKind) TakesToken() bool {
	return k == DestinationStepFunctions || k == DestinationDurableExecution
}

// MaxTargets is the largest number of targets of one promise.
const MaxTargets = 4

// A Target is one waiter that a promise notifies when it is settled.
type Target struct {
	Kind        DestinationKind // a kind that takes a token; empty: a message to Destination
	Destination string          // the destination's name; empty, with a Kind only: the tenant's destination with the kind as its name
	Token       string          // the task token or callback id: a secret
}

// The pattern of a callback id, with 1 to 1024 characters.
// https://docs.aws.amazon.com/lambda/latest/api/API_SendDurableExecutionCallbackSuccess.html
var callbackID = regexp.MustCompile(`^[A-Za-z0-9+/]+={0,2}$`)

const (
	maxCallbackID = 1024

	// https://docs.aws.amazon.com/step-functions/latest/apireference/API_SendTaskSuccess.html
	maxTaskToken = 2048 // characters
)

// CheckToken fails with CodeInvalidNotify unless token can be a task token or, for
// DestinationDurableExecution, a callback id. The error does not contain the token.
func CheckToken(kind DestinationKind, token string) error {
	if kind == DestinationDurableExecution {
		if len(token) > maxCallbackID || !callbackID.MatchString(token) {
			return Fail(CodeInvalidNotify, "A callback id has 1 to 1024 characters of base64. Send the one that Lambda gave the durable function.")
		}
		return nil
	}
	return checkLength(token, maxTaskToken, CodeInvalidNotify, "A task token")
}

// A Destination is a place to which a tenant's deliveries go.
type Destination struct {
	ID      uuid.UUID
	Name    string
	Kind    DestinationKind
	Address string // an https URL, a queue's URL, the ARN of a topic, a bus or a function, or an email address; empty for kinds that take a token
	From    string // DestinationEmail: the sender
	Region  string // AWS kinds; empty: the service's own region
	RoleARN string // AWS kinds; empty: the service's own rights

	Enabled         bool   // false: deliveries wait
	DisabledBecause string // the reason of the service, if it disabled the destination
	Default         bool   // promises that are created without targets notify it
	CreatedAt       time.Time
	UpdatedAt       time.Time
}

// A DeliveryState is the state of a delivery.
type DeliveryState string

// The states. A delivery ends as DeliveryDelivered, DeliveryGone or DeliveryDead.
const (
	DeliveryWaiting   DeliveryState = "waiting"   // the promise is pending
	DeliveryDue       DeliveryState = "due"       // an attempt is due, now or later
	DeliveryDelivered DeliveryState = "delivered" // the target has accepted it
	DeliveryGone      DeliveryState = "gone"      // the task, callback, destination or promise has ended: no one waits any more
	DeliveryDead      DeliveryState = "dead"      // all attempts failed, or none can succeed
)

// DeliveryStates lists every state.
var DeliveryStates = []DeliveryState{DeliveryWaiting, DeliveryDue, DeliveryDelivered, DeliveryGone, DeliveryDead}

// A Delivery notifies one target of a promise. It has no token, because tokens are
// never shown.
type Delivery struct {
	ID            uuid.UUID // also the id of the message, the same for every attempt
	PromiseID     uuid.UUID
	Destination   string // the destination's name
	Kind          DestinationKind
	State         DeliveryState
	Attempts      int // failed attempts, and the one that succeeded
	CreatedAt     time.Time
	DueAt         *time.Time // DeliveryDue: the next attempt
	LastAttemptAt *time.Time
	LastStatus    *int    // the HTTP status of the last attempt that was answered
	LastError     *string // of the last attempt that failed
	EndedAt       *time.Time
	EndReason     *string // DeliveryGone: why
}

// ParseDeliveryID parses a delivery's id. It fails with CodeInvalidUUID.
func ParseDeliveryID(s string) (uuid.UUID, error) {
	id, ok := parseUUID(s)
	if !ok {
		return uuid.Nil, Fail(CodeInvalidUUID, "A delivery's id is a UUID. List the deliveries to see their ids.")
	}
	return id, nil
}

// A DeliveryFilter chooses among a tenant's deliveries. A nil field matches every
// delivery. A name matches no destination that was deleted.
type DeliveryFilter struct {
	PromiseID   *uuid.UUID
	Destination *string // the destination's name
	State       *DeliveryState
	After       *Cursor // the end of the previous page
}

// Check fails with CodeInvalidParameter if After comes from a list in another order.
func (f DeliveryFilter) Check() error {
	if f.After != nil && f.After.TimeoutAt != nil {
		return errForeignCursor
	}
	return nil
}

// CursorAfter returns the cursor of a page that ends with delivery d.
func (f DeliveryFilter) CursorAfter(d Delivery) Cursor {
	return Cursor{CreatedAt: d.CreatedAt, ID: d.ID}
}

// MaxRetries is the largest number of deliveries that one call makes due again.
const MaxRetries = 100

// CheckRetry fails with CodeConflict if a delivery cannot be sent again: the promise is
// pending, the delivery or its destination is gone, or a task or callback has its result.
func CheckRetry(d Delivery, destinationDeleted bool) error {
	switch {
	case d.State == DeliveryWaiting:
		return Fail(CodeConflict, "The promise is pending. The delivery becomes due when the promise is settled.")
	case d.State == DeliveryGone:
		return Fail(CodeConflict, "No one waits for this delivery any more: its endReason says why. It cannot be repeated.")
	case d.State == DeliveryDelivered && d.Kind.TakesToken():
		return Fail(CodeConflict, "The task or callback has its result, which it takes once. The delivery cannot be repeated.")
	case destinationDeleted:
		return Fail(CodeConflict, "The destination was deleted. The delivery cannot be repeated.")
	}
	return nil
}
