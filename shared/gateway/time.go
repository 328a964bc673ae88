package gateway

import (
	"regexp"
	"strings"
	"time"
)

// rfc3339 is stricter than time.Parse, which takes a comma for the point, one
// digit for an hour, and offsets of a day and more.
var rfc3339 = regexp.MustCompile(`^\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]([01]\d|2[0-3]):[0-5]\d)$`)

// secondAt is where rfc3339's seconds stand.
const secondAt = len("2006-01-02T15:04:")

// parseTime reads a time of RFC 3339, in every place where a call may give one.
// T and Z may be lower case.
//
// A leap second is the second 60 of the last minute of a day in UTC, on any day:
// the service has no table of those that were inserted. Postgres counts no leap
// seconds, so that 23:59:60 is the second that follows, 00:00:00 of the next day,
// with its fraction kept. A deadline at a leap second therefore never passes
// early. In every other minute the second 60 does not exist.
//
// The time is in UTC.
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
