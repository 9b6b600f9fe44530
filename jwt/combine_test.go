package jwt_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/writ-auth/writ/jwt"
)

// ruleStatus is what one rule makes of a request. Those from ruleFailed on are different failures.
type ruleStatus int

const (
	ruleOk ruleStatus = iota
	ruleMissed
	ruleUnknownIssuer
	ruleFailed
)

// ofStatus is the value of the rule's own header, made so that the rule comes to the status.
func ofStatus(rule int, s ruleStatus) (value string, reason jwt.Reason) {
	issuer := fmt.Sprintf("https://%d.example", rule)
	switch s {
	case ruleOk:
		return payloadToken(`{"iss":"` + issuer + `","sub":"` + fmt.Sprint(rule) + `"}`), jwt.Valid
	case ruleMissed:
		return "", jwt.Missing
	case ruleUnknownIssuer:
		return payloadToken(`{"iss":"?"}`), jwt.IssuerUnknown
	case ruleFailed:
		return payloadToken(`{"iss":"` + issuer + `","exp":1}`), jwt.Expired
	case ruleFailed + 1:
		return payloadToken(`{"iss":"` + issuer + `","nbf":9000000000}`), jwt.NotYetValid
	default:
		return "Token ", jwt.Malformed
	}
}

// vectors are all sequences of n statuses.
func vectors(n int, most ruleStatus) [][]ruleStatus {
	if n == 0 {
		return [][]ruleStatus{nil}
	}
	var all [][]ruleStatus
	for _, rest := range vectors(n-1, most) {
		for s := ruleOk; s <= most; s++ {
			all = append(all, append(slices.Clone(rest), s))
		}
	}
	return all
}

// combined asks a validator of n rules, each with its own header, for a request in which they come to these statuses.
func combined(statuses []ruleStatus, required []bool) *jwt.Result {
	var rules []jwt.Rule
	in := request()
	for i, s := range statuses {
		name := fmt.Sprintf("x-%d", i)
		rules = append(rules, jwt.Rule{
			Issuer: fmt.Sprintf("https://%d.example", i), FromHeaders: []jwt.HeaderLocation{{Name: name, Prefix: ""}},
			Required: required != nil && required[i],
		})
		if value, _ := ofStatus(i, s); value != "" {
			in.Headers = append(in.Headers, jwt.Header{Name: name, Value: value})
		}
	}
	slices.Reverse(rules) // a validator sorts them
	return validate(newValidator(rules...), in)
}

// TestCombining holds the closed form against the tree that Istio makes of n rules, OR(P1…Pn, AND(OR(Pi, missing))), as
// Envoy evaluates it: an OR ends at the first success and else reports its last failure that says more than missing or
// unknown issuer; an AND ends at the first failure.
func TestCombining(t *testing.T) {
	for n := 1; n <= 4; n++ {
		most := ruleFailed + 2
		if n == 4 {
			most = ruleFailed
		}
		for _, statuses := range vectors(n, most) {
			out := combined(statuses, nil)
			want, who := tree(statuses)
			if out.Reason != want {
				t.Errorf("%v: %s, want %s", statuses, out.Reason, want)
			}
			if identity := identityOf(out); identity != who {
				t.Errorf("%v: identity %q, want %q", statuses, identity, who)
			}
		}
	}
}

func identityOf(out *jwt.Result) string {
	if out.Token == nil {
		return ""
	}
	return out.Token.Subject()
}

func tree(statuses []ruleStatus) (reason jwt.Reason, who string) {
	var leaves, each []jwt.Reason
	for i, s := range statuses {
		_, r := ofStatus(i, s)
		if r == jwt.Valid {
			return jwt.Valid, fmt.Sprint(i)
		}
		leaves = append(leaves, r)
		allowMissing := r
		if r == jwt.Missing {
			allowMissing = jwt.Valid
		}
		each = append(each, or(r, allowMissing))
	}
	and := jwt.Valid
	for _, r := range each {
		if r != jwt.Valid {
			and = r
			break
		}
	}
	return or(append(leaves, and)...), ""
}

func or(children ...jwt.Reason) jwt.Reason {
	said := children[0]
	for _, r := range children {
		if r == jwt.Valid {
			return jwt.Valid
		}
		if r != jwt.Missing && r != jwt.IssuerUnknown || said == jwt.Missing {
			said = r
		}
	}
	return said
}

// TestRequired is presence: REQUIRED: every rule must pass, an optional one may miss its token.
func TestRequired(t *testing.T) {
	for n := 1; n <= 3; n++ {
		for _, statuses := range vectors(n, ruleFailed+1) {
			for mask := 1; mask < 1<<n; mask++ {
				required := make([]bool, n)
				want, who := jwt.Valid, ""
				for i, s := range statuses {
					required[i] = mask&(1<<i) != 0
					_, r := ofStatus(i, s)
					switch {
					case want != jwt.Valid:
					case r == jwt.Valid:
						who = fmt.Sprint(i)
					case r != jwt.Missing || required[i]:
						want, who = r, ""
					}
				}
				out := combined(statuses, required)
				if out.Reason != want || identityOf(out) != who {
					t.Errorf("%v required %v: %s of %q, want %s of %q", statuses, required, out.Reason, identityOf(out), want, who)
				}
			}
		}
	}
}

func TestMissingRequired(t *testing.T) {
	v := newValidator(jwt.Rule{Issuer: issuerA, Required: true})
	out := validate(v, request())
	if out.Status != 401 || out.Body != "Jwt is missing" || out.Authenticate != `Bearer realm="https://shop.example/"` {
		t.Errorf("%d %s %s", out.Status, out.Body, out.Authenticate)
	}
	shared := newValidator(jwt.Rule{Issuer: issuerA, Required: true}, jwt.Rule{Issuer: issuerB, Required: true})
	if out := validate(shared, bearer(goodToken())); out.Reason != jwt.IssuerUnknown {
		t.Errorf("two required rules at one location: %s", out.Reason)
	}
}

func TestOrderOfRules(t *testing.T) {
	v := newValidator(
		jwt.Rule{ID: "b1", Issuer: issuerB}, jwt.Rule{ID: "a1", Issuer: issuerA}, jwt.Rule{ID: "any", JWKSURI: "https://x"},
		jwt.Rule{ID: "a2", Issuer: issuerA}, jwt.Rule{ID: "b2", Issuer: issuerB},
	)
	var order []string
	for _, verdict := range v.Verify(t.Context(), goodToken(), testNow) {
		order = append(order, verdict.Rule+" "+verdict.Reason.String())
	}
	want := []string{"any valid", "a1 valid", "a2 valid", "b1 issuer_unknown", "b2 issuer_unknown"}
	if !slices.Equal(order, want) {
		t.Errorf("%q, want %q", order, want)
	}
}

// TestFailedRuleLeavesNothing has a rule verify one token, publish it, and then fail on another.
func TestFailedRuleLeavesNothing(t *testing.T) {
	out := validate(newValidator(
		jwt.Rule{Issuer: issuerA, FromHeaders: []jwt.HeaderLocation{{Name: "x-1"}, {Name: "x-2"}}, OutputPayloadToHeader: "x-a"},
		jwt.Rule{Issuer: issuerB, FromHeaders: []jwt.HeaderLocation{{Name: "x-3"}}, OutputPayloadToHeader: "x-b", ForwardOriginalToken: true},
	), request("x-1", forged(goodToken()), "x-2", goodToken(), "x-3", payloadToken(ofB)))
	if identityOf(out) != "bob" || len(out.SetHeaders) != 1 || out.SetHeaders[0].Name != "x-b" || !slices.Equal(out.RemoveHeaders, []string{"x-a"}) {
		t.Errorf("%+v", out)
	}
}
