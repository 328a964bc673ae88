package repository

import (
	"context"
	_ "embed" // the queries
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/flovyn/promises/shared/promise"
)

//go:embed queries/put_destination.sql
var putDestinationSQL string

//go:embed queries/enable_destination.sql
var enableDestinationSQL string

//go:embed queries/get_destination.sql
var getDestinationSQL string

//go:embed queries/list_destinations.sql
var listDestinationsSQL string

//go:embed queries/delete_destination.sql
var deleteDestinationSQL string

//go:embed queries/set_default_destination.sql
var setDefaultDestinationSQL string

//go:embed queries/delete_destinations.sql
var deleteDestinationsSQL string

//go:embed queries/begin_test.sql
var beginTestSQL string

//go:embed queries/end_test.sql
var endTestSQL string

type destinationRow struct {
	ID              *uuid.UUID
	Name            *string
	Kind            *promise.DestinationKind
	Address         *string
	MailFrom        *string
	Region          *string
	RoleARN         *string
	Enabled         *bool
	DisabledBecause *string
	CreatedAt       *time.Time
	UpdatedAt       *time.Time
	IsDefault       bool
}

// destination returns the destination of a row, or promise.ErrNoDestination for a row
// of NULLs.
func (r destinationRow) destination() (promise.Destination, error) {
	if r.ID == nil {
		return promise.Destination{}, promise.ErrNoDestination
	}
	return promise.Destination{
		ID: *r.ID, Name: *r.Name, Kind: *r.Kind, Address: textOf(r.Address), From: textOf(r.MailFrom), Region: textOf(r.Region), RoleARN: textOf(r.RoleARN),
		Enabled: *r.Enabled, DisabledBecause: textOf(r.DisabledBecause), Default: r.IsDefault, CreatedAt: *r.CreatedAt, UpdatedAt: *r.UpdatedAt,
	}, nil
}

// textOf returns an empty text for NULL.
func textOf(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// PutDestination creates a destination, or changes the one with its name: the address,
// the sender, the region and the role become those of d. enabled changes whether it is
// paused; nil keeps that, and a new destination is enabled. With true, the destination
// is no longer disabled by the service, either. d.ID and sealed, its first secret, are
// for a new destination alone; sealed is nil for a kind that signs nothing.
//
// The error is CodeConflict if the name has a destination of another kind, and
// CodeQuotaExceeded if the tenant has promise.MaxDestinations.
func (r *Repository) PutDestination(
	ctx context.Context, tenant string, d promise.Destination, enabled *bool, sealed []byte,
) (put promise.Destination, created bool, err error) {
	row, err := run(ctx, r, "put destination", putDestinationSQL, named{
		"tenant": tenant, "id": d.ID.String(), "name": d.Name, "kind": string(d.Kind), "address": nullIfEmpty(d.Address),
		"mail_from": nullIfEmpty(d.From), "region": nullIfEmpty(d.Region), "role_arn": nullIfEmpty(d.RoleARN), "enabled": enabled,
		"sealed": sealed, "limit": promise.MaxDestinations,
	}, func(rows pgx.Rows, err error) (putRow, error) {
		row, err := one[putRow](rows, err)
		if err == nil && row.ID == nil && !row.refuses(d.Kind) { // a concurrent call created or deleted it
			err = errRaceLost
		}
		return row, err
	})
	switch {
	case err != nil:
		return promise.Destination{}, false, err
	case row.ID != nil:
		put, err = row.destination()
		return put, row.Created, err
	case row.FoundKind != nil:
		return promise.Destination{}, false, &promise.Error{
			Code: promise.CodeConflict, Field: "kind",
			Detail: "The destination is of the kind " + string(*row.FoundKind) + ", and a kind never changes. Send another name, or delete the destination first.",
		}
	}
	return promise.Destination{}, false, promise.DestinationsExceeded()
}

type putRow struct {
	FoundKind *promise.DestinationKind
	IsFull    bool
	Created   bool
	destinationRow
}

// refuses reports whether the statement did nothing because of what it found.
func (r putRow) refuses(kind promise.DestinationKind) bool {
	if r.FoundKind != nil {
		return *r.FoundKind != kind
	}
	return r.IsFull
}

// EnableDestination enables a destination of any kind, or pauses it: then its due
// deliveries wait.
func (r *Repository) EnableDestination(ctx context.Context, tenant, name string, enabled bool) (promise.Destination, error) {
	row, err := run(ctx, r, "enable destination", enableDestinationSQL, named{
		"tenant": tenant, "name": name, "enabled": enabled,
	}, one[destinationRow])
	if err != nil {
		return promise.Destination{}, err
	}
	return row.destination()
}

type secretsRow struct {
	destinationRow
	Versions   []int
	Sealed     [][]byte
	CreatedAts []time.Time
	RetireAts  []*time.Time
}

// GetDestination returns a destination with its active secrets, newest first.
func (r *Repository) GetDestination(ctx context.Context, tenant, name string) (promise.Destination, []promise.DestinationSecret, error) {
	row, err := run(ctx, r, "get destination", getDestinationSQL, named{"tenant": tenant, "name": name}, one[secretsRow])
	if err != nil {
		return promise.Destination{}, nil, err
	}
	d, err := row.destination()
	secrets := make([]promise.DestinationSecret, len(row.Versions))
	for i, version := range row.Versions {
		secrets[i] = promise.DestinationSecret{Version: version, Sealed: row.Sealed[i], CreatedAt: row.CreatedAts[i], RetireAt: row.RetireAts[i]}
	}
	return d, secrets, err
}

// ListDestinations lists a tenant's destinations by name.
func (r *Repository) ListDestinations(ctx context.Context, tenant string) ([]promise.Destination, error) {
	rows, err := run(ctx, r, "list destinations", listDestinationsSQL, named{"tenant": tenant}, all[destinationRow])
	if err == nil && len(rows) == 0 {
		err = promise.ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	var list []promise.Destination
	for _, row := range rows {
		if d, err := row.destination(); err == nil {
			list = append(list, d)
		}
	}
	return list, nil
}

// DeleteDestination deletes a destination and its secrets, and returns its id. The name
// is free at once. If it was the tenant's default destination, the tenant has none.
func (r *Repository) DeleteDestination(ctx context.Context, tenant, name string) (uuid.UUID, error) {
	row, err := run(ctx, r, "delete destination", deleteDestinationSQL, named{"tenant": tenant, "name": name},
		func(rows pgx.Rows, err error) (deletedDestinationRow, error) {
			row, err := one[deletedDestinationRow](rows, err)
			if err == nil && row.ID != nil && !row.Deleted {
				err = errRaceLost
			}
			return row, err
		})
	switch {
	case err != nil:
		return uuid.Nil, err
	case row.ID == nil:
		return uuid.Nil, promise.ErrNoDestination
	}
	return *row.ID, nil
}

type deletedDestinationRow struct {
	ID      *uuid.UUID
	Deleted bool
}

// SetDefaultDestination sets the destination of promises that are created without
// targets; nil: none. The error is CodeUnknownDestination if there is no such
// destination, and CodeConflict if its kind takes a token.
func (r *Repository) SetDefaultDestination(ctx context.Context, tenant string, name *string) error {
	row, err := run(ctx, r, "set default destination", setDefaultDestinationSQL, named{"tenant": tenant, "name": name}, one[kindRow])
	switch {
	case err != nil:
		return err
	case name != nil && row.Kind == nil:
		return promise.Fail(promise.CodeUnknownDestination, "There is no such destination. Put it first, or send null for no default.")
	case name != nil && row.Kind.TakesToken():
		return promise.Fail(promise.CodeConflict,
			"A destination of the kind "+string(*row.Kind)+" cannot be the default: each of its targets needs a token. Send another name, or null for no default.")
	}
	return nil
}

type kindRow struct {
	Kind *promise.DestinationKind
}

// DeleteDestinations deletes at most limit deleted destinations that have no deliveries
// left, and at most limit retired secrets of any tenant. It skips locked rows. It
// returns the larger of both counts.
func (r *Repository) DeleteDestinations(ctx context.Context, limit int) (int, error) {
	row, err := run(ctx, r, "delete destinations", deleteDestinationsSQL, named{"limit": limit}, one[deletedDestinationsRow])
	return max(row.Destinations, row.Secrets), err
}

type deletedDestinationsRow struct {
	Destinations int
	Secrets      int
}

// BeginTest counts a test of a destination until EndTest removes it, at most for
// longest. If the tenant already has limit running tests, or another one begins at this
// moment, BeginTest does not count it and returns false.
func (r *Repository) BeginTest(ctx context.Context, tenant string, id uuid.UUID, longest time.Duration, limit int) (bool, error) {
	row, err := run(ctx, r, "begin test", beginTestSQL, named{
		"tenant": tenant, "id": id.String(), "longest": longest, "bound": limit,
	}, one[existsRow])
	return row.Exists, err
}

// EndTest removes a test that BeginTest counted.
func (r *Repository) EndTest(ctx context.Context, id uuid.UUID) error {
	_, err := r.db.Exec(ctx, endTestSQL, named{"id": id.String()})
	return interpret("end test", err)
}
