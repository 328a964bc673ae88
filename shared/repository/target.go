package repository

import (
	"errors"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/flovyn/promises/shared/promise"
)

// The SQLSTATEs that delivery_create raises.
const (
	codeUnknownDestination  = "PR003"
	codeDestinationDisabled = "PR004"
)

// targetColumns returns the targets as the arrays of delivery_create. They are nil if
// the list is nil, because NULL means the default destination.
func targetColumns(targets []promise.Target) (kinds, destinations, tokens []*string) {
	if targets == nil {
		return nil, nil, nil
	}
	kinds, destinations, tokens = []*string{}, []*string{}, []*string{}
	for _, t := range targets {
		kinds = append(kinds, nullIfEmpty(string(t.Kind)))
		destinations = append(destinations, nullIfEmpty(t.Destination))
		tokens = append(tokens, nullIfEmpty(t.Token))
	}
	return kinds, destinations, tokens
}

// targetError translates an error of delivery_create, and returns every other error
// unchanged.
func targetError(err error) error {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return err
	}
	e := &promise.Error{Field: "notify[" + pg.ColumnName + "]"}
	name := `"` + pg.Detail + `"`
	switch {
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
