package promise

import (
	"time"

	"github.com/google/uuid"
)

// A DueDestination is a destination with due deliveries.
type DueDestination struct {
	ID       uuid.UUID
	TenantID uuid.UUID
	DueAt    time.Time // of its oldest due delivery
}

// A DueLook is the result of a look for due deliveries.
type DueLook struct {
	At      time.Time        // the database's time of the look
	Due     []DueDestination // each is enabled, and its tenant is not suspended
	Deleted []uuid.UUID      // deleted destinations whose deliveries have not ended
}

// A ClaimRequest asks for due deliveries of one destination.
type ClaimRequest struct {
	Destination uuid.UUID
	Since       time.Time // deliveries with an earlier due time are not read
	Lease       uuid.UUID // a new one for each claim
	LeaseTime   time.Duration

	Limit   int // the largest number of deliveries
	Bytes   int // their largest size as JSON; one delivery may exceed it
	Largest int // the largest size of one message's body

	// DestinationCalls and TenantCalls are the numbers of running calls, of all relays, at
	// which nothing is claimed. Relays that claim at the same moment may exceed each by one.
	DestinationCalls, TenantCalls int
}

// A ClaimStatus says why a claim has as many deliveries as it has.
type ClaimStatus string

// The statuses. With every status but ClaimOpen, a claim has no delivery.
const (
	ClaimOpen            ClaimStatus = "open"             // these are all that could be claimed
	ClaimClosed          ClaimStatus = "closed"           // the destination is disabled, deleted or unknown, or its tenant is suspended
	ClaimLocked          ClaimStatus = "locked"           // another call has locked the destination
	ClaimTenantFull      ClaimStatus = "tenant_full"      // the tenant has TenantCalls running
	ClaimDestinationFull ClaimStatus = "destination_full" // the destination has DestinationCalls running
)

// A Claim has deliveries that one lease holds.
type Claim struct {
	Status      ClaimStatus
	Next        *time.Time // the Since of the next claim; nil: no more is due
	Tenant      string     // the slug
	Destination Destination
	Secrets     []DestinationSecret // the active ones, the newest first
	Deliveries  []ClaimedDelivery
}

// A ClaimedDelivery is a delivery with its promise, both in their state at the claim.
type ClaimedDelivery struct {
	ID         uuid.UUID
	Token      string // of a task or callback: a secret
	Attempts   int    // that failed
	Unanswered bool   // the last one ended without a result, and is among Attempts; the claim has no other delivery
	Promise    Promise
}

// A DeliveryReport reports one attempt for each delivery of a lease.
type DeliveryReport struct {
	Lease           uuid.UUID
	Destination     uuid.UUID
	Seen            time.Time // the destination's UpdatedAt in the claim
	DisabledBecause string    // the reason, if the destination is to be disabled; one that has changed since Seen is not
	Deliveries      []DeliveryRecord
}

// A DeliveryRecord is the new state of a delivery after an attempt.
type DeliveryRecord struct {
	ID         uuid.UUID
	State      DeliveryState // DeliveryDue, or one in which it ends
	Delay      time.Duration // DeliveryDue: the time until the next attempt
	Counted    bool          // an attempt was made
	Unanswered bool          // the attempt may have been made: the next claim counts it
	Status     int           // the HTTP status; 0 if there was no answer
	Error      string        // empty if the attempt did not fail
	Reason     string        // DeliveryGone: why
}
