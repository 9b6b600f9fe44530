package agent_test

import (
	"fmt"

	"github.com/writ-auth/writ/internal/spiffeid"
	"github.com/writ-auth/writ/sds/agent"
)

// The rules say who may have what; a rule that would match everybody is refused.
func ExampleNewWorkloads() {
	domain, _ := spiffeid.TrustDomain("cluster.local")
	payment, _ := spiffeid.Workload("cluster.local", "coffee-shop", "payment")
	uid := uint32(1001)
	w, err := agent.NewWorkloads(domain, []agent.Workload{{ID: payment, UID: &uid, Path: "/usr/bin/envoy"}})
	fmt.Println(w.Identities(), err)
	fmt.Println(w.Set([]agent.Workload{{ID: payment}}))
	// Output:
	// [spiffe://cluster.local/ns/coffee-shop/sa/payment] <nil>
	// agent: workload 0: spiffe://cluster.local/ns/coffee-shop/sa/payment: want a uid, a gid, a path or a sha256: without, every process would match
}
