package promise

import (
	"errors"

	"github.com/google/uuid"
)

// Code names a way in which a call fails. The set is closed: callers may switch
// on it, and every edge translates all of Codes.
type Code string

// The codes. With all but CodeUnavailable and CodeInternal nothing was written.
const (
	CodeMalformedJSON        Code = "malformed_json"         // not JSON, or no body at all
	CodeTrailingData         Code = "trailing_data"          // JSON, and something after it
	CodeInvalidUTF8          Code = "invalid_utf8"           // bytes or escapes that are no Unicode text
	CodeNULCharacter         Code = "nul_character"          // U+0000 where a text is stored
	CodeUnknownField         Code = "unknown_field"          // a field that the operation does not have
	CodeDuplicateField       Code = "duplicate_field"        // one field twice
	CodeMissingField         Code = "missing_field"          // a field that must be there
	CodeWrongType            Code = "wrong_type"             // a field of another JSON type
	CodeOutOfRange           Code = "out_of_range"           // a number or a time beyond its limits
	CodeInvalidName          Code = "invalid_name"           // an empty or overlong name
	CodeInvalidKey           Code = "invalid_key"            // an empty or overlong idempotency key
	CodeInvalidUUID          Code = "invalid_uuid"           // not 8-4-4-4-12 hexadecimal digits
	CodeInvalidIdentifier    Code = "invalid_identifier"     // neither id: nor key: nor key64:, or both fields
	CodeInvalidMetadata      Code = "invalid_metadata"       // JSON that the database cannot hold as JSONB
	CodeInvalidSlug          Code = "invalid_slug"           // no DNS label
	CodeInvalidParameter     Code = "invalid_parameter"      // a query parameter that is unknown or unusable
	CodeValueTooLarge        Code = "value_too_large"        // over the size limit, or nested too deep
	CodeUnsupportedMediaType Code = "unsupported_media_type" // a body that is declared as something else than JSON
	CodeUnauthenticated      Code = "unauthenticated"        // no credential, or one that is unknown or over
	CodeForbidden            Code = "forbidden"              // the credential does not allow this
	CodeNotFound             Code = "not_found"              // unknown, or another tenant's
	CodeKeyConflict          Code = "key_conflict"           // the key belongs to another promise
	CodeCreateConflict       Code = "create_conflict"        // the promise exists with another key or metadata
	CodeConflict             Code = "conflict"               // strict, or extend: settled otherwise
	CodeTimedOut             Code = "timed_out"              // strict, or extend: the deadline had passed
	CodeCancelled            Code = "cancelled"              // strict, or extend: cancelled first
	CodeQuotaExceeded        Code = "quota_exceeded"         // the tenant has as much as it may have
	CodeUnavailable          Code = "unavailable"            // the database is away or too slow: repeat the call
	CodeInternal             Code = "internal"               // a fault of the service's own
)

// Codes lists every code.
var Codes = []Code{
	CodeMalformedJSON, CodeTrailingData, CodeInvalidUTF8, CodeNULCharacter, CodeUnknownField, CodeDuplicateField,
	CodeMissingField, CodeWrongType, CodeOutOfRange, CodeInvalidName, CodeInvalidKey, CodeInvalidUUID,
	CodeInvalidIdentifier, CodeInvalidMetadata, CodeInvalidSlug, CodeInvalidParameter, CodeValueTooLarge, CodeUnsupportedMediaType,
	CodeUnauthenticated, CodeForbidden, CodeNotFound, CodeKeyConflict, CodeCreateConflict, CodeConflict, CodeTimedOut,
	CodeCancelled, CodeQuotaExceeded, CodeUnavailable, CodeInternal,
}

// Error is a failure with its code. Detail is for the caller and holds neither
// a payload nor a secret; Cause is for the log alone.
type Error struct {
	Code   Code
	Detail string
	Cause  error

	Field             string        // the field at fault, where there is one
	ExistingPromiseID uuid.UUID     // CodeKeyConflict, CodeCreateConflict: the promise that stands in the way
	SettleResult      *SettleResult // CodeConflict, CodeTimedOut, CodeCancelled: what stands
	Quota             *Quota        // CodeQuotaExceeded: the limit
}

// Error tells the code, the detail and the cause: it is for logs.
func (e *Error) Error() string {
	s := string(e.Code) + ": " + e.Detail
	if e.Cause != nil {
		s += ": " + e.Cause.Error()
	}
	return s
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }

// Fail makes an error of a code and a detail.
func Fail(code Code, detail string) *Error { return &Error{Code: code, Detail: detail} }

// NotPending is the error of a call that found the promise settled and cannot do
// with that. Its code tells the outcome: CodeConflict, CodeTimedOut or
// CodeCancelled; it carries s.
func NotPending(s SettleResult) *Error {
	e := &Error{Code: CodeConflict, Detail: "The promise had been settled otherwise.", SettleResult: &s}
	switch {
	case s.EarlyExpiresAt != nil:
		e.Detail = "Another settlement is held under the key."
	case s.Outcome == OutcomeTimedOut:
		e.Code, e.Detail = CodeTimedOut, "The promise's deadline had passed."
	case s.Outcome == OutcomeCancelled:
		e.Code, e.Detail = CodeCancelled, "The promise had been cancelled."
	}
	return e
}

// ErrNotFound is the one answer for an unknown tenant, workflow execution or
// promise, and for those of another tenant: nobody can tell which it was.
var ErrNotFound = Fail(CodeNotFound, "There is no such tenant, workflow execution or promise.")

// AsError finds the *Error in err's chain; whatever holds none is CodeInternal,
// with err as its cause.
func AsError(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return &Error{Code: CodeInternal, Detail: "The service failed. The cause is in its log.", Cause: err}
}
