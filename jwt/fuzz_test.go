package jwt_test

import (
	"encoding/base64"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/writ-auth/writ/jwt"
)

// FuzzVerify holds the verifier against an obvious one: a token with any header and payload, signed well by one of five
// keys and then perhaps tampered with, must be accepted exactly if the obvious one accepts it.
func FuzzVerify(f *testing.F) {
	headers := []string{
		`{"alg":"ES256","kid":"es256"}`, `{"alg":"RS256","kid":"rsa"}`, `{"alg":"PS256"}`, `{"alg":"EdDSA","kid":""}`, `{"alg":"none"}`,
		`{"alg":"ES512","kid":"es512","crit":["x"]}`, `{"kid":7,"alg":"ES384"}`, `{"alg":"HS256"}`, `{"typ":"JWT","alg":"ES384","jwk":{}}`,
	}
	payloads := []string{
		claimSet(), claimSet(`"aud":["https://api/"]`), claimSet(`"aud":"api","nbf":1800000060.5`), `{"iss":"` + issuerA + `","aud":"api","exp":0}`,
		`{"iss":null}`, claimSet(`"aud":"api","jti":"x","iat":1e3`), ofB, `{}`, `null`, `{"iss":"a","iss":"b"}`, claimSet(`"aud":"http://api"`, `"x":[[{}]]`),
	}
	for i, header := range headers {
		for j, payload := range payloads {
			f.Add(header, payload, uint8(i+j), uint8(0), uint16(0))
		}
		f.Add(header, payloads[5], uint8(i), uint8(1), uint16(10*i))
	}
	names := []string{"ES256", "RS256", "PS256", "EdDSA", "ES384", "ES512"}
	var keys []testKey
	for _, name := range names {
		if name != "PS256" {
			keys = append(keys, keyFor(name))
		}
	}
	rule := jwt.Rule{Issuer: issuerA, Audiences: []string{"api"}, JWKS: keySetJSON(keys...)}
	v := cachingValidator(jwt.NewCache(64, 0), rule)
	f.Fuzz(func(t *testing.T, header, payload string, signer, tamper uint8, position uint16) {
		alg := names[int(signer)%len(names)]
		token := []byte(keyFor(alg).signRaw(alg, header, payload))
		if tamper != 0 {
			token[int(position)%len(token)] ^= tamper
		}
		want := obviousSubject(string(token), keys)
		for range 2 { // the second may come from the cache
			out := validate(v, request("authorization", "Bearer "+string(token)))
			if out.Token == nil && want == nil {
				continue
			}
			if want == nil || out.Token == nil || out.Token.Subject() != *want {
				t.Fatalf("%q: %v (%s), want %v", token, out.Token, out.Reason, want)
			}
		}
	})
}

// obviousSubject is the subject of a token that the rule of FuzzVerify accepts, nil if it does not. It follows
// request-authentication §3 with encoding/json and the standard library's signatures.
func obviousSubject(token string, keys []testKey) *string {
	segments := strings.Split(token, ".")
	if len(token) > 16<<10 || len(segments) != 3 || len(segments[0]) > 4<<10 {
		return nil
	}
	var decoded [3][]byte
	for i, segment := range segments {
		b, err := base64.RawURLEncoding.Strict().DecodeString(segment)
		if err != nil || segment == "" || strings.ContainsAny(segment, "\r\n") {
			return nil
		}
		decoded[i] = b
	}
	header, claims := obviousObject(string(decoded[0])), obviousObject(string(decoded[1]))
	if header == nil || claims == nil {
		return nil
	}
	if !obviousClaims(claims) {
		return nil
	}
	_, critical := header["crit"]
	b64, isThere := header["b64"]
	kid, isText := header["kid"].(string)
	if _, hasKID := header["kid"]; critical || isThere && b64 != true || hasKID && !isText || len(kid) > 512 {
		return nil
	}
	alg, _ := header["alg"].(string)
	if !slices.Contains([]string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}, alg) {
		return nil
	}
	for _, key := range keys {
		if (kid == "" || kid == key.kid) && key.verify(alg, []byte(segments[0]+"."+segments[1]), decoded[2]) {
			subject, _ := claims["sub"].(string)
			return &subject
		}
	}
	return nil
}

func obviousClaims(claims map[string]any) bool {
	now := float64(testNow.Unix())
	for _, name := range []string{"iss", "sub", "jti"} {
		if v, ok := claims[name]; ok {
			if _, isText := v.(string); !isText {
				return false
			}
		}
	}
	for _, name := range []string{"iat", "nbf", "exp"} {
		if v, ok := claims[name]; ok {
			if n, isNumber := v.(float64); !isNumber || n < 0 || n >= 1<<64 {
				return false
			}
		}
	}
	if nbf, ok := claims["nbf"].(float64); ok && now+60 < math.Trunc(nbf) {
		return false
	}
	if exp, ok := claims["exp"].(float64); ok && now-60 > math.Trunc(exp) {
		return false
	}
	audiences, isList := claims["aud"].([]any)
	if !isList {
		audiences = []any{claims["aud"]}
	}
	allowed := false
	for _, audience := range audiences {
		text, isText := audience.(string)
		if !isText {
			return false
		}
		allowed = allowed || slices.Contains([]string{"api", "http://api", "https://api", "api/", "http://api/", "https://api/"}, text)
	}
	return allowed && claims["iss"] == issuerA
}

// FuzzKeySet has no document do worse than an error, and no key of one that was read be weak.
func FuzzKeySet(f *testing.F) {
	for _, alg := range []string{"RS256", "ES256", "ES512", "EdDSA"} {
		f.Add([]byte(keySetJSON(keyFor(alg), keyFor(alg).withAlg(alg).with("use", "sig"))))
	}
	f.Add([]byte(`{"keys":[{"kty":"oct","k":"AA"},{"kty":"RSA","n":"AA","e":"AQAB"},{"kty":"OKP","crv":"Ed25519","x":"AA"}]}`))
	f.Fuzz(func(t *testing.T, document []byte) {
		set, err := jwt.ParseKeySet(document)
		if err != nil {
			if set != nil {
				t.Error("a set with an error")
			}
			return
		}
		if set.Len() == 0 || obviousObject(string(document)) == nil {
			t.Errorf("%d keys of %q", set.Len(), document)
		}
		for i := range set.Len() {
			switch kind := set.Key(i).Kind(); {
			case slices.Contains([]string{"EC P-256", "EC P-384", "EC P-521", "Ed25519"}, kind):
			case !strings.HasPrefix(kind, "RSA ") || len(kind) != 8 || kind < "RSA 2048" || kind > "RSA 8192":
				t.Errorf("a key of kind %s", kind)
			}
		}
	})
}
