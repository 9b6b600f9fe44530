package e2e_test

import (
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/writ-auth/writ/internal/testkit"
)

// What Envoy answers, by name.
const (
	passed     = ""
	denied     = "RBAC: access denied"
	malformed  = "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections"
	unknownIss = "Jwt issuer is not configured"
	expired    = "Jwt is expired"
	notForUs   = "Audiences in Jwt are not allowed"
	noKey      = "Jwks doesn't have key to match kid or alg from Jwt"
	fails      = "Jwt verification fails"
	badJSON    = "Jwt payload is an invalid JSON"
)

// parity is one request that Envoy's own filters and writ are asked about.
type parity struct {
	name   string
	app    string
	target string // "/" if empty
	method string // GET if empty
	header []string
	want   string // body of Envoy's refusal, or passed
	// stricter is writ's refusal where Envoy passes the request, or the other way round; same if empty.
	stricter string
}

const verified = "verified" // for parity.stricter: Envoy does not see the token, writ verifies and passes it

// TestTokenParity asks Envoy's own jwt_authn and RBAC filters and writ about the same requests: status, body, challenge
// and what reaches the service must be the same, except where writ is stricter on purpose.
func TestTokenParity(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	a, other := b.identityProvider(t), b.identityProvider(t)
	apps := parityApplications(a, other)
	documents := ""
	for _, app := range apps {
		documents += app.documents(t)
	}
	b.policy(t, "tokens.yaml", documents)
	authority := b.serve(t, "authz.sock")
	if err := authority.WaitReady(bounded(t)); err != nil {
		t.Fatal(err)
	}
	envoy := b.tokenEnvoy(t, echo(t), apps, rawListener, joinedListener, nativeListener)
	client := plain(t)
	rows := slices.Concat(parityLocations(a, other), parityClaims(a, other), parityKeys(a), parityOutput(a, other))
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			send := func(listener string) response {
				method, target := row.method, row.target
				if method == "" {
					method = "GET"
				}
				if target == "" {
					target = "/"
				}
				return ask(t, client, envoy, listener, row.app, method, target, row.header...)
			}
			native := send(nativeListener)
			checkParity(t, "Envoy", native, row.want)
			for _, listener := range []string{rawListener, joinedListener} {
				ours := send(listener)
				if row.stricter != "" {
					checkParity(t, "writ, "+listener, ours, strings.TrimPrefix(row.stricter, verified))
					continue
				}
				compare(t, listener, native, ours)
			}
		})
	}
	if len(rows) < 60 {
		t.Errorf("only %d requests", len(rows))
	}
}

// checkParity holds an answer against the body of the refusal it should be.
func checkParity(t *testing.T, who string, got response, want string) {
	t.Helper()
	status := http.StatusUnauthorized
	switch want {
	case passed:
		status = http.StatusOK
	case denied, notForUs:
		status = http.StatusForbidden
	}
	if got.status != status || want != passed && got.body != want {
		t.Errorf("%s: got %d %q, want %d %q", who, got.status, got.body, status, want)
	}
	if challenged := got.header.Get("www-authenticate") != ""; challenged != (want != passed && want != denied) {
		t.Errorf("%s: challenge %q", who, got.header.Get("www-authenticate"))
	}
}

// compare demands that our answer is Envoy's, and that the service got the same request.
func compare(t *testing.T, listener string, native, ours response) {
	t.Helper()
	if ours.status != native.status {
		t.Fatalf("%s: got %d %q, Envoy says %d %q", listener, ours.status, ours.body, native.status, native.body)
	}
	if native.status == http.StatusOK {
		if got, want := echoed(t, ours), echoed(t, native); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: the service got\n%+v\nfrom Envoy's own filters\n%+v", listener, got, want)
		}
		return
	}
	if ours.body != native.body {
		t.Errorf("%s: got %q, Envoy says %q", listener, ours.body, native.body)
	}
	// Stricter: Envoy's realm has the query, token and all.
	challenge := native.header.Get("www-authenticate")
	if head, rest, ok := strings.Cut(challenge, "?"); ok {
		_, tail, _ := strings.Cut(rest, `"`)
		challenge = head + `"` + tail
	}
	if got := ours.header.Get("www-authenticate"); got != challenge {
		t.Errorf("%s: challenge %q, Envoy's is %q", listener, got, challenge)
	}
	got, want := ours.header.Clone(), native.header.Clone()
	for _, name := range []string{"Date", "Www-Authenticate"} {
		got.Del(name)
		want.Del(name)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s: headers %v, Envoy's are %v", listener, got, want)
	}
}

// parityApplications are the rules and policies that the requests meet, in Istio's and in Envoy's words.
func parityApplications(a, other *testkit.IdentityProvider) []application {
	outputs := object{
		"outputPayloadToHeader": "x-payload",
		"outputClaimToHeaders":  output("x-sub", "sub", "x-n", "n", "x-deep", "a.b", "x-list", "list", "x-flag", "flag"),
	}
	with := func(idp *testkit.IdentityProvider, more ...object) object {
		r := rule(idp, outputs)
		for _, m := range more {
			maps.Copy(r, m)
		}
		return r
	}
	withoutIDs := strings.NewReplacer(`"kid":"`+a.KeyID("ES256")+`",`, "").Replace(a.JWKS())
	return []application{
		{name: "anyone", rules: []object{with(a)}},
		{name: "kept", rules: []object{with(a, object{"forwardOriginalToken": true})}},
		{
			name: "required", rules: []object{with(a)},
			allow:      []object{{"from": list{object{"source": object{"requestPrincipals": list{"*"}}}}}},
			principals: list{anyPrincipal()},
		},
		{
			name: "claims", rules: []object{with(a)},
			allow: []object{
				{"when": list{object{"key": "request.auth.claims[scope]", "values": list{"orders:read"}}}},
				{"when": list{object{"key": "request.auth.claims[groups]", "values": list{"barista"}}}},
			},
			principals: list{hasElement("scope", "orders:read"), hasElement("groups", "barista")},
		},
		{name: "audience", rules: []object{with(a, object{"audiences": list{"api"}})}},
		{name: "both", rules: []object{with(other), with(a)}},
		{name: "bothkept", rules: []object{
			with(other, object{"forwardOriginalToken": true}), with(a, object{"forwardOriginalToken": true}),
		}},
		{
			name: "bothrequired", rules: []object{with(other), with(a)},
			allow:      []object{{"from": list{object{"source": object{"requestPrincipals": list{"*"}}}}}},
			principals: list{anyPrincipal()},
		},
		{name: "apart", rules: []object{
			with(a, object{"fromHeaders": list{object{"name": "x-a"}}}),
			with(other, object{"fromHeaders": list{object{"name": "x-b"}}, "outputClaimToHeaders": output("x-other", "sub")}),
		}},
		{name: "custom", rules: []object{with(a, object{
			"fromHeaders": list{object{"name": "X-JWT", "prefix": "Token "}, object{"name": "authorization", "prefix": "Bearer "}},
			"fromParams":  list{"tok"}, "fromCookies": list{"sid"},
		})}},
		{name: "nokid", rules: []object{with(a, object{"jwks": withoutIDs})}},
		{name: "encryption", rules: []object{with(a, object{"jwks": strings.ReplaceAll(a.JWKS(), `"use":"sig"`, `"use":"enc"`)})}},
		{name: "strangekey", rules: []object{with(a, object{
			"jwks": strings.Replace(a.JWKS(), `{"keys":[`, `{"keys":[{"kty":"OKP","crv":"X25519","x":"`+strings.Repeat("A", 43)+`"},`, 1),
		})}},
	}
}

func parityLocations(a, other *testkit.IdentityProvider) []parity {
	good := a.Sign(testkit.Token{Claims: object{"sub": "alice"}})
	second := a.Sign(testkit.Token{Claims: object{"sub": "carol"}})
	late := a.Sign(testkit.Token{Claims: object{"sub": "alice", "exp": 1}})
	of := other.Sign(testkit.Token{Claims: object{"sub": "bob"}})
	forged := a.Sign(testkit.Token{Claims: object{"sub": "mallory"}, Forged: true})
	bearer := func(token string) []string { return []string{"authorization: Bearer " + token} }
	return []parity{
		{name: "1: no token", app: "anyone"},
		{name: "2: no token, one is required", app: "required", want: denied},
		{name: "a good token", app: "required", header: bearer(good)},
		{name: "a good token, kept", app: "kept", header: bearer(good)},
		{name: "a forged token", app: "anyone", header: bearer(forged), want: fails},
		{name: "5: a lower-case scheme is no token", app: "anyone", header: []string{"authorization: bearer " + good}, stricter: verified},
		{name: "5: a lower-case scheme, one is required", app: "required", header: []string{"authorization: bearer " + good}, want: denied, stricter: verified},
		{name: "5: a lower-case scheme, expired", app: "anyone", header: []string{"authorization: bearer " + late}, stricter: expired},
		{name: "6: Basic", app: "anyone", header: []string{"authorization: Basic abc"}},
		{name: "6: Basic, a token is required", app: "required", header: []string{"authorization: Basic abc"}, want: denied},
		{name: "7: Bearer alone", app: "anyone", header: []string{"authorization: Bearer"}},
		{name: "7: Bearer and a blank", app: "anyone", header: []string{"authorization: Bearer "}},
		{name: "8: Bearer !!!", app: "anyone", header: bearer("!!!"), want: malformed},
		{name: "9: the prefix anywhere", app: "required", header: []string{"authorization: Token Bearer " + good}},
		{name: "10: four blanks", app: "required", header: []string{"authorization: Bearer    " + good}},
		{name: "11: trailing text", app: "anyone", header: bearer(good + " trailing"), want: fails},
		{name: "a tab instead of the blank", app: "anyone", header: []string{"authorization: Bearer\t" + good}},
		{name: "quotes around the token", app: "anyone", header: bearer(`"` + good + `"`), want: "Jwt signature is an invalid Base64url encoded"},
		{name: "access_token", app: "required", target: "/?access_token=" + good},
		{name: "access_token among others", app: "required", target: "/list?q=1&access_token=" + good + "&z=2"},
		{name: "access_token, kept", app: "kept", target: "/list?q=1&access_token=" + good + "&z=2"},
		{name: "access_token empty", app: "anyone", target: "/?access_token=", want: malformed},
		{name: "access_token percent-encoded", app: "required", target: "/?%61ccess_token=" + strings.ReplaceAll(good, ".", "%2E")},
		{name: "65: access_token in the challenge", app: "anyone", target: "/a/b?access_token=x.y", want: malformed},
		{name: "access_token twice", app: "required", target: "/?access_token=" + good + "&access_token=" + second},
		{name: "access_token in another case", app: "anyone", target: "/?Access_Token=" + forged},
		{name: "12: header good, parameter expired", app: "anyone", target: "/?access_token=" + late, header: bearer(good), want: expired},
		{name: "header and parameter good", app: "anyone", target: "/?access_token=" + second, header: bearer(good)},
		{name: "authorization twice", app: "anyone", header: append(bearer(good), bearer(second)...), want: malformed},
		{name: "13: garbage for the rule after the one that passed", app: "apart", header: []string{"x-a: " + good, "x-b: garbage"}},
		{name: "good tokens for two rules", app: "apart", header: []string{"x-a: " + good, "x-b: " + of}},
		{name: "the second rule's token alone", app: "apart", header: []string{"x-b: " + of}},
		{name: "the first rule's token bad, the second's good", app: "apart", header: []string{"x-a: " + late, "x-b: " + of}},
		// Envoy removes a token as soon as one rule has verified it, and so the next rule does not see it any more, unless
		// tokens are kept.
		{name: "13a: two issuers where both rules look", app: "both", target: "/?access_token=" + of, header: bearer(good), stricter: unknownIss},
		{name: "13a: the same, kept", app: "bothkept", target: "/?access_token=" + of, header: bearer(good), want: unknownIss},
		{name: "13a: the same, one is required", app: "bothrequired", target: "/?access_token=" + of, header: bearer(good), stricter: unknownIss},
		{name: "13a: the other way round", app: "bothrequired", target: "/?access_token=" + good, header: bearer(of), stricter: unknownIss},
		{name: "one of two issuers", app: "both", header: bearer(good)},
		{name: "the other of two issuers", app: "both", header: bearer(of)},
		{name: "custom header", app: "custom", header: []string{"x-jwt: Token " + good}},
		{name: "custom header, prefix in another case", app: "custom", header: []string{"x-jwt: token " + good}},
		{name: "custom header, repeated", app: "custom", header: []string{"x-jwt: Token " + good, "x-jwt: Token " + second}},
		{name: "custom header, second one bad", app: "custom", header: []string{"x-jwt: Token " + good, "x-jwt: Token " + forged}, want: fails},
		{name: "custom header, first one bad", app: "custom", header: []string{"x-jwt: Token " + late, "x-jwt: Token " + good}, want: expired},
		{name: "custom header, nine times", app: "custom", header: slices.Repeat([]string{"x-jwt: Token " + good}, 9), stricter: fails},
		{name: "custom and authorization", app: "custom", header: append(bearer(second), "x-jwt: Token "+good)},
		{name: "default parameter where locations are named", app: "custom", target: "/?access_token=" + forged},
		{name: "custom parameter", app: "custom", target: "/p?q=1&tok=" + good + "&z=2"},
		{name: "custom parameter twice, second one bad", app: "custom", target: "/?tok=" + good + "&tok=" + late, stricter: expired},
		{name: "60: cookie", app: "custom", header: []string{"cookie: a=b; sid=" + good + "; c=d"}},
		{name: "cookie in quotes", app: "custom", header: []string{`cookie: sid="` + good + `"`}},
		{name: "cookie forged", app: "custom", header: []string{"cookie: sid=" + forged}, want: fails},
		{name: "cookie twice, second one bad", app: "custom", header: []string{"cookie: sid=" + good + "; sid=" + forged}, stricter: fails},
		{name: "61: preflight, expired", app: "anyone", method: "OPTIONS",
			header: append(bearer(late), "origin: https://x", "access-control-request-method: PUT")},
		{name: "61: preflight, a token is required", app: "required", method: "OPTIONS", want: denied,
			header: append(bearer(good), "origin: https://x", "access-control-request-method: PUT")},
		{name: "61: OPTIONS without origin", app: "anyone", method: "OPTIONS", header: append(bearer(late), "access-control-request-method: PUT"), want: expired},
		{name: "40: five segments", app: "anyone", header: bearer(good + ".a.b"), want: malformed},
		{name: "38: a newline in the signature", app: "anyone", target: "/?access_token=" + good[:len(good)-4] + "%0A" + good[len(good)-4:], stricter: fails},
	}
}

func parityClaims(a, other *testkit.IdentityProvider) []parity {
	now := time.Now().Unix()
	row := func(name, app, want string, claims object) parity {
		claims = maps.Clone(claims)
		if _, ok := claims["sub"]; !ok {
			claims["sub"] = "alice"
		}
		return parity{name: name, app: app, want: want, header: []string{"authorization: Bearer " + a.Sign(testkit.Token{Claims: claims})}}
	}
	payload := func(name, want, text string) parity {
		return parity{name: name, app: "anyone", want: want, header: []string{"authorization: Bearer " + a.Sign(testkit.Token{Payload: text})}}
	}
	integer := func(name string) string { return "Jwt payload [" + name + "] field is not an integer" }
	ranged := func(name string) string {
		return "Jwt payload [" + name + "] field is not a positive 64 bit integer"
	}
	const audience = "Jwt payload [aud] field is not a string or string list"
	forgedAnd := func(name, app, want string, claims object) parity {
		return parity{name: name, app: app, want: want,
			header: []string{"authorization: Bearer " + a.Sign(testkit.Token{Claims: claims, Forged: true})}}
	}
	nested := func(depth int) string {
		return `{"iss":"` + a.Issuer + `","deep":` + strings.Repeat("[", depth) + strings.Repeat("]", depth) + `}`
	}
	huge := row("20 KiB", "anyone", passed, object{"pad": strings.Repeat("x", 15<<10)})
	huge.stricter = fails
	zero := row("24: exp 0", "anyone", passed, object{"exp": 0})
	zero.stricter = expired
	null := payload("37: null", unknownIss, `null`)
	null.stricter = badJSON
	return []parity{
		row("3: no sub, a principal is required", "required", denied, object{"sub": testkit.Absent}),
		row("4: empty sub, a principal is required", "required", denied, object{"sub": ""}),
		forgedAnd("14: expired and forged", "anyone", expired, object{"exp": 1}),
		forgedAnd("15: wrong audience and forged", "audience", notForUs, object{"aud": "web"}),
		{name: "16: an issuer no rule names", app: "anyone", want: unknownIss,
			header: []string{"authorization: Bearer " + other.Sign(testkit.Token{})}},
		row("17: a slash more is another issuer", "anyone", unknownIss, object{"iss": a.Issuer + "/"}),
		row("no issuer", "anyone", unknownIss, object{"iss": testkit.Absent}),
		row("issuer a number", "anyone", "Jwt payload [iss] field is not a string", object{"iss": 5}),
		row("audience", "audience", passed, object{"aud": "api"}),
		row("audience in a list", "audience", passed, object{"aud": list{"web", "api"}}),
		row("no audience", "audience", notForUs, object{}),
		row("18: https:// and a slash do not count", "audience", passed, object{"aud": "https://api/"}),
		row("19: HTTPS:// does", "audience", notForUs, object{"aud": "HTTPS://api"}),
		row("20: a number among audiences", "anyone", audience, object{"aud": list{"other", 5}}),
		row("21: aud null", "anyone", audience, object{"aud": nil}),
		row("21: aud a number", "anyone", audience, object{"aud": 123}),
		row("22: expired 30 s ago", "anyone", passed, object{"exp": now - 30}),
		row("22: expired 90 s ago", "anyone", expired, object{"exp": now - 90}),
		row("23: no exp", "anyone", passed, object{"exp": testkit.Absent}),
		zero, huge,
		payload("nested 99 deep", passed, nested(99)),
		payload("nested 100 deep", badJSON, nested(100)),
		row("25: exp a string", "anyone", integer("exp"), object{"exp": "4000000000"}),
		row("26: exp -1", "anyone", ranged("exp"), object{"exp": -1}),
		row("26: exp 1e30", "anyone", ranged("exp"), object{"exp": 1e30}),
		row("27: exp with a fraction", "anyone", passed, object{"exp": float64(now) - 30.5}),
		row("28: nbf 30 s ahead", "anyone", passed, object{"nbf": now + 30}),
		row("28: nbf 90 s ahead", "anyone", "Jwt not yet valid", object{"nbf": now + 90}),
		row("nbf a string", "anyone", integer("nbf"), object{"nbf": "1"}),
		row("29: iat a year ahead", "anyone", passed, object{"iat": now + 31536000}),
		row("29: iat a string", "anyone", integer("iat"), object{"iat": "x"}),
		row("30: sub null", "anyone", "Jwt payload [sub] field is not a string", object{"sub": nil}),
		row("30: sub a number", "anyone", "Jwt payload [sub] field is not a string", object{"sub": 7}),
		row("jti a number", "anyone", "Jwt payload [jti] field is not a string", object{"jti": 7}),
		payload("35: iss twice", badJSON, `{"iss":"`+a.Issuer+`","iss":"b"}`),
		payload("a name twice, deeper", badJSON, `{"iss":"`+a.Issuer+`","a":{"b":1,"b":2}}`),
		payload("36: Iss is not iss", passed, `{"iss":"`+a.Issuer+`","Iss":"b"}`),
		null,
		payload("37: a list", badJSON, `[]`),
		payload("37: a string", badJSON, `"x"`),
		payload("text behind the object", badJSON, `{"iss":"`+a.Issuer+`"} x`),
		row("53: a word of scope", "claims", passed, object{"scope": "orders:write orders:read"}),
		row("53: the whole scope is no word", "claims", denied, object{"scope": "orders:read,orders:write"}),
		row("groups", "claims", passed, object{"groups": list{"guest", "barista"}}),
		row("a group as text", "claims", passed, object{"groups": "barista"}),
		row("groups are not split", "claims", denied, object{"groups": "guest barista"}),
		row("52: no boolean matches", "claims", denied, object{"groups": true, "scope": false}),
		{name: "claims are asked for, no token", app: "claims", want: denied},
	}
}

func parityKeys(a *testkit.IdentityProvider) []parity {
	head := func(name, app, want, text string) parity {
		token := a.Sign(testkit.Token{HeaderText: text, Claims: object{"sub": "alice"}})
		return parity{name: name, app: app, want: want, header: []string{"authorization: Bearer " + token}}
	}
	stricter := func(p parity, body string) parity { p.stricter = body; return p }
	signed := func(name, algorithm string) parity {
		return parity{name: name, app: "required", header: []string{
			"authorization: Bearer " + a.Sign(testkit.Token{Algorithm: algorithm, Claims: object{"sub": "alice"}})}}
	}
	good := a.Sign(testkit.Token{Claims: object{"sub": "alice"}})
	kid := a.KeyID("ES256")
	const unsupported = "Jwt header [alg] is not supported"
	return []parity{
		signed("RS256", "RS256"), signed("ES256", "ES256"), signed("EdDSA", "EdDSA"),
		head("alg none", "anyone", unsupported, `{"alg":"none"}`),
		head("alg in lower case", "anyone", unsupported, `{"alg":"es256"}`),
		head("no alg", "anyone", "Jwt header [alg] field is required and must be a string", `{"kid":"`+kid+`"}`),
		head("31: kid a number", "anyone", "Jwt header [kid] field is not a string", `{"alg":"ES256","kid":5}`),
		head("32: kid unknown", "anyone", noKey, `{"alg":"ES256","kid":"x"}`),
		head("33: kid unknown, a key without", "nokid", passed, `{"alg":"ES256","kid":"x"}`),
		head("34: no kid", "anyone", passed, `{"alg":"ES256"}`),
		head("another algorithm's kid", "anyone", noKey, `{"alg":"ES256","kid":"`+a.KeyID("RS256")+`"}`),
		head("the header is no JSON", "anyone", "Jwt header is an invalid JSON", `alg`),
		head("43: the attacker's key in the header", "anyone", passed, `{"alg":"ES256","jwk":{"kty":"oct","k":"AAAA"},"jku":"https://evil.example"}`),
		stricter(head("41: crit", "anyone", passed, `{"alg":"ES256","crit":["exp"],"exp":1}`), fails),
		stricter(parity{name: "39: unused bits of the last character", app: "anyone", header: []string{"authorization: Bearer " + spareBits(good)}}, fails),
		stricter(parity{name: "padding", app: "anyone", header: []string{"authorization: Bearer " + good + "=="}}, fails),
		stricter(parity{name: "46: use enc", app: "encryption", header: []string{"authorization: Bearer " + good}}, "Jwks doesn't have any valid public key"),
		{name: "47: a key that signs nothing among good ones", app: "strangekey", header: []string{"authorization: Bearer " + good}},
		{name: "a character no base64 has", app: "anyone", want: "Jwt payload is an invalid Base64url encoded",
			header: []string{"authorization: Bearer " + strings.Replace(good, ".", ".!", 1)}},
	}
}

// spareBits changes the last character of a 64-byte signature in the bits that no byte uses.
func spareBits(token string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := strings.IndexByte(alphabet, token[len(token)-1])
	return token[:len(token)-1] + string(alphabet[last^1])
}

func parityOutput(a, other *testkit.IdentityProvider) []parity {
	claims := func(name string, claims object) parity {
		return parity{name: name, app: "anyone", header: []string{"authorization: Bearer " + a.Sign(testkit.Token{Claims: claims})}}
	}
	spoofed := []string{"x-sub: root", "x-payload: forged", "x-n: 1", "X-Deep: 2", "x-list: 3", "x-flag: 4"}
	good := "authorization: Bearer " + a.Sign(testkit.Token{Claims: object{"sub": "alice"}})
	return []parity{
		{name: "58: spoofed, no token", app: "anyone", header: spoofed},
		{name: "58: spoofed, with a token", app: "anyone", header: append(slices.Clone(spoofed), good)},
		{name: "58: spoofed on a preflight", app: "anyone", method: "OPTIONS",
			header: append(slices.Clone(spoofed), "origin: https://x", "access-control-request-method: PUT")},
		{name: "58: spoofed, two rules, the token of one", app: "apart", header: []string{
			"x-sub: root", "x-other: root", "x-b: " + other.Sign(testkit.Token{Claims: object{"sub": "bob"}})}},
		claims("an integer", object{"sub": "alice", "n": 42}),
		claims("59: a fraction", object{"sub": "alice", "n": 1.5}),
		claims("a negative number", object{"sub": "alice", "n": -1}),
		claims("an integer above 2^53", object{"sub": "alice", "n": 9007199254740993}),
		claims("a nested claim", object{"sub": "alice", "a": object{"b": "deep"}}),
		claims("57: a name with a dot", object{"sub": "alice", "a.b": "flat"}),
		claims("a boolean", object{"sub": "alice", "flag": true}),
		claims("null", object{"sub": "alice", "flag": nil}),
		claims("a list", object{"sub": "alice", "list": list{"x", 1, nil}}),
		claims("an object", object{"sub": "alice", "list": object{"k": "v"}}),
		claims("an empty string", object{"sub": "", "n": 1}),
		claims("letters beyond ASCII", object{"sub": "zoë"}),
	}
}
