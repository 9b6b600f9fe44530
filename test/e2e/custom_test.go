package e2e_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/writ-auth/writ/internal/testkit"
)

// What each provider answers is in a header of the request that carries its name: allow, deny, or something that is no
// answer. opa evaluates Rego inside writ, remote is a gRPC server, web an HTTP server.
const customPolicies = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: one, namespace: coffee-shop}
spec: {action: CUSTOM, provider: {name: opa}, rules: [{to: [{operation: {paths: ["/opa*", "/all*"]}}]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: two, namespace: coffee-shop}
spec: {action: CUSTOM, provider: {name: remote}, rules: [{to: [{operation: {paths: ["/remote*", "/all*"]}}]}]}
---
# The same provider by another policy: it is asked once.
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: two-again, namespace: coffee-shop}
spec: {action: CUSTOM, provider: {name: remote}, rules: [{to: [{operation: {paths: ["/remote*"]}}]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: three, namespace: coffee-shop}
spec: {action: CUSTOM, provider: {name: web}, rules: [{to: [{operation: {paths: ["/web*", "/all*"]}}]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: open, namespace: coffee-shop}
spec: {action: CUSTOM, provider: {name: opened}, rules: [{to: [{operation: {paths: ["/open*"]}}]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: unknown, namespace: coffee-shop}
spec: {action: CUSTOM, provider: {name: unknown}, rules: [{to: [{operation: {paths: ["/unknown"]}}]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: never, namespace: coffee-shop}
spec: {action: DENY, rules: [{to: [{operation: {paths: ["*/denied"]}}]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: listed, namespace: coffee-shop}
spec: {rules: [{to: [{operation: {notPaths: ["*/unlisted"]}}]}]}
`

const customRego = `package envoy.authz

import input.attributes.request.http as http_request

allow := {
	"allowed": true,
	"headers": {"x-who": input.writ.identity.service_account, "x-last": "opa", "x-more": "opa", "x-forwarded-for": "forged"},
	"request_headers_to_remove": ["x-secret"],
	"response_headers_to_add": {"x-seen-by": "opa"},
	"query_parameters_to_set": {"size": "1"},
	"query_parameters_to_remove": ["debug"],
} if http_request.headers.opa == "allow"

allow := {"allowed": false, "http_status": 302, "headers": {"location": "https://login.example/", "set-cookie": ["a=1", "b=2"]}, "body": "opa says no"} if {
	http_request.headers.opa == "deny"
}

allow := "nonsense" if http_request.headers.opa == "nonsense"
`

// remoteProvider is a gRPC authorization server.
type remoteProvider struct {
	authv3.UnimplementedAuthorizationServer
	hang chan struct{}
}

func (p remoteProvider) Check(ctx context.Context, r *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	set := func(name, value string, adds bool) *corev3.HeaderValueOption {
		return &corev3.HeaderValueOption{Header: &corev3.HeaderValue{Key: name, Value: value}, Append: wrapperspb.Bool(adds)}
	}
	switch said := headerOf(r, "remote"); said {
	case "allow":
		return &authv3.CheckResponse{Status: &rpcstatus.Status{}, HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{
			Headers:              []*corev3.HeaderValueOption{set("x-last", "remote", false), set("x-more", "remote", true)},
			ResponseHeadersToAdd: []*corev3.HeaderValueOption{set("x-seen-by", "remote", true)},
		}}}, nil
	case "deny":
		return &authv3.CheckResponse{Status: &rpcstatus.Status{Code: 7}, HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{
			Status: &typev3.HttpStatus{Code: 429}, Headers: []*corev3.HeaderValueOption{set("retry-after", "60", false)}, Body: "remote says no",
		}}}, nil
	case "hang":
		select {
		case <-p.hang:
		case <-ctx.Done():
		}
		return nil, ctx.Err()
	default:
		return nil, errors.New("told to " + said)
	}
}

// headerOf finds a header in either form that Envoy sends.
func headerOf(r *authv3.CheckRequest, name string) string {
	h := r.GetAttributes().GetRequest().GetHttp()
	for _, header := range h.GetHeaderMap().GetHeaders() {
		if header.GetKey() == name {
			return string(header.GetRawValue())
		}
	}
	return h.GetHeaders()[name]
}

// startRemote serves a gRPC provider until stop is called.
func startRemote(t *testing.T, address string) (at string, stop func()) {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	p := remoteProvider{hang: make(chan struct{})}
	server := grpc.NewServer()
	authv3.RegisterAuthorizationServer(server, p)
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	return l.Addr().String(), func() {
		close(p.hang)
		server.Stop()
		<-done
	}
}

// web is an HTTP authorization service.
func web(w http.ResponseWriter, r *http.Request) {
	switch r.Header.Get("web") {
	case "allow":
		w.Header().Set("x-last", "web")
		w.Header().Set("x-seen-by", "web")
		w.Header().Set("x-unlisted", "web")
		w.WriteHeader(http.StatusOK)
	case "deny":
		w.Header().Set("x-why", "web")
		w.WriteHeader(http.StatusPaymentRequired)
		_, _ = fmt.Fprintf(w, "web says no to %s %s", r.Method, r.URL.Path)
	default:
		w.WriteHeader(http.StatusInternalServerError)
	}
}

// customBench is everything: Envoy, writ, and providers of every kind.
type customBench struct {
	*bench
	envoy      *testkit.Envoy
	client     *http.Client
	authority  *testkit.Authority
	stopRemote func()
	remoteAt   string
}

func newCustomBench(t *testing.T) *customBench {
	t.Helper()
	b := &customBench{bench: newBench(t)}
	b.policy(t, "policies.yaml", customPolicies)
	b.rego(t, customRego)
	b.remoteAt, b.stopRemote = startRemote(t, "127.0.0.1:0")
	t.Cleanup(func() { b.stopRemote() })
	service, err := testkit.ServeHTTP(t.Context(), http.HandlerFunc(web))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = service.Close() })
	b.authority = b.serve(t, "authz.sock",
		"providers:",
		"- {name: opa, timeout: 10s, opa: {bundle: rego}}",
		"- {name: remote, status_on_error: 503, grpc: {target: "+b.remoteAt+", timeout: 2s, breaker: {failures: -1}}}",
		"- name: web",
		"  timeout: 10s",
		"  http: {target: 'http://"+service.Addr+"', path_prefix: /check, include_request_headers_in_check: [web], headers_to_upstream_on_allow: [x-last], headers_to_downstream_on_allow: [x-seen-by]}",
		"- {name: opened, fail_open: true, grpc: {target: '127.0.0.1:1', timeout: 5s}}",
	)
	b.envoy = b.bench.envoy(t, echo(t), database(t))
	b.client = b.caller(t, "customer-service")
	b.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return b
}

func (b *customBench) rego(t *testing.T, text string) {
	t.Helper()
	if err := os.MkdirAll(b.file("rego"), 0o755); err != nil {
		t.Fatal(err)
	}
	next := filepath.Join(b.file("rego"), ".next")
	if err := os.WriteFile(next, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, filepath.Join(b.file("rego"), "p.rego")); err != nil {
		t.Fatal(err)
	}
}

// decided is what the decision log says of a request.
type decided struct {
	RequestID string `json:"request_id"`
	Layer     string `json:"layer"`
	Reason    string `json:"reason"`
	Custom    []struct {
		Provider string `json:"provider"`
		Outcome  string `json:"outcome"`
		Open     bool   `json:"failed_open"`
		Refused  int    `json:"refused_changes"`
	} `json:"custom"`
}

// asked is the providers and what became of them, in order.
func (d *decided) asked() string {
	var out []string
	for _, c := range d.Custom {
		text := c.Provider + ":" + strings.TrimPrefix(c.Outcome, "provider_")
		if c.Open {
			text += ":open"
		}
		out = append(out, text)
	}
	return strings.Join(out, " ")
}

// decision waits for the line of the decision log.
func (b *customBench) decision(t *testing.T, r response) (found decided) {
	t.Helper()
	eventually(t, "the decision log", func() error {
		f, err := os.Open(b.file("authz.sock.jsonl"))
		if err != nil {
			return err
		}
		defer f.Close()
		for lines := bufio.NewScanner(f); lines.Scan(); {
			var d decided
			if json.Unmarshal(lines.Bytes(), &d) == nil && d.RequestID == r.id {
				found = d
				return nil
			}
		}
		return errors.New("no line for " + r.id)
	})
	return found
}

// TestCustom is authorization-policy §4.2 to §4.4 through a real Envoy: which providers are asked, in which order, and
// what the client gets.
func TestCustom(t *testing.T) {
	t.Parallel()
	b := newCustomBench(t)
	for _, tc := range []struct {
		name, path, says string // says: provider=answer, separated by blanks
		status           int
		body             string // begins so
		layer, reason    string
		asked            string
	}{
		{"no rule matches", "/free", "opa=deny remote=deny web=deny", 200, "", "allow", "allowed", ""},
		{"Rego allows", "/opa", "opa=allow", 200, "", "allow", "allowed", "opa:allowed"},
		{"Rego allows, DENY hits", "/opa/denied", "opa=allow", 403, "RBAC: access denied", "deny", "denied", "opa:allowed"},
		{"Rego allows, no ALLOW hits", "/opa/unlisted", "opa=allow", 403, "RBAC: access denied", "allow", "no_allow_match", "opa:allowed"},
		{"Rego denies", "/opa", "opa=deny", 302, "opa says no", "custom", "provider_denied", "opa:denied"},
		{"Rego denies, before DENY", "/opa/denied", "opa=deny", 302, "opa says no", "custom", "provider_denied", "opa:denied"},
		{"Rego says nothing", "/opa", "", 403, "", "custom", "provider_undefined", "opa:undefined"},
		{"Rego says nonsense", "/opa", "opa=nonsense", 403, "", "custom", "provider_bad_answer", "opa:bad_answer"},
		{"gRPC allows", "/remote", "remote=allow", 200, "", "allow", "allowed", "remote:allowed"},
		{"gRPC denies", "/remote", "remote=deny", 429, "remote says no", "custom", "provider_denied", "remote:denied"},
		{"gRPC fails", "/remote", "remote=fail", 503, "RBAC: access denied", "custom", "", ""},
		{"gRPC hangs", "/remote", "remote=hang", 503, "RBAC: access denied", "custom", "provider_timeout", "remote:timeout"},
		{"HTTP allows", "/web", "web=allow", 200, "", "allow", "allowed", "web:allowed"},
		{"HTTP denies", "/web", "web=deny", 402, "web says no to GET /check/web", "custom", "provider_denied", "web:denied"},
		{"HTTP fails", "/web", "web=fail", 403, "RBAC: access denied", "custom", "", ""},
		{"all allow", "/all", "opa=allow remote=allow web=allow", 200, "", "allow", "allowed", "opa:allowed remote:allowed web:allowed"},
		{"the second denies", "/all", "opa=allow remote=deny web=deny", 429, "remote says no", "custom", "provider_denied", "opa:allowed remote:denied"},
		{"the third denies", "/all", "opa=allow remote=allow web=deny", 402, "web says no", "custom", "provider_denied", "opa:allowed remote:allowed web:denied"},
		{"nobody of that name", "/unknown", "", 403, "RBAC: access denied", "custom", "provider_unknown", "unknown:unknown"},
		{"nobody there, fails open", "/open", "", 200, "", "allow", "allowed", "opened:unreachable:open"},
		{"nobody there, fails open, DENY hits", "/open/denied", "", 403, "RBAC: access denied", "deny", "denied", "opened:unreachable:open"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var headers []string
			for said := range strings.FieldsSeq(tc.says) {
				headers = append(headers, strings.Replace(said, "=", ": ", 1))
			}
			got := get(t, b.client, b.envoy, "GET", tc.path, headers...)
			if got.status != tc.status || !strings.HasPrefix(got.body, tc.body) {
				t.Errorf("got %d %q, want %d %q", got.status, got.body, tc.status, tc.body)
			}
			d := b.decision(t, got)
			if d.Layer != tc.layer || tc.reason != "" && (d.Reason != tc.reason || d.asked() != tc.asked) {
				t.Errorf("decided by %s, %s, after %s", d.Layer, d.Reason, d.asked())
			}
		})
	}
}

// TestCustomMerge: what several providers want done to a request is done as if their filters ran one after the other, and
// what no provider may do is not.
func TestCustomMerge(t *testing.T) {
	t.Parallel()
	b := newCustomBench(t)
	got := get(t, b.client, b.envoy, "GET", "/all?size=20&debug=1&page=2", "opa: allow", "remote: allow", "web: allow", "x-secret: 1", "x-more: client")
	var seen testkit.Echo
	if err := json.Unmarshal([]byte(got.body), &seen); err != nil {
		t.Fatalf("%v: %d %s", err, got.status, got.body)
	}
	for name, want := range map[string]string{
		"X-Who": "customer-service", "X-Last": "web", "X-More": "opa,remote", "X-Secret": "", "X-Unlisted": "",
	} {
		if have := strings.Join(seen.Headers.Values(name), ","); have != want {
			t.Errorf("the service sees %s: %q, want %q", name, have, want)
		}
	}
	if strings.Contains(strings.Join(seen.Headers.Values("X-Forwarded-For"), ","), "forged") {
		t.Error("a provider has set x-forwarded-for")
	}
	if d := b.decision(t, got); d.Custom[0].Refused != 1 {
		t.Errorf("%d changes refused, want 1", d.Custom[0].Refused)
	}
	path, query, _ := strings.Cut(seen.Path, "?")
	params := strings.Split(query, "&")
	slices.Sort(params)
	if path != "/all" || strings.Join(params, "&") != "page=2&size=1" {
		t.Errorf("the service sees %s", seen.Path)
	}
	if have := strings.Join(got.header.Values("X-Seen-By"), ","); have != "opa,remote,web" {
		t.Errorf("the client sees x-seen-by: %q", have)
	}

	denied := get(t, b.client, b.envoy, "GET", "/opa", "opa: deny")
	if have := denied.header.Values("Set-Cookie"); !slices.Equal(have, []string{"a=1", "b=2"}) || denied.header.Get("Location") != "https://login.example/" {
		t.Errorf("the client of a denial sees %v", denied.header)
	}
}

// TestCustomOutage: a provider that goes away denies with the status for that, and is asked again once it is back; Rego
// that does not compile leaves the last good one in force.
func TestCustomOutage(t *testing.T) {
	t.Parallel()
	b := newCustomBench(t)
	answers := func(path string, status int, headers ...string) func() error {
		return func() error {
			if got := get(t, b.client, b.envoy, "GET", path, headers...); got.status != status {
				return fmt.Errorf("got %d %q, want %d", got.status, got.body, status)
			}
			return nil
		}
	}
	if err := answers("/remote", 200, "remote: allow")(); err != nil {
		t.Fatal(err)
	}
	b.stopRemote()
	b.stopRemote = func() {}
	eventually(t, "the provider is gone", answers("/remote", 503, "remote: allow"))
	if err := answers("/opa", 200, "opa: allow")(); err != nil { // others are none the worse for it
		t.Error(err)
	}
	_, b.stopRemote = startRemote(t, b.remoteAt)
	eventually(t, "the provider is back", answers("/remote", 200, "remote: allow"))

	b.rego(t, strings.Replace(customRego, `http_request.headers.opa == "allow"`, `http_request.headers.opa == "yes"`, 1))
	eventually(t, "the policy changed", answers("/opa", 200, "opa: yes"))
	b.rego(t, "package envoy.authz\nallow := {{")
	eventually(t, "writ says what is wrong", func() error {
		if !strings.Contains(b.authority.Output.String(), "p.rego:2:") {
			return errors.New("nothing in the log")
		}
		return nil
	})
	if err := answers("/opa", 200, "opa: yes")(); err != nil {
		t.Errorf("the last good policy: %v", err)
	}
	b.rego(t, customRego)
	eventually(t, "the policy is mended", answers("/opa", 200, "opa: allow"))
}

// TestCustomTCP: connections are judged by Rego, too; a provider of HTTP requests cannot, and denies.
func TestCustomTCP(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.policy(t, "all.yaml", allowAll)
	if err := os.MkdirAll(b.file("rego"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(b.file("rego/p.rego"), []byte("package envoy.authz\nallow if input.writ.identity.service_account == \"order-service\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	policy := func(provider string) string {
		return "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: ask, namespace: coffee-shop}\n" +
			"spec: {action: CUSTOM, provider: {name: " + provider + "}, rules: [{to: [{operation: {paths: [/x]}}]}]}\n"
	}
	b.policy(t, "ask.yaml", policy("opa"))
	b.serve(t, "authz.sock", "providers:", "- {name: opa, timeout: 10s, opa: {bundle: rego}}", "- {name: web, fail_open: true, http: {target: 'http://127.0.0.1:1'}}")
	envoy := b.envoy(t, echo(t), database(t))
	served := func(account string) bool {
		ok, err := b.query(t, envoy, b.certificate(t, account, testkit.Names{URIs: []string{id(account)}}), "localhost")
		if err != nil && ok {
			t.Fatal(err)
		}
		return ok
	}
	if !served("order-service") || served("customer-service") {
		t.Error("Rego does not decide about connections")
	}
	b.policy(t, "ask.yaml", policy("web"))
	eventually(t, "a provider of HTTP requests denies", func() error {
		if served("order-service") {
			return errors.New("served")
		}
		return nil
	})
}
