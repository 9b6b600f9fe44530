package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	securityv1beta1 "istio.io/api/security/v1beta1"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/policy"
)

// whyNotTarget is the policy, or the rule of it, that --why-not asks about.
type whyNotTarget struct {
	policy string // namespace/name
	rule   *int   // nil: any of its rules
}

// parseWhyNot reads namespace/policy, namespace/policy/RULE, or namespace/policy[RULE] as logs write it, and finds it among
// the documents. An empty text asks about nothing.
func parseWhyNot(text string, docs []*policy.Document) (*whyNotTarget, error) {
	if text == "" {
		return nil, nil
	}
	parts := strings.Split(text, "/")
	if name, index, ok := strings.Cut(strings.TrimSuffix(text, "]"), "["); ok && strings.HasSuffix(text, "]") {
		parts = append(strings.Split(name, "/"), index)
	}
	if len(parts) < 2 || len(parts) > 3 || parts[0] == "" || parts[1] == "" {
		return nil, usagef("--why-not %q: want NAMESPACE/POLICY, or NAMESPACE/POLICY/RULE with the index of the rule", text)
	}
	t := &whyNotTarget{policy: parts[0] + "/" + parts[1]}
	rules, err := t.find(docs)
	if err != nil || len(parts) == 2 {
		return t, err
	}
	index, err := strconv.Atoi(parts[2])
	switch {
	case err != nil || index < 0:
		return nil, usagef("--why-not %q: %q is no rule: want its index, counted from 0", text, parts[2])
	case rules == 0:
		return nil, usagef("--why-not %q: %s has no rules", text, t.policy)
	case index >= rules:
		return nil, usagef("--why-not %q: %s has %s, the last is %d", text, t.policy, plural(rules, "rule"), rules-1)
	}
	t.rule = &index
	return t, nil
}

// find returns how many rules the policy has.
func (t *whyNotTarget) find(docs []*policy.Document) (rules int, err error) {
	var known []string
	other := ""
	for _, d := range docs {
		name := d.Namespace + "/" + d.Name
		spec, ok := d.Spec.(*securityv1beta1.AuthorizationPolicy)
		switch {
		case ok && name == t.policy:
			return len(spec.GetRules()), nil
		case ok:
			known = append(known, name)
		case name == t.policy:
			other = "; the " + d.Kind + " of this name has no part in it"
		}
	}
	return 0, usagef("--why-not %q: no AuthorizationPolicy of the documents has this name%s%s", t.policy, other, didYouMean(t.policy, known))
}

// whyNotOutcome is what became of a policy that somebody expected to decide.
type whyNotOutcome string

// Outcomes of --why-not.
const (
	whyNotDecided       whyNotOutcome = "decided"        // it did decide
	whyNotNotConsidered whyNotOutcome = "not_considered" // it is not for this workload
	whyNotNotReached    whyNotOutcome = "not_reached"    // something decided before it was asked
	whyNotMissed        whyNotOutcome = "missed"         // it was asked and does not match
	whyNotOutranked     whyNotOutcome = "outranked"      // it matches, and another rule of the same action comes first
	whyNotDryRun        whyNotOutcome = "dry_run"        // it matches, and is not enforced
	whyNotAudit         whyNotOutcome = "audit"          // it matches, and AUDIT decides nothing
	whyNotAsked         whyNotOutcome = "asked"          // it matches, its provider let the request pass
	whyNotUnknown       whyNotOutcome = "unknown"        // it depends on what is not known
)

// whyNot is the answer to --why-not.
type whyNot struct {
	Policy  string        `json:"policy"`
	Rule    *int          `json:"rule,omitempty"` // if one was asked about
	Action  policy.Action `json:"action"`
	DryRun  bool          `json:"dry_run,omitempty"`
	File    string        `json:"file"`
	Line    int           `json:"line"`
	Outcome whyNotOutcome `json:"outcome"`
	Reason  string        `json:"reason"`
	Matched bool          `json:"matched"`         // it, or the rule, matches the request
	Rules   []ruleMiss    `json:"rules,omitempty"` // those asked about, the nearest to matching first
}

// explain says why the policy or rule did not decide the request.
func (t *whyNotTarget) explain(a *answer, trace *policy.Trace) *whyNot {
	i := slices.IndexFunc(trace.Policies, func(p policy.PolicyTrace) bool { return p.Policy == t.policy })
	p := &trace.Policies[i] // it is among the documents
	w := &whyNot{Policy: p.Policy, Rule: t.rule, Action: p.Action, DryRun: p.DryRun, File: p.File, Line: p.Line}
	may := false
	for _, rule := range ranked(p) {
		if t.rule == nil || rule.Index == *t.rule {
			w.Matched = w.Matched || rule.Matched
			may = may || rule.MayMatch()
			w.Rules = append(w.Rules, ruleMissOf(p, &rule))
		}
	}
	w.Outcome, w.Reason = w.judge(p, a, trace, may)
	return w
}

// judge finds what became of the policy. may is set if it cannot be told whether it matches.
func (w *whyNot) judge(p *policy.PolicyTrace, a *answer, trace *policy.Trace, may bool) (whyNotOutcome, string) {
	stage, at := stageOf(p), stageOfLayer(a.Layer)
	switch {
	case trace.Error != "":
		return whyNotNotConsidered, "nobody can tell which policies are asked: " + trace.Error
	case !p.Scope.Applies:
		return whyNotNotConsidered, "it is not for this workload: " + p.Scope.Reason
	case a.Policy == w.Policy && a.Rule != nil && (w.Rule == nil || *w.Rule == *a.Rule):
		return whyNotDecided, fmt.Sprintf("it did: rule %d decided this request", *a.Rule)
	case len(p.Rules) == 0:
		return whyNotMissed, "it has no rules, so it never matches"
	case at < stage && a.Decision == "UNKNOWN":
		return whyNotUnknown, "it cannot be told whether it is asked at all: " + a.because() + w.hypothetically(may)
	case at < stage:
		return whyNotNotReached, fmt.Sprintf("it was not asked, for the layer %s decided before it: %s", a.Layer, a.because()) + w.hypothetically(may)
	case !w.Matched && may:
		return whyNotUnknown, "whether it matches depends on what is not known"
	case !w.Matched && w.Rule != nil:
		return whyNotMissed, "it was asked, and the rule does not match"
	case !w.Matched:
		return whyNotMissed, "it was asked, and none of its rules matches"
	}
	return w.beaten(p, a)
}

// hypothetically says what a policy would have done that was not asked.
func (w *whyNot) hypothetically(may bool) string {
	switch {
	case w.Matched:
		return "; it would have matched"
	case may:
		return "; whether it would have matched is not known"
	}
	return "; it would not have matched either"
}

// beaten says why a policy that was asked and matches did not decide.
func (w *whyNot) beaten(p *policy.PolicyTrace, a *answer) (whyNotOutcome, string) {
	first := a.because()
	switch {
	case p.DryRun:
		return whyNotDryRun, "it matches, and istio.io/dry-run keeps it from deciding"
	case p.Action == policy.ActionAudit:
		return whyNotAudit, "it matches, and AUDIT policies note requests and decide none"
	case p.Action == policy.ActionCustom:
		return w.asked(a)
	case a.Policy == w.Policy:
		return whyNotOutranked, fmt.Sprintf("it matches, and rule %d of the same policy comes first", *a.Rule)
	case a.Rule != nil:
		return whyNotOutranked, "it matches as well, and of several that match the first one counts: " + first
	}
	return whyNotUnknown, "it matches, and which policy decides is not known: " + first
}

// asked says what became of a CUSTOM policy that matches.
func (w *whyNot) asked(a *answer) (whyNotOutcome, string) {
	for i := range a.Custom {
		asked := &a.Custom[i]
		switch {
		case asked.Policy != w.Policy:
		case asked.Outcome == reasonProviderNotAsked:
			return whyNotUnknown, fmt.Sprintf("it matches, and its provider %s is not asked offline: say what it answers with --provider %s=allow or %s=deny",
				asked.Provider, asked.Provider, asked.Provider)
		default:
			return whyNotAsked, fmt.Sprintf("it matches, and its provider %s was asked: %s", asked.Provider,
				strings.ReplaceAll(strings.TrimPrefix(string(asked.Outcome), "provider_"), "_", " "))
		}
	}
	if a.Layer == authz.LayerCustom {
		return whyNotNotReached, "it matches, and before its provider was asked another one decided: " + a.because()
	}
	return whyNotOutranked, "it matches, and its provider was asked for the first of several rules that match"
}

// stageOf is when the policy is asked, among the layers of authorization-policy §4.1.
func stageOf(p *policy.PolicyTrace) int {
	switch {
	case p.Action == policy.ActionCustom:
		return stageOfLayer(authz.LayerCustom)
	case p.Action == policy.ActionAllow && !p.DryRun:
		return stageOfLayer(authz.LayerAllow)
	}
	return stageOfLayer(authz.LayerDeny)
}

// stageOfLayer numbers the layers in their order. Who decided in a way that is not known was the last one.
func stageOfLayer(l authz.Layer) int {
	order := []authz.Layer{authz.LayerSystem, authz.LayerRevoked, authz.LayerMTLS, authz.LayerCustom, authz.LayerJWT, authz.LayerDeny, authz.LayerAllow}
	if i := slices.Index(order, l); i >= 0 {
		return i
	}
	return len(order)
}

// writeWhyNot draws the answer to --why-not.
func writeWhyNot(w io.Writer, colours palette, all bool, e *explanation, r *policy.Request) error {
	tw := &traceWriter{colours: colours, all: all}
	tw.summary(e.answer, r)
	tw.logged(e.Logged)
	n := e.WhyNot
	name := n.Action.String() + " " + n.Policy
	if n.DryRun {
		name = n.Action.String() + " (dry run) " + n.Policy
	}
	if n.Rule != nil {
		name += fmt.Sprintf(" rule %d", *n.Rule)
	}
	tw.line(0, "Why not %s?  %s", colours.bold(printable(name)), colours.dim(fmt.Sprintf("%s:%d", n.File, n.Line)))
	tw.line(1, "%s", printable(n.Reason))
	for i := range n.Rules {
		if i == maxMissedRules && !all {
			tw.line(1, "%s", colours.dim(fmt.Sprintf("and %s that missed by more (--all shows them)", plural(len(n.Rules)-i, "rule"))))
			break
		}
		tw.miss(&n.Rules[i])
	}
	_, err := io.WriteString(w, tw.b.String())
	return err
}

// summary is the request and its answer, without a word on how near others came.
func (tw *traceWriter) summary(a *answer, r *policy.Request) {
	tw.line(0, "%s  %s", tw.decision(a), tw.colours.bold(printable(describe(r))))
	indent := strings.Repeat(" ", len(a.Decision)+2)
	tw.line(0, "%s%s", indent, printable(a.because()))
	for _, note := range a.notes() {
		tw.line(0, "%s%s", indent, tw.colours.cyan(printable(note)))
	}
	tw.b.WriteByte('\n')
}

// miss draws what a rule that was asked about misses.
func (tw *traceWriter) miss(m *ruleMiss) {
	text := "matches"
	if !m.Matched {
		text = distance(m.Missing, m.Unknown)
	}
	tw.line(1, "%s rule %d%s", tw.markOf(m.Matched, m.Missing == 0 && m.Unknown > 0), m.Rule, tw.colours.dim(fmt.Sprintf(", line %d: %s", m.Line, text)))
	if m.Note != "" {
		tw.line(3, "%s", tw.colours.yellow(printable(m.Note)))
	}
	misses := slices.Clone(m.Misses)
	slices.SortStableFunc(misses, func(a, b conditionMiss) int { return cmp.Compare(b.Nearness, a.Nearness) })
	for i := range misses {
		c := &misses[i]
		tw.line(2, "%s %s: %s", tw.markOf(false, c.Unknown), tw.colours.bold(printable(c.Field)), printable(c.Why))
	}
}
