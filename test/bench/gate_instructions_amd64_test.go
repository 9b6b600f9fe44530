package main

import (
	"context"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// buildBench builds this program without the race detector, which would count as well, and as it was recorded.
func buildBench(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "bench")
	command := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-o", program, ".")
	command.Env = append(command.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}
	return program
}

// TestGateInstructions fails when a hot path takes more instructions than are recorded, which no other work on the machine
// changes, and shows that it would: a fifth more of the same work is refused, with all that one needs to know.
func TestGateInstructions(t *testing.T) {
	program := buildBench(t)
	was, err := readRecord()
	if err != nil {
		t.Fatal(err)
	}
	steps := func(path hotPath, calls int) int {
		s, err := stepThrough(context.Background(), program, path, calls)
		if err != nil {
			t.Fatal(err)
		}
		return s.count
	}
	for _, path := range hotPaths() {
		n := steps(path, 1)
		t.Logf("%s: %d instructions, recorded %d", path.name, n, was.counts[path.name])
		if err := was.judge(path, n, 1); err != nil {
			t.Error(err)
		}
	}
	path, err := pathNamed("policy")
	if err != nil {
		t.Fatal(err)
	}
	path.rounds = 1
	if err := was.judge(path, steps(path, 5), 5); err != nil {
		t.Errorf("five calls beside five: %v", err)
	}
	err = was.judge(path, steps(path, 6), 5)
	if err == nil {
		t.Fatal("six calls pass for five")
	}
	for _, want := range []string{`"policy"`, count(5 * was.counts["policy"]), "tolerance of 5 %", "make bench-instructions-record"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the refusal does not say %s: %v", want, err)
		}
	}
}
