package analysis_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/writ-auth/writ/policy"
	"github.com/writ-auth/writ/policy/analysis"
)

// Looking up the rules that may cover another one finds what comparing all pairs finds. Rules are drawn from so few values
// that they meet often, in policies of several namespaces, selectors and actions.
func TestIndexFindsWhatAllPairsFind(t *testing.T) {
	const seed = 7
	g := &generator{rand.New(rand.NewPCG(seed, seed))}
	found := 0
	for n := range 400 {
		mesh := policy.Mesh{}
		if n%3 == 0 {
			mesh = aliases
		}
		var text strings.Builder
		for p := range 2 + g.IntN(6) {
			rules := make([]string, 1+g.IntN(12))
			for i := range rules {
				rules[i] = g.rule()
			}
			selector := g.pick("", "", "selector: {matchLabels: {app: a}}, ", "selector: {matchLabels: {app: a, v: x}}, ", "targetRefs: [{kind: Service, name: x}], ")
			text.WriteString(in(g.pick("shop", "shop", "bakery", "istio-system"), fmt.Sprintf("p%d", p),
				fmt.Sprintf("{action: %s, %srules: [%s]}", g.pick("ALLOW", "ALLOW", "DENY", "AUDIT"), selector, strings.Join(rules, ", "))))
		}
		docs := policy.Decode("test.yaml", []byte(text.String()))
		lookedUp, allPairs, _ := analysis.CoveredBy(docs, mesh)
		if !slices.Equal(lookedUp, allPairs) {
			t.Fatalf("looked up:\n%q\nall pairs:\n%q\nof\n%s", lookedUp, allPairs, text.String())
		}
		for _, by := range allPairs {
			if by != "" {
				found++
			}
		}
	}
	if found < 1000 {
		t.Errorf("only %d rules without effect came up: the values no longer meet", found)
	}
}

// shapes are sets of n rules that differ from each other, each in another way.
var shapes = []struct {
	name string
	rule func(i int) string
}{
	{"a path each", func(i int) string {
		return fmt.Sprintf("{from: [{source: {principals: [cluster.local/ns/n%d/sa/a%d]}}], to: [{operation: {methods: [GET], paths: [/api/v%d/thing%d]}}]}", i%97, i%1009, i%7, i)
	}},
	{"callers times paths", func(i int) string {
		return fmt.Sprintf("{from: [{source: {principals: [cluster.local/ns/shop/sa/a%d]}}], to: [{operation: {methods: [GET], paths: [/api/thing%d]}}]}", i%331, i/331)
	}},
	{"lists of both", func(i int) string {
		return fmt.Sprintf("{from: [{source: {principals: [a/ns/shop/sa/a%d, a/ns/shop/sa/b%d]}}], to: [{operation: {methods: [GET, POST], paths: [/a/%d*, /b/%d]}}]}", i%331, i%331, i/331, i/331)
	}},
	{"prefixes within prefixes", func(i int) string {
		return fmt.Sprintf("{from: [{source: {namespaces: [n%d]}}], to: [{operation: {paths: [%q, /only%d]}}]}", i, "/"+strings.Repeat("a", i%50)+"*", i)
	}},
	{"all but a path", func(i int) string { return fmt.Sprintf("{to: [{operation: {methods: [GET], notPaths: [/x%d]}}]}", i) }},
	{"entries of several kinds", func(i int) string {
		return fmt.Sprintf("{from: [{source: {namespaces: [shop]}}, {source: {ipBlocks: [10.%d.%d.0/24]}}], to: [{operation: {methods: [GET]}}, {operation: {paths: [/x%d]}}]}", i/256%256, i%256, i)
	}},
	{"a header each", func(i int) string {
		return fmt.Sprintf("{to: [{operation: {methods: [GET]}}], when: [{key: \"request.headers[x-%d]\", values: [a]}]}", i)
	}},
}

func shaped(n int, rule func(i int) string) []*policy.Document {
	var docs []*policy.Document
	for p := 0; p*500 < n; p++ {
		rules := make([]string, 0, 500)
		for i := p * 500; i < min(n, (p+1)*500); i++ {
			rules = append(rules, "- "+rule(i))
		}
		text := in("shop", fmt.Sprintf("p%d", p), "selector: {matchLabels: {app: till}}\nrules:\n"+strings.Join(rules, "\n"))
		docs = append(docs, policy.Decode("test.yaml", []byte(text))...)
	}
	return docs
}

// However rules are alike, four times as many take some four times as many comparisons, not sixteen.
func TestIndexIsNearLinear(t *testing.T) {
	for _, shape := range shapes {
		t.Run(shape.name, func(t *testing.T) {
			few, many := compared(t, 250, shape.rule), compared(t, 1000, shape.rule)
			if many > 8*few+20_000 {
				t.Errorf("250 rules take %d comparisons, 1000 take %d", few, many)
			}
		})
	}
}

func compared(t *testing.T, n int, rule func(i int) string) int {
	t.Helper()
	docs := shaped(n, rule)
	for _, d := range docs {
		if d.Broken() {
			t.Fatal(d.Problems)
		}
	}
	lookedUp, allPairs, compared := analysis.CoveredBy(docs, policy.Mesh{})
	if !slices.Equal(lookedUp, allPairs) {
		t.Errorf("looking up finds something else than comparing all pairs")
	}
	return compared
}

// What is not searched is said.
func TestSearchThatIsNotFinished(t *testing.T) {
	rules := make([]string, 40)
	for i := range rules {
		rules[i] = `{to: [{operation: {methods: [GET]}}]}`
	}
	docs := policy.Decode("test.yaml", []byte(authz("a", "{rules: ["+strings.Join(rules, ", ")+"]}")))
	var said []string
	for _, f := range analysis.InspectWithin(docs, policy.Mesh{}, 10) {
		if f.Code == "WRIT327" {
			said = append(said, f.Field+": "+f.Message)
		}
	}
	want := []string{"spec.rules[1]: from this rule on, 39 rules were not searched for ones without effect: there are too many that are nearly the same"}
	if !slices.Equal(said, want) {
		t.Errorf("got %q, want %q", said, want)
	}
}

// BenchmarkLintRules is many rules of one workload that cover nothing.
func BenchmarkLintRules(b *testing.B) {
	for _, shape := range shapes {
		for _, n := range []int{10_000, 100_000} {
			b.Run(fmt.Sprintf("%s/%d", strings.ReplaceAll(shape.name, " ", "_"), n), func(b *testing.B) {
				docs := shaped(n, shape.rule)
				for b.Loop() {
					if got := analysis.Lint(docs, policy.Mesh{}); len(got) > n {
						b.Fatalf("got %v", got[0])
					}
				}
			})
		}
	}
}
