package jwt

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/hex"
	"errors"
	"math/big"
	"slices"
)

// Key is one public key of a [KeySet] that passed every check of request-authentication §3.3.
type Key struct {
	id        string
	algorithm string // the key's own alg, empty if it does not say
	family    family
	public    crypto.PublicKey // *rsa.PublicKey, *ecdsa.PublicKey or ed25519.PublicKey
}

// ID is the key's kid, empty if it has none.
func (k *Key) ID() string { return k.id }

// Algorithm is the key's own alg, empty if it does not say.
func (k *Key) Algorithm() string { return k.algorithm }

// Kind is the key type as people say it: "RSA 2048", "EC P-256", "Ed25519".
func (k *Key) Kind() string { return k.family.describe(k.public) }

// Public is the key: *rsa.PublicKey, *ecdsa.PublicKey or ed25519.PublicKey. It must not be changed.
func (k *Key) Public() crypto.PublicKey { return k.public }

// VerifySignature checks a signature in the form JWS gives it (RFC 7518 §3) over bytes, with this key alone. The error is
// an [Error].
func (k *Key) VerifySignature(alg string, signed, signature []byte) error {
	a := findAlgorithm(alg)
	switch {
	case a == nil:
		return Error{AlgorithmUnsupported}
	case !k.named(a, ""):
		return Error{KeyUnknown}
	case !k.verify(a, string(signed), signature):
		return Error{SignatureInvalid}
	}
	return nil
}

// verify is check 26 with one key.
func (k *Key) verify(alg *algorithm, signed string, signature []byte) bool {
	return k.suits(alg) && alg.method.Verify(signed, signature, k.public) == nil
}

// named says whether a token means this key: its kid and alg do not speak against it. A kid that either side lacks
// matches; the signature decides.
func (k *Key) named(alg *algorithm, kid string) bool {
	return (kid == "" || k.id == "" || k.id == kid) && (k.algorithm == "" || k.algorithm == alg.name)
}

// suits says whether the key is of the kind and on the curve the algorithm needs. Envoy picks the primitive by the key
// and does not ask (request-authentication §3.3).
func (k *Key) suits(alg *algorithm) bool { return alg.family == k.family && alg.fits(k.public) }

var (
	errRSASize     = errors.New("RSA modulus is not between 2048 and 8192 bits")
	errRSAExponent = errors.New("RSA exponent is neither 65537 nor 3")
	errRSAEven     = errors.New("RSA modulus is even")
	errRSAROCA     = errors.New("RSA modulus has the ROCA fingerprint (CVE-2017-15361)")
	errECSize      = errors.New("EC coordinate is not exactly the size of the field")
	errECPoint     = errors.New("EC point is not on the curve")
	errEdSize      = errors.New("Ed25519 key is not 32 bytes")
	errEdPoint     = errors.New("Ed25519 key is a point of low order or not canonical")
)

// checkRSA takes the modulus and exponent as the document has them: a library that turns the exponent into an int may
// have wrapped it.
func checkRSA(key *rsa.PublicKey, exponent []byte) error {
	e := trimZeros(exponent)
	switch {
	case key.N.BitLen() < 2048 || key.N.BitLen() > 8192:
		return errRSASize
	case !slices.Equal(e, []byte{1, 0, 1}) && !slices.Equal(e, []byte{3}):
		return errRSAExponent
	case key.N.Bit(0) == 0:
		return errRSAEven
	case hasROCAFingerprint(key.N):
		return errRSAROCA
	}
	return nil
}

func trimZeros(b []byte) []byte {
	for len(b) > 0 && b[0] == 0 {
		b = b[1:]
	}
	return b
}

// hasROCAFingerprint says whether n is, modulo each of the first 38 odd primes, a power of 65537, as moduli are that the
// broken Infineon generator made. One in 2^28 honest moduli is, too.
func hasROCAFingerprint(n *big.Int) bool {
	var rest big.Int
	for _, p := range []uint64{
		3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101, 103, 107, 109,
		113, 127, 131, 137, 139, 149, 151, 157, 163, 167,
	} {
		residue := rest.Mod(n, new(big.Int).SetUint64(p)).Uint64()
		if !isPowerOf65537(residue, p) {
			return false
		}
	}
	return true
}

func isPowerOf65537(residue, p uint64) bool {
	power := uint64(1)
	for range p {
		if power == residue {
			return true
		}
		power = power * 65537 % p
	}
	return false
}

func checkEC(key *ecdsa.PublicKey, x, y []byte) error {
	size := (key.Curve.Params().BitSize + 7) / 8
	if len(x) != size || len(y) != size {
		return errECSize
	}
	if _, err := key.ECDH(); err != nil { // the conversion is the check: off the curve and infinity are errors
		return errECPoint
	}
	return nil
}

func checkEd25519(key ed25519.PublicKey) error {
	if len(key) != ed25519.PublicKeySize {
		return errEdSize
	}
	if !isCanonicalEd25519(key) || hasLowOrder(key) {
		return errEdPoint
	}
	return nil
}

// isCanonicalEd25519 says whether the y coordinate is below p = 2^255 - 19 (RFC 8032 §5.1.3).
func isCanonicalEd25519(key ed25519.PublicKey) bool {
	if key[31]&0x7f != 0x7f {
		return true
	}
	for _, b := range key[1:31] {
		if b != 0xff {
			return true
		}
	}
	return key[0] < 0xed
}

// hasLowOrder says whether the point, whatever its sign bit, is one of the eight whose order divides 8. A signature
// exists that verifies with such a key over any message.
func hasLowOrder(key ed25519.PublicKey) bool {
	y := [ed25519.PublicKeySize]byte(key)
	y[31] &= 0x7f
	switch hex.EncodeToString(y[:]) {
	case "0000000000000000000000000000000000000000000000000000000000000000",
		"0100000000000000000000000000000000000000000000000000000000000000",
		"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
		"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
		"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f":
		return true
	}
	return false
}
