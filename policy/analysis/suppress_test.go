package analysis_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/writ-auth/writ/policy"
	"github.com/writ-auth/writ/policy/analysis"
)

// ignoring is a policy with two WRIT305 (rules 0 and 1), and what it says of findings.
func ignoring(lines ...string) string {
	spec := `{rules: [{to: [{operation: {methods: [get]}}]}, {to: [{operation: {methods: [put]}}]}]}`
	return strings.Replace(authz("a", spec), "namespace: shop", fmt.Sprintf("namespace: shop, annotations: {writ/lint-ignore: %q}", strings.Join(lines, "\n")), 1)
}

func TestSuppress(t *testing.T) {
	now := time.Date(2026, 11, 21, 23, 0, 0, 0, time.UTC)
	broken := strings.Replace(ignoring("WRIT125 reason=later"), "{rules:", "{action: deny, rules:", 1)
	both := []string{"WRIT305 spec.rules[0].to[0].operation.methods[0]", "WRIT305 spec.rules[1].to[0].operation.methods[0]"}
	const field = " metadata.annotations[writ/lint-ignore]: "
	tests := []struct {
		name       string
		text       string
		suppressed []string
		said       []string // of suppressions
	}{
		{"all of a code", ignoring("WRIT305 reason=a test server"), both, nil},
		{"one field", ignoring("WRIT305 at=spec.rules[1] reason=a test server"), both[1:], nil},
		{"a field is no beginning of another", ignoring("WRIT305 at=spec.rule reason=x"), nil, []string{"WRIT402" + field + "there is no WRIT305 at spec.rule to suppress (reason given: x)"}},
		{"until today", ignoring("WRIT305 until=2026-11-21 reason=x"), both, nil},
		{"in any order, and blank lines", ignoring("", "  WRIT305 until=2026-12-01  at=spec.rules[0] reason=x = y; z ", ""), both[:1], nil},
		{"expired", ignoring("WRIT305 until=2026-11-20 reason=x"), nil, []string{
			"WRIT401" + field + "the suppression of WRIT305 was good until 2026-11-20: what it suppressed is reported again (reason given: x)"}},
		{"expired, and another that is not", ignoring("WRIT305 until=2026-11-20 reason=x", "WRIT305 reason=y"), both, []string{
			"WRIT401" + field + "the suppression of WRIT305 was good until 2026-11-20: what it suppressed is reported again (reason given: x)"}},
		{"nothing to suppress", ignoring("WRIT305 reason=x", "WRIT301 reason=y"), both, []string{"WRIT402" + field + "there is no WRIT301 to suppress (reason given: y)"}},
		{"an error", broken, nil, []string{"WRIT403" + field + "WRIT125 is an error here, and errors cannot be suppressed (reason given: later)"}},
		{"a broken document has no hazards", strings.Replace(broken, "WRIT125", "WRIT305", 1), nil, nil},
		{"no reason", ignoring("WRIT305"), nil, []string{"WRIT400" + field + "line 1 cannot be read and suppresses nothing: there is no reason"}},
		{"empty reason", ignoring("WRIT305 reason= "), nil, []string{"WRIT400" + field + "line 1 cannot be read and suppresses nothing: the reason is empty"}},
		{"no code", ignoring("WRIT999 reason=x"), nil, []string{"WRIT400" + field + `line 1 cannot be read and suppresses nothing: "WRIT999" is no code`}},
		{"a code in lower case", ignoring("writ305 reason=x"), nil, []string{"WRIT400" + field + `line 1 cannot be read and suppresses nothing: "writ305" is no code, WRIT305 is`}},
		{"two codes", ignoring("WRIT305, WRIT303 reason=x"), nil, []string{"WRIT400" + field + `line 1 cannot be read and suppresses nothing: "WRIT305," is no code, WRIT305 is`}},
		{"a code of suppressions", ignoring("WRIT402 reason=x"), nil, []string{"WRIT400" + field + `line 1 cannot be read and suppresses nothing: "WRIT402" is no code`}},
		{"no date", ignoring("WRIT305 reason=x", "WRIT305 until=tomorrow reason=x"), both, []string{
			"WRIT400" + field + "line 2 cannot be read and suppresses nothing: until=tomorrow is no date such as 2027-01-31"}},
		{"an unknown word", ignoring("WRIT305 because=x"), nil, []string{"WRIT400" + field + `line 1 cannot be read and suppresses nothing: "because" is neither at, until nor reason`}},
		{"what is only known with a configuration", ignoring("WRIT364 reason=x"), nil, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			docs := policy.Decode("test.yaml", []byte(tt.text))
			var findings []analysis.Finding
			for _, p := range policy.NewSnapshot(docs, policy.Mesh{}).Problems() {
				findings = append(findings, analysis.Finding{Problem: p})
			}
			findings = append(findings, analysis.Inspect(docs, policy.Mesh{}, nil)...)
			open, suppressed := analysis.Suppress(docs, findings, nil, now)
			var hidden, said []string
			for _, s := range suppressed {
				hidden = append(hidden, s.Code+" "+s.Field)
			}
			for _, f := range open {
				if f.Code >= "WRIT400" {
					said = append(said, f.Code+" "+f.Field+": "+f.Message)
					if f.Line != 3 || f.Hint == "" || f.File != "test.yaml" {
						t.Errorf("incomplete: %+v", f)
					}
				}
			}
			if !slices.Equal(hidden, tt.suppressed) || !slices.Equal(said, tt.said) {
				t.Errorf("suppressed %q, want %q\nsaid %q, want %q", hidden, tt.suppressed, said, tt.said)
			}
			if len(open)-len(said)+len(suppressed) != len(findings) {
				t.Errorf("%d findings became %d and %d", len(findings), len(open)-len(said), len(suppressed))
			}
		})
	}
}

func TestTooManySuppressions(t *testing.T) {
	docs := policy.Decode("test.yaml", []byte(ignoring(slices.Repeat([]string{"WRIT305 reason=x"}, 101)...)))
	open, _ := analysis.Suppress(docs, nil, nil, time.Now())
	if last := open[len(open)-1]; last.Code != "WRIT400" || !strings.Contains(last.Message, "more than 100 suppressions") {
		t.Errorf("got %v", last)
	}
}
