package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/writ-auth/writ/policy"
	"github.com/writ-auth/writ/policy/analysis"
)

// lintFlags are what a user says besides the paths.
type lintFlags struct {
	failOn    string
	config    string
	fix, diff bool
}

func (c *cli) lint() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "lint PATH…",
		Short: "Find what is wrong or risky in documents",
		Long: "lint reads Istio documents (files, directories, or - for standard input) and lists what is invalid, as Istio's\n" +
			"own admission would find it, and what is valid but dangerous. Every finding has a code that docs/lint.md explains.\n\n" +
			"--fix mends what can be mended without changing any answer, in place; --diff shows what --fix would do.\n\n" +
			"Exit codes: 0 nothing at or above --fail-on (with --diff: nothing to fix), 5 findings, 1 a path cannot be read.",
		Example: "  writ lint ./policies\n  kubectl get authorizationpolicy -A -o yaml | writ lint -\n  writ lint --diff ./policies",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("lint: which documents? writ lint ./policies, or - for standard input")
			}
			return nil
		},
	}
	out := addOutput(cmd, "github", "sarif")
	var flags lintFlags
	cmd.Flags().StringVar(&flags.failOn, "fail-on", "error", "exit 5 from this `severity` on: error, warning, info or never")
	cmd.Flags().StringVarP(&flags.config, "config", "c", "", "configuration `file` to take the trust domain, root namespace and providers from")
	cmd.Flags().BoolVar(&flags.fix, "fix", false, "mend what can be mended without changing any answer, in place")
	cmd.Flags().BoolVar(&flags.diff, "diff", false, "show as a unified diff what --fix would do, and write nothing")
	cmd.RunE = func(_ *cobra.Command, args []string) error { return c.runLint(args, &flags, out) }
	return cmd
}

func (c *cli) runLint(args []string, flags *lintFlags, out *format) error {
	least, err := parseFailOn(flags.failOn)
	if err != nil {
		return err
	}
	if err := onceStdin(args...); err != nil {
		return err
	}
	if (flags.fix || flags.diff) && slices.Contains(args, "-") {
		return usagef("standard input cannot be mended in place: name files or directories")
	}
	if flags.diff && out.value != "text" {
		return usagef("--diff shows changes of text: leave out -o %s (-o sarif has them as fixes)", out.value)
	}
	facts, err := c.lintFacts(flags.config)
	if err != nil {
		return err
	}
	docs, kept, err := c.readDocuments(args)
	if err != nil {
		return err
	}
	now := time.Now()
	if flags.fix || flags.diff {
		fixed, err := mend(docs, facts, now)
		if err != nil {
			return err
		}
		if flags.diff {
			return c.showFixes(fixed)
		}
		if docs, err = c.writeFixes(fixed, docs); err != nil {
			return err
		}
	}
	report := lintDocuments(docs, facts, now)
	if err := c.writeLint(out, report, kept); err != nil {
		return err
	}
	if slices.ContainsFunc(report.Problems, func(p policy.Problem) bool { return p.Severity >= least }) {
		return exitWith(exitFindings)
	}
	return nil
}

// lintDocuments finds what is to be said of documents on a day.
func lintDocuments(docs []*policy.Document, facts lintFacts, now time.Time) *lintReport {
	open, suppressed := analysis.Suppress(docs, findings(docs, facts), facts.providers, now)
	sortFindings(open)
	report := &lintReport{Problems: []policy.Problem{}, Documents: len(docs), docs: docs, open: open, hidden: suppressed}
	for i := range open {
		report.Problems = append(report.Problems, open[i].Problem)
	}
	for i := range suppressed {
		report.Suppressed = append(report.Suppressed, newSuppressedProblem(&suppressed[i]))
	}
	report.Counts = countProblems(report.Problems)
	return report
}

// loadConfig is loadConfig with this process's environment, and the exit code of an invalid file.
func (c *cli) loadConfig(file string, sets []string) (*config, error) {
	cfg, err := loadConfig(file, c.env, sets)
	var invalid configError
	if errors.As(err, &invalid) {
		return nil, invalidf("the configuration is invalid\n%w", err)
	}
	return cfg, err
}

// findings are the problems of the documents themselves and the hazards among them, each once, in reading order.
func findings(docs []*policy.Document, facts lintFacts) []analysis.Finding {
	var all []analysis.Finding
	for _, p := range policy.NewSnapshot(docs, facts.mesh).Problems() {
		all = append(all, analysis.Finding{Problem: p, Fix: analysis.FixOf(p)})
	}
	all = append(all, analysis.Inspect(docs, facts.mesh, facts.providers)...)
	sortFindings(all)
	return slices.CompactFunc(all, func(a, b analysis.Finding) bool { return a.Problem == b.Problem })
}

// sortFindings orders findings as sortProblems does problems.
func sortFindings(all []analysis.Finding) {
	slices.SortStableFunc(all, func(a, b analysis.Finding) int { return compareProblems(&a.Problem, &b.Problem) })
}

// severityNever is above every severity.
const severityNever = policy.SeverityError + 1

func parseFailOn(s string) (policy.Severity, error) {
	if s == "never" {
		return severityNever, nil
	}
	var severity policy.Severity
	if err := severity.UnmarshalText([]byte(s)); err != nil {
		known := []string{"error", "warning", "info", "never"}
		return 0, usagef("--fail-on %q: want %s%s", s, strings.Join(known, ", "), didYouMean(s, known))
	}
	return severity, nil
}

// showFixes writes what would change.
func (c *cli) showFixes(files []fixedFile) error {
	for i := range files {
		if _, err := c.out.Write(files[i].diff()); err != nil {
			return err
		}
	}
	if len(files) == 0 {
		_, err := fmt.Fprintln(c.err, "nothing to fix")
		return err
	}
	return exitWith(exitFindings)
}
