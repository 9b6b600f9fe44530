package sds

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
)

const maxRoots = 20 // of a bundle: they ride in every handshake (identity §1.4)

// ErrUntrusted says that an identity does not lead to a root of the bundle that is there: whoever has that bundle would
// refuse it. The bundle goes first (identity §4.3).
var ErrUntrusted = errors.New("leads to no root of the bundle that is here: set the newer bundle first")

// check verifies that an identity can be used: the key fits the leaf, and the leaf says the ID and may be one (identity §1.3).
func (i *Identity) check(now time.Time) error {
	if len(i.Chain) == 0 {
		return errors.New("no certificate")
	}
	leaf := i.Chain[0]
	if uris := leaf.URIs; len(uris) != 1 || uris[0].String() != i.ID.String() || i.ID.Path() == "" {
		return fmt.Errorf("the certificate is for %v", uris)
	}
	switch {
	case leaf.IsCA || leaf.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0:
		return errors.New("the certificate is an issuer's, not a workload's")
	case leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0:
		return errors.New("the certificate's key may not sign: it lacks the key usage digitalSignature")
	case !now.Before(leaf.NotAfter):
		return fmt.Errorf("the certificate ended at %s", leaf.NotAfter.UTC().Format(time.RFC3339))
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
	if err := checkKey(signer.Public()); err != nil {
		return err
	}
	for n, issuer := range i.Chain[1:] {
		if err := i.Chain[n].CheckSignatureFrom(issuer); err != nil {
			return fmt.Errorf("certificate %d is not signed by the next one: %w", n, err)
		}
	}
	return nil
}

// checkKey refuses what Envoy would (identity §1.2).
func checkKey(public crypto.PublicKey) error {
	switch key := public.(type) {
	case *rsa.PublicKey:
		if bits := key.N.BitLen(); bits < 2048 || bits > 4096 {
			return fmt.Errorf("an RSA key of %d bits: want 2048 to 4096", bits)
		}
	case *ecdsa.PublicKey:
		if key.Curve == elliptic.P224() {
			return errors.New("a key on the curve P-224: want P-256 or more")
		}
	case ed25519.PublicKey:
	default:
		return fmt.Errorf("a %T is no key that proxies take", public)
	}
	return nil
}

// checkTrusted verifies that an identity leads to a root of the bundle of its trust domain.
func (i *Identity) checkTrusted(b *Bundle, now time.Time) error {
	options := x509.VerifyOptions{
		Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	}
	for _, root := range b.Roots {
		options.Roots.AddCert(root)
	}
	for _, c := range i.Chain[1:] {
		options.Intermediates.AddCert(c)
	}
	if _, err := i.Chain[0].Verify(options); err != nil {
		return fmt.Errorf("%w: %v", ErrUntrusted, err)
	}
	return nil
}

// check verifies what holds of a bundle at any time.
func (b *Bundle) check() error {
	if b.TrustDomain.IsZero() || b.TrustDomain.Path() != "" {
		return fmt.Errorf("%q is no trust domain", b.TrustDomain)
	}
	if b.Version < 0 {
		return fmt.Errorf("version %d: want 0, or more", b.Version)
	}
	if len(b.Roots) == 0 || len(b.Roots) > maxRoots {
		return fmt.Errorf("%d roots: want 1 to %d", len(b.Roots), maxRoots)
	}
	for n, root := range b.Roots {
		if !root.IsCA {
			return fmt.Errorf("root %q is no issuer", root.Subject)
		}
		if slices.ContainsFunc(b.Roots[:n], root.Equal) {
			return fmt.Errorf("root %q is there twice", root.Subject)
		}
	}
	for _, tainted := range b.Tainted {
		if !slices.ContainsFunc(b.Roots, tainted.Equal) {
			return fmt.Errorf("tainted root %q is none of its roots", tainted.Subject)
		}
	}
	if err := b.checkJWTKeys(); err != nil {
		return err
	}
	_, err := b.revocationLists()
	return err
}

func (b *Bundle) checkJWTKeys() error {
	if len(b.JWTKeys) == 0 {
		return nil
	}
	if len(b.JWTKeys) > maxJWTKeys {
		return fmt.Errorf("JWT keys: %d bytes, more than %d", len(b.JWTKeys), maxJWTKeys)
	}
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(b.JWTKeys, &set); err != nil {
		return fmt.Errorf("JWT keys: %w", err)
	}
	if set.Keys == nil {
		return errors.New("JWT keys: no keys")
	}
	return nil
}

// revocationLists reads the CRLs of a bundle: one for each issuer, each fit for Envoy.
func (b *Bundle) revocationLists() ([]*x509.RevocationList, error) {
	if len(b.CRLs) > maxCRLs {
		return nil, fmt.Errorf("%d CRLs, more than %d", len(b.CRLs), maxCRLs)
	}
	size := 0
	lists := make([]*x509.RevocationList, 0, len(b.CRLs))
	for _, der := range b.CRLs {
		if size += len(der); size > maxCRLBytes {
			return nil, fmt.Errorf("CRLs of more than %d bytes", maxCRLBytes)
		}
		list, err := x509.ParseRevocationList(der)
		if err != nil {
			return nil, fmt.Errorf("CRL: %w", err)
		}
		for _, e := range list.Extensions {
			// Issuing distribution point and delta CRL indicator (RFC 5280 §5.2.4, §5.2.5): Envoy refuses certificates for
			// their sake (identity §9).
			if id := e.Id.String(); e.Critical && (id == "2.5.29.28" || id == "2.5.29.27") {
				return nil, fmt.Errorf("CRL of %q covers part of what it signs only (extension %s)", list.Issuer, id)
			}
		}
		if slices.ContainsFunc(lists, func(l *x509.RevocationList) bool { return sameIssuer(l, list) }) {
			return nil, fmt.Errorf("two CRLs of %q", list.Issuer)
		}
		lists = append(lists, list)
	}
	return lists, nil
}

func sameIssuer(x, y *x509.RevocationList) bool {
	return bytes.Equal(x.RawIssuer, y.RawIssuer) && bytes.Equal(x.AuthorityKeyId, y.AuthorityKeyId)
}

// isOf reports whether a CRL says that it is of an issuer.
func isOf(list *x509.RevocationList, issuer *x509.Certificate) bool {
	return bytes.Equal(list.RawIssuer, issuer.RawSubject) &&
		(len(list.AuthorityKeyId) == 0 || len(issuer.SubjectKeyId) == 0 || bytes.Equal(list.AuthorityKeyId, issuer.SubjectKeyId))
}

// checkCRLs verifies the CRLs as Envoy will use them: none has ended, for then all certificates of its issuer are refused;
// each is signed by the issuer that it names, where that one is known; and if there are any, the issuer of each live
// identity that is here has one, for else that identity is refused (identity §9).
func (b *Bundle) checkCRLs(identities []*Identity, now time.Time) error {
	lists, err := b.revocationLists()
	if err != nil || len(lists) == 0 {
		return err
	}
	issuers := slices.Clone(b.Roots)
	for _, i := range identities {
		issuers = append(issuers, i.Chain[1:]...)
	}
	for _, list := range lists {
		if !now.Before(list.NextUpdate) {
			return fmt.Errorf("the CRL of %q ended at %s: every certificate of that issuer would be refused", list.Issuer,
				list.NextUpdate.UTC().Format(time.RFC3339))
		}
		for _, issuer := range issuers {
			if !isOf(list, issuer) {
				continue
			}
			if err := list.CheckSignatureFrom(issuer); err != nil {
				return fmt.Errorf("the CRL of %q is not signed by it: %w", list.Issuer, err)
			}
		}
	}
	for _, i := range identities {
		leaf := i.Chain[0]
		covers := func(l *x509.RevocationList) bool {
			return bytes.Equal(l.RawIssuer, leaf.RawIssuer) &&
				(len(l.AuthorityKeyId) == 0 || len(leaf.AuthorityKeyId) == 0 || bytes.Equal(l.AuthorityKeyId, leaf.AuthorityKeyId))
		}
		if now.Before(leaf.NotAfter) && !slices.ContainsFunc(lists, covers) {
			return fmt.Errorf("there are CRLs, but none of %q, which issued %s: that identity would be refused", leaf.Issuer, i.ID)
		}
	}
	return nil
}
