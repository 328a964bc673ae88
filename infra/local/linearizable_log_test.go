package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/promise"
)

// A logged is an entry of a workflow execution's log.
type logged struct {
	SequenceNumber int32
	EventType      promise.EventType
	PromiseID      string
	PromiseName    string
	State          promise.State
	TimeoutAt      *time.Time
	CreatedAt      time.Time
}

// read gets a page of the API.
func (s *session) read(t *testing.T, path string, page any) {
	t.Helper()
	status, body := request(t, "GET", s.runner.promises(path), "Bearer "+s.runner.ready.APIKey, "")
	require.Equal(t, 200, status, "%s: %s", path, body)
	require.NoError(t, json.Unmarshal([]byte(body), page))
}

// promisesOf reads a workflow execution's promises.
func (s *session) promisesOf(t *testing.T, workflow string) (all []reply) {
	t.Helper()
	for cursor := ""; ; {
		var page struct {
			Promises   []reply
			NextCursor string
		}
		s.read(t, "/promises?workflowExecutionId="+workflow+cursor, &page)
		all = append(all, page.Promises...)
		if page.NextCursor == "" {
			return all
		}
		cursor = "&cursor=" + page.NextCursor
	}
}

// logOf reads a workflow execution's log. Before the first promise there is no log.
func (s *session) logOf(t *testing.T, workflow string) (all []logged) {
	t.Helper()
	if len(s.promisesOf(t, workflow)) == 0 {
		return nil
	}
	for after := int32(0); ; {
		var page struct {
			Events    []logged
			NextAfter int32
		}
		s.read(t, fmt.Sprintf("/workflows/%s/events?after=%d", workflow, after), &page)
		if len(page.Events) == 0 {
			return all
		}
		all = append(all, page.Events...)
		after = page.NextAfter
	}
}

// finish waits until calls with lost answers have ended and the sweep has recorded all passed deadlines. It reads the logs, and adds a
// final read of every promise to the history. It returns the witnesses of each subject's promises.
func (s *session) finish(t *testing.T) map[int]*[2]witness {
	t.Helper()
	time.Sleep(500 * time.Millisecond)
	workflows := []string{}
	for _, on := range s.subjects {
		workflows = append(workflows, on.workflow)
	}
	workflows = slices.Compact(workflows)

	subjectOf := map[string]*subject{} // by a promise's name
	for _, on := range s.subjects {
		subjectOf[on.name(0)], subjectOf[on.name(1)] = on, on
	}
	witnesses := map[int]*[2]witness{}
	for i := range s.subjects {
		witnesses[i] = &[2]witness{}
	}
	var last []*operation
	for _, workflow := range workflows {
		promises, log := s.readStable(t, workflow)
		s.finalStates = append(s.finalStates, end{promises, log})
		for _, p := range promises {
			on := subjectOf[p.Name]
			require.NotNil(t, on, p.Name)
			require.Equal(t, on.workflow, workflow)
			which := slices.Index([]string{on.name(0), on.name(1)}, p.Name)
			if known := on.ids[which]; known != "" {
				require.Equal(t, known, p.PromiseID, "two promises have the same name")
			}
			on.ids[which] = p.PromiseID
			w := &witnesses[on.index][which]
			w.createdAt, w.keyed = p.CreatedAt.UnixMicro(), p.IdempotencyKey != nil
			if p.SettledBy != nil && p.SettledBy.Kind != promise.KindDeadline {
				w.state, w.text = p.State, p.text()
			}
			for _, e := range log {
				if e.PromiseID == p.PromiseID && e.EventType == promise.EventExtended {
					w.deadlines = append(w.deadlines, e.TimeoutAt.UnixMicro())
				}
			}
			last = append(last, &operation{Client: clients, Subject: on.index, Action: get, Target: which, id: p.PromiseID})
		}
	}
	for _, on := range s.subjects {
		last = append(last, &operation{Client: clients, Subject: on.index, Action: get, ByKey: true})
	}
	var reading sync.WaitGroup
	for n := range clients {
		reading.Go(func() {
			for i := n; i < len(last); i += clients {
				s.do(last[i], s.subjects[last[i].Subject])
			}
		})
	}
	reading.Wait()
	return witnesses
}

// readStable reads a workflow execution's promises and log repeatedly, until neither changes any more. It runs the sweep for passed deadlines.
func (s *session) readStable(t *testing.T, workflow string) ([]reply, []logged) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		before, promises := s.logOf(t, workflow), s.promisesOf(t, workflow)
		unrecorded := slices.ContainsFunc(promises, func(p reply) bool {
			return p.State != promise.Pending && p.ResolvedBySequence == nil
		})
		if !unrecorded && len(before) == len(s.logOf(t, workflow)) {
			return promises, before
		}
		require.True(t, time.Now().Before(deadline), "the sweep has not recorded the passed deadlines: %+v", promises)
		s.runner.lambda(t, "expire-promises", `{"once":true}`)
	}
}

// An end is the final state of a workflow execution.
type end struct {
	promises []reply
	log      []logged
}

// requireConsistentLog checks that the log has no gap and agrees with each promise.
func (e end) requireConsistentLog(t *testing.T) {
	t.Helper()
	promises, log := e.promises, e.log
	of := map[string][]logged{}
	for i, e := range log {
		require.Equal(t, int32(i+1), e.SequenceNumber)
		of[e.PromiseID] = append(of[e.PromiseID], e)
	}
	require.Len(t, of, len(promises))
	for _, p := range promises {
		events := of[p.PromiseID]
		require.NotEmpty(t, events, "%+v", p)
		require.Equal(t, promise.EventCreated, events[0].EventType)
		require.Equal(t, p.CreatedBySequence, events[0].SequenceNumber)
		events = events[1:]
		if p.State != promise.Pending {
			require.NotEmpty(t, events, "%+v", p)
			end := events[len(events)-1]
			events = events[:len(events)-1]
			want := promise.EventTypeOf(p.State)
			if p.SettledBy.Kind == promise.KindDeadline {
				want = promise.EventTimeout
				require.Equal(t, p.TimeoutAt, p.ResolvedAt)
			} else if p.TimeoutAt != nil {
				require.True(t, p.ResolvedAt.Before(*p.TimeoutAt), "settled after its deadline: %+v", p)
			}
			require.Equal(t, want, end.EventType)
			require.Equal(t, *p.ResolvedBySequence, end.SequenceNumber)
		}
		for i, e := range events {
			require.Equal(t, promise.EventExtended, e.EventType, "%+v", p)
			if i == len(events)-1 {
				require.Equal(t, p.TimeoutAt, e.TimeoutAt)
			}
		}
	}
}
