package e2e_test

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/writ-auth/writ/internal/testkit"
)

// TestAuthorityDown: nobody gets in while nobody decides, and all is well again when writ is back.
func TestAuthorityDown(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.policy(t, "all.yaml", allowAll)
	authority := b.serve(t, "authz.sock")
	envoy := b.envoy(t, echo(t), database(t))
	customer := b.caller(t, "customer-service")
	certificate := b.certificate(t, "tcp", testkit.Names{URIs: []string{id("customer-service")}})
	if got := get(t, customer, envoy, "GET", "/orders"); got.status != http.StatusOK {
		t.Fatalf("got %d %q, want 200", got.status, got.body)
	}
	if served, err := b.query(t, envoy, certificate, "localhost"); err != nil || !served {
		t.Fatalf("TCP: served %v (%v), want true", served, err)
	}

	authority.Stop()
	for range 3 {
		if got := get(t, customer, envoy, "GET", "/orders"); got.status != http.StatusForbidden {
			t.Errorf("writ is down: got %d %q, want 403", got.status, got.body)
		}
		if served, err := b.query(t, envoy, certificate, "localhost"); err != nil || served {
			t.Errorf("writ is down: TCP served %v (%v), want false", served, err)
		}
	}

	b.serve(t, "authz.sock")
	eventually(t, "writ is back", func() error {
		if got := get(t, customer, envoy, "GET", "/orders"); got.status != http.StatusOK {
			return fmt.Errorf("got %d %q, want 200", got.status, got.body)
		}
		return nil
	})
}

// TestFailureModeAllow: with failure_mode_allow: true an Envoy lets everything through that it gets a gRPC error for.
// Whatever goes wrong inside writ must therefore be a denial in the answer.
func TestFailureModeAllow(t *testing.T) {
	t.Parallel()
	const brokenDeny = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: broken, namespace: coffee-shop}
spec:
  action: DENY
  rules: [{from: [{source: {ipBlocks: ["not an address"]}}]}]
`
	const custom = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: ask-opa, namespace: coffee-shop}
spec:
  action: CUSTOM
  provider: {name: opa}
  rules: [{to: [{operation: {paths: ["/orders"]}}]}]
`
	const extensions = "writ.namespace: coffee-shop # <namespace>"
	for _, test := range []struct {
		name      string
		documents string
		edits     []edit
		layer     string
		reason    string
	}{
		{"a document that was never valid", brokenDeny + "---" + allowAll, nil, "deny", "broken_policy"},
		{"text that is no YAML", "}}: [", nil, "deny", "broken_policy"},
		{"a provider that does not exist", custom, nil, "custom", "provider_unknown"},
		{"labels that cannot be read", allowAll, []edit{{"writ.labels: app=order-service,version=v1", "writ.labels: '=,='"}}, "system", ""},
		{"a namespace that cannot be one", allowAll, []edit{{extensions, "writ.namespace: ''"}}, "system", "unknown_workload"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			b.policy(t, "documents.yaml", test.documents)
			b.serve(t, "authz.sock")
			envoy := b.envoy(t, echo(t), database(t), append(test.edits, edit{"failure_mode_allow: false", "failure_mode_allow: true"})...)
			got := get(t, b.caller(t, "customer-service"), envoy, "GET", "/orders")
			checkAnswer(t, got, false)
			if line := logOf(t, envoy, got); line.Layer != test.layer || test.reason != "" && line.Reason != test.reason {
				t.Errorf("access log says %+v, want layer %s, reason %s", line.why, test.layer, test.reason)
			}
		})
	}
	// The other side of the setting, so that nobody takes it for safe: without writ there is no authorization at all.
	t.Run("writ is down", func(t *testing.T) {
		t.Parallel()
		b := newBench(t)
		envoy := b.envoy(t, echo(t), database(t), edit{"failure_mode_allow: false", "failure_mode_allow: true"})
		if got := get(t, b.caller(t, "customer-service"), envoy, "GET", "/orders"); got.status != http.StatusOK {
			t.Errorf("got %d %q, want 200", got.status, got.body)
		}
	})
}
