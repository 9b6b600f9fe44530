package conformance_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// writBinary is the program under test, built once by TestMain.
var writBinary string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "writ-conformance")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	writBinary = filepath.Join(dir, "writ")
	if out, err := exec.Command("go", "build", "-o", writBinary, "github.com/writ-auth/writ/cmd/writ").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "go build ./cmd/writ: %v\n%s(these tests need the go command on PATH)\n", err, out)
		return 1
	}
	return m.Run()
}
