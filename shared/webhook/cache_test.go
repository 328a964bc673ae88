package webhook_test

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/webhook"
)

// A clock is a time that a test sets.
type clock struct{ nanoseconds atomic.Int64 }

func (c *clock) now() time.Time          { return now.Add(time.Duration(c.nanoseconds.Load())) }
func (c *clock) advance(d time.Duration) { c.nanoseconds.Add(int64(d)) }

// A store counts its reads.
type store struct {
	reads atomic.Int64
	err   error
}

func (s *store) read(context.Context) (string, error) {
	return "value " + strconv.FormatInt(s.reads.Add(1), 10), s.err
}

// A read that began before Forget answers no call after it.
func TestCacheForgetsARunningRead(t *testing.T) {
	t.Parallel()
	cache := webhook.NewCache[string](time.Now)
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	get := func(read func()) (string, error) {
		value, _, err := cache.Get(ctx, "acme", "stripe", func(ctx context.Context) (string, error) {
			if read == nil {
				return "new", nil
			}
			read()
			return "former", ctx.Err()
		})
		return value, err
	}
	begun, end, former := make(chan bool), make(chan bool), make(chan string)
	go func() {
		value, _ := get(func() {
			close(begun)
			select {
			case <-end:
			case <-ctx.Done():
			}
		})
		former <- value
	}()
	<-begun
	cache.Forget("acme", "stripe")
	value, err := get(nil)
	require.NoError(t, err)
	require.Equal(t, "new", value)
	close(end)
	require.Equal(t, "former", <-former, "a caller that waited before")
	value, err = get(func() {})
	require.NoError(t, err)
	require.Equal(t, "new", value, "the former value is not kept")
}

func TestCacheReadsAgain(t *testing.T) {
	t.Parallel()
	var c clock
	var s store
	cache := webhook.NewCache[string](c.now)
	get := func(want string, age time.Duration) {
		t.Helper()
		value, got, err := cache.Get(t.Context(), "acme", "stripe", s.read)
		require.NoError(t, err)
		require.Equal(t, want, value)
		require.Equal(t, age, got)
	}
	refresh := func(want string, age time.Duration) {
		t.Helper()
		value, got, err := cache.Refresh(t.Context(), "acme", "stripe", s.read)
		require.NoError(t, err)
		require.Equal(t, want, value)
		require.Equal(t, age, got)
	}
	get("value 1", 0)
	c.advance(webhook.RefreshAge - 1)
	get("value 1", webhook.RefreshAge-1)
	refresh("value 1", webhook.RefreshAge-1)
	c.advance(1)
	get("value 1", webhook.RefreshAge)
	refresh("value 2", 0)
	refresh("value 2", 0)
	get("value 2", 0)
	c.advance(webhook.GetAge - 1)
	get("value 2", webhook.GetAge-1)
	c.advance(1)
	get("value 3", 0)
	c.advance(-time.Second) // the clock was set back
	get("value 4", 0)

	for _, other := range [][2]string{{"acme", "github"}, {"globex", "stripe"}, {"acm", "estripe"}} {
		before := s.reads.Load()
		_, _, err := cache.Get(t.Context(), other[0], other[1], s.read)
		require.NoError(t, err)
		require.Equal(t, before+1, s.reads.Load())
	}
	get("value 4", 0)
}

func TestCacheKeepsNoError(t *testing.T) {
	t.Parallel()
	var c clock
	down := store{err: errors.New("the database is away")}
	var up store
	cache := webhook.NewCache[string](c.now)
	for range 2 {
		_, _, err := cache.Get(t.Context(), "acme", "stripe", down.read)
		require.ErrorIs(t, err, down.err)
	}
	require.Equal(t, int64(2), down.reads.Load())
	value, _, err := cache.Get(t.Context(), "acme", "stripe", up.read)
	require.NoError(t, err)
	require.Equal(t, "value 1", value)

	// A failed Refresh says so, and leaves the value to Get.
	c.advance(webhook.RefreshAge)
	_, _, err = cache.Refresh(t.Context(), "acme", "stripe", down.read)
	require.ErrorIs(t, err, down.err)
	value, age, err := cache.Get(t.Context(), "acme", "stripe", down.read)
	require.NoError(t, err)
	require.Equal(t, "value 1", value)
	require.Equal(t, webhook.RefreshAge, age)
}

// A waiter is the context of a caller, and counts when the caller waits.
type waiter struct {
	context.Context
	waits *sync.WaitGroup
}

func (w waiter) Done() <-chan struct{} {
	w.waits.Done()
	return w.Context.Done()
}

func TestCacheSharesARead(t *testing.T) {
	t.Parallel()
	var c clock
	cache := webhook.NewCache[string](c.now)
	for _, want := range []error{errors.New("the database is away"), nil} {
		begun, done := make(chan struct{}), make(chan struct{})
		var reads atomic.Int64
		read := func(context.Context) (string, error) {
			reads.Add(1)
			close(begun)
			<-done
			return "value", want
		}
		var all, waits sync.WaitGroup
		call := func() {
			_, _, err := cache.Get(waiter{t.Context(), &waits}, "acme", "stripe", read)
			require.Equal(t, want, err)
		}
		all.Go(call)
		<-begun
		for range 16 {
			waits.Add(1)
			all.Go(call)
		}
		waits.Wait()
		close(done)
		all.Wait()
		require.Equal(t, int64(1), reads.Load())
	}
}

// A caller that goes away takes no other caller's value with it.
func TestCacheSurvivesItsReader(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(cancel func()) (string, error){
		"gone away": func(cancel func()) (string, error) { cancel(); return "", context.Canceled },
		"panic":     func(func()) (string, error) { panic("in the look-up") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var c clock
			var s store
			cache := webhook.NewCache[string](c.now)
			begun, ended := make(chan struct{}), make(chan struct{})
			var all sync.WaitGroup
			all.Go(func() {
				defer func() { _ = recover() }()
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				_, _, err := cache.Get(ctx, "acme", "stripe", func(context.Context) (string, error) {
					close(begun)
					<-ended
					return end(cancel)
				})
				require.ErrorIs(t, err, context.Canceled)
			})
			<-begun
			impatient, cancel := context.WithCancel(t.Context())
			cancel()
			_, _, err := cache.Get(impatient, "acme", "stripe", s.read)
			require.ErrorIs(t, err, context.Canceled)
			for range 8 {
				all.Go(func() {
					value, _, err := cache.Get(t.Context(), "acme", "stripe", s.read)
					require.NoError(t, err)
					require.Equal(t, "value 1", value)
				})
			}
			close(ended)
			all.Wait()
			require.Equal(t, int64(1), s.reads.Load())
		})
	}
}

func TestCacheIsBounded(t *testing.T) {
	t.Parallel()
	var c clock
	var s store
	cache := webhook.NewCache[string](c.now)
	get := func(name string) {
		_, _, err := cache.Get(t.Context(), "acme", name, s.read)
		require.NoError(t, err)
	}
	for i := range webhook.CacheSize {
		get("source-" + strconv.Itoa(i))
		c.advance(time.Millisecond)
	}
	get("source-0")
	require.Equal(t, int64(webhook.CacheSize), s.reads.Load())
	get("one-more") // source-0 is the oldest
	for i := 1; i < webhook.CacheSize; i++ {
		get("source-" + strconv.Itoa(i))
	}
	require.Equal(t, int64(webhook.CacheSize+1), s.reads.Load())
	get("source-0")
	require.Equal(t, int64(webhook.CacheSize+2), s.reads.Load())
}
