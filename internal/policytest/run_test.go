package policytest_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/internal/policytest"
	"github.com/writ-auth/writ/policy"
)

// run decides the only case of a test.
func run(t testing.TB, cfg policytest.Config, documents, test string) *policytest.Result {
	t.Helper()
	cfg.Documents = policy.Decode("policies.yaml", []byte(documents))
	for _, d := range cfg.Documents {
		if d.Broken() {
			t.Fatal(d.Problems)
		}
	}
	r, err := policytest.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s := suites(t, head+"tests:\n- "+strings.ReplaceAll(test, "\n", "\n  ")+"\n")
	if problems := r.Check(&s[0], func(string, []string) string { return "" }); len(problems) > 0 {
		t.Fatal(problems)
	}
	res, err := r.Run(t.Context(), &s[0].Cases[0])
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func object(kind, name, spec string) string {
	return "---\napiVersion: security.istio.io/v1\nkind: " + kind + "\nmetadata: {namespace: shop, name: " + name + "}\nspec: " + spec + "\n"
}

// Keys of somebody else, in RFC 8037 §A.2.
const foreignKeys = `'{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}'`

// TestClaims: claims come where the rules look for tokens, and issuer, audience and times decide as for a real token,
// wherever the rules have their keys from.
func TestClaims(t *testing.T) {
	t.Parallel()
	allow := object("AuthorizationPolicy", "p", `{rules: [{from: [{source: {requestPrincipals: ["i/alice"]}}], when: [{key: "request.auth.claims[groups]", values: [staff]}]}]}`)
	for name, tc := range map[string]struct{ rule, claims, want string }{
		"remote keys":       {`{issuer: i, jwksUri: "https://i.example/keys"}`, "{iss: i, sub: alice, groups: [staff]}", "ALLOW allow"},
		"inline keys":       {`{issuer: i, jwks: ` + foreignKeys + `}`, "{iss: i, sub: alice, groups: [staff]}", "ALLOW allow"},
		"keys by discovery": {`{issuer: "https://i.example"}`, "{iss: \"https://i.example\", sub: alice, groups: [staff]}", "DENY allow"},
		"a header of its own": {`{issuer: i, jwksUri: "https://i.example/keys", fromHeaders: [{name: X-Token, prefix: "T "}]}`,
			"{iss: i, sub: alice, groups: [staff]}", "ALLOW allow"},
		"a parameter":        {`{issuer: i, jwksUri: "https://i.example/keys", fromParams: [t]}`, "{iss: i, sub: alice, groups: [staff]}", "ALLOW allow"},
		"a cookie":           {`{issuer: i, jwksUri: "https://i.example/keys", fromCookies: [c]}`, "{iss: i, sub: alice, groups: [staff]}", "ALLOW allow"},
		"another issuer":     {`{issuer: i, jwksUri: "https://i.example/keys"}`, "{iss: j, sub: alice, groups: [staff]}", "DENY jwt"},
		"another audience":   {`{issuer: i, audiences: [a], jwksUri: "https://i.example/keys"}`, "{iss: i, aud: b, sub: alice, groups: [staff]}", "DENY jwt"},
		"expired":            {`{issuer: i, jwksUri: "https://i.example/keys"}`, "{iss: i, sub: alice, groups: [staff], exp: 1785580000}", "DENY jwt"},
		"not yet valid":      {`{issuer: i, jwksUri: "https://i.example/keys"}`, "{iss: i, sub: alice, groups: [staff], nbf: 1785590000}", "DENY jwt"},
		"valid at this time": {`{issuer: i, jwksUri: "https://i.example/keys"}`, "{iss: i, sub: alice, groups: [staff], nbf: 1785580000, exp: 1785590000}", "ALLOW allow"},
		"another claim":      {`{issuer: i, jwksUri: "https://i.example/keys"}`, "{iss: i, sub: alice, groups: [guests]}", "DENY allow"},
		"no token":           {`{issuer: i, jwksUri: "https://i.example/keys"}`, "null", "DENY allow"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			res := run(t, policytest.Config{}, allow+object("RequestAuthentication", "r", "{jwtRules: ["+tc.rule+"]}"),
				"name: n\ntime: 2026-08-01T12:00:00Z\nrequest: {to: {namespace: shop, labels: {}}, unverified_claims: "+tc.claims+"}\nexpect: {decision: ALLOW}")
			got := map[bool]string{true: "ALLOW ", false: "DENY "}[res.Decision.Allow] + string(res.Decision.Layer)
			if got != tc.want || res.Outcome == policytest.Unknown {
				t.Errorf("%s (%s), want %s", got, res.Outcome, tc.want)
			}
		})
	}
}

// TestClaimsNeedARule: where no RequestAuthentication applies nobody looks at tokens, and claims change nothing.
func TestClaimsNeedARule(t *testing.T) {
	t.Parallel()
	res := run(t, policytest.Config{}, object("AuthorizationPolicy", "p", `{rules: [{from: [{source: {requestPrincipals: ["*"]}}]}]}`),
		"name: n\nrequest: {to: {namespace: shop, labels: {}}, unverified_claims: {iss: i, sub: alice}}\nexpect: {decision: DENY, layer: allow}")
	if res.Outcome != policytest.Passed {
		t.Errorf("%+v", res.Mismatches)
	}
}

// TestClaimsAsMetadata: with tokens that the proxy verifies, claims come as it passes them on.
func TestClaimsAsMetadata(t *testing.T) {
	t.Parallel()
	res := run(t, policytest.Config{Tokens: authz.TokensMetadata},
		object("AuthorizationPolicy", "p", `{rules: [{from: [{source: {requestPrincipals: ["i/alice"]}}]}]}`),
		"name: n\nrequest: {to: {namespace: shop, labels: {}}, unverified_claims: {iss: i, sub: alice}}\nexpect: {decision: ALLOW, rule: 0}")
	if res.Outcome != policytest.Passed {
		t.Errorf("%+v", res.Mismatches)
	}
}

// TestRealTokens: a token in a header is verified with the keys of the documents, and the runner's own key is none of
// them; keys that only an authority fetches leave it open.
func TestRealTokens(t *testing.T) {
	t.Parallel()
	const token = "eyJhbGciOiJFZERTQSJ9.eyJpc3MiOiJpIn0." +
		"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
	const test = "name: n\nrequest: {to: {namespace: shop, labels: {}}, headers: {authorization: Bearer " + token + "}}\nexpect: {status: 401}"
	res := run(t, policytest.Config{}, object("RequestAuthentication", "r", `{jwtRules: [{issuer: i, jwks: `+foreignKeys+`}]}`), test)
	if res.Outcome != policytest.Passed {
		t.Errorf("inline: %s %+v", res.Outcome, res.Mismatches)
	}
	res = run(t, policytest.Config{}, object("RequestAuthentication", "r", `{jwtRules: [{issuer: i, jwksUri: "https://i.example/keys"}]}`), test)
	if res.Outcome != policytest.Unknown || !strings.HasPrefix(res.Open[0], "the keys of i, ") {
		t.Errorf("remote: %s %q", res.Outcome, res.Open)
	}
}

type answering struct{ asked *int }

func (a answering) Ask(_ context.Context, _ *authz.Question, out *authz.Answer) error {
	*a.asked++
	out.Allow = true
	return nil
}

// TestProviders: a test's word comes before a provider that could be asked; where nobody answers it cannot be told,
// unless it is denied anyway and nothing else is asked for.
func TestProviders(t *testing.T) {
	t.Parallel()
	custom := object("AuthorizationPolicy", "c", `{action: CUSTOM, provider: {name: x}, rules: [{}]}`)
	deny := object("AuthorizationPolicy", "d", `{action: DENY, rules: [{to: [{operation: {methods: [PUT]}}]}]}`)
	for _, tc := range []struct {
		name, providers, method, expect string
		real, failOpen                  bool
		outcome                         policytest.Outcome
		asked                           int
	}{
		{name: "asked for real", providers: "{}", method: "GET", expect: "{decision: ALLOW}", real: true, outcome: policytest.Passed, asked: 1},
		{name: "spoken for", providers: "{x: deny}", method: "GET", expect: "{decision: DENY, layer: custom, policy: shop/c}", real: true, outcome: policytest.Passed},
		{name: "remote", providers: "{x: allow}", method: "GET", expect: "{decision: ALLOW}", outcome: policytest.Passed},
		{name: "open", providers: "{}", method: "GET", expect: "{decision: ALLOW}", outcome: policytest.Unknown},
		{name: "open, whatever is expected", providers: "{}", method: "GET", expect: "{decision: DENY}", outcome: policytest.Unknown},
		{name: "denied anyway", providers: "{}", method: "PUT", expect: "{decision: DENY}", outcome: policytest.Passed},
		{name: "denied anyway, and not allowed", providers: "{}", method: "PUT", expect: "{decision: ALLOW}", outcome: policytest.Failed},
		{name: "denied anyway, by whom", providers: "{}", method: "PUT", expect: "{decision: DENY, policy: shop/d}", outcome: policytest.Unknown},
		{name: "no answer", providers: "{x: error}", method: "GET", expect: "{decision: DENY, layer: custom}", outcome: policytest.Passed},
		{name: "no answer, and it fails open", providers: "{x: error}", method: "GET", expect: "{decision: ALLOW}", failOpen: true, outcome: policytest.Passed},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			asked := 0
			config := authz.ProviderConfig{Name: "x", FailOpen: tc.failOpen}
			cfg := policytest.Config{Remote: []authz.ProviderConfig{config}}
			if tc.real {
				config.Provider = answering{&asked}
				cfg = policytest.Config{Providers: []authz.ProviderConfig{config}}
			}
			res := run(t, cfg, custom+deny, fmt.Sprintf("name: n\nproviders: %s\nrequest: {to: {namespace: shop, labels: {}}, method: %s}\nexpect: %s",
				tc.providers, tc.method, tc.expect))
			if res.Outcome != tc.outcome || asked != tc.asked {
				t.Errorf("%s after %d questions, %+v, %q", res.Outcome, asked, res.Mismatches, res.Open)
			}
		})
	}
}

// TestUnknownProviders: an answer for a provider that nobody would ask is a mistake, said once.
func TestUnknownProviders(t *testing.T) {
	t.Parallel()
	r, err := policytest.New(policytest.Config{Remote: []authz.ProviderConfig{{Name: "legacy"}}})
	if err != nil {
		t.Fatal(err)
	}
	s := suites(t, head+"defaults: {providers: {legcy: allow}, request: {to: shop/a}}\ntests:\n"+
		"- {name: a, expect: {decision: ALLOW}}\n- {name: b, expect: {decision: ALLOW}}\n")
	problems := r.Check(&s[0], func(word string, known []string) string { return "; " + word + " of " + strings.Join(known, " ") })
	if len(problems) != 1 || problems[0].Error() != "dir/a_test.yaml:5:3: providers.legcy: no provider has this name: nobody would ask it; legcy of legacy" {
		t.Errorf("%v", problems)
	}
}

// TestExpectations: each of them can fail, and says what was wanted and what came.
func TestExpectations(t *testing.T) {
	t.Parallel()
	documents := object("AuthorizationPolicy", "p", `{rules: [{}, {}]}`) + object("AuthorizationPolicy", "a", `{action: AUDIT, rules: [{}]}`) +
		strings.Replace(object("AuthorizationPolicy", "t", `{action: DENY, rules: [{}]}`), "name: t}", `name: t, annotations: {istio.io/dry-run: "true"}}`, 1)
	const met = "{decision: ALLOW, status: 200, layer: allow, policy: shop/p, rule: 0, audit: shop/a, dry_run_deny: shop/t, dry_run_allow: none}"
	const missed = "{decision: DENY, status: 403, layer: deny, policy: none, rule: 1, audit: none, dry_run_deny: none, dry_run_allow: shop/x}"
	if res := run(t, policytest.Config{}, documents, "name: n\nrequest: {to: {namespace: shop, labels: {}}}\nexpect: "+met); res.Outcome != policytest.Passed {
		t.Errorf("%+v", res.Mismatches)
	}
	res := run(t, policytest.Config{}, documents, "name: n\nrequest: {to: {namespace: shop, labels: {}}}\nexpect: "+missed)
	want := "[{decision DENY ALLOW} {status 403 200} {layer deny allow} {policy none shop/p} {rule 1 0} {audit none shop/a} {dry_run_deny none shop/t} {dry_run_allow shop/x none}]"
	if got := fmt.Sprint(res.Mismatches); res.Outcome != policytest.Failed || got != want {
		t.Errorf("%s: %s", res.Outcome, got)
	}
}

// TestRequestFields: everything a test can say of a request comes to the policies.
func TestRequestFields(t *testing.T) {
	t.Parallel()
	documents := object("AuthorizationPolicy", "p", `
  rules:
  - from: [{source: {principals: [td/ns/a/sa/b], ipBlocks: [10.1.1.1], remoteIpBlocks: [192.0.2.1]}}]
    to: [{operation: {methods: [PUT], paths: [/a], hosts: [h.example], ports: ["8080"]}}]
    when:
    - {key: destination.ip, values: [10.2.2.2]}
    - {key: connection.sni, values: [s.example]}
    - {key: "request.headers[x-a]", values: ["1,2"]}
    - {key: "experimental.envoy.filters.my.filter[k]", values: [v]}`)
	test := "name: n\nrequest:\n  to: {namespace: shop, labels: {}}\n  from: a/b\n  source_ip: 10.1.1.1\n  destination_ip: 10.2.2.2\n  port: 8080\n" +
		"  method: PUT\n  path: /a?q\n  host: h.example\n  sni: s.example\n  headers: {X-A: [1, 2], x-forwarded-for: 192.0.2.1}\n" +
		"  metadata: {envoy.filters.my.filter: {k: v}}\nexpect: {decision: ALLOW, policy: shop/p}"
	res := run(t, policytest.Config{Mesh: policy.Mesh{TrustDomain: "td"}}, documents, test)
	if res.Outcome != policytest.Passed {
		t.Errorf("%+v %+v", res.Mismatches, res.Request)
	}
}

// TestUnlabelled: a workload whose labels nobody says is denied, and that shows nothing of its policies: its proxy may say
// them. The name of a registered workload says whose they are.
func TestUnlabelled(t *testing.T) {
	t.Parallel()
	entry := func(name, account, labels string) string {
		return "---\napiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {namespace: shop, name: " + name + "}\n" +
			"spec: {address: 192.0.2.1, serviceAccount: " + account + ", labels: " + labels + "}\n"
	}
	documents := object("AuthorizationPolicy", "p", `{action: DENY, selector: {matchLabels: {app: order}}, rules: [{}]}`) +
		entry("order-1", "order", "{app: order}") + entry("menu-1", "menu", "{app: menu}") +
		entry("half-1", "half", "{app: order}") + entry("half-2", "half", "{app: menu}")
	for name, tc := range map[string]struct {
		to, expect, want string
	}{
		"a name with a typing mistake":           {"shop/odrer-1", "{decision: DENY}", "unknown"},
		"and its pass":                           {"shop/odrer-1", "{decision: ALLOW}", "unknown"},
		"the denial itself":                      {"shop/odrer-1", "{decision: DENY, layer: system}", "passed"},
		"a registered name":                      {"shop/order-1", "{decision: DENY, layer: deny}", "passed"},
		"another one":                            {"shop/menu-1", "{decision: ALLOW}", "passed"},
		"an account":                             {"{namespace: shop, service_account: menu}", "{decision: ALLOW}", "passed"},
		"an account with several sets of labels": {"{namespace: shop, service_account: half}", "{decision: DENY}", "unknown"},
		"one of them":                            {"shop/half-1", "{decision: DENY, layer: deny}", "passed"},
		"no labels, for certain":                 {"{namespace: shop, labels: {}}", "{decision: ALLOW}", "passed"},
		"where no policy asks for them":          {"tea/pot", "{decision: ALLOW}", "passed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			res := run(t, policytest.Config{Coverage: policy.NewCoverage()}, documents, "name: n\nrequest: {to: "+tc.to+"}\nexpect: "+tc.expect)
			if string(res.Outcome) != tc.want {
				t.Errorf("%s (%v, %v), want %s", res.Outcome, res.Open, res.Mismatches, tc.want)
			}
			if open := strings.Join(res.Open, ""); (tc.want == "unknown") != strings.HasPrefix(open, "the labels of ") {
				t.Errorf("open: %s", open)
			}
		})
	}
}
