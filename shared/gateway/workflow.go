package gateway

import (
	"github.com/flovyn/promises/shared/promise"
)

// requiredWorkflow reads workflowExecutionId or workflowId, and requires one of
// them.
func requiredWorkflow(o object) (promise.Workflow, error) {
	w, err := optionalWorkflow(o.optionalText)
	switch {
	case err != nil:
		return promise.Workflow{}, err
	case w == nil:
		return promise.Workflow{}, fieldError("workflowExecutionId", promise.CodeMissingField,
			"The workflow execution is missing. Send workflowExecutionId, a UUID, or workflowId, the engine's own id.")
	}
	return *w, nil
}

// optionalWorkflow reads workflowExecutionId or workflowId. It returns nil if both
// are absent.
func optionalWorkflow(text func(name string) (*string, error)) (*promise.Workflow, error) {
	id, err := text("workflowExecutionId")
	if err != nil {
		return nil, err
	}
	externalID, err := text("workflowId")
	switch {
	case err != nil:
		return nil, err
	case id != nil && externalID != nil:
		return nil, fieldError("workflowId", promise.CodeDuplicateField, "Send workflowExecutionId or workflowId, not both.")
	case id != nil:
		u, err := promise.ParseWorkflowExecutionID(*id)
		return &promise.Workflow{ID: u}, within("workflowExecutionId", err)
	case externalID != nil:
		w, err := promise.ByExternalID(*externalID)
		return &w, within("workflowId", err)
	}
	return nil, nil
}
