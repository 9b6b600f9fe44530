package policy_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	typev1beta1 "istio.io/api/type/v1beta1"

	"github.com/writ-auth/writ/policy"
)

func selectorOf(key, value string) *typev1beta1.WorkloadSelector {
	return &typev1beta1.WorkloadSelector{MatchLabels: map[string]string{key: value}}
}

// document is an AuthorizationPolicy foo/p with the given spec, in YAML flow style.
func document(spec string) string { return documentNamed("foo", "p", spec) }

func documentNamed(namespace, name, spec string) string {
	return fmt.Sprintf("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {namespace: %s, name: %s}\nspec: %s\n",
		namespace, name, spec)
}

// httpbin is the workload most tables protect.
func httpbin() policy.Workload {
	return policy.Workload{Namespace: "foo", Labels: map[string]string{"app": "httpbin", "version": "v1"}}
}

// load decodes documents that have to be valid.
func load(t *testing.T, text ...string) []*policy.Document {
	t.Helper()
	docs := policy.Decode("test.yaml", []byte(strings.Join(text, "---\n")))
	for _, d := range docs {
		if d.Broken() {
			t.Fatalf("valid document refused: %v\n%s", d.Problems, strings.Join(text, "---\n"))
		}
	}
	return docs
}

// ask evaluates r for the httpbin workload under the given documents.
func ask(t *testing.T, mesh policy.Mesh, r *policy.Request, text ...string) policy.Verdict {
	t.Helper()
	return bind(t, mesh, load(t, text...), httpbin()).Evaluate(r)
}

// matches reports whether an ALLOW policy with this one rule matches r, and holds a DENY policy to the same answer on
// HTTP, where actions do not change what a rule means.
func matches(t *testing.T, mesh policy.Mesh, rule string, r *policy.Request) bool {
	t.Helper()
	allow := ask(t, mesh, r, document("{action: ALLOW, rules: ["+rule+"]}")).Allow != nil
	deny := ask(t, mesh, r, document("{action: DENY, rules: ["+rule+"]}")).Deny != nil
	if allow != deny && !r.TCP {
		t.Errorf("rule %s: matches as ALLOW %v, as DENY %v", rule, allow, deny)
	}
	return allow
}

// request is a plaintext GET / for example.com, changed by the given functions.
func request(change ...func(*policy.Request)) *policy.Request {
	r := &policy.Request{
		SourceIP: netip.MustParseAddr("10.0.0.1"), RemoteIP: netip.MustParseAddr("10.0.0.1"),
		DestIP: netip.MustParseAddr("10.9.0.1"), DestPort: 8080,
		Method: "GET", HasMethod: true, Path: "/", RawPath: "/", Host: "example.com", HasHost: true,
	}
	for _, c := range change {
		c(r)
	}
	return r
}

// connection is a plaintext TCP connection to port 8080.
func connection(change ...func(*policy.Request)) *policy.Request {
	r := request()
	r = &policy.Request{TCP: true, SourceIP: r.SourceIP, RemoteIP: r.RemoteIP, DestIP: r.DestIP, DestPort: r.DestPort}
	for _, c := range change {
		c(r)
	}
	return r
}

func named(names ...string) func(*policy.Request) { return func(r *policy.Request) { r.Names = names } }

func pathOf(raw string) func(*policy.Request) {
	return func(r *policy.Request) {
		r.RawPath = raw
		r.Path = raw
		if i := strings.IndexAny(raw, "?#"); i >= 0 {
			r.Path = raw[:i]
		}
	}
}

func hostOf(host string) func(*policy.Request) { return func(r *policy.Request) { r.Host = host } }

func methodOf(m string) func(*policy.Request) { return func(r *policy.Request) { r.Method = m } }

func header(name, value string) func(*policy.Request) {
	return func(r *policy.Request) { r.Headers = append(r.Headers, policy.Header{Name: name, Value: value}) }
}

func token(c claims) func(*policy.Request) { return func(r *policy.Request) { r.Claims = c } }

func sourceIPOf(ip string) func(*policy.Request) {
	return func(r *policy.Request) { r.SourceIP = netip.MustParseAddr(ip) }
}

func portOf(port uint16) func(*policy.Request) { return func(r *policy.Request) { r.DestPort = port } }

func sniOf(name string) func(*policy.Request) { return func(r *policy.Request) { r.SNI = name } }

// source, operation and when are rules with one condition; the condition is YAML in flow style.
func source(field string) string    { return "{from: [{source: {" + field + "}}]}" }
func operation(field string) string { return "{to: [{operation: {" + field + "}}]}" }
func when(condition string) string  { return "{when: [{" + condition + "}]}" }

// value is one row of a value table: does the rule match the request?
type value struct {
	rule    string
	request *policy.Request
	want    bool
}

func runValues(t *testing.T, mesh policy.Mesh, rows []value) {
	t.Helper()
	for _, row := range rows {
		t.Run(row.rule, func(t *testing.T) {
			if got := matches(t, mesh, row.rule, row.request); got != row.want {
				t.Errorf("matches = %v, want %v, for %s", got, row.want, describe(row.request))
			}
		})
	}
}
