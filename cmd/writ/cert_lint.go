package main

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cryptobyte_asn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/writ-auth/writ/internal/spiffeid"
	"github.com/writ-auth/writ/policy"
)

const (
	longLeafLife  = 24 * time.Hour // longer is worth a word: nobody revokes leaves in time
	fewSerialBits = 64             // CAs draw at least as many at random
	leastRSABits  = 2048
)

// certLint collects what is wrong with a certificate.
type certLint struct {
	found []certFinding
}

func (l *certLint) add(bad bool, severity policy.Severity, code, format string, args ...any) {
	if bad {
		l.found = append(l.found, certFinding{severity, code, fmt.Sprintf(format, args...)})
	}
}

// lintCertificate holds a certificate to what a SPIFFE X.509 identity or its issuer is (X509-SVID §2 to §5).
func lintCertificate(cert *x509.Certificate) []certFinding {
	l := &certLint{found: []certFinding{}}
	if cert.IsCA {
		l.issuer(cert)
	} else {
		l.leaf(cert)
	}
	l.key(cert)
	l.add(slices.Contains([]x509.SignatureAlgorithm{x509.MD5WithRSA, x509.SHA1WithRSA, x509.ECDSAWithSHA1, x509.DSAWithSHA1}, cert.SignatureAlgorithm),
		policy.SeverityError, "signature_algorithm", "%s can be forged: no peer takes it", cert.SignatureAlgorithm)
	l.add(cert.SerialNumber.BitLen() < fewSerialBits, policy.SeverityWarning, "serial", "%d bits: a serial number is drawn from at least %d",
		cert.SerialNumber.BitLen(), fewSerialBits)
	l.add(!cert.NotBefore.Before(cert.NotAfter), policy.SeverityError, "validity", "it ends before it begins")
	return l.found
}

func (l *certLint) leaf(cert *x509.Certificate) {
	l.name(cert)
	usage := cert.KeyUsage
	l.add(usage == 0, policy.SeverityError, "key_usage", "absent: an X509-SVID has it, and critical")
	l.add(usage != 0 && usage&x509.KeyUsageDigitalSignature == 0, policy.SeverityError, "key_usage", "lacks digitalSignature: it cannot be used for TLS")
	l.add(usage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0, policy.SeverityError, "key_usage", "lets a workload sign certificates or CRLs")
	l.add(usage != 0 && !critical(cert, 15), policy.SeverityError, "key_usage", "not critical")
	both := slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageServerAuth) && slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
	l.add(len(cert.ExtKeyUsage) > 0 && !both, policy.SeverityError, "extended_key_usage", "want both server and client authentication, or none at all")
	l.add(len(cert.ExtKeyUsage) == 0, policy.SeverityWarning, "extended_key_usage", "absent: server and client authentication should be there")
	l.add(!cert.BasicConstraintsValid, policy.SeverityInfo, "basic_constraints", "absent")
	l.add(cert.Subject.String() == "" && extension(cert, 17) != nil && !critical(cert, 17), policy.SeverityError, "names", "without a subject, the alternative name has to be critical (RFC 5280 §4.2.1.6)")
	l.add(len(cert.AuthorityKeyId) == 0, policy.SeverityWarning, "authority_key_id", "absent: among many roots, verification tries them all and may give up")
	l.add(len(cert.SubjectKeyId) == 0, policy.SeverityInfo, "subject_key_id", "absent")
	life := cert.NotAfter.Sub(cert.NotBefore)
	l.add(life > longLeafLife+time.Hour, policy.SeverityInfo, "validity", "good for %s: what is stolen is good as long", spell(life))
	n := len(cert.DNSNames) + len(cert.IPAddresses) + len(cert.EmailAddresses)
	l.add(n > 0, policy.SeverityInfo, "names", "%s beside the identity: whoever verifies host names takes it for them", plural(n, "name"))
}

// name demands one SPIFFE ID of a workload, by the bytes that were signed.
func (l *certLint) name(cert *x509.Certificate) {
	ids, err := uriNames(cert)
	switch {
	case err != nil:
		l.add(true, policy.SeverityError, "spiffe_id", "%v", err)
	case len(ids) != 1:
		l.add(true, policy.SeverityError, "spiffe_id", "%s: an X509-SVID has exactly one, its SPIFFE ID", plural(len(ids), "URI name"))
	default:
		id, err := spiffeid.Parse(ids[0])
		l.add(err != nil, policy.SeverityError, "spiffe_id", "%v", err)
		l.add(err == nil && id.Path() == "", policy.SeverityError, "spiffe_id", "%s names the trust domain, not a workload", id)
	}
}

func (l *certLint) issuer(cert *x509.Certificate) {
	l.add(cert.KeyUsage&x509.KeyUsageCertSign == 0, policy.SeverityError, "key_usage", "lacks keyCertSign: nothing it signs is good")
	l.add(cert.KeyUsage&x509.KeyUsageCRLSign == 0, policy.SeverityWarning, "key_usage", "lacks cRLSign: it cannot revoke by CRL")
	l.add(len(cert.SubjectKeyId) == 0, policy.SeverityWarning, "subject_key_id", "absent: what it signs cannot name it")
	l.add(!critical(cert, 19), policy.SeverityError, "basic_constraints", "not critical")
	ids, err := uriNames(cert)
	l.add(err != nil, policy.SeverityError, "spiffe_id", "%v", err)
	if len(ids) == 1 {
		id, err := spiffeid.Parse(ids[0])
		l.add(err == nil && id.Path() != "", policy.SeverityError, "spiffe_id", "%s has a path: an issuer's names the trust domain alone", id)
	}
}

func (l *certLint) key(cert *x509.Certificate) {
	switch k := cert.PublicKey.(type) {
	case *rsa.PublicKey:
		l.add(k.N.BitLen() < leastRSABits, policy.SeverityError, "key", "RSA of %d bits: want %d", k.N.BitLen(), leastRSABits)
	case *ecdsa.PublicKey:
		l.add(k.Curve == elliptic.P224(), policy.SeverityError, "key", "P-224 is too weak")
		l.add(k.Curve == elliptic.P521() && !cert.IsCA, policy.SeverityWarning, "key", "some Envoys refuse P-521")
	case ed25519.PublicKey:
		l.add(!cert.IsCA, policy.SeverityWarning, "key", "some Envoys refuse Ed25519")
	default:
		l.add(true, policy.SeverityError, "key", "of a kind that TLS does not use: %T", k)
	}
}

// lintChain looks at how certificates hang together: each is signed by the next, and no root travels with a leaf.
func lintChain(chain []*x509.Certificate) []certFinding {
	l := &certLint{found: []certFinding{}}
	if chain[0].IsCA { // a bundle of roots, or an issuer's own file
		return l.found
	}
	for i, cert := range chain[1:] {
		below := chain[i]
		l.add(!cert.IsCA, policy.SeverityError, "chain", "certificate %d is no issuer", i+2)
		if cert.IsCA {
			err := below.CheckSignatureFrom(cert)
			l.add(err != nil, policy.SeverityError, "chain", "certificate %d did not sign certificate %d: %v", i+2, i+1, err)
			l.add(cert.NotAfter.Before(below.NotAfter), policy.SeverityWarning, "chain", "certificate %d ends before certificate %d, which it signed", i+2, i+1)
		}
		l.add(certKind(cert) == "root", policy.SeverityInfo, "chain", "certificate %d is a root: peers have it already", i+2)
	}
	return l.found
}

// extension is an extension of certificates (id-ce, 2.5.29.n), nil if it is absent.
func extension(cert *x509.Certificate, n int) *pkix.Extension {
	for i := range cert.Extensions {
		if e := &cert.Extensions[i]; e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, n}) {
			return e
		}
	}
	return nil
}

// critical reports whether an extension is there and critical.
func critical(cert *x509.Certificate, n int) bool {
	e := extension(cert, n)
	return e != nil && e.Critical
}

// uriNames lists the URI names by the bytes that were signed: a parsed URL may be another text (RFC 5280 §4.2.1.6).
func uriNames(cert *x509.Certificate) ([]string, error) {
	const uri = cryptobyte_asn1.Tag(6)
	e := extension(cert, 17)
	if e == nil {
		return nil, nil
	}
	var out []string
	var names, name cryptobyte.String
	var tag cryptobyte_asn1.Tag
	rest := cryptobyte.String(e.Value)
	if !rest.ReadASN1(&names, cryptobyte_asn1.SEQUENCE) || !rest.Empty() {
		return nil, errors.New("the alternative name is malformed")
	}
	for !names.Empty() {
		if !names.ReadAnyASN1(&name, &tag) {
			return nil, errors.New("the alternative name is malformed")
		}
		if tag == uri.ContextSpecific() {
			out = append(out, string(name))
		}
	}
	return out, nil
}

func keyName(key any) string {
	switch k := key.(type) {
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA of %d bits", k.N.BitLen())
	case *ecdsa.PublicKey:
		return "ECDSA on " + k.Params().Name
	case ed25519.PublicKey:
		return "Ed25519"
	}
	return fmt.Sprintf("%T", key)
}

// keyHash is how the ledger and the deny list name keys.
func keyHash(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// usageNames are the key usages and extended key usages that matter here, in words.
func usageNames(cert *x509.Certificate) []string {
	names := []string{}
	for _, u := range []struct {
		bit  x509.KeyUsage
		name string
	}{
		{x509.KeyUsageDigitalSignature, "digital signature"}, {x509.KeyUsageKeyEncipherment, "key encipherment"},
		{x509.KeyUsageKeyAgreement, "key agreement"}, {x509.KeyUsageCertSign, "certificate signing"}, {x509.KeyUsageCRLSign, "CRL signing"},
	} {
		if cert.KeyUsage&u.bit != 0 {
			names = append(names, u.name)
		}
	}
	for _, u := range []struct {
		usage x509.ExtKeyUsage
		name  string
	}{{x509.ExtKeyUsageServerAuth, "server"}, {x509.ExtKeyUsageClientAuth, "client"}, {x509.ExtKeyUsageAny, "any"}} {
		if slices.Contains(cert.ExtKeyUsage, u.usage) {
			names = append(names, u.name)
		}
	}
	return names
}
