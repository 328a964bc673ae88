package delivery_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/delivery"
)

func TestCheckURL(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]struct{ plain, loopback bool }{
		"https://example.com/hooks?tenant=1":     {true, true},
		"https://example.com:8443":               {true, true},
		"https://93.184.215.14/":                 {true, true},
		"https://127.0.0.1:3000/":                {false, true},
		"http://[::1]:3000/":                     {false, true},
		"http://example.com/":                    {false, true}, // a name may resolve to loopback: it is checked when it is dialled
		"https://10.0.0.1/":                      {},
		"https://169.254.169.254/latest":         {},
		"https://[::ffff:10.0.0.1]/":             {},
		"https://[64:ff9b::a00:1]/":              {},
		"https://0x7f.1/":                        {},
		"https://user:hunter2@example.com/":      {},
		"https://example.com/#part":              {},
		"https://example.com/#":                  {},
		"ftp://example.com/":                     {},
		"https:///path":                          {},
		"https://example.com:0/":                 {},
		"example.com":                            {},
		"https://\u00e4.example.com/":            {},
		"https://example.com/hunter2/%zz":        {},
		"https://example.com:hunter2/":           {},
		"HTTPS://EXAMPLE.COM/":                   {true, true},
		"https://example.com/\x00hunter2":        {},
		"https://sub.example.com./hunter2/hooks": {true, true},
	} {
		for loopback, ok := range map[bool]bool{false: want.plain, true: want.loopback} {
			t.Run(address, func(t *testing.T) {
				err := delivery.CheckURL(address, loopback)
				require.Equal(t, ok, err == nil, "loopback %v: %v", loopback, err)
				if err != nil {
					require.NotContains(t, err.Error(), "hunter2")
				}
			})
		}
	}
}
