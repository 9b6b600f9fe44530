package policy_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/writ-auth/writ/policy"
)

func explainSnapshot(t *testing.T, text string) *policy.Snapshot {
	t.Helper()
	docs := policy.Decode("explain.yaml", []byte(text))
	for _, d := range docs {
		if d.Broken() {
			t.Fatalf("%v", d.Problems)
		}
	}
	return policy.NewSnapshot(docs, policy.Mesh{})
}

// TestExplainPartly: a condition on what is not known is neither met nor missed, and only as far as it matters is a rule.
func TestExplainPartly(t *testing.T) {
	t.Parallel()
	const team = `when: [{key: "request.headers[x-team]", values: [a]}]`
	const unknownFrom = `from: [{source: {principals: ["*"]}}`
	cases := []struct {
		name, rule                 string
		matched, may               bool
		missing, unknown           int
		policyMatched, policyKnown bool
	}{
		{"a rule that reads nothing of it", `{to: [{operation: {paths: [/a]}}]}`, true, false, 0, 0, true, true},
		{"one that may match", `{to: [{operation: {paths: [/a]}}], ` + team + `}`, false, true, 0, 1, false, false},
		{"one that misses for certain", `{to: [{operation: {paths: [/b]}}], ` + team + `}`, false, false, 1, 1, false, true},
		{"the alternative that is certain counts", `{` + unknownFrom + `, {source: {ipBlocks: [10.0.0.0/8]}}]}`, false, true, 0, 1, false, false},
		{"a not-value is unknown, too", `{from: [{source: {notPrincipals: ["*"]}}]}`, false, true, 0, 1, false, false},
		{"an alternative without it", `{from: [{source: {principals: [x]}}, {source: {notIpBlocks: [10.0.0.0/8]}}]}`, true, false, 0, 0, true, true},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			snap := explainSnapshot(t, webPolicy("{rules: ["+c.rule+"]}"))
			trace := snap.ExplainPartly(policy.Workload{Namespace: "foo", Labels: map[string]string{}}, get("/a"), func(a policy.Attribute) bool {
				return a.Kind == policy.AttributeHeader && a.Name == "x-team" || a.Kind == policy.AttributeNames
			})
			p := trace.Policies[0]
			r := p.Rules[0]
			if r.Matched != c.matched || r.MayMatch() != c.may || r.Missing != c.missing || r.Unknown != c.unknown {
				t.Errorf("%+v", r)
			}
			if p.Matched != c.policyMatched || p.Unknown == c.policyKnown {
				t.Errorf("the policy: matched %v, unknown %v", p.Matched, p.Unknown)
			}
		})
	}
}

// TestExplainPartlyOfPlaintext: whether STRICT refuses depends on the caller and the port.
func TestExplainPartlyOfPlaintext(t *testing.T) {
	t.Parallel()
	snap := explainSnapshot(t, callers)
	w := policy.Workload{Namespace: "foo", Labels: map[string]string{"app": "web"}}
	for _, c := range []struct {
		unknown          policy.AttributeKind
		port             uint16
		refused, unclear bool
	}{
		{policy.AttributeHeader, 80, true, false},
		{policy.AttributeNames, 80, false, true},
		{policy.AttributeDestPort, 0, false, true}, // it may be that of the port that is PERMISSIVE
	} {
		m := snap.ExplainPartly(w, &policy.Request{DestPort: c.port}, func(a policy.Attribute) bool { return a.Kind == c.unknown }).MTLS
		if m == nil || m.Refused != c.refused || m.Unknown != c.unclear {
			t.Errorf("%v unknown: %+v", c.unknown, m)
		}
	}
}

// TestExplainNamesTheNearestValue: of many values the one that a miss came nearest to.
func TestExplainNamesTheNearestValue(t *testing.T) {
	t.Parallel()
	snap := explainSnapshot(t, webPolicy(`{rules: [{to: [{operation: {paths: [/x, /orders, /y]}}]}]}`))
	c := snap.Explain(policy.Workload{Namespace: "foo", Labels: map[string]string{}}, get("/Orders")).Policies[0].Rules[0].To[0].Conditions[0]
	if c.Nearest != "/orders" || c.Matched {
		t.Errorf("%+v", c)
	}
}

// TestExplainDocuments: documents that say who a caller is, and whether and why they do not count.
func TestExplainDocuments(t *testing.T) {
	t.Parallel()
	doc := func(kind, namespace, name, spec string) string {
		return fmt.Sprintf("---\napiVersion: security.istio.io/v1\nkind: %s\nmetadata: {name: %s, namespace: %s}\nspec: %s\n", kind, name, namespace, spec)
	}
	text := doc("RequestAuthentication", "foo", "all", `{}`) + doc("RequestAuthentication", "bar", "far", `{}`) +
		doc("RequestAuthentication", "foo", "cache", `{selector: {matchLabels: {app: cache}}}`) +
		doc("PeerAuthentication", "foo", "first", `{mtls: {mode: STRICT}}`) + doc("PeerAuthentication", "foo", "second", `{mtls: {mode: DISABLE}}`) +
		doc("PeerAuthentication", "istio-system", "selects", `{selector: {matchLabels: {app: web}}, mtls: {mode: STRICT}}`) +
		"---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: routes, namespace: foo}\nspec: {hosts: [a]}\n"
	snap := explainSnapshot(t, text)
	explained := func(labels map[string]string) []string {
		var out []string
		for _, d := range snap.Explain(policy.Workload{Namespace: "foo", Labels: labels}, get("/")).Documents {
			out = append(out, fmt.Sprintf("%s %v: %s", d.Name, d.Scope.Applies, d.Scope.Reason))
		}
		return out
	}
	same(t, explained(map[string]string{"app": "web"}), []string{
		"foo/all true: it applies to every workload in namespace foo",
		"bar/far false: it is in namespace bar, the workload in foo",
		"foo/cache false: its selector wants app=cache, the workload has app=web",
		"foo/first true: it applies to every workload in namespace foo",
		"foo/second false: foo/first is older, and of one level only the oldest counts",
		"istio-system/selects false: in the root namespace one with a selector counts for nothing",
		"foo/routes false: documents of this kind mean nothing to authorization",
	})
	waypoint := explained(map[string]string{"gateway.istio.io/managed": "istio.io-mesh-controller"})
	if !slices.ContainsFunc(waypoint, func(s string) bool {
		return strings.HasPrefix(s, "foo/first false: a waypoint takes mTLS only")
	}) {
		t.Errorf("a waypoint: %q", waypoint)
	}
}
