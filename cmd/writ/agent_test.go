package main

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/writ-auth/writ/internal/spiffeid"
)

const agentNode = "spiffe://cluster.local/node/n1"

// TestAgent is the life of an agent: it joins, serves who may be served, says who may not, takes other rules without a
// restart, and is back at once after a restart without an authority.
func TestAgent(t *testing.T) {
	t.Parallel()
	dir, authority := newAgentDir(t, ourUID(paymentID))
	p := startAgent(t, dir)
	p.ready()

	secret, err := p.secret("default")
	if err != nil {
		t.Fatal(err)
	}
	if chain := string(secret.GetTlsCertificate().GetCertificateChain().GetInlineBytes()); firstURI(t, chain) != paymentID {
		t.Errorf("the secret is %s", firstURI(t, chain))
	}
	if _, err := p.secret("ROOTCA"); err != nil {
		t.Error(err)
	}
	if _, err := p.secret(orderID); status.Code(err) != codes.PermissionDenied {
		t.Errorf("another's secret: %v", err)
	}
	socket := workloadapi.WithAddr("unix://" + filepath.Join(dir, "agent.sock"))
	svid, err := workloadapi.FetchX509SVID(t.Context(), socket)
	if err != nil || svid.ID.String() != paymentID {
		t.Errorf("the Workload API: %v, %v", svid, err)
	}

	r := p.status()
	if !r.Ready || r.Agent == nil || r.Agent.Own.ID.String() != agentNode || len(r.Agent.Identities) != 1 || r.Agent.Bundle == nil {
		t.Errorf("status %+v", r)
	}
	if _, err := os.Stat(filepath.Join(dir, "token")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the token is still there: %v", err)
	}

	// Other rules: by SIGHUP at once, and whoever lost its right is told.
	write(t, dir, map[string]string{"agent.yaml": agentYAML(authority.address("ca"), ourUID(orderID)+"- {id: "+paymentID+", path: /usr/bin/absent}\n")})
	if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	p.eventually("served by the new rules", func() error { _, err := p.secret(orderID); return err })
	if _, err := p.secret(paymentID); status.Code(err) != codes.PermissionDenied {
		t.Errorf("by a rule for another program: %v", err)
	}
	if got := p.status().Agent.Refusals; len(got) == 0 {
		t.Error("the refusals are not in the status")
	}
	write(t, dir, map[string]string{"agent.yaml": agentYAML(authority.address("ca"), "- {id: x}\n")})
	p.eventually("a mistake is said", func() error {
		if text := strings.Join(p.status().Warnings, " "); !strings.Contains(text, "workloads[0].id") {
			return errors.New(text)
		}
		return nil
	})
	if _, err := p.secret(orderID); err != nil {
		t.Errorf("the last good rules: %v", err)
	}
	p.stop()

	authority.stop()
	write(t, dir, map[string]string{"agent.yaml": agentYAML(authority.address("ca"), ourUID(agentNode))})
	p = startAgent(t, dir)
	p.ready()
	if _, err := p.secret("default"); err != nil {
		t.Errorf("from the state, without an authority: %v", err)
	}
	p.stop()
}

// TestAgentStatus: what people read.
func TestAgentStatus(t *testing.T) {
	t.Parallel()
	dir, authority := newAgentDir(t, ourUID(paymentID))
	p := startAgent(t, dir)
	p.ready()
	if _, err := p.secret("default"); err != nil {
		t.Fatal(err)
	}
	text := func() string {
		out, err := writ(t, "status", "-c", filepath.Join(dir, "agent.yaml")).CombinedOutput()
		if err != nil {
			t.Fatalf("status: %v\n%s", err, out)
		}
		return string(out)
	}
	p.eventually("followed", func() error {
		if got := text(); !strings.Contains(got, "followed at "+authority.address("ca")) {
			return errors.New(got)
		}
		return nil
	})
	for _, want := range []string{"is ready", "agent of cluster.local", "bundle     version 1, 1 root", agentNode, paymentID, "the agent's own", "half of its life"} {
		if got := text(); !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	out, err := writ(t, "status", "-o", "json", "--admin", "unix:"+filepath.Join(dir, "agent-admin.sock")).Output()
	var report statusReport
	if err != nil || json.Unmarshal(out, &report) != nil || report.Agent == nil || report.Agent.Bundle.Version != 1 {
		t.Errorf("json: %v\n%s", err, out)
	}
	metrics, err := p.get("/metrics", http.StatusOK)
	if err != nil || !strings.Contains(metrics, `writ_agent_attempts_total{outcome="renewed"} 2`) || !strings.Contains(metrics, `writ_agent_identities{alarm="ok"} 2`) ||
		!strings.Contains(metrics, "writ_sds_streams") {
		t.Errorf("metrics: %v\n%s", err, metrics)
	}
	checkAgentMetricsDocs(t, metrics)
}

// checkAgentMetricsDocs holds docs/agent.md to the metrics there are.
func checkAgentMetricsDocs(t *testing.T, metrics string) {
	t.Helper()
	docs, err := os.ReadFile("../../docs/agent.md")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(metrics) {
		if rest, ok := strings.CutPrefix(line, "# TYPE writ_agent_"); ok {
			name, _, _ := strings.Cut("writ_agent_"+rest, " ")
			if !strings.Contains(string(docs), "`"+name+"`") {
				t.Errorf("docs/agent.md does not mention %s", name)
			}
		}
	}
}

// TestAgentRevoked: an agent whose identity is revoked is refused, says so, and what it has runs out.
func TestAgentRevoked(t *testing.T) {
	t.Parallel()
	dir, _ := newAgentDir(t, ourUID(paymentID))
	p := startAgent(t, dir)
	p.ready()
	id, err := spiffeid.Parse(paymentID)
	if err != nil {
		t.Fatal(err)
	}
	for _, revoked := range []string{agentNode, id.String()} {
		if out, err := writ(t, "ca", "revoke", "-c", filepath.Join(dir, "writ.yaml"), "--id", revoked).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	p.stop()
	joinToken(t, dir, paymentID) // whatever it brings, the identity stays revoked
	p = startAgent(t, dir)
	p.eventually("refused", func() error {
		if got := p.status().Agent.Own; got.Failures == 0 || !strings.Contains(got.Error, "permission denied") {
			return fmt.Errorf("%+v", got)
		}
		return nil
	})
	if _, err := p.get("/readyz", http.StatusServiceUnavailable); err != nil {
		t.Error(err)
	}
	p.stop()
}

// TestAgentTokenTwice: the second node with one token gets nothing, and learns what to do.
func TestAgentTokenTwice(t *testing.T) {
	t.Parallel()
	dir, _ := newAgentDir(t, ourUID(paymentID))
	token, err := os.ReadFile(filepath.Join(dir, "token"))
	if err != nil {
		t.Fatal(err)
	}
	p := startAgent(t, dir)
	p.ready()
	p.stop()
	if err := os.RemoveAll(filepath.Join(dir, "agent-state")); err != nil {
		t.Fatal(err)
	}
	write(t, dir, map[string]string{"token": string(token)})
	p = startAgent(t, dir)
	p.eventually("refused", func() error {
		if got := p.status().Agent.Own.Error; !strings.Contains(got, "used before") {
			return errors.New(got)
		}
		return nil
	})
	if err := os.Remove(filepath.Join(dir, "token")); err != nil {
		t.Fatal(err)
	}
	joinToken(t, dir, agentNode, paymentID)
	p.ready()
	p.stop()
}

func firstURI(t *testing.T, chain string) string {
	t.Helper()
	certs, err := parseCertificates([]byte(chain))
	if err != nil {
		t.Fatal(err)
	}
	return uriOf(certs[0])
}

func uriOf(c *x509.Certificate) string {
	if len(c.URIs) != 1 {
		return fmt.Sprint(c.URIs)
	}
	return c.URIs[0].String()
}

// TestAgentRotation: a whole root rotation, each step taken only once the authority has the evidence for it, which comes
// from the agent and from the stream that the agent serves.
func TestAgentRotation(t *testing.T) {
	t.Parallel()
	dir := write(t, t.TempDir(), map[string]string{
		"writ.yaml": "state: ./state\nca: {listen: '127.0.0.1:0', default_ttl: 10s, attest: {client_cert: {grace: 1h}, join_token: {}}}\nadmin: unix:admin.sock\ndiagnostics: 127.0.0.1:0\n",
	})
	authority := serve(t, dir)
	authority.ready()
	joinToken(t, dir, agentNode, paymentID)
	write(t, dir, map[string]string{"agent.yaml": agentYAML(authority.address("ca"), ourUID(paymentID))})
	p := startAgent(t, dir)
	p.ready()
	roots := p.acknowledged(t, "ROOTCA")
	before := <-roots
	for _, step := range []string{"prepare", "distribute", "activate", "taint", "revoke"} {
		rotate(t, dir, step)
	}
	after := before
	p.eventually("the new root alone", func() error {
		select {
		case after = <-roots:
		default:
		}
		certs, err := parseCertificates([]byte(after))
		if err == nil && (len(certs) != 1 || after == before) {
			err = fmt.Errorf("%d roots, changed: %v", len(certs), after != before)
		}
		return err
	})
	p.eventually("well", func() error { // a busy machine may be late with a renewal in ten seconds
		if r := p.status(); !r.Ready || r.Agent.Bundle.Version < 4 || len(r.Warnings) != 0 {
			return fmt.Errorf("status %+v", r)
		}
		return nil
	})
	p.stop()
}

// rotate takes a step of a rotation as soon as nobody is in the way, which takes a renewal or two.
func rotate(t *testing.T, dir, step string) {
	t.Helper()
	var last []byte
	for deadline := time.Now().Add(90 * time.Second); time.Now().Before(deadline); <-time.After(200 * time.Millisecond) {
		var err error
		if last, err = writ(t, "ca", "rotate", step, "-c", filepath.Join(dir, "writ.yaml")).CombinedOutput(); err == nil {
			return
		}
	}
	t.Fatalf("%s was never taken: %s", step, last)
}

// acknowledged acknowledges everything that comes for a trust bundle, and passes its roots on.
func (p *agentProcess) acknowledged(t *testing.T, name string) <-chan string {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	out := make(chan string, 16)
	done := make(chan struct{})
	t.Cleanup(func() {
		cancel()
		<-done
	})
	f, err := follow(ctx, p.dial(), name)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(done)
		for {
			secret, err := f.next()
			if err != nil {
				return
			}
			out <- string(secret.GetValidationContext().GetTrustedCa().GetInlineBytes())
			if f.send() != nil {
				return
			}
		}
	}()
	return out
}

// TestAgentKilled: an agent that is killed and an authority that is killed are back where they were, and a second authority
// of the same state takes over meanwhile.
func TestAgentKilled(t *testing.T) {
	t.Parallel()
	dir, authority := newAgentDir(t, ourUID(agentNode))
	address := authority.address("ca")
	p := startAgent(t, dir)
	p.ready()
	first, err := p.secret("default")
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := p.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		<-p.exited
		p = startAgent(t, dir)
		p.ready()
	}
	again, err := p.secret("default")
	if err != nil {
		t.Fatal(err)
	}
	chain := func(s *tlsv3.Secret) string {
		return string(s.GetTlsCertificate().GetCertificateChain().GetInlineBytes())
	}
	if chain(first) != chain(again) {
		t.Error("a restart made a new certificate: the one that was saved was good")
	}
	// The authority is killed, and comes back at another address, which is the second of the list.
	_ = authority.cmd.Process.Kill()
	<-authority.exited
	p.stop()
	authority = serve(t, dir)
	authority.ready()
	text := agentYAML("A", ourUID(agentNode)+ourUID(paymentID))
	text = strings.Replace(text, "address: 'A'", "addresses: ['"+address+"', '"+authority.address("ca")+"']", 1)
	write(t, dir, map[string]string{"agent.yaml": text})
	p = startAgent(t, dir)
	p.ready()
	if got := p.status().Agent.Authority; got != authority.address("ca") {
		t.Errorf("the authority is %s", got)
	}
	p.stop()
}

// TestTokenForWorkloadGroup: a document of Istio's names whom a machine's token is for.
func TestTokenForWorkloadGroup(t *testing.T) {
	t.Parallel()
	dir, _ := newAgentDir(t, ourUID(paymentID))
	const group = "apiVersion: networking.istio.io/v1\nkind: WorkloadGroup\nmetadata: {name: %s, namespace: coffee-shop}\nspec: {template: {serviceAccount: '%s'}}\n"
	write(t, dir, map[string]string{
		"payment.yaml": fmt.Sprintf(group, "payment", "payment"), "unnamed.yaml": fmt.Sprintf(group, "x", ""),
		"bad.yaml": strings.Replace(fmt.Sprintf(group, "x", "y"), "template", "tmplate", 1), "none.yaml": "{}\n", "slash.yaml": fmt.Sprintf(group, "x", "a/b"),
	})
	create := func(file string) (string, int) {
		out, err := writ(t, "token", "create", "-c", filepath.Join(dir, "writ.yaml"), "--workload-group", filepath.Join(dir, file), "-o", "json").CombinedOutput()
		code := 0
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			code = exit.ExitCode()
		}
		return string(out), code
	}
	for file, want := range map[string]struct {
		code int
		text string
	}{
		"payment.yaml": {exitOK, paymentID}, "unnamed.yaml": {exitOK, "spiffe://cluster.local/ns/coffee-shop/sa/default"},
		"bad.yaml": {exitInvalid, "tmplate"}, "none.yaml": {exitFailed, "no WorkloadGroup"}, "slash.yaml": {exitInvalid, "slash"}, "absent.yaml": {exitFailed, "absent.yaml"},
	} {
		if out, code := create(file); code != want.code || !strings.Contains(out, want.text) {
			t.Errorf("%s: exit code %d, want %d with %q: %s", file, code, want.code, want.text, out)
		}
	}
}
