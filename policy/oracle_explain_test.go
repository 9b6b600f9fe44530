package policy_test

import (
	"slices"
	"testing"

	"github.com/writ-auth/writ/policy"
)

// TestExplainEqualsOracle: a verdict names one rule a layer, an explanation tells of every policy and every rule, so here
// nothing hides behind a rule with a smaller ID.
func TestExplainEqualsOracle(t *testing.T) {
	t.Parallel()
	rules := 0
	for seed := range uint64(600) {
		d := drawFrom(seed ^ 0xe4)
		s := scenario{mesh: genMesh(d), policies: genPolicies(d, 6), workload: genWorkload(d)}
		docs := decode(t, s.policies)
		snap := policy.NewStore(s.mesh).Update(docs)
		o := oracle{docs: docs, mesh: s.mesh, workload: s.workload}
		byName := map[string]*policy.Document{}
		for _, doc := range docs {
			byName[doc.Namespace+"/"+doc.Name] = doc
		}
		for range 4 {
			r := genRequest(d)
			trace := snap.Explain(s.workload, r)
			if trace.Error != "" {
				t.Fatalf("seed %d: %s", seed, trace.Error)
			}
			seen := map[string]bool{}
			for i := range trace.Policies {
				p := &trace.Policies[i]
				doc := byName[p.Policy]
				if doc == nil || seen[p.Policy] {
					t.Fatalf("seed %d: policy %q is made up or told twice", seed, p.Policy)
				}
				seen[p.Policy] = true
				if want := o.applies(doc); p.Scope.Applies != want {
					t.Fatalf("seed %d: %s applies %v (%s), want %v", seed, p.Policy, p.Scope.Applies, p.Scope.Reason, want)
				}
				if !p.Scope.Applies {
					continue
				}
				if got, want := len(p.Rules), len(specOf(doc).GetRules()); got != want {
					t.Fatalf("seed %d: %s has %d rules, told of %d", seed, p.Policy, want, got)
				}
				matched := false
				for j := range p.Rules {
					want := o.ruleMatches(doc, specOf(doc).GetRules()[j], r)
					matched = matched || want
					rules++
					if p.Rules[j].Matched != want {
						t.Fatalf("seed %d: rule %d matched %v, want %v, of\n%s\nrequest %s", seed, j, p.Rules[j].Matched, want,
							s.policies[slices.Index(docs, doc)].yaml(t), describe(r))
					}
				}
				if p.Matched != matched {
					t.Fatalf("seed %d: %s matched %v, want %v", seed, p.Policy, p.Matched, matched)
				}
			}
			for name, doc := range byName {
				if o.applies(doc) && !seen[name] {
					t.Fatalf("seed %d: %s applies and is not told of", seed, name)
				}
			}
		}
	}
	if rules < 5000 {
		t.Errorf("only %d rules explained", rules)
	}
}
