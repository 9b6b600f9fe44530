package policy

import (
	"slices"

	securityv1beta1 "istio.io/api/security/v1beta1"
)

// Coverage counts what requests exercise of documents. Of AuthorizationPolicies: which rules they match, through which value
// of every list, and what every not… field keeps out and lets pass. It asks the same matchers as [Ruleset.Evaluate], and all
// of them where that stops at the first. Of RequestAuthentications and PeerAuthentications: see [TokenSeen] and [Reached].
// Make one with [NewCoverage]; it is not safe for concurrent use.
type Coverage struct {
	byPlace  map[coveragePlace]*policyCoverage
	byPolicy map[*Policy]*policyCoverage

	byDocument map[coveragePlace]*authenticationCoverage
	byToken    map[*securityv1beta1.JWTRule]*tokenCoverage
	byPeer     map[*peerAuthentication]*authenticationCoverage

	tokensElsewhere bool
}

// TokensElsewhere leaves RequestAuthentications out of the account of snapshots that are added from then on: somebody else
// verifies tokens by them.
func (c *Coverage) TokensElsewhere() { c.tokensElsewhere = true }

// coveragePlace tells documents apart that several snapshots hold.
type coveragePlace struct {
	file, name string
	line       int
}

// NewCoverage makes an empty coverage.
func NewCoverage() *Coverage {
	return &Coverage{
		byPlace: map[coveragePlace]*policyCoverage{}, byPolicy: map[*Policy]*policyCoverage{},
		byDocument: map[coveragePlace]*authenticationCoverage{}, byToken: map[*securityv1beta1.JWTRule]*tokenCoverage{},
		byPeer: map[*peerAuthentication]*authenticationCoverage{},
	}
}

// policyCoverage is what was seen of one document, which may be compiled in several snapshots.
type policyCoverage struct {
	policy *Policy
	within *Snapshot // the first that was added with it
	asked  int       // requests to workloads it applies to, whose decision came to its layer
	rules  []*ruleCoverage
}

// ruleCoverage is what was seen of one rule.
type ruleCoverage struct {
	rule     *Rule
	matched  int // requests it matches, whose decision came to its layer
	shadowed map[*Rule]int
	from, to []clauseCoverage
	when     clauseCoverage
	negative bool // some field has not-values
}

// clauseCoverage is what was seen of the fields of one source or operation, or of the when entries.
type clauseCoverage []conditionCoverage

// conditionCoverage counts, for one field, requests by matcher.
type conditionCoverage struct {
	*condition
	met    []int // the rule matched, and this of the values was met
	kept   []int // all of the clause and the rest of the rule were met, but for this of the not-values
	passed int   // the rule matched, and no not-value was met
}

// Add takes the documents of a snapshot into the account. One that is there already, by file, line and name, stays as it
// is: requests decided by either snapshot count for both.
func (c *Coverage) Add(s *Snapshot) {
	for _, ns := range sortedKeys(s.policies) {
		for _, p := range s.policies[ns] {
			place := coveragePlace{p.doc.File, p.String(), p.doc.Line}
			seen := c.byPlace[place]
			if seen == nil {
				seen = newPolicyCoverage(s, p)
				c.byPlace[place] = seen
			}
			c.byPolicy[p] = seen
		}
	}
	c.addAuthentication(s)
}

func newPolicyCoverage(s *Snapshot, p *Policy) *policyCoverage {
	pc := &policyCoverage{policy: p, within: s}
	for _, rule := range p.rules {
		rc := &ruleCoverage{rule: rule, shadowed: map[*Rule]int{}, when: rule.http.when.uncovered()}
		for _, cl := range rule.http.from {
			rc.from = append(rc.from, cl.uncovered())
		}
		for _, cl := range rule.http.to {
			rc.to = append(rc.to, cl.uncovered())
		}
		for _, cl := range slices.Concat(rc.from, rc.to, []clauseCoverage{rc.when}) {
			rc.negative = rc.negative || slices.ContainsFunc(cl, func(c conditionCoverage) bool { return len(c.notValues) > 0 })
		}
		pc.rules = append(pc.rules, rc)
	}
	return pc
}

func (c clause) uncovered() clauseCoverage {
	out := make(clauseCoverage, len(c))
	for i := range c {
		out[i] = conditionCoverage{condition: &c[i], met: make([]int, len(c[i].values)), kept: make([]int, len(c[i].notValues))}
	}
	return out
}

// Reached says how far the decision on a request went, for [Coverage.Record].
type Reached struct {
	MTLS     bool  // PeerAuthentication was asked
	Custom   bool  // CUSTOM policies were asked
	Policies bool  // AUDIT, DENY and ALLOW policies were asked
	DeniedBy *Rule // the CUSTOM or DENY rule that denied it, nil if none did
	// Tokens is what each token rule for the workload makes of the request, if they were asked.
	Tokens []TokenSeen
}

// Record counts one request that was decided for b, with its verified claims. A rule that matches it counts only if its
// layer was asked: an ALLOW rule does not, where a DENY rule denied the request before it (authorization-policy §4.1).
func (c *Coverage) Record(b *Bound, r *Request, reached Reached) {
	c.recordAuthentication(b, r, &reached)
	for _, p := range b.Rules.policies {
		pc := c.byPolicy[p]
		if pc == nil {
			continue
		}
		asked := reached.asked(p)
		if asked {
			pc.asked++
		}
		if !asked && reached.DeniedBy == nil {
			continue
		}
		for _, rc := range pc.rules {
			rc.record(r, asked, reached.DeniedBy)
		}
	}
}

// asked reports whether the decision came to the layer of p.
func (o *Reached) asked(p *Policy) bool {
	switch {
	case p.Action == ActionCustom:
		return o.Custom
	case p.Action == ActionAllow && !p.DryRun:
		return o.Policies && o.DeniedBy == nil
	}
	return o.Policies
}

// record counts what the request shows of the rule. One that came to its end at another rule shows only that.
func (rc *ruleCoverage) record(r *Request, asked bool, deniedBy *Rule) {
	if r.TCP && rc.rule.tcp == nil {
		return
	}
	from, to, when := anyHolds(rc.from, r), anyHolds(rc.to, r), rc.when.holds(r)
	if from && to && when {
		if !asked {
			rc.shadowed[deniedBy]++
			return
		}
		rc.matched++
		for _, cl := range slices.Concat(rc.from, rc.to, []clauseCoverage{rc.when}) {
			cl.noteMatch(r)
		}
	}
	if !asked || !rc.negative {
		return
	}
	if to && when {
		noteExclusions(rc.from, r)
	}
	if from && when {
		noteExclusions(rc.to, r)
	}
	if from && to {
		noteExclusions([]clauseCoverage{rc.when}, r)
	}
}

// holds is matches, for the traffic of r: TCP has no value for a field of HTTP, which then counts as true (§5).
func (c *conditionCoverage) holds(r *Request) bool { return r.TCP && c.httpOnly || c.matches(r) }

// holds is clause.matches, for the traffic of r.
func (c clauseCoverage) holds(r *Request) bool {
	for i := range c {
		if !c[i].holds(r) {
			return false
		}
	}
	return true
}

func anyHolds(cls []clauseCoverage, r *Request) bool {
	return len(cls) == 0 || slices.ContainsFunc(cls, func(cl clauseCoverage) bool { return cl.holds(r) })
}

// noteMatch counts what the request meets of the clause, if it meets all of it.
func (c clauseCoverage) noteMatch(r *Request) {
	if !c.holds(r) {
		return
	}
	for i := range c {
		if cond := &c[i]; !r.TCP || !cond.httpOnly {
			cond.count(cond.values, cond.met, r)
			cond.passed++
		}
	}
}

// noteExclusions counts the not-values that alone kept a clause from holding.
func noteExclusions(cls []clauseCoverage, r *Request) {
	for _, cl := range cls {
		var missed *conditionCoverage
		misses := 0
		for i := range cl {
			if !cl[i].holds(r) {
				missed = &cl[i]
				misses++
			}
		}
		if misses == 1 && (len(missed.values) == 0 || missed.attr.match(missed.values, r) != nil) {
			missed.count(missed.notValues, missed.kept, r)
		}
	}
}

// count counts each matcher that the request meets.
func (c *condition) count(ms []matcher, hits []int, r *Request) {
	for i := range ms {
		if c.attr.match(ms[i:i+1], r) != nil {
			hits[i]++
		}
	}
}
