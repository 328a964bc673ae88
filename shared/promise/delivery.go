package promise

import (
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
	DeliveryDead      DeliveryState = "dead"      // all attempts failed
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
