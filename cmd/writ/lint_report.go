package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/writ-auth/writ/policy"
	"github.com/writ-auth/writ/policy/analysis"
)

// lintReport is the answer of lint.
type lintReport struct {
	Problems   []policy.Problem    `json:"problems"`
	Suppressed []suppressedProblem `json:"suppressed,omitempty"`
	Documents  int                 `json:"documents"`
	Counts     map[string]int      `json:"counts"` // of problems by severity

	docs   []*policy.Document
	open   []analysis.Finding // those of Problems
	hidden []analysis.Suppressed
}

// suppressedProblem is a finding that its document says is to be ignored.
type suppressedProblem struct {
	policy.Problem
	Reason string `json:"reason"`
	Until  string `json:"until,omitempty"` // the last day
}

func newSuppressedProblem(s *analysis.Suppressed) suppressedProblem {
	p := suppressedProblem{Problem: s.Problem, Reason: s.Reason}
	if !s.Until.IsZero() {
		p.Until = s.Until.Format(time.DateOnly)
	}
	return p
}

func (c *cli) writeLint(out *format, report *lintReport, kept sources) error {
	switch out.value {
	case "text":
	case "github":
		return writeGitHub(c.out, report.Problems)
	case "sarif":
		return writeSARIF(c.out, report)
	default:
		return out.encode(c.out, report)
	}
	pw := &problemWriter{w: c.out, colours: c.colours(c.out), sources: kept}
	if err := pw.write(report.Problems); err != nil {
		return err
	}
	if len(report.Problems) > 0 {
		if _, err := fmt.Fprintln(c.out); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintln(c.out, summary(report))
	return err
}

func summary(r *lintReport) string {
	var parts []string
	for _, severity := range []string{"error", "warning", "info"} {
		switch n := r.Counts[severity]; {
		case n == 0:
		case severity == "info":
			parts = append(parts, fmt.Sprintf("%d info", n))
		default:
			parts = append(parts, plural(n, severity))
		}
	}
	text := "nothing to report"
	if len(parts) > 0 {
		text = strings.Join(parts, ", ")
	}
	if n := len(r.Suppressed); n > 0 {
		text += fmt.Sprintf("; %d suppressed", n)
	}
	if n := r.fixable(); n > 0 {
		text += fmt.Sprintf("; --fix mends %d", n)
	}
	return plural(r.Documents, "document") + ": " + text
}

// fixable counts the findings that --fix can mend.
func (r *lintReport) fixable() int {
	x := newFixer(r.docs)
	n := 0
	for i := range r.open {
		if len(x.edits(&r.open[i])) > 0 {
			n++
		}
	}
	return n
}
