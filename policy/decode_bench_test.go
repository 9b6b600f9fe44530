package policy_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/writ-auth/writ/policy"
)

// manyRules is 10,000 rules of ten lines each, in 20 policies.
func manyRules() []byte {
	var b strings.Builder
	for p := range 20 {
		fmt.Fprintf(&b, `---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: policy-%d
  namespace: coffee-shop
spec:
  action: ALLOW
  rules:
`, p)
		for r := range 500 {
			fmt.Fprintf(&b, `  - from:
    - source:
        principals:
        - cluster.local/ns/coffee-shop/sa/client-%d
    to:
    - operation:
        methods: ["GET", "POST"]
        paths:
        - /api/v1/items/%d/*
        - /api/v1/orders/%d
`, r, r, r)
		}
	}
	return []byte(b.String())
}

// BenchmarkDecode reads and validates 10,000 rules.
func BenchmarkDecode(b *testing.B) {
	data := manyRules()
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if docs := policy.Decode("policies.yaml", data); len(docs) != 20 || docs[0].Broken() {
			b.Fatalf("%d documents, first: %v", len(docs), docs[0].Problems)
		}
	}
}
