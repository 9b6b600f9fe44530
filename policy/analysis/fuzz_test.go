package analysis_test

import (
	"slices"
	"testing"

	"github.com/writ-auth/writ/policy"
	"github.com/writ-auth/writ/policy/analysis"
)

// Whatever the documents, Lint neither panics nor reports an error, a code it does not own, or a place outside the file.
func FuzzLint(f *testing.F) {
	for _, tt := range slices.Concat(hazardCases, tokenCases, mtlsCases) {
		f.Add([]byte(tt.fires), "shop.example")
		f.Add([]byte(tt.quiet), "cluster.local")
	}
	owned := map[string]bool{}
	for _, c := range analysis.Codes() {
		owned[c.Code] = true
	}
	f.Fuzz(func(t *testing.T, data []byte, domain string) {
		docs := policy.Decode("fuzz.yaml", data)
		for _, p := range analysis.Lint(docs, policy.Mesh{TrustDomain: domain, TrustDomainAliases: []string{"old.example"}}) {
			if p.Severity == policy.SeverityError || !owned[p.Code] || p.Message == "" || p.Hint == "" || p.Line < 1 || p.Column < 1 {
				t.Errorf("%+v", p)
			}
		}
	})
}
