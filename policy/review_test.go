package policy_test

import (
	"strings"
	"testing"

	"github.com/writ-auth/writ/policy"
)

// A document that was good and is now broken keeps its last good version, whatever of its head can no longer be read.
func TestReviewLastGoodHead(t *testing.T) {
	t.Parallel()
	good := "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: p\n  namespace: foo\nspec:\n  action: DENY\n  rules: [{to: [{operation: {paths: [/x]}}]}]\n"
	for _, tc := range []struct{ name, before, after string }{
		{"kind with a typing error", good, strings.Replace(good, "kind: Auth", "kind: Autth", 1)},
		{"kind in another case", good, strings.Replace(good, "kind: AuthorizationPolicy", "kind: authorizationpolicy", 1)},
		{"kind with a typing error, and a syntax error", good, strings.Replace(good, "kind: Auth", "kind: Autth", 1) + "  }\n"},
		{"no kind", good, strings.Replace(good, "kind: AuthorizationPolicy\n", "", 1)},
		{"namespace that is none", good, strings.Replace(good, "namespace: foo", "namespace: Foo_", 1)},
		{"namespace left out, syntax", strings.Replace(good, "  namespace: foo\n", "", 1), strings.Replace(good, "  namespace: foo\n", "", 1) + "  }\n"},
		{"name that is none", good, strings.Replace(good, "name: p", "name: {}", 1)},
		{"API group with a typing error", good, strings.Replace(good, "security.istio.io", "securty.istio.io", 1)},
		{"core API group, which has no such kind", good, strings.Replace(good, "security.istio.io/v1", "v1", 1)},
		{"API version", good, strings.Replace(good, "istio.io/v1", "istio.io/v7", 1)},
		{"no kind, and a namespace that is none", good, strings.Replace(strings.Replace(good, "kind: AuthorizationPolicy\n", "", 1), "namespace: foo", "namespace: Foo_", 1)},
		{"kind with a typing error, no apiVersion", good, strings.Replace(strings.Replace(good, "kind: Auth", "kind: Autth", 1), "apiVersion: security.istio.io/v1\n", "", 1)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			store := policy.NewStore(policy.Mesh{})
			namespace := "foo"
			if !strings.Contains(tc.before, "namespace: foo") {
				namespace = "default"
			}
			first := store.Update(policy.Decode("a.yaml", []byte(tc.before)))
			if answered(t, first, namespace, "a", "/x") || !answered(t, first, namespace, "a", "/y") {
				t.Fatal("the good version is not in force")
			}
			snap := store.Update(policy.Decode("a.yaml", []byte(tc.after)))
			t.Logf("%v %+v", states(snap), snap.Documents()[0].Object)
			if answered(t, snap, namespace, "a", "/x") {
				t.Error("FAILS OPEN: what was forbidden is allowed")
			}
			if !answered(t, snap, namespace, "a", "/y") || !answered(t, snap, "bar", "a", "/x") {
				t.Error("outage: more is denied than was")
			}
			fresh := policy.NewSnapshot(policy.Decode("a.yaml", []byte(tc.after)), policy.Mesh{})
			if answered(t, fresh, namespace, "a", "/x") {
				t.Error("FAILS OPEN when never good")
			}
		})
	}
}

// A directory that can no longer be read keeps what was in it.
func TestReviewUnreadableDirectory(t *testing.T) {
	t.Parallel()
	store := policy.NewStore(policy.Mesh{})
	store.Update(policy.Decode("/d/sub/a.yaml", []byte(document(denyX))))
	snap := store.Update([]*policy.Document{{File: "/d/sub", Problems: []policy.Problem{{Code: "WRIT100", Severity: policy.SeverityError, Message: "x"}}}})
	if answered(t, snap, "foo", "a", "/x") || !answered(t, snap, "foo", "a", "/y") {
		t.Errorf("states %v: the last good version is not in force", states(snap))
	}
}

const entryOf = "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {namespace: foo, name: %NAME}\nspec: {address: 1.2.3.4, serviceAccount: sa, labels: {app: %APP}%MORE}\n"

func entry(name, app, more string) string {
	return strings.NewReplacer("%NAME", name, "%APP", app, "%MORE", more).Replace(entryOf)
}

// A registered workload whose document is broken still exists: the labels of its sibling are not its own.
func TestReviewBrokenRegistry(t *testing.T) {
	t.Parallel()
	selective := document(`{action: DENY, selector: {matchLabels: {app: secret}}, rules: [{}]}`)
	resolve := func(docs ...string) error {
		snap := policy.NewSnapshot(policy.Decode("f.yaml", []byte(strings.Join(docs, "---\n"))), policy.Mesh{})
		_, err := snap.Resolve(policy.Workload{Namespace: "foo", ServiceAccount: "sa"})
		return err
	}
	if resolve(selective, entry("a", "open", ""), entry("b", "secret", "")) == nil {
		t.Fatal("two entries: want ambiguous")
	}
	if resolve(selective, entry("a", "open", ""), entry("b", "secret", ", nonsense: 1")) == nil {
		t.Error("FAILS OPEN: b is broken, and its requests are answered as a's")
	}
	if resolve(selective, entry("a", "open", ""), entry("b", "secret", ""), entry("b", "secret", "")) == nil {
		t.Error("FAILS OPEN: b is given twice, and its requests are answered as a's")
	}
}
