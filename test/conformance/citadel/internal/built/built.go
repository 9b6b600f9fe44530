// Package built runs the writ binary for the tests of this module, as its operator would: a configuration file, `writ
// serve`, and commands beside it.
package built

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// writEnv names the binary.
const writEnv = "WRIT"

// Main runs the tests of a package with $WRIT, or else with a binary that is built from this checkout, and returns the
// exit code.
func Main(m *testing.M) int {
	if os.Getenv(writEnv) != "" {
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "citadel-writ-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	path := filepath.Join(dir, "writ")
	if err := buildWrit(path); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := os.Setenv(writEnv, path); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

func buildWrit(path string) error {
	root, err := Checkout()
	if err != nil {
		return err
	}
	return Build(root, path, "./cmd/writ")
}

// Build compiles a package of the module that dir is in.
func Build(dir, path, pkg string) error {
	cmd := exec.Command("go", "build", "-o", path, pkg)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s: %w\n%s", pkg, err, out)
	}
	return nil
}

// Checkout is the root of the checkout, found upwards from the working directory.
func Checkout() (string, error) {
	start, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := start; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "cmd", "writ")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("no checkout of writ (no cmd/writ) above %s: run this inside one, or set WRIT to a binary", start)
		}
	}
}

// Until tries, five times a second, until there is no error. The test fails if that takes longer than patience.
func Until(t *testing.T, patience time.Duration, what string, try func() error) {
	t.Helper()
	tick, end := time.NewTicker(200*time.Millisecond), time.After(patience)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("no %s within %v: %v", what, patience, err)
		}
	}
}

// Certificates reads all certificates of a PEM text.
func Certificates(t *testing.T, text []byte) []*x509.Certificate {
	t.Helper()
	var out []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, c)
	}
	return out
}
