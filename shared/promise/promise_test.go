package promise_test

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/promise"
)

const id = "7d9f1f3a-3c1e-4e5b-8a57-0c2f6f1f4a11"

func ExampleParseIdentifier() {
	for _, s := range []string{"id:" + id, "key:stripe:ch_abc123", "key:a/b", "key64:YS9i", "key64:YS9i=", "promise:" + id} {
		i, err := promise.ParseIdentifier(s)
		fmt.Println(i, err)
	}
	// Output:
	// id:7d9f1f3a-3c1e-4e5b-8a57-0c2f6f1f4a11 <nil>
	// key:stripe:ch_abc123 <nil>
	// key64:YS9i <nil>
	// key64:YS9i <nil>
	// id:00000000-0000-0000-0000-000000000000 invalid_identifier: key64: takes the key's UTF-8 bytes in base64url without padding, as in the identifier that create-promise answers with.
	// id:00000000-0000-0000-0000-000000000000 invalid_identifier: Identifier must start with 'id:' or 'key:' prefix, or 'key64:' for a key in base64url
}

// What an identifier may be, in expressions: an invalid byte reads as U+FFFD. In base64url, a last character that
// carries fewer than six bits has zeros in their place.
var (
	identifierText = regexp.MustCompile(`^(?:id:([0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12})|` +
		`key:([^\x00\x{FFFD}]{1,255})|key64:((?:[\w-]{4})*(?:[\w-][AQgw]|[\w-]{2}[AEIMQUYcgkosw048])?))$`)
	keyText  = regexp.MustCompile(`^[^\x00\x{FFFD}]{1,255}$`)
	pathText = regexp.MustCompile(`^\.*[A-Za-z0-9_~:-][A-Za-z0-9._~:-]*$`)
)

// decode64 is a second reading of base64url: bits are shifted in, six at a time.
func decode64(text string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	var key []byte
	for bits, n, rest := 0, 0, text; rest != ""; rest = rest[1:] {
		bits, n = bits<<6|strings.IndexByte(alphabet, rest[0]), n+6
		if n >= 8 {
			n -= 8
			key = append(key, byte(bits>>n))
			bits &= 1<<n - 1
		}
	}
	return string(key)
}

// FuzzParseIdentifier checks the parser against an expression: it takes the same
// texts, and reads the same of them.
func FuzzParseIdentifier(f *testing.F) {
	for _, s := range []string{
		"", "id:" + id, "id:" + strings.ToUpper(id), "id:" + uuid.Nil.String(), "key:k", "key:id:" + id, "key:key:k", "key:", "id:",
		"ID:" + id, "Key:k", " key:k", "key: k ", "key", id, "id:{" + id + "}", "id:urn:uuid:" + id, "id:" + strings.ReplaceAll(id, "-", ""),
		"id:" + id + "\n", "id: " + id, "id:" + id + ":payment", "id:" + id[:35] + "g", "id:" + strings.ReplaceAll(id, "-", "_"), "id%3A" + id,
		"key:\n", "key:a/b%2F?#", "key:\xff", "key:\xed\xa0\x80", "key:\x00", "key:\ufffd", "key:\U0010ffff",
		"key:" + strings.Repeat("ä", 255), "key:" + strings.Repeat("ä", 256), "key:" + strings.Repeat("\U0001f600", 255),
		"key64:", "key64:YS9i", "key64:YS9i=", "key64:YS9i\n", "key64:YS\r9i", "key64:cT8x", "key64:_w", "key64:_x", "key64:AA", "key64:77-9",
		"key64:YQ", "key64:YR", "key64:YWE", "key64:YWF", "key64:YQ==", "key64:Y", "key64:YS9+", "key64:YS9/", "Key64:YS9i", "key64: YS9i",
		"key64:" + strings.Repeat("w6TDpMOk", 85), "key64:" + strings.Repeat("w6TDpMOk", 85) + "w6Q", "key64:8J-YgA", "key:.", "key:..", "key:.a", "key:~",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		i, err := promise.ParseIdentifier(s)
		want := identifierText.FindStringSubmatch(s)
		if want != nil && strings.HasPrefix(s, "key64:") {
			if want[2] = decode64(want[3]); !keyText.MatchString(want[2]) {
				want = nil
			}
		}
		require.Equal(t, want != nil, err == nil, "%q %v", s, err)
		if err != nil {
			require.Equal(t, promise.Identifier{}, i)
			require.Contains(t, []promise.Code{
				promise.CodeInvalidIdentifier, promise.CodeInvalidUUID, promise.CodeInvalidKey, promise.CodeInvalidUTF8, promise.CodeNULCharacter,
			}, promise.AsError(err).Code)
			return
		}
		u, byID := i.ID()
		key, byKey := i.IdempotencyKey()
		require.Equal(t, want[2] != "", byKey)
		require.Equal(t, want[2], key)
		require.Equal(t, want[1] != "", byID)
		if byID {
			require.Equal(t, strings.ToLower(want[1]), u.String())
		}
		again, err := promise.ParseIdentifier(i.String())
		require.NoError(t, err)
		require.Equal(t, i, again)
		if byKey {
			require.Equal(t, pathText.MatchString(key), strings.HasPrefix(i.String(), "key:"), "%q", key)
		}
		sent, err := url.PathUnescape(i.String())
		require.NoError(t, err)
		require.Equal(t, i.String(), sent, "a path carries it as it is")
		require.Equal(t, i.String(), url.PathEscape(i.String()))
	})
}

func TestParseID(t *testing.T) {
	t.Parallel()
	for _, s := range []string{
		"", id[1:], id + "0", strings.ReplaceAll(id, "-", ""), "urn:uuid:" + id, "{" + id + "}", "0x" + id[2:],
		strings.Replace(id, "-", "_", 1), " " + id[1:], strings.ReplaceAll(id, "-", "0"),
	} {
		_, err := promise.ParseID(s)
		require.Equal(t, promise.CodeInvalidUUID, promise.AsError(err).Code, s)
	}
	got, err := promise.ParseID(strings.ToUpper(id))
	require.NoError(t, err)
	require.Equal(t, uuid.MustParse(id), got)
}

func TestNamesAndKeys(t *testing.T) {
	t.Parallel()
	for s, code := range map[string]promise.Code{
		"": promise.CodeInvalidName, strings.Repeat("ä", 256): promise.CodeInvalidName,
		"a\x00b": promise.CodeNULCharacter, "a\xff": promise.CodeInvalidUTF8,
	} {
		require.Equal(t, code, promise.AsError(promise.CheckName(s)).Code, "%q", s)
		if code == promise.CodeInvalidName {
			code = promise.CodeInvalidKey
		}
		require.Equal(t, code, promise.AsError(promise.CheckIdempotencyKey(s)).Code, "%q", s)
	}
	for _, s := range []string{"a", " ", "a:b/c?d=%20", strings.Repeat("ä", 255), "\u202e"} {
		require.NoError(t, promise.CheckName(s))
		require.NoError(t, promise.CheckIdempotencyKey(s))
	}
}

func TestJudge(t *testing.T) {
	t.Parallel()
	now := time.Now()
	before, after := now.Add(-time.Microsecond), now.Add(time.Microsecond)
	resolved := promise.Resolved
	reject := &promise.Result{State: promise.Rejected}
	require.Equal(t, promise.Pending, promise.Judge(nil, nil, reject, now))
	require.Equal(t, promise.Pending, promise.Judge(nil, &after, reject, now))
	require.Equal(t, promise.TimedOut, promise.Judge(nil, &now, nil, now), "at the deadline it is over")
	require.Equal(t, promise.TimedOut, promise.Judge(nil, &before, nil, now))
	require.Equal(t, promise.Rejected, promise.Judge(nil, &before, reject, now))
	require.Equal(t, promise.Resolved, promise.Judge(&resolved, &before, reject, now), "what is stored stands for ever")
}

func TestLate(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		stored           promise.State
		byDeadline, same bool
		want             promise.Outcome
	}{
		{promise.Resolved, false, true, promise.OutcomeDuplicate},
		{promise.Rejected, false, true, promise.OutcomeDuplicate},
		{promise.Cancelled, false, true, promise.OutcomeDuplicate},
		{promise.Resolved, false, false, promise.OutcomeConflict},
		{promise.Rejected, false, false, promise.OutcomeConflict},
		{promise.Cancelled, false, false, promise.OutcomeCancelled},
		{promise.TimedOut, true, false, promise.OutcomeTimedOut},
		{promise.TimedOut, false, false, promise.OutcomeTimedOut},
		{promise.Resolved, true, true, promise.OutcomeTimedOut},
		{promise.Rejected, true, false, promise.OutcomeTimedOut},
	} {
		require.Equal(t, c.want, promise.OutcomeAgainst(c.stored, c.byDeadline, c.same))
	}
}

func TestKeyLives(t *testing.T) {
	t.Parallel()
	now := time.Now()
	require.True(t, promise.IdempotencyKeyIsLive(now.Add(1), promise.Resolved, now))
	require.True(t, promise.IdempotencyKeyIsLive(now.Add(-time.Hour), promise.Pending, now), "a late webhook finds the promise that its key was for")
	require.False(t, promise.IdempotencyKeyIsLive(now, promise.TimedOut, now))
}

func TestKeyNames(t *testing.T) {
	t.Parallel()
	now := time.Now()
	week, less := now.Add(-promise.IdempotencyKeyGrace), now.Add(-promise.IdempotencyKeyGrace+1)
	require.True(t, promise.IdempotencyKeyNamesPromise(now.Add(1), promise.Resolved, &week, now))
	require.True(t, promise.IdempotencyKeyNamesPromise(now, promise.Pending, nil, now))
	require.True(t, promise.IdempotencyKeyNamesPromise(now, promise.TimedOut, &less, now))
	require.False(t, promise.IdempotencyKeyNamesPromise(now, promise.Resolved, &week, now))
	require.False(t, promise.IdempotencyKeyNamesPromise(now, promise.Resolved, nil, now), "settled at a time that nobody recorded")
}

func TestHoldSettles(t *testing.T) {
	t.Parallel()
	now := time.Now()
	held, before, after := now.Add(-time.Minute), now.Add(-2*time.Minute), now.Add(time.Minute)
	require.True(t, promise.EarlySettles(held, after, nil, now))
	require.True(t, promise.EarlySettles(held, after, &now, now), "it came before the deadline, the creation after")
	require.False(t, promise.EarlySettles(held, after, &before, now))
	require.False(t, promise.EarlySettles(held, after, &held, now))
	require.False(t, promise.EarlySettles(held, now, nil, now))
}

func TestSame(t *testing.T) {
	t.Parallel()
	a, b := "a", "b"
	for i, x := range []promise.Result{
		{State: promise.Resolved, Value: []byte("1")},
		{State: promise.Resolved, Value: []byte("1.0")},
		{State: promise.Rejected, Message: &a},
		{State: promise.Rejected, Message: &b},
		{State: promise.Cancelled, Message: &a},
		{State: promise.Cancelled},
	} {
		for j, y := range []promise.Result{
			{State: promise.Resolved, Value: []byte("1")},
			{State: promise.Resolved, Value: []byte("1.0")},
			{State: promise.Rejected, Message: &a},
			{State: promise.Rejected, Message: &b},
			{State: promise.Cancelled, Message: &a},
			{State: promise.Cancelled},
		} {
			require.Equal(t, i == j, x.Same(y), "%v %v", x, y)
		}
	}
}

// A cursor of a list by deadline begins with a 'd', and its last letter has no room for more than the id's end.
var cursorText = regexp.MustCompile(`^(?:[A-Za-z0-9_-]{32}|Z[A-P][A-Za-z0-9_-]{31}[AQgw])$`)

// FuzzParseCursor takes any text for a cursor, and any position to make one of.
func FuzzParseCursor(f *testing.F) {
	first := time.Date(-4712, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro()
	last := time.Date(9999, 12, 31, 23, 59, 59, 999_999_000, time.UTC).UnixMicro()
	made := promise.Cursor{CreatedAt: time.Now(), ID: uuid.MustParse(id)}.String()
	due := promise.Cursor{TimeoutAt: new(time.Now()), ID: uuid.MustParse(id)}.String()
	for _, s := range []string{
		"", made, made[1:], made + "A", made + "=", made + "\n", made[:16] + "\n" + made[16:], made[:16] + "\r\n" + made[18:], " " + made[1:],
		"+" + made[1:], "/" + made[1:], "%2B" + made[3:], made[:31] + "ä", due, due[1:], due + "A", due[:33] + "B", "Y" + due[1:],
		due[:16] + "\n" + due[16:], strings.Repeat("A", 32), strings.Repeat("_", 32), strings.Repeat("f", 32),
	} {
		for _, micros := range []int64{0, -1, first, first - 1, last, last + 1, math.MinInt64, math.MaxInt64} {
			f.Add(s, micros, []byte(id))
		}
	}
	f.Fuzz(func(t *testing.T, s string, micros int64, position []byte) {
		c, err := promise.ParseCursor(s)
		b, decodes := base64.RawURLEncoding.DecodeString(s)
		good := decodes == nil && cursorText.MatchString(s)
		if good && len(s) == 34 {
			b = b[1:]
		}
		if good {
			at := int64(binary.BigEndian.Uint64(b))
			good = at >= first && at <= last
		}
		require.Equal(t, good, err == nil, "%q %v", s, err)
		if err != nil {
			require.Equal(t, promise.CodeInvalidParameter, promise.AsError(err).Code)
			require.Zero(t, c)
		} else {
			require.Equal(t, s, c.String(), "one position has one cursor")
			require.Equal(t, int64(binary.BigEndian.Uint64(b)), c.At().UnixMicro())
			require.Equal(t, len(s) == 34, c.TimeoutAt != nil)
			require.Equal(t, b[8:], c.ID[:])
		}

		at := time.UnixMicro(micros).UTC()
		for _, c := range []promise.Cursor{{CreatedAt: at}, {TimeoutAt: &at}} {
			copy(c.ID[:], position)
			got, err := promise.ParseCursor(c.String())
			require.Equal(t, micros >= first && micros <= last, err == nil, "%d", micros)
			if err == nil {
				require.Equal(t, c, got)
			}
		}
	})
}

func TestCheckTimeoutAt(t *testing.T) {
	t.Parallel()
	now := time.Now()
	require.NoError(t, promise.CheckTimeoutAt(now.Add(-promise.MaxTimeout), now))
	require.NoError(t, promise.CheckTimeoutAt(now.Add(promise.MaxTimeout), now))
	err := promise.CheckTimeoutAt(now.Add(promise.MaxTimeout+1), now)
	require.Equal(t, promise.CodeOutOfRange, promise.AsError(err).Code)
}

func TestAsError(t *testing.T) {
	t.Parallel()
	wrapped := fmt.Errorf("reading: %w", promise.ErrNotFound)
	require.Same(t, promise.ErrNotFound, promise.AsError(wrapped))
	cause := fmt.Errorf("password=secret")
	e := promise.AsError(cause)
	require.Equal(t, promise.CodeInternal, e.Code)
	require.NotContains(t, e.Detail, "secret")
	require.ErrorIs(t, e, cause)
}
