package policy_test

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"

	"github.com/writ-auth/writ/policy"
)

// An index is never much larger than the rules in it, whatever combinations of values they hold.
func TestReviewIndexSize(t *testing.T) {
	const rules = 500
	random := rand.New(rand.NewPCG(1, 2))
	list := func(prefix string, n, pool int) string {
		var out []string
		for range n {
			out = append(out, fmt.Sprintf("%q", fmt.Sprintf(prefix, random.IntN(pool))))
		}
		return "[" + strings.Join(out, ",") + "]"
	}
	var b strings.Builder
	for range rules {
		fmt.Fprintf(&b, "  - from: [{source: {principals: %s}}]\n    to: [{operation: {paths: %s, hosts: %s}}]\n    when: [{key: 'request.headers[x]', values: %s}]\n",
			list("td/ns/a/sa/s%d", 20, 40), list("/p%d", 20, 40), list("h%d.example", 20, 40), list("v%d", 20, 40))
	}
	docs := policy.Decode("f.yaml", []byte("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {namespace: foo, name: p}\nspec:\n  rules:\n"+b.String()))
	if len(docs) != 1 || docs[0].Broken() {
		t.Fatal(docs[0].Problems)
	}
	snap := policy.NewSnapshot(docs, policy.Mesh{})
	bound, err := snap.Resolve(policy.Workload{Namespace: "foo", Labels: map[string]string{}})
	if err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	bound.Rules.Evaluate(request()) // makes the index
	runtime.ReadMemStats(&after)
	if mib := (after.TotalAlloc - before.TotalAlloc) >> 20; mib > 64 {
		t.Errorf("%d rules of 80 values take %d MiB to index, want 64 at most", rules, mib)
	}
}
