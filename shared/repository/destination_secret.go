package repository

import (
	"context"
	_ "embed" // the queries
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/flovyn/promises/shared/promise"
)

//go:embed queries/rotate_destination_secret.sql
var rotateDestinationSecretSQL string

// RotateDestinationSecret adds a secret to a destination of the kind https. seal makes
// the secret for the destination's id and the new version. If a concurrent call changes
// the destination, seal is called again, and its last secret counts.
//
// The former secret stays active for rotation.Overlap. At most two secrets are active.
// If two are, rotation.Ends must name the one that ends at once: otherwise the error is
// CodeConflict, because only the caller knows which one the receiver has. It returns
// the destination and its active secrets, newest first.
func (r *Repository) RotateDestinationSecret(
	ctx context.Context, tenant, name string, rotation promise.Rotation, seal func(id uuid.UUID, version int) ([]byte, error),
) (promise.Destination, []promise.DestinationSecret, error) {
	type rotated struct {
		d       promise.Destination
		secrets []promise.DestinationSecret
	}
	result, err := retry(ctx, func(*learned) (rotated, error) {
		d, active, err := r.GetDestination(ctx, tenant, name)
		if err != nil {
			return rotated{}, err
		}
		former, err := formerSecret(d, active, rotation.Ends)
		if err != nil {
			return rotated{}, err
		}
		s := promise.DestinationSecret{Version: active[0].Version + 1}
		if s.Sealed, err = seal(d.ID, s.Version); err != nil {
			return rotated{}, err
		}
		version := 0
		if former != nil {
			version = former.Version
		}
		row, err := one[rotatedRow](r.db.Query(ctx, rotateDestinationSecretSQL, named{
			"id": d.ID.String(), "seen": d.UpdatedAt, "version": s.Version, "sealed": s.Sealed,
			"former": version, "ends": rotation.Ends, "overlap": rotation.Overlap,
		}))
		if errors.Is(err, pgx.ErrNoRows) {
			err = errRaceLost
		}
		if err != nil {
			return rotated{}, err
		}
		s.CreatedAt = row.CreatedAt
		secrets := []promise.DestinationSecret{s}
		if former != nil && rotation.Overlap > 0 {
			former.RetireAt = row.RetireAt
			secrets = append(secrets, *former)
		}
		return rotated{d, secrets}, nil
	})
	return result.d, result.secrets, interpret("rotate destination secret", err)
}

type rotatedRow struct {
	CreatedAt time.Time
	RetireAt  *time.Time
}

// formerSecret returns the active secret that stays for a while beside a new one, or nil
// if none does.
func formerSecret(d promise.Destination, active []promise.DestinationSecret, ends int) (*promise.DestinationSecret, error) {
	if d.Kind != promise.DestinationHTTPS || len(active) == 0 {
		return nil, promise.Fail(promise.CodeConflict, "A destination of the kind "+string(d.Kind)+" has no secret: AWS authenticates its messages.")
	}
	return formerOf(active, ends, "receiver")
}

// formerOf returns the active secret that stays beside a new one if the version ends goes
// at once. other names the party that has the secret, too.
func formerOf(active []promise.DestinationSecret, ends int, other string) (*promise.DestinationSecret, error) {
	i := slices.IndexFunc(active, func(s promise.DestinationSecret) bool { return s.Version == ends })
	switch {
	case i >= 0:
		active = slices.Delete(slices.Clone(active), i, i+1)
	case ends != 0:
		return nil, fieldConflict("No such version is active. " + activeVersions(active))
	}
	switch len(active) {
	case 0:
		return nil, nil
	case 1:
		return &active[0], nil
	}
	return nil, fieldConflict("Two secrets are active, and a third would end one. " + activeVersions(active) +
		" If the " + other + " does not have the newest one, send replaceVersion with its version: the older one stays.")
}

func fieldConflict(detail string) error {
	return &promise.Error{Code: promise.CodeConflict, Field: "replaceVersion", Detail: detail}
}

// activeVersions returns a sentence with the versions of the active secrets.
func activeVersions(active []promise.DestinationSecret) string {
	if len(active) == 0 {
		return "None is active: send no replaceVersion."
	}
	text := "Active: version " + strconv.Itoa(active[0].Version)
	for _, s := range active[1:] {
		text += ", and version " + strconv.Itoa(s.Version) + " until " + s.RetireAt.UTC().Format(time.RFC3339)
	}
	return text + "."
}
