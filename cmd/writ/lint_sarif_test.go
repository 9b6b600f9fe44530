package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/writ-auth/writ/policy"
	"github.com/writ-auth/writ/policy/analysis"
)

// lintFile is what lint finds in a file of this text.
func lintFile(t *testing.T, path, text string, providers *analysis.Providers) *lintReport {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	facts := lintFacts{policy.Mesh{}, providers}
	return lintDocuments(policy.Decode(path, []byte(text)), facts, time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC))
}

// sarif writes a report and reads it back, once the schema has taken it.
func sarif(t *testing.T, r *lintReport) *sarifLog {
	t.Helper()
	var b bytes.Buffer
	if err := writeSARIF(&b, r); err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	compiler.AssertFormat()
	schema, err := compiler.Compile("testdata/schema/sarif-schema-2.1.0.json")
	if err != nil {
		t.Fatal(err)
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(b.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	if err := schema.Validate(value); err != nil {
		t.Fatalf("%v\n%s", err, b.String())
	}
	var log sarifLog
	if err := json.Unmarshal(b.Bytes(), &log); err != nil {
		t.Fatal(err)
	}
	return &log
}

const sarifPolicy = `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: till
  namespace: shop
  annotations:
    writ/lint-ignore: |
      WRIT305 until=2027-01-31 reason=the test server answers "get"
spec:
  rules:
  - to: [{operation: {methods: [get, GET, 'GET'], paths: [/ä/*, /ä/b]}}]
  - from: [{source: {namespaces: [shop], ipBlocks: ["10.1.2.3/8"]}}]
`

// Every kind of report is what the schema demands, with rules, levels, places, fixes and suppressions.
func TestSARIF(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a b.yaml")
	providers := &analysis.Providers{File: "writ.yaml", All: []analysis.Provider{{Name: "opa", Key: "authz.providers[0]", Line: 4, Column: 11}}}
	run := sarif(t, lintFile(t, path, sarifPolicy+"---\nkind: [\n", providers)).Runs[0]
	uri := "file://" + strings.ReplaceAll(filepath.ToSlash(path), " ", "%20")
	var got []string
	for _, r := range run.Results {
		if id := run.Tool.Driver.Rules[r.RuleIndex].ID; id != r.RuleID {
			t.Errorf("%s has the index of %s", r.RuleID, id)
		}
		line := r.RuleID + " " + r.Level
		for _, s := range r.Suppressions {
			line += " suppressed " + s.Kind + ": " + s.Justification
		}
		for _, f := range r.Fixes {
			region := f.Changes[0].Replacements[0].Deleted
			text, _ := json.Marshal([]int{region.StartLine, region.StartColumn, region.EndLine, region.EndColumn})
			line += " fix " + string(text)
		}
		if at := r.Locations[0].Physical; r.RuleID != "WRIT365" && at.Artifact.URI != uri || at.Region == nil || at.Region.StartLine < 1 {
			t.Errorf("%s is at %+v", r.RuleID, at)
		}
		got = append(got, line)
	}
	want := []string{
		`WRIT305 warning suppressed inSource: the test server answers "get" (until 2027-01-31)`,
		"WRIT317 note fix [11,41,11,48]",
		"WRIT317 note fix [11,63,11,69]",
		"WRIT315 note fix [12,54,12,64]",
		"WRIT101 error",
		"WRIT365 note",
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestSARIFOfNothing(t *testing.T) {
	clean := "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a, namespace: shop}\nspec: {rules: [{from: [{source: {namespaces: [shop]}}]}]}\n"
	run := sarif(t, lintFile(t, filepath.Join(t.TempDir(), "a.yaml"), clean, nil)).Runs[0]
	if len(run.Results) != 0 || run.Results == nil || run.Tool.Driver.Rules == nil {
		t.Errorf("got %+v", run)
	}
}

// A finding is the same one when lines and rules are added above it, and two alike are two.
func TestSARIFFingerprints(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.yaml")
	prints := func(text string) []string {
		var out []string
		for _, r := range sarif(t, lintFile(t, path, text, nil)).Runs[0].Results {
			out = append(out, r.RuleID+" "+r.Fingerprints["writFinding/v1"])
		}
		slices.Sort(out)
		return out
	}
	before := prints(sarifPolicy)
	if len(slices.Compact(slices.Clone(before))) != len(before) {
		t.Errorf("two findings have one fingerprint: %q", before)
	}
	moved := "# A new head.\n\n" + strings.Replace(sarifPolicy, "  rules:\n", "  rules:\n  - when: [{key: source.ip, values: [192.0.2.1]}]\n", 1)
	if after := prints(moved); !slices.Equal(before, after) {
		t.Errorf("before\n%q\nafter\n%q", before, after)
	}
}
