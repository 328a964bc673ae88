package delivery

import (
	"time"

	"github.com/google/uuid"

	"github.com/flovyn/promises/shared/promise"
)

// Turns gives tests the turns of a relay.
type Turns struct{ turns *turns }

func NewTurns() *Turns { return &Turns{newTurns()} }

func (t *Turns) Add(d promise.DueDestination) { t.turns.add(d) }

// Begin begins a call of the destination whose turn it is. The call has a number of bytes; calls and free are left.
func (t *Turns) Begin(now time.Time, calls, free, bytes int) (id uuid.UUID, found bool) {
	d := t.turns.next(now, calls, free)
	if d == nil {
		return id, false
	}
	d.begin(bytes)
	return d.id, true
}

func (t *Turns) End(id uuid.UUID, bytes int) { t.turns.end(t.turns.destinations[id], bytes) }
