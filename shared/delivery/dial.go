package delivery

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"code.dny.dev/ssrf"
)

// errNotPublic refuses an address. It does not name the address: the answer of an
// internal name server is no business of the tenant.
var errNotPublic = errors.New("the destination's address is not public")

// public refuses every address that is not public and unicast.
//
//   - IPv4: all of the IANA IPv4 Special-Purpose Address Registry, and multicast. So
//     loopback, private, shared (RFC 6598), link-local with the metadata address
//     169.254.169.254, documentation and reserved addresses.
//   - IPv6: all outside 2000::/3, and all of the IANA IPv6 Special-Purpose Address
//     Registry inside it. So loopback, unspecified, unique local with the metadata
//     address fd00:ec2::254, link-local, multicast, and the forms that carry an IPv4
//     address: mapped (::ffff:0:0/96), NAT64 (64:ff9b::/96 of RFC 6052 and
//     64:ff9b:1::/48 of RFC 8215), 6to4 (2002::/16) and Teredo (2001::/32).
//
// It cannot know a network's own NAT64 prefix inside 2000::/3 (RFC 6052, section 2.2),
// nor a public address that leads to an internal service.
var public = ssrf.New(ssrf.WithAnyNetwork(), ssrf.WithAnyPort())

// A reach is a rule for the addresses that a sender may connect to.
type reach struct {
	loopback bool                      // loopback addresses too, by https and http
	allow    func(netip.AddrPort) bool // more addresses for https; nil: none
}

// permits reports whether a URL with this scheme may lead to the address.
func (r reach) permits(scheme string, to netip.AddrPort) bool {
	if r.loopback && to.Addr().IsLoopback() {
		return true
	}
	return scheme == "https" && (r.allow != nil && r.allow(to) || public.Safe("", to.String(), nil) == nil)
}

// parse returns the URL of a destination, or an error that does not contain the URL,
// because a path or a query may hold a secret.
//
// The URL begins with https (or http, if the reach has loopback), and names a host in
// ASCII and no user. An IPv4 address has four decimal numbers: parse refuses the short,
// hexadecimal and octal forms that some resolvers accept (inet_aton), and host names
// that end in a number, as the URL Standard does. It refuses an address that the reach
// does not permit; a name is checked when it is dialled.
func (r reach) parse(address string) (*url.URL, error) {
	u, err := url.Parse(address)
	switch {
	case err != nil || u.Host == "" || u.Hostname() == "":
		return nil, errors.New("the destination's URL is malformed: send https://host/path")
	case u.Scheme != "https" && (u.Scheme != "http" || !r.loopback):
		return nil, errors.New("the destination's URL must begin with https://")
	case u.User != nil:
		return nil, errors.New("the destination's URL must not contain a user or a password")
	case strings.ContainsFunc(u.Host, func(c rune) bool { return c <= ' ' || c > '~' }):
		return nil, errors.New("the host of the destination's URL must be ASCII: send its Punycode form")
	}
	port, err := strconv.ParseUint(portOf(u), 10, 16)
	if err != nil || port == 0 {
		return nil, errors.New("the port of the destination's URL must be a number from 1 to 65535")
	}
	host := u.Hostname()
	ip, err := netip.ParseAddr(host)
	switch {
	case err == nil && !r.permits(u.Scheme, netip.AddrPortFrom(ip, uint16(port))):
		return nil, errNotPublic
	case err != nil && endsInNumber(host):
		return nil, errors.New("the host of the destination's URL is no name and no IPv4 address of four decimal numbers")
	}
	return u, nil
}

// portOf returns the port that the URL names, or its scheme's own.
func portOf(u *url.URL) string {
	switch {
	case u.Port() != "":
		return u.Port()
	case u.Scheme == "http":
		return "80"
	}
	return "443"
}

// endsInNumber reports whether the last label of the host is a number, decimal, octal or
// hexadecimal (URL Standard, "ends in a number checker"). No such top-level domain
// exists.
func endsInNumber(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	last := host[strings.LastIndexByte(host, '.')+1:]
	digits, isHex := strings.CutPrefix(last, "0x")
	if isHex {
		return strings.Trim(digits, "0123456789abcdef") == ""
	}
	return last != "" && strings.Trim(last, "0123456789") == ""
}

// newTransport returns a transport for one batch. Batches share no connection and no
// TLS session.
//
// It checks each address when it connects, after the name has been resolved: a name that
// has had a public address before, and has a private one now, is refused
// (DNS rebinding). It uses no proxy, speaks HTTP/1.1 over TLS 1.2 or later, verifies
// certificates, and does not decompress answers.
func newTransport(scheme string, to reach, roots *x509.CertPool, resolver *net.Resolver) *http.Transport {
	dialer := &net.Dialer{
		Timeout:  attemptTimeout,
		Resolver: resolver,
		Control: func(_, address string, _ syscall.RawConn) error {
			if ap, err := netip.ParseAddrPort(address); err != nil || !to.permits(scheme, ap) {
				return errNotPublic
			}
			return nil
		},
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Transport{
		DialContext:            dialer.DialContext,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
		TLSHandshakeTimeout:    attemptTimeout,
		Protocols:              protocols,
		DisableCompression:     true,
		MaxConnsPerHost:        concurrency,
		MaxIdleConnsPerHost:    concurrency,
		IdleConnTimeout:        time.Minute,
		MaxResponseHeaderBytes: maxHeader,
	}
}
