package authz_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/policy"
)

// peerAuthentication is a PeerAuthentication with this spec.
func peerAuthentication(namespace, name, created, spec string) string {
	return fmt.Sprintf("apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n"+
		"metadata: {namespace: %s, name: %s, creationTimestamp: %s}\nspec: {%s}\n", namespace, name, created, spec)
}

const (
	caller     = "spiffe://cluster.local/ns/foo/sa/caller"
	strictMTLS = "mtls: {mode: STRICT}"
	selected   = "selector: {matchLabels: {app: httpbin}}, "
)

// TestMTLSLayer: under STRICT a caller without an identity is refused whatever policies say; everything else is their affair.
func TestMTLSLayer(t *testing.T) {
	t.Parallel()
	everybody, nobody := allow("{}"), named("foo", "none", "{}")
	denyCallers := deny(from(`principals: ["*"]`))
	inNamespace := func(spec string) string { return peerAuthentication("foo", "mode", "null", spec) }
	for _, tc := range []struct {
		name   string
		docs   []string
		check  check
		allow  bool
		layer  authz.Layer
		reason authz.Reason
	}{
		{"no document, plaintext", nil, check{}, true, authz.LayerDefault, authz.ReasonNoAllowPolicy},
		{"PERMISSIVE, plaintext", []string{inNamespace("mtls: {mode: PERMISSIVE}")}, check{}, true, authz.LayerDefault, authz.ReasonNoAllowPolicy},
		{"PERMISSIVE, plaintext, by namespace: surprise 60", []string{inNamespace("mtls: {mode: PERMISSIVE}"), allow(from("namespaces: [foo]"))},
			check{}, false, authz.LayerAllow, authz.ReasonNoAllowMatch},
		{"DISABLE, plaintext", []string{inNamespace("mtls: {mode: DISABLE}")}, check{}, true, authz.LayerDefault, authz.ReasonNoAllowPolicy},
		{"STRICT, plaintext", []string{inNamespace(strictMTLS)}, check{}, false, authz.LayerMTLS, authz.ReasonPlaintextRefused},
		{"STRICT, plaintext, everything allowed", []string{inNamespace(strictMTLS), everybody}, check{}, false, authz.LayerMTLS, authz.ReasonPlaintextRefused},
		{"STRICT, plaintext TCP", []string{inNamespace(strictMTLS)}, check{tcp: true}, false, authz.LayerMTLS, authz.ReasonPlaintextRefused},
		{"STRICT, plaintext and a token", []string{inNamespace(strictMTLS)}, check{claims: claims{"iss": "i", "sub": "s"}},
			false, authz.LayerMTLS, authz.ReasonPlaintextRefused},
		{"STRICT, a name that is no SPIFFE ID", []string{inNamespace(strictMTLS)}, check{principal: "client.example.com"},
			false, authz.LayerMTLS, authz.ReasonPlaintextRefused},
		{"STRICT, a forged header", []string{inNamespace(strictMTLS)},
			check{headers: map[string]string{"x-forwarded-client-cert": "URI=" + caller}}, false, authz.LayerMTLS, authz.ReasonPlaintextRefused},
		{"STRICT, mTLS", []string{inNamespace(strictMTLS)}, check{principal: caller}, true, authz.LayerDefault, authz.ReasonNoAllowPolicy},
		{"STRICT, mTLS over TCP", []string{inNamespace(strictMTLS)}, check{tcp: true, principal: caller}, true, authz.LayerDefault, authz.ReasonNoAllowPolicy},
		{"STRICT, mTLS, nothing allowed", []string{inNamespace(strictMTLS), nobody}, check{principal: caller}, false, authz.LayerAllow, authz.ReasonNoAllowMatch},
		{"STRICT, mTLS, denied", []string{inNamespace(strictMTLS), denyCallers}, check{principal: caller}, false, authz.LayerDeny, authz.ReasonDenied},
		{"STRICT except this port", []string{inNamespace(selected + strictMTLS + ", portLevelMtls: {8080: {mode: PERMISSIVE}}")}, check{},
			true, authz.LayerDefault, authz.ReasonNoAllowPolicy},
		{"STRICT except another port", []string{inNamespace(selected + strictMTLS + ", portLevelMtls: {8081: {mode: PERMISSIVE}}")}, check{},
			false, authz.LayerMTLS, authz.ReasonPlaintextRefused},
		{"this port STRICT", []string{inNamespace(selected + "portLevelMtls: {8080: {mode: STRICT}}")}, check{},
			false, authz.LayerMTLS, authz.ReasonPlaintextRefused},
		{"before CUSTOM", []string{inNamespace(strictMTLS), named("foo", "c", "{action: CUSTOM, provider: {name: x}, rules: [{}]}")}, check{},
			false, authz.LayerMTLS, authz.ReasonPlaintextRefused},
		{"surprise 58: the older UNSET shadows the newer STRICT", []string{
			peerAuthentication("foo", "a", "2024-01-01T00:00:00Z", "mtls: {mode: UNSET}"), peerAuthentication("foo", "b", "2025-01-01T00:00:00Z", strictMTLS)},
			check{}, true, authz.LayerDefault, authz.ReasonNoAllowPolicy},
		{"surprise 59: root namespace with a selector", []string{peerAuthentication("istio-system", "w", "null", selected+strictMTLS)},
			check{}, true, authz.LayerDefault, authz.ReasonNoAllowPolicy},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			d := docs(tc.docs...).decide(t, tc.check)
			if d.Allow != tc.allow || d.Layer != tc.layer || d.Reason != tc.reason {
				t.Errorf("allow %v, layer %s, reason %s; want %v, %s, %s", d.Allow, d.Layer, d.Reason, tc.allow, tc.layer, tc.reason)
			}
			if d.Layer == authz.LayerMTLS && (d.Status != 403 || d.Body != authz.DeniedBody || !strings.Contains(d.Detail, "PeerAuthentication foo/mode")) {
				t.Errorf("status %d, body %q, detail %q", d.Status, d.Body, d.Detail)
			}
		})
	}
}

// TestMTLSLayerPassesGateways: what a gateway takes is said by its servers.
func TestMTLSLayerPassesGateways(t *testing.T) {
	t.Parallel()
	s := docs(peerAuthentication("istio-system", "mesh", "null", strictMTLS))
	s.workload = policy.Workload{Namespace: "foo", Labels: map[string]string{"gateway.networking.k8s.io/gateway-name": "front"}}
	if d := s.decide(t, check{}); !d.Allow {
		t.Errorf("plaintext at a gateway: %+v", d)
	}
}

// TestBrokenPeerAuthenticationFailsClosed: a mode that cannot be read may have been STRICT.
func TestBrokenPeerAuthenticationFailsClosed(t *testing.T) {
	t.Parallel()
	s := docs(peerAuthentication("foo", "mode", "null", "mtls: {mode: STRCT}"))
	s.broken = true
	if d := s.decide(t, check{}); d.Allow || d.Layer != authz.LayerMTLS || d.Reason != authz.ReasonBrokenPolicy || !strings.Contains(d.Detail, "foo/mode") {
		t.Errorf("plaintext: %+v", d)
	}
	if d := s.decide(t, check{principal: caller}); !d.Allow {
		t.Errorf("mTLS: %+v", d)
	}
}

// TestMTLSLayerDoesNotAllocate, neither when it refuses nor when it does not.
func TestMTLSLayerDoesNotAllocate(t *testing.T) {
	snap := policy.NewSnapshot(policy.Decode("t.yaml", []byte(peerAuthentication("foo", "mode", "null", selected+strictMTLS+", portLevelMtls: {80: {}}"))), policy.Mesh{})
	bound, err := snap.Resolve(policy.Workload{Namespace: "foo", Labels: map[string]string{"app": "httpbin"}})
	if err != nil {
		t.Fatal(err)
	}
	var d authz.Decision
	var engine authz.Engine
	for want, r := range map[bool]*policy.Request{
		false: {Method: "GET", Path: "/", DestPort: 8080},
		true:  {Method: "GET", Path: "/", DestPort: 8080, Names: []string{caller}},
	} {
		if n := testing.AllocsPerRun(100, func() { engine.Decide(t.Context(), snap, bound, r, &d) }); n != 0 {
			t.Errorf("%v allocations", n)
		}
		if d.Allow != want {
			t.Errorf("allow %v, want %v", d.Allow, want)
		}
	}
}
