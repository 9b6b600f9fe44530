package provider

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

const spiffeScheme = "spiffe://"

// errNotGiven says that the Workload API answers, and the identity is not among what it gives.
var errNotGiven = errors.New("the Workload API does not give it to this process: add it to the agent's workloads, with the user or program that writ runs as")

// svid is one version of an [Identity]. It is not changed once it is in use.
type svid struct {
	generation  uint64
	certificate tls.Certificate
	revoked     bool                      // by one of the CRLs
	roots       map[string]*x509.CertPool // by trust domain
	crls        []*x509.RevocationList
}

// about is the part of an answer of the Workload API that is about one identity, nil if there is none.
func about(id string, r *workload.X509SVIDResponse) *workload.X509SVIDResponse {
	for _, given := range r.GetSvids() {
		if given.GetSpiffeId() == id {
			return &workload.X509SVIDResponse{Svids: []*workload.X509SVID{given}, FederatedBundles: r.GetFederatedBundles(), Crl: r.GetCrl()}
		}
	}
	return nil
}

// newSVID reads an answer about one identity.
func newSVID(id string, r *workload.X509SVIDResponse) (*svid, error) {
	given := r.GetSvids()[0]
	s := &svid{roots: map[string]*x509.CertPool{}}
	if err := s.setTrust(trustDomainOf(id), given.GetBundle(), r); err != nil {
		return nil, err
	}
	return s, s.setCertificate(id, given)
}

// setTrust reads roots and CRLs.
func (s *svid) setTrust(own string, bundle []byte, r *workload.X509SVIDResponse) (err error) {
	for trustDomain, der := range r.GetFederatedBundles() {
		trustDomain = trustDomainOf(trustDomain)
		if s.roots[trustDomain], err = poolOf(der); err != nil {
			return fmt.Errorf("the bundle of %s: %w", trustDomain, err)
		}
	}
	if s.roots[own], err = poolOf(bundle); err != nil {
		return fmt.Errorf("the bundle of %s: %w", own, err)
	}
	for _, der := range r.GetCrl() {
		list, err := x509.ParseRevocationList(der)
		if err != nil {
			return fmt.Errorf("a CRL: %w", err)
		}
		s.crls = append(s.crls, list)
	}
	return nil
}

// setCertificate reads chain and key, and verifies that they are what they are said to be.
func (s *svid) setCertificate(id string, given *workload.X509SVID) error {
	chain, err := x509.ParseCertificates(given.GetX509Svid())
	if err == nil && len(chain) == 0 {
		err = errors.New("there is none")
	}
	if err != nil {
		return fmt.Errorf("the certificate: %w", err)
	}
	key, err := x509.ParsePKCS8PrivateKey(given.GetX509SvidKey())
	if err != nil {
		return fmt.Errorf("the key is not PKCS #8: %w", err)
	}
	signer, ok := key.(crypto.Signer)
	public, known := chain[0].PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !known || !public.Equal(signer.Public()) {
		return errors.New("the key does not fit the certificate")
	}
	verified, err := verifySVID(chain, s.roots[trustDomainOf(id)], id, x509.ExtKeyUsageClientAuth)
	if err != nil {
		return err
	}
	if list, err := s.revocations(verified[1]); err == nil && list != nil {
		s.revoked = lists(list, chain[0])
	}
	s.certificate = tls.Certificate{PrivateKey: key, Leaf: chain[0]}
	for _, c := range chain {
		s.certificate.Certificate = append(s.certificate.Certificate, c.Raw)
	}
	return nil
}

// flaw says why the certificate is not good, "" if it is. s may be nil.
func (s *svid) flaw() string {
	switch {
	case s == nil:
		return "there is no certificate"
	case s.revoked:
		return "the certificate " + s.leaf().SerialNumber.Text(16) + " was revoked"
	case !time.Now().Before(s.leaf().NotAfter):
		return "the certificate ended at " + s.leaf().NotAfter.UTC().Format(time.RFC3339)
	}
	return ""
}

func (s *svid) leaf() *x509.Certificate { return s.certificate.Leaf }

// config is the configuration of a connection to a server of the given SPIFFE ID.
func (s *svid) config(server string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &s.certificate, nil // also to a server that does not name its issuer
		},
		InsecureSkipVerify: true, //nolint:gosec // crypto/tls knows no URI names: VerifyConnection does it all
		VerifyConnection: func(state tls.ConnectionState) error {
			return s.verify(server, state.PeerCertificates)
		},
	}
}

// verify accepts the chain of a server with this SPIFFE ID: it leads to a root of the ID's trust domain, and no CRL lists it.
// The Workload API does not say which trust domains have CRLs, so that the lack of one is no reason to refuse; one that has
// ended is, because nobody knows what came after.
func (s *svid) verify(server string, chain []*x509.Certificate) error {
	roots := s.roots[trustDomainOf(server)]
	if roots == nil {
		return fmt.Errorf("there are no roots of the trust domain %s to know %s by", trustDomainOf(server), server)
	}
	verified, err := verifySVID(chain, roots, server, x509.ExtKeyUsageServerAuth)
	if err != nil {
		return err
	}
	list, err := s.revocations(verified[1])
	switch {
	case err != nil:
		return err
	case list == nil:
		return nil
	case !list.NextUpdate.IsZero() && !time.Now().Before(list.NextUpdate):
		return fmt.Errorf("the CRL of %q ended at %s", list.Issuer, list.NextUpdate.UTC().Format(time.RFC3339))
	case lists(list, chain[0]):
		return fmt.Errorf("the server's certificate %s was revoked", chain[0].SerialNumber.Text(16))
	}
	return nil
}

// revocations is the CRL of an issuer, nil if there is none.
func (s *svid) revocations(issuer *x509.Certificate) (*x509.RevocationList, error) {
	for _, list := range s.crls {
		if !bytes.Equal(list.RawIssuer, issuer.RawSubject) ||
			len(list.AuthorityKeyId) > 0 && len(issuer.SubjectKeyId) > 0 && !bytes.Equal(list.AuthorityKeyId, issuer.SubjectKeyId) {
			continue
		}
		if err := list.CheckSignatureFrom(issuer); err != nil {
			return nil, fmt.Errorf("the CRL of %q is not signed by it: %w", list.Issuer, err)
		}
		return list, nil
	}
	return nil, nil
}

// lists reports whether a CRL has the certificate.
func lists(list *x509.RevocationList, c *x509.Certificate) bool {
	for i := range list.RevokedCertificateEntries {
		if list.RevokedCertificateEntries[i].SerialNumber.Cmp(c.SerialNumber) == 0 {
			return true
		}
	}
	return false
}

// verifySVID accepts a chain, leaf first, that leads to one of roots, with a leaf that is a workload's and has exactly this
// one URI name (X509-SVID §2, §5.2). It returns the chain with its root, which are at least two certificates.
func verifySVID(chain []*x509.Certificate, roots *x509.CertPool, want string, usage x509.ExtKeyUsage) ([]*x509.Certificate, error) {
	leaf := chain[0]
	options := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{usage}}
	for _, c := range chain[1:] {
		options.Intermediates.AddCert(c)
	}
	verified, err := leaf.Verify(options)
	switch {
	case err != nil:
		return nil, &tls.CertificateVerificationError{UnverifiedCertificates: chain, Err: err}
	case leaf.IsCA || len(verified[0]) < 2:
		return nil, errors.New("the certificate is an issuer's, not a workload's")
	case len(leaf.URIs) != 1 || leaf.URIs[0].String() != want:
		return nil, fmt.Errorf("the certificate is for %q and not for %s", leaf.URIs, want)
	}
	return verified[0], nil
}

func poolOf(der []byte) (*x509.CertPool, error) {
	roots, err := x509.ParseCertificates(der)
	if err != nil {
		return nil, err
	}
	if len(roots) == 0 {
		return nil, errors.New("it has no root")
	}
	pool := x509.NewCertPool()
	for _, root := range roots {
		pool.AddCert(root)
	}
	return pool, nil
}

// checkSPIFFEID wants the ID of a workload (SPIFFE-ID §2).
func checkSPIFFEID(text string) error {
	id, err := spiffeid.FromString(text)
	if err != nil {
		return fmt.Errorf("%q is no SPIFFE ID: %w", text, err)
	}
	if id.Path() == "" {
		return fmt.Errorf("%q names a trust domain, not a workload: want a path, as in spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT", text)
	}
	return nil
}

// trustDomainOf is the trust domain of a SPIFFE ID, or of one that is named by its ID.
func trustDomainOf(id string) string {
	name, _, _ := strings.Cut(strings.TrimPrefix(id, spiffeScheme), "/")
	return name
}
