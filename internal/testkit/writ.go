package testkit

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
)

// BuildWrit returns the path of a writ binary: $WRIT if set, else one built from this checkout into dir.
func BuildWrit(ctx context.Context, dir string) (string, error) {
	if path := os.Getenv("WRIT"); path != "" {
		return filepath.Abs(path)
	}
	root, err := Root()
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "writ")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", path, "./cmd/writ")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build ./cmd/writ: %w\n%s", err, out)
	}
	return path, nil
}

// Authority is a running `writ serve`.
type Authority struct {
	*Process
	Diagnostics string // host:port of /metrics, /livez and /readyz
}

// AuthorityConfig says what to run.
type AuthorityConfig struct {
	Binary      string    // see BuildWrit
	Config      string    // path of writ.yaml
	Diagnostics string    // host:port, as in writ.yaml
	Tee         io.Writer // gets its output as well; nil = nobody
}

// StartAuthority runs `writ serve` and returns once it answers checks. An authority that holds a broken document is
// live but never ready: it counts as started all the same.
func StartAuthority(ctx context.Context, cfg AuthorityConfig) (*Authority, error) {
	process, err := StartProcess("writ serve", cfg.Binary, []string{"serve", "-c", cfg.Config}, cfg.Tee)
	if err != nil {
		return nil, err
	}
	a := &Authority{Process: process, Diagnostics: cfg.Diagnostics}
	if err := process.wait(ctx, "live", func(ctx context.Context) error {
		_, err := a.Get(ctx, "/livez")
		return err
	}); err != nil {
		process.Stop()
		return nil, err
	}
	return a, nil
}

// Get fetches one page of the diagnostics address; any status but 200 is an error that holds the body.
func (a *Authority) Get(ctx context.Context, path string) (string, error) {
	body, err := getOK(ctx, "http://"+a.Diagnostics+path)
	return string(body), err
}

// WaitReady returns once /readyz answers 200.
func (a *Authority) WaitReady(ctx context.Context) error {
	return a.wait(ctx, "ready", func(ctx context.Context) error {
		_, err := a.Get(ctx, "/readyz")
		return err
	})
}
