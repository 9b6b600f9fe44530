package replay_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/authz/extauthz"
	"github.com/writ-auth/writ/internal/replay"
	"github.com/writ-auth/writ/jwt"
	"github.com/writ-auth/writ/policy"
)

// issuer signs tokens (ES256) that its RequestAuthentication takes.
type issuer struct{ key *ecdsa.PrivateKey }

func newIssuer(tb testing.TB) issuer {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return issuer{key}
}

func encoded(data []byte) string { return base64.RawURLEncoding.EncodeToString(data) }

// document is the RequestAuthentication, with the key in it.
func (i issuer) document(tb testing.TB) string {
	tb.Helper()
	point, err := i.key.PublicKey.Bytes() // 4, x, y
	if err != nil {
		tb.Fatal(err)
	}
	jwks := fmt.Sprintf(`{"keys":[{"kty":"EC","crv":"P-256","kid":"k","x":%q,"y":%q}]}`, encoded(point[1:33]), encoded(point[33:]))
	return fmt.Sprintf(`
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: users, namespace: shop}
spec: {jwtRules: [{issuer: https://idp.example, jwks: %q}]}
`, jwks)
}

func (i issuer) token(tb testing.TB, subject string) string {
	tb.Helper()
	payload := fmt.Sprintf(`{"iss":"https://idp.example","sub":%q,"aud":["shop"],"exp":4102444800,"groups":["staff","web"],"scope":"orders.read orders.write"}`, subject)
	signed := encoded([]byte(`{"alg":"ES256","kid":"k","typ":"JWT"}`)) + "." + encoded([]byte(payload))
	digest := sha256.Sum256([]byte(signed))
	r, s, err := ecdsa.Sign(rand.Reader, i.key, digest[:])
	if err != nil {
		tb.Fatal(err)
	}
	signature := make([]byte, 64)
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	return signed + "." + encoded(signature)
}

// browserRequest is a CheckRequest with the 20 headers of a browser behind a gateway, and more with a token.
func browserRequest(tb testing.TB, i int, method, token string) []byte {
	tb.Helper()
	path := fmt.Sprintf("/api/%d/items/17?x=1&utm_source=newsletter", i%200)
	headers := map[string]string{
		":authority": "shop.example.com", ":method": method, ":path": path, ":scheme": "https", "accept": "application/json, text/plain, */*",
		"accept-encoding": "gzip, deflate, br, zstd", "accept-language": "de-DE,de;q=0.9,en;q=0.8", "cache-control": "no-cache",
		"cookie":  "session=5f2b9b6ad8f04f0f8a0b; theme=dark; _ga=GA1.2.1234567890.1700000000",
		"referer": "https://shop.example.com/orders", "sec-ch-ua": `"Chromium";v="140", "Not=A?Brand";v="24"`, "sec-ch-ua-mobile": "?0",
		"sec-fetch-dest": "empty", "sec-fetch-mode": "cors", "user-agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36",
		"x-b3-spanid": "a2fb4a1d1a96d312", "x-b3-traceid": "463ac35c9f6413ad48485a3953bb6124", "x-forwarded-for": "203.0.113.7",
		"x-forwarded-proto": "https", "x-request-id": fmt.Sprintf("f8829f87-699e-4949-b1db-%012d", i),
	}
	if token != "" {
		headers["authorization"] = "Bearer " + token
	}
	address := func(ip string, port int) map[string]any {
		return map[string]any{"socketAddress": map[string]any{"address": ip, "portValue": port}}
	}
	line, err := json.Marshal(map[string]any{"attributes": map[string]any{
		"source":      map[string]any{"address": address("10.244.1.17", 40000+i), "principal": fmt.Sprintf("spiffe://cluster.local/ns/shop/sa/caller%d", i%200)},
		"destination": map[string]any{"address": address("10.244.2.5", 8080), "principal": "spiffe://cluster.local/ns/shop/sa/app"},
		"request": map[string]any{"time": "2026-11-21T06:29:31.757784Z", "http": map[string]any{
			"id": "8933613052328488800", "method": method, "headers": headers, "path": path, "host": "shop.example.com", "scheme": "https", "protocol": "HTTP/2", "size": "-1",
		}},
		"contextExtensions": map[string]string{"writ.namespace": "shop", "writ.labels": fmt.Sprintf("app=app%d,version=v1", i%20), "writ.service_account": "app"},
		"metadataContext":   map[string]any{}, "tlsSession": map[string]any{"sni": "shop.example.com"},
	}})
	if err != nil {
		tb.Fatal(err)
	}
	return append(line, '\n')
}

// manyPolicies are 200, ten for each of twenty workloads.
func manyPolicies(method string) string {
	var all strings.Builder
	for i := range 200 {
		fmt.Fprintf(&all, `---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p%d, namespace: shop}
spec:
  selector: {matchLabels: {app: app%d}}
  rules:
  - from: [{source: {principals: [cluster.local/ns/shop/sa/caller%d]}}]
    to: [{operation: {methods: [%s], paths: [/api/%d/*]}}]
`, i, i%20, i, method, i)
	}
	return all.String()
}

// BenchmarkReplayRequests reports how many CheckRequests are replayed in a second of one core: the sets of BenchmarkReplay,
// which differ for every workload, or the same set twice. One token in ten is another one.
func BenchmarkReplayRequests(b *testing.B) {
	idp := newIssuer(b)
	authentication := idp.document(b)
	var plain, withToken bytes.Buffer
	for i := range 5000 {
		method := []string{"GET", "GET", "GET", "POST"}[i%4]
		plain.Write(browserRequest(b, i, method, ""))
		withToken.Write(browserRequest(b, i, method, idp.token(b, fmt.Sprint("user", i/10))))
	}
	cache := jwt.NewCache(0, 0)
	decider := func(text string) (replay.Decider, *replay.Set) {
		docs := policy.Decode("bench.yaml", []byte(authentication+text))
		snap := policy.NewSnapshot(docs, policy.Mesh{})
		if snap.Broken() > 0 {
			b.Fatal(snap.Problems())
		}
		server, err := extauthz.New(extauthz.Config{Snapshot: func() *policy.Snapshot { return snap }, Engine: &authz.Engine{Tokens: authz.Tokens{Cache: cache}}})
		if err != nil {
			b.Fatal(err)
		}
		return replay.Decider{Server: server, Snapshot: snap}, replay.NewSet(docs, snap, nil, false)
	}
	for _, bench := range []struct {
		name, other string
		log         []byte
	}{{"changed", "GET", plain.Bytes()}, {"same", "GET, POST", plain.Bytes()}, {"changed-token", "GET", withToken.Bytes()}, {"same-token", "GET, POST", withToken.Bytes()}} {
		b.Run(bench.name, func(b *testing.B) {
			before, old := decider(manyPolicies("GET, POST"))
			after, other := decider(manyPolicies(bench.other))
			r := replay.New(replay.Config{Old: old, New: other, Whole: replay.NewWhole(before, after, nil)})
			b.ReportAllocs()
			used := cpuTime(b)
			for b.Loop() {
				if err := r.Read(b.Context(), "log", bytes.NewReader(bench.log)); err != nil {
					b.Fatal(err)
				}
			}
			report := r.Report(1)
			denied := report.Count(replay.NewlyDenied)
			if report.Unreadable > 0 || bench.other == "GET" && denied*4 != report.Requests || bench.other != "GET" && report.Count(replay.Same) != report.Requests {
				b.Fatalf("%+v", report)
			}
			b.ReportMetric(float64(report.Requests)/(cpuTime(b)-used).Seconds(), "requests/cpu-s")
			b.ReportMetric(float64(len(bench.log))/5000, "B/request")
		})
	}
}
