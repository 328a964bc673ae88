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

// statementCalls is how often an operation is called to count its statements.
const statementCalls = 50

// countStatements returns how many statements the service's functions send Postgres for one call of each operation. What they
// send by the clock is not counted, or the count would depend on how long the calls take: the sweep's work, the authorizer's
// look-ups, and the look at a connection that has idled. Nothing is measured meanwhile, because Postgres logs each statement.
func countStatements(ctx context.Context, c *cluster, p programs, db *loaded, o options, screen *progress) (_ map[string]float64, err error) {
	other, err := background(ctx, db)
	if err != nil {
		return nil, err
	}
	logged, err := db.with("log_statement", "all")
	if err != nil {
		return nil, err
	}
	service, err := p.startLocal(ctx, logged)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, service.stop()) }()
	counts := map[string]float64{}
	for _, operation := range chosen(throughService(db, service), o) {
		screen.say("statements: %s", operation.name)
		first := 0
		if operation.settles {
			if first, err = db.take(statementCalls); err != nil {
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
			if !other[sql] {
				sent++
			}
		}
		counts[operation.name] = float64(sent) / statementCalls
	}
	return counts, nil
}

// background returns the statements that are not sent for a call itself: the sweep's, the authorizer's and pgx's ping.
func background(ctx context.Context, db *loaded) (map[string]bool, error) {
	seen := &recorder{sql: map[string]bool{"-- ping": true}}
	pool, err := db.pool(ctx, 1, seen)
	if err != nil {
		return nil, err
	}
	defer pool.Close()
	store := repository.New(pool)
	const all = 100 * 365 * 24 * time.Hour // nothing has been settled for so long
	sweeper := sweep.Sweeper{Store: store, Metrics: noMetrics{}, Log: slog.New(slog.DiscardHandler), Retention: all}
	if _, err := sweeper.Once(ctx); err != nil {
		return nil, err
	}
	if _, err := store.ExpireWorkflow(ctx, uuid.New(), 1); err != nil {
		return nil, err
	}
	if _, err := store.FindAPIKey(ctx, nil); !errors.Is(err, promise.ErrNotFound) {
		return nil, fmt.Errorf("a key that nobody has: %w", err)
	}
	_, err = store.TokenActive(ctx, tenant, uuid.New(), uuid.Nil, nil)
	return seen.sql, err
}

// recorder keeps the statements that a pool sends.
type recorder struct {
	mu  sync.Mutex
	sql map[string]bool
}

func (r *recorder) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	if ctx.Value(ofPool{}) == nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.sql[strings.TrimSpace(data.SQL)] = true
	}
	return ctx
}

func (r *recorder) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

type noMetrics struct{}

func (noMetrics) Count(string, int64)           {}
func (noMetrics) Gauge(string, float64, string) {}

// statementLine is how Postgres's log begins a statement. Each further line of it begins with a tab.
var statementLine = regexp.MustCompile(`(?m)^\S.* LOG:  (?:statement|execute [^:\n]+): (.*(?:\n\t.*)*)`)

// statementsIn returns the statements that a part of Postgres's log holds.
func statementsIn(log []byte) []string {
	var all []string
	for _, found := range statementLine.FindAllSubmatch(log, -1) {
		all = append(all, string(bytes.TrimSpace(bytes.ReplaceAll(found[1], []byte("\n\t"), []byte("\n")))))
	}
	return all
}

// with returns a URL of the database whose sessions have a setting.
func (db *loaded) with(setting, value string) (string, error) {
	u, err := url.Parse(db.url)
	if err != nil {
		return "", err
	}
	q := u.Query()
	q.Set(setting, value)
	u.RawQuery = q.Encode()
	return u.String(), nil
}
