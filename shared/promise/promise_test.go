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

// identifierText matches the valid identifiers. A regular expression reads an invalid byte as U+FFFD. In base64url, the
// unused bits of the last character must be zero.
var (
	identifierText = regexp.MustCompile(`^(?:id:([0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12})|` +
		`key:([^\x00\x{FFFD}]{1,255})|key64:((?:[\w-]{4})*(?:[\w-][AQgw]|[\w-]{2}[AEIMQUYcgkosw048])?))$`)
	keyText  = regexp.MustCompile(`^[^\x00\x{FFFD}]{1,255}$`)
	pathText = regexp.MustCompile(`^\.*[A-Za-z0-9_~:-][A-Za-z0-9._~:-]*$`)
)

// decode64 decodes base64url without encoding/base64: it shifts in six bits at a time.
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

// FuzzParseIdentifier compares the parser with regular expressions: both accept the
// same texts and read the same id or key.
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
		require.Equal(t, i.String(), sent, "a path carries it unescaped")
		require.Equal(t, i.String(), url.PathEscape(i.String()))
	})
}

func TestParseID(t *testing.T) {
	t.Parallel()
	for name, s := range map[string]string{
		"empty": "", "one digit short": id[1:], "one digit more": id + "0", "without hyphens": strings.ReplaceAll(id, "-", ""),
		"URN": "urn:uuid:" + id, "in braces": "{" + id + "}", "hexadecimal prefix": "0x" + id[2:],
		"underscore for a hyphen": strings.Replace(id, "-", "_", 1), "leading space": " " + id[1:],
		"digits for hyphens": strings.ReplaceAll(id, "-", "0"),
	} {
		t.Run("refuses "+name, func(t *testing.T) {
			_, err := promise.ParseID(s)
			require.Equal(t, promise.CodeInvalidUUID, promise.AsError(err).Code)
		})
	}
	t.Run("accepts upper case", func(t *testing.T) {
		got, err := promise.ParseID(strings.ToUpper(id))
		require.NoError(t, err)
		require.Equal(t, uuid.MustParse(id), got)
	})
}

func TestNamesAndKeys(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, text        string
		nameCode, keyCode promise.Code
	}{
		{"empty", "", promise.CodeInvalidName, promise.CodeInvalidKey},
		{"256 characters", strings.Repeat("ä", 256), promise.CodeInvalidName, promise.CodeInvalidKey},
		{"NUL", "a\x00b", promise.CodeNULCharacter, promise.CodeNULCharacter},
		{"invalid UTF-8", "a\xff", promise.CodeInvalidUTF8, promise.CodeInvalidUTF8},
	} {
		t.Run("refuses "+c.name, func(t *testing.T) {
			require.Equal(t, c.nameCode, promise.AsError(promise.CheckName(c.text)).Code)
			require.Equal(t, c.keyCode, promise.AsError(promise.CheckIdempotencyKey(c.text)).Code)
		})
	}
	for name, s := range map[string]string{
		"one letter": "a", "a space": " ", "punctuation": "a:b/c?d=%20", "255 characters": strings.Repeat("ä", 255), "a control character": "\u202e",
	} {
		t.Run("accepts "+name, func(t *testing.T) {
			require.NoError(t, promise.CheckName(s))
			require.NoError(t, promise.CheckIdempotencyKey(s))
		})
	}
}

func TestJudge(t *testing.T) {
	t.Parallel()
	now := time.Now()
	before, after := now.Add(-time.Microsecond), now.Add(time.Microsecond)
	resolved := promise.Resolved
	reject := &promise.Result{State: promise.Rejected}
	for name, c := range map[string]struct {
		stored    *promise.State
		timeoutAt *time.Time
		onTimeout *promise.Result
		want      promise.State
	}{
		"without a deadline it is pending":               {nil, nil, reject, promise.Pending},
		"before the deadline it is pending":              {nil, &after, reject, promise.Pending},
		"at the deadline it is timed out":                {nil, &now, nil, promise.TimedOut},
		"after the deadline it is timed out":             {nil, &before, nil, promise.TimedOut},
		"the default outcome replaces timed out":         {nil, &before, reject, promise.Rejected},
		"a stored settlement wins over a later deadline": {&resolved, &before, reject, promise.Resolved},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, c.want, promise.Judge(c.stored, c.timeoutAt, c.onTimeout, now))
		})
	}
}

func TestOutcomeAgainst(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		stored           promise.State
		byDeadline, same bool
		want             promise.Outcome
	}{
		"same resolution":              {promise.Resolved, false, true, promise.OutcomeDuplicate},
		"same rejection":               {promise.Rejected, false, true, promise.OutcomeDuplicate},
		"same cancellation":            {promise.Cancelled, false, true, promise.OutcomeDuplicate},
		"other resolution":             {promise.Resolved, false, false, promise.OutcomeConflict},
		"other rejection":              {promise.Rejected, false, false, promise.OutcomeConflict},
		"other cancellation":           {promise.Cancelled, false, false, promise.OutcomeCancelled},
		"deadline":                     {promise.TimedOut, true, false, promise.OutcomeTimedOut},
		"deadline, unrecorded settler": {promise.TimedOut, false, false, promise.OutcomeTimedOut},
		"default outcome, the same":    {promise.Resolved, true, true, promise.OutcomeTimedOut},
		"default outcome, another":     {promise.Rejected, true, false, promise.OutcomeTimedOut},
		"same early settlement":        {promise.Pending, false, true, promise.OutcomeDuplicate},
		"other early settlement":       {promise.Pending, false, false, promise.OutcomeConflict},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, c.want, promise.OutcomeAgainst(c.stored, c.byDeadline, c.same))
		})
	}
}

func TestIdempotencyKeyIsLive(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for name, c := range map[string]struct {
		expiresAt time.Time
		state     promise.State
		want      bool
	}{
		"not expired":              {now.Add(1), promise.Resolved, true},
		"expired, pending promise": {now.Add(-time.Hour), promise.Pending, true},
		"expired, settled promise": {now, promise.TimedOut, false},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, c.want, promise.IdempotencyKeyIsLive(c.expiresAt, c.state, now))
		})
	}
}

func TestIdempotencyKeyNamesPromise(t *testing.T) {
	t.Parallel()
	now := time.Now()
	week, less := now.Add(-promise.IdempotencyKeyGrace), now.Add(-promise.IdempotencyKeyGrace+1)
	for name, c := range map[string]struct {
		expiresAt time.Time
		state     promise.State
		settledAt *time.Time
		want      bool
	}{
		"live":                                   {now.Add(1), promise.Resolved, &week, true},
		"expired, pending promise":               {now, promise.Pending, nil, true},
		"expired, settled within the grace time": {now, promise.TimedOut, &less, true},
		"expired, settled a grace time ago":      {now, promise.Resolved, &week, false},
		"expired, settled at an unrecorded time": {now, promise.Resolved, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, c.want, promise.IdempotencyKeyNamesPromise(c.expiresAt, c.state, c.settledAt, now))
		})
	}
}

func TestEarlySettles(t *testing.T) {
	t.Parallel()
	now := time.Now()
	arrived, before, after := now.Add(-time.Minute), now.Add(-2*time.Minute), now.Add(time.Minute)
	for name, c := range map[string]struct {
		expiresAt time.Time
		timeoutAt *time.Time
		want      bool
	}{
		"without a deadline":                             {after, nil, true},
		"arrived before the deadline, creation after it": {after, &now, true},
		"arrived after the deadline":                     {after, &before, false},
		"arrived at the deadline":                        {after, &arrived, false},
		"expired at the creation":                        {now, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, c.want, promise.EarlySettles(arrived, c.expiresAt, c.timeoutAt, now))
		})
	}
}

func TestSame(t *testing.T) {
	t.Parallel()
	a, b := "a", "b"
	results := func() []promise.Result {
		return []promise.Result{
			{State: promise.Resolved, Value: []byte("1")},
			{State: promise.Resolved, Value: []byte("1.0")},
			{State: promise.Rejected, Message: &a},
			{State: promise.Rejected, Message: &b},
			{State: promise.Cancelled, Message: &a},
			{State: promise.Cancelled},
		}
	}
	for i, x := range results() {
		for j, y := range results() {
			require.Equal(t, i == j, x.Same(y), "%v %v", x, y)
		}
	}
}

// cursorText matches the valid cursors. A cursor of a list by deadline begins with the byte 'd', and the unused bits of
// its last character are zero.
var cursorText = regexp.MustCompile(`^(?:[A-Za-z0-9_-]{32}|Z[A-P][A-Za-z0-9_-]{31}[AQgw])$`)

// FuzzParseCursor parses any text as a cursor, and makes a cursor of any position.
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
	require.NoError(t, promise.CheckTimeoutAt(now.Add(-promise.MaxTimeout), now), "ten years ago")
	require.NoError(t, promise.CheckTimeoutAt(now.Add(promise.MaxTimeout), now), "in ten years")
	err := promise.CheckTimeoutAt(now.Add(promise.MaxTimeout+1), now)
	require.Equal(t, promise.CodeOutOfRange, promise.AsError(err).Code, "later than in ten years")
}

func TestAsError(t *testing.T) {
	t.Parallel()
	t.Run("finds a wrapped error", func(t *testing.T) {
		wrapped := fmt.Errorf("reading: %w", promise.ErrNotFound)
		require.Same(t, promise.ErrNotFound, promise.AsError(wrapped))
	})
	t.Run("keeps a fault for the log", func(t *testing.T) {
		cause := fmt.Errorf("password=secret")
		e := promise.AsError(cause)
		require.Equal(t, promise.CodeInternal, e.Code)
		require.NotContains(t, e.Detail, "secret")
		require.ErrorIs(t, e, cause)
	})
}

func ExampleJudge() {
	deadline := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	fmt.Println(promise.Judge(nil, &deadline, nil, deadline.Add(-time.Nanosecond)))
	fmt.Println(promise.Judge(nil, &deadline, nil, deadline))
	fmt.Println(promise.Judge(nil, &deadline, &promise.Result{State: promise.Resolved, Value: []byte("null")}, deadline))
	// Output:
	// pending
	// timed_out
	// resolved
}

func ExamplePrincipal_May() {
	settle := promise.Need{Scope: promise.ScopeSettle, Verb: promise.VerbResolve}
	webhook := promise.Principal{
		By: promise.By{Kind: promise.KindAPIKey}, Tenant: "acme", Scopes: []promise.Scope{promise.ScopeSettle},
	}
	target, _ := promise.ParseIdentifier("key:stripe:ch_abc123")
	fmt.Println(webhook.May(settle, "acme", target))
	fmt.Println(webhook.May(settle, "globex", target))
	fmt.Println(webhook.May(promise.Need{Scope: promise.ScopeRead}, "acme", target))
	// Output:
	// <nil>
	// not_found: There is no such tenant, workflow execution, promise or delivery.
	// forbidden: The API key does not have the scope read.
}
