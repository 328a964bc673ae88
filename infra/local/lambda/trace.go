package lambda

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"regexp"
	"time"
)

var traceRoot = regexp.MustCompile(`Root=1-[0-9a-fA-F]{8}-[0-9a-fA-F]{24}`)

// NewTraceRoot returns the X-Amzn-Trace-Id header of a new trace.
func NewTraceRoot() string {
	return fmt.Sprintf("Root=1-%08x-%s", time.Now().Unix(), randomHex(12))
}

// newTraceID returns the trace header for one invocation. It continues the caller's
// trace, or starts a new one, with a new segment and without sampling.
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
