package wycheproof_test

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/writ-auth/writ/jwt"
)

// TestRaw checks the signatures themselves, in the very form JWS has them, with keys read from a JWK.
func TestRaw(t *testing.T) {
	total := 0
	for _, set := range []struct {
		name  string
		alg   string
		cases int
	}{
		{"ecdsa_secp256r1_sha256_p1363_test.json", "ES256", 252},
		{"ecdsa_secp384r1_sha384_p1363_test.json", "ES384", 270},
		{"ecdsa_secp521r1_sha512_p1363_test.json", "ES512", 308},
		{"ed25519_test.json", "EdDSA", 150},
		{"rsa_signature_2048_sha256_test.json", "RS256", 259},
		{"rsa_signature_2048_sha384_test.json", "RS384", 258},
		{"rsa_signature_2048_sha512_test.json", "RS512", 259},
		{"rsa_signature_3072_sha256_test.json", "RS256", 259},
		{"rsa_signature_4096_sha256_test.json", "RS256", 258},
		{"rsa_signature_4096_sha512_test.json", "RS512", 259},
		{"rsa_pss_2048_sha256_mgf1_32_test.json", "PS256", 108},
		{"rsa_pss_2048_sha384_mgf1_48_test.json", "PS384", 141},
		{"rsa_pss_3072_sha256_mgf1_32_test.json", "PS256", 108},
		{"rsa_pss_4096_sha256_mgf1_32_test.json", "PS256", 108},
		{"rsa_pss_4096_sha384_mgf1_48_test.json", "PS384", 141},
		{"rsa_pss_4096_sha512_mgf1_64_test.json", "PS512", 179},
	} {
		total += set.cases
		t.Run(set.name, func(t *testing.T) {
			f := load(t, set.name, set.cases)
			for i := range f.Groups {
				g := &f.Groups[i]
				key := keyOf(t, g)
				for _, v := range g.Tests {
					err := key.VerifySignature(set.alg, unhex(t, v.Message), unhex(t, v.Signature))
					// "acceptable" is PKCS #1 without the NULL parameter, which a strict verifier refuses.
					if accepted := err == nil; accepted != (v.Result == "valid") {
						t.Errorf("case %d (%s, %s): accepted %v", v.ID, v.Result, v.Comment, accepted)
					}
				}
			}
		})
	}
	if want := 3317; total != want {
		t.Errorf("%d cases, want %d", total, want)
	}
}

// keyOf reads a group's key through a JWK of our own making, so that groups without one are covered.
func keyOf(t *testing.T, g *group) *jwt.Key {
	t.Helper()
	k := &g.PublicKey
	var members map[string]string
	switch {
	case k.Modulus != "":
		members = map[string]string{"kty": "RSA", "n": number(t, k.Modulus, 0), "e": number(t, k.Exponent, 0)}
	case k.Ed != "":
		members = map[string]string{"kty": "OKP", "crv": "Ed25519", "x": number(t, k.Ed, len(k.Ed)/2)}
	default:
		curve := map[string]string{"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}[k.Curve]
		size := map[string]int{"P-256": 32, "P-384": 48, "P-521": 66}[curve]
		members = map[string]string{"kty": "EC", "crv": curve, "x": number(t, k.X, size), "y": number(t, k.Y, size)}
	}
	document, err := json.Marshal(members)
	if err != nil {
		t.Fatal(err)
	}
	set, err := jwt.ParseKeySet(fmt.Appendf(nil, `{"keys":[%s]}`, document))
	if err != nil {
		t.Fatalf("key %s: %v", document, err)
	}
	return set.Key(0)
}

// number turns hexadecimal, perhaps with a sign byte or short of leading zeros, into base64url of size bytes; 0 for as
// many as it needs.
func number(t *testing.T, text string, size int) string {
	t.Helper()
	if size == 0 || len(text) > 2*size {
		text = strings.TrimPrefix(text, "00")
	}
	for len(text) < 2*size {
		text = "00" + text
	}
	return base64.RawURLEncoding.EncodeToString(unhex(t, text))
}

func unhex(t *testing.T, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
