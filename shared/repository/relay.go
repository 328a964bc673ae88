package repository

import (
	"context"
	_ "embed" // the queries
	"time"

	"github.com/google/uuid"

	"github.com/flovyn/promises/shared/promise"
)

//go:embed queries/find_due.sql
var findDueSQL string

//go:embed queries/find_all_due.sql
var findAllDueSQL string

//go:embed queries/claim_deliveries.sql
var claimDeliveriesSQL string

//go:embed queries/record_deliveries.sql
var recordDeliveriesSQL string

//go:embed queries/end_deliveries.sql
var endDeliveriesSQL string

//go:embed queries/expire_leases.sql
var expireLeasesSQL string

type dueRow struct {
	LookedAt      time.Time
	DestinationID *uuid.UUID
	TenantID      *uuid.UUID
	DueAt         *time.Time
	Deleted       bool
}

// FindDue finds the destinations with deliveries that became due after a moment. It may
// miss one whose settlement has not committed yet, and one that became due before.
func (r *Repository) FindDue(ctx context.Context, since time.Time) (promise.DueLook, error) {
	return toLook(run(ctx, r, "find due deliveries", findDueSQL, named{"since": since}, all[dueRow]))
}

// FindAllDue finds all destinations with due deliveries, and the deleted ones whose
// deliveries have not ended.
func (r *Repository) FindAllDue(ctx context.Context) (promise.DueLook, error) {
	return toLook(run(ctx, r, "find all due deliveries", findAllDueSQL, named{}, all[dueRow]))
}

func toLook(rows []dueRow, err error) (look promise.DueLook, _ error) {
	for _, row := range rows {
		look.At = row.LookedAt
		switch {
		case row.DestinationID == nil:
		case row.Deleted:
			look.Deleted = append(look.Deleted, *row.DestinationID)
		default:
			look.Due = append(look.Due, promise.DueDestination{ID: *row.DestinationID, TenantID: *row.TenantID, DueAt: *row.DueAt})
		}
	}
	return look, err
}

type claimRow struct {
	promiseRow
	Status               promise.ClaimStatus
	Next                 *time.Time
	Tenant               *string
	DestinationName      *string
	Kind                 *promise.DestinationKind
	Address              *string
	MailFrom             *string
	Region               *string
	RoleARN              *string `db:"role_arn"`
	DestinationUpdatedAt *time.Time
	SecretVersions       []int32
	SealedSecrets        [][]byte
	DeliveryID           *uuid.UUID
	Token                *string
	Attempts             *int32
	Unanswered           *bool
}

// ClaimDeliveries gives a lease due deliveries of one destination, the oldest first. If
// the answer is lost, they stay with the lease until it ends. A call whose result is an
// error may be repeated with another lease.
func (r *Repository) ClaimDeliveries(ctx context.Context, c promise.ClaimRequest) (promise.Claim, error) {
	rows, err := run(ctx, r, "claim deliveries", claimDeliveriesSQL, named{
		"destination": c.Destination.String(), "since": c.Since, "lease": c.Lease.String(), "lease_time": c.LeaseTime,
		"limit": c.Limit, "bytes": c.Bytes, "largest": c.Largest, "destination_calls": c.DestinationCalls, "tenant_calls": c.TenantCalls,
	}, all[claimRow])
	if err != nil {
		return promise.Claim{}, err
	}
	first := rows[0]
	claim := promise.Claim{
		Status: first.Status, Next: first.Next, Tenant: orEmpty(first.Tenant),
		Destination: promise.Destination{
			ID: c.Destination, Name: orEmpty(first.DestinationName), Kind: orEmpty(first.Kind), Address: orEmpty(first.Address),
			From: orEmpty(first.MailFrom), Region: orEmpty(first.Region), RoleARN: orEmpty(first.RoleARN),
			UpdatedAt: orEmpty(first.DestinationUpdatedAt),
		},
	}
	for i, version := range first.SecretVersions {
		claim.Secrets = append(claim.Secrets, promise.DestinationSecret{Version: int(version), Sealed: first.SealedSecrets[i]})
	}
	for _, row := range rows {
		if row.DeliveryID != nil {
			claim.Deliveries = append(claim.Deliveries, promise.ClaimedDelivery{
				ID: *row.DeliveryID, Token: orEmpty(row.Token), Attempts: int(orEmpty(row.Attempts)), Unanswered: orEmpty(row.Unanswered),
				Promise: row.promise(),
			})
		}
	}
	return claim, nil
}

// orEmpty returns the value, or its type's zero value for nil.
func orEmpty[T any](value *T) (v T) {
	if value != nil {
		v = *value
	}
	return v
}

type recordedRow struct{ ID uuid.UUID }

// RecordDeliveries records the results of a lease's deliveries and ends the lease. It
// returns the deliveries that it recorded: a delivery that the lease has lost stays as
// it is. A repeated call records nothing more.
func (r *Repository) RecordDeliveries(ctx context.Context, report promise.DeliveryReport) ([]uuid.UUID, error) {
	n := len(report.Deliveries)
	ids, states, delays := make([]string, n), make([]string, n), make([]time.Duration, n)
	counted, unanswered := make([]bool, n), make([]bool, n)
	statuses, errors, reasons := make([]*int32, n), make([]*string, n), make([]*string, n)
	for i, d := range report.Deliveries {
		ids[i], states[i], delays[i], counted[i], unanswered[i] = d.ID.String(), string(d.State), d.Delay, d.Counted, d.Unanswered
		errors[i], reasons[i] = nullIfEmpty(d.Error), nullIfEmpty(d.Reason)
		if d.Status != 0 {
			statuses[i] = new(int32(d.Status))
		}
	}
	rows, err := run(ctx, r, "record deliveries", recordDeliveriesSQL, named{
		"lease": report.Lease.String(), "destination": report.Destination.String(), "seen": report.Seen, "disabled_because": nullIfEmpty(report.DisabledBecause),
		"ids": ids, "states": states, "delays": delays, "counted": counted, "unanswered": unanswered,
		"statuses": statuses, "errors": errors, "reasons": reasons,
	}, all[recordedRow])
	recorded := make([]uuid.UUID, len(rows))
	for i, row := range rows {
		recorded[i] = row.ID
	}
	return recorded, err
}

type countRow struct{ N int }

// EndDeliveries ends at most limit due deliveries of deleted destinations, and returns
// their number. It skips those that a lease holds. The destinations must be deleted.
func (r *Repository) EndDeliveries(ctx context.Context, destinations []uuid.UUID, limit int) (int, error) {
	ids := make([]string, len(destinations))
	for i, id := range destinations {
		ids[i] = id.String()
	}
	row, err := run(ctx, r, "end deliveries", endDeliveriesSQL, named{"destinations": ids, "limit": limit}, one[countRow])
	return row.N, err
}

// ExpireLeases deletes at most limit leases that ended a minute ago or earlier. Their
// relays were stopped.
func (r *Repository) ExpireLeases(ctx context.Context, limit int) error {
	_, err := r.db.Exec(ctx, expireLeasesSQL, named{"limit": limit})
	return interpret("expire leases", err)
}
