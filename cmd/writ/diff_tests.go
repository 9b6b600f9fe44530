package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"strings"

	securityv1beta1 "istio.io/api/security/v1beta1"

	"github.com/writ-auth/writ/internal/policytest"
	"github.com/writ-auth/writ/policy"
	"github.com/writ-auth/writ/policy/analysis"
)

// diffTestFile is a document of policy tests (docs/testing.md).
type diffTestFile struct {
	APIVersion string     `json:"apiVersion"`
	Kind       string     `json:"kind"`
	Policies   []string   `json:"policies"`
	Tests      []diffTest `json:"tests"`
}

type diffTest struct {
	Name      string            `json:"name"`
	Request   map[string]any    `json:"request"`
	Providers map[string]string `json:"providers,omitempty"`
	Expect    map[string]any    `json:"expect"`
}

// writeDiffTests writes the examples of a report as tests that the new documents pass, if all providers they name agree.
func writeDiffTests(commentary io.Writer, file, documents string, docs []*policy.Document, r *analysis.Report) error {
	path, err := relativeTo(filepath.Dir(file), documents)
	if err != nil {
		return err
	}
	tests := diffTestFile{APIVersion: policytest.APIVersion, Kind: policytest.Kind, Policies: []string{path}, Tests: []diffTest{}}
	providers := map[string]string{}
	for _, doc := range docs {
		if spec, ok := doc.Spec.(*securityv1beta1.AuthorizationPolicy); ok && spec.GetProvider() != nil {
			providers[spec.GetProvider().GetName()] = string(policytest.AnswerAllow)
		}
	}
	for i := range r.Differences {
		d := &r.Differences[i]
		if from := d.Witness.Request.From; from == "" || strings.HasPrefix(from, "spiffe://") { // test files know no other names
			tests.Tests = append(tests.Tests, diffTestOf(i+1, d, providers))
		}
	}
	if left := len(r.Differences) - len(tests.Tests); left > 0 {
		if _, err := fmt.Fprintf(commentary, "writ: %s: left out %s whose caller has no SPIFFE ID\n", file, plural(left, "example")); err != nil {
			return err
		}
	}
	if len(tests.Tests) == 0 {
		_, err := fmt.Fprintf(commentary, "writ: %s: not written, there is no example for it\n", file)
		return err
	}
	return writeFileWith(file, func(w io.Writer) error { return encodeYAML(w, tests) })
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

func diffTestOf(n int, d *analysis.Difference, providers map[string]string) diffTest {
	t := diffTest{Providers: providers, Request: testRequest(&d.Witness), Expect: map[string]any{"decision": d.New.Decision, "layer": d.New.Layer}}
	t.Name = fmt.Sprintf("%d: %s, was %s", n, d.Kind, d.Old.What())
	if d.New.Rule != nil {
		t.Expect["policy"], t.Expect["rule"] = d.New.Policy, *d.New.Rule
	}
	return t
}

// testRequest is the request in the words of a test file.
func testRequest(w *analysis.Witness) map[string]any {
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
		headers["x-forwarded-for"] = r.RemoteIP
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
