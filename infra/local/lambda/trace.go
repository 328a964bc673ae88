package lambda

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"regexp"
	"time"
)

var traceRoot = regexp.MustCompile(`Root=1-[0-9a-fA-F]{8}-[0-9a-fA-F]{24}`)

// NewTraceRoot makes the value of an X-Amzn-Trace-Id header: a new trace.
func NewTraceRoot() string {
	return fmt.Sprintf("Root=1-%08x-%s", time.Now().Unix(), randomHex(12))
}

// newTraceID is the trace header that a function is given: the caller's trace,
// or a new one, not sampled, with a segment of its own.
func newTraceID(from string) string {
	root := traceRoot.FindString(from)
	if root == "" {
		root = NewTraceRoot()
	}
	return root + ";Parent=" + randomHex(8) + ";Sampled=0;Lineage=1:" + randomHex(4) + ":0"
}

func randomHex(n int) string {
	b := make([]byte, n)
	rand.Read(b) //nolint:errcheck // never fails
	return hex.EncodeToString(b)
}
