package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	networkingv1alpha3 "istio.io/api/networking/v1alpha3"

	"github.com/writ-auth/writ/ca/caserver"
	"github.com/writ-auth/writ/internal/spiffeid"
	"github.com/writ-auth/writ/policy"
)

// addWorkloadGroups adds to a request for a join token the identities of the WorkloadGroup documents in files: those that
// Istio gives the machines of such a group, by the service account of its template (identity §8).
func (c *cli) addWorkloadGroups(ctx context.Context, o *control, files []string, r *caserver.CreateTokenRequest) error {
	if len(files) == 0 {
		return nil
	}
	docs, _, err := c.readDocuments(files)
	if err != nil {
		return err
	}
	var authority caReport
	if err := o.get(ctx, "/ca", &authority); err != nil {
		return err
	}
	found := 0
	for _, d := range docs {
		if d.Kind != policy.KindWorkloadGroup {
			continue
		}
		if problems := errorsOf(d.Problems); len(problems) > 0 {
			return invalidf("%s: %s: %s", place(&problems[0]), d.Object, problems[0].Message)
		}
		group, ok := d.Spec.(*networkingv1alpha3.WorkloadGroup)
		if !ok {
			return invalidf("%s:%d: %s has no spec", d.File, d.Line, d.Object)
		}
		account := cmp.Or(group.GetTemplate().GetServiceAccount(), "default") // what Kubernetes runs a pod as that names none
		id, err := spiffeid.Workload(authority.TrustDomain, d.Namespace, account)
		if err != nil {
			return invalidf("%s:%d: %s: %w", d.File, d.Line, d.Object, err)
		}
		if found++; !slices.Contains(r.IDs, id) {
			r.IDs = append(r.IDs, id)
		}
		r.Node = cmp.Or(r.Node, d.Namespace+"/"+d.Name)
	}
	if found == 0 {
		return fmt.Errorf("--workload-group: no WorkloadGroup document in %s", files)
	}
	return nil
}
