package promise

import (
	"strconv"
	"time"

	"github.com/google/uuid"
)

// The names of the limits, in calls and in the errors of CodeQuotaExceeded.
const (
	LimitPending          = "pending"          // pending promises
	LimitWorkflowPromises = "workflowPromises" // promises of one workflow execution, settled ones too
	LimitEarly            = "held"             // early settlements
	LimitEarlyBytes       = "heldBytes"        // bytes of their values, errors, comments and keys
	LimitWaits            = "waits"            // calls that wait at once
)

// Limit bounds what a tenant may have.
type Limit struct {
	Name     string
	Default  int64 // in force unless the tenant has a limit of its own; -1: the deployment's configuration has it
	Min, Max int64 // of a limit that a tenant may have of its own

	full string // the detail of the error, before the number
}

// Limits lists the limits of a tenant. A new one also needs its column in the
// repository's statements list_tenants, find_tenant and set_limits.
var Limits = []Limit{
	{LimitPending, 5_000_000, 0, 1_000_000_000, "The tenant has as many pending promises as it may have"},
	{LimitWorkflowPromises, 1_000_000, 1, 1_000_000_000, "The workflow execution has as many promises as it may have"},
	{LimitEarly, 10_000, 0, 1_000_000_000, "The tenant has as many early settlements as it may have"},
	{LimitEarlyBytes, 64 << 20, 0, 1 << 40, "The tenant's early settlements have as many bytes as they may have"},
	{LimitWaits, -1, 0, 1000, ""}, // a wait beyond it is answered at once, without an error
}

// LimitOf returns the limit of that name. ok is false if there is none.
func LimitOf(name string) (l Limit, ok bool) {
	for _, l := range Limits {
		if l.Name == name {
			return l, true
		}
	}
	return Limit{}, false
}

// LimitsInForce returns each limit's value for a tenant: its own, or else the
// default. A limit whose default is the deployment's is in it only as the
// tenant's own.
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

// Quota is a limit that a call has met.
type Quota struct {
	Name  string
	Limit int64
}

// QuotaExceeded returns the error of a call that has met a limit.
func QuotaExceeded(name string, limit int64) *Error {
	l, _ := LimitOf(name)
	return &Error{
		Code: CodeQuotaExceeded, Detail: l.full + ": " + strconv.FormatInt(limit, 10) + ".", Quota: &Quota{Name: name, Limit: limit},
	}
}

// Usage is the last count of what a tenant has.
type Usage struct {
	Pending, Early, EarlyBytes int64
	CountedAt                  time.Time
}

// Count is a count of what a tenant has, under way: what was counted so far,
// and the last promise and the last key that were.
type Count struct {
	TenantID uuid.UUID
	Usage

	PendingAfter *Cursor
	PendingDone  bool
	EarlyAfter   *string
	EarlyDone    bool
}

// Full says of a tenant that it has as much as it may have, or not any more.
type Full struct {
	Tenant                 string
	PendingFull, EarlyFull bool
}

// SlugRest is how long the slug of a deleted tenant belongs to nobody: longer
// than any process remembers the id that the slug had.
const SlugRest = 10 * time.Minute

// Contents counts what a tenant has, or what was deleted of it.
type Contents struct {
	Promises, Keys, Events, Executions, APIKeys int64
}

// Deletion is what one batch of a tenant's deletion has done.
type Deletion struct {
	TenantID uuid.UUID // with Done
	Deleted  Contents
	Done     bool      // the tenant is gone
	FreeAt   time.Time // with Done: when another tenant may get the slug
}
