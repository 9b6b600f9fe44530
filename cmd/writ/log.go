package main

import (
	"io"
	"log/slog"
)

// newLogger logs as the configuration says. Both formats write the same values.
func newLogger(w io.Writer, c logConfig) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.Level)); err != nil { // checked with the configuration
		level = slog.LevelInfo
	}
	options := &slog.HandlerOptions{Level: level}
	if c.Format != "json" {
		return slog.New(slog.NewTextHandler(w, options))
	}
	options.ReplaceAttr = readableDuration
	return slog.New(slog.NewJSONHandler(w, options))
}

// readableDuration writes durations as the text format and the configuration do, "1m30s", not as a number whose unit one
// has to know.
func readableDuration(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		a.Value = slog.StringValue(a.Value.Duration().String())
	}
	return a
}
