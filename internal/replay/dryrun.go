package replay

import (
	"maps"
	"strconv"

	"github.com/writ-auth/writ/policy"
)

// DryRunEnforced returns documents with every dry-run policy enforced (authorization-policy §7: "the decision if the
// dry-run policies were enforced together with the rest"), and how many there are.
func DryRunEnforced(docs []*policy.Document) (enforced []*policy.Document, n int) {
	enforced = make([]*policy.Document, len(docs))
	for i, d := range docs {
		enforced[i] = d
		if d.Kind != policy.KindAuthorizationPolicy || !dryRun(d) {
			continue
		}
		changed := *d
		changed.Annotations = maps.Clone(d.Annotations)
		for _, annotation := range dryRunAnnotations {
			delete(changed.Annotations, annotation)
		}
		enforced[i] = &changed
		n++
	}
	return enforced, n
}

// dryRunAnnotations mark a policy whose result is recorded and never enforced. Read only.
var dryRunAnnotations = [...]string{policy.DryRunAnnotation, policy.CustomDryRunAnnotation}

func dryRun(d *policy.Document) bool {
	for _, annotation := range dryRunAnnotations {
		if on, err := strconv.ParseBool(d.Annotations[annotation]); err == nil && on {
			return true
		}
	}
	return false
}
