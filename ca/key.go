package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// AlgorithmIdentifiers in DER, whole. Comparing all bytes leaves no room for odd parameters.
const (
	algP256    = "\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07"
	algP384    = "\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22"
	algP521    = "\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x23"
	algRSA     = "\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00"
	algEd25519 = "\x30\x05\x06\x03\x2b\x65\x70"

	algECDSAWithSHA256 = "\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02"
	algECDSAWithSHA384 = "\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x03"
	algECDSAWithSHA512 = "\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x04"
	algSHA256WithRSA   = "\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b\x05\x00"
	algSHA384WithRSA   = "\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0c\x05\x00"
	algSHA512WithRSA   = "\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0d\x05\x00"
)

const (
	minRSA         = 2048
	maxRSA         = 4096
	minRSAExponent = 65537
)

// subjectKey is a public key that a leaf may have.
type subjectKey struct {
	spki   []byte // SubjectPublicKeyInfo, DER
	hash   [32]byte
	public crypto.PublicKey
	rsa    bool
}

// KeyHash is the SHA-256 of a public key's SubjectPublicKeyInfo: how the ledger and the deny list name keys.
func KeyHash(public crypto.PublicKey) ([32]byte, error) {
	spki, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return [32]byte{}, fmt.Errorf("public key: %w", err)
	}
	return sha256.Sum256(spki), nil
}

// parseSubjectKey reads a SubjectPublicKeyInfo in the one encoding each key has, and holds it to the profile's policy.
func parseSubjectKey(spki cryptobyte.String, p *Profile) (subjectKey, error) {
	k := subjectKey{spki: bytes.Clone(spki), hash: sha256.Sum256(spki)}
	var body, algorithm, bits cryptobyte.String
	var unused uint8
	rest := spki
	if !rest.ReadASN1(&body, asn1.SEQUENCE) || !body.ReadASN1Element(&algorithm, asn1.SEQUENCE) ||
		!body.ReadASN1(&bits, asn1.BIT_STRING) || !body.Empty() || !bits.ReadUint8(&unused) || unused != 0 {
		return k, refuse(ReasonSyntax, "the public key is malformed")
	}
	var curve elliptic.Curve
	switch string(algorithm) {
	case algP256:
		curve = elliptic.P256()
	case algP384:
		curve = elliptic.P384()
	case algP521:
		if !p.p521 {
			return k, refuse(ReasonKeyAlgorithm, "P-521 key: not switched on, use P-256")
		}
		curve = elliptic.P521()
	case algEd25519:
		if !p.ed25519Ok {
			return k, refuse(ReasonKeyAlgorithm, "Ed25519 key: not switched on, use P-256")
		}
		if len(bits) != ed25519.PublicKeySize {
			return k, refuse(ReasonSyntax, "Ed25519 key of %d bytes", len(bits))
		}
		k.public = ed25519.PublicKey(bytes.Clone(bits))
		return k, nil
	case algRSA:
		k.rsa = true
		var err error
		k.public, err = parseRSA(spki, bits)
		return k, err
	default:
		return k, refuse(ReasonKeyAlgorithm, "key algorithm %x: want ECDSA on P-256 or P-384, or RSA", []byte(algorithm))
	}
	public, err := ecdsa.ParseUncompressedPublicKey(curve, bits)
	if err != nil {
		return k, refuse(ReasonSyntax, "the public key is no uncompressed point of %s", curve.Params().Name)
	}
	k.public = public
	return k, nil
}

func parseRSA(spki, bits cryptobyte.String) (*rsa.PublicKey, error) {
	var body cryptobyte.String
	n, e := new(big.Int), new(big.Int)
	if !bits.ReadASN1(&body, asn1.SEQUENCE) || !bits.Empty() || !body.ReadASN1Integer(n) || !body.ReadASN1Integer(e) || !body.Empty() {
		return nil, refuse(ReasonSyntax, "the RSA key is malformed")
	}
	if err := checkRSA(n, e); err != nil {
		return nil, refuse(ReasonKeySize, "%v", err)
	}
	public, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return nil, refuse(ReasonSyntax, "the RSA key is malformed: %v", err)
	}
	key, ok := public.(*rsa.PublicKey)
	if !ok {
		return nil, refuse(ReasonSyntax, "the RSA key is malformed")
	}
	return key, nil
}

func checkRSA(n, e *big.Int) error {
	switch {
	case n.Sign() <= 0 || n.Bit(0) == 0 || n.BitLen() < minRSA || n.BitLen() > maxRSA:
		return fmt.Errorf("RSA key of %d bits: want %d to %d", n.BitLen(), minRSA, maxRSA)
	case e.Cmp(big.NewInt(minRSAExponent)) < 0 || e.Bit(0) == 0 || e.BitLen() > 31:
		return fmt.Errorf("RSA exponent %.20s: want an odd one from %d to 2^31", e, minRSAExponent)
	}
	return nil
}

// checkIssuerKey holds a key that signs certificates to policy: ECDSA on P-256, P-384 or P-521, or RSA.
func checkIssuerKey(public crypto.PublicKey) error {
	switch k := public.(type) {
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256(), elliptic.P384(), elliptic.P521():
			return nil
		}
		return fmt.Errorf("ECDSA key on %s: want P-256, P-384 or P-521", k.Curve.Params().Name)
	case *rsa.PublicKey:
		return checkRSA(k.N, big.NewInt(int64(k.E)))
	default:
		return fmt.Errorf("key of type %T: want ECDSA or RSA", public)
	}
}

// issuerAlgorithm is the signature algorithm that goes with an issuer's key: SHA-256, or the curve's own size.
func issuerAlgorithm(public crypto.PublicKey) (algorithm string, x x509.SignatureAlgorithm, hash crypto.Hash, err error) {
	switch k := public.(type) {
	case *rsa.PublicKey:
		return algSHA256WithRSA, x509.SHA256WithRSA, crypto.SHA256, nil
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			return algECDSAWithSHA256, x509.ECDSAWithSHA256, crypto.SHA256, nil
		case elliptic.P384():
			return algECDSAWithSHA384, x509.ECDSAWithSHA384, crypto.SHA384, nil
		case elliptic.P521():
			return algECDSAWithSHA512, x509.ECDSAWithSHA512, crypto.SHA512, nil
		}
	}
	return "", 0, 0, fmt.Errorf("key of type %T: want ECDSA or RSA", public)
}

// verifySignature checks an issuer's signature over a digest.
func verifySignature(public crypto.PublicKey, hash crypto.Hash, sum, signature []byte) error {
	ok := false
	switch k := public.(type) {
	case *ecdsa.PublicKey:
		ok = ecdsa.VerifyASN1(k, sum, signature)
	case *rsa.PublicKey:
		ok = rsa.VerifyPKCS1v15(k, hash, sum, signature) == nil
	}
	if !ok {
		return errors.New("the signature does not verify with the issuer's key")
	}
	return nil
}
