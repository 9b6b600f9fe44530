package e2e_test

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/writ-auth/writ/internal/testkit"
)

// TestReviewParity asks what TestTokenParity does not.
func TestReviewParity(t *testing.T) {
	b := newBench(t)
	a, other := b.identityProvider(t), b.identityProvider(t)
	apps := append(parityApplications(a, other),
		application{name: "comma", rules: []object{rule(a, object{"fromHeaders": list{object{"name": "x-c", "prefix": "a,b "}}})}})
	documents := ""
	for _, app := range apps {
		documents += app.documents(t)
	}
	b.policy(t, "tokens.yaml", documents)
	if err := b.serve(t, "authz.sock").WaitReady(bounded(t)); err != nil {
		t.Fatal(err)
	}
	envoy := b.tokenEnvoy(t, echo(t), apps, rawListener, joinedListener, nativeListener)
	client := plain(t)
	good := a.Sign(testkit.Token{Claims: object{"sub": "alice"}})
	late := a.Sign(testkit.Token{Claims: object{"sub": "alice", "exp": 1}})
	claims := func(name string, claims object) parity {
		return parity{name: name, app: "anyone", header: []string{"authorization: Bearer " + a.Sign(testkit.Token{Claims: claims})}}
	}
	for _, row := range []parity{
		{name: "unreserved characters escaped", app: "anyone", target: "/a%2Db%5Fc%7Ed%2Ee%41/%2d%2e%2E/x%2a%3a%40%24"},
		{name: "encoded name", app: "custom", target: "/p?q=1&%74ok=" + good + "&z=2"},
		{name: "encoded default name", app: "anyone", target: "/p?access%5ftoken=" + good},
		{name: "both spellings", app: "custom", target: "/p?tok=" + good + "&to%6B=" + good},
		{name: "encoded value", app: "custom", target: "/p?tok=%65" + good[1:]},
		{name: "a neighbour without value", app: "custom", target: "/p?x&tok=" + good},
		{name: "empty neighbour", app: "custom", target: "/p?&tok=" + good + "&"},
		{name: "tok alone", app: "custom", target: "/p?tok", want: malformed},
		{name: "TOK", app: "custom", target: "/p?TOK=" + late},
		{name: "question mark in the query", app: "custom", target: "/p??tok=" + late},
		{name: "semicolon", app: "custom", target: "/p?a=1;tok=" + late},
		{name: "other line first", app: "custom", header: []string{"x-jwt: foo", "x-jwt: Token " + good}},
		{name: "two cookie lines", app: "custom", header: []string{"cookie: a=1", "cookie: sid=" + late}, want: expired},
		{name: "blank before equals", app: "custom", header: []string{"cookie: sid =" + late}},
		{name: "blank after equals", app: "custom", header: []string{"cookie: sid= " + good}},
		{name: "cookie without semicolon blank", app: "custom", header: []string{"cookie: a=1;sid=" + late}, want: expired},
		{name: "empty cookie", app: "custom", header: []string{"cookie: sid="}, want: malformed},
		{name: "quoted empty cookie", app: "custom", header: []string{`cookie: sid=""`}, want: malformed},
		{name: "half-quoted cookie", app: "custom", header: []string{`cookie: sid="` + good}},
		{name: "prefix with a comma", app: "comma", header: []string{"x-c: a,b " + late}, want: expired},
		{name: "authorization twice", app: "anyone", header: []string{"authorization: Bearer " + good, "authorization: Bearer " + good}, want: malformed},
		{name: "authorization, Basic first", app: "anyone", header: []string{"authorization: Basic x", "authorization: Bearer " + late}},
		{name: "empty header without prefix", app: "apart", header: []string{"x-a: "}, want: malformed},
		claims("trailing blank", object{"sub": "alice "}),
		claims("comma", object{"sub": "a,b"}),
		claims("tab", object{"sub": "a\tb"}),
		claims("U+2028", object{"sub": "a\u2028b"}),
		claims("a blank", object{"sub": " "}),
		claims("2^64", object{"n": 18446744073709551616.0}),
		claims("2^63", object{"n": 9223372036854775808.0}),
		claims("tiny", object{"n": 1e-9}),
		claims("huge", object{"n": 1e300}),
		claims("empty object", object{"a": object{}, "list": object{}}),
		claims("empty list", object{"list": list{}}),
	} {
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
			for _, listener := range []string{rawListener, joinedListener} {
				ours := send(listener)
				if native.status == http.StatusOK && ours.status == http.StatusOK {
					if got, want := fmt.Sprintf("%q", echoed(t, ours)), fmt.Sprintf("%q", echoed(t, native)); got != want {
						t.Errorf("%s\n got   %v\n envoy %v", listener, got, want)
					}
				} else if ours.status != native.status || ours.body != native.body {
					t.Errorf("%s: got %d %.300q\n envoy %d %.300q", listener, ours.status, ours.body, native.status, native.body)
				}
			}
		})
	}
}
