package testkit

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// BuildWrit returns the path of a writ binary: $WRIT if set, else one built from this checkout into dir with the given
// flags of go build.
func BuildWrit(ctx context.Context, dir string, flags ...string) (string, error) {
	if path := os.Getenv("WRIT"); path != "" {
		return filepath.Abs(path)
	}
	root, err := Root()
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "writ")
	args := append([]string{"build", "-o", path}, flags...)
	cmd := exec.CommandContext(ctx, "go", append(args, "./cmd/writ")...)
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
	Binary string    // see BuildWrit
	Config string    // path of writ.yaml, which has diagnostics, with port 0 if any will do, and logs as text
	Tee    io.Writer // gets its output as well; nil = nobody
}

// StartAuthority runs `writ serve` and returns once it has loaded its documents and answers checks. With a broken
// document it answers and is not ready: see [Authority.WaitReady].
func StartAuthority(ctx context.Context, cfg AuthorityConfig) (*Authority, error) {
	process, err := StartProcess("writ serve", cfg.Binary, []string{"serve", "-c", cfg.Config}, cfg.Tee)
	if err != nil {
		return nil, err
	}
	a := &Authority{Process: process}
	if err := a.started(ctx); err != nil {
		process.Stop()
		return nil, err
	}
	return a, nil
}

// diagnosticsLine is how writ says where it listens; with port 0 nobody else knows.
const diagnosticsLine = "msg=listening for=diagnostics address="

func (a *Authority) started(ctx context.Context) error {
	line, err := a.Output.Wait(ctx, 0, func(line string) bool { return strings.Contains(line, diagnosticsLine) })
	if err != nil {
		return a.failed(err)
	}
	_, rest, _ := strings.Cut(line, diagnosticsLine)
	a.Diagnostics, _, _ = strings.Cut(rest, " ")
	if _, err := a.Output.Wait(ctx, 0, isLoad); err != nil {
		return a.failed(err)
	}
	return nil
}

func isLoad(line string) bool {
	return strings.Contains(line, `msg="documents loaded"`) || strings.Contains(line, "documents cannot be read")
}

// Loads counts how often the documents have been loaded.
func (a *Authority) Loads() int { return a.Output.Count(isLoad) }

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
