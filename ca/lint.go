package ca

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"slices"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// lint reads a TBSCertificate with crypto/x509, which did not build it, and compares every field with what was approved.
// The signature that parsing asks for is a placeholder. newSigning lints a certificate of every shape that the template
// makes, so that for each certificate after that comparing the bytes is enough, see [leaf.compare].
func (s *signing) lint(tbs []byte, want *leaf) error {
	got, err := x509.ParseCertificate(s.template.certificate(tbs, []byte{0}))
	if err != nil {
		return fmt.Errorf("%w: it does not parse: %v", ErrSelfCheck, err)
	}
	usage := x509.KeyUsageDigitalSignature
	if want.key.rsa {
		usage |= x509.KeyUsageKeyEncipherment
	}
	both := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	for _, field := range []struct {
		name string
		ok   bool
	}{
		{"version", got.Version == 3},
		{"serial number", got.SerialNumber.Cmp(want.serial.Int()) == 0 && got.SerialNumber.Sign() > 0},
		{"signature algorithm", got.SignatureAlgorithm == s.algorithm},
		{"issuer", bytes.Equal(got.RawIssuer, s.issuer.RawSubject)},
		{"notBefore", got.NotBefore.Equal(want.from) && !got.NotBefore.Before(s.issuer.NotBefore)},
		{"notAfter", got.NotAfter.Equal(want.to) && !got.NotAfter.After(s.issuer.NotAfter) && got.NotAfter.After(got.NotBefore)},
		{"subject", string(got.RawSubject) == derNoSubject},
		{"public key", bytes.Equal(got.RawSubjectPublicKeyInfo, want.key.spki)},
		{"key usage", got.KeyUsage == usage},
		{"extended key usage", slices.Equal(got.ExtKeyUsage, both) && len(got.UnknownExtKeyUsage) == 0},
		{"basic constraints", got.BasicConstraintsValid && !got.IsCA && got.MaxPathLen == -1},
		{"subject key identifier", bytes.Equal(got.SubjectKeyId, want.key.hash[:keyIDSize])},
		{"authority key identifier", bytes.Equal(got.AuthorityKeyId, s.issuer.SubjectKeyId)},
		{"SPIFFE ID", len(got.URIs) == 1 && got.URIs[0].String() == want.id.String()},
		{"other names", sameNames(got, want)},
		{"extensions", sameExtensions(got)},
	} {
		if !field.ok {
			return fmt.Errorf("%w: %s", ErrSelfCheck, field.name)
		}
	}
	return nil
}

func sameNames(got *x509.Certificate, want *leaf) bool {
	if len(got.EmailAddresses) != 0 || !slices.Equal(got.DNSNames, want.dns) || len(got.IPAddresses) != len(want.ips) {
		return false
	}
	for i, ip := range got.IPAddresses {
		if !bytes.Equal(ip, want.ips[i].AsSlice()) {
			return false
		}
	}
	return true
}

func sameExtensions(got *x509.Certificate) bool {
	if len(got.Extensions) != len(leafExtensions) || len(got.UnhandledCriticalExtensions) != 0 {
		return false
	}
	for i, e := range got.Extensions {
		if !e.Id.Equal(leafExtensions[i].id) || e.Critical != leafExtensions[i].critical {
			return false
		}
	}
	return true
}

// check takes the finished certificate apart: what was signed is what was linted, and the signature verifies.
func (s *signing) check(der, tbs []byte) error {
	var whole, gotTBS, algorithm, signature cryptobyte.String
	rest := cryptobyte.String(der)
	var unused uint8
	if !rest.ReadASN1(&whole, asn1.SEQUENCE) || !rest.Empty() || !whole.ReadASN1Element(&gotTBS, asn1.SEQUENCE) ||
		!whole.ReadASN1Element(&algorithm, asn1.SEQUENCE) || !whole.ReadASN1(&signature, asn1.BIT_STRING) || !whole.Empty() ||
		!signature.ReadUint8(&unused) || unused != 0 {
		return fmt.Errorf("%w: it does not parse", ErrSelfCheck)
	}
	if !bytes.Equal(gotTBS, tbs) || !bytes.Equal(algorithm, s.template.algorithm) {
		return fmt.Errorf("%w: what was signed is not what was checked", ErrSelfCheck)
	}
	if err := verifySignature(s.issuer.PublicKey, s.hash, digest(s.hash, gotTBS), signature); err != nil {
		return fmt.Errorf("%w: %v", ErrSelfCheck, err)
	}
	return nil
}
