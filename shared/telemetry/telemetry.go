// Package telemetry writes the functions' logs and metrics.
package telemetry

import (
	"bytes"
	"io"
	"log"
	"log/slog"
)

// QuietFunctionErrors makes the standard logger drop the lines in which aws-lambda-go
// quotes a whole function error, with names that the caller chose. The code that
// creates an error logs it instead. Call QuietFunctionErrors after slog.SetDefault,
// which changes the standard logger.
func QuietFunctionErrors() { log.SetOutput(quiet{log.Writer()}) }

type quiet struct{ io.Writer }

func (q quiet) Write(line []byte) (int, error) {
	if bytes.HasPrefix(line, []byte(`{"errorMessage":`)) {
		return len(line), nil
	}
	return q.Writer.Write(line)
}

// NewLogger returns a logger that writes one JSON object per line to w, a format that
// CloudWatch Logs Insights reads.
func NewLogger(w io.Writer, level slog.Level) *slog.Logger {
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level}))
}
