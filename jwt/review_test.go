package jwt_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/writ-auth/writ/jwt"
)

// A prefix with a comma is found whether or not the proxy joins repeated headers: a token that is overlooked is a request
// that passes without identity, its token unverified.
func TestReviewPrefixWithComma(t *testing.T) {
	t.Parallel()
	v := newValidator(jwt.Rule{
		ID: "r", Issuer: "https://idp.example", JWKS: keySetJSON(keyFor("ES256")),
		FromHeaders: []jwt.HeaderLocation{{Name: "x-c", Prefix: "a,b "}},
	})
	for _, raw := range []bool{true, false} {
		for _, line := range []string{"a,b x.y.z", "a,b " + forged(goodToken()), "a,b " + goodToken() + ",a,b " + goodToken()} {
			in := request("x-c", line)
			in.Raw = raw
			if got := validate(v, in); got.Status != 401 {
				t.Errorf("raw %v, %.20s…: status %d, want 401", raw, line, got.Status)
			}
		}
	}
}

// Rules that name too many key sets do not end the fetching of those that were there before: whoever may write one
// RequestAuthentication could otherwise have everybody else's tokens refused.
func TestReviewTooManySourcesKeepTheOld(t *testing.T) {
	t.Parallel()
	sources, err := jwt.NewSources(jwt.SourcesConfig{})
	if err != nil {
		t.Fatal(err)
	}
	mine := jwt.Wanted{JWKSURI: "https://idp.example/keys", Issuer: issuerA}
	sources.Set([]jwt.Wanted{mine})
	var wanted []jwt.Wanted
	for i := range 5000 {
		wanted = append(wanted, jwt.Wanted{JWKSURI: fmt.Sprintf("https://tenant.example/%d", i)})
	}
	sources.Set(append(wanted, mine))
	if !slices.ContainsFunc(sources.Status(), func(s jwt.SourceStatus) bool { return s.URL == mine.JWKSURI }) {
		t.Error("the key set that was fetched before is forgotten")
	}
}
