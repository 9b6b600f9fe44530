package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/base64"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/writ-auth/writ/internal/spiffeid"
)

const (
	maxCSR        = 16 << 10
	maxExtensions = 16
)

// request is what a certificate request may say: a public key, and names that are compared with the identity it is for
// and then forgotten.
type request struct {
	key subjectKey
}

// ProvenKey is the SHA-256 of the SubjectPublicKeyInfo in a PEM certificate request whose sender holds the key, of a kind
// that the profile takes. What else the request asks for is for [Approve] to judge. The error is an [ErrCSR].
func ProvenKey(csr []byte, p *Profile) ([32]byte, error) {
	key, _, err := provenKey(csr, p)
	return key.hash, err
}

// parseRequest reads a PEM certificate request, proves that its sender holds the key, and refuses one that asks for
// anything but a leaf for id (identity §2.4, column "ours").
func parseRequest(in []byte, id spiffeid.ID, p *Profile) (request, error) {
	key, attributes, err := provenKey(in, p)
	if err != nil {
		return request{}, err
	}
	if err := checkAttributes(attributes, id); err != nil {
		return request{}, err
	}
	return request{key: key}, nil
}

// provenKey takes a request apart and verifies that its sender holds the key.
func provenKey(in []byte, p *Profile) (key subjectKey, attributes cryptobyte.String, err error) {
	der, err := onlyBlock(in)
	if err != nil {
		return subjectKey{}, nil, err
	}
	var info, algorithm, signature, whole cryptobyte.String
	outer := cryptobyte.String(der)
	if !outer.ReadASN1(&whole, asn1.SEQUENCE) || !outer.Empty() ||
		!whole.ReadASN1Element(&info, asn1.SEQUENCE) || !whole.ReadASN1Element(&algorithm, asn1.SEQUENCE) ||
		!whole.ReadASN1(&signature, asn1.BIT_STRING) || !whole.Empty() {
		return subjectKey{}, nil, refuse(ReasonSyntax, "not a PKCS#10 request")
	}
	spki, attributes, err := parseInfo(info)
	if err != nil {
		return subjectKey{}, nil, err
	}
	if key, err = parseSubjectKey(spki, p); err != nil {
		return subjectKey{}, nil, err
	}
	if err := checkProof(key.public, info, algorithm, signature); err != nil {
		return subjectKey{}, nil, err
	}
	return key, attributes, nil
}

// onlyBlock is the content of the one PEM block that in must consist of, apart from white space: a first line, base64,
// a last line. encoding/pem would skip what comes before, take headers, and leave what comes after.
func onlyBlock(in []byte) ([]byte, error) {
	if len(in) > maxCSR {
		return nil, refuse(ReasonSize, "%d bytes, more than %d", len(in), maxCSR)
	}
	in = bytes.TrimSpace(in)
	for _, label := range []string{"CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"} {
		body, begins := bytes.CutPrefix(in, []byte("-----BEGIN "+label+"-----"))
		if !begins {
			continue
		}
		body, ends := bytes.CutSuffix(body, []byte("-----END "+label+"-----"))
		if !ends || !bytes.HasPrefix(bytes.TrimLeft(body, " \t\r"), []byte("\n")) || !bytes.HasSuffix(body, []byte("\n")) {
			return nil, refuse(ReasonFraming, "the PEM block %s does not end, or something comes after it", label)
		}
		der := make([]byte, base64.StdEncoding.DecodedLen(len(body)))
		n, err := base64.StdEncoding.Strict().Decode(der, bytes.TrimLeft(body, " \t")) // which passes over line ends
		if err != nil {
			return nil, refuse(ReasonFraming, "want one PEM block %s without headers: %v", label, err)
		}
		return der[:n], nil
	}
	return nil, refuse(ReasonFraming, "want one PEM block CERTIFICATE REQUEST and nothing before it, have %.40q", in)
}

// parseInfo takes CertificationRequestInfo apart (RFC 2986 §4.1). The subject is not looked at: it decides nothing.
func parseInfo(info cryptobyte.String) (spki, attributes cryptobyte.String, err error) {
	var body cryptobyte.String
	var version int64
	switch {
	case !info.ReadASN1(&body, asn1.SEQUENCE), !body.ReadASN1Integer(&version), !body.SkipASN1(asn1.SEQUENCE),
		!body.ReadASN1Element(&spki, asn1.SEQUENCE),
		!body.ReadOptionalASN1(&attributes, nil, asn1.Tag(0).ContextSpecific().Constructed()), !body.Empty():
		return nil, nil, refuse(ReasonSyntax, "not a PKCS#10 request")
	case version != 0:
		return nil, nil, refuse(ReasonSyntax, "version %d, want 0 (RFC 2986 §4.1)", version)
	}
	return spki, attributes, nil
}

// checkProof verifies the request's own signature: whoever made it holds the private key.
func checkProof(key crypto.PublicKey, info, algorithm, signature cryptobyte.String) error {
	hash, rsaSignature, known := requestAlgorithm(algorithm)
	if !known {
		return refuse(ReasonSignatureAlgorithm, "signature algorithm %x: want ECDSA or RSA PKCS#1 v1.5 with SHA-256, SHA-384 or SHA-512, or Ed25519", []byte(algorithm))
	}
	var unused uint8
	if !signature.ReadUint8(&unused) || unused != 0 {
		return refuse(ReasonSyntax, "the signature is no whole number of bytes")
	}
	ok := false
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		ok = hash != 0 && !rsaSignature && ecdsa.VerifyASN1(key, digest(hash, info), signature)
	case *rsa.PublicKey:
		ok = rsaSignature && rsa.VerifyPKCS1v15(key, hash, digest(hash, info), signature) == nil
	case ed25519.PublicKey:
		ok = hash == 0 && ed25519.Verify(key, info, signature)
	}
	if !ok {
		return refuse(ReasonSignature, "its signature does not verify with its key")
	}
	return nil
}

// requestAlgorithm is the hash of a signature algorithm that a request may use, by its exact encoding: one that is
// encoded otherwise is not one of these. Ed25519 has no hash of its own.
func requestAlgorithm(der []byte) (hash crypto.Hash, rsaSignature, known bool) {
	switch string(der) {
	case algECDSAWithSHA256:
		return crypto.SHA256, false, true
	case algECDSAWithSHA384:
		return crypto.SHA384, false, true
	case algECDSAWithSHA512:
		return crypto.SHA512, false, true
	case algSHA256WithRSA:
		return crypto.SHA256, true, true
	case algSHA384WithRSA:
		return crypto.SHA384, true, true
	case algSHA512WithRSA:
		return crypto.SHA512, true, true
	case algEd25519:
		return 0, false, true
	default:
		return 0, false, false
	}
}

func digest(h crypto.Hash, data []byte) []byte {
	w := h.New()
	w.Write(data)
	return w.Sum(nil)
}
