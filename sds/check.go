package sds

import (
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
)

const maxRoots = 20 // of a bundle: they ride in every handshake (identity §1.4)

// check verifies that an identity can be used: the key fits the leaf, and the leaf says the ID.
func (i *Identity) check() error {
	if len(i.Chain) == 0 {
		return errors.New("no certificate")
	}
	leaf := i.Chain[0]
	if uris := leaf.URIs; len(uris) != 1 || uris[0].String() != i.ID.String() {
		return fmt.Errorf("the certificate is for %v", uris)
	}
	key, err := x509.ParsePKCS8PrivateKey(i.Key)
	if err != nil {
		return fmt.Errorf("the key is not PKCS #8: %w", err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return fmt.Errorf("a %T cannot sign", key)
	}
	public, ok := leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(signer.Public()) {
		return errors.New("the key does not fit the certificate")
	}
	for n, issuer := range i.Chain[1:] {
		if err := i.Chain[n].CheckSignatureFrom(issuer); err != nil {
			return fmt.Errorf("certificate %d is not signed by the next one: %w", n, err)
		}
	}
	return nil
}

func (b *Bundle) check() error {
	if len(b.Roots) == 0 || len(b.Roots) > maxRoots {
		return fmt.Errorf("%d roots: want 1 to %d", len(b.Roots), maxRoots)
	}
	for _, tainted := range b.Tainted {
		if !slices.ContainsFunc(b.Roots, tainted.Equal) {
			return fmt.Errorf("tainted root %q is none of its roots", tainted.Subject)
		}
	}
	for _, crl := range b.CRLs {
		if _, err := x509.ParseRevocationList(crl); err != nil {
			return fmt.Errorf("CRL: %w", err)
		}
	}
	return nil
}
