package jwt_test

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/writ-auth/writ/jwt"
)

func verified(t *testing.T, payload string, rule jwt.Rule) *jwt.Token {
	t.Helper()
	out := validate(newValidator(rule), bearer(payloadToken(payload)))
	if out.Token == nil {
		t.Fatalf("%s: %s", payload, out.Reason)
	}
	return out.Token
}

// TestStrings is request-authentication §5.3.
func TestStrings(t *testing.T) {
	token := verified(t, claimSet(
		`"list":["a",1,"b",null,["c"],{"d":"e"}]`, `"empty":[]`, `"none":[1]`, `"number":5`, `"yes":true`, `"nothing":null`,
		`"object":{"a":{"b":"deep","l":["x","y"]},"a.b":"dotted","scope":"p q"}`, `"text":"a b"`, `"words":" x  y "`,
		`"blank":"   "`, `"scope":"read write"`, `"permission":"p"`, `"":"unnamed"`, `"\u0065sc":"q\"\\\/\b\f\n\r\té\ud83d\ude00"`,
		`"aud":"api"`, `"azp":"web"`, `"tab":"a\tb"`,
	), jwt.Rule{Issuer: issuerA, SpaceDelimitedClaims: []string{"words", "blank", "list", "tab"}})
	for _, row := range []struct {
		path string // names joined by |
		want []string
	}{
		{"list", []string{"a", "b"}}, {"empty", []string{}}, {"none", []string{}}, {"number", nil}, {"yes", nil}, {"nothing", nil},
		{"object", nil}, {"object|a", nil}, {"object|a|b", []string{"deep"}}, {"object|a|l", []string{"x", "y"}},
		{"object|a|l|x", nil}, {"object|a.b", []string{"dotted"}}, {"object|scope", []string{"p q"}}, {"text", []string{"a b"}},
		{"words", []string{"x", "y"}}, {"blank", []string{"   "}}, {"scope", []string{"read", "write"}}, {"permission", []string{"p"}},
		{"", []string{"unnamed"}}, {"esc", []string{"q\"\\/\b\f\n\r\té😀"}}, {"Scope", nil}, {"absent", nil}, {"text|x", nil},
		{"aud", []string{"api"}}, {"azp", []string{"web"}}, {"tab", []string{"a\tb"}}, {"sub", []string{"alice"}},
	} {
		for range 2 { // looked up, then remembered
			if got := token.Strings(strings.Split(row.path, "|")); !slices.Equal(got, row.want) || (got == nil) != (row.want == nil) {
				t.Errorf("%s: %q, want %q", row.path, got, row.want)
			}
		}
	}
	if got := token.Strings(nil); got != nil {
		t.Errorf("no path: %q", got)
	}
}

func TestStringsRemembersItsOwnPath(t *testing.T) {
	token := verified(t, claimSet(`"a":"1","b":"2"`), jwt.Rule{Issuer: issuerA})
	path := []string{"a"}
	token.Strings(path)
	path[0] = "b"
	if got := token.Strings(path); !slices.Equal(got, []string{"2"}) {
		t.Errorf("b: %q", got)
	}
}

func TestStringsConcurrently(t *testing.T) {
	token := verified(t, claimSet(`"a":"1"`), jwt.Rule{Issuer: issuerA})
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for n := range 200 {
				token.Strings([]string{fmt.Sprint(i, n)})
				if got := token.Strings([]string{"a"}); !slices.Equal(got, []string{"1"}) {
					t.Errorf("%q", got)
				}
			}
		})
	}
	wg.Wait()
}

func TestTokenHidesItsClaims(t *testing.T) {
	token := verified(t, claimSet(`"email":"alice@secret.example"`), jwt.Rule{Issuer: issuerA})
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "token", token)
	for _, shown := range []string{fmt.Sprintf("%v %+v %#v %s %q", token, token, token, token, token), log.String()} {
		for _, hidden := range []string{"alice", "secret", token.Payload()} {
			if strings.Contains(shown, hidden) {
				t.Errorf("%q shows %q", shown, hidden)
			}
		}
		if !strings.Contains(shown, issuerA) {
			t.Errorf("%q does not name the issuer", shown)
		}
	}
	if at, expires := token.Expiry(); !expires || at.Unix() != 1800003600 {
		t.Errorf("expiry %v, %v", at, expires)
	}
	if token.Algorithm() != "ES256" || token.KeyID() != "es256" || !strings.Contains(token.JSON(), "alice@secret") {
		t.Errorf("%s %s %s", token.Algorithm(), token.KeyID(), token.JSON())
	}
}

// TestOutputHeaders is request-authentication §5.5, as measured on Envoy 1.40.0.
func TestOutputHeaders(t *testing.T) {
	b64 := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	for _, row := range []struct{ json, want string }{
		{`"text"`, "text"}, {`""`, ""}, {`" x "`, " x "}, {`"é"`, "é"}, {`"a\tb"`, "a\tb"},
		{`"a\r\nb"`, ""}, {`"a\u0000b"`, ""}, {`"a\u007fb"`, ""}, {`"\u001b[1m"`, ""},
		{`7`, "7"}, {`0`, "0"}, {`7.0`, "7"}, {`1e3`, "1000"}, {`1.5`, "1.500000"}, {`-1`, "-1.000000"}, {`-0.0`, "0"},
		{`9007199254740993`, "9007199254740992"}, {`18446744073709549568`, "18446744073709549568"},
		{`18446744073709551615`, "18446744073709551616.000000"}, {`1e30`, "1000000000000000019884624838656.000000"},
		{`0.0000001`, "0.000000"}, {`true`, "true"}, {`false`, "false"}, {`null`, ""},
		{`[ 1, "x" ,null]`, b64(`[1,"x",null]`)}, {`{"b":2, "a":[]}`, b64(`{"b":2,"a":[]}`)},
	} {
		v := newValidator(jwt.Rule{Issuer: issuerA, OutputClaimToHeaders: []jwt.OutputClaim{{Header: "X-C", Claim: "o.c"}}})
		out := validate(v, bearer(goodToken(`"o":{"c":`+row.json+`}`)))
		var want []jwt.Header
		if row.want != "" {
			want = []jwt.Header{{Name: "x-c", Value: row.want}}
		}
		if !slices.Equal(out.SetHeaders, want) {
			t.Errorf("%s: set %q, want %q", row.json, out.SetHeaders, want)
		}
		if slices.Contains(out.RemoveHeaders, "x-c") != (row.want == "") {
			t.Errorf("%s: removed %v", row.json, out.RemoveHeaders)
		}
	}
}

func TestOutputPayload(t *testing.T) {
	token := payloadToken(claimSet(`"scope":"a b"`))
	segment := strings.Split(token, ".")[1]
	v := newValidator(
		jwt.Rule{Issuer: issuerA, OutputPayloadToHeader: "X-Payload", OutputClaimToHeaders: []jwt.OutputClaim{{Header: "x-none", Claim: "none"}}},
		jwt.Rule{Issuer: issuerB, OutputPayloadToHeader: "x-other"},
	)
	out := validate(v, bearer(token))
	if want := []jwt.Header{{Name: "x-payload", Value: segment}}; !slices.Equal(out.SetHeaders, want) {
		t.Errorf("set %v, want %v", out.SetHeaders, want)
	}
	if want := []string{"authorization", "x-none", "x-other"}; !slices.Equal(out.RemoveHeaders, want) {
		t.Errorf("removed %v, want %v: the token, and what no rule set", out.RemoveHeaders, want)
	}
	for _, in := range []*jwt.Input{request(), bearer("x"), request("x-payload", "forged")} {
		out := validate(v, in)
		if want := []string{"x-none", "x-other", "x-payload"}; !slices.Equal(out.RemoveHeaders, want) || len(out.SetHeaders) != 0 {
			t.Errorf("set %v, removed %v, want %v", out.SetHeaders, out.RemoveHeaders, want)
		}
	}
}

// TestHeaderNeverSetAndRemoved has the output go to the very header the token came in.
func TestHeaderNeverSetAndRemoved(t *testing.T) {
	v := newValidator(jwt.Rule{
		Issuer: issuerA, FromHeaders: []jwt.HeaderLocation{{Name: "x-jwt"}},
		OutputClaimToHeaders: []jwt.OutputClaim{{Header: "X-JWT", Claim: "sub"}},
	})
	out := validate(v, request("x-jwt", goodToken()))
	if len(out.RemoveHeaders) != 0 || !slices.Equal(out.SetHeaders, []jwt.Header{{Name: "x-jwt", Value: "alice"}}) {
		t.Errorf("set %v, removed %v", out.SetHeaders, out.RemoveHeaders)
	}
}

func TestForwardOriginalToken(t *testing.T) {
	for _, forward := range []bool{false, true} {
		v := newValidator(jwt.Rule{Issuer: issuerA, ForwardOriginalToken: forward})
		for _, row := range []struct {
			in            *jwt.Input
			header, param bool
		}{
			{bearer(goodToken()), true, false},
			{withPath(request(), "/?q=1&access_token="+goodToken()), false, true},
			{request("authorization", "Basic x"), false, false},
			{request(), false, false},
		} {
			out := validate(v, row.in)
			if slices.Contains(out.RemoveHeaders, "authorization") != (row.header && !forward) ||
				slices.Contains(out.RemoveParams, "access_token") != (row.param && !forward) {
				t.Errorf("forward %v: headers %v, parameters %v", forward, out.RemoveHeaders, out.RemoveParams)
			}
		}
	}
}
