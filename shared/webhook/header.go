package webhook

import (
	"strings"

	"github.com/flovyn/promises/shared/promise"
)

// Visible returns the headers that rules may see, and that may be stored. It leaves out
// credentials and signatures, which would let a reader send requests, and the headers
// that API Gateway, CloudFront and proxies add: they are not the sender's.
func Visible(v promise.SourceVerifier, header map[string]string) map[string]string {
	s, _ := schemeOf(v)
	visible := make(map[string]string, len(header))
	for name, value := range header {
		if !isHidden(name) && !s.proves(name) {
			visible[name] = value
		}
	}
	return visible
}

// proves reports whether a header has a signature or a credential of the scheme.
func (s *scheme) proves(name string) bool {
	for _, n := range s.names {
		if name == n.signature {
			return true
		}
	}
	return false
}

// hidden lists the headers that no rule sees, beside those with a signature.
var hidden = map[string]bool{"authorization": true, "proxy-authorization": true, "cookie": true, "forwarded": true, "via": true, "x-gitlab-token": true}

// isHidden reports whether no source shows a header. A sender may sign in more ways than
// the one that its source verifies, as GitHub does.
func isHidden(name string) bool {
	if hidden[name] || strings.Contains(name, "signature") || strings.Contains(name, "hmac") {
		return true
	}
	for _, prefix := range []string{"x-amzn-", "x-amz-", "x-forwarded-", "cloudfront-"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}
