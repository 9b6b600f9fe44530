package policy

import (
	"cmp"
	"slices"
)

// DocumentTrace is one document of a [Trace] that is no AuthorizationPolicy, and whether it counts for the workload.
type DocumentTrace struct {
	Kind  string `json:"kind"`
	Name  string `json:"name"` // namespace/name
	File  string `json:"file"`
	Line  int    `json:"line"`
	Scope Scope  `json:"scope"`
}

// explainDocuments says of every RequestAuthentication, PeerAuthentication and document of a kind that means nothing here
// whether it counts for a workload, in the order of files and lines.
func (s *Snapshot) explainDocuments(w *Workload) []DocumentTrace {
	var out []DocumentTrace
	add := func(d *Document, kind string, scope Scope) {
		out = append(out, DocumentTrace{Kind: kind, Name: d.Namespace + "/" + d.Name, File: d.File, Line: d.Line, Scope: scope})
	}
	for _, ns := range sortedKeys(s.tokens) {
		for _, a := range s.tokens[ns] {
			add(a.doc, KindRequestAuthentication, a.target.anyScope(&s.mesh, w))
		}
	}
	for _, ns := range sortedKeys(s.peers) {
		for _, p := range s.peers[ns] {
			add(p.doc, KindPeerAuthentication, s.peerScope(p, w))
		}
	}
	for i := range s.documents {
		if d := &s.documents[i]; d.State == StateIgnored {
			out = append(out, DocumentTrace{
				Kind: d.Object.Kind, Name: d.Object.Namespace + "/" + d.Object.Name, File: d.File, Line: d.Line,
				Scope: Scope{false, "documents of this kind mean nothing to authorization"},
			})
		}
	}
	slices.SortStableFunc(out, func(a, b DocumentTrace) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line))
	})
	return out
}

// peerScope says whether a PeerAuthentication counts for a workload: "at each level only the oldest object counts"
// (authorization-policy §8.1).
func (s *Snapshot) peerScope(p *peerAuthentication, w *Workload) Scope {
	switch {
	case w.waypoint():
		return Scope{false, "a waypoint takes mTLS only, whatever documents say"}
	case s.isGateway(w):
		return Scope{false, "the servers of a gateway say themselves what they do about TLS"}
	case p.anyone && p.applies(&s.mesh, w):
		return Scope{true, "it is broken, and may have been meant for anybody in its namespace"}
	case p.namespace == s.mesh.RootNamespace && len(p.selector) > 0:
		return Scope{false, "in the root namespace one with a selector counts for nothing"}
	}
	scope := (&target{namespace: p.namespace, selector: p.selector}).anyScope(&s.mesh, w)
	if !scope.Applies {
		return scope
	}
	for _, other := range s.peers[p.namespace] {
		if other == p {
			break
		}
		if !other.anyone && (len(other.selector) > 0) == (len(p.selector) > 0) && other.applies(&s.mesh, w) {
			return Scope{false, other.name() + " is older, and of one level only the oldest counts"}
		}
	}
	return scope
}
