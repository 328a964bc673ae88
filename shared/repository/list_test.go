package repository_test

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/dbtest"
	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/repository"
)

// walk reads a list page by page. It calls between after each page but the last.
func walk(
	t testing.TB, r *repository.Repository, slug string, f promise.Filter, limit int, between func(),
) []promise.Promise {
	t.Helper()
	var all []promise.Promise
	for {
		page, more, err := r.ListPromises(t.Context(), slug, f, limit)
		require.NoError(t, err)
		require.LessOrEqual(t, len(page), limit)
		all = append(all, page...)
		if !more {
			return all
		}
		require.NotEmpty(t, page, "each page has a promise")
		f.After = new(f.CursorAfter(page[len(page)-1]))
		between()
	}
}

func idsOf(promises []promise.Promise) []uuid.UUID {
	ids := make([]uuid.UUID, len(promises))
	for n, p := range promises {
		ids[n] = p.ID
	}
	return ids
}

// randomPromises creates promises of every kind in a tenant's workflows, some of them with equal creation times. It returns them as Get
// does, newest first.
func randomPromises(
	t testing.TB, r *repository.Repository, db *dbtest.DB, slug string, workflows []uuid.UUID, names []string,
) []promise.Promise {
	t.Helper()
	ctx := t.Context()
	value, message := []byte(`{"by": "default"}`), "by default"
	var ids []uuid.UUID
	add := func(w uuid.UUID, name string) {
		d := promise.Draft{WorkflowExecutionID: w, Name: name}
		if n := rand.IntN(5); n > 0 {
			d.TimeoutAt = new(time.Now().Add(time.Duration(n-3)*time.Hour - time.Minute))
		}
		switch rand.IntN(3) {
		case 0:
			d.OnTimeout = &promise.Result{State: promise.Resolved, Value: value}
		case 1:
			d.OnTimeout = &promise.Result{State: promise.Rejected, Message: &message}
		}
		if rand.IntN(2) == 0 {
			d.Metadata = []byte(`{"a": 1}`)
		}
		created, err := r.Create(ctx, slug, d)
		require.NoError(t, err)
		ids = append(ids, created.Promise.ID)
		all := []promise.SettleRequest{resolved([]byte("1")), rejected("no"), cancelled("because")}
		if n := rand.IntN(5); n < len(all) {
			_, err := r.Settle(ctx, slug, promise.ByID(created.Promise.ID), all[n])
			require.NoError(t, err)
		}
	}
	for n, w := range workflows {
		if n == len(workflows)/2 {
			_, err := r.Expire(ctx, 1000)
			require.NoError(t, err)
		}
		for _, name := range names {
			add(w, name)
		}
	}
	db.Rewrite(t, "UPDATE promise SET created_at = DATE_TRUNC('second', created_at) WHERE id = ANY($1) AND id::TEXT < '8'", ids)
	promises := make([]promise.Promise, len(ids))
	for n, id := range ids {
		p, err := r.Get(ctx, slug, promise.ByID(id))
		require.NoError(t, err)
		promises[n] = p
	}
	slices.SortFunc(promises, newestFirst)
	return promises
}

func newestFirst(a, b promise.Promise) int {
	return cmp.Or(b.CreatedAt.Compare(a.CreatedAt), bytes.Compare(b.ID[:], a.ID[:]))
}

func soonestFirst(a, b promise.Promise) int {
	return cmp.Or(a.TimeoutAt.Compare(*b.TimeoutAt), bytes.Compare(a.ID[:], b.ID[:]))
}

// Every valid combination of filters lists the same of random promises as a loop over all of them. The invalid combinations are errors.
func TestListFilters(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	db.Tenant(t, "other")
	names := []string{"a", "b", "c", "d", "e", "f"}
	var workflows [2][]uuid.UUID
	for n := range workflows {
		for range 16 {
			workflows[n] = append(workflows[n], uuid.New())
		}
	}
	theirs := randomPromises(t, r, db, "other", workflows[1], names)
	all := randomPromises(t, r, db, tenant, workflows[0], names)
	require.Equal(t, idsOf(theirs), idsOf(walk(t, r, "other", promise.Filter{}, 100, func() {})))

	states := []*promise.State{nil}
	for _, s := range []promise.State{promise.Pending, promise.Resolved, promise.Rejected, promise.Cancelled, promise.TimedOut} {
		states = append(states, &s)
		require.True(t, slices.ContainsFunc(all, func(p promise.Promise) bool { return p.State == s }), s)
	}
	for _, state := range states {
		for _, workflow := range []*uuid.UUID{nil, &workflows[0][0], &workflows[0][15], &workflows[1][0], new(uuid.New())} {
			for _, name := range []*string{nil, new("b"), new("unknown")} {
				for _, before := range []*time.Time{nil, new(time.Now()), new(time.Now().Add(30 * time.Minute)), all[0].TimeoutAt} {
					f := promise.Filter{WorkflowExecutionID: workflow, Name: name, State: state, TimeoutBefore: before}
					t.Run(filterName(f), func(t *testing.T) {
						if invalid := f.Check(); invalid != nil {
							_, _, err := r.ListPromises(t.Context(), tenant, f, 10)
							require.Equal(t, invalid, err)
							return
						}
						var want []promise.Promise
						for _, p := range all {
							if matches(f, p) {
								want = append(want, p)
							}
						}
						if before != nil {
							slices.SortFunc(want, soonestFirst)
						}
						limit := 1 + len(want)/2
						require.Equal(t, want, walk(t, r, tenant, f, limit, func() {}))
					})
				}
			}
		}
	}
}

// filterName names the fields that a filter has.
func filterName(f promise.Filter) string {
	name := "all"
	if f.State != nil {
		name = string(*f.State)
	}
	if f.WorkflowExecutionID != nil {
		name += " of workflow " + f.WorkflowExecutionID.String()
	}
	if f.Name != nil {
		name += " named " + *f.Name
	}
	if f.TimeoutBefore != nil {
		name += " due by " + f.TimeoutBefore.Format(time.RFC3339Nano)
	}
	return name
}

func TestListLimits(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	all := randomPromises(t, r, db, tenant, []uuid.UUID{uuid.New()}, strings.Split("abcdefghij", ""))
	w := all[0].WorkflowExecutionID
	for name, f := range map[string]promise.Filter{"of the tenant": {}, "of a workflow": {WorkflowExecutionID: &w}} {
		t.Run(name, func(t *testing.T) {
			for limit := 1; limit <= len(all)+1; limit++ {
				page, more, err := r.ListPromises(t.Context(), tenant, f, limit)
				require.NoError(t, err)
				require.Equal(t, all[:min(limit, len(all))], page)
				require.Equal(t, limit < len(all), more, "%d", limit)
				require.Equal(t, all, walk(t, r, tenant, f, limit, func() {}))
			}
		})
		t.Run(name+", an unknown tenant", func(t *testing.T) {
			_, _, err := r.ListPromises(t.Context(), "nobody", f, 10)
			requireNotFound(t, err)
		})
	}
	t.Run("after the last promise", func(t *testing.T) {
		f := promise.Filter{After: &promise.Cursor{CreatedAt: all[9].CreatedAt, ID: all[9].ID}}
		page, more, err := r.ListPromises(t.Context(), tenant, f, 10)
		require.NoError(t, err)
		require.False(t, more)
		require.Empty(t, page)
	})
}

// A reader sees the promises that existed at its first page once, in order, while others are created and settled.
func TestListWhileItChanges(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	workflows := []uuid.UUID{uuid.New(), uuid.New(), uuid.New(), uuid.New()}
	all := randomPromises(t, r, db, tenant, workflows, []string{"a", "b", "c", "d", "e", "f", "g"})
	n := 0
	got := walk(t, r, tenant, promise.Filter{}, 3, func() {
		n++
		create(t, r, promise.Draft{WorkflowExecutionID: workflows[n%len(workflows)], Name: fmt.Sprint("new", n)})
		for range 3 {
			_, err := r.Settle(t.Context(), tenant, promise.ByID(all[rand.IntN(len(all))].ID), resolved([]byte("2")))
			require.NoError(t, err)
		}
		_, err := r.Expire(t.Context(), 1)
		require.NoError(t, err)
	})
	require.Equal(t, idsOf(all), idsOf(got))
	require.Len(t, walk(t, r, tenant, promise.Filter{}, 100, func() {}), len(all)+n)
}

// A page ends after three MiB of values, errors and metadata.
func TestListBytes(t *testing.T) {
	t.Parallel()
	const mib = 1 << 20
	value := func(size int) []byte { return []byte(`"` + strings.Repeat("x", size-2) + `"`) }
	for _, c := range []struct {
		name  string
		n     int
		pages []int
		put   func(r *repository.Repository, d promise.Draft) error
	}{
		{"value", 7, []int{3, 3, 1}, func(r *repository.Repository, d promise.Draft) error {
			created, err := r.Create(context.Background(), tenant, d)
			if err != nil {
				return err
			}
			return errOf(r.Settle(context.Background(), tenant, promise.ByID(created.Promise.ID), resolved(value(mib))))
		}},
		{"error", 4, []int{3, 1}, func(r *repository.Repository, d promise.Draft) error {
			created, err := r.Create(context.Background(), tenant, d)
			if err != nil {
				return err
			}
			return errOf(r.Settle(context.Background(), tenant, promise.ByID(created.Promise.ID), rejected(string(value(mib)))))
		}},
		{"more than a page holds", 3, []int{1, 1, 1}, func(r *repository.Repository, d promise.Draft) error {
			d.OnTimeout = &promise.Result{State: promise.Resolved, Value: value(4 * mib)}
			return errOf(r.Create(context.Background(), tenant, d))
		}},
		{"metadata", 100, []int{48, 48, 4}, func(r *repository.Repository, d promise.Draft) error {
			d.Metadata = fmt.Appendf(nil, `{"a": %q}`, strings.Repeat("x", promise.MaxMetadataBytes-len(`{"a": ""}`)))
			return errOf(r.Create(context.Background(), tenant, d))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r, _ := setUp(t)
			w := uuid.New()
			for n := range c.n {
				require.NoError(t, c.put(r, promise.Draft{WorkflowExecutionID: w, Name: fmt.Sprint(n)}))
			}
			for _, f := range []promise.Filter{{}, {WorkflowExecutionID: &w}} {
				var pages []int
				seen := 0
				all := walk(t, r, tenant, f, 100, func() {})
				for at := range c.pages {
					page, more, err := r.ListPromises(t.Context(), tenant, f, 100)
					require.NoError(t, err)
					pages = append(pages, len(page))
					seen += len(page)
					require.Equal(t, at < len(c.pages)-1, more)
					f.After = new(f.CursorAfter(page[len(page)-1]))
				}
				require.Equal(t, c.pages, pages)
				require.Len(t, all, c.n)
				require.True(t, slices.IsSortedFunc(all, newestFirst))
			}
		})
	}
}
