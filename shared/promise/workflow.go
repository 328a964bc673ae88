package promise

import (
	"strings"
	"unicode/utf8"

	"github.com/google/uuid"
)

// MaxExternalIDLength is the limit of a workflow execution's external id, in
// characters.
const MaxExternalIDLength = MaxLength

// A Workflow names a workflow execution, by its id or by its external id. The
// external id is the engine's own name of the execution.
type Workflow struct {
	ID         uuid.UUID // uuid.Nil if ExternalID is set
	ExternalID string    // empty if ID is set
}

// ByExternalID names a workflow execution by its external id. It fails with
// CodeOutOfRange, CodeNULCharacter or CodeInvalidUTF8 unless externalID has 1 to
// MaxExternalIDLength characters.
func ByExternalID(externalID string) (Workflow, error) {
	if strings.ContainsRune(externalID, utf8.RuneError) { // see CheckIdempotencyKey
		return Workflow{}, Fail(CodeInvalidUTF8, "A workflow id must be valid UTF-8 without U+FFFD.")
	}
	if err := checkLength(externalID, MaxExternalIDLength, CodeOutOfRange, "A workflow id"); err != nil {
		return Workflow{}, err
	}
	return Workflow{ExternalID: externalID}, nil
}

// ParseWorkflow parses a path segment: "{uuid}", "workflowId:{external id}" or
// "workflowId64:{external id in base64url}". The last form can write every
// external id, in canonical base64url without padding. ParseWorkflow fails with
// CodeInvalidUUID, CodeInvalidIdentifier, or as ByExternalID does.
func ParseWorkflow(s string) (Workflow, error) {
	if rest, ok := strings.CutPrefix(s, "workflowId:"); ok {
		return ByExternalID(rest)
	}
	if rest, ok := strings.CutPrefix(s, "workflowId64:"); ok {
		text, ok := decode64(rest)
		if !ok {
			return Workflow{}, Fail(CodeInvalidIdentifier, "workflowId64: takes the id's UTF-8 bytes in base64url without padding.")
		}
		return ByExternalID(text)
	}
	id, err := ParseWorkflowExecutionID(s)
	return Workflow{ID: id}, err
}

// ParseWorkflowExecutionID parses a workflow execution's id. It fails with
// CodeInvalidUUID.
func ParseWorkflowExecutionID(s string) (uuid.UUID, error) {
	id, ok := parseUUID(s)
	if !ok {
		return uuid.Nil, Fail(CodeInvalidUUID, "Invalid UUID format for workflow execution ID. Send an engine's own id in workflowId.")
	}
	return id, nil
}

// DeriveWorkflowExecutionID returns the id of a tenant's workflow execution with an
// external id: the UUID of version 5 (RFC 9562) of the external id, in the namespace
// of the tenant's id.
func DeriveWorkflowExecutionID(tenantID uuid.UUID, externalID string) uuid.UUID {
	return uuid.NewSHA1(tenantID, []byte(externalID))
}
