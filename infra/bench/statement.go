package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/repository"
	"github.com/flovyn/promises/shared/sweep"
)

// statementCalls is the number of calls of an operation for which its statements are counted.
const statementCalls = 50

// countStatements returns the number of statements that the functions send to Postgres for one call of each operation. It
// leaves out statements that depend on time and not on the call: those of the sweep, of a relay without work, of the
// authorizer, and the ping of an idle connection. Postgres logs each statement meanwhile, so this run measures nothing else.
func countStatements(ctx context.Context, c *cluster, p programs, db *dataset, o options, screen *progress) (_ map[string]float64, err error) {
	background, err := backgroundStatements(ctx, db)
	if err != nil {
		return nil, err
	}
	logged, err := db.urlWith("log_statement", "all")
	if err != nil {
		return nil, err
	}
	service, err := p.startLocal(ctx, logged)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, service.stop()) }()
	counts := map[string]float64{}
	for _, operation := range chosen(serviceOperations(db, service), o) {
		screen.say("statements: %s", operation.name)
		first := 0
		if operation.settles {
			if first, err = db.reserve(statementCalls); err != nil {
				return nil, err
			}
		}
		before, err := os.ReadFile(c.server.Log())
		if err != nil {
			return nil, err
		}
		for n := range statementCalls {
			if err := operation.call(ctx, first+n); err != nil {
				return nil, fmt.Errorf("%s: %w", operation.name, err)
			}
		}
		after, err := os.ReadFile(c.server.Log())
		if err != nil {
			return nil, err
		}
		sent := 0
		for _, sql := range statementsIn(after[len(before):]) {
			if !background[sql] {
				sent++
			}
		}
		counts[operation.name] = float64(sent) / statementCalls
	}
	return counts, nil
}

// backgroundStatements returns the statements of the sweep, of a relay without work and of the authorizer, and pgx's ping.
func backgroundStatements(ctx context.Context, db *dataset) (map[string]bool, error) {
	seen := &recorder{sql: map[string]bool{"-- ping": true}}
	pool, err := db.pool(ctx, 1, seen)
	if err != nil {
		return nil, err
	}
	defer pool.Close()
	store := repository.New(pool)
	const century = 100 * 365 * 24 * time.Hour // so that the sweep deletes nothing
	sweeper := sweep.Sweeper{Store: store, Metrics: noMetrics{}, Log: slog.New(slog.DiscardHandler), Retention: century}
	if _, err := sweeper.Once(ctx); err != nil {
		return nil, err
	}
	if _, err := store.ExpireWorkflow(ctx, uuid.New(), 1); err != nil {
		return nil, err
	}
	if err := relayNothing(ctx, store); err != nil {
		return nil, err
	}
	if _, err := store.FindAPIKey(ctx, nil); !errors.Is(err, promise.ErrNotFound) {
		return nil, fmt.Errorf("look up an unknown API key: %w", err)
	}
	_, err = store.TokenActive(ctx, tenant, uuid.New(), uuid.Nil, nil)
	return seen.sql, err
}

// relayNothing sends the statements of a relay that finds nothing due.
func relayNothing(ctx context.Context, store *repository.Repository) error {
	if _, err := store.FindAllDue(ctx); err != nil {
		return err
	}
	if _, err := store.FindDue(ctx, time.Now()); err != nil {
		return err
	}
	return store.ExpireLeases(ctx, 1)
}

// A recorder keeps the text of each statement that a pool sends.
type recorder struct {
	mu  sync.Mutex
	sql map[string]bool
}

func (r *recorder) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	if ctx.Value(poolSetup{}) == nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.sql[strings.TrimSpace(asSent(ctx, data))] = true
	}
	return ctx
}

// asSent returns a traced statement with $1, $2, ..., as pgx sends it.
func asSent(ctx context.Context, data pgx.TraceQueryStartData) string {
	if len(data.Args) == 1 {
		if named, ok := data.Args[0].(pgx.QueryRewriter); ok {
			if sql, _, err := named.RewriteQuery(ctx, nil, data.SQL, nil); err == nil {
				return sql
			}
		}
	}
	return data.SQL
}

func (r *recorder) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

type noMetrics struct{}

func (noMetrics) Count(string, int64)           {}
func (noMetrics) Gauge(string, float64, string) {}

// statementLine matches a statement in Postgres's log. Its second and later lines begin with a tab.
var statementLine = regexp.MustCompile(`(?m)^\S.* LOG:  (?:statement|execute [^:\n]+): (.*(?:\n\t.*)*)`)

// statementsIn returns the statements in a part of Postgres's log.
func statementsIn(log []byte) []string {
	var all []string
	for _, found := range statementLine.FindAllSubmatch(log, -1) {
		all = append(all, string(bytes.TrimSpace(bytes.ReplaceAll(found[1], []byte("\n\t"), []byte("\n")))))
	}
	return all
}

// urlWith returns a URL of the database whose sessions have the setting.
func (db *dataset) urlWith(setting, value string) (string, error) {
	u, err := url.Parse(db.url)
	if err != nil {
		return "", err
	}
	q := u.Query()
	q.Set(setting, value)
	u.RawQuery = q.Encode()
	return u.String(), nil
}
