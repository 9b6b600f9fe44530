package replay

import (
	"cmp"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/writ-auth/writ/policy"
)

// alike reports whether two snapshots answer every request to a workload alike, because the same documents govern it in
// both, word for word.
func alike(a, b *policy.Bound) bool {
	return alikePolicies(a.Rules.Policies(), b.Rules.Policies()) && alikeTokens(a.Authentication, b.Authentication) &&
		slices.Equal(a.MTLSPorts(), b.MTLSPorts())
}

// alikePolicies compares policies in any order: which rule is reported goes by its name.
func alikePolicies(a, b []*policy.Policy) bool {
	if len(a) != len(b) {
		return false
	}
	byName := func(x, y *policy.Policy) int {
		return cmp.Or(cmp.Compare(x.Namespace, y.Namespace), cmp.Compare(x.Name, y.Name))
	}
	return slices.EqualFunc(slices.SortedStableFunc(slices.Values(a), byName), slices.SortedStableFunc(slices.Values(b), byName), alikePolicy)
}

func alikePolicy(a, b *policy.Policy) bool {
	return a.Namespace == b.Namespace && a.Name == b.Name && a.Action == b.Action && a.DryRun == b.DryRun && a.Provider == b.Provider &&
		a.Broken == b.Broken && (a.Document() == b.Document() || proto.Equal(a.Document().Spec, b.Document().Spec))
}

// alikeTokens reports whether both verify tokens by the same rules.
func alikeTokens(a, b *policy.Authentication) bool {
	if a == nil || b == nil {
		return a == b
	}
	return slices.EqualFunc(a.Rules, b.Rules, func(x, y policy.JWTRule) bool {
		return x.ID == y.ID && (x.Spec == y.Spec || proto.Equal(x.Spec, y.Spec))
	})
}
