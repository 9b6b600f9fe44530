package main

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/policy"
)

// coffeeSnapshot has one ALLOW policy with as many rules as asked for; rule n wants path /nN.
func coffeeSnapshot(t *testing.T, rules int) *policy.Snapshot {
	t.Helper()
	var b strings.Builder
	b.WriteString("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: many, namespace: shop}\nspec:\n  rules:\n")
	for n := range rules {
		fmt.Fprintf(&b, "  - to: [{operation: {methods: [GET], paths: [/n%d]}}]\n", n)
	}
	return policy.NewSnapshot(policy.Decode("many.yaml", []byte(b.String())), policy.Mesh{})
}

func explainText(t *testing.T, colours palette, all bool, rules int) string {
	t.Helper()
	snap := coffeeSnapshot(t, rules)
	r := &policy.Request{Method: "POST", HasMethod: true, Path: "/n7", RawPath: "/n7\x1b[2J"}
	w := policy.Workload{Namespace: "shop", Labels: map[string]string{}}
	bound, err := snap.Resolve(w)
	if err != nil {
		t.Fatal(err)
	}
	var d authz.Decision
	new(authz.Engine).Decide(t.Context(), snap, bound, r, &d)
	var out bytes.Buffer
	if err := writeTrace(&out, colours, all, &explanation{answer: new(answers).of(&d), Trace: snap.Explain(w, r)}, r); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestExplainShowsTheNearestOfManyRules(t *testing.T) {
	t.Parallel()
	text := explainText(t, palette{}, false, 40)
	for _, want := range []string{"nearest: rule 7 of shop/many, 1 condition away", `→ methods: "POST" is not "GET"`, "rule 7, line",
		"and 35 rules that missed by more (--all shows them)"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
	if n := strings.Count(text, "✗ rule "); n != maxMissedRules {
		t.Errorf("%d rules shown, want %d", n, maxMissedRules)
	}
	if n := strings.Count(explainText(t, palette{}, true, 40), "✗ rule "); n != 40 {
		t.Errorf("--all shows %d rules, want 40", n)
	}
}

func TestExplainColours(t *testing.T) {
	t.Parallel()
	if text := explainText(t, palette{on: true}, false, 1); !strings.Contains(text, "\x1b[31m") {
		t.Errorf("no red in a denial:\n%q", text)
	}
	if text := explainText(t, palette{}, false, 1); strings.Contains(text, "\x1b") {
		t.Errorf("an escape without colours:\n%q", text)
	}
}

func TestPrintable(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"/orders/7": "/orders/7", "café ☕": "café ☕", "a\x1b[2Jb": `a\x1b[2Jb`, "a\nb": `a\nb`, "\xff": `\xff`, "a\u202eb": `a\u202eb`,
	} {
		if got := printable(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestNearest(t *testing.T) {
	t.Parallel()
	names := []string{"check", "explain", "lint", "status", "serve"}
	for in, want := range map[string]string{
		"chekc": "check", "Check": "check", "explane": "explain", "stauts": "status", "frobnicate": "", "": "", "x": "", "li": "",
		strings.Repeat("check", 100): "",
	} {
		if got := nearest(in, names); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// TestExcerpt shows the right part of a long line, with the caret where the problem is.
func TestExcerpt(t *testing.T) {
	t.Parallel()
	line := strings.Repeat("x", 500) + "WRONG" + strings.Repeat("y", 500)
	var out bytes.Buffer
	pw := &problemWriter{w: &out, sources: sources{"f": {line, "\tkey: 1"}}}
	err := pw.write([]policy.Problem{{Code: "WRIT1", Severity: policy.SeverityError, File: "f", Line: 1, Column: 501, Message: "m"},
		{Code: "WRIT1", File: "f", Line: 2, Column: 2, Message: "m"}, {Code: "WRIT1", File: "absent", Line: 9, Column: 900, Message: "m"}})
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(out.String(), "\n")
	if at := strings.Index(lines[2], "^"); at < 0 || !strings.HasPrefix(lines[1][at:], "WRONG") || len(lines[1]) > maxExcerpt+20 {
		t.Errorf("excerpt:\n%s\n%s", lines[1], lines[2])
	}
	if at := strings.Index(lines[6], "^"); at < 0 || !strings.HasPrefix(lines[5][at:], "key") {
		t.Errorf("excerpt with a tab:\n%s\n%s", lines[5], lines[6])
	}
}
