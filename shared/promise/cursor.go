package promise

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"time"

	"github.com/google/uuid"
)

// Check fails with CodeInvalidParameter for a combination that a list would have
// to read more promises for than it shows. A name is unique in a workflow
// execution only. TimeoutBefore is for all of a tenant's pending promises. A
// cursor continues a list in its own order.
func (f Filter) Check() error {
	switch {
	case f.TimeoutBefore != nil && (f.WorkflowExecutionID != nil || f.Name != nil):
		return &Error{
			Code: CodeInvalidParameter, Field: "timeoutBefore",
			Detail: "It cannot be combined with workflowExecutionId, workflowId or name. Give state=pending and timeoutBefore alone, or leave timeoutBefore out.",
		}
	case f.TimeoutBefore != nil && (f.State == nil || *f.State != Pending):
		return &Error{Code: CodeInvalidParameter, Field: "timeoutBefore", Detail: "It needs state=pending. Add it."}
	case f.Name != nil && f.WorkflowExecutionID == nil:
		return &Error{
			Code: CodeInvalidParameter, Field: "name",
			Detail: "A name is unique in a workflow execution only. Add workflowExecutionId or workflowId.",
		}
	case f.After != nil && (f.After.TimeoutAt != nil) != (f.TimeoutBefore != nil):
		return &Error{
			Code: CodeInvalidParameter, Field: "cursor",
			Detail: "The cursor is of a list in another order. Send it with the parameters of the page that it is from.",
		}
	}
	return nil
}

// CursorAfter returns the cursor of a page that ends with the promise.
func (f Filter) CursorAfter(p Promise) Cursor {
	if f.TimeoutBefore != nil {
		return Cursor{TimeoutAt: p.TimeoutAt, ID: p.ID}
	}
	return Cursor{CreatedAt: p.CreatedAt, ID: p.ID}
}

// Cursor is where a page of a list of promises ended. A list that is newest
// first is ordered by what never changes of a promise, so that a cursor stays
// right while promises are added and settled. In a list by deadline, an
// extension moves a promise.
type Cursor struct {
	CreatedAt time.Time  // to the microsecond, as the database has it
	TimeoutAt *time.Time // in a list by deadline, which has no CreatedAt
	ID        uuid.UUID
}

// At returns the time that the list is ordered by.
func (c Cursor) At() time.Time {
	if c.TimeoutAt != nil {
		return *c.TimeoutAt
	}
	return c.CreatedAt
}

// Precedes reports whether the promise comes after the cursor in a list that is
// newest first.
func (c Cursor) Precedes(p Promise) bool {
	order := p.CreatedAt.Compare(c.CreatedAt)
	return order < 0 || order == 0 && bytes.Compare(p.ID[:], c.ID[:]) < 0
}

// byDeadline is the first byte of a cursor of a list by deadline. The others
// have no such byte.
const byDeadline = 'd'

// String is the opaque form that ParseCursor takes, which a URL can hold as it
// is.
func (c Cursor) String() string {
	var b []byte
	if c.TimeoutAt != nil {
		b = append(b, byDeadline)
	}
	b = binary.BigEndian.AppendUint64(b, uint64(c.At().UnixMicro())) //nolint:gosec // times before 1970 come back as they were
	return base64.RawURLEncoding.EncodeToString(append(b, c.ID[:]...))
}

// ParseCursor reads what String wrote. It fails with CodeInvalidParameter.
func ParseCursor(s string) (Cursor, error) {
	const size = 24
	invalid := Fail(CodeInvalidParameter, "It must be a nextCursor of a previous page, unchanged.")
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	deadline := len(b) == size+1 && b[0] == byDeadline
	if deadline {
		b = b[1:]
	}
	if err != nil || len(b) != size {
		return Cursor{}, invalid
	}
	at := time.UnixMicro(int64(binary.BigEndian.Uint64(b))).UTC() //nolint:gosec // as above
	if y := at.Year(); y < -4712 || y > 9999 {                    // what Postgres can be asked for
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
