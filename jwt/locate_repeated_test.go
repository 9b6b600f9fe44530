package jwt_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/writ-auth/writ/jwt"
)

// TestRepeatedNames: of parameters and cookies of one name Envoy reads the first, so only that one's claims are published;
// a parameter is removed by its name as it was sent, which is what a proxy compares with.
func TestRepeatedNames(t *testing.T) {
	sub := func(name string) string { return payloadToken(`{"iss":"` + issuerA + `","sub":"` + name + `"}`) }
	v := newValidator(jwt.Rule{
		Issuer: issuerA, FromParams: []string{"tok"}, FromCookies: []string{"sid"},
		OutputClaimToHeaders: []jwt.OutputClaim{{Header: "x-sub", Claim: "sub"}},
	})
	for _, row := range []struct {
		name, path, cookie string
		who                string
		set                string
		removed            []string
	}{
		{"one parameter", "/?tok=" + sub("a"), "", "a", "a", []string{"tok"}},
		{"twice", "/?tok=" + sub("a") + "&tok=" + sub("b"), "", "a", "a", []string{"tok"}},
		{"its name encoded", "/?%74ok=" + sub("a"), "", "a", "a", []string{"%74ok"}},
		{"twice, encoded differently", "/?t%6Fk=" + sub("a") + "&tok=" + sub("b"), "", "a", "a", []string{"tok", "t%6Fk"}},
		{"cookies", "/", "sid=" + sub("a") + "; sid=" + sub("b"), "a", "a", nil},
		{"both", "/?tok=" + sub("a") + "&tok=" + sub("b"), "sid=" + sub("c") + "; sid=" + sub("d"), "a", "c,a", []string{"tok"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			in := request()
			if row.cookie != "" {
				in = request("cookie", row.cookie)
			}
			out := validate(v, withPath(in, row.path))
			if identityOf(out) != row.who || !slices.Equal(out.SetHeaders, []jwt.Header{{Name: "x-sub", Value: row.set}}) {
				t.Errorf("identity %q, set %v (%s); want %q, x-sub: %s", identityOf(out), out.SetHeaders, out.Reason, row.who, row.set)
			}
			if !slices.Equal(out.RemoveParams, row.removed) {
				t.Errorf("removed %q, want %q", out.RemoveParams, row.removed)
			}
		})
	}
	// A second validation in the same memory does not see the names of the first.
	var out jwt.Result
	for _, path := range []string{"/?tok=" + sub("a") + "&tok=" + sub("b"), "/?tok=" + sub("c")} {
		v.Validate(t.Context(), withPath(request(), path), &out)
	}
	if identityOf(&out) != "c" || strings.Contains(out.SetHeaders[0].Value, ",") {
		t.Errorf("identity %q, set %v", identityOf(&out), out.SetHeaders)
	}
}
