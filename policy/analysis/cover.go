package analysis

import (
	"fmt"
	"iter"
	"strconv"
	"strings"

	securityv1beta1 "istio.io/api/security/v1beta1"
)

// This file finds rules without effect: all they match is matched by another rule of the same action. The test is field
// by field and errs on the side of silence; it is a proof, not a search for every redundancy.

// pattern is a value in comparable form. Two values of one attribute with the same pattern match the same.
type pattern struct {
	how  byte // one of the constants below
	text string
}

const (
	exactly  = '='
	prefix   = '>'
	suffix   = '<'
	anything = '*'
)

// patternOf brings a value into comparable form. What cannot be compared but with itself is taken as exact text.
func (l *linter) patternOf(r *rule, c *condition, v string) pattern {
	switch c.family {
	case famPort:
		if n, err := strconv.ParseUint(v, 10, 16); err == nil {
			return pattern{exactly, strconv.FormatUint(n, 10)}
		}
	case famIP:
		if p, ok := parsePrefix(v); ok {
			return pattern{prefix, p.Masked().String()}
		}
	case famAccount:
		if !strings.Contains(v, "/") {
			v = r.policy.doc.Namespace + "/" + v
		}
	case famRequestPrincipal, famDomain:
		if v == "*" {
			return pattern{anything, ""}
		}
	case famMetadata:
	case famPath:
		if isTemplate(v) {
			return pattern{exactly, v}
		}
		return starPattern(v)
	case famNamespace:
		if strings.Count(v, "*") > 1 {
			return pattern{exactly, v}
		}
		return starPattern(v)
	case famHost:
		return starPattern(strings.ToLower(v))
	case famPrincipal:
		v = strings.TrimPrefix(v, "spiffe://")
		if v != "*" && strings.Count(v, "/") == 4 && (len(l.domains) > 1 || l.mesh.TrustDomain != "cluster.local") {
			return pattern{exactly, v} // may be rewritten for other trust domains
		}
		return starPattern(v)
	case famString, famHeader:
		return starPattern(v)
	}
	return pattern{exactly, v}
}

func starPattern(v string) pattern {
	switch {
	case v == "*":
		return pattern{anything, ""}
	case strings.HasPrefix(v, "*"):
		return pattern{suffix, v[1:]}
	case strings.HasSuffix(v, "*"):
		return pattern{prefix, v[:len(v)-1]}
	}
	return pattern{exactly, v}
}

// wider yields every pattern that matches all that v matches, v itself first. It is the one place that says what covers
// what: a covers b if a's pattern is among wider(b).
func (l *linter) wider(r *rule, c *condition, v string) iter.Seq[pattern] {
	p := l.patternOf(r, c, v)
	return func(yield func(pattern) bool) {
		if !yield(p) || c.family == famPort || c.family == famMetadata || c.family == famAccount {
			return
		}
		if c.family == famIP {
			widerNetworks(v, yield)
			return
		}
		if !yield(pattern{anything, ""}) || c.family == famRequestPrincipal || c.family == famDomain {
			return
		}
		text, opaque := p.text, false
		switch {
		case c.family == famPath && isTemplate(v):
			text = text[:strings.IndexByte(text, '{')]
			p.how = prefix
		case c.family == famPrincipal && strings.Count(text, "/") == 4 && (len(l.domains) > 1 || l.mesh.TrustDomain != "cluster.local"):
			opaque = true
		case c.family == famNamespace && strings.Contains(text, "*"):
			opaque = true
		}
		if !opaque {
			widerText(p.how, text, yield)
		}
	}
}

// widerText yields shorter prefixes and suffixes.
func widerText(how byte, text string, yield func(pattern) bool) {
	for i := 1; i <= len(text); i++ {
		if (how == exactly || how == prefix) && !yield(pattern{prefix, text[:i]}) {
			return
		}
		if (how == exactly || how == suffix) && !yield(pattern{suffix, text[len(text)-i:]}) {
			return
		}
	}
}

func widerNetworks(v string, yield func(pattern) bool) {
	p, ok := parsePrefix(v)
	if !ok {
		return
	}
	for bits := p.Bits() - 1; bits >= 0; bits-- {
		if w, err := p.Addr().Prefix(bits); err == nil && !yield(pattern{prefix, w.String()}) {
			return
		}
	}
}

// coverer compares rules. Each is asked about in turn; those that may cover it are looked up, not tried one by one.
type coverer struct {
	l     *linter
	filed map[drawer][]*rule
	order map[*rule]int
}

// drawer is where rules that could cover one another meet: same kind of policy, and one value of one attribute.
type drawer struct {
	action   securityv1beta1.AuthorizationPolicy_Action
	dryRun   bool
	provider string
	attr     string
	pattern  pattern
}

func checkCovered(l *linter) {
	c := &coverer{l: l, filed: map[drawer][]*rule{}, order: map[*rule]int{}}
	for _, p := range l.policies {
		for i := range p.rules {
			r := &p.rules[i]
			c.order[r] = len(c.order)
			c.file(r)
		}
	}
	for _, p := range l.policies {
		for i := range p.rules {
			r := &p.rules[i]
			if by := c.coveredBy(r); by != nil {
				l.report(p.doc, codeCovered, r.field, fmt.Sprintf("the rule has no effect: %s matches all that it matches", by), "delete it, or make the other one stricter")
			}
		}
	}
}

func (r *rule) drawer(attr string, p pattern) drawer {
	return drawer{r.policy.action, r.policy.dryRun, r.policy.provider, attr, p}
}

// file puts r where every rule that it covers will look: under each value of a field that all its sources, or all its
// operations, have; else where everybody looks.
func (c *coverer) file(r *rule) {
	for _, options := range [][]conditions{r.to, r.from, {r.when}} {
		attr := commonAttr(options)
		if attr == "" {
			continue
		}
		for _, o := range options {
			cond := o.find(attr)
			for _, v := range cond.values {
				d := r.drawer(attr, c.l.patternOf(r, cond, v))
				c.filed[d] = append(c.filed[d], r)
			}
		}
		return
	}
	d := r.drawer("", pattern{})
	c.filed[d] = append(c.filed[d], r)
}

// commonAttr is an attribute that every option demands a value of, or "".
func commonAttr(options []conditions) string {
	if len(options) == 0 {
		return ""
	}
	for i := range options[0] {
		attr, all := options[0][i].attr, true
		for _, o := range options {
			cond := o.find(attr)
			all = all && cond != nil && len(cond.values) > 0
		}
		if all {
			return attr
		}
	}
	return ""
}

// coveredBy returns a rule that makes r pointless, or nil. Of two rules that cover each other the later one is pointless.
func (c *coverer) coveredBy(r *rule) *rule {
	found := c.search(r, r.drawer("", pattern{}))
	r.all(func(cond *condition) {
		if len(cond.values) == 0 || found != nil {
			return
		}
		for p := range c.l.wider(r, cond, cond.values[0]) {
			if found = c.search(r, r.drawer(cond.attr, p)); found != nil {
				return
			}
		}
	})
	return found
}

func (c *coverer) search(r *rule, d drawer) *rule {
	for _, by := range c.filed[d] {
		if by == r || by.empty() && by.policy.action == actionAllow { // the latter is reported as what it is
			continue
		}
		if c.covers(by, r) && (c.order[by] < c.order[r] || !c.covers(r, by)) {
			return by
		}
	}
	return nil
}

func (c *coverer) covers(a, b *rule) bool {
	if !a.policy.scope.covers(b.policy.scope) {
		return false
	}
	if a.policy.action == actionAllow && a.http() && !b.http() {
		return false // on TCP a is lost and b is not
	}
	return c.options(a, a.from, b, b.from) && c.options(a, a.to, b, b.to) && c.all(a, a.when, b, b.when)
}

// options reports whether every option of b is covered by some option of a. No options at all match everything.
func (c *coverer) options(a *rule, as []conditions, b *rule, bs []conditions) bool {
	if len(as) == 0 {
		return true
	}
	for _, bo := range bs {
		covered := false
		for _, ao := range as {
			covered = covered || c.all(a, ao, b, bo)
		}
		if !covered {
			return false
		}
	}
	return len(bs) > 0
}

// all reports whether whatever satisfies bs satisfies each of as.
func (c *coverer) all(a *rule, as conditions, b *rule, bs conditions) bool {
	for i := range as {
		implied := false
		for j := range bs {
			implied = implied || as[i].attr == bs[j].attr && c.condition(a, &as[i], b, &bs[j])
		}
		if !implied {
			return false
		}
	}
	return true
}

func (c *coverer) condition(a *rule, ac *condition, b *rule, bc *condition) bool {
	if len(ac.values) > 0 && len(bc.values) == 0 {
		return false
	}
	// every value of b is within some value of a, and whatever a excludes b excludes too
	return (len(ac.values) == 0 || c.within(b, bc, bc.values, a, ac, ac.values)) &&
		c.within(a, ac, ac.notValues, b, bc, bc.notValues)
}

// within reports whether every one of vs is matched whole by one of ws.
func (c *coverer) within(vr *rule, vc *condition, vs []string, wr *rule, wc *condition, ws []string) bool {
	for _, v := range vs {
		covered := false
		for p := range c.l.wider(vr, vc, v) {
			for _, w := range ws {
				covered = covered || c.l.patternOf(wr, wc, w) == p
			}
			if covered {
				break
			}
		}
		if !covered {
			return false
		}
	}
	return true
}
