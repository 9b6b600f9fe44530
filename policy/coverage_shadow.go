package policy

import (
	"slices"
	"strings"
)

// This file finds the rule that keeps another one from ever being asked: an enforced DENY rule that matches all that an
// ALLOW rule does, for every workload of its (authorization-policy §4.1: DENY comes first). The test is field by field
// and errs on the side of silence.

// shadow names the rule that was in the way of one that was never matched, nil if there was none.
func (rc *ruleCoverage) shadow(s *Snapshot) *Shadow {
	var by *Rule
	for rule, n := range rc.shadowed {
		if most := rc.shadowed[by]; by == nil || n > most || n == most && rule.id < by.id {
			by = rule
		}
	}
	for _, ns := range sortedKeys(s.policies) {
		for _, p := range s.policies[ns] {
			for _, rule := range p.rules {
				if rule.hides(rc.rule, &s.mesh) {
					return &Shadow{Policy: p.String(), Rule: rule.Index, Always: true, Requests: rc.shadowed[rule]}
				}
			}
		}
	}
	if by == nil {
		return nil
	}
	return &Shadow{Policy: by.Policy.String(), Rule: by.Index, Requests: rc.shadowed[by]}
}

// hides reports whether r, a DENY rule, denies everything that other, an ALLOW rule, matches.
func (r *Rule) hides(other *Rule, mesh *Mesh) bool {
	p, o := r.Policy, other.Policy
	if p.Action != ActionDeny || p.DryRun || o.Action != ActionAllow || o.DryRun || !p.target.contains(&o.target, mesh) {
		return false
	}
	return r.http.covers(other.http) && (other.tcp == nil || r.tcp != nil && r.tcp.covers(other.tcp))
}

// contains reports whether t reaches every workload that o does. Of targetRefs nothing is known.
func (t *target) contains(o *target, mesh *Mesh) bool {
	if len(t.refs) > 0 || len(o.refs) > 0 || t.namespace != o.namespace && t.namespace != mesh.RootNamespace {
		return false
	}
	for k, v := range t.selector {
		if have, ok := o.selector[k]; !ok || have != v {
			return false
		}
	}
	return true
}

// covers reports whether every request that o matches is matched by b.
func (b *ruleBody) covers(o *ruleBody) bool {
	if !anyCovers(b.from, o.from, o.when) || !anyCovers(b.to, o.to, o.when) {
		return false
	}
	for i := range b.when {
		c := &b.when[i]
		byEvery := func(cls []clause) bool {
			return len(cls) > 0 && !slices.ContainsFunc(cls, func(cl clause) bool { return !cl.implies(c) })
		}
		if !o.when.implies(c) && !byEvery(o.from) && !byEvery(o.to) {
			return false
		}
	}
	return true
}

// anyCovers reports whether alternatives let pass whatever others do, which hold together with more conditions.
func anyCovers(cls, others []clause, when clause) bool {
	if len(cls) == 0 {
		return true
	}
	if len(others) == 0 {
		others = []clause{{}}
	}
	return !slices.ContainsFunc(others, func(o clause) bool {
		given := append(slices.Clone(o), when...)
		return !slices.ContainsFunc(cls, func(cl clause) bool {
			return !slices.ContainsFunc(cl, func(c condition) bool { return !given.implies(&c) })
		})
	})
}

// implies reports whether a request that meets all of c meets o.
func (c clause) implies(o *condition) bool {
	return slices.ContainsFunc(c, func(given condition) bool { return given.implies(o) })
}

func (c *condition) implies(o *condition) bool {
	if c.attr.kind != o.attr.kind || c.attr.name != o.attr.name || !slices.Equal(c.attr.path, o.attr.path) {
		return false
	}
	if len(o.values) > 0 {
		if len(c.values) == 0 {
			return false
		}
		for i := range c.values {
			if !slices.ContainsFunc(o.values, func(m matcher) bool { return m.covers(&c.values[i]) }) {
				return false
			}
		}
	}
	for i := range o.notValues {
		n := &o.notValues[i]
		if !slices.ContainsFunc(c.notValues, func(m matcher) bool { return m.covers(n) }) && !c.avoids(n) {
			return false
		}
	}
	return true
}

// avoids reports whether no value that c allows is one of n. An attribute with several values may have others as well.
func (c *condition) avoids(n *matcher) bool {
	switch c.attr.kind {
	case attrNames, attrClaim, attrMetadata, attrRequestPrincipal:
		return false
	}
	if len(c.values) == 0 {
		return false
	}
	for i := range c.values {
		v := &c.values[i]
		switch {
		case v.op == opExact && n.isText() && !n.matchText(v.lit):
		case v.op == opPort && n.op == opPort && v.port != n.port:
		case v.op == opCIDR && n.op == opCIDR && !v.prefix.Overlaps(n.prefix):
		default:
			return false
		}
	}
	return true
}

func (m *matcher) isText() bool {
	return m.op != opCIDR && m.op != opPort && m.op != opRequestPrincipal
}

// covers reports whether m matches whatever v does. Both are of one attribute, not always of one field: a service account
// is a principal as well.
func (m *matcher) covers(v *matcher) bool {
	switch {
	case m.element != v.element || m.isText() != v.isText():
		return false
	case m.op == opCIDR:
		return v.op == opCIDR && m.prefix.Bits() <= v.prefix.Bits() && m.prefix.Contains(v.prefix.Addr())
	case m.op == opPort:
		return v.op == opPort && m.port == v.port
	case m.op == opRequestPrincipal:
		return v.op == opRequestPrincipal && (m.text == "*" || m.text == v.text)
	case m.op == opExists:
		return true
	case m.op == opNonEmpty:
		return v.op != opExists && (v.op != opExact || v.lit != "")
	case v.op == opExact:
		return m.matchText(v.lit)
	case m.op == opPrefix && m.lit == spiffeScheme && v.op != opPrefix:
		return v.op == opSpiffeSuffix || v.op == opServiceAccount || v.op == opTrustDomain
	case m.op == opNamespace && v.op == opServiceAccount:
		return len(m.parts) == 1 && m.parts[0] == "/ns/"+v.lit+"/"
	case m.op == opPrefix && v.op == opTemplate:
		return strings.HasPrefix(v.template.head[0], m.lit)
	case m.op != v.op:
		return false
	case m.op == opPrefix:
		return strings.HasPrefix(v.lit, m.lit)
	case m.op == opSuffix, m.op == opSpiffeSuffix:
		return strings.HasSuffix(v.lit, m.lit)
	}
	return m.lit == v.lit && m.sub == v.sub && slices.Equal(m.parts, v.parts) && (m.op != opTemplate || m.text == v.text)
}
