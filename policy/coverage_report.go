package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// CoverageReport is a [Coverage] for people and programs. What is to be covered is counted in points: a rule is one, and
// so are each value of its lists, what each not-value keeps out, and what a field of not-values lets pass; a policy without
// rules, which matches nothing, is one point for being asked. Of a token rule a good token, a refused one, none, and each place
// that it names are points; of a mode of PeerAuthentication a caller with an identity, unless it is DISABLE, and one without.
type CoverageReport struct {
	Percent  float64          `json:"percent"` // of the points, 100 when there are none
	Points   Count            `json:"points"`
	Policies Count            `json:"policies"` // covered: asked, and if it has rules, one matched
	Rules    Count            `json:"rules"`
	Branches Count            `json:"branches"` // values, and not-values both ways, and those of Authentication
	Policy   []PolicyCoverage `json:"policy"`   // in the order of files and lines

	Authentications Count                    `json:"authentications"` // covered: anything of it
	Authentication  []AuthenticationCoverage `json:"authentication"`  // in the same order
}

// Count is how many of all are covered.
type Count struct {
	Covered int `json:"covered"`
	All     int `json:"all"`
}

func (c *Count) add(covered bool) {
	c.All++
	if covered {
		c.Covered++
	}
}

// PolicyCoverage is what is covered of one policy.
type PolicyCoverage struct {
	Policy string         `json:"policy"` // namespace/name
	Action Action         `json:"action"`
	DryRun bool           `json:"dry_run,omitempty"`
	File   string         `json:"file"`
	Line   int            `json:"line"`
	Asked  int            `json:"asked"` // by how many requests
	Points Count          `json:"points"`
	Rules  []RuleCoverage `json:"rules"`
}

// RuleCoverage is what is covered of one rule.
type RuleCoverage struct {
	Index    int              `json:"index"`
	Line     int              `json:"line"`
	Matched  int              `json:"matched"` // requests
	Shadow   *Shadow          `json:"shadow,omitempty"`
	Branches []BranchCoverage `json:"branches"`
}

// Shadow names the rule that keeps another one, which was never matched, from being asked.
type Shadow struct {
	Policy string `json:"policy"`
	Rule   int    `json:"rule"`
	// Always is set when no request whatever gets past the other rule to this one, which is dead. Otherwise it denied
	// Requests of those that were recorded.
	Always   bool `json:"always"`
	Requests int  `json:"requests"`
}

// BranchKind is what a branch counts.
type BranchKind string

// Branch kinds.
const (
	BranchMatches  BranchKind = "matches"   // the rule matched, and this value was met
	BranchExcludes BranchKind = "excludes"  // the rule would have matched, but for this not-value
	BranchLetsPass BranchKind = "lets_pass" // the rule matched, and the not-values let the request pass

	BranchGoodToken    BranchKind = "good_token"    // a token that the token rule takes
	BranchRefusedToken BranchKind = "refused_token" // a token for which it refuses the request
	BranchNoToken      BranchKind = "no_token"      // no token
	BranchTokenPlace   BranchKind = "token_place"   // a token in this place

	BranchPlaintext BranchKind = "plaintext" // a caller without an identity of the mesh
	BranchMTLS      BranchKind = "mtls"      // one with an identity
)

// BranchCoverage is one branch of a field.
type BranchCoverage struct {
	Field string     `json:"field"` // from[0].source.principals, when[0] and the key, jwtRules[0], mtls
	Kind  BranchKind `json:"kind"`
	Value string     `json:"value,omitempty"` // after trust-domain aliases; or the place of a token; empty for others
	Hits  int        `json:"hits"`
	Line  int        `json:"line"`
}

// Report sums up. The lines of rules and fields are found by parsing the documents again.
func (c *Coverage) Report() *CoverageReport {
	all := make([]*policyCoverage, 0, len(c.byPlace))
	for _, pc := range c.byPlace {
		all = append(all, pc)
	}
	slices.SortFunc(all, func(a, b *policyCoverage) int {
		x, y := a.policy.doc, b.policy.doc
		return cmp.Or(cmp.Compare(x.File, y.File), cmp.Compare(x.Line, y.Line), cmp.Compare(a.policy.String(), b.policy.String()))
	})
	report := &CoverageReport{Policy: []PolicyCoverage{}, Authentication: []AuthenticationCoverage{}}
	for _, pc := range all {
		one := pc.report()
		report.add(&one)
		report.Policy = append(report.Policy, one)
	}
	c.reportAuthentication(report)
	report.Percent = 100
	if n := report.Points.All; n > 0 {
		report.Percent = 100 * float64(report.Points.Covered) / float64(n)
	}
	return report
}

func (r *CoverageReport) add(p *PolicyCoverage) {
	matched := len(p.Rules) == 0
	for i := range p.Rules {
		rule := &p.Rules[i]
		matched = matched || rule.Matched > 0
		r.Rules.add(rule.Matched > 0)
		for j := range rule.Branches {
			r.Branches.add(rule.Branches[j].Hits > 0)
		}
	}
	r.Policies.add(matched && p.Asked > 0)
	r.Points.Covered += p.Points.Covered
	r.Points.All += p.Points.All
}

func (pc *policyCoverage) report() PolicyCoverage {
	p := pc.policy
	out := PolicyCoverage{
		Policy: p.String(), Action: p.Action, DryRun: p.DryRun, File: p.doc.File, Line: p.doc.Line, Asked: pc.asked, Rules: []RuleCoverage{},
	}
	if len(pc.rules) == 0 {
		out.Points.add(pc.asked > 0)
		return out
	}
	places, mesh := p.doc.Locator(), &pc.within.mesh
	for _, rc := range pc.rules {
		rule := RuleCoverage{Index: rc.rule.Index, Matched: rc.matched, Branches: []BranchCoverage{}}
		at := fmt.Sprintf("spec.rules[%d]", rule.Index)
		rule.Line, _ = places.Position(at)
		for i, cl := range rc.from {
			rule.add(mesh.branches(cl, fmt.Sprintf("from[%d].source.", i)))
		}
		for i, cl := range rc.to {
			rule.add(mesh.branches(cl, fmt.Sprintf("to[%d].operation.", i)))
		}
		rule.add(mesh.branches(rc.when, ""))
		out.Points.add(rule.Matched > 0)
		for i := range rule.Branches {
			b := &rule.Branches[i]
			b.Line, _ = places.Position(at + "." + strings.SplitN(b.Field, " ", 2)[0])
			out.Points.add(b.Hits > 0)
		}
		if rule.Matched == 0 {
			rule.Shadow = rc.shadow(pc.within)
		}
		out.Rules = append(out.Rules, rule)
	}
	return out
}

func (r *RuleCoverage) add(branches []BranchCoverage) { r.Branches = append(r.Branches, branches...) }

// branches lists the branches of a clause. prefix is the path of its fields; those of when are named by their index, for
// two entries may have the same key.
func (m *Mesh) branches(cl clauseCoverage, prefix string) []BranchCoverage {
	var out []BranchCoverage
	for i := range cl {
		cond := &cl[i]
		name := func(negative bool) string {
			switch {
			case prefix == "":
				return fmt.Sprintf("when[%d] %s", i, cond.field)
			case negative:
				return prefix + notField(cond.field)
			}
			return prefix + cond.field
		}
		out = append(out, m.valueBranches(cond.values, cond.met, name(false), BranchMatches)...)
		out = append(out, m.valueBranches(cond.notValues, cond.kept, name(true), BranchExcludes)...)
		if len(cond.notValues) > 0 {
			out = append(out, BranchCoverage{Field: name(true), Kind: BranchLetsPass, Hits: cond.passed})
		}
	}
	return out
}

// valueBranches lists the values of one list, each once: what trust-domain aliases made of one value counts as one.
func (m *Mesh) valueBranches(ms []matcher, hits []int, field string, kind BranchKind) []BranchCoverage {
	var out []BranchCoverage
	index := map[string]int{}
	for i := range ms {
		key := m.aliasFree(&ms[i])
		at, known := index[key]
		if !known {
			at = len(out)
			index[key] = at
			out = append(out, BranchCoverage{Field: field, Kind: kind, Value: ms[i].text})
		}
		out[at].Hits += hits[i]
	}
	return out
}

// aliasFree is a value with the names of the mesh's own trust domain all the same (§1.6).
func (m *Mesh) aliasFree(value *matcher) string {
	own := append([]string{m.TrustDomain}, m.TrustDomainAliases...)
	switch value.op {
	case opTrustDomain:
		if slices.Contains(own, value.text) {
			return own[0]
		}
	case opExact, opPrefix, opSuffix, opSpiffeSuffix:
		if td, rest, ok := strings.Cut(value.text, "/"); ok && slices.Contains(own, td) && strings.Count(rest, "/") == 3 {
			return own[0] + "/" + rest
		}
	}
	return value.text
}
