// Package telemetry is what the functions tell of themselves.
package telemetry

import (
	"io"
	"log/slog"
)

// NewLogger logs one JSON object a line to w, as CloudWatch Logs Insights reads
// it.
func NewLogger(w io.Writer, level slog.Level) *slog.Logger {
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level}))
}
