package policy_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/writ-auth/writ/policy"
)

const callers = `
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: idp, namespace: foo}
spec:
  jwtRules:
  - issuer: https://a.example
    jwksUri: https://a.example/keys
  - issuer: https://b.example
    jwksUri: https://b.example/keys
    fromHeaders: [{name: X-Token}, {name: x-token, prefix: "T "}]
    fromParams: [token]
    fromCookies: [session]
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: web, namespace: foo}
spec:
  selector: {matchLabels: {app: web}}
  mtls: {mode: STRICT}
  portLevelMtls: {8080: {mode: PERMISSIVE}, 8081: {mode: DISABLE}, 8082: {mode: UNSET}}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: inherits, namespace: bar}
spec: {}
`

// authenticationOf decides nothing, records what it is given for workload web of namespace foo, and lists the branches.
func authenticationOf(t *testing.T, text string, record func(c *policy.Coverage, b *policy.Bound)) []string {
	t.Helper()
	docs := policy.Decode("callers.yaml", []byte(text))
	for _, d := range docs {
		if d.Broken() {
			t.Fatalf("%v", d.Problems)
		}
	}
	snap := policy.NewSnapshot(docs, policy.Mesh{})
	b, err := snap.Resolve(policy.Workload{Namespace: "foo", Labels: map[string]string{"app": "web"}})
	if err != nil {
		t.Fatal(err)
	}
	c := policy.NewCoverage()
	c.Add(snap)
	record(c, b)
	var out []string
	for _, a := range c.Report().Authentication {
		for _, p := range a.Parts {
			for _, br := range p.Branches {
				out = append(out, strings.Join(strings.Fields(fmt.Sprintf("%s %s %s %s %d", a.Name, br.Field, br.Kind, br.Value, br.Hits)), " "))
			}
		}
	}
	return out
}

func same(t *testing.T, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestCoverageOfTokenRules: each rule counts a good token, a refused one and none, and a token in each place that it names.
func TestCoverageOfTokenRules(t *testing.T) {
	t.Parallel()
	got := authenticationOf(t, callers, func(c *policy.Coverage, b *policy.Bound) {
		rules := b.Authentication.Rules
		record := func(seen ...policy.TokenSeen) { c.Record(b, &policy.Request{}, policy.Reached{Tokens: seen}) }
		record(policy.TokenSeen{Rule: rules[0], State: policy.TokenGood, Places: []string{"header authorization"}},
			policy.TokenSeen{Rule: rules[1], State: policy.TokenNone})
		record(policy.TokenSeen{Rule: rules[0], State: policy.TokenOther},
			policy.TokenSeen{Rule: rules[1], State: policy.TokenRefused, Places: []string{"header x-token", "parameter token"}})
		record(policy.TokenSeen{Rule: rules[1], State: policy.TokenOther, Places: []string{"cookie session"}}) // of another issuer
		record()                                                                                               // rules were not asked
	})
	same(t, got[:8], []string{
		"foo/idp jwtRules[0] good_token 1", "foo/idp jwtRules[0] refused_token 0", "foo/idp jwtRules[0] no_token 0",
		"foo/idp jwtRules[1] good_token 0", "foo/idp jwtRules[1] refused_token 1", "foo/idp jwtRules[1] no_token 1",
		"foo/idp jwtRules[1] token_place header x-token 1", "foo/idp jwtRules[1] token_place parameter token 1",
	})
	if got[8] != "foo/idp jwtRules[1] token_place cookie session 0" {
		t.Errorf("got %s", got[8])
	}
}

// TestCoverageOfModes: each mode that is set counts callers with an identity and without, where it is the one in force. One
// that is UNSET sets nothing, and under DISABLE nobody has an identity.
func TestCoverageOfModes(t *testing.T) {
	t.Parallel()
	got := authenticationOf(t, callers, func(c *policy.Coverage, b *policy.Bound) {
		record := func(port uint16, names ...string) {
			c.Record(b, &policy.Request{DestPort: port, Names: names}, policy.Reached{MTLS: true})
		}
		const id = "spiffe://cluster.local/ns/foo/sa/a"
		record(80, id)
		record(8082) // the mode of all ports
		record(8080, "some.dns.name")
		record(8081)
		record(8081, id)
		c.Record(b, &policy.Request{DestPort: 8080, Names: []string{id}}, policy.Reached{}) // refused before
	})
	same(t, got[9:], []string{
		"foo/web mtls plaintext 1", "foo/web mtls mtls 1",
		"foo/web portLevelMtls[8080] plaintext 1", "foo/web portLevelMtls[8080] mtls 0",
		"foo/web portLevelMtls[8081] plaintext 1",
	})
}

// TestCoverageOfModesKnowsWhichIsInForce: a mode that another document overrides is not exercised by what it does not decide.
func TestCoverageOfModesKnowsWhichIsInForce(t *testing.T) {
	t.Parallel()
	peer := func(namespace, name, spec string) string {
		return "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: " + name + ", namespace: " + namespace + "}\nspec: " + spec + "\n"
	}
	text := peer("istio-system", "mesh", "{mtls: {mode: STRICT}}") + peer("foo", "ns", "{mtls: {mode: PERMISSIVE}}") + peer("foo", "younger", "{mtls: {mode: STRICT}}")
	got := authenticationOf(t, text, func(c *policy.Coverage, b *policy.Bound) {
		c.Record(b, &policy.Request{}, policy.Reached{MTLS: true})
	})
	same(t, got, []string{
		"istio-system/mesh mtls plaintext 0", "istio-system/mesh mtls mtls 0", "foo/ns mtls plaintext 1", "foo/ns mtls mtls 0",
		"foo/younger mtls plaintext 0", "foo/younger mtls mtls 0",
	})
}

// TestCoverageCountsAuthentication: what is to be covered of these documents counts in the whole.
func TestCoverageCountsAuthentication(t *testing.T) {
	t.Parallel()
	c := policy.NewCoverage()
	c.Add(policy.NewSnapshot(policy.Decode("callers.yaml", []byte(callers)), policy.Mesh{}))
	r := c.Report()
	if want := (policy.Count{All: 14}); r.Points != want || r.Branches != want || r.Authentications.All != 2 || r.Percent != 0 {
		t.Errorf("points %v branches %v authentications %v, %v %%", r.Points, r.Branches, r.Authentications, r.Percent)
	}
}
