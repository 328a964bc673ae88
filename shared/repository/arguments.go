package repository

import (
	"context"
	"maps"
	"sync"

	"github.com/jackc/pgx/v5"

	"github.com/flovyn/promises/shared/promise"
)

// arguments make a statement's arguments for one try of a call.
type arguments interface {
	after(known *learned) named
}

type argumentsFunc func(*learned) named

func (f argumentsFunc) after(known *learned) named { return f(known) }

// ofPromise adds @id and @key to the arguments. One of them is NULL. They name the
// promise by the identifier. Once a try has found the promise, they name it by its id,
// because the key may name another promise by the next try.
func ofPromise(i promise.Identifier, a named) arguments {
	a["id"], a["key"] = identifierArguments(i)
	return argumentsFunc(func(known *learned) named {
		if known.promiseID == "" {
			return a
		}
		return a.with(named{"id": known.promiseID, "key": nil})
	})
}

// identifierArguments returns a promise's id and idempotency key. One of them is nil.
func identifierArguments(i promise.Identifier) (id, key *string) {
	if k, ok := i.IdempotencyKey(); ok {
		return nil, &k
	}
	u, _ := i.ID()
	s := u.String()
	return &s, nil
}

// withAwaited adds @awaited to the arguments: see learned.
func withAwaited(a named) arguments {
	a["awaited"] = false
	return argumentsFunc(func(known *learned) named {
		if !known.awaited {
			return a
		}
		return a.with(named{"awaited": true})
	})
}

// A named holds the arguments of a statement by name, without the @. Each name of
// the statement must be present, and no other, as with pgx.StrictNamedArgs.
type named map[string]any

func (a named) after(*learned) named { return a }

// with returns a copy of the arguments with other values.
func (a named) with(others named) named {
	all := maps.Clone(a)
	maps.Copy(all, others)
	return all
}

// A positional is a statement that pgx has rewritten with $1, $2, ...
type positional struct {
	sql   string
	names []any // of $1, $2, ...
}

// rewritten has the positional of each statement that was sent, by its text. pgx
// alone would scan the text again for each call.
var rewritten sync.Map

// RewriteQuery implements pgx.QueryRewriter.
func (a named) RewriteQuery(ctx context.Context, conn *pgx.Conn, sql string, args []any) (string, []any, error) {
	known, ok := rewritten.Load(sql)
	if !ok {
		names := pgx.StrictNamedArgs{}
		for name := range a {
			names[name] = name
		}
		text, ordered, err := names.RewriteQuery(ctx, conn, sql, args)
		if err != nil {
			return "", nil, err
		}
		known, _ = rewritten.LoadOrStore(sql, positional{text, ordered})
	}
	p := known.(positional)
	values := make([]any, len(p.names))
	for i, name := range p.names {
		value, given := a[name.(string)]
		if !given || len(a) != len(p.names) {
			return pgx.StrictNamedArgs(a).RewriteQuery(ctx, conn, sql, args) // it names the argument that is missing or unknown
		}
		values[i] = value
	}
	return p.sql, values, nil
}
