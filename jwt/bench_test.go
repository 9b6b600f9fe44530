package jwt_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/writ-auth/writ/jwt"
)

// benchClaims is a payload of 487 bytes, as identity providers send them.
const benchClaims = `{"iss":"https://idp.example/realms/shop","sub":"248289761001","aud":["api","web"],"azp":"shop-frontend",` +
	`"exp":4102444800,"nbf":1700000000,"iat":1700000000,"jti":"0b1e6f0e-6c7a-4c0f-9a3c-2f4dd0a7e9d1",` +
	`"scope":"openid profile email orders:read orders:write","email":"jane.doe@example.com","email_verified":true,` +
	`"name":"Jane Doe","groups":["dev","ops","admins"],"realm_access":{"roles":["user","offline_access"]},` +
	`"session_state":"5c1d7b2e-2f3a-4c55-8a6e-1d1a2b3c4d5e","acr":"1"}`

func benchInput(token string) *jwt.Input {
	return &jwt.Input{
		Headers: []jwt.Header{
			{":authority", "shop.example"}, {":method", "GET"}, {":path", "/orders/17"}, {":scheme", "https"},
			{"accept", "*/*"}, {"user-agent", "Mozilla/5.0"}, {"x-forwarded-for", "203.0.113.9"},
			{"x-forwarded-proto", "https"}, {"x-request-id", "9f0c4b1e-7a53-4a5e-9d7c-0f4f6c7f5d0b"},
			{"authorization", "Bearer " + token},
		},
		Method: "GET", Path: "/orders/17", Host: "shop.example", Scheme: "https", Now: time.Now(),
	}
}

func benchValidator(key testKey, cache *jwt.Cache) *jwt.Validator {
	rule := jwt.Rule{ID: "shop/idp jwtRules[0]", Issuer: "https://idp.example/realms/shop", Audiences: []string{"api"}}
	set := mustKeySet(key)
	return jwt.NewValidator([]jwt.Rule{rule}, func(jwt.Rule) jwt.Source { return set }, jwt.Options{Cache: cache})
}

// BenchmarkVerify measures a token that is verified on every request against the bare signature check of the same bytes,
// taken in turns in the same run. The metric "x-raw" is the ratio of the fastest of each, which what else a machine does
// disturbs least.
func BenchmarkVerify(b *testing.B) {
	for _, alg := range []string{"RS256", "PS256", "ES256", "EdDSA", "ES384"} {
		b.Run(alg, func(b *testing.B) {
			key := keyFor(alg)
			token := key.sign(alg, benchClaims)
			raw := rawVerify(b, alg, key, token)
			validator, in := benchValidator(key, nil), benchInput(token)
			var out jwt.Result
			ours, bare := time.Hour, time.Hour
			b.ReportAllocs()
			for b.Loop() {
				start := time.Now()
				validator.Validate(context.Background(), in, &out)
				middle := time.Now()
				raw()
				ours, bare = min(ours, middle.Sub(start)), min(bare, time.Since(middle))
				if out.Token == nil {
					b.Fatal(out.Reason)
				}
			}
			b.ReportMetric(float64(ours)/float64(bare), "x-raw")
			b.ReportMetric(float64(ours-bare), "ns-over-raw")
		})
	}
}

// rawVerify is the least that can be done for a token: hash and verify bytes that are already decoded.
func rawVerify(b *testing.B, alg string, key testKey, token string) func() {
	end := strings.LastIndexByte(token, '.')
	signed, signature := []byte(token[:end]), unbase64(token[end+1:])
	check := func(ok bool) {
		if !ok {
			b.Fatal("the bare check refuses the token")
		}
	}
	switch alg {
	case "RS256":
		public := &key.rsa.PublicKey
		return func() {
			digest := sha256.Sum256(signed)
			check(rsa.VerifyPKCS1v15(public, crypto.SHA256, digest[:], signature) == nil)
		}
	case "ES256":
		public := &key.ec.PublicKey
		return func() {
			digest := sha256.Sum256(signed)
			check(ecdsa.Verify(public, digest[:], new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:])))
		}
	}
	return func() { check(key.verify(alg, signed, signature)) }
}

// BenchmarkValidate measures what every request pays.
func BenchmarkValidate(b *testing.B) {
	key := keyFor("RS256")
	token := key.sign("RS256", benchClaims)
	anonymous := benchInput("")
	anonymous.Headers = anonymous.Headers[:len(anonymous.Headers)-1]
	cookie := benchInput(token)
	cookie.Path += "?q=1&page=2&" + "session=" + strings.Repeat("x", 40)
	for _, row := range []struct {
		name string
		in   *jwt.Input
	}{{"anonymous", anonymous}, {"cached", benchInput(token)}, {"cached, with a query", cookie}} {
		b.Run(row.name, func(b *testing.B) {
			validator := benchValidator(key, jwt.NewCache(0, 0))
			var out jwt.Result
			const block = 100
			fastest := time.Hour
			b.ReportAllocs()
			for b.Loop() {
				start := time.Now()
				for range block {
					validator.Validate(context.Background(), row.in, &out)
				}
				fastest = min(fastest, time.Since(start))
				if out.Status != 0 {
					b.Fatal(out.Reason)
				}
			}
			b.ReportMetric(float64(fastest)/block, "ns/request")
		})
	}
	for _, n := range []int{10, 100} {
		b.Run(fmt.Sprintf("cached, %d issuers", n), func(b *testing.B) {
			var rules []jwt.Rule
			for i := range n - 1 {
				rules = append(rules, jwt.Rule{ID: fmt.Sprint(i), Issuer: fmt.Sprintf("https://a%d.example", i)})
			}
			rules = append(rules, jwt.Rule{Issuer: "https://idp.example/realms/shop"})
			set := mustKeySet(key)
			validator := jwt.NewValidator(rules, func(jwt.Rule) jwt.Source { return set }, jwt.Options{Cache: jwt.NewCache(0, 0)})
			in := benchInput(token)
			var out jwt.Result
			b.ReportAllocs()
			for b.Loop() {
				validator.Validate(context.Background(), in, &out)
				if out.Token == nil {
					b.Fatal(out.Reason)
				}
			}
		})
	}
}
