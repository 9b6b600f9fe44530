package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/writ-auth/writ/policy"
)

// How much of a long trace is shown without --all.
const (
	maxMissedRules   = 5 // of one policy, the nearest ones
	maxOtherPolicies = 10
	maxShownHeaders  = 40
)

// traceWriter draws a trace as a tree for people.
type traceWriter struct {
	b       strings.Builder
	colours palette
	all     bool
}

func (tw *traceWriter) line(indent int, format string, args ...any) {
	tw.b.WriteString(strings.Repeat("  ", indent))
	fmt.Fprintf(&tw.b, format, args...)
	tw.b.WriteByte('\n')
}

// writeTrace draws one request, its answer and how it came about.
func writeTrace(w io.Writer, colours palette, all bool, e *explanation, r *policy.Request) error {
	tw := &traceWriter{colours: colours, all: all}
	t := e.Trace
	tw.headline(e.answer, r, t)
	tw.request(r, t)
	tw.tokens(e.Tokens)
	var others []policy.PolicyTrace
	applying := 0
	for i := range t.Policies {
		p := &t.Policies[i]
		if !p.Scope.Applies {
			others = append(others, *p)
			continue
		}
		applying++
		tw.policy(p)
	}
	if applying == 0 && t.Error == "" {
		tw.line(0, "%s", "No policy applies to this workload.\n")
	}
	tw.others(others)
	_, err := io.WriteString(w, tw.b.String())
	return err
}

func (tw *traceWriter) headline(a *answer, r *policy.Request, t *policy.Trace) {
	tw.line(0, "%s  %s", tw.decision(a), tw.colours.bold(printable(describe(r))))
	tw.line(0, "%s%s", strings.Repeat(" ", len(a.Decision)+2), printable(a.because()))
	if p, rule := nearestMiss(a, t); rule != nil {
		tw.line(0, "%snearest: rule %d of %s, %s away", strings.Repeat(" ", len(a.Decision)+2), rule.Index, p.Policy,
			plural(rule.Missing, "condition"))
		if c := onlyMiss(rule); c != nil {
			tw.line(0, "%s%s %s: %s", strings.Repeat(" ", len(a.Decision)+2), tw.colours.yellow("→"), c.Field, printable(why(c)))
		}
	}
	for _, note := range a.notes() {
		tw.line(0, "%s%s", strings.Repeat(" ", len(a.Decision)+2), tw.colours.cyan(note))
	}
	tw.b.WriteByte('\n')
}

func (tw *traceWriter) decision(a *answer) string {
	return tw.colours.bold(a.paint(tw.colours))
}

// nearestMiss is the ALLOW rule that would have let a denied request pass, had the least been different.
func nearestMiss(a *answer, t *policy.Trace) (*policy.PolicyTrace, *policy.RuleTrace) {
	if a.Reason != "no_allow_match" {
		return nil, nil
	}
	var owner *policy.PolicyTrace
	var best *policy.RuleTrace
	for i := range t.Policies {
		p := &t.Policies[i]
		if !p.Scope.Applies || p.DryRun || p.Action != policy.ActionAllow {
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

// onlyMiss is the condition that alone kept a rule from matching, or nil.
func onlyMiss(r *policy.RuleTrace) *policy.ConditionTrace {
	if r.Missing != 1 {
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

// describe is the request in a few words.
func describe(r *policy.Request) string {
	switch {
	case r.TCP && r.DestPort == 0:
		return "TCP connection"
	case r.TCP:
		return fmt.Sprintf("TCP connection to port %d", r.DestPort)
	}
	text := r.Method + " " + r.Path
	if r.Host != "" {
		text += " at " + r.Host
	}
	return text
}

// request lists what policies can see of the request, so that a wrong assumption shows.
func (tw *traceWriter) request(r *policy.Request, t *policy.Trace) {
	row := func(name, value string) {
		if value != "" {
			tw.line(1, "%s %s", tw.colours.dim(fmt.Sprintf("%-9s", name)), printable(value))
		}
	}
	from := "no certificate"
	if len(r.Names) > 0 {
		from = strings.Join(r.Names, ", ")
	}
	row("from", from)
	if r.SourceIP.IsValid() {
		ip := r.SourceIP.String()
		if r.RemoteIP.IsValid() && r.RemoteIP != r.SourceIP {
			ip += ", originally " + r.RemoteIP.String()
		}
		row("address", ip)
	}
	row("to", workloadWords(&t.Workload))
	if t.Error != "" {
		row("", t.Error)
	}
	if r.DestPort != 0 {
		row("port", fmt.Sprint(r.DestPort))
	}
	if m := t.MTLS; m != nil {
		row("mtls", fmt.Sprintf("%s, says PeerAuthentication %s", m.Mode, m.By))
	}
	row("sni", r.SNI)
	for i, h := range r.Headers {
		if i == maxShownHeaders && !tw.all {
			row("", fmt.Sprintf("and %d more headers", len(r.Headers)-i))
			break
		}
		if !strings.HasPrefix(h.Name, ":") {
			row("header", h.Name+": "+shownHeader(h.Name, h.Value))
		}
	}
	tw.b.WriteByte('\n')
}

func workloadWords(w *policy.Workload) string {
	if w.Namespace == "" {
		return "unknown"
	}
	text := w.Namespace
	if w.Name != "" {
		text += "/" + w.Name
	}
	if w.ServiceAccount != "" {
		text += ", service account " + w.ServiceAccount
	}
	switch {
	case w.Labels == nil:
		return text + ", labels unknown"
	case len(w.Labels) == 0:
		return text + ", no labels"
	}
	var labels []string
	for _, k := range slices.Sorted(maps.Keys(w.Labels)) {
		labels = append(labels, k+"="+w.Labels[k])
	}
	return text + ", " + strings.Join(labels, ",")
}

// policy draws one applying policy and its rules.
func (tw *traceWriter) policy(p *policy.PolicyTrace) {
	action := p.Action.String()
	if p.DryRun {
		action += " (dry run)"
	}
	tw.line(0, "%s %s %s  %s", tw.policyMark(p), tw.colours.bold(action), tw.colours.bold(printable(p.Policy)),
		tw.colours.dim(fmt.Sprintf("%s:%d  %s", p.File, p.Line, printable(p.Scope.Reason))))
	if len(p.Rules) == 0 {
		tw.line(2, "it has no rules, so it never matches")
	}
	shown := p.Rules
	if !tw.all {
		shown = nearestRules(p.Rules)
	}
	for i := range shown {
		tw.rule(&shown[i])
	}
	if left := len(p.Rules) - len(shown); left > 0 {
		tw.line(2, "%s", tw.colours.dim(fmt.Sprintf("and %s that missed by more (--all shows them)", plural(left, "rule"))))
	}
	tw.b.WriteByte('\n')
}

// policyMark is a tick for a policy that matched, in the colour of what that means for the request.
func (tw *traceWriter) policyMark(p *policy.PolicyTrace) string {
	switch {
	case !p.Matched:
		return tw.colours.dim("✗")
	case p.DryRun || p.Action == policy.ActionAudit:
		return tw.colours.cyan("✓")
	case p.Action == policy.ActionAllow:
		return tw.colours.green("✓")
	default:
		return tw.colours.red("✓")
	}
}

// nearestRules are the rules that matched and the nearest of those that missed, in document order.
func nearestRules(rules []policy.RuleTrace) []policy.RuleTrace {
	if len(rules) <= maxMissedRules {
		return rules
	}
	ranked := slices.Clone(rules)
	slices.SortStableFunc(ranked, func(a, b policy.RuleTrace) int { return a.CompareNearness(&b) })
	matched := slices.IndexFunc(ranked, func(r policy.RuleTrace) bool { return !r.Matched })
	if matched < 0 {
		matched = len(ranked)
	}
	ranked = ranked[:min(len(ranked), matched+maxMissedRules)]
	slices.SortFunc(ranked, func(a, b policy.RuleTrace) int { return a.Index - b.Index })
	return ranked
}

func (tw *traceWriter) rule(r *policy.RuleTrace) {
	text := "matches"
	if !r.Matched {
		text = plural(r.Missing, "condition") + " away"
	}
	tw.line(1, "%s rule %d%s", tw.mark(r.Matched), r.Index, tw.colours.dim(fmt.Sprintf(", line %d: %s", r.Line, text)))
	if r.Note != "" {
		tw.line(3, "%s", tw.colours.yellow(printable(r.Note)))
	}
	if len(r.From)+len(r.To)+len(r.When) == 0 && r.Matched {
		tw.line(3, "an empty rule matches every request")
	}
	tw.clauses("from", r.From)
	tw.clauses("to", r.To)
	for i := range r.When {
		tw.condition(2, "when ", &r.When[i])
	}
}

// clauses draws the alternatives of from or to. One alone needs no heading of its own.
func (tw *traceWriter) clauses(name string, clauses []policy.ClauseTrace) {
	for i := range clauses {
		c := &clauses[i]
		if len(clauses) == 1 {
			for j := range c.Conditions {
				tw.condition(2, name+" ", &c.Conditions[j])
			}
			continue
		}
		tw.line(2, "%s %s[%d]", tw.mark(c.Matched), name, i)
		for j := range c.Conditions {
			tw.condition(3, "", &c.Conditions[j])
		}
	}
}

func (tw *traceWriter) condition(indent int, prefix string, c *policy.ConditionTrace) {
	tw.line(indent, "%s %s%s: %s", tw.mark(c.Matched), prefix, tw.colours.bold(printable(c.Field)), printable(why(c)))
	if !c.Matched && len(c.Values) > 1 && c.Hit == "" && c.Nearness >= near {
		tw.line(indent+1, "  %s", tw.colours.dim("wanted one of "+list(c.Values)))
	}
}

// near is the nearness from which a single value is worth naming as the one that was meant.
const near = 0.5

// why says why a condition matched or missed. A miss that came near no value in particular names them all.
func why(c *policy.ConditionTrace) string {
	if c.Matched || c.Hit != "" || len(c.Values) == 0 || len(c.Got) == 0 || c.Nearness >= near {
		return c.Why
	}
	if len(c.Values) == 1 {
		return c.Why
	}
	return list(c.Got) + " is none of " + list(c.Values)
}

// list names a few of many values.
func list(values []string) string {
	const most = 8
	var quoted []string
	for i, v := range values {
		if i == most {
			quoted = append(quoted, fmt.Sprintf("and %d more", len(values)-i))
			break
		}
		quoted = append(quoted, fmt.Sprintf("%q", v))
	}
	return strings.Join(quoted, ", ")
}

func (tw *traceWriter) mark(matched bool) string {
	if matched {
		return tw.colours.green("✓")
	}
	return tw.colours.red("✗")
}

// others lists the policies that do not apply, each with its reason.
func (tw *traceWriter) others(others []policy.PolicyTrace) {
	if len(others) == 0 {
		return
	}
	tw.line(0, "%s", tw.colours.dim("Not for this workload:"))
	for i := range others {
		p := &others[i]
		if i == maxOtherPolicies && !tw.all {
			tw.line(1, "%s", tw.colours.dim(fmt.Sprintf("and %d more (--all shows them)", len(others)-i)))
			break
		}
		tw.line(1, "%s", tw.colours.dim(fmt.Sprintf("· %s %s: %s", p.Action, printable(p.Policy), printable(p.Scope.Reason))))
	}
}
