package extauthz

import "github.com/writ-auth/writ/policy"

// Bind finds the rules that another snapshot has for the workload that was asked about. The workload is named by the same
// trusted input as for the decision, so that whoever compares two snapshots compares what each of them makes of it:
// labels, too, are looked up in that snapshot. An error is a *[RequestError].
//
// It does not allocate for a workload that was bound in the snapshot before. Like all of the observation, it is valid
// during the call of Observe only.
func (o *Observation) Bind(snap *policy.Snapshot) (*policy.Bound, error) {
	var bound *policy.Bound
	var refused *refusal
	if o.named != nil {
		bound, refused = o.call.bindWorkload(snap, o.named)
	} else {
		bound, refused = o.call.resolve(o.ctx, snap)
	}
	if refused != nil {
		return nil, &RequestError{refused.reason, refused.detail}
	}
	return bound, nil
}
