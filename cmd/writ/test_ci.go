package main

import (
	"encoding/xml"
	"fmt"
	"io"
	"strings"

	"github.com/writ-auth/writ/internal/policytest"
)

// The report as CI systems read it: the schema of Jenkins' xUnit plug-in, of which other readers know a part.
type (
	junitSuites struct {
		XMLName  xml.Name     `xml:"testsuites"`
		Name     string       `xml:"name,attr"`
		Tests    int          `xml:"tests,attr"`
		Failures int          `xml:"failures,attr"`
		Errors   int          `xml:"errors,attr"`
		Time     string       `xml:"time,attr"` // seconds
		Suites   []junitSuite `xml:"testsuite"`
	}
	junitSuite struct {
		Name     string      `xml:"name,attr"`
		Tests    int         `xml:"tests,attr"`
		Failures int         `xml:"failures,attr"`
		Errors   int         `xml:"errors,attr"`
		Time     string      `xml:"time,attr"`
		Cases    []junitCase `xml:"testcase"`

		seconds float64
		file    string
	}
	junitCase struct {
		Name    string     `xml:"name,attr"`
		Class   string     `xml:"classname,attr"`
		Time    string     `xml:"time,attr"`
		Error   *junitText `xml:"error"`
		Failure *junitText `xml:"failure"`
	}
	junitText struct {
		Message string `xml:"message,attr"`
		Type    string `xml:"type,attr"`
		Text    string `xml:",chardata"`
	}
)

// seconds is the time of a suite as the schema has it: three digits after the point, no more.
func seconds(s float64) string { return fmt.Sprintf("%.3f", s) }

// writeJUnit writes the report as JUnit XML: a test that cannot be told is an error.
func writeJUnit(w io.Writer, r *testReport) error {
	all := junitSuites{Name: "writ test", Tests: len(r.Tests), Failures: r.Counts.Failed, Errors: r.Counts.Unknown, Time: seconds(r.Seconds)}
	names := junitNames(r)
	for i := range r.Tests {
		t := &r.Tests[i]
		name := names(t)
		if n := len(all.Suites); n == 0 || all.Suites[n-1].file != t.File || all.Suites[n-1].Name != name {
			all.Suites = append(all.Suites, junitSuite{Name: name, file: t.File})
		}
		s := &all.Suites[len(all.Suites)-1]
		c := junitCase{Name: t.short, Class: name, Time: fmt.Sprintf("%.6f", t.took.Seconds())}
		s.Tests++
		s.seconds += t.took.Seconds()
		s.Time = seconds(s.seconds)
		text := &junitText{Message: strings.Join(differences(t), "; "), Type: string(t.Outcome), Text: testDetails(t)}
		switch t.Outcome {
		case policytest.Failed:
			s.Failures++
			c.Failure = text
		case policytest.Unknown:
			s.Errors++
			c.Error = text
		case policytest.Passed:
		}
		s.Cases = append(s.Cases, c)
	}
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	e := xml.NewEncoder(w)
	e.Indent("", "  ")
	if err := e.Encode(&all); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\n")
	return err
}

// junitNames are the names of suites, with that of the file where several files have suites of one name: readers take tests
// of the same suite and name for one.
func junitNames(r *testReport) func(*testResult) string {
	files := map[string]string{}
	several := map[string]bool{}
	for i := range r.Tests {
		t := &r.Tests[i]
		if file, ok := files[t.suite]; ok && file != t.File {
			several[t.suite] = true
		}
		files[t.suite] = t.File
	}
	return func(t *testResult) string {
		if several[t.suite] {
			return t.suite + " (" + t.File + ")"
		}
		return t.suite
	}
}

// differences says in a few words what is wrong with a test.
func differences(t *testResult) []string {
	out := make([]string, 0, len(t.Mismatches)+len(t.Open))
	for _, m := range t.Mismatches {
		out = append(out, fmt.Sprintf("want %s %s, got %s", m.Field, m.Want, m.Got))
	}
	for _, open := range t.Open {
		out = append(out, "cannot tell: "+open)
	}
	return out
}

// testDetails is all that is known of a test that does not pass.
func testDetails(t *testResult) string {
	lines := append([]string{fmt.Sprintf("%s:%d", t.File, t.Line), t.Request}, differences(t)...)
	return strings.Join(append(lines, t.Why...), "\n")
}

// annotateTests prints what does not pass, and what is not covered, as GitHub workflow commands, which annotate the lines
// of a pull request.
func annotateTests(w io.Writer, r *testReport) error {
	for i := range r.Tests {
		t := &r.Tests[i]
		if t.Outcome == policytest.Passed {
			continue
		}
		lines := append(append(differences(t), t.Request), t.Why...)
		for j := range lines {
			lines[j] = printable(lines[j])
		}
		if err := annotate(w, "error", t.File, t.Line, t.column, printable(t.Name), strings.Join(lines, "\n")); err != nil {
			return err
		}
	}
	if r.Coverage != nil {
		for _, g := range allGaps(r.Coverage) {
			if err := annotate(w, "warning", g.file, g.line, 1, "not covered", printable(g.text)); err != nil {
				return err
			}
		}
		if _, err := fmt.Fprintln(w, coverageSummary(r.Coverage)); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintln(w, summaryOf(r))
	return err
}

// annotate writes one workflow command.
func annotate(w io.Writer, severity, file string, line, column int, title, text string) error {
	data := strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A")
	property := strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A", ":", "%3A", ",", "%2C")
	at := "file=" + property.Replace(file)
	if line > 0 {
		at += fmt.Sprintf(",line=%d,col=%d", line, max(column, 1))
	}
	_, err := fmt.Fprintf(w, "::%s %s,title=%s::%s\n", severity, at, property.Replace(title), data.Replace(text))
	return err
}
