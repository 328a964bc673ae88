package promise

import (
	"time"

	"github.com/google/uuid"
)

// An ExpireResult is the result of one batch of deadlines that had passed.
type ExpireResult struct {
	Expired  int            // the number of deadlines recorded
	More     bool           // others are due, and this batch recorded at least one
	Lateness time.Duration  // the time since the oldest recorded deadline
	Next     *time.Duration // the time until the next deadline; nil: none is to come

	// Skipped is the workflow execution with the oldest due deadline that the batch
	// left, because another transaction had locked it; nil if none. With More, the
	// batch may also have left it for lack of room.
	Skipped *uuid.UUID
}

// An ExpireKeysResult is the result of one batch of idempotency keys.
type ExpireKeysResult struct {
	Examined     int            // the number of keys that the batch read
	Released     int            // the number of those keys that no longer name a promise
	ExpiredEarly []ExpiredEarly // the early settlements that expired and were deleted
}

// An ExpiredEarly names an early settlement that expired before a promise was
// created with its idempotency key.
type ExpiredEarly struct{ Tenant, Key string }

// Deleted counts the rows that one batch of retention deleted.
type Deleted struct {
	Promises, Keys, Events, Workflows int
}
