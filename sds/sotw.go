package sds

import (
	"slices"
	"strconv"
)

// handleSotW is the state machine of StreamSecrets (identity §4.3): a request says the whole set of names, and answers the
// last response.
//
// Until something was sent on this stream every request sets the names, whatever nonce it carries: a proxy that comes back
// repeats what it knew (identity §11 surprise 13). After that a request that does not answer the last response is stale: one
// that does will follow.
func (st *stream) handleSotW(c *contents, r *request, first bool) *refusal {
	if st.nonce != 0 {
		if r.nonce != strconv.FormatUint(st.nonce, 10) {
			return nil
		}
		if n := len(st.unanswered); n > 0 {
			st.settle(st.unanswered[n-1], r.failure)
			st.unanswered, st.backlog = nil, 0
		}
	}
	if st.setNames(r.names, first) {
		st.due = true
	}
	return st.answer(c)
}

// setNames makes names the set that is subscribed to, and reports whether that is another one than before.
func (st *stream) setNames(names []string, first bool) (changed bool) {
	wildcard := first && len(names) == 0 || slices.ContainsFunc(names, isWildcard) ||
		// A client that never said a name goes on not saying any. One that did, and stops, wants nothing more.
		st.wildcard && len(names) == 0 && !slices.ContainsFunc(st.subs, func(s subscription) bool { return !s.implied })
	changed = first || wildcard != st.wildcard
	st.wildcard = wildcard
	before := len(st.subs)
	st.subs = slices.DeleteFunc(st.subs, func(s subscription) bool { return !s.implied && !slices.Contains(names, s.name) })
	changed = changed || len(st.subs) != before
	for _, name := range names {
		if _, known := st.find(name); !known && !isWildcard(name) {
			changed = true
		}
		if !isWildcard(name) {
			st.subscribe(name, false)
		}
	}
	return changed
}

// addSotW plans for one subscription. A response has all that there is, changed or not, but for what was rejected and has not
// changed since.
func (p *plan) addSotW(sub *subscription, f found) {
	switch {
	case f.refused != nil:
		if p.refused == nil {
			p.refused = f.refused
		}
		if sub.sent != nil && p.lost == nil {
			p.lost = f.refused
		}
	case f.secret == nil:
		p.allowed++
	default:
		p.allowed++
		if sub.rejected != nil && sub.rejected.version == f.secret.version {
			return
		}
		p.changed = p.changed || sub.sent == nil || sub.sent.version != f.secret.version
		p.resources = append(p.resources, planned{sub, f.secret})
	}
}
