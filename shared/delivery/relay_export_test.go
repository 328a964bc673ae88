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

// Begin begins a call of the destination whose turn it is.
func (t *Turns) Begin(now time.Time, free int) (id uuid.UUID, found bool) {
	d := t.turns.next(now, free)
	if d == nil {
		return id, false
	}
	d.begin()
	return d.id, true
}

func (t *Turns) End(id uuid.UUID) { t.turns.end(t.turns.destinations[id]) }
