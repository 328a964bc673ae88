package promise

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"time"

	"github.com/google/uuid"
)

// Check fails with CodeInvalidParameter for a combination whose list would have to
// read more promises than it shows. Name needs WorkflowExecutionID, because a name
// is unique only in its workflow execution. TimeoutBefore needs State Pending and
// nothing else. After must come from a list in the same order.
func (f Filter) Check() error {
	switch {
	case f.TimeoutBefore != nil && (f.WorkflowExecutionID != nil || f.Name != nil):
		return &Error{
			Code: CodeInvalidParameter, Field: "timeoutBefore",
			Detail: "timeoutBefore cannot be combined with workflowExecutionId, workflowId or name. Send state=pending and timeoutBefore alone, or leave timeoutBefore out.",
		}
	case f.TimeoutBefore != nil && (f.State == nil || *f.State != Pending):
		return &Error{Code: CodeInvalidParameter, Field: "timeoutBefore", Detail: "timeoutBefore needs state=pending. Add state=pending."}
	case f.Name != nil && f.WorkflowExecutionID == nil:
		return &Error{
			Code: CodeInvalidParameter, Field: "name",
			Detail: "A name is unique only in its workflow execution. Add workflowExecutionId or workflowId.",
		}
	case f.After != nil && (f.After.TimeoutAt != nil) != (f.TimeoutBefore != nil):
		return errForeignCursor
	}
	return nil
}

var errForeignCursor = &Error{
	Code: CodeInvalidParameter, Field: "cursor",
	Detail: "The cursor comes from a list in another order. Send it with the parameters of the page that returned it.",
}

// CursorAfter returns the cursor of a page that ends with promise p.
func (f Filter) CursorAfter(p Promise) Cursor {
	if f.TimeoutBefore != nil {
		return Cursor{TimeoutAt: p.TimeoutAt, ID: p.ID}
	}
	return Cursor{CreatedAt: p.CreatedAt, ID: p.ID}
}

// A Cursor marks the end of a page of a list of promises. A list with the newest
// first is ordered by the creation time and the id, which never change, so that a
// cursor stays valid while promises are created and settled. In a list by deadline,
// an extension moves its promise.
type Cursor struct {
	CreatedAt time.Time  // in microseconds, as in the database
	TimeoutAt *time.Time // in a list by deadline, whose cursor has no CreatedAt
	ID        uuid.UUID
}

// At returns the time by which the list is ordered.
func (c Cursor) At() time.Time {
	if c.TimeoutAt != nil {
		return *c.TimeoutAt
	}
	return c.CreatedAt
}

// Precedes reports whether promise p comes after the cursor in a list with the
// newest first.
func (c Cursor) Precedes(p Promise) bool {
	order := p.CreatedAt.Compare(c.CreatedAt)
	return order < 0 || order == 0 && bytes.Compare(p.ID[:], c.ID[:]) < 0
}

// byDeadline is the first byte of a cursor of a list by deadline. Other cursors
// have no such byte.
const byDeadline = 'd'

// String returns the opaque form that ParseCursor reads and that a URL can carry
// unescaped.
func (c Cursor) String() string {
	var b []byte
	if c.TimeoutAt != nil {
		b = append(b, byDeadline)
	}
	b = binary.BigEndian.AppendUint64(b, uint64(c.At().UnixMicro())) //nolint:gosec // the conversion back restores times before 1970
	return base64.RawURLEncoding.EncodeToString(append(b, c.ID[:]...))
}

// ParseCursor parses the text that String returned. It fails with
// CodeInvalidParameter.
func ParseCursor(s string) (Cursor, error) {
	const size = 24
	invalid := Fail(CodeInvalidParameter, "cursor must be a nextCursor from a previous page, unchanged.")
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	deadline := len(b) == size+1 && b[0] == byDeadline
	if deadline {
		b = b[1:]
	}
	if err != nil || len(b) != size {
		return Cursor{}, invalid
	}
	at := time.UnixMicro(int64(binary.BigEndian.Uint64(b))).UTC() //nolint:gosec // as above
	if y := at.Year(); y < -4712 || y > 9999 {                    // Postgres has no earlier year, RFC 3339 no later one
		return Cursor{}, invalid
	}
	c := Cursor{CreatedAt: at, ID: uuid.UUID(b[8:])}
	if deadline {
		c.CreatedAt, c.TimeoutAt = time.Time{}, &at
	}
	if c.String() != s { // decoding skips line breaks
		return Cursor{}, invalid
	}
	return c, nil
}
