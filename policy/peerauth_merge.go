package policy

import (
	"cmp"
	"fmt"
	"slices"

	securityv1beta1 "istio.io/api/security/v1beta1"
)

// peerAuthentication is one PeerAuthentication in force.
type peerAuthentication struct {
	doc       *Document
	namespace string
	selector  map[string]string
	mode      Mode            // ModeUnset inherits
	ports     map[uint16]Mode // ModeUnset takes the merged mode
	broken    bool            // a stand-in: STRICT
	anyone    bool            // a stand-in for what may have selected anybody in its namespace, at any level
}

func newPeerAuthentication(doc *Document) (*peerAuthentication, error) {
	spec, ok := doc.Spec.(*securityv1beta1.PeerAuthentication)
	if !ok {
		return nil, fmt.Errorf("%s: no PeerAuthentication spec", doc.Object)
	}
	p := &peerAuthentication{
		doc: doc, namespace: doc.Namespace, selector: spec.GetSelector().GetMatchLabels(), mode: modeOf(spec.GetMtls()),
		ports: make(map[uint16]Mode, len(spec.GetPortLevelMtls())),
	}
	for port, mtls := range spec.GetPortLevelMtls() {
		if port == 0 || port > maxPort {
			return nil, fmt.Errorf("%s: portLevelMtls: %d is no port", doc.Object, port)
		}
		p.ports[uint16(port)] = modeOf(mtls)
	}
	return p, nil
}

const maxPort = 65535

// modeOf reads a mode. A missing one is UNSET.
func modeOf(mtls *securityv1beta1.PeerAuthentication_MutualTLS) Mode {
	switch mtls.GetMode() {
	case securityv1beta1.PeerAuthentication_MutualTLS_DISABLE:
		return ModeDisable
	case securityv1beta1.PeerAuthentication_MutualTLS_PERMISSIVE:
		return ModePermissive
	case securityv1beta1.PeerAuthentication_MutualTLS_STRICT:
		return ModeStrict
	case securityv1beta1.PeerAuthentication_MutualTLS_UNSET:
	}
	return ModeUnset
}

// brokenPeerAuthentication stands in for a document that was never valid: it may have been STRICT, and so it is. What
// cannot be read of its reach is taken at its widest: an unknown selector is the whole namespace, an unknown namespace
// the mesh, and nothing narrower overrides either. In the root namespace it can have been the mesh's only.
func brokenPeerAuthentication(doc *Document, root string) *peerAuthentication {
	p := &peerAuthentication{doc: doc, namespace: doc.Namespace, mode: ModeStrict, broken: true}
	spec, ok := doc.Spec.(*securityv1beta1.PeerAuthentication)
	switch {
	case ok && !doc.targetUnread:
		p.selector = spec.GetSelector().GetMatchLabels()
		p.anyone = doc.Namespace == ""
	case doc.Namespace != root:
		p.anyone = true
	}
	return p
}

// name is "namespace/name", for people.
func (p *peerAuthentication) name() string {
	name := p.doc.Name
	if name == "" {
		name = fmt.Sprintf("(%s:%d)", p.doc.File, p.doc.Line)
	}
	return p.namespace + "/" + name
}

// applies reports whether the document governs a workload that is neither gateway nor waypoint. In the root namespace a
// document with a selector is ignored, whatever it selects (§8.1).
func (p *peerAuthentication) applies(mesh *Mesh, w *Workload) bool {
	switch {
	case p.anyone:
		return p.namespace == "" || p.namespace == w.Namespace
	case p.namespace == mesh.RootNamespace:
		return len(p.selector) == 0
	case p.namespace != w.Namespace:
		return false
	}
	for k, v := range p.selector {
		if have, ok := w.Labels[k]; !ok || have != v {
			return false
		}
	}
	return true
}

// strict reports whether the document can make any port STRICT.
func (p *peerAuthentication) strict() bool {
	for _, mode := range p.ports {
		if mode == ModeStrict {
			return true
		}
	}
	return p.mode == ModeStrict
}

// needsLabels reports whether some label set could change whether the document applies.
func (p *peerAuthentication) needsLabels(mesh *Mesh) bool {
	return !p.anyone && len(p.selector) > 0 && p.namespace != mesh.RootNamespace
}

// peerModes merges the documents that apply to a workload (§8.1): "at each level only the oldest object counts …
// mesh → namespace → workload, later non-UNSET wins". apply is in order of age.
func (s *Snapshot) peerModes(apply []*peerAuthentication, w *Workload) *peerModes {
	merge := s.mergePeers
	key := ""
	for _, p := range apply {
		key += p.name() + ","
	}
	switch {
	case w.waypoint() || s.isGateway(w):
		key, merge = "nobody", ungoverned
	case key == "":
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	known, ok := s.modes[key]
	if !ok {
		known = merge(apply)
		s.modes[key] = known
	}
	return known
}

// ungoverned are the modes of gateways and waypoints.
func ungoverned([]*peerAuthentication) *peerModes {
	return newPeerModes(PortMTLS{Mode: ModeUnset}, nil)
}

func (s *Snapshot) mergePeers(apply []*peerAuthentication) *peerModes {
	var levels [3]*peerAuthentication // mesh, namespace, workload
	for _, p := range apply {
		level := 1
		switch {
		case p.anyone:
			return newPeerModes(PortMTLS{Mode: ModeStrict, By: p.name(), Broken: true}, nil)
		case len(p.selector) > 0:
			level = 2
		case p.namespace == s.mesh.RootNamespace:
			level = 0
		}
		if levels[level] == nil {
			levels[level] = p
		}
	}
	merged, from := PortMTLS{Mode: ModePermissive}, map[uint16]*peerAuthentication{}
	for _, p := range levels {
		if p != nil && p.mode != ModeUnset {
			merged = PortMTLS{Mode: p.mode, By: p.name(), Broken: p.broken}
			from[0] = p
		}
	}
	var ports []PortMTLS
	if p := levels[2]; p != nil {
		for port, mode := range p.ports {
			of := PortMTLS{Port: port, Mode: mode, By: p.name()}
			from[port] = p
			if mode == ModeUnset {
				of.Mode, of.By, of.Broken = merged.Mode, merged.By, merged.Broken
				from[port] = from[0]
			}
			ports = append(ports, of)
		}
	}
	slices.SortFunc(ports, func(a, b PortMTLS) int { return cmp.Compare(a.Port, b.Port) })
	modes := newPeerModes(merged, ports)
	modes.from = from
	return modes
}

// namespaceMTLS is the mode of a namespace as a whole, which is what clients go by when they choose between mTLS and
// plaintext themselves (§8.3): "workload- and port-level ones are ignored for this".
func (s *Snapshot) namespaceMTLS(namespace string) PortMTLS {
	var apply []*peerAuthentication
	w := &Workload{Namespace: namespace}
	for _, p := range s.peerCandidates(w) {
		if len(p.selector) == 0 && p.applies(&s.mesh, w) {
			apply = append(apply, p)
		}
	}
	return s.mergePeers(apply).rest
}

// peerCandidates lists the documents of all namespaces that can apply to w, each namespace's in order of age.
func (s *Snapshot) peerCandidates(w *Workload) []*peerAuthentication {
	out := slices.Clone(s.peers[""]) // of a namespace that cannot be read
	out = append(out, s.peers[s.mesh.RootNamespace]...)
	if w.Namespace != s.mesh.RootNamespace && w.Namespace != "" {
		out = append(out, s.peers[w.Namespace]...)
	}
	return out
}
