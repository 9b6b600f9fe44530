package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/writ-auth/writ/ca"
)

// TestLogFormats: a value is the same text in both formats.
func TestLogFormats(t *testing.T) {
	t.Parallel()
	serial, err := ca.ParseSerial("0a")
	if err != nil {
		t.Fatal(err)
	}
	write := func(format string) string {
		var out bytes.Buffer
		newLogger(&out, logConfig{Level: "info", Format: format}).With("left", time.Hour).Info("m",
			"took", 1500*time.Millisecond, "serial", serial, slog.Group("caller", "age", time.Second), "error", errors.New("no"))
		return out.String()
	}
	const serialText = "0000000000000000000000000000000a"
	var line struct {
		Left, Took, Serial, Error string
		Caller                    struct{ Age string }
	}
	if err := json.Unmarshal([]byte(write("json")), &line); err != nil {
		t.Fatalf("%v: %s", err, write("json"))
	}
	if line.Left != "1h0m0s" || line.Took != "1.5s" || line.Serial != serialText || line.Caller.Age != "1s" || line.Error != "no" {
		t.Errorf("json: %+v", line)
	}
	if want := "left=1h0m0s took=1.5s serial=" + serialText + " caller.age=1s error=no"; !strings.Contains(write("text"), want) {
		t.Errorf("text: %s, want %s", write("text"), want)
	}
}
