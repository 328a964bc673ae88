package promise

import (
	"strconv"
	"time"

	"github.com/google/uuid"
)

// The names of the limits, in calls and in the errors of CodeQuotaExceeded.
const (
	LimitPending          = "pending"          // pending promises
	LimitWorkflowPromises = "workflowPromises" // promises of one workflow execution, settled ones included
	LimitEarly            = "held"             // early settlements
	LimitEarlyBytes       = "heldBytes"        // the bytes of their values, errors, comments and keys
	LimitWaits            = "waits"            // waiting calls at one time
)

// A Limit bounds one kind of a tenant's rows, or its waiting calls.
type Limit struct {
	Name     string
	Default  int64 // applies to a tenant without a limit of its own; -1: the deployment's configuration has the default
	Min, Max int64 // the bounds of a tenant's own limit

	reached string // the error's detail, before the number
	remedy  string // and after it: what the caller can do
}

// Limits lists the limits of a tenant. A new limit also needs a column in the
// repository's statements list_tenants, find_tenant and set_limits.
var Limits = []Limit{
	{LimitPending, 5_000_000, 0, 1_000_000_000, "The tenant has reached its limit of pending promises", "Settle or cancel some first, or ask the operator for a higher limit."},
	{LimitWorkflowPromises, 1_000_000, 1, 1_000_000_000, "The workflow execution has reached its limit of promises", "Use a new workflow execution, or ask the operator for a higher limit."},
	{LimitEarly, 10_000, 0, 1_000_000_000, "The tenant has reached its limit of early settlements", "Create the promises of some first, or repeat the call after some have expired."},
	{LimitEarlyBytes, 64 << 20, 0, 1 << 40, "The tenant's early settlements have reached their limit of bytes", "Create the promises of some first, or repeat the call after some have expired."},
	{LimitWaits, -1, 0, 1000, "", ""}, // a call beyond it is answered at once, without an error
}

// LimitOf returns the limit with a name. ok is false if there is none.
func LimitOf(name string) (l Limit, ok bool) {
	for _, l := range Limits {
		if l.Name == name {
			return l, true
		}
	}
	return Limit{}, false
}

// LimitsInForce returns the value of each limit that applies to a tenant: the
// tenant's own, or the default. It leaves out a limit whose default is in the
// deployment's configuration, unless the tenant has its own.
func LimitsInForce(own map[string]int64) map[string]int64 {
	inForce := map[string]int64{}
	for _, l := range Limits {
		if l.Default >= 0 {
			inForce[l.Name] = l.Default
		}
		if n, ok := own[l.Name]; ok {
			inForce[l.Name] = n
		}
	}
	return inForce
}

// A Quota is a limit that a call has reached.
type Quota struct {
	Name  string
	Limit int64
}

// QuotaExceeded returns the error of a call that has reached a limit.
func QuotaExceeded(name string, limit int64) *Error {
	l, _ := LimitOf(name)
	return &Error{
		Code: CodeQuotaExceeded, Detail: l.reached + ": " + strconv.FormatInt(limit, 10) + ". " + l.remedy, Quota: &Quota{Name: name, Limit: limit},
	}
}

// A Usage is a count of a tenant's pending promises, and of its early settlements
// and their bytes.
type Usage struct {
	Pending, Early, EarlyBytes int64
	CountedAt                  time.Time
}

// A Count is a Usage that is counted in several steps. Usage has the sums so far.
// PendingAfter and EarlyAfter are the last promise and the last idempotency key
// that were counted; nil: none yet.
type Count struct {
	TenantID uuid.UUID
	Usage

	PendingAfter *Cursor
	PendingDone  bool
	EarlyAfter   *string
	EarlyDone    bool
}

// A Full reports a tenant whose flags have changed, with the new flags: whether it
// has reached a limit of pending promises, or one of early settlements.
type Full struct {
	Tenant                 string
	PendingFull, EarlyFull bool
}

// SlugReuseDelay is the time for which no tenant may take the slug of a deleted tenant.
// It is longer than any process remembers the deleted tenant's id.
const SlugReuseDelay = 10 * time.Minute

// Contents counts the rows of a tenant, or the deleted ones of them.
type Contents struct {
	Promises, Keys, Events, Executions, APIKeys int64
}

// A Deletion is the result of one batch of a tenant's deletion.
type Deletion struct {
	TenantID uuid.UUID // set with Done
	Deleted  Contents
	Done     bool      // the tenant is deleted
	FreeAt   time.Time // set with Done: from then on another tenant may take the slug
}
