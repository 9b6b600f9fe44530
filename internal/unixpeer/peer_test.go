//go:build linux

package unixpeer_test

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/writ-auth/writ/internal/testkit/otherend"
	"github.com/writ-auth/writ/internal/unixpeer"
)

func TestMain(m *testing.M) { os.Exit(otherend.Main(m)) }

func TestOf(t *testing.T) {
	conn, pid, end := otherend.Start(t)
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
	conn, _, end := otherend.Start(t)
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
	conn, _, end := otherend.Start(t)
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
	conn, _, _ = otherend.Start(t)
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
