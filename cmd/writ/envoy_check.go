package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// envoyPatience bounds one run of envoy --mode validate. It contacts nobody.
const envoyPatience = time.Minute

// validateBootstrap has Envoy read a bootstrap without starting it. That it refuses is the answer no; that it cannot be
// run is a failure.
func validateBootstrap(ctx context.Context, envoy string, bootstrap []byte) error {
	path, err := exec.LookPath(envoy)
	if err != nil {
		return fmt.Errorf("--check: %w: name an Envoy by --envoy PATH", err)
	}
	dir, err := os.MkdirTemp("", "writ-envoy-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	file := filepath.Join(dir, "bootstrap.yaml")
	if err := os.WriteFile(file, bootstrap, 0o600); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, envoyPatience)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "--mode", "validate", "--config-path", file, "--log-level", "error") //nolint:gosec // the Envoy that the operator names
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if refused, ok := errors.AsType[*exec.ExitError](err); ok && refused.Exited() {
		return &exitError{code: exitNo, err: fmt.Errorf("--check: Envoy refuses the bootstrap:\n%s", strings.TrimSpace(string(out)))}
	}
	if err != nil {
		return fmt.Errorf("--check: %s: %w", path, err)
	}
	return nil
}
