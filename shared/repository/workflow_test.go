package repository_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/promise"
)

// A workflow execution with an external id has the same id in every process. Every call returns both ids.
func TestExternalID(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	db.Tenant(t, "other")
	ctx := t.Context()
	const text = "arn:aws:states:eu-west-1:123456789012:execution:payments:4711/ä"
	id, err := r.WorkflowExecutionID(ctx, tenant, text)
	require.NoError(t, err)
	t.Run("each call derives the same id, of version 5", func(t *testing.T) {
		again, err := r.WorkflowExecutionID(t.Context(), tenant, text)
		require.NoError(t, err)
		require.Equal(t, id, again)
		require.Equal(t, uuid.Version(5), id.Version())
	})
	t.Run("another tenant gets another id", func(t *testing.T) {
		theirs, err := r.WorkflowExecutionID(t.Context(), "other", text)
		require.NoError(t, err)
		require.NotEqual(t, id, theirs)
	})
	t.Run("an unknown tenant", func(t *testing.T) {
		requireNotFound(t, errOf(r.WorkflowExecutionID(t.Context(), "nobody", text)))
	})

	d := withKey(promise.Draft{WorkflowExecutionID: id, ExternalID: new(text), Name: "payment"}, "k", time.Hour)
	p := create(t, r, d)
	t.Run("create", func(t *testing.T) {
		require.Equal(t, text, *p.ExternalID)
		repeated, err := r.Create(t.Context(), tenant, d)
		require.NoError(t, err)
		require.Equal(t, promise.CreateResult{Promise: p}, repeated)
	})
	t.Run("get", func(t *testing.T) {
		for _, i := range []promise.Identifier{promise.ByID(p.ID), byKey(t, "k")} {
			got, err := r.Get(t.Context(), tenant, i)
			require.NoError(t, err)
			require.Equal(t, p, got)
		}
		byName, err := r.GetByWorkflowAndName(t.Context(), tenant, id, "payment")
		require.NoError(t, err)
		require.Equal(t, p, byName)
	})
	t.Run("extend", func(t *testing.T) {
		require.Equal(t, text, *extend(t, r, promise.ByID(p.ID), promise.Deadline{Timeout: new(time.Hour)}).ExternalID)
	})
	for name, f := range map[string]promise.Filter{"list": {}, "list a workflow": {WorkflowExecutionID: &id}} {
		t.Run(name, func(t *testing.T) {
			page, _, err := r.ListPromises(t.Context(), tenant, f, 10)
			require.NoError(t, err)
			require.Equal(t, text, *page[0].ExternalID)
		})
	}
}

// The first create that names the external id stores it, also if it has an early settlement.
func TestTheFirstCreateWithAnExternalIDStoresIt(t *testing.T) {
	t.Parallel()
	r, _ := setUp(t)
	id, err := r.WorkflowExecutionID(t.Context(), tenant, "order-1")
	require.NoError(t, err)
	first := create(t, r, promise.Draft{WorkflowExecutionID: id, Name: "by its id"})
	require.Nil(t, first.ExternalID)
	settleEarly(t, r, "k", resolved([]byte("1")), promise.OutcomeHeld)
	second := create(t, r, withKey(promise.Draft{WorkflowExecutionID: id, ExternalID: new("order-1"), Name: "by its text"}, "k", time.Hour))
	require.Equal(t, promise.Resolved, second.State)
	require.Equal(t, "order-1", *second.ExternalID)
	require.Equal(t, "order-1", *create(t, r, promise.Draft{WorkflowExecutionID: id, Name: "by its id again"}).ExternalID)
	got, err := r.Get(t.Context(), tenant, promise.ByID(first.ID))
	require.NoError(t, err)
	require.Equal(t, "order-1", *got.ExternalID)
}
