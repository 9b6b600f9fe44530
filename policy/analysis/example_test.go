package analysis_test

import (
	"fmt"

	"github.com/writ-auth/writ/policy"
	"github.com/writ-auth/writ/policy/analysis"
)

func ExampleLint() {
	docs := policy.Decode("till.yaml", []byte(`
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: till, namespace: shop}
spec:
  rules:
  - from: [{source: {namespaces: [shop]}}]
    to: [{operation: {methods: [get]}}]
`))
	for _, p := range analysis.Lint(docs, policy.Mesh{}) {
		fmt.Println(p.Code, p.Field)
		fmt.Println(p.Message)
		fmt.Println(p.Hint)
	}
	// Output:
	// WRIT305 spec.rules[0].to[0].operation.methods[0]
	// no request has the method "get": methods are compared exactly and are in upper case
	// write "GET"
}
