package analysis_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/writ-auth/writ/policy"
	"github.com/writ-auth/writ/policy/analysis"
)

// docs/lint.md has an entry for every code, in order and with its title and severity, and for no other.
func TestLintPage(t *testing.T) {
	page, err := os.ReadFile("../../docs/lint.md")
	if err != nil {
		t.Fatal(err)
	}
	entries := regexp.MustCompile(`(?m)^### (WRIT\d+) (.*)\n\*(\w+)\.\*`).FindAllStringSubmatch(string(page), -1)
	headings := regexp.MustCompile(`(?m)^#+ WRIT`).FindAllString(string(page), -1)
	if len(headings) != len(entries) {
		t.Errorf("%d of %d headings are not of the form \"### CODE title\" with \"*severity.*\" on the next line", len(headings)-len(entries), len(headings))
	}
	var got, want []string
	for _, e := range entries {
		got = append(got, e[1]+" "+e[2]+": "+e[3])
	}
	for _, c := range append(policy.Codes(), analysis.Codes()...) {
		want = append(want, c.Code+" "+c.Title+": "+c.Severity.String())
	}
	for _, w := range want {
		if !slices.Contains(got, w) {
			t.Errorf("docs/lint.md lacks %q", w)
		}
	}
	for _, g := range got {
		if !slices.Contains(want, g) {
			t.Errorf("docs/lint.md has %q, which no table has", g)
		}
	}
	if !slices.IsSorted(got) {
		t.Error("docs/lint.md is not in the order of codes")
	}
}

// Every hazard has cases, and every code is listed once.
func TestEveryHazardHasCases(t *testing.T) {
	tested := map[string]bool{
		"WRIT300": true,                  // TestTooManyFindings
		"WRIT322": true, "WRIT327": true, // TestCovered, TestSearchThatIsNotFinished
		"WRIT363": true, "WRIT364": true, "WRIT365": true, // TestConfiguredProviders
		"WRIT400": true, "WRIT401": true, "WRIT402": true, "WRIT403": true, // TestSuppress
	}
	for _, tt := range slices.Concat(hazardCases, tokenCases, mtlsCases) {
		tested[tt.code] = true
	}
	seen := map[string]bool{}
	for _, c := range append(policy.Codes(), analysis.Codes()...) {
		if seen[c.Code] {
			t.Errorf("%s is listed twice", c.Code)
		}
		seen[c.Code] = true
	}
	for _, c := range analysis.Codes() {
		if !tested[c.Code] {
			t.Errorf("%s has no case", c.Code)
		}
		if c.Title == "" || c.Explanation == "" {
			t.Errorf("%s lacks title or explanation", c.Code)
		}
	}
}

// Every test that docs/semantics.md names exists.
func TestSemanticsPageNamesTests(t *testing.T) {
	page, err := os.ReadFile("../../docs/semantics.md")
	if err != nil {
		t.Fatal(err)
	}
	defined := map[string]bool{}
	declaration := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	err = fs.WalkDir(os.DirFS("../.."), ".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != "." && strings.HasPrefix(d.Name(), "."):
			return fs.SkipDir
		case !strings.HasSuffix(path, "_test.go"):
			return nil
		}
		source, err := os.ReadFile(filepath.Join("../..", path))
		for _, m := range declaration.FindAllStringSubmatch(string(source), -1) {
			defined[m[1]] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	sentences := 0
	for line := range strings.SplitSeq(string(page), "\n") {
		if number, _, ok := strings.Cut(line, ". "); ok && regexp.MustCompile(`^\d+$`).MatchString(number) {
			sentences++
			if number != strconv.Itoa(sentences) {
				t.Errorf("sentence %s stands where %d should", number, sentences)
			}
			if !strings.Contains(line, "`Test") {
				t.Errorf("sentence %s names no test", number)
			}
		}
	}
	for _, m := range regexp.MustCompile("`((?:Test|Fuzz)\\w+)`").FindAllStringSubmatch(string(page), -1) {
		if !defined[m[1]] {
			t.Errorf("docs/semantics.md names %s, which no package has", m[1])
		}
	}
}
