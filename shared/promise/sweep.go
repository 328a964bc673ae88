package promise

import (
	"time"

	"github.com/google/uuid"
)

// ExpireResult is what became of a batch of deadlines that had passed.
type ExpireResult struct {
	Expired  int            // how many were recorded
	More     bool           // whether others are due, and this batch recorded some
	Lateness time.Duration  // how long ago the oldest of them was
	Next     *time.Duration // until the next deadline that is still to come; nil: there is none

	// Skipped is a workflow execution that another transaction had locked, the
	// one with the oldest deadline; nil if none. If More, it may be one whose turn
	// has not come yet.
	Skipped *uuid.UUID
}

// ExpireKeysResult is the result of one batch of keys.
type ExpireKeysResult struct {
	Examined     int            // how many keys were looked at
	Released     int            // how many of them let their promise go
	ExpiredEarly []ExpiredEarly // the early settlements that expired
}

// ExpiredEarly names a settlement that was held for the promise that was to be created
// with its key.
type ExpiredEarly struct{ Tenant, Key string }

// Deleted is how much went with a batch of promises that were kept long enough.
type Deleted struct {
	Promises, Keys, Events, Workflows int
}
