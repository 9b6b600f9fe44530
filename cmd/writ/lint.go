package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/writ-auth/writ/policy"
	"github.com/writ-auth/writ/policy/analysis"
)

// lintReport is the answer of lint.
type lintReport struct {
	Problems  []policy.Problem `json:"problems"`
	Documents int              `json:"documents"`
	Counts    map[string]int   `json:"counts"` // of problems by severity
}

func (c *cli) lint() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "lint PATH…",
		Short: "Find what is wrong or risky in documents",
		Long: "lint reads Istio documents (files, directories, or - for standard input) and lists what is invalid, as Istio's\n" +
			"own admission would find it, and what is valid but dangerous. Every finding has a code that docs/lint.md explains.\n\n" +
			"Exit codes: 0 nothing at or above --fail-on, 5 findings, 1 a path cannot be read.",
		Example: "  writ lint ./policies\n  kubectl get authorizationpolicy -A -o yaml | writ lint -",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("lint: which documents? writ lint ./policies, or - for standard input")
			}
			return nil
		},
	}
	out := addOutput(cmd, "github")
	failOn := cmd.Flags().String("fail-on", "error", "exit 5 from this `severity` on: error, warning, info or never")
	configFile := cmd.Flags().StringP("config", "c", "", "configuration `file` to take the trust domain and root namespace from")
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		least, err := parseFailOn(*failOn)
		if err != nil {
			return err
		}
		if err := onceStdin(args...); err != nil {
			return err
		}
		mesh, err := c.meshOf(*configFile)
		if err != nil {
			return err
		}
		docs, kept, err := c.readDocuments(args)
		if err != nil {
			return err
		}
		report := lintReport{Problems: findings(docs, mesh), Documents: len(docs)}
		report.Counts = countProblems(report.Problems)
		if err := c.writeLint(out, &report, kept); err != nil {
			return err
		}
		if slices.ContainsFunc(report.Problems, func(p policy.Problem) bool { return p.Severity >= least }) {
			return exitWith(exitFindings)
		}
		return nil
	}
	return cmd
}

// meshOf is the mesh that a configuration file describes, or the default one.
func (c *cli) meshOf(configFile string) (policy.Mesh, error) {
	if configFile == "" {
		return defaultConfig().mesh(), nil
	}
	cfg, err := c.loadConfig(configFile, nil)
	if err != nil {
		return policy.Mesh{}, err
	}
	return cfg.mesh(), nil
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
func findings(docs []*policy.Document, mesh policy.Mesh) []policy.Problem {
	problems := append(policy.NewSnapshot(docs, mesh).Problems(), analysis.Lint(docs, mesh)...)
	sortProblems(problems)
	return slices.CompactFunc(problems, func(a, b policy.Problem) bool { return a == b })
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

func (c *cli) writeLint(out *format, report *lintReport, kept sources) error {
	switch out.value {
	case "text":
	case "github":
		return writeGitHub(c.out, report.Problems)
	default:
		if report.Problems == nil {
			report.Problems = []policy.Problem{}
		}
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
	if len(r.Problems) == 0 {
		return plural(r.Documents, "document") + ": nothing to report"
	}
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
	return plural(r.Documents, "document") + ": " + strings.Join(parts, ", ")
}
