package analysis

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	securityv1beta1 "istio.io/api/security/v1beta1"
)

// jwk is what is read of a key: only whether it can be used (request-authentication §3.3).
type jwk struct {
	Kty    string   `json:"kty"`
	Alg    string   `json:"alg"`
	Use    *string  `json:"use"`
	KeyOps []string `json:"key_ops"`
	Crv    string   `json:"crv"`
	N      string   `json:"n"`
	E      string   `json:"e"`
	X      string   `json:"x"`
	Y      string   `json:"y"`
}

// checkKeys reports inline keys that verify nothing. That the text is a key set is the business of validation.
func checkKeys(l *linter, v *tokenView, i int, r *securityv1beta1.JWTRule) {
	if r.GetJwks() == "" {
		return
	}
	field := v.field(i) + ".jwks"
	var set struct {
		Keys *[]jwk `json:"keys"`
	}
	if json.Unmarshal([]byte(r.GetJwks()), &set) != nil {
		return
	}
	if set.Keys == nil {
		l.report(v.doc, codeUnusableKey, field, "a key alone is no key set: every token of this rule is refused", `write {"keys": [ … ]} around it`)
		return
	}
	var bad []string
	for k := range *set.Keys {
		if why := (*set.Keys)[k].unusable(); why != "" {
			bad = append(bad, fmt.Sprintf("key %d cannot be used: %s", k, why))
		}
	}
	if len(bad) == len(*set.Keys) {
		bad = append(bad, "no key is left, so every token of this rule is refused")
	}
	if len(bad) > 0 {
		l.report(v.doc, codeUnusableKey, field, strings.Join(bad, "; "),
			"publish RSA keys of 2048 to 8192 bits, EC keys on P-256, P-384 or P-521, or Ed25519 keys, for verifying")
	}
}

// unusable says why a key verifies nothing, "" if it may.
func (k *jwk) unusable() string {
	why, algorithms := k.material()
	switch {
	case why != "":
		return why
	case k.Alg != "" && !slices.Contains(algorithms, k.Alg):
		return fmt.Sprintf("alg %q does not go with the key", k.Alg)
	case k.Use != nil && *k.Use != "sig":
		return fmt.Sprintf("use is %q, not sig", *k.Use)
	case k.KeyOps != nil && !slices.Contains(k.KeyOps, "verify"):
		return "key_ops does not contain verify"
	}
	return ""
}

// material says what is wrong with the key itself, and which algorithms it is for.
func (k *jwk) material() (why string, algorithms []string) {
	switch k.Kty {
	case "RSA":
		return k.rsa(), []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}
	case "EC":
		return k.ec()
	case "OKP":
		if k.Crv != "Ed25519" || len(decoded(k.X)) != 32 {
			return "it is no Ed25519 key", nil
		}
		return "", []string{"EdDSA"}
	}
	return "it is symmetric: whoever can read it could make tokens", nil
}

func (k *jwk) rsa() string {
	bits := bitLength(decoded(k.N))
	switch exponent := decoded(k.E); {
	case bits < 2048 || bits > 8192:
		return fmt.Sprintf("RSA with %d bits, not 2048 to 8192", bits)
	case !slices.Equal(exponent, []byte{1, 0, 1}) && !slices.Equal(exponent, []byte{3}):
		return "the RSA exponent is neither 65537 nor 3"
	}
	return ""
}

func (k *jwk) ec() (why string, algorithms []string) {
	for _, curve := range []struct {
		name, algorithm string
		bytes           int
	}{{"P-256", "ES256", 32}, {"P-384", "ES384", 48}, {"P-521", "ES512", 66}} {
		if k.Crv != curve.name {
			continue
		}
		if len(decoded(k.X)) != curve.bytes || len(decoded(k.Y)) != curve.bytes {
			return fmt.Sprintf("the coordinates are not %d bytes each, as those of %s are", curve.bytes, curve.name), nil
		}
		return "", []string{curve.algorithm}
	}
	return fmt.Sprintf("EC curve %q, not P-256, P-384 or P-521", k.Crv), nil
}

func decoded(s string) []byte {
	b, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(s, "="))
	if err != nil {
		return nil
	}
	return b
}

// bitLength is the number of bits of a big-endian number.
func bitLength(b []byte) int {
	for len(b) > 0 && b[0] == 0 {
		b = b[1:]
	}
	if len(b) == 0 {
		return 0
	}
	bits := 8 * len(b)
	for mask := byte(0x80); b[0]&mask == 0; mask >>= 1 {
		bits--
	}
	return bits
}
