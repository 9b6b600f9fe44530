package telemetry_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/internal/telemetry"
	"github.com/writ-auth/writ/jwt"
	"github.com/writ-auth/writ/policy"
)

// sources fetch nothing: nobody runs them.
func sources(t testing.TB) *jwt.Sources {
	t.Helper()
	s, err := jwt.NewSources(jwt.SourcesConfig{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// bearing is a decided check of a request with this authorization header, at a workload that takes tokens of one key.
// good and forged are tokens for it.
func bearing(t testing.TB, engine *authz.Engine) (check func(authorization string) *telemetry.Check, good, forged string) {
	t.Helper()
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	encode := base64.RawURLEncoding.EncodeToString
	jwks := fmt.Sprintf(`{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"k1","x":%q}]}`, encode(key.Public().(ed25519.PublicKey)))
	signed := encode([]byte(`{"alg":"EdDSA","kid":"k1","jwk":{}}`)) + "." + encode([]byte(`{"iss":"https://idp.example","sub":"alice"}`))
	snap := policy.NewSnapshot(policy.Decode("a.yaml", fmt.Appendf(nil, `
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: idp, namespace: shop}
spec: {jwtRules: [{issuer: "https://idp.example", jwks: %q}]}
`, jwks)), policy.Mesh{})
	bound, err := snap.Resolve(policy.Workload{Namespace: "shop"})
	if err != nil {
		t.Fatal(err)
	}
	check = func(authorization string) *telemetry.Check {
		r := &policy.Request{Method: "GET", Path: "/", RawPath: "/", Headers: []policy.Header{{Name: "authorization", Value: authorization}}}
		d := new(authz.Decision)
		engine.Decide(t.Context(), snap, bound, r, d)
		return &telemetry.Check{Request: r, Decision: d}
	}
	return check, signed + "." + encode(ed25519.Sign(key, []byte(signed))), signed + "." + encode(make([]byte, ed25519.SignatureSize))
}

func TestTokenMetrics(t *testing.T) {
	cache := jwt.NewCache(0, 0)
	check, good, forged := bearing(t, &authz.Engine{Tokens: authz.Tokens{Cache: cache}})
	m := telemetry.NewMetrics(telemetry.Build{})
	m.ObserveCheck(check("Bearer " + good)) // not counted: nobody said that tokens are verified here
	m.WatchTokens(sources(t), cache)
	for _, authorization := range []string{"Bearer " + good, "Bearer " + forged, "Basic abc", ""} {
		m.ObserveCheck(check(authorization))
	}
	m.ObserveCheck(denied(t)) // no token rules apply: not counted
	m.Fetched(jwt.FetchTimeout, 30*time.Millisecond)
	m.Refetched(jwt.RefetchLimited)
	expect(t, m, `writ_token_total{result="valid"} 1`, `writ_token_total{result="signature_invalid"} 1`, `writ_token_total{result="none"} 2`,
		`writ_token_verified_total 1`, `writ_token_cache_hits_total 1`, `writ_token_embedded_key_total 1`, `writ_token_cache_entries 1`,
		`writ_jwks_fetch_total{result="timeout"} 1`, `writ_jwks_fetch_duration_seconds_count 1`, `writ_jwks_refetch_total{outcome="limited"} 1`,
		`writ_jwks_keys 0`, `writ_jwks_sources{state="fresh"} 0`, `writ_jwks_oldest_age_seconds 0`)
	c := check("Bearer " + good)
	if n := testing.AllocsPerRun(100, func() { m.ObserveCheck(c) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestKeyStates counts key sets by state when asked, with addresses that are refused.
func TestKeyStates(t *testing.T) {
	t.Parallel()
	s := sources(t)
	s.Set([]jwt.Wanted{{JWKSURI: "http://idp.example/keys"}, {JWKSURI: "https://127.0.0.1/keys"}})
	m := telemetry.NewMetrics(telemetry.Build{})
	m.WatchTokens(s, nil)
	expect(t, m, `writ_jwks_sources{state="empty"} 2`, `writ_jwks_sources{state="stale"} 0`)
	if strings.Contains(metricsText(t, m), "\nwrit_token_cache_entries") {
		t.Error("a cache that is not there has entries")
	}
	for want, status := range map[string]jwt.SourceStatus{"fresh": {Keys: 1}, "stale": {Keys: 1, Stale: true}, "empty": {}} {
		if got := telemetry.KeyState(&status); got != want {
			t.Errorf("%+v: %s, want %s", status, got, want)
		}
	}
}

// TestResultsAreComplete holds the time series made at the start to the words package jwt has.
func TestResultsAreComplete(t *testing.T) {
	t.Parallel()
	text := metricsText(t, telemetry.NewMetrics(telemetry.Build{}))
	for file, want := range map[string]struct{ typ, series string }{
		"../../jwt/fetch_error.go":   {"FetchResult", `writ_jwks_fetch_total{result="%s"}`},
		"../../jwt/source_status.go": {"RefetchOutcome", `writ_jwks_refetch_total{outcome="%s"}`},
	} {
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		words := regexp.MustCompile(`\s`+want.typ+`\s+= "(\w+)"`).FindAllStringSubmatch(string(source), -1)
		if len(words) < 5 {
			t.Errorf("%s: %d constants of type %s", file, len(words), want.typ)
		}
		for _, word := range words {
			if series := fmt.Sprintf(want.series, word[1]); !strings.Contains(text, "\n"+series+" 0\n") {
				t.Errorf("%s is missing", series)
			}
		}
	}
}

// TestTokenLine logs what became of a token, whose it is only if asked to, and never the token.
func TestTokenLine(t *testing.T) {
	t.Parallel()
	check, good, forged := bearing(t, new(authz.Engine))
	proxied := check("")
	proxied.Request.Claims = claims{}
	for _, tt := range []struct {
		check    *telemetry.Check
		subjects bool
		want     string
	}{
		{check("Bearer " + good), false, `,"token":{"result":"valid","rule":"shop/idp jwtRules[0]","key_id":"k1","issuer":"https://idp.example"},`},
		{check("Bearer " + good), true, `"issuer":"https://idp.example","request_principal":"https://idp.example/alice"},`},
		{check("Bearer " + forged), true, `,"token":{"result":"signature_invalid","rule":"shop/idp jwtRules[0]","key_id":"k1"},`},
		{check("Bearer x"), true, `,"token":{"result":"malformed","rule":"shop/idp jwtRules[0]"},`},
		{check("Basic abc"), true, ""},
		{proxied, false, `,"token":{"result":"proxy","issuer":"i"},`},
	} {
		var out bytes.Buffer
		l, err := telemetry.NewDecisionLog(telemetry.DecisionLogConfig{To: "stdout", Log: telemetry.LogAll, Subjects: tt.subjects, Stdout: &out})
		if err != nil {
			t.Fatal(err)
		}
		l.Observe(tt.check)
		run(t, l)
		line := out.String()
		if tt.want == "" && strings.Contains(line, `"token"`) || !strings.Contains(line, tt.want) {
			t.Errorf("%s is not in %s", tt.want, line)
		}
		if strings.Contains(line, "eyJ") || !tt.subjects && strings.Contains(line, "alice") {
			t.Errorf("the line holds a token or a subject: %s", line)
		}
	}
}

// claims are those of a proxy's filter.
type claims struct{}

func (claims) Issuer() string            { return "i" }
func (claims) Subject() string           { return "alice" }
func (claims) Strings([]string) []string { return nil }
