package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"time"

	"github.com/spf13/cobra"

	"github.com/writ-auth/writ/internal/policytest"
	"github.com/writ-auth/writ/policy"
)

// testFlags are the flags of test.
type testFlags struct {
	config, run, html     string
	all, failFast, watch  bool
	coverage              bool
	minimum               float64 // percent, negative when not given
	only                  *regexp.Regexp
	out                   *format
	paths                 []string
	suggest               func(string, []string) string
	coverageReportToPrint bool

	inputs []string // what the last run read besides paths, for --watch
}

func (c *cli) test() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "test PATH…",
		Short: "Run tests of policies, with coverage",
		Long: "test runs the tests in files named *_test.yaml: requests, and what is to be answered to them. The documents are those\n" +
			"beside each file, unless it names others. Requests are decided by the code the server runs. docs/testing.md describes\n" +
			"the files.\n\n" +
			"Exit codes: 0 all tests pass, 4 one fails, there is none, or the coverage is below --coverage-min, 3 a test file or a\n" +
			"document is invalid, 6 none fails and of one that cannot be told.",
		Example: "  writ test ./policies\n" +
			"  writ test ./policies --coverage-min 90 --coverage-html coverage.html\n" +
			"  writ test ./policies -o junit > report.xml",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("test: which tests? writ test ./policies")
			}
			return nil
		},
	}
	t := &testFlags{suggest: didYouMean, out: addOutput(cmd, "junit", "github")}
	f := cmd.Flags()
	f.StringVarP(&t.config, "config", "c", "", "configuration `file` to take the trust domain, providers and the rest from")
	f.StringVar(&t.run, "run", "", "run only the tests whose suite/name matches this `regexp`")
	f.BoolVar(&t.all, "all", false, "list the tests that pass as well")
	f.BoolVar(&t.failFast, "fail-fast", false, "stop at the first test that does not pass")
	f.BoolVar(&t.watch, "watch", false, "run again whenever a file changes, until interrupted")
	f.BoolVar(&t.coverage, "coverage", false, "say which policies, rules and values no test exercises")
	f.StringVar(&t.html, "coverage-html", "", "write the coverage as a page to this `file`")
	f.Float64Var(&t.minimum, "coverage-min", -1, "exit 4 when the coverage is below this `percent`")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		t.paths = args
		if err := t.check(cmd); err != nil {
			return err
		}
		if t.watch {
			return c.watchTests(cmd.Context(), t)
		}
		return c.testOnce(cmd.Context(), t)
	}
	return cmd
}

// check refuses command lines that cannot be meant.
func (t *testFlags) check(cmd *cobra.Command) error {
	var err error
	if t.only, err = regexp.Compile(t.run); err != nil {
		return usagef("--run %q: %w", t.run, err)
	}
	if cmd.Flags().Changed("coverage-min") && (!(t.minimum >= 0 && t.minimum <= 100)) {
		return usagef("--coverage-min %v: want 0 to 100", t.minimum)
	}
	if t.watch && t.out.value != "text" {
		return usagef("--watch is for people: leave out -o %s", t.out.value)
	}
	t.coverageReportToPrint = t.coverage || t.minimum >= 0
	t.coverage = t.coverageReportToPrint || t.html != ""
	return nil
}

// testReport is the answer of test.
type testReport struct {
	Tests    []testResult           `json:"tests"`
	Counts   testCounts             `json:"counts"`
	Seconds  float64                `json:"seconds"`
	Coverage *policy.CoverageReport `json:"coverage,omitempty"`
}

// testCounts counts tests by what became of them.
type testCounts struct {
	Passed  int `json:"passed"`
	Failed  int `json:"failed"`
	Unknown int `json:"unknown"`
	NotRun  int `json:"not_run"` // after --fail-fast
}

// testResult is what became of one test.
type testResult struct {
	Name       string                `json:"name"` // suite/name
	File       string                `json:"file"`
	Line       int                   `json:"line"`
	Outcome    policytest.Outcome    `json:"outcome"`
	Mismatches []policytest.Mismatch `json:"mismatches,omitempty"`
	Open       []string              `json:"open,omitempty"` // what an unknown one leaves open
	Request    string                `json:"request"`
	Why        []string              `json:"why,omitempty"` // of one that failed: the reason of the answer, and the nearest miss
	Answer     *answer               `json:"answer"`

	suite, short string
	took         time.Duration
	column       int
}

// testOnce runs the tests, reports, and ends with the exit code for what became of them.
func (c *cli) testOnce(ctx context.Context, t *testFlags) error {
	report, err := c.runTests(ctx, t)
	if err != nil {
		return err
	}
	if err := c.writeTests(t, report); err != nil {
		return err
	}
	if t.html != "" {
		if err := writeFileWith(t.html, func(w io.Writer) error { return writeCoverageHTML(w, report.Coverage) }); err != nil {
			return fmt.Errorf("--coverage-html: %w", err)
		}
	}
	switch n := &report.Counts; {
	case t.minimum >= 0 && report.Coverage.Percent < t.minimum:
		return &exitError{code: exitTests, err: fmt.Errorf("the coverage is %s, --coverage-min is %v %%", percent(report.Coverage.Percent), t.minimum)}
	case n.Failed > 0:
		return exitWith(exitTests)
	case n.Unknown > 0:
		return exitWith(exitUnknown)
	}
	return nil
}

// runTests reads test files and documents, and runs the tests.
func (c *cli) runTests(ctx context.Context, t *testFlags) (*testReport, error) {
	started := time.Now()
	tr, err := c.newTestRun(ctx, t)
	if err != nil {
		return nil, err
	}
	defer tr.close()
	suites, err := tr.suites(t.paths)
	if err != nil {
		return nil, err
	}
	report := &testReport{Tests: []testResult{}}
	n := &report.Counts
	for _, s := range suites {
		for i := range s.Cases {
			if !t.only.MatchString(s.Cases[i].ID()) {
				continue
			}
			if t.failFast && n.Failed+n.Unknown > 0 {
				n.NotRun++
				continue
			}
			if err := tr.run(ctx, s, &s.Cases[i], report); err != nil {
				return nil, err
			}
		}
	}
	if len(report.Tests) == 0 {
		return nil, &exitError{code: exitTests, err: fmt.Errorf("no test matches --run %q: nothing was tried", t.run)}
	}
	if tr.coverage != nil {
		report.Coverage = tr.coverage.Report()
	}
	report.Seconds = time.Since(started).Seconds()
	return report, nil
}

// writeFileWith makes a file of what write writes.
func writeFileWith(path string, write func(io.Writer) error) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}
