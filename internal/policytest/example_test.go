package policytest_test

import (
	"context"
	"fmt"

	"github.com/writ-auth/writ/internal/policytest"
	"github.com/writ-auth/writ/policy"
)

// A test is read from a file, and decided by the documents.
func Example() {
	suites, problems := policytest.Decoder{}.Decode("shop_test.yaml", []byte(`
apiVersion: writ.dev/v1alpha1
kind: PolicyTest
tests:
- name: orders are posted
  request: {to: {namespace: shop, labels: {}}, path: /orders}
  matrix: {method: [GET, POST]}
  expect: {decision: DENY}
`))
	if len(problems) > 0 {
		fmt.Println(problems[0])
		return
	}
	runner, err := policytest.New(policytest.Config{Documents: policy.Decode("shop.yaml", []byte(`
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: orders, namespace: shop}
spec: {rules: [{to: [{operation: {methods: [POST]}}]}]}
`))})
	if err != nil {
		fmt.Println(err)
		return
	}
	for i := range suites[0].Cases {
		c := &suites[0].Cases[i]
		result, err := runner.Run(context.Background(), c)
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(c.ID(), result.Outcome, result.Mismatches)
	}
	// Output:
	// shop/orders are posted [method=GET] passed []
	// shop/orders are posted [method=POST] failed [{decision DENY ALLOW}]
}
