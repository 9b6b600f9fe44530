package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/writ-auth/writ/internal/policytest"
)

// timeless FILE writes what was last printed to stdout to a file, with the times that runs took taken out of it.
func timeless(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: timeless FILE")
	}
	text := ts.ReadFile("stdout")
	for _, r := range []struct{ pattern, with string }{
		{`(?m) in [0-9.]+[mµn]?s$`, " in TIME"}, {`time="[0-9.]+"`, `time="TIME"`}, {`"seconds": ?[0-9.e-]+`, `"seconds": TIME`},
	} {
		text = regexp.MustCompile(r.pattern).ReplaceAllString(text, r.with)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o600))
}

// TestCoffeeShopPolicies: the coffee shop's policies do what their tests say, and no rule, value or exclusion of them is
// without a test.
func TestCoffeeShopPolicies(t *testing.T) {
	t.Parallel()
	cmd := writ(t, "test", "../../deploy/coffee-shop/policies", "--coverage-min", "100", "-o", "json")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Errorf("%v\n%s\nsee: writ test deploy/coffee-shop/policies --coverage", err, stderr.Bytes())
	}
	var report struct {
		Counts testCounts `json:"counts"`
	}
	if err := json.Unmarshal(out, &report); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if n := report.Counts; n.Passed < 50 || n.Failed+n.Unknown > 0 {
		t.Errorf("%+v", n)
	}
}

// TestTestingDocs: the test file of the page can be read.
func TestTestingDocs(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/testing.md")
	if err != nil {
		t.Fatal(err)
	}
	_, example, _ := strings.Cut(string(page), "```yaml\n")
	example, _, _ = strings.Cut(example, "```")
	if suites, problems := (policytest.Decoder{}).Decode("order_test.yaml", []byte(example)); len(problems) > 0 || len(suites) != 1 {
		t.Errorf("the example: %v", problems)
	}
}

// element is what the JUnit schema (Jenkins' xUnit plug-in, junit-10.xsd) says of one element: its attributes, a "!"
// before those that are required, and its children.
type element struct {
	attributes, children []string
	text                 bool
}

func junitSchema() map[string]element {
	finding := element{attributes: []string{"message", "type"}, text: true}
	return map[string]element{
		"testsuites": {attributes: []string{"name", "time", "tests", "failures", "disabled", "errors"}, children: []string{"testsuite"}},
		"testsuite": {attributes: []string{"!name", "!tests", "failures", "errors", "time", "disabled", "skipped", "timestamp", "hostname", "id", "package"},
			children: []string{"testsuite", "properties", "testcase", "system-out", "system-err"}},
		"testcase": {attributes: []string{"!name", "assertions", "time", "classname", "status"},
			children: []string{"skipped", "error", "failure", "system-out", "system-err"}},
		"failure": finding, "error": finding,
	}
}

// checkJUnit holds a document to the schema, and its numbers to what is in it.
func checkJUnit(t *testing.T, doc []byte) {
	t.Helper()
	schema, stack := junitSchema(), []xml.StartElement{}
	counts := []map[string]int{{}}
	d := xml.NewDecoder(bytes.NewReader(doc))
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		switch x := token.(type) {
		case xml.StartElement:
			parent := "testsuites"
			if len(stack) > 0 {
				if parent = stack[len(stack)-1].Name.Local; !slices.Contains(schema[parent].children, x.Name.Local) {
					t.Errorf("<%s> inside <%s>", x.Name.Local, parent)
				}
			} else if x.Name.Local != parent {
				t.Errorf("the root is <%s>", x.Name.Local)
			}
			checkAttributes(t, schema, x)
			for _, c := range counts {
				c[x.Name.Local]++
			}
			stack, counts = append(stack, x.Copy()), append(counts, map[string]int{})
		case xml.EndElement:
			checkCounts(t, stack[len(stack)-1], counts[len(counts)-1])
			stack, counts = stack[:len(stack)-1], counts[:len(counts)-1]
		case xml.CharData:
			if text := strings.TrimSpace(string(x)); text != "" && !schema[stack[len(stack)-1].Name.Local].text {
				t.Errorf("text %q inside <%s>", text, stack[len(stack)-1].Name.Local)
			}
		}
	}
}

func checkAttributes(t *testing.T, schema map[string]element, x xml.StartElement) {
	t.Helper()
	e, known := schema[x.Name.Local]
	if !known {
		t.Errorf("unknown element <%s>", x.Name.Local)
	}
	var given []string
	for _, a := range x.Attr {
		given = append(given, a.Name.Local)
		if !slices.Contains(e.attributes, a.Name.Local) && !slices.Contains(e.attributes, "!"+a.Name.Local) {
			t.Errorf("<%s> has no attribute %s", x.Name.Local, a.Name.Local)
		}
		if a.Name.Local == "time" && !regexp.MustCompile(`^[0-9]+(\.[0-9]+)?$`).MatchString(a.Value) {
			t.Errorf("<%s time=%q>", x.Name.Local, a.Value)
		}
	}
	for _, a := range e.attributes {
		if name, required := strings.CutPrefix(a, "!"); required && !slices.Contains(given, name) {
			t.Errorf("<%s> lacks %s", x.Name.Local, name)
		}
	}
}

func checkCounts(t *testing.T, x xml.StartElement, inside map[string]int) {
	t.Helper()
	for _, a := range x.Attr {
		what := map[string]string{"tests": "testcase", "failures": "failure", "errors": "error"}[a.Name.Local]
		if n, err := strconv.Atoi(a.Value); what != "" && (err != nil || n != inside[what]) {
			t.Errorf("<%s %s=%q> with %d", x.Name.Local, a.Name.Local, a.Value, inside[what])
		}
	}
}

// unsure are tests of which one passes, one fails and one cannot be told, with names that XML does not like.
const unsure = `apiVersion: writ.dev/v1alpha1
kind: PolicyTest
name: "<a> & \"b\""
policies: [policies]
defaults: {request: {to: {namespace: shop, labels: {}}}}
tests:
- {name: "it's <open>", expect: {decision: ALLOW}}
- {name: "bell \a", expect: {decision: DENY}}
- {name: who knows, request: {path: /old}, expect: {decision: ALLOW}}
`

const oldSystem = `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: old, namespace: shop}
spec: {action: CUSTOM, provider: {name: old}, rules: [{to: [{operation: {paths: [/old]}}]}]}
`

// TestJUnitSchema: the report is what readers of JUnit reports expect, whatever tests are called.
func TestJUnitSchema(t *testing.T) {
	t.Parallel()
	dir := write(t, t.TempDir(), map[string]string{"a_test.yaml": unsure, "policies/old.yaml": oldSystem})
	out, err := writ(t, "test", dir, "../../deploy/coffee-shop/policies", "-o", "junit").Output()
	if err == nil {
		t.Error("a test that fails is no failure")
	}
	checkJUnit(t, out)
	if n := bytes.Count(out, []byte("<testsuite ")); n < 7 {
		t.Errorf("%d suites in\n%s", n, out)
	}
}

// TestWatchRunsAgain: --watch runs the tests again when a document or a test changes, and ends when it is told to.
func TestWatchRunsAgain(t *testing.T) {
	t.Parallel()
	const tests = "apiVersion: writ.dev/v1alpha1\nkind: PolicyTest\npolicies: [policies]\ntests:\n" +
		"- {name: it, request: {to: {namespace: shop, labels: {}}, path: /old}, providers: {old: %s}, expect: {decision: ALLOW}}\n"
	dir := write(t, t.TempDir(), map[string]string{"a_test.yaml": fmt.Sprintf(tests, "deny"), "policies/old.yaml": oldSystem})
	cmd := writ(t, "test", dir, "--watch", "--coverage-html", filepath.Join(dir, "page.html"))
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stdout)
	next := func(want string) {
		t.Helper()
		for lines.Scan() {
			if strings.Contains(lines.Text(), " in ") {
				if !strings.HasPrefix(lines.Text(), want) {
					t.Fatalf("%q, want %q", lines.Text(), want)
				}
				return
			}
		}
		t.Fatal("it ended")
	}
	next("1 test: 0 passed, 1 failed")
	write(t, dir, map[string]string{"a_test.yaml": fmt.Sprintf(tests, "allow")})
	next("1 test: 1 passed")
	write(t, dir, map[string]string{"policies/old.yaml": strings.Replace(oldSystem, "action: CUSTOM, provider: {name: old}", "action: DENY", 1)})
	// the provider is gone: the file is wrong, and that ends nothing
	write(t, dir, map[string]string{"a_test.yaml": strings.Replace(fmt.Sprintf(tests, "allow"), "providers: {old: allow}, ", "", 1)})
	next("1 test: 0 passed, 1 failed")
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}
