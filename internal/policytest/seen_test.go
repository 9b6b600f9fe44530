package policytest_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/internal/policytest"
	"github.com/writ-auth/writ/policy"
)

// authenticationHits decides one case and lists the branches of token rules and modes that it exercises.
func authenticationHits(t *testing.T, cfg policytest.Config, documents, test string) []string {
	t.Helper()
	cfg.Coverage = policy.NewCoverage()
	run(t, cfg, documents, test)
	var out []string
	for _, a := range cfg.Coverage.Report().Authentication {
		for _, p := range a.Parts {
			for _, b := range p.Branches {
				if b.Hits > 0 {
					out = append(out, strings.TrimSpace(fmt.Sprintf("%s %s %s", p.Part, b.Kind, b.Value)))
				}
			}
		}
	}
	return out
}

// TestCoverageOfTokens: what a request shows of token rules, as the verifier of each rule sees it.
func TestCoverageOfTokens(t *testing.T) {
	t.Parallel()
	rules := object("RequestAuthentication", "r", `{jwtRules: [{issuer: i, audiences: [a], jwksUri: "https://i.example/keys"},
  {issuer: j, jwksUri: "https://j.example/keys", fromHeaders: [{name: X-Token, prefix: "T "}], fromParams: [t], fromCookies: [c]}]}`)
	strict := object("PeerAuthentication", "p", `{mtls: {mode: STRICT}}`)
	for name, tc := range map[string]struct {
		documents, request string
		want               []string
	}{
		"none":    {rules, "", []string{"jwtRules[0] no_token", "jwtRules[1] no_token"}},
		"good":    {rules, "unverified_claims: {iss: i, aud: a}", []string{"jwtRules[0] good_token", "jwtRules[1] no_token"}},
		"refused": {rules, "unverified_claims: {iss: i, aud: b}", []string{"jwtRules[0] refused_token", "jwtRules[1] no_token"}},
		"a header": {rules, "unverified_claims: {iss: j}",
			[]string{"jwtRules[0] no_token", "jwtRules[1] good_token", "jwtRules[1] token_place header x-token"}},
		"a parameter": {rules, "unverified_claims: {iss: j}, unverified_claims_at: parameter t",
			[]string{"jwtRules[0] no_token", "jwtRules[1] good_token", "jwtRules[1] token_place parameter t"}},
		"a cookie": {rules, "unverified_claims: {iss: j}, unverified_claims_at: cookie c",
			[]string{"jwtRules[0] no_token", "jwtRules[1] good_token", "jwtRules[1] token_place cookie c"}},
		"where nobody looks": {rules, "unverified_claims: {iss: j}, unverified_claims_at: header x-other",
			[]string{"jwtRules[0] no_token", "jwtRules[1] no_token"}},
		"a stranger's":          {rules, "unverified_claims: {iss: k}", []string{"jwtRules[0] refused_token", "jwtRules[1] no_token"}},
		"none on TCP":           {rules, "tcp: true", nil},
		"none where refused":    {rules + strict, "", []string{"mtls plaintext"}},
		"an identity":           {rules + strict, "from: shop/a", []string{"jwtRules[0] no_token", "jwtRules[1] no_token", "mtls mtls"}},
		"no document, no count": {object("AuthorizationPolicy", "p", "{}"), "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			request := "to: {namespace: shop, labels: {}}"
			if tc.request != "" {
				request += ", " + tc.request
			}
			got := authenticationHits(t, policytest.Config{}, tc.documents, "name: n\nrequest: {"+request+"}\nexpect: {status: 200}")
			if !slices.Equal(got, tc.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(tc.want, "\n"))
			}
		})
	}
}

// TestCoverageWhereTheProxyVerifies: token rules that nobody here goes by are nothing to cover.
func TestCoverageWhereTheProxyVerifies(t *testing.T) {
	t.Parallel()
	cfg := policytest.Config{Tokens: authz.TokensMetadata, Coverage: policy.NewCoverage()}
	run(t, cfg, object("RequestAuthentication", "r", `{jwtRules: [{issuer: i, jwksUri: "https://i.example/keys"}]}`),
		"name: n\nrequest: {to: {namespace: shop, labels: {}}, unverified_claims: {iss: i}}\nexpect: {decision: ALLOW}")
	if r := cfg.Coverage.Report(); r.Points.All != 0 || r.Percent != 100 {
		t.Errorf("%+v", r)
	}
}

// TestPlaces: a place that means nothing is an error.
func TestPlaces(t *testing.T) {
	t.Parallel()
	for _, at := range []string{"x-token", "header", "header ", "query t", "header a b", "cookie a=b"} {
		text := head + "tests:\n- name: n\n  request: {to: shop/web, unverified_claims: {iss: i}, unverified_claims_at: '" + at + "'}\n  expect: {decision: ALLOW}\n"
		_, problems := policytest.Decoder{}.Decode("a_test.yaml", []byte(text))
		if len(problems) != 1 || !strings.Contains(problems[0].Message, "want header NAME, parameter NAME or cookie NAME") {
			t.Errorf("%q: %v", at, problems)
		}
	}
}
