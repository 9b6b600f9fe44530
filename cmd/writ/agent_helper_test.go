package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// agentProcess is a running writ agent, with its sockets in dir.
type agentProcess struct {
	t      *testing.T
	dir    string
	cmd    *exec.Cmd
	exited chan error

	mu          sync.Mutex // guards what the reader of stderr finds
	log         []string
	diagnostics string
}

// startAgent starts writ agent -c agent.yaml in dir.
func startAgent(t *testing.T, dir string) *agentProcess { return startAgentBinary(t, dir, "") }

// startAgentBinary does so with another binary than the test's own, if it is given one.
func startAgentBinary(t *testing.T, dir, binary string) *agentProcess {
	t.Helper()
	p := &agentProcess{t: t, dir: dir, cmd: writ(t, "agent", "-c", filepath.Join(dir, "agent.yaml")), exited: make(chan error, 1)}
	if binary != "" {
		p.cmd.Path = binary
	}
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
	p.eventually("running", func() error {
		if text := p.logged(); !strings.Contains(text, `msg="writ agent runs"`) {
			return errors.New(text)
		}
		return nil
	})
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		if t.Failed() {
			t.Logf("log of writ agent:\n%s", p.logged())
		}
	})
	return p
}

func (p *agentProcess) read(stderr io.Reader) {
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		line := lines.Text()
		p.mu.Lock()
		p.log = append(p.log, line)
		if _, rest, ok := strings.Cut(line, "msg=listening for=diagnostics address="); ok {
			p.diagnostics, _, _ = strings.Cut(rest, " ")
		}
		p.mu.Unlock()
	}
}

func (p *agentProcess) logged() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.log, "\n")
}

func (p *agentProcess) eventually(what string, f func() error) {
	p.t.Helper()
	(&authorityProcess{t: p.t}).eventually(what, f)
}

// get fetches a page of the diagnostics address.
func (p *agentProcess) get(path string) (int, string, error) {
	p.mu.Lock()
	address := p.diagnostics
	p.mu.Unlock()
	if address == "" {
		return 0, "", errors.New("the agent does not say where its diagnostics are")
	}
	ctx, cancel := context.WithTimeout(p.t.Context(), 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+path, nil)
	if err != nil {
		return 0, "", err
	}
	response, err := (&http.Client{}).Do(request)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	return response.StatusCode, string(body), err
}

// ready waits for /readyz to say so.
func (p *agentProcess) ready() {
	p.t.Helper()
	p.eventually("ready", func() error {
		code, body, err := p.get("/readyz")
		if err == nil && code != http.StatusOK {
			err = errors.New(body)
		}
		return err
	})
}

// status asks the admin socket.
func (p *agentProcess) status() statusReport {
	p.t.Helper()
	var r statusReport
	if err := askAdmin(p.t.Context(), address{"unix", filepath.Join(p.dir, "agent-admin.sock")}, "/status", &r); err != nil {
		p.t.Fatal(err)
	}
	return r
}

func (p *agentProcess) stop() {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Fatal(err)
	}
	select {
	case err := <-p.exited:
		if err != nil {
			p.t.Fatalf("writ agent: %v", err)
		}
	case <-time.After(20 * time.Second):
		p.t.Fatal("writ agent does not stop")
	}
}

// dial connects to the agent's socket.
func (p *agentProcess) dial() *grpc.ClientConn {
	p.t.Helper()
	conn, err := grpc.NewClient("unix:"+filepath.Join(p.dir, "agent.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// secret asks for one secret, as Envoy does.
func (p *agentProcess) secret(name string) (*tlsv3.Secret, error) {
	ctx, cancel := context.WithTimeout(p.t.Context(), 10*time.Second)
	defer cancel()
	stream, err := secretv3.NewSecretDiscoveryServiceClient(p.dial()).StreamSecrets(ctx)
	if err != nil {
		return nil, err
	}
	err = stream.Send(&discoveryv3.DiscoveryRequest{
		Node: &corev3.Node{Id: "test"}, ResourceNames: []string{name}, TypeUrl: "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
	})
	if err != nil {
		return nil, err
	}
	response, err := stream.Recv()
	if err != nil {
		return nil, err
	}
	secret := &tlsv3.Secret{}
	return secret, response.GetResources()[0].UnmarshalTo(secret)
}

// newAgentDir makes an authority, and what an agent needs to join it.
func newAgentDir(t *testing.T, workloads string) (dir string, authority *authorityProcess) {
	t.Helper()
	dir = write(t, t.TempDir(), map[string]string{"writ.yaml": "state: ./state\nca: {listen: '127.0.0.1:0', default_ttl: 10m}\nadmin: unix:admin.sock\ndiagnostics: 127.0.0.1:0\n"})
	authority = serve(t, dir)
	authority.ready()
	joinToken(t, dir, agentNode, paymentID, orderID)
	write(t, dir, map[string]string{"agent.yaml": agentYAML(authority.address("ca"), workloads)})
	return dir, authority
}

func agentYAML(authority, workloads string) string {
	return "authority: {address: '" + authority + "', bundle: ./state/bundle.pem}\nattest: {join_token_file: ./token}\nstate: ./agent-state\n" +
		"sds: {listen: unix:agent.sock}\nadmin: unix:agent-admin.sock\ndiagnostics: 127.0.0.1:0\nworkloads:\n" + workloads
}

func joinToken(t *testing.T, dir string, ids ...string) {
	t.Helper()
	args := []string{"token", "create", "-c", filepath.Join(dir, "writ.yaml"), "--out", filepath.Join(dir, "token")}
	for _, id := range ids {
		args = append(args, "--id", id)
	}
	if out, err := writ(t, args...).CombinedOutput(); err != nil {
		t.Fatalf("token create: %v\n%s", err, out)
	}
}

func ourUID(id string) string { return fmt.Sprintf("- {id: %s, uid: %d}\n", id, os.Getuid()) }
