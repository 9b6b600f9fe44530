package jwt_test

import (
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/writ-auth/writ/jwt"
)

// TestHeaders is request-authentication §2.2, and more of the same.
func TestHeaders(t *testing.T) {
	good := goodToken()
	custom := func(prefix string) []jwt.Rule {
		return []jwt.Rule{{Issuer: issuerA, FromHeaders: []jwt.HeaderLocation{{Name: "X-Jwt", Prefix: prefix}}}}
	}
	for _, row := range []struct {
		name  string
		rules []jwt.Rule
		in    *jwt.Input
		raw   bool
		body  string
		who   string
	}{
		{name: "prefix in the middle", in: request("authorization", "zzz Bearer "+good), who: "alice"},
		{name: "the first prefix counts", in: request("authorization", "Bearer Bearer "+good), body: malform + "?"},
		{name: "tab instead of the blank", in: request("authorization", "Bearer\t"+good)},
		{name: "two blanks", in: request("authorization", "Bearer  "+good), who: "alice"},
		{name: "quotes before the token", in: request("authorization", `Bearer "`+good), who: "alice"},
		{name: "quotes around the token", in: request("authorization", `Bearer "`+good+`"`), body: "Jwt signature is an invalid Base64url encoded"},
		{name: "text behind the token", in: request("authorization", "Bearer "+good+" junk"), body: fails},
		{name: "no blank", in: request("authorization", "Bearer"+good)},
		{name: "upper case", in: request("authorization", "BEARER "+good), who: "alice"},
		{name: "two joined lines of authorization", in: request("authorization", "Bearer "+good+",Bearer "+good), body: malform},
		{name: "the same with raw headers", in: request("authorization", "Bearer "+good+",Bearer "+good), raw: true, body: malform},
		{name: "custom header, name in any case", rules: custom(""), in: request("x-jwt", good), who: "alice"},
		{name: "custom header turns the defaults off", rules: custom(""), in: withPath(bearer("x"), "/?access_token=x")},
		{name: "custom prefix", rules: custom("Token "), in: request("x-jwt", "Token "+good), who: "alice"},
		{name: "custom prefix is case-sensitive", rules: custom("Token "), in: request("x-jwt", "token "+good)},
		{name: "Bearer is case-sensitive, too, in a custom location", rules: custom("Bearer "), in: request("x-jwt", "bearer "+good)},
		{name: "no prefix, scheme in the value", rules: custom(""), in: request("x-jwt", "Bearer "+good), body: "Jwt header is an invalid Base64url encoded?"},
		{name: "no prefix, empty value", rules: custom(""), in: request("x-jwt", ""), body: malform},
		{name: "prefix, empty value", rules: custom("Token "), in: request("x-jwt", "")},
		{name: "prefix without a blank", rules: custom("t:"), in: request("x-jwt", "t:"+good), who: "alice"},
		{name: "blanks around the value", rules: custom(""), in: request("x-jwt", " "+good+" "), who: "alice"},
		{name: "two joined lines are two tokens", rules: custom(""), in: request("x-jwt", good+","+good), who: "alice"},
		{name: "both must be good", rules: custom(""), in: request("x-jwt", good+","+forged(good)), body: fails},
		{name: "an empty line among them", rules: custom(""), in: request("x-jwt", good+",,"+good), body: malform},
		{name: "lines with prefixes", rules: custom("Token "), in: request("x-jwt", "Token "+good+",Token "+good), who: "alice"},
		{name: "a line of another scheme before", rules: custom("Token "), in: request("x-jwt", "Basic abc,Token "+good), who: "alice"},
		{name: "text after a joined token", rules: custom("Token "), in: request("x-jwt", "Token "+good+",evil"), body: malform},
		{name: "raw lines are two tokens", rules: custom(""), in: request("x-jwt", good, "x-jwt", good), raw: true, who: "alice"},
		{name: "both must be good, raw", rules: custom(""), in: request("x-jwt", good, "x-jwt", "x"), raw: true, body: malform},
		{name: "a raw line is never split", rules: custom(""), in: request("x-jwt", good+","+good), raw: true, body: malform},
		{name: "bytes above ASCII in a raw line", rules: custom(""), in: request("x-jwt", "\xff"), raw: true, body: malform},
	} {
		t.Run(row.name, func(t *testing.T) {
			if row.rules == nil {
				row.rules = []jwt.Rule{{Issuer: issuerA}}
			}
			row.in.Raw = row.raw
			wantOutcome(t, newValidator(row.rules...), row.in, row.body, row.who)
		})
	}
}

// TestParamsAndCookies is request-authentication §2.3.
func TestParamsAndCookies(t *testing.T) {
	good, bad := goodToken(), forged(goodToken())
	cookie := func(line string) *jwt.Input { return request("cookie", line) }
	query := func(q string) *jwt.Input { return withPath(request(), "/p?"+q) }
	rule := []jwt.Rule{{Issuer: issuerA, FromParams: []string{"tok", "a b"}, FromCookies: []string{"sid"}}}
	for _, row := range []struct {
		name string
		in   *jwt.Input
		body string
		who  string
	}{
		{"parameter", query("q=1&tok=" + good + "&z=2"), "", "alice"},
		{"parameter name and value are decoded", query("%74o%6B=" + strings.ReplaceAll(good, ".", "%2e")), "", "alice"},
		{"a blank in a name", query("a%20b=" + good), "", "alice"},
		{"a plus is a plus", query("a+b=" + good), "", ""},
		{"names are case-sensitive", query("Tok=" + good), "", ""},
		{"empty parameter", query("tok="), malform, ""},
		{"parameter without a value", query("x&tok"), malform, ""},
		{"repeated parameter", query("tok=" + good + "&tok=" + good), "", "alice"},
		{"repeated parameter, the second bad", query("tok=" + good + "&tok=" + bad), fails, ""},
		{"half a percent sign", query("tok=" + good + "%2"), "Jwt signature is an invalid Base64url encoded", ""},
		{"a semicolon separates nothing", query("a=1;tok=" + good), "", ""},
		{"no query", withPath(request(), "/tok="+good), "", ""},
		{"cookie", cookie("a=1; sid=" + good + "; b=2"), "", "alice"},
		{"quoted cookie", cookie(`sid="` + good + `"`), "", "alice"},
		{"empty cookie", cookie("sid="), malform, ""},
		{"cookie without a value", cookie("sid"), "", ""},
		{"cookie names are case-sensitive", cookie("SID=" + good), "", ""},
		{"blanks before a cookie", cookie("a=1;  \tsid=" + good), "", "alice"},
		{"blank in a cookie's name", cookie("sid =" + good), "", ""},
		{"repeated cookie, the second bad", cookie("sid=" + good + "; sid=" + bad), fails, ""},
		{"repeated cookie on another line", request("cookie", "sid="+good, "cookie", "sid="+bad), fails, ""},
		{"lines joined by a proxy", cookie("a=1,sid=" + bad), fails, ""},
		{"parameter and cookie, the cookie bad", withPath(cookie("sid="+bad), "/?tok="+good), fails, ""},
	} {
		t.Run(row.name, func(t *testing.T) { wantOutcome(t, newValidator(rule...), row.in, row.body, row.who) })
	}
}

// wantOutcome compares a refusal's text, or the identity's subject. A body ending in ? only has to be some refusal.
func wantOutcome(t *testing.T, v *jwt.Validator, in *jwt.Input, body, who string) {
	t.Helper()
	out := validate(v, in)
	if strings.HasSuffix(body, "?") && out.Status == 401 {
		body = out.Body
	}
	got := ""
	if out.Token != nil {
		got = out.Token.Subject()
	}
	if out.Body != body || got != who {
		t.Errorf("body %q, identity %q; want %q, %q", out.Body, got, body, who)
	}
}

func TestFirstTokenCounts(t *testing.T) {
	sub := func(name string) string { return payloadToken(`{"iss":"` + issuerA + `","sub":"` + name + `"}`) }
	v := newValidator(jwt.Rule{
		Issuer:               issuerA,
		FromHeaders:          []jwt.HeaderLocation{{Name: "x-b"}, {Name: "x-a", Prefix: "T "}, {Name: "x-a", Prefix: "S "}},
		FromParams:           []string{"q", "p"},
		FromCookies:          []string{"d", "c"},
		OutputClaimToHeaders: []jwt.OutputClaim{{Header: "x-sub", Claim: "sub"}},
	})
	in := request("cookie", "d="+sub("d")+"; c="+sub("c"), "x-b", sub("b"), "x-a", "T "+sub("t"), "x-a", "S "+sub("s"))
	in.Raw = true
	withPath(in, "/?q="+sub("q")+"&p="+sub("p"))
	out := validate(v, in)
	if out.Token == nil || out.Token.Subject() != "s" {
		t.Fatalf("identity %v (%s)", out.Token, out.Reason)
	}
	if want := []jwt.Header{{Name: "x-sub", Value: "d,c,q,p,b,t,s"}}; !slices.Equal(out.SetHeaders, want) {
		t.Errorf("set %v, want %v: in the order of verification", out.SetHeaders, want)
	}
	if want := []string{"x-b", "x-a"}; !slices.Equal(out.RemoveHeaders, want) {
		t.Errorf("removed %v, want %v", out.RemoveHeaders, want)
	}
	if want := []string{"q", "p"}; !slices.Equal(out.RemoveParams, want) {
		t.Errorf("removed parameters %v, want %v", out.RemoveParams, want)
	}
}

func TestTooManyTokens(t *testing.T) {
	v := newValidator(jwt.Rule{Issuer: issuerA, FromHeaders: []jwt.HeaderLocation{{Name: "x-jwt"}}})
	good := goodToken()
	if out := validate(v, request("x-jwt", strings.Repeat(good+",", 7)+good)); out.Token == nil {
		t.Errorf("8 tokens: %s", out.Reason)
	}
	for _, n := range []int{9, 5000} {
		if out := validate(v, request("x-jwt", strings.Repeat(good+",", n-1)+good)); out.Reason != jwt.TooManyTokens || out.Status != 401 {
			t.Errorf("%d tokens: %s", n, out.Reason)
		}
	}
}

func TestPreflight(t *testing.T) {
	v := newValidator(jwt.Rule{Issuer: issuerA})
	for _, row := range []struct {
		method, origin, requested string
		skipped                   bool
	}{
		{"OPTIONS", "https://x", "PUT", true},
		{"OPTIONS", "", "PUT", false},
		{"OPTIONS", "https://x", "", false},
		{"options", "https://x", "PUT", false},
		{"GET", "https://x", "PUT", false},
	} {
		in := request("origin", row.origin, "access-control-request-method", row.requested, "authorization", "Bearer x")
		in.Method = row.method
		if out := validate(v, in); (out.Status == 0) != row.skipped {
			t.Errorf("%+v: status %d", row, out.Status)
		}
	}
}

func TestChallenge(t *testing.T) {
	v := newValidator(jwt.Rule{Issuer: issuerA, Required: true})
	long := "/" + strings.Repeat("a", 300)
	for _, row := range []struct{ host, path, realm string }{
		{"shop.example:8443", "/a?x=1", "https://shop.example:8443/a"},
		{"shop.example", long, "https://shop.example" + long[:256]},
		{`a"b`, "/\\\"\x01\x7f\r\nx", "https://ab/x"},
	} {
		in := withPath(request(), row.path)
		in.Host = row.host
		if out := validate(v, in); out.Authenticate != `Bearer realm="`+row.realm+`"` || out.Body != "Jwt is missing" {
			t.Errorf("%s: %s", out.Body, out.Authenticate)
		}
	}
}

// FuzzLocations compares what is found with what a reader of the rules would find by splitting and searching. The
// "tokens" are short words; which were found shows in the claims of none, so every one is malformed and the first location
// with a word decides whether the request is refused.
func FuzzLocations(f *testing.F) {
	for _, seed := range [][3]string{
		{"Bearer a.b", "/?access_token=x&b=%61", "sid=1; a=2"}, {"bearer", "/", ""}, {"Token x", "/?t%6fk", `sid="q`},
		{"Bearer !!!", "/?=&tok==", ";;=;sid=,"}, {" x Token ", "/?tok=%zz", "sid"},
	} {
		f.Add(seed[0], seed[1], seed[2], true)
		f.Add(seed[0], seed[1], seed[2], false)
	}
	rules := []jwt.Rule{
		{Issuer: issuerA},
		{Issuer: issuerB, FromHeaders: []jwt.HeaderLocation{{Name: "x-jwt", Prefix: "Token "}}, FromParams: []string{"tok"}, FromCookies: []string{"sid"}},
	}
	both := [2]*jwt.Validator{newValidator(rules[0]), newValidator(rules[1])}
	f.Fuzz(func(t *testing.T, header, path, cookie string, raw bool) {
		for i, v := range both {
			in := withPath(request("authorization", header, "x-jwt", header, "cookie", cookie), path)
			in.Raw = raw
			out := validate(v, in)
			if found := findsSlowly(rules[i], in); (out.Status != 0) != found {
				t.Errorf("rule %d refuses: %v, finds a token: %v", i, out.Status != 0, found)
			}
			if out.Token != nil {
				t.Error("an identity from nowhere")
			}
		}
	})
}

// findsSlowly is the obvious reading of request-authentication §2.
func findsSlowly(r jwt.Rule, in *jwt.Input) bool {
	value := func(name string) string {
		i := slices.IndexFunc(in.Headers, func(h jwt.Header) bool { return h.Name == name })
		return strings.Trim(in.Headers[i].Value, " \t")
	}
	params, cookies := r.FromParams, r.FromCookies
	var found bool
	if len(r.FromHeaders) == 0 {
		params = []string{"access_token"}
		folded := strings.Map(func(c rune) rune { // ASCII only, as the scheme is
			if 'A' <= c && c <= 'Z' {
				return c + 'a' - 'A'
			}
			return c
		}, value("authorization"))
		found = strings.Contains(folded, "bearer ")
	} else {
		lines := []string{value("x-jwt")}
		if !in.Raw {
			lines = strings.Split(lines[0], ",")
		}
		found = slices.ContainsFunc(lines, func(line string) bool { return strings.Contains(strings.Trim(line, " \t"), "Token ") })
	}
	_, query, _ := strings.Cut(in.Path, "?")
	for pair := range strings.SplitSeq(query, "&") {
		name, _, _ := strings.Cut(pair, "=")
		if decoded, err := url.PathUnescape(name); err == nil {
			name = decoded
		}
		found = found || strings.Contains(in.Path, "?") && slices.Contains(params, name)
	}
	for _, piece := range strings.FieldsFunc(value("cookie"), func(c rune) bool { return c == ';' || c == ',' && !in.Raw }) {
		name, _, ok := strings.Cut(strings.Trim(piece, " \t"), "=")
		found = found || ok && slices.Contains(cookies, name)
	}
	return found
}
