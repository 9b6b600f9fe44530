//go:build unix

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestPipesAreNotOpened: a pipe among documents or tests is said to be one, and nobody waits for what comes out of it.
func TestPipesAreNotOpened(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "none.yaml"), []byte("# none\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"pipe.yaml", "pipe_test.yaml"} {
		if err := syscall.Mkfifo(filepath.Join(dir, name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, command := range []string{"lint", "test"} {
		cmd := writ(t, command, dir)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		waiting := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
		err := cmd.Wait()
		if !waiting.Stop() || err == nil || !strings.Contains(out.String(), "not a regular file") {
			t.Errorf("writ %s: %v\n%s", command, err, out.Bytes())
		}
	}
}
