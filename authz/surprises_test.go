package authz_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/policy"
)

// try is one question under a row's documents, and whether it is allowed.
type try struct {
	name  string
	check check
	allow bool
}

// surprise is one row of authorization-policy §12.
type surprise struct {
	row   int
	input string
	setup setup
	tries []try
}

const (
	fooWeb   = "spiffe://cluster.local/ns/foo/sa/web"
	fooSleep = "spiffe://cluster.local/ns/foo/sa/sleep"
)

func docs(d ...string) setup { return setup{docs: d} }

// brokenDocs have errors that writ refuses and fails closed for.
func brokenDocs(d ...string) setup { return setup{docs: d, broken: true} }

func user(sub string) claims { return claims{"iss": "https://idp.example", "sub": sub} }

// surprises about what a policy matches: rows 1 to 45 and those of the rest that a decision shows.
func surprises() []surprise {
	td1 := policy.Mesh{TrustDomain: "td1", TrustDomainAliases: []string{"td2"}}
	prin := func(mesh policy.Mesh, value string) setup {
		return setup{mesh: mesh, docs: []string{allow(from(`principals: ["` + value + `"]`))}}
	}
	return []surprise{
		{1, "ALLOW policy with spec {}", docs(named("foo", "p", "{}")), []try{{"anything", check{}, false}, {"a peer with identity", check{principal: fooWeb}, false}}},
		{2, "ALLOW rules [{}] next to another ALLOW", docs(named("foo", "strict", "{rules: ["+to("paths: [/x]")+"]}"), named("foo", "wide", "{rules: [{}]}")),
			[]try{{"only the wide one matches", check{path: "/y"}, true}}},
		{3, "rules [null]", docs(named("foo", "p", "{rules: [null]}")), []try{{"matches everything", check{}, true}}},
		{5, "from []", docs(allow("{from: [], to: [{operation: {methods: [GET]}}]}")), []try{{"any source", check{}, true}}},
		{6, "targetRefs policy and an ordinary sidecar", docs(named("foo", "p", "{targetRefs: [{kind: Service, name: web}]}")),
			[]try{{"does not apply", check{}, true}}},
		{7, "selector policy and a waypoint", setup{
			workload: policy.Workload{Namespace: "foo", Labels: map[string]string{"app": "httpbin"}, Services: []string{"Service foo/web"}},
			docs:     []string{named("foo", "p", "{selector: {matchLabels: {app: httpbin}}}")},
		}, []try{{"does not apply", check{}, true}}},
		{8, "root-namespace policy with serviceAccounts [sleep]", docs(named("istio-system", "p", "{rules: ["+from("serviceAccounts: [sleep]")+"]}")), []try{
			{"istio-system/sleep", check{principal: "spiffe://cluster.local/ns/istio-system/sa/sleep"}, true},
			{"the workload's own namespace", check{principal: fooSleep}, false},
		}},
		{9, `principals ["*"]`, prin(policy.Mesh{}, "*"), []try{
			{"plaintext", check{}, false}, {"SPIFFE", check{principal: fooWeb}, true}, {"any certificate", check{principal: "client.example.com"}, true},
		}},
		// Row 10: Istio never matches the scheme. writ strips it on purpose and lint says so.
		{10, "principals with spiffe://", prin(policy.Mesh{}, fooWeb), []try{{"the scheme is stripped", check{principal: fooWeb}, true}, {"and nothing else", check{principal: fooSleep}, false}}},
		{11, "principals [cluster.local/ns/*/sa/b]", prin(policy.Mesh{}, "cluster.local/ns/*/sa/web"), []try{{"a literal star", check{principal: fooWeb}, false}}},
		{12, "trust domain td1, principals [cluster.local/ns/a/sa/b]", prin(td1, "cluster.local/ns/foo/sa/web"), []try{
			{"td1", check{principal: "spiffe://td1/ns/foo/sa/web"}, true}, {"its alias", check{principal: "spiffe://td2/ns/foo/sa/web"}, true},
			{"not the literal cluster.local", check{principal: fooWeb}, false},
		}},
		{13, "trust domain td1, principals [cluster.local/ns/a/*]", prin(td1, "cluster.local/ns/foo/*"), []try{
			{"td1", check{principal: "spiffe://td1/ns/foo/sa/web"}, false}, {"the alias", check{principal: "spiffe://td2/ns/foo/sa/web"}, false},
		}},
		{14, "namespaces [prod-*]", docs(allow(from(`namespaces: ["prod-*", "*-x-*"]`))), []try{
			{"wildcard", check{principal: "spiffe://td/ns/prod-eu/sa/a"}, true}, {"in any position", check{principal: "spiffe://td/ns/a-x-b/sa/a"}, true},
			{"across slashes", check{principal: "spiffe://td/ns/prod-a/b/c"}, true}, {"not without the dash", check{principal: "spiffe://td/ns/prod/sa/a"}, false},
		}},
		{15, "namespaces [foo] and a nested /ns/", docs(allow(from(`namespaces: [foo]`))), []try{{"matches", check{principal: "spiffe://td/ns/x/ns/foo/sa/y"}, true}}},
		{16, "trustDomains [cluster.local] with trust domain td1", setup{mesh: td1, docs: []string{allow(from("trustDomains: [cluster.local]"))}}, []try{
			{"literal", check{principal: fooWeb}, true}, {"no pointer", check{principal: "spiffe://td1/ns/foo/sa/web"}, false},
		}},
		{17, "requestPrincipals [https://idp.example*]", docs(allow(from(`requestPrincipals: ["https://idp.example*"]`))), []try{{"never", check{claims: user("alice")}, false}}},
		{18, `requestPrincipals ["*/*"]`, docs(allow(from(`requestPrincipals: ["*/*"]`))), []try{{"alice", check{claims: user("alice")}, false}, {"the subject *", check{claims: user("*")}, true}}},
		{19, `requestPrincipals ["*"], token without sub`, docs(allow(from(`requestPrincipals: ["*"]`))), []try{
			{"no sub", check{claims: claims{"iss": "https://idp.example"}}, false}, {"with sub", check{claims: user("alice")}, true},
		}},
		{20, "subject team/alice", docs(allow(from(`requestPrincipals: ["https://idp.example/team/alice"]`))), []try{{"split at the last slash", check{claims: user("team/alice")}, false}}},
		{21, `claim groups "admin dev", values [admin]`, docs(allow(when("request.auth.claims[groups]", "values: [admin]"))), []try{
			{"one string", check{claims: claims{"groups": "admin dev"}}, false}, {"a list", check{claims: claims{"groups": []string{"admin", "dev"}}}, true},
		}},
		{22, `claim level 3`, docs(allow(when("request.auth.claims[level]", `values: ["3"]`))), []try{{"values never match", check{claims: claims{"level": 3.0}}, false}}},
		{22, `claim level 3`, docs(allow(when("request.auth.claims[level]", `notValues: ["3"]`))), []try{{"notValues match", check{claims: claims{"level": 3.0}}, true}}},
		{23, "request.auth.claims[a.b]", docs(allow(when("request.auth.claims[a.b]", "values: [x]"))), []try{
			{"nested", check{claims: claims{"a": map[string]any{"b": "x"}}}, false}, {"a dotted key", check{claims: claims{"a.b": "x"}}, true},
		}},
		{24, `request.headers[x] ["*"]`, docs(allow(when("request.headers[x]", `values: ["*"]`))), []try{
			{"sent empty", check{headers: map[string]string{"x": ""}}, true}, {"absent", check{}, false},
		}},
		{25, `connection.sni ["*"]`, docs(allow(when("connection.sni", `values: ["*"]`))), []try{{"no SNI", check{}, false}, {"an SNI", check{sni: "a"}, true}}},
		{26, "hosts [example.com]", docs(allow(to("hosts: [example.com]"))), []try{{"another case", check{host: "EXAMPLE.com"}, true}, {"a port", check{host: "EXAMPLE.com:8080"}, false}}},
		{27, "paths [/admin]", docs(allow(to("paths: [/admin]"))), []try{
			{"query", check{path: "/admin?x=1"}, true}, {"trailing slash", check{path: "/admin/"}, false}, {"case", check{path: "/Admin"}, false},
		}},
		{28, "DENY paths [/admin] and its disguises", docs(deny(to("paths: [/admin]"))), []try{
			{"plain", check{path: "/admin"}, false},
			{"%61: a proxy with BASE would have decoded it, so the path is refused", check{path: "/%61dmin"}, false},
			{"double slash passes under BASE", check{path: "//admin"}, true},
			{"%2F passes under BASE", check{path: "/x%2F..%2Fadmin"}, true},
		}},
		{29, "paths [/a/*/b]", docs(allow(to(`paths: ["/a/*/b", "/t/{*}/b"]`))), []try{{"literal", check{path: "/a/*/b"}, true}, {"no wildcard", check{path: "/a/x/b"}, false}, {"template", check{path: "/t/x/b"}, true}}},
		{30, "paths [/foo/{**}]", docs(allow(to(`paths: ["/foo/{**}"]`))), []try{{"/foo", check{path: "/foo"}, false}, {"/foo/", check{path: "/foo/"}, true}}},
		{31, "paths [/foo/{*}]", docs(allow(to(`paths: ["/foo/{*}"]`))), []try{{"a star", check{path: "/foo/a*b"}, false}, {"raw non-ASCII", check{path: "/foo/\u00e9"}, false}, {"plain", check{path: "/foo/ab"}, true}}},
		{32, "methods [get]", docs(allow(to("methods: [get]"))), []try{{"GET", check{method: "GET"}, false}}},
		{33, `ports ["80"], pod listens on 8080`, docs(allow(to(`ports: ["80"]`))), []try{{"8080", check{port: 8080}, false}}},
		{34, `ports ["080"]`, docs(allow(to(`ports: ["080"]`))), []try{{"80", check{port: 80}, true}}},
		{35, "ipBlocks [0.0.0.0/0], IPv6 peer", docs(allow(from("ipBlocks: [0.0.0.0/0]"))), []try{{"IPv6", check{source: "2001:db8::1"}, false}}},
		{35, "notIpBlocks [0.0.0.0/0], IPv6 peer", docs(allow(from("notIpBlocks: [0.0.0.0/0]"))), []try{{"IPv6", check{source: "2001:db8::1"}, true}}},
		{36, "ipBlocks behind a load balancer", docs(allow(from("ipBlocks: [203.0.113.9]"))), []try{{"sees the last hop", check{headers: map[string]string{"x-forwarded-for": "203.0.113.9"}}, false}}},
		{36, "remoteIpBlocks with trusted hops", docs(allow(from("remoteIpBlocks: [203.0.113.9]"))), []try{
			{"sees the client", check{trustedHops: 1, headers: map[string]string{"x-forwarded-for": "203.0.113.9, 10.0.0.7"}}, true},
			{"not what the client claims", check{trustedHops: 1, headers: map[string]string{"x-forwarded-for": "203.0.113.9, 198.51.100.1, 10.0.0.7"}}, false},
		}},
		{37, "remoteIpBlocks at a sidecar", docs(allow(from("remoteIpBlocks: [203.0.113.9]"))), []try{
			{"the last entry, which the caller chooses", check{headers: map[string]string{"x-forwarded-for": "1.1.1.1, 203.0.113.9"}}, true},
			{"never the first", check{headers: map[string]string{"x-forwarded-for": "203.0.113.9, 1.1.1.1"}}, false},
		}},
		{38, "DENY notPrincipals [a]", docs(deny(from("notPrincipals: [cluster.local/ns/foo/sa/web]"))), []try{{"plaintext is denied", check{}, false}, {"a passes", check{principal: fooWeb}, true}}},
		{39, "ALLOW notRequestPrincipals [bad/x]", docs(allow(from("notRequestPrincipals: [bad/x]"))), []try{{"no token", check{}, true}}},
		{40, "DENY paths [/x] on a database port", docs(deny(to("paths: [/x]"))), []try{{"all TCP", check{tcp: true, port: 5432}, false}, {"other HTTP", check{path: "/y"}, true}}},
		{41, "ALLOW to [{methods}, {ports}] on TCP", docs(allow(`{to: [{operation: {methods: [GET]}}, {operation: {ports: ["8080"]}}]}`)), []try{{"the port entry is lost too", check{tcp: true}, false}}},
		{42, "DENY requestPrincipals + ports [80] on TCP", docs(deny(`{from: [{source: {requestPrincipals: ["*"]}}], to: [{operation: {ports: ["80"]}}]}`)), []try{
			{"port 80", check{tcp: true, port: 80}, false}, {"another port", check{tcp: true, port: 81}, true},
		}},
		// Rows 43 to 45: what Istio does with documents that bypassed validation. writ refuses them at load; one that was
		// never valid fails closed for whom it targets.
		{43, "DENY rule with an unknown when key", brokenDocs(deny(when("source.user", "values: [a]"))), []try{{"fails closed, not open", check{}, false}}},
		{44, "DENY rule with a malformed IP", brokenDocs(deny(from("ipBlocks: [10.0.0.300]"))), []try{{"denies everything", check{}, false}}},
		{45, "ALLOW rule with one malformed IP among good ones", brokenDocs(allow(from("ipBlocks: [10.0.0.1, 10.0.0.300]"))), []try{{"does not match", check{}, false}}},
		{46, "two CUSTOM policies, two providers", docs(
			named("foo", "a", "{action: CUSTOM, provider: {name: one}, rules: ["+to("paths: [/a]")+"]}"),
			named("foo", "b", "{action: CUSTOM, provider: {name: two}, rules: ["+to("paths: [/b]")+"]}"),
		), []try{{"matching the first", check{path: "/a"}, false}, {"matching the second", check{path: "/b"}, false}, {"matching none", check{path: "/c"}, true}}},
		{47, "CUSTOM provider missing", docs(named("foo", "a", "{action: CUSTOM, provider: {name: nowhere}, rules: ["+to("paths: [/a]")+"]}")),
			[]try{{"matching", check{path: "/a"}, false}, {"not matching", check{path: "/b"}, true}}},
		{49, "provider name MyAuthz", docs(named("foo", "a", "{action: CUSTOM, provider: {name: MyAuthz}, rules: ["+to("paths: [/a]")+"]}")),
			[]try{{"matching", check{path: "/a"}, false}, {"not matching", check{path: "/b"}, true}}},
		{54, "only dry-run ALLOW policies", docs(dryRun("p", "{rules: ["+to("paths: [/x]")+"]}")), []try{{"allowed", check{path: "/y"}, true}}},
		{60, "PERMISSIVE workload, ALLOW by namespaces", docs(allow(from("namespaces: [foo]"))), []try{{"plaintext", check{}, false}, {"mTLS", check{principal: fooWeb}, true}}},
		{61, "PERMISSIVE port, client's own TLS: opaque TCP", docs(deny(to("paths: [/x]")), allow(from("namespaces: [foo]"))), []try{
			{"TCP rules apply, and there is no identity", check{tcp: true, sni: "a.example"}, false},
		}},
		{65, "header hidden from the check, notValues", docs(allow(when("request.headers[x]", "notValues: [a]"))), []try{
			{"looks absent", check{}, true}, {"visible", check{headers: map[string]string{"x": "a"}}, false},
		}},
	}
}

// TestSurprises runs the rows of §12 that are one decision.
func TestSurprises(t *testing.T) {
	t.Parallel()
	for _, s := range surprises() {
		for _, try := range s.tries {
			t.Run(fmt.Sprintf("surprise %d: %s: %s", s.row, s.input, try.name), func(t *testing.T) {
				if d := s.setup.decide(t, try.check); d.Allow != try.allow {
					t.Errorf("allowed %v, want %v (layer %s, reason %s, %s)", d.Allow, try.allow, d.Layer, d.Reason, d.Detail)
				}
			})
		}
	}
}

// refusedSurprises are rows whose right outcome is an error at load.
func refusedSurprises() map[int][]string {
	return map[int][]string{
		4:  {named("foo", "p", "{action: DENY, rules: []}"), named("foo", "p", "{action: DENY}")},
		34: {deny(to(`ports: ["80-90"]`)), deny(to("ports: [http]"))},
		43: {deny(when("source.user", "values: [a]"))},
		44: {deny(from("ipBlocks: [10.0.0.300]"))},
		45: {allow(from("ipBlocks: [10.0.0.1, 10.0.0.300]"))},
		50: {
			named("foo", "p", "{action: CUSTOM, provider: {name: opa}, rules: ["+from("principals: [a]")+"]}"),
			named("foo", "p", "{action: CUSTOM, provider: {name: opa}, rules: ["+from("requestPrincipals: [a]")+"]}"),
			named("foo", "p", "{action: CUSTOM, provider: {name: opa}, rules: ["+from("notNamespaces: [a]")+"]}"),
			named("foo", "p", "{action: CUSTOM, provider: {name: opa}, rules: ["+when("request.auth.claims[a]", "values: [b]")+"]}"),
			named("foo", "p", "{action: CUSTOM, provider: {name: opa}, rules: ["+when("source.principal", "notValues: [b]")+"]}"),
		},
		55: {
			"apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {namespace: foo, name: p, annotations: {istio.io/dry-run: \"yes\"}}\nspec: {}\n",
		},
	}
}

func TestRefusedSurprises(t *testing.T) {
	t.Parallel()
	for row, documents := range refusedSurprises() {
		for i, document := range documents {
			t.Run(fmt.Sprintf("surprise %d: %d", row, i), func(t *testing.T) {
				if !broken(t, document) {
					t.Errorf("accepted:\n%s", document)
				}
			})
		}
	}
}

// Rows that show in more than allow or deny.

func TestSurprise4ALLOWWithoutRulesIsValid(t *testing.T) {
	t.Parallel()
	document := named("foo", "p", "{action: ALLOW, rules: []}")
	if broken(t, document) {
		t.Error("refused")
	}
	if d := docs(document).decide(t, check{}); d.Allow || d.Layer != authz.LayerAllow || d.Reason != authz.ReasonNoAllowMatch || d.Rule != nil {
		t.Errorf("%+v", d)
	}
}

func TestSurprise56ShadowIsAboutTheDryRunSetAlone(t *testing.T) {
	t.Parallel()
	s := docs(allow(to("paths: [/a]")), dryRun("trial", "{rules: ["+to("paths: [/b]")+"]}"))
	d := s.decide(t, check{path: "/a"})
	if !d.Allow || !d.Evaluated || !d.Verdict.HasShadowAllow || d.Verdict.ShadowAllow != nil {
		t.Errorf("request that matches the enforced one: %+v", d)
	}
	d = s.decide(t, check{path: "/b"})
	if d.Allow || d.Verdict.ShadowAllow == nil || d.Verdict.ShadowAllow.ID() != "ns[foo]-policy[trial]-rule[0]" {
		t.Errorf("request that matches the dry-run one: %+v", d)
	}
}

func TestSurprise54ShadowResultIsRecorded(t *testing.T) {
	t.Parallel()
	d := docs(dryRun("p", "{rules: ["+to("paths: [/x]")+"]}")).decide(t, check{path: "/y"})
	if !d.Allow || d.Layer != authz.LayerDefault || !d.Verdict.HasShadowAllow || d.Verdict.ShadowAllow != nil {
		t.Errorf("%+v", d)
	}
}

func TestSurprise62SmallestIDIsReported(t *testing.T) {
	t.Parallel()
	rules := ""
	for i := range 11 {
		path := "/never"
		if i == 2 || i == 10 {
			path = "/hit"
		}
		rules += to("paths: ["+path+"]") + ", "
	}
	d := docs(named("foo", "p", "{action: DENY, rules: ["+rules+"]}")).decide(t, check{path: "/hit"})
	if d.Rule == nil || d.Rule.ID() != "ns[foo]-policy[p]-rule[10]" {
		t.Errorf("reported %v", d.Rule)
	}
}

// notOurs are the rows of §12 that nothing here can decide, with the reason.
func notOurs() map[int]string {
	return map[int]string{
		48: "later: a provider's kind is known once CUSTOM providers are configured; until then a matching CUSTOM policy denies",
		51: "later: needs a provider that answers",
		52: "later: needs a provider that answers",
		53: "later: needs a provider that reads bodies",
		57: "Envoy configuration generated by Istio: writ generates none",
		63: "Envoy never asks about a request without a route",
		64: "Envoy fills source.address; writ reads it as the direct peer, which is what hazards say of PROXY protocol",
		66: "ztunnel's own limitation: writ evaluates the policy as a sidecar does",
	}
}

// TestEverySurpriseIsAccountedFor: each row is tested or says why not, never both and never neither.
func TestEverySurpriseIsAccountedFor(t *testing.T) {
	t.Parallel()
	tested := []int{4, 54, 56, 58, 59, 62} // 58 and 59 in TestMTLSLayer
	for _, s := range surprises() {
		tested = append(tested, s.row)
	}
	for row := range refusedSurprises() {
		tested = append(tested, row)
	}
	for row := 1; row <= 66; row++ {
		_, excused := notOurs()[row]
		if slices.Contains(tested, row) == excused {
			t.Errorf("surprise %d: tested %v, excused %v", row, !excused, excused)
		}
	}
}
