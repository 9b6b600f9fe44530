package analysis_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/writ-auth/writ/policy"
	"github.com/writ-auth/writ/policy/analysis"
)

// draw makes random choices.
type draw struct{ *rand.Rand }

func (d draw) oneIn(n int) bool { return d.IntN(n) == 0 }

func (d draw) pick(v ...string) string { return v[d.IntN(len(v))] }

// some is one to three values.
func (d draw) some(v ...string) []string {
	out := []string{d.pick(v...)}
	for len(out) < 3 && d.oneIn(2) {
		out = append(out, d.pick(v...))
	}
	return out
}

// object is a part of a document.
type object = map[string]any

// lists puts values, not-values or both of a field into an object.
func (d draw) lists(o object, field, notField string, v ...string) {
	switch d.IntN(4) {
	case 0, 1:
		o[field] = d.some(v...)
	case 2:
		o[notField] = d.some(v...)
	default:
		o[field], o[notField] = d.some(v...), d.some(v...)
	}
}

// The vocabularies collide: prefixes of one another, every form of wildcard, values that differ by one character.
func (d draw) source(custom bool) object {
	s := object{}
	fields := 6
	if custom {
		fields = 2
	}
	for range 1 + d.IntN(2) {
		switch d.IntN(fields) {
		case 0:
			d.lists(s, "ipBlocks", "notIpBlocks", networks()...)
		case 1:
			d.lists(s, "remoteIpBlocks", "notRemoteIpBlocks", networks()...)
		case 2:
			if s["serviceAccounts"] == nil && s["notServiceAccounts"] == nil {
				d.lists(s, "principals", "notPrincipals", "*", "cluster.local/ns/foo/sa/web", "cluster.local/ns/foo/sa/*", "cluster.local/*",
					"*/sa/web", "td1/ns/bar/sa/web", "cluster.local/ns/foo/sa/w*", "*-td/ns/foo/sa/web", "*.example", "spiffe://td1/*")
			}
		case 3:
			if s["serviceAccounts"] == nil && s["notServiceAccounts"] == nil {
				d.lists(s, "namespaces", "notNamespaces", "foo", "bar", "*", "foo-*", "*bar", "f*o", "foo-bar")
			}
		case 4:
			if len(s) == 0 {
				d.lists(s, "serviceAccounts", "notServiceAccounts", "web", "foo/web", "bar/admin", "admin")
			}
		default:
			d.lists(s, "requestPrincipals", "notRequestPrincipals", "*", "https://idp.example/*", "https://idp.example/alice",
				"https://idp.example/al*", "*/alice", "*ice", "https://b.example/bob")
		}
	}
	if len(s) == 0 {
		s["ipBlocks"] = []string{"10.0.0.0/8"}
	}
	return s
}

func networks() []string {
	return []string{"10.0.0.0/8", "10.1.0.0/16", "10.1.2.3", "0.0.0.0/0", "2001:db8::/32", "::/0", "192.0.2.0/25"}
}

func (d draw) operation() object {
	o := object{}
	if d.oneIn(2) {
		d.lists(o, "paths", "notPaths", "/a", "/a*", "/a/*", "*/info", "*", "/a/{*}", "/a/{**}", "/{*}/info", "/b", "/a/b")
	}
	if d.oneIn(2) {
		d.lists(o, "methods", "notMethods", "GET", "POST", "P*", "*T", "*", "CONNECT")
	}
	if d.oneIn(4) {
		d.lists(o, "hosts", "notHosts", "a.example", "A.example", "*.example", "a.*", "*", "a.example:*")
	}
	if d.oneIn(4) || len(o) == 0 {
		d.lists(o, "ports", "notPorts", "80", "8080", "9")
	}
	return o
}

func (d draw) condition(custom bool) object {
	type family struct{ keys, values []string }
	families := []family{
		{[]string{"request.headers[x-a]", "request.headers[:path]", "request.headers[:authority]", "request.headers[:method]"}, []string{"*", "dev", "de*", "*ev", "/a*", "*=1", "a.example", "A*", "GET"}},
		{[]string{"source.ip", "remote.ip", "destination.ip"}, networks()},
		{[]string{"connection.sni"}, []string{"*", "a.example", "*.example", "a*"}},
		{[]string{"experimental.envoy.filters.http.x[role]"}, []string{"*", "dev", "de*", "[dev]", "[*]", "[*ev]"}},
		{[]string{"request.auth.claims[groups]", "request.auth.audiences", "request.auth.claims[iss]", "request.auth.claims[sub]", "request.auth.claims[n]", "request.auth.claims[n][m]"},
			[]string{"*", "dev", "de*", "*ev", "alice", "https://idp.example", "a", "b"}},
		{[]string{"source.trustDomain"}, []string{"cluster.local", "td*", "*-td", "*"}},
	}
	n := len(families)
	if custom {
		n = 4
	}
	f := families[d.IntN(n)]
	c := object{"key": d.pick(f.keys...)}
	d.lists(c, "values", "notValues", f.values...)
	return c
}

func (d draw) spec() object {
	spec := object{}
	custom := false
	switch d.IntN(8) {
	case 0, 1, 2, 3:
		spec["action"] = "ALLOW"
	case 4, 5, 6:
		spec["action"] = "DENY"
	default:
		spec["action"], custom = "CUSTOM", true
		spec["provider"] = object{"name": d.pick("opa", "legacy")}
	}
	switch d.IntN(5) {
	case 0:
		spec["selector"] = object{"matchLabels": object{"app": d.pick("a", "b")}}
	case 1:
		spec["selector"] = object{"matchLabels": object{"app": "a", "v": "1"}}
	}
	var rules []any
	for range 1 + d.IntN(2) {
		rule := object{}
		var from, to, when []any
		for range d.IntN(3) {
			from = append(from, object{"source": d.source(custom)})
		}
		for range d.IntN(3) {
			to = append(to, object{"operation": d.operation()})
		}
		for range max(0, d.IntN(4)-1) {
			when = append(when, d.condition(custom))
		}
		for key, list := range map[string][]any{"from": from, "to": to, "when": when} {
			if len(list) > 0 {
				rule[key] = list
			}
		}
		rules = append(rules, rule)
	}
	spec["rules"] = rules
	return spec
}

// document draws document number n: mostly AuthorizationPolicies.
func (d draw) document(n int) object {
	namespace := d.pick("foo", "foo", "foo", "istio-system", "bar")
	kind := "AuthorizationPolicy"
	var spec object
	switch d.IntN(12) {
	case 0:
		kind, spec = "PeerAuthentication", object{"mtls": object{"mode": d.pick("STRICT", "PERMISSIVE")}}
		if namespace == "foo" {
			spec["selector"] = object{"matchLabels": object{"app": "a"}}
			spec["portLevelMtls"] = object{"80": object{"mode": d.pick("STRICT", "PERMISSIVE")}}
		}
	case 1, 2:
		rule := object{"issuer": d.pick("https://idp.example", "https://b.example"), "jwks": `{"keys":[]}`}
		if d.oneIn(2) {
			rule["audiences"] = d.some("a", "https://b/", "dev")
		}
		kind, spec = "RequestAuthentication", object{"jwtRules": []any{rule}}
	default:
		spec = d.spec()
	}
	return object{
		"apiVersion": "security.istio.io/v1", "kind": kind, "spec": spec, "metadata": object{"name": fmt.Sprint("p", n), "namespace": namespace},
	}
}

// pair draws two sets, the second made of the first by a few changes.
func (d draw) pair() (old, new []object) {
	for n := range 1 + d.IntN(6) {
		old = append(old, d.document(n))
	}
	new = slices.Clone(old)
	for n := range 1 + d.IntN(3) {
		switch i := d.IntN(len(new) + 1); {
		case i == len(new) || d.oneIn(4):
			new = append(new, d.document(100+n))
		case d.oneIn(3):
			new = slices.Delete(new, i, i+1)
		default:
			new[i] = d.document(200 + n)
		}
	}
	return old, new
}

func decode(t testing.TB, objects []object) []*policy.Document {
	t.Helper()
	var text strings.Builder
	for _, o := range objects {
		b, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		text.WriteString("---\n" + string(b) + "\n")
	}
	docs := policy.Decode("generated.yaml", []byte(text.String()))
	for _, doc := range docs {
		if doc.Broken() {
			t.Fatalf("%v\n%s", doc.Problems, text.String())
		}
	}
	return docs
}

// request draws a request just inside or just outside of the vocabularies.
func (d draw) request() analysis.Request {
	r := analysis.Request{
		TCP: d.oneIn(6), SourceIP: d.address(), RemoteIP: d.address(), DestinationIP: d.address(),
		Port: []uint16{80, 8080, 9, 7}[d.IntN(4)], SNI: d.pick("", "a.example", "b.example", "ab"),
	}
	if !d.oneIn(4) {
		r.From = "spiffe://" + d.pick("cluster.local", "cluster.local", "td1", "x-td") + "/ns/" + d.pick("foo", "bar", "foo-bar", "xbar", "fo") +
			"/sa/" + d.pick("web", "admin", "w", "web-2")
	} else if d.oneIn(4) {
		r.From = d.pick("client.example", "client.other")
	}
	if d.oneIn(2) {
		r.Metadata = map[string]map[string]any{"envoy.filters.http.x": {"role": d.claim()}}
	}
	if r.TCP {
		r.RemoteIP = r.SourceIP
		return r
	}
	r.Method, r.Host = d.pick("GET", "GET", "POST", "PUT", "CONNECT"), d.pick("a.example", "A.example", "b.example", "a.example:80", "other")
	if r.Method != "CONNECT" || d.oneIn(2) {
		r.Path = d.pick("/", "/a", "/ab", "/a/", "/a/b", "/a/b/info", "/x/info", "/b", "/a/*", "/a/b|c", "/c") + d.pick("", "", "", "?x=1", "?dev")
	}
	if d.oneIn(2) {
		r.Headers = map[string]string{"x-a": d.pick("", "dev", "de", "xev", "other")}
	}
	if d.oneIn(2) {
		return r
	}
	r.Claims = map[string]any{"iss": d.pick("https://idp.example", "https://idp.example", "https://b.example", "https://c.example")}
	if !d.oneIn(5) {
		r.Claims["sub"] = d.pick("alice", "al", "bob", "dev", "xice")
	}
	for _, name := range []string{"groups", "aud", "n"} {
		if !d.oneIn(3) {
			r.Claims[name] = d.claim()
		}
	}
	if d.oneIn(3) {
		r.Claims["n"] = map[string]any{"m": d.claim()}
	}
	return r
}

func (d draw) claim() any {
	values := []string{"dev", "de", "xev", "alice", "a", "b", "other", "https://b", "b/", "https://idp.example", ""}
	if d.oneIn(2) {
		return d.pick(values...)
	}
	out := []any{}
	for range d.IntN(4) {
		out = append(out, d.pick(values...))
	}
	return out
}

func (d draw) address() string {
	return d.pick("10.1.2.3", "10.1.2.4", "10.2.0.1", "192.0.2.1", "192.0.2.200", "203.0.113.7", "2001:db8::5", "2001:db9::1")
}

// workload draws whom a request is for.
func (d draw) workload() policy.Workload {
	w := policy.Workload{Namespace: d.pick("foo", "foo", "bar", "istio-system", "unnamed"), Labels: map[string]string{}}
	if d.oneIn(2) {
		w.Labels["app"] = d.pick("a", "a", "b", "c")
	}
	if d.oneIn(2) {
		w.Labels["v"] = d.pick("1", "2")
	}
	return w
}
