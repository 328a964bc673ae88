package delivery_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/delivery"
	"github.com/flovyn/promises/shared/promise"
)

func TestTurns(t *testing.T) {
	t.Parallel()
	now := time.Now()
	id := func(n byte) uuid.UUID { return uuid.UUID{n} }
	add := func(turns *delivery.Turns, tenant, destination byte) {
		turns.Add(promise.DueDestination{ID: id(destination), TenantID: id(tenant), DueAt: now})
	}
	t.Run("tenants take turns, and the destinations of each", func(t *testing.T) {
		turns := delivery.NewTurns()
		add(turns, 1, 11)
		add(turns, 1, 12)
		add(turns, 1, 13)
		add(turns, 2, 21)
		var order []byte
		for range 8 {
			next, _ := turns.Begin(now, 32, 1, 0)
			order = append(order, next[0])
		}
		require.Equal(t, []byte{11, 21, 12, 21, 13, 21, 11, 21}, order)
	})
	t.Run("a destination has at most 4 calls, a tenant as many as are free", func(t *testing.T) {
		turns := delivery.NewTurns()
		for destination := range byte(6) {
			add(turns, 1, destination+1)
		}
		add(turns, 2, 21)
		calls := map[byte]int{}
		for free := 32; ; free-- {
			next, found := turns.Begin(now, free, 1, 0)
			if !found {
				break
			}
			calls[next[0]]++
		}
		require.Equal(t, 4, calls[21])
		delete(calls, 21)
		total := 0
		for destination, n := range calls {
			require.LessOrEqual(t, n, 4, destination)
			total += n
		}
		require.Equal(t, 14, total, "14 are free then")
	})
	t.Run("a tenant has at most as many bytes as are free", func(t *testing.T) {
		turns := delivery.NewTurns()
		const size = 8
		free := 128
		begin := func() bool {
			_, found := turns.Begin(now, 32, free, size)
			if found {
				free -= size
			}
			return found
		}
		for destination := range byte(6) {
			add(turns, 1, destination+1)
		}
		for begin() {
		}
		require.Equal(t, 64, free)
		for destination := range byte(6) {
			add(turns, 2, destination+20)
		}
		for begin() {
		}
		require.Equal(t, 32, free)
		turns.End(id(1), size)
		free += size
		require.True(t, begin(), "an ended call makes room")
		require.False(t, begin())
	})
	t.Run("an ended call makes room", func(t *testing.T) {
		turns := delivery.NewTurns()
		add(turns, 1, 11)
		for range 4 {
			_, found := turns.Begin(now, 32, 1, 0)
			require.True(t, found)
		}
		_, found := turns.Begin(now, 32, 1, 0)
		require.False(t, found)
		turns.End(id(11), 0)
		_, found = turns.Begin(now, 32, 1, 0)
		require.True(t, found)
	})
}
