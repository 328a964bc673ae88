package gateway

import (
	"strconv"
	"strings"
)

// parseWhole reads a JSON value that is a whole number, in any spelling: 60000,
// 60000.0, 6e4 and 600000e-1 are the same. The arithmetic is decimal and exact. Its
// time depends on the length of the text, not on the number's size.
//
// whole is false for a number with a fraction, and for a value that is not a number.
// fits is false for a whole number beyond int64.
func parseWhole(raw string) (n int64, whole, fits bool) {
	if n, err := strconv.ParseInt(raw, 10, 64); err == nil {
		return n, true, true
	}
	if raw[0] != '-' && (raw[0] < '0' || raw[0] > '9') {
		return 0, false, false
	}
	mantissa, exponent := raw, ""
	if i := strings.IndexAny(raw, "eE"); i >= 0 {
		mantissa, exponent = raw[:i], raw[i+1:]
	}
	integer, fraction, _ := strings.Cut(strings.TrimPrefix(mantissa, "-"), ".")
	// The number is 0.DIGITS times ten to the power of places, with no zero at either end of DIGITS.
	digits := strings.TrimLeft(integer+fraction, "0")
	places := len(digits) - len(fraction)
	digits = strings.TrimRight(digits, "0")
	if digits == "" {
		return 0, true, true
	}
	if exponent != "" {
		const beyond = 1 << 40 // more than any text has digits, so that the exponent's sign alone decides
		e, err := strconv.ParseInt(exponent, 10, 64)
		if err != nil || e > beyond || e < -beyond {
			return 0, exponent[0] != '-', false
		}
		places += int(e)
	}
	const most = 19 // digits of an int64
	switch {
	case places < len(digits):
		return 0, false, false
	case places > most:
		return 0, true, false
	}
	if raw[0] == '-' {
		digits, places = "-"+digits, places+1
	}
	n, err := strconv.ParseInt(digits+strings.Repeat("0", places-len(digits)), 10, 64)
	return n, true, err == nil
}
