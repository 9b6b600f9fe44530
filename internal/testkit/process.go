package testkit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
)

// stopPatience is how long a process may take to end after SIGTERM before its whole group is killed.
const stopPatience = 15 * time.Second

// Process is a child in a process group of its own.
type Process struct {
	Name   string
	Output *Output // what it prints on stdout and stderr

	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // how it ended; valid once done is closed
}

// StartProcess runs the program at path. Its output goes to [Process.Output] and, if tee is not nil, to tee as well.
//
// The child is killed when this program dies (Linux), and its group when it is stopped. The thread that starts it has
// to live as long as the child does: Linux takes the death of that thread for the death of the parent.
func StartProcess(name, path string, args []string, tee io.Writer) (*Process, error) {
	cmd := exec.Command(path, args...)
	cmd.SysProcAttr = childAttributes()
	return start(name, cmd, tee)
}

// start runs a command that has [childAttributes].
func start(name string, cmd *exec.Cmd, tee io.Writer) (*Process, error) {
	p := &Process{Name: name, Output: newOutput(), cmd: cmd, done: make(chan struct{})}
	var out io.Writer = p.Output
	if tee != nil {
		out = io.MultiWriter(p.Output, tee)
	}
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.WaitDelay = stopPatience // a grandchild that keeps our pipe open must not keep us

	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := p.cmd.Start(); err != nil {
			started <- fmt.Errorf("start %s: %w", name, err)
			return
		}
		started <- nil
		p.err = p.cmd.Wait()
		p.Output.close()
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err tells how the process ended: nil for exit code 0. It waits for the end.
func (p *Process) Err() error {
	<-p.done
	return p.err
}

// Signal sends sig to the process itself, not to its group.
func (p *Process) Signal(sig os.Signal) error { return p.cmd.Process.Signal(sig) }

// Stop ends the process and everything it started: SIGTERM, and SIGKILL for whoever does not listen. It returns when
// the process has ended and may be called more than once.
func (p *Process) Stop() {
	select {
	case <-p.done:
	default:
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGTERM) // gone already is fine
		select {
		case <-p.done:
		case <-time.After(stopPatience):
		}
	}
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	<-p.done
}

// failed adds the last words of the process to err.
func (p *Process) failed(err error) error {
	select {
	case <-p.done:
		err = fmt.Errorf("%w (%v)", errEnded, p.cmd.ProcessState)
	default:
	}
	return fmt.Errorf("%s: %w; its last words:\n%s", p.Name, err, p.Output.Tail(30))
}

// wait calls try every 10 ms until it succeeds, the process ends or ctx does.
func (p *Process) wait(ctx context.Context, what string, try func(context.Context) error) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return p.failed(errEnded)
		case <-ctx.Done():
			return p.failed(fmt.Errorf("not %s: %w (last: %v)", what, ctx.Err(), err))
		case <-tick.C:
		}
	}
}

// getOK fetches url and fails unless the answer is 200.
func getOK(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	client := http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("GET %s: %s: %s", url, resp.Status, body)
	}
	return body, nil
}

// Root is the folder of this checkout, found upwards from the working directory.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for start := dir; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "scripts", "envoy.sh")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("no checkout of writ (no scripts/envoy.sh) in or above " + start + ": run this inside one")
		}
	}
}
