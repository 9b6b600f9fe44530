package main

import (
	"fmt"
	"slices"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/policy"
)

// How many near misses there are at most.
const (
	maxNearMisses = 10 // for programs
	maxThenLines  = 2  // for people, after the nearest one
)

// ruleMiss is a rule that did not match, with what kept it from it.
type ruleMiss struct {
	Policy   string          `json:"policy"` // namespace/name
	Rule     int             `json:"rule"`
	Line     int             `json:"line"`
	Matched  bool            `json:"matched"`
	Missing  int             `json:"missing"`           // conditions that would have to change
	Unknown  int             `json:"unknown,omitempty"` // conditions that read what is not known of the request
	Nearness float64         `json:"nearness"`          // from 0 to 1
	Note     string          `json:"note,omitempty"`
	Misses   []conditionMiss `json:"misses,omitempty"`
}

// conditionMiss is a condition that is not met, or of which nobody knows.
type conditionMiss struct {
	Field    string   `json:"field"` // from[0].source.principals, or when[0] and the key
	Got      []string `json:"got"`
	Nearest  string   `json:"nearest,omitempty"` // the value that came nearest
	Unknown  bool     `json:"unknown,omitempty"`
	Why      string   `json:"why"`
	Nearness float64  `json:"nearness"`
}

// ruleMissOf says what of a rule is not met.
func ruleMissOf(p *policy.PolicyTrace, r *policy.RuleTrace) ruleMiss {
	m := ruleMiss{
		Policy: p.Policy, Rule: r.Index, Line: r.Line, Matched: r.Matched, Missing: r.Missing, Unknown: r.Unknown, Nearness: r.Nearness, Note: r.Note,
	}
	if r.Matched {
		return m
	}
	m.alternatives(r.From, "from[%d].source.")
	m.alternatives(r.To, "to[%d].operation.")
	for i := range r.When {
		m.condition(fmt.Sprintf("when[%d] ", i), &r.When[i])
	}
	return m
}

// alternatives adds what the sources or operations miss, of which one would do.
func (m *ruleMiss) alternatives(clauses []policy.ClauseTrace, prefix string) {
	if slices.ContainsFunc(clauses, func(c policy.ClauseTrace) bool { return c.Matched }) {
		return
	}
	for i := range clauses {
		for j := range clauses[i].Conditions {
			m.condition(fmt.Sprintf(prefix, i), &clauses[i].Conditions[j])
		}
	}
}

func (m *ruleMiss) condition(prefix string, c *policy.ConditionTrace) {
	if c.Matched {
		return
	}
	m.Misses = append(m.Misses, conditionMiss{
		Field: prefix + c.Field, Got: c.Got, Nearest: c.Nearest, Unknown: c.Unknown, Why: why(c), Nearness: c.Nearness,
	})
}

// ranked are the rules of a policy that are asked about, those that came nearest to matching first.
func ranked(p *policy.PolicyTrace) []policy.RuleTrace {
	rules := slices.Clone(p.Rules)
	slices.SortStableFunc(rules, func(a, b policy.RuleTrace) int { return a.CompareNearness(&b) })
	return rules
}

// nearMisses are the ALLOW rules that would have let a denied request pass, the one that came nearest first.
func nearMisses(a *answer, t *policy.Trace) []ruleMiss {
	if !wantsAllow(a) {
		return nil
	}
	type candidate struct {
		policy *policy.PolicyTrace
		rule   *policy.RuleTrace
	}
	var all []candidate
	for i := range t.Policies {
		p := &t.Policies[i]
		if !couldAllow(p) {
			continue
		}
		for j := range p.Rules {
			all = append(all, candidate{p, &p.Rules[j]})
		}
	}
	slices.SortStableFunc(all, func(a, b candidate) int { return a.rule.CompareNearness(b.rule) })
	var out []ruleMiss
	for _, c := range all[:min(len(all), maxNearMisses)] {
		out = append(out, ruleMissOf(c.policy, c.rule))
	}
	return out
}

// nearestMiss is the ALLOW rule that would have let a denied request pass, had the least been different.
func nearestMiss(a *answer, t *policy.Trace) (*policy.PolicyTrace, *policy.RuleTrace) {
	if !wantsAllow(a) {
		return nil, nil
	}
	var owner *policy.PolicyTrace
	var best *policy.RuleTrace
	for i := range t.Policies {
		p := &t.Policies[i]
		if !couldAllow(p) {
			continue
		}
		for j := range p.Rules {
			if rule := &p.Rules[j]; best == nil || rule.CompareNearness(best) < 0 {
				owner, best = p, rule
			}
		}
	}
	return owner, best
}

// wantsAllow reports whether a request is denied for want of an ALLOW rule that matches.
func wantsAllow(a *answer) bool { return a.Reason == authz.ReasonNoAllowMatch }

// couldAllow reports whether a rule of the policy would let a request pass that nothing denies.
func couldAllow(p *policy.PolicyTrace) bool {
	return p.Scope.Applies && !p.DryRun && p.Action == policy.ActionAllow
}

// onlyMiss is the condition that alone kept a rule from matching, or nil.
func onlyMiss(r *policy.RuleTrace) *policy.ConditionTrace {
	if r.Missing != 1 || r.Unknown > 0 {
		return nil
	}
	for i := range r.When {
		if !r.When[i].Matched {
			return &r.When[i]
		}
	}
	for _, clauses := range [][]policy.ClauseTrace{r.From, r.To} {
		if slices.ContainsFunc(clauses, func(c policy.ClauseTrace) bool { return c.Matched }) {
			continue
		}
		if c := nearestSingle(clauses); c != nil {
			return c
		}
	}
	return nil
}

// nearestSingle is the nearest of the conditions that alone failed their clause.
func nearestSingle(clauses []policy.ClauseTrace) (best *policy.ConditionTrace) {
	for i := range clauses {
		var missed []*policy.ConditionTrace
		for j := range clauses[i].Conditions {
			if c := &clauses[i].Conditions[j]; !c.Matched {
				missed = append(missed, c)
			}
		}
		if len(missed) == 1 && (best == nil || missed[0].Nearness > best.Nearness) {
			best = missed[0]
		}
	}
	return best
}
