package e2e_test

import (
	"fmt"
	"maps"
	"net/http"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/writ-auth/writ/internal/testkit"
)

// localKeys lets writ fetch keys from an identity provider on this machine, with a certificate of the test's own CA.
const localKeys = "jwks: {allow_networks: [127.0.0.0/8], ca: {127.0.0.1: ca.pem}}"

// tokenDocuments have one rule with everything by default and keys at an address, and one with places of its own and keys
// by discovery.
func tokenDocuments(a, other *testkit.IdentityProvider) string {
	return fmt.Sprintf(`
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: tokens, namespace: coffee-shop}
spec:
  selector: {matchLabels: {app: order-service}}
  jwtRules:
    - issuer: %[1]s
      jwksUri: %[2]s
      audiences: [orders]
      outputPayloadToHeader: x-payload
      outputClaimToHeaders:
        - {header: x-customer-id, claim: sub}
        - {header: x-tier, claim: loyalty.tier}
    - issuer: %[3]s
      fromHeaders: [{name: X-JWT, prefix: "Token "}]
      fromParams: [tok]
      fromCookies: [sid]
      outputClaimToHeaders: [{header: x-partner, claim: sub}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: callers, namespace: coffee-shop}
spec:
  selector: {matchLabels: {app: order-service}}
  rules:
    - to: [{operation: {paths: ["/open"]}}]
    - to: [{operation: {paths: ["/orders"]}}]
      from: [{source: {principals: ["cluster.local/ns/coffee-shop/sa/customer-service"], requestPrincipals: ["%[1]s/*"]}}]
    - to: [{operation: {paths: ["/partners"]}}]
      from: [{source: {requestPrincipals: ["%[3]s/bob"]}}]
    - to: [{operation: {paths: ["/baristas"]}}]
      when: [{key: "request.auth.claims[groups]", values: [barista]}]
    - to: [{operation: {paths: ["/gold"]}}]
      when: [{key: "request.auth.claims[loyalty][tier]", values: [gold]}]
    - to: [{operation: {paths: ["/read"]}}]
      when: [{key: "request.auth.claims[scope]", values: ["orders:read"]}]
    - to: [{operation: {paths: ["/anonymous"]}}]
      from: [{source: {notRequestPrincipals: ["*"]}}]
`, a.Issuer, a.JWKSURI(), other.Issuer)
}

// TestTokens sends tokens through the reference bootstrap, over mTLS, with each of the two ways in which Envoy can send
// headers, to a writ that fetches the keys.
func TestTokens(t *testing.T) {
	t.Parallel()
	for name, edits := range map[string][]edit{
		"raw headers":    nil,
		"joined headers": {{"encode_raw_headers: true", "encode_raw_headers: false"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			a, other := b.identityProvider(t), b.identityProvider(t)
			b.policy(t, "tokens.yaml", tokenDocuments(a, other))
			authority := b.serve(t, "authz.sock", localKeys)
			if err := authority.WaitReady(bounded(t)); err != nil {
				t.Fatal(err)
			}
			envoy := b.envoy(t, echo(t), database(t), edits...)
			rows := tokenRows(a, other)
			customer, barista := b.caller(t, "customer-service"), b.caller(t, "barista-service")
			for _, row := range rows {
				t.Run(row.name, func(t *testing.T) {
					client := customer
					if row.barista {
						client = barista
					}
					method := "GET"
					if row.method != "" {
						method = row.method
					}
					got := get(t, client, envoy, method, row.target, row.header...)
					row.check(t, envoy, got)
				})
			}
			if a.Fetches() != 1 || other.Fetches() != 1 {
				t.Errorf("keys were fetched %d and %d times for %d requests", a.Fetches(), other.Fetches(), len(rows))
			}
			wantNoTokens(t, authority, b.file("authz.sock.jsonl"))
		})
	}
}

// tokenRow is one request with what must come of it.
type tokenRow struct {
	name    string
	method  string // GET if empty
	target  string
	header  []string
	barista bool // sent by barista-service instead of customer-service

	refused string            // why the token is, as in the access log; empty = it is not
	body    string            // of the refusal
	denied  bool              // by authorization
	rule    string            // of the token, or of the refusal
	arrives map[string]string // headers that reach the service, besides those every request has
	path    string            // that reaches the service; empty = the target
}

func (row tokenRow) check(t *testing.T, envoy *testkit.Envoy, got response) {
	t.Helper()
	line := logOf(t, envoy, got)
	if line.Token != row.refused || line.TokenRule != row.rule {
		t.Errorf("access log says token %q, rule %q; want %q, %q", line.Token, line.TokenRule, row.refused, row.rule)
	}
	challenge := got.header.Get("www-authenticate")
	if row.refused == "" {
		if challenge != "" {
			t.Errorf("challenge %q", challenge)
		}
		checkAnswer(t, got, !row.denied)
		if !row.denied && !t.Failed() {
			row.checkArrival(t, echoed(t, got))
		}
		return
	}
	if line.Layer != "jwt" || line.Reason != "token_refused" || line.Decision != "deny" {
		t.Errorf("access log says %+v, want token_refused", line.why)
	}
	status := http.StatusUnauthorized
	if row.refused == "audience_denied" {
		status = http.StatusForbidden
	}
	if got.status != status || got.body != row.body || got.header.Get("content-type") != "text/plain" {
		t.Errorf("got %d %q (%s), want %d %q", got.status, got.body, got.header.Get("content-type"), status, row.body)
	}
	path, _, _ := strings.Cut(row.target, "?")
	if want := `Bearer realm="https://` + envoy.Listener("http") + path + `", error="invalid_token"`; challenge != want {
		t.Errorf("challenge %s, want %s", challenge, want)
	}
}

func (row tokenRow) checkArrival(t *testing.T, echo testkit.Echo) {
	t.Helper()
	got := map[string]string{}
	for name, values := range echo.Headers {
		got[strings.ToLower(name)] = strings.Join(values, ",")
	}
	want := maps.Clone(row.arrives)
	if want == nil {
		want = map[string]string{}
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the service got headers %v, want %v", got, want)
	}
	path := row.path
	if path == "" {
		path = row.target
	}
	if echo.Path != path {
		t.Errorf("the service got %s, want %s", echo.Path, path)
	}
}

func tokenRows(a, other *testkit.IdentityProvider) []tokenRow {
	claims := object{"sub": "alice", "aud": "orders", "loyalty": object{"tier": "gold"}, "iat": 1, "exp": 4000000000}
	sign := func(more object) string {
		changed := maps.Clone(claims)
		maps.Copy(changed, more)
		return a.Sign(testkit.Token{Claims: changed})
	}
	good, late := sign(nil), sign(object{"exp": 1})
	forged := a.Sign(testkit.Token{Claims: claims, Forged: true})
	rs := a.Sign(testkit.Token{Claims: claims, Algorithm: "RS256"})
	grouped, scoped := sign(object{"groups": list{"guest", "barista"}}), sign(object{"scope": "orders:write orders:read"})
	nobody := sign(object{"sub": testkit.Absent})
	of, forgedOf := other.Sign(testkit.Token{Claims: object{"sub": "bob"}}), other.Sign(testkit.Token{Forged: true})

	bearer := func(token string) []string { return []string{"authorization: Bearer " + token} }
	arrives := func(token string, more ...string) map[string]string {
		m := map[string]string{"x-customer-id": "alice", "x-tier": "gold", "x-payload": strings.Split(token, ".")[1]}
		return merged(m, more...)
	}
	partner := map[string]string{"x-partner": "bob"}
	const one, two = "coffee-shop/tokens jwtRules[0]", "coffee-shop/tokens jwtRules[1]"
	spoofed := []string{"x-customer-id: root", "X-Tier: gold", "x-payload: e30", "x-partner: root", "x-other: stays"}
	also := func(more ...string) []string { return append(slices.Clone(spoofed), more...) }
	preflight := []string{"origin: https://shop", "access-control-request-method: PUT"}

	// With a token for each rule the one whose issuer comes first decides, and the other's stays as it came.
	both := tokenRow{
		name: "tokens of both", target: "/open", header: append(bearer(good), "x-jwt: Token "+of),
		rule: one, arrives: arrives(good, "x-jwt", "Token "+of),
	}
	if other.Issuer < a.Issuer {
		both.rule, both.arrives = two, merged(partner, "authorization", "Bearer "+good)
	}
	return []tokenRow{
		{name: "no token", target: "/open"},
		{name: "no token where one is asked for", target: "/orders", denied: true},
		{name: "no token where none is wanted", target: "/anonymous"},
		{name: "a token where none is wanted", target: "/anonymous", header: bearer(good), denied: true, rule: one},
		{name: "authorization", target: "/orders", header: bearer(good), rule: one, arrives: arrives(good)},
		{name: "authorization, caller with another certificate", target: "/orders", header: bearer(good), barista: true, denied: true, rule: one},
		{name: "lower-case scheme", target: "/orders", header: []string{"authorization: bearer " + good}, rule: one, arrives: arrives(good)},
		{name: "lower-case scheme, forged", target: "/open", header: []string{"authorization: bearer " + forged},
			refused: "signature_invalid", body: fails, rule: one},
		{name: "Basic", target: "/open", header: []string{"authorization: Basic YTpi"}, arrives: map[string]string{"authorization": "Basic YTpi"}},
		{name: "access_token", target: "/orders?q=1&access_token=" + good + "&z=2", rule: one, arrives: arrives(good), path: "/orders?q=1&z=2"},
		{name: "access_token alone", target: "/orders?access_token=" + good, rule: one, arrives: arrives(good), path: "/orders"},
		{name: "access_token, percent-encoded", target: "/orders?q=a%20b%2Fc&access%5Ftoken=" + strings.ReplaceAll(good, ".", "%2e"), rule: one,
			arrives: arrives(good), path: "/orders?q=a%20b%2Fc"},
		{name: "forged", target: "/open", header: bearer(forged), refused: "signature_invalid", body: fails, rule: one},
		{name: "forged, in the query", target: "/open?access_token=" + forged, refused: "signature_invalid", body: fails, rule: one},
		{name: "expired", target: "/open", header: bearer(late), refused: "expired", body: expired, rule: one},
		{name: "wrong audience", target: "/open", header: bearer(sign(object{"aud": "web"})), refused: "audience_denied", body: notForUs, rule: one},
		{name: "of a stranger", target: "/open", header: bearer(of), refused: "issuer_unknown", body: unknownIss, rule: one},
		{name: "alg none", target: "/open", header: bearer(a.Sign(testkit.Token{HeaderText: `{"alg":"none"}`, Claims: claims})),
			refused: "algorithm_unsupported", body: "Jwt header [alg] is not supported", rule: one},
		{name: "authorization twice", target: "/open", header: append(bearer(good), bearer(good)...), refused: "malformed", body: malformed, rule: one},
		{name: "good header, forged parameter", target: "/open?access_token=" + forged, header: bearer(good),
			refused: "signature_invalid", body: fails, rule: one},
		{name: "RS256", target: "/orders", header: bearer(rs), rule: one, arrives: arrives(rs)},

		{name: "group", target: "/baristas", header: bearer(grouped), rule: one, arrives: arrives(grouped)},
		{name: "another group", target: "/baristas", header: bearer(sign(object{"groups": list{"guest"}})), denied: true, rule: one},
		{name: "nested claim", target: "/gold", header: bearer(good), rule: one, arrives: arrives(good)},
		{name: "nested claim, another value", target: "/gold", header: bearer(sign(object{"loyalty": object{"tier": "tin"}})), denied: true, rule: one},
		{name: "nested claim, in a header only", target: "/gold", header: []string{"x-tier: gold"}, denied: true},
		{name: "a word of scope", target: "/read", header: bearer(scoped), rule: one, arrives: arrives(scoped)},
		{name: "part of a word of scope", target: "/read", header: bearer(sign(object{"scope": "orders:readwrite"})), denied: true, rule: one},

		{name: "custom header", target: "/partners", header: []string{"x-jwt: Token " + of}, rule: two, arrives: partner},
		{name: "custom header without its prefix", target: "/open", header: []string{"x-jwt: " + forgedOf}, arrives: map[string]string{"x-jwt": forgedOf}},
		{name: "custom header twice", target: "/partners", header: []string{"x-jwt: Token " + of, "X-JWT: Token " + of}, rule: two,
			arrives: map[string]string{"x-partner": "bob,bob"}},
		{name: "custom header twice, one forged", target: "/open", header: []string{"x-jwt: Token " + of, "X-JWT: Token " + forgedOf},
			refused: "signature_invalid", body: fails, rule: two},
		{name: "custom parameter", target: "/partners?q=1&tok=" + of + "&z=2", rule: two, arrives: partner, path: "/partners?q=1&z=2"},
		{name: "cookie", target: "/partners", header: []string{"cookie: a=b; sid=" + of}, rule: two,
			arrives: merged(partner, "cookie", "a=b; sid="+of)},
		{name: "cookie, forged", target: "/open", header: []string{"cookie: sid=" + forgedOf}, refused: "signature_invalid", body: fails, rule: two},
		{name: "three places at once", target: "/partners?tok=" + of, header: []string{"x-jwt: Token " + of, "cookie: sid=" + of}, rule: two,
			arrives: map[string]string{"x-partner": "bob,bob,bob", "cookie": "sid=" + of}, path: "/partners"},
		{name: "three places at once, one forged", target: "/open?tok=" + of, header: []string{"x-jwt: Token " + of, "cookie: sid=" + forgedOf},
			refused: "signature_invalid", body: fails, rule: two},
		both,

		{name: "spoofed headers, no token", target: "/open", header: spoofed, arrives: map[string]string{"x-other": "stays"}},
		{name: "spoofed headers, with a token", target: "/orders", header: also(bearer(good)...), rule: one, arrives: arrives(good, "x-other", "stays")},
		{name: "spoofed headers, with the other rule's token", target: "/open", header: also("x-jwt: Token " + of), rule: two,
			arrives: merged(partner, "x-other", "stays")},
		{name: "spoofed headers, a token without the claim", target: "/open", header: also(bearer(nobody)...), rule: one,
			arrives: map[string]string{"x-other": "stays", "x-tier": "gold", "x-payload": strings.Split(nobody, ".")[1]}},
		{name: "spoofed headers on a preflight", method: "OPTIONS", target: "/open", header: also(preflight...),
			arrives: map[string]string{"x-other": "stays", "origin": "https://shop", "access-control-request-method": "PUT"}},
		{name: "a preflight with an expired token", method: "OPTIONS", target: "/open", header: append(bearer(late), preflight...),
			arrives: map[string]string{"authorization": "Bearer " + late, "origin": "https://shop", "access-control-request-method": "PUT"}},
		{name: "a preflight where a token is asked for", method: "OPTIONS", target: "/orders", header: append(bearer(good), preflight...), denied: true},
	}
}

// merged is m with the headers name, value, name, value, …
func merged(m map[string]string, pairs ...string) map[string]string {
	m = maps.Clone(m)
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = pairs[i+1]
	}
	return m
}

// wantNoTokens demands that neither the log nor the decision log nor the metrics hold a token, whole or in part.
func wantNoTokens(t *testing.T, authority *testkit.Authority, decisionLog string) {
	t.Helper()
	decisions, err := os.ReadFile(decisionLog)
	if err != nil {
		t.Fatal(err)
	}
	metrics, err := authority.Get(t.Context(), "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"log": authority.Output.String(), "decision log": string(decisions), "metrics": metrics} {
		for _, secret := range []string{"eyJ", "alice", "bob"} { // every segment that is a JSON object begins like that
			if strings.Contains(text, secret) {
				t.Errorf("the %s holds %q", name, secret)
			}
		}
	}
	if !strings.Contains(string(decisions), "signature_invalid") || !strings.Contains(string(decisions), "audience_denied") {
		t.Error("the decision log does not say why tokens were refused")
	}
}
