package extauthz

import (
	"context"
	"errors"

	"github.com/writ-auth/writ/policy"
)

// Decoded is a decoder for tests, with all that a message holds in the open.
type Decoded struct {
	HTTP, Attributes        bool
	Source, Destination     DecodedPeer
	Labels                  map[string]string
	Extensions              map[string]string
	SNI, Method, Path, Host string
	Headers                 []policy.Header
	Metadata                policy.Metadata
}

// DecodedPeer is one peer of a Decoded.
type DecodedPeer struct {
	Address, Principal, Certificate, Service string
	Port                                     uint16
}

// DecodeWire decodes raw without judging it.
func DecodeWire(raw []byte) (*Decoded, error) {
	m := new(message)
	m.reset()
	if err := m.decode(raw); err != nil {
		return nil, err
	}
	open := func(p peer) DecodedPeer {
		return DecodedPeer{p.address, p.principal, p.certificate, p.service, p.port}
	}
	d := &Decoded{
		HTTP: m.http, Attributes: m.attributes, Source: open(m.source), Destination: open(m.destination), SNI: m.sni,
		Method: m.request.Method, Path: m.request.RawPath, Host: m.request.Host, Headers: m.request.Headers,
		Labels: map[string]string{}, Extensions: map[string]string{}, Metadata: &m.metadata,
	}
	for _, l := range m.labels {
		d.Labels[l.key] = l.value
	}
	e := m.extensions
	for k, v := range map[string]string{
		"writ.namespace": e.namespace, "writ.labels": e.labels, "writ.name": e.name,
		"writ.service_account": e.serviceAccount, "writ.service": e.service,
	} {
		if v != "" || k == "writ.namespace" && e.hasNamespace || k == "writ.labels" && e.hasLabels {
			d.Extensions[k] = v
		}
	}
	return d, nil
}

// BeyondBounds reports whether err refuses a message that a protobuf decoder accepts.
func BeyondBounds(err error) bool {
	for _, bound := range []error{errPort, errManyLabels, errManyHeaders, errDeepMetadata, errManyMetadata, errTwoValues} {
		if errors.Is(err, bound) {
			return true
		}
	}
	return false
}

// ReusedDecoder decodes as the server does, into one message that is reused.
func ReusedDecoder(opts Options) func(raw []byte) (*policy.Request, bool) {
	c := new(call)
	opts.certificates = newCertificateCache()
	return func(raw []byte) (*policy.Request, bool) {
		refused := c.read(input{raw, len(raw)}, &opts, maxMessageBytes)
		return &c.message.request, refused == nil
	}
}

// CheckBytes is what the gRPC handler calls.
func (s *Server) CheckBytes(raw, out []byte) []byte {
	return s.check(context.Background(), input{raw, len(raw)}, out)
}

// CheckReused is CheckBytes with one call for all requests: a pool may drop what it holds at any time.
func (s *Server) CheckReused() func(raw, out []byte) []byte {
	c := new(call)
	return func(raw, out []byte) []byte {
		s.answer(context.Background(), c, input{raw, len(raw)}, nil)
		out = appendResponse(out, &c.decision)
		c.release()
		return out
	}
}

// Certificates opens the certificate cache.
type Certificates struct{ cache *certificateCache }

// NewCertificates is an empty cache.
func NewCertificates() Certificates { return Certificates{newCertificateCache()} }

// Names is what the decoder asks.
func (c Certificates) Names(text string) ([]string, error) {
	cert, err := c.cache.get(text)
	if err != nil {
		return nil, err
	}
	return cert.names, nil
}

// Len is how many certificates are remembered.
func (c Certificates) Len() (n int) {
	for i := range c.cache.table {
		for j := range c.cache.table[i] {
			if c.cache.table[i][j].Load() != nil {
				n++
			}
		}
	}
	return n
}

// MaxCertificates is how many certificates can be remembered.
const MaxCertificates = certificateSets * certificateWays

// Internals that are tables of text in, text out.
var (
	AppendResponse = appendResponse
	Coherent       = coherent
	PathHazard     = pathHazard
	ParseLabels    = parseLabels
	ParseServices  = parseServices
	ParsePrincipal = parsePrincipal
	SubjectName    = subjectName
)
