package promise

import (
	"encoding/base64"
	"encoding/binary"
	"time"

	"github.com/google/uuid"
)

// Cursor is where a page of a list of promises ended. The list is ordered by
// what never changes of a promise, so that a cursor stays right while promises
// are added and settled.
type Cursor struct {
	CreatedAt time.Time // to the microsecond, as the database has it
	ID        uuid.UUID
}

// String is the opaque form that ParseCursor takes: 32 characters that a URL
// can hold as they are.
func (c Cursor) String() string {
	b := binary.BigEndian.AppendUint64(nil, uint64(c.CreatedAt.UnixMicro())) //nolint:gosec // times before 1970 come back as they were
	return base64.RawURLEncoding.EncodeToString(append(b, c.ID[:]...))
}

// ParseCursor reads what String wrote. It fails with CodeInvalidParameter.
func ParseCursor(s string) (Cursor, error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != 24 || len(s) != 32 {
		return Cursor{}, Fail(CodeInvalidParameter, "A cursor is the nextCursor of the page before, as it stands.")
	}
	at := time.UnixMicro(int64(binary.BigEndian.Uint64(b))).UTC() //nolint:gosec // as above
	if y := at.Year(); y < -4712 || y > 9999 {                    // what Postgres can be asked for
		return Cursor{}, Fail(CodeInvalidParameter, "A cursor is the nextCursor of the page before, as it stands.")
	}
	return Cursor{CreatedAt: at, ID: uuid.UUID(b[8:])}, nil
}
