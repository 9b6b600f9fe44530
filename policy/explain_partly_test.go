package policy_test

import (
	"testing"

	"github.com/writ-auth/writ/policy"
)

// TestExplainPartlyIsSound: what is told of a request of which some is not known stays true whatever that turns out to be.
// Nothing that is not known may be looked at, so the same explanation has to hold for a request that differs in it.
func TestExplainPartlyIsSound(t *testing.T) {
	t.Parallel()
	settled, open := 0, 0
	for seed := range uint64(300) {
		d := drawFrom(seed ^ 0x9a)
		s := scenario{mesh: genMesh(d), policies: genPolicies(d, 6), workload: genWorkload(d)}
		snap := policy.NewStore(s.mesh).Update(decode(t, s.policies))
		for range 4 {
			r := genRequest(d)
			hidden := map[policy.AttributeKind]bool{}
			for kind := policy.AttributeNames; kind <= policy.AttributeMetadata; kind++ {
				hidden[kind] = d.oneIn(3)
			}
			partly := snap.ExplainPartly(s.workload, r, func(a policy.Attribute) bool { return hidden[a.Kind] })
			whole := snap.Explain(s.workload, r)
			for i := range whole.Policies {
				for j := range whole.Policies[i].Rules {
					known, all := &partly.Policies[i].Rules[j], &whole.Policies[i].Rules[j]
					switch {
					case known.Matched && !all.Matched, all.Matched && !known.Matched && !known.MayMatch():
						t.Fatalf("seed %d: rule %d of %s: %+v, and with everything known %+v", seed, j, whole.Policies[i].Policy, known, all)
					case known.MayMatch():
						open++
					default:
						settled++
					}
				}
			}
		}
	}
	if settled < 1000 || open < 200 {
		t.Errorf("%d rules settled, %d left open: hardly a trial", settled, open)
	}
}
