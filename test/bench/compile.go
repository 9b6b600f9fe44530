package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/authz/extauthz"
	"github.com/writ-auth/writ/policy"
)

// compiled is what it took a process to go from a file of documents to its first answer.
type compiled struct {
	Wall    time.Duration // reading the YAML included
	Read    time.Duration // of which reading the YAML
	CPU     time.Duration // of all threads, garbage collection included
	HeldMiB float64       // on the heap afterwards: documents, snapshot and index
	PeakMiB float64       // resident memory at its highest
}

// compile reads and compiles the documents, answers one question, and prints what that took.
func compile(ctx context.Context, file string) error {
	before, err := threadsCPU(os.Getpid())
	if err != nil {
		return err
	}
	start := time.Now()
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	store := policy.NewStore(policy.Mesh{})
	documents := policy.Decode("bench.yaml", text)
	read := time.Since(start)
	store.Update(documents)
	server, err := extauthz.New(extauthz.Config{Snapshot: store.Load, Engine: &authz.Engine{}})
	if err != nil {
		return err
	}
	raw, err := ask("caller-0", "GET", "")
	if err != nil {
		return err
	}
	d := server.Decide(ctx, raw, nil)
	result := compiled{Wall: time.Since(start), Read: read}
	if d.Reason == authz.ReasonAllowed || store.Load().Broken() != 0 {
		return fmt.Errorf("the documents did not load, or a question without a token was allowed: %s", d.Detail)
	}
	after, err := threadsCPU(os.Getpid())
	if err != nil {
		return err
	}
	result.CPU = after - before
	if result.PeakMiB, err = residentMiB(os.Getpid(), residentPeak); err != nil {
		return err
	}
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	result.HeldMiB = float64(m.HeapAlloc) / (1 << 20)
	runtime.KeepAlive(server)
	return json.NewEncoder(os.Stdout).Encode(result)
}

// compileTimes has a fresh process compile the documents, so many times.
func compileTimes(ctx context.Context, dir, documents string, times int) ([]compiled, error) {
	file := filepath.Join(dir, "compile.yaml")
	if err := os.WriteFile(file, []byte(documents), 0o600); err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	var list []compiled
	for range times {
		command := exec.CommandContext(ctx, self, roleCompile, file) //nolint:gosec // G204: this very program
		command.Stderr = os.Stderr
		out, err := command.Output()
		var c compiled
		if err := errors.Join(err, json.Unmarshal(out, &c)); err != nil {
			return nil, fmt.Errorf("compile: %w", err)
		}
		list = append(list, c)
	}
	return list, nil
}
