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

// log is a workflow's event feed without its times and ids.
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

func TestWhoAndWhy(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.promise(t)
	require.Equal(t, "settled", s.answer(t, "resolve", payloadByID+`,"value": {"a" : 1},"comment":"by telephone"}`)["outcome"])
	require.Equal(t, "duplicate", s.answer(t, "resolve", payloadByID+`,"value": {"a" : 1},"comment":"another"}`)["outcome"],
		"what is said about a settlement is no part of it")
	p := s.answer(t, "get-promise", payloadByID+"}")
	require.Equal(t, "by telephone", p["comment"])
	require.Equal(t, map[string]any{"kind": "direct"}, p["settledBy"])
	require.Equal(t, []string{
		`{"eventType":"PROMISE_CREATED","promiseName":"payment","sequenceNumber":1}`,
		`{"comment":"by telephone","eventType":"PROMISE_RESOLVED","promiseName":"payment","sequenceNumber":2,` +
			`"settledBy":{"kind":"direct"},"state":"resolved","value":{"a":1}}`,
	}, s.feed(t))

	s = newService(t)
	s.promise(t)
	require.Equal(t, 200, s.post(t, "reject", "id:"+promiseID, "", `{"error":"no"}`).StatusCode)
	require.Equal(t, map[string]any{"kind": "key", "id": apiKeyID}, s.answer(t, "get-promise", payloadByID+"}")["settledBy"])
}

func TestCancel(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.promise(t)
	a := s.post(t, "cancel-promise", "id:"+promiseID, "", `{"reason":"withdrawn"}`)
	require.Equal(t, 200, a.StatusCode)
	require.Contains(t, a.Body, `{"outcome":"settled","state":"cancelled","promiseId":"`+promiseID+`","resolved":true,"alreadyResolved":false}`)
	require.Equal(t, "duplicate", s.answer(t, "cancel-promise", payloadByID+`,"reason":"withdrawn"}`)["outcome"])
	require.Equal(t, "cancelled", s.answer(t, "cancel-promise", payloadByID+`}`)["outcome"], "another reason is another settlement")
	require.Equal(t, "cancelled", s.answer(t, "resolve", payloadByID+`,"value":1}`)["outcome"])
	requireProblem(t, 409, "cancelled", s.post(t, "cancel-promise", "id:"+promiseID, "strict=true", ``))
	p := s.answer(t, "get-promise", payloadByID+"}")
	require.Equal(t, "withdrawn", p["reason"])
	require.NotContains(t, p, "error")
	require.Equal(t, `{"eventType":"PROMISE_CANCELLED","promiseName":"payment","reason":"withdrawn","sequenceNumber":2,`+
		`"settledBy":{"id":"`+apiKeyID+`","kind":"key"},"state":"cancelled"}`, s.feed(t)[1])

	s = newService(t)
	s.promise(t)
	require.Equal(t, 200, s.post(t, "cancel-promise", "key:"+idempotencyKey, "", ``).StatusCode)
	require.Equal(t, "duplicate", s.answer(t, "cancel-promise", payloadByID+`}`)["outcome"])
}

func TestExtend(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.promise(t)
	p := s.answer(t, "extend-promise", payloadByID+`,"timeoutAt":"2031-02-03T04:05:06.789+02:00"}`)
	require.Equal(t, "2031-02-03T02:05:06.789Z", p["timeoutAt"])
	require.Equal(t, "pending", p["state"])
	before := s.snapshot(t)
	s.answer(t, "extend-promise", payloadByID+`,"timeoutAt":"2031-02-03T02:05:06.789Z"}`)
	require.Equal(t, before, s.snapshot(t), "a repeated call changes nothing")
	require.Equal(t, `{"eventType":"PROMISE_EXTENDED","promiseName":"payment","sequenceNumber":2,"timeoutAt":"there"}`, s.feed(t)[1])

	p = s.answer(t, "extend-promise", payloadByID+`,"timeoutMs":0}`)
	require.Equal(t, "timed_out", p["state"], "sooner than now is at once")
	problem := requireProblem(t, 409, "timed_out", s.post(t, "extend-promise", "id:"+promiseID, "", `{"timeoutMs":60000}`))
	require.Equal(t, "timed_out", problem["state"])
	_, err := s.direct(t, "extend-promise", payloadByID+`,"timeoutMs":1}`)
	requireFunctionError(t, "timed_out", err)
	for outcome, code := range map[string]string{"resolved": "conflict", "rejected": "conflict", "cancelled": "cancelled"} {
		s.db.Rewrite(t, "UPDATE promise SET resolved = TRUE, outcome = $1", outcome)
		requireProblem(t, 409, code, s.post(t, "extend-promise", "id:"+promiseID, "", `{"timeoutMs":60000}`))
	}
}

func TestOnTimeout(t *testing.T) {
	t.Parallel()
	s := newService(t)
	create := func(onTimeout, deadline string) map[string]any {
		name := strconv.Itoa(time.Now().Nanosecond())
		p := s.answer(t, "create-promise", `{"tenant":"demo","workflowExecutionId":"`+workflowID+`","name":"`+name+`","onTimeout":`+onTimeout+deadline+`}`)
		return s.answer(t, "get-promise", `{"tenant":"demo","promiseId":"`+p["promiseId"].(string)+`"}`)
	}
	p := create(`{"resolve": {"approved" : false}}`, `,"timeoutMs":60000`)
	require.Equal(t, "pending", p["state"])
	require.Equal(t, map[string]any{"resolve": map[string]any{"approved": false}}, p["onTimeout"])
	p = create(`{"reject":"nobody"}`, ``)
	require.Equal(t, map[string]any{"reject": "nobody"}, p["onTimeout"], "the deadline may be set later")

	p = create(`{"resolve": {"approved" : false}}`, `,"timeoutMs":0`)
	require.Equal(t, "resolved", p["state"])
	require.Equal(t, map[string]any{"approved": false}, p["value"])
	require.Equal(t, map[string]any{"kind": "deadline"}, p["settledBy"])
	require.NotContains(t, p, "onTimeout")
	late := s.answer(t, "resolve", `{"tenant":"demo","promiseId":"`+p["promiseId"].(string)+`","value":{"approved" : false}}`)
	require.Equal(t, "timed_out", late["outcome"], "the deadline did it, even where the bytes are the same")
	require.Equal(t, "resolved", late["state"])
	p = create(`{"reject":"nobody"}`, `,"timeoutMs":0`)
	require.Equal(t, "rejected", p["state"])
	require.Equal(t, "nobody", p["error"])
	p = create(`{"resolve":null}`, `,"timeoutMs":0`)
	require.Equal(t, "resolved", p["state"])
	require.Contains(t, p, "value")

	twice := `{"tenant":"demo","workflowExecutionId":"` + workflowID + `","name":"twice","timeoutMs":0,"onTimeout":`
	s.answer(t, "create-promise", twice+`{"resolve":1}}`)
	require.Equal(t, false, s.answer(t, "create-promise", twice+`{"resolve":1}}`)["created"])
	_, err := s.direct(t, "create-promise", twice+`{"resolve":2}}`)
	requireFunctionError(t, "create_conflict", err)
}

func TestHold(t *testing.T) {
	t.Parallel()
	s := newService(t)
	begun := time.Now().Truncate(time.Millisecond) // times are answered with fewer digits
	resolve := `{"tenant":"demo","key":"` + idempotencyKey + `","value":{"a" :1},"comment":"early","holdSeconds":60`
	a := s.post(t, "resolve", "key:"+idempotencyKey, "strict=true", `{"value":{"a" :1},"comment":"early","holdSeconds":60}`)
	require.Equal(t, 202, a.StatusCode)
	var held map[string]any
	require.NoError(t, json.Unmarshal([]byte(a.Body), &held))
	require.Len(t, held, 4)
	require.Equal(t, "held", held["outcome"])
	require.Equal(t, idempotencyKey, held["idempotencyKey"])
	require.Equal(t, "key:"+idempotencyKey, held["identifier"])
	at, err := time.Parse(time.RFC3339, held["expiresAt"].(string))
	require.NoError(t, err)
	require.False(t, at.Before(begun.Add(time.Minute)))
	require.False(t, at.After(time.Now().Add(time.Minute)))

	again := s.answer(t, "resolve-by-key", resolve+"}")
	about := func(outcome string) map[string]any {
		return map[string]any{"outcome": outcome, "expiresAt": held["expiresAt"], "idempotencyKey": idempotencyKey, "identifier": "key:" + idempotencyKey}
	}
	require.Equal(t, about("duplicate"), again)
	other := `{"tenant":"demo","key":"` + idempotencyKey + `","error":"no","holdSeconds":60`
	require.Equal(t, about("conflict"), s.answer(t, "reject", other+"}"))
	_, err = s.direct(t, "reject", other+`,"strict":true}`)
	problem := requireFunctionError(t, "conflict", err)
	for name, want := range about("conflict") {
		require.Equal(t, want, problem[name], name)
	}
	require.NotContains(t, problem, "promiseId")

	for function, body := range map[string]string{"resolve": `{"value":1}`, "reject": `{"error":"x"}`} {
		requireProblem(t, 404, "not_found", s.post(t, function, "key:"+idempotencyKey, "", body))
	}
	got, err := s.handler(t, "get-promise").Invoke(t.Context(), httpEvent(t, "GET", tenant, "key:"+idempotencyKey, "", ""))
	require.NoError(t, err)
	requireProblem(t, 404, "not_found", decodeResponse(t, got))

	a = s.post(t, "create-promise", "", "", `{"workflowExecutionId":"`+workflowID+`","name":"payment","idempotencyKey":"`+idempotencyKey+`"}`)
	require.Equal(t, 201, a.StatusCode)
	require.Contains(t, a.Body, `"value":{"a" :1}`)
	require.Contains(t, a.Body, `"state":"resolved"`)
	require.Contains(t, a.Body, `"comment":"early"`)
	require.Len(t, s.feed(t), 2)
	require.Equal(t, "duplicate", s.answer(t, "resolve-by-key", resolve+"}")["outcome"], "now it is the promise's")
	require.Empty(t, s.counts)

	// One whose time is over is no use any more, and that is told.
	s.answer(t, "resolve-by-key", `{"tenant":"demo","key":"k2","value":1,"holdSeconds":60}`)
	s.db.Exec(t, "UPDATE idempotency_key SET held_until = NOW() WHERE key = 'k2'")
	p := s.answer(t, "create-promise", `{"tenant":"demo","workflowExecutionId":"`+workflowID+`","name":"second","idempotencyKey":"k2"}`)
	require.Equal(t, "pending", p["state"])
	require.Equal(t, counts{"HoldsExpired": 1}, s.counts)
	require.Contains(t, s.log.String(), `msg="held settlement expired unused" tenant=demo key=k2`)
	s.answer(t, "resolve-by-key", `{"tenant":"demo","key":"k3","value":1,"holdSeconds":60}`)
	s.db.Exec(t, "UPDATE idempotency_key SET held_until = NOW() WHERE key = 'k3'")
	require.Equal(t, "held", s.answer(t, "resolve-by-key", `{"tenant":"demo","key":"k3","value":2,"holdSeconds":60}`)["outcome"])
	require.Equal(t, counts{"HoldsExpired": 2}, s.counts)
	_, err = s.direct(t, "resolve", payloadByID+`,"value":1,"holdSeconds":60}`)
	requireFunctionError(t, "unknown_field", err)
	_, err = s.direct(t, "resolve-by-key", `{"tenant":"nobody","key":"k","value":1,"holdSeconds":60}`)
	requireFunctionError(t, "not_found", err)
}

func TestWait(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.promise(t)
	// One connection for all: whoever waits must not keep it.
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
	time.Sleep(300 * time.Millisecond) // they are asleep
	require.Equal(t, "settled", s.answer(t, "resolve", payloadByID+`,"value":1}`)["outcome"])
	for range 8 {
		w := <-waiters
		require.NoError(t, w.err)
		require.Contains(t, w.answer, `"state":"resolved"`)
	}
	got := s.answer(t, "wait-events", `{"tenant":"demo","workflowExecutionId":"`+workflowID+`","after":2,"waitSeconds":1}`)
	require.Equal(t, map[string]any{"events": []any{}, "nextAfter": 2.0}, got)
	p := s.answer(t, "create-promise", `{"tenant":"demo","workflowExecutionId":"`+workflowID+`","name":"soon","timeoutMs":500}`)
	p = s.answer(t, "wait-promise", `{"tenant":"demo","promiseId":"`+p["promiseId"].(string)+`","waitSeconds":25}`)
	require.Equal(t, "timed_out", p["state"], "a deadline ends the wait, too")
}

// A wait ends when its process is about to end, with the truth of that moment.
func TestWaitEndsBeforeTheProcess(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.promise(t)
	for _, c := range []struct{ function, payload, want string }{
		{"wait-promise", payloadByID + `,"waitSeconds":25}`, `"state":"pending"`},
		{"wait-events", `{"tenant":"demo","workflowExecutionId":"` + workflowID + `","after":1,"waitSeconds":25}`, `{"events":[],"nextAfter":1}`},
	} {
		h := s.handler(t, c.function)
		looks, stopping := make(chan struct{}, 1000), make(chan struct{})
		h.Store, h.Stopping = pollReporter{h.Store, looks}, stopping
		answers := make(chan string, 1)
		go func() {
			a, err := h.Invoke(t.Context(), []byte(c.payload))
			assert.NoError(t, err)
			answers <- string(a)
		}()
		<-looks
		close(stopping)
		before := len(looks)
		require.Contains(t, <-answers, c.want)
		require.NotEmpty(t, looks, "it looked once more")
		require.LessOrEqual(t, len(looks)-before, 2, "that look, and one that was under way")
		got, err := h.Invoke(t.Context(), []byte(c.payload))
		require.NoError(t, err)
		require.Contains(t, string(got), c.want, "a process that was asked to end answers at once, too")
	}
}

// lookedAt reports each look of a call that waits.
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
	require.Equal(t, "n4 n3 n2 n1 n0 payment ", all)
	require.Empty(t, cursor)
	var paged strings.Builder
	for cursor = "first"; cursor != ""; {
		query := "limit=4"
		if cursor != "first" {
			query += "&cursor=" + cursor
		}
		var names string
		names, cursor = list(query)
		paged.WriteString(names)
	}
	require.Equal(t, all, paged.String())
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
		names, _ := list(query)
		require.Equal(t, want, names, query)
	}
	require.Len(t, s.answer(t, "list-promises", `{"tenant":"demo","state":"pending","limit":3}`)["promises"], 3)
	_, err := s.direct(t, "list-promises", `{"tenant":"nobody"}`)
	requireFunctionError(t, "not_found", err)
}

// A page of the largest values is cut where Lambda's 6 MB would be, and goes on from there.
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
		r := results[n].(map[string]any)
		if code, isProblem := r["code"]; isProblem {
			require.Equal(t, i.outcome, code, i.item)
			continue
		}
		require.Equal(t, i.outcome, r["outcome"], i.item)
		require.Equal(t, promiseID, r["promiseId"])
		require.Equal(t, i.outcome == "settled", r["resolved"])
	}
	p := s.answer(t, "get-promise", payloadByID+"}")
	require.Equal(t, "first", p["comment"])
	require.Equal(t, map[string]any{"kind": "direct"}, p["settledBy"])
	require.Len(t, s.feed(t), 2)

	hundred := strings.Repeat(`,{"identifier":"id:`+promiseID+`","value":1}`, 100)[1:]
	require.Len(t, s.answer(t, "batch-resolve", `{"tenant":"demo","items":[`+hundred+`]}`)["results"], 100)
	a := s.post(t, "batch-resolve", "", "", `{"items":[`+hundred+`,1]}`)
	requireProblem(t, 400, "out_of_range", a)
	require.NotContains(t, s.answer(t, "batch-resolve", `{"tenant":"nobody","items":[{"identifier":"key:k","value":1}]}`)["results"].([]any)[0], "outcome")
}

// looking counts the looks that have been answered.
type looking struct {
	gateway.Store
	n atomic.Int32
}

func (l *looking) Get(ctx context.Context, slug string, i promise.Identifier) (promise.Promise, error) {
	defer l.n.Add(1)
	return l.Store.Get(ctx, slug, i)
}

// A key past its time is free as soon as its promise is settled: whoever waits by it is told of that promise all the same.
func TestWaitByAKeyThatIsOver(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.promise(t)
	s.db.Exec(t, "UPDATE idempotency_key SET expires_at = NOW()")
	looks := &looking{Store: s.store}
	get := s.handler(t, "wait-promise")
	get.Store = looks
	woken := make(chan string, 1)
	go func() {
		a, err := get.Invoke(t.Context(), []byte(`{"tenant":"demo","key":"`+idempotencyKey+`","waitSeconds":25}`))
		woken <- fmt.Sprint(string(a), err)
	}()
	require.Eventually(t, func() bool { return looks.n.Load() > 0 }, time.Minute, time.Millisecond)
	s.answer(t, "resolve", payloadByID+`,"value":1}`)
	s.answer(t, "create-promise", `{"tenant":"demo","workflowExecutionId":"`+workflowID+`","name":"next","idempotencyKey":"`+idempotencyKey+`"}`)
	a := <-woken
	require.Contains(t, a, promiseID)
	require.Contains(t, a, `"state":"resolved"`)
}

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
