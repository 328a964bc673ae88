package auth

import (
	"context"
	"crypto/sha256"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"
)

// A cache keeps the answers to one kind of look-up. Positive and negative answers
// have separate LRU lists, so a flood of invalid credentials cannot evict valid
// ones. A look-up's key is a SHA-256 hash, so the cache contains no secret.
//
// An answer's age counts from before its look-up began, by the wall clock, because
// the monotonic clock may stand still while Lambda freezes the process. The
// library's expirable cache has its own clock, and a goroutine that never ends, so
// it is not used here.
type cache[V any] struct {
	now      func() time.Time // without a monotonic reading
	positive *lru.Cache[[sha256.Size]byte, answer[V]]
	negative *lru.Cache[[sha256.Size]byte, answer[V]]
	flights  singleflight.Group
}

// An answer is the result of one look-up.
type answer[V any] struct {
	value V
	ok    bool
	begun time.Time // the look-up's start
}

func newCache[V any](now func() time.Time) *cache[V] {
	positive, err := lru.New[[sha256.Size]byte, answer[V]](CacheSize)
	if err != nil {
		panic(err) // only for a size below 1
	}
	negative, err := lru.New[[sha256.Size]byte, answer[V]](CacheSize)
	if err != nil {
		panic(err)
	}
	return &cache[V]{now: now, positive: positive, negative: negative}
}

// get returns the cached answer for the hash, or else calls lookUp. Callers that
// ask for the same hash at the same time share one call of lookUp, which has its
// own context. The value is lookUp's, even if ok is false; all callers share it, so
// none may change it. Errors are not cached.
func (c *cache[V]) get(
	ctx context.Context, hash [sha256.Size]byte, lookUp func(context.Context) (value V, ok bool, err error),
) (value V, ok bool, err error) {
	if a, found := c.cached(hash); found {
		return a.value, a.ok, nil
	}
	flight := c.flights.DoChan(string(hash[:]), func() (any, error) {
		if a, found := c.cached(hash); found { // by the previous flight
			return a, nil
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookupTimeout)
		defer cancel()
		a := answer[V]{begun: c.now()}
		var err error
		if a.value, a.ok, err = lookUp(ctx); err != nil {
			return nil, err
		}
		c.put(hash, a)
		return a, nil
	})
	select {
	case <-ctx.Done():
		return value, false, ctx.Err()
	case r := <-flight:
		if r.Err != nil {
			return value, false, r.Err
		}
		a := r.Val.(answer[V]) //nolint:errcheck // the flight returns no other type
		return a.value, a.ok, nil
	}
}

func (c *cache[V]) cached(hash [sha256.Size]byte) (answer[V], bool) {
	if a, found := c.positive.Get(hash); found && c.fresh(a, PositiveTTL) {
		return a, true
	}
	a, found := c.negative.Get(hash)
	return a, found && c.fresh(a, NegativeTTL)
}

// fresh reports whether the answer is younger than limit. An answer from the
// future is not fresh: the clock was set back after it.
func (c *cache[V]) fresh(a answer[V], limit time.Duration) bool {
	age := c.now().Sub(a.begun)
	return age >= 0 && age < limit
}

func (c *cache[V]) put(hash [sha256.Size]byte, a answer[V]) {
	if a.ok {
		c.negative.Remove(hash)
		c.positive.Add(hash, a)
	} else {
		c.positive.Remove(hash)
		c.negative.Add(hash, a)
	}
}
