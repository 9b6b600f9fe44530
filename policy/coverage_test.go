package policy_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/writ-auth/writ/policy"
)

// covered decides requests for one workload of namespace foo and reports on them.
func covered(t *testing.T, mesh policy.Mesh, text string, requests ...*policy.Request) *policy.CoverageReport {
	t.Helper()
	docs := policy.Decode("policies.yaml", []byte(text))
	for _, d := range docs {
		if d.Broken() {
			t.Fatalf("%v", d.Problems)
		}
	}
	snap := policy.NewSnapshot(docs, mesh)
	b, err := snap.Resolve(policy.Workload{Namespace: "foo", Labels: map[string]string{"app": "web"}})
	if err != nil {
		t.Fatal(err)
	}
	c := policy.NewCoverage()
	c.Add(snap)
	for _, r := range requests {
		v := b.Rules.Evaluate(r)
		c.Record(b, r, policy.Reached{Custom: true, Policies: true, DeniedBy: v.Deny})
	}
	return c.Report()
}

// branchesOf lists the branches of a report, one a line: field, kind, value and hits.
func branchesOf(r *policy.CoverageReport) []string {
	var out []string
	for _, p := range r.Policy {
		for _, rule := range p.Rules {
			for _, b := range rule.Branches {
				out = append(out, strings.Join(strings.Fields(fmt.Sprintf("%s %s %s %d", b.Field, b.Kind, b.Value, b.Hits)), " "))
			}
		}
	}
	return out
}

func webPolicy(spec string) string {
	return "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {namespace: foo, name: p}\nspec: " + spec + "\n"
}

func get(path string, names ...string) *policy.Request {
	return &policy.Request{Method: "GET", HasMethod: true, Path: path, RawPath: path, Names: names}
}

// TestCoverageBranches: a value counts when the rule matches through it, a not-value when it alone keeps the rule from
// matching, and what not-values let pass when the rule matches.
func TestCoverageBranches(t *testing.T) {
	t.Parallel()
	ip := func(r *policy.Request, a string) *policy.Request { r.RemoteIP = netip.MustParseAddr(a); return r }
	for _, tc := range []struct {
		name, spec string
		mesh       policy.Mesh
		requests   []*policy.Request
		want       []string
	}{
		{name: "every value of a list",
			spec:     `{rules: [{to: [{operation: {methods: [GET, PUT], paths: [/a, /b*, /b/c]}}]}]}`,
			requests: []*policy.Request{get("/a"), get("/b/c"), get("/z")},
			want: []string{"to[0].operation.paths matches /a 1", "to[0].operation.paths matches /b* 1", "to[0].operation.paths matches /b/c 1",
				"to[0].operation.methods matches GET 2", "to[0].operation.methods matches PUT 0"}},
		{name: "not-values both ways",
			spec:     `{action: DENY, rules: [{to: [{operation: {methods: [GET], paths: ["/a*"], notPaths: [/a/x, /a/y]}}]}]}`,
			requests: []*policy.Request{get("/a"), get("/a/x")},
			want: []string{"to[0].operation.paths matches /a* 1", "to[0].operation.notPaths excludes /a/x 1", "to[0].operation.notPaths excludes /a/y 0",
				"to[0].operation.notPaths lets_pass 1", "to[0].operation.methods matches GET 1"}},
		{name: "a not-value that is not alone in the way",
			spec:     `{action: DENY, rules: [{to: [{operation: {methods: [PUT], notPaths: [/a]}}]}]}`,
			requests: []*policy.Request{get("/a")},
			want: []string{"to[0].operation.notPaths excludes /a 0", "to[0].operation.notPaths lets_pass 0",
				"to[0].operation.methods matches PUT 0"}},
		{name: "alternatives apart",
			spec:     `{rules: [{from: [{source: {namespaces: [a]}}, {source: {remoteIpBlocks: [10.0.0.0/8]}}]}]}`,
			requests: []*policy.Request{ip(get("/"), "10.1.2.3")},
			want:     []string{"from[0].source.namespaces matches a 0", "from[1].source.remoteIpBlocks matches 10.0.0.0/8 1"}},
		{name: "aliases of one value are one",
			spec:     `{rules: [{from: [{source: {principals: [cluster.local/ns/a/sa/b], notPrincipals: [old/ns/a/sa/c]}}]}]}`,
			mesh:     policy.Mesh{TrustDomain: "cluster.local", TrustDomainAliases: []string{"old"}},
			requests: []*policy.Request{get("/", "spiffe://old/ns/a/sa/b")},
			want: []string{"from[0].source.principals matches cluster.local/ns/a/sa/b 1",
				"from[0].source.notPrincipals excludes cluster.local/ns/a/sa/c 0", "from[0].source.notPrincipals lets_pass 1"}},
		{name: "when",
			spec:     `{rules: [{when: [{key: "request.headers[x]", values: ["*"]}, {key: destination.port, notValues: ["80"]}]}]}`,
			requests: []*policy.Request{{Method: "GET", HasMethod: true, Path: "/", DestPort: 80, Headers: []policy.Header{{Name: "x"}}}},
			want: []string{"when[0] request.headers[x] matches * 0", "when[1] destination.port excludes 80 1",
				"when[1] destination.port lets_pass 0"}},
		{name: "TCP: what it has no value for is not shown by it",
			spec:     `{action: DENY, rules: [{from: [{source: {notPrincipals: ["*"]}}], to: [{operation: {methods: [GET]}}]}]}`,
			requests: []*policy.Request{{TCP: true}, {TCP: true, Names: []string{"spiffe://a/ns/b/sa/c"}}},
			want: []string{"from[0].source.notPrincipals excludes * 1", "from[0].source.notPrincipals lets_pass 1",
				"to[0].operation.methods matches GET 0"}},
		{name: "TCP: an ALLOW rule with HTTP is lost",
			spec:     `{rules: [{to: [{operation: {methods: [GET]}}]}]}`,
			requests: []*policy.Request{{TCP: true}},
			want:     []string{"to[0].operation.methods matches GET 0"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			got := branchesOf(covered(t, tc.mesh, webPolicy(tc.spec), tc.requests...))
			if !slices.Equal(got, tc.want) {
				t.Errorf("got  %q\nwant %q", got, tc.want)
			}
		})
	}
}

// TestCoverageCounts: a rule, its branches, and being asked for a policy without rules, are points.
func TestCoverageCounts(t *testing.T) {
	t.Parallel()
	text := webPolicy("{}") + strings.ReplaceAll(webPolicy(`{selector: {matchLabels: {app: other}}, rules: [{}]}`), "name: p", "name: q") +
		strings.ReplaceAll(webPolicy(`{rules: [{to: [{operation: {methods: [GET, PUT]}}]}, {}]}`), "name: p", "name: r")
	r := covered(t, policy.Mesh{}, text, get("/"))
	want := policy.CoverageReport{Percent: 100 * 4.0 / 6, Points: policy.Count{Covered: 4, All: 6}, Policies: policy.Count{Covered: 2, All: 3},
		Rules: policy.Count{Covered: 2, All: 3}, Branches: policy.Count{Covered: 1, All: 2}}
	got := *r
	got.Policy = nil
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if line := r.Policy[2].Rules[0].Branches[0].Line; line != 15 || r.Policy[2].Asked != 1 || r.Policy[1].Asked != 0 {
		t.Errorf("branch on line %d, %+v", line, r.Policy)
	}
	if none := policy.NewCoverage().Report(); none.Percent != 100 || none.Policy == nil {
		t.Errorf("without policies: %+v", none)
	}
}

// TestCoverageOfTwoSnapshots: the same documents in two snapshots are one account.
func TestCoverageOfTwoSnapshots(t *testing.T) {
	t.Parallel()
	c := policy.NewCoverage()
	for _, method := range []string{"GET", "PUT"} {
		docs := policy.Decode("p.yaml", []byte(webPolicy(`{rules: [{to: [{operation: {methods: [GET, PUT]}}]}]}`)))
		snap := policy.NewSnapshot(docs, policy.Mesh{})
		c.Add(snap)
		b, err := snap.Resolve(policy.Workload{Namespace: "foo", Labels: map[string]string{}})
		if err != nil {
			t.Fatal(err)
		}
		c.Record(b, &policy.Request{Method: method, HasMethod: true, Path: "/"}, policy.Reached{Policies: true})
	}
	if r := c.Report(); r.Percent != 100 || len(r.Policy) != 1 || r.Policy[0].Rules[0].Matched != 2 {
		t.Errorf("%+v", r)
	}
}

// TestCoverageShadow: what keeps an ALLOW rule from being asked is a DENY rule that matches all that it does, or one that
// denied the requests which were tried.
func TestCoverageShadow(t *testing.T) {
	t.Parallel()
	const always, seen, nothing = "always", "seen", ""
	for _, tc := range []struct{ name, deny, allow, want string }{
		{"the same", `[{to: [{operation: {paths: [/a]}}]}]`, `[{to: [{operation: {paths: [/a]}}]}]`, always},
		{"everything", `[{}]`, `[{to: [{operation: {paths: [/a]}}]}]`, always},
		{"a prefix", `[{to: [{operation: {paths: ["/a*"]}}]}]`, `[{to: [{operation: {paths: [/a, "/ab*", "/a/{*}"], methods: [GET]}}]}]`, always},
		{"all alternatives", `[{to: [{operation: {paths: ["/a*"]}}, {operation: {methods: [GET]}}]}]`,
			`[{to: [{operation: {paths: [/a]}}, {operation: {methods: [GET], paths: [/b]}}]}]`, always},
		{"not all alternatives", `[{to: [{operation: {paths: ["/a*"]}}]}]`, `[{to: [{operation: {paths: [/a]}}, {operation: {paths: [/b]}}]}]`, seen},
		{"by the namespace of a service account", `[{from: [{source: {namespaces: [a]}}]}]`, `[{from: [{source: {serviceAccounts: [a/b]}}]}]`, always},
		{"all but", `[{from: [{source: {notPrincipals: [a/ns/b/sa/c]}}]}]`, `[{from: [{source: {notPrincipals: ["a/*"]}}]}]`, always},
		{"all but one of several names", `[{from: [{source: {notNamespaces: [b]}}]}]`, `[{from: [{source: {namespaces: [a]}}]}]`, seen},
		{"another method", `[{to: [{operation: {notMethods: [PUT]}}]}]`, `[{to: [{operation: {methods: [GET]}}]}]`, always},
		{"networks", `[{from: [{source: {ipBlocks: [10.0.0.0/8]}}]}]`, `[{from: [{source: {ipBlocks: [10.1.0.0/16, 10.2.3.4]}}]}]`, always},
		{"a larger network", `[{from: [{source: {ipBlocks: [10.1.0.0/16]}}]}]`, `[{from: [{source: {ipBlocks: [10.0.0.0/8]}}]}]`, seen},
		{"when by from", `[{when: [{key: source.namespace, values: [a]}]}]`, `[{from: [{source: {namespaces: [a]}}]}]`, always},
		{"from by when", `[{from: [{source: {namespaces: [a]}}]}]`, `[{when: [{key: source.namespace, values: [a]}]}]`, always},
		{"another header", `[{when: [{key: "request.headers[x]", values: ["*"]}]}]`, `[{when: [{key: "request.headers[y]", values: ["*"]}]}]`, seen},
		{"present by value", `[{when: [{key: "request.headers[x]", values: ["*"]}]}]`, `[{when: [{key: "request.headers[x]", values: [a, "b*"]}]}]`, always},
		{"another claim", `[{when: [{key: "request.auth.claims[a]", values: [b]}]}]`, `[{when: [{key: "request.auth.claims[a][c]", values: [b]}]}]`, nothing},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			text := webPolicy("{action: DENY, rules: "+tc.deny+"}") + strings.ReplaceAll(webPolicy("{rules: "+tc.allow+"}"), "name: p", "name: q")
			request := get("/a", "spiffe://cluster.local/ns/a/sa/b")
			request.SourceIP = netip.MustParseAddr("10.1.2.3")
			request.Headers = []policy.Header{{Name: "x", Value: "a"}, {Name: "y"}}
			shadow := covered(t, policy.Mesh{}, text, request).Policy[1].Rules[0].Shadow
			got := nothing
			if shadow != nil {
				got = map[bool]string{true: always, false: seen}[shadow.Always]
				if shadow.Policy != "foo/p" || shadow.Rule != 0 {
					t.Errorf("by %+v", shadow)
				}
			}
			if got != tc.want {
				t.Errorf("shadow %q, want %q", got, tc.want)
			}
		})
	}
}

// TestCoverageEqualsExplain: over generated documents, rules match as often as an explanation says, and a rule that is
// called dead never matches a request that no DENY rule denies.
func TestCoverageEqualsExplain(t *testing.T) {
	t.Parallel()
	dead, rules := 0, 0
	for seed := range uint64(250) {
		d := drawFrom(seed ^ 0xc0)
		mesh, workload := genMesh(d), genWorkload(d)
		snap := policy.NewStore(mesh).Update(decode(t, genPolicies(d, 8)))
		b, err := snap.Resolve(workload)
		if err != nil {
			t.Fatal(err)
		}
		c := policy.NewCoverage()
		c.Add(snap)
		asked, matched := map[string]int{}, map[string]int{}
		for range 12 {
			r := genRequest(d)
			v := b.Rules.Evaluate(r)
			c.Record(b, r, policy.Reached{Custom: true, Policies: true, DeniedBy: v.Deny})
			for _, p := range snap.Explain(workload, r).Policies {
				behind := p.Action == policy.ActionAllow && !p.DryRun && v.Deny != nil
				if !p.Scope.Applies || behind {
					continue
				}
				asked[p.Policy]++
				for _, rule := range p.Rules {
					if rule.Matched {
						matched[fmt.Sprint(p.Policy, rule.Index)]++
					}
				}
			}
		}
		for _, p := range c.Report().Policy {
			if p.Asked != asked[p.Policy] {
				t.Fatalf("seed %d: %s asked %d times, want %d", seed, p.Policy, p.Asked, asked[p.Policy])
			}
			for _, rule := range p.Rules {
				rules++
				if want := matched[fmt.Sprint(p.Policy, rule.Index)]; rule.Matched != want {
					t.Fatalf("seed %d: rule %d of %s matched %d times, want %d", seed, rule.Index, p.Policy, rule.Matched, want)
				}
			}
		}
		dead += deadMatchNothing(t, seed, d, snap, b)
	}
	if dead < 25 || rules < 1000 {
		t.Errorf("only %d dead of %d rules were looked at", dead, rules)
	}
}

// deadMatchNothing asks of many requests whether one comes to a rule that is called dead. It returns how many are.
func deadMatchNothing(t *testing.T, seed uint64, d draw, snap *policy.Snapshot, b *policy.Bound) int {
	t.Helper()
	c := policy.NewCoverage()
	c.Add(snap) // nothing is recorded, so that every rule is looked at
	dead := map[string]policy.Shadow{}
	for _, p := range c.Report().Policy {
		for _, rule := range p.Rules {
			if rule.Shadow != nil && rule.Shadow.Always {
				dead[fmt.Sprint(p.Policy, rule.Index)] = *rule.Shadow
			}
		}
	}
	if len(dead) == 0 {
		return 0
	}
	for range 40 {
		r := genRequest(d)
		denied := b.Rules.Evaluate(r).Deny != nil
		for _, p := range snap.Explain(b.Workload, r).Policies {
			for _, rule := range p.Rules {
				if by, ok := dead[fmt.Sprint(p.Policy, rule.Index)]; ok && rule.Matched && !denied {
					t.Fatalf("seed %d: rule %d of %s is called dead by %+v and matches %s", seed, rule.Index, p.Policy, by, describe(r))
				}
			}
		}
	}
	return len(dead)
}
