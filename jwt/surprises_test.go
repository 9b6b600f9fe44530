package jwt_test

import (
	"crypto"
	"crypto/rsa"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/writ-auth/writ/jwt"
)

// surprise is one row of request-authentication §10. What a policy makes of an identity is tested with the policies; here
// is what it is given.
type surprise struct {
	name  string
	rules []jwt.Rule // default: one of issuerA at the default locations
	in    *jwt.Input
	body  string // of the refusal; empty = not refused
	who   string // subject of the identity; empty = anonymous
	check func(t *testing.T, out *jwt.Result)
}

func TestSurprises(t *testing.T) {
	for _, group := range [][]surprise{surprisesOfLocation(), surprisesOfClaims(), surprisesOfKeys(), surprisesOfOutput()} {
		for _, row := range group {
			t.Run(row.name, func(t *testing.T) {
				rules := row.rules
				if rules == nil {
					rules = []jwt.Rule{{Issuer: issuerA}}
				}
				out := validate(newValidator(rules...), row.in)
				who := ""
				if out.Token != nil {
					who = out.Token.Subject()
				}
				if out.Body != row.body || who != row.who {
					t.Errorf("body %q, identity %q (%s); want %q, %q", out.Body, who, out.Reason, row.body, row.who)
				}
				if (out.Status != 0) != (row.body != "") {
					t.Errorf("status %d", out.Status)
				}
				if row.check != nil {
					row.check(t, out)
				}
			})
		}
	}
}

func surprisesOfLocation() []surprise {
	good := goodToken()
	audience := []jwt.Rule{{Issuer: issuerA, Audiences: []string{"api"}}}
	twoDefaults := []jwt.Rule{{Issuer: issuerA}, {Issuer: issuerB}}
	apart := []jwt.Rule{
		{Issuer: issuerA, FromHeaders: []jwt.HeaderLocation{{Name: "x-a"}}},
		{Issuer: issuerB, FromHeaders: []jwt.HeaderLocation{{Name: "x-b"}}},
	}
	return []surprise{
		{name: "surprise 1: no token is accepted, anonymous", in: request()},
		{name: "surprise 2: no token gives a policy no principal to match", in: request("accept", "*/*")},
		{name: "surprise 5: a lower-case scheme is verified", in: request("authorization", "bearer "+good), who: "alice"},
		{name: "surprise 5: and refused if bad", in: request("authorization", "bearer "+forged(good)), body: fails},
		{name: "surprise 6: Basic is no token", in: request("authorization", "Basic abc")},
		{name: "surprise 7: Bearer alone is no token", in: request("authorization", "Bearer")},
		{name: "surprise 7: nor with the blank trimmed", in: request("authorization", "Bearer ")},
		{name: "surprise 8: Bearer !!! is malformed", in: request("authorization", "Bearer !!!"), body: malform},
		{name: "surprise 9: the prefix may be anywhere", in: request("authorization", "Token Bearer "+good), who: "alice"},
		{name: "surprise 10: four blanks", in: request("authorization", "Bearer    "+good), who: "alice"},
		{name: "surprise 11: trailing text", in: request("authorization", "Bearer "+good+" trailing"), body: fails},
		{name: "surprise 12: good header token and expired access_token in one rule",
			in:   withPath(bearer(good), "/?access_token="+payloadToken(`{"iss":"`+issuerA+`","exp":1}`)),
			body: "Jwt is expired"},
		{name: "surprise 13: garbage for the rule after the one that passed", rules: apart,
			in: request("x-a", good, "x-b", "garbage"), who: "alice"},
		{name: "surprise 13a: two issuers' tokens where both rules look", rules: twoDefaults,
			in: withPath(bearer(good), "/?access_token="+payloadToken(ofB)), body: unknown},
		{name: "surprise 40: five segments", in: bearer(good + ".a.b"), body: malform},
		{name: "surprise 60: a token in a cookie is always forwarded",
			rules: []jwt.Rule{{Issuer: issuerA, FromCookies: []string{"sid"}}},
			in:    request("cookie", "a=b; sid="+good), who: "alice",
			check: func(t *testing.T, out *jwt.Result) {
				if len(out.RemoveHeaders)+len(out.RemoveParams)+len(out.SetHeaders) != 0 {
					t.Errorf("changes the request: %+v", out)
				}
			}},
		{name: "surprise 61: a CORS preflight skips an expired token", in: &jwt.Input{Method: "OPTIONS", Now: testNow,
			Headers: []jwt.Header{{Name: "origin", Value: "https://x"}, {Name: "access-control-request-method", Value: "PUT"},
				{Name: "authorization", Value: "Bearer " + payloadToken(`{"iss":"`+issuerA+`","exp":1}`)}}}},
		{name: "surprise 62: a second rule of the issuer adds, it does not override",
			rules: []jwt.Rule{audience[0], {Issuer: issuerA, Audiences: []string{"web"}}},
			in:    bearer(goodToken(`"aud":"web"`)), who: "alice"},
		{name: "surprise 65: the challenge has no query", in: withPath(request(), "/a/b?access_token=x.y"), body: malform,
			check: func(t *testing.T, out *jwt.Result) {
				want := `Bearer realm="https://shop.example/a/b", error="invalid_token"`
				if out.Authenticate != want {
					t.Errorf("challenge %s, want %s", out.Authenticate, want)
				}
			}},
	}
}

func surprisesOfClaims() []surprise {
	expires := func(exp string) *jwt.Input {
		return bearer(payloadToken(`{"iss":"` + issuerA + `","sub":"alice","exp":` + exp + `}`))
	}
	api := []jwt.Rule{{Issuer: issuerA, Audiences: []string{"api"}}}
	notAllowed := "Audiences in Jwt are not allowed"
	audienceType := "Jwt payload [aud] field is not a string or string list"
	rows := []surprise{
		{name: "surprise 3: no sub", in: bearer(payloadToken(`{"iss":"` + issuerA + `"}`)),
			check: wantIdentity(issuerA, "")},
		{name: "surprise 4: empty sub", in: bearer(payloadToken(`{"iss":"` + issuerA + `","sub":""}`)),
			check: wantIdentity(issuerA, "")},
		{name: "surprise 14: expired and forged", body: "Jwt is expired",
			in: bearer(forged(payloadToken(`{"iss":"` + issuerA + `","exp":1}`)))},
		{name: "surprise 15: wrong audience and forged is 403", rules: api, in: bearer(forged(goodToken(`"aud":"web"`))),
			body: notAllowed, check: wantStatus(403)},
		{name: "surprise 16: an issuer no rule names", in: bearer(payloadToken(ofB)), body: unknown, check: wantStatus(401)},
		{name: "surprise 17: a slash more is another issuer", rules: []jwt.Rule{{Issuer: issuerA + "/"}},
			in: bearer(goodToken()), body: unknown},
		{name: "surprise 18: https:// and a slash do not count in an audience", rules: api,
			in: bearer(goodToken(`"aud":"https://api/"`)), who: "alice"},
		{name: "surprise 19: HTTPS:// does", rules: api, in: bearer(goodToken(`"aud":"HTTPS://api"`)), body: notAllowed},
		{name: "surprise 20: a number among the audiences", in: bearer(goodToken(`"aud":["other",5]`)), body: audienceType},
		{name: "surprise 21: aud null", in: bearer(goodToken(`"aud":null`)), body: audienceType},
		{name: "surprise 21: aud a number", in: bearer(goodToken(`"aud":123`)), body: audienceType},
		{name: "surprise 22: at exp + 60", in: at(expires("1800000000"), 1800000060), who: "alice"},
		{name: "surprise 22: at exp + 61", in: at(expires("1800000000"), 1800000061), body: "Jwt is expired"},
		{name: "surprise 23: no exp", in: at(bearer(payloadToken(`{"iss":"`+issuerA+`","sub":"alice"}`)), 1<<40), who: "alice"},
		{name: "surprise 24: exp 0 has expired", in: expires("0"), body: "Jwt is expired"},
		{name: "surprise 25: exp a string", in: expires(`"1800000000"`), body: "Jwt payload [exp] field is not an integer"},
		{name: "surprise 26: exp -1", in: expires("-1"), body: "Jwt payload [exp] field is not a positive 64 bit integer"},
		{name: "surprise 26: exp 1e30", in: expires("1e30"), body: "Jwt payload [exp] field is not a positive 64 bit integer"},
		{name: "surprise 27: exp with a fraction", in: at(expires("1800000000.9"), 1800000060), who: "alice"},
		{name: "surprise 27: it is cut off", in: at(expires("1800000000.9"), 1800000061), body: "Jwt is expired"},
		{name: "surprise 28: nbf 59 s ahead", in: bearer(goodToken(`"nbf":1800000059`)), who: "alice"},
		{name: "surprise 28: nbf 60 s ahead", in: bearer(goodToken(`"nbf":1800000060`)), who: "alice"},
		{name: "surprise 28: nbf 61 s ahead", in: bearer(goodToken(`"nbf":1800000061`)), body: "Jwt not yet valid"},
		{name: "surprise 29: iat a year ahead", in: bearer(goodToken(`"iat":1831536000`)), who: "alice"},
		{name: "surprise 29: iat a string", in: bearer(goodToken(`"iat":"x"`)), body: "Jwt payload [iat] field is not an integer"},
		{name: "surprise 35: iss twice", in: bearer(payloadToken(`{"iss":"` + issuerA + `","iss":"b"}`)),
			body: "Jwt payload is an invalid JSON"},
		{name: "surprise 36: Iss is not iss", in: bearer(goodToken(`"Iss":"b"`)), who: "alice", check: wantIdentity(issuerA, "alice")},
		{name: "surprise 64: a rule without issuer takes any", rules: []jwt.Rule{{JWKSURI: "https://x/keys"}},
			in: bearer(payloadToken(ofB)), who: "bob"},
	}
	for _, sub := range []string{"null", "7"} {
		rows = append(rows, surprise{name: "surprise 30: sub " + sub, body: "Jwt payload [sub] field is not a string",
			in: bearer(payloadToken(`{"iss":"` + issuerA + `","sub":` + sub + `}`))})
	}
	for _, payload := range []string{"null", "[]", `"x"`} {
		rows = append(rows, surprise{name: "surprise 37: payload " + payload, in: bearer(payloadToken(payload)),
			body: "Jwt payload is an invalid JSON"})
	}
	return rows
}

func surprisesOfKeys() []surprise {
	const noKey = "Jwks doesn't have key to match kid or alg from Jwt"
	es, rs := keyFor("ES256"), keyFor("RS256")
	with := func(keys ...testKey) []jwt.Rule { return []jwt.Rule{{Issuer: issuerA, JWKS: keySetJSON(keys...)}} }
	head := func(header string) *jwt.Input { return bearer(es.signRaw("ES256", header, claimSet())) }
	good := goodToken()
	var five []testKey
	for i := range 4 {
		five = append(five, newTestKey("ES256").withKID(fmt.Sprint(i)))
	}
	five = append(five, es)
	hmacKey := rs.sign("RS256", claimSet())
	return []surprise{
		{name: "surprise 31: kid a number", in: head(`{"alg":"ES256","kid":5}`), body: "Jwt header [kid] field is not a string"},
		{name: "surprise 31: kid null", in: head(`{"alg":"ES256","kid":null}`), body: "Jwt header [kid] field is not a string"},
		{name: "surprise 32: kid unknown, every key has one", in: head(`{"alg":"ES256","kid":"x"}`), body: noKey},
		{name: "surprise 33: kid unknown, a key without", rules: with(five[0], es.withKID("")),
			in: head(`{"alg":"ES256","kid":"x"}`), who: "alice"},
		{name: "surprise 34: no kid, five keys", rules: with(five...), in: head(`{"alg":"ES256"}`), who: "alice"},
		{name: "surprise 34: an empty kid is none", rules: with(five...), in: head(`{"alg":"ES256","kid":""}`), who: "alice"},
		{name: "surprise 38: a newline in the signature", in: bearer(good[:len(good)-4] + "\n" + good[len(good)-4:]), body: fails},
		{name: "surprise 39: unused bits of the last character",
			in: bearer(spareBits(good)), body: fails},
		{name: "surprise 41: crit", in: head(`{"alg":"ES256","kid":"es256","crit":["exp"]}`), body: fails},
		{name: "surprise 42: HS256 with RSA keys", rules: with(rs.withKID("")),
			in:   bearer(strings.Replace(hmacKey, hmacKey[:strings.IndexByte(hmacKey, '.')], b64([]byte(`{"alg":"HS256"}`)), 1)),
			body: "Jwt header [alg] is not supported"},
		{name: "surprise 43: the attacker's key in the header", body: fails,
			in: bearer(five[0].signRaw("ES256", `{"alg":"ES256","jwk":`+jsonOf(five[0].jwk())+`}`, claimSet())),
			check: func(t *testing.T, out *jwt.Result) {
				if !out.EmbeddedKey {
					t.Error("not counted")
				}
			}},
		{name: "surprise 44: PS256 without salt", rules: with(rs), body: fails, in: bearer(resign("PS256", rs, func(signed []byte) []byte {
			return rs.pss(crypto.SHA256, signed, 0)
		}))},
		{name: "surprise 44: PS256 with the longest salt", rules: with(rs), body: fails, in: bearer(resign("PS256", rs, func(signed []byte) []byte {
			return rs.pss(crypto.SHA256, signed, rsa.PSSSaltLengthAuto)
		}))},
		{name: "surprise 45: ES512 by a P-256 key", body: fails, in: bearer(resign("ES512", es, func(signed []byte) []byte {
			s := es.signature("ES512", signed) // SHA-512, 64 bytes; what only looks at the length wants 132
			return append(append(make([]byte, 34), s[:32]...), append(make([]byte, 34), s[32:]...)...)
		}))},
		{name: "surprise 46: use enc", rules: with(es.with("use", "enc"), newTestKey("ES256").withKID("other")), in: bearer(good), body: noKey},
		{name: "surprise 47: a key of an unknown type among good ones", who: "alice", in: bearer(good),
			rules: []jwt.Rule{{Issuer: issuerA, JWKS: `{"keys":[{"kty":"AKP","alg":"ML-DSA-44","pub":"AA"},` + jsonOf(es.jwk()) + `]}`}}},
		{name: "surprise 50: keys never fetched, no token", rules: []jwt.Rule{{Issuer: issuerA, JWKS: "none"}}, in: request()},
		{name: "surprise 51: keys never fetched, token", rules: []jwt.Rule{{Issuer: issuerA, JWKS: "none"}}, in: bearer(good),
			body: "Jwks doesn't have any valid public key"},
	}
}

func surprisesOfOutput() []surprise {
	lookup := func(claim string, want []string, path ...string) surprise {
		return surprise{in: bearer(goodToken(claim)), who: "alice", check: func(t *testing.T, out *jwt.Result) {
			if got := out.Token.Strings(path); !slices.Equal(got, want) || (got == nil) != (want == nil) {
				t.Errorf("%q: %q, want %q", path, got, want)
			}
		}}
	}
	named := func(name string, s surprise) surprise { s.name = name; return s }
	output := func(claim string) []jwt.Rule {
		return []jwt.Rule{{Issuer: issuerA, OutputClaimToHeaders: []jwt.OutputClaim{{Header: "X-Out", Claim: claim}}}}
	}
	removed := func(t *testing.T, out *jwt.Result) {
		if len(out.SetHeaders) != 0 || !slices.Contains(out.RemoveHeaders, "x-out") {
			t.Errorf("set %v, removed %v", out.SetHeaders, out.RemoveHeaders)
		}
	}
	return []surprise{
		named("surprise 52: a boolean matches nothing", lookup(`"email_verified":true`, nil, "email_verified")),
		named("surprise 53: scope is its words", lookup(`"scope":"read write"`, []string{"read", "write"}, "scope")),
		{name: "surprise 54: a slash in sub", in: bearer(payloadToken(`{"iss":"` + issuerA + `","sub":"repo:org/x"}`)),
			who: "repo:org/x", check: wantIdentity(issuerA, "repo:org/x")},
		named("surprise 56: a name that looks like a URL", lookup(`"https://a/b":"v"`, []string{"v"}, "https://a/b")),
		{name: "surprise 57: a dot always separates names", rules: output("a.b"), in: bearer(goodToken(`"a.b":"v"`)), who: "alice",
			check: removed},
		{name: "surprise 58: an output header from the client, no token", rules: output("sub"), in: request("x-out", "root"),
			check: removed},
		{name: "surprise 58: and on a preflight", rules: output("sub"), check: removed, in: &jwt.Input{Method: "OPTIONS", Now: testNow,
			Headers: []jwt.Header{{Name: "origin", Value: "https://x"}, {Name: "access-control-request-method", Value: "PUT"}}}},
		{name: "surprise 59: a number with a fraction", rules: output("n"), in: bearer(goodToken(`"n":1.5`)), who: "alice",
			check: func(t *testing.T, out *jwt.Result) {
				if want := (jwt.Header{Name: "x-out", Value: "1.500000"}); !slices.Equal(out.SetHeaders, []jwt.Header{want}) {
					t.Errorf("set %v, want %v", out.SetHeaders, want)
				}
			}},
	}
}

// TestSurprisesOfRefresh are the rows about keys that change: 48 and 49, as far as a set can tell. The fetching has tests
// of its own.
func TestSurprisesOfRefresh(t *testing.T) {
	t.Run("surprise 48: a 200 with HTML is no key set", func(t *testing.T) {
		if set, err := jwt.ParseKeySet([]byte("<html><body>login</body></html>")); err == nil {
			t.Errorf("%d keys", set.Len())
		} else if strings.Contains(err.Error(), "html") || strings.Contains(err.Error(), "<") {
			t.Errorf("the error quotes the document: %v", err)
		}
	})
	t.Run("surprise 49: the keys in force go on verifying", func(t *testing.T) {
		source := &fakeSource{keys: mustKeySet(keyFor("ES256"))}
		v := jwt.NewValidator([]jwt.Rule{{Issuer: issuerA, JWKSURI: "https://x"}}, func(jwt.Rule) jwt.Source { return source }, jwt.Options{})
		for range 3 {
			if out := validate(v, bearer(goodToken())); out.Token == nil {
				t.Error(out.Reason)
			}
		}
		if source.refetches != 0 {
			t.Errorf("%d refetches", source.refetches)
		}
	})
	t.Run("surprise 51: remote keys never fetched", func(t *testing.T) {
		source := &fakeSource{}
		v := jwt.NewValidator([]jwt.Rule{{Issuer: issuerA, JWKSURI: "https://x"}}, func(jwt.Rule) jwt.Source { return source }, jwt.Options{})
		if out := validate(v, bearer(goodToken())); out.Reason != jwt.KeysUnavailable || out.Body != "Jwks remote fetch is failed" {
			t.Errorf("%s: %s", out.Reason, out.Body)
		}
	})
}

func wantStatus(status int) func(*testing.T, *jwt.Result) {
	return func(t *testing.T, out *jwt.Result) {
		if out.Status != status {
			t.Errorf("status %d, want %d", out.Status, status)
		}
	}
}

func wantIdentity(issuer, subject string) func(*testing.T, *jwt.Result) {
	return func(t *testing.T, out *jwt.Result) {
		if out.Token == nil || out.Token.Issuer() != issuer || out.Token.Subject() != subject {
			t.Errorf("identity %v, want %s of %s", out.Token, subject, issuer)
		}
	}
}
