package main

import (
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	"github.com/writ-auth/writ/internal/policytest"
	"github.com/writ-auth/writ/policy"
)

// writeTests writes the report in the form that was asked for.
func (c *cli) writeTests(t *testFlags, r *testReport) error {
	switch t.out.value {
	case "text":
		w := &testWriter{colours: c.colours(c.out), all: t.all}
		w.report(r, t.coverageReportToPrint)
		_, err := io.WriteString(c.out, w.b.String())
		return err
	case "junit":
		return writeJUnit(c.out, r)
	case "github":
		return annotateTests(c.out, r)
	}
	return t.out.encode(c.out, r)
}

// testWriter writes a report for people: what does not pass, with the reason, and a summary.
type testWriter struct {
	b       strings.Builder
	colours palette
	all     bool
}

func (w *testWriter) line(format string, args ...any) {
	fmt.Fprintf(&w.b, format, args...)
	w.b.WriteByte('\n')
}

func (w *testWriter) report(r *testReport, coverage bool) {
	for i := range r.Tests {
		if t := &r.Tests[i]; w.all || t.Outcome != policytest.Passed {
			w.test(t)
		}
	}
	if coverage {
		w.coverage(r.Coverage)
	}
	w.line("%s", summaryOf(r))
}

func (w *testWriter) test(t *testResult) {
	at := w.colours.dim(fmt.Sprintf("%s:%d", t.File, t.Line))
	name := printable(t.Name)
	switch t.Outcome {
	case policytest.Passed:
		w.line("%s     %s  %s", w.colours.green("PASS"), name, at)
		return
	case policytest.Unknown:
		w.line("%s  %s  %s", w.colours.yellow("UNKNOWN"), w.colours.bold(name), at)
	case policytest.Failed:
		w.line("%s     %s  %s", w.colours.red("FAIL"), w.colours.bold(name), at)
	}
	w.line("    %s", printable(t.Request))
	for _, m := range t.Mismatches {
		w.line("  %s", w.colours.red("- want "+m.Field+" "+printable(m.Want)))
		w.line("  %s", w.colours.green("+ got  "+m.Field+" "+printable(m.Got)))
	}
	for _, open := range t.Open {
		w.line("  ? %s", printable(open))
	}
	for _, why := range t.Why {
		w.line("    %s", printable(why))
	}
	w.line("")
}

// summaryOf is the report in one line.
func summaryOf(r *testReport) string {
	n := &r.Counts
	parts := []string{fmt.Sprintf("%d passed", n.Passed)}
	for _, other := range []struct {
		count int
		word  string
	}{{n.Failed, "failed"}, {n.Unknown, "unknown"}, {n.NotRun, "not run"}} {
		if other.count > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", other.count, other.word))
		}
	}
	took := time.Duration(r.Seconds * float64(time.Second)).Round(time.Millisecond)
	return fmt.Sprintf("%s: %s in %v", plural(len(r.Tests)+n.NotRun, "test"), strings.Join(parts, ", "), took)
}

// percent is rounded down: only what is covered in full is 100 %.
func percent(p float64) string { return fmt.Sprintf("%.1f %%", math.Floor(p*10)/10) }

// coverage lists what no test exercises.
func (w *testWriter) coverage(r *policy.CoverageReport) {
	for _, g := range allGaps(r) {
		w.line("%s: %s", w.colours.bold(fmt.Sprintf("%s:%d", g.file, g.line)), printable(g.text))
	}
	w.line("%s", coverageSummary(r))
}

// coverageSummary is the coverage in one line.
func coverageSummary(r *policy.CoverageReport) string {
	parts := []string{ratio(r.Policies, "policies"), ratio(r.Rules, "rules")}
	if r.Authentications.All > 0 {
		parts = append(parts, ratio(r.Authentications, "authentications"))
	}
	return fmt.Sprintf("coverage %s: %s", percent(r.Percent), strings.Join(append(parts, ratio(r.Branches, "branches")), ", "))
}

// allGaps lists what no test exercises, with the name of the document.
func allGaps(r *policy.CoverageReport) []gap {
	var gaps []gap
	for i := range r.Policy {
		p := &r.Policy[i]
		for _, g := range gapsOf(p) {
			gaps = append(gaps, gap{p.File, g.line, policyWords(p) + " " + g.text})
		}
	}
	for i := range r.Authentication {
		a := &r.Authentication[i]
		for _, g := range authenticationGaps(a) {
			gaps = append(gaps, gap{a.File, g.line, a.Kind + " " + a.Name + " " + g.text})
		}
	}
	return gaps
}

func policyWords(p *policy.PolicyCoverage) string {
	action := p.Action.String()
	if p.DryRun {
		action += " (dry run)"
	}
	return action + " " + printable(p.Policy)
}

func ratio(c policy.Count, noun string) string {
	return fmt.Sprintf("%d of %d %s", c.Covered, c.All, noun)
}

// gap is something that no test exercises.
type gap struct {
	file string // where it is not clear already
	line int
	text string
}

// gapsOf are the gaps of one policy. What is missing of a rule that never matched goes without saying.
func gapsOf(p *policy.PolicyCoverage) []gap {
	if len(p.Rules) == 0 && p.Asked == 0 {
		return []gap{{line: p.Line, text: "no test asks it"}}
	}
	var gaps []gap
	for i := range p.Rules {
		rule := &p.Rules[i]
		name := fmt.Sprintf("rule %d", rule.Index)
		if rule.Matched == 0 {
			gaps = append(gaps, gap{line: rule.Line, text: name + " is never matched" + shadowWords(rule.Shadow)})
			continue
		}
		for j := range rule.Branches {
			if b := &rule.Branches[j]; b.Hits == 0 {
				gaps = append(gaps, gap{line: b.Line, text: name + ": " + branchWords(b)})
			}
		}
	}
	return gaps
}

// authenticationGaps are the gaps of one RequestAuthentication or PeerAuthentication.
func authenticationGaps(a *policy.AuthenticationCoverage) []gap {
	if a.Points.Covered == 0 {
		return []gap{{line: a.Line, text: "counts for no test"}}
	}
	var gaps []gap
	for i := range a.Parts {
		part := &a.Parts[i]
		for j := range part.Branches {
			if b := &part.Branches[j]; b.Hits == 0 {
				gaps = append(gaps, gap{line: b.Line, text: part.Part + ": " + authenticationWords(part, b)})
			}
		}
	}
	return gaps
}

// authenticationWords says what no test shows of a token rule or a mode.
func authenticationWords(part *policy.PartCoverage, b *policy.BranchCoverage) string {
	switch b.Kind {
	case policy.BranchGoodToken:
		return "no test has a token that it takes"
	case policy.BranchRefusedToken:
		return "no test has a token that it refuses"
	case policy.BranchNoToken:
		return "no test comes without a token"
	case policy.BranchTokenPlace:
		return "no test has a token in " + b.Value
	case policy.BranchPlaintext:
		return "no test comes without an identity, under " + part.About
	default:
		return "no test comes with an identity, under " + part.About
	}
}

// branchWords says what no test shows of a branch.
func branchWords(b *policy.BranchCoverage) string {
	switch b.Kind {
	case policy.BranchExcludes:
		return fmt.Sprintf("%s %q keeps out no test by itself", b.Field, b.Value)
	case policy.BranchLetsPass:
		return b.Field + " lets no test pass"
	default:
		return fmt.Sprintf("%s %q matches no test", b.Field, b.Value)
	}
}

func shadowWords(s *policy.Shadow) string {
	switch {
	case s == nil:
		return ""
	case s.Always:
		return fmt.Sprintf(": it is dead, rule %d of %s denies all that it would match", s.Rule, s.Policy)
	case s.Requests == 1:
		return fmt.Sprintf(": rule %d of %s denied the 1 test that it would match", s.Rule, s.Policy)
	}
	return fmt.Sprintf(": rule %d of %s denied the %d tests that it would match", s.Rule, s.Policy, s.Requests)
}
