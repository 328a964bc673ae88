package gateway_test

import (
	"bytes"
	"compress/gzip"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const githubSecret = "a secret of the samples"

// github creates the source that the sample events of receive-webhook name.
func (s *service) github(t testing.TB) {
	t.Helper()
	s.integrate(t, `"action":"put-source","name":"github","verifier":{"preset":"github"},"secret":"`+githubSecret+`","keyPrefix":"github:",
		"rules":[{"when":"headers['x-github-event'] == 'workflow_run'","key":"'github:run:' + string(body.workflow_run.id * 1)","then":"resolve"}]`)
}

// A posted is a request to the source github, or to another one that signs as it does.
type posted struct {
	source  string // the name; empty: github
	segment string // in place of the right one
	secret  string // empty: githubSecret
	query   string
	body    []byte
	header  map[string]string
	plain   bool // API Gateway hands the body over as text
}

// event returns the event that API Gateway makes of the request.
func (d posted) event(t testing.TB, s *service) []byte {
	t.Helper()
	if d.source == "" {
		d.source = "github"
	}
	if d.secret == "" {
		d.secret = githubSecret
	}
	if d.segment == "" {
		segment, err := s.webhooks(t).Segment(t.Context(), tenant, d.source)
		require.NoError(t, err)
		d.segment = segment
	}
	mac := hmac.New(sha256.New, []byte(d.secret))
	mac.Write(d.body)
	header := map[string]string{"x-hub-signature-256": "sha256=" + hex.EncodeToString(mac.Sum(nil)), "x-github-event": "workflow_run"}
	for name, value := range d.header {
		header[name] = value
	}
	body := base64.StdEncoding.EncodeToString(d.body)
	if d.plain {
		body = string(d.body)
	}
	event, err := json.Marshal(map[string]any{
		"version": "2.0", "routeKey": "POST /api/tenants/{slug}/webhooks/{source}", "body": body, "isBase64Encoded": !d.plain, "headers": header,
		"rawQueryString": d.query, "pathParameters": map[string]string{"slug": tenant, "source": d.segment},
		"requestContext": map[string]any{"http": map[string]string{"method": "POST"}},
	})
	require.NoError(t, err)
	return event
}

// deliver posts the request to a process that has nothing cached.
func (s *service) deliver(t testing.TB, d posted) response {
	t.Helper()
	return respond(t, s.handler(t, "receive-webhook"), d.event(t, s))
}

func outcome(t testing.TB, r response) string {
	t.Helper()
	require.Equal(t, 200, r.StatusCode, r.Body)
	var a struct{ Outcome string }
	require.NoError(t, json.Unmarshal([]byte(r.Body), &a), r.Body)
	return a.Outcome
}

func (s *service) awaiting(t testing.TB, key string) {
	t.Helper()
	s.answer(t, "create-promise", `{"tenant":"demo","workflowId":"w","name":"`+key+`","idempotencyKey":"`+key+`"}`)
}

func zipped(t testing.TB, text []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, err := w.Write(text)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return b.Bytes()
}

// A body arrives in each form that means JSON, and the promise has the JSON's bytes.
func TestWebhookBodies(t *testing.T) {
	t.Parallel()
	const run = `{"workflow_run": {"id": 30433642},  "spaced":1.50}`
	form := []byte("payload=" + url.QueryEscape(run))
	for name, d := range map[string]posted{
		"JSON":                         {body: []byte(run), plain: true, header: map[string]string{"content-type": "application/json"}},
		"JSON in capitals":             {body: []byte(run), header: map[string]string{"content-type": "Application/JSON; Charset=UTF-8"}},
		"a type that ends in +json":    {body: []byte(run), header: map[string]string{"content-type": "application/cloudevents+json"}},
		"text/json":                    {body: []byte(run), header: map[string]string{"content-type": "text/json"}},
		"text/plain":                   {body: []byte(run), plain: true, header: map[string]string{"content-type": "text/plain; charset=utf-8"}},
		"no content type":              {body: []byte(run)},
		"a byte order mark":            {body: []byte("\ufeff" + run), header: map[string]string{"content-type": "application/json"}},
		"gzip":                         {body: zipped(t, []byte(run)), header: map[string]string{"content-type": "application/json", "content-encoding": "gzip"}},
		"a form with a payload":        {body: form, header: map[string]string{"content-type": "application/x-www-form-urlencoded"}},
		"an Authorization of no worth": {body: []byte(run), header: map[string]string{"authorization": "Bearer nonsense"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newService(t)
			s.github(t)
			s.awaiting(t, "github:run:30433642")
			require.Equal(t, "settled", outcome(t, s.deliver(t, d)))
			got, err := s.direct(t, "get-promise", `{"tenant":"demo","key":"github:run:30433642"}`)
			require.NoError(t, err)
			require.Contains(t, got, `"value":`+run)
			require.Contains(t, got, `"settledBy":{"kind":"webhook","id":"github"}`)
		})
	}
}

// A verified body that cannot be read leaves a receipt, and the source says how to answer. A bomb is refused, and nothing is written.
func TestWebhookBodiesThatCannotBeRead(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.github(t)
	t.Run("a bomb", func(t *testing.T) {
		before := s.snapshot(t)
		requireProblem(t, 413, "value_too_large", s.deliver(t, posted{body: zipped(t, bytes.Repeat([]byte(" "), 7<<20))}))
		require.Equal(t, before, s.snapshot(t))
	})
	bodies := map[string]posted{
		"broken gzip":               {body: []byte{0x1f, 0x8b, 1}},
		"not UTF-8":                 {body: []byte{'"', 0xff, '"'}},
		"another compression":       {body: []byte("{}"), header: map[string]string{"content-encoding": "br"}},
		"declared JSON that is not": {body: []byte("{"), header: map[string]string{"content-type": "application/json"}},
	}
	for name, d := range bodies {
		t.Run(name, func(t *testing.T) {
			r := s.deliver(t, d)
			requireProblem(t, 422, "rule_failed", r)
			require.Contains(t, r.Body, "body: The ")
		})
	}
	require.Len(t, s.receipts(t, `,"outcome":"rule_failed"`, "event"), len(bodies))
	s.integrate(t, `"action":"put-source","name":"github","verifier":{"preset":"github"},"keyPrefix":"github:","onRuleError":"accept","rules":[]`)
	for name, d := range bodies {
		t.Run(name+", which is accepted", func(t *testing.T) {
			require.Equal(t, "rule_failed", outcome(t, s.deliver(t, d)))
		})
	}
}

// Every refusal has the same bytes, and writes nothing.
func TestWebhookRefusalsAreEqual(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.github(t)
	s.source(t, "")
	s.integrate(t, `"action":"put-source","name":"off","verifier":{"preset":"github"},"secret":"`+githubSecret+`","rules":[],"enabled":false`)
	s.integrate(t, `"action":"put-source","name":"bare","verifier":{"preset":"linear"},"rules":[]`)
	body := []byte(`{"workflow_run":{"id":1}}`)
	before := s.snapshot(t)
	first := s.deliver(t, posted{body: body, secret: "another secret"})
	requireProblem(t, 401, "unauthenticated", first)
	for name, d := range map[string]posted{
		"a wrong checksum":         {segment: "github-aaaaaaaaaaaaaaaa"},
		"no checksum":              {segment: "github"},
		"an unknown source":        {source: "nothing"},
		"a disabled source":        {source: "off"},
		"a source without secrets": {source: "bare"},
		"no signature":             {header: map[string]string{"x-hub-signature-256": ""}},
		"an API key":               {secret: "another secret", header: map[string]string{"authorization": "Bearer pk_demo"}},
		"too old":                  {source: "stripe", header: map[string]string{"stripe-signature": "t=1,v1=00"}},
	} {
		t.Run(name, func(t *testing.T) {
			d.body = body
			require.Equal(t, first, s.deliver(t, d))
		})
	}
	require.Equal(t, before, s.snapshot(t))
}

// Early, twice, replayed and late: each event settles at most once.
func TestWebhooksRepeated(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.github(t)
	d := posted{body: []byte(`{"workflow_run":{"id":9007199254740993}}`), header: map[string]string{"x-github-delivery": "1"}}
	require.Equal(t, "held", outcome(t, s.deliver(t, d)))
	require.Equal(t, "held", outcome(t, s.deliver(t, d)))
	s.awaiting(t, "github:run:9007199254740993")
	require.Equal(t, []any{"settled"}, s.receipts(t, "", "outcome"), "the create ended the receipt")
	again := d
	again.header = map[string]string{"x-github-delivery": "2"}
	captured := s.deliver(t, again)
	require.Equal(t, "settled", outcome(t, captured), "a captured body with a fresh unsigned id is the same event")
	require.Contains(t, captured.Body, `"repeated":true`)
	require.Len(t, s.receipts(t, "", "outcome"), 1)
	require.Equal(t, "conflict", outcome(t, s.deliver(t, posted{body: []byte(`{"workflow_run":{"id":9007199254740993},"other":true}`)})))
	require.Equal(t, "ignored", outcome(t, s.deliver(t, posted{body: d.body, header: map[string]string{"x-github-event": "ping"}})))
}

// Each item is judged singly, and a failing one does not stop the others.
func TestWebhookItems(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.integrate(t, `"action":"put-source","name":"github","verifier":{"preset":"github"},"secret":"`+githubSecret+`","keyPrefix":"g:","each":"body",
		"rules":[{"when":"item.kind == 'done'","key":"'g:' + item.id","then":"resolve","holdSeconds":0}]`)
	s.awaiting(t, "g:a")
	d := posted{body: []byte(`[{"kind":"done","id":"a"},{"kind":"begun","id":"a"},{"kind":"done","id":7},{"kind":"done","id":"b"}]`)}
	for range 2 {
		r := s.deliver(t, d)
		require.Equal(t, 200, r.StatusCode, r.Body)
		require.JSONEq(t, `{"items":4,"outcomes":{"settled":1,"ignored":1,"rule_failed":1,"not_found":1}}`, r.Body)
	}
	require.ElementsMatch(t, []any{"settled", "rule_failed", "not_found"}, s.receipts(t, "", "outcome"))
	s.integrate(t, `"action":"put-source","name":"github","verifier":{"preset":"github"},"keyPrefix":"g:","each":"body",
		"rules":[{"when":"item.kind == 'done'","key":"'g:other:' + string(item.id)","then":"resolve","holdSeconds":0}]`)
	r := s.deliver(t, d)
	requireProblem(t, 422, "rule_failed", r)
	require.Contains(t, r.Body, "made another key", "no item is lost behind a 200")
}

// A source that accepts what its rules fail on is answered 200, and the receipt says what failed.
func TestWebhookRuleErrors(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.github(t)
	bad := posted{body: []byte(`{"workflow_run":{"id":"none"}}`)}
	r := s.deliver(t, bad)
	requireProblem(t, 422, "rule_failed", r)
	require.Contains(t, r.Body, "rule 1, key")
	s.integrate(t, `"action":"put-source","name":"github","verifier":{"preset":"github"},"onRuleError":"accept","keyPrefix":"github:",
		"rules":[{"key":"'other:' + string(body.workflow_run.id)","then":"resolve"}]`)
	r = s.deliver(t, bad)
	require.Equal(t, "rule_failed", outcome(t, r))
	require.True(t, strings.HasPrefix(s.receipts(t, "", "reason")[0].(string), "rule 1, key"))
	require.Equal(t, []any{true}, s.receipts(t, "", "bodyKept"))
}
