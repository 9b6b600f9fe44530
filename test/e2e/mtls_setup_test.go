package e2e_test

import (
	"bytes"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"text/template"
	"time"

	"github.com/writ-auth/writ/internal/testkit"
)

//go:embed drill/*.yaml
var drillFiles embed.FS

const (
	orderID   = "spiffe://cluster.local/ns/coffee-shop/sa/order"   // calls
	paymentID = "spiffe://cluster.local/ns/coffee-shop/sa/payment" // is called
	strangeID = "spiffe://cluster.local/ns/coffee-shop/sa/strange" // of the trust domain, and allowed nothing

	// mtlsTTL is how long certificates live here: half of it passes until a renewal, and a machine that stands still for less
	// than the other half loses nothing.
	mtlsTTL = 16 * time.Second

	allowOrder = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: callers, namespace: coffee-shop}
spec:
  action: ALLOW
  rules: [{from: [{source: {principals: [cluster.local/ns/coffee-shop/sa/order]}}]}]
`
)

// mesh is one trust domain on this machine: authorities that issue and decide, agents, Envoys between a caller and a service.
type mesh struct {
	*bench
	t *testing.T
}

// unit is one authority or agent by its configuration NAME.yaml.
type unit struct {
	mesh *mesh
	name string
}

func newMesh(t *testing.T) *mesh {
	t.Helper()
	m := &mesh{bench: newBench(t), t: t}
	m.policy(t, "callers.yaml", allowOrder)
	return m
}

// write leaves a file in the folder.
func (m *mesh) write(name, text string) {
	m.t.Helper()
	if err := os.WriteFile(m.file(name), []byte(text), 0o600); err != nil {
		m.t.Fatal(err)
	}
}

// configure writes NAME.yaml of an authority that issues at address and decides at NAME-authz.sock. Where its ledger is,
// state or store, and what else its ca block has, is up to the caller.
func (m *mesh) configure(name, address, ledger, ca string) unit {
	m.t.Helper()
	m.write(name+".yaml", fmt.Sprintf(`documents: policies
%s
ca: {listen: %q, replica: %s}
authz: {listen: "unix:%[4]s-authz.sock", decision_log: {to: %[4]s.jsonl, log: all}}
admin: unix:%[4]s-admin.sock
diagnostics: 127.0.0.1:0
`, ledger, address, name+ca, name))
	return unit{m, name}
}

// authority configures and starts the one authority that most tests need, with certificates that live for ttl unless
// somebody asks for more. It returns where it issues, too.
func (m *mesh) authority(ttl time.Duration, ca string) (u unit, address string) {
	m.t.Helper()
	address = freeAddress(m.t)
	u = m.configure("main", address, "state: ./state", fmt.Sprintf(", default_ttl: %v%s", ttl, ca))
	u.serve()
	m.write("root.pem", u.do("ca", "bundle"))
	return u, address
}

// serve starts the authority and waits until it is ready.
func (u unit) serve() *testkit.Authority {
	u.mesh.t.Helper()
	a, err := testkit.StartAuthority(bounded(u.mesh.t), testkit.AuthorityConfig{Binary: u.mesh.writ, Config: u.mesh.file(u.name + ".yaml")})
	if err != nil {
		u.mesh.t.Fatal(err)
	}
	u.mesh.t.Cleanup(func() { stop(u.mesh.t, a.Process) })
	if err := a.WaitReady(bounded(u.mesh.t)); err != nil {
		u.mesh.t.Fatal(err)
	}
	return a
}

// try runs a command of writ with this unit's configuration.
func (u unit) try(args ...string) (code int, out string, err error) {
	ctx, cancel := context.WithTimeout(u.mesh.t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, u.mesh.writ, append(args, "-c", u.name+".yaml")...)
	cmd.Dir = u.mesh.dir
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return exit.ExitCode(), stdout.String() + stderr.String(), nil
	}
	return 0, stdout.String(), err
}

// do runs a command that must succeed.
func (u unit) do(args ...string) string {
	u.mesh.t.Helper()
	code, out, err := u.try(args...)
	if err != nil || code != 0 {
		u.mesh.t.Fatalf("writ %s: exit code %d, %v\n%s", strings.Join(args, " "), code, err, out)
	}
	return out
}

// rotate takes a step of a root rotation as soon as the authority has the evidence for it, and never overrides.
func (u unit) rotate(step string) {
	u.mesh.t.Helper()
	eventuallyWithin(u.mesh.t, 4*patience, "ca rotate "+step, func() error {
		code, out, err := u.try("ca", "rotate", step)
		if err == nil && code != 0 {
			err = fmt.Errorf("exit code %d\n%s", code, out)
		}
		return err
	})
}

// status is what writ status says of an authority or an agent, as far as these tests look.
type status struct {
	Ready    bool     `json:"ready"`
	Reasons  []string `json:"reasons"`
	Warnings []string `json:"warnings"`
	Checks   []struct {
		Decision string `json:"decision"`
		Reason   string `json:"reason"`
		Count    uint64 `json:"count"`
	} `json:"checks"`
	CA struct {
		Answers []struct {
			Outcome string `json:"outcome"`
			Count   uint64 `json:"count"`
		} `json:"answers"`
		Bundle    int64 `json:"bundle"`
		Followers []struct {
			Name   string `json:"name"`
			Bundle int64  `json:"bundle"`
		} `json:"followers"`
	} `json:"ca"`
	Agent struct {
		Authority string `json:"authority"`
		Bundle    *struct {
			Version int64  `json:"version"`
			Roots   int    `json:"roots"`
			Acked   int64  `json:"acked"`
			Behind  string `json:"behind"`
		} `json:"bundle"`
		Identities []struct {
			ID     string `json:"id"`
			Serial string `json:"serial"`
			Error  string `json:"error"`
		} `json:"identities"`
		Streams []struct {
			Node    string         `json:"node"`
			Secrets []secretStatus `json:"secrets"`
		} `json:"streams"`
		Refusals []struct {
			Caller string `json:"caller"`
			Secret string `json:"secret"`
			Reason string `json:"reason"`
			Detail string `json:"detail"`
		} `json:"refusals"`
	} `json:"agent"`
}

type secretStatus struct {
	Name       string `json:"name"`
	Sent       string `json:"sent"`
	Acked      string `json:"acked"`
	Rejected   string `json:"rejected"`
	Rejections int    `json:"rejections"`
	Error      string `json:"error"`
	Waiting    string `json:"waiting"`
}

func (u unit) status() (s status, err error) {
	_, out, err := u.try("status", "-o", "json")
	if err == nil {
		err = json.Unmarshal([]byte(out), &s)
	}
	return s, err
}

// secret is what a node has, or wants, by one of its streams.
func (s *status) secret(node, name string) (secretStatus, error) {
	for _, stream := range s.Agent.Streams {
		for _, secret := range stream.Secrets {
			if stream.Node == node && secret.Name == name {
				return secret, nil
			}
		}
	}
	return secretStatus{}, fmt.Errorf("%s has no stream for %s: %+v", node, name, s.Agent.Streams)
}

// decided counts the answered checks.
func (s *status) decided() (n uint64) {
	for _, c := range s.Checks {
		n += c.Count
	}
	return n
}

// issued counts the certificates issued since the authority's start.
func (s *status) issued() (n uint64) {
	for _, a := range s.CA.Answers {
		if a.Outcome == "issued" {
			n += a.Count
		}
	}
	return n
}

// agent configures an agent at NAME.sock that asks the authorities, in this order, with a join token of from for its
// identities; the rules of who may have which are lines of workloads.
func (m *mesh) agent(name string, from unit, authorities, ids []string, workloads ...string) unit {
	m.t.Helper()
	m.joinToken(name, from, ids...)
	u := unit{m, name}
	u.setWorkloads(authorities, workloads...)
	return u
}

func (m *mesh) joinToken(name string, from unit, ids ...string) {
	m.t.Helper()
	args := []string{"token", "create", "--out", m.file(name + "-token")}
	for _, id := range ids {
		args = append(args, "--id", id)
	}
	from.do(args...)
}

func (u unit) setWorkloads(authorities []string, workloads ...string) {
	u.mesh.t.Helper()
	list, err := json.Marshal(authorities)
	if err != nil {
		u.mesh.t.Fatal(err)
	}
	u.mesh.write(u.name+".yaml", fmt.Sprintf(`authority: {addresses: %s, bundle: ./root.pem}
attest: {join_token_file: ./%[2]s-token}
state: ./%[2]s-state
sds: {listen: "unix:%[2]s.sock"}
admin: unix:%[2]s-admin.sock
diagnostics: 127.0.0.1:0
workloads:
%[3]s
`, list, u.name, strings.Join(workloads, "\n")))
}

// start starts the agent; whether it is ready is up to the caller.
func (u unit) start() *testkit.Agent {
	u.mesh.t.Helper()
	a, err := testkit.StartAgent(bounded(u.mesh.t), testkit.AgentConfig{Name: u.name, Binary: u.mesh.writ, Config: u.mesh.file(u.name + ".yaml")})
	if err != nil {
		u.mesh.t.Fatal(err)
	}
	u.mesh.t.Cleanup(func() { stop(u.mesh.t, a.Process) })
	return a
}

// ready starts the agent and waits until it has everything.
func (u unit) ready() *testkit.Agent {
	u.mesh.t.Helper()
	a := u.start()
	if err := a.WaitReady(bounded(u.mesh.t)); err != nil {
		u.mesh.t.Fatal(err)
	}
	return a
}

// ours is a rule that fits every process of this test.
func ours(id string) string { return fmt.Sprintf("- {id: %q, uid: %d}", id, os.Getuid()) }

// byPath is a rule for one program.
func byPath(id, path string) string { return fmt.Sprintf("- {id: %q, path: %q}", id, path) }

// proxy fills in the bootstraps of drill.
type proxy struct {
	SDS       string   // socket
	HTTP, TCP string   // where the service is; host:port
	Authz     []string // sockets
	Peer      string   // SPIFFE ID that the service must have
	Protocol  string   // of SDS: GRPC, which is SotW and the default, or DELTA_GRPC
	Secret    string   // with the certificate; default if empty
}

// bootstrap is drill/NAME.yaml, filled in.
func (m *mesh) bootstrap(name string, p proxy) string {
	m.t.Helper()
	text, err := template.ParseFS(drillFiles, "drill/"+name+".yaml")
	if err != nil {
		m.t.Fatal(err)
	}
	p.HTTP, p.TCP, p.SDS = socketAddress(p.HTTP), socketAddress(p.TCP), m.file(p.SDS)
	var b bytes.Buffer
	if err := text.Execute(&b, p); err != nil {
		m.t.Fatal(err)
	}
	return b.String()
}

// proxy starts an Envoy by a bootstrap of drill. It returns when all listeners are open: all secrets are there.
func (m *mesh) proxy(node, name string, p proxy) *testkit.Envoy {
	m.t.Helper()
	envoy, err := m.tryProxy(bounded(m.t), node, m.tools.envoy, m.bootstrap(name, p))
	if err != nil {
		m.t.Fatal(err)
	}
	return envoy
}

func (m *mesh) tryProxy(ctx context.Context, node, binary, bootstrap string) (*testkit.Envoy, error) {
	envoy, err := testkit.StartEnvoy(ctx, testkit.EnvoyConfig{Name: node, Binary: binary, Bootstrap: bootstrap, Dir: m.dir})
	if err == nil {
		m.t.Cleanup(func() { stop(m.t, envoy.Process) })
	}
	return envoy, err
}

// freeAddress is a loopback address that nobody listens at: for servers that come back at the same one.
func freeAddress(t *testing.T) string {
	t.Helper()
	var config net.ListenConfig
	listener, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}
