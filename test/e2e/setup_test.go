package e2e_test

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/writ-auth/writ/internal/testkit"
)

// patience bounds every wait. It is long because CI machines are slow, and never waited out when all is well.
const patience = 30 * time.Second

// tools are built or fetched once for all tests.
type tools struct {
	dir, envoy, writ string
	ca               *testkit.CA
}

var getTools = sync.OnceValues(func() (t tools, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	if t.dir, err = os.MkdirTemp("", "writ-e2e-"); err != nil {
		return t, err
	}
	if t.envoy, err = testkit.EnvoyPath(ctx); err != nil {
		return t, err
	}
	if t.writ, err = testkit.BuildWrit(ctx, t.dir, buildFlags...); err != nil {
		return t, err
	}
	t.ca, err = testkit.NewCA("writ e2e")
	return t, err
})

func TestMain(m *testing.M) {
	m.Run()
	if t, _ := getTools(); t.dir != "" {
		_ = os.RemoveAll(t.dir)
	}
}

func mustTools(t *testing.T) tools {
	t.Helper()
	tools, err := getTools()
	if err != nil {
		t.Fatal(err)
	}
	return tools
}

// bounded is the context of one step that may block.
func bounded(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// bench is one authority's folder: certificates, configuration, documents, sockets.
type bench struct {
	tools
	dir string
}

// newBench makes a folder whose path is short enough for Unix sockets, unlike t.TempDir's.
func newBench(t *testing.T) *bench {
	t.Helper()
	tools := mustTools(t)
	dir, err := os.MkdirTemp(tools.dir, "") //nolint:usetesting // t.TempDir is too long for the path of a Unix socket
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{tools: tools, dir: dir}
	if err := os.Mkdir(b.file("policies"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := tools.ca.Write(b.file("ca.pem")); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *bench) file(name string) string { return filepath.Join(b.dir, name) }

// policy replaces one document file in one step, as editors and configuration tools do.
func (b *bench) policy(t *testing.T, name, text string) {
	t.Helper()
	temporary := b.file("new-" + name)
	if err := os.WriteFile(temporary, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(temporary, filepath.Join(b.file("policies"), name)); err != nil {
		t.Fatal(err)
	}
}

// serve starts `writ serve` on socket (a name inside the folder). The settings, one a line, belong to authz.
func (b *bench) serve(t *testing.T, socket string, settings ...string) *testkit.Authority {
	t.Helper()
	config := fmt.Sprintf("documents: policies\ndiagnostics: 127.0.0.1:0\nauthz:\n  listen: unix:%s\n  decision_log: {to: %s.jsonl, log: all}\n", socket, socket)
	for _, line := range settings {
		config += "  " + line + "\n"
	}
	path := b.file(socket + ".yaml")
	if err := os.WriteFile(path, []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	authority, err := testkit.StartAuthority(bounded(t), testkit.AuthorityConfig{Binary: b.writ, Config: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, authority.Process) })
	return authority
}

// stop ends a process and shows what it said if the test failed.
func stop(t *testing.T, p *testkit.Process) {
	t.Helper()
	p.Stop()
	if t.Failed() {
		t.Logf("last words of %s:\n%s", p.Name, p.Output.Tail(15))
	}
	if strings.Contains(p.Output.String(), "DATA RACE") {
		t.Errorf("%s reports a data race:\n%s", p.Name, p.Output)
	}
}

// edit changes one setting of the reference bootstrap, everywhere it stands.
type edit struct{ from, to string }

// envoy runs deploy/envoy/sidecar.yaml with the edits. An edit that finds nothing to change fails the test.
func (b *bench) envoy(t *testing.T, http, tcp string, edits ...edit) *testkit.Envoy {
	t.Helper()
	root, err := testkit.Root()
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(root, "deploy", "envoy", "sidecar.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(b.file("server.pem")); err != nil {
		b.certificate(t, "server", testkit.Names{URIs: []string{id("order-service")}, DNS: []string{"localhost"}, IPs: []string{"127.0.0.1"}})
	}
	text := string(data)
	for _, e := range append(edits,
		edit{"address: 0.0.0.0, port_value: 15006", "address: 127.0.0.1, port_value: 0"},
		edit{"address: 0.0.0.0, port_value: 15007", "address: 127.0.0.1, port_value: 0"},
		edit{"/etc/certs/cert.pem", b.file("server.pem")},
		edit{"/etc/certs/key.pem", b.file("server.pem")},
		edit{"/etc/certs/ca.pem", b.file("ca.pem")},
		edit{"address: 127.0.0.1, port_value: 8080", socketAddress(http)},
		edit{"address: 127.0.0.1, port_value: 5432", socketAddress(tcp)},
		edit{writAddress, "pipe: { path: " + b.file("authz.sock") + " }"},
		edit{" timeout: 0.25s", " timeout: 20s"}, // a busy machine is not what is tested
		edit{"max_interval: 0.1s", "max_interval: 10s"},
	) {
		if !strings.Contains(text, e.from) {
			t.Fatalf("deploy/envoy/sidecar.yaml does not contain %q", e.from)
		}
		text = strings.ReplaceAll(text, e.from, e.to)
	}
	envoy, err := testkit.StartEnvoy(bounded(t), testkit.EnvoyConfig{Name: "e2e", Binary: b.tools.envoy, Bootstrap: text, Dir: b.dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, envoy.Process) })
	return envoy
}

const writAddress = "socket_address: { address: 127.0.0.1, port_value: 9191 }"

func socketAddress(address string) string {
	host, port, _ := strings.Cut(address, ":")
	return "address: " + host + ", port_value: " + port
}

func id(serviceAccount string) string {
	return "spiffe://cluster.local/ns/coffee-shop/sa/" + serviceAccount
}

// certificate makes a certificate and leaves it in the folder as name.pem.
func (b *bench) certificate(t *testing.T, name string, names testkit.Names) *tls.Certificate {
	t.Helper()
	leaf, err := b.ca.Leaf(names)
	if err != nil {
		t.Fatal(err)
	}
	if err := testkit.WriteLeaf(leaf, b.file(name+".pem")); err != nil {
		t.Fatal(err)
	}
	return leaf
}

// caller is a client with the certificate of a service account.
func (b *bench) caller(t *testing.T, serviceAccount string) *http.Client {
	t.Helper()
	return b.client(t, b.certificate(t, serviceAccount, testkit.Names{URIs: []string{id(serviceAccount)}}))
}

func (b *bench) client(t *testing.T, certificate *tls.Certificate) *http.Client {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: b.tlsConfig(certificate), MaxIdleConnsPerHost: 16}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: patience}
}

func (b *bench) tlsConfig(certificate *tls.Certificate) *tls.Config {
	return &tls.Config{RootCAs: b.ca.Pool(), ServerName: "localhost", Certificates: []tls.Certificate{*certificate}, MinVersion: tls.VersionTLS12}
}

// echo is the service behind Envoy.
func echo(t *testing.T) string {
	t.Helper()
	backend, err := testkit.ServeHTTP(t.Context(), testkit.EchoHandler("order"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := backend.Close(); err != nil {
			t.Error(err)
		}
	})
	return backend.Addr
}

// database is the TCP service behind Envoy; it greets whoever reaches it.
func database(t *testing.T) string {
	t.Helper()
	backend, err := testkit.ServeTCPEcho(t.Context(), "ready")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := backend.Close(); err != nil {
			t.Error(err)
		}
	})
	return backend.Addr
}

// response is what a caller got, and what the access log says of it.
type response struct {
	status int
	body   string
	header http.Header
	proto  string
	id     string // x-request-id
}

// get sends one request; the header is "name: value" lines.
func get(t *testing.T, client *http.Client, envoy *testkit.Envoy, method, target string, header ...string) response {
	t.Helper()
	resp, err := try(t.Context(), client, "https://"+envoy.Listener("http"), method, target, header...)
	if err != nil {
		t.Fatalf("%s %s: %v", method, target, err)
	}
	return resp
}

// try is get for goroutines that are not the test's own.
func try(ctx context.Context, client *http.Client, base, method, target string, header ...string) (response, error) {
	req, err := http.NewRequestWithContext(ctx, method, base, nil)
	if err != nil {
		return response{}, err
	}
	path, query, _ := strings.Cut(target, "?")
	req.URL.Opaque = path // as it is: no cleaning, no encoding
	req.URL.RawQuery = query
	id := rand.Text()
	req.Header.Set("X-Request-Id", id)
	for _, line := range header {
		name, value, _ := strings.Cut(line, ": ")
		if strings.EqualFold(name, "host") {
			req.Host = value
			continue
		}
		req.Header.Add(name, value)
	}
	resp, err := client.Do(req)
	if err != nil {
		return response{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return response{resp.StatusCode, string(body), resp.Header, resp.Proto, id}, err
}

// eventually repeats try until it succeeds: for changes that writ picks up from files.
func eventually(t *testing.T, what string, try func() error) {
	t.Helper()
	eventuallyWithin(t, patience, what, try)
}

// eventuallyWithin is eventually for what takes its time even when all is well.
func eventuallyWithin(t *testing.T, patience time.Duration, what string, try func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: still not so after %v: %v", what, patience, err)
		case <-tick.C:
		}
	}
}
