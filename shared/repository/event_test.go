package repository_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/promise"
)

func TestListEvents(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	db.Tenant(t, "other")
	ctx := t.Context()
	w := uuid.New()
	add := func(name string, d promise.Draft) promise.Promise {
		d.WorkflowExecutionID, d.Name = w, name
		return create(t, r, d)
	}
	past := time.Now().Add(-time.Hour)
	deadline := time.Now().Add(time.Hour).Truncate(time.Microsecond)
	a, b, c := add("a", promise.Draft{}), add("b", promise.Draft{}), add("c", promise.Draft{})
	d := add("d", promise.Draft{TimeoutAt: &past, OnTimeout: &promise.Result{State: promise.Resolved, Value: []byte("0")}})
	_, err := r.Extend(ctx, tenant, promise.ByID(a.ID), promise.Deadline{At: &deadline})
	require.NoError(t, err)
	comment := "as agreed"
	settled := []promise.SettleRequest{resolved([]byte(` {"a": 1}`)), rejected("no"), cancelled("because")}
	settled[0].Comment = &comment
	for n, p := range []promise.Promise{a, b, c} {
		_, err := r.Settle(ctx, tenant, promise.ByID(p.ID), settled[n])
		require.NoError(t, err)
	}
	_, err = r.Expire(ctx, 10)
	require.NoError(t, err)
	late := promise.SettleRequest{Result: *d.OnTimeout, By: promise.By{Kind: promise.KindDeadline}}
	want := []promise.Event{
		{Type: promise.EventCreated, PromiseID: a.ID, PromiseName: "a"},
		{Type: promise.EventCreated, PromiseID: b.ID, PromiseName: "b"},
		{Type: promise.EventCreated, PromiseID: c.ID, PromiseName: "c"},
		{Type: promise.EventCreated, PromiseID: d.ID, PromiseName: "d"},
		{Type: promise.EventExtended, PromiseID: a.ID, PromiseName: "a", TimeoutAt: &deadline},
		{Type: promise.EventResolved, PromiseID: a.ID, PromiseName: "a", Settlement: &settled[0]},
		{Type: promise.EventRejected, PromiseID: b.ID, PromiseName: "b", Settlement: &settled[1]},
		{Type: promise.EventCancelled, PromiseID: c.ID, PromiseName: "c", Settlement: &settled[2]},
		{Type: promise.EventTimeout, PromiseID: d.ID, PromiseName: "d", Settlement: &late},
	}
	last := int32(len(want))
	all, err := r.ListEvents(ctx, tenant, w, 0, 100)
	require.NoError(t, err)
	t.Run("the log has every event in order", func(t *testing.T) {
		require.Len(t, all, len(want))
		for n, got := range all {
			require.False(t, got.CreatedAt.Before(all[max(n-1, 0)].CreatedAt))
			want[n].SequenceNumber, want[n].CreatedAt = int32(n+1), got.CreatedAt
			if got.TimeoutAt != nil {
				require.True(t, deadline.Equal(*got.TimeoutAt))
				want[n].TimeoutAt = got.TimeoutAt
			}
			require.Equal(t, want[n], got)
		}
	})
	t.Run("a page starts after any number and has at most limit events", func(t *testing.T) {
		for after := range last + 1 {
			for limit := 1; limit <= len(want)+1; limit++ {
				page, err := r.ListEvents(t.Context(), tenant, w, after, limit)
				require.NoError(t, err)
				require.Equal(t, all[after:min(int(after)+limit, len(all))], append([]promise.Event{}, page...))
			}
		}
	})
	t.Run("a number beyond the log", func(t *testing.T) {
		_, err := r.ListEvents(t.Context(), tenant, w, last+1, 10)
		requireCode(t, promise.CodeOutOfRange, err)
	})
	for _, c := range []struct {
		name, tenant string
		workflow     uuid.UUID
		after        int32
	}{
		{"an unknown workflow", tenant, uuid.New(), 0},
		{"an unknown workflow, a number beyond the log", tenant, uuid.New(), 1000},
		{"another tenant's workflow", "other", w, 0},
		{"another tenant's workflow, a number beyond the log", "other", w, 1000},
		{"an unknown tenant", "nobody", w, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			requireNotFound(t, errOf(r.ListEvents(t.Context(), c.tenant, c.workflow, c.after, 10)))
		})
	}
}

// A page of events ends after three MiB of values, but has at least one event. It counts each value once.
func TestListEventsBytes(t *testing.T) {
	t.Parallel()
	r, _ := setUp(t)
	w := uuid.New()
	for n, mib := range []int{1, 1, 1, 1, 4, 1} {
		p := create(t, r, promise.Draft{WorkflowExecutionID: w, Name: fmt.Sprint(n)})
		_, err := r.Settle(t.Context(), tenant, promise.ByID(p.ID), resolved([]byte(`"`+strings.Repeat("x", mib<<20-2)+`"`)))
		require.NoError(t, err)
	}
	var pages []int
	for after := int32(0); after < 12; {
		page, err := r.ListEvents(t.Context(), tenant, w, after, 100)
		require.NoError(t, err)
		pages = append(pages, len(page))
		after = page[len(page)-1].SequenceNumber
	}
	require.Equal(t, []int{7, 2, 1, 2}, pages)
}

// While eight writers change a workflow, a consumer reads its log. It crashes at times in the middle of a page, and continues after
// the last number that it has processed. It reads every event once, in order, with its contents.
func TestAConsumerThatCrashesReadsEveryEventOnce(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	ctx := context.Background()
	w := uuid.New()
	first := create(t, r, promise.Draft{WorkflowExecutionID: w, Name: "first"})
	const writers, promises = 8, 40
	errs := make([]error, writers)
	var wg sync.WaitGroup
	for writer := range writers {
		wg.Go(func() {
			for n := range promises {
				created, err := r.Create(ctx, tenant, promise.Draft{WorkflowExecutionID: w, Name: fmt.Sprint(writer, "-", n)})
				if err != nil {
					errs[writer] = err
					return
				}
				i := promise.ByID(created.Promise.ID)
				if n%2 == 0 {
					_, errs[writer] = r.Extend(ctx, tenant, i, promise.Deadline{Timeout: new(time.Hour)})
				}
				if errs[writer] == nil {
					_, errs[writer] = r.Settle(ctx, tenant, i, resolved([]byte(`"`+created.Promise.Name+`"`)))
				}
				if errs[writer] != nil {
					return
				}
			}
		})
	}
	t.Cleanup(wg.Wait)
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()

	want := int32(1 + writers*promises*5/2)
	seen := map[uuid.UUID][]promise.EventType{}
	pages, crashes := 0, 0
	for last, written := int32(0), false; !written || last < want; {
		select {
		case <-done:
			written = true
			for _, err := range errs {
				require.NoError(t, err)
			}
			require.Equal(t, int(want), count(t, db, "SELECT last_sequence_number FROM workflow_execution"))
		default:
		}
		page, err := r.ListEvents(ctx, tenant, w, last, 1+rand.IntN(20))
		require.NoError(t, err)
		require.True(t, len(page) > 0 || !written || last == want, "the log ends at %d", last)
		pages++
		for _, e := range page {
			require.Equal(t, last+1, e.SequenceNumber)
			if e.Type == promise.EventResolved {
				require.Equal(t, `"`+e.PromiseName+`"`, string(e.Settlement.Value))
			} else {
				require.Nil(t, e.Settlement)
			}
			seen[e.PromiseID] = append(seen[e.PromiseID], e.Type)
			last++
			if rand.IntN(10) == 0 {
				crashes++
				break
			}
		}
	}
	t.Logf("%d pages, %d crashes", pages, crashes)
	require.NotZero(t, crashes)
	require.Equal(t, []promise.EventType{promise.EventCreated}, seen[first.ID])
	delete(seen, first.ID)
	require.Len(t, seen, writers*promises)
	for _, types := range seen {
		require.Equal(t, promise.EventCreated, types[0])
		require.Equal(t, promise.EventResolved, types[len(types)-1])
	}
	requireDense(t, db)
}

// The functions of the previous release insert each event into the view workflow_event, and delete it there.
func TestEventsOfThePreviousRelease(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	p := create(t, r, draft("payment"))
	for _, sql := range []string{
		`INSERT INTO workflow_event (workflow_execution_id, sequence_number, event_type, promise_id, created_at, timeout_at)
		SELECT workflow_execution_id, 2, 'PROMISE_EXTENDED', id, NOW(), NOW() FROM promise`,
		`WITH settled AS (
			UPDATE promise SET resolved = TRUE, outcome = 'resolved', value = '1', resolved_at = NOW(), resolved_by_sequence = 3,
				settled_by_kind = 'key' RETURNING *
		)
		INSERT INTO workflow_event (workflow_execution_id, sequence_number, event_type, promise_id, created_at)
		SELECT workflow_execution_id, 3, 'PROMISE_RESOLVED', id, NOW() FROM settled`,
		"UPDATE workflow_execution SET last_sequence_number = 3",
	} {
		db.Exec(t, sql)
	}
	types := func() (found []promise.EventType) {
		events, err := r.ListEvents(t.Context(), tenant, p.WorkflowExecutionID, 0, 10)
		require.NoError(t, err)
		for _, e := range events {
			found = append(found, e.Type)
		}
		return found
	}
	require.Equal(t, []promise.EventType{promise.EventCreated, promise.EventExtended, promise.EventResolved}, types())
	require.Equal(t, 3, count(t, db, "SELECT COUNT(*) FROM workflow_event"))
	db.Exec(t, "DELETE FROM workflow_event WHERE sequence_number < 3")
	require.Equal(t, []promise.EventType{promise.EventResolved}, types(), "a settlement is part of its promise's row")
}
