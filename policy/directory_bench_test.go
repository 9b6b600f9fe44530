package policy_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/writ-auth/writ/policy"
)

// BenchmarkReadDirectory reads rules in policies of 500, which a dozen files hold.
func BenchmarkReadDirectory(b *testing.B) {
	for _, rules := range []int{1000, 10_000, 100_000} {
		b.Run(fmt.Sprintf("rules=%d", rules), func(b *testing.B) {
			dir := policy.Directory{Path: b.TempDir()}
			var files [12]strings.Builder
			for i := range rules {
				f := &files[i/500%len(files)]
				if i%500 == 0 {
					fmt.Fprintf(f, "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p-%06d, namespace: shop}\nspec:\n  rules:\n", i)
				}
				fmt.Fprintf(f, "  - from: [{source: {principals: [cluster.local/ns/shop/sa/caller-%[1]d]}}]\n"+
					"    to: [{operation: {methods: [GET], paths: [/api/v1/*]}}]\n"+
					"    when: [{key: request.auth.principal, values: ['https://idp.example/user-%[1]d']}]\n", i)
			}
			for i := range files {
				write(b, filepath.Join(dir.Path, fmt.Sprintf("%02d.yaml", i)), files[i].String()+"---\n# the end\n")
			}
			b.ReportAllocs()
			for b.Loop() {
				if docs, err := dir.Read(); err != nil || len(docs) != rules/500 {
					b.Fatal(len(docs), err)
				}
			}
		})
	}
}
