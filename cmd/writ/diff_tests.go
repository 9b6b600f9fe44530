package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"strings"

	"github.com/writ-auth/writ/internal/policytest"
	"github.com/writ-auth/writ/policy/analysis"
)

// diffTestFile is a document of policy tests (docs/testing.md).
type diffTestFile struct {
	APIVersion string     `json:"apiVersion"`
	Kind       string     `json:"kind"`
	Policies   []string   `json:"policies,omitempty"`
	Tests      []diffTest `json:"tests"`
}

type diffTest struct {
	Name      string            `json:"name"`
	Request   map[string]any    `json:"request"`
	Providers map[string]string `json:"providers,omitempty"`
	Expect    map[string]any    `json:"expect"`
}

// writeDiffTests writes the examples of a report as tests that the new documents pass, if all providers they name agree.
func writeDiffTests(commentary io.Writer, file, documents string, tests []*diffTest) error {
	path, err := relativeTo(filepath.Dir(file), documents)
	if err != nil {
		return err
	}
	out := diffTestFile{APIVersion: policytest.APIVersion, Kind: policytest.Kind, Policies: []string{path}, Tests: []diffTest{}}
	for _, t := range tests {
		if t != nil {
			out.Tests = append(out.Tests, *t)
		}
	}
	if left := len(tests) - len(out.Tests); left > 0 {
		if _, err := fmt.Fprintf(commentary, "writ: %s: left out %s that test files have no words for, such as a caller without SPIFFE ID\n", file, plural(left, "example")); err != nil {
			return err
		}
	}
	if len(out.Tests) == 0 {
		_, err := fmt.Fprintf(commentary, "writ: %s: not written, there is no example for it\n", file)
		return err
	}
	if err := writeFileWith(file, func(w io.Writer) error { return encodeYAML(w, out) }); err != nil {
		return err
	}
	_, err = fmt.Fprintf(commentary, "writ: %s: %s written\n", file, plural(len(out.Tests), "test"))
	return err
}

func relativeTo(dir, path string) (string, error) {
	from, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	to, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	return filepath.Rel(from, to)
}

// test is an example with the answer of one side.
func (s *diffServer) test(n int, d *analysis.Difference, side int) *diffTest {
	want := [2]*analysis.Outcome{&d.Old, &d.New}[side]
	t := &diffTest{Providers: s.providers[side], Request: testRequest(&d.Witness, s.hops), Expect: map[string]any{"decision": want.Decision, "layer": want.Layer}}
	t.Name = fmt.Sprintf("%d: %s, was %s", n, d.Kind, d.Old.What())
	if want.Rule != nil {
		t.Expect["policy"], t.Expect["rule"] = want.Policy, *want.Rule
	}
	return t
}

// forwardedFor is the header of which the server takes remote.ip, behind so many proxies of ours.
func forwardedFor(remote string, hops int) string {
	return remote + strings.Repeat(", 192.0.2.254", hops)
}

// testRequest is the request in the words of a test file.
func testRequest(w *analysis.Witness, hops int) map[string]any {
	labels := w.Workload.Labels
	if labels == nil {
		labels = map[string]string{}
	}
	to := map[string]any{"namespace": w.Workload.Namespace, "labels": labels}
	if len(w.Workload.Services) > 0 {
		to["services"] = w.Workload.Services
	}
	r := &w.Request
	out := map[string]any{"to": to}
	for key, value := range map[string]string{
		"from": r.From, "source_ip": r.SourceIP, "destination_ip": r.DestinationIP, "sni": r.SNI, "method": r.Method, "host": r.Host,
	} {
		if value != "" {
			out[key] = value
		}
	}
	if !r.TCP {
		out["path"] = r.Path
	}
	headers := map[string]string{}
	maps.Copy(headers, r.Headers)
	if r.RemoteIP != "" && !r.TCP { // what the proxy makes of it
		headers["x-forwarded-for"] = forwardedFor(r.RemoteIP, hops)
	}
	if len(headers) > 0 {
		out["headers"] = headers
	}
	if r.Port != 0 {
		out["port"] = r.Port
	}
	if r.TCP {
		out["tcp"] = true
	}
	if r.Metadata != nil {
		out["metadata"] = r.Metadata
	}
	if r.Claims != nil {
		out["unverified_claims"] = r.Claims
	}
	return out
}

// compactJSON is a value on one line.
func compactJSON(v any) string {
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return "?"
	}
	return strings.TrimSpace(out.String())
}
