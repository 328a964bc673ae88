package client_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/client"
	"github.com/flovyn/promises/shared/client/invoke"
)

// A step makes one call and returns what it answered.
type step struct {
	name string
	call func(ctx context.Context, c *client.Client) (any, error)
}

// collect returns the elements of a list.
func collect[T any](list iter.Seq2[T, error]) ([]T, error) {
	var all []T
	for element, err := range list {
		if err != nil {
			return all, err
		}
		all = append(all, element)
	}
	return all, nil
}

// workflow is in each of the two tenants: an external id gives each tenant an execution of its own.
var workflow = client.WorkflowID("orders/7?")

func create(name, key string) step {
	return step{"create " + name, func(ctx context.Context, c *client.Client) (any, error) {
		return c.Create(ctx, client.Create{
			Workflow: workflow, Name: name, Key: key, KeyTTL: time.Hour, Timeout: time.Hour, OnTimeout: client.RejectOnTimeout("<late>"),
			Metadata: map[string]int{"n": 1}, Notify: []client.Target{},
		})
	}}
}

// byKey looks a promise's id up, for a call by id.
func byKey(ctx context.Context, c *client.Client, key string) client.Identifier {
	p, err := c.Get(ctx, client.Key(key))
	if err != nil {
		return client.Key(key)
	}
	return p.Identifier()
}

// promiseSteps call every operation on promises, and fail in every way that a caller can cause.
var promiseSteps = []step{
	create("a", "k/a"), create("a", "k/a"), create("b", "k/a"), create("a", "other"), create("b", "k/b"), create("", "k/c"), create("c", "k/c"),
	{"create without a workflow", func(ctx context.Context, c *client.Client) (any, error) {
		return c.Create(ctx, client.Create{Name: "n"})
	}},
	{"create with a deadline", func(ctx context.Context, c *client.Client) (any, error) {
		at := time.Date(2030, 1, 31, 12, 0, 0, 1000, time.FixedZone("", 3600))
		return c.Create(ctx, client.Create{Workflow: workflow, Name: "d", Key: "k/d", Deadline: at, OnTimeout: client.ResolveOnTimeout(nil)})
	}},
	{"create with two deadlines", func(ctx context.Context, c *client.Client) (any, error) {
		return c.Create(ctx, client.Create{Workflow: workflow, Name: "e", Timeout: 1, Deadline: time.Now()})
	}},
	{"create with tokens", func(ctx context.Context, c *client.Client) (any, error) {
		p, err := c.Create(ctx, client.Create{Workflow: workflow, Name: "t", Tokens: &client.Tokens{Verbs: []string{"resolve"}, TTL: time.Hour, Raw: true}})
		return p.Token != "", err
	}},
	{"create with a target that is unknown", func(ctx context.Context, c *client.Client) (any, error) {
		return c.Create(ctx, client.Create{Workflow: workflow, Name: "u", Notify: []client.Target{{Destination: "unknown"}}})
	}},
	{"create with a target without a token", func(ctx context.Context, c *client.Client) (any, error) {
		return c.Create(ctx, client.Create{Workflow: workflow, Name: "u", Notify: []client.Target{{StepFunctions: &client.TaskTarget{}}}})
	}},
	{"create with a metadata that is no object", func(ctx context.Context, c *client.Client) (any, error) {
		return c.Create(ctx, client.Create{Workflow: workflow, Name: "m", Metadata: 1})
	}},
	{"get", func(ctx context.Context, c *client.Client) (any, error) { return c.Get(ctx, client.Key("k/a")) }},
	{"get an unknown key", func(ctx context.Context, c *client.Client) (any, error) { return c.Get(ctx, client.Key("?")) }},
	{"get an empty key", func(ctx context.Context, c *client.Client) (any, error) { return c.Get(ctx, client.Key("")) }},
	{"get a long key", func(ctx context.Context, c *client.Client) (any, error) {
		return c.Get(ctx, client.Key(strings.Repeat("x", 256)))
	}},
	{"extend", func(ctx context.Context, c *client.Client) (any, error) {
		return c.Extend(ctx, client.Key("k/a"), client.NewDeadline{After: time.Hour})
	}},
	{"extend to a time", func(ctx context.Context, c *client.Client) (any, error) {
		return c.Extend(ctx, byKey(ctx, c, "k/a"), client.NewDeadline{At: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)})
	}},
	{"extend to before", func(ctx context.Context, c *client.Client) (any, error) {
		return c.Extend(ctx, client.Key("k/a"), client.NewDeadline{After: -time.Hour})
	}},
	{"extend to nothing", func(ctx context.Context, c *client.Client) (any, error) {
		return c.Extend(ctx, client.Key("k/a"), client.NewDeadline{})
	}},
	{"extend to two", func(ctx context.Context, c *client.Client) (any, error) {
		return c.Extend(ctx, client.Key("k/a"), client.NewDeadline{After: 1, At: time.Now()})
	}},
	{"delete a pending promise", func(ctx context.Context, c *client.Client) (any, error) { return c.Delete(ctx, client.Key("k/a")) }},
	{"revoke tokens", func(ctx context.Context, c *client.Client) (any, error) {
		id, at, err := c.RevokeTokens(ctx, client.Key("k/a"))
		return []any{id, at}, err
	}},
	{"resolve", func(ctx context.Context, c *client.Client) (any, error) {
		return c.Resolve(ctx, client.Key("k/a"), json.RawMessage(` {"a": "<é>"}`), client.Comment("by a test"))
	}},
	{"resolve again, by id", func(ctx context.Context, c *client.Client) (any, error) {
		return c.Resolve(ctx, byKey(ctx, c, "k/a"), json.RawMessage(`{"a": "<é>"}`), client.Strict())
	}},
	{"resolve otherwise", func(ctx context.Context, c *client.Client) (any, error) { return c.Resolve(ctx, client.Key("k/a"), 2) }},
	{"resolve otherwise, strict", func(ctx context.Context, c *client.Client) (any, error) {
		return c.Resolve(ctx, client.Key("k/a"), 2, client.Strict())
	}},
	{"resolve with a reason", func(ctx context.Context, c *client.Client) (any, error) {
		return c.Resolve(ctx, client.Key("k/a"), 2, client.Reason("r"))
	}},
	{"resolve a value that is too large", func(ctx context.Context, c *client.Client) (any, error) {
		return c.Resolve(ctx, client.Key("k/b"), strings.Repeat("x", 1<<20))
	}},
	{"resolve with an empty comment", func(ctx context.Context, c *client.Client) (any, error) {
		return c.Resolve(ctx, client.Key("k/b"), 1, client.Comment(""))
	}},
	{"resolve early", func(ctx context.Context, c *client.Client) (any, error) {
		return c.Resolve(ctx, client.Key("early"), "x", client.Hold(time.Hour))
	}},
	{"resolve early otherwise, strict", func(ctx context.Context, c *client.Client) (any, error) {
		return c.Resolve(ctx, client.Key("early"), "y", client.Hold(time.Hour), client.Strict())
	}},
	{"reject early for too long", func(ctx context.Context, c *client.Client) (any, error) {
		return c.Reject(ctx, client.Key("early"), "y", client.Hold(1000*time.Hour))
	}},
	{"reject", func(ctx context.Context, c *client.Client) (any, error) {
		return c.Reject(ctx, client.Key("k/b"), "<no>")
	}},
	{"reject with NUL", func(ctx context.Context, c *client.Client) (any, error) {
		return c.Reject(ctx, client.Key("k/b"), "\x00")
	}},
	{"cancel", func(ctx context.Context, c *client.Client) (any, error) {
		return c.Cancel(ctx, client.Key("k/c"), client.Reason("withdrawn"), client.Comment("c"))
	}},
	{"cancel early", func(ctx context.Context, c *client.Client) (any, error) {
		return c.Cancel(ctx, client.Key("k/c"), client.Hold(time.Hour))
	}},
	{"cancel again", func(ctx context.Context, c *client.Client) (any, error) { return c.Cancel(ctx, byKey(ctx, c, "k/c")) }},
	{"extend what is cancelled", func(ctx context.Context, c *client.Client) (any, error) {
		return c.Extend(ctx, client.Key("k/c"), client.NewDeadline{After: time.Hour})
	}},
	{"batch", func(ctx context.Context, c *client.Client) (any, error) {
		return c.BatchResolve(ctx, []client.Item{
			{Promise: client.Key("k/a"), Value: 1}, {Promise: client.Key("?"), Value: 1}, {Promise: byKey(ctx, c, "k/b"), Error: new("<no>"), Comment: "c"},
		})
	}},
	{"batch of nothing", func(ctx context.Context, c *client.Client) (any, error) { return c.BatchResolve(ctx, nil) }},
	{"await", func(ctx context.Context, c *client.Client) (any, error) { return c.Await(ctx, client.Key("k/a")) }},
	{"await the value of a rejected one", func(ctx context.Context, c *client.Client) (any, error) {
		return client.Await[int](ctx, c, client.Key("k/b"))
	}},
	{"await an unknown key", func(ctx context.Context, c *client.Client) (any, error) { return c.Await(ctx, client.Key("?")) }},
	{"delete", func(ctx context.Context, c *client.Client) (any, error) { return c.Delete(ctx, client.Key("k/a")) }},
	{"list", func(ctx context.Context, c *client.Client) (any, error) {
		return collect(c.List(ctx, client.Filter{PageSize: 2}))
	}},
	{"list some", func(ctx context.Context, c *client.Client) (any, error) {
		return collect(c.List(ctx, client.Filter{Workflow: workflow, Name: "a", State: client.Resolved}))
	}},
	{"list by deadline", func(ctx context.Context, c *client.Client) (any, error) {
		return collect(c.List(ctx, client.Filter{State: client.Pending, TimeoutBefore: time.Now().Add(24 * 365 * 10 * time.Hour)}))
	}},
	{"list with a page that is too large", func(ctx context.Context, c *client.Client) (any, error) {
		_, err := collect(c.List(ctx, client.Filter{PageSize: 101}))
		return nil, withoutCode(err) // the one code that differs: invalid_parameter in a query
	}},
	{"events", func(ctx context.Context, c *client.Client) (any, error) { return collect(c.Events(ctx, workflow, 0)) }},
	{"events beyond the end", func(ctx context.Context, c *client.Client) (any, error) {
		return collect(c.Events(ctx, workflow, 1000))
	}},
	{"events of an unknown workflow", func(ctx context.Context, c *client.Client) (any, error) {
		return collect(c.Events(ctx, client.WorkflowExecutionID(uuid.Max), 0))
	}},
	{"wait for events", func(ctx context.Context, c *client.Client) (any, error) {
		events, next, err := c.WaitEvents(ctx, workflow, 3)
		return []any{events[0], next}, err
	}},
}

// withoutCode returns an error without its code.
func withoutCode(err error) error {
	if e, ok := err.(*client.Error); ok { //nolint:errorlint // lists return it as it is
		e.Code = ""
	}
	return err
}

// manageSteps call every operation on deliveries, destinations, sources and receipts. hook is the URL of a receiver.
func manageSteps(hook string) []step {
	definition := client.SourceDefinition{
		Verifier: client.Verifier{Preset: "github"}, KeyPrefix: "gh:", HoldSeconds: new(60), OnRuleError: "accept", KeepBody: true,
		EventID: "string(body.id)", Rules: []client.Rule{{When: "body.ok", Key: "'gh:' + body.key", Then: "resolve"}},
	}
	receipt := func(ctx context.Context, c *client.Client) uuid.UUID {
		receipts, err := collect(c.Receipts(ctx, client.ReceiptFilter{Source: "ci", Outcome: client.ReceiptHeld, From: time.Unix(0, 0), Before: time.Now().Add(time.Hour)}))
		if err != nil || len(receipts) == 0 {
			return uuid.Nil
		}
		return receipts[0].ReceiptID
	}
	var url, secret string
	return []step{
		{"put a destination", func(ctx context.Context, c *client.Client) (any, error) { return c.PutDestination(ctx, "hooks", hook) }},
		{"put it again", func(ctx context.Context, c *client.Client) (any, error) {
			return c.PutDestination(ctx, "hooks", hook+"?2")
		}},
		{"put one that cannot be", func(ctx context.Context, c *client.Client) (any, error) {
			return c.PutDestination(ctx, "hooks", "ftp://x")
		}},
		{"put one with a wrong name", func(ctx context.Context, c *client.Client) (any, error) { return c.PutDestination(ctx, "Hooks", hook) }},
		{"pause it", func(ctx context.Context, c *client.Client) (any, error) {
			return c.EnableDestination(ctx, "hooks", false)
		}},
		{"enable it", func(ctx context.Context, c *client.Client) (any, error) {
			return c.EnableDestination(ctx, "hooks", true)
		}},
		{"pause an unknown one", func(ctx context.Context, c *client.Client) (any, error) {
			return c.EnableDestination(ctx, "none", true)
		}},
		{"rotate", func(ctx context.Context, c *client.Client) (any, error) {
			return c.RotateDestinationSecret(ctx, "hooks", client.Rotation{Overlap: new(90 * time.Minute)})
		}},
		{"rotate with two secrets", func(ctx context.Context, c *client.Client) (any, error) {
			return c.RotateDestinationSecret(ctx, "hooks", client.Rotation{})
		}},
		{"rotate, and end one", func(ctx context.Context, c *client.Client) (any, error) {
			return c.RotateDestinationSecret(ctx, "hooks", client.Rotation{ReplaceVersion: 2})
		}},
		{"get it", func(ctx context.Context, c *client.Client) (any, error) { return c.GetDestination(ctx, "hooks") }},
		{"list destinations", func(ctx context.Context, c *client.Client) (any, error) { return collect(c.Destinations(ctx)) }},
		{"test it", func(ctx context.Context, c *client.Client) (any, error) {
			result, err := c.TestDestination(ctx, "hooks")
			result.DurationMS = 0
			return result, err
		}},
		{"default", func(ctx context.Context, c *client.Client) (any, error) {
			return nil, c.SetDefaultDestination(ctx, "hooks")
		}},
		{"an unknown default", func(ctx context.Context, c *client.Client) (any, error) {
			return nil, c.SetDefaultDestination(ctx, "none")
		}},
		{"create with the default", func(ctx context.Context, c *client.Client) (any, error) {
			return c.Create(ctx, client.Create{Workflow: workflow, Name: "notified", Key: "notified"})
		}},
		{"no default", func(ctx context.Context, c *client.Client) (any, error) { return nil, c.SetDefaultDestination(ctx, "") }},
		{"get with deliveries", func(ctx context.Context, c *client.Client) (any, error) { return c.Get(ctx, client.Key("notified")) }},
		{"list deliveries", func(ctx context.Context, c *client.Client) (any, error) {
			p, err := c.Get(ctx, client.Key("notified"))
			if err != nil {
				return nil, err
			}
			return collect(c.Deliveries(ctx, client.DeliveryFilter{PromiseID: p.PromiseID, Destination: "hooks", State: client.DeliveryWaiting, PageSize: 1}))
		}},
		{"retry a delivery", func(ctx context.Context, c *client.Client) (any, error) {
			p, err := c.Get(ctx, client.Key("notified"))
			if err != nil {
				return nil, err
			}
			return c.RetryDelivery(ctx, p.Deliveries[0].DeliveryID)
		}},
		{"retry an unknown delivery", func(ctx context.Context, c *client.Client) (any, error) { return c.RetryDelivery(ctx, uuid.Nil) }},
		{"retry dead deliveries", func(ctx context.Context, c *client.Client) (any, error) {
			n, more, err := c.RetryDeadDeliveries(ctx, "hooks")
			return []any{n, more}, err
		}},
		{"delete it", func(ctx context.Context, c *client.Client) (any, error) {
			return nil, c.DeleteDestination(ctx, "hooks")
		}},
		{"delete it again", func(ctx context.Context, c *client.Client) (any, error) {
			return nil, c.DeleteDestination(ctx, "hooks")
		}},

		{"put a source", func(ctx context.Context, c *client.Client) (any, error) {
			s, err := c.PutSource(ctx, "ci", definition, "")
			url, secret = s.URL, s.Secret
			s.URL = ""
			return s, err
		}},
		{"put it with a secret", func(ctx context.Context, c *client.Client) (any, error) {
			s, err := c.PutSource(ctx, "ci", definition, "a secret of the sender")
			s.URL = ""
			return s, err
		}},
		{"put one that cannot be", func(ctx context.Context, c *client.Client) (any, error) {
			return c.PutSource(ctx, "ci", client.SourceDefinition{Verifier: client.Verifier{Preset: "github"}, Rules: []client.Rule{{When: "(", Then: "ignore"}}}, "")
		}},
		{"receive", func(ctx context.Context, c *client.Client) (any, error) {
			return nil, postSigned(ctx, url, secret, `{"id":1,"ok":true,"key":"7"}`)
		}},
		{"list receipts", func(ctx context.Context, c *client.Client) (any, error) {
			return collect(c.Receipts(ctx, client.ReceiptFilter{Key: "gh:7"}))
		}},
		{"replay", func(ctx context.Context, c *client.Client) (any, error) { return c.Replay(ctx, receipt(ctx, c)) }},
		{"replay an unknown one", func(ctx context.Context, c *client.Client) (any, error) { return c.Replay(ctx, uuid.Nil) }},
		{"test the source", func(ctx context.Context, c *client.Client) (any, error) {
			return c.TestSource(ctx, "ci", client.SourceTest{
				Headers: map[string]string{"X-A": "b"}, Query: "a=b", Body: []byte(`{"id":2,"ok":true,"key":"8"}`), Definition: &definition,
			})
		}},
		{"rotate its secret", func(ctx context.Context, c *client.Client) (any, error) {
			s, err := c.RotateSourceSecret(ctx, "ci", "another secret of it", client.Rotation{ReplaceVersion: 1, Overlap: new(time.Duration(0))})
			s.URL = ""
			return s, err
		}},
		{"disable it", func(ctx context.Context, c *client.Client) (any, error) {
			s, err := c.EnableSource(ctx, "ci", false)
			s.URL = ""
			return s, err
		}},
		{"get the source", func(ctx context.Context, c *client.Client) (any, error) {
			s, err := c.GetSource(ctx, "ci")
			s.URL = ""
			return s, err
		}},
		{"list sources", func(ctx context.Context, c *client.Client) (any, error) {
			list, err := collect(c.Sources(ctx))
			return len(list), err
		}},
		{"delete the source", func(ctx context.Context, c *client.Client) (any, error) { return nil, c.DeleteSource(ctx, "ci") }},
		{"get what is deleted", func(ctx context.Context, c *client.Client) (any, error) { return c.GetSource(ctx, "ci") }},
	}
}

// The two transports give the same results and the same errors.
func TestTransportsAgree(t *testing.T) {
	t.Parallel()
	receiver := httptest.NewServer(answers(204, ""))
	t.Cleanup(receiver.Close)
	clients := transports(t)
	results := map[string][]string{}
	names := []string{}
	for _, kind := range []string{"http", "direct"} {
		names = names[:0]
		for _, s := range append(promiseSteps, manageSteps(receiver.URL+"/hook")...) {
			ctx, stop := context.WithTimeout(t.Context(), time.Minute)
			got, err := s.call(ctx, clients[kind])
			stop()
			names = append(names, s.name)
			results[kind] = append(results[kind], normal(t, got, err))
		}
	}
	for i, name := range names {
		t.Run(name, func(t *testing.T) { require.Equal(t, results["http"][i], results["direct"][i]) })
	}
	t.Logf("%d steps, %d of them errors", len(names), strings.Count(strings.Join(results["http"], "\n"), "*client.Error"))
}

var (
	anyUUID   = regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`)
	anyTime   = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[.\d]*Z`)
	anySecret = regexp.MustCompile(`whsec_[A-Za-z0-9+/=]{44}|"secret":"[^"]+"`)
	anyCaller = regexp.MustCompile(`"settledBy":\{"kind":"(key","id":"uuid|direct","id":")"\}`)
	anyTenant = regexp.MustCompile(`-(http|direct)\b`)
)

// normal returns a result or an error as a text, without the parts that differ between two tenants.
func normal(t *testing.T, got any, err error) string {
	t.Helper()
	text, encoding := json.Marshal(got)
	require.NoError(t, encoding)
	if err != nil {
		text = fmt.Appendf(nil, "%T %v %+v", err, err, err)
		if e, ok := err.(*client.Error); ok { //nolint:errorlint // a wrapped one is in the text
			text = fmt.Appendf(text, " %d %t %t %d", e.Status, e.Temporary, e.MaybeApplied, e.Limit)
			if e.Settled != nil {
				text = fmt.Appendf(text, " %+v", *e.Settled)
			}
		}
	}
	s := anyUUID.ReplaceAllString(string(text), "uuid")
	s = anyTime.ReplaceAllString(s, "time")
	s = regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[.\d]* \+0000 UTC`).ReplaceAllString(s, "time")
	s = anySecret.ReplaceAllString(s, "secret")
	s = anyCaller.ReplaceAllString(s, `"settledBy":"caller"`)
	return anyTenant.ReplaceAllString(s, "-tenant")
}

// A recorder keeps the answers of the functions.
type recorder struct {
	*lambda.Client
	mu      sync.Mutex
	answers map[string][][]byte
}

func (r *recorder) Invoke(ctx context.Context, in *lambda.InvokeInput, options ...func(*lambda.Options)) (*lambda.InvokeOutput, error) {
	out, err := r.Client.Invoke(ctx, in, options...)
	if err == nil && out.FunctionError == nil {
		var call struct{ Action string }
		if err := json.Unmarshal(in.Payload, &call); err != nil {
			return nil, err
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		name := *in.FunctionName + call.Action
		r.answers[name] = append(r.answers[name], out.Payload)
	}
	return out, err
}

// A settleAnswer also has the two deprecated fields, and the identifier that IdempotencyKey makes.
type settleAnswer struct {
	client.SettleResult
	Resolved, AlreadyResolved bool
	Identifier                client.Identifier
}

// listOf returns the type of a page.
func listOf[T any]() any {
	return &struct {
		Promises, Deliveries, Destinations, Sources, Receipts, Events []T
		NextCursor                                                    string
		NextAfter                                                     int
	}{}
}

// answerTypes has the type of each function's answer.
var answerTypes = map[string]func() any{
	"create-promise": func() any { return &client.Created{} }, "get-promise": func() any { return &client.Promise{} },
	"wait-promise": func() any { return &client.Promise{} }, "extend-promise": func() any { return &client.Promise{} },
	"delete-promise": func() any { return &client.Promise{} }, "resolve-by-id": func() any { return &settleAnswer{} },
	"resolve-by-key": func() any { return &settleAnswer{} }, "reject": func() any { return &settleAnswer{} },
	"cancel-promise": func() any { return &settleAnswer{} }, "list-promises": listOf[client.Promise], "list-events": listOf[client.Event],
	"wait-events": listOf[client.Event], "list-deliveries": listOf[client.Delivery], "list-receipts": listOf[client.Receipt],
	"retry-deliveries": func() any {
		return &struct {
			client.Delivery
			Retried int
			More    bool
		}{}
	},
	"revoke-tokens": func() any {
		return &struct {
			PromiseID       uuid.UUID
			TokensRevokedAt time.Time
		}{}
	},
	"batch-resolve": func() any {
		return &struct {
			Results []struct {
				settleAnswer
				Type, Title, Detail string
				Status              int
				Code                client.Code
			}
		}{}
	},
	"manage-integrationsput-destination": func() any { return &client.Destination{} }, "manage-integrationsget-destination": func() any { return &client.Destination{} },
	"manage-integrationsrotate-secret": func() any { return &client.Destination{} }, "manage-integrationslist-destinations": listOf[client.Destination],
	"manage-integrationstest-destination": func() any { return &client.TestResult{} },
	"manage-integrationsdelete-destination": func() any {
		return &struct {
			DestinationID uuid.UUID
			Name          string
			Deleted       bool
		}{}
	},
	"manage-integrationsset-default-destination": func() any { return &struct{ Destination *string }{} },
	"manage-integrationsput-source":              func() any { return &client.Source{} }, "manage-integrationsget-source": func() any { return &client.Source{} },
	"manage-integrationsrotate-source-secret": func() any { return &client.Source{} }, "manage-integrationslist-sources": listOf[client.Source],
	"manage-integrationstest-source": func() any { return &client.SourceTestResult{} },
	"manage-integrationsdelete-source": func() any {
		return &struct {
			SourceID uuid.UUID
			Name     string
			Deleted  bool
		}{}
	},
	"manage-integrationsreplay-receipt": func() any { return &client.Replayed{} },
}

// The client's types have every field that the service answers with.
func TestAnswersHaveNoOtherFields(t *testing.T) {
	t.Parallel()
	receiver := httptest.NewServer(answers(http.StatusInternalServerError, "busy"))
	t.Cleanup(receiver.Close)
	slug := "r" + uuid.NewString()[:8]
	newTenant(t, slug)
	r := &recorder{Client: lambdaClient(), answers: map[string][][]byte{}}
	c := invoke.New(r, slug, "")
	for _, s := range append(promiseSteps, manageSteps(receiver.URL+"/hook")...) {
		s.call(t.Context(), c) //nolint:errcheck // TestTransportsAgree checks the errors
	}
	for name, newAnswer := range answerTypes {
		t.Run(name, func(t *testing.T) {
			require.NotEmpty(t, r.answers[name], "no step calls it")
			for _, text := range r.answers[name] {
				d := json.NewDecoder(bytes.NewReader(text))
				d.DisallowUnknownFields()
				require.NoError(t, d.Decode(newAnswer()), "%s", text)
			}
		})
	}
	require.Len(t, r.answers, len(answerTypes))
}
