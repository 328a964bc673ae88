package gateway

import (
	"regexp"
	"strings"
	"time"
)

// rfc3339 is stricter than time.Parse, which accepts a comma as the decimal point,
// an hour of one digit, and offsets of a day and more.
var rfc3339 = regexp.MustCompile(`^\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]([01]\d|2[0-3]):[0-5]\d)$`)

// secondAt is the index of the seconds in a text that rfc3339 matches.
const secondAt = len("2006-01-02T15:04:")

// parseTime reads an RFC 3339 time, and returns it in UTC. T and Z may be lower
// case. Every time in a call is read this way.
//
// A leap second is second 60 of the last minute of a UTC day. parseTime accepts it
// on any day, because the service has no table of the inserted ones. Postgres
// counts no leap seconds, so 23:59:60 becomes the following second, 00:00:00 of the
// next day, with its fraction kept. A deadline at a leap second therefore never
// passes early. In every other minute, second 60 is invalid.
func parseTime(s string) (t time.Time, ok bool) {
	if !rfc3339.MatchString(s) {
		return time.Time{}, false
	}
	s = strings.ToUpper(s)
	leap := s[secondAt:secondAt+2] == "60"
	if leap {
		s = s[:secondAt] + "59" + s[secondAt+2:]
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return time.Time{}, false
	}
	t = t.UTC()
	if leap {
		if t.Hour() != 23 || t.Minute() != 59 {
			return time.Time{}, false
		}
		t = t.Add(time.Second)
	}
	return t, true
}
