package e2e_test

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/writ-auth/writ/internal/testkit"
)

const httpPolicies = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-admin, namespace: istio-system}
spec:
  action: DENY
  rules:
    - to: [{operation: {paths: ["/admin", "/admin/*"]}}]
    - from: [{source: {notPrincipals: ["*"]}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: callers, namespace: coffee-shop}
spec:
  selector: {matchLabels: {app: order-service}}
  rules:
    - from: [{source: {principals: ["cluster.local/ns/coffee-shop/sa/customer-service"]}}]
      to: [{operation: {methods: [GET, POST], paths: ["/orders", "/orders/{*}"]}}]
    - from: [{source: {serviceAccounts: [barista-service]}}]
      to: [{operation: {methods: [PUT], paths: ["/orders/{*}/status"]}}]
    - to: [{operation: {paths: ["/joined"]}}]
      when: [{key: "request.headers[x-tag]", values: ["hot,sweet"]}]
    - to: [{operation: {paths: ["/prefix"]}}]
      when: [{key: "request.headers[x-tag]", values: ["caf*"]}]
    - to: [{operation: {paths: ["/absent"]}}]
      when: [{key: "request.headers[x-tag]", notValues: ["*"]}]
    - to: [{operation: {paths: ["/host"], hosts: ["order.coffee.com"]}}]
    - to: [{operation: {paths: ["/sni"]}}]
      when: [{key: connection.sni, values: [localhost]}]
    - to: [{operation: {paths: ["/ip"]}}]
      when:
        - {key: source.ip, values: ["127.0.0.0/8"]}
        - {key: remote.ip, values: ["203.0.113.7"]}
    - to: [{operation: {paths: ["/second"]}}]
      from: [{source: {principals: ["cluster.local/ns/coffee-shop/sa/second-name"]}}]
    - to: [{operation: {paths: ["/cookie"], methods: [GET]}}]
      when: [{key: "request.headers[cookie]", values: ["*session=ok*", "*session=ok"]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: other-workload, namespace: coffee-shop}
spec:
  selector: {matchLabels: {app: payment-service}}
  rules: [{}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: writes, namespace: coffee-shop}
spec:
  action: AUDIT
  rules: [{to: [{operation: {methods: [POST, PUT]}}]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only-baristas, namespace: coffee-shop, annotations: {istio.io/dry-run: "true"}}
spec:
  rules: [{from: [{source: {serviceAccounts: [barista-service]}}]}]
`

// TestHTTP asks through the HTTP filter, with each of the two ways in which Envoy can send headers.
func TestHTTP(t *testing.T) {
	t.Parallel()
	for name, edits := range map[string][]edit{
		"raw headers":    nil,
		"joined headers": {{"encode_raw_headers: true", "encode_raw_headers: false"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			b.policy(t, "http.yaml", httpPolicies)
			authority := b.serve(t, "authz.sock")
			if err := authority.WaitReady(bounded(t)); err != nil {
				t.Fatal(err)
			}
			testHTTP(t, b, b.envoy(t, echo(t), database(t), edits...))
		})
	}
}

func testHTTP(t *testing.T, b *bench, envoy *testkit.Envoy) {
	customer, barista := b.caller(t, "customer-service"), b.caller(t, "barista-service")
	foreign := b.client(t, b.certificate(t, "foreign", testkit.Names{URIs: []string{"spiffe://cluster.local/ns/office/sa/barista-service"}}))
	twoNames := b.client(t, b.certificate(t, "two", testkit.Names{URIs: []string{id("first-name"), id("second-name")}}))
	http2 := b.caller(t, "customer-service")
	http2.Transport.(*http.Transport).ForceAttemptHTTP2 = true

	allow := func(rule int) why {
		return why{"allow", "allow", "allowed", "coffee-shop/callers", rule, fmt.Sprintf("ns[coffee-shop]-policy[callers]-rule[%d]", rule)}
	}
	noMatch := why{Decision: "deny", Layer: "allow", Reason: "no_allow_match"}
	denied := why{"deny", "deny", "denied", "istio-system/no-admin", 0, "ns[istio-system]-policy[no-admin]-rule[0]"}
	for _, test := range []struct {
		name   string
		client *http.Client
		method string
		target string
		header []string
		want   why
	}{
		{"principal", customer, "GET", "/orders", nil, allow(0)},
		{"HTTP/2", http2, "GET", "/orders/7?x=1", nil, allow(0)},
		{"HTTP/2, denied", http2, "GET", "/admin", nil, denied},
		{"HTTP/2, host", http2, "GET", "/host", []string{"host: order.coffee.com"}, allow(5)},
		{"query is no part of the path", customer, "GET", "/orders?x=/admin", nil, allow(0)},
		{"query that looks like a path", customer, "GET", "/orders?/../admin", nil, allow(0)},
		{"POST", customer, "POST", "/orders", nil, allow(0)},
		{"path template", customer, "GET", "/orders/7", nil, allow(0)},
		{"template does not span segments", customer, "GET", "/orders/7/status", nil, noMatch},
		{"trailing slash", customer, "GET", "/orders/", nil, noMatch},
		{"path case", customer, "GET", "/Orders", nil, noMatch},
		{"method", customer, "DELETE", "/orders", nil, noMatch},
		{"service account of the policy's namespace", barista, "PUT", "/orders/7/status", nil, allow(1)},
		{"service account of another namespace", foreign, "PUT", "/orders/7/status", nil, noMatch},
		{"DENY", customer, "GET", "/admin", nil, denied},
		{"DENY with a query", customer, "GET", "/admin?x=1", nil, denied},
		{"DENY below", customer, "GET", "/admin/keys", nil, denied},
		{"Envoy normalizes dots", customer, "GET", "/orders/../admin", nil, denied},
		{"Envoy normalizes escaped dots", customer, "GET", "/orders/%2e%2e/admin", nil, denied},
		{"Envoy normalizes escaped letters", customer, "GET", "/%61dmin", nil, denied},
		{"Envoy normalizes backslashes", customer, "GET", `/orders\..\admin`, nil, denied},
		{"Envoy merges slashes", customer, "GET", "/orders//7", nil, allow(0)},
		{"repeated header is joined", customer, "GET", "/joined", []string{"X-Tag: hot", "x-tag: sweet"}, allow(2)},
		{"order of a repeated header", customer, "GET", "/joined", []string{"x-tag: sweet", "x-tag: hot"}, noMatch},
		{"header bytes that are not UTF-8", customer, "GET", "/prefix", []string{"x-tag: caf\xe9"}, allow(3)},
		{"header absent", customer, "GET", "/absent", nil, allow(4)},
		{"header empty is present", customer, "GET", "/absent", []string{"x-tag: "}, noMatch},
		{"host in another case", customer, "GET", "/host", []string{"host: Order.Coffee.COM"}, allow(5)},
		{"host with a port", customer, "GET", "/host", []string{"host: order.coffee.com:443"}, noMatch},
		{"sni", customer, "GET", "/sni", nil, allow(6)},
		{"addresses", customer, "GET", "/ip", []string{"x-forwarded-for: 198.51.100.1, 203.0.113.7"}, allow(7)},
		{"only the last forwarded address counts", customer, "GET", "/ip", []string{"x-forwarded-for: 203.0.113.7, 198.51.100.1"}, noMatch},
		{"second name of a certificate", twoNames, "GET", "/second", nil, allow(8)},
		{"cookie", customer, "GET", "/cookie", []string{"cookie: a=b; session=ok"}, allow(9)},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := get(t, test.client, envoy, test.method, test.target, test.header...)
			line := logOf(t, envoy, got)
			if line.why != test.want {
				t.Errorf("access log says %+v, want %+v", line.why, test.want)
			}
			checkAnswer(t, got, test.want.Decision == "allow")
			if test.client == http2 != (got.proto == "HTTP/2.0") {
				t.Errorf("the answer came over %s", got.proto)
			}
			if audited := test.method == "POST" || test.method == "PUT"; audited != (line.Audit != nil && line.Audit != false) {
				t.Errorf("audit is %v, want %v", line.Audit, audited)
			}
			wantShadow := "denied"
			if test.client == barista {
				wantShadow = "allowed"
			}
			if line.Decision == "allow" && line.DryRunAllow != wantShadow {
				t.Errorf("dry run says %q, want %q", line.DryRunAllow, wantShadow)
			}
		})
	}
}

// checkAnswer is what a caller may see: the service's answer, or Envoy RBAC's denial and not a word more.
func checkAnswer(t *testing.T, got response, allowed bool) {
	t.Helper()
	if allowed {
		var echoed testkit.Echo
		if got.status != http.StatusOK || json.Unmarshal([]byte(got.body), &echoed) != nil || echoed.Service != "order" {
			t.Errorf("got %d %q, want the service's answer", got.status, got.body)
		}
		for name := range echoed.Headers {
			if strings.Contains(strings.ToLower(name), "writ") {
				t.Errorf("the service got a header %s", name)
			}
		}
		return
	}
	if got.status != http.StatusForbidden || got.body != "RBAC: access denied" {
		t.Errorf("got %d %q, want 403 %q", got.status, got.body, "RBAC: access denied")
	}
	for name := range got.header {
		switch name {
		case "Content-Length", "Content-Type", "Date", "Server":
		default:
			t.Errorf("the denial carries a header %s: %s", name, got.header.Get(name))
		}
	}
}

// TestEscapedSlash: the reference answers 400 to a path that a backend could decode into another.
func TestEscapedSlash(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.policy(t, "all.yaml", allowAll)
	b.serve(t, "authz.sock")
	envoy := b.envoy(t, echo(t), database(t))
	customer := b.caller(t, "customer-service")
	for _, target := range []string{"/orders%2f..%2fadmin", "/orders%5C..%5Cadmin"} {
		if got := get(t, customer, envoy, "GET", target); got.status != http.StatusBadRequest {
			t.Errorf("%s: got %d %q, want 400", target, got.status, got.body)
		}
	}
}

const allowAll = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: all, namespace: coffee-shop}
spec: {rules: [{}]}
`

// TestPathNotNormalized: with an Envoy that does not normalize, a policy by path could be dodged, so writ refuses what
// a normalizing Envoy would have changed, even where everything is allowed.
func TestPathNotNormalized(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.policy(t, "all.yaml", allowAll)
	b.serve(t, "authz.sock")
	envoy := b.envoy(t, echo(t), database(t), edit{"normalize_path: true", "normalize_path: false"})
	customer := b.caller(t, "customer-service")
	for target, refused := range map[string]bool{
		"/orders":                 false,
		"/orders?file=../%61":     false,
		"/orders/v1.2/..hidden":   false,
		"/orders/../admin":        true,
		"/orders/%2E%2e/admin":    true,
		"/orders/.":               true,
		"/%61dmin":                true,
		`/orders\admin`:           true,
		"/orders/caf%C3%A9":       false,
		"/orders/100%25":          false,
		"/orders/a;b=c/d":         false,
		"/orders/%2e%2e?x=/admin": true,
	} {
		t.Run(target, func(t *testing.T) {
			got := get(t, customer, envoy, "GET", target)
			checkAnswer(t, got, !refused)
			if line := logOf(t, envoy, got); refused && (line.Reason != "path_not_normalized" || line.Layer != "system") {
				t.Errorf("access log says %+v, want path_not_normalized", line.why)
			}
		})
	}
}

// TestWorkload: who is asked about comes from Envoy's configuration, and in doubt the answer is no.
func TestWorkload(t *testing.T) {
	t.Parallel()
	const selecting = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: order, namespace: coffee-shop}
spec:
  selector: {matchLabels: {app: order-service}}
  rules: [{}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: nothing, namespace: coffee-shop}
spec: {}
`
	const entry = `
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: order-1, namespace: coffee-shop}
spec: {address: 10.0.0.1, serviceAccount: order-service, labels: {app: order-service}}
`
	const extensions = "context_extensions:\n                              writ.namespace: coffee-shop # <namespace>\n                              writ.labels: app=order-service,version=v1 # <labels that selectors may ask for>"
	unnamed := edit{extensions, "context_extensions: {}"}
	onlyNamespace := edit{extensions, "context_extensions: { writ.namespace: coffee-shop }"}
	otherLabels := edit{extensions, "context_extensions: { writ.namespace: coffee-shop, writ.labels: app=payment-service }"}
	spiffe := testkit.Names{URIs: []string{id("order-service")}, IPs: []string{"127.0.0.1"}, DNS: []string{"localhost"}}
	nameless := testkit.Names{IPs: []string{"127.0.0.1"}, DNS: []string{"localhost"}}

	for _, test := range []struct {
		name      string
		documents string
		server    testkit.Names
		edit      edit
		decision  string
		reason    string
	}{
		{"labels by certificate and registry", selecting + entry, spiffe, unnamed, "allow", "allowed"},
		{"certificate, nothing registered", selecting, spiffe, unnamed, "deny", "unknown_labels"},
		{"certificate, no selector needs labels", allowAll, spiffe, unnamed, "allow", "allowed"},
		{"namespace without labels", selecting, spiffe, onlyNamespace, "deny", "unknown_labels"},
		{"labels of another workload", selecting + entry, spiffe, otherLabels, "deny", "no_allow_match"},
		{"nothing known", allowAll, nameless, unnamed, "deny", "unknown_workload"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			b.policy(t, "all.yaml", test.documents)
			b.serve(t, "authz.sock")
			b.certificate(t, "server", test.server)
			envoy := b.envoy(t, echo(t), database(t), test.edit)
			// A caller cannot say whom it asks about.
			got := get(t, b.caller(t, "customer-service"), envoy, "GET", "/orders",
				"writ.namespace: coffee-shop", "writ-namespace: coffee-shop", "writ.labels: app=order-service", "writ-labels: app=order-service")
			if line := logOf(t, envoy, got); line.Decision != test.decision || line.Reason != test.reason {
				t.Errorf("access log says %+v, want %s %s", line.why, test.decision, test.reason)
			}
			if got.status == http.StatusOK != (test.decision == "allow") {
				t.Errorf("got %d, want %s", got.status, test.decision)
			}
		})
	}
}

// TestPort: a policy sees the port the sidecar listens on.
func TestPort(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	envoy := b.envoy(t, echo(t), database(t)) // before writ: it only has to be there when asked
	_, port, err := net.SplitHostPort(envoy.Listener("http"))
	if err != nil {
		t.Fatal(err)
	}
	b.policy(t, "port.yaml", fmt.Sprintf(`
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: port, namespace: coffee-shop}
spec:
  rules:
    - to: [{operation: {ports: [%q], paths: ["/here"]}}]
    - to: [{operation: {notPorts: [%q], paths: ["/elsewhere"]}}]
    - to: [{operation: {paths: ["/address"]}}]
      when: [{key: destination.ip, values: [127.0.0.1]}]
`, port, port))
	b.serve(t, "authz.sock")
	customer := b.caller(t, "customer-service")
	for target, allowed := range map[string]bool{"/here": true, "/elsewhere": false, "/address": true} {
		if got := get(t, customer, envoy, "GET", target); got.status == http.StatusOK != allowed {
			t.Errorf("%s: got %d, want allowed=%v", target, got.status, allowed)
		}
	}
}
