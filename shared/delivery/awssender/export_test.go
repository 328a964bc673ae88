package awssender

import "time"

// SetTimeout sets the limit of one call.
func (s *Sender) SetTimeout(d time.Duration) { s.timeout = d }
