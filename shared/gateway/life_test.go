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

// feed returns the sample workflow's event log, without the times and ids that differ from run to run.
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

// A settlement keeps its comment and its caller, and get-promise and the event log show both.
func TestSettlementKeepsItsCallerAndComment(t *testing.T) {
	t.Parallel()
	t.Run("by direct invoke", func(t *testing.T) {
		t.Parallel()
		s := newService(t)
		s.promise(t)
		require.Equal(t, "settled", s.answer(t, "resolve", payloadByID+`,"value": {"a" : 1},"comment":"by telephone"}`)["outcome"])
		t.Run("another comment makes no other settlement", func(t *testing.T) {
			require.Equal(t, "duplicate", s.answer(t, "resolve", payloadByID+`,"value": {"a" : 1},"comment":"another"}`)["outcome"])
		})
		p := s.answer(t, "get-promise", payloadByID+"}")
		t.Run("get-promise shows the first comment", func(t *testing.T) {
			require.Equal(t, "by telephone", p["comment"])
		})
		t.Run("get-promise shows the kind of caller", func(t *testing.T) {
			require.Equal(t, map[string]any{"kind": "direct"}, p["settledBy"])
		})
		t.Run("the event log shows both", func(t *testing.T) {
			require.Equal(t, []string{
				`{"eventType":"PROMISE_CREATED","promiseName":"payment","sequenceNumber":1}`,
				`{"comment":"by telephone","eventType":"PROMISE_RESOLVED","promiseName":"payment","sequenceNumber":2,` +
					`"settledBy":{"kind":"direct"},"state":"resolved","value":{"a":1}}`,
			}, s.feed(t))
		})
	})
	t.Run("get-promise shows the API key that settled", func(t *testing.T) {
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
	a := s.post(t, "cancel-promise", "id:"+promiseID, "", `{"reason":"withdrawn"}`)
	require.Equal(t, 200, a.StatusCode)
	t.Run("the first call settles the promise", func(t *testing.T) {
		require.Contains(t, a.Body, `{"outcome":"settled","state":"cancelled","promiseId":"`+promiseID+`","resolved":true,"alreadyResolved":false}`)
	})
	t.Run("the same reason again is a duplicate", func(t *testing.T) {
		require.Equal(t, "duplicate", s.answer(t, "cancel-promise", payloadByID+`,"reason":"withdrawn"}`)["outcome"])
	})
	t.Run("another reason finds it cancelled", func(t *testing.T) {
		require.Equal(t, "cancelled", s.answer(t, "cancel-promise", payloadByID+`}`)["outcome"])
	})
	t.Run("a resolve finds it cancelled", func(t *testing.T) {
		require.Equal(t, "cancelled", s.answer(t, "resolve", payloadByID+`,"value":1}`)["outcome"])
	})
	t.Run("strict with another reason is an error", func(t *testing.T) {
		requireProblem(t, 409, "cancelled", s.post(t, "cancel-promise", "id:"+promiseID, "strict=true", ``))
	})
	t.Run("get-promise shows the reason, and no error", func(t *testing.T) {
		p := s.answer(t, "get-promise", payloadByID+"}")
		require.Equal(t, "withdrawn", p["reason"])
		require.NotContains(t, p, "error")
	})
	t.Run("the event log shows the reason and the caller", func(t *testing.T) {
		require.Equal(t, `{"eventType":"PROMISE_CANCELLED","promiseName":"payment","reason":"withdrawn","sequenceNumber":2,`+
			`"settledBy":{"id":"`+apiKeyID+`","kind":"key"},"state":"cancelled"}`, s.feed(t)[1])
	})
	t.Run("by key and without a body, and again without a reason", func(t *testing.T) {
		s := newService(t)
		s.promise(t)
		require.Equal(t, 200, s.post(t, "cancel-promise", "key:"+idempotencyKey, "", ``).StatusCode)
		require.Equal(t, "duplicate", s.answer(t, "cancel-promise", payloadByID+`}`)["outcome"])
	})
}

func TestExtend(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.promise(t)
	p := s.answer(t, "extend-promise", payloadByID+`,"timeoutAt":"2031-02-03T04:05:06.789+02:00"}`)
	t.Run("sets the deadline of a pending promise", func(t *testing.T) {
		require.Equal(t, "2031-02-03T02:05:06.789Z", p["timeoutAt"])
		require.Equal(t, "pending", p["state"])
	})
	t.Run("the same deadline again changes nothing", func(t *testing.T) {
		before := s.snapshot(t)
		s.answer(t, "extend-promise", payloadByID+`,"timeoutAt":"2031-02-03T02:05:06.789Z"}`)
		require.Equal(t, before, s.snapshot(t))
	})
	t.Run("the event log shows it", func(t *testing.T) {
		require.Equal(t, `{"eventType":"PROMISE_EXTENDED","promiseName":"payment","sequenceNumber":2,"timeoutAt":"there"}`, s.feed(t)[1])
	})

	p = s.answer(t, "extend-promise", payloadByID+`,"timeoutMs":0}`)
	t.Run("timeoutMs 0 times the promise out at once", func(t *testing.T) {
		require.Equal(t, "timed_out", p["state"])
	})
	t.Run("a promise that timed out is refused by HTTP, with its state", func(t *testing.T) {
		problem := requireProblem(t, 409, "timed_out", s.post(t, "extend-promise", "id:"+promiseID, "", `{"timeoutMs":60000}`))
		require.Equal(t, "timed_out", problem["state"])
	})
	t.Run("a promise that timed out is refused in a direct invoke", func(t *testing.T) {
		_, err := s.direct(t, "extend-promise", payloadByID+`,"timeoutMs":1}`)
		requireFunctionError(t, "timed_out", err)
	})
	for outcome, code := range map[string]string{"resolved": "conflict", "rejected": "conflict", "cancelled": "cancelled"} {
		t.Run("a promise that is "+outcome+" is refused as "+code, func(t *testing.T) {
			s.db.Rewrite(t, "UPDATE promise SET resolved = TRUE, outcome = $1", outcome)
			requireProblem(t, 409, code, s.post(t, "extend-promise", "id:"+promiseID, "", `{"timeoutMs":60000}`))
		})
	}
}

// onTimeout is the outcome of a promise that is still pending at its deadline.
func TestOnTimeout(t *testing.T) {
	t.Parallel()
	s := newService(t)
	create := func(t *testing.T, onTimeout, deadline string) map[string]any {
		t.Helper()
		p := s.answer(t, "create-promise",
			fmt.Sprintf(`{"tenant":"demo","workflowExecutionId":"%s","name":%q,"onTimeout":%s%s}`, workflowID, t.Name(), onTimeout, deadline))
		return s.answer(t, "get-promise", `{"tenant":"demo","promiseId":"`+p["promiseId"].(string)+`"}`)
	}
	t.Run("a pending promise shows it", func(t *testing.T) {
		p := create(t, `{"resolve": {"approved" : false}}`, `,"timeoutMs":60000`)
		require.Equal(t, "pending", p["state"])
		require.Equal(t, map[string]any{"resolve": map[string]any{"approved": false}}, p["onTimeout"])
	})
	t.Run("a promise without a deadline may have it: extend-promise can add one", func(t *testing.T) {
		p := create(t, `{"reject":"nobody"}`, ``)
		require.Equal(t, map[string]any{"reject": "nobody"}, p["onTimeout"])
	})
	t.Run("a deadline with resolve", func(t *testing.T) {
		p := create(t, `{"resolve": {"approved" : false}}`, `,"timeoutMs":0`)
		t.Run("resolves the promise with the value", func(t *testing.T) {
			require.Equal(t, "resolved", p["state"])
			require.Equal(t, map[string]any{"approved": false}, p["value"])
		})
		t.Run("is shown as the caller", func(t *testing.T) {
			require.Equal(t, map[string]any{"kind": "deadline"}, p["settledBy"])
		})
		t.Run("leaves no onTimeout to show", func(t *testing.T) {
			require.NotContains(t, p, "onTimeout")
		})
		t.Run("makes a late call timed_out, although its value has the same bytes", func(t *testing.T) {
			late := s.answer(t, "resolve", `{"tenant":"demo","promiseId":"`+p["promiseId"].(string)+`","value":{"approved" : false}}`)
			require.Equal(t, "timed_out", late["outcome"])
			require.Equal(t, "resolved", late["state"])
		})
	})
	t.Run("a deadline with reject rejects the promise with the error", func(t *testing.T) {
		p := create(t, `{"reject":"nobody"}`, `,"timeoutMs":0`)
		require.Equal(t, "rejected", p["state"])
		require.Equal(t, "nobody", p["error"])
	})
	t.Run("null is a value", func(t *testing.T) {
		p := create(t, `{"resolve":null}`, `,"timeoutMs":0`)
		require.Equal(t, "resolved", p["state"])
		require.Contains(t, p, "value")
	})

	twice := `{"tenant":"demo","workflowExecutionId":"` + workflowID + `","name":"twice","timeoutMs":0,"onTimeout":`
	s.answer(t, "create-promise", twice+`{"resolve":1}}`)
	t.Run("a repeated create with the same onTimeout finds the promise", func(t *testing.T) {
		require.Equal(t, false, s.answer(t, "create-promise", twice+`{"resolve":1}}`)["created"])
	})
	t.Run("a repeated create with another onTimeout is a create_conflict", func(t *testing.T) {
		_, err := s.direct(t, "create-promise", twice+`{"resolve":2}}`)
		requireFunctionError(t, "create_conflict", err)
	})
}

// A settlement with holdSeconds may arrive before its promise. It is stored under the key, and the promise that is created with the
// key is settled by it.
func TestEarlySettlement(t *testing.T) {
	t.Parallel()
	s := newService(t)
	begun := time.Now().Truncate(time.Millisecond) // answers give times to the millisecond
	resolve := `{"tenant":"demo","key":"` + idempotencyKey + `","value":{"a" :1},"comment":"early","holdSeconds":60}`
	reject := `{"tenant":"demo","key":"` + idempotencyKey + `","error":"no","holdSeconds":60`
	a := s.post(t, "resolve", "key:"+idempotencyKey, "strict=true", `{"value":{"a" :1},"comment":"early","holdSeconds":60}`)
	require.Equal(t, 202, a.StatusCode)
	var held map[string]any
	require.NoError(t, json.Unmarshal([]byte(a.Body), &held))
	answerWith := func(outcome string) map[string]any {
		return map[string]any{"outcome": outcome, "expiresAt": held["expiresAt"], "idempotencyKey": idempotencyKey, "identifier": "key:" + idempotencyKey}
	}
	t.Run("is held under its key", func(t *testing.T) {
		require.Len(t, held, 4)
		require.Equal(t, "held", held["outcome"])
		require.Equal(t, idempotencyKey, held["idempotencyKey"])
		require.Equal(t, "key:"+idempotencyKey, held["identifier"])
	})
	t.Run("expires after holdSeconds", func(t *testing.T) {
		at, err := time.Parse(time.RFC3339, held["expiresAt"].(string))
		require.NoError(t, err)
		require.False(t, at.Before(begun.Add(time.Minute)))
		require.False(t, at.After(time.Now().Add(time.Minute)))
	})
	t.Run("the same again is a duplicate", func(t *testing.T) {
		require.Equal(t, answerWith("duplicate"), s.answer(t, "resolve-by-key", resolve))
	})
	t.Run("another one is a conflict", func(t *testing.T) {
		require.Equal(t, answerWith("conflict"), s.answer(t, "reject", reject+"}"))
	})
	t.Run("with strict a conflict is an error with the same fields and no promise", func(t *testing.T) {
		_, err := s.direct(t, "reject", reject+`,"strict":true}`)
		problem := requireFunctionError(t, "conflict", err)
		for name, want := range answerWith("conflict") {
			require.Equal(t, want, problem[name], name)
		}
		require.NotContains(t, problem, "promiseId")
	})
	for function, body := range map[string]string{"resolve": `{"value":1}`, "reject": `{"error":"x"}`} {
		t.Run(function+" without holdSeconds finds no promise", func(t *testing.T) {
			requireProblem(t, 404, "not_found", s.post(t, function, "key:"+idempotencyKey, "", body))
		})
	}
	t.Run("get-promise finds no promise", func(t *testing.T) {
		got, err := s.handler(t, "get-promise").Invoke(t.Context(), httpEvent(t, "GET", tenant, "key:"+idempotencyKey, "", ""))
		require.NoError(t, err)
		requireProblem(t, 404, "not_found", decodeResponse(t, got))
	})

	a = s.post(t, "create-promise", "", "", `{"workflowExecutionId":"`+workflowID+`","name":"payment","idempotencyKey":"`+idempotencyKey+`"}`)
	t.Run("settles the promise that is created with the key", func(t *testing.T) {
		require.Equal(t, 201, a.StatusCode)
		require.Contains(t, a.Body, `"value":{"a" :1}`)
		require.Contains(t, a.Body, `"state":"resolved"`)
		require.Contains(t, a.Body, `"comment":"early"`)
	})
	t.Run("is an event of the promise, after its creation", func(t *testing.T) {
		require.Len(t, s.feed(t), 2)
	})
	t.Run("the same after the create is a duplicate of the promise's settlement", func(t *testing.T) {
		require.Equal(t, "duplicate", s.answer(t, "resolve-by-key", resolve)["outcome"])
	})
	t.Run("is not counted as expired if a promise used it", func(t *testing.T) {
		require.Empty(t, s.counts)
	})

	expire := func(t *testing.T, key string) {
		t.Helper()
		s.answer(t, "resolve-by-key", `{"tenant":"demo","key":"`+key+`","value":1,"holdSeconds":60}`)
		s.db.Exec(t, "UPDATE idempotency_key SET held_until = NOW() WHERE key = $1", key)
	}
	t.Run("once expired does not settle a new promise", func(t *testing.T) {
		expire(t, "k2")
		p := s.answer(t, "create-promise", `{"tenant":"demo","workflowExecutionId":"`+workflowID+`","name":"second","idempotencyKey":"k2"}`)
		require.Equal(t, "pending", p["state"])
	})
	t.Run("once expired is counted and logged by the create", func(t *testing.T) {
		require.Equal(t, counts{"HoldsExpired": 1}, s.counts)
		require.Contains(t, s.log.String(), `msg="held settlement expired unused" tenant=demo key=k2`)
	})
	t.Run("once expired makes room for another one, and is counted", func(t *testing.T) {
		expire(t, "k3")
		require.Equal(t, "held", s.answer(t, "resolve-by-key", `{"tenant":"demo","key":"k3","value":2,"holdSeconds":60}`)["outcome"])
		require.Equal(t, counts{"HoldsExpired": 2}, s.counts)
	})
	t.Run("by id is refused: holdSeconds is an unknown field", func(t *testing.T) {
		_, err := s.direct(t, "resolve", payloadByID+`,"value":1,"holdSeconds":60}`)
		requireFunctionError(t, "unknown_field", err)
	})
	t.Run("for an unknown tenant is not found", func(t *testing.T) {
		_, err := s.direct(t, "resolve-by-key", `{"tenant":"nobody","key":"k","value":1,"holdSeconds":60}`)
		requireFunctionError(t, "not_found", err)
	})
}

// The calls that wait share one connection to the database. A call that kept it between two polls would block all the others.
func TestWaitReturnsTheSettlement(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.promise(t)
	conf, err := pgxpool.ParseConfig(s.db.URL)
	require.NoError(t, err)
	conf.MaxConns = 1
	pool, err := pgxpool.NewWithConfig(t.Context(), conf)
	require.NoError(t, err)
	defer pool.Close()
	s.store = repository.New(pool)

	t.Run("eight calls on one connection return a settlement made meanwhile", func(t *testing.T) {
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
		require.Eventually(t, func() bool { return s.waiting(t) == 8 }, time.Minute, time.Millisecond, "all calls have polled once and wait")
		require.Equal(t, "settled", s.answer(t, "resolve", payloadByID+`,"value":1}`)["outcome"])
		for range 8 {
			w := <-waiters
			require.NoError(t, w.err)
			require.Contains(t, w.answer, `"state":"resolved"`)
		}
	})
	t.Run("wait-events without a new event returns none when its time ends", func(t *testing.T) {
		got := s.answer(t, "wait-events", `{"tenant":"demo","workflowExecutionId":"`+workflowID+`","after":2,"waitSeconds":1}`)
		require.Equal(t, map[string]any{"events": []any{}, "nextAfter": 2.0}, got)
	})
	t.Run("wait-promise returns at the promise's deadline", func(t *testing.T) {
		p := s.answer(t, "create-promise", `{"tenant":"demo","workflowExecutionId":"`+workflowID+`","name":"soon","timeoutMs":500}`)
		p = s.answer(t, "wait-promise", `{"tenant":"demo","promiseId":"`+p["promiseId"].(string)+`","waitSeconds":25}`)
		require.Equal(t, "timed_out", p["state"])
	})
}

// A call that waits returns the current state when its process is about to end.
func TestWaitEndsBeforeTheProcess(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.promise(t)
	for _, c := range []struct{ function, payload, want string }{
		{"wait-promise", payloadByID + `,"waitSeconds":25}`, `"state":"pending"`},
		{"wait-events", `{"tenant":"demo","workflowExecutionId":"` + workflowID + `","after":1,"waitSeconds":25}`, `{"events":[],"nextAfter":1}`},
	} {
		h := s.handler(t, c.function)
		polls, stopping := make(chan struct{}, 1000), make(chan struct{})
		h.Store, h.Stopping = pollReporter{h.Store, polls}, stopping
		t.Run(c.function+" polls once more and returns", func(t *testing.T) {
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
			require.NotEmpty(t, polls, "the last poll")
			require.LessOrEqual(t, len(polls)-before, 2, "the last poll, and one that may have begun before the process was asked to end")
		})
		t.Run(c.function+" in a process that is about to end returns at once", func(t *testing.T) {
			got, err := h.Invoke(t.Context(), []byte(c.payload))
			require.NoError(t, err)
			require.Contains(t, string(got), c.want)
		})
	}
}

// A pollReporter is a store that sends to a channel when a poll begins.
type pollReporter struct {
	gateway.Store
	polls chan struct{}
}

func (r pollReporter) Get(ctx context.Context, tenant string, id promise.Identifier) (promise.Promise, error) {
	r.polls <- struct{}{}
	return r.Store.Get(ctx, tenant, id)
}

func (r pollReporter) ListEvents(ctx context.Context, tenant string, workflow uuid.UUID, after int32, limit int) ([]promise.Event, error) {
	r.polls <- struct{}{}
	return r.Store.ListEvents(ctx, tenant, workflow, after, limit)
}

func TestListPromises(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.promise(t)
	for i := range 5 {
		s.answer(t, "create-promise", fmt.Sprintf(`{"tenant":"demo","workflowExecutionId":"%s","name":"n%d","timeoutMs":60000}`, workflowID, i))
	}
	s.answer(t, "resolve", payloadByID+`,"value":1}`)
	list := func(t *testing.T, query string) (names string, cursor string) {
		t.Helper()
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
	const all = "n4 n3 n2 n1 n0 payment "
	t.Run("one page has all promises, the newest first, and no cursor", func(t *testing.T) {
		names, cursor := list(t, "")
		require.Equal(t, all, names)
		require.Empty(t, cursor)
	})
	t.Run("pages of four have each promise once, in the same order", func(t *testing.T) {
		var paged strings.Builder
		for cursor := "first"; cursor != ""; {
			query := "limit=4"
			if cursor != "first" {
				query += "&cursor=" + cursor
			}
			var names string
			names, cursor = list(t, query)
			paged.WriteString(names)
		}
		require.Equal(t, all, paged.String())
	})
	for _, c := range []struct{ name, query, want string }{
		{"state", "state=resolved", "payment "},
		{"state and a limit", "state=pending&limit=1", "n4 "},
		{"workflow and name", "workflowExecutionId=" + workflowID + "&name=n3", "n3 "},
		{"an unknown workflow", "workflowExecutionId=" + promiseID, ""},
		{"workflow, name and a state that does not match", "workflowExecutionId=" + workflowID + "&name=n3&state=resolved", ""},
		{"a deadline before all others", "timeoutBefore=2020-01-01T00:00:00Z&state=pending", ""},
		{"a deadline after all others: the earliest first", "timeoutBefore=2100-01-01T00:00:00Z&state=pending", "n0 n1 n2 n3 n4 "},
		{"a state that no promise has", "state=cancelled", ""},
	} {
		t.Run("filters by "+c.name, func(t *testing.T) {
			names, _ := list(t, c.query)
			require.Equal(t, c.want, names)
		})
	}
	t.Run("a direct invoke takes the same filters", func(t *testing.T) {
		require.Len(t, s.answer(t, "list-promises", `{"tenant":"demo","state":"pending","limit":3}`)["promises"], 3)
	})
	t.Run("an unknown tenant is not found", func(t *testing.T) {
		_, err := s.direct(t, "list-promises", `{"tenant":"nobody"}`)
		requireFunctionError(t, "not_found", err)
	})
}

// A page of the largest values ends before Lambda's limit of 6 MB, and the next page continues there.
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
	t.Run("list-promises returns each promise on a page that fits", func(t *testing.T) {
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
	})
	t.Run("list-events returns each event in order on a page that fits", func(t *testing.T) {
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
	})
}

// A batch returns one result for each item, in the order of the items. An item that fails does not affect the others.
func TestBatch(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.promise(t)
	longComment := strings.Repeat("x", promise.MaxCommentLength+1)
	items := []struct{ name, item, outcome string }{
		{"the first settlement", `{"identifier":"key:` + idempotencyKey + `","value": {"a" :1},"comment":"first"}`, "settled"},
		{"the same value", `{"identifier":"id:` + promiseID + `","value": {"a" :1}}`, "duplicate"},
		{"the same value in other bytes", `{"identifier":"id:` + promiseID + `","value": {"a":1}}`, "conflict"},
		{"an error for a resolved promise", `{"identifier":"id:` + promiseID + `","error": "x"}`, "conflict"},
		{"an unknown promise", `{"identifier":"id:` + workflowID + `","value":1}`, "not_found"},
		{"an id that is no UUID", `{"identifier":"id:1","value":1}`, "invalid_uuid"},
		{"an empty identifier", `{"identifier":"","value":1}`, "invalid_identifier"},
		{"no identifier", `{"value":1}`, "missing_field"},
		{"neither value nor error", `{"identifier":"key:k"}`, "missing_field"},
		{"value and error", `{"identifier":"key:k","value":1,"error":"x"}`, "duplicate_field"},
		{"two values", `{"identifier":"key:k","value":1,"value":1}`, "duplicate_field"},
		{"holdSeconds", `{"identifier":"key:k","value":1,"holdSeconds":1}`, "unknown_field"},
		{"an error that is a number", `{"identifier":"key:k","error":1}`, "wrong_type"},
		{"an error with NUL", `{"identifier":"key:k","error":"\u0000"}`, "nul_character"},
		{"a comment that is too long", `{"identifier":"key:k","value":1,"comment":"` + longComment + `"}`, "out_of_range"},
		{"a value that is too large", `{"identifier":"key:k","value":"` + strings.Repeat("x", 1<<20) + `"}`, "value_too_large"},
		{"an array", `[]`, "wrong_type"},
		{"a number", `7`, "wrong_type"},
	}
	var texts []string
	for _, i := range items {
		texts = append(texts, i.item)
	}
	results := s.answer(t, "batch-resolve", `{"tenant":"demo","items":[`+strings.Join(texts, " , ")+`]}`)["results"].([]any)
	require.Len(t, results, len(items))
	for n, i := range items {
		t.Run(i.name+": "+i.outcome, func(t *testing.T) {
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
	t.Run("the promise keeps the first item's comment and the caller", func(t *testing.T) {
		p := s.answer(t, "get-promise", payloadByID+"}")
		require.Equal(t, "first", p["comment"])
		require.Equal(t, map[string]any{"kind": "direct"}, p["settledBy"])
	})
	t.Run("only the settlement adds an event", func(t *testing.T) {
		require.Len(t, s.feed(t), 2)
	})

	hundred := strings.Repeat(`,{"identifier":"id:`+promiseID+`","value":1}`, 100)[1:]
	t.Run("a hundred items are accepted", func(t *testing.T) {
		require.Len(t, s.answer(t, "batch-resolve", `{"tenant":"demo","items":[`+hundred+`]}`)["results"], 100)
	})
	t.Run("101 items are refused as a whole", func(t *testing.T) {
		requireProblem(t, 400, "out_of_range", s.post(t, "batch-resolve", "", "", `{"items":[`+hundred+`,1]}`))
	})
	t.Run("an item for an unknown tenant has no outcome", func(t *testing.T) {
		require.NotContains(t, s.answer(t, "batch-resolve", `{"tenant":"nobody","items":[{"identifier":"key:k","value":1}]}`)["results"].([]any)[0], "outcome")
	})
}

// A pollCounter is a store that counts the polls that have returned.
type pollCounter struct {
	gateway.Store
	returned atomic.Int32
}

func (c *pollCounter) Get(ctx context.Context, slug string, i promise.Identifier) (promise.Promise, error) {
	defer c.returned.Add(1)
	return c.Store.Get(ctx, slug, i)
}

// An expired key is available to another create as soon as its promise is settled. A call that waits by the key still returns the
// promise that it found first.
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
	require.Eventually(t, func() bool { return polls.returned.Load() > 0 }, time.Minute, time.Millisecond)
	s.answer(t, "resolve", payloadByID+`,"value":1}`)
	s.answer(t, "create-promise", `{"tenant":"demo","workflowExecutionId":"`+workflowID+`","name":"next","idempotencyKey":"`+idempotencyKey+`"}`)
	a := <-woken
	require.Contains(t, a, promiseID)
	require.Contains(t, a, `"state":"resolved"`)
}

// An error is short, although the name of an unknown field in the call has 3 MiB.
func TestAnAnswerDoesNotGrowWithTheCall(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.promise(t)
	huge := strings.Repeat("\u2028", 1<<20)
	t.Run("in an item of a batch", func(t *testing.T) {
		got, err := s.handler(t, "batch-resolve").Invoke(t.Context(), httpEvent(t, "POST", tenant, "", "",
			`{"items":[{"identifier":"id:`+promiseID+`","value":1},{"`+huge+`":1}]}`))
		require.NoError(t, err)
		require.Less(t, len(got), 10_000)
		require.Contains(t, string(got), "unknown_field")
	})
	t.Run("in a body", func(t *testing.T) {
		require.Less(t, len(s.post(t, "resolve", "id:"+promiseID, "", `{"`+huge+`":1}`).Body), 10_000)
	})
}
