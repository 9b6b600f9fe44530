package main

import (
	"cmp"
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
	tw.logged(e.Logged)
	tw.request(r, t, e.Canonical, e.Logged.lacks())
	tw.tokens(e.Tokens)
	applying := 0
	for i := range t.Policies {
		p := &t.Policies[i]
		if !p.Scope.Applies {
			continue
		}
		applying++
		tw.policy(p)
	}
	if applying == 0 && t.Error == "" {
		tw.line(0, "%s", "No policy applies to this workload.\n")
	}
	tw.others(t)
	_, err := io.WriteString(w, tw.b.String())
	return err
}

func (tw *traceWriter) headline(a *answer, r *policy.Request, t *policy.Trace) {
	tw.line(0, "%s  %s", tw.decision(a), tw.colours.bold(printable(describe(r))))
	tw.line(0, "%s%s", strings.Repeat(" ", len(a.Decision)+2), printable(a.because()))
	if p, rule := nearestMiss(a, t); rule != nil {
		tw.line(0, "%snearest: rule %d of %s, %s", strings.Repeat(" ", len(a.Decision)+2), rule.Index, p.Policy,
			distance(rule.Missing, rule.Unknown))
		if c := onlyMiss(rule); c != nil {
			tw.line(0, "%s%s %s: %s", strings.Repeat(" ", len(a.Decision)+2), tw.colours.yellow("→"), c.Field, printable(why(c)))
		}
	}
	tw.runnersUp(a, t)
	for _, note := range a.notes() {
		tw.line(0, "%s%s", strings.Repeat(" ", len(a.Decision)+2), tw.colours.cyan(note))
	}
	tw.b.WriteByte('\n')
}

// runnersUp names the rules that came nearest to letting the request pass after the nearest one.
func (tw *traceWriter) runnersUp(a *answer, t *policy.Trace) {
	misses := nearMisses(a, t)
	for i := 1; i < len(misses) && i <= maxThenLines; i++ {
		m := &misses[i]
		tw.line(0, "%s%s", strings.Repeat(" ", len(a.Decision)+2),
			tw.colours.dim(fmt.Sprintf("then: rule %d of %s, %s", m.Rule, printable(m.Policy), distance(m.Missing, m.Unknown))))
	}
}

// distance says how far a rule is from matching.
func distance(missing, unknown int) string {
	switch {
	case unknown == 0:
		return plural(missing, "condition") + " away"
	case missing == 0:
		return "may match: " + plural(unknown, "condition") + " unknown"
	}
	return fmt.Sprintf("%s away, %d unknown", plural(missing, "condition"), unknown)
}

func (tw *traceWriter) decision(a *answer) string {
	return tw.colours.bold(a.paint(tw.colours))
}

// describe is the request in a few words.
func describe(r *policy.Request) string {
	switch {
	case r.TCP && r.DestPort == 0:
		return "TCP connection"
	case r.TCP:
		return fmt.Sprintf("TCP connection to port %d", r.DestPort)
	}
	text := cmp.Or(r.Method, "?") + " " + cmp.Or(r.Path, "?") // "?" for what a log does not hold
	if r.Host != "" {
		text += " at " + r.Host
	}
	return text
}

// request lists what policies can see of the request, so that a wrong assumption shows.
func (tw *traceWriter) request(r *policy.Request, t *policy.Trace, steps []canonicalStep, lacks []string) {
	row := func(name, value string) {
		if value != "" {
			tw.line(1, "%s %s", tw.colours.dim(fmt.Sprintf("%-9s", name)), printable(value))
		}
	}
	from := "no certificate"
	switch {
	case len(r.Names) > 0:
		from = strings.Join(r.Names, ", ")
	case slices.Contains(lacks, "source.principal"):
		from = "unknown"
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
		if t.Workload.Labels == nil && t.Workload.Namespace != "" {
			row("", "write --labels k=v,… or --labels '' for none")
		}
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
	for i := range steps {
		row("seen as", steps[i].words())
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
	case p.Unknown:
		return tw.colours.yellow("?")
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
		text = distance(r.Missing, r.Unknown)
	}
	tw.line(1, "%s rule %d%s", tw.markOf(r.Matched, r.MayMatch()), r.Index, tw.colours.dim(fmt.Sprintf(", line %d: %s", r.Line, text)))
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
		tw.line(2, "%s %s[%d]", tw.markOf(c.Matched, mayMatch(c)), name, i)
		for j := range c.Conditions {
			tw.condition(3, "", &c.Conditions[j])
		}
	}
}

func (tw *traceWriter) condition(indent int, prefix string, c *policy.ConditionTrace) {
	tw.line(indent, "%s %s%s: %s", tw.markOf(c.Matched, c.Unknown), prefix, tw.colours.bold(printable(c.Field)), printable(why(c)))
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

// mayMatch reports whether only what is not known of the request says whether a source or operation is met.
func mayMatch(c *policy.ClauseTrace) bool {
	return !slices.ContainsFunc(c.Conditions, func(c policy.ConditionTrace) bool { return !c.Matched && !c.Unknown }) && !c.Matched
}

func (tw *traceWriter) markOf(matched, unknown bool) string {
	switch {
	case matched:
		return tw.colours.green("✓")
	case unknown:
		return tw.colours.yellow("?")
	}
	return tw.colours.red("✗")
}

// notConsidered lists the documents that do not count for the workload, each with its reason.
func notConsidered(t *policy.Trace) []string {
	var out []string
	for i := range t.Policies {
		if p := &t.Policies[i]; !p.Scope.Applies {
			out = append(out, fmt.Sprintf("%s %s: %s", p.Action, p.Policy, p.Scope.Reason))
		}
	}
	for i := range t.Documents {
		if d := &t.Documents[i]; !d.Scope.Applies {
			out = append(out, fmt.Sprintf("%s %s: %s", d.Kind, d.Name, d.Scope.Reason))
		}
	}
	return out
}

// others lists the documents that do not count.
func (tw *traceWriter) others(t *policy.Trace) {
	others := notConsidered(t)
	if len(others) == 0 {
		return
	}
	heading := "Not for this workload:"
	if t.Error != "" {
		heading = "Not for this workload, or not known to be:"
	}
	tw.line(0, "%s", tw.colours.dim(heading))
	for i := range others {
		if i == maxOtherPolicies && !tw.all {
			tw.line(1, "%s", tw.colours.dim(fmt.Sprintf("and %d more (--all shows them)", len(others)-i)))
			break
		}
		tw.line(1, "%s", tw.colours.dim("· "+printable(others[i])))
	}
}
