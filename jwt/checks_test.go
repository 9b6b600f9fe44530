package jwt_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/writ-auth/writ/jwt"
)

// check is one of request-authentication §3.2: a header and payload that fail it, and it alone of those before it.
type check struct {
	reason          jwt.Reason
	header, payload string // empty: good ones
	token           func(token string) string
	status          int
	body            string
}

func tableOfChecks() []check {
	es := `{"alg":"ES256","kid":"es256"}`
	payload := func(claims string) string { return `{"iss":"` + issuerA + `",` + claims + `}` }
	segment := func(i int, text string) func(string) string {
		return func(token string) string {
			parts := strings.Split(token, ".")
			parts[i] = text
			return strings.Join(parts, ".")
		}
	}
	return []check{
		{reason: jwt.Malformed, token: func(string) string { return "a.b" }, body: malform},
		{reason: jwt.HeaderEncoding, token: segment(0, "a+b"), body: "Jwt header is an invalid Base64url encoded"},
		{reason: jwt.HeaderJSON, header: `{"alg":"ES256","alg":"ES256"}`, body: "Jwt header is an invalid JSON"},
		{reason: jwt.AlgorithmType, header: `{"kid":"es256"}`, body: "Jwt header [alg] field is required and must be a string"},
		{reason: jwt.AlgorithmType, header: `{"alg":5}`, body: "Jwt header [alg] field is required and must be a string"},
		{reason: jwt.AlgorithmUnsupported, header: `{"alg":"none"}`, body: "Jwt header [alg] is not supported"},
		{reason: jwt.KeyIDType, header: `{"alg":"ES256","kid":[]}`, body: "Jwt header [kid] field is not a string"},
		{reason: jwt.PayloadEncoding, token: segment(1, "x"), body: "Jwt payload is an invalid Base64url encoded"},
		{reason: jwt.PayloadJSON, payload: `[1]`, body: "Jwt payload is an invalid JSON"},
		{reason: jwt.IssuerType, payload: `{"iss":1}`, body: "Jwt payload [iss] field is not a string"},
		{reason: jwt.SubjectType, payload: payload(`"sub":1`), body: "Jwt payload [sub] field is not a string"},
		{reason: jwt.IssuedAtType, payload: payload(`"iat":"1"`), body: "Jwt payload [iat] field is not an integer"},
		{reason: jwt.IssuedAtRange, payload: payload(`"iat":-1`), body: "Jwt payload [iat] field is not a positive 64 bit integer"},
		{reason: jwt.NotBeforeType, payload: payload(`"nbf":true`), body: "Jwt payload [nbf] field is not an integer"},
		{reason: jwt.NotBeforeRange, payload: payload(`"nbf":1e20`), body: "Jwt payload [nbf] field is not a positive 64 bit integer"},
		{reason: jwt.ExpiryType, payload: payload(`"exp":null`), body: "Jwt payload [exp] field is not an integer"},
		{reason: jwt.ExpiryRange, payload: payload(`"exp":-0.5`), body: "Jwt payload [exp] field is not a positive 64 bit integer"},
		{reason: jwt.ExpiryRange, payload: payload(`"exp":18446744073709551616`), body: "Jwt payload [exp] field is not a positive 64 bit integer"},
		{reason: jwt.TokenIDType, payload: payload(`"jti":7`), body: "Jwt payload [jti] field is not a string"},
		{reason: jwt.AudienceType, payload: payload(`"aud":{}`), body: "Jwt payload [aud] field is not a string or string list"},
		{reason: jwt.SignatureEncoding, token: segment(2, "x"), body: "Jwt signature is an invalid Base64url encoded"},
		{reason: jwt.IssuerUnknown, payload: `{"sub":"alice"}`, body: unknown},
		{reason: jwt.NotYetValid, payload: payload(`"nbf":1800000061,"aud":"api"`), body: "Jwt not yet valid"},
		{reason: jwt.Expired, payload: payload(`"exp":1799999939,"aud":"api"`), body: "Jwt is expired"},
		{reason: jwt.AudienceDenied, payload: payload(`"aud":[]`), status: 403, body: "Audiences in Jwt are not allowed"},
		{reason: jwt.KeyUnknown, header: `{"alg":"ES256","kid":"other"}`, body: "Jwks doesn't have key to match kid or alg from Jwt"},
		{reason: jwt.SignatureLength, header: `{"alg":"EdDSA","kid":"ed"}`, token: segment(2, "AAAA"), body: "Jwt ED25519 signature is wrong length"},
		{reason: jwt.SignatureInvalid, header: es, token: forged, body: fails},
		{reason: jwt.NotCanonical, header: es, token: func(token string) string { return token + "==" }, body: fails},
		{reason: jwt.NotCanonical, header: es, token: spareBits, body: fails},
		{reason: jwt.Critical, header: `{"alg":"ES256","kid":"es256","crit":[]}`, body: fails},
		{reason: jwt.Critical, header: `{"alg":"ES256","kid":"es256","b64":false}`, body: fails},
		{reason: jwt.TooLarge, header: `{"alg":"ES256","x":"` + strings.Repeat("x", 4096) + `"}`, body: fails},
		{reason: jwt.TooLarge, payload: payload(`"x":"` + strings.Repeat("x", 16<<10) + `"`), body: fails},
		{reason: jwt.TooLarge, header: `{"alg":"ES256","kid":"` + strings.Repeat("k", 513) + `"}`, body: fails},
	}
}

func TestChecks(t *testing.T) {
	keys := keySetJSON(keyFor("ES256"), keyFor("EdDSA"))
	v := newValidator(jwt.Rule{ID: "ns/name jwtRules[0]", Issuer: issuerA, Audiences: []string{"api"}, JWKS: keys})
	for _, c := range tableOfChecks() {
		t.Run(c.reason.String(), func(t *testing.T) {
			if c.header == "" {
				c.header = `{"alg":"ES256","kid":"es256"}`
			}
			if c.payload == "" {
				c.payload = claimSet(`"aud":"api"`)
			}
			if !strings.Contains(c.payload, `"aud"`) && c.reason > jwt.AudienceDenied {
				c.payload = c.payload[:len(c.payload)-1] + `,"aud":"api"}`
			}
			token := keyFor("ES256").signRaw("ES256", c.header, c.payload)
			if c.token != nil {
				token = c.token(token)
			}
			if c.status == 0 {
				c.status = 401
			}
			out := validate(v, bearer(token))
			if out.Reason != c.reason || out.Body != c.body || out.Status != c.status {
				t.Errorf("%d %s (%s), want %d %s (%s)", out.Status, out.Body, out.Reason, c.status, c.body, c.reason)
			}
			if out.Rule != "ns/name jwtRules[0]" || out.Token != nil {
				t.Errorf("rule %q, token %v", out.Rule, out.Token)
			}
			if want := `Bearer realm="https://shop.example/", error="invalid_token"`; out.Authenticate != want {
				t.Errorf("challenge %s, want %s", out.Authenticate, want)
			}
		})
	}
}

// TestOrderOfChecks combines each check's failure with those of later ones: the earlier text must win.
func TestOrderOfChecks(t *testing.T) {
	wrong := []struct {
		reason jwt.Reason
		claim  string
	}{
		{jwt.IssuerType, `"iss":5`}, {jwt.SubjectType, `"sub":5`}, {jwt.IssuedAtType, `"iat":""`}, {jwt.NotBeforeType, `"nbf":""`},
		{jwt.ExpiryType, `"exp":""`}, {jwt.TokenIDType, `"jti":5`}, {jwt.AudienceType, `"aud":5`}, {jwt.IssuerUnknown, `"iss":"?"`},
		{jwt.NotYetValid, `"nbf":9000000000`}, {jwt.Expired, `"exp":1`}, {jwt.AudienceDenied, `"aud":"?"`},
	}
	v := newValidator(jwt.Rule{Issuer: issuerA, Audiences: []string{"api"}})
	for i := range wrong {
		for j := i + 1; j < len(wrong); j++ {
			claims := []string{wrong[i].claim}
			for _, later := range []string{wrong[j].claim, `"iss":"` + issuerA + `"`, `"aud":"api"`} {
				if !slices.ContainsFunc(claims, func(c string) bool { return c[:6] == later[:6] }) {
					claims = append(claims, later)
				}
			}
			slices.Reverse(claims)
			out := validate(v, bearer(forged(payloadToken("{"+strings.Join(claims, ",")+"}"))))
			if out.Reason != wrong[i].reason {
				t.Errorf("%v: %s, want %s", claims, out.Reason, wrong[i].reason)
			}
		}
	}
}

func TestReasons(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range jwt.Reasons() {
		if r.Body() == "" || r.String() == "" || seen[r.String()] || r.Status() < 401 {
			t.Errorf("reason %d: %q, %q, %d", r, r, r.Body(), r.Status())
		}
		seen[r.String()] = true
	}
	if jwt.Valid.Status() != 200 || jwt.Valid.Body() != "" {
		t.Error("Valid refuses")
	}
	if beyond := jwt.Reason(200); beyond.Status() != 401 || beyond.Body() != fails || beyond.String() != "unknown" {
		t.Errorf("a reason that does not exist: %d %s", beyond.Status(), beyond.Body())
	}
}

// TestAudiences is request-authentication §3.5.
func TestAudiences(t *testing.T) {
	for _, row := range []struct {
		configured, claim string
		ok                bool
	}{
		{"api", `"api"`, true}, {"api", `["x","api"]`, true}, {"https://api/", `"http://api"`, true}, {"http://api", `"api/"`, true},
		{"api", `"https://api//"`, false}, {"api/", `"api"`, true}, {"api", `"Api"`, false}, {"api", `"HTTP://api"`, false},
		{"api", `"https://http://api"`, false}, {"https://api:443/a", `"api:443/a/"`, true}, {"api", `"api.evil"`, false},
		{"*", `"api"`, false}, {"api", `""`, false}, {"api", `[]`, false}, {"https://", `""`, true}, {"api", `["api","api"]`, true},
	} {
		v := newValidator(jwt.Rule{Issuer: issuerA, Audiences: []string{"none", row.configured}})
		out := validate(v, bearer(goodToken(`"aud":`+row.claim)))
		if (out.Token != nil) != row.ok || !row.ok && out.Status != 403 {
			t.Errorf("%s for %s: %d %s", row.claim, row.configured, out.Status, out.Reason)
		}
	}
	if out := validate(newValidator(jwt.Rule{Issuer: issuerA, Audiences: []string{"api"}}), bearer(goodToken())); out.Status != 403 {
		t.Errorf("no aud: %d", out.Status)
	}
}

func TestTimeOfRequest(t *testing.T) {
	v := newValidator(jwt.Rule{Issuer: issuerA})
	for _, row := range []struct {
		claims string
		now    int64
		want   jwt.Reason
	}{
		{`"exp":100`, 160, jwt.Valid}, {`"exp":100`, 161, jwt.Expired}, {`"exp":100`, 0, jwt.Valid}, {`"exp":100`, -5, jwt.Valid},
		{`"exp":18446744073709549568`, 1 << 40, jwt.Valid}, {`"nbf":18446744073709549568`, 1 << 40, jwt.NotYetValid},
		{`"exp":1e12`, 1 << 33, jwt.Valid}, {`"nbf":100.9`, 40, jwt.Valid}, {`"nbf":101`, 40, jwt.NotYetValid},
		{`"exp":0.9`, 61, jwt.Expired}, {`"nbf":0`, 0, jwt.Valid}, {`"exp":1E2`, 161, jwt.Expired},
	} {
		if out := validate(v, at(bearer(payloadToken(`{"iss":"`+issuerA+`",`+row.claims+`}`)), row.now)); out.Reason != row.want {
			t.Errorf("%s at %d: %s, want %s", row.claims, row.now, out.Reason, row.want)
		}
	}
}

func TestNesting(t *testing.T) {
	v := newValidator(jwt.Rule{Issuer: issuerA})
	nest := func(n int, open, end string) string {
		return claimSet(`"x":` + strings.Repeat(open, n) + strings.Repeat(end, n))
	}
	if out := validate(v, bearer(payloadToken(nest(99, "[", "]")))); out.Token == nil {
		t.Errorf("99 arrays: %s", out.Reason)
	}
	for _, payload := range []string{nest(100, "[", "]"), nest(4000, "[", "]"), claimSet(`"x":` + strings.Repeat(`{"":`, 100) + "1" + strings.Repeat("}", 100))} {
		if out := validate(v, bearer(payloadToken(payload))); out.Reason != jwt.PayloadJSON {
			t.Errorf("%.80s…: %s", payload, out.Reason)
		}
	}
}
