package policy_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/writ-auth/writ/policy"
)

// gatewayNamed is a Gateway; created is its creationTimestamp, or "".
func gatewayNamed(namespace, name, created, spec string) string {
	meta := fmt.Sprintf("namespace: %s, name: %s", namespace, name)
	if created != "" {
		meta += ", creationTimestamp: " + created
	}
	return fmt.Sprintf("apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {%s}\nspec: {%s}\n", meta, spec)
}

// server is one entry of servers.
func server(protocol, tls string) string {
	if tls != "" {
		tls = ", tls: {" + tls + "}"
	}
	return fmt.Sprintf("{port: {number: 443, protocol: %s, name: p}, hosts: [a.example]%s}", protocol, tls)
}

// TestServerModes is the table of authorization-policy §8.4.
func TestServerModes(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		protocol, tls           string
		want                    policy.ServerMode
		word                    string
		terminates, asks, moves bool
	}{
		{"HTTP", "", policy.ServerPlaintext, "PLAINTEXT", false, false, false},
		{"HTTP", "httpsRedirect: true", policy.ServerPlaintext, "PLAINTEXT", false, false, true},
		{"TCP", "", policy.ServerPlaintext, "PLAINTEXT", false, false, false},
		{"TLS", "{}", policy.ServerPassthrough, "PASSTHROUGH", false, false, false},
		{"TLS", "mode: PASSTHROUGH", policy.ServerPassthrough, "PASSTHROUGH", false, false, false},
		{"https", "mode: SIMPLE, credentialName: c", policy.ServerSimple, "SIMPLE", true, false, false},
		{"HTTPS", "mode: MUTUAL, credentialName: c", policy.ServerMutual, "MUTUAL", true, true, false},
		{"TLS", "mode: AUTO_PASSTHROUGH", policy.ServerAutoPassthrough, "AUTO_PASSTHROUGH", false, false, false},
		{"HTTPS", "mode: ISTIO_MUTUAL", policy.ServerIstioMutual, "ISTIO_MUTUAL", true, true, false},
		{"HTTPS", "mode: OPTIONAL_MUTUAL, credentialName: c", policy.ServerOptionalMutual, "OPTIONAL_MUTUAL", true, true, false},
	} {
		t.Run(tc.protocol+" "+tc.tls, func(t *testing.T) {
			t.Parallel()
			text := gatewayNamed("foo", "g", "", "servers: ["+strings.ReplaceAll(server(tc.protocol, tc.tls), "{{}}", "{}")+"]")
			got, err := policy.NewSnapshot(load(t, text), policy.Mesh{}).GatewayServers(httpbin())
			if err != nil || len(got) != 1 {
				t.Fatalf("got %+v, error %v, want one server", got, err)
			}
			s := got[0]
			if s.Mode != tc.want || s.Mode.String() != tc.word || s.Mode.Terminates() != tc.terminates || s.Mode.RequestsCertificate() != tc.asks || s.HTTPSRedirect != tc.moves {
				t.Errorf("got %+v", s)
			}
			if s.Gateway != "foo/g" || s.Port != 443 || s.Protocol != tc.protocol || !slices.Equal(s.Hosts, []string{"a.example"}) || (s.Settings != nil) != (tc.tls != "") {
				t.Errorf("got %+v", s)
			}
		})
	}
}

// TestGatewayServers: whose servers they are, and in which order.
func TestGatewayServers(t *testing.T) {
	t.Parallel()
	plain := "servers: [" + server("HTTP", "") + "]"
	labels := ", selector: {app: httpbin}"
	for _, tc := range []struct {
		name string
		docs []string
		want []string
		err  error
	}{
		{"none", nil, nil, nil},
		{"of any namespace", []string{gatewayNamed("bar", "g", "", plain+labels), gatewayNamed("foo", "h", "", plain+labels)}, []string{"bar/g", "foo/h"}, nil},
		{"the oldest first", []string{gatewayNamed("bar", "g", second, plain), gatewayNamed("foo", "h", first, plain)}, []string{"foo/h", "bar/g"}, nil},
		{"without selector", []string{gatewayNamed("bar", "g", "", plain)}, []string{"bar/g"}, nil},
		{"of another gateway", []string{gatewayNamed("foo", "g", "", plain+", selector: {app: other}")}, nil, nil},
		{"two servers", []string{gatewayNamed("foo", "g", "", "servers: ["+server("HTTP", "")+", "+server("TLS", "mode: PASSTHROUGH")+"]")}, []string{"foo/g", "foo/g"}, nil},
		{"broken", []string{gatewayNamed("foo", "g", "", "servers: ["+server("HTTPS", "mode: simple")+"]"+labels)}, nil, policy.ErrBrokenTLS},
		{"broken, of another gateway", []string{gatewayNamed("foo", "g", "", "servers: ["+server("HTTPS", "mode: simple")+"], selector: {app: other}")}, nil, nil},
		{"broken, of a selector that cannot be read", []string{gatewayNamed("foo", "g", "", plain+", selektor: {app: other}")}, nil, policy.ErrBrokenTLS},
		{"Kubernetes' own Gateway is another kind", []string{"apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {namespace: foo, name: g}\nspec: {listeners: []}\n"}, nil, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			docs := policy.Decode("t.yaml", []byte(strings.Join(tc.docs, "---\n")))
			servers, err := policy.NewSnapshot(docs, policy.Mesh{}).GatewayServers(httpbin())
			var got []string
			for _, s := range servers {
				got = append(got, s.Gateway)
			}
			if !slices.Equal(got, tc.want) || !errors.Is(err, tc.err) {
				t.Errorf("got %q, error %v, want %q, %v", got, err, tc.want, tc.err)
			}
		})
	}
}

// TestNetworkingKinds: they may lie beside policies. Those without a meaning here are passed over, also Kubernetes' Gateway.
func TestNetworkingKinds(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ version, kind, code string }{
		{"networking.istio.io/v1", "VirtualService", "WRIT113"},
		{"networking.istio.io/v1", "ServiceEntry", "WRIT113"},
		{"networking.istio.io/v1", "Sidecar", "WRIT113"},
		{"networking.istio.io/v1alpha3", "EnvoyFilter", "WRIT113"},
		{"gateway.networking.k8s.io/v1", "Gateway", "WRIT113"},
		{"gateway.networking.k8s.io/v1", "GatewayClass", "WRIT113"},
		{"gateway.networking.k8s.io/v1", "HTTPRoute", "WRIT113"},
		{"example.com/v1", "Gateway", "WRIT114"},
		{"networking.istio.io/v1", "Gatewy", "WRIT112"},
		{"networking.istio.io/v1", "DestinationRules", "WRIT112"},
		{"security.istio.io/v1", "PeerAuthentications", "WRIT112"},
		{"networking.istio.io/v1", "PeerAuthentication", "WRIT112"},
		{"networking.istio.io/v2", "DestinationRule", "WRIT111"},
	} {
		docs := policy.Decode("t.yaml", []byte("apiVersion: "+tc.version+"\nkind: "+tc.kind+"\nmetadata: {namespace: foo, name: a}\n"))
		if len(docs) != 1 || !slices.ContainsFunc(docs[0].Problems, func(p policy.Problem) bool { return p.Code == tc.code }) {
			t.Errorf("%s %s: %s", tc.version, tc.kind, describeDocuments(docs))
			continue
		}
		if ignored := tc.code == "WRIT113" || tc.code == "WRIT114"; docs[0].Ignored != ignored || docs[0].Broken() == ignored {
			t.Errorf("%s %s: %s", tc.version, tc.kind, describeDocuments(docs))
		}
		if strings.HasPrefix(tc.kind, "PeerAuthentications") && docs[0].Kind != policy.KindPeerAuthentication {
			t.Errorf("%s is taken for %s", tc.kind, docs[0].Kind)
		}
	}
}
