package delivery_test

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/flovyn/promises/shared/delivery"
	"github.com/flovyn/promises/shared/skip"
)

// notPublic lists an address of each kind that no destination may have.
var notPublic = map[string]string{
	"loopback":                        "127.0.0.1",
	"loopback, the last address":      "127.255.255.254",
	"private 10":                      "10.0.0.1",
	"private 172.16":                  "172.31.255.254",
	"private 192.168":                 "192.168.1.1",
	"shared, carrier-grade NAT":       "100.64.0.1",
	"link-local":                      "169.254.0.1",
	"metadata":                        "169.254.169.254",
	"metadata of ECS tasks":           "169.254.170.2",
	"multicast":                       "224.0.0.1",
	"unspecified":                     "0.0.0.0",
	"this network":                    "0.1.2.3",
	"broadcast":                       "255.255.255.255",
	"reserved":                        "240.0.0.1",
	"protocol assignments":            "192.0.0.1",
	"documentation":                   "203.0.113.1",
	"benchmarking":                    "198.18.0.1",
	"6to4 relay":                      "192.88.99.1",
	"IPv6 loopback":                   "::1",
	"IPv6 unspecified":                "::",
	"IPv6 unique local":               "fc00::1",
	"IPv6 metadata":                   "fd00:ec2::254",
	"IPv6 link-local":                 "fe80::1",
	"IPv6 link-local with a zone":     "fe80::1%lo",
	"IPv6 public with a zone":         "2606:4700:4700::1111%lo",
	"IPv6 site-local":                 "fec0::1",
	"IPv6 multicast":                  "ff02::1",
	"IPv6 documentation":              "2001:db8::1",
	"IPv6 documentation, the new one": "3fff::1",
	"IPv6 discard-only":               "100::1",
	"IPv4-mapped private":             "::ffff:10.0.0.1",
	"IPv4-mapped metadata":            "::ffff:169.254.169.254",
	"IPv4-mapped public":              "::ffff:8.8.8.8",
	"IPv4-compatible":                 "::10.0.0.1",
	"IPv4-translated":                 "::ffff:0:10.0.0.1",
	"NAT64 private":                   "64:ff9b::10.0.0.1",
	"NAT64 metadata":                  "64:ff9b::169.254.169.254",
	"local NAT64":                     "64:ff9b:1::10.0.0.1",
	"6to4":                            "2002:a00:1::1",
	"Teredo":                          "2001:0:a00:1::1",
}

// isPublic lists addresses that a destination may have.
var isPublic = []string{
	"1.1.1.1", "8.8.8.8", "52.94.236.248", "100.63.255.255", "100.128.0.0", "126.255.255.255", "128.0.0.1", "172.15.255.255", "172.32.0.0", "223.255.255.255",
	"2606:4700:4700::1111", "2600:1f00::1", "2a05:d000::1",
}

func TestOnlyPublicAddressesArePermitted(t *testing.T) {
	t.Parallel()
	for name, address := range notPublic {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := netip.MustParseAddr(address)
			for _, scheme := range []string{"https", "http"} {
				require.False(t, (&delivery.HTTPSSender{}).Permits(scheme, netip.AddrPortFrom(a, 443)))
				require.Equal(t, a.IsLoopback(), (&delivery.HTTPSSender{Loopback: true}).Permits(scheme, netip.AddrPortFrom(a, 443)), "the local runner reaches loopback")
			}
		})
	}
	for _, address := range isPublic {
		t.Run(address, func(t *testing.T) {
			t.Parallel()
			to := netip.AddrPortFrom(netip.MustParseAddr(address), 8443)
			require.True(t, (&delivery.HTTPSSender{}).Permits("https", to))
			require.False(t, (&delivery.HTTPSSender{}).Permits("http", to))
			require.False(t, (&delivery.HTTPSSender{Loopback: true}).Permits("http", to), "http leads to loopback only")
		})
	}
}

// net/netip agrees: no permitted address is loopback, private, link-local, multicast or unspecified, nor carries an IPv4 address. Each
// IPv4 address that is refused by itself is refused in every form.
func TestNoFormOfAnAddressIsPermitted(t *testing.T) {
	t.Parallel()
	sender := &delivery.HTTPSSender{}
	permits := func(a netip.Addr) bool { return sender.Permits("https", netip.AddrPortFrom(a, 443)) }
	rapid.Check(t, func(t *rapid.T) {
		var four [4]byte
		copy(four[:], rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "IPv4"))
		var six [16]byte
		copy(six[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "IPv6"))
		six[0] = rapid.SampledFrom([]byte{0, 0x20, 0x26, 0x2a, 0xfc, 0xfd, 0xfe, 0xff, six[0]}).Draw(t, "first")
		for _, a := range []netip.Addr{netip.AddrFrom4(four), netip.AddrFrom16(six)} {
			if a.IsLoopback() || a.IsPrivate() || a.IsLinkLocalUnicast() || a.IsMulticast() || a.IsUnspecified() || !a.IsGlobalUnicast() {
				require.False(t, permits(a), "%s", a)
			}
		}
		for _, prefix := range []string{"::", "::ffff:0:0", "::ffff:0:0:0", "64:ff9b::", "64:ff9b:1::"} {
			carrier := netip.MustParseAddr(prefix).As16()
			copy(carrier[12:], four[:])
			require.False(t, permits(netip.AddrFrom16(carrier)), "%s", netip.AddrFrom16(carrier))
		}
		for _, prefix := range []string{"2002::", "2001::"} {
			carrier := netip.MustParseAddr(prefix).As16()
			copy(carrier[2:], four[:])
			if prefix == "2001::" {
				copy(carrier[2:], []byte{0, 0})
				copy(carrier[4:], four[:])
			}
			require.False(t, permits(netip.AddrFrom16(carrier)), "%s", netip.AddrFrom16(carrier))
		}
	})
}

func TestURLs(t *testing.T) {
	t.Parallel()
	const notAddress = "the destination's address is not public"
	for _, c := range []struct{ url, detail string }{
		{"https://example.com/hook?key=s3cret", ""},
		{"HTTPS://EXAMPLE.COM", ""},
		{"https://example.com:8443/", ""},
		{"https://example.com.:443/", ""},
		{"https://8.8.8.8/", ""},
		{"https://[2606:4700:4700::1111]:8443/", ""},
		{"https://xn--mnchen-3ya.example/", ""},
		{"https://0xample.com/", ""},
		{"https://example.0xyz/", ""},

		{"", "malformed"},
		{"example.com", "malformed"},
		{"https://", "malformed"},
		{"https://:443/", "malformed"},
		{"https:example.com", "malformed"},
		{"https:///path", "malformed"},
		{"https://s3cret%zz.example/", "malformed"},
		{"https://example.com:s3cret/", "malformed"},
		{"https://%31%32%37.0.0.1/", "malformed"},
		{"http://example.com/", "begin with https://"},
		{"ftp://example.com/", "begin with https://"},
		{"file://host/etc/passwd", "begin with https://"},
		{"https://user:s3cret@example.com/", "user or a password"},
		{"https://example.com@127.0.0.1/", "user or a password"},
		{"https://example.com:0/", "port"},
		{"https://example.com:65536/", "port"},
		{"https://münchen.example/", "ASCII"},
		{"https://１２７.０.０.１/", "ASCII"},
		{"https://127。0。0。1/", "ASCII"},
		{"https://127.0.0.1/", notAddress},
		{"https://[::1]/", notAddress},
		{"https://[::ffff:169.254.169.254]/", notAddress},
		{"https://[64:ff9b::a9fe:a9fe]/", notAddress},
		{"https://[fe80::1%25lo]/", notAddress},
		{"https://169.254.169.254/latest/meta-data/", notAddress},
		{"https://2130706433/", "four decimal numbers"},
		{"https://127.1/", "four decimal numbers"},
		{"https://127.0.1/", "four decimal numbers"},
		{"https://0177.0.0.1/", "four decimal numbers"},
		{"https://017700000001/", "four decimal numbers"},
		{"https://0x7f000001/", "four decimal numbers"},
		{"https://0X7F.1/", "four decimal numbers"},
		{"https://0x7f.0.0.0x1/", "four decimal numbers"},
		{"https://127.0.0.0x/", "four decimal numbers"},
		{"https://127.0.0.1./", "four decimal numbers"},
		{"https://8.8.8.08/", "four decimal numbers"},
		{"https://example.1/", "four decimal numbers"},
	} {
		t.Run(c.url, func(t *testing.T) {
			t.Parallel()
			err := (&delivery.HTTPSSender{}).Parse(c.url)
			if c.detail == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, c.detail)
			require.NotContains(t, err.Error(), "s3cret")
			result := sendOne(t, &delivery.HTTPSSender{}, c.url)
			require.Equal(t, delivery.Refused, result.Outcome)
			require.Equal(t, err.Error(), result.Error)
		})
	}
}

// A name that has only addresses that are not public is refused when it is dialled: the attempt fails, because the name's owner can repair
// it. No connection is opened.
func TestNamesOfPrivateAddresses(t *testing.T) {
	t.Parallel()
	names := map[string][][]netip.Addr{}
	for name, address := range notPublic {
		if a := netip.MustParseAddr(address); a.Zone() == "" && a != netip.MustParseAddr("::ffff:8.8.8.8") { // the resolver unmaps it: it is public
			names[hostOf(name)] = [][]netip.Addr{{a}}
		}
	}
	sender := &delivery.HTTPSSender{}
	sender.Resolve(resolver(t, names))
	for name := range notPublic {
		if _, used := names[hostOf(name)]; !used {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, delivery.Result{ID: "0", Outcome: delivery.Failed, Error: "the destination's address is not public"},
				sendOne(t, sender, "https://"+hostOf(name)+"/"))
		})
	}
	t.Run("a name without an address", func(t *testing.T) {
		t.Parallel()
		require.Equal(t, delivery.Result{ID: "0", Outcome: delivery.Failed, Error: "the destination's name has no address"}, sendOne(t, sender, "https://unknown.test./"))
	})
}

// hostOf returns a host name for the name of a case.
func hostOf(name string) string {
	host := []byte(name)
	for i, c := range host {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') {
			host[i] = '-'
		}
	}
	return string(host) + ".test."
}

// twoReceivers starts two https servers on one port: one on the permitted address 127.0.0.1, one on 127.0.0.2, which counts connections.
func twoReceivers(t *testing.T) (port string, sender *delivery.HTTPSSender, forbidden *atomic.Int32) {
	t.Helper()
	server, sender := serve(t, func(http.ResponseWriter, *http.Request) {})
	port = portOf(server)
	listener, err := net.Listen("tcp4", "127.0.0.2"+port)
	if err != nil {
		skip.Now(t, "this machine has no address 127.0.0.2: "+err.Error())
	}
	forbidden = new(atomic.Int32)
	other := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	other.Config.ErrorLog = quiet
	other.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			forbidden.Add(1)
		}
	}
	_ = other.Listener.Close()
	other.Listener = listener
	other.StartTLS()
	t.Cleanup(other.Close)
	return port, sender, forbidden
}

// A name that resolves to a permitted address first, and to another one later, is refused: the sender checks the address that it connects
// to. The certificate is valid for example.com.
func TestDNSRebinding(t *testing.T) {
	t.Parallel()
	permitted, other := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2")
	port, sender, forbidden := twoReceivers(t)
	sender.Resolve(resolver(t, map[string][][]netip.Addr{"example.com.": {{permitted}, {other}, {permitted}}}))

	require.Equal(t, delivery.Result{ID: "0", Outcome: delivery.Delivered, Status: 200}, sendOne(t, sender, "https://example.com"+port))
	require.Equal(t, delivery.Result{ID: "0", Outcome: delivery.Failed, Error: "the destination's address is not public"}, sendOne(t, sender, "https://example.com"+port))
	require.Equal(t, delivery.Delivered, sendOne(t, sender, "https://example.com"+port).Outcome)
	require.Zero(t, forbidden.Load())
}

// If a name has a permitted address that refuses the connection and one that is not permitted, the second one is not tried.
func TestNameOfAPublicAndAPrivateAddress(t *testing.T) {
	t.Parallel()
	port, sender, forbidden := twoReceivers(t)
	closed := netip.MustParseAddr("127.0.0.3")
	to := netip.MustParseAddrPort("127.0.0.3" + port)
	sender.Allow(to)
	sender.Resolve(resolver(t, map[string][][]netip.Addr{"example.com.": {{closed, netip.MustParseAddr("127.0.0.2")}}}))
	require.Equal(t, delivery.Failed, sendOne(t, sender, "https://example.com"+port).Outcome)
	require.Zero(t, forbidden.Load())
}

// The local runner's sender delivers to loopback over http, by address and by name. Any other sender does not.
func TestLoopback(t *testing.T) {
	t.Parallel()
	var requests atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		requests.Add(1)
	}))
	t.Cleanup(server.Close)
	local, deployed := &delivery.HTTPSSender{Loopback: true}, &delivery.HTTPSSender{}
	require.Equal(t, delivery.Delivered, sendOne(t, local, server.URL).Outcome)
	require.Equal(t, delivery.Delivered, sendOne(t, local, "http://localhost"+portOf(server)).Outcome)
	require.EqualValues(t, 2, requests.Load())
	require.Equal(t, delivery.Refused, sendOne(t, deployed, server.URL).Outcome)
	require.Equal(t, delivery.Failed, sendOne(t, deployed, "https://localhost"+portOf(server)).Outcome)

	local.Resolve(resolver(t, map[string][][]netip.Addr{"public.test.": {{netip.MustParseAddr("8.8.8.8")}}}))
	require.Equal(t, delivery.Result{ID: "0", Outcome: delivery.Failed, Error: "the destination's address is not public"},
		sendOne(t, local, "http://public.test./"), "http leads to loopback only")
	require.EqualValues(t, 2, requests.Load())
}
