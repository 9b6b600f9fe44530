package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/authz/extauthz"
	"github.com/writ-auth/writ/authz/provider"
	"github.com/writ-auth/writ/internal/policytest"
	"github.com/writ-auth/writ/policy"
)

// maxExplained bounds how many policies are looked at to explain failures with the nearest miss, which takes far longer
// than a test does.
const maxExplained = 20_000

// testRun is what one run of tests is done with.
type testRun struct {
	cli       *cli
	flags     *testFlags
	config    *config
	providers []authz.ProviderConfig // embedded
	remote    []authz.ProviderConfig
	embedded  *providers                    // what providers are of
	deciding  *policytest.Runner            // the one that runs a test
	runners   map[string]*policytest.Runner // by the paths of the documents
	coverage  *policy.Coverage              // nil when it is not asked for
	answers   answers
	explained int      // policies
	files     []string // of tests
	told      []string // files of which it was said that their tests are not run
}

func (c *cli) newTestRun(ctx context.Context, t *testFlags) (*testRun, error) {
	tr := &testRun{cli: c, flags: t, config: defaultConfig(), runners: map[string]*policytest.Runner{}}
	if t.coverage {
		tr.coverage = policy.NewCoverage()
	}
	t.inputs = nil
	if t.config != "" {
		t.inputs = append(t.inputs, t.config)
		loaded, err := c.loadConfig(t.config, nil)
		if err != nil {
			return nil, err
		}
		tr.config = loaded
	}
	if tr.config.Authz == nil {
		tr.config.Authz = &authzConfig{}
		tr.config.Authz.defaults()
	}
	if err := tr.makeProviders(ctx); err != nil {
		tr.close()
		return nil, err
	}
	return tr, nil
}

// makeProviders loads the Rego that the configuration names. Who is somewhere else is not asked: tests say what it
// answers.
func (tr *testRun) makeProviders(ctx context.Context) error {
	here := *tr.config.Authz
	here.Providers, here.ExtensionProviders = nil, nil
	for _, p := range tr.config.Authz.Providers {
		if p.OPA != nil {
			here.Providers = append(here.Providers, p)
			continue
		}
		tr.remote = append(tr.remote, authz.ProviderConfig{
			Name: p.Name, FailOpen: p.FailOpen, StatusOnError: p.StatusOnError, AllowHeaders: p.AllowHeaders, HTTPOnly: p.HTTP != nil,
		})
	}
	for i := range tr.config.Authz.ExtensionProviders {
		e, err := provider.ParseExtension(tr.config.Authz.ExtensionProviders[i].text)
		if err != nil {
			return invalidf("authz.extension_providers[%d]: %w", i, err)
		}
		tr.remote = append(tr.remote, authz.ProviderConfig{
			Name: e.Name, FailOpen: e.FailOpen, StatusOnError: e.StatusOnError, HTTPOnly: e.HTTP != nil,
		})
	}
	embedded, err := newProviders(&here, slog.New(newPrintHandler(tr.cli.err)), tr.now)
	if err != nil {
		return invalidf("%w", err)
	}
	tr.embedded = embedded
	for _, p := range embedded.all {
		if !p.opa.Local() {
			tr.remote = append(tr.remote, p.config)
			continue
		}
		tr.flags.inputs = append(tr.flags.inputs, p.where)
		if err := p.opa.Load(ctx); err != nil {
			return invalidf("provider %s: %w", p.name, err)
		}
		tr.providers = append(tr.providers, p.config)
	}
	return nil
}

// now is the time of the test that runs.
func (tr *testRun) now() time.Time {
	if tr.deciding == nil {
		return time.Now()
	}
	return tr.deciding.Now()
}

func (tr *testRun) close() {
	if tr.embedded != nil {
		tr.embedded.close()
	}
}

// suites reads the test files of all paths. What is wrong with them is written and ends the command.
func (tr *testRun) suites(paths []string) ([]*policytest.Suite, error) {
	files, err := testFiles(paths)
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, &exitError{code: exitTests, err: fmt.Errorf("no file named *_test.yaml in %s: nothing was tried", strings.Join(paths, ", "))}
	}
	tr.files = files
	var suites []*policytest.Suite
	var problems []policytest.Problem
	var empty []string
	for _, file := range files {
		data, err := readBounded(file, policytest.MaxFileBytes)
		if err != nil {
			return nil, err
		}
		read, found := policytest.Decoder{Suggest: tr.flags.suggest}.Decode(file, data)
		problems = append(problems, found...)
		cases := 0
		for i := range read {
			suites = append(suites, &read[i])
			cases += len(read[i].Cases)
		}
		if cases == 0 && len(found) == 0 {
			empty = append(empty, file)
		}
	}
	if err := tr.refuse(problems); err != nil {
		return nil, err
	}
	if len(empty) > 0 { // others may have tests, and this one was meant to have some
		return nil, &exitError{code: exitTests, err: fmt.Errorf("no tests in %s: nothing was tried", strings.Join(empty, ", "))}
	}
	for _, s := range suites {
		tr.flags.inputs = append(tr.flags.inputs, s.Paths()...)
		r, err := tr.runner(s)
		if err != nil {
			return nil, err
		}
		problems = append(problems, r.Check(s, tr.flags.suggest)...)
	}
	return suites, tr.refuse(problems)
}

// refuse writes what is wrong with test files, if anything is.
func (tr *testRun) refuse(problems []policytest.Problem) error {
	if len(problems) == 0 {
		return nil
	}
	for _, p := range problems {
		if tr.flags.out.value == "github" {
			message := p.Message
			if p.Field != "" {
				message = p.Field + ": " + message
			}
			if err := annotate(tr.cli.out, "error", p.File, p.Line, p.Column, "invalid test", printable(message)); err != nil {
				return err
			}
			continue
		}
		if _, err := fmt.Fprintln(tr.cli.err, printable(p.Error())); err != nil {
			return err
		}
	}
	return invalidf("%s in the test files: nothing was tried", plural(len(problems), "error"))
}

// runner is the one for the documents of a suite. Suites of the same documents share one.
func (tr *testRun) runner(s *policytest.Suite) (*policytest.Runner, error) {
	paths := s.Paths()
	key := strings.Join(paths, "\x00")
	if r := tr.runners[key]; r != nil {
		return r, nil
	}
	docs, err := tr.documents(paths)
	switch {
	case errors.Is(err, policy.ErrNoFiles):
		return nil, invalidf("%s: no documents: write policies: in the test file, or put it beside them: %w", s.File, err)
	case errors.Is(err, fs.ErrNotExist):
		return nil, tr.refuse([]policytest.Problem{{File: s.File, Field: "policies", Message: err.Error() + ": want files and directories, relative to this file"}})
	case err != nil:
		return nil, err
	}
	if err := tr.passedOver(docs); err != nil {
		return nil, err
	}
	remote := slices.Clone(tr.remote)
	if tr.flags.config == "" { // whom policies name is configured elsewhere
		for _, name := range providersOf(docs) {
			if authz.IsProviderName(name) {
				remote = append(remote, authz.ProviderConfig{Name: name})
			}
		}
	}
	a := tr.config.Authz
	r, err := policytest.New(policytest.Config{
		Documents: docs, Mesh: tr.config.mesh(), TrustedHops: a.TrustedHops, Paths: extauthz.PathMode(a.Paths), Tokens: authz.TokenMode(a.JWT),
		Providers: tr.providers, Remote: remote, Coverage: tr.coverage,
	})
	tr.runners[key] = r
	return r, err
}

// documents are those that a suite is about. What is wrong with them is written and ends the command.
func (tr *testRun) documents(paths []string) ([]*policy.Document, error) {
	if tr.flags.out.value != "github" {
		docs, _, err := tr.cli.validDocuments(paths, tr.config.mesh())
		return docs, err
	}
	docs, _, err := tr.cli.readDocuments(paths)
	if err != nil {
		return nil, err
	}
	broken := errorsOf(policy.NewSnapshot(docs, tr.config.mesh()).Problems())
	if len(broken) == 0 {
		return docs, nil
	}
	sortProblems(broken)
	if err := writeGitHub(tr.cli.out, broken); err != nil {
		return nil, err
	}
	return nil, invalidDocuments(broken)
}

// passedOver says which tests among the documents are not run, for nobody looks for tests in a file of that name.
func (tr *testRun) passedOver(docs []*policy.Document) error {
	for _, d := range docs {
		if d.Kind != policy.KindPolicyTest || d.APIVersion != policy.TestAPIVersion || slices.Contains(tr.files, filepath.Clean(d.File)) {
			continue
		}
		if slices.Contains(tr.told, d.File) {
			continue
		}
		tr.told = append(tr.told, d.File)
		const text = "the tests in it are not run: name the file *_test.yaml"
		if tr.flags.out.value == "github" {
			if err := annotate(tr.cli.out, "warning", d.File, d.Line, 1, "not run", text); err != nil {
				return err
			}
			continue
		}
		if _, err := fmt.Fprintf(tr.cli.err, "writ: %s:%d: %s\n", printable(d.File), d.Line, text); err != nil {
			return err
		}
	}
	return nil
}

// run runs one case and adds what became of it to the report.
func (tr *testRun) run(ctx context.Context, s *policytest.Suite, c *policytest.Case, report *testReport) error {
	r, err := tr.runner(s)
	if err != nil {
		return err
	}
	tr.deciding = r
	res, err := r.Run(ctx, c)
	if err != nil {
		return err
	}
	out := testResult{
		Name: c.ID(), suite: c.Suite, short: c.Name, File: c.File, Line: c.Line, column: c.Column, Outcome: res.Outcome,
		Mismatches: res.Mismatches, Open: res.Open, Request: c.Request.String(), Answer: tr.answers.of(&res.Decision), took: res.Took,
	}
	switch res.Outcome {
	case policytest.Passed:
		report.Counts.Passed++
	case policytest.Failed:
		report.Counts.Failed++
		if len(res.Unasked) > 0 { // then it denies, or the outcome would be unknown
			out.Answer = out.Answer.unasked(res.Unasked)
		}
		out.Why = tr.why(r, res, out.Answer)
	case policytest.Unknown:
		report.Counts.Unknown++
		out.Answer = &answer{Decision: "UNKNOWN", Headers: map[string]string{}, Workload: out.Answer.Workload}
	}
	if c.Request.Claims != nil {
		out.Answer.markUnverified()
	}
	report.Tests = append(report.Tests, out)
	return nil
}

// why says in a few lines why a case was answered as it was, and what came nearest to the answer that was expected.
func (tr *testRun) why(r *policytest.Runner, res *policytest.Result, a *answer) []string {
	lines := append([]string{a.because()}, a.notes()...)
	if tr.explained > maxExplained {
		return lines
	}
	trace := r.Explain(res)
	for i := range trace.Policies {
		if trace.Policies[i].Scope.Applies {
			tr.explained++
		}
	}
	withholdTokens(trace)
	return append(lines, missed(a, trace, &res.Case.Expect)...)
}

// missed is the near miss that says most: of the policy that was expected to decide, or of the rules that could have
// let the request pass.
func missed(a *answer, trace *policy.Trace, want *policytest.Expect) []string {
	owner, rule := nearestMiss(a, trace)
	if want.Policy != "" && want.Policy != policytest.None {
		p, why := expectedPolicy(trace, want)
		switch {
		case why != "":
			return []string{why}
		case want.Policy == a.Policy:
		case p.Matched:
			return []string{want.Policy + " matches as well, and something else decided first"}
		default:
			owner, rule = p, nearestRule(p.Rules, want)
		}
	}
	if rule == nil {
		return nil
	}
	lines := []string{fmt.Sprintf("nearest: rule %d of %s, %s away", rule.Index, owner.Policy, plural(rule.Missing, "condition"))}
	if c := onlyMiss(rule); c != nil {
		lines = append(lines, fmt.Sprintf("→ %s: %s", c.Field, why(c)))
	}
	return lines
}

// expectedPolicy finds the policy that was expected to decide. why says why it never could have.
func expectedPolicy(trace *policy.Trace, want *policytest.Expect) (p *policy.PolicyTrace, why string) {
	var known []string
	for i := range trace.Policies {
		known = append(known, trace.Policies[i].Policy)
	}
	i := slices.Index(known, want.Policy)
	if i < 0 {
		return nil, "no policy of the documents is named " + want.Policy + didYouMean(want.Policy, known)
	}
	switch p = &trace.Policies[i]; {
	case !p.Scope.Applies:
		why = want.Policy + " does not apply: " + p.Scope.Reason
	case len(p.Rules) == 0 && want.Rule != nil:
		why = want.Policy + " has no rules"
	case want.Rule != nil && *want.Rule >= len(p.Rules):
		why = fmt.Sprintf("%s has %s, the last is %d", want.Policy, plural(len(p.Rules), "rule"), len(p.Rules)-1)
	}
	return p, why
}

// nearestRule is the rule that was expected, or the one that came nearest to matching; nil when there are none.
func nearestRule(rules []policy.RuleTrace, want *policytest.Expect) *policy.RuleTrace {
	var best *policy.RuleTrace
	for i := range rules {
		switch {
		case want.Rule != nil && rules[i].Index == *want.Rule:
			return &rules[i]
		case best == nil || rules[i].CompareNearness(best) < 0:
			best = &rules[i]
		}
	}
	return best
}
