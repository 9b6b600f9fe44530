package policy_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"go.yaml.in/yaml/v3"
	"istio.io/api/security/v1beta1"
	typev1beta1 "istio.io/api/type/v1beta1"

	"github.com/writ-auth/writ/policy"
)

// draw makes the generators' choices, from a seeded generator or from a fuzzer's bytes.
type draw func() uint32

func drawFrom(seed uint64) draw {
	rng := rand.New(rand.NewPCG(seed, 0x77726974)) //nolint:gosec // reproducible on purpose
	return rng.Uint32
}

// drawBytes reads choices from b; when they run out every further choice is the first one, so that inputs stay short.
func drawBytes(b []byte) draw {
	return func() uint32 {
		if len(b) == 0 {
			return 0
		}
		v := b[0]
		b = b[1:]
		return uint32(v)
	}
}

func (d draw) below(n int) int        { return int(d()) % n }
func (d draw) oneIn(n int) bool       { return d.below(n) == n-1 } // never at the first choice: exhausted input stays small
func (d draw) pick(v []string) string { return v[d.below(len(v))] }

// some picks one to three values, with repetitions.
func (d draw) some(v []string) []string {
	out := []string{d.pick(v)}
	for len(out) < 3 && d.oneIn(2) {
		out = append(out, d.pick(v))
	}
	return out
}

// maybe is some values, one time in n, else none.
func (d draw) maybe(n int, v []string) []string {
	if !d.oneIn(n) {
		return nil
	}
	return d.some(v)
}

// The vocabularies are small and made to collide: prefixes of each other, differences in one character, every wildcard
// form, and requests (in oracle_request_test.go) just inside and just outside of them.
var (
	vocabTrustDomains = []string{"cluster.local", "td1", "old-td", "other.td", "*-td", "td*", "*", "clus*", "*local"}
	vocabPrincipals   = []string{
		"*", "cluster.local/ns/foo/sa/web", "cluster.local/ns/foo/sa/*", "cluster.local/ns/foo/*", "cluster.local/*", "clus*",
		"*/ns/bar/sa/web", "*/sa/web", "*web", "*-td/ns/foo/sa/web", "td*/ns/foo/sa/web", "td1/ns/foo/sa/web",
		"old-td/ns/foo/sa/web", "other.td/ns/foo/sa/web", "cluster.local/ns/*/sa/web", "spiffe://cluster.local/ns/foo/sa/web",
		"spiffe://td1/ns/foo/*", "spiffe://*", "*/td1", "*://td1", "client.example.com", "*.example.com", "**", "*local/ns/foo/sa/w*", "a/b/c/d/e",
	}
	vocabNamespaces      = []string{"foo", "bar", "foo-bar", "*", "foo-*", "*bar", "f*", "*o*", "f*-b*", "foo/sa", "fo.", "f*/sa"}
	vocabServiceAccounts = []string{"web", "web-2", "admin", "foo/web", "foo/admin", "bar/web", "foo-bar/web-2", "w.b", "foo/w.b", "sa", "ns/web"}
	vocabRequestPrincs   = []string{
		"*", "https://idp.example/alice", "https://idp.example/*", "https://idp.example/al*", "*/alice", "*/*", "*alice",
		"https://idp.example*", "https://idp.example", "*.example/alice", "*idp.example/al*", "issuer", "iss*",
		"https://idp.example/team/alice", "https://idp.example/*ce", "https://other.example/bob", "issuer/alice", "issuer/*",
	}
	vocabIPs = []string{
		"10.1.2.3", "10.1.2.3/8", "10.1.0.0/16", "10.1.2.0/24", "127.0.0.1", "127.0.0.0/30", "0.0.0.0/0", "::/0", "2001:db8::/32",
		"2001:db8::1", "203.0.113.9", "::ffff:10.1.2.3", "fe80::1%eth0", "10.1.2.3/32", "10.1.2.2/31",
	}
	vocabHosts = []string{
		"example.com", "EXAMPLE.com", "*.example.com", "*com", "example.*", "*", "api.example.com:8080", "httpbin.foo",
		"kube.example", "example.com:*", "**", "*é.example", "CAF\u00c9.example", "\u212Aube*",
	}
	vocabMethods = []string{"GET", "POST", "P*", "*T", "*", "get", "DELETE", "*E*"}
	vocabPaths   = []string{
		"/admin", "/admin*", "/admin/*", "*/info", "*", "/", "/a/*/b", "*.html", "/API", "/public", "/public*", "*a*", "**",
		"/foo/{*}", "/foo/{**}", "/foo/{**}/", "/foo/{*}/bar/{**}", "/{**}/info", "/{*}", "/{**}", "/foo/{*}/info", "/foo/bar", "/foo/*",
	}
	vocabPorts   = []string{"80", "080", "8080", "9", "0", "65535"}
	vocabSNI     = []string{"example.com", "*.example.com", "*", "api*", "*com", "EXAMPLE.com"}
	vocabHeaders = []string{"*", "dev", "*ev", "de*", "a,b", "a*", "*b", "Dev", "GET", "/admin*", "*x=1", "example.com"}
	vocabClaims  = []string{"*", "dev", "*ev", "de*", "read", "read write", "3", "true", "alice"}
	vocabMeta    = []string{"*", "dev", "*ev", "de*", "[dev]", "[*]", "[*ev]", "[de*]"}

	headerKeys = []string{
		"request.headers[x-role]", "request.headers[X-Team]", "request.headers[x-empty]", "request.headers[:method]",
		"request.headers[:path]", "request.headers[:authority]", "request.headers[Host]", "request.headers[x[0]]",
	}
	claimKeys = []string{
		"request.auth.claims[level]", "request.auth.claims[groups]", "request.auth.claims[nested][team]", "request.auth.claims[nested]",
		"request.auth.claims[a.b]", "request.auth.claims[[foo]]", "request.auth.claims[a]b[c]", "request.auth.claims[https://a/b]",
		"request.auth.claims[groups][x]", "request.auth.audiences", "request.auth.presenter",
	}
	metaKeys = []string{"experimental.envoy.filters.http.x[role]", "experimental.envoy.filters.a.b[k]"}
)

// generated is one policy before it is text.
type generated struct {
	Namespace, Name string
	DryRun          string // the annotation, "" = none
	Spec            *v1beta1.AuthorizationPolicy
}

// object is the document as a tree of maps.
func (g generated) object(t testing.TB) map[string]any {
	t.Helper()
	raw, err := json.Marshal(g.Spec)
	if err != nil {
		t.Fatalf("marshal %s/%s: %v", g.Namespace, g.Name, err)
	}
	metadata := map[string]any{"name": g.Name, "namespace": g.Namespace}
	if g.DryRun != "" {
		metadata["annotations"] = map[string]any{policy.DryRunAnnotation: g.DryRun}
	}
	return map[string]any{
		"apiVersion": "security.istio.io/v1", "kind": policy.KindAuthorizationPolicy, "metadata": metadata, "spec": json.RawMessage(raw),
	}
}

// text is the document in JSON, which is YAML on one line.
func (g generated) text(t testing.TB) string {
	t.Helper()
	out, err := json.Marshal(g.object(t))
	if err != nil {
		t.Fatal(err)
	}
	return string(out) + "\n"
}

// yaml is the document as a user would write it.
func (g generated) yaml(t testing.TB) string {
	t.Helper()
	object := g.object(t)
	var spec map[string]any
	if err := json.Unmarshal(object["spec"].(json.RawMessage), &spec); err != nil {
		t.Fatal(err)
	}
	object["spec"] = spec
	out, err := yaml.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// genPolicies makes up to most policies with distinct names.
func genPolicies(d draw, most int) []generated {
	var out []generated
	for range 1 + d.below(most) {
		out = append(out, genPolicy(d, len(out)))
	}
	return out
}

func genPolicy(d draw, n int) generated {
	g := generated{
		Namespace: d.pick([]string{"foo", "foo", "istio-system", "foo-bar", "bar"}),
		// IDs compare as text: p, p-2 and p.1 sort differently from their parts.
		Name: d.pick([]string{"p", "p-", "p."}) + fmt.Sprint(n),
		Spec: &v1beta1.AuthorizationPolicy{},
	}
	spec := g.Spec
	switch d.below(10) {
	case 0, 1, 2, 3:
		spec.Action = v1beta1.AuthorizationPolicy_ALLOW
	case 4, 5, 6:
		spec.Action = v1beta1.AuthorizationPolicy_DENY
	case 7:
		spec.Action = v1beta1.AuthorizationPolicy_AUDIT
	default:
		spec.Action = v1beta1.AuthorizationPolicy_CUSTOM
		spec.ActionDetail = &v1beta1.AuthorizationPolicy_Provider{
			Provider: &v1beta1.AuthorizationPolicy_ExtensionProvider{Name: d.pick([]string{"opa", "opa-2", "legacy"})},
		}
	}
	enforceable := spec.Action == v1beta1.AuthorizationPolicy_ALLOW || spec.Action == v1beta1.AuthorizationPolicy_DENY
	if enforceable && d.oneIn(5) {
		g.DryRun = d.pick([]string{"true", "1", "T", "false"})
	}
	genTarget(d, spec)
	rules := 1 + d.below(3)
	switch {
	case d.oneIn(15):
		rules = 13 // rule[10] is smaller than rule[2]
	case spec.Action == v1beta1.AuthorizationPolicy_ALLOW && d.oneIn(10):
		rules = 0
	}
	for range rules {
		spec.Rules = append(spec.Rules, genRule(d, spec.Action == v1beta1.AuthorizationPolicy_CUSTOM))
	}
	return g
}

func genTarget(d draw, spec *v1beta1.AuthorizationPolicy) {
	switch d.below(8) {
	case 4:
		spec.Selector = &typev1beta1.WorkloadSelector{MatchLabels: map[string]string{"app": d.pick([]string{"httpbin", "other"})}}
	case 5:
		spec.Selector = &typev1beta1.WorkloadSelector{MatchLabels: map[string]string{"app": "httpbin", "version": d.pick([]string{"v1", "v2"})}}
	case 6:
		spec.Selector = &typev1beta1.WorkloadSelector{}
	case 7:
		for range 1 + d.below(2) {
			spec.TargetRefs = append(spec.TargetRefs, genTargetRef(d))
		}
		if d.oneIn(3) {
			spec.TargetRef, spec.TargetRefs = spec.TargetRefs[0], nil
		}
	}
}

func genTargetRef(d draw) *typev1beta1.PolicyTargetReference {
	const gatewayAPI = "gateway.networking.k8s.io"
	return []*typev1beta1.PolicyTargetReference{
		{Group: gatewayAPI, Kind: "Gateway", Name: "gw"},
		{Group: gatewayAPI, Kind: "Gateway", Name: "gw-2"},
		{Group: gatewayAPI, Kind: "GatewayClass", Name: "istio-waypoint"},
		{Group: gatewayAPI, Kind: "GatewayClass", Name: "other"},
		{Kind: "Service", Name: "web"},
		{Group: "core", Kind: "Service", Name: "web"},
		{Group: "networking.istio.io", Kind: "ServiceEntry", Name: "web"},
	}[d.below(7)]
}

func genRule(d draw, custom bool) *v1beta1.Rule {
	rule := &v1beta1.Rule{}
	for range d.below(3) {
		rule.From = append(rule.From, &v1beta1.Rule_From{Source: genSource(d, custom)})
	}
	for range d.below(3) {
		rule.To = append(rule.To, &v1beta1.Rule_To{Operation: genOperation(d)})
	}
	for range max(0, d.below(5)-2) {
		rule.When = append(rule.When, genCondition(d, custom))
	}
	return rule
}

// genSource makes a valid source: one or two fields, identities never in CUSTOM policies, service accounts never next to
// principals or namespaces (§3.4).
func genSource(d draw, custom bool) *v1beta1.Source {
	s := &v1beta1.Source{}
	fields := 7
	if custom {
		fields = 2
	}
	for range 1 + d.below(2) {
		values := func(vocab []string) (yes, no []string) {
			switch d.below(4) {
			case 0, 1:
				return d.some(vocab), nil
			case 2:
				return nil, d.some(vocab)
			}
			return d.some(vocab), d.some(vocab)
		}
		switch d.below(fields) {
		case 0:
			s.IpBlocks, s.NotIpBlocks = values(vocabIPs)
		case 1:
			s.RemoteIpBlocks, s.NotRemoteIpBlocks = values(vocabIPs)
		case 2:
			s.Principals, s.NotPrincipals = values(vocabPrincipals)
		case 3:
			s.Namespaces, s.NotNamespaces = values(vocabNamespaces)
		case 4:
			s.RequestPrincipals, s.NotRequestPrincipals = values(vocabRequestPrincs)
		case 5:
			s.TrustDomains, s.NotTrustDomains = values(vocabTrustDomains)
		case 6:
			s.ServiceAccounts, s.NotServiceAccounts = values(vocabServiceAccounts)
		}
	}
	if len(s.ServiceAccounts)+len(s.NotServiceAccounts) > 0 {
		s.Principals, s.NotPrincipals, s.Namespaces, s.NotNamespaces = nil, nil, nil, nil
	}
	return s
}

func genOperation(d draw) *v1beta1.Operation {
	op := &v1beta1.Operation{
		Hosts: d.maybe(4, vocabHosts), NotHosts: d.maybe(8, vocabHosts),
		Ports: d.maybe(4, vocabPorts), NotPorts: d.maybe(8, vocabPorts),
		Methods: d.maybe(3, vocabMethods), NotMethods: d.maybe(8, vocabMethods),
		Paths: d.maybe(2, vocabPaths), NotPaths: d.maybe(6, vocabPaths),
	}
	if countOperation(op) == 0 {
		op.Paths = d.some(vocabPaths)
	}
	return op
}

func countOperation(op *v1beta1.Operation) int {
	return len(slices.Concat(op.Hosts, op.NotHosts, op.Ports, op.NotPorts, op.Methods, op.NotMethods, op.Paths, op.NotPaths))
}

// genCondition draws a key and values of its family. The keys from the fifth row on are refused in CUSTOM policies.
func genCondition(d draw, custom bool) *v1beta1.Condition {
	families := []struct {
		keys   []string
		values []string
	}{
		{headerKeys, vocabHeaders},
		{[]string{"source.ip", "remote.ip", "destination.ip"}, vocabIPs},
		{[]string{"destination.port"}, vocabPorts},
		{[]string{"connection.sni"}, vocabSNI},
		{metaKeys, vocabMeta},
		{claimKeys, vocabClaims},
		{[]string{"source.namespace"}, vocabNamespaces},
		{[]string{"source.principal"}, vocabPrincipals},
		{[]string{"source.serviceAccount"}, vocabServiceAccounts},
		{[]string{"source.trustDomain"}, append([]string{"td1/ns", "td1/n*"}, vocabTrustDomains...)}, // a slash slips through here
		{[]string{"request.auth.principal"}, vocabRequestPrincs},
	}
	if custom {
		families = families[:5]
	}
	f := families[d.below(len(families))]
	c := &v1beta1.Condition{Key: d.pick(f.keys)}
	if !d.oneIn(3) {
		c.Values = d.some(f.values)
	}
	if len(c.Values) == 0 || d.oneIn(4) {
		c.NotValues = d.some(f.values)
	}
	return c
}
