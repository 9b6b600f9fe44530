package analysis_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/writ-auth/writ/policy"
)

// A rule that is reported as without effect has none: without it every request is answered as before. Rules and requests
// are drawn from so few values that they meet often.
func TestCoveredRulesHaveNoEffect(t *testing.T) {
	const seed = 1
	g := &generator{rand.New(rand.NewPCG(seed, seed))}
	found := 0
	for n := range 3000 {
		mesh := policy.Mesh{}
		if n%3 == 0 {
			mesh = aliases
		}
		action := g.pick("ALLOW", "DENY")
		rules := []string{g.rule(), g.rule(), g.rule()}
		spec := func(rules []string) string {
			return authz("p", "{action: "+action+", rules: ["+strings.Join(rules, ", ")+"]}")
		}
		for _, p := range lint(t, mesh, spec(rules)) {
			if p.Code != "WRIT322" {
				continue
			}
			found++
			var index int
			if _, err := fmt.Sscanf(p.Field, "spec.rules[%d]", &index); err != nil {
				t.Fatal(err)
			}
			with := ruleset(t, mesh, spec(rules))
			without := ruleset(t, mesh, spec(append(append([]string(nil), rules[:index]...), rules[index+1:]...)))
			for range 50 {
				r := g.request()
				a, b := with.Evaluate(r), without.Evaluate(r)
				if (a.Allow == nil) != (b.Allow == nil) || (a.Deny == nil) != (b.Deny == nil) {
					t.Fatalf("%v\nbut without it the answer to %+v is another:\n%s", p, r, spec(rules))
				}
			}
		}
	}
	if found < 300 {
		t.Errorf("only %d rules without effect came up: the values no longer meet", found)
	}
}

func ruleset(t *testing.T, mesh policy.Mesh, text string) *policy.Ruleset {
	t.Helper()
	bound, err := policy.NewSnapshot(policy.Decode("test.yaml", []byte(text)), mesh).Resolve(policy.Workload{Namespace: "shop", Labels: map[string]string{}})
	if err != nil {
		t.Fatal(err)
	}
	return bound.Rules
}

type generator struct{ *rand.Rand }

func (g *generator) pick(values ...string) string { return values[g.IntN(len(values))] }

func (g *generator) rule() string {
	var parts []string
	if g.IntN(2) == 0 {
		parts = append(parts, "from: ["+g.source()+g.pick("", ", "+g.source())+"]")
	}
	if g.IntN(2) == 0 {
		parts = append(parts, "to: ["+g.operation()+g.pick("", ", "+g.operation())+"]")
	}
	if g.IntN(4) == 0 {
		parts = append(parts, `when: [{key: "request.headers[x]", `+g.field("values", "notValues", `"*"`, "a", "ab", `"a*"`)+"}]")
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

func (g *generator) source() string {
	fields := g.pick(
		g.field("principals", "notPrincipals", `"*"`, "shop.example/ns/shop/sa/a", "shop.example/ns/shop/sa/*", "cluster.local/ns/shop/sa/a", `"cluster.local/*"`, `"shop.example/*"`, `"*/sa/a"`),
		g.field("namespaces", "notNamespaces", `"*"`, "shop", `"sh*"`, `"*op"`, `"s*p"`, "till"),
		g.field("ipBlocks", "notIpBlocks", "10.0.0.0/8", "10.1.0.0/16", "10.1.0.1", `"::/0"`),
		g.field("requestPrincipals", "notRequestPrincipals", `"*"`, "idp/a"),
	)
	return "{source: {" + fields + "}}"
}

func (g *generator) operation() string {
	fields := g.field("paths", "notPaths", `"*"`, "/a", `"/a*"`, `"/a/*"`, "/a/b", `"*/b"`, `"/a/{*}"`, `"/{**}/b"`)
	if g.IntN(2) == 0 {
		fields += ", " + g.field("ports", "notPorts", `"80"`, `"080"`, `"81"`)
	} else if g.IntN(2) == 0 {
		fields = g.field("hosts", "notHosts", `"*"`, "A.example", `"a.*"`, `"a.example:*"`)
	}
	return "{operation: {" + fields + "}}"
}

// field is one of two lists, or both, of one or two values.
func (g *generator) field(name, not string, values ...string) string {
	list := func() string { return "[" + g.pick(values...) + g.pick("", ", "+g.pick(values...)) + "]" }
	switch g.IntN(4) {
	case 0:
		return not + ": " + list()
	case 1:
		return name + ": " + list() + ", " + not + ": " + list()
	}
	return name + ": " + list()
}

func (g *generator) request() *policy.Request {
	r := &policy.Request{
		SourceIP: netip.MustParseAddr(g.pick("10.1.0.1", "10.1.0.2", "10.2.0.1", "11.0.0.1", "2001:db8::1")),
		DestPort: uint16(80 + g.IntN(2)),
	}
	if name := g.pick("", "spiffe://cluster.local/ns/shop/sa/a", "spiffe://shop.example/ns/shop/sa/a", "spiffe://old.example/ns/shop/sa/a", "spiffe://old.example/ns/shop/sa/b", "spiffe://old.example/ns/sop/sa/a", "client.example"); name != "" {
		r.Names = []string{name}
	}
	if r.TCP = g.IntN(4) == 0; r.TCP {
		return r
	}
	r.Path = g.pick("/", "/a", "/ab", "/a/", "/a/b", "/a/x", "/x/b", "/a/x/b")
	r.RawPath, r.Method, r.HasMethod = r.Path, "GET", true
	r.Host, r.HasHost = g.pick("a.example", "A.example:80", "b.example", ""), true
	if v := g.pick("none", "", "a", "ab", "b"); v != "none" {
		r.Headers = []policy.Header{{Name: "x", Value: v}}
	}
	return r
}
