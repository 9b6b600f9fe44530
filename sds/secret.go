package sds

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// Kind says what a secret is.
type Kind string

// Kinds of secrets, in the order in which they are sent: what verifies others before what is to be verified by it
// (identity §4.3).
const (
	KindRoots     Kind = "roots"     // roots and CRLs of one trust domain
	KindValidator Kind = "validator" // roots of every trust domain, for Envoy's SPIFFE validator
	KindBundle    Kind = "bundle"    // a bundle document, see [EncodeBundle]
	KindIdentity  Kind = "identity"  // a certificate with its private key
)

// Kinds lists all kinds in the order in which they are sent.
func Kinds() []Kind { return []Kind{KindRoots, KindValidator, KindBundle, KindIdentity} }

// order is the place of a kind among [Kinds].
func (k Kind) order() int {
	switch k {
	case KindRoots:
		return 0
	case KindValidator:
		return 1
	case KindBundle:
		return 2
	default:
		return 3
	}
}

// secret is a secret as all streams that send it share it. It is never changed.
type secret struct {
	kind     Kind
	body     mem.Buffer       // the Secret message without its name, which differs by stream
	version  string           // changes exactly when the body does
	bundles  map[string]int64 // version of each trust domain's bundle in it; nil for an identity
	notAfter time.Time        // when the first certificate or CRL in it ends
}

// newSecret encodes m. What is to be known of the contents by their version is hashed: for an identity its chain, which
// determines the key, so that nothing made from a private key is ever shown.
func newSecret(kind Kind, m *tlsv3.Secret, hashed []byte) (*secret, error) {
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	if hashed == nil {
		hashed = body
	}
	sum := sha256.Sum256(hashed)
	return &secret{kind: kind, body: mem.SliceBuffer(body), version: hex.EncodeToString(sum[:8])}, nil
}

func encodeIdentity(i *Identity) (*secret, error) {
	var chain bytes.Buffer
	for _, c := range i.Chain {
		writePEM(&chain, "CERTIFICATE", c.Raw)
	}
	var key bytes.Buffer
	writePEM(&key, "PRIVATE KEY", i.Key)
	s, err := newSecret(KindIdentity, &tlsv3.Secret{Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
		CertificateChain: inline(chain.Bytes()), PrivateKey: inline(key.Bytes()),
	}}}, chain.Bytes())
	if err == nil {
		s.notAfter = i.NotAfter()
	}
	return s, err
}

// encodeRoots makes the validation context of one trust domain. Envoy checks CRLs for the leaf's issuer only: there is one
// for each issuer of leaves, and none for the roots above them (identity §9).
func encodeRoots(b *Bundle) (*secret, error) {
	v := &tlsv3.CertificateValidationContext{TrustedCa: inline(rootsPEM(b))}
	if len(b.CRLs) > 0 {
		var crls bytes.Buffer
		for _, crl := range b.CRLs {
			writePEM(&crls, "X509 CRL", crl)
		}
		v.Crl, v.OnlyVerifyLeafCertCrl = inline(crls.Bytes()), true
	}
	s, err := newSecret(KindRoots, &tlsv3.Secret{Type: &tlsv3.Secret_ValidationContext{ValidationContext: v}}, nil)
	return s.of(b), err
}

// encodeValidator makes a validation context with one store of roots for each trust domain (identity §11 surprise 19). The
// SPIFFE validator reads CRLs from the same PEM, and then asks for one of every issuer in the chain, roots included
// (identity §4.2); those do not exist, so it gets none.
func encodeValidator(bundles []heldBundle) (*secret, error) {
	config := &tlsv3.SPIFFECertValidatorConfig{}
	for _, b := range bundles {
		config.TrustDomains = append(config.TrustDomains, &tlsv3.SPIFFECertValidatorConfig_TrustDomain{
			Name: b.TrustDomain.TrustDomain(), TrustBundle: inline(rootsPEM(b.Bundle)),
		})
	}
	typed, err := anypb.New(config)
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	s, err := newSecret(KindValidator, &tlsv3.Secret{Type: &tlsv3.Secret_ValidationContext{
		ValidationContext: &tlsv3.CertificateValidationContext{CustomValidatorConfig: &corev3.TypedExtensionConfig{
			Name: "envoy.tls.cert_validator.spiffe", TypedConfig: typed,
		}},
	}}, nil)
	if err != nil {
		return nil, err
	}
	s.bundles = make(map[string]int64, len(bundles))
	for _, b := range bundles {
		s.bundles[b.TrustDomain.TrustDomain()] = b.Version
		s.notAfter = earliest(s.notAfter, rootsEnd(b.Bundle))
	}
	return s, nil
}

func encodeDocument(b *Bundle) (*secret, error) {
	text, err := EncodeBundle(b)
	if err != nil {
		return nil, err
	}
	s, err := newSecret(KindBundle, &tlsv3.Secret{Type: &tlsv3.Secret_GenericSecret{
		GenericSecret: &tlsv3.GenericSecret{Secret: inline(text)},
	}}, nil)
	return s.of(b), err
}

// of adds to a secret what is known of the bundle it was made from.
func (s *secret) of(b *Bundle) *secret {
	if s == nil {
		return nil
	}
	s.bundles, s.notAfter = map[string]int64{b.TrustDomain.TrustDomain(): b.Version}, rootsEnd(b)
	if lists, err := b.revocationLists(); err == nil { // checked before
		for _, list := range lists {
			s.notAfter = earliest(s.notAfter, list.NextUpdate)
		}
	}
	return s
}

// rootsEnd is when the first root of a bundle ends.
func rootsEnd(b *Bundle) (end time.Time) {
	for _, root := range b.Roots {
		end = earliest(end, root.NotAfter)
	}
	return end
}

// earliest is the earlier of two times; the zero time is none.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}

func rootsPEM(b *Bundle) []byte {
	var roots bytes.Buffer
	for _, root := range b.Roots {
		writePEM(&roots, "CERTIFICATE", root.Raw)
	}
	return roots.Bytes()
}

func writePEM(w *bytes.Buffer, label string, der []byte) {
	_ = pem.Encode(w, &pem.Block{Type: label, Bytes: der}) // a bytes.Buffer takes everything
}

func inline(b []byte) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: b}}
}
