package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/writ-auth/writ/policy"
)

// maxExcerpt bounds the source line shown with a problem, in characters.
const maxExcerpt = 120

// sortProblems orders problems as a reader meets them: by file, then by place.
func sortProblems(problems []policy.Problem) {
	slices.SortStableFunc(problems, func(a, b policy.Problem) int { return compareProblems(&a, &b) })
}

func compareProblems(a, b *policy.Problem) int {
	return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column),
		cmp.Compare(b.Severity, a.Severity), cmp.Compare(a.Code, b.Code))
}

// countProblems counts problems by the word of their severity.
func countProblems(problems []policy.Problem) map[string]int {
	counts := map[string]int{}
	for _, p := range problems {
		counts[p.Severity.String()]++
	}
	return counts
}

// problemWriter shows problems to people, each with the line it is about.
type problemWriter struct {
	w       io.Writer
	colours palette
	sources sources
}

func (pw *problemWriter) write(problems []policy.Problem) error {
	for i := range problems {
		if i > 0 {
			if _, err := fmt.Fprintln(pw.w); err != nil {
				return err
			}
		}
		if err := pw.one(&problems[i]); err != nil {
			return err
		}
	}
	return nil
}

func (pw *problemWriter) one(p *policy.Problem) error {
	var b strings.Builder
	b.WriteString(pw.colours.bold(place(p)) + ": " + pw.severity(p.Severity) + " " + p.Code + ": ")
	if p.Object.Name != "" || p.Object.Kind != "" {
		b.WriteString(printable(p.Object.String()) + ": ")
	}
	if p.Field != "" {
		b.WriteString(printable(p.Field) + ": ")
	}
	b.WriteString(printable(p.Message) + "\n")
	if line, ok := pw.sources.line(p.File, p.Line); ok {
		pw.excerpt(&b, line, p)
	}
	if p.Hint != "" {
		b.WriteString("      = " + pw.colours.cyan("hint") + ": " + printable(p.Hint) + "\n")
	}
	_, err := io.WriteString(pw.w, b.String())
	return err
}

// excerpt shows the source line with a caret under the column of the problem.
func (pw *problemWriter) excerpt(b *strings.Builder, line string, p *policy.Problem) {
	runes := []rune(strings.ReplaceAll(line, "\t", " "))
	column := min(max(p.Column, 1), len(runes)+1)
	start := 0
	if column > maxExcerpt*2/3 { // show the part around the column of a very long line
		start = column - maxExcerpt/2
	}
	end := min(len(runes), start+maxExcerpt)
	shown := printable(string(runes[start:end]))
	before := utf8.RuneCountInString(printable(string(runes[start : column-1])))
	fmt.Fprintf(b, "%s%s\n", pw.colours.dim(fmt.Sprintf("%5d | ", p.Line)), shown)
	if p.Column > 0 {
		fmt.Fprintf(b, "%s%s%s\n", pw.colours.dim("      | "), strings.Repeat(" ", before), pw.colours.yellow("^"))
	}
}

func (pw *problemWriter) severity(s policy.Severity) string {
	switch s {
	case policy.SeverityInfo:
		return pw.colours.cyan("info")
	case policy.SeverityWarning:
		return pw.colours.yellow("warning")
	default:
		return pw.colours.red("error")
	}
}

func place(p *policy.Problem) string {
	switch {
	case p.Line == 0:
		return p.File
	case p.Column == 0:
		return fmt.Sprintf("%s:%d", p.File, p.Line)
	}
	return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column)
}

// sources finds the lines of documents again. Files that were read from a pipe are kept in it.
type sources map[string][]string

func (s sources) line(file string, n int) (string, bool) {
	lines, ok := s[file]
	if !ok {
		if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() { // a pipe would keep the reader waiting
			if data, err := readBounded(file, maxSourceBytes); err == nil {
				lines = strings.Split(string(data), "\n")
			}
		}
		s[file] = lines
	}
	if n < 1 || n > len(lines) {
		return "", false
	}
	return strings.TrimRight(lines[n-1], "\r"), true
}

// writeGitHub prints problems as GitHub workflow commands, which annotate the lines of a pull request.
func writeGitHub(w io.Writer, problems []policy.Problem) error {
	command := map[policy.Severity]string{policy.SeverityInfo: "notice", policy.SeverityWarning: "warning", policy.SeverityError: "error"}
	for i := range problems {
		p := &problems[i]
		text := ""
		if p.Object != (policy.Object{}) {
			text = p.Object.String() + ": "
		}
		if p.Field != "" {
			text += p.Field + ": "
		}
		text += p.Message
		if p.Hint != "" {
			text += " (" + p.Hint + ")"
		}
		if err := annotate(w, command[p.Severity], p.File, p.Line, p.Column, p.Code, printable(text)); err != nil {
			return err
		}
	}
	return nil
}
