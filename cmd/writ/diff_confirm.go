package main

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/authz/extauthz"
	"github.com/writ-auth/writ/internal/policytest"
	"github.com/writ-auth/writ/policy"
	"github.com/writ-auth/writ/policy/analysis"
)

// diffServer answers examples as the server would, with all of its code: from the bytes of a CheckRequest to the decision.
type diffServer struct {
	sides     [2]*policytest.Runner
	providers [2]map[string]string // those that the documents name; all agree
	hops      int                  // authz.trusted_hops
}

// newDiffServer makes a server of each of the two sets.
func newDiffServer(docs [2][]*policy.Document, mesh policy.Mesh, settings *authzConfig) (*diffServer, error) {
	s := &diffServer{hops: settings.TrustedHops}
	for i := range docs {
		s.providers[i] = map[string]string{}
		cfg := policytest.Config{
			Documents: docs[i], Mesh: mesh, TrustedHops: settings.TrustedHops, Paths: extauthz.PathMode(settings.Paths), Tokens: authz.TokenMode(settings.JWT),
		}
		for _, name := range providersOf(docs[i]) {
			if authz.IsProviderName(name) {
				cfg.Remote = append(cfg.Remote, authz.ProviderConfig{Name: name})
				s.providers[i][name] = string(policytest.AnswerAllow)
			}
		}
		var err error
		if s.sides[i], err = policytest.New(cfg); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// confirm has every example decided under both sets. Differences whose example is decided otherwise are not shown: they
// are UNKNOWN. It returns the tests of those that are left, nil for an example that a test file has no words for: that one
// is confirmed by the evaluator of policies alone.
func (s *diffServer) confirm(ctx context.Context, found *analysis.Report) (tests []*diffTest, err error) {
	kept := found.Differences[:0]
	for i := range found.Differences {
		d := &found.Differences[i]
		test, refuted, err := s.ask(ctx, d, len(kept)+1)
		if err != nil {
			return nil, err
		}
		if refuted != "" {
			found.Unknown = append(found.Unknown, analysis.Unknown{Workloads: d.Workloads, Reason: fmt.Sprintf(
				"requests were taken to be %s before and %s after, and the example is not: %s: %s", d.Old, d.New, exampleOf(&d.Witness.Request), refuted)})
			continue
		}
		kept, tests = append(kept, *d), append(tests, test)
	}
	found.Differences = kept
	return tests, nil
}

// ask decides one example under both sets, and says in refuted where an answer is not what the difference says.
func (s *diffServer) ask(ctx context.Context, d *analysis.Difference, number int) (test *diffTest, refuted string, err error) {
	if from := d.Witness.Request.From; from != "" && !strings.HasPrefix(from, "spiffe://") { // test files know no other names
		return nil, "", nil
	}
	for i := range s.sides {
		test = s.test(number, d, i)
		c := caseOf(test)
		if c == nil {
			return nil, "", nil
		}
		result, err := s.sides[i].Run(ctx, c)
		if err != nil {
			return nil, "", err
		}
		if result.Outcome != policytest.Passed {
			return nil, fmt.Sprintf("%s by %s", []string{"the old documents", "the new documents"}[i], mismatch(result)), nil
		}
	}
	return test, "", nil
}

// mismatch is what is the case instead of what was expected.
func mismatch(r *policytest.Result) string {
	parts := slices.Clone(r.Open)
	for _, m := range r.Mismatches {
		parts = append(parts, m.Field+" "+m.Got)
	}
	return strings.Join(parts, ", ")
}

// caseOf is a test as writ test reads it, nil if it does not.
func caseOf(t *diffTest) *policytest.Case {
	var text bytes.Buffer
	if err := encodeYAML(&text, diffTestFile{APIVersion: policytest.APIVersion, Kind: policytest.Kind, Tests: []diffTest{*t}}); err != nil {
		return nil
	}
	suites, problems := policytest.Decoder{}.Decode("diff_test.yaml", text.Bytes())
	if len(problems) > 0 || len(suites) != 1 || len(suites[0].Cases) != 1 {
		return nil
	}
	return &suites[0].Cases[0]
}
