package webhook

import (
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/flovyn/promises/shared/promise"
)

// The limits of a verifier.
const (
	maxTolerance = 24 * 60 * 60 // seconds
	maxHeader    = 100          // characters of a header's name
	maxPrefix    = 64
	maxSigned    = 256
	maxUser      = 255
	maxURL       = 2048
)

// CheckVerifier returns a *promise.Error unless a source can have the verifier and the
// public URL. address is empty if the source has no URL of its own, and is refused if the
// sender does not sign it. The error's field is verifier, a member of it such as
// verifier.hmac.header, or url.
func CheckVerifier(v promise.SourceVerifier, address string) error {
	if members(v) != 1 {
		return inField("verifier", promise.CodeOutOfRange, "verifier must have exactly one of preset, hmac, bearer and basic.")
	}
	if err := checkKind(v); err != nil {
		return err
	}
	if address == "" {
		return nil
	}
	if s, _ := schemeOf(v); !strings.Contains(s.signed, "{url}") {
		return inField("url", promise.CodeOutOfRange, "url is for senders that sign the public URL: square, twilio, and hmac with {url} in signed. Leave it out.")
	}
	if !isPublicURL(address) {
		return inField("url", promise.CodeOutOfRange, "url must be the public URL that the sender calls, with https and a host, at most "+
			strconv.Itoa(maxURL)+" bytes, in ASCII, and without user, query and fragment. http is for a loopback address only.")
	}
	return nil
}

func inField(field string, code promise.Code, detail string) error {
	return &promise.Error{Code: code, Field: field, Detail: detail}
}

// members returns the number of the verifier's members that are set. toleranceSeconds
// does not count.
func members(v promise.SourceVerifier) int {
	n := 0
	for _, set := range [...]bool{v.Preset != "", v.HMAC != nil, v.Bearer != nil, v.Basic != nil} {
		if set {
			n++
		}
	}
	return n
}

// checkKind checks the one member of the verifier that is set.
func checkKind(v promise.SourceVerifier) error {
	switch {
	case v.Preset != "":
		return checkPreset(v)
	case v.ToleranceSeconds != nil && v.HMAC != nil:
		return inField("verifier.toleranceSeconds", promise.CodeOutOfRange, "verifier.toleranceSeconds is for presets. Send verifier.hmac.toleranceSeconds.")
	case v.ToleranceSeconds != nil:
		return inField("verifier.toleranceSeconds", promise.CodeOutOfRange, "bearer and basic have no timestamp. Leave toleranceSeconds out.")
	case v.HMAC != nil:
		return checkHMAC(*v.HMAC)
	case v.Basic != nil:
		return checkUser(v.Basic.User)
	}
	return nil
}

func checkPreset(v promise.SourceVerifier) error {
	s, ok := presets[v.Preset]
	switch {
	case !ok:
		return inField("verifier.preset", promise.CodeOutOfRange, "verifier.preset must be "+orList(Presets())+".")
	case v.ToleranceSeconds == nil:
		return nil
	case !s.hasTimestamp():
		return inField("verifier.toleranceSeconds", promise.CodeOutOfRange, "A request of "+v.Preset+" has no timestamp. Leave toleranceSeconds out.")
	}
	return checkTolerance("verifier.toleranceSeconds", *v.ToleranceSeconds)
}

// hasTimestamp reports whether requests have a timestamp that can be too old.
func (s *scheme) hasTimestamp() bool {
	return s.member != "" || strings.Contains(s.signed, "{timestamp}")
}

func checkTolerance(field string, seconds int) error {
	if seconds < 0 || seconds > maxTolerance {
		return inField(field, promise.CodeOutOfRange, "toleranceSeconds must be between 0 (any time) and "+strconv.Itoa(maxTolerance)+".")
	}
	return nil
}

func checkHMAC(h promise.HMACVerifier) error {
	const at = "verifier.hmac."
	timestamp := strings.Contains(h.Signed, "{timestamp}")
	switch {
	case h.Algorithm != string(hmacSHA1) && h.Algorithm != string(hmacSHA256) && h.Algorithm != string(hmacSHA512):
		return inField(at+"algorithm", promise.CodeOutOfRange, "verifier.hmac.algorithm must be sha1, sha256 or sha512.")
	case !isHeader(h.Header):
		return inField(at+"header", promise.CodeOutOfRange, "verifier.hmac.header must be the name of the header with the signature, in lower case, such as x-signature.")
	case len(h.Prefix) > maxPrefix || !isPrintable(h.Prefix):
		return inField(at+"prefix", promise.CodeOutOfRange, "verifier.hmac.prefix may have at most 64 printable ASCII characters, such as sha256=.")
	case h.Encoding != string(hexadecimal) && h.Encoding != string(base64Std) && h.Encoding != string(base64URL):
		return inField(at+"encoding", promise.CodeOutOfRange, "verifier.hmac.encoding must be hex, base64 or base64url.")
	case len(h.Signed) > maxSigned || !isPrintable(h.Signed) || !strings.Contains(h.Signed, "{body}") || !hasOnlyFields(h.Signed):
		return inField(at+"signed", promise.CodeOutOfRange,
			"verifier.hmac.signed must contain {body}, and may contain {timestamp}, {url} and other printable ASCII characters but braces; at most 256 characters.")
	case timestamp && h.TimestampHeader == "":
		return inField(at+"timestampHeader", promise.CodeMissingField, "verifier.hmac.timestampHeader is required, because verifier.hmac.signed has {timestamp}.")
	case !timestamp && h.TimestampHeader != "":
		return inField(at+"timestampHeader", promise.CodeOutOfRange,
			"verifier.hmac.timestampHeader is of no use if nothing signs it. Add {timestamp} to verifier.hmac.signed, or leave it out.")
	case timestamp && (!isHeader(h.TimestampHeader) || h.TimestampHeader == h.Header):
		return inField(at+"timestampHeader", promise.CodeOutOfRange,
			"verifier.hmac.timestampHeader must be the name of another header, in lower case, such as x-timestamp.")
	case h.ToleranceSeconds == nil:
		return nil
	case !timestamp:
		return inField(at+"toleranceSeconds", promise.CodeOutOfRange, "verifier.hmac.toleranceSeconds needs a timestampHeader. Leave it out.")
	}
	return checkTolerance(at+"toleranceSeconds", *h.ToleranceSeconds)
}

// hasOnlyFields reports whether each brace of a template belongs to a field that hmac
// knows.
func hasOnlyFields(template string) bool {
	for {
		literal, after, found := strings.Cut(template, "{")
		if !found || strings.Contains(literal, "}") {
			return !strings.Contains(literal, "}")
		}
		name, rest, closed := strings.Cut(after, "}")
		if !closed || name != "body" && name != "timestamp" && name != "url" {
			return false
		}
		template = rest
	}
}

// isHeader reports whether a text is a header's name in lower case: a token of RFC 9110,
// section 5.6.2.
func isHeader(name string) bool {
	return name != "" && len(name) <= maxHeader && strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+-.^_`|~") == ""
}

func isPrintable(text string) bool {
	return !strings.ContainsFunc(text, func(c rune) bool { return c < ' ' || c > '~' })
}

// checkUser checks the user of HTTP's basic authentication (RFC 7617, section 2).
func checkUser(user string) error {
	if user == "" || len(user) > maxUser || !isPrintable(user) || strings.Contains(user, ":") {
		return inField("verifier.basic.user", promise.CodeOutOfRange, "verifier.basic.user must have 1 to 255 printable ASCII characters, and no colon.")
	}
	return nil
}

func isPublicURL(address string) bool {
	u, err := url.Parse(address)
	if err != nil || len(address) > maxURL || !isPrintable(address) || strings.ContainsAny(address, " ?#") || u.User != nil || u.Hostname() == "" {
		return false
	}
	return u.Scheme == "https" || u.Scheme == "http" && isLoopback(u.Hostname())
}

func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// orList returns "a, b or c".
func orList(names []string) string {
	last := len(names) - 1
	return strings.Join(slices.Clone(names[:last]), ", ") + " or " + names[last]
}
