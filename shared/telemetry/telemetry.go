// Package telemetry is what the functions tell of themselves.
package telemetry

import (
	"bytes"
	"io"
	"log"
	"log/slog"
)

// QuietFunctionErrors drops the lines of the standard logger in which aws-lambda-go
// quotes function errors whole, with names that the caller chose. The code that makes
// an error logs it. Call it after slog.SetDefault, which changes the standard logger.
func QuietFunctionErrors() { log.SetOutput(quiet{log.Writer()}) }

type quiet struct{ io.Writer }

func (q quiet) Write(line []byte) (int, error) {
	if bytes.HasPrefix(line, []byte(`{"errorMessage":`)) {
		return len(line), nil
	}
	return q.Writer.Write(line)
}

// NewLogger logs one JSON object a line to w, as CloudWatch Logs Insights reads
// it.
func NewLogger(w io.Writer, level slog.Level) *slog.Logger {
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level}))
}
