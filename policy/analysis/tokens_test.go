package analysis_test

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/writ-auth/writ/policy"
)

// tokens is a RequestAuthentication of namespace shop with this spec.
func tokens(name, spec string) string {
	return fmt.Sprintf("apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: %s, namespace: shop}\nspec: %s\n---\n", name, spec)
}

// keySet is a rule with these keys as inline jwks.
func keySet(keys string) string {
	return tokens("a", fmt.Sprintf("{jwtRules: [{issuer: https://idp.example, audiences: [a], jwks: %q}]}", keys))
}

func rsaKey(bits, exponent int, more string) string {
	modulus := make([]byte, bits/8)
	modulus[0], modulus[len(modulus)-1] = 0x80, 1
	e := []byte{byte(exponent >> 16), byte(exponent >> 8), byte(exponent)}
	encode := base64.RawURLEncoding.EncodeToString
	return fmt.Sprintf(`{"kty":"RSA","n":%q,"e":%q%s}`, encode(modulus), encode([]byte(strings.TrimLeft(string(e), "\x00"))), more)
}

func ecKey(curve string, bytes int, more string) string {
	coordinate := base64.RawURLEncoding.EncodeToString(make([]byte, bytes))
	return fmt.Sprintf(`{"kty":"EC","crv":%q,"x":%q,"y":%q%s}`, curve, coordinate, coordinate, more)
}

func keys(keys ...string) string { return `{"keys":[` + strings.Join(keys, ",") + `]}` }

const anyToken = `{rules: [{from: [{source: {requestPrincipals: ["*"]}}]}]}`

// need is a policy that asks for a token of this request principal.
func need(principal string) string {
	return authz("need", fmt.Sprintf(`{rules: [{from: [{source: {requestPrincipals: [%q]}}]}]}`, principal))
}

const auth0 = "https://shop.auth0.com/"

var tokenCases = []hazardCase{
	{code: "WRIT370", name: "no audiences",
		fires: tokens("a", `{jwtRules: [{issuer: https://idp.example}]}`),
		quiet: tokens("a", `{jwtRules: [{issuer: https://idp.example, audiences: [orders]}]}`),
		field: "spec.jwtRules[0]", says: "made for other services"},

	{code: "WRIT371", name: "jwksUri",
		fires: tokens("a", `{jwtRules: [{issuer: idp, jwksUri: "http://idp.example/keys"}]}`),
		quiet: tokens("a", `{jwtRules: [{issuer: "http://idp.example", jwksUri: "https://idp.example/keys"}]}`),
		field: "spec.jwtRules[0].jwksUri", says: "replace them"},
	{code: "WRIT371", name: "discovery",
		fires: tokens("a", `{jwtRules: [{issuer: "http://idp.example"}]}`),
		quiet: keySet(keys(ecKey("P-256", 32, ""))) + tokens("b", `{jwtRules: [{issuer: "http://idp.example", jwks: '`+keys(ecKey("P-256", 32, ""))+`'}]}`),
		field: "spec.jwtRules[0].issuer"},

	{code: "WRIT372", name: "short RSA", fires: keySet(keys(rsaKey(1024, 65537, ""), rsaKey(2048, 65537, ""))), quiet: keySet(keys(rsaKey(2048, 65537, ""))),
		field: "spec.jwtRules[0].jwks", says: "key 0 cannot be used: RSA with 1024 bits"},
	{code: "WRIT372", name: "one bit short", fires: keySet(keys(strings.Replace(rsaKey(2048, 65537, ""), `"n":"g`, `"n":"Q`, 1))), quiet: keySet(keys(rsaKey(8192, 3, ""))),
		field: "spec.jwtRules[0].jwks", says: "2047 bits"},
	{code: "WRIT372", name: "exponent", fires: keySet(keys(rsaKey(2048, 17, ""))), quiet: keySet(keys(rsaKey(2048, 3, ""))),
		field: "spec.jwtRules[0].jwks", says: "no key is left, so every token of this rule is refused"},
	{code: "WRIT372", name: "alg", fires: keySet(keys(rsaKey(2048, 65537, `,"alg":"ES256"`))), quiet: keySet(keys(rsaKey(2048, 65537, `,"alg":"PS256"`))),
		field: "spec.jwtRules[0].jwks", says: `alg "ES256"`},
	{code: "WRIT372", name: "curve and alg", fires: keySet(keys(ecKey("P-384", 48, `,"alg":"ES256"`))), quiet: keySet(keys(ecKey("P-384", 48, `,"alg":"ES384"`))),
		field: "spec.jwtRules[0].jwks", says: `alg "ES256"`},
	{code: "WRIT372", name: "curve", fires: keySet(keys(ecKey("secp256k1", 32, ""))), quiet: keySet(keys(ecKey("P-521", 66, ""))),
		field: "spec.jwtRules[0].jwks", says: "secp256k1"},
	{code: "WRIT372", name: "coordinates", fires: keySet(keys(ecKey("P-256", 31, ""))), quiet: keySet(keys(ecKey("P-256", 32, ""))),
		field: "spec.jwtRules[0].jwks", says: "not 32 bytes"},
	{code: "WRIT372", name: "Ed448", fires: keySet(keys(`{"kty":"OKP","crv":"Ed448","x":"AAAA"}`)),
		quiet: keySet(keys(`{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}`)), field: "spec.jwtRules[0].jwks", says: "Ed25519"},
	{code: "WRIT372", name: "use", fires: keySet(keys(rsaKey(2048, 65537, `,"use":"enc"`))), quiet: keySet(keys(rsaKey(2048, 65537, `,"use":"sig"`))),
		field: "spec.jwtRules[0].jwks", says: `use is "enc"`},
	{code: "WRIT372", name: "key_ops", fires: keySet(keys(rsaKey(2048, 65537, `,"key_ops":["sign"]`))),
		quiet: keySet(keys(rsaKey(2048, 65537, `,"key_ops":["sign","verify"]`))), field: "spec.jwtRules[0].jwks", says: "verify"},
	{code: "WRIT372", name: "symmetric", fires: keySet(keys(`{"kty":"oct","k":"c2VjcmV0"}`)), quiet: keySet(keys(ecKey("P-256", 32, ""))),
		field: "spec.jwtRules[0].jwks", says: "symmetric"},
	{code: "WRIT372", name: "no set", fires: keySet(ecKey("P-256", 32, "")), quiet: keySet(keys(ecKey("P-256", 32, ""))),
		field: "spec.jwtRules[0].jwks", says: "a key alone is no key set"},

	{code: "WRIT373", name: "no RequestAuthentication",
		fires: authz("a", anyToken),
		quiet: authz("a", anyToken) + requestAuthentication("https://idp.example"),
		field: "spec.rules[0].from[0].source.requestPrincipals", says: "the rule never matches"},
	{code: "WRIT373", name: "for others only",
		fires: authz("a", `{selector: {matchLabels: {app: order}}, rules: [{when: [{key: "request.auth.claims[role]", notValues: [guest]}]}]}`) +
			tokens("r", `{selector: {matchLabels: {app: till}}, jwtRules: [{issuer: https://idp.example}]}`),
		quiet: authz("a", `{selector: {matchLabels: {app: order}}, rules: [{when: [{key: "request.auth.claims[role]", notValues: [guest]}]}]}`) +
			tokens("r", `{selector: {matchLabels: {tier: front}}, jwtRules: [{issuer: https://idp.example}]}`),
		field: "spec.rules[0].when[0].notValues", says: "the condition holds for every request"},
	{code: "WRIT373", name: "one without rules does not count",
		fires: authz("a", anyToken) + tokens("r", "{}"),
		quiet: authz("a", anyToken) + tokens("r", "{jwtRules: [{issuer: https://idp.example}]}"),
		field: "spec.rules[0].from[0].source.requestPrincipals"},
	{code: "WRIT373", name: "a registered workload is left out",
		fires: authz("a", anyToken) + tokens("r", `{selector: {matchLabels: {app: order}}, jwtRules: [{issuer: https://idp.example}]}`) +
			workload("w", "{app: till}", "{http: 8080}") + workload("v", "{app: order}", "{http: 8080}"),
		quiet: authz("a", anyToken) + tokens("r", `{selector: {matchLabels: {app: order}}, jwtRules: [{issuer: https://idp.example}]}`) +
			workload("v", "{app: order}", "{http: 8080}"),
		field: "spec.rules[0].from[0].source.requestPrincipals", says: "app=till"},
	{code: "WRIT373", name: "of the root namespace",
		fires: authz("a", anyToken) + strings.Replace(requestAuthentication("https://idp.example"), "namespace: shop", "namespace: other", 1),
		quiet: authz("a", anyToken) + strings.Replace(requestAuthentication("https://idp.example"), "namespace: shop", "namespace: istio-system", 1),
		field: "spec.rules[0].from[0].source.requestPrincipals"},

	{code: "WRIT374", name: "no policy",
		fires: requestAuthentication("https://idp.example") + authz("a", `{rules: [{from: [{source: {namespaces: [shop]}}]}]}`),
		quiet: requestAuthentication("https://idp.example") + authz("a", anyToken),
		field: "spec", says: "requests without a token pass"},
	{code: "WRIT374", name: "a trial requires nothing",
		fires: requestAuthentication("https://idp.example") + strings.Replace(authz("a", anyToken), "namespace: shop", `namespace: shop, annotations: {istio.io/dry-run: "true"}`, 1),
		quiet: requestAuthentication("https://idp.example") + authz("a", `{action: DENY, rules: [{from: [{source: {notRequestPrincipals: ["*"]}}]}]}`),
		field: "spec"},
	{code: "WRIT374", name: "what is recorded is not required",
		fires: requestAuthentication("https://idp.example") + authz("a", `{action: AUDIT, rules: [{from: [{source: {requestPrincipals: ["*"]}}]}]}`),
		quiet: requestAuthentication("https://idp.example") + custom("a", "opa"),
		field: "spec"},
	{code: "WRIT374", name: "for others",
		fires: tokens("r", `{selector: {matchLabels: {app: till}}, jwtRules: [{issuer: https://idp.example}]}`) +
			authz("a", `{selector: {matchLabels: {app: order}}, rules: [{from: [{source: {requestPrincipals: ["*"]}}]}]}`),
		quiet: tokens("r", `{selector: {matchLabels: {app: till}}, jwtRules: [{issuer: https://idp.example}]}`) + authz("a", anyToken),
		field: "spec"},

	{code: "WRIT375", name: "in one document",
		fires: tokens("r", `{jwtRules: [{issuer: https://idp.example, audiences: [a]}, {issuer: https://idp.example}]}`),
		quiet: tokens("r", `{jwtRules: [{issuer: https://idp.example, audiences: [a]}, {issuer: https://idp.example, audiences: [b]}, {issuer: https://other.example}]}`),
		field: "spec.jwtRules[1]", says: "shop/r jwtRules[0]"},
	{code: "WRIT375", name: "in another document",
		fires: requestAuthentication("https://idp.example") + tokens("b", `{selector: {matchLabels: {app: till}}, jwtRules: [{issuer: https://idp.example, audiences: [a]}]}`),
		quiet: tokens("r", `{selector: {matchLabels: {app: order}}, jwtRules: [{issuer: https://idp.example}]}`) +
			tokens("b", `{selector: {matchLabels: {app: till}}, jwtRules: [{issuer: https://idp.example, audiences: [a]}]}`),
		field: "spec.jwtRules[0]", says: "shop/b jwtRules[0]"},

	{code: "WRIT376", name: "default locations",
		fires: tokens("r", `{jwtRules: [{issuer: https://a.example}, {issuer: https://b.example}]}`),
		quiet: tokens("r", `{jwtRules: [{issuer: https://a.example}, {issuer: https://b.example, fromHeaders: [{name: x-b}]}]}`),
		field: "spec.jwtRules[1]", says: "header authorization"},
	{code: "WRIT376", name: "cookie",
		fires: tokens("r", `{jwtRules: [{issuer: https://a.example, fromCookies: [t], fromParams: [t]}, {issuer: https://b.example, fromCookies: [t]}]}`),
		quiet: tokens("r", `{jwtRules: [{issuer: https://a.example, fromCookies: [t], fromParams: [u]}, {issuer: https://b.example, fromParams: [t]}, {issuer: https://a.example, fromParams: [u]}]}`),
		field: "spec.jwtRules[1]", says: "cookie t"},

	{code: "WRIT377", name: "request principal",
		fires: need(auth0+"alice") + requestAuthentication(auth0),
		quiet: need(auth0+"/alice") + requestAuthentication(auth0),
		field: "spec.rules[0].from[0].source.requestPrincipals[0]", says: `"https://shop.auth0.com//alice"`},
	{code: "WRIT377", name: "claim",
		fires: authz("a", `{rules: [{when: [{key: "request.auth.claims[iss]", values: ["https://idp.example/"]}]}]}`) + requestAuthentication("https://idp.example"),
		quiet: authz("a", `{rules: [{when: [{key: "request.auth.claims[iss]", values: ["https://idp.example"]}]}]}`) + requestAuthentication("https://idp.example"),
		field: "spec.rules[0].when[0].values[0]", says: `write "https://idp.example"`},
	{code: "WRIT377", name: "two rules",
		fires: tokens("r", `{jwtRules: [{issuer: "https://idp.example"}, {issuer: "https://idp.example/"}]}`),
		quiet: tokens("r", `{jwtRules: [{issuer: "https://idp.example"}, {issuer: "https://idp.example/shop"}]}`),
		field: "spec.jwtRules[1].issuer"},

	{code: "WRIT378", name: "request principal",
		fires: need("https://idp.exmaple/alice") + requestAuthentication("https://idp.example"),
		quiet: need("https://idp.example/alice") + requestAuthentication("https://idp.example"),
		field: "spec.rules[0].from[0].source.requestPrincipals[0]", says: `"https://idp.example"`},
	{code: "WRIT378", name: "any issuer will do",
		fires: need("https://idp.exmaple/*") + requestAuthentication("https://idp.example"),
		quiet: need("https://idp.exmaple/*") + tokens("r", `{jwtRules: [{jwksUri: "https://idp.example/keys"}]}`),
		field: "spec.rules[0].from[0].source.requestPrincipals[0]"},
	{code: "WRIT378", name: "WRIT312 knows better",
		fires: need("https://idp.example/team") + requestAuthentication("https://idp.example/shop"),
		quiet: need("https://idp.example/team/alice") + requestAuthentication("https://idp.example"),
		field: "spec.rules[0].from[0].source.requestPrincipals[0]"},

	{code: "WRIT379", name: "no rules",
		fires: tokens("r", "{selector: {matchLabels: {app: order}}}"),
		quiet: requestAuthentication("https://idp.example"),
		field: "spec"},

	{code: "WRIT380", name: "an address",
		fires: tokens("a", `{jwtRules: [{issuer: idp@shop.example}]}`),
		quiet: tokens("a", `{jwtRules: [{issuer: idp@shop.example, jwksUri: "https://idp.example/keys"}]}`),
		field: "spec.jwtRules[0].issuer", says: "write jwksUri"},
	{code: "WRIT380", name: "a query",
		fires: tokens("a", `{jwtRules: [{issuer: "https://idp.example?shop=1"}]}`),
		quiet: tokens("a", `{jwtRules: [{issuer: "https://idp.example/shop/1"}]}`),
		field: "spec.jwtRules[0].issuer"},
}

// TestOneFindingForEachTokenRule keeps the codes that explain one another from being reported together.
func TestOneFindingForEachTokenRule(t *testing.T) {
	text := tokens("r", `{jwtRules: [{issuer: https://idp.example, audiences: [a]}, {issuer: https://idp.example}]}`) + authz("a", anyToken)
	if got := strings.Join(codes(lint(t, policy.Mesh{}, text)), ", "); got != "WRIT375 spec.jwtRules[1]" {
		t.Errorf("got %s", got)
	}
}

// TestRealKey holds the structural reading to a key that a library made.
func TestRealKey(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	encode := base64.RawURLEncoding.EncodeToString
	set, err := json.Marshal(map[string]any{"keys": []any{map[string]any{
		"kty": "RSA", "kid": "1", "alg": "RS256", "use": "sig", "n": encode(key.N.Bytes()), "e": "AQAB",
	}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range lint(t, policy.Mesh{}, keySet(string(set))) {
		if p.Code == "WRIT372" {
			t.Errorf("reported without reason: %v", p)
		}
	}
}
