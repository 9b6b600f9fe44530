package policy

import (
	"fmt"
	"testing"

	securityv1beta1 "istio.io/api/security/v1beta1"
)

// callers rules name a caller, a method, a path that all have, and a token's subject: filed under one of two names each.
var callers = ruleShape{
	name: "callers",
	rule: func(i int) *securityv1beta1.Rule {
		return &securityv1beta1.Rule{
			From: []*securityv1beta1.Rule_From{{Source: &securityv1beta1.Source{
				Principals: []string{fmt.Sprintf("cluster.local/ns/shop/sa/caller-%d", i)},
			}}},
			To: []*securityv1beta1.Rule_To{{Operation: &securityv1beta1.Operation{Methods: []string{"GET"}, Paths: []string{"/api/v1/*"}}}},
			When: []*securityv1beta1.Condition{
				{Key: "request.auth.principal", Values: []string{fmt.Sprintf("https://idp.example/user-%d", i)}},
			},
		}
	},
}

// BenchmarkIndex builds the index of one list of policies, which is what a workload that was not indexed ahead waits for.
func BenchmarkIndex(b *testing.B) {
	for _, s := range []ruleShape{callers, usual, worst} {
		for _, n := range []int{10, 100, 1000, 10000, 100000} {
			b.Run(fmt.Sprintf("%s/rules=%d", s.name, n), func(b *testing.B) {
				snap := NewSnapshot(benchDocuments(n, s), Mesh{})
				policies := snap.policies["coffee-shop"]
				b.ReportAllocs()
				for b.Loop() {
					newForm(policies, bodyOf[trafficHTTP])
				}
			})
		}
	}
}
