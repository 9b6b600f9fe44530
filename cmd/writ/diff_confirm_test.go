package main

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/authz/extauthz"
	"github.com/writ-auth/writ/policy"
	"github.com/writ-auth/writ/policy/analysis"
)

// pathsOnly is a set of one policy, which allows some paths and denies others.
func pathsOnly(t *testing.T, allow, deny []string) []*policy.Document {
	t.Helper()
	text := ""
	for action, paths := range map[string][]string{"ALLOW": allow, "DENY": deny} {
		text += fmt.Sprintf("---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: %s, namespace: shop}\nspec: {action: %s, rules: [{to: [{operation: {paths: [%s]}}]}]}\n",
			strings.ToLower(action), action, "'"+strings.Join(paths, "', '")+"'")
	}
	docs := policy.Decode("paths.yaml", []byte(text))
	for _, d := range docs {
		for _, p := range d.Problems {
			if p.Severity == policy.SeverityError {
				t.Fatalf("%v\n%s", p, text)
			}
		}
	}
	return docs
}

// TestDiffOfPathsThatNoProxySends: no difference rests on a path that the server refuses whatever the documents say, and
// none is missed that rests on one it takes.
func TestDiffOfPathsThatNoProxySends(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(8, 6)) //nolint:gosec // G404: the same every time
	fragments := []string{"/a", "/.", "/..", "/./", ".", "..", "%2e", "%2F", "%41", "%00", "%4", "%", `\`, "x", "/", "/..x", "b"}
	path := func() string {
		s := "/"
		for range rng.IntN(4) {
			s += fragments[rng.IntN(len(fragments))]
		}
		return s
	}
	pattern := func() string {
		switch p := path(); rng.IntN(3) {
		case 0:
			return p + "*"
		case 1:
			return "*" + p[1:] + "x"
		default:
			return p
		}
	}
	patterns := func() []string { return []string{pattern(), pattern(), pattern()} }
	differing := 0
	for round := range 60 {
		docs := [2][]*policy.Document{pathsOnly(t, patterns(), patterns()), pathsOnly(t, patterns(), patterns())}
		found, err := analysis.Diff(docs[0], docs[1], policy.Mesh{}, analysis.DiffOptions{Traffic: []string{"http"}})
		if err != nil {
			t.Fatal(err)
		}
		settings := &authzConfig{}
		settings.defaults()
		server, err := newDiffServer(docs, policy.Mesh{}, settings)
		if err != nil {
			t.Fatal(err)
		}
		if tests, err := server.confirm(t.Context(), found); err != nil || len(found.Unknown) > 0 || len(tests) != len(found.Differences) {
			t.Fatalf("round %d: %v, %d tests of %d differences, %+v", round, err, len(tests), len(found.Differences), found.Unknown)
		}
		known := map[string]bool{}
		for _, d := range found.Differences {
			known[fmt.Sprint(d.Old.Decision, d.New.Decision)] = true
		}
		servers := [2]*extauthz.Server{serverOf(t, docs[0]), serverOf(t, docs[1])}
		for range 300 {
			if moved := decidedByBoth(t, servers, path()); moved[0] != moved[1] {
				differing++
				if !known[moved[0]+moved[1]] {
					t.Fatalf("round %d: %v is in no class of %+v", round, moved, found.Differences)
				}
			}
		}
	}
	if differing < 1000 {
		t.Errorf("only %d requests differ: the test shows nothing", differing)
	}
}

// serverOf is a server with the defaults.
func serverOf(t *testing.T, docs []*policy.Document) *extauthz.Server {
	t.Helper()
	snap := policy.NewSnapshot(docs, policy.Mesh{})
	s, err := extauthz.New(extauthz.Config{Snapshot: func() *policy.Snapshot { return snap }, Engine: &authz.Engine{}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// decidedByBoth are the decisions of both servers on one path.
func decidedByBoth(t *testing.T, servers [2]*extauthz.Server, path string) (out [2]string) {
	t.Helper()
	line := fmt.Sprintf(`{"attributes":{"request":{"http":{"method":"GET","path":%q,"host":"a"}}}}`, path)
	raw, err := extauthz.ParseJSON([]byte(line))
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range servers {
		d := s.Decide(t.Context(), raw, &policy.Workload{Namespace: "shop", Labels: map[string]string{}})
		if out[i] = "DENY"; d.Allow {
			out[i] = "ALLOW"
		}
	}
	return out
}
