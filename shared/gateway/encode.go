package gateway

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"time"

	"github.com/aws/aws-lambda-go/lambda/messages"
	"github.com/google/uuid"

	"github.com/flovyn/promises/shared/promise"
)

// responseJSON is the answer to an HTTP API event, payload format 2.0.
type responseJSON struct {
	StatusCode int         `json:"statusCode"`
	Headers    headersJSON `json:"headers"`
	Body       string      `json:"body"`
}

type headersJSON struct {
	ContentType string `json:"content-type"`
	RetryAfter  string `json:"retry-after,omitempty"` // seconds
}

func encodeResponse(status int, contentType string, body []byte) []byte {
	r := responseJSON{StatusCode: status, Headers: headersJSON{ContentType: contentType}, Body: string(body)}
	if status == http.StatusServiceUnavailable {
		r.Headers.RetryAfter = "1"
	}
	return encode(r)
}

type promiseJSON struct {
	Created             *bool           `json:"created,omitempty"`
	PromiseID           uuid.UUID       `json:"promiseId"`
	WorkflowExecutionID uuid.UUID       `json:"workflowExecutionId"`
	Name                string          `json:"name"`
	State               promise.State   `json:"state"`
	Error               *string         `json:"error,omitempty"`
	Metadata            json.RawMessage `json:"metadata,omitempty"`
	IdempotencyKey      *string         `json:"idempotencyKey,omitempty"`
	TimeoutAt           *time.Time      `json:"timeoutAt,omitempty"`
	CreatedAt           time.Time       `json:"createdAt"`
	ResolvedAt          *time.Time      `json:"resolvedAt,omitempty"`
	CreatedBySequence   int32           `json:"createdBySequence"`
	ResolvedBySequence  *int32          `json:"resolvedBySequence,omitempty"`
}

// encodePromise puts the value in as it is: encoding/json would take the spaces
// out of it and escape what HTML needs escaped. A value of before this service
// may be no JSON: it goes into valueBase64.
func encodePromise(p promise.Promise, created *bool) []byte {
	text := encode(promiseJSON{
		Created:             created,
		PromiseID:           p.ID,
		WorkflowExecutionID: p.WorkflowExecutionID,
		Name:                p.Name,
		State:               p.State,
		Error:               p.Error,
		Metadata:            p.Metadata,
		IdempotencyKey:      p.IdempotencyKey,
		TimeoutAt:           utc(p.TimeoutAt),
		CreatedAt:           p.CreatedAt.UTC(),
		ResolvedAt:          utc(p.ResolvedAt),
		CreatedBySequence:   p.CreatedBySequence,
		ResolvedBySequence:  p.ResolvedBySequence,
	})
	if p.Value == nil {
		return text
	}
	if !json.Valid(p.Value) {
		text = append(text[:len(text)-1], `,"valueBase64":"`...)
		return append(base64.StdEncoding.AppendEncode(text, p.Value), `"}`...)
	}
	text = append(text[:len(text)-1], `,"value":`...)
	return append(append(text, p.Value...), '}')
}

func utc(t *time.Time) *time.Time {
	if t == nil {
		return nil
	}
	u := t.UTC()
	return &u
}

type settledJSON struct {
	PromiseID       uuid.UUID       `json:"promiseId"`
	Resolved        bool            `json:"resolved"`
	AlreadyResolved bool            `json:"alreadyResolved"`
	State           promise.State   `json:"state"`
	Outcome         promise.Outcome `json:"outcome"`
}

func encodeSettled(s promise.Settled) []byte { return encode(toSettledJSON(s)) }

func toSettledJSON(s promise.Settled) settledJSON {
	now := s.Outcome == promise.OutcomeSettled
	return settledJSON{PromiseID: s.PromiseID, Resolved: now, AlreadyResolved: !now, State: s.State, Outcome: s.Outcome}
}

// problemJSON is RFC 9457's problem details, with members of our own.
type problemJSON struct {
	Type              string       `json:"type"`
	Title             string       `json:"title"`
	Status            int          `json:"status"`
	Detail            string       `json:"detail"`
	Code              promise.Code `json:"code"`
	Field             string       `json:"field,omitempty"`
	ExistingPromiseID *uuid.UUID   `json:"existingPromiseId,omitempty"`
	*settledJSON
}

// statuses is the one table from code to HTTP status and title.
var statuses = map[promise.Code]struct {
	status int
	title  string
}{
	promise.CodeMalformedJSON:        {http.StatusBadRequest, "Malformed JSON"},
	promise.CodeTrailingData:         {http.StatusBadRequest, "Trailing data"},
	promise.CodeInvalidUTF8:          {http.StatusBadRequest, "Invalid UTF-8"},
	promise.CodeNULCharacter:         {http.StatusBadRequest, "NUL character"},
	promise.CodeUnknownField:         {http.StatusBadRequest, "Unknown field"},
	promise.CodeDuplicateField:       {http.StatusBadRequest, "Duplicate field"},
	promise.CodeMissingField:         {http.StatusBadRequest, "Missing field"},
	promise.CodeWrongType:            {http.StatusBadRequest, "Wrong type"},
	promise.CodeOutOfRange:           {http.StatusBadRequest, "Out of range"},
	promise.CodeInvalidName:          {http.StatusBadRequest, "Invalid name"},
	promise.CodeInvalidKey:           {http.StatusBadRequest, "Invalid idempotency key"},
	promise.CodeInvalidUUID:          {http.StatusBadRequest, "Invalid UUID"},
	promise.CodeInvalidIdentifier:    {http.StatusBadRequest, "Invalid identifier"},
	promise.CodeInvalidMetadata:      {http.StatusBadRequest, "Invalid metadata"},
	promise.CodeInvalidParameter:     {http.StatusBadRequest, "Invalid query parameter"},
	promise.CodeValueTooLarge:        {http.StatusRequestEntityTooLarge, "Too large"},
	promise.CodeUnsupportedMediaType: {http.StatusUnsupportedMediaType, "Unsupported media type"},
	promise.CodeNotFound:             {http.StatusNotFound, "Not found"},
	promise.CodeKeyConflict:          {http.StatusConflict, "Idempotency key in use"},
	promise.CodeCreateConflict:       {http.StatusConflict, "Promise exists"},
	promise.CodeConflict:             {http.StatusConflict, "Settled otherwise"},
	promise.CodeTimedOut:             {http.StatusConflict, "Timed out"},
	promise.CodeCancelled:            {http.StatusConflict, "Cancelled"},
	promise.CodeUnavailable:          {http.StatusServiceUnavailable, "Unavailable"},
	promise.CodeInternal:             {http.StatusInternalServerError, "Internal error"},
}

func toProblem(e *promise.Error) problemJSON {
	s := statuses[e.Code]
	p := problemJSON{
		Type:   "https://github.com/flovyn/promises#" + string(e.Code),
		Title:  s.title,
		Status: s.status,
		Detail: e.Detail,
		Code:   e.Code,
		Field:  e.Field,
	}
	if e.ExistingPromiseID != uuid.Nil {
		p.ExistingPromiseID = &e.ExistingPromiseID
	}
	if e.Settled != nil {
		settled := toSettledJSON(*e.Settled)
		p.settledJSON = &settled
	}
	return p
}

func encodeProblem(e *promise.Error) []byte {
	p := toProblem(e)
	return encodeResponse(p.Status, "application/problem+json", encode(p))
}

func functionError(e *promise.Error) error {
	return messages.InvokeResponse_Error{Type: string(e.Code), Message: string(encode(toProblem(e)))}
}

// encode marshals one of this package's own types, which cannot fail.
func encode(v any) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic(err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}
