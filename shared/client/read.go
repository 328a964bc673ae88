package client

import (
	"context"
	"encoding/json"
	"iter"
	"time"
)

// Get returns a promise as it is at this moment. A deadline that has passed counts.
func (c *Client) Get(ctx context.Context, id Identifier) (Promise, error) {
	target, path, err := id.target()
	var p Promise
	err = c.call(ctx, Request{Function: "get-promise", Method: "GET", Path: path, Target: target, err: err}, &p)
	return p, err
}

// A Filter selects promises. The zero Filter selects all of the tenant, newest first. The
// service takes these combinations: State alone; Workflow, perhaps with Name and State; and
// State Pending with TimeoutBefore, the soonest deadline first.
type Filter struct {
	Workflow      Workflow
	Name          string
	State         State
	TimeoutBefore time.Time
	PageSize      int // promises in one answer, 1 to 100; 0: 100
}

// List returns the promises that a filter selects. It reads page after page, while the
// caller asks for more. An error is the last element.
func (c *Client) List(ctx context.Context, filter Filter) iter.Seq2[Promise, error] {
	var f fields
	filter.Workflow.add(&f)
	f.optional("name", filter.Name)
	f.optional("state", string(filter.State))
	f.time("timeoutBefore", filter.TimeoutBefore)
	return pages[Promise](ctx, c, Request{Function: "list-promises", Path: "/promises", err: f.err}, "promises", f.list, filter.PageSize)
}

// pages returns the elements of a list that has cursors. field is the field of an answer
// that has them.
func pages[T any](ctx context.Context, c *Client, r Request, field string, filter []Field, size int) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		r.Method = "GET"
		for cursor := ""; ; {
			query := fields{list: filter[:len(filter):len(filter)]}
			if size != 0 {
				query.number("limit", int64(size))
			}
			query.optional("cursor", cursor)
			r.Query = query.list
			list, next, err := page[T](ctx, c, r, field)
			if err != nil {
				var none T
				yield(none, err)
				return
			}
			for _, element := range list {
				if !yield(element, nil) {
					return
				}
			}
			if cursor = next; cursor == "" {
				return
			}
		}
	}
}

func page[T any](ctx context.Context, c *Client, r Request, field string) (list []T, next string, err error) {
	a, err := c.send(ctx, r)
	if err != nil {
		return nil, "", err
	}
	var parts map[string]json.RawMessage
	if err := decode(r, a, &parts); err != nil {
		return nil, "", err
	}
	if raw, ok := parts["nextCursor"]; ok {
		if err := decode(r, Answer{Body: raw}, &next); err != nil {
			return nil, "", err
		}
	}
	return list, next, decode(r, Answer{Body: parts[field]}, &list)
}

// Events returns the events of a workflow execution's log after a number, 0 for all, until
// the end of the log. An error is the last element. An engine that keeps the number of the
// last event that it handled, and goes on from there, sees each event once.
func (c *Client) Events(ctx context.Context, w Workflow, after int) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		for {
			events, next, err := c.readEvents(ctx, w, after)
			if err != nil {
				yield(Event{}, err)
				return
			}
			for _, e := range events {
				if !yield(e, nil) {
					return
				}
			}
			if len(events) == 0 {
				return
			}
			after = next
		}
	}
}

type eventPage struct {
	Events    []Event
	NextAfter int
}

func (c *Client) readEvents(ctx context.Context, w Workflow, after int) ([]Event, int, error) {
	var page eventPage
	err := c.call(ctx, eventsRequest("list-events", w, after), &page)
	return page.Events, page.NextAfter, err
}

func eventsRequest(function string, w Workflow, after int) Request {
	target, path, err := w.target()
	var query fields
	query.number("after", int64(after))
	return Request{Function: function, Method: "GET", Path: path, Target: target, Query: query.list, err: err}
}
