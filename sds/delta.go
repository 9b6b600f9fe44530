package sds

import (
	"slices"

	"google.golang.org/grpc/codes"
)

// handleDelta is the state machine of DeltaSecrets: a request says what is added to the set of names and what is taken
// away, which holds whatever response it answers, and every response is answered by its own nonce.
func (st *stream) handleDelta(c *contents, r *request, first bool) *refusal {
	if i := slices.IndexFunc(st.unanswered, func(d delivery) bool { return d.nonce == r.nonce }); i >= 0 && !first {
		st.settle(st.unanswered[i], r.failure)
		st.backlog -= st.unanswered[i].size
		st.unanswered = slices.Delete(st.unanswered, i, i+1)
	}
	if first && len(r.names) == 0 {
		st.wildcard = true
	}
	for _, name := range r.names {
		if isWildcard(name) {
			st.wildcard = true
			continue
		}
		// Asking again for what it has already is how a client says that it lost it.
		sub := st.subscribe(name, false)
		sub.sent, sub.removed = nil, false
	}
	st.drop(r.drop)
	named := 0
	for _, sub := range st.subs {
		if !sub.implied {
			named++
		}
	}
	if named > maxNames {
		return refuse(codes.InvalidArgument, ReasonRequest, errTooMany.Error())
	}
	if first {
		st.adopt(c, r.initial)
	}
	return st.answer(c)
}

// drop ends subscriptions. Nothing is said of them any more.
func (st *stream) drop(names []string) {
	if slices.ContainsFunc(names, isWildcard) {
		st.wildcard = false
		st.subs = slices.DeleteFunc(st.subs, func(s subscription) bool { return s.implied })
	}
	st.subs = slices.DeleteFunc(st.subs, func(s subscription) bool { return slices.Contains(names, s.name) })
}

// adopt believes a client that comes back with what it has: what is current is not sent again.
func (st *stream) adopt(c *contents, versions map[string]string) {
	if len(versions) == 0 {
		return
	}
	st.expand(c)
	now := st.server.cfg.Now()
	for i := range st.subs {
		sub := &st.subs[i]
		f := st.server.find(c, st.caller, &st.entitlement, sub.name)
		if version, ok := versions[sub.name]; ok && f.secret != nil && f.secret.version == version {
			sub.sent, sub.acked, sub.ackedAt = f.secret, f.secret, now
		}
	}
}

// addDelta plans for one subscription: what the client lacks, and what it has but should not. The latter is said once; a
// proxy keeps the secret nevertheless (identity §4.3).
func (p *plan) addDelta(sub *subscription, f found) {
	switch {
	case f.refused != nil:
		if p.refused == nil {
			p.refused = f.refused
		}
		p.remove(sub)
	case f.secret == nil:
		p.allowed++
		if sub.sent != nil {
			p.remove(sub)
		}
	default:
		p.allowed++
		current := sub.sent != nil && sub.sent.version == f.secret.version
		if current || sub.rejected != nil && sub.rejected.version == f.secret.version {
			return
		}
		p.changed = true
		p.resources = append(p.resources, planned{sub, f.secret})
	}
}

func (p *plan) remove(sub *subscription) {
	if !sub.removed {
		p.removed = append(p.removed, sub)
	}
}
