package repository

import "time"

// SetClock replaces the clock that bounds how long the repository remembers a
// tenant's id.
func (r *Repository) SetClock(now func() time.Time) { r.now = now }
