package webhook

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"io"
	"maps"
	"mime"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/flovyn/promises/shared/promise"
)

// A message is a request, read by the rules of a scheme.
type message struct {
	*scheme
	signatures []signature // at least one, if the algorithm is credential
	timestamp  string      // digits; empty if no header has it
	id         string
	urls       []string // that the sender may have signed; one empty URL if it signs none
	form       string   // the fields of a form
	query      string
	body       []byte
	hashed     bool // a comparison has hashed the signed bytes
}

// A signature is one of those in a header.
type signature struct {
	algorithm algorithm
	value     []byte
}

// The largest numbers of signatures. A sender signs with each of its keys, which are few:
// DocuSign has up to 100.
const (
	maxSignatures = 16
	maxNumbered   = 100
)

// maxDigits is the length of the longest timestamp. Its milliseconds fit into 64 bits.
const maxDigits = 18

// read returns the parts of a request that its sender signed, or a refusal.
func (s *scheme) read(r promise.WebhookRequest) (*message, Refusal) {
	m := &message{scheme: s, query: r.Query, body: r.Body, urls: s.signedURLs(r)}
	header, refusal := s.header(r)
	if refusal != "" {
		return nil, refusal
	}
	if header.id != "" {
		m.id = r.Header[header.id]
		if !isID(m.id) {
			return nil, Malformed
		}
	}
	if header.timestamp != "" {
		if m.timestamp, refusal = checkTimestamp(r.Header[header.timestamp]); refusal != "" {
			return nil, refusal
		}
	}
	if refusal := m.readSignatures(r, header.signature); refusal != "" {
		return nil, refusal
	}
	if strings.Contains(s.signed, "{form}") {
		if m.form, refusal = formOf(r); refusal != "" {
			return nil, refusal
		}
	}
	return m, ""
}

// header returns the names of the headers of which all are there.
func (s *scheme) header(r promise.WebhookRequest) (names, Refusal) {
	var first Refusal
	for _, n := range s.names {
		signature := n.signature
		if s.layout == numbered {
			signature += "1"
		}
		missing := Refusal("")
		switch {
		case r.Header[signature] == "":
			missing = MissingSignature
		case n.timestamp != "" && r.Header[n.timestamp] == "":
			missing = MissingTimestamp
		case n.id != "" && r.Header[n.id] == "":
			missing = MissingID
		default:
			return n, ""
		}
		if first == "" || first == MissingSignature {
			first = missing
		}
	}
	return names{}, first
}

// readSignatures reads the header with the signatures.
func (m *message) readSignatures(r promise.WebhookRequest, name string) Refusal {
	switch m.layout {
	case pairs:
		return m.readPairs(r.Header[name])
	case list:
		return m.readList(r.Header[name])
	case numbered:
		for n := 1; n <= maxNumbered; n++ {
			value := r.Header[name+strconv.Itoa(n)]
			if value == "" {
				break
			}
			if !m.add(m.algorithm, value) {
				return Malformed
			}
		}
		return ""
	default:
		value, ok := cutPrefix(r.Header[name], m.prefix, m.algorithm == credential)
		if !ok || !m.add(m.algorithm, value) {
			return Malformed
		}
		return ""
	}
}

// cutPrefix returns the text after the prefix. The name of an HTTP authentication scheme
// has no case (RFC 9110, section 11.1).
func cutPrefix(text, prefix string, fold bool) (string, bool) {
	if fold && len(text) >= len(prefix) && strings.EqualFold(text[:len(prefix)], prefix) {
		return strings.TrimLeft(text[len(prefix):], " "), true
	}
	return strings.CutPrefix(text, prefix)
}

// readPairs reads "t=1,v1=abc,v1=def". An unreadable signature beside another is
// skipped, as Stripe's libraries do.
func (m *message) readPairs(header string) Refusal {
	for more := true; more; {
		pair := header
		if i := strings.IndexAny(header, m.separator); i >= 0 {
			pair, header = header[:i], header[i+1:]
		} else {
			more = false
		}
		name, value, ok := strings.Cut(strings.TrimSpace(pair), "=")
		switch {
		case !ok || strings.Contains(value, "="):
			return Malformed
		case name == m.stamp && m.timestamp != "":
			return TwoTimestamps
		case name == m.stamp:
			var refusal Refusal
			if m.timestamp, refusal = checkTimestamp(value); refusal != "" {
				return refusal
			}
		case name == m.version:
			m.add(m.algorithm, value)
		}
		if len(m.signatures) > maxSignatures {
			return Malformed
		}
	}
	if m.timestamp == "" {
		return MissingTimestamp
	}
	return ""
}

// readList reads "v1,abc v1,def". A second comma in an element means that API Gateway
// joined two headers.
func (m *message) readList(header string) Refusal {
	for element := range strings.SplitSeq(header, " ") {
		version, value, _ := strings.Cut(element, ",")
		switch {
		case strings.Contains(value, ","):
			return Malformed
		case version == m.version:
			m.add(m.algorithm, value)
		case version == m.public:
			m.add(ed25519Sig, value)
		}
		if len(m.signatures) > maxSignatures {
			return Malformed
		}
	}
	return ""
}

// add decodes a signature and adds it. It reports whether the text can be decoded.
func (m *message) add(a algorithm, text string) bool {
	value, ok := m.encoding.decode(text)
	if ok {
		m.signatures = append(m.signatures, signature{a, value})
	}
	return ok
}

// decode returns the bytes that a text means, and reports whether there are any.
func (e encoding) decode(text string) ([]byte, bool) {
	if strings.ContainsAny(text, "\r\n") { // base64 skips them
		return nil, false
	}
	var value []byte
	var err error
	switch e {
	case hexadecimal:
		value, err = hex.DecodeString(text)
	case base64Std:
		value, err = base64.StdEncoding.Strict().DecodeString(text)
	case base64URL:
		value, err = base64.RawURLEncoding.Strict().DecodeString(strings.TrimRight(text, "="))
	default:
		value = []byte(text)
	}
	return value, err == nil && len(value) > 0
}

// checkTimestamp returns the timestamp in a header. Its characters are digits, so that
// none of them can be moved to the next part of what is signed.
func checkTimestamp(text string) (string, Refusal) {
	switch {
	case strings.Contains(text, ","):
		return "", TwoTimestamps
	case !isTimestamp(text):
		return "", Malformed
	}
	return text, ""
}

func isTimestamp(text string) bool {
	return text != "" && len(text) <= maxDigits && strings.Trim(text, "0123456789") == ""
}

// isID reports whether a text can be the id of a message. It has no period, because
// periods separate the signed parts: spec/standard-webhooks.md, "Signature scheme",
// demands this "to prevent certain attacks". A comma means that API Gateway joined two
// headers.
func isID(text string) bool {
	return !strings.ContainsFunc(text, func(c rune) bool { return c <= ' ' || c > '~' || c == '.' || c == ',' })
}

// write writes the signed bytes, for one of the URLs.
func (m *message) write(w io.Writer, url string) {
	rest := m.signed
	for {
		literal, after, found := strings.Cut(rest, "{")
		writeText(w, literal)
		if !found {
			return
		}
		var field string
		field, rest, _ = strings.Cut(after, "}")
		switch field {
		case "body":
			_, _ = w.Write(m.body) // neither a hash nor a buffer fails
		case "timestamp":
			writeText(w, m.timestamp)
		case "id":
			writeText(w, m.id)
		case "url":
			writeText(w, url)
		case "form":
			writeText(w, m.form)
		}
	}
}

func writeText(w io.Writer, text string) {
	if text != "" {
		_, _ = io.WriteString(w, text) // neither a hash nor a buffer fails
	}
}

// A buffer collects bytes.
type buffer []byte

func (b *buffer) Write(p []byte) (int, error) {
	*b = append(*b, p...)
	return len(p), nil
}

// signedURLs returns the URLs that the sender may have signed, with the query.
func (s *scheme) signedURLs(r promise.WebhookRequest) []string {
	if !strings.Contains(s.signed, "{url}") {
		return []string{""}
	}
	full := r.URL
	if r.Query != "" {
		full += "?" + r.Query
	}
	if !s.ports {
		return []string{full}
	}
	return []string{full, otherPort(full)}
}

// otherPort returns the URL without its port, or with the default port if it has none.
func otherPort(address string) string {
	start := strings.Index(address, "://") + len("://")
	if start < len("://") {
		return address
	}
	end := len(address)
	if i := strings.IndexAny(address[start:], "/?"); i >= 0 {
		end = start + i
	}
	host := address[start:end]
	if colon := strings.LastIndexByte(host, ':'); colon > strings.LastIndexByte(host, ']') {
		return address[:start+colon] + address[end:]
	}
	port := ":443"
	if strings.HasPrefix(address, "http:") {
		port = ":80"
	}
	return address[:end] + port + address[end:]
}

// formOf returns what Twilio signs of a body. Of a form, these are the names and values
// without separators, sorted; a value that a name has twice counts once. Another body is
// signed by its SHA-256 in the query, bodySHA256. If the query has it, the body must
// have this hash, whatever its type says: the type is not signed.
func formOf(r promise.WebhookRequest) (string, Refusal) {
	query, _ := url.ParseQuery(r.Query) // unreadable pairs are signed as a part of the URL
	if text := query.Get("bodySHA256"); text != "" {
		want, err := hex.DecodeString(text)
		got := sha256.Sum256(r.Body)
		if err != nil || subtle.ConstantTimeCompare(got[:], want) != 1 {
			return "", NoMatch
		}
		return "", ""
	}
	if len(r.Body) == 0 {
		return "", ""
	}
	media, _, err := mime.ParseMediaType(r.Header["content-type"])
	if err != nil || media != "application/x-www-form-urlencoded" {
		return "", Malformed
	}
	fields, err := url.ParseQuery(string(r.Body))
	if err != nil {
		return "", Malformed
	}
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		slices.Sort(fields[name])
		for _, value := range slices.Compact(fields[name]) {
			text.WriteString(name)
			text.WriteString(value)
		}
	}
	return text.String(), ""
}
