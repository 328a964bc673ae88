package delivery

import (
	"crypto/x509"
	"net"
	"net/netip"
	"time"
)

const (
	Concurrency = concurrency
	MaxBody     = maxBody
)

// Delays returns the delays of the schedule.
func Delays() []time.Duration { return delays[:] }

// Trust makes the sender accept the certificates of these authorities only.
func (s *HTTPSSender) Trust(roots *x509.CertPool) { s.roots = roots }

// Resolve makes the sender look up names with this resolver.
func (s *HTTPSSender) Resolve(resolver *net.Resolver) { s.resolver = resolver }

// Allow makes the sender permit these addresses for https, beside the public ones.
func (s *HTTPSSender) Allow(addresses ...netip.AddrPort) {
	s.allow = func(to netip.AddrPort) bool {
		for _, a := range addresses {
			if a == to {
				return true
			}
		}
		return false
	}
}

// LimitAttempt makes attempts end after this time.
func (s *HTTPSSender) LimitAttempt(timeout time.Duration) { s.timeout = timeout }

// Permits reports whether a sender's URL with this scheme may lead to the address.
func (s *HTTPSSender) Permits(scheme string, to netip.AddrPort) bool {
	return reach{s.Loopback, s.allow}.permits(scheme, to)
}

// Parse returns the error for a destination's address.
func (s *HTTPSSender) Parse(address string) error {
	_, err := reach{s.Loopback, s.allow}.parse(address)
	return err
}
