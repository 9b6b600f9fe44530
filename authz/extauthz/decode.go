package extauthz

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/policy"
)

// refusal is why a CheckRequest is denied before any policy is asked.
type refusal struct {
	reason authz.Reason
	detail string
}

func badRequest(format string, args ...any) *refusal {
	return &refusal{authz.ReasonBadRequest, "CheckRequest: " + fmt.Sprintf(format, args...)}
}

// message is one decoded CheckRequest: what policies see in request, and what else the server needs beside it.
// It is reused from call to call.
type message struct {
	request policy.Request

	attributes, http     bool // the message was present
	fromMap, fromRaw     bool // headers came from http.headers, from http.header_map
	source, destination  peer
	labels               []label // destination.labels, in the order received
	extensions           named
	sni                  string
	metadata             dynamicMetadata
	claims               proxyClaims
	seen                 headerFilter
	lower                []byte // storage of header names that had to be folded
	requestID, forwarded int    // index of x-request-id and of the last x-forwarded-for, -1 when absent
}

// peer is AttributeContext.Peer.
type peer struct {
	address, principal, certificate, service string
	port                                     uint16
}

// label is one entry of destination.labels.
type label struct{ key, value string }

// reset forgets the last message and keeps the buffers. No string of the last message survives in them: the
// slices are cleared to their full length, because what they pointed to has gone back to a pool.
func (m *message) reset() {
	clear(m.request.Headers)
	clear(m.request.Names)
	clear(m.labels)
	m.request.Reset()
	m.metadata.reset()
	m.claims.reset()
	*m = message{request: m.request, labels: m.labels[:0], metadata: m.metadata, claims: m.claims, lower: m.lower[:0], requestID: -1, forwarded: -1}
}

// decode reads raw into m, which keeps references to raw until it is reset. Protobuf's rules hold: unknown fields
// are skipped, the last value of a field wins, repeated messages merge.
func (m *message) decode(raw []byte) error {
	var f field
	var err error
	for b := raw; len(b) > 0; {
		if b, err = f.next(b); err != nil {
			return err
		}
		if f.tag == checkAttributes {
			m.attributes = true
			if err := m.decodeAttributes(f.val); err != nil {
				return at("attributes", err)
			}
		}
	}
	return nil
}

// fieldError is a failure to read one field, by its path in the CheckRequest.
type fieldError struct {
	path string
	err  error
}

func (e *fieldError) Error() string { return e.path + ": " + e.err.Error() }
func (e *fieldError) Unwrap() error { return e.err }

// at names the field that err happened in. Paths are made on the way out only, so the good path pays nothing.
func at(name string, err error) error {
	if err == nil {
		return nil
	}
	return prefix(name, err)
}

func prefix(name string, err error) error {
	var inner *fieldError
	if errors.As(err, &inner) {
		return &fieldError{name + "." + inner.path, inner.err}
	}
	return &fieldError{name, err}
}

func (m *message) decodeAttributes(b []byte) (err error) {
	var f field
	for len(b) > 0 {
		if b, err = f.next(b); err != nil {
			return err
		}
		switch f.tag {
		case attrSource:
			err = at("source", m.decodePeer(&m.source, f.val, false))
		case attrDestination:
			err = at("destination", m.decodePeer(&m.destination, f.val, true))
		case attrRequest:
			err = at("request", m.decodeRequest(f.val))
		case attrExtensions:
			err = at("context_extensions", m.extensions.decode(f.val))
		case attrMetadata:
			err = at("metadata_context", m.metadata.add(f.val))
		case attrTLSSession:
			err = at("tls_session", m.decodeTLSSession(f.val))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (m *message) decodePeer(p *peer, b []byte, withLabels bool) (err error) {
	var f field
	for len(b) > 0 {
		if b, err = f.next(b); err != nil {
			return err
		}
		switch f.tag {
		case peerAddress:
			err = p.decodeAddress(f.val)
		case peerService:
			err = setText(&p.service, f.val)
		case peerPrincipal:
			err = setText(&p.principal, f.val)
		case peerCertificate:
			err = setText(&p.certificate, f.val)
		case peerLabels:
			if withLabels {
				err = m.addLabel(f.val)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (m *message) addLabel(b []byte) error {
	key, value, err := entry(b)
	if err != nil {
		return at("labels", err)
	}
	s, err := text(value)
	if err != nil {
		return at("labels", err)
	}
	if len(m.labels) == maxLabels {
		return errManyLabels
	}
	m.labels = append(m.labels, label{key, s})
	return nil
}

// decodeAddress keeps a socket address. Another kind of address, which has no IP, replaces it (a oneof).
func (p *peer) decodeAddress(b []byte) (err error) {
	var f, s field
	for len(b) > 0 {
		if b, err = f.next(b); err != nil {
			return err
		}
		switch f.tag {
		case addressPipe, addressInternal:
			p.address, p.port = "", 0
		case addressSocket:
			for v := f.val; len(v) > 0; {
				if v, err = s.next(v); err != nil {
					return err
				}
				if err = p.socketField(&s); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (p *peer) socketField(f *field) error {
	switch f.tag {
	case socketAddress:
		return setText(&p.address, f.val)
	case socketNamedPort:
		p.port = 0
	case socketPort:
		port, ok := portOf(f.num)
		if !ok {
			return errPort
		}
		p.port = port
	}
	return nil
}

func (m *message) decodeTLSSession(b []byte) (err error) {
	var f field
	for len(b) > 0 {
		if b, err = f.next(b); err != nil {
			return err
		}
		if f.tag == tlsSNI {
			if err = setText(&m.sni, f.val); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m *message) decodeRequest(b []byte) (err error) {
	var f field
	for len(b) > 0 {
		if b, err = f.next(b); err != nil {
			return err
		}
		if f.tag == requestHTTP {
			m.http = true
			if err = at("http", m.decodeHTTP(f.val)); err != nil {
				return err
			}
		}
	}
	return nil
}

// Errors of messages that protobuf accepts and that no proxy sends.
var (
	errPort        = errors.New("port_value of more than 65535")
	errManyLabels  = fmt.Errorf("more than %d labels", maxLabels)
	errNoMethod    = errors.New("request.http has no method")
	errNoPath      = errors.New("request.http has no path and the method is not CONNECT")
	errTwoHeaders  = errors.New("request.http has both headers and header_map; Envoy sends one of them")
	errManyHeaders = fmt.Errorf("request.http has more than %d headers", maxHeaders)
)

// finish turns what was decoded into the attributes of the policy request (authorization-policy §9).
func (m *message) finish(opts *Options) *refusal {
	r := &m.request
	if !m.attributes {
		return badRequest("attributes are missing")
	}
	r.TCP = !m.http
	r.SourceIP = parseIP(m.source.address)
	r.DestIP, r.DestPort = parseIP(m.destination.address), m.destination.port
	r.RemoteIP = r.SourceIP
	r.SNI = m.sni
	if !m.metadata.empty() {
		r.Metadata = &m.metadata
		if m.claims.from(&m.metadata) {
			r.ProxyClaims = &m.claims
		}
	}
	if refused := m.names(opts.certificates); refused != nil {
		return refused
	}
	if r.TCP {
		if r.SNI == "" { // the network filter puts the SNI here, include_tls_session or not
			r.SNI = m.destination.service
		}
		return nil
	}
	if err := m.finishHeaders(); err != nil {
		return badRequest("%v", err)
	}
	if m.forwarded >= 0 {
		r.RemoteIP = remoteIP(r.Headers[:m.forwarded+1], opts.TrustedHops, r.SourceIP)
	}
	r.Path = r.RawPath
	if i := strings.IndexByte(r.Path, '?'); i >= 0 {
		r.Path = r.Path[:i]
	}
	if i := strings.IndexByte(r.Path, '#'); i >= 0 {
		r.Path = r.Path[:i]
	}
	if opts.Paths != PathsNone {
		if h := pathHazard(r.Path); h != "" {
			return &refusal{authz.ReasonPathNotNormalized, h}
		}
	}
	return nil
}

// parseIP is the address, without zone; invalid when s is not one (a pipe has none, and names are never looked up).
func parseIP(s string) netip.Addr {
	if s == "" {
		return netip.Addr{}
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Addr{}
	}
	return a.WithZone("")
}
