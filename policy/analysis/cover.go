package analysis

import (
	"fmt"
)

// This file finds rules without effect: all they match is matched by another rule of the same action. The test is field
// by field and errs on the side of silence; it is a proof, not a search for every redundancy.

// maxComparisons bounds the search for rules without effect, in comparisons of two values. Real sets stay far below it: a
// hundred thousand rules that differ in a path need a million. It is a second or two of work.
const maxComparisons = 200_000_000

// clause is a condition with its values ready to be compared.
type clause struct {
	attr        string
	values, not []operand
}

// clauses are those of one source, one operation or all of when: all of them must hold.
type clauses []clause

// matcher is a rule ready to be compared with others. order is its place among all rules.
type matcher struct {
	*rule
	order    int
	http     bool
	from, to []clauses
	when     clauses
}

func (l *linter) matcherOf(r *rule, order int) *matcher {
	m := &matcher{rule: r, order: order, http: r.http(), when: l.clausesOf(r, r.when)}
	for _, cs := range r.from {
		m.from = append(m.from, l.clausesOf(r, cs))
	}
	for _, cs := range r.to {
		m.to = append(m.to, l.clausesOf(r, cs))
	}
	return m
}

func (l *linter) clausesOf(r *rule, cs conditions) clauses {
	out := make(clauses, len(cs))
	for i := range cs {
		c := &cs[i]
		out[i] = clause{attr: c.attr, values: make([]operand, len(c.values)), not: make([]operand, len(c.notValues))}
		for j, v := range c.values {
			out[i].values[j] = l.operandOf(r, c, v)
		}
		for j, v := range c.notValues {
			out[i].not[j] = l.operandOf(r, c, v)
		}
	}
	return out
}

// coverer compares rules. comparisons counts down; at zero it has stopped, and answers no.
type coverer struct {
	all         []*matcher
	comparisons int
}

// checkCovered reports the rules that another rule makes pointless.
func checkCovered(l *linter) {
	c := newCoverer(l)
	ix := newCoverIndex(c.all)
	for _, m := range c.all {
		if c.comparisons <= 0 {
			l.report(m.policy.doc, codeUnfinished, m.field,
				fmt.Sprintf("from this rule on, %d rules were not searched for ones without effect: there are too many that are nearly the same", len(c.all)-m.order),
				"lint the documents of each namespace alone")
			return
		}
		if by := c.first(m, ix.candidates(m)); by != nil {
			l.coveredRule(m.rule, by.rule)
		}
	}
}

func (l *linter) coveredRule(r, by *rule) {
	var fix []Edit
	if by.policy == r.policy {
		fix = []Edit{{Field: r.field, Remove: true}}
	}
	l.reportFix(r.policy.doc, codeCovered, r.field, fmt.Sprintf("the rule has no effect: %s matches all that it matches", by),
		"delete it, or make the other one stricter", fix)
}

func newCoverer(l *linter) *coverer {
	c := &coverer{comparisons: l.comparisons}
	for _, p := range l.policies {
		for i := range p.rules {
			c.all = append(c.all, l.matcherOf(&p.rules[i], len(c.all)))
		}
	}
	return c
}

// first returns the first of the candidates that makes m pointless, nil if none does. Of two rules that cover each other
// the later one is pointless. Each list of candidates is in order.
func (c *coverer) first(m *matcher, lists [][]entry) *matcher {
	var best *matcher
	for _, list := range lists {
		for _, e := range list {
			by := c.all[e.rule]
			if best != nil && by.order >= best.order {
				break
			}
			if by != m && c.covers(by, m) && (by.order < m.order || !c.covers(m, by)) {
				best = by
				break
			}
		}
	}
	return best
}

// mayCover reports whether the rule takes part as one that covers others. An ALLOW rule without conditions does not: it is
// reported as what it is.
func (m *matcher) mayCover() bool { return !m.empty() || m.policy.action != actionAllow }

// covers reports whether a matches all that b matches, wherever b applies.
func (c *coverer) covers(a, b *matcher) bool {
	c.comparisons--
	switch {
	case a.kind() != b.kind() || !a.mayCover():
		return false
	case !a.policy.scope.covers(b.policy.scope):
		return false
	case a.policy.action == actionAllow && a.http && !b.http:
		return false // on TCP a is lost and b is not
	}
	return c.options(a.from, b.from) && c.options(a.to, b.to) && c.every(a.when, b.when)
}

// options reports whether every option of b is covered by some option of a. No options at all match everything.
func (c *coverer) options(as, bs []clauses) bool {
	if len(as) == 0 {
		return true
	}
	for _, b := range bs {
		covered := false
		for _, a := range as {
			if covered = c.every(a, b); covered {
				break
			}
		}
		if !covered {
			return false
		}
	}
	return len(bs) > 0
}

// every reports whether whatever satisfies bs satisfies each of as.
func (c *coverer) every(as, bs clauses) bool {
	for i := range as {
		implied := false
		for j := range bs {
			if implied = as[i].attr == bs[j].attr && c.clause(&as[i], &bs[j]); implied {
				break
			}
		}
		if !implied {
			return false
		}
	}
	return true
}

// clause reports whether every value of b is within some value of a, and whatever a excludes b excludes too.
func (c *coverer) clause(a, b *clause) bool {
	if len(a.values) > 0 && (len(b.values) == 0 || !c.within(b.values, a.values)) {
		return false
	}
	return c.within(a.not, b.not)
}

// within reports whether every one of vs is matched whole by one of ws.
func (c *coverer) within(vs, ws []operand) bool {
	for i := range vs {
		covered := false
		for j := range ws {
			c.comparisons--
			if covered = vs[i].within(&ws[j]); covered {
				break
			}
		}
		if !covered || c.comparisons <= 0 {
			return false
		}
	}
	return true
}
