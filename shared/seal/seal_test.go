package seal_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/auth"
	"github.com/flovyn/promises/shared/seal"
)

// OpenSSL encrypted these texts, called by the Python package cryptography. Stored texts of this form stay readable.
func TestOpenReadsStoredTexts(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, purpose, row string
		version            int
		plaintext, text    string
	}{
		{"a secret of a destination", "destination.secret", "7d9f1f3a-3c1e-4e5b-8a57-0c2f6f1f4a11", 3, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
			"01e6c4d74f22db08fb000102030405060708090a0b6fed755dbd24d4f66e77873e6e3b36cc9d3b9b550fe67cc4f85e460dd8a2dd6151ad8fbb5d41b923e34a0b442ab5a3772d1ca8f9c7e2"},
		{"nothing", "p", "r", 0, "",
			"01e6c4d74f22db08fbffffffffffffffffffffffffb3b817a2a63be0ddbf7e338f499fb74f"},
		{"names in UTF-8 and a negative version", "webhook_source.secret", "größe", -1, "Schlüssel",
			"01e6c4d74f22db08fbcafebabefacedbaddecaf8882cd7199f86ef0f1b8aa42cc1bec04570b9796de17ac72ddbf64e"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			text := unhex(t, c.text)
			got, err := ring(t, newSecret, oldSecret).Open(c.purpose, c.row, c.version, text)
			require.NoError(t, err)
			require.Equal(t, c.plaintext, string(got))
			require.Equal(t, c.text, hex.EncodeToString(oracleSeal(oldSecret, text[9:21], c.purpose, c.row, c.version, got)), "the oracle")
		})
	}
}

func TestSeal(t *testing.T) {
	t.Parallel()
	keys := ring(t, newSecret, oldSecret)
	for name, plaintext := range map[string][]byte{
		"nothing": nil, "one byte": {0}, "one block": bytes.Repeat([]byte("b"), 16), "a secret": plaintext, "a body": bytes.Repeat([]byte("body"), 16_384),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text, err := keys.Seal(purpose, row, version, plaintext)
			require.NoError(t, err)
			require.Equal(t, oracleSeal(newSecret, text[9:21], purpose, row, version, plaintext), text)
			got, err := keys.Open(purpose, row, version, text)
			require.NoError(t, err)
			require.Equal(t, string(plaintext), string(got))
		})
	}
}

func TestSealDrawsANonceForEachText(t *testing.T) {
	t.Parallel()
	keys, nonces := ring(t, oldSecret), map[string]bool{}
	ones := make([]int, 96) // how often each bit was set
	const texts = 4096
	for range texts {
		nonce := sealed(t, keys)[9:21]
		nonces[string(nonce)] = true
		for i := range ones {
			ones[i] += int(nonce[i/8] >> (i % 8) & 1)
		}
	}
	require.Len(t, nonces, texts)
	for i, n := range ones {
		require.InDelta(t, texts/2, n, 10*math.Sqrt(texts)/2, "bit %d of the nonces is not random: ten standard deviations", i)
	}
}

func TestSealRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		keys         *seal.Keys
		purpose, row string
	}{
		"an empty ring":    {new(seal.Keys), purpose, row},
		"an empty purpose": {ring(t, oldSecret), "", row},
		"an empty row":     {ring(t, oldSecret), purpose, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text, err := c.keys.Seal(c.purpose, c.row, version, plaintext)
			require.Error(t, err)
			require.Nil(t, text)
		})
	}
}

func TestOpenRefusesChangedTexts(t *testing.T) {
	t.Parallel()
	keys := ring(t, oldSecret, newSecret)
	text := sealed(t, keys)
	original := slices.Clone(text)
	t.Run("each flipped bit", func(t *testing.T) {
		t.Parallel()
		for i := range 8 * len(text) {
			changed := slices.Clone(text)
			changed[i/8] ^= 1 << (i % 8)
			requireRefused(t, keys, changed, "bit %d", i)
		}
	})
	t.Run("each truncation", func(t *testing.T) {
		t.Parallel()
		for i := range text {
			requireRefused(t, keys, text[:i], "the first %d bytes", i)
			requireRefused(t, keys, text[i+1:], "without the first %d bytes", i+1)
			requireRefused(t, keys, slices.Delete(slices.Clone(text), i, i+1), "without byte %d", i)
		}
	})
	t.Run("each added byte", func(t *testing.T) {
		t.Parallel()
		for i := range len(text) + 1 {
			requireRefused(t, keys, slices.Insert(slices.Clone(text), i, 0), "at %d", i)
		}
	})
	t.Run("the other key's id", func(t *testing.T) {
		t.Parallel()
		other := sealed(t, ring(t, newSecret))
		requireRefused(t, keys, append(slices.Clone(other[:9]), text[9:]...))
	})
	t.Run("parts of two texts", func(t *testing.T) {
		t.Parallel()
		other := sealed(t, keys)
		for i := 10; i < len(text); i++ {
			requireRefused(t, keys, append(slices.Clone(text[:i]), other[i:]...), "from byte %d on", i)
		}
	})
	t.Run("nothing", func(t *testing.T) {
		t.Parallel()
		requireRefused(t, keys, nil)
		requireRefused(t, new(seal.Keys), text)
	})
	t.Run("but not the text itself, which Open does not change", func(t *testing.T) {
		t.Parallel()
		requireOpens(t, keys, text)
		require.Equal(t, original, text)
	})
}

func TestOpenRefusesAnotherPlace(t *testing.T) {
	t.Parallel()
	keys := ring(t, oldSecret)
	type place struct {
		purpose, row string
		version      int
	}
	places := []place{
		{"p", "r", 1}, {"p", "r", 2}, {"p", "r", 0}, {"p", "r", -1}, {"p", "r", math.MaxInt}, {"p", "r", math.MinInt},
		{"p", "s", 1}, {"q", "r", 1}, {"r", "p", 1}, {"pr", "r", 1}, {"p", "rr", 1}, {"P", "r", 1},
		{"ab", "c", 1}, {"a", "bc", 1}, {"abc", "", 1}, {"", "abc", 1}, {"p", "", 1}, {"", "r", 1}, {"", "", 1},
		{"p\x00", "r", 1}, {"p", "\x00r", 1}, {"p", "r\x00", 1}, {"p", "r\x00\x00\x00\x00\x00\x00\x00\x01", 1},
		{"p\x00\x00\x00\x00\x00\x00\x00\x01r", "r", 1}, {"p", "é", 1}, {"p", "e\u0301", 1},
	}
	for _, from := range places {
		if from.purpose == "" || from.row == "" {
			continue // Seal refuses it
		}
		t.Run(fmt.Sprintf("%q %q %d", from.purpose, from.row, from.version), func(t *testing.T) {
			t.Parallel()
			text, err := keys.Seal(from.purpose, from.row, from.version, plaintext)
			require.NoError(t, err)
			for _, to := range places {
				got, err := keys.Open(to.purpose, to.row, to.version, text)
				if to == from {
					require.NoError(t, err)
					require.Equal(t, plaintext, got)
					continue
				}
				require.Equal(t, seal.ErrRefused, err, "%+v", to)
				require.Nil(t, got)
			}
		})
	}
}

func TestRotation(t *testing.T) {
	t.Parallel()
	first := seal.Generate()
	second := first.Rotate()
	third := second.Rotate()
	former := sealed(t, first)
	t.Run("the former key opens and the new one seals", func(t *testing.T) {
		t.Parallel()
		requireOpens(t, second, former)
		text := sealed(t, second)
		requireOpens(t, second, text)
		require.NotEqual(t, former[:9], text[:9])
		requireRefused(t, first, text)
		require.False(t, first.HasKeyOf(text))
	})
	t.Run("only texts of the first key need no reseal", func(t *testing.T) {
		t.Parallel()
		require.False(t, first.NeedsReseal(former))
		require.True(t, second.NeedsReseal(former))
		require.True(t, second.HasKeyOf(former))
		require.False(t, second.NeedsReseal(sealed(t, second)))
		for _, text := range [][]byte{nil, former[:8], {0}, bytes.Repeat([]byte{1}, 60)} {
			require.True(t, second.NeedsReseal(text))
			require.False(t, second.HasKeyOf(text))
		}
		require.True(t, new(seal.Keys).NeedsReseal(former))
	})
	t.Run("after the second rotation the oldest key is gone", func(t *testing.T) {
		t.Parallel()
		requireRefused(t, third, former)
		require.True(t, third.NeedsReseal(former))
		require.False(t, third.HasKeyOf(former))
		resealed := sealed(t, second)
		requireOpens(t, third, resealed)
		require.True(t, third.NeedsReseal(resealed))
		require.Equal(t, 2, strings.Count(third.Text(), "aes256-seal:"))
	})
	t.Run("the rings themselves do not change", func(t *testing.T) {
		t.Parallel()
		requireOpens(t, first, former)
		require.False(t, first.NeedsReseal(sealed(t, first)))
		require.Equal(t, 1, strings.Count(first.Text(), "aes256-seal:"))
	})
}

// A process that still has the former ring reads the ring again as soon as another process has sealed with the new key.
func TestRotationWhileAProcessHasTheFormerRing(t *testing.T) {
	t.Parallel()
	current, reads := seal.Generate(), 0
	read := func(context.Context) (*seal.Keys, error) {
		reads++
		return seal.Parse(current.Text())
	}
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	cached := auth.NewCached("sealing keys", read, func() time.Time { return now }, slog.New(slog.DiscardHandler))
	keys, err := cached.Get(t.Context())
	require.NoError(t, err)
	requireOpens(t, keys, sealed(t, current))

	current = current.Rotate()
	now = now.Add(auth.KeysRefreshInterval)
	text := sealed(t, current)
	keys, err = cached.Get(t.Context())
	require.NoError(t, err)
	require.False(t, keys.HasKeyOf(text))
	requireOpens(t, current, sealed(t, keys)) // it seals with the former key, which the new ring opens
	keys, err = cached.Refresh(t.Context())
	require.NoError(t, err)
	requireOpens(t, keys, text)
	require.Equal(t, 2, reads)
}

func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	keys := seal.Generate().Rotate()
	shared := sealed(t, keys)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for j := range 200 {
				id, plaintext := fmt.Sprint(i), []byte(fmt.Sprint(i, j))
				text, err := keys.Seal(purpose, id, j, plaintext)
				if err != nil {
					t.Error(err)
				}
				got, err := keys.Rotate().Open(purpose, id, j, text)
				if err != nil || !bytes.Equal(plaintext, got) {
					t.Error(i, j, err)
				}
				if _, err := keys.Open(purpose, row, version, shared); err != nil || keys.NeedsReseal(shared) {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
}

func BenchmarkSeal(b *testing.B) {
	keys := ring(b, newSecret, oldSecret)
	for _, size := range []int{len(plaintext), 64 << 10} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			text := make([]byte, size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := keys.Seal(purpose, row, version, text); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkOpen(b *testing.B) {
	keys := ring(b, newSecret, oldSecret)
	for _, size := range []int{len(plaintext), 64 << 10} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			text, err := ring(b, oldSecret).Seal(purpose, row, version, make([]byte, size))
			require.NoError(b, err)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := keys.Open(purpose, row, version, text); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
