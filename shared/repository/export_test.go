package repository

import "time"

// SetClock gives the repository another clock.
func (r *Repository) SetClock(now func() time.Time) { r.now = now }
