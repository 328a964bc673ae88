package repository_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/promise"
)

// A workflow execution that an engine knows by a text has the same id in every process, and each answer shows both.
func TestExternalID(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	db.Tenant(t, "other")
	ctx := t.Context()
	const text = "arn:aws:states:eu-west-1:123456789012:execution:payments:4711/ä"
	id, err := r.WorkflowExecutionID(ctx, tenant, text)
	require.NoError(t, err)
	again, err := r.WorkflowExecutionID(ctx, tenant, text)
	require.NoError(t, err)
	require.Equal(t, id, again)
	require.Equal(t, uuid.Version(5), id.Version())
	theirs, err := r.WorkflowExecutionID(ctx, "other", text)
	require.NoError(t, err)
	require.NotEqual(t, id, theirs)
	_, err = r.WorkflowExecutionID(ctx, "nobody", text)
	require.Equal(t, error(promise.ErrNotFound), err)

	d := withKey(promise.Draft{WorkflowExecutionID: id, ExternalID: new(text), Name: "payment"}, "k", time.Hour)
	p := create(t, r, d)
	require.Equal(t, text, *p.ExternalID)
	made, err := r.Create(ctx, tenant, d)
	require.NoError(t, err)
	require.Equal(t, promise.CreateResult{Promise: p}, made)
	for _, i := range []promise.Identifier{promise.ByID(p.ID), byKey(t, "k")} {
		got, err := r.Get(ctx, tenant, i)
		require.NoError(t, err)
		require.Equal(t, p, got)
	}
	byName, err := r.GetByWorkflowAndName(ctx, tenant, id, "payment")
	require.NoError(t, err)
	require.Equal(t, p, byName)
	require.Equal(t, text, *extend(t, r, promise.ByID(p.ID), promise.Deadline{Timeout: new(time.Hour)}).ExternalID)
	for _, f := range []promise.Filter{{}, {WorkflowExecutionID: &id}} {
		page, _, err := r.ListPromises(ctx, tenant, f, 10)
		require.NoError(t, err)
		require.Equal(t, text, *page[0].ExternalID)
	}
}

// The text is kept from whichever create names it first, a create with an early settlement included.
func TestExternalIDIsAdded(t *testing.T) {
	t.Parallel()
	r, _ := setUp(t)
	id, err := r.WorkflowExecutionID(t.Context(), tenant, "order-1")
	require.NoError(t, err)
	first := create(t, r, promise.Draft{WorkflowExecutionID: id, Name: "by its id"})
	require.Nil(t, first.ExternalID)
	hold(t, r, "k", resolved([]byte("1")), promise.OutcomeHeld)
	born := create(t, r, withKey(promise.Draft{WorkflowExecutionID: id, ExternalID: new("order-1"), Name: "by its text"}, "k", time.Hour))
	require.Equal(t, promise.Resolved, born.State)
	require.Equal(t, "order-1", *born.ExternalID)
	require.Equal(t, "order-1", *create(t, r, promise.Draft{WorkflowExecutionID: id, Name: "by its id again"}).ExternalID)
	got, err := r.Get(t.Context(), tenant, promise.ByID(first.ID))
	require.NoError(t, err)
	require.Equal(t, "order-1", *got.ExternalID)
}
