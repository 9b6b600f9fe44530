package testkit_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/writ-auth/writ/internal/testkit"
)

func start(t *testing.T, script string) *testkit.Process {
	t.Helper()
	p, err := testkit.StartProcess("script", "/bin/sh", []string{"-c", script}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	return p
}

func waitFor(t *testing.T, p *testkit.Process, text string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := p.Output.Wait(ctx, 0, func(line string) bool { return strings.Contains(line, text) }); err != nil {
		t.Fatalf("waiting for %q: %v; output:\n%s", text, err, p.Output)
	}
}

func TestProcessOutput(t *testing.T) {
	t.Parallel()
	p := start(t, "echo one; echo two >&2; printf three; exit 3")
	if err := p.Err(); err == nil || !strings.Contains(err.Error(), "3") {
		t.Errorf("exit code 3 gives %v", err)
	}
	if got, want := p.Output.String(), "one\ntwo\nthree"; got != want {
		t.Errorf("output is %q, want %q", got, want)
	}
	if got := p.Output.Count(func(line string) bool { return strings.HasPrefix(line, "t") }); got != 2 {
		t.Errorf("%d lines start with t, want 2", got)
	}
	mark := p.Output.Mark()
	if _, err := p.Output.Wait(t.Context(), mark, func(string) bool { return true }); err == nil {
		t.Error("a line after the last one was found")
	}
}

func TestProcessOutputWaits(t *testing.T) {
	t.Parallel()
	p := start(t, "echo ready; sleep 300")
	waitFor(t, p, "ready")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := p.Output.Wait(ctx, p.Output.Mark(), func(string) bool { return true }); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("waiting for nothing gives %v, want the context's error", err)
	}
}

// TestStopEndsGrandchildren: whatever a process started goes with it.
func TestStopEndsGrandchildren(t *testing.T) {
	t.Parallel()
	p := start(t, "sleep 300 & echo child $!; wait")
	waitFor(t, p, "child ")
	_, pid, _ := strings.Cut(p.Output.String(), "child ")
	p.Stop()
	p.Stop() // once more does nothing
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for ctx.Err() == nil {
		stat, err := os.ReadFile(filepath.Join("/proc", pid, "stat"))
		if err != nil || strings.Contains(string(stat), ") Z ") { // gone, or only waiting for init to notice
			return
		}
	}
	t.Errorf("process %s outlived Stop", pid)
}

func TestStartProcessMissing(t *testing.T) {
	t.Parallel()
	if _, err := testkit.StartProcess("nothing", filepath.Join(t.TempDir(), "nothing"), nil, nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing program gives %v", err)
	}
}

// TestEnvoyPath: what is set and wrong is said, not replaced.
func TestEnvoyPath(t *testing.T) {
	t.Setenv("ENVOY", "/nonexistent/envoy")
	_, err := testkit.EnvoyPath(t.Context())
	if err == nil || !strings.Contains(err.Error(), "/nonexistent/envoy") || !strings.Contains(err.Error(), "export ENVOY=") {
		t.Errorf("a wrong ENVOY gives %v, want its name and what to do", err)
	}
	t.Setenv("ENVOY", "/bin/sh")
	if path, err := testkit.EnvoyPath(t.Context()); err != nil || path != "/bin/sh" {
		t.Errorf("got %q, %v", path, err)
	}
}

// TestCA: both ends of mTLS accept each other's leaf, and nobody else's.
func TestCA(t *testing.T) {
	t.Parallel()
	ca, err := testkit.NewCA("test")
	if err != nil {
		t.Fatal(err)
	}
	other, err := testkit.NewCA("other")
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := ca.Leaf(testkit.Names{URIs: []string{"spiffe://td/ns/a/sa/b"}, DNS: []string{"localhost"}, IPs: []string{"127.0.0.1"}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "leaf.pem")
	if err := testkit.WriteLeaf(leaf, file); err != nil {
		t.Fatal(err)
	}
	read, err := tls.LoadX509KeyPair(file, file)
	if err != nil {
		t.Fatal(err)
	}
	if got := read.Leaf.URIs[0].String(); got != "spiffe://td/ns/a/sa/b" {
		t.Errorf("URI SAN is %q", got)
	}
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		if _, err := read.Leaf.Verify(x509.VerifyOptions{Roots: ca.Pool(), KeyUsages: []x509.ExtKeyUsage{usage}}); err != nil {
			t.Errorf("key usage %v: %v", usage, err)
		}
		if _, err := read.Leaf.Verify(x509.VerifyOptions{Roots: other.Pool(), KeyUsages: []x509.ExtKeyUsage{usage}}); err == nil {
			t.Errorf("key usage %v: another CA vouches for it", usage)
		}
	}
	if _, err := ca.Leaf(testkit.Names{IPs: []string{"here"}}); err == nil {
		t.Error("an IP that is none was accepted")
	}
}

func TestServeTCPEcho(t *testing.T) {
	t.Parallel()
	backend, err := testkit.ServeTCPEcho(t.Context(), "hello")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", backend.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	lines := bufio.NewScanner(conn)
	fmt.Fprintln(conn, "ping")
	for _, want := range []string{"hello", "ping"} {
		if !lines.Scan() || lines.Text() != want {
			t.Errorf("got %q, want %q", lines.Text(), want)
		}
	}
	if err := backend.Close(); err != nil { // and ends the open connection
		t.Error(err)
	}
	if lines.Scan() {
		t.Errorf("got %q after Close", lines.Text())
	}
}
