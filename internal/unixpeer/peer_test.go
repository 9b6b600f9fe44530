//go:build linux

package unixpeer_test

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/writ-auth/writ/internal/unixpeer"
)

// connectTo names the socket that this binary connects to when it is started as the other process.
const connectTo = "UNIXPEER_TEST_CONNECT"

func TestMain(m *testing.M) {
	if path := os.Getenv(connectTo); path != "" {
		conn, err := net.Dial("unix", path)
		if err != nil {
			os.Exit(1)
		}
		_, _ = conn.Read(make([]byte, 1)) // until told to end
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// other starts a process that connects, and returns our end and what ends the process.
func other(t *testing.T) (conn net.Conn, pid int, end func()) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), program)
	cmd.Env = append(os.Environ(), connectTo+"="+path)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if conn, err = listener.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn, cmd.Process.Pid, func() {
		_, _ = conn.Write([]byte{1})
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
}

func TestOf(t *testing.T) {
	conn, pid, end := other(t)
	p, err := unixpeer.Of(conn)
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if p.PID != pid || int(p.UID) != os.Getuid() || int(p.GID) != os.Getgid() {
		t.Errorf("got %+v", p)
	}
	if got, err := p.Program(); err != nil || got != program {
		t.Errorf("program %q, %v", got, err)
	}
	if err := p.Check(); err != nil {
		t.Error(err)
	}
	end()
	if err := p.Check(); err == nil || !strings.Contains(err.Error(), "is gone") {
		t.Errorf("after its end: %v", err)
	}
	if _, err := p.Program(); err == nil {
		t.Error("after its end it has a program")
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if err := p.Check(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// A process that has ended is nobody, though its connection is still there to be read.
func TestOfEnded(t *testing.T) {
	conn, _, end := other(t)
	end()
	if p, err := unixpeer.Of(conn); err == nil {
		t.Errorf("got %+v", p)
	}
}

func TestOfOthers(t *testing.T) {
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	if _, err := unixpeer.Of(near); err == nil || !strings.Contains(err.Error(), "want a Unix socket") {
		t.Errorf("a pipe: %v", err)
	}
}

func BenchmarkCheck(b *testing.B) {
	path := filepath.Join(b.TempDir(), "s")
	listener, err := net.Listen("unix", path)
	if err != nil {
		b.Fatal(err)
	}
	defer listener.Close()
	ours, err := net.Dial("unix", path)
	if err != nil {
		b.Fatal(err)
	}
	defer ours.Close()
	p, err := unixpeer.Of(ours)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = p.Close() }()
	for b.Loop() {
		if err := p.Check(); err != nil {
			b.Fatal(err)
		}
	}
}

// On older kernels the process is told apart by its start time.
func TestOfWithoutHandle(t *testing.T) {
	conn, _, end := other(t)
	p, err := unixpeer.Of(conn)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.Close() }()
	if err := p.WithoutHandle(); err != nil {
		t.Fatal(err)
	}
	if err := p.Check(); err != nil {
		t.Error(err)
	}
	end()
	if err := p.Check(); err == nil || !strings.Contains(err.Error(), "is gone") {
		t.Errorf("after its end: %v", err)
	}
	conn, _, end = other(t)
	defer end()
	another, err := unixpeer.Of(conn)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = another.Close() }()
	if err := another.WithoutHandle(); err != nil {
		t.Fatal(err)
	}
	another.Mistake()
	if err := another.Check(); err == nil || !strings.Contains(err.Error(), "another one than connected") {
		t.Errorf("another process: %v", err)
	}
}
