package analysis_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/writ-auth/writ/policy"
)

// peer is a PeerAuthentication made in that year.
func peer(namespace, name string, year int, spec string) string {
	return fmt.Sprintf("apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n"+
		"metadata: {name: %s, namespace: %s, creationTimestamp: %d-01-01T00:00:00Z}\nspec: {%s}\n---\n", name, namespace, year, spec)
}

func networking(kind, spec string) string {
	return fmt.Sprintf("apiVersion: networking.istio.io/v1\nkind: %s\nmetadata: {name: net, namespace: shop}\nspec: {%s}\n---\n", kind, spec)
}

const (
	selectTill   = "selector: {matchLabels: {app: till}}, "
	selectTillV1 = "selector: {matchLabels: {app: till, v: '1'}}, "
	modeStrict   = "mtls: {mode: STRICT}"
	modeWeaker   = "mtls: {mode: PERMISSIVE}"
	modeOff      = "mtls: {mode: DISABLE}"
	byNamespace  = "from: [{source: {namespaces: [street]}}]"
	oneServer    = "servers: [{port: {number: 443, protocol: HTTPS, name: a}, hosts: ['*'], tls: {mode: MUTUAL, credentialName: c%s}}]"
)

var notStreet = authz("a", `{rules: [{from: [{source: {notNamespaces: [street]}}]}]}`)

var mtlsCases = []hazardCase{
	{code: "WRIT390", name: "two for a namespace",
		fires: peer("shop", "a", 2025, modeStrict) + peer("shop", "b", 2024, ""),
		quiet: peer("shop", "a", 2025, modeStrict) + peer("istio-system", "b", 2024, "") + peer("bakery", "c", 2024, ""),
		field: "spec", says: "shop/b is older"},
	{code: "WRIT390", name: "two for the mesh",
		fires: peer("istio-system", "a", 2024, "") + peer("istio-system", "b", 2024, modeStrict),
		quiet: peer("istio-system", "a", 2024, selectTill) + peer("istio-system", "b", 2025, modeStrict),
		field: "spec", says: "istio-system/a"},
	{code: "WRIT390", name: "an older one governs all that a younger one selects",
		fires: peer("shop", "a", 2024, selectTill+modeStrict) + peer("shop", "b", 2025, selectTillV1+modeOff),
		quiet: peer("shop", "a", 2025, selectTill+modeStrict) + peer("shop", "b", 2024, selectTillV1+modeOff),
		field: "spec"},
	{code: "WRIT391", name: "root namespace with selector",
		fires: peer("istio-system", "a", 2024, selectTill+modeStrict),
		quiet: peer("shop", "a", 2024, selectTill+modeStrict) + peer("istio-system", "b", 2024, modeStrict),
		field: "spec.selector", says: "namespace of the workloads"},
	{code: "WRIT392", name: "ALLOW by namespace",
		fires: authz("a", "{rules: [{"+byNamespace+"}]}") + peer("shop", "p", 2024, modeOff),
		quiet: authz("a", "{rules: [{"+byNamespace+"}]}") + peer("shop", "p", 2024, modeWeaker),
		field: "spec.rules[0].from[0].source.namespaces", says: "DISABLE"},
	{code: "WRIT392", name: "a port is not disabled",
		fires: authz("a", "{selector: {matchLabels: {app: till}}, action: DENY, rules: [{"+byNamespace+", to: [{operation: {ports: ['80']}}]}]}") +
			peer("shop", "p", 2024, selectTill+modeOff),
		quiet: authz("a", "{selector: {matchLabels: {app: till}}, action: DENY, rules: [{"+byNamespace+", to: [{operation: {ports: ['80']}}]}]}") +
			peer("shop", "p", 2024, selectTill+modeOff+", portLevelMtls: {80: "+modeStrict[len("mtls: "):]+"}"),
		field: "spec.rules[0].from[0].source.namespaces"},
	{code: "WRIT392", name: "a workload is not disabled",
		fires: authz("a", "{rules: [{when: [{key: source.principal, values: [x/ns/a/sa/b]}]}]}") + peer("istio-system", "p", 2024, modeOff),
		quiet: authz("a", "{rules: [{when: [{key: source.principal, values: [x/ns/a/sa/b]}]}]}") + peer("istio-system", "p", 2024, modeOff) +
			peer("shop", "q", 2024, selectTill+modeStrict),
		field: "spec.rules[0].when[0].values"},
	{code: "WRIT393", name: "a port of the Service",
		fires: workload("w", "{app: till}", "{http: 8080}") + peer("shop", "p", 2024, selectTill+"portLevelMtls: {80: {mode: STRICT}, 8080: {mode: STRICT}}"),
		quiet: workload("w", "{app: till}", "{http: 8080}") + peer("shop", "p", 2024, selectTill+"portLevelMtls: {8080: {mode: STRICT}}"),
		field: "spec.portLevelMtls[80]", says: "listens on"},
	{code: "WRIT393", name: "ports are not known",
		fires: workload("w", "{app: till}", "{http: 8080}") + peer("shop", "p", 2024, selectTill+"portLevelMtls: {80: {mode: STRICT}}"),
		quiet: workload("w", "{app: till}", "{http: 8080}") + workload("v", "{app: till}", "{}") + peer("shop", "p", 2024, selectTill+"portLevelMtls: {80: {mode: STRICT}}"),
		field: "spec.portLevelMtls[80]"},
	{code: "WRIT394", name: "credential of a sidecar",
		fires: networking("DestinationRule", "host: a.example, trafficPolicy: {tls: {mode: SIMPLE, credentialName: c}}"),
		quiet: networking("DestinationRule", "host: a.example, workloadSelector: {matchLabels: {app: till}}, trafficPolicy: {tls: {mode: SIMPLE, credentialName: c}}"),
		field: "spec.trafficPolicy.tls.credentialName", says: "plaintext"},
	{code: "WRIT394", name: "credential of a port",
		fires: networking("DestinationRule", "host: a.example, trafficPolicy: {portLevelSettings: [{port: {number: 80}, tls: {mode: MUTUAL, credentialName: c}}]}"),
		quiet: networking("DestinationRule", "host: a.example, trafficPolicy: {portLevelSettings: [{port: {number: 80}, tls: {mode: ISTIO_MUTUAL, credentialName: c}}]}"),
		field: "spec.trafficPolicy.portLevelSettings[0].tls.credentialName"},
	{code: "WRIT395", name: "a port without tls",
		fires: networking("DestinationRule", "host: a.example, trafficPolicy: {tls: {mode: SIMPLE}, portLevelSettings: [{port: {number: 80}, connectionPool: {tcp: {maxConnections: 1}}}]}"),
		quiet: networking("DestinationRule", "host: a.example, trafficPolicy: {tls: {mode: SIMPLE}, portLevelSettings: [{port: {number: 80}, tls: {mode: DISABLE}}]}"),
		field: "spec.trafficPolicy.portLevelSettings[0]", says: "SIMPLE"},
	{code: "WRIT396", name: "a subset with tls",
		fires: networking("DestinationRule", "host: a.example, subsets: [{name: v1}, {name: v2, trafficPolicy: {tls: {mode: SIMPLE}}}]"),
		quiet: networking("DestinationRule", "host: a.example, subsets: [{name: v2, trafficPolicy: {connectionPool: {tcp: {maxConnections: 1}}}}]"),
		field: "spec.subsets[1].trafficPolicy", says: "v2"},
	{code: "WRIT397", name: "unverified clients",
		fires: networking("Gateway", fmt.Sprintf(oneServer, ", insecureSkipVerify: true")),
		quiet: networking("Gateway", fmt.Sprintf(oneServer, ", insecureSkipVerify: false")),
		field: "spec.servers[0].tls.insecureSkipVerify", says: "chooses the principal"},

	{code: "WRIT350", name: "PERMISSIVE requires nothing",
		fires: notStreet + peer("shop", "p", 2024, modeWeaker),
		quiet: notStreet + peer("shop", "p", 2024, modeStrict),
		field: "spec.rules[0].from[0].source.notNamespaces"},
	{code: "WRIT350", name: "a workload that is exempt",
		fires: notStreet + peer("istio-system", "p", 2024, modeStrict) + peer("shop", "q", 2024, selectTill+modeWeaker),
		quiet: notStreet + peer("istio-system", "p", 2024, modeStrict) + peer("shop", "q", 2024, selectTill+"portLevelMtls: {80: {mode: UNSET}}"),
		field: "spec.rules[0].from[0].source.notNamespaces"},
	{code: "WRIT350", name: "a port that is exempt",
		fires: notStreet + peer("istio-system", "p", 2024, modeStrict) + peer("shop", "q", 2024, selectTill+"portLevelMtls: {80: {mode: DISABLE}}"),
		quiet: notStreet + peer("istio-system", "p", 2024, modeStrict) + peer("bakery", "q", 2024, selectTill+"portLevelMtls: {80: {mode: DISABLE}}"),
		field: "spec.rules[0].from[0].source.notNamespaces"},
	{code: "WRIT350", name: "the older one counts",
		fires: notStreet + peer("shop", "p", 2025, modeStrict) + peer("shop", "q", 2024, modeWeaker),
		quiet: notStreet + peer("shop", "p", 2024, modeStrict) + peer("shop", "q", 2025, modeWeaker),
		field: "spec.rules[0].from[0].source.notNamespaces"},
	{code: "WRIT350", name: "a policy for the mesh and a namespace that is exempt",
		fires: in("istio-system", "a", `{rules: [{from: [{source: {notNamespaces: [street]}}]}]}`) + peer("istio-system", "p", 2024, modeStrict) + peer("shop", "q", 2024, modeOff),
		quiet: in("istio-system", "a", `{rules: [{from: [{source: {notNamespaces: [street]}}]}]}`) + peer("istio-system", "p", 2024, modeStrict),
		field: "spec.rules[0].from[0].source.notNamespaces"},
	{code: "WRIT350", name: "STRICT for the very workloads",
		fires: authz("a", `{selector: {matchLabels: {app: till}}, rules: [{from: [{source: {notNamespaces: [street]}}]}]}`) + peer("shop", "p", 2024, selectTillV1+modeStrict),
		quiet: authz("a", `{selector: {matchLabels: {app: till}}, rules: [{from: [{source: {notNamespaces: [street]}}]}]}`) + peer("shop", "p", 2024, selectTill+modeStrict),
		field: "spec.rules[0].from[0].source.notNamespaces"},
}

// Without mTLS a DENY by identity gets one finding, not two that say the same.
func TestDisabledIsSaidOnce(t *testing.T) {
	got := lint(t, policy.Mesh{}, authz("a", "{action: DENY, rules: [{"+byNamespace+", to: [{operation: {ports: ['80']}}]}]}")+peer("shop", "p", 2024, modeOff))
	if want := []string{"WRIT392 spec.rules[0].from[0].source.namespaces"}; !slices.Equal(codes(got), want) {
		t.Errorf("got %q, want %q", codes(got), want)
	}
}
