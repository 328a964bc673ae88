package client

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"net"
	"strconv"
	"time"

	"github.com/google/uuid"
)

// A Code is the reason of a failed call. It is an error by itself, so that errors.Is finds
// it in the error of a call:
//
//	if errors.Is(err, client.CodeNotFound) {
type Code string

// The codes of the service. "Errors" in functions/README.md has the meaning of each.
const (
	CodeMalformedJSON        Code = "malformed_json"
	CodeTrailingData         Code = "trailing_data"
	CodeInvalidUTF8          Code = "invalid_utf8"
	CodeNULCharacter         Code = "nul_character"
	CodeUnknownField         Code = "unknown_field"
	CodeDuplicateField       Code = "duplicate_field"
	CodeMissingField         Code = "missing_field"
	CodeWrongType            Code = "wrong_type"
	CodeOutOfRange           Code = "out_of_range"
	CodeInvalidName          Code = "invalid_name"
	CodeInvalidKey           Code = "invalid_key"
	CodeInvalidUUID          Code = "invalid_uuid"
	CodeInvalidIdentifier    Code = "invalid_identifier"
	CodeInvalidMetadata      Code = "invalid_metadata"
	CodeInvalidSlug          Code = "invalid_slug"
	CodeInvalidParameter     Code = "invalid_parameter"
	CodeValueTooLarge        Code = "value_too_large"
	CodeUnsupportedMediaType Code = "unsupported_media_type"
	CodeUnauthenticated      Code = "unauthenticated" // no credential, or an invalid one
	CodeForbidden            Code = "forbidden"       // the credential, or the role in AWS, does not authorize the call
	CodeNotFound             Code = "not_found"
	CodeKeyConflict          Code = "key_conflict"    // another promise has the key: ExistingPromiseID
	CodeCreateConflict       Code = "create_conflict" // the promise exists and differs: ExistingPromiseID
	CodeConflict             Code = "conflict"
	CodeTimedOut             Code = "timed_out"
	CodeCancelled            Code = "cancelled"
	CodeInvalidNotify        Code = "invalid_notify"
	CodeUnknownDestination   Code = "unknown_destination"
	CodeDestinationDisabled  Code = "destination_disabled"
	CodeRuleFailed           Code = "rule_failed"
	CodeQuotaExceeded        Code = "quota_exceeded" // Quota and Limit; it is not repeated, because something must make room first
	CodeUnavailable          Code = "unavailable"    // the service, the function or the network: all attempts failed
	CodeInternal             Code = "internal"
)

// Error returns the code.
func (c Code) Error() string { return string(c) }

// An Error is a failed call. It holds no credential and no payload. Every call of a Client
// that reached the service or tried to fails with an *Error.
type Error struct {
	Op     string // the operation, such as create-promise
	Code   Code   // empty if the answer was not the service's, for example a page of another server
	Status int    // of HTTP, also for a direct invoke; 0 if there was no answer
	Detail string // a sentence for people
	Field  string // the field that is at fault, or empty

	ExistingPromiseID uuid.UUID // CodeKeyConflict, CodeCreateConflict
	Quota             string    // CodeQuotaExceeded: the limit's name
	Limit             int64     // CodeQuotaExceeded

	// Settled is the stored settlement, if a strict settle call or an extend found one.
	// nil: there is none.
	Settled *SettleResult

	RetryAfter   time.Duration // the service asks for this pause; 0: it does not
	Temporary    bool          // the same call may succeed later
	MaybeApplied bool          // the call may have taken effect although it failed
	Err          error         // the cause, such as a connection's error or that of the context; may be nil
}

// Error returns the operation, the code, the field, the detail and the cause.
func (e *Error) Error() string {
	s := "promises"
	if e.Op != "" {
		s += ": " + e.Op
	}
	switch {
	case e.Code != "":
		s += ": " + string(e.Code)
	case e.Status != 0:
		s += ": status " + strconv.Itoa(e.Status)
	}
	if e.Field != "" {
		s += " (" + e.Field + ")"
	}
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Is reports whether target is the error's code.
func (e *Error) Is(target error) bool {
	code, ok := target.(Code) //nolint:errorlint // errors.Is calls this for each error of a chain
	return ok && code == e.Code
}

// UnmarshalJSON reads a problem of the service (RFC 9457). It fails unless the text is an
// object with a code.
func (e *Error) UnmarshalJSON(text []byte) error {
	var p struct {
		Code              Code
		Status            int
		Detail            string
		Field             string
		ExistingPromiseID uuid.UUID
		Quota             string
		Limit             int64
		SettleResult
	}
	if err := json.Unmarshal(text, &p); err != nil {
		return err
	}
	if p.Code == "" {
		return errors.New("the object is no problem: it has no code")
	}
	*e = Error{
		Code: p.Code, Status: p.Status, Detail: p.Detail, Field: p.Field, ExistingPromiseID: p.ExistingPromiseID,
		Quota: p.Quota, Limit: p.Limit, Temporary: p.Status >= 500, MaybeApplied: p.Status >= 500,
	}
	if p.Outcome != "" {
		e.Settled = &p.SettleResult
	}
	return nil
}

// Unanswered returns the error of a call that a gateway, or the network, answered in place
// of the service. status is 0 if there was no answer. Transports use it, so that their
// errors are the same. A call whose connection could not be made was certainly not applied,
// and one whose server is not trusted will not succeed later.
//
//	0, 429, 500, 502, 503, 504   CodeUnavailable, and temporary
//	401                          CodeUnauthenticated
//	403                          CodeForbidden
//	413                          CodeValueTooLarge
//	every other                  no code
func Unanswered(status int, detail string, cause error) *Error {
	e := &Error{Status: status, Detail: detail, Err: cause}
	switch status {
	case 0, 500, 502, 503, 504:
		e.Code, e.Temporary, e.MaybeApplied = CodeUnavailable, true, true
	case 429:
		e.Code, e.Temporary = CodeUnavailable, true
	case 401:
		e.Code = CodeUnauthenticated
	case 403:
		e.Code = CodeForbidden
	case 413:
		e.Code = CodeValueTooLarge
	}
	if op, ok := errors.AsType[*net.OpError](cause); ok && op.Op == "dial" { // look-ups of names are a part of it
		e.MaybeApplied = false
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](cause); ok {
		e.Temporary, e.MaybeApplied = false, false
	}
	return e
}

// A SettledError is the error of Await and Value for a promise that was not resolved: it
// was rejected or cancelled, or it timed out. Promise.State says which.
type SettledError struct {
	Promise Promise
}

// Error returns the state and the error, or the reason. It has no value.
func (e *SettledError) Error() string {
	s := "promises: the promise " + e.Promise.PromiseID.String() + " is " + string(e.Promise.State)
	if text := e.Promise.Error + e.Promise.Reason; text != "" {
		s += ": " + text
	}
	return s
}

// ErrNoValue is the error of Await and Value for a resolved promise whose value is missing:
// it was erased, a message omitted it because it is too large, or the API key may not read.
var ErrNoValue = errors.New("promises: the promise is resolved, and its value was erased or omitted")

// ErrPending is the error of Value for a pending promise.
var ErrPending = errors.New("promises: the promise is pending")
