package policy_test

import (
	"testing"
)

// FuzzDecide demands that compiled and oracle agree on whatever documents and request the bytes spell.
func FuzzDecide(f *testing.F) {
	for seed := range uint64(64) {
		d := drawFrom(seed ^ 0xf00d)
		b := make([]byte, 64+d.below(400))
		for i := range b {
			b[i] = byte(d())
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		d := drawBytes(b)
		s := scenario{mesh: genMesh(d), policies: genPolicies(d, 6), workload: genWorkload(d), request: genRequest(d)}
		if _, _, differ := s.disagreement(t); differ {
			s.report(t)
		}
	})
}
