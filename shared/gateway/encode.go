package gateway

import (
	"bytes"
	"encoding/json"
	"strconv"
	"time"

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
	ContentType  string `json:"content-type"`
	CacheControl string `json:"cache-control"`
	Sniffing     string `json:"x-content-type-options"`
	Version      string `json:"promises-version"`
	RetryAfter   string `json:"retry-after,omitempty"` // seconds
}

// encodeResponse encodes an answer for API Gateway. Its headers forbid caches to store
// the answer, and browsers to guess another type, because the answer may contain a
// token or a caller's value.
func encodeResponse(a answer, contentType string) []byte {
	headers := headersJSON{ContentType: contentType, CacheControl: "no-store", Sniffing: "nosniff", Version: Version}
	r := responseJSON{StatusCode: a.status, Headers: headers, Body: string(a.body)}
	if a.retryAfter > 0 {
		r.Headers.RetryAfter = strconv.Itoa(a.retryAfter)
	}
	return encode(r)
}

type promiseJSON struct {
	Created             *bool           `json:"created,omitempty"`
	PromiseID           uuid.UUID       `json:"promiseId"`
	Identifier          string          `json:"identifier,omitempty"`
	WorkflowExecutionID uuid.UUID       `json:"workflowExecutionId"`
	WorkflowID          *string         `json:"workflowId,omitempty"`
	Name                string          `json:"name"`
	State               promise.State   `json:"state"`
	Error               *string         `json:"error,omitempty"`
	Reason              *string         `json:"reason,omitempty"`
	Metadata            json.RawMessage `json:"metadata,omitempty"`
	IdempotencyKey      *string         `json:"idempotencyKey,omitempty"`
	TimeoutAt           *time.Time      `json:"timeoutAt,omitempty"`
	CreatedAt           time.Time       `json:"createdAt"`
	ResolvedAt          *time.Time      `json:"resolvedAt,omitempty"`
	SettledBy           *byJSON         `json:"settledBy,omitempty"`
	Comment             *string         `json:"comment,omitempty"`
	CreatedBySequence   int32           `json:"createdBySequence"`
	ResolvedBySequence  *int32          `json:"resolvedBySequence,omitempty"`
	ErasedAt            *time.Time      `json:"erasedAt,omitempty"`
}

type byJSON struct {
	Kind promise.PrincipalKind `json:"kind"`
	ID   string                `json:"id,omitempty"`
}

func toByJSON(by promise.By) *byJSON {
	if by == (promise.By{}) {
		return nil
	}
	return &byJSON{by.Kind, by.ID}
}

// encodePromise encodes the parts of a promise that the principal may see. It
// includes onTimeout only while the promise is pending.
func encodePromise(viewer promise.Principal, p promise.Promise, created *bool) jsonObject {
	p = viewer.See(p)
	j := promiseJSON{
		Created:             created,
		PromiseID:           p.ID,
		WorkflowExecutionID: p.WorkflowExecutionID,
		WorkflowID:          p.ExternalID,
		Name:                p.Name,
		State:               p.State,
		Metadata:            p.Metadata,
		IdempotencyKey:      p.IdempotencyKey,
		TimeoutAt:           utc(p.TimeoutAt),
		CreatedAt:           p.CreatedAt.UTC(),
		ResolvedAt:          utc(p.ResolvedAt),
		Comment:             p.Comment,
		CreatedBySequence:   p.CreatedBySequence,
		ResolvedBySequence:  p.ResolvedBySequence,
		ErasedAt:            utc(p.ErasedAt),
	}
	if created != nil {
		j.Identifier = identifierOf(p, *created).String()
	}
	j.Error, j.Reason = errorOrReason(p.State, p.Message)
	if p.SettledBy != nil {
		j.SettledBy = toByJSON(*p.SettledBy)
	}
	text := jsonObject(encode(j))
	if len(p.Deliveries) > 0 {
		deliveries := make([]deliveryJSON, len(p.Deliveries))
		for i, d := range p.Deliveries {
			deliveries[i] = toDeliveryJSON(viewer, d)
			deliveries[i].PromiseID = nil
		}
		text.set("deliveries", encode(deliveries))
	}
	text.setValue("value", p.Value)
	if d := p.OnTimeout; d != nil && p.State == promise.Pending {
		outcome := jsonObject(encode(onTimeoutJSON{Reject: d.Message}))
		outcome.setValue("resolve", d.Value)
		text.set("onTimeout", outcome)
	}
	return text
}

// PromiseData returns a promise as get-promise shows it to a caller who may see all of
// it, as a JSON object. It has no deliveries and no token.
func PromiseData(p promise.Promise) []byte {
	p.Deliveries = nil
	return encodePromise(promise.Principal{By: promise.By{Kind: promise.KindDirect}}, p, nil)
}

// ReducedPromiseData returns PromiseData without the value, the metadata and the default
// outcome. The error, or the reason, is cut after maxMessage characters.
func ReducedPromiseData(p promise.Promise, maxMessage int) []byte {
	p.Value, p.Metadata, p.OnTimeout = nil, nil, nil
	if p.Message != nil {
		message := firstCharacters(*p.Message, maxMessage)
		p.Message = &message
	}
	return PromiseData(p)
}

// firstCharacters returns a text, or its first limit characters.
func firstCharacters(text string, limit int) string {
	n := 0
	for i := range text {
		if n++; n > limit {
			return text[:i]
		}
	}
	return text
}

type deliveryJSON struct {
	DeliveryID    uuid.UUID               `json:"deliveryId"`
	PromiseID     *uuid.UUID              `json:"promiseId,omitempty"`
	Destination   string                  `json:"destination"`
	Kind          promise.DestinationKind `json:"kind"`
	State         promise.DeliveryState   `json:"state"`
	Attempts      int                     `json:"attempts"`
	CreatedAt     time.Time               `json:"createdAt"`
	DueAt         *time.Time              `json:"dueAt,omitempty"`
	LastAttemptAt *time.Time              `json:"lastAttemptAt,omitempty"`
	LastStatus    *int                    `json:"lastStatus,omitempty"`
	LastError     *string                 `json:"lastError,omitempty"`
	EndedAt       *time.Time              `json:"endedAt,omitempty"`
	EndReason     *string                 `json:"endReason,omitempty"`
}

// toDeliveryJSON returns the parts of a delivery that the principal may see.
func toDeliveryJSON(viewer promise.Principal, d promise.Delivery) deliveryJSON {
	d = viewer.SeeDelivery(d)
	return deliveryJSON{
		DeliveryID: d.ID, PromiseID: &d.PromiseID, Destination: d.Destination, Kind: d.Kind, State: d.State, Attempts: d.Attempts,
		CreatedAt: d.CreatedAt.UTC(), DueAt: utc(d.DueAt), LastAttemptAt: utc(d.LastAttemptAt), LastStatus: d.LastStatus, LastError: d.LastError,
		EndedAt: utc(d.EndedAt), EndReason: d.EndReason,
	}
}

func encodeDeliveries(viewer promise.Principal, deliveries []promise.Delivery, more bool, f promise.DeliveryFilter) []byte {
	text, fit := page("deliveries", len(deliveries), func(i int) []byte { return encode(toDeliveryJSON(viewer, deliveries[i])) })
	if more || fit < len(deliveries) {
		text.set("nextCursor", encode(f.CursorAfter(deliveries[fit-1]).String()))
	}
	return text
}

// identifierOf returns the identifier for create-promise's answer. It names the
// promise by its key if the key certainly belongs to it, and by its id otherwise. The
// key of a new promise belongs to it, and so does the key of a pending promise. The
// key of a promise that was settled before the call may belong to another promise.
func identifierOf(p promise.Promise, created bool) promise.Identifier {
	if p.IdempotencyKey != nil && (created || p.State == promise.Pending) {
		if i, err := promise.ByIdempotencyKey(*p.IdempotencyKey); err == nil {
			return i
		}
	}
	return promise.ByID(p.ID)
}

type onTimeoutJSON struct {
	Reject *string `json:"reject,omitempty"`
}

// errorOrReason returns a promise's text as a cancellation's reason, or as a
// rejection's error.
func errorOrReason(s promise.State, text *string) (message, reason *string) {
	if s == promise.Cancelled {
		return nil, text
	}
	return text, nil
}

// A jsonObject is the text of a JSON object to which fields are added byte for byte.
// encoding/json would remove their spaces and escape their characters for HTML.
type jsonObject []byte

// setValue adds a promise's value. A legacy value may not be JSON; setValue then adds
// it as base64, in a field whose name ends in Base64. It adds no nil.
func (o *jsonObject) setValue(name string, value []byte) {
	switch {
	case value == nil:
	case json.Valid(value):
		o.set(name, value)
	default:
		o.set(name+"Base64", encode(value))
	}
}

func (o *jsonObject) set(name string, value []byte) {
	text := (*o)[:len(*o)-1]
	if len(text) > 1 {
		text = append(text, ',')
	}
	text = append(append(append(text, '"'), name...), '"', ':')
	*o = append(append(text, value...), '}')
}

func utc(t *time.Time) *time.Time {
	if t == nil {
		return nil
	}
	u := t.UTC()
	return &u
}

// maxAnswer bounds a page in its HTTP form. Lambda's limit for a whole answer is
// 6 MB; the rest is for the headers and the fields around the items.
const maxAnswer = 5_500_000

// page returns an object whose one field is an array, as array returns it.
func page(name string, n int, item func(int) []byte) (object jsonObject, fit int) {
	list, fit := array(n, item)
	object = jsonObject("{}")
	object.set(name, list)
	return object, fit
}

// array joins as many encoded items as fit an answer, and always the first. It returns
// their number as fit.
func array(n int, item func(int) []byte) (list []byte, fit int) {
	list = []byte{'['}
	size := 0
	for ; fit < n; fit++ {
		text := item(fit)
		if size += escapedSize(text); size > maxAnswer && fit > 0 {
			break
		}
		if fit > 0 {
			list = append(list, ',')
		}
		list = append(list, text...)
	}
	return append(list, ']'), fit
}

// escapedSize returns an upper bound for the size of a JSON text as the body of an
// HTTP answer, which is a JSON string.
func escapedSize(text []byte) int {
	size := len(text) + 1
	for _, b := range text {
		switch b {
		case '"', '\\', '\n', '\r', '\t':
			size++
		case 0xE2: // perhaps U+2028 or U+2029
			size += 3
		}
	}
	return size
}

func encodePromises(viewer promise.Principal, promises []promise.Promise, more bool, f promise.Filter) []byte {
	text, fit := page("promises", len(promises), func(i int) []byte { return encodePromise(viewer, promises[i], nil) })
	if more || fit < len(promises) {
		text.set("nextCursor", encode(f.CursorAfter(promises[fit-1]).String()))
	}
	return text
}

type eventJSON struct {
	SequenceNumber int32             `json:"sequenceNumber"`
	EventType      promise.EventType `json:"eventType"`
	PromiseID      uuid.UUID         `json:"promiseId"`
	PromiseName    string            `json:"promiseName,omitempty"`
	State          promise.State     `json:"state,omitempty"`
	Error          *string           `json:"error,omitempty"`
	Reason         *string           `json:"reason,omitempty"`
	SettledBy      *byJSON           `json:"settledBy,omitempty"`
	Comment        *string           `json:"comment,omitempty"`
	TimeoutAt      *time.Time        `json:"timeoutAt,omitempty"`
	CreatedAt      time.Time         `json:"createdAt"`
	ErasedAt       *time.Time        `json:"erasedAt,omitempty"`
}

func encodeEvent(e promise.Event) []byte {
	j := eventJSON{
		SequenceNumber: e.SequenceNumber, EventType: e.Type, PromiseID: e.PromiseID, PromiseName: e.PromiseName,
		TimeoutAt: utc(e.TimeoutAt), CreatedAt: e.CreatedAt.UTC(), ErasedAt: utc(e.ErasedAt),
	}
	s := e.Settlement
	if s == nil {
		return encode(j)
	}
	j.State, j.SettledBy, j.Comment = s.State, toByJSON(s.By), s.Comment
	j.Error, j.Reason = errorOrReason(s.State, s.Message)
	text := jsonObject(encode(j))
	text.setValue("value", s.Value)
	return text
}

func encodeEvents(events []promise.Event, after int32) []byte {
	text, fit := page("events", len(events), func(i int) []byte { return encodeEvent(events[i]) })
	if fit > 0 {
		after = events[fit-1].SequenceNumber
	}
	text.set("nextAfter", encode(after))
	return text
}

// A settleResultJSON is the answer to a settle call. For an early settlement it names
// the key, because no promise exists yet. Resolved reports whether this call settled
// the promise, even if it rejected or cancelled it: only State says how. So Outcome
// and State come first.
type settleResultJSON struct {
	Outcome         promise.Outcome `json:"outcome"`
	State           promise.State   `json:"state,omitempty"`
	PromiseID       *uuid.UUID      `json:"promiseId,omitempty"`
	Resolved        *bool           `json:"resolved,omitempty"`
	AlreadyResolved *bool           `json:"alreadyResolved,omitempty"`
	IdempotencyKey  string          `json:"idempotencyKey,omitempty"`
	Identifier      string          `json:"identifier,omitempty"`
	ExpiresAt       *time.Time      `json:"expiresAt,omitempty"`
}

func toSettleResultJSON(s promise.SettleResult) settleResultJSON {
	if s.EarlyExpiresAt != nil {
		idempotencyKey, _ := s.EarlyKey.IdempotencyKey()
		return settleResultJSON{Outcome: s.Outcome, IdempotencyKey: idempotencyKey, Identifier: s.EarlyKey.String(), ExpiresAt: utc(s.EarlyExpiresAt)}
	}
	settledNow := s.Outcome == promise.OutcomeSettled
	settledBefore := !settledNow
	return settleResultJSON{Outcome: s.Outcome, State: s.State, PromiseID: &s.PromiseID, Resolved: &settledNow, AlreadyResolved: &settledBefore}
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
