package jwt_test

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"

	"github.com/writ-auth/writ/jwt"
)

func TestParseKeySetShape(t *testing.T) {
	key := jsonOf(keyFor("ES256").jwk())
	set := `{"keys":[` + key + `]}`
	for _, row := range []struct {
		name, document string
		usable         int // 0: an error
	}{
		{"one key", set, 1},
		{"space around", "\n " + set + "\t\r\n", 1},
		{"other members", `{"a":{},"keys":[` + key + `],"b":[1]}`, 1},
		{"same kid twice", `{"keys":[` + key + `,` + key + `]}`, 2},
		{"a bare key", key, 0},
		{"a list", `[` + key + `]`, 0},
		{"trailing garbage", set + "x", 0},
		{"two sets", set + set, 0},
		{"keys twice", `{"keys":[],"keys":[` + key + `]}`, 0},
		{"a name twice in a key", `{"keys":[{"kid":"a",` + key[1:] + `]}`, 0},
		{"keys null", `{"keys":null}`, 0},
		{"keys an object", `{"keys":{}}`, 0},
		{"Keys", `{"Keys":[` + key + `]}`, 0},
		{"no keys", `{}`, 0},
		{"empty set", `{"keys":[]}`, 0},
		{"no member is an object", `{"keys":[1,null,"x",[]]}`, 0},
		{"empty", "", 0},
		{"null", "null", 0},
		{"HTML", "<html>", 0},
		{"PEM map", `{"kid1":"-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----\n"}`, 0},
		{"deep", `{"keys":[` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + `]}`, 0},
		{"256 keys", `{"keys":[` + strings.Repeat(`{},`, 255) + key + `]}`, 1},
		{"257 keys", `{"keys":[` + strings.Repeat(`{},`, 256) + key + `]}`, 0},
		{"1 MiB", set + strings.Repeat(" ", 1<<20-len(set)), 1},
		{"a byte more", set + strings.Repeat(" ", 1<<20-len(set)+1), 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			parsed, err := jwt.ParseKeySet([]byte(row.document))
			if (err == nil) != (row.usable > 0) || err == nil && parsed.Len() != row.usable {
				t.Errorf("%v, want %d keys", err, row.usable)
			}
		})
	}
}

// TestParseKey is request-authentication §3.3: which keys are used, by what they say of themselves and what they are.
func TestParseKey(t *testing.T) {
	rs, es, ed := keyFor("RS256"), keyFor("ES256"), keyFor("EdDSA")
	edPoint := func(text string) testKey { return ed.with("x", b64(must(hex.DecodeString(text)))) }
	wrapped := new(big.Int).Add(new(big.Int).Lsh(big.NewInt(1), 64), big.NewInt(65537))
	for _, row := range []struct {
		name string
		key  testKey
		want string // reason to skip it; empty: used
	}{
		{"RSA", rs, ""},
		{"RSA for PS512", rs.withAlg("PS512"), ""},
		{"RSA for ES256", rs.withAlg("ES256"), "alg"},
		{"RSA for HS256", rs.withAlg("HS256"), "alg"},
		{"RSA for OAEP", rs.withAlg("RSA-OAEP"), "alg"},
		{"RSA, e 3", rs.with("e", "Aw"), ""},
		{"RSA, e 65537 with zeros", rs.with("e", "AAAAAQAB"), ""},
		{"RSA, e 1", rs.with("e", "AQ"), "exponent"},
		{"RSA, e even", rs.with("e", "AQAA"), "exponent"},
		{"RSA, e 5", rs.with("e", "BQ"), "exponent"},
		{"RSA, e 2^64+65537", rs.with("e", b64(wrapped.Bytes())), "exponent"},
		{"RSA, no e", rs.with("e", nil), "RSA"},
		{"RSA, no n", rs.with("n", nil), "RSA"},
		{"RSA 2047", modulus(2047), "2048"},
		{"RSA 1024", modulus(1024), "2048"},
		{"RSA 8193", modulus(8193), "8192"},
		{"RSA even", rs.with("n", b64(new(big.Int).Add(rs.rsa.N, big.NewInt(1)).Bytes())), "even"},
		{"RSA with the ROCA fingerprint", rocaKey(), "ROCA"},
		{"EC", es, ""},
		{"EC for ES256", es.withAlg("ES256"), ""},
		{"EC for ES384, on P-256", es.withAlg("ES384"), "alg"},
		{"EC for RS256", es.withAlg("RS256"), "alg"},
		{"EC, misspelt alg", es.withAlg("ES521"), "alg"},
		{"EC without crv", es.with("crv", missing), ""},
		{"EC P-384 without crv, alg says it", keyFor("ES384").withAlg("ES384").with("crv", missing), ""},
		{"EC P-384 without crv", keyFor("ES384").with("crv", missing), "coordinate"},
		{"EC P-521", keyFor("ES512"), ""},
		{"EC on another curve", es.with("crv", "secp256k1"), "EC"},
		{"EC off the curve", es.with("x", b64(make([]byte, 32))), "curve"},
		{"EC, x short of a zero", es.with("x", b64(make([]byte, 31))), "coordinate"},
		{"EC, x with a zero more", es.with("x", b64(append([]byte{0}, es.ec.X.FillBytes(make([]byte, 32))...))), "coordinate"},
		{"EC, no y", es.with("y", missing), "EC"},
		{"EC, infinity", es.with("x", "").with("y", ""), "EC"},
		{"Ed25519", ed, ""},
		{"Ed25519 for EdDSA", ed.withAlg("EdDSA"), ""},
		{"Ed25519 for Ed25519", ed.withAlg("Ed25519"), "alg"},
		{"Ed25519 short", ed.with("x", b64(make([]byte, 31))), "32 bytes"},
		{"Ed25519 long", ed.with("x", b64(make([]byte, 33))), "32 bytes"},
		{"X25519", ed.with("crv", "X25519"), "Ed25519"},
		{"Ed448", ed.with("crv", "Ed448"), "Ed25519"},
		{"Ed25519, identity", edPoint("01" + strings.Repeat("00", 31)), "low order"},
		{"Ed25519, identity with the sign", edPoint("01" + strings.Repeat("00", 30) + "80"), "low order"},
		{"Ed25519, zero", edPoint(strings.Repeat("00", 32)), "low order"},
		{"Ed25519, order 2", edPoint("ec" + strings.Repeat("ff", 30) + "7f"), "low order"},
		{"Ed25519, order 8", edPoint("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "low order"},
		{"Ed25519, order 8, the other", edPoint("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa"), "low order"},
		{"Ed25519, y is p", edPoint("ed" + strings.Repeat("ff", 30) + "7f"), "canonical"},
		{"Ed25519, y is p+1", edPoint("ee" + strings.Repeat("ff", 30) + "ff"), "canonical"},
		{"use sig", es.with("use", "sig"), ""},
		{"use enc", es.with("use", "enc"), "use"},
		{"use empty", es.with("use", ""), "use"},
		{"use null", es.with("use", nil), "use"},
		{"key_ops verify", es.with("key_ops", []string{"sign", "verify"}), ""},
		{"key_ops without verify", es.with("key_ops", []string{"sign"}), "key_ops"},
		{"key_ops a string", es.with("key_ops", "verify"), "key_ops"},
		{"kid a number", es.with("kid", 5), "kid"},
		{"kid too long", es.withKID(strings.Repeat("k", 513)), "kid"},
		{"alg a number", es.with("alg", 5), "alg"},
		{"kty AKP", es.with("kty", "AKP"), "kty"},
		{"kty missing", es.with("kty", missing), "kty"},
		{"symmetric", es.with("kty", "oct").with("k", "AAAA"), "symmetric"},
		{"a broken certificate is not looked at", es.with("x5c", []string{"?"}).with("x5t", 1), ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			// The other key keeps the set usable: what is wrong with one must not hide it.
			set := mustKeySet(row.key, newTestKey("ES256").withKID("other"))
			if row.want == "" {
				if set.Len() != 2 || len(set.Findings()) != 0 {
					t.Errorf("not used: %v", set.Findings())
				}
				return
			}
			found := set.Findings()
			if set.Len() != 1 || len(found) != 1 || !found[0].Skipped || found[0].Index != 0 || !strings.Contains(found[0].Reason, row.want) {
				t.Errorf("%d keys used, findings %v, want one with %q", set.Len(), found, row.want)
			}
			if _, err := jwt.ParseKeySet([]byte(keySetJSON(row.key))); !errors.Is(err, jwt.ErrNoUsableKey) {
				t.Errorf("alone: %v", err)
			}
		})
	}
}

// modulus is an RSA key of so many bits, as far as anybody who cannot factor it can tell.
func modulus(bits int) testKey {
	n := must(rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), uint(bits-1))))
	n.SetBit(n.SetBit(n, bits-1, 1), 0, 1)
	return keyFor("RS256").with("n", b64(n.Bytes()))
}

// rocaKey has a modulus that is 65537 modulo each of the small primes the fingerprint asks about.
func rocaKey() testKey {
	product := big.NewInt(1)
	for p := int64(3); p <= 167; p++ {
		if big.NewInt(p).ProbablyPrime(10) {
			product.Mul(product, big.NewInt(p))
		}
	}
	product.Lsh(product, 1) // odd, too
	n := new(big.Int).Lsh(big.NewInt(1), 2047)
	n.Sub(n, new(big.Int).Mod(n, product))
	n.Add(n, product)
	return keyFor("RS256").with("n", b64(n.Add(n, big.NewInt(65537)).Bytes()))
}

func TestPrivateMembersAreDropped(t *testing.T) {
	private := keyFor("RS256").with("d", b64(keyFor("RS256").rsa.D.Bytes())).with("p", "AA")
	set := mustKeySet(private)
	if _, public := set.Key(0).Public().(*rsa.PublicKey); !public {
		t.Errorf("%T", set.Key(0).Public())
	}
	found := set.Findings()
	if len(found) != 1 || found[0].Skipped || !strings.Contains(found[0].Reason, "private") {
		t.Errorf("findings %v", found)
	}
	if _, err := set.VerifyCompact(keyFor("RS256").sign("RS256", "x")); err != nil {
		t.Error(err)
	}
}

func TestKeySetIsASource(t *testing.T) {
	set, same, other := mustKeySet(keyFor("ES256")), mustKeySet(keyFor("ES256")), mustKeySet(keyFor("EdDSA"))
	if set.Keys() != set || set.Refetch(t.Context()) != set {
		t.Error("not its own source")
	}
	if !set.Equal(same) || set.Generation() != same.Generation() {
		t.Error("the same document makes another generation")
	}
	if set.Equal(other) || set.Generation() == other.Generation() || set.Equal(nil) {
		t.Error("another document is equal")
	}
	if k := other.Key(0); k.ID() != "ed" || k.Kind() != "Ed25519" || k.Algorithm() != "" {
		t.Errorf("%s %s %s", k.ID(), k.Kind(), k.Algorithm())
	}
	if kinds := []string{set.Key(0).Kind(), mustKeySet(keyFor("RS256")).Key(0).Kind()}; !slices.Equal(kinds, []string{"EC P-256", "RSA 2048"}) {
		t.Error(kinds)
	}
}

// TestKeySelection is the table of request-authentication §3.3.
func TestKeySelection(t *testing.T) {
	a, b := newTestKey("ES256").withKID("a"), newTestKey("ES256").withKID("b")
	rs := keyFor("RS256")
	many := func(n int) (keys []testKey) {
		for range n {
			keys = append(keys, a)
		}
		return keys
	}
	for _, row := range []struct {
		name  string
		keys  []testKey
		token string
		want  jwt.Reason
	}{
		{"kid", []testKey{a, b}, b.sign("ES256", "x"), jwt.Valid},
		{"kid of another key", []testKey{a, b}, b.withKID("a").sign("ES256", "x"), jwt.SignatureInvalid},
		{"kid in another case", []testKey{a, b}, b.withKID("B").sign("ES256", "x"), jwt.KeyUnknown},
		{"same kid twice", []testKey{a, b.withKID("a")}, b.withKID("a").sign("ES256", "x"), jwt.Valid},
		{"no kid", []testKey{a, b}, b.withKID("").sign("ES256", "x"), jwt.Valid},
		{"key without kid", []testKey{a, b.withKID("")}, b.withKID("z").sign("ES256", "x"), jwt.Valid},
		{"alg of the key", []testKey{rs.withAlg("RS256")}, rs.sign("RS256", "x"), jwt.Valid},
		{"another alg of the key", []testKey{rs.withAlg("RS512")}, rs.sign("RS256", "x"), jwt.KeyUnknown},
		{"RS and PS with a key without alg", []testKey{rs}, rs.sign("PS384", "x"), jwt.Valid},
		{"another family", []testKey{rs.withKID("a")}, a.sign("ES256", "x"), jwt.SignatureInvalid},
		{"another curve", []testKey{keyFor("ES384").withKID("a")}, a.sign("ES256", "x"), jwt.SignatureInvalid},
		{"eighth key", append(many(7), b), b.withKID("").sign("ES256", "x"), jwt.Valid},
		{"ninth key", append(many(8), b), b.withKID("").sign("ES256", "x"), jwt.SignatureInvalid},
	} {
		t.Run(row.name, func(t *testing.T) {
			payload, err := mustKeySet(row.keys...).VerifyCompact(row.token)
			if row.want == jwt.Valid {
				if err != nil || string(payload) != "x" {
					t.Errorf("%q, %v", payload, err)
				}
				return
			}
			if !errors.Is(err, jwt.Error{Reason: row.want}) || payload != nil {
				t.Errorf("%q, %v, want %v", payload, err, row.want)
			}
		})
	}
}

// TestSignaturesPerRequest bounds the work a request can cause with rules that share an issuer.
func TestSignaturesPerRequest(t *testing.T) {
	stranger := keySetJSON(newTestKey("ES256").withKID(""))
	var rules []jwt.Rule
	for i := range 100 {
		rules = append(rules, jwt.Rule{ID: fmt.Sprint(i), Issuer: issuerA, JWKS: stranger})
	}
	if out := validate(newValidator(rules...), bearer(goodToken())); out.Verified > 32 || out.Reason != jwt.SignatureInvalid {
		t.Errorf("%d signatures, %s", out.Verified, out.Reason)
	}
}

func TestEveryAlgorithm(t *testing.T) {
	for _, alg := range []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"} {
		key := keyFor(alg)
		set := mustKeySet(key)
		token := key.sign(alg, "payload")
		if payload, err := set.VerifyCompact(token); err != nil || string(payload) != "payload" {
			t.Errorf("%s: %q, %v", alg, payload, err)
		}
		for _, other := range []string{"RS256", "PS256", "PS512", "ES256", "ES384", "ES512", "EdDSA"} {
			if other == alg {
				continue
			}
			// The same signature under another name, over what it was made for.
			if err := set.Key(0).VerifySignature(other, []byte(token[:strings.LastIndexByte(token, '.')]), unbase64(token[strings.LastIndexByte(token, '.')+1:])); err == nil {
				t.Errorf("a signature of %s passes for %s", alg, other)
			}
		}
	}
}
