package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/writ-auth/writ/internal/testkit"
)

// identityProvider serves keys, with its CA's certificate in dir/idp-ca.pem.
func identityProvider(t *testing.T, dir string) *testkit.IdentityProvider {
	t.Helper()
	ca, err := testkit.NewCA("identity provider")
	if err != nil {
		t.Fatal(err)
	}
	if err := ca.Write(filepath.Join(dir, "idp-ca.pem")); err != nil {
		t.Fatal(err)
	}
	idp, err := testkit.ServeIdentityProvider(t.Context(), testkit.IdentityProviderConfig{CA: ca})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = idp.Close() })
	return idp
}

// tokensFor has the order service take this issuer's tokens, and ask for one of alice's.
func tokensFor(issuer string) string {
	return fmt.Sprintf(`
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: idp, namespace: coffee-shop}
spec:
  selector: {matchLabels: {app: order}}
  jwtRules: [{issuer: %[1]q, audiences: [orders]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: order, namespace: coffee-shop}
spec:
  selector: {matchLabels: {app: order}}
  rules: [{from: [{source: {requestPrincipals: ["%[1]s/alice"]}}]}]
`, issuer)
}

const jwtConfig = `
documents: ./policies
authz:
  listen: unix:authz.sock
  jwks: {allow_networks: [127.0.0.0/8], ca: {%q: ./idp-ca.pem}}
  decision_log: {to: decisions.jsonl, log: all, subjects: %t}
admin: unix:admin.sock
diagnostics: 127.0.0.1:0
`

// bearing is a request to the order service with a token, if that is not empty.
func bearing(token string) *authv3.CheckRequest {
	r := question("GET", "/orders")
	headers := r.GetAttributes().GetRequest().GetHttp().GetHeaders()
	delete(headers, "authorization")
	if token != "" {
		headers["authorization"] = "Bearer " + token
	}
	return r
}

func TestServeVerifiesTokens(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	idp := identityProvider(t, dir)
	write(t, dir, map[string]string{
		"writ.yaml": fmt.Sprintf(jwtConfig, idp.Issuer, true), "policies/order.yaml": tokensFor(idp.Issuer),
	})
	p := serve(t, dir)
	p.ready()
	alice := idp.Sign(testkit.Token{Claims: map[string]any{"sub": "alice", "aud": "orders"}})
	p.answers(bearing(alice), http.StatusOK) // waits for the first fetch
	p.answers(bearing(alice), http.StatusOK)
	p.answers(bearing(""), http.StatusForbidden)
	p.answers(bearing(idp.Sign(testkit.Token{Claims: map[string]any{"sub": "mallory", "aud": "orders"}})), http.StatusForbidden)
	p.answers(bearing(idp.Sign(testkit.Token{Claims: map[string]any{"sub": "alice", "aud": "orders"}, Forged: true})), http.StatusUnauthorized)
	p.answers(bearing(idp.Sign(testkit.Token{Claims: map[string]any{"sub": "alice", "aud": "beans"}})), http.StatusForbidden)

	for _, line := range []string{
		`writ_token_total{result="valid"} 3`, `writ_token_total{result="none"} 1`, `writ_token_total{result="signature_invalid"} 1`,
		`writ_token_total{result="audience_denied"} 1`, `writ_token_verified_total 3`, `writ_token_cache_hits_total 1`, `writ_token_cache_entries 2`,
		`writ_jwks_fetch_total{result="ok"} 1`, `writ_jwks_sources{state="fresh"} 1`, `writ_jwks_sources{state="empty"} 0`, `writ_jwks_keys 3`,
		`writ_jwks_fetch_duration_seconds_count 1`, `writ_check_total{decision="deny",layer="jwt",reason="token_refused"} 2`,
	} {
		p.metric(line)
	}
	s := p.status()
	if !s.Ready || len(s.Warnings) > 0 || s.Tokens.Mode != "verify" || len(s.Tokens.Sources) != 1 || s.Tokens.Sources[0].Keys != 3 || s.Tokens.Cache.Entries != 2 {
		t.Errorf("status %+v", s)
	}
	out, err := writ(t, "status", "-c", filepath.Join(dir, "writ.yaml")).Output()
	if err != nil || !strings.Contains(string(out), "tokens verified here, 2 in the cache") || !strings.Contains(string(out), "fresh  3 keys  "+idp.Issuer) {
		t.Errorf("writ status (%v):\n%s", err, out)
	}
	p.stop()

	lines := decisions(t, dir)
	if len(lines) != 6 {
		t.Fatalf("%d lines in the decision log, want 6", len(lines))
	}
	for i, want := range map[int]map[string]any{
		0: {"result": "valid", "rule": "coffee-shop/idp jwtRules[0]", "key_id": idp.KeyID("ES256"), "issuer": idp.Issuer, "request_principal": idp.Issuer + "/alice"},
		2: nil,
		4: {"result": "signature_invalid", "rule": "coffee-shop/idp jwtRules[0]", "key_id": idp.KeyID("ES256")},
	} {
		token, _ := lines[i]["token"].(map[string]any)
		if fmt.Sprint(token) != fmt.Sprint(want) {
			t.Errorf("line %d: token %v, want %v", i, token, want)
		}
	}
}

// decisions is the decision log. It must not hold a token.
func decisions(t *testing.T, dir string) (lines []map[string]any) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, "decisions.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(data), "eyJ") {
		t.Errorf("the decision log holds a token:\n%s", data)
	}
	for line := range strings.Lines(string(data)) {
		var v map[string]any
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		lines = append(lines, v)
	}
	return lines
}

// TestServeWithoutKeys has an identity provider that answers nonsense: tokens are refused, everything else goes on, and
// the status says what is wrong. Whose tokens they are is not logged unless asked for.
func TestServeWithoutKeys(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	idp := identityProvider(t, dir)
	idp.Fail(testkit.FaultHTML)
	write(t, dir, map[string]string{
		"writ.yaml": fmt.Sprintf(jwtConfig, idp.Issuer, false), "policies/order.yaml": tokensFor(idp.Issuer),
	})
	p := serve(t, dir)
	p.ready()
	alice := idp.Sign(testkit.Token{Claims: map[string]any{"sub": "alice", "aud": "orders"}})
	p.answers(bearing(alice), http.StatusUnauthorized)
	p.answers(bearing(""), http.StatusForbidden)
	p.metric(`writ_token_total{result="keys_unavailable"} 1`)
	p.metric(`writ_jwks_sources{state="empty"} 1`)
	if s := p.status(); !s.Ready || len(s.Warnings) != 1 || !strings.Contains(s.Warnings[0], "no keys from "+idp.Issuer) ||
		!strings.Contains(s.Warnings[0], "bad_discovery") {
		t.Errorf("status %+v", s)
	}
	out, err := writ(t, "status", "-c", filepath.Join(dir, "writ.yaml")).Output()
	if err != nil || !strings.Contains(string(out), "! no keys from "+idp.Issuer) || !strings.Contains(string(out), "empty  0 keys  "+idp.Issuer) {
		t.Errorf("writ status (%v):\n%s", err, out)
	}
	if !strings.Contains(p.logged(), "no keys: tokens that need them are refused") {
		t.Error("the log says nothing of it")
	}

	idp.Fail(testkit.FaultNone)
	p.eventually("verified again", func() error {
		status, err := ask(t.Context(), p.dial("", nil), bearing(alice))
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("answered %d", status)
		}
		return err
	})
	p.stop()
	for _, line := range decisions(t, dir) {
		if strings.Contains(fmt.Sprint(line), "alice") {
			t.Errorf("a subject is logged: %v", line)
		}
	}
}

// TestServeTakesClaimsOfTheProxy leaves tokens to Envoy's own filter: its metadata counts, tokens are not looked at, and
// nothing is fetched.
func TestServeTakesClaimsOfTheProxy(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	idp := identityProvider(t, dir)
	write(t, dir, map[string]string{
		"writ.yaml":           strings.Replace(fmt.Sprintf(jwtConfig, idp.Issuer, true), "authz:", "authz:\n  jwt: metadata", 1),
		"policies/order.yaml": tokensFor(idp.Issuer),
	})
	p := serve(t, dir)
	p.ready()
	alice := idp.Sign(testkit.Token{Claims: map[string]any{"sub": "alice", "aud": "orders"}})
	p.answers(bearing(alice), http.StatusForbidden)
	vouched := bearing("")
	payload, err := structpb.NewStruct(map[string]any{"payload": map[string]any{"iss": idp.Issuer, "sub": "alice"}})
	if err != nil {
		t.Fatal(err)
	}
	vouched.Attributes.MetadataContext = &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{"envoy.filters.http.jwt_authn": payload}}
	p.answers(vouched, http.StatusOK)
	if s := p.status(); s.Tokens.Mode != "metadata" || len(s.Tokens.Sources) > 0 || idp.Fetches() > 0 {
		t.Errorf("%d fetches, status %+v", idp.Fetches(), s)
	}
	p.metric(`writ_token_total{result="none"} 0`)
	out, err := writ(t, "status", "-c", filepath.Join(dir, "writ.yaml")).Output()
	if err != nil || !strings.Contains(string(out), "tokens verified by the proxies") {
		t.Errorf("writ status (%v):\n%s", err, out)
	}
	p.stop()
	lines := decisions(t, dir)
	want := map[string]any{"result": "proxy", "issuer": idp.Issuer, "request_principal": idp.Issuer + "/alice"}
	if len(lines) != 2 || lines[0]["token"] != nil || fmt.Sprint(lines[1]["token"]) != fmt.Sprint(want) {
		t.Errorf("decision log %v", lines)
	}
}
