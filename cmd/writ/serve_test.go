package main

import (
	"encoding/json"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/writ-auth/writ/authz/extauthz"
	"github.com/writ-auth/writ/policy"
)

const allowCustomer = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: order, namespace: coffee-shop}
spec:
  selector: {matchLabels: {app: order}}
  rules:
  - from: [{source: {serviceAccounts: [customer]}}]
    to: [{operation: {methods: [GET]}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: watch-orders, namespace: coffee-shop, annotations: {istio.io/dry-run: "true"}}
spec:
  action: DENY
  rules:
  - to: [{operation: {paths: ["/orders/*"]}}]
`

const brokenOrder = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: order, namespace: coffee-shop}
spec:
  selector: {matchLabels: {app: order}}
  rules:
  - from: [{source: {ipBlocks: ["10.0.0.300"]}}]
`

// question is a request of the customer to the order service.
func question(method, path string) *authv3.CheckRequest {
	return &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Source: &authv3.AttributeContext_Peer{
			Principal: "spiffe://cluster.local/ns/coffee-shop/sa/customer",
			Address: &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
				Address: "10.1.2.3", PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: 4711}}}},
		},
		ContextExtensions: map[string]string{"writ.namespace": "coffee-shop", "writ.labels": "app=order"},
		Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
			Method: method, Path: path, Host: "order",
			Headers: map[string]string{"x-request-id": "req-1", "authorization": "Bearer SECRET-TOKEN", "cookie": "session=SECRET-COOKIE"},
		}},
	}}
}

func (p *authorityProcess) answers(r *authv3.CheckRequest, want int) {
	p.t.Helper()
	got, err := ask(p.t.Context(), p.dial("", nil), r)
	if err != nil || got != want {
		p.t.Errorf("answered %d (%v), want %d", got, err, want)
	}
}

func TestServe(t *testing.T) {
	t.Parallel()
	dir := write(t, t.TempDir(), map[string]string{"writ.yaml": serveConfig, "policies/order.yaml": allowCustomer})
	p := serve(t, dir)
	p.ready()

	for socket, mode := range map[string]fs.FileMode{"admin.sock": 0o600, "authz.sock": 0o660} {
		if info, err := os.Stat(filepath.Join(dir, socket)); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: mode %v (%v), want %v", socket, info.Mode().Perm(), err, mode)
		}
	}
	health, err := healthv1.NewHealthClient(p.dial("", nil)).Check(t.Context(), &healthv1.HealthCheckRequest{Service: extauthz.ServiceName})
	if err != nil || health.GetStatus() != healthv1.HealthCheckResponse_SERVING {
		t.Errorf("health: %v %v, want SERVING", health, err)
	}

	p.answers(question("GET", "/orders/7?token=SECRET-QUERY"), http.StatusOK)
	p.answers(question("DELETE", "/orders/7"), http.StatusForbidden)
	p.metric(`writ_check_total{decision="allow",layer="allow",reason="allowed"} 1`)
	p.metric(`writ_check_total{decision="deny",layer="allow",reason="no_allow_match"} 1`)
	p.metric(`writ_shadow_total{action="deny",result="matched"} 2`)
	p.metric(`writ_policy_documents{kind="AuthorizationPolicy",state="active"} 2`)
	if _, err := p.get("/debug/pprof/", http.StatusNotFound); err != nil {
		t.Errorf("pprof is off by default: %v", err)
	}

	s := p.status()
	if !s.Ready || s.Documents.Generation == 0 || s.Documents.States["active"] != 2 || len(s.Checks) != 2 || len(s.Listeners) != 3 {
		t.Errorf("status %+v", s)
	}
	p.stop()
	for _, socket := range []string{"admin.sock", "authz.sock"} {
		if _, err := os.Lstat(filepath.Join(dir, socket)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left behind: %v", socket, err)
		}
	}
	checkDecisionLog(t, filepath.Join(dir, "decisions.jsonl"))
}

// checkDecisionLog demands the two decisions of TestServe, flushed at the end, and nothing secret.
func checkDecisionLog(t *testing.T, file string) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(data), "SECRET") {
		t.Errorf("the decision log holds a header, token or query:\n%s", data)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm()&0o007 != 0 {
		t.Errorf("the decision log is open to all: %v %v", info.Mode(), err)
	}
	lines := strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")
	if len(lines) != 2 {
		t.Fatalf("%d lines, want 2:\n%s", len(lines), data)
	}
	var denied map[string]any
	if err := json.Unmarshal([]byte(lines[1]), &denied); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]any{
		"decision": "deny", "status": 403.0, "layer": "allow", "reason": "no_allow_match", "request_id": "req-1", "method": "DELETE",
		"path": "/orders/7", "host": "order", "source": "spiffe://cluster.local/ns/coffee-shop/sa/customer", "source_ip": "10.1.2.3",
	} {
		if denied[key] != want {
			t.Errorf("%s is %v, want %v", key, denied[key], want)
		}
	}
	for _, key := range []string{"time", "decision_id", "generation", "duration_us", "workload", "shadow"} {
		if denied[key] == nil {
			t.Errorf("%s is missing in %s", key, lines[1])
		}
	}
}

func TestServeKeepsLastGood(t *testing.T) {
	t.Parallel()
	dir := write(t, t.TempDir(), map[string]string{"writ.yaml": serveConfig, "policies/order.yaml": allowCustomer})
	p := serve(t, dir)
	p.ready()

	write(t, dir, map[string]string{"policies/order.yaml": brokenOrder})
	p.signal(syscall.SIGHUP)
	p.ready("AuthorizationPolicy coffee-shop/order is broken, its last valid version is in force", "order.yaml:8:", "WRIT210")
	p.metric("writ_policy_load_failed 1")
	p.metric(`writ_policy_documents{kind="AuthorizationPolicy",state="last_good"} 1`)
	p.answers(question("GET", "/orders"), http.StatusOK)
	p.answers(question("DELETE", "/orders"), http.StatusForbidden)
	if s := p.status(); s.Ready || s.Documents.LastLoad.Result != loadDegraded || s.Documents.States[string(policy.StateLastGood)] != 1 {
		t.Errorf("status %+v", s)
	}
	out, err := writ(t, "status", "-c", filepath.Join(dir, "writ.yaml")).Output()
	if err != nil || !strings.Contains(string(out), "is not ready") || !strings.Contains(string(out), "last_good  AuthorizationPolicy coffee-shop/order") {
		t.Errorf("writ status (%v):\n%s", err, out)
	}

	if err := os.Rename(filepath.Join(dir, "policies"), filepath.Join(dir, "gone")); err != nil {
		t.Fatal(err)
	}
	if r := p.reload(); r.Ready || !strings.Contains(strings.Join(r.Reasons, "\n"), "the last load failed") {
		t.Errorf("without documents: %+v", r)
	}
	p.answers(question("GET", "/orders"), http.StatusOK)
	p.answers(question("DELETE", "/orders"), http.StatusForbidden)

	write(t, dir, map[string]string{"policies/order.yaml": allowCustomer})
	p.ready() // noticed without being told
	p.metric("writ_policy_load_failed 0")
	p.stop()
}

func TestServeWithoutDocuments(t *testing.T) {
	t.Parallel()
	dir := write(t, t.TempDir(), map[string]string{"writ.yaml": serveConfig})
	p := serve(t, dir)
	p.ready("no documents have been loaded yet: every check is denied", "no such file or directory")
	p.answers(question("GET", "/orders"), http.StatusForbidden)
	p.metric(`writ_check_total{decision="deny",layer="system",reason="no_snapshot"} 1`)
	p.metric("writ_policy_generation 0")
	if s := p.status(); s.Documents.Generation != 0 || s.Documents.LastLoad.Result != loadFailed {
		t.Errorf("status %+v", s)
	}
	write(t, dir, map[string]string{"policies/order.yaml": allowCustomer})
	p.signal(syscall.SIGHUP)
	p.ready()
	p.answers(question("GET", "/orders"), http.StatusOK)
	p.stop()
}

func TestServeReopensDecisionLog(t *testing.T) {
	t.Parallel()
	dir := write(t, t.TempDir(), map[string]string{"writ.yaml": serveConfig, "policies/order.yaml": allowCustomer})
	p := serve(t, dir)
	p.ready()
	log := filepath.Join(dir, "decisions.jsonl")
	p.answers(question("GET", "/before"), http.StatusOK)
	p.eventually("logged", func() error { return contains(log, "/before") })
	if err := os.Rename(log, log+".1"); err != nil {
		t.Fatal(err)
	}
	p.signal(syscall.SIGHUP)
	p.eventually("opened again", func() error { _, err := os.Stat(log); return err })
	p.answers(question("GET", "/after"), http.StatusOK)
	p.eventually("logged to the new file", func() error { return contains(log, "/after") })
	if contains(log+".1", "/after") == nil || contains(log, "/before") == nil {
		t.Error("a line is in the wrong file")
	}
	p.stop()
}

func contains(file, text string) error {
	data, err := os.ReadFile(file)
	if err == nil && !strings.Contains(string(data), text) {
		err = errors.New(text + " is not in " + file)
	}
	return err
}

func TestServeRefusesToStart(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, config, want string }{
		{"socket directory is missing", strings.ReplaceAll(serveConfig, "unix:authz.sock", "unix:absent/authz.sock"), "authz.listen: listen on unix:"},
		{"socket path is a file", strings.ReplaceAll(serveConfig, "unix:admin.sock", "unix:writ.yaml"), "it is no socket: remove it"},
		{"port is not ours", strings.ReplaceAll(serveConfig, "127.0.0.1:0", "127.0.0.1:99999"), "want a port from 0 to 65535"},
		{"decision log cannot be written", strings.ReplaceAll(serveConfig, "decisions.jsonl", "absent/decisions.jsonl"), "decision log: open"},
		{"certificate is missing", "documents: .\nauthz: {listen: '127.0.0.1:0', tls: {cert: absent.pem, key: absent.pem}}", "authz.tls: open"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := write(t, t.TempDir(), map[string]string{"writ.yaml": tt.config, "policies/order.yaml": allowCustomer})
			out, err := writ(t, "serve", "-c", filepath.Join(dir, "writ.yaml")).CombinedOutput()
			if err == nil || !strings.Contains(string(out), tt.want) {
				t.Errorf("%v: %s\nwant %q", err, out, tt.want)
			}
			for _, socket := range []string{"admin.sock", "authz.sock"} {
				if _, err := os.Lstat(filepath.Join(dir, socket)); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%s is left behind", socket)
				}
			}
		})
	}
}
