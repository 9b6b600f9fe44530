package analysis_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/writ-auth/writ/policy"
	"github.com/writ-auth/writ/policy/analysis"
)

func TestCovered(t *testing.T) {
	from := func(fields string) string { return `{from: [{source: {` + fields + `}}]}` }
	to := func(fields string) string { return `{to: [{operation: {` + fields + `}}]}` }
	when := func(key, values string) string { return `{when: [{key: "` + key + `", ` + values + `}]}` }
	tests := []struct {
		name            string
		broad, narrow   string
		covered         bool
		broadNS, action string
		mesh            policy.Mesh
	}{
		{name: "the same", broad: to(`methods: [GET]`), narrow: to(`methods: [GET]`), covered: true},
		{name: "more values", broad: to(`methods: [GET, POST]`), narrow: to(`methods: [POST]`), covered: true},
		{name: "other values", broad: to(`methods: [GET, POST]`), narrow: to(`methods: [POST, PUT]`)},
		{name: "one condition less", broad: to(`methods: [GET]`), narrow: to(`methods: [GET], ports: ["80"]`), covered: true},
		{name: "one condition more", broad: to(`methods: [GET], ports: ["80"]`), narrow: to(`methods: [GET]`)},
		{name: "prefix", broad: to(`paths: [/a*]`), narrow: to(`paths: [/ab, "/a/*"]`), covered: true},
		{name: "prefix the other way", broad: to(`paths: [/ab*]`), narrow: to(`paths: [/a*]`)},
		{name: "suffix", broad: to(`paths: ["*.png"]`), narrow: to(`paths: [/x.png, "*/y.png"]`), covered: true},
		{name: "suffix and prefix", broad: to(`paths: ["*/a"]`), narrow: to(`paths: [/a*]`)},
		{name: "prefix and template", broad: to(`paths: [/a/*]`), narrow: to(`paths: ["/a/{*}/b"]`), covered: true},
		{name: "template and exact", broad: to(`paths: ["/a/{*}"]`), narrow: to(`paths: [/a/b]`)}, // true, but not looked for
		{name: "any", broad: to(`paths: ["*"]`), narrow: to(`paths: [/a, "/b/{**}"]`), covered: true},
		{name: "host case", broad: to(`hosts: ["A.example:*"]`), narrow: to(`hosts: ["a.EXAMPLE:80"]`), covered: true},
		{name: "port spelling", broad: to(`ports: ["080"]`), narrow: to(`ports: ["80"]`), covered: true},
		{name: "network", broad: from(`ipBlocks: [10.0.0.0/8]`), narrow: from(`ipBlocks: [10.1.2.3, 10.2.0.0/16]`), covered: true},
		{name: "network the other way", broad: from(`ipBlocks: [10.1.0.0/16]`), narrow: from(`ipBlocks: [10.0.0.0/8]`)},
		{name: "other network", broad: from(`ipBlocks: [10.0.0.0/8]`), narrow: from(`ipBlocks: ["::a00:1"]`)},
		{name: "namespaces", broad: from(`namespaces: [prod-*]`), narrow: from(`namespaces: [prod-eu]`), covered: true},
		{name: "account spelling", broad: from(`serviceAccounts: [shop/till]`), narrow: from(`serviceAccounts: [till]`), covered: true},
		{name: "principal scheme", broad: from(`principals: ["spiffe://cluster.local/ns/shop/*"]`), narrow: from(`principals: [cluster.local/ns/shop/sa/till]`), covered: true},
		{name: "principal with aliases", broad: from(`principals: [shop.example/*]`), narrow: from(`principals: [shop.example/ns/shop/sa/till]`), mesh: aliases},
		{name: "principal with aliases, the same", broad: from(`principals: [shop.example/ns/shop/sa/till]`), narrow: from(`principals: [shop.example/ns/shop/sa/till]`), mesh: aliases, covered: true},
		{name: "any token", broad: from(`requestPrincipals: ["*"]`), narrow: from(`requestPrincipals: [idp/alice]`), covered: true},
		{name: "field and key read the same", broad: from(`namespaces: [shop]`), narrow: when("source.namespace", `values: [shop]`)}, // not looked for across from and when
		{name: "header name case", broad: when("request.headers[X-Team]", `values: ["*"]`), narrow: when("request.headers[x-team]", `values: [a]`), covered: true},
		{name: "other header", broad: when("request.headers[x-team]", `values: [a]`), narrow: when("request.headers[x-tea]", `values: [a]`)},
		{name: "excludes less", broad: to(`notPaths: [/a]`), narrow: to(`notPaths: [/a*]`), covered: true},
		{name: "excludes more", broad: to(`notPaths: [/a*]`), narrow: to(`notPaths: [/a]`)},
		{name: "excludes something", broad: to(`methods: [GET], notPaths: [/a]`), narrow: to(`methods: [GET]`)},
		{name: "values and excluded values", broad: to(`paths: ["/*"], notPaths: [/a]`), narrow: to(`paths: [/b]`)}, // true, but not looked for
		{name: "any of several sources", broad: `{from: [{source: {namespaces: [a]}}, {source: {namespaces: [b]}}]}`, narrow: from(`namespaces: [b]`), covered: true},
		{name: "all of several sources", broad: from(`namespaces: [b]`), narrow: `{from: [{source: {namespaces: [a]}}, {source: {namespaces: [b]}}]}`},
		{name: "lost on TCP", broad: `{from: [{source: {requestPrincipals: [idp/a]}}, {source: {namespaces: [b]}}]}`, narrow: from(`namespaces: [b]`)},
		{name: "not lost on TCP in DENY", action: "DENY", broad: `{from: [{source: {requestPrincipals: [idp/a]}}, {source: {namespaces: [b]}}]}`, narrow: from(`namespaces: [b]`), covered: true},
		{name: "everything is denied", action: "DENY", broad: `{}`, narrow: from(`namespaces: [b]`), covered: true},
		{name: "root namespace", broadNS: "istio-system", broad: to(`methods: [GET]`), narrow: to(`methods: [GET]`), covered: true},
		{name: "other namespace", broadNS: "bakery", broad: to(`methods: [GET]`), narrow: to(`methods: [GET]`)},
		{name: "metadata", broad: when("experimental.envoy.filters.a.b[k]", `values: [u, v]`), narrow: when("experimental.envoy.filters.a.b[k]", `values: [u]`), covered: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ns, action := tt.broadNS, tt.action
			if ns == "" {
				ns = "shop"
			}
			if action == "" {
				action = "ALLOW"
			}
			text := authz("narrow", fmt.Sprintf("{action: %s, selector: {matchLabels: {app: till}}, rules: [%s]}", action, tt.narrow)) +
				in(ns, "broad", fmt.Sprintf("{action: %s, rules: [%s]}", action, tt.broad))
			covered := false
			for _, p := range lint(t, tt.mesh, text) {
				if p.Code != "WRIT322" {
					continue
				}
				if p.Object.Name != "narrow" {
					t.Errorf("the broader rule is reported: %v", p)
				}
				if !strings.Contains(p.Message, ns+"/broad rule 0") {
					t.Errorf("the other rule is not named: %v", p)
				}
				covered = true
			}
			if covered != tt.covered {
				t.Errorf("covered is %v, want %v", covered, tt.covered)
			}
		})
	}
}

// Of two rules that are the same, only the later is reported; other actions, dry runs and narrower scopes cover nothing.
func TestCoveredPairs(t *testing.T) {
	const rule = `rules: [{from: [{source: {namespaces: [shop]}}], to: [{operation: {ports: ["80"]}}]}]`
	tests := []struct {
		name string
		text string
		want int
	}{
		{"the later of two", authz("a", "{"+rule+"}") + authz("b", "{"+rule+"}"), 1},
		{"within one policy", authz("a", `{rules: [{to: [{operation: {ports: ["80"]}}]}, {to: [{operation: {ports: ["80"]}}]}]}`), 1},
		{"three of a kind", authz("a", "{"+rule+"}") + authz("b", "{"+rule+"}") + authz("c", "{"+rule+"}"), 2},
		{"other action", authz("a", "{"+rule+"}") + authz("b", "{action: DENY, "+rule+"}"), 0},
		{"audit is an action too", authz("a", "{action: AUDIT, "+rule+"}") + authz("b", "{action: AUDIT, "+rule+"}"), 1},
		{"dry run", annotated("true") + authz("b", `{rules: [{from: [{source: {namespaces: [shop]}}]}]}`), 0},
		{"other labels", authz("a", "{selector: {matchLabels: {app: a}}, "+rule+"}") + authz("b", "{selector: {matchLabels: {app: b}}, "+rule+"}"), 0},
		{"fewer labels", authz("a", "{selector: {matchLabels: {app: a}}, "+rule+"}") + authz("b", "{selector: {matchLabels: {app: a, v: '1'}}, "+rule+"}"), 1},
		{"other provider", custom("a", "opa") + strings.ReplaceAll(custom("a", "ldap"), "name: a,", "name: b,"), 0},
		{"targets", authz("a", "{targetRefs: [{kind: Service, name: x}], "+rule+"}") + authz("b", "{"+rule+"}"), 0},
		{"same targets", authz("a", "{targetRefs: [{kind: Service, name: x}], "+rule+"}") + authz("b", "{targetRef: {kind: Service, name: x}, "+rule+"}"), 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := 0
			for _, p := range lint(t, policy.Mesh{}, tt.text) {
				if p.Code == "WRIT322" {
					got++
				}
			}
			if got != tt.want {
				t.Errorf("%d findings, want %d", got, tt.want)
			}
		})
	}
}

// BenchmarkLint is ten thousand rules that differ in a suffix path: nothing covers anything, and nothing is found fast.
func BenchmarkLint(b *testing.B) {
	var text strings.Builder
	for p := range 20 {
		text.WriteString("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n")
		fmt.Fprintf(&text, "metadata: {name: p%d, namespace: shop}\nspec:\n  rules:\n", p)
		for r := range 500 {
			fmt.Fprintf(&text, "  - to: [{operation: {paths: ['*/item-%d-%d']}}]\n", p, r)
		}
		text.WriteString("---\n")
	}
	docs := policy.Decode("bench.yaml", []byte(text.String()))
	for b.Loop() {
		if got := analysis.Lint(docs, policy.Mesh{}); len(got) > 0 {
			b.Fatalf("got %v", got[0])
		}
	}
}
