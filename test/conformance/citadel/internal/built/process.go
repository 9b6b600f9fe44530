package built

import (
	"bufio"
	"io"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// stopPatience is how long a process may take to end after SIGTERM.
const stopPatience = 30 * time.Second

// Process is a child that ends with its test at the latest.
type Process struct {
	t    *testing.T
	name string
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended and all of its output was told
}

// StartProcess runs cmd. Every line that it prints goes to the test's log and to line, one after the other.
func StartProcess(t *testing.T, name string, cmd *exec.Cmd, line func(string)) *Process {
	t.Helper()
	p := &Process{t: t, name: name, cmd: cmd, done: make(chan struct{})}
	out, in := io.Pipe()
	cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = in, in, childAttributes()
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // Linux takes the end of the thread that started a child for the end of its parent
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ended is in its output
		}
		_ = in.Close()
	}()
	go func() {
		defer close(p.done)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			t.Logf("%s: %s", name, lines.Text())
			line(lines.Text())
		}
		_, _ = io.Copy(io.Discard, out) // after a line that is too long
	}()
	t.Cleanup(p.Stop)
	if err := <-started; err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	return p
}

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Stop ends the process as its operator would, and everything it started. It may be called more than once.
func (p *Process) Stop() {
	p.t.Helper()
	if p.cmd.Process == nil {
		return
	}
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGTERM) // gone already is fine
	select {
	case <-p.done:
	case <-time.After(stopPatience):
		p.t.Errorf("%s does not end within %v of SIGTERM", p.name, stopPatience)
	}
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	<-p.done
}
