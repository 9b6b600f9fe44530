package extauthz

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"hash/maphash"
	"net/url"
	"strings"
	"sync/atomic"

	"github.com/writ-auth/writ/policy"
)

// names fills the peer's names: source.principal, then what else its certificate is called, in the order Envoy's
// RBAC filter tries them (URI SANs, DNS SANs, subject; authorization-policy §1.4).
func (m *message) names(cache *certificateCache) *refusal {
	r := &m.request
	principal := m.source.principal
	if principal != "" {
		r.Names = append(r.Names, principal)
	}
	if m.source.certificate == "" {
		return nil
	}
	cert, err := cache.get(m.source.certificate)
	if err != nil {
		return badRequest("source.certificate: %v", err)
	}
	r.Peer = &cert.peer
	for _, name := range cert.names {
		if name != principal {
			r.Names = append(r.Names, name)
		}
	}
	return nil
}

// Size of the certificate cache: at most certificateSets*certificateWays entries of at most maxCachedCertificate
// bytes, 16 MiB when every client brings the largest, some 3 MiB with usual ones.
const (
	certificateSets      = 512
	certificateWays      = 4
	maxCachedCertificate = 8 << 10
)

// certificateCache remembers the names in a certificate by its text, which Envoy repeats with every request of a
// connection. It is a fixed table of atomic pointers: a hit takes no lock and allocates nothing, and a client that
// brings new certificates only replaces entries. The hash is seeded, so nobody can aim at one set. Entries are
// never wrong, only absent: the whole text is compared.
type certificateCache struct {
	seed  maphash.Seed
	clock atomic.Uint32 // which way the next miss replaces
	table [certificateSets][certificateWays]atomic.Pointer[certificate]
}

type certificate struct {
	text  string
	names []string
	peer  policy.PeerCertificate
}

func newCertificateCache() *certificateCache {
	return &certificateCache{seed: maphash.MakeSeed()}
}

// get returns what is known of the certificate. A nil cache parses every time.
func (c *certificateCache) get(text string) (*certificate, error) {
	if len(text) > maxCertificate {
		return nil, fmt.Errorf("%d bytes, more than %d", len(text), maxCertificate)
	}
	if c == nil {
		return parseCertificate(text)
	}
	set := &c.table[maphash.String(c.seed, text)%certificateSets]
	for i := range set {
		if known := set[i].Load(); known != nil && known.text == text {
			return known, nil
		}
	}
	cert, err := parseCertificate(text)
	if err != nil {
		return nil, err
	}
	if len(text) <= maxCachedCertificate {
		way := c.clock.Add(1) % certificateWays
		cert.text = strings.Clone(text)
		set[way].Store(cert)
	}
	return cert, nil
}

// parseCertificate reads URL-encoded PEM. The text is left out.
func parseCertificate(text string) (*certificate, error) {
	plain, err := url.PathUnescape(text)
	if err != nil {
		return nil, fmt.Errorf("not URL-encoded: %v", err)
	}
	block, _ := pem.Decode([]byte(plain))
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("no PEM certificate")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, err
	}
	parsed := &certificate{}
	if parsed.names, err = certificateNames(cert); err != nil {
		return nil, err
	}
	parsed.peer.KeyHash = sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	if serial := cert.SerialNumber; serial.Sign() > 0 && serial.BitLen() <= 8*len(parsed.peer.Serial) {
		serial.FillBytes(parsed.peer.Serial[:])
	}
	return parsed, nil
}

// certificateNames lists the names policies are compared with.
func certificateNames(cert *x509.Certificate) ([]string, error) {
	var uris, dns []string
	var err error
	for _, ext := range cert.Extensions {
		if ext.Id.Equal(oidSubjectAltName) {
			if uris, dns, err = subjectAltNames(ext.Value); err != nil {
				return nil, err
			}
		}
	}
	names := append(uris, dns...)
	subject, err := subjectName(cert.RawSubject)
	if err != nil {
		return nil, err
	}
	if subject != "" {
		names = append(names, subject)
	}
	return names, nil
}

var oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}

// subjectAltNames reads the URI and DNS names as they stand in the certificate: a net/url.URL would not give back
// the text that policies are compared with.
func subjectAltNames(der []byte) (uris, dns []string, err error) {
	var names, name asn1.RawValue
	rest, err := asn1.Unmarshal(der, &names)
	if err != nil || len(rest) > 0 || names.Class != asn1.ClassUniversal || names.Tag != asn1.TagSequence {
		return nil, nil, errors.New("malformed subjectAltName")
	}
	for rest = names.Bytes; len(rest) > 0; {
		if rest, err = asn1.Unmarshal(rest, &name); err != nil {
			return nil, nil, errors.New("malformed subjectAltName")
		}
		switch {
		case name.Class != asn1.ClassContextSpecific:
		case name.Tag == 2: // dNSName
			dns = appendName(dns, name.Bytes)
		case name.Tag == 6: // uniformResourceIdentifier
			uris = appendName(uris, name.Bytes)
		}
	}
	return uris, dns, nil
}

func appendName(names []string, value []byte) []string {
	if len(value) == 0 {
		return names // an empty name is no name: "*" asks for a non-empty one
	}
	return append(names, string(value))
}
