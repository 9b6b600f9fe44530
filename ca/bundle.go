package ca

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"time"

	"github.com/writ-auth/writ/internal/spiffeid"
)

// maxRoots keeps bundles so small that they ride in every handshake and never meet Go's budget of 100 signature checks
// (identity §1.4, §2.6).
const maxRoots = 19

// Bundle is what the authority's trust domain trusts at one version. It never changes: a new version is a new Bundle.
type Bundle struct {
	TrustDomain spiffeid.ID
	Version     int64 // increases with every change
	Roots       []Root
	PEM         []byte // all roots, each ending in a newline
}

// Root is one trust anchor.
type Root struct {
	Certificate *x509.Certificate
	// Tainted roots are about to go: leaves under them are to be renewed now, not at half of their life.
	Tainted bool
}

// Tainted reports whether leaves under some root are to be renewed at once.
func (b *Bundle) Tainted() bool {
	for _, r := range b.Roots {
		if r.Tainted {
			return true
		}
	}
	return false
}

func newBundle(trustDomain spiffeid.ID, version int64, roots []Root) (*Bundle, error) {
	if len(roots) == 0 || len(roots) > maxRoots {
		return nil, fmt.Errorf("%d roots: want 1 to %d", len(roots), maxRoots)
	}
	b := &Bundle{TrustDomain: trustDomain, Version: version, Roots: roots}
	for _, r := range roots {
		b.PEM = append(b.PEM, certificatePEM(r.Certificate.Raw)...)
	}
	return b, nil
}

// pool is the bundle as Go verifies with it.
func (b *Bundle) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	for _, r := range b.Roots {
		pool.AddCert(r.Certificate)
	}
	return pool
}

func (b *Bundle) has(root *x509.Certificate) bool {
	for _, r := range b.Roots {
		if bytes.Equal(r.Certificate.Raw, root.Raw) {
			return true
		}
	}
	return false
}

// verifyIssuer checks that a chain of issuers, signer first, leads to one of the bundle's roots.
func (b *Bundle) verifyIssuer(issuer *x509.Certificate, others []*x509.Certificate, at time.Time) error {
	between := x509.NewCertPool()
	for _, c := range others {
		between.AddCert(c)
	}
	_, err := issuer.Verify(x509.VerifyOptions{
		Roots: b.pool(), Intermediates: between, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		return fmt.Errorf("issuer %s does not lead to a root of the bundle: %v", describe(issuer), err)
	}
	return nil
}

func certificatePEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// describe names an issuer for people: its subject and key identifier.
func describe(c *x509.Certificate) string { return fmt.Sprintf("%q (%x)", c.Subject, c.SubjectKeyId) }

// issuerName is how the ledger names an issuer.
func issuerName(c *x509.Certificate) string { return fmt.Sprintf("%x", c.SubjectKeyId) }
