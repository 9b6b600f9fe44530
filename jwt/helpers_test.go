package jwt_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"strings"
	"sync"
	"time"
	"unsafe"

	"github.com/writ-auth/writ/jwt"
)

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func unbase64(s string) []byte {
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

// testKey is a key pair of one family. kid, alg and more go into its JWK.
type testKey struct {
	rsa  *rsa.PrivateKey
	ec   *ecdsa.PrivateKey
	ed   ed25519.PrivateKey
	kid  string
	alg  string
	more map[string]any
}

// newTestKey makes a key for an algorithm. The slow ones are made once per process by keyFor.
func newTestKey(alg string) testKey {
	switch alg {
	case "ES256":
		return testKey{kid: "es256", ec: must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))}
	case "ES384":
		return testKey{kid: "es384", ec: must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))}
	case "ES512":
		return testKey{kid: "es512", ec: must(ecdsa.GenerateKey(elliptic.P521(), rand.Reader))}
	case "EdDSA":
		_, private, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			panic(err)
		}
		return testKey{kid: "ed", ed: private}
	}
	return testKey{kid: "rsa", rsa: must(rsa.GenerateKey(rand.Reader, 2048))}
}

var testKeys sync.Map // algorithm family -> func() testKey

// keyFor returns the process's key for an algorithm; all RSA algorithms share one.
func keyFor(alg string) testKey {
	family := alg
	if alg[0] == 'R' || alg[0] == 'P' {
		family = "RS256"
	}
	made, _ := testKeys.LoadOrStore(family, sync.OnceValue(func() testKey { return newTestKey(family) }))
	return made.(func() testKey)()
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// missing, as a member of a JWK, takes the member out.
var missing any = struct{ missing int }{1}

// jwk is the public key as a JWK.
func (k testKey) jwk() map[string]any {
	j := map[string]any{}
	switch {
	case k.rsa != nil:
		j["kty"], j["n"], j["e"] = "RSA", b64(k.rsa.N.Bytes()), b64(big.NewInt(int64(k.rsa.E)).Bytes())
	case k.ec != nil:
		size := (k.ec.Curve.Params().BitSize + 7) / 8
		j["kty"], j["crv"] = "EC", k.ec.Curve.Params().Name
		j["x"], j["y"] = b64(k.ec.X.FillBytes(make([]byte, size))), b64(k.ec.Y.FillBytes(make([]byte, size)))
	default:
		j["kty"], j["crv"], j["x"] = "OKP", "Ed25519", b64(k.ed.Public().(ed25519.PublicKey))
	}
	if k.kid != "" {
		j["kid"] = k.kid
	}
	if k.alg != "" {
		j["alg"] = k.alg
	}
	for name, v := range k.more {
		if v == missing {
			delete(j, name)
			continue
		}
		j[name] = v
	}
	return j
}

func (k testKey) withKID(kid string) testKey { k.kid = kid; return k }
func (k testKey) withAlg(alg string) testKey { k.alg = alg; return k }
func (k testKey) with(name string, v any) testKey {
	k.more = maps.Clone(k.more)
	if k.more == nil {
		k.more = map[string]any{}
	}
	k.more[name] = v
	return k
}

// sign makes a token with a plain header for the key.
func (k testKey) sign(alg, payload string) string {
	head := fmt.Sprintf(`{"alg":%q,"typ":"JWT"}`, alg)
	if k.kid != "" {
		head = fmt.Sprintf(`{"alg":%q,"kid":%q,"typ":"JWT"}`, alg, k.kid)
	}
	return k.signRaw(alg, head, payload)
}

// signRaw signs whatever header and payload are given, with the primitive of alg.
func (k testKey) signRaw(alg, header, payload string) string {
	signed := b64([]byte(header)) + "." + b64([]byte(payload))
	return signed + "." + b64(k.signature(alg, []byte(signed)))
}

func hashOf(alg string) crypto.Hash {
	switch {
	case strings.HasSuffix(alg, "384"):
		return crypto.SHA384
	case strings.HasSuffix(alg, "512"):
		return crypto.SHA512
	}
	return crypto.SHA256
}

func digest(hash crypto.Hash, signed []byte) []byte {
	h := hash.New()
	h.Write(signed)
	return h.Sum(nil)
}

func (k testKey) signature(alg string, signed []byte) []byte {
	hash := hashOf(alg)
	switch alg[:2] {
	case "RS":
		return must(rsa.SignPKCS1v15(rand.Reader, k.rsa, hash, digest(hash, signed)))
	case "PS":
		return k.pss(hash, signed, rsa.PSSSaltLengthEqualsHash)
	case "ES":
		r, s, err := ecdsa.Sign(rand.Reader, k.ec, digest(hash, signed))
		if err != nil {
			panic(err)
		}
		size := (k.ec.Curve.Params().BitSize + 7) / 8
		return append(r.FillBytes(make([]byte, size)), s.FillBytes(make([]byte, size))...)
	}
	return ed25519.Sign(k.ed, signed)
}

func (k testKey) pss(hash crypto.Hash, signed []byte, salt int) []byte {
	return must(rsa.SignPSS(rand.Reader, k.rsa, hash, digest(hash, signed), &rsa.PSSOptions{SaltLength: salt}))
}

// verify is the obvious verification, by the standard library alone.
func (k testKey) verify(alg string, signed, signature []byte) bool {
	hash := hashOf(alg)
	switch alg[:2] {
	case "RS":
		return k.rsa != nil && rsa.VerifyPKCS1v15(&k.rsa.PublicKey, hash, digest(hash, signed), signature) == nil
	case "PS":
		return k.rsa != nil && rsa.VerifyPSS(&k.rsa.PublicKey, hash, digest(hash, signed), signature,
			&rsa.PSSOptions{SaltLength: hash.Size()}) == nil
	case "ES":
		if k.ec == nil || k.ec.Curve.Params().BitSize != map[string]int{"ES256": 256, "ES384": 384, "ES512": 521}[alg] {
			return false
		}
		size := (k.ec.Curve.Params().BitSize + 7) / 8
		return len(signature) == 2*size && ecdsa.Verify(&k.ec.PublicKey, digest(hash, signed),
			new(big.Int).SetBytes(signature[:size]), new(big.Int).SetBytes(signature[size:]))
	}
	return k.ed != nil && len(signature) == ed25519.SignatureSize &&
		ed25519.Verify(k.ed.Public().(ed25519.PublicKey), signed, signature)
}

// keySetJSON is a JWK Set of keys.
func keySetJSON(keys ...testKey) string {
	var list []any
	for _, k := range keys {
		list = append(list, k.jwk())
	}
	return string(must(json.Marshal(map[string]any{"keys": list})))
}

func mustKeySet(keys ...testKey) *jwt.KeySet {
	return must(jwt.ParseKeySet([]byte(keySetJSON(keys...))))
}

const (
	issuerA = "https://idp.example"
	issuerB = "https://other.example"
	malform = "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections"
	unknown = "Jwt issuer is not configured"
	fails   = "Jwt verification fails"
)

// testNow is what the clock of every test says.
var testNow = time.Unix(1_800_000_000, 0)

// claimSet is a payload of issuerA's alice with extra members, valid for an hour.
func claimSet(extra ...string) string {
	return `{` + strings.Join(append([]string{`"iss":"` + issuerA + `","sub":"alice","exp":1800003600`}, extra...), ",") + `}`
}

// ofB is a good payload of issuerB's bob.
const ofB = `{"iss":"` + issuerB + `","sub":"bob","exp":1800003600}`

// goodToken is verified by the rules of newValidator.
func goodToken(extra ...string) string { return keyFor("ES256").sign("ES256", claimSet(extra...)) }

// payloadToken is a token with this payload and a good signature.
func payloadToken(payload string) string { return keyFor("ES256").sign("ES256", payload) }

// forged breaks a token's signature, and nothing else.
func forged(token string) string {
	dot := strings.LastIndexByte(token, '.')
	signature := unbase64(token[dot+1:])
	signature[3] ^= 1
	return token[:dot+1] + b64(signature)
}

// newValidator makes a validator whose rules all have the process's ES256 key, unless they carry keys of their own.
func newValidator(rules ...jwt.Rule) *jwt.Validator { return cachingValidator(nil, rules...) }

func cachingValidator(cache *jwt.Cache, rules ...jwt.Rule) *jwt.Validator {
	for i := range rules {
		if rules[i].ID == "" {
			rules[i].ID = fmt.Sprintf("ns/rule%d", i)
		}
		if rules[i].JWKS == "" {
			rules[i].JWKS = keySetJSON(keyFor("ES256"))
		}
	}
	return jwt.NewValidator(rules, inlineKeys, jwt.Options{Cache: cache})
}

// inlineKeys is the source of rules with keys of their own.
func inlineKeys(r jwt.Rule) jwt.Source {
	set, err := jwt.ParseKeySet([]byte(r.JWKS))
	if err != nil {
		return nil
	}
	return set
}

// request is a GET with these headers, names and values in turn.
func request(headers ...string) *jwt.Input {
	in := &jwt.Input{Method: "GET", Path: "/", Host: "shop.example", Scheme: "https", Now: testNow}
	for i := 0; i < len(headers); i += 2 {
		in.Headers = append(in.Headers, jwt.Header{Name: headers[i], Value: headers[i+1]})
	}
	return in
}

func bearer(token string) *jwt.Input { return request("authorization", "Bearer "+token) }

func withPath(in *jwt.Input, path string) *jwt.Input {
	in.Path = path
	return in
}

func at(in *jwt.Input, seconds int64) *jwt.Input {
	in.Now = time.Unix(seconds, 0)
	return in
}

func validate(v *jwt.Validator, in *jwt.Input) *jwt.Result {
	out := new(jwt.Result)
	v.Validate(context.Background(), in, out)
	return out
}

func jsonOf(v any) string { return string(must(json.Marshal(v))) }

// resign is a good token of the key's, but for how it is signed.
func resign(alg string, key testKey, sign func(signed []byte) []byte) string {
	signed := b64(fmt.Appendf(nil, `{"alg":%q,"kid":%q}`, alg, key.kid)) + "." + b64([]byte(claimSet()))
	return signed + "." + b64(sign([]byte(signed)))
}

// spareBits sets a bit of the last character that encodes nothing; a signature of 64 bytes leaves four.
func spareBits(token string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := strings.IndexByte(alphabet, token[len(token)-1])
	return token[:len(token)-1] + string(alphabet[last|1])
}

// fakeSource has the keys it is given, and next after a refetch.
type fakeSource struct {
	keys, next *jwt.KeySet
	refetches  int
}

func (s *fakeSource) Keys() *jwt.KeySet { return s.keys }
func (s *fakeSource) Refetch(context.Context) *jwt.KeySet {
	s.refetches++
	if s.next != nil {
		s.keys = s.next
	}
	return s.keys
}

// viewOf is a string whose bytes change with b's.
func viewOf(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
