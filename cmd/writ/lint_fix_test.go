package main

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/writ-auth/writ/policy"
	"github.com/writ-auth/writ/policy/analysis"
)

// fixed is what --fix makes of a text.
func fixed(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	files, err := mend(policy.Decode(path, []byte(text)), lintFacts{}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		return text
	}
	return string(files[0].new)
}

const fixHead = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a, namespace: shop}\nspec:\n"

// A fix changes what it is about and no other byte; what cannot be changed for certain stays.
func TestFixText(t *testing.T) {
	tests := []struct {
		name, before, after string // spec; "" after is what was before
	}{
		{"first of a list", `  rules: [{to: [{operation: {paths: [/a/b, "/a/*"]}}]}]`, `  rules: [{to: [{operation: {paths: ["/a/*"]}}]}]`},
		{"last of a list", `  rules: [{to: [{operation: {methods: [GET,  'GET' ]}}]}]`, `  rules: [{to: [{operation: {methods: [GET ]}}]}]`},
		{"several of a list", `  rules: [{to: [{operation: {ports: ["80", "080", '80', "0080", "81"]}}]}]`, `  rules: [{to: [{operation: {ports: ["80", "81"]}}]}]`},
		{"all but one", `  rules: [{to: [{operation: {hosts: [a.example, "*", A.example, "b*"]}}]}]`, `  rules: [{to: [{operation: {hosts: ["*"]}}]}]`},
		{"a list with dashes", "  rules:\n  - to:\n    - operation:\n        methods: # which\n        - GET\n        - \"GET\"\n\n        # and this one\n        - POST", "  rules:\n  - to:\n    - operation:\n        methods: # which\n        - GET\n\n        # and this one\n        - POST"},
		{"brackets over several lines", "  rules:\n  - to: [{operation: {methods: [\n      GET,\n      GET,\n      POST ]}}]", "  rules:\n  - to: [{operation: {methods: [\n      GET,\n      POST ]}}]"},
		{"a comment about the value", "  rules:\n  - to:\n    - operation:\n        methods:\n        - GET\n        - GET # again", ""},
		{"a comment above the value", "  rules:\n  - to:\n    - operation:\n        methods:\n        - GET\n        # again\n        - GET", ""},
		{"a comment in brackets", "  rules:\n  - to: [{operation: {methods: [GET, # once\n      GET]}}]", ""},
		{"an alias", "  rules:\n  - to: [{operation: {methods: &m [GET, GET]}}, {operation: {methods: *m, ports: ['80']}}]", ""},
		{"a quote inside", `  rules: [{when: [{key: "request.headers[x]", values: ['it''s', "it's", "a\u0062"]}]}]`, `  rules: [{when: [{key: "request.headers[x]", values: ['it''s', "a\u0062"]}]}]`},
		{"characters of several bytes", `  rules: [{to: [{operation: {hosts: ["ä*", "äb", "c"]}}]}] # ö`, `  rules: [{to: [{operation: {hosts: ["ä*", "c"]}}]}] # ö`},
		{"host bits", `  rules: [{from: [{source: {ipBlocks: [10.1.2.3/8, "2001:db8::1/32"]}}]}]`, `  rules: [{from: [{source: {ipBlocks: [10.0.0.0/8, "2001:db8::/32"]}}]}]`},
		{"host bits, and nothing is left", "  rules:\n  - from:\n    - source:\n        ipBlocks:\n        - 1::5/0", "  rules:\n  - from:\n    - source:\n        ipBlocks:\n        - \"::/0\""},
		{"a rule in brackets", `  rules: [{to: [{operation: {methods: [GET]}}]}, {to: [{operation: {methods: ["GET"], ports: ['8,0']}}]}]`, ""},
		{"a rule", `  rules: [{to: [{operation: {methods: [GET]}}]}, {to: [{operation: {methods: ["GET"], paths: ['/a,]']}}]}]`, `  rules: [{to: [{operation: {methods: [GET]}}]}]`},
		{"a rule with dashes", "  rules:\n  - to:\n    - operation: {methods: [GET]}\n  - to:\n    - operation:\n        methods:\n        - GET\n\n  - to: # that\n    - operation: {methods: [PUT]}", "  rules:\n  - to:\n    - operation: {methods: [GET]}\n  - to: # that\n    - operation: {methods: [PUT]}"},
		{"a rule with a comment", "  rules:\n  - to:\n    - operation: {methods: [GET]}\n  - to: # that\n    - operation: {methods: [GET]}", ""},
		{"a rule with a comment further out", "  rules:\n  - to:\n    - operation: {methods: [GET]}\n  - from:\n    - source: {namespaces: [a]}\n# odd\n    to:\n    - operation: {methods: [GET]}", ""},
		{"the only rule of its policy stays", "  rules: [{to: [{operation: {methods: [GET], ports: [\"80\"]}}]}]\n---\n" + strings.Replace(fixHead, "name: a", "name: b", 1) + "  rules: [{to: [{operation: {methods: [GET]}}]}]", ""},
		{"selector", "  selector: {}\n  rules: [{}]", "  rules: [{}]"},
		{"selector at the end", "  rules:\n  - {}\n  selector: {}", "  rules:\n  - {}"},
		{"selector alone", "  selector: {}", ""},
		{"selector in braces", "  {selector: {}, rules: [{}]}", ""},
		{"Windows", "  selector: {}\r\n  rules:\r\n  - to:\r\n    - operation:\r\n        methods:\r\n        - GET\r\n        - GET\r\n", "  rules:\r\n  - to:\r\n    - operation:\r\n        methods:\r\n        - GET\r\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			want := tt.after
			if want == "" {
				want = tt.before
			}
			if got := fixed(t, filepath.Join(t.TempDir(), "a.yaml"), fixHead+tt.before+"\n"); got != fixHead+want+"\n" {
				t.Errorf("got\n%s\nwant\n%s", got, fixHead+want)
			}
		})
	}
}

func TestFixAnnotation(t *testing.T) {
	const before = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: a\n  annotations:\n    team: till\n    istio.io/dry-run: \"false\"\n  namespace: shop\nspec: {rules: [{}]}\n"
	if got, want := fixed(t, filepath.Join(t.TempDir(), "a.yaml"), before), strings.Replace(before, "    istio.io/dry-run: \"false\"\n", "", 1); got != want {
		t.Errorf("got\n%s", got)
	}
	alone := strings.Replace(before, "    team: till\n", "", 1)
	if got := fixed(t, filepath.Join(t.TempDir(), "a.yaml"), alone); got != alone {
		t.Errorf("got\n%s", got)
	}
}

// A file is replaced whole, where a link leads to it, keeps its mode, and is left alone if somebody else changed it.
func TestFixWrites(t *testing.T) {
	dir := t.TempDir()
	file, link := filepath.Join(dir, "real.yaml"), filepath.Join(dir, "link.yaml")
	text := []byte(fixHead + "  selector: {}\n  rules: [{}]\n")
	for _, err := range []error{os.WriteFile(file, text, 0o640), os.Chmod(file, 0o640), os.Symlink("real.yaml", link)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	files, err := mend(policy.Decode(link, text), lintFacts{}, time.Now())
	if err != nil || len(files) != 1 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	if err := files[0].write(); err != nil {
		t.Fatal(err)
	}
	info, err := os.Lstat(file)
	if err != nil || info.Mode() != 0o640 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if got, err := os.ReadFile(link); err != nil || string(got) != fixHead+"  rules: [{}]\n" {
		t.Errorf("got %q, %v", got, err)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link is gone: %v", err)
	}
	if err := files[0].write(); err == nil || !strings.Contains(err.Error(), "has changed meanwhile") {
		t.Errorf("a file that changed is written: %v", err)
	}
}

// No fix changes an answer: random policies in random styles are decided as before, by the evaluator and by analysis.
func TestFixesChangeNoDecision(t *testing.T) {
	const seed = 3
	g := &styler{rand.New(rand.NewPCG(seed, seed))}
	path := filepath.Join(t.TempDir(), "a.yaml")
	changed := 0
	for range 400 {
		text := g.policy("a") + "---\n" + g.policy("b")
		after := fixed(t, path, text)
		if after == text {
			continue
		}
		changed++
		old, mended := policy.Decode(path, []byte(text)), policy.Decode(path, []byte(after))
		sameDecisions(t, g, old, mended, text, after)
		if changed%10 != 0 { // the proof takes longer than the requests
			continue
		}
		report, err := analysis.Diff(old, mended, policy.Mesh{}, analysis.DiffOptions{})
		if err != nil || len(report.Differences) > 0 {
			t.Fatalf("%v: %+v\n%s\nbecame\n%s", err, report, text, after)
		}
	}
	if changed < 200 {
		t.Errorf("only %d of 400 were changed", changed)
	}
}

func sameDecisions(t *testing.T, g *styler, old, mended []*policy.Document, text, after string) {
	t.Helper()
	rules := func(docs []*policy.Document) *policy.Ruleset {
		bound, err := policy.NewSnapshot(docs, policy.Mesh{}).Resolve(policy.Workload{Namespace: "shop", Labels: map[string]string{}})
		if err != nil {
			t.Fatal(err)
		}
		return bound.Rules
	}
	before, now := rules(old), rules(mended)
	for range 50 {
		r := g.request()
		a, b := before.Evaluate(r), now.Evaluate(r)
		if (a.Allow == nil) != (b.Allow == nil) || (a.Deny == nil) != (b.Deny == nil) {
			t.Fatalf("%+v is answered otherwise:\n%s\nbecame\n%s", r, text, after)
		}
	}
}

// styler draws policies from few values, written in all the ways that YAML has.
type styler struct{ *rand.Rand }

func (g *styler) pick(values ...string) string { return values[g.IntN(len(values))] }

func (g *styler) policy(name string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: %s\n  namespace: shop\n", name)
	b.WriteString(g.pick("", "  annotations:\n    istio.io/dry-run: \"false\"\n    team: till\n"))
	b.WriteString("spec:\n" + g.pick("", "  selector: {}\n") + "  action: " + g.pick("ALLOW", "DENY") + "\n  rules:\n")
	for range 1 + g.IntN(4) {
		b.WriteString(g.pick("", "", "\n", "  # a rule\n"))
		b.WriteString("  - from:\n    - source:\n" + g.list("ipBlocks", "10.0.0.0/8", "10.1.2.3/16", `"10.1.0.1"`, "'::/0'", "10.1.0.0/16"))
		b.WriteString(g.pick("", g.list("notNamespaces", "shop", `"sh*"`, "'*'", "till")))
		b.WriteString(g.pick("", "    to:\n    - operation:\n"+g.list("methods", "GET", `"GET"`, "'POST'", "P*")+g.list("paths", "/a", `"/a*"`, "'/a/{*}'", "/b", "'*/b'")))
	}
	return b.String()
}

// list is a field of a source or an operation.
func (g *styler) list(field string, values ...string) string {
	n := 1 + g.IntN(4)
	items := make([]string, n)
	for i := range items {
		items[i] = g.pick(values...)
	}
	switch g.IntN(3) {
	case 0:
		return "        " + field + ": [" + strings.Join(items, g.pick(", ", ",  ", ",\n          ")) + "]" + g.pick("", " # all") + "\n"
	case 1:
		return "        " + field + ": # these\n        - " + strings.Join(items, g.pick("\n        - ", " # x\n        - ", "\n        # x\n        - ")) + "\n"
	}
	return "        " + field + ":\n          - " + strings.Join(items, "\n          - ") + "\n" + g.pick("", "\n")
}

func (g *styler) request() *policy.Request {
	r := &policy.Request{
		SourceIP: netip.MustParseAddr(g.pick("10.1.0.1", "10.1.9.9", "10.2.0.1", "192.0.2.1", "2001:db8::1")),
		DestPort: 80,
		Names:    []string{"spiffe://cluster.local/ns/" + g.pick("shop", "ship", "till", "x") + "/sa/a"},
	}
	if r.TCP = g.IntN(5) == 0; r.TCP {
		return r
	}
	r.Path, r.Method, r.HasMethod = g.pick("/a", "/ab", "/a/b", "/a/c", "/b", "/c"), g.pick("GET", "POST", "PUT", "HEAD"), true
	r.RawPath = r.Path
	return r
}

// TestFixStopsHalfway: what was written before a file that cannot be is said.
func TestFixStopsHalfway(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first, second := filepath.Join(dir, "1.yaml"), filepath.Join(dir, "2.yaml")
	for _, file := range []string{first, second} {
		if err := os.WriteFile(file, []byte("old"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := &cli{err: t.Output()}
	_, err := c.writeFixes([]fixedFile{
		{name: first, old: []byte("old"), new: []byte("new"), fixes: 2}, {name: second, old: []byte("other"), new: []byte("new"), fixes: 1},
	}, nil)
	if want := second + " has changed meanwhile and is left alone (2 fixes in 1 file before it)"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if got, err := os.ReadFile(first); err != nil || string(got) != "new" {
		t.Errorf("%s: %q, %v", first, got, err)
	}
	if got, err := os.ReadFile(second); err != nil || string(got) != "old" {
		t.Errorf("%s: %q, %v", second, got, err)
	}
}
