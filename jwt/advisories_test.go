package jwt_test

import (
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/writ-auth/writ/jwt"
)

// mustRefuse asks with a token that an attacker made, by a rule with both an RSA and an EC key, with and without a cache
// that knows a good token of the same payload.
func mustRefuse(t *testing.T, token string, reason jwt.Reason) {
	t.Helper()
	rule := jwt.Rule{Issuer: issuerA, JWKS: keySetJSON(keyFor("RS256"), keyFor("ES256"), keyFor("EdDSA"))}
	for _, cache := range []*jwt.Cache{nil, jwt.NewCache(0, 0)} {
		v := cachingValidator(cache, rule)
		if out := validate(v, bearer(goodToken())); out.Token == nil {
			t.Fatalf("good token: %s", out.Reason)
		}
		out := validate(v, bearer(token))
		if out.Token != nil || out.Status != 401 || out.Reason != reason {
			t.Errorf("%.60s…: %d %s with %v, want %s", token, out.Status, out.Reason, out.Token, reason)
		}
	}
}

// withSignature is a token with this header, alice's claims, and any signature.
func withSignature(header string, signature []byte) string {
	return b64([]byte(header)) + "." + b64([]byte(claimSet())) + "." + b64(signature)
}

func TestAdvisoryAlgNone(t *testing.T) { // CVE-2015-9235 and its kin
	for _, alg := range []string{"none", "None", "NONE", "nOnE", " none", "none\u0000", ""} {
		header := fmt.Sprintf(`{"alg":%s}`, jsonOf(alg))
		mustRefuse(t, withSignature(header, nil), jwt.Malformed)
		mustRefuse(t, withSignature(header, []byte("x")), jwt.AlgorithmUnsupported)
	}
	mustRefuse(t, strings.TrimSuffix(withSignature(`{"alg":"none"}`, nil), "."), jwt.Malformed)
}

func TestAdvisoryEmptySignature(t *testing.T) { // CVE-2020-28042
	good := goodToken()
	mustRefuse(t, good[:strings.LastIndexByte(good, '.')+1], jwt.Malformed)
	mustRefuse(t, good[:strings.LastIndexByte(good, '.')], jwt.Malformed)
	mustRefuse(t, withSignature(`{"alg":"RS256","kid":"rsa"}`, []byte{0}), jwt.SignatureInvalid)
	mustRefuse(t, withSignature(`{"alg":"RS256","kid":"rsa"}`, make([]byte, 256)), jwt.SignatureInvalid)
}

func TestAdvisoryAlgorithmConfusion(t *testing.T) { // CVE-2016-10555, CVE-2016-5431
	public := &keyFor("RS256").rsa.PublicKey
	pkix := must(x509.MarshalPKIXPublicKey(public))
	secrets := [][]byte{
		pkix, x509.MarshalPKCS1PublicKey(public), public.N.Bytes(), []byte(b64(public.N.Bytes())), []byte(jsonOf(keyFor("RS256").jwk())),
		pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: pkix}), {},
		pem.EncodeToMemory(&pem.Block{Type: "RSA PUBLIC KEY", Bytes: x509.MarshalPKCS1PublicKey(public)}),
	}
	for _, secret := range secrets {
		for _, alg := range []string{"HS256", "RS256", "PS256"} {
			header := fmt.Sprintf(`{"alg":%q,"kid":"rsa"}`, alg)
			mac := hmac.New(sha256.New, secret)
			mac.Write([]byte(b64([]byte(header)) + "." + b64([]byte(claimSet()))))
			want := jwt.SignatureInvalid
			if alg == "HS256" {
				want = jwt.AlgorithmUnsupported
			}
			mustRefuse(t, withSignature(header, mac.Sum(nil)), want)
		}
	}
}

func TestAdvisoryUnlistedAlgorithms(t *testing.T) {
	for _, alg := range []string{"HS256", "HS384", "HS512", "ES256K", "Ed25519", "Ed448", "ML-DSA-44", "rs256", "RS1", "RS256 ", "RSA-OAEP", "dir", "A256KW"} {
		mustRefuse(t, keyFor("ES256").signRaw("ES256", fmt.Sprintf(`{"alg":%q,"kid":"es256"}`, alg), claimSet()), jwt.AlgorithmUnsupported)
	}
}

func TestAdvisoryOfferedKey(t *testing.T) { // CVE-2018-0114; jku and x5u would also be a request forged by the server
	attacker := newTestKey("ES256")
	for _, member := range []string{
		`"jwk":` + jsonOf(attacker.jwk()), `"jku":"http://127.0.0.1:1/keys"`, `"x5u":"http://169.254.169.254/"`, `"x5c":["MIIB"]`, `"x5t":"AA"`, `"x5t#S256":"AA"`,
	} {
		mustRefuse(t, attacker.signRaw("ES256", `{"alg":"ES256",`+member+`}`, claimSet()), jwt.SignatureInvalid)
		mustRefuse(t, attacker.signRaw("ES256", `{"alg":"ES256","kid":"es256",`+member+`}`, claimSet()), jwt.SignatureInvalid)
		rightly := keyFor("ES256").signRaw("ES256", `{"alg":"ES256","kid":"es256",`+member+`}`, claimSet())
		if out := validate(newValidator(jwt.Rule{Issuer: issuerA}), bearer(rightly)); out.Token == nil || !out.EmbeddedKey {
			t.Errorf("%s: %s, embedded %v", member, out.Reason, out.EmbeddedKey)
		}
	}
}

func TestAdvisoryKeyIDInjection(t *testing.T) {
	for _, kid := range []string{"../../../dev/null", "/dev/null", "x' UNION SELECT 'k", "es256\u0000", "es256 ", "|id", "*"} {
		header := fmt.Sprintf(`{"alg":"ES256","kid":%s}`, jsonOf(kid))
		mustRefuse(t, keyFor("ES256").signRaw("ES256", header, claimSet()), jwt.KeyUnknown)
		out := validate(newValidator(jwt.Rule{Issuer: issuerA}), bearer(keyFor("ES256").signRaw("ES256", header, claimSet())))
		if strings.ContainsAny(out.KeyID, " \x00\n") {
			t.Errorf("kid for the log: %q", out.KeyID)
		}
	}
}

func TestAdvisoryPsychicSignatures(t *testing.T) { // CVE-2022-21449
	order := elliptic.P256().Params().N
	for _, numbers := range [][2]*big.Int{
		{big.NewInt(0), big.NewInt(0)}, {big.NewInt(0), big.NewInt(1)}, {big.NewInt(1), big.NewInt(0)}, {order, order}, {order, big.NewInt(1)},
		{new(big.Int).Add(order, big.NewInt(1)), big.NewInt(1)}, {big.NewInt(1), big.NewInt(1)},
	} {
		signature := append(numbers[0].FillBytes(make([]byte, 32)), numbers[1].FillBytes(make([]byte, 32))...)
		mustRefuse(t, withSignature(`{"alg":"ES256","kid":"es256"}`, signature), jwt.SignatureInvalid)
	}
	mustRefuse(t, withSignature(`{"alg":"EdDSA","kid":"ed"}`, make([]byte, 64)), jwt.SignatureInvalid)
	mustRefuse(t, withSignature(`{"alg":"EdDSA","kid":"ed"}`, make([]byte, 63)), jwt.SignatureLength)
}

func TestAdvisoryDERSignature(t *testing.T) {
	good := goodToken()
	raw := unbase64(good[strings.LastIndexByte(good, '.')+1:])
	der := append([]byte{0x30, 0x44, 0x02, 0x20}, raw[:32]...)
	der = append(append(der, 0x02, 0x20), raw[32:]...)
	mustRefuse(t, good[:strings.LastIndexByte(good, '.')+1]+b64(der), jwt.SignatureInvalid)
	mustRefuse(t, good[:strings.LastIndexByte(good, '.')+1]+b64(append([]byte{0}, raw...)), jwt.SignatureInvalid)
}

func TestAdvisoryUnknownIssuerIsNotMissing(t *testing.T) { // CVE-2021-21378
	mustRefuse(t, payloadToken(ofB), jwt.IssuerUnknown)
	mustRefuse(t, payloadToken(`{"sub":"alice"}`), jwt.IssuerUnknown)
	two := newValidator(jwt.Rule{Issuer: issuerA}, jwt.Rule{Issuer: issuerB, FromHeaders: []jwt.HeaderLocation{{Name: "x-b"}}})
	if out := validate(two, bearer(payloadToken(`{"iss":"evil"}`))); out.Status != 401 {
		t.Errorf("with two rules: %d", out.Status)
	}
}

func TestAdvisorySaltLength(t *testing.T) { // RFC 7518 §3.5
	rs := keyFor("RS256")
	for alg, hash := range map[string]int{"PS256": 32, "PS384": 48, "PS512": 64} {
		for _, salt := range []int{0, hash - 1, hash + 1, rsa.PSSSaltLengthAuto} {
			if salt == 0 {
				salt = 1
			}
			mustRefuse(t, resign(alg, rs, func(signed []byte) []byte { return rs.pss(hashOf(alg), signed, salt) }), jwt.SignatureInvalid)
		}
	}
}

func TestAdvisoryExpiredAndForged(t *testing.T) { // CVE-2024-51744: either failure is enough
	expired := payloadToken(`{"iss":"` + issuerA + `","exp":1}`)
	mustRefuse(t, expired, jwt.Expired)
	mustRefuse(t, forged(expired), jwt.Expired)
	mustRefuse(t, forged(goodToken()), jwt.SignatureInvalid)
}

func TestAdvisoryAudienceOfAnotherType(t *testing.T) { // CVE-2020-26160
	v := newValidator(jwt.Rule{Issuer: issuerA, Audiences: []string{"api"}})
	for claim, status := range map[string]int{`[]`: 403, `""`: 403, `{}`: 401, `0`: 401, `[["api"]]`: 401, `["api",null]`: 401, `null`: 401} {
		if out := validate(v, bearer(goodToken(`"aud":`+claim))); out.Status != status {
			t.Errorf("aud %s: %d %s", claim, out.Status, out.Reason)
		}
	}
}

func TestAdvisoryTwoReadersOfOneToken(t *testing.T) { // CVE-2022-39227: what is checked and what is used must be the same
	mustRefuse(t, payloadToken(`{"iss":"`+issuerA+`","sub":"alice","sub":"root"}`), jwt.PayloadJSON)
	mustRefuse(t, payloadToken(`{"iss":"`+issuerA+`","\u0073ub":"alice","sub":"root"}`), jwt.PayloadJSON)
	mustRefuse(t, payloadToken(`{"iss":"`+issuerA+`","a":{"b":[{"c":1,"c":2}]}}`), jwt.PayloadJSON)
	mustRefuse(t, payloadToken(claimSet()+`{"sub":"root"}`), jwt.PayloadJSON)
	mustRefuse(t, keyFor("ES256").signRaw("ES256", `{"alg":"ES256","kid":"es256","\u0061lg":"none"}`, claimSet()), jwt.HeaderJSON)
	good := goodToken()
	parts := strings.Split(good, ".")
	mustRefuse(t, fmt.Sprintf(`{"payload":%q,"protected":%q,"signature":%q}`, parts[1], parts[0], parts[2]), jwt.Malformed)
	mustRefuse(t, `{"x":"`+good+`"}`, jwt.HeaderEncoding)
	mustRefuse(t, good+","+good, jwt.Malformed)
}

func TestAdvisoryCritical(t *testing.T) { // RFC 7515 §4.1.11
	for _, member := range []string{`"crit":["b64"],"b64":false`, `"crit":["exp"],"exp":1`, `"crit":null`, `"crit":[]`, `"b64":false`, `"b64":"true"`} {
		mustRefuse(t, keyFor("ES256").signRaw("ES256", `{"alg":"ES256","kid":"es256",`+member+`}`, claimSet()), jwt.Critical)
	}
}

func TestAdvisoryOneSpelling(t *testing.T) { // a token that is refused must not pass in another spelling of its bytes
	good := goodToken()
	mustRefuse(t, spareBits(good), jwt.NotCanonical)
	mustRefuse(t, good+"==", jwt.NotCanonical)
	mustRefuse(t, good+"\n", jwt.NotCanonical)
}

func TestAdvisoryBombs(t *testing.T) { // CVE-2025-30204, CVE-2024-28180 and their kin: little work before the first refusal
	started := time.Now()
	mustRefuse(t, strings.Repeat(".", 1<<20), jwt.TooLarge)
	mustRefuse(t, strings.Repeat(".", 16<<10), jwt.Malformed)
	mustRefuse(t, payloadToken(`{"a":`+strings.Repeat("[", 8000)+"}"), jwt.PayloadJSON)
	var names strings.Builder
	for i := range 1500 {
		fmt.Fprintf(&names, `"%x":0,`, i)
	}
	mustRefuse(t, forged(payloadToken(`{`+names.String()+`"iss":"`+issuerA+`"}`)), jwt.SignatureInvalid)
	mustRefuse(t, forged(payloadToken(`{`+names.String()+`"iss":"`+issuerA+`","5":1}`)), jwt.PayloadJSON)
	mustRefuse(t, payloadToken(`{"iss":"`+issuerA+`","n":1e999999999}`), jwt.PayloadJSON)
	mustRefuse(t, payloadToken(`{"iss":"`+issuerA+`","exp":`+strings.Repeat("9", 9000)+`}`), jwt.PayloadJSON)
	if took := time.Since(started); took > 5*time.Second {
		t.Errorf("took %v", took)
	}
}
