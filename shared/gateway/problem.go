package gateway

import (
	"context"
	"log/slog"
	"net/http"

	"github.com/aws/aws-lambda-go/lambda/messages"
	"github.com/aws/aws-lambda-go/lambdacontext"
	"github.com/google/uuid"

	"github.com/flovyn/promises/shared/promise"
)

// typeBase is the beginning of a problem's type. The code follows it: the URI
// leads to the code's row in the API reference.
const typeBase = "https://github.com/flovyn/promises/blob/main/functions/README.md#"

// A problemJSON holds the problem details of RFC 9457, with extension members of this
// service.
type problemJSON struct {
	Type              string       `json:"type"`
	Title             string       `json:"title"`
	Status            int          `json:"status"`
	Detail            string       `json:"detail"`
	Code              promise.Code `json:"code"`
	Field             string       `json:"field,omitempty"`
	ExistingPromiseID *uuid.UUID   `json:"existingPromiseId,omitempty"`
	Quota             string       `json:"quota,omitempty"`
	Limit             *int64       `json:"limit,omitempty"`
	*settleResultJSON
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
	promise.CodeInvalidSlug:          {http.StatusBadRequest, "Invalid slug"},
	promise.CodeInvalidParameter:     {http.StatusBadRequest, "Invalid query parameter"},
	promise.CodeValueTooLarge:        {http.StatusRequestEntityTooLarge, "Too large"},
	promise.CodeUnsupportedMediaType: {http.StatusUnsupportedMediaType, "Unsupported media type"},
	promise.CodeUnauthenticated:      {http.StatusUnauthorized, "Unauthenticated"},
	promise.CodeForbidden:            {http.StatusForbidden, "Forbidden"},
	promise.CodeNotFound:             {http.StatusNotFound, "Not found"},
	promise.CodeKeyConflict:          {http.StatusConflict, "Idempotency key in use"},
	promise.CodeCreateConflict:       {http.StatusConflict, "Promise exists"},
	promise.CodeConflict:             {http.StatusConflict, "Conflict"},
	promise.CodeTimedOut:             {http.StatusConflict, "Timed out"},
	promise.CodeCancelled:            {http.StatusConflict, "Cancelled"},
	promise.CodeInvalidNotify:        {http.StatusUnprocessableEntity, "Invalid targets"},
	promise.CodeUnknownDestination:   {http.StatusUnprocessableEntity, "Unknown destination"},
	promise.CodeDestinationDisabled:  {http.StatusConflict, "Destination disabled"},
	promise.CodeRuleFailed:           {http.StatusUnprocessableEntity, "Webhook rule failed"},
	promise.CodeQuotaExceeded:        {http.StatusTooManyRequests, "Quota exceeded"},
	promise.CodeUnavailable:          {http.StatusServiceUnavailable, "Unavailable"},
	promise.CodeInternal:             {http.StatusInternalServerError, "Internal error"},
}

func toProblem(e *promise.Error) problemJSON {
	s := statuses[e.Code]
	p := problemJSON{
		Type:   typeBase + string(e.Code),
		Title:  s.title,
		Status: s.status,
		Detail: e.Detail,
		Code:   e.Code,
		Field:  truncate(e.Field),
	}
	if e.ExistingPromiseID != uuid.Nil {
		p.ExistingPromiseID = &e.ExistingPromiseID
	}
	if e.Quota != nil {
		p.Quota, p.Limit = e.Quota.Name, &e.Quota.Limit
	}
	if e.SettleResult != nil {
		result := toSettleResultJSON(*e.SettleResult)
		p.settleResultJSON = &result
	}
	return p
}

// truncate shortens a text of the request to promise.MaxLength characters, so that
// an error or a log line stays small.
func truncate(text string) string { return firstCharacters(text, promise.MaxLength) }

func encodeProblem(e *promise.Error) []byte {
	p := toProblem(e)
	a := answer{status: p.Status, body: encode(p)}
	switch p.Status {
	case http.StatusServiceUnavailable:
		a.retryAfter = 1
	case http.StatusTooManyRequests:
		a.retryAfter = 5 // by then the sweep has counted again
	}
	return encodeResponse(a, "application/problem+json")
}

func functionError(e *promise.Error) error {
	return messages.InvokeResponse_Error{Type: string(e.Code), Message: string(encode(toProblem(e)))}
}

func logFailure(ctx context.Context, log *slog.Logger, e *promise.Error, attrs ...slog.Attr) {
	level := slog.LevelInfo
	if statuses[e.Code].status >= 500 {
		level = slog.LevelError
	}
	attrs = append(attrs, slog.String("code", string(e.Code)))
	if e.Cause != nil {
		attrs = append(attrs, slog.String("cause", e.Cause.Error()))
	}
	if lc, ok := lambdacontext.FromContext(ctx); ok {
		attrs = append(attrs, slog.String("requestId", lc.AwsRequestID))
	}
	log.LogAttrs(ctx, level, "call failed", attrs...)
}
