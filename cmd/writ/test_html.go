package main

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"

	"github.com/writ-auth/writ/policy"
)

//go:embed test_coverage.html
var coverageHTML string //nolint:gochecknoglobals // embedded files have no other form

// coveragePage is the coverage as the page shows it.
type coveragePage struct {
	*policy.CoverageReport
	Total string
	Rows  []coverageRow

	Authentications []authenticationRow
}

type authenticationRow struct {
	*policy.AuthenticationCoverage
	Width int // of the bar, percent
	Gaps  int
}

type coverageRow struct {
	*policy.PolicyCoverage
	Words  string
	Width  int // of the bar, percent
	Rules  []coverageRule
	Gaps   int
	Simple string // instead of rules, when there are none
}

type coverageRule struct {
	*policy.RuleCoverage
	Note string
}

// writeCoverageHTML writes the coverage as one page that needs nothing from elsewhere.
func writeCoverageHTML(w io.Writer, r *policy.CoverageReport) error {
	page := coveragePage{CoverageReport: r, Total: percent(r.Percent)}
	for i := range r.Policy {
		p := &r.Policy[i]
		row := coverageRow{PolicyCoverage: p, Words: policyWords(p), Width: 100, Gaps: len(gapsOf(p))}
		if p.Points.All > 0 {
			row.Width = 100 * p.Points.Covered / p.Points.All
		}
		if len(p.Rules) == 0 {
			row.Simple = fmt.Sprintf("It has no rules, so it matches nothing. %s asked it.", plural(p.Asked, "test"))
		}
		for j := range p.Rules {
			rule := coverageRule{RuleCoverage: &p.Rules[j]}
			if rule.Matched == 0 {
				rule.Note = "never matched" + shadowWords(rule.Shadow)
			}
			row.Rules = append(row.Rules, rule)
		}
		page.Rows = append(page.Rows, row)
	}
	for i := range r.Authentication {
		a := &r.Authentication[i]
		page.Authentications = append(page.Authentications, authenticationRow{a, 100 * a.Points.Covered / a.Points.All, len(authenticationGaps(a))})
	}
	t, err := template.New("coverage").Parse(coverageHTML)
	if err != nil {
		return err
	}
	return t.Execute(w, &page)
}
