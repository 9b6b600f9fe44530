package policy_test

import (
	"strings"
	"testing"

	"github.com/writ-auth/writ/policy"
)

// TestLinePosition: the lines of a text in a block have places of their own.
func TestLinePosition(t *testing.T) {
	t.Parallel()
	const text = `# above
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: a
  namespace: shop
  annotations:
    block: |

      one
        two
    folded: >
      one
      two
    quoted: "one\ntwo"
spec: {}
`
	docs := policy.Decode("a.yaml", []byte(text))
	places := docs[0].Locator()
	for _, tc := range []struct {
		key          string
		n            int
		line, column int
	}{
		{"block", 0, 10, 1}, {"block", 1, 11, 7}, {"block", 2, 12, 9}, {"block", 9, 9, 12}, {"block", -1, 9, 12},
		{"folded", 1, 13, 13}, {"quoted", 1, 16, 13},
	} {
		if line, column := places.LinePosition("metadata.annotations["+tc.key+"]", tc.n); line != tc.line || column != tc.column {
			t.Errorf("%s, line %d: %d:%d, want %d:%d", tc.key, tc.n, line, column, tc.line, tc.column)
		}
	}
	if line, column := places.LinePosition("spec", 3); line != 17 || column != 1 {
		t.Errorf("an object: %d:%d", line, column)
	}
	broken := policy.Decode("a.yaml", []byte(strings.Replace(text, "spec: {}", "spec: {", 1)))
	if line, _ := broken[len(broken)-1].Locator().LinePosition("spec", 1); line == 0 {
		t.Error("a document that does not parse is its first line")
	}
}
