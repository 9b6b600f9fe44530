package main

import (
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
)

const providersConfig = `
documents: ./policies
authz:
  listen: unix:authz.sock
  decision_log: {to: decisions.jsonl, log: all}
  providers:
  - {name: coffee-opa, timeout: 5s, opa: {bundle: ./rego}}
  - {name: legacy, fail_open: true, grpc: {target: 'dns:///127.0.0.1:1'}}
admin: unix:admin.sock
diagnostics: 127.0.0.1:0
`

const hoursPolicy = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: hours, namespace: coffee-shop}
spec: {action: CUSTOM, provider: {name: coffee-opa}, rules: [{to: [{operation: {paths: [/orders]}}]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: later, namespace: coffee-shop, annotations: {writ/dry-run: "true"}}
spec: {action: CUSTOM, provider: {name: coffee-opa}, rules: [{to: [{operation: {paths: [/menu]}}]}]}
`

// comesToAnswer waits until a request for path is answered with an HTTP status.
func (p *authorityProcess) comesToAnswer(conn *grpc.ClientConn, path string, want int) {
	p.t.Helper()
	p.eventually(fmt.Sprintf("%s answered with %d", path, want), func() error {
		got, err := ask(p.t.Context(), conn, menuRequest(path))
		if err == nil && got != want {
			err = fmt.Errorf("got %d", got)
		}
		return err
	})
}

// menuRequest asks for a path of a workload in coffee-shop.
func menuRequest(path string) *authv3.CheckRequest {
	return &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Request:           &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{Method: "GET", Path: path, Headers: map[string]string{}}},
		ContextExtensions: map[string]string{"writ.namespace": "coffee-shop", "writ.labels": ""},
	}}
}

// TestServeProviders: Rego that does not compile denies and shows until it is mended; afterwards the last good one stays.
func TestServeProviders(t *testing.T) {
	t.Parallel()
	dir := write(t, t.TempDir(), map[string]string{
		"writ.yaml": providersConfig, "policies/p.yaml": hoursPolicy, "rego/p.rego": "package envoy.authz\n\nallow if no_such(1)\n",
	})
	p := serve(t, dir)
	p.ready("provider coffee-opa has no policies", "p.rego:3:10: undefined function no_such")
	p.metric(`writ_custom_policies_ready{provider="coffee-opa"} 0`)
	conn := p.dial("", nil)
	answers := func(path string, want int) {
		t.Helper()
		p.comesToAnswer(conn, path, want)
	}
	answers("/orders", http.StatusForbidden)
	answers("/menu", http.StatusOK)
	p.metric(`writ_check_total{decision="deny",layer="custom",reason="provider_not_ready"} 1`)
	p.metric(`writ_custom_total{outcome="provider_not_ready",provider="coffee-opa"} 1`)

	write(t, dir, map[string]string{"rego/p.rego": "package envoy.authz\nallow := {\"allowed\": false, \"http_status\": 418}\n"})
	p.ready()
	answers("/orders", http.StatusTeapot)
	p.metric(`writ_custom_policies_ready{provider="coffee-opa"} 1`)
	answers("/menu", http.StatusOK) // under dry run: asked, and not obeyed
	p.metric(`writ_custom_shadow_total{outcome="provider_denied",provider="coffee-opa"} 1`)

	write(t, dir, map[string]string{"rego/p.rego": "package envoy.authz\nallow := {{\n"})
	p.signal(syscall.SIGHUP)
	p.metric(`writ_custom_policies_load_failed{provider="coffee-opa"} 1`)
	answers("/orders", http.StatusTeapot)
	p.ready() // what is in force is good
	report := p.status()
	if len(report.Providers) != 2 || report.Providers[0].Policies == nil || !strings.Contains(report.Providers[0].Policies.Error, "p.rego:3:") {
		t.Errorf("%+v", report.Providers)
	}
	warnings := strings.Join(report.Warnings, "\n")
	if !strings.Contains(warnings, "coffee-opa: its policies cannot be renewed") || !strings.Contains(warnings, "legacy fails open") {
		t.Error(warnings)
	}
	out, err := writ(t, "status", "-c", filepath.Join(dir, "writ.yaml")).Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"\nproviders\n  last good  coffee-opa  opa   ", "\n  answers    legacy      grpc  dns:///127.0.0.1:1\n"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("writ status does not say %q:\n%s", want, out)
		}
	}
	p.eventually("in the decision log", func() error {
		log, err := readBounded(filepath.Join(dir, "decisions.jsonl"), 1<<20)
		if err == nil && !strings.Contains(string(log), `"custom":[{"provider":"coffee-opa","rule":"coffee-shop/hours[0]","outcome":"provider_denied","duration_us":`) {
			err = errors.New("no such line")
		}
		return err
	})
	p.stop()
}
