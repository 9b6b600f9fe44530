package testkit

import (
	"context"
	"io"
	"strings"
)

// Agent is a running `writ agent`.
type Agent struct {
	*Process
	Diagnostics string // host:port of /metrics, /livez and /readyz
}

// AgentConfig says what to run.
type AgentConfig struct {
	Name   string    // for messages
	Binary string    // see BuildWrit
	Config string    // path of agent.yaml, which has diagnostics, with port 0 if any will do, and logs as text
	Tee    io.Writer // gets its output as well; nil = nobody
}

// StartAgent runs `writ agent` and returns once it listens, with certificates or without: see [Agent.WaitReady].
func StartAgent(ctx context.Context, cfg AgentConfig) (*Agent, error) {
	process, err := StartProcess(cfg.Name+" agent", cfg.Binary, []string{"agent", "-c", cfg.Config}, cfg.Tee)
	if err != nil {
		return nil, err
	}
	a := &Agent{Process: process}
	line, err := process.Output.Wait(ctx, 0, func(line string) bool { return strings.Contains(line, diagnosticsLine) })
	if err == nil {
		_, rest, _ := strings.Cut(line, diagnosticsLine)
		a.Diagnostics, _, _ = strings.Cut(rest, " ")
		_, err = process.Output.Wait(ctx, 0, func(line string) bool { return strings.Contains(line, `msg="writ agent runs"`) })
	}
	if err != nil {
		err = process.failed(err)
		process.Stop()
		return nil, err
	}
	return a, nil
}

// WaitReady returns once /readyz answers 200: every identity is there.
func (a *Agent) WaitReady(ctx context.Context) error {
	return a.wait(ctx, "ready", func(ctx context.Context) error {
		_, err := getOK(ctx, "http://"+a.Diagnostics+"/readyz")
		return err
	})
}

// Get fetches one page of the diagnostics address; any status but 200 is an error that holds the body.
func (a *Agent) Get(ctx context.Context, path string) (string, error) {
	body, err := getOK(ctx, "http://"+a.Diagnostics+path)
	return string(body), err
}
