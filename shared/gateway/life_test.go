package gateway_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/config"
	"github.com/flovyn/promises/shared/gateway"
	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/repository"
)

// feed returns a workflow execution's events as JSON, without their times and ids.
func (s *service) feed(t testing.TB) []string {
	t.Helper()
	var lines []string
	for _, e := range s.answer(t, "list-events", `{"tenant":"demo","workflowExecutionId":"`+workflowID+`"}`)["events"].([]any) {
		event := e.(map[string]any)
		delete(event, "promiseId")
		delete(event, "createdAt")
		if _, ok := event["timeoutAt"]; ok {
			event["timeoutAt"] = "there"
		}
		text, err := json.Marshal(event)
		require.NoError(t, err)
		lines = append(lines, string(text))
	}
	return lines
}

// A promise and its event keep the settlement's principal and its comment.
func TestSettledByAndComment(t *testing.T) {
	t.Parallel()
	t.Run("a direct invoke, with a comment", func(t *testing.T) {
		t.Parallel()
		s := newService(t)
		s.promise(t)
		require.Equal(t, "settled", s.answer(t, "resolve", payloadByID+`,"value": {"a" : 1},"comment":"by telephone"}`)["outcome"])
		require.Equal(t, "duplicate", s.answer(t, "resolve", payloadByID+`,"value": {"a" : 1},"comment":"another"}`)["outcome"],
			"another comment is no conflict")
		p := s.answer(t, "get-promise", payloadByID+"}")
		require.Equal(t, "by telephone", p["comment"])
		require.Equal(t, map[string]any{"kind": "direct"}, p["settledBy"])
		require.Equal(t, []string{
			`{"eventType":"PROMISE_CREATED","promiseName":"payment","sequenceNumber":1}`,
			`{"comment":"by telephone","eventType":"PROMISE_RESOLVED","promiseName":"payment","sequenceNumber":2,` +
				`"settledBy":{"kind":"direct"},"state":"resolved","value":{"a":1}}`,
		}, s.feed(t))
	})
	t.Run("an API key", func(t *testing.T) {
		t.Parallel()
		s := newService(t)
		s.promise(t)
		require.Equal(t, 200, s.post(t, "reject", "id:"+promiseID, "", `{"error":"no"}`).StatusCode)
		require.Equal(t, map[string]any{"kind": "key", "id": apiKeyID}, s.answer(t, "get-promise", payloadByID+"}")["settledBy"])
	})
}

func TestCancel(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.promise(t)
	t.Run("a cancellation settles the promise", func(t *testing.T) {
		a := s.post(t, "cancel-promise", "id:"+promiseID, "", `{"reason":"withdrawn"}`)
		require.Equal(t, 200, a.StatusCode)
		require.Contains(t, a.Body, `{"outcome":"settled","state":"cancelled","promiseId":"`+promiseID+`","resolved":true,"alreadyResolved":false}`)
	})
	t.Run("the same reason again is a duplicate", func(t *testing.T) {
		require.Equal(t, "duplicate", s.answer(t, "cancel-promise", payloadByID+`,"reason":"withdrawn"}`)["outcome"])
	})
	t.Run("another reason is another settlement", func(t *testing.T) {
		require.Equal(t, "cancelled", s.answer(t, "cancel-promise", payloadByID+`}`)["outcome"])
	})
	t.Run("a later resolve finds the promise cancelled", func(t *testing.T) {
		require.Equal(t, "cancelled", s.answer(t, "resolve", payloadByID+`,"value":1}`)["outcome"])
	})
	t.Run("a strict call with another reason fails", func(t *testing.T) {
		requireProblem(t, 409, "cancelled", s.post(t, "cancel-promise", "id:"+promiseID, "strict=true", ``))
	})
	t.Run("the promise and its event have the reason, and no error", func(t *testing.T) {
		p := s.answer(t, "get-promise", payloadByID+"}")
		require.Equal(t, "withdrawn", p["reason"])
		require.NotContains(t, p, "error")
		require.Equal(t, `{"eventType":"PROMISE_CANCELLED","promiseName":"payment","reason":"withdrawn","sequenceNumber":2,`+
			`"settledBy":{"id":"`+apiKeyID+`","kind":"key"},"state":"cancelled"}`, s.feed(t)[1])
	})
}

func TestCancel_WithoutABody(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.promise(t)
	require.Equal(t, 200, s.post(t, "cancel-promise", "key:"+idempotencyKey, "", ``).StatusCode)
	require.Equal(t, "duplicate", s.answer(t, "cancel-promise", payloadByID+`}`)["outcome"])
}

func TestExtend(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.promise(t)
	t.Run("the promise has the new deadline", func(t *testing.T) {
		p := s.answer(t, "extend-promise", payloadByID+`,"timeoutAt":"2031-02-03T04:05:06.789+02:00"}`)
		require.Equal(t, "2031-02-03T02:05:06.789Z", p["timeoutAt"])
		require.Equal(t, "pending", p["state"])
	})
	t.Run("a repeated call changes nothing", func(t *testing.T) {
		before := s.snapshot(t)
		s.answer(t, "extend-promise", payloadByID+`,"timeoutAt":"2031-02-03T02:05:06.789Z"}`)
		require.Equal(t, before, s.snapshot(t))
	})
	t.Run("the extension is an event", func(t *testing.T) {
		require.Equal(t, `{"eventType":"PROMISE_EXTENDED","promiseName":"payment","sequenceNumber":2,"timeoutAt":"there"}`, s.feed(t)[1])
	})
	t.Run("a deadline of now ends the promise at once", func(t *testing.T) {
		require.Equal(t, "timed_out", s.answer(t, "extend-promise", payloadByID+`,"timeoutMs":0}`)["state"])
	})
	t.Run("a promise that timed out is not extended", func(t *testing.T) {
		problem := requireProblem(t, 409, "timed_out", s.post(t, "extend-promise", "id:"+promiseID, "", `{"timeoutMs":60000}`))
		require.Equal(t, "timed_out", problem["state"])
		_, err := s.direct(t, "extend-promise", payloadByID+`,"timeoutMs":1}`)
		requireFunctionError(t, "timed_out", err)
	})
	for outcome, code := range map[string]string{"resolved": "conflict", "rejected": "conflict", "cancelled": "cancelled"} {
		t.Run("a promise that is "+outcome+" is not extended", func(t *testing.T) {
			s.db.Rewrite(t, "UPDATE promise SET resolved = TRUE, outcome = $1", outcome)
			requireProblem(t, 409, code, s.post(t, "extend-promise", "id:"+promiseID, "", `{"timeoutMs":60000}`))
		})
	}
}

func TestOnTimeout(t *testing.T) {
	t.Parallel()
	s := newService(t)
	names := 0
	create := func(onTimeout, deadline string) map[string]any { // returns the promise as get-promise does
		names++
		p := s.answer(t, "create-promise", fmt.Sprintf(`{"tenant":"demo","workflowExecutionId":"%s","name":"n%d","onTimeout":%s%s}`,
			workflowID, names, onTimeout, deadline))
		return s.answer(t, "get-promise", `{"tenant":"demo","promiseId":"`+p["promiseId"].(string)+`"}`)
	}
	t.Run("a pending promise shows it", func(t *testing.T) {
		p := create(`{"resolve": {"approved" : false}}`, `,"timeoutMs":60000`)
		require.Equal(t, "pending", p["state"])
		require.Equal(t, map[string]any{"resolve": map[string]any{"approved": false}}, p["onTimeout"])
	})
	t.Run("a promise without a deadline may have it", func(t *testing.T) {
		p := create(`{"reject":"nobody"}`, ``)
		require.Equal(t, map[string]any{"reject": "nobody"}, p["onTimeout"])
	})
	t.Run("the deadline resolves the promise with its value", func(t *testing.T) {
		p := create(`{"resolve": {"approved" : false}}`, `,"timeoutMs":0`)
		require.Equal(t, "resolved", p["state"])
		require.Equal(t, map[string]any{"approved": false}, p["value"])
		require.Equal(t, map[string]any{"kind": "deadline"}, p["settledBy"])
		require.NotContains(t, p, "onTimeout")
	})
	t.Run("a late call with the same bytes is no duplicate", func(t *testing.T) {
		p := create(`{"resolve": {"approved" : false}}`, `,"timeoutMs":0`)
		late := s.answer(t, "resolve", `{"tenant":"demo","promiseId":"`+p["promiseId"].(string)+`","value":{"approved" : false}}`)
		require.Equal(t, "timed_out", late["outcome"])
		require.Equal(t, "resolved", late["state"])
	})
	t.Run("the deadline rejects the promise with its error", func(t *testing.T) {
		p := create(`{"reject":"nobody"}`, `,"timeoutMs":0`)
		require.Equal(t, "rejected", p["state"])
		require.Equal(t, "nobody", p["error"])
	})
	t.Run("its value may be null", func(t *testing.T) {
		p := create(`{"resolve":null}`, `,"timeoutMs":0`)
		require.Equal(t, "resolved", p["state"])
		require.Contains(t, p, "value")
	})
	t.Run("a repeated create must have the same", func(t *testing.T) {
		twice := `{"tenant":"demo","workflowExecutionId":"` + workflowID + `","name":"twice","timeoutMs":0,"onTimeout":`
		s.answer(t, "create-promise", twice+`{"resolve":1}}`)
		require.Equal(t, false, s.answer(t, "create-promise", twice+`{"resolve":1}}`)["created"])
		_, err := s.direct(t, "create-promise", twice+`{"resolve":2}}`)
		requireFunctionError(t, "create_conflict", err)
	})
}

// With holdSeconds, a settlement waits under its key for the promise, and the promise is settled when it is created.
func TestHold(t *testing.T) {
	t.Parallel()
	s := newService(t)
	begun := time.Now().Truncate(time.Millisecond) // answers have times with fewer digits
	resolve := `{"tenant":"demo","key":"` + idempotencyKey + `","value":{"a" :1},"comment":"early","holdSeconds":60`
	reject := `{"tenant":"demo","key":"` + idempotencyKey + `","error":"no","holdSeconds":60`
	a := s.post(t, "resolve", "key:"+idempotencyKey, "strict=true", `{"value":{"a" :1},"comment":"early","holdSeconds":60}`)
	require.Equal(t, 202, a.StatusCode)
	var held map[string]any
	require.NoError(t, json.Unmarshal([]byte(a.Body), &held))
	about := func(outcome string) map[string]any {
		return map[string]any{
			"outcome": outcome, "expiresAt": held["expiresAt"], "idempotencyKey": idempotencyKey, "identifier": "key:" + idempotencyKey,
		}
	}
	t.Run("the answer has the key and the expiry", func(t *testing.T) {
		require.Equal(t, about("held"), held)
		at, err := time.Parse(time.RFC3339, held["expiresAt"].(string))
		require.NoError(t, err)
		require.False(t, at.Before(begun.Add(time.Minute)))
		require.False(t, at.After(time.Now().Add(time.Minute)))
	})
	t.Run("a repeated call is a duplicate", func(t *testing.T) {
		require.Equal(t, about("duplicate"), s.answer(t, "resolve-by-key", resolve+"}"))
	})
	t.Run("another settlement under the key is a conflict", func(t *testing.T) {
		require.Equal(t, about("conflict"), s.answer(t, "reject", reject+"}"))
	})
	t.Run("a strict conflict is an error with the same fields", func(t *testing.T) {
		_, err := s.direct(t, "reject", reject+`,"strict":true}`)
		problem := requireFunctionError(t, "conflict", err)
		for name, want := range about("conflict") {
			require.Equal(t, want, problem[name], name)
		}
		require.NotContains(t, problem, "promiseId")
	})
	for function, body := range map[string]string{"resolve": `{"value":1}`, "reject": `{"error":"x"}`, "get-promise": ""} {
		t.Run(function+" without holdSeconds finds no promise yet", func(t *testing.T) {
			requireProblem(t, 404, "not_found", s.post(t, function, "key:"+idempotencyKey, "", body))
		})
	}
	t.Run("the promise is created settled", func(t *testing.T) {
		a := s.post(t, "create-promise", "", "", `{"workflowExecutionId":"`+workflowID+`","name":"payment","idempotencyKey":"`+idempotencyKey+`"}`)
		require.Equal(t, 201, a.StatusCode)
		require.Contains(t, a.Body, `"value":{"a" :1}`)
		require.Contains(t, a.Body, `"state":"resolved"`)
		require.Contains(t, a.Body, `"comment":"early"`)
		require.Len(t, s.feed(t), 2)
	})
	t.Run("the repeated call is then a duplicate of the promise's settlement", func(t *testing.T) {
		require.Equal(t, "duplicate", s.answer(t, "resolve-by-key", resolve+"}")["outcome"])
	})
	require.Empty(t, s.counts, "none expired")

	t.Run("not by an id", func(t *testing.T) {
		_, err := s.direct(t, "resolve", payloadByID+`,"value":1,"holdSeconds":60}`)
		requireFunctionError(t, "unknown_field", err)
	})
	t.Run("not for an unknown tenant", func(t *testing.T) {
		_, err := s.direct(t, "resolve-by-key", `{"tenant":"nobody","key":"k","value":1,"holdSeconds":60}`)
		requireFunctionError(t, "not_found", err)
	})
}

// A promise does not use an early settlement that expired. The log and a metric report it.
func TestHold_Expired(t *testing.T) {
	t.Parallel()
	s := newService(t)
	hold := func(key string) {
		t.Helper()
		s.answer(t, "resolve-by-key", `{"tenant":"demo","key":"`+key+`","value":1,"holdSeconds":60}`)
		s.db.Exec(t, "UPDATE idempotency_key SET held_until = NOW() WHERE key = $1", key)
	}
	t.Run("the promise is created pending", func(t *testing.T) {
		hold("k2")
		p := s.answer(t, "create-promise", `{"tenant":"demo","workflowExecutionId":"`+workflowID+`","name":"second","idempotencyKey":"k2"}`)
		require.Equal(t, "pending", p["state"])
		require.Equal(t, counts{"HoldsExpired": 1}, s.counts)
		require.Contains(t, s.log.String(), `msg="held settlement expired unused" tenant=demo key=k2`)
	})
	t.Run("another early settlement replaces it", func(t *testing.T) {
		hold("k3")
		require.Equal(t, "held", s.answer(t, "resolve-by-key", `{"tenant":"demo","key":"k3","value":2,"holdSeconds":60}`)["outcome"])
		require.Equal(t, counts{"HoldsExpired": 2}, s.counts)
	})
}

func TestWait(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.promise(t)
	// All calls share one connection, so a waiting call must not keep it.
	conf, err := pgxpool.ParseConfig(s.db.URL)
	require.NoError(t, err)
	conf.MaxConns = 1
	pool, err := pgxpool.NewWithConfig(t.Context(), conf)
	require.NoError(t, err)
	defer pool.Close()
	s.store = repository.New(pool)

	type woken struct {
		answer string
		err    error
	}
	waiters := make(chan woken, 8)
	for range 4 {
		get, events := s.handler(t, "wait-promise"), s.handler(t, "wait-events")
		go func() {
			a, err := get.Invoke(t.Context(), []byte(payloadByID+`,"waitSeconds":25}`))
			waiters <- woken{string(a), err}
		}()
		go func() {
			a, err := events.Invoke(t.Context(), []byte(`{"tenant":"demo","workflowExecutionId":"`+workflowID+`","after":1,"waitSeconds":25}`))
			waiters <- woken{string(a), err}
		}()
	}
	time.Sleep(300 * time.Millisecond) // they wait for their next poll
	t.Run("the settlement ends all waits", func(t *testing.T) {
		require.Equal(t, "settled", s.answer(t, "resolve", payloadByID+`,"value":1}`)["outcome"])
		for range 8 {
			w := <-waiters
			require.NoError(t, w.err)
			require.Contains(t, w.answer, `"state":"resolved"`)
		}
	})
	t.Run("without an event, the wait ends with an empty page", func(t *testing.T) {
		got := s.answer(t, "wait-events", `{"tenant":"demo","workflowExecutionId":"`+workflowID+`","after":2,"waitSeconds":1}`)
		require.Equal(t, map[string]any{"events": []any{}, "nextAfter": 2.0}, got)
	})
	t.Run("a deadline ends the wait", func(t *testing.T) {
		p := s.answer(t, "create-promise", `{"tenant":"demo","workflowExecutionId":"`+workflowID+`","name":"soon","timeoutMs":500}`)
		p = s.answer(t, "wait-promise", `{"tenant":"demo","promiseId":"`+p["promiseId"].(string)+`","waitSeconds":25}`)
		require.Equal(t, "timed_out", p["state"])
	})
}

// A wait ends when its process is about to end. The answer is the present state.
func TestWaitEndsBeforeTheProcess(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.promise(t)
	for _, c := range []struct{ function, payload, want string }{
		{"wait-promise", payloadByID + `,"waitSeconds":25}`, `"state":"pending"`},
		{"wait-events", `{"tenant":"demo","workflowExecutionId":"` + workflowID + `","after":1,"waitSeconds":25}`, `{"events":[],"nextAfter":1}`},
	} {
		t.Run(c.function, func(t *testing.T) {
			h := s.handler(t, c.function)
			polls, stopping := make(chan struct{}, 1000), make(chan struct{})
			h.Store, h.Stopping = pollReporter{h.Store, polls}, stopping
			answers := make(chan string, 1)
			go func() {
				a, err := h.Invoke(t.Context(), []byte(c.payload))
				assert.NoError(t, err)
				answers <- string(a)
			}()
			<-polls
			close(stopping)
			before := len(polls)
			require.Contains(t, <-answers, c.want)
			require.NotEmpty(t, polls, "the call polled once more")
			require.LessOrEqual(t, len(polls)-before, 2, "the last poll, and one that was running")
			got, err := h.Invoke(t.Context(), []byte(c.payload))
			require.NoError(t, err)
			require.Contains(t, string(got), c.want, "a later call of the process is answered at once")
		})
	}
}

// A pollReporter is a store that reports each poll of a waiting call.
type pollReporter struct {
	gateway.Store
	polls chan struct{}
}

func (l pollReporter) Get(ctx context.Context, tenant string, id promise.Identifier) (promise.Promise, error) {
	l.polls <- struct{}{}
	return l.Store.Get(ctx, tenant, id)
}

func (l pollReporter) ListEvents(ctx context.Context, tenant string, workflow uuid.UUID, after int32, limit int) ([]promise.Event, error) {
	l.polls <- struct{}{}
	return l.Store.ListEvents(ctx, tenant, workflow, after, limit)
}

func TestListPromises(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.promise(t)
	for i := range 5 {
		s.answer(t, "create-promise", fmt.Sprintf(`{"tenant":"demo","workflowExecutionId":"%s","name":"n%d","timeoutMs":60000}`, workflowID, i))
	}
	s.answer(t, "resolve", payloadByID+`,"value":1}`)
	list := func(query string) (names string, cursor string) {
		got, err := s.handler(t, "list-promises").Invoke(t.Context(), httpEvent(t, "GET", tenant, "", query, ""))
		require.NoError(t, err)
		a := decodeResponse(t, got)
		require.Equal(t, 200, a.StatusCode, a.Body)
		var page struct {
			Promises   []struct{ Name string }
			NextCursor string
		}
		require.NoError(t, json.Unmarshal([]byte(a.Body), &page))
		for _, p := range page.Promises {
			names += p.Name + " "
		}
		return names, page.NextCursor
	}
	all, cursor := list("")
	t.Run("one page lists all, newest first", func(t *testing.T) {
		require.Equal(t, "n4 n3 n2 n1 n0 payment ", all)
		require.Empty(t, cursor)
	})
	t.Run("several pages list the same", func(t *testing.T) {
		var paged strings.Builder
		for cursor := "first"; cursor != ""; {
			query := "limit=4"
			if cursor != "first" {
				query += "&cursor=" + cursor
			}
			var names string
			names, cursor = list(query)
			paged.WriteString(names)
		}
		require.Equal(t, all, paged.String())
	})
	for query, want := range map[string]string{
		"state=resolved":        "payment ",
		"state=pending&limit=1": "n4 ",
		"workflowExecutionId=" + workflowID + "&name=n3":                "n3 ",
		"workflowExecutionId=" + promiseID:                              "",
		"workflowExecutionId=" + workflowID + "&name=n3&state=resolved": "",
		"timeoutBefore=2020-01-01T00:00:00Z&state=pending":              "",
		"timeoutBefore=2100-01-01T00:00:00Z&state=pending":              "n0 n1 n2 n3 n4 ",
		"state=cancelled": "",
	} {
		t.Run(query, func(t *testing.T) {
			names, _ := list(query)
			require.Equal(t, want, names)
		})
	}
	t.Run("direct, with a state and a limit", func(t *testing.T) {
		require.Len(t, s.answer(t, "list-promises", `{"tenant":"demo","state":"pending","limit":3}`)["promises"], 3)
	})
	t.Run("an unknown tenant", func(t *testing.T) {
		_, err := s.direct(t, "list-promises", `{"tenant":"nobody"}`)
		requireFunctionError(t, "not_found", err)
	})
}

// A page of the largest values ends before Lambda's limit of 6 MB, and the next page continues it.
func TestPagesFitLambda(t *testing.T) {
	t.Parallel()
	s := newService(t)
	value := `"` + strings.Repeat(`\"`, (config.MaxMaxValueBytes-2)/2) + `"`
	for i := range 3 {
		p := s.answer(t, "create-promise", fmt.Sprintf(`{"tenant":"demo","workflowExecutionId":"%s","name":"n%d"}`, workflowID, i))
		h := s.handler(t, "resolve")
		h.MaxValueBytes = config.MaxMaxValueBytes
		_, err := h.Invoke(t.Context(), []byte(`{"tenant":"demo","promiseId":"`+p["promiseId"].(string)+`","value":`+value+`}`))
		require.NoError(t, err)
	}
	seen, cursor := 0, ""
	for pages := 0; pages == 0 || cursor != ""; pages++ {
		query := ""
		if cursor != "" {
			query = "cursor=" + cursor
		}
		got, err := s.handler(t, "list-promises").Invoke(t.Context(), httpEvent(t, "GET", tenant, "", query, ""))
		require.NoError(t, err)
		require.Less(t, len(got), 6_000_000)
		var page struct {
			Promises   []any
			NextCursor string
		}
		require.NoError(t, json.Unmarshal([]byte(decodeResponse(t, got).Body), &page))
		seen, cursor = seen+len(page.Promises), page.NextCursor
	}
	require.Equal(t, 3, seen)

	numbers, after := 0, 0
	for numbers < 6 {
		got, err := s.handler(t, "list-events").Invoke(t.Context(), httpEvent(t, "GET", tenant, workflowID, "after="+strconv.Itoa(after), ""))
		require.NoError(t, err)
		require.Less(t, len(got), 6_000_000)
		var page struct {
			Events    []struct{ SequenceNumber int }
			NextAfter int
		}
		require.NoError(t, json.Unmarshal([]byte(decodeResponse(t, got).Body), &page))
		require.NotEmpty(t, page.Events)
		for _, e := range page.Events {
			numbers++
			require.Equal(t, numbers, e.SequenceNumber)
		}
		after = page.NextAfter
	}
}

func TestBatch(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.promise(t)
	bad := strings.Repeat("x", promise.MaxCommentLength+1)
	items := []struct{ item, outcome string }{
		{`{"identifier":"key:` + idempotencyKey + `","value": {"a" :1},"comment":"first"}`, "settled"},
		{`{"identifier":"id:` + promiseID + `","value": {"a" :1}}`, "duplicate"},
		{`{"identifier":"id:` + promiseID + `","value": {"a":1}}`, "conflict"},
		{`{"identifier":"id:` + promiseID + `","error": "x"}`, "conflict"},
		{`{"identifier":"id:` + workflowID + `","value":1}`, "not_found"},
		{`{"identifier":"id:1","value":1}`, "invalid_uuid"},
		{`{"identifier":"","value":1}`, "invalid_identifier"},
		{`{"value":1}`, "missing_field"},
		{`{"identifier":"key:k"}`, "missing_field"},
		{`{"identifier":"key:k","value":1,"error":"x"}`, "duplicate_field"},
		{`{"identifier":"key:k","value":1,"value":1}`, "duplicate_field"},
		{`{"identifier":"key:k","value":1,"holdSeconds":1}`, "unknown_field"},
		{`{"identifier":"key:k","error":1}`, "wrong_type"},
		{`{"identifier":"key:k","error":"\u0000"}`, "nul_character"},
		{`{"identifier":"key:k","value":1,"comment":"` + bad + `"}`, "out_of_range"},
		{`{"identifier":"key:k","value":"` + strings.Repeat("x", 1<<20) + `"}`, "value_too_large"},
		{`[]`, "wrong_type"},
		{`7`, "wrong_type"},
	}
	var texts []string
	for _, i := range items {
		texts = append(texts, i.item)
	}
	results := s.answer(t, "batch-resolve", `{"tenant":"demo","items":[`+strings.Join(texts, " , ")+`]}`)["results"].([]any)
	require.Len(t, results, len(items))
	for n, i := range items {
		t.Run(caseName(i.item, i.outcome), func(t *testing.T) {
			r := results[n].(map[string]any)
			if code, isProblem := r["code"]; isProblem {
				require.Equal(t, i.outcome, code)
				return
			}
			require.Equal(t, i.outcome, r["outcome"])
			require.Equal(t, promiseID, r["promiseId"])
			require.Equal(t, i.outcome == "settled", r["resolved"])
		})
	}
	t.Run("the promise has the first settlement", func(t *testing.T) {
		p := s.answer(t, "get-promise", payloadByID+"}")
		require.Equal(t, "first", p["comment"])
		require.Equal(t, map[string]any{"kind": "direct"}, p["settledBy"])
		require.Len(t, s.feed(t), 2)
	})
	t.Run("a batch has at most 100 items", func(t *testing.T) {
		hundred := strings.Repeat(`,{"identifier":"id:`+promiseID+`","value":1}`, 100)[1:]
		require.Len(t, s.answer(t, "batch-resolve", `{"tenant":"demo","items":[`+hundred+`]}`)["results"], 100)
		requireProblem(t, 400, "out_of_range", s.post(t, "batch-resolve", "", "", `{"items":[`+hundred+`,1]}`))
	})
	t.Run("an unknown tenant", func(t *testing.T) {
		results := s.answer(t, "batch-resolve", `{"tenant":"nobody","items":[{"identifier":"key:k","value":1}]}`)["results"]
		require.NotContains(t, results.([]any)[0], "outcome")
	})
}

// A pollCounter is a store that counts the polls that it has answered.
type pollCounter struct {
	gateway.Store
	n atomic.Int32
}

func (l *pollCounter) Get(ctx context.Context, slug string, i promise.Identifier) (promise.Promise, error) {
	defer l.n.Add(1)
	return l.Store.Get(ctx, slug, i)
}

// An expired key may be reassigned once its promise is settled. A call that waits by the key still returns that promise.
func TestWaitByAnExpiredKey(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.promise(t)
	s.db.Exec(t, "UPDATE idempotency_key SET expires_at = NOW()")
	polls := &pollCounter{Store: s.store}
	get := s.handler(t, "wait-promise")
	get.Store = polls
	woken := make(chan string, 1)
	go func() {
		a, err := get.Invoke(t.Context(), []byte(`{"tenant":"demo","key":"`+idempotencyKey+`","waitSeconds":25}`))
		woken <- fmt.Sprint(string(a), err)
	}()
	require.Eventually(t, func() bool { return polls.n.Load() > 0 }, time.Minute, time.Millisecond)
	s.answer(t, "resolve", payloadByID+`,"value":1}`)
	s.answer(t, "create-promise", `{"tenant":"demo","workflowExecutionId":"`+workflowID+`","name":"next","idempotencyKey":"`+idempotencyKey+`"}`)
	a := <-woken
	require.Contains(t, a, promiseID)
	require.Contains(t, a, `"state":"resolved"`)
}

// An unknown field may have a long name, and its error is small nevertheless.
func TestAnAnswerDoesNotGrowWithTheCall(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.promise(t)
	huge := strings.Repeat("\u2028", 1<<20)
	got, err := s.handler(t, "batch-resolve").Invoke(t.Context(), httpEvent(t, "POST", tenant, "", "",
		`{"items":[{"identifier":"id:`+promiseID+`","value":1},{"`+huge+`":1}]}`))
	require.NoError(t, err)
	require.Less(t, len(got), 10_000)
	require.Contains(t, string(got), "unknown_field")
	require.Less(t, len(s.post(t, "resolve", "id:"+promiseID, "", `{"`+huge+`":1}`).Body), 10_000)
}
