package analysis_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/writ-auth/writ/policy"
	"github.com/writ-auth/writ/policy/analysis"
)

// services are 200 policies as a team writes them: each service's callers, methods and paths, and some that deny. One in
// ten is different in another version. With spread the policies are for 40 workloads, else all for one.
func services(version int, spread bool) []object {
	d := draw{rand.New(rand.NewPCG(7, 7))}                   //nolint:gosec // reproducible on purpose
	other := draw{rand.New(rand.NewPCG(8, uint64(version)))} //nolint:gosec // as above
	var out []object
	for n := range 200 {
		from, paths := object{}, []string{fmt.Sprintf("/s%d/{*}", n), fmt.Sprintf("/s%d/v1/*", n), fmt.Sprintf("/s%d", n)}
		switch d.IntN(3) {
		case 0:
			from["principals"] = []string{fmt.Sprintf("cluster.local/ns/shop/sa/s%d", d.IntN(50)), fmt.Sprintf("cluster.local/ns/shop/sa/s%d", d.IntN(50))}
		case 1:
			from["serviceAccounts"] = []string{fmt.Sprintf("s%d", d.IntN(50))}
		default:
			from["namespaces"] = []string{fmt.Sprintf("team-%d", d.IntN(20))}
		}
		if version > 0 && other.oneIn(10) {
			paths = append(paths, fmt.Sprintf("/s%d/new/{**}", n))
			from["ipBlocks"] = []string{"10.0.0.0/8"}
		}
		to := object{"methods": d.some("GET", "POST", "PUT", "DELETE"), "paths": paths}
		spec := object{"action": "ALLOW", "rules": []any{object{"from": []any{object{"source": from}}, "to": []any{object{"operation": to}}}}}
		if n%10 == 0 {
			spec["action"] = "DENY"
		}
		if spread {
			spec["selector"] = object{"matchLabels": object{"app": fmt.Sprint("s", n%40)}}
		}
		out = append(out, object{
			"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "spec": spec, "metadata": object{"name": fmt.Sprint("p", n), "namespace": "shop"},
		})
	}
	return out
}

// randomSet is policies of every kind and wildcard, as nobody writes them.
func randomSet(seed uint64, n int) []object {
	d := draw{rand.New(rand.NewPCG(seed, 9))} //nolint:gosec // reproducible on purpose
	var out []object
	for len(out) < n {
		o := d.document(len(out))
		if spec := o["spec"].(object); spec["action"] == "DENY" && slices.ContainsFunc(spec["rules"].([]any), func(r any) bool { return len(r.(object)) < 2 }) {
			continue // a rule that denies nearly everything hides all others
		}
		out = append(out, o)
	}
	return out
}

// BenchmarkDiff compares two sets of 200 policies. The aim is at most 5 s.
func BenchmarkDiff(b *testing.B) {
	for _, tc := range []struct {
		name     string
		old, new []object
	}{
		{"one in ten changed, 40 workloads", services(0, true), services(1, true)},
		{"one in ten changed, one workload", services(0, false), services(1, false)},
		{"nothing in common", randomSet(1, 200), randomSet(2, 200)},
	} {
		b.Run(tc.name, func(b *testing.B) {
			old, new := decode(b, tc.old), decode(b, tc.new)
			for b.Loop() {
				r, err := analysis.Diff(old, new, policy.Mesh{}, analysis.DiffOptions{})
				if err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(len(r.Differences)), "classes")
				b.ReportMetric(float64(len(r.Unknown)), "unknown")
			}
		})
	}
}
