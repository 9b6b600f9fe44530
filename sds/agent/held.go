package agent

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"time"

	"github.com/writ-auth/writ/sds"
)

// held is a certificate in use, with its key. It never changes.
type held struct {
	identity *sds.Identity
	signer   *ecdsa.PrivateKey
	received time.Time // on this machine's clock
}

func (h *held) notAfter() time.Time { return h.identity.NotAfter() }

func (h *held) life() time.Duration {
	return life(h.received, h.identity.Chain[0].NotBefore, h.notAfter())
}

// endsBefore reports whether the certificate is of no use at a time.
func (h *held) endsBefore(now time.Time) bool { return !now.Before(h.notAfter()) }

// verifies reports whether the chain leads to a root of the bundle that is not about to go. Time is not the question: it
// is asked about the time within the certificate's that is nearest to now.
func (h *held) verifies(b *sds.Bundle, now time.Time) bool {
	leaf := h.identity.Chain[0]
	switch {
	case now.Before(leaf.NotBefore):
		now = leaf.NotBefore
	case now.After(leaf.NotAfter):
		now = leaf.NotAfter
	}
	return leadsTo(h.identity.Chain, without(b.Roots, b.Tainted), now)
}

// certificate is what TLS proves us by.
func (h *held) certificate() tls.Certificate {
	c := tls.Certificate{PrivateKey: h.signer, Leaf: h.identity.Chain[0]}
	for _, element := range h.identity.Chain {
		c.Certificate = append(c.Certificate, element.Raw)
	}
	return c
}

// keyPair is a key with a request to certify it. The request says nothing but the key: what the certificate says is
// decided by who asks.
type keyPair struct {
	signer *ecdsa.PrivateKey
	pkcs8  []byte
	csr    string // PEM
}

func newKeyPair() (*keyPair, error) {
	signer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	return pairOf(signer)
}

func pairOf(signer *ecdsa.PrivateKey) (*keyPair, error) {
	pkcs8, err := x509.MarshalPKCS8PrivateKey(signer)
	if err != nil {
		return nil, err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, signer)
	if err != nil {
		return nil, err
	}
	return &keyPair{signer, pkcs8, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr}))}, nil
}
