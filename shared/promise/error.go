package promise

import (
	"errors"

	"github.com/google/uuid"
)

// A Code names the reason of a failed call. The set is closed: callers may switch
// on it, and every edge translates all of Codes.
type Code string

// The codes. A call that fails with any code but CodeUnavailable and CodeInternal
// wrote nothing.
const (
	CodeMalformedJSON        Code = "malformed_json"         // the body is not JSON, or is missing
	CodeTrailingData         Code = "trailing_data"          // more text follows the JSON value
	CodeInvalidUTF8          Code = "invalid_utf8"           // bytes or escapes that are not Unicode text
	CodeNULCharacter         Code = "nul_character"          // U+0000 in a text that is stored
	CodeUnknownField         Code = "unknown_field"          // a field that the operation does not have
	CodeDuplicateField       Code = "duplicate_field"        // a field occurs twice
	CodeMissingField         Code = "missing_field"          // a required field is missing
	CodeWrongType            Code = "wrong_type"             // a field has another JSON type
	CodeOutOfRange           Code = "out_of_range"           // a number, time or text outside its limits
	CodeInvalidName          Code = "invalid_name"           // an empty or overlong name
	CodeInvalidKey           Code = "invalid_key"            // an empty or overlong idempotency key
	CodeInvalidUUID          Code = "invalid_uuid"           // not 8-4-4-4-12 hexadecimal digits
	CodeInvalidIdentifier    Code = "invalid_identifier"     // not id:, key: or key64:, or both promiseId and key
	CodeInvalidMetadata      Code = "invalid_metadata"       // metadata that Postgres cannot store as JSONB
	CodeInvalidSlug          Code = "invalid_slug"           // not a DNS label
	CodeInvalidParameter     Code = "invalid_parameter"      // a query parameter that is unknown, or has an invalid value
	CodeValueTooLarge        Code = "value_too_large"        // larger than the limit, or nested too deep
	CodeUnsupportedMediaType Code = "unsupported_media_type" // the declared content type is not JSON
	CodeUnauthenticated      Code = "unauthenticated"        // no credential, or an unknown or expired one
	CodeForbidden            Code = "forbidden"              // the credential does not authorize the operation
	CodeNotFound             Code = "not_found"              // it does not exist, or belongs to another tenant
	CodeKeyConflict          Code = "key_conflict"           // the idempotency key belongs to another promise
	CodeCreateConflict       Code = "create_conflict"        // the promise exists with another idempotency key, metadata, default outcome or targets
	CodeConflict             Code = "conflict"               // the promise is settled otherwise (strict, extend), or pending (delete); a delivery cannot be repeated
	CodeTimedOut             Code = "timed_out"              // the deadline had passed (strict, extend)
	CodeCancelled            Code = "cancelled"              // the promise was cancelled (strict, extend)
	CodeInvalidNotify        Code = "invalid_notify"         // an invalid list of targets
	CodeUnknownDestination   Code = "unknown_destination"    // a target's destination does not exist, or is of another kind
	CodeDestinationDisabled  Code = "destination_disabled"   // the service has disabled the destination
	CodeRuleFailed           Code = "rule_failed"            // a source's rule matched a webhook, and failed
	CodeQuotaExceeded        Code = "quota_exceeded"         // the tenant has reached a limit
	CodeUnavailable          Code = "unavailable"            // the database is unavailable or too slow; repeat the call
	CodeInternal             Code = "internal"               // the service has a fault
)

// Codes lists every code.
var Codes = []Code{
	CodeMalformedJSON, CodeTrailingData, CodeInvalidUTF8, CodeNULCharacter, CodeUnknownField, CodeDuplicateField,
	CodeMissingField, CodeWrongType, CodeOutOfRange, CodeInvalidName, CodeInvalidKey, CodeInvalidUUID,
	CodeInvalidIdentifier, CodeInvalidMetadata, CodeInvalidSlug, CodeInvalidParameter, CodeValueTooLarge, CodeUnsupportedMediaType,
	CodeUnauthenticated, CodeForbidden, CodeNotFound, CodeKeyConflict, CodeCreateConflict, CodeConflict, CodeTimedOut,
	CodeCancelled, CodeInvalidNotify, CodeUnknownDestination, CodeDestinationDisabled, CodeRuleFailed, CodeQuotaExceeded, CodeUnavailable, CodeInternal,
}

// An Error is a failed call with its code. Detail goes to the caller, and contains
// no payload and no secret. Cause goes only to the log.
type Error struct {
	Code   Code
	Detail string
	Cause  error

	Field             string        // the invalid field, or empty
	ExistingPromiseID uuid.UUID     // CodeKeyConflict, CodeCreateConflict: the promise that has the key or the name
	SettleResult      *SettleResult // CodeConflict, CodeTimedOut, CodeCancelled: the stored settlement
	Quota             *Quota        // CodeQuotaExceeded: the limit that is reached
}

// Error returns the code, the detail and the cause, for logs.
func (e *Error) Error() string {
	s := string(e.Code) + ": " + e.Detail
	if e.Cause != nil {
		s += ": " + e.Cause.Error()
	}
	return s
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }

// Fail returns an error with a code and a detail.
func Fail(code Code, detail string) *Error { return &Error{Code: code, Detail: detail} }

// NotPending returns the error of a call that needs a pending promise and found
// it settled with s. Its code follows the outcome: CodeConflict, CodeTimedOut or
// CodeCancelled.
func NotPending(s SettleResult) *Error {
	e := &Error{Code: CodeConflict, Detail: "The promise is already settled otherwise.", SettleResult: &s}
	switch {
	case s.EarlyExpiresAt != nil:
		e.Detail = "Another early settlement is already stored under this idempotency key."
	case s.Outcome == OutcomeTimedOut:
		e.Code, e.Detail = CodeTimedOut, "The promise's deadline has passed."
	case s.Outcome == OutcomeCancelled:
		e.Code, e.Detail = CodeCancelled, "The promise is already cancelled."
	}
	return e
}

// ErrNotFound is the same error for a tenant, workflow execution, promise or delivery
// that does not exist and for one of another tenant, so that a caller learns nothing
// about other tenants.
var ErrNotFound = Fail(CodeNotFound, "There is no such tenant, workflow execution, promise or delivery.")

// AsError returns the *Error in err's chain. Without one it returns CodeInternal
// with err as its cause.
func AsError(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return &Error{Code: CodeInternal, Detail: "The service failed. The cause is in its log.", Cause: err}
}
