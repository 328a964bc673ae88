package delivery

import "time"

// SetTimeout sets the limit of one call.
func (a *AWS) SetTimeout(d time.Duration) { a.timeout = d }
