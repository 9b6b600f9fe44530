package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/writ-auth/writ/policy"
	"github.com/writ-auth/writ/policy/analysis"
)

// The report as code scanning reads it: SARIF 2.1.0 (OASIS, errata 01), of which this is the part that lint has something to
// say to.
type (
	sarifLog struct {
		Schema  string     `json:"$schema"`
		Version string     `json:"version"`
		Runs    []sarifRun `json:"runs"`
	}
	sarifRun struct {
		Tool       sarifTool     `json:"tool"`
		ColumnKind string        `json:"columnKind"`
		Results    []sarifResult `json:"results"`
	}
	sarifTool struct {
		Driver sarifDriver `json:"driver"`
	}
	sarifDriver struct {
		Name    string      `json:"name"`
		Version string      `json:"version"`
		Rules   []sarifRule `json:"rules"`
	}
	sarifRule struct {
		ID      string      `json:"id"`
		Short   sarifText   `json:"shortDescription"`
		Full    *sarifText  `json:"fullDescription,omitempty"`
		Default sarifConfig `json:"defaultConfiguration"`
	}
	sarifConfig struct {
		Level string `json:"level"`
	}
	sarifText struct {
		Text string `json:"text"`
	}
	sarifResult struct {
		RuleID       string             `json:"ruleId"`
		RuleIndex    int                `json:"ruleIndex"`
		Level        string             `json:"level"`
		Message      sarifText          `json:"message"`
		Locations    []sarifLocation    `json:"locations"`
		Fingerprints map[string]string  `json:"partialFingerprints"`
		Fixes        []sarifFix         `json:"fixes,omitempty"`
		Suppressions []sarifSuppression `json:"suppressions,omitempty"`
	}
	sarifLocation struct {
		Physical sarifPhysical  `json:"physicalLocation"`
		Logical  []sarifLogical `json:"logicalLocations,omitempty"`
	}
	sarifPhysical struct {
		Artifact sarifArtifact `json:"artifactLocation"`
		Region   *sarifRegion  `json:"region,omitempty"`
	}
	sarifLogical struct {
		Name string `json:"fullyQualifiedName"`
	}
	sarifArtifact struct {
		URI string `json:"uri"`
	}
	sarifRegion struct {
		StartLine   int `json:"startLine"`
		StartColumn int `json:"startColumn,omitempty"`
		EndLine     int `json:"endLine,omitempty"`
		EndColumn   int `json:"endColumn,omitempty"`
	}
	sarifFix struct {
		Description sarifText     `json:"description"`
		Changes     []sarifChange `json:"artifactChanges"`
	}
	sarifChange struct {
		Artifact     sarifArtifact      `json:"artifactLocation"`
		Replacements []sarifReplacement `json:"replacements"`
	}
	sarifReplacement struct {
		Deleted  sarifRegion `json:"deletedRegion"`
		Inserted *sarifText  `json:"insertedContent,omitempty"`
	}
	sarifSuppression struct {
		Kind          string `json:"kind"`
		Status        string `json:"status"`
		Justification string `json:"justification"`
	}
)

// sarifSchema is where the schema is published.
const sarifSchema = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"

// writeSARIF writes the findings, those that are suppressed included, as one run.
func writeSARIF(w io.Writer, r *lintReport) error {
	all := slices.Clone(r.open)
	reasons := map[policy.Problem]string{}
	for i := range r.hidden {
		all = append(all, r.hidden[i].Finding)
		reasons[r.hidden[i].Problem] = r.hidden[i].Reason
		if until := r.Suppressed[i].Until; until != "" {
			reasons[r.hidden[i].Problem] += " (until " + until + ")"
		}
	}
	sortFindings(all)
	driver := sarifDriver{Name: "writ", Version: readBuildInfo().Version, Rules: sarifRules(all)}
	run := sarifRun{Tool: sarifTool{driver}, ColumnKind: "unicodeCodePoints", Results: []sarifResult{}}
	fixes := newFixer(r.docs)
	prints := fingerprints{}
	for i := range all {
		f := &all[i]
		index := slices.IndexFunc(driver.Rules, func(rule sarifRule) bool { return rule.ID == f.Code })
		result := sarifResult{
			RuleID: f.Code, RuleIndex: index, Level: sarifLevel(f.Severity), Message: sarifMessage(&f.Problem), Locations: []sarifLocation{sarifPlace(&f.Problem)},
			Fingerprints: map[string]string{"writFinding/v1": prints.of(&f.Problem)}, Fixes: sarifFixes(fixes, f),
		}
		if reason, ok := reasons[f.Problem]; ok {
			result.Suppressions = []sarifSuppression{{Kind: "inSource", Status: "accepted", Justification: reason}}
			result.Fixes = nil
		}
		run.Results = append(run.Results, result)
	}
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(&sarifLog{sarifSchema, "2.1.0", []sarifRun{run}})
}

// sarifRules are the codes that occur, in order.
func sarifRules(all []analysis.Finding) []sarifRule {
	rules := []sarifRule{}
	for _, c := range append(policy.Codes(), analysis.Codes()...) {
		if !slices.ContainsFunc(all, func(f analysis.Finding) bool { return f.Code == c.Code }) {
			continue
		}
		rule := sarifRule{ID: c.Code, Short: sarifText{c.Title}, Default: sarifConfig{sarifLevel(c.Severity)}}
		if c.Explanation != "" {
			rule.Full = &sarifText{c.Explanation}
		}
		rules = append(rules, rule)
	}
	return rules
}

func sarifLevel(s policy.Severity) string {
	if s == policy.SeverityInfo {
		return "note"
	}
	return s.String()
}

func sarifMessage(p *policy.Problem) sarifText {
	text := p.Message
	if p.Field != "" {
		text = p.Field + ": " + text
	}
	if p.Hint != "" {
		text += " (" + p.Hint + ")"
	}
	return sarifText{text}
}

func sarifPlace(p *policy.Problem) sarifLocation {
	out := sarifLocation{Physical: sarifPhysical{Artifact: sarifFile(p.File)}}
	if p.Line > 0 {
		out.Physical.Region = &sarifRegion{StartLine: p.Line, StartColumn: p.Column}
	}
	if p.Object != (policy.Object{}) {
		out.Logical = []sarifLogical{{p.Object.String()}}
	}
	return out
}

// sarifFile names a file as a URI: relative to where lint was started, or absolute.
func sarifFile(name string) sarifArtifact {
	path := filepath.ToSlash(name)
	if strings.HasPrefix(path, "/") {
		return sarifArtifact{(&url.URL{Scheme: "file", Path: path}).String()}
	}
	return sarifArtifact{(&url.URL{Path: path}).String()}
}

func sarifFixes(x *fixer, f *analysis.Finding) []sarifFix {
	edits := x.edits(f)
	if len(edits) == 0 {
		return nil
	}
	file := x.file(f.File)
	change := sarifChange{Artifact: sarifFile(f.File)}
	for _, t := range edits {
		var r sarifReplacement
		r.Deleted.StartLine, r.Deleted.StartColumn = file.place(t.start)
		r.Deleted.EndLine, r.Deleted.EndColumn = file.place(t.end)
		if t.text != "" {
			r.Inserted = &sarifText{t.text}
		}
		change.Replacements = append(change.Replacements, r)
	}
	return []sarifFix{{Description: sarifText{"what matches stays the same: " + f.Hint}, Changes: []sarifChange{change}}}
}

// fingerprints counts findings that are told apart by nothing but their order.
type fingerprints map[string]int

// positions are what moves when something is added above.
var positions = regexp.MustCompile(`\[\d+\]`)

// of is the same for a finding wherever in its file it stands, and in whichever file: by its code, object, field without
// positions, and message.
func (fs fingerprints) of(p *policy.Problem) string {
	key := strings.Join([]string{p.Code, p.Object.Kind, p.Object.Namespace, p.Object.Name, positions.ReplaceAllString(p.Field, "[]"), p.Message}, "\x00")
	fs[key]++
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%d", key, fs[key]))
	return hex.EncodeToString(sum[:16])
}
