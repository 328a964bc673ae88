package gateway

import (
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// FuzzParseWhole compares parseWhole with the fractions of math/big.
func FuzzParseWhole(f *testing.F) {
	for _, s := range []string{
		"0", "-0", "0.0", "-0.0e5", "0e99999999999999999999", "60000", "6e4", "6E+4", "60000.0", "6.0e4", "600000e-1", "0.06e6", "-6e4",
		"0.5", "1e-1", "1.5e0", "15e-1", "9007199254740993", "9007199254740993.0", "900719925474099.3e1", "9007199254740992.5",
		"9223372036854775807", "9223372036854775807.0", "9223372036854775808.0", "-9223372036854775808e0", "-9.223372036854775809e18",
		"1e18", "1e19", "1e400", "-1e400", "1e-400", "1e9223372036854775807", "1e9223372036854775808", "1e-9223372036854775808",
		"1" + strings.Repeat("0", 300) + "e-300", "0." + strings.Repeat("0", 300) + "1e301", strings.Repeat("9", 400), `"6"`, "null", "true", "{}",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		if !isJSONValue(raw) {
			return
		}
		n, whole, fits := parseWhole(raw)
		if raw[0] != '-' && (raw[0] < '0' || raw[0] > '9') {
			require.False(t, whole)
			return
		}
		mantissa, exponent, _ := strings.Cut(strings.ToLower(raw), "e")
		if e, err := strconv.Atoi("0" + strings.TrimLeft(exponent, "+-0")); err != nil || e > 5000 {
			if strings.ContainsAny(mantissa, "123456789") && len(raw) < 5000 {
				require.Equal(t, exponent[0] != '-', whole, raw)
				require.False(t, fits, raw)
			}
			return // math/big would allocate each digit of the number
		}
		want, ok := new(big.Rat).SetString(raw)
		require.True(t, ok, raw)
		require.Equal(t, want.IsInt(), whole, raw)
		require.Equal(t, want.IsInt() && want.Num().IsInt64(), fits, raw)
		if fits {
			require.Equal(t, want.Num().Int64(), n, raw)
		}
	})
}

// isJSONValue reports whether raw is one JSON value without space around it.
func isJSONValue(raw string) bool {
	o, err := parseObject([]byte(`{"a":`+raw+`}`), []string{"a"})
	return err == nil && len(o) == 1 && string(o[0].Raw) == raw
}

func TestParseWhole(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]int64{
		"6e4": 60000, "60000.0": 60000, "6.0e4": 60000, "600000e-1": 60000, "-0": 0, "0e99999999999999999999": 0,
		"9007199254740993": 9007199254740993, "900719925474099.3e1": 9007199254740993, "-9223372036854775808.0": math.MinInt64,
	} {
		t.Run(fmt.Sprint(raw, " is ", want), func(t *testing.T) {
			n, whole, fits := parseWhole(raw)
			require.True(t, whole && fits)
			require.Equal(t, want, n)
		})
	}
	for _, raw := range []string{"0.5", "1e-400", "9007199254740992.5", "1e-99999999999999999999", `"1"`, "null", "true", "[1]"} {
		t.Run(raw+" is no whole number", func(t *testing.T) {
			_, whole, _ := parseWhole(raw)
			require.False(t, whole)
		})
	}
	for _, raw := range []string{"1e400", "-1e400", "9223372036854775808.0", "1e99999999999999999999"} {
		t.Run(raw+" is whole and does not fit into 64 bits", func(t *testing.T) {
			_, whole, fits := parseWhole(raw)
			require.True(t, whole && !fits)
		})
	}
}

func TestParseTime(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ text, want string }{
		"lower-case t and z":                        {"2031-06-19t08:30:06.283185z", "2031-06-19T08:30:06.283185Z"},
		"an offset":                                 {"2031-06-19T08:30:06+05:30", "2031-06-19T03:00:06Z"},
		"a leap second":                             {"2016-12-31T23:59:60Z", "2017-01-01T00:00:00Z"},
		"a fraction of a leap second":               {"2016-12-31t23:59:60.25z", "2017-01-01T00:00:00.25Z"},
		"a leap second west of Greenwich":           {"1998-12-31T15:59:60.123-08:00", "1999-01-01T00:00:00.123Z"},
		"a leap second with an offset in minutes":   {"2017-01-01T09:14:60+09:15", "2017-01-01T00:00:00Z"},
		"a leap second on a day without one":        {"2028-02-28T23:59:60Z", "2028-02-29T00:00:00Z"},
		"a leap second at the end of the year 9999": {"9999-12-31T23:59:60Z", "10000-01-01T00:00:00Z"},
	} {
		t.Run("accepts "+name, func(t *testing.T) {
			at, ok := parseTime(c.text)
			require.True(t, ok)
			require.Equal(t, c.want, at.Format(time.RFC3339Nano))
			require.Equal(t, time.UTC, at.Location())
		})
	}
	for name, text := range map[string]string{
		"second 61":                       "2016-12-31T23:59:61Z",
		"second 60 before the hour's end": "2016-12-31T23:58:60Z",
		"second 60 before the day's end":  "2016-12-31T22:59:60Z",
		"minute 60":                       "2016-12-31T23:60:00Z",
		"hour 24":                         "2016-12-31T24:00:00Z",
		"second 60 at 22:59 UTC":          "2016-12-31T23:59:60+01:00",
		"second 60 at 07:59 UTC":          "2016-12-31T23:59:60-08:00",
		"second 60 on day 32":             "2016-12-32T23:59:60Z",
		"second 60 on 30 February":        "2016-02-30T23:59:60Z",
		"second 60 without an offset":     "2016-12-31T23:59:60",
		"a space between date and time":   "2016-12-31 23:59:59Z",
		"a comma before the fraction":     "2016-12-31T23:59:59,5Z",
		"a digit after the z":             "2016-12-31T23:59:59z0",
		"an offset of 24 hours":           "2016-12-31T23:59:59+24:00",
		"an empty text":                   "",
		"the basic format of ISO 8601":    "20161231T235959Z",
	} {
		t.Run("refuses "+name, func(t *testing.T) {
			_, ok := parseTime(text)
			require.False(t, ok, text)
		})
	}
}

func TestIsJSON(t *testing.T) {
	t.Parallel()
	for _, contentType := range []string{
		"application/json", "Application/JSON; Charset=UTF-8", "application/cloudevents+json", "", " ",
		"application/json;", "application/json ; ", "application/json; charset=utf8", "application/json;charset=us-ascii",
		`application/json; charset="utf-8"`, "application/json; charset", "application/json;;", "application/json, application/json",
		"application/json; charset=utf-8,application/json; charset=utf-8", "application/json,", `application/json; profile="a,b"`,
		"application/vnd.api+json; ext=x",
	} {
		t.Run(fmt.Sprintf("accepts %q", contentType), func(t *testing.T) {
			require.True(t, isJSON(contentType))
		})
	}
	for _, contentType := range []string{
		"text/plain", "application/x-www-form-urlencoded", "application/jsonx", ";", "json",
		"application/json; charset=latin1", "application/json;charset=utf-16", "multipart/form-data; boundary=x",
		"application/json, text/plain", "text/plain, application/json", "application/json; charset=utf-8, text/plain",
		"application/json, application/json; charset=latin1", "text/html;",
	} {
		t.Run(fmt.Sprintf("refuses %q", contentType), func(t *testing.T) {
			require.False(t, isJSON(contentType))
		})
	}
}
