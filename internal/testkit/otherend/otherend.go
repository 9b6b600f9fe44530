// Package otherend has a process at the other end of a Unix socket, for tests of what the kernel says about it: the test's
// own binary, started once more. Call [Main] from TestMain, and [Start] in tests.
package otherend

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// connectTo names the socket that the binary connects to when it is started as the other process.
const connectTo = "WRIT_TEST_CONNECT"

// Main runs the tests, or is the other process; it returns the exit code.
func Main(m *testing.M) int {
	path := os.Getenv(connectTo)
	if path == "" {
		return m.Run()
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		return 1
	}
	_, _ = conn.Read(make([]byte, 1)) // until told to end
	return 0
}

// Start starts a process that connects. It returns our end, the process's number and what ends it, at the end of the test
// if not before; the connection stays open until then.
func Start(t testing.TB) (conn net.Conn, pid int, end func()) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), program) // it is told to end
	cmd.Env = append(os.Environ(), connectTo+"="+path)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if conn, err = listener.Accept(); err != nil {
		t.Fatal(err)
	}
	end = sync.OnceFunc(func() {
		_, _ = conn.Write([]byte{1})
		if err := cmd.Wait(); err != nil {
			t.Errorf("the other process: %v", err)
		}
	})
	t.Cleanup(func() {
		end()
		_ = conn.Close()
	})
	return conn, cmd.Process.Pid, end
}
