package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// authorityProcess is a running writ serve, with its sockets in dir.
type authorityProcess struct {
	t      *testing.T
	dir    string
	cmd    *exec.Cmd
	exited chan error

	mu        sync.Mutex // guards what the reader of stderr finds
	log       []string
	addresses map[string]string // by listener name
}

const serveConfig = `
documents: ./policies
authz:
  listen: unix:authz.sock
  decision_log: {to: decisions.jsonl, log: all}
admin: unix:admin.sock
diagnostics: 127.0.0.1:0
`

// serve starts writ serve -c writ.yaml in dir and waits until it listens.
func serve(t *testing.T, dir string) *authorityProcess {
	t.Helper()
	p := &authorityProcess{t: t, dir: dir, cmd: writ(t, "serve", "-c", filepath.Join(dir, "writ.yaml")), exited: make(chan error, 1),
		addresses: map[string]string{}}
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
			t.Logf("log of writ serve:\n%s", p.logged())
		}
	})
	p.eventually("live", func() error {
		_, err := p.get("/livez", http.StatusOK)
		return err
	})
	return p
}

// read collects the log, and from it where the authority listens.
func (p *authorityProcess) read(stderr io.Reader) {
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

func (p *authorityProcess) logged() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.log, "\n")
}

func (p *authorityProcess) address(name string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.addresses[name]
}

// eventually waits until f returns nil.
func (p *authorityProcess) eventually(what string, f func() error) {
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
func (p *authorityProcess) get(path string, status int) (string, error) {
	address := p.address("diagnostics")
	if address == "" {
		return "", errors.New("the authority does not say where its diagnostics are")
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
func (p *authorityProcess) ready(want ...string) {
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

// metric waits until /metrics holds the given line.
func (p *authorityProcess) metric(line string) {
	p.t.Helper()
	p.eventually("metric "+line, func() error {
		body, err := p.get("/metrics", http.StatusOK)
		if err == nil && !strings.Contains(body, "\n"+line+"\n") {
			err = errors.New("not there")
		}
		return err
	})
}

// dial connects to the ext_authz socket.
func (p *authorityProcess) dial(target string, creds credentials.TransportCredentials) *grpc.ClientConn {
	p.t.Helper()
	if target == "" {
		target = "unix:" + filepath.Join(p.dir, "authz.sock")
	}
	if creds == nil {
		creds = insecure.NewCredentials()
	}
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(creds))
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// ask sends one check and returns the HTTP status of the answer, 200 when it is allowed.
func ask(ctx context.Context, conn *grpc.ClientConn, r *authv3.CheckRequest) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	response, err := authv3.NewAuthorizationClient(conn).Check(ctx, r)
	if err != nil {
		return 0, err
	}
	if response.GetStatus().GetCode() == 0 {
		return http.StatusOK, nil
	}
	return int(response.GetDeniedResponse().GetStatus().GetCode()), nil
}

// signal sends sig to the authority.
func (p *authorityProcess) signal(sig syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		p.t.Fatal(err)
	}
}

// stop ends the authority as a service manager would; it must exit with code 0.
func (p *authorityProcess) stop() {
	p.t.Helper()
	p.signal(syscall.SIGTERM)
	select {
	case err := <-p.exited:
		if err != nil {
			p.t.Fatalf("writ serve: %v", err)
		}
	case <-time.After(20 * time.Second):
		p.t.Fatal("writ serve does not stop")
	}
}

// status asks the admin socket.
func (p *authorityProcess) status() statusReport {
	p.t.Helper()
	var r statusReport
	if err := askAdmin(p.t.Context(), address{"unix", filepath.Join(p.dir, "admin.sock")}, "/status", &r); err != nil {
		p.t.Fatal(err)
	}
	return r
}

// reload posts to the admin socket, and returns once the documents have been loaded.
func (p *authorityProcess) reload() readiness {
	p.t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(p.dir, "admin.sock"))
		}}}
	request, err := http.NewRequestWithContext(p.t.Context(), http.MethodPost, "http://admin/reload", nil)
	if err != nil {
		p.t.Fatal(err)
	}
	response, err := client.Do(request)
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	var r readiness
	if err := json.NewDecoder(response.Body).Decode(&r); err != nil {
		p.t.Fatal(err)
	}
	return r
}
