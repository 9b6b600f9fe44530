package policy

import (
	"net/netip"
	"unsafe"
)

// Request is what policies can see of one HTTP request or one TCP connection. It is filled by its owner (extauthz, or
// the CLI), only read by this package, and may be reused: nothing here keeps a reference to it or to its strings after
// a call returns.
//
// A string attribute that is absent is empty, except where a Has… field tells absent from empty.
type Request struct {
	// TCP is set for a connection seen by a network filter. Every HTTP attribute is then absent and policies are
	// matched in their TCP form (authorization-policy §5).
	TCP bool

	// Names are the peer certificate's names, the SPIFFE ID with its scheme among them: all URI SANs, then all DNS
	// SANs, then the subject. Envoy RBAC accepts when any of them matches (§1.4). Empty on plaintext.
	Names []string
	// Peer is the peer's certificate, nil unless the proxy sends it (include_peer_certificate).
	Peer *PeerCertificate

	SourceIP    netip.Addr // direct peer; invalid = absent
	RemoteIP    netip.Addr // after PROXY protocol and x-forwarded-for; invalid = absent
	DestIP      netip.Addr // local address of the connection
	DestPort    uint16     // 0 = absent
	SNI         string
	Method      string
	Path        string // without query or fragment
	RawPath     string // :path as received
	Host        string // :authority as received, port included
	HasHost     bool   // :authority was sent, even if empty
	HasMethod   bool
	Headers     []Header // in the order received; pseudo headers included when the proxy sends them
	RawHeaders  bool     // repeated headers are apart in Headers; otherwise the proxy has joined them
	Scheme      string   // http or https
	Claims      Claims   // verified token of the request, nil when there is none
	ProxyClaims Claims   // what the proxy's own filter verified, nil when it sent nothing
	Metadata    Metadata // dynamic metadata of the proxy's own filters, nil when there is none

	joins  []Header // repeated headers, joined by Header
	joined []byte   // what joins point into
	folded []byte   // what foldedHost points into
}

// PeerCertificate is what tells one certificate from another. It is immutable.
type PeerCertificate struct {
	Serial  [16]byte // big endian; all zero for a serial number of more than 128 bits
	KeyHash [32]byte // SHA-256 of the subject public key info
}

// Header is one request header as received. Name is in lower case. It is an alias so that other packages which read headers
// and know nothing of policies can take the same list.
type Header = struct{ Name, Value string }

// Claims is the payload of a verified token. An implementation is only made by a verification.
type Claims interface {
	// Issuer and Subject are the iss and sub claims, empty when absent or not a string.
	Issuer() string
	Subject() string
	// Strings returns the string at path, walking objects, as a list of one; of a list its string elements; else nil
	// (numbers, booleans, null and objects never match, §1.3 CLAIM). The list stays as it is while the request is
	// decided, whatever else is asked for.
	Strings(path []string) []string
}

// Metadata is dynamic metadata of the proxy's own filters, by filter namespace and key.
type Metadata interface {
	// Text returns the value if it is a string.
	Text(namespace, key string) (string, bool)
	// List returns the string elements of the value if it is a list, else nil.
	List(namespace, key string) []string
}

// Reset empties the request for reuse and keeps its buffers.
func (r *Request) Reset() {
	*r = Request{Names: r.Names[:0], Headers: r.Headers[:0], joins: r.joins[:0], joined: r.joined[:0], folded: r.folded[:0]}
}

// Header returns the value of the named header (lower case) and whether it was sent at all. Repeated headers are
// joined with a comma and no space, as Envoy does before RBAC sees them (§1.3 HDR).
//
// The result is valid until Reset.
func (r *Request) Header(name string) (string, bool) {
	for i := range r.Headers {
		if r.Headers[i].Name == name {
			return r.joinRest(i), true
		}
	}
	switch name { // a proxy that sends raw headers may leave the pseudo headers to the message's own fields
	case ":authority":
		return r.Host, r.HasHost
	case ":method":
		return r.Method, r.HasMethod
	case ":path":
		return r.RawPath, r.RawPath != ""
	}
	return "", false
}

// joinRest returns the value of header i, joined with those of its later repetitions. A joined value is made once and
// kept until Reset.
func (r *Request) joinRest(i int) string {
	first := &r.Headers[i]
	next := i + 1
	for next < len(r.Headers) && r.Headers[next].Name != first.Name {
		next++
	}
	if next == len(r.Headers) {
		return first.Value
	}
	for _, j := range r.joins {
		if j.Name == first.Name {
			return j.Value
		}
	}
	start := len(r.joined)
	r.joined = append(r.joined, first.Value...)
	for ; next < len(r.Headers); next++ {
		if r.Headers[next].Name == first.Name {
			r.joined = append(append(r.joined, ','), r.Headers[next].Value...)
		}
	}
	r.joins = append(r.joins, Header{first.Name, view(r.joined[start:])})
	return r.joins[len(r.joins)-1].Value
}

// foldedHost is Host in lower case; only ASCII letters fold (§1.3 HOST). Host does not
// change while a request is decided, so every call writes the same bytes to the same place.
func (r *Request) foldedHost() string {
	for i := range len(r.Host) {
		if c := r.Host[i]; 'A' <= c && c <= 'Z' {
			r.folded = append(r.folded[:0], r.Host...)
			for ; i < len(r.folded); i++ {
				if c := r.folded[i]; 'A' <= c && c <= 'Z' {
					r.folded[i] = c + ('a' - 'A')
				}
			}
			return view(r.folded)
		}
	}
	return r.Host
}

// view reads a scratch buffer as a string without copying it. The string is good until Reset.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
