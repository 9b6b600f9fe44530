package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
)

// manyPolicies are n policies, every one with a selector, in as many namespaces as asked for.
func manyPolicies(n, namespaces int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p%d, namespace: ns%d}\nspec:\n"+
			"  selector: {matchLabels: {app: web}}\n  rules:\n  - from: [{source: {principals: [cluster.local/ns/ns%d/sa/caller%d]}}]\n"+
			"    to: [{operation: {methods: [GET, POST], paths: [/p%d, \"/p%d/{*}\"]}}]\n", i, i%namespaces, i%namespaces, i, i, i)
	}
	return b.String()
}

// manyTests are n tests, one for each of manyPolicies.
func manyTests(n, namespaces int) string {
	var b strings.Builder
	b.WriteString("apiVersion: writ.dev/v1alpha1\nkind: PolicyTest\ntests:\n")
	for i := range n {
		fmt.Fprintf(&b, "- name: caller %d\n  request: {to: {namespace: ns%d, labels: {app: web}}, from: ns%d/caller%d, path: /p%d}\n"+
			"  expect: {decision: ALLOW, policy: ns%d/p%d, rule: 0}\n", i, i%namespaces, i%namespaces, i, i, i%namespaces, i)
	}
	return b.String()
}

// BenchmarkTest is the whole command, from reading the files to the report: 1,000 tests over 1,000 policies, which all
// apply to one workload or to one of a hundred. The aim is a second of CPU.
func BenchmarkTest(b *testing.B) {
	for _, namespaces := range []int{1, 100} {
		for _, flags := range [][]string{nil, {"--coverage"}} {
			b.Run(strings.Join(append([]string{fmt.Sprintf("namespaces=%d", namespaces)}, flags...), " "), func(b *testing.B) {
				dir := b.TempDir()
				for name, text := range map[string]string{"p.yaml": manyPolicies(1000, namespaces), "p_test.yaml": manyTests(1000, namespaces)} {
					if err := os.WriteFile(dir+"/"+name, []byte(text), 0o600); err != nil {
						b.Fatal(err)
					}
				}
				c := &cli{in: strings.NewReader(""), out: io.Discard, err: os.Stderr, env: func(string) (string, bool) { return "", false }}
				for b.Loop() {
					if code := c.execute(b.Context(), append([]string{"test", dir}, flags...)); code != exitOK {
						b.Fatalf("exit code %d", code)
					}
				}
			})
		}
	}
}
