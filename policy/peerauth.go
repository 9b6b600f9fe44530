package policy

import (
	"fmt"
	"strings"
)

// Mode is what a workload's proxy does with TLS on one of its ports (authorization-policy §8.2).
type Mode uint8

// Modes, in Istio's numbering.
const (
	// ModeUnset: no PeerAuthentication governs the workload. It is a gateway, whose servers say themselves what they do,
	// or a waypoint, which takes mTLS only whatever documents say.
	ModeUnset Mode = iota
	// ModeDisable: TLS is not terminated. Nobody has an identity.
	ModeDisable
	// ModePermissive: mTLS is terminated, plaintext is taken as well and has no identity. The default.
	ModePermissive
	// ModeStrict: mTLS only, with a client certificate.
	ModeStrict
)

// String is the mode as documents spell it.
func (m Mode) String() string {
	switch m {
	case ModeUnset:
		return "UNSET"
	case ModeDisable:
		return "DISABLE"
	case ModePermissive:
		return "PERMISSIVE"
	case ModeStrict:
		return "STRICT"
	}
	return fmt.Sprintf("Mode(%d)", uint8(m))
}

// MarshalText writes the mode as documents spell it.
func (m Mode) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// PortMTLS is what PeerAuthentication says of one port of a workload.
type PortMTLS struct {
	Port uint16 // of the workload, not of a Service in front; 0 = every port without a mode of its own
	Mode Mode
	By   string // namespace/name of the document the mode comes from; empty when none says anything
	// Broken is set when that document has errors, was never valid and counts as STRICT.
	Broken bool

	refusal string
}

// Refusal says to operators why a caller without a certificate is refused on the port, and what to do. It is made once,
// when the workload is bound.
func (p PortMTLS) Refusal() string { return p.refusal }

// peerModes are the modes of all ports of one workload, nil where no document says anything. They are immutable; workloads
// with the same documents share them.
type peerModes struct {
	rest      PortMTLS
	ports     []PortMTLS // with a mode of their own, by number
	strictest PortMTLS   // of all of them

	from map[uint16]*peerAuthentication // what By names, by Port; not part of PortMTLS, which is compared across snapshots
}

func newPeerModes(rest PortMTLS, ports []PortMTLS) *peerModes {
	m := &peerModes{rest: rest, ports: ports}
	m.rest.explain()
	m.strictest = m.rest
	for i := range ports {
		ports[i].explain()
		if ports[i].Mode > m.strictest.Mode {
			m.strictest = ports[i]
		}
	}
	return m
}

// explain makes the text of Refusal.
func (p *PortMTLS) explain() {
	switch {
	case p.Mode != ModeStrict:
	case p.Broken:
		p.refusal = "PeerAuthentication " + p.By + " has errors, was never valid and counts as STRICT: writ lint names them"
	default:
		where := "the port"
		if p.Port != 0 {
			where = fmt.Sprintf("port %d", p.Port)
		}
		p.refusal = fmt.Sprintf("PeerAuthentication %s is STRICT for %s and the caller showed no SPIFFE certificate: "+
			"have its proxy use mTLS, or make the mode PERMISSIVE", p.By, where)
	}
}

// refuseAlike reports whether two workloads refuse the same callers, as far as PeerAuthentication decides it.
func refuseAlike(a, b *peerModes) bool {
	return a == b || a.at(0).Mode != ModeStrict && b.at(0).Mode != ModeStrict
}

// at finds the mode of a port. A port that is not known may be any: the strictest mode counts.
func (m *peerModes) at(port uint16) PortMTLS {
	switch {
	case m == nil:
		return PortMTLS{Mode: ModePermissive}
	case port == 0:
		return m.strictest
	}
	for i := range m.ports {
		if m.ports[i].Port == port {
			return m.ports[i]
		}
	}
	return m.rest
}

// MTLS is what PeerAuthentication says of a port of the workload: the port it listens on, not that of a Service. Of port 0,
// which stands for a port that is not known, it is the strictest mode of any port. It does not allocate.
func (b *Bound) MTLS(port uint16) PortMTLS { return b.peers.at(port) }

// MTLSPorts lists the ports with a mode of their own, by number, and the mode of all others (Port 0) first.
func (b *Bound) MTLSPorts() []PortMTLS {
	if b.peers == nil {
		return []PortMTLS{b.peers.at(0)}
	}
	return append([]PortMTLS{b.peers.rest}, b.peers.ports...)
}

// HasIdentity reports whether the peer proved an identity of a mesh: a SPIFFE ID in its certificate. A connection that
// PeerAuthentication would call mTLS has one, for Istio's proxies accept no other certificate (authorization-policy §8.2).
func (r *Request) HasIdentity() bool {
	for _, name := range r.Names {
		if strings.HasPrefix(name, spiffeScheme) {
			return true
		}
	}
	return false
}
