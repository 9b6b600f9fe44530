package authz_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"testing"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/policy"
)

// signer makes tokens and the documents that trust them.
type signer struct {
	key  ed25519.PrivateKey
	jwks string
}

func newSigner(t *testing.T) *signer {
	t.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	x := base64.RawURLEncoding.EncodeToString(public)
	return &signer{private, fmt.Sprintf(`{"keys":[{"kty":"OKP","crv":"Ed25519","alg":"EdDSA","kid":"k","x":%q}]}`, x)}
}

func (s *signer) token(t *testing.T, claims map[string]any) string {
	t.Helper()
	body, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	signed := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"EdDSA","kid":"k"}`)) + "." + base64.RawURLEncoding.EncodeToString(body)
	return signed + "." + base64.RawURLEncoding.EncodeToString(ed25519.Sign(s.key, []byte(signed)))
}

const idp = "https://idp.example"

// decide asks with a token for a workload whose one ALLOW rule is rule, under a RequestAuthentication of issuer idp.
func (s *signer) decide(t *testing.T, rule, token string) authz.Decision {
	t.Helper()
	authentication := fmt.Sprintf("apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: idp, namespace: foo}\n"+
		"spec: {jwtRules: [{issuer: %q, jwks: %q}]}\n", idp, s.jwks)
	docs := policy.Decode("t.yaml", []byte(authentication+"---\n"+named("foo", "p", "{rules: ["+rule+"]}")))
	for _, d := range docs {
		if d.Broken() {
			t.Fatal(d.Problems)
		}
	}
	snap := policy.NewSnapshot(docs, policy.Mesh{})
	bound, err := snap.Resolve(policy.Workload{Namespace: "foo", Labels: map[string]string{}})
	if err != nil {
		t.Fatal(err)
	}
	r := policy.Request{Method: "GET", HasMethod: true, Path: "/", RawPath: "/", Host: "a.example", HasHost: true, Scheme: "https"}
	if token != "" {
		r.Headers = []policy.Header{{Name: "authorization", Value: "Bearer " + token}}
	}
	var d authz.Decision
	(&authz.Engine{}).Decide(t.Context(), snap, bound, &r, &d)
	return d
}

// TestTokensMeetPolicies is the rows of request-authentication §10 in which a token and an AuthorizationPolicy meet.
func TestTokensMeetPolicies(t *testing.T) {
	t.Parallel()
	s := newSigner(t)
	anyPrincipal := `{from: [{source: {requestPrincipals: ["*"]}}]}`
	when := func(key, values string) string { return "{when: [{key: '" + key + "', " + values + "}]}" }
	with := func(extra map[string]any) map[string]any {
		claims := map[string]any{"iss": idp, "sub": "alice"}
		maps.Copy(claims, extra)
		return claims
	}
	tests := []struct {
		name   string
		rule   string
		claims map[string]any // nil sends no token
		want   int
	}{
		{"surprise 2: no token and requestPrincipals *", anyPrincipal, nil, 403},
		{"surprise 2: the same with a token", anyPrincipal, with(nil), 200},
		{"surprise 3: good token without sub", anyPrincipal, map[string]any{"iss": idp}, 403},
		{"surprise 4: empty sub", `{from: [{source: {requestPrincipals: ["` + idp + `/*"]}}]}`, with(map[string]any{"sub": ""}), 403},
		{"surprise 16: issuer no rule names", anyPrincipal, map[string]any{"iss": "https://other", "sub": "alice"}, 401},
		{"surprise 20: aud with a number", anyPrincipal, with(map[string]any{"aud": []any{"other", 5}}), 401},
		{"surprise 52: boolean claim never matches", when("request.auth.claims[email_verified]", `values: ["true"]`), with(map[string]any{"email_verified": true}), 403},
		{"surprise 52: and so satisfies notValues", when("request.auth.claims[email_verified]", `notValues: ["true"]`), with(map[string]any{"email_verified": true}), 200},
		{"surprise 53: scope whole", when("request.auth.claims[scope]", `values: ["read write"]`), with(map[string]any{"scope": "read write"}), 403},
		{"surprise 53: scope word", when("request.auth.claims[scope]", `values: [read]`), with(map[string]any{"scope": "read write"}), 200},
		{"surprise 54: subject with a slash", `{from: [{source: {requestPrincipals: ["` + idp + `/repo:org/x"]}}]}`, with(map[string]any{"sub": "repo:org/x"}), 403},
		{"surprise 55: star behind the issuer's slashes", `{from: [{source: {requestPrincipals: ["https://idp*"]}}]}`, with(nil), 403},
		{"surprise 56: URL as claim name", when("request.auth.claims[https://a/b]", `values: [x]`), with(map[string]any{"https://a/b": "x"}), 200},
		{"number claim", when("request.auth.claims[level]", `values: ["3"]`), with(map[string]any{"level": 3}), 403},
		{"nested claim", when("request.auth.claims[realm][roles]", `values: [admin]`), with(map[string]any{"realm": map[string]any{"roles": []any{1, "admin"}}}), 200},
		{"dotted key is one key", when("request.auth.claims[realm.roles]", `values: [admin]`), with(map[string]any{"realm": map[string]any{"roles": []any{"admin"}}}), 403},
		{"audience", when("request.auth.audiences", `values: [shop]`), with(map[string]any{"aud": []any{"other", "shop"}}), 200},
		{"presenter", when("request.auth.presenter", `values: [app]`), with(map[string]any{"azp": "app"}), 200},
		{"group word is not split", when("request.auth.claims[groups]", `values: [admin]`), with(map[string]any{"groups": "admin dev"}), 403},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			token := ""
			if tt.claims != nil {
				token = s.token(t, tt.claims)
			}
			d := s.decide(t, tt.rule, token)
			if d.Status != tt.want {
				t.Errorf("status %d (%s %s %v), want %d", d.Status, d.Layer, d.Reason, d.Token.Reason, tt.want)
			}
			if d.Status == 403 && (d.Body != authz.DeniedBody || d.Challenge() != "") {
				t.Errorf("an authorization denial has body %q and challenge %q", d.Body, d.Challenge())
			}
			if d.Status == 401 && (d.Layer != authz.LayerJWT || d.Challenge() == "") {
				t.Errorf("a refused token: layer %s, challenge %q", d.Layer, d.Challenge())
			}
		})
	}
}

// TestRefusedTokenIsRefusedWhateverPoliciesSay: a bad token is 401 even where every request is allowed (§4).
func TestRefusedTokenIsRefusedWhateverPoliciesSay(t *testing.T) {
	t.Parallel()
	s := newSigner(t)
	forged := newSigner(t).token(t, map[string]any{"iss": idp, "sub": "alice"})
	if d := s.decide(t, "{}", forged); d.Status != 401 || d.Allow || d.Body != "Jwt verification fails" {
		t.Errorf("status %d, body %q, want 401 Jwt verification fails", d.Status, d.Body)
	}
	if d := s.decide(t, "{}", ""); d.Status != 200 {
		t.Errorf("no token: status %d, want 200", d.Status)
	}
}

// TestBrokenRequestAuthenticationFailsClosed: without its rules nobody's token can be told from a forged one.
func TestBrokenRequestAuthenticationFailsClosed(t *testing.T) {
	t.Parallel()
	docs := policy.Decode("t.yaml", []byte("apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: idp, namespace: foo}\n"+
		"spec: {jwtRules: [{issuer: x, jwks: 'not json'}]}\n---\n"+named("foo", "p", "{rules: [{}]}")))
	snap := policy.NewSnapshot(docs, policy.Mesh{})
	bound, err := snap.Resolve(policy.Workload{Namespace: "foo", Labels: map[string]string{}})
	if err != nil {
		t.Fatal(err)
	}
	var d authz.Decision
	(&authz.Engine{}).Decide(t.Context(), snap, bound, &policy.Request{Method: "GET", HasMethod: true, Path: "/", RawPath: "/"}, &d)
	if d.Allow || d.Reason != authz.ReasonBrokenPolicy {
		t.Errorf("got %+v, want a denial for the broken document", d.Reason)
	}
}
