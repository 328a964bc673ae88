package repository

import (
	"errors"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/flovyn/promises/shared/promise"
)

// The SQLSTATEs that delivery_create and delivery_renew raise.
const (
	codeUnknownDestination  = "PR003"
	codeDestinationDisabled = "PR004"
	codeOtherTargets        = "PR005"
)

// targetTexts returns the targets as the array of delivery_create. It is nil if the
// list is nil, because NULL means the default destination.
func targetTexts(targets []promise.Target) []*string {
	if targets == nil {
		return nil
	}
	texts := []*string{}
	for _, t := range targets {
		texts = append(texts, nullIfEmpty(string(t.Kind)), nullIfEmpty(t.Destination), nullIfEmpty(t.Token))
	}
	return texts
}

// targetError translates an error of delivery_create or delivery_renew, and returns
// every other error unchanged.
func targetError(err error) error {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return err
	}
	e := &promise.Error{Field: "notify[" + pg.ColumnName + "]"}
	name := `"` + pg.Detail + `"`
	switch {
	case pg.Code == codeOtherTargets:
		return createConflict(uuid.MustParse(pg.Detail), "notify")
	case pg.Code == codeDestinationDisabled:
		e.Code = promise.CodeDestinationDisabled
		e.Detail = "The destination " + name + " is disabled: " + pg.Hint + " Repair it, enable it, and repeat the call."
	case pg.Code != codeUnknownDestination:
		return err
	case pg.Hint == "":
		e.Code, e.Detail = promise.CodeUnknownDestination, "There is no destination "+name+". Put it first, or name another one."
	case promise.DestinationKind(pg.Hint).TakesToken():
		e.Code = promise.CodeUnknownDestination
		e.Detail = "The destination " + name + " is of the kind " + pg.Hint + `. Name it within {"` + pg.Hint + `": {...}}.`
	default:
		e.Code = promise.CodeUnknownDestination
		e.Detail = "The destination " + name + " is of the kind " + pg.Hint + `, which takes no token. Send {"destination": ` + name + "}."
	}
	return e
}
