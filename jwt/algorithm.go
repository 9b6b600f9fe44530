package jwt

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"fmt"

	gojwt "github.com/golang-jwt/jwt/v5"
)

// family is the kind of key an algorithm needs.
type family uint8

const (
	familyRSA family = iota + 1
	familyEC
	familyEd25519
)

// method checks one kind of signature: golang-jwt's, but for PSS.
type method interface {
	Verify(signed string, signature []byte, key any) error
}

// algorithm is one accepted value of a token's alg header.
type algorithm struct {
	name   string
	family family
	curve  elliptic.Curve // for familyEC
	method method
}

// findAlgorithm returns nil for everything that is not exactly the name of an asymmetric algorithm of RFC 7518 §3.1 or
// EdDSA of RFC 8037: none and HS256 among them.
func findAlgorithm(name string) *algorithm {
	for i := range algorithmTable {
		if algorithmTable[i].name == name {
			return &algorithmTable[i]
		}
	}
	return nil
}

var algorithmTable = [...]algorithm{
	{name: "RS256", family: familyRSA, method: gojwt.SigningMethodRS256},
	{name: "ES256", family: familyEC, curve: elliptic.P256(), method: gojwt.SigningMethodES256},
	{name: "EdDSA", family: familyEd25519, method: gojwt.SigningMethodEdDSA},
	{name: "RS384", family: familyRSA, method: gojwt.SigningMethodRS384},
	{name: "RS512", family: familyRSA, method: gojwt.SigningMethodRS512},
	{name: "PS256", family: familyRSA, method: pssMethod{crypto.SHA256}},
	{name: "PS384", family: familyRSA, method: pssMethod{crypto.SHA384}},
	{name: "PS512", family: familyRSA, method: pssMethod{crypto.SHA512}},
	{name: "ES384", family: familyEC, curve: elliptic.P384(), method: gojwt.SigningMethodES384},
	{name: "ES512", family: familyEC, curve: elliptic.P521(), method: gojwt.SigningMethodES512},
}

// pssMethod is RSASSA-PSS as RFC 7518 §3.5 wants it: a salt as long as the hash. golang-jwt's own accepts any length.
type pssMethod struct{ hash crypto.Hash }

// Verify implements method.
func (m pssMethod) Verify(signed string, signature []byte, key any) error {
	public, ok := key.(*rsa.PublicKey)
	if !ok {
		return gojwt.ErrInvalidKeyType
	}
	hash := m.hash.New()
	hash.Write([]byte(signed))
	return rsa.VerifyPSS(public, m.hash, hash.Sum(nil), signature, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
}

// permits says whether a key of this family may carry the alg, and the curve fits. An empty alg goes with every key.
func (f family) permits(name string, key crypto.PublicKey) bool {
	if name == "" {
		return true
	}
	alg := findAlgorithm(name)
	return alg != nil && alg.family == f && alg.fits(key)
}

// fits says whether the key is on the algorithm's curve.
func (a *algorithm) fits(key crypto.PublicKey) bool {
	if a.family != familyEC {
		return true
	}
	public, ok := key.(*ecdsa.PublicKey)
	return ok && public.Curve == a.curve
}

// defaultCurve is the curve of an EC key that names none.
func defaultCurve(alg string) string {
	switch alg {
	case "ES384":
		return "P-384"
	case "ES512":
		return "P-521"
	}
	return "P-256"
}

func (f family) describe(key crypto.PublicKey) string {
	switch key := key.(type) {
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA %d", key.N.BitLen())
	case *ecdsa.PublicKey:
		return "EC " + key.Curve.Params().Name
	}
	return "Ed25519"
}
