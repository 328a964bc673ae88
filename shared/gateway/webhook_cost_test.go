package gateway_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/gateway"
	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/repository"
	"github.com/flovyn/promises/shared/webhook"
)

// A flood of invented names makes no statement.
func TestWrongChecksumsReachNoDatabase(t *testing.T) {
	t.Parallel()
	s := withoutDatabase() // a statement would panic, and be answered with 500
	h := s.handler(t, "receive-webhook")
	for i := range 1000 {
		r := respond(t, h, posted{segment: fmt.Sprintf("source-%d-aaaaaaaaaaaaaaaa", i), body: []byte("{}")}.event(t, s))
		require.Equal(t, 401, r.StatusCode, r.Body)
	}
}

// A statementCount counts the statements of a pool.
type statementCount struct{ n atomic.Int64 }

func (c *statementCount) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	c.n.Add(1)
	return ctx
}

func (c *statementCount) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// counted returns the service with a store whose statements are counted.
func (s *service) counted(t testing.TB) (*service, *statementCount) {
	t.Helper()
	conf, err := pgxpool.ParseConfig(s.db.URL)
	require.NoError(t, err)
	count := &statementCount{}
	conf.ConnConfig.Tracer = count
	pool, err := pgxpool.NewWithConfig(t.Context(), conf)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	other := *s
	other.store = repository.New(pool)
	return &other, count
}

// Refusals cost the same statements for each kind of source. Repeated ones cost none.
func TestWebhookStatements(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.github(t)
	s.awaiting(t, "github:run:1")
	s.integrate(t, `"action":"put-source","name":"off","verifier":{"preset":"github"},"secret":"`+githubSecret+`","rules":[],"enabled":false`)
	s.integrate(t, `"action":"put-source","name":"bare","verifier":{"preset":"linear"},"rules":[]`)
	body := []byte(`{"workflow_run":{"id":1}}`)
	for _, name := range []string{"github", "unknown", "off", "bare"} {
		t.Run(name, func(t *testing.T) {
			c, count := s.counted(t)
			h := c.handler(t, "receive-webhook")
			h.Webhooks = newWebhooks(t, c.store.(*repository.Repository), h.Log)
			event := posted{source: name, secret: "another secret", body: body}.event(t, s)
			begun := time.Now()
			for range 20 {
				requireProblem(t, 401, "unauthenticated", respond(t, h, event))
			}
			again := int64(time.Since(begun) / webhook.RefreshAge)
			require.GreaterOrEqual(t, count.n.Load(), int64(2), "the source is read, and the first refusal is recorded")
			require.LessOrEqual(t, count.n.Load(), 2+again, "the source is read again once a second")
		})
	}
	t.Run("a verified request", func(t *testing.T) {
		c, count := s.counted(t)
		h := c.handler(t, "receive-webhook")
		h.Webhooks = newWebhooks(t, c.store.(*repository.Repository), h.Log)
		for want := range 3 {
			require.Equal(t, "settled", outcome(t, respond(t, h, posted{body: body}.event(t, s))))
			require.EqualValues(t, 3+want, count.n.Load(), "one statement for each beside those")
		}
	})
}

// Without the database a webhook is answered 503, whether the source is cached or not, and the repetition settles.
func TestWebhookWithoutADatabase(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.github(t)
	s.awaiting(t, "github:run:1")
	away, err := pgxpool.New(t.Context(), "postgres://x@127.0.0.1:1/x?connect_timeout=1")
	require.NoError(t, err)
	t.Cleanup(away.Close)
	event := posted{body: []byte(`{"workflow_run":{"id":1}}`)}.event(t, s)
	for name, cached := range map[string]bool{"the source is not cached": false, "the source is cached": true} {
		t.Run(name, func(t *testing.T) {
			h := s.handler(t, "receive-webhook")
			if !cached {
				h.Webhooks = newWebhooks(t, repository.New(away), h.Log)
			}
			h.Store = repository.New(away)
			r := respond(t, h, event)
			requireProblem(t, 503, "unavailable", r)
			require.NotEmpty(t, r.Headers["retry-after"])
		})
	}
	require.Equal(t, "settled", outcome(t, respond(t, s.handler(t, "receive-webhook"), event)))
}

// A full quota stops a settlement that would wait, and no other.
func TestWebhookQuota(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.integrate(t, `"action":"put-source","name":"github","verifier":{"preset":"github"},"secret":"`+githubSecret+`","keyPrefix":"g:","each":"body",
		"rules":[{"key":"'g:' + item","then":"resolve"}]`)
	s.awaiting(t, "g:late")
	s.db.Exec(t, "UPDATE source SET held_full = TRUE")
	early := posted{body: []byte(`["early"]`)}
	before := s.snapshot(t)
	r := s.deliver(t, early)
	requireProblem(t, 429, "quota_exceeded", r)
	require.NotEmpty(t, r.Headers["retry-after"])
	require.Equal(t, before, s.snapshot(t))
	both := posted{body: []byte(`["early","late"]`)}
	requireProblem(t, 429, "quota_exceeded", s.deliver(t, both))
	require.Equal(t, []any{"g:late"}, s.receipts(t, `,"outcome":"settled"`, "key"))
	s.db.Exec(t, "UPDATE source SET held_full = FALSE")
	require.JSONEq(t, `{"items":2,"outcomes":{"settled":1,"held":1}}`, s.deliver(t, both).Body)
}

// A process reads a source again if a request does not verify, so a new secret works before the cached source ends.
func TestWebhookRotation(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.github(t)
	h := s.handler(t, "receive-webhook")
	event := func(secret string, id int) []byte {
		return posted{secret: secret, body: fmt.Appendf(nil, `{"workflow_run":{"id":%d}}`, id)}.event(t, s)
	}
	require.Equal(t, "held", outcome(t, respond(t, h, event(githubSecret, 1))))
	s.integrate(t, `"action":"rotate-source-secret","name":"github","secret":"another secret"`)
	require.Eventually(t, func() bool { return respond(t, h, event("another secret", 2)).StatusCode == 200 }, time.Minute, 200*time.Millisecond)
	require.Equal(t, "held", outcome(t, respond(t, h, event(githubSecret, 3))), "the former secret is active")
}

// A process that knows a deleted source verifies by the one that has its name now.
func TestWebhookOfASourceMadeAnew(t *testing.T) {
	t.Parallel()
	s := newService(t)
	put := func(secret string) {
		s.integrate(t, `"action":"put-source","name":"github","verifier":{"preset":"github"},"secret":"`+secret+`","keyPrefix":"k:","each":"body.ids",
			"rules":[{"key":"'k:' + string(item)","then":"resolve"}]`)
	}
	put(githubSecret)
	h := s.handler(t, "receive-webhook")
	event := func(secret, ids string) []byte {
		return posted{secret: secret, body: []byte(`{"ids":[` + ids + `]}`)}.event(t, s)
	}
	require.JSONEq(t, `{"items":2,"outcomes":{"held":2}}`, respond(t, h, event(githubSecret, "1,2")).Body)

	s.integrate(t, `"action":"delete-source","name":"github"`)
	put(githubSecret)
	require.JSONEq(t, `{"items":2,"outcomes":{"held":2}}`, respond(t, h, event(githubSecret, "3,4")).Body)

	s.integrate(t, `"action":"delete-source","name":"github"`)
	put("another secret")
	before := s.snapshot(t)
	refused := respond(t, h, event(githubSecret, "5"))
	requireProblem(t, 401, "unauthenticated", refused)
	require.Equal(t, before, s.snapshot(t))
	other := s.handler(t, "receive-webhook")
	requireProblem(t, 401, "unauthenticated", respond(t, other, event("a wrong secret", "5")))
	require.JSONEq(t, `{"items":1,"outcomes":{"held":1}}`, respond(t, h, event("another secret", "5")).Body)
	s.integrate(t, `"action":"delete-source","name":"github"`)
	put(githubSecret)
	require.Equal(t, refused, respond(t, other, event("another secret", "5")))
	require.NotContains(t, s.integrate(t, `"action":"get-source","name":"github"`), "lastVerifiedAt", "it has verified nothing yet")

	s.integrate(t, `"action":"delete-source","name":"github"`)
	require.Equal(t, refused, respond(t, h, event("another secret", "6")))
	require.EqualValues(t, 4, s.counts["WebhooksRefused"])

	put(githubSecret)
	h = s.handler(t, "receive-webhook")
	h.Store = remaking{h.Store, func() {
		s.integrate(t, `"action":"delete-source","name":"github"`)
		put(githubSecret)
	}}
	require.Equal(t, refused, respond(t, h, event(githubSecret, "7")), "it is made anew once more meanwhile")
	require.EqualValues(t, 5, s.counts["WebhooksRefused"])
	require.Empty(t, s.receipts(t, `,"key":"k:7"`, "key"))
}

// A remaking is a store whose source is made anew before each webhook is received.
type remaking struct {
	gateway.Store
	remake func()
}

func (r remaking) Receive(ctx context.Context, tenant string, d promise.ReceiptDraft) (promise.ReceiptResult, error) {
	r.remake()
	return r.Store.Receive(ctx, tenant, d)
}

// A flood writes one line for each source and reason. The first refusal is in the log at once.
func TestWebhookRefusalsAreLogged(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.github(t)
	h := s.handler(t, "receive-webhook")
	s.log.Reset()
	for _, d := range []posted{{secret: "another secret"}, {source: "nothing"}, {segment: "github-aaaaaaaaaaaaaaaa"}, {segment: "invented"}} {
		for range 5 {
			requireProblem(t, 401, "unauthenticated", respond(t, h, d.event(t, s)))
		}
	}
	unsigned := posted{header: map[string]string{"x-hub-signature-256": ""}}.event(t, s)
	requireProblem(t, 401, "unauthenticated", respond(t, h, unsigned))
	lines := strings.Split(strings.TrimSpace(s.log.String()), "\n")
	require.Len(t, lines, 4, s.log.String())
	require.EqualValues(t, 21, s.counts["WebhooksRefused"], "the metric has each")
	for i, want := range []string{
		`cause="no signature matches" refusals=1 tenant=demo source=github`, "tenant=demo source=nothing", `cause="the checksum in the URL is wrong"`,
		`cause="the signature header is missing" refusals=1 tenant=demo source=github`,
	} {
		require.Contains(t, lines[i], `level=INFO msg="webhook refused" operation=receive-webhook`)
		require.Contains(t, lines[i], "refusals=1")
		require.Contains(t, lines[i], want)
	}
}

// Whatever a sender posts is answered, and never with a fault of the service.
func FuzzReceiveWebhook(f *testing.F) {
	s := newService(f)
	s.integrate(f, `"action":"put-source","name":"github","verifier":{"preset":"github"},"secret":"`+githubSecret+`","keyPrefix":"k:","rules":[
		{"when":"body.a == 1","key":"'k:' + string(body.k)","then":"resolve","value":"body.v"},
		{"when":"has(body.e)","key":"'k:' + string(body.k)","then":"reject","error":"string(body.e)"},
		{"when":"query.q == '1'","key":"'k:' + headers['x-k']","then":"reject"}]`)
	h := s.handler(f, "receive-webhook")
	for _, body := range []string{
		`{"a":1,"k":"\u0000","v":null}`, `{"e":"\u0000","k":1}`, `{"e":"\ud800","k":"\ud800"}`, "payload=%7B%7D", "\x1f\x8b", "", "null", `"\u0000"`,
		`{"a":1,"k":"x","v":1e400}`, strings.Repeat("[", 300),
	} {
		f.Add(body, "application/json", "q=1", "\x00", false)
		f.Add(body, "application/x-www-form-urlencoded", "q=1&q=%00", "ä", true)
	}
	f.Fuzz(func(t *testing.T, body, contentType, query, header string, plain bool) {
		r := respond(t, h, posted{
			query: query, body: []byte(body), plain: plain, header: map[string]string{"content-type": contentType, "x-k": header},
		}.event(t, s))
		s.log.Reset()
		require.Contains(t, []int{200, 401, 413, 422}, r.StatusCode, r.Body)
	})
}
