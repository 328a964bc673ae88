package webhook_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/webhook"
)

const urlKeyText = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"

func urlKey(t testing.TB, text string) webhook.URLKey {
	t.Helper()
	k, err := webhook.ParseURLKey(text)
	require.NoError(t, err)
	return k
}

// oracleSegment returns a segment that was made without the package.
func oracleSegment(t testing.TB, slug, name string) string {
	t.Helper()
	secret := make([]byte, 32)
	for i := range secret {
		secret[i] = byte(i)
	}
	m := hmac.New(sha256.New, secret)
	fmt.Fprintf(m, "%s\x00%s", slug, name)
	return name + "-" + strings.ToLower(strings.TrimRight(base32.StdEncoding.EncodeToString(m.Sum(nil)[:10]), "="))
}

func TestSegment(t *testing.T) {
	t.Parallel()
	k := urlKey(t, urlKeyText)
	require.Equal(t, urlKeyText, k.Text())
	for _, name := range []string{"stripe", "s", "stripe-eu-2", strings.Repeat("s", 40)} {
		segment := k.Segment("acme", name)
		require.Equal(t, oracleSegment(t, "acme", name), segment)
		got, ok := k.Parse("acme", segment)
		require.True(t, ok)
		require.Equal(t, name, got)
		for i := range segment {
			changed := []byte(segment)
			changed[i] ^= 1
			_, ok := k.Parse("acme", string(changed))
			require.False(t, ok, "%s", changed)
		}
		for _, other := range []string{"", "acm", "acme2", "Acme", "acme\x00stripe"} {
			_, ok := k.Parse(other, segment)
			require.False(t, ok, other)
		}
		_, ok = webhook.NewURLKey().Parse("acme", segment)
		require.False(t, ok)
	}
	for _, segment := range []string{
		"", "-", "stripe", "stripe-", "-" + strings.Repeat("a", 16), strings.Repeat("a", 16), "stripe-" + strings.Repeat("a", 16),
		strings.ToUpper(k.Segment("acme", "stripe")), k.Segment("acme", "stripe") + "a", k.Segment("acme", "Stripe"), k.Segment("acme", "-stripe"),
		k.Segment("acme", "stripe-"), k.Segment("acme", strings.Repeat("s", 41)), k.Segment("acme", ""), k.Segment("acme", "a\x00b"), strings.Repeat("-", 1000),
	} {
		name, ok := k.Parse("acme", segment)
		require.False(t, ok, segment)
		require.Empty(t, name)
	}
	require.NotEqual(t, k.Segment("a", "b-c"), k.Segment("a-b", "c"))
}

func TestURLKey(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "00", urlKeyText[2:], urlKeyText + "00", strings.Replace(urlKeyText, "0", "g", 1), " " + urlKeyText, urlKeyText + "\n"} {
		k, err := webhook.ParseURLKey(text)
		require.ErrorContains(t, err, "64 hexadecimal digits")
		require.Empty(t, k.Text())
		if len(text) > 2 {
			require.NotContains(t, err.Error(), text)
		}
	}
	require.Equal(t, urlKeyText, urlKey(t, strings.ToUpper(urlKeyText)).Text())
	one, two := webhook.NewURLKey(), webhook.NewURLKey()
	require.NotEqual(t, one.Text(), two.Text())
	require.Equal(t, one.Segment("acme", "stripe"), urlKey(t, one.Text()).Segment("acme", "stripe"))

	var zero webhook.URLKey
	for _, segment := range []string{"stripe-", zero.Segment("acme", "stripe"), oracleSegment(t, "acme", "stripe"), "stripe-" + strings.Repeat("a", 16)} {
		_, ok := zero.Parse("acme", segment)
		require.False(t, ok)
	}
}

func TestAURLKeyIsNotShown(t *testing.T) {
	t.Parallel()
	k := urlKey(t, urlKeyText)
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("key", "key", k, "pointer", &k)
	slog.New(slog.NewTextHandler(&log, nil)).Info("key", "key", k, "pointer", &k)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		log.WriteString(fmt.Sprintf(verb, k) + fmt.Sprintf(verb, &k))
	}
	require.NotContains(t, log.String(), urlKeyText)
	require.NotContains(t, log.String(), "1 2 3 4 5")
	require.NotContains(t, log.String(), "0x1, 0x2")
}

// FuzzSegment parses any segment. Parse accepts only the segment that the oracle makes.
func FuzzSegment(f *testing.F) {
	k := urlKey(f, urlKeyText)
	for _, name := range []string{"stripe", "a", "a-b"} {
		f.Add("acme", k.Segment("acme", name))
	}
	f.Add("", "")
	f.Add("acme", "stripe-aaaaaaaaaaaaaaaa")
	f.Add("acme", "\xff-aaaaaaaaaaaaaaaa")
	f.Fuzz(func(t *testing.T, slug, segment string) {
		if name, ok := k.Parse(slug, segment); ok {
			require.Equal(t, oracleSegment(t, slug, name), segment)
			require.NoError(t, promise.CheckSourceName(name))
		}
		if promise.CheckSourceName(segment) == nil {
			name, ok := k.Parse(slug, k.Segment(slug, segment))
			require.True(t, ok)
			require.Equal(t, segment, name)
		}
	})
}
