package analysis

import (
	"fmt"
	"slices"
	"strings"

	"github.com/writ-auth/writ/policy"
)

// checkPolicy reports what is odd about a policy as a whole.
func checkPolicy(l *linter, p *view) {
	if value, ok := p.doc.Annotations[policy.DryRunAnnotation]; ok && !p.dryRun {
		field := "metadata.annotations[" + policy.DryRunAnnotation + "]"
		l.reportFix(p.doc, codeDryRunOff, field, fmt.Sprintf("%s is %q: the policy is enforced", policy.DryRunAnnotation, value),
			"remove the annotation", []Edit{{Field: field, Remove: true, Old: value}})
	}
	if p.action == actionAllow && len(p.rules) == 0 {
		l.report(p.doc, codeAllowNothing, "spec", "the policy has no rules: it denies everything to "+p.scope.whom()+
			" that no other ALLOW policy allows", "nothing to do if that is meant; to allow everything write rules: [{}]")
	}
	if p.action == actionAllow {
		splitRules(l, p)
	}
}

// checkRule reports rules that are much wider than rules usually are.
func checkRule(l *linter, r *rule) {
	switch action := r.policy.action; {
	case action == actionAllow && r.empty():
		l.report(r.policy.doc, codeAllowAll, r.field, "the rule has no conditions and allows everything"+l.swallowed(r),
			"say who may do what, or delete the rule")
	case action == actionAllow && r.anyCertificate():
		l.report(r.policy.doc, codeAllowAnyone, r.field, "the rule allows anybody with a client certificate, whatever its name",
			fmt.Sprintf("for callers of this mesh write principals: [%q]", l.mesh.TrustDomain+"/*"))
	case action == actionDeny && r.empty() && !r.policy.dryRun:
		l.report(r.policy.doc, codeDenyAll, r.field, "the rule has no conditions: it denies everything to "+r.policy.scope.whom()+", and no ALLOW policy can lift that",
			"say what is denied; to deny by default write an ALLOW policy without rules, which others can extend")
	}
}

// swallowed names the stricter ALLOW rules that r makes pointless, for a message.
func (l *linter) swallowed(r *rule) string {
	var names []string
	for _, p := range l.policies {
		if p.action != actionAllow || p.dryRun != r.policy.dryRun || !r.policy.scope.overlaps(p.scope) {
			continue
		}
		for i := range p.rules {
			if other := &p.rules[i]; !other.empty() {
				names = append(names, other.String())
			}
		}
	}
	switch len(names) {
	case 0:
		return ""
	case 1, 2, 3:
		return "; without effect next to it: " + strings.Join(names, ", ")
	}
	return fmt.Sprintf("; without effect next to it: %s and %d more", strings.Join(names[:2], ", "), len(names)-2)
}

// anyCertificate reports whether the rule's only condition is that the caller has a certificate.
func (r *rule) anyCertificate() bool {
	var only *condition
	n := 0
	r.all(func(c *condition) { only = c; n++ })
	return n == 1 && only.attr == "principals" && slices.Contains(only.values, "*") && len(only.notValues) == 0
}

// splitRules reports a rule with nothing but from, followed by one with nothing but to: most often one list dash too many.
func splitRules(l *linter, p *view) {
	for i := 0; i+1 < len(p.rules); i++ {
		from, to := &p.rules[i], &p.rules[i+1]
		if len(from.from) == 0 || len(from.to)+len(from.when) > 0 || len(to.to) == 0 || len(to.from)+len(to.when) > 0 || to.probesOnly() {
			continue
		}
		l.report(p.doc, codeSplitRule, to.field,
			fmt.Sprintf("from (rule %d) and to (rule %d) stand in two rules: those callers may do anything, and anybody may do this", from.index, to.index),
			"to require both, put to into the rule of from (no dash before to)")
	}
}

// probesOnly reports whether the rule is about paths that anybody may usually ask for, such as health checks.
func (r *rule) probesOnly() bool {
	public := []string{"health", "ready", "live", "ping", "metrics", "favicon.ico", "robots.txt", ".well-known", "status"}
	for _, op := range r.to {
		paths := op.find("paths")
		if paths == nil || len(paths.values) == 0 {
			return false
		}
		for _, v := range paths.values {
			if !slices.ContainsFunc(public, func(p string) bool { return strings.HasPrefix(strings.TrimLeft(v, "/*"), p) }) {
				return false
			}
		}
	}
	return true
}
