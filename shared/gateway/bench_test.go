package gateway_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/gateway"
)

func settlingHandler() *gateway.Handler {
	return &gateway.Handler{
		Operation: gateway.Resolve, Store: settling{}, MaxValueBytes: 1 << 20, Timeout: time.Second,
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
}

// A settlement takes few allocations without the database. The test does not run in
// parallel, because the allocations of other tests would count.
func TestResolveAllocations(t *testing.T) {
	for form, most := range map[string]float64{"http": 60, "http-key": 60, "http-key64": 60, "direct": 30} {
		t.Run(form, func(t *testing.T) {
			payload, err := os.ReadFile("../../events/resolve." + form + ".json")
			require.NoError(t, err)
			h := settlingHandler()
			got := testing.AllocsPerRun(100, func() {
				if _, err := h.Invoke(t.Context(), payload); err != nil {
					t.Error(err)
				}
			})
			require.LessOrEqual(t, got, most)
			require.Positive(t, got)
			t.Log(form, got)
		})
	}
}

// BenchmarkResolve measures a call from the event's bytes to the answer's bytes, without the database.
func BenchmarkResolve(b *testing.B) {
	for _, form := range []string{"http", "http-key", "http-key64", "direct"} {
		b.Run(form, func(b *testing.B) {
			payload, err := os.ReadFile("../../events/resolve." + form + ".json")
			if err != nil {
				b.Fatal(err)
			}
			h := settlingHandler()
			b.ReportAllocs()
			for b.Loop() {
				if _, err := h.Invoke(b.Context(), payload); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkResolveLarge measures an HTTP call with a value of a million bytes, without the database.
func BenchmarkResolveLarge(b *testing.B) {
	ofText := `{"value":"` + strings.Repeat("0123456789", 100_000) + `"}`
	ofObjects := `{"value":[` + strings.TrimSuffix(strings.Repeat(`{"id":"0123456789","count":12345,"tags":["a","b"]},`, 20_000), ",") + `]}`
	for name, c := range map[string]struct {
		body   string
		base64 bool
	}{
		"text": {ofText, false}, "text-base64": {ofText, true}, "objects": {ofObjects, false}, "objects-base64": {ofObjects, true},
	} {
		b.Run(name, func(b *testing.B) {
			sample, err := os.ReadFile("../../events/resolve.http.json")
			require.NoError(b, err)
			var event map[string]any
			require.NoError(b, json.Unmarshal(sample, &event))
			event["body"], event["isBase64Encoded"] = c.body, c.base64
			if c.base64 {
				event["body"] = base64.StdEncoding.EncodeToString([]byte(c.body))
			}
			payload, err := json.Marshal(event)
			require.NoError(b, err)
			h := settlingHandler()
			b.SetBytes(int64(len(payload)))
			b.ReportAllocs()
			for b.Loop() {
				answer, err := h.Invoke(b.Context(), payload)
				if err != nil || !bytes.HasPrefix(answer, []byte(`{"statusCode":200,`)) {
					b.Fatalf("%.1000s %v", answer, err)
				}
			}
		})
	}
}
