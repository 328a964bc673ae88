package webhook_test

import (
	"strings"
	"testing"

	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/webhook"
)

// BenchmarkVerify verifies a valid request of each sender, and one without a source. The bodies are those of the tests, about 60 bytes,
// and for GitHub 20 kB.
func BenchmarkVerify(b *testing.B) {
	for _, s := range senders {
		r := s.request(now, s.secrets[0])
		if s.name == "github" {
			r.Body = []byte(strings.Repeat("0123456789abcdef", 1280))
			r.Header[s.headers[0]] = s.resign(r)
		}
		b.Run(strings.ReplaceAll(s.name, " ", "-"), func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(r.Body)))
			for b.Loop() {
				if _, err := webhook.Verify(s.verifier, s.secrets[:1], r, now); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	v, secrets := webhook.Decoy()
	r := promise.WebhookRequest{Body: []byte(strings.Repeat("0123456789abcdef", 1280))}
	b.Run("decoy", func(b *testing.B) {
		b.ReportAllocs()
		b.SetBytes(int64(len(r.Body)))
		for b.Loop() {
			if _, err := webhook.Verify(v, secrets, r, now); err == nil {
				b.Fatal("verified")
			}
		}
	})
}

// BenchmarkSegment checks the checksum of a URL.
func BenchmarkSegment(b *testing.B) {
	k := urlKey(b, urlKeyText)
	segment := k.Segment("acme", "stripe")
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := k.Parse("acme", segment); !ok {
			b.Fatal("refused")
		}
	}
}
