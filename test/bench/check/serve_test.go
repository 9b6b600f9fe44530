package check_test

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"

	"github.com/writ-auth/writ/authz/extauthz"
)

// scenario is one way of using `writ serve`.
type scenario struct {
	name   string
	rules  int
	token  bool
	cached bool
}

// BenchmarkServe pairs the built binary with the stock server: everything that writ serve does for a check is in it,
// metrics and decision log included. It reports the ratio of their CPU time for one check.
func BenchmarkServe(b *testing.B) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		b.Fatal(err)
	}
	for _, s := range []scenario{
		{name: "rules=10", rules: 10},
		{name: "rules=10000", rules: 10000},
		{name: "rules=10000/cached-token", rules: 10000, token: true, cached: true},
		{name: "rules=10000/RS256-each-time", rules: 10000, token: true},
	} {
		for _, concurrency := range []int{1, 8, 32} {
			b.Run(fmt.Sprintf("%s/streams=%d", s.name, concurrency), func(b *testing.B) {
				question := s.question(b, key)
				ours, theirs := s.start(b, key), startPeer(b, "stock")
				pair(b, ours, theirs, question, concurrency)
			})
		}
	}
}

// pair measures two servers in turns.
func pair(b *testing.B, ours, theirs *peer, question []byte, concurrency int) {
	b.Helper()
	const size, rounds = 4_000, 11
	ours.round(b, question, size, concurrency)
	theirs.round(b, question, size, concurrency)
	var writ, plain []time.Duration
	var ratios []float64
	for b.Loop() {
		for range rounds {
			w, s := ours.round(b, question, size, concurrency), theirs.round(b, question, size, concurrency)
			writ, plain = append(writ, w), append(plain, s)
			ratios = append(ratios, float64(w)/float64(s))
		}
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(writ).Seconds()*1e6, "writ-cpu-µs/check")
	b.ReportMetric(median(plain).Seconds()*1e6, "stock-cpu-µs/check")
	b.ReportMetric(median(ratios), "ratio")
}

// start runs the built binary on documents of the scenario.
func (s scenario) start(b *testing.B, key *rsa.PrivateKey) *peer {
	b.Helper()
	dir := b.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "policies.yaml"), []byte(s.documents(b, key)), 0o600); err != nil {
		b.Fatal(err)
	}
	entries := 0
	if s.cached {
		entries = 1024
	}
	config := fmt.Sprintf("documents: policies.yaml\nauthz:\n  listen: 127.0.0.1:0\n  token_cache: {entries: %d}\n", entries)
	file := filepath.Join(dir, "writ.yaml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		b.Fatal(err)
	}
	return startServe(b, file)
}

// documents are policies of 500 rules each, of which the last allows what is asked.
func (s scenario) documents(b *testing.B, key *rsa.PrivateKey) string {
	b.Helper()
	var doc strings.Builder
	for from := 0; from < s.rules; from += 500 {
		fmt.Fprintf(&doc, "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p-%05d, namespace: shop}\n"+
			"spec:\n  selector: {matchLabels: {app: order}}\n  rules:\n", from)
		for i := from; i < min(from+500, s.rules); i++ {
			account := fmt.Sprintf("caller-%d", i)
			if i == s.rules-1 {
				account = "gateway"
			}
			fmt.Fprintf(&doc, "  - from: [{source: {principals: [cluster.local/ns/shop/sa/%s]}}]\n"+
				"    to: [{operation: {methods: [GET], paths: [/api/v1/*]}}]\n", account)
			if s.token {
				doc.WriteString("    when: [{key: request.auth.principal, values: ['https://idp.example/alice']}]\n")
			}
		}
		doc.WriteString("---\n")
	}
	if s.token {
		n := base64.RawURLEncoding.EncodeToString(key.N.Bytes())
		e := base64.RawURLEncoding.EncodeToString(big.NewInt(int64(key.E)).Bytes())
		fmt.Fprintf(&doc, "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: idp, namespace: shop}\nspec:\n"+
			"  jwtRules: [{issuer: 'https://idp.example', jwks: '{\"keys\":[{\"kty\":\"RSA\",\"kid\":\"k\",\"alg\":\"RS256\",\"n\":%q,\"e\":%q}]}'}]\n", n, e)
	}
	return doc.String()
}

// question is the request of all benchmarks, with a token if the scenario has one.
func (s scenario) question(b *testing.B, key *rsa.PrivateKey) []byte {
	b.Helper()
	if !s.token {
		raw, err := extauthz.ParseJSON([]byte(question))
		if err != nil {
			b.Fatal(err)
		}
		return raw
	}
	var request authv3.CheckRequest
	if err := protojson.Unmarshal([]byte(question), &request); err != nil {
		b.Fatal(err)
	}
	request.Attributes.Request.Http.Headers["authorization"] = "Bearer " + signed(b, key)
	line, err := protojson.Marshal(&request)
	if err != nil {
		b.Fatal(err)
	}
	raw, err := extauthz.ParseJSON(line)
	if err != nil {
		b.Fatal(err)
	}
	return raw
}

// signed is an RS256 token of about 900 bytes, as identity providers make them.
func signed(b *testing.B, key *rsa.PrivateKey) string {
	b.Helper()
	claims, err := json.Marshal(map[string]any{
		"iss": "https://idp.example", "sub": "alice", "aud": []string{"shop"}, "exp": time.Now().Add(time.Hour).Unix(),
		"iat": time.Now().Unix(), "scope": "openid profile email orders:read orders:write", "email": "alice@shop.example",
		"groups": []string{"customers", "gold", "newsletter"}, "jti": "f8829f87-699e-4949-b1db-d78ccc345b44", "name": "Alice Example",
	})
	if err != nil {
		b.Fatal(err)
	}
	text := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"RS256","kid":"k","typ":"JWT"}`)) + "." + base64.RawURLEncoding.EncodeToString(claims)
	digest := sha256.Sum256([]byte(text))
	signature, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, digest[:])
	if err != nil {
		b.Fatal(err)
	}
	return text + "." + base64.RawURLEncoding.EncodeToString(signature)
}
