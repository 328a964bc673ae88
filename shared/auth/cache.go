package auth

import (
	"context"
	"crypto/sha256"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"
)

// cache keeps the answers to one kind of question, the good apart from the bad:
// whoever invents bad credentials drives out no good one. It knows a question by
// its SHA-256 only, so that it holds no secret.
//
// An answer's age counts from before it was looked up, by the wall clock: the
// monotonic clock may stand still while Lambda freezes the process. That is why
// it is not the library's expirable cache, which has a clock of its own (and a
// goroutine that never ends).
type cache[V any] struct {
	now     func() time.Time // without a monotonic reading
	good    *lru.Cache[[sha256.Size]byte, answer[V]]
	bad     *lru.Cache[[sha256.Size]byte, answer[V]]
	flights singleflight.Group
}

type answer[V any] struct {
	value V
	ok    bool
	asked time.Time
}

func newCache[V any](now func() time.Time) *cache[V] {
	good, err := lru.New[[sha256.Size]byte, answer[V]](CacheSize)
	if err != nil {
		panic(err) // of a size below 1 only
	}
	bad, err := lru.New[[sha256.Size]byte, answer[V]](CacheSize)
	if err != nil {
		panic(err)
	}
	return &cache[V]{now: now, good: good, bad: bad}
}

// get answers from what is kept, or else by look, which runs once for all who
// ask at the same time, under a context of its own. The value is look's own
// also where ok is false, and shared by all: it must not be changed. An error
// is not kept.
func (c *cache[V]) get(
	ctx context.Context, question [sha256.Size]byte, look func(context.Context) (value V, ok bool, err error),
) (value V, ok bool, err error) {
	if a, found := c.kept(question); found {
		return a.value, a.ok, nil
	}
	flight := c.flights.DoChan(string(question[:]), func() (any, error) {
		if a, found := c.kept(question); found { // by the flight before this one
			return a, nil
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookupTimeout)
		defer cancel()
		a := answer[V]{asked: c.now()}
		var err error
		if a.value, a.ok, err = look(ctx); err != nil {
			return nil, err
		}
		c.keep(question, a)
		return a, nil
	})
	select {
	case <-ctx.Done():
		return value, false, ctx.Err()
	case r := <-flight:
		if r.Err != nil {
			return value, false, r.Err
		}
		a := r.Val.(answer[V]) //nolint:errcheck // it is what the flight returns
		return a.value, a.ok, nil
	}
}

func (c *cache[V]) kept(question [sha256.Size]byte) (answer[V], bool) {
	if a, found := c.good.Get(question); found && c.fresh(a, PositiveTTL) {
		return a, true
	}
	a, found := c.bad.Get(question)
	return a, found && c.fresh(a, NegativeTTL)
}

// fresh takes no answer from the future: there the clock was set back.
func (c *cache[V]) fresh(a answer[V], limit time.Duration) bool {
	age := c.now().Sub(a.asked)
	return age >= 0 && age < limit
}

func (c *cache[V]) keep(question [sha256.Size]byte, a answer[V]) {
	if a.ok {
		c.bad.Remove(question)
		c.good.Add(question, a)
	} else {
		c.good.Remove(question)
		c.bad.Add(question, a)
	}
}
