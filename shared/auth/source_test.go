package auth_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/auth"
)

// store of keys that can be changed, and be away.
type keyStore struct {
	mu    sync.Mutex
	text  string
	err   error
	reads int
}

func (s *keyStore) read(ctx context.Context) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reads++
	return s.text, errors.Join(s.err, ctx.Err())
}

// Keys change within KeysGoodFor, and serve on for KeysServeOn while they cannot be read.
func TestReadKeys(t *testing.T) {
	t.Parallel()
	clock := now
	var log bytes.Buffer
	s := &keyStore{text: entry("old", oldSecret)}
	keys := auth.ReadKeys(s.read, func() time.Time { return clock }, slog.New(slog.NewTextHandler(&log, nil)))
	verifies := func(token string) bool {
		t.Helper()
		k, err := keys(t.Context())
		require.NoError(t, err)
		_, err = k.Verify(token, now)
		return err == nil
	}
	old, made := sign(t, parse(t, entry("old", oldSecret)), good), sign(t, parse(t, entry("new", newSecret)), good)
	require.Zero(t, s.reads, "nothing is read before it is needed")

	gone, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := keys(gone)
	require.NoError(t, err, "what others wait for does not end with the call that began it")
	require.True(t, verifies(old))
	require.Equal(t, 1, s.reads)

	s.text = entry("old", oldSecret) + "," + entry("new", newSecret)
	clock = clock.Add(auth.KeysGoodFor - time.Second)
	require.False(t, verifies(made))
	clock = clock.Add(time.Second)
	require.True(t, verifies(made))
	require.True(t, verifies(old))
	require.Equal(t, 2, s.reads)

	s.text = entry("new", newSecret)
	clock = clock.Add(auth.KeysGoodFor)
	require.False(t, verifies(old), "a key that was taken out is dead")
	require.Equal(t, 3, s.reads)

	s.err = errors.New("away")
	clock = clock.Add(auth.KeysGoodFor)
	for range 3 {
		require.True(t, verifies(made))
	}
	require.Equal(t, 4, s.reads, "it is not asked at each call")
	require.Contains(t, log.String(), "away")
	clock = clock.Add(auth.KeysServeOn - auth.KeysGoodFor)
	_, err = keys(t.Context())
	require.ErrorIs(t, err, s.err)
	s.err = nil
	clock = clock.Add(5 * time.Second)
	require.True(t, verifies(made))

	s.text = "no keys: hunter2"
	clock = clock.Add(auth.KeysGoodFor)
	require.True(t, verifies(made), "what is no list of keys replaces none")
	require.NotContains(t, log.String(), "hunter2")
}

func TestReadKeysThatAreAway(t *testing.T) {
	t.Parallel()
	s := &keyStore{err: errors.New("away")}
	w := newWorld(t)
	source := auth.ReadKeys(s.read, time.Now, slog.New(slog.DiscardHandler))
	w.Authorizer = auth.NewAuthorizer(w.store, source, time.Now, slog.New(slog.DiscardHandler))
	for range 2 {
		_, ok, err := w.Authorize(t.Context(), sign(t, w.keys, good))
		require.ErrorIs(t, err, s.err, "nothing was found out")
		require.False(t, ok)
	}
	require.Equal(t, 1, s.reads)
}

// A secret without a name is a key: 64 letters and digits, such as Secrets Manager makes them.
func TestKeyWithoutAName(t *testing.T) {
	t.Parallel()
	made := "0aZ1bY2cX3dW4eV5fU6gT7hS8iR9jQ0kP1lO2mN3nM4oL5pK6qJ7rI8sH9tG0uF1"
	require.Len(t, made, 64)
	keys := parse(t, made)
	_, err := parse(t, entry("new", newSecret), made).Verify(sign(t, keys, good), now)
	require.NoError(t, err)
	_, err = parse(t, raw.EncodeToString(newSecret)).Verify(sign(t, keys, good), now)
	require.Error(t, err)
	for _, twice := range []string{made + "," + made, made + ",k:" + made} {
		_, err := auth.ParseKeys(twice)
		require.Error(t, err)
	}
}
