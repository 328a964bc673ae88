package lambda

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A schedule tests the scheduler by itself: synctest provides the time, and the environments start no process.
type schedule struct {
	*Service
	t *testing.T
}

// scheduled runs a test with a service of the functions f and g.
func scheduled(t *testing.T, o Options, f, g Function, test func(t *testing.T, s schedule)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f.Name, g.Name = "f", "g"
		s := New([]Function{f, g}, o)
		defer s.Close()
		test(t, schedule{s, t})
	})
}

// An acquisition is a call of acquire that may still wait.
type acquisition struct {
	ended       chan struct{} // closed when the other fields are set
	environment *environment
	err         error
}

func (a *acquisition) waits() bool {
	select {
	case <-a.ended:
		return false
	default:
		return true
	}
}

// acquire calls Service.acquire, and returns once that has an environment or waits for one.
func (s schedule) acquire(name string) *acquisition {
	a := &acquisition{ended: make(chan struct{})}
	go func() {
		a.environment, a.err = s.Service.acquire(s.pools[name])
		close(a.ended)
	}()
	synctest.Wait()
	return a
}

// take acquires an environment without a wait, but for startDelay.
func (s schedule) take(name string) *environment {
	s.t.Helper()
	a := s.acquire(name)
	if a.waits() {
		s.sleep(startDelay)
	}
	require.False(s.t, a.waits())
	require.NoError(s.t, a.err)
	return a.environment
}

func (s schedule) release(e *environment) {
	s.Service.release(e)
	synctest.Wait()
}

func (s schedule) sleep(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func TestScheduler_Waiters_AreServedInOrder(t *testing.T) {
	scheduled(t, Options{MaxEnvironments: 1}, Function{}, Function{}, func(t *testing.T, s schedule) {
		e := s.take("f")
		first, second := s.acquire("f"), s.acquire("f")
		s.release(e)
		require.False(t, first.waits())
		require.Same(t, e, first.environment)
		require.True(t, second.waits())
		s.release(e)
		require.False(t, second.waits())
		require.Same(t, e, second.environment)
	})
}

func TestScheduler_FunctionWithoutEnvironment_GetsAPlace(t *testing.T) {
	t.Run("at once, of an idle one", func(t *testing.T) {
		scheduled(t, Options{MaxEnvironments: 1}, Function{}, Function{}, func(t *testing.T, s schedule) {
			s.release(s.take("f"))
			s.take("g")
			require.Zero(t, s.pools["f"].count)
		})
	})
	t.Run("soon after it lost its own", func(t *testing.T) {
		scheduled(t, Options{MaxEnvironments: 1}, Function{}, Function{}, func(t *testing.T, s schedule) {
			s.release(s.take("f"))
			s.release(s.take("g"))
			s.take("f")
		})
	})
	t.Run("at a release, before a later waiter", func(t *testing.T) {
		scheduled(t, Options{MaxEnvironments: 1}, Function{}, Function{}, func(t *testing.T, s schedule) {
			e := s.take("f")
			other, later := s.acquire("g"), s.acquire("f")
			s.release(e)
			require.False(t, other.waits())
			require.NoError(t, other.err)
			require.True(t, later.waits())
		})
	})
	t.Run("when a process exits", func(t *testing.T) {
		scheduled(t, Options{MaxEnvironments: 1}, Function{}, Function{}, func(t *testing.T, s schedule) {
			e := s.take("f")
			other := s.acquire("g")
			s.retire(e)
			synctest.Wait()
			require.False(t, other.waits())
			require.NoError(t, other.err)
		})
	})
}

// If all environments of a function are busy for long, the function gets another one's place, although that one always has waiters.
func TestScheduler_StuckFunction_GetsAPlace(t *testing.T) {
	scheduled(t, Options{MaxEnvironments: 2}, Function{}, Function{}, func(t *testing.T, s schedule) {
		s.take("g")
		e := s.take("f")
		s.sleep(maxWait)
		stuck := s.acquire("g")
		later := s.acquire("f")
		s.sleep(startDelay)
		s.release(e)
		require.False(t, stuck.waits())
		require.NoError(t, stuck.err)
		require.True(t, later.waits())
	})
}

// A function that has an environment leaves another's recently used one alone.
func TestScheduler_RecentlyUsedEnvironment_Stays(t *testing.T) {
	t.Run("while the function makes progress", func(t *testing.T) {
		scheduled(t, Options{MaxEnvironments: 2}, Function{}, Function{}, func(t *testing.T, s schedule) {
			e := s.take("f")
			idle := s.take("g")
			first, second := s.acquire("f"), s.acquire("f")
			s.sleep(100 * time.Millisecond)
			s.release(idle)
			s.release(e)
			require.False(t, first.waits())
			s.sleep(maxWait - 101*time.Millisecond)
			require.True(t, second.waits())
			s.sleep(time.Millisecond)
			require.False(t, second.waits())
			require.NoError(t, second.err, "after half a second of waiting it takes the place")
			require.Zero(t, s.pools["g"].count)
		})
	})
	t.Run("until it is idle for half a second", func(t *testing.T) {
		scheduled(t, Options{MaxEnvironments: 2}, Function{}, Function{}, func(t *testing.T, s schedule) {
			s.release(s.take("g"))
			e := s.take("f")
			s.sleep(maxWait - time.Millisecond)
			s.release(e)
			require.Same(t, e, s.take("f"))
			next := s.acquire("f")
			require.True(t, next.waits())
			s.sleep(stalledAfter)
			require.False(t, next.waits())
			require.NoError(t, next.err)
			require.Zero(t, s.pools["g"].count)
		})
	})
}

func TestScheduler_BusyLimit(t *testing.T) {
	full := func(s schedule) {
		for range busyLimit {
			s.take("f")
		}
	}
	t.Run("the next one waits for progress to stop", func(t *testing.T) {
		scheduled(t, Options{}, Function{}, Function{}, func(t *testing.T, s schedule) {
			full(s)
			next := s.acquire("f")
			s.sleep(stalledAfter - time.Millisecond)
			require.True(t, next.waits())
			s.sleep(time.Millisecond)
			require.False(t, next.waits())
			require.Equal(t, busyLimit+1, s.pools["f"].count)
		})
	})
	t.Run("another function runs at once", func(t *testing.T) {
		scheduled(t, Options{}, Function{}, Function{}, func(t *testing.T, s schedule) {
			full(s)
			s.take("g")
		})
	})
}

func TestScheduler_Wait_Ends(t *testing.T) {
	t.Run("after half a second", func(t *testing.T) {
		scheduled(t, Options{}, Function{Concurrency: 1}, Function{}, func(t *testing.T, s schedule) {
			s.take("f")
			next := s.acquire("f")
			s.sleep(maxWait - time.Millisecond)
			require.True(t, next.waits())
			s.sleep(time.Millisecond)
			require.False(t, next.waits())
			require.ErrorIs(t, next.err, ErrThrottled)
		})
	})
	t.Run("with the service", func(t *testing.T) {
		scheduled(t, Options{}, Function{Concurrency: 1}, Function{}, func(t *testing.T, s schedule) {
			s.take("f")
			next := s.acquire("f")
			s.Close()
			synctest.Wait()
			require.False(t, next.waits())
			require.ErrorIs(t, next.err, ErrClosed)
		})
	})
}

// A function with environments waits for one of them before it gets another.
func TestScheduler_StartDelay(t *testing.T) {
	t.Run("an environment that is released meanwhile serves", func(t *testing.T) {
		scheduled(t, Options{}, Function{}, Function{}, func(t *testing.T, s schedule) {
			e := s.take("f")
			next := s.acquire("f")
			s.sleep(startDelay - time.Microsecond)
			require.True(t, next.waits())
			s.release(e)
			require.False(t, next.waits())
			require.Same(t, e, next.environment)
		})
	})
	t.Run("then another one starts", func(t *testing.T) {
		scheduled(t, Options{}, Function{}, Function{}, func(t *testing.T, s schedule) {
			s.take("f")
			next := s.acquire("f")
			s.sleep(startDelay)
			require.False(t, next.waits())
			require.Equal(t, 2, s.pools["f"].count)
		})
	})
	t.Run("the first one starts at once", func(t *testing.T) {
		scheduled(t, Options{}, Function{}, Function{}, func(t *testing.T, s schedule) {
			require.False(t, s.acquire("f").waits())
		})
	})
}
