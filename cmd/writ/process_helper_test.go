package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// process is a running writ, with its sockets in dir.
type process struct {
	t      *testing.T
	dir    string
	cmd    *exec.Cmd
	exited chan error

	mu        sync.Mutex // guards what the reader of stderr finds
	log       []string
	addresses map[string]string // by listener name
}

// start runs a command until the test ends.
func start(t *testing.T, dir string, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{t: t, dir: dir, cmd: cmd, exited: make(chan error, 1), addresses: map[string]string{}}
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.read(stderr)
		p.exited <- p.cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		if t.Failed() {
			t.Logf("log of %s:\n%s", p.name(), p.logged())
		}
	})
	return p
}

// name is the command, "writ serve".
func (p *process) name() string { return "writ " + p.cmd.Args[1] }

// read collects the log, and from it where the process listens.
func (p *process) read(stderr io.Reader) {
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		line := lines.Text()
		p.mu.Lock()
		p.log = append(p.log, line)
		if _, rest, ok := strings.Cut(line, "msg=listening for="); ok {
			name, rest, _ := strings.Cut(rest, " address=")
			p.addresses[strings.Trim(name, `"`)], _, _ = strings.Cut(rest, " ")
		}
		p.mu.Unlock()
	}
}

func (p *process) logged() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.log, "\n")
}

func (p *process) address(name string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.addresses[name]
}

// eventually waits until f returns nil.
func (p *process) eventually(what string, f func() error) {
	p.t.Helper()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			p.t.Fatalf("never %s: %v", what, err)
		}
	}
}

// get fetches a page of the diagnostics address, which must have the given status.
func (p *process) get(path string, status int) (string, error) {
	address := p.address("diagnostics")
	if address == "" {
		return "", fmt.Errorf("%s does not say where its diagnostics are", p.name())
	}
	ctx, cancel := context.WithTimeout(p.t.Context(), 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+path, nil)
	if err != nil {
		return "", err
	}
	response, err := (&http.Client{}).Do(request)
	if err != nil {
		return "", err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != status {
		err = fmt.Errorf("%s: %s, want %d: %s", path, response.Status, status, body)
	}
	return string(body), err
}

// ready waits for /readyz to answer 200, or 503 with a reason that holds every one of want.
func (p *process) ready(want ...string) {
	p.t.Helper()
	status := http.StatusOK
	if len(want) > 0 {
		status = http.StatusServiceUnavailable
	}
	p.eventually(fmt.Sprintf("readyz %d with %q", status, want), func() error {
		body, err := p.get("/readyz", status)
		for _, w := range want {
			if err == nil && !strings.Contains(body, w) {
				err = fmt.Errorf("%q is not in %s", w, body)
			}
		}
		return err
	})
}

// admin asks an admin socket for the status.
func (p *process) admin(socket string) statusReport {
	p.t.Helper()
	var r statusReport
	if err := askAdmin(p.t.Context(), address{"unix", filepath.Join(p.dir, socket)}, "/status", &r); err != nil {
		p.t.Fatal(err)
	}
	return r
}

// signal sends sig to the process.
func (p *process) signal(sig syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		p.t.Fatal(err)
	}
}

// stop ends the process as a service manager would; it must exit with code 0.
func (p *process) stop() {
	p.t.Helper()
	p.signal(syscall.SIGTERM)
	select {
	case err := <-p.exited:
		if err != nil {
			p.t.Fatalf("%s: %v", p.name(), err)
		}
	case <-time.After(20 * time.Second):
		p.t.Fatalf("%s does not stop", p.name())
	}
}
