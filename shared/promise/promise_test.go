package promise_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/promise"
)

const id = "7d9f1f3a-3c1e-4e5b-8a57-0c2f6f1f4a11"

func ExampleParseIdentifier() {
	for _, s := range []string{"id:" + id, "key:stripe:ch_abc123", "promise:" + id} {
		i, err := promise.ParseIdentifier(s)
		fmt.Println(i, err)
	}
	// Output:
	// id:7d9f1f3a-3c1e-4e5b-8a57-0c2f6f1f4a11 <nil>
	// key:stripe:ch_abc123 <nil>
	// id:00000000-0000-0000-0000-000000000000 invalid_identifier: Identifier must start with 'id:' or 'key:' prefix
}

func FuzzParseIdentifier(f *testing.F) {
	for _, s := range []string{"id:" + id, "key:k", "key:id:" + id, "key:", "ID:" + id, "id:{" + id + "}", "key:\xff", "key:\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		i, err := promise.ParseIdentifier(s)
		if err != nil {
			require.Equal(t, promise.Identifier{}.String(), i.String())
			return
		}
		if key, ok := i.Key(); ok {
			require.Equal(t, s, "key:"+key)
			require.NoError(t, promise.CheckKey(key))
			return
		}
		u, ok := i.ID()
		require.True(t, ok)
		require.Equal(t, strings.ToLower(s), "id:"+u.String())
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
		require.Equal(t, code, promise.AsError(promise.CheckKey(s)).Code, "%q", s)
	}
	for _, s := range []string{"a", " ", "a:b/c?d=%20", strings.Repeat("ä", 255), "\u202e"} {
		require.NoError(t, promise.CheckName(s))
		require.NoError(t, promise.CheckKey(s))
	}
}

func TestJudge(t *testing.T) {
	t.Parallel()
	now := time.Now()
	before, after := now.Add(-time.Microsecond), now.Add(time.Microsecond)
	resolved := promise.Resolved
	require.Equal(t, promise.Pending, promise.Judge(nil, nil, now))
	require.Equal(t, promise.Pending, promise.Judge(nil, &after, now))
	require.Equal(t, promise.TimedOut, promise.Judge(nil, &now, now), "at the deadline it is over")
	require.Equal(t, promise.TimedOut, promise.Judge(nil, &before, now))
	require.Equal(t, promise.Resolved, promise.Judge(&resolved, &before, now), "what is stored stands for ever")
}

func TestLate(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		stored promise.State
		same   bool
		want   promise.Outcome
	}{
		{promise.Resolved, true, promise.OutcomeDuplicate},
		{promise.Rejected, true, promise.OutcomeDuplicate},
		{promise.Resolved, false, promise.OutcomeConflict},
		{promise.Rejected, false, promise.OutcomeConflict},
		{promise.TimedOut, false, promise.OutcomeTimedOut},
		{promise.Cancelled, false, promise.OutcomeCancelled},
	} {
		require.Equal(t, c.want, promise.Late(c.stored, c.same))
	}
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
