package replay

import (
	"context"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/authz/extauthz"
	"github.com/writ-auth/writ/policy"
)

// Decider is one set of documents with the server that decides whole requests by it.
type Decider struct {
	Server   *extauthz.Server
	Snapshot *policy.Snapshot // of the server
	// Unknown is asked after each decision what it depends on that is not there, such as keys, and forgets it; nil if
	// nothing can be missing.
	Unknown func(*authz.Decision) authz.Reason
}

// maxPairs bounds how many workloads are remembered to be, or not to be, under the same documents in both sets.
const maxPairs = 64 << 10

// Whole answers CheckRequests, which lack nothing, by two sets with all of the server's code. What it returns is valid
// until the next call. It is not safe for concurrent use.
type Whole struct {
	json     *extauthz.JSONReader
	old, new Decider
	askOld   *extauthz.Caller
	askNew   *extauthz.Caller
	workload *policy.Workload
	alike    map[[2]*policy.Bound]bool
	answered Answered
}

// NewWhole prepares the answers for all requests that are for workload; if that is nil, the requests say whom they are for.
func NewWhole(before, after Decider, workload *policy.Workload) *Whole {
	return &Whole{
		json: extauthz.NewJSONReader(), old: before, new: after, askOld: before.Server.Caller(), askNew: after.Server.Caller(),
		workload: workload, alike: map[[2]*policy.Bound]bool{},
	}
}

// Answer answers one CheckRequest in protobuf JSON. A workload that the same documents govern in both sets is not asked
// about twice.
func (w *Whole) Answer(ctx context.Context, line []byte) (*Answered, error) {
	raw, err := w.json.Read(line)
	if err != nil {
		return nil, err
	}
	a := &w.answered
	o := w.askOld.Ask(ctx, raw, w.workload)
	*a = Answered{Old: w.old.outcome(o.Decision), Request: o.Request, RequestID: o.RequestID}
	if bound := o.Decision.Workload; bound != nil {
		a.Workload = &bound.Workload
		if w.same(o, bound) {
			a.New = a.Old
			return a, nil
		}
	}
	o = w.askNew.Ask(ctx, raw, w.workload)
	a.New = w.new.outcome(o.Decision)
	if bound := o.Decision.Workload; bound != nil {
		a.Workload = &bound.Workload
	}
	return a, nil
}

// outcome is that of a decision, unknown if it hangs on what is not there.
func (s *Decider) outcome(d *authz.Decision) Outcome {
	if s.Unknown != nil {
		if missing := s.Unknown(d); missing != "" {
			return unknown(string(missing))
		}
	}
	return OutcomeOf(d)
}

// same reports whether the workload that was asked about is under the same documents in the new set.
func (w *Whole) same(o *extauthz.Observation, old *policy.Bound) bool {
	bound, err := o.Bind(w.new.Snapshot)
	if err != nil {
		return false
	}
	pair := [2]*policy.Bound{old, bound}
	same, known := w.alike[pair]
	if !known {
		if len(w.alike) == maxPairs {
			clear(w.alike)
		}
		same = alike(old, bound)
		w.alike[pair] = same
	}
	return same
}
