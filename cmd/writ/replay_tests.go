package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"strings"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/internal/durable"
	"github.com/writ-auth/writ/internal/policytest"
	"github.com/writ-auth/writ/internal/replay"
	"github.com/writ-auth/writ/policy"
)

// maxEmittedTests bounds the tests that a replay writes.
const maxEmittedTests = 1000

// maxTriedTests bounds the requests of which a test is tried.
const maxTriedTests = 10_000

// emittedTests makes tests for writ test of requests that are answered otherwise: each demands what the new documents
// answer. A nil one makes none.
type emittedTests struct {
	file    string
	suite   emittedSuite
	session *session // of the new documents
	runner  *policytest.Runner
	limit   int // of each kind of difference between the same two rules
	seen    map[[3]string]int
	known   map[string]bool // requests that have their test
	left    int             // differences that no test can show, for the request is more than what may be written down
}

// The part of the test format that is written.
type (
	emittedSuite struct {
		APIVersion string        `json:"apiVersion"`
		Kind       string        `json:"kind"`
		Policies   []string      `json:"policies"`
		Tests      []emittedTest `json:"tests"`
	}
	emittedTest struct {
		Name    string         `json:"name"`
		Request emittedRequest `json:"request"`
		Expect  emittedExpect  `json:"expect"`
	}
	emittedRequest struct {
		To            map[string]any    `json:"to"`
		From          string            `json:"from"`
		SourceIP      string            `json:"source_ip,omitempty"`
		DestinationIP string            `json:"destination_ip,omitempty"`
		Port          uint16            `json:"port,omitempty"`
		SNI           string            `json:"sni,omitempty"`
		TCP           bool              `json:"tcp,omitempty"`
		Method        string            `json:"method,omitempty"`
		Path          string            `json:"path,omitempty"`
		Host          string            `json:"host,omitempty"`
		Headers       map[string]string `json:"headers,omitempty"`
	}
	emittedExpect struct {
		Decision string `json:"decision"`
		Policy   string `json:"policy,omitempty"`
	}
)

func newEmittedTests(file string, documents []string, session *session, limit int) *emittedTests {
	if file == "" {
		return nil
	}
	e := &emittedTests{file: file, session: session, limit: limit, seen: map[[3]string]int{}, known: map[string]bool{}}
	e.suite = emittedSuite{APIVersion: policytest.APIVersion, Kind: policytest.Kind, Policies: []string{}, Tests: []emittedTest{}}
	for _, path := range documents {
		e.suite.Policies = append(e.suite.Policies, besides(file, path))
	}
	return e
}

// besides is path as a file has to name it: relative to its own directory.
func besides(file, path string) string {
	from, err := filepath.Abs(filepath.Dir(file))
	if err != nil {
		return path
	}
	to, err := filepath.Abs(path)
	if err != nil {
		return path
	}
	rel, err := filepath.Rel(from, to)
	if err != nil { // on another volume
		return to
	}
	return filepath.ToSlash(rel)
}

// add makes a test of one difference, unless there are enough like it. No query and no header gets into it but the address
// that x-forwarded-for gives.
func (e *emittedTests) add(c *replay.Case) {
	group := [3]string{c.Kind.String(), c.Old.By(), c.New.By()}
	if c.Workload == nil || c.New.Vague || e.seen[group] >= e.limit || len(e.suite.Tests) == maxEmittedTests {
		return
	}
	t := emittedTest{Request: emittedOf(c.Request, c.Workload), Expect: emittedExpect{Decision: c.New.Word()}}
	if c.New.Policy != "" {
		t.Expect.Policy = c.New.Namespace + "/" + c.New.Policy
	}
	key := fmt.Sprint(t)
	if e.known[key] || len(e.known) == maxTriedTests {
		return
	}
	e.known[key] = true
	t.Name = fmt.Sprintf("%s %d: %s", strings.ReplaceAll(group[0], "_", " "), len(e.suite.Tests)+1, describe(c.Request))
	if !e.holds(&t) {
		e.left++
		return
	}
	e.seen[group]++
	e.suite.Tests = append(e.suite.Tests, t)
}

func emittedOf(r *policy.Request, w *policy.Workload) emittedRequest {
	to := map[string]any{"namespace": strings.Clone(w.Namespace)}
	for key, value := range map[string]string{"name": w.Name, "service_account": w.ServiceAccount} {
		if value != "" {
			to[key] = strings.Clone(value)
		}
	}
	if w.Labels != nil {
		to["labels"] = maps.Clone(w.Labels)
	}
	if len(w.Services) > 0 {
		to["services"] = w.Services
	}
	out := emittedRequest{To: to, Port: r.DestPort, SNI: strings.Clone(r.SNI), TCP: r.TCP}
	if len(r.Names) > 0 {
		out.From = strings.Clone(r.Names[0])
	}
	if r.SourceIP.IsValid() {
		out.SourceIP = r.SourceIP.String()
	}
	if r.DestIP.IsValid() {
		out.DestinationIP = r.DestIP.String()
	}
	if r.TCP {
		return out
	}
	out.Method, out.Host = strings.Clone(r.Method), strings.Clone(r.Host)
	out.Path, _, _ = strings.Cut(strings.Clone(r.Path), "?")
	if r.RemoteIP.IsValid() && r.RemoteIP != r.SourceIP {
		out.Headers = map[string]string{"x-forwarded-for": r.RemoteIP.String()}
	}
	return out
}

// holds reports whether the test passes: what was left out may be what the answer depends on.
func (e *emittedTests) holds(t *emittedTest) bool {
	var text bytes.Buffer
	suite := e.suite
	suite.Tests = []emittedTest{*t}
	if err := encodeYAML(&text, suite); err != nil {
		return false
	}
	suites, problems := policytest.Decoder{}.Decode(e.file, text.Bytes())
	if len(problems) > 0 || len(suites) != 1 || len(suites[0].Cases) != 1 {
		return false
	}
	if e.runner == nil {
		var err error
		if e.runner, err = e.newRunner(); err != nil {
			return false
		}
	}
	result, err := e.runner.Run(context.Background(), &suites[0].Cases[0])
	return err == nil && result.Outcome == policytest.Passed
}

// newRunner makes what decides tests as writ test would without a configuration.
func (e *emittedTests) newRunner() (*policytest.Runner, error) {
	cfg := policytest.Config{Documents: e.session.docs, Mesh: e.session.mesh, TrustedHops: e.session.options.TrustedHops, Paths: e.session.options.Paths}
	for _, name := range providersOf(e.session.docs) {
		if authz.IsProviderName(name) {
			cfg.Remote = append(cfg.Remote, authz.ProviderConfig{Name: name})
		}
	}
	return policytest.New(cfg)
}

// write writes the file, if there is a test for it, and says so.
func (e *emittedTests) write(commentary io.Writer) error {
	if e == nil {
		return nil
	}
	said := fmt.Sprintf("%s: not written, there is no example for it", e.file)
	if n := len(e.suite.Tests); n > 0 {
		var text bytes.Buffer
		text.WriteString("# Made by writ replay of recorded requests that the new documents answer otherwise: what is expected is their answer.\n")
		if err := encodeYAML(&text, e.suite); err != nil {
			return err
		}
		if err := durable.WriteFile(e.file, text.Bytes(), 0o644); err != nil {
			return fmt.Errorf("--emit-test: %w", err)
		}
		said = fmt.Sprintf("%s: %s written", e.file, plural(n, "test"))
	}
	if e.left > 0 {
		said += fmt.Sprintf("; %s left out: a header, a token or a provider decides", plural(e.left, "difference"))
	}
	_, err := fmt.Fprintf(commentary, "writ: %s\n", said)
	return err
}
