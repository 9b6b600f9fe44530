package policy_test

import (
	"testing"

	"github.com/writ-auth/writ/policy"
)

// TestClaimKeys is §2 "Claims" and the CLAIM row of §1.3.
func TestClaimKeys(t *testing.T) {
	t.Parallel()
	c := func(key, v string, payload claims, want bool) value {
		return value{when(`key: "` + key + `", values: ["` + v + `"]`), request(token(payload)), want}
	}
	not := func(key, v string, payload claims, want bool) value {
		return value{when(`key: "` + key + `", notValues: ["` + v + `"]`), request(token(payload)), want}
	}
	list := func(v ...any) []any { return v }
	runValues(t, policy.Mesh{}, []value{
		c("request.auth.claims[a]", "x", claims{"a": "x"}, true), c("request.auth.claims[a]", "X", claims{"a": "x"}, false),
		c("request.auth.claims[a]", "x", claims{"a": list("y", "x")}, true), c("request.auth.claims[a]", "x*", claims{"a": list(3.0, "xy")}, true),
		c("request.auth.claims[a]", "*y", claims{"a": "xy"}, true), c("request.auth.claims[a]", "*", claims{"a": ""}, false),
		c("request.auth.claims[a]", "*", claims{"a": list()}, false), c("request.auth.claims[a]", "*", claims{"a": list("", "x")}, true),
		c("request.auth.claims[a]", "3", claims{"a": 3.0}, false), not("request.auth.claims[a]", "3", claims{"a": 3.0}, true),
		c("request.auth.claims[a]", "true", claims{"a": true}, false), c("request.auth.claims[a]", "*", claims{"a": nil}, false),
		c("request.auth.claims[a]", "*", claims{"a": map[string]any{"b": "x"}}, false),
		c("request.auth.claims[a][b]", "x", claims{"a": map[string]any{"b": "x"}}, true),
		c("request.auth.claims[a][b]", "x", claims{"a": map[string]any{"b": list("x")}}, true),
		c("request.auth.claims[a][b]", "x", claims{"a": list(map[string]any{"b": "x"})}, false), // lists of objects are not walked
		c("request.auth.claims[a][b]", "x", claims{"a": "x"}, false),
		c("request.auth.claims[a.b]", "x", claims{"a": map[string]any{"b": "x"}}, false), c("request.auth.claims[a.b]", "x", claims{"a.b": "x"}, true),
		c("request.auth.claims[[foo]]", "x", claims{"[foo]": "x"}, true), c("request.auth.claims[a]b[c]", "x", claims{"a]b[c": "x"}, true),
		c("request.auth.claims[https://a/b]", "x", claims{"https://a/b": "x"}, true),
		c("request.auth.claims[scope]", "read", claims{"scope": list("read", "write")}, true), // split by the verifier
		c("request.auth.claims[scope]", "read write", claims{"scope": list("read", "write")}, false),
		c("request.auth.audiences", "api", claims{"aud": "api"}, true), c("request.auth.audiences", "api", claims{"aud": list("x", "api")}, true),
		c("request.auth.audiences", "a*", claims{"aud": list("x", "api")}, true), c("request.auth.audiences", "api", claims{}, false),
		c("request.auth.presenter", "cli", claims{"azp": "cli"}, true), c("request.auth.presenter", "cli", claims{"azp": list("cli")}, true),
		not("request.auth.claims[a]", "x", claims{}, true), not("request.auth.claims[a]", "x", claims{"a": list("y", "x")}, false),
	})
}

// TestEmptyThings is the table of §3.2.
func TestEmptyThings(t *testing.T) {
	t.Parallel()
	r := request()
	verdict := func(t *testing.T, spec string) policy.Verdict { return ask(t, policy.Mesh{}, r, document(spec)) }
	t.Run("ALLOW without rules never matches and is present", func(t *testing.T) {
		for _, spec := range []string{"{}", "{rules: []}", "{action: ALLOW}"} {
			if v := verdict(t, spec); v.Allow != nil || !v.HasAllow {
				t.Errorf("%s: %+v", spec, v)
			}
		}
	})
	t.Run("ALLOW with an empty rule matches everything", func(t *testing.T) {
		for _, spec := range []string{"{rules: [{}]}", "{rules: [null]}", "{rules: [{from: [], to: []}]}"} {
			if v := verdict(t, spec); v.Allow == nil || !v.HasAllow {
				t.Errorf("%s: %+v", spec, v)
			}
		}
	})
	t.Run("DENY with an empty rule matches everything", func(t *testing.T) {
		if v := verdict(t, "{action: DENY, rules: [{}]}"); v.Deny == nil || v.HasAllow {
			t.Errorf("%+v", v)
		}
	})
	t.Run("AUDIT without rules never matches", func(t *testing.T) {
		if v := verdict(t, "{action: AUDIT}"); v.Audit != nil {
			t.Errorf("%+v", v)
		}
	})
	t.Run("empty from is the same as none", func(t *testing.T) {
		if !matches(t, policy.Mesh{}, `{from: [], to: [{operation: {methods: [GET]}}]}`, r) {
			t.Error("from: [] is not any source")
		}
	})
	for name, spec := range map[string]string{
		"DENY without rules":              "{action: DENY}",
		"DENY with rules []":              "{action: DENY, rules: []}",
		"CUSTOM without rules":            "{action: CUSTOM, provider: {name: opa}}",
		"source absent":                   "{rules: [{from: [{}]}]}",
		"source empty":                    "{rules: [{from: [{source: {}}]}]}",
		"operation empty":                 "{rules: [{to: [{operation: {}}]}]}",
		"one empty source among several":  "{rules: [{from: [{source: {namespaces: [a]}}, {source: {}}]}]}",
		"when key without values":         "{rules: [{when: [{key: source.ip}]}]}",
		"an empty value":                  `{rules: [{to: [{operation: {paths: [""]}}]}]}`,
		"an empty when value":             `{rules: [{when: [{key: source.namespace, values: [""]}]}]}`,
		"an empty notValue":               `{rules: [{when: [{key: source.namespace, values: [a], notValues: [""]}]}]}`,
		"an empty value among good ones":  `{rules: [{from: [{source: {principals: [a, ""]}}]}]}`,
		"an action in lower case":         "{action: deny, rules: [{}]}",
		"a port that is a number":         "{rules: [{to: [{operation: {ports: [80]}}]}]}",
		"provider on another action":      "{action: ALLOW, provider: {name: opa}, rules: [{}]}",
		"an unknown when key":             "{action: DENY, rules: [{when: [{key: source.user, values: [a]}]}]}",
		"a when key that only looks good": "{action: DENY, rules: [{when: [{key: 'request.auth.claimsX[a]', values: [a]}]}]}",
		"a malformed address":             "{rules: [{from: [{source: {ipBlocks: [10.0.0.256]}}]}]}",
		"a port range":                    `{rules: [{to: [{operation: {ports: ["80-90"]}}]}]}`,
	} {
		t.Run(name+" is refused", func(t *testing.T) {
			docs := policy.Decode("test.yaml", []byte(document(spec)))
			if len(docs) != 1 || !docs[0].Broken() {
				t.Errorf("accepted: %s", spec)
			}
		})
	}
}

// TestCombination is the formula of §3.1.
func TestCombination(t *testing.T) {
	t.Parallel()
	web := request(named("spiffe://cluster.local/ns/foo/sa/web"), pathOf("/a"))
	runValues(t, policy.Mesh{}, []value{
		{`{from: [{source: {namespaces: [x]}}, {source: {namespaces: [foo]}}]}`, web, true},             // from is OR
		{`{to: [{operation: {paths: [/x]}}, {operation: {paths: [/a]}}]}`, web, true},                   // to is OR
		{`{from: [{source: {namespaces: [foo], principals: [x]}}]}`, web, false},                        // fields are AND
		{`{to: [{operation: {paths: [/a], methods: [POST]}}]}`, web, false},                             // fields are AND
		{`{from: [{source: {namespaces: [x, foo]}}], to: [{operation: {paths: [/x, /a]}}]}`, web, true}, // values are OR
		{`{from: [{source: {namespaces: [foo]}}], to: [{operation: {paths: [/x]}}]}`, web, false},       // from AND to
		{`{to: [{operation: {paths: ["/*"], notPaths: [/a]}}]}`, web, false},                            // and not
		{`{to: [{operation: {paths: ["/*"], notPaths: [/b, /c]}}]}`, web, true},
		{`{when: [{key: source.namespace, values: [foo]}, {key: source.namespace, values: [bar]}]}`, web, false}, // same key twice: both
		{`{when: [{key: source.namespace, values: [foo]}, {key: source.namespace, notValues: [bar]}]}`, web, true},
		{`{when: [{key: source.namespace, values: [foo], notValues: ["f*"]}]}`, web, false},
		// No negation across entries: notNamespaces in one entry does not restrict another.
		{`{from: [{source: {notNamespaces: [foo]}}, {source: {principals: ["*"]}}]}`, web, true},
	})
}

// TestMissingAttributes is the table of §3.3: the negation of a missing attribute is true, in ALLOW as in DENY.
func TestMissingAttributes(t *testing.T) {
	t.Parallel()
	noPath := request(pathOf(""))
	noHost := request(func(r *policy.Request) { r.Host, r.HasHost = "", false })
	runValues(t, policy.Mesh{}, []value{
		{source(`notPrincipals: [a]`), request(), true}, {source(`principals: [a]`), request(), false},
		{source(`notPrincipals: ["*"]`), request(), true},
		{source(`notNamespaces: [x]`), request(), true}, {source(`notNamespaces: ["*"]`), request(), true},
		{source(`notServiceAccounts: [x]`), request(), true}, {source(`notTrustDomains: ["*"]`), request(), true},
		{source(`notRequestPrincipals: ["*"]`), request(), true},
		{source(`notRequestPrincipals: ["*"]`), request(token(claims{"iss": "i", "sub": "s"})), false},
		{source(`notRequestPrincipals: ["*"]`), request(token(claims{"sub": "s"})), true}, // partial token
		{when(`key: "request.auth.claims[x]", notValues: [v]`), request(), true},
		{when(`key: "request.auth.claims[x]", notValues: [v]`), request(token(claims{"y": "v"})), true},
		{when(`key: "request.auth.claims[x]", notValues: ["*"]`), request(token(claims{"x": 1.0})), true},
		{when(`key: "request.headers[h]", notValues: ["*"]`), request(), true},
		{when(`key: "request.headers[h]", notValues: ["*"]`), request(header("h", "")), false},
		{source(`notIpBlocks: [10.0.0.0/8]`), request(sourceIPOf("2001:db8::1")), true},
		{operation(`notPaths: [/x]`), noPath, true}, {operation(`notPaths: ["*"]`), noPath, true}, {operation(`paths: ["*"]`), noPath, false},
		{operation(`notPaths: ["/{**}"]`), noPath, true}, {operation(`notHosts: ["*"]`), noHost, true},
		{when(`key: connection.sni, notValues: ["*"]`), request(), true},
	})
}

// TestSelection is the table of §1.2.
func TestSelection(t *testing.T) {
	t.Parallel()
	const gatewayAPI = "group: gateway.networking.k8s.io"
	ordinary := httpbin()
	gateway := policy.Workload{Namespace: "foo", Labels: map[string]string{gatewayNameLabel: "gw", "app": "httpbin"}}
	waypoint := policy.Workload{
		Namespace: "foo", Labels: map[string]string{gatewayNameLabel: "gw", managedLabel: waypointManager},
		Services: []string{"Service foo/web", "ServiceEntry bar/db"},
	}
	for _, tc := range []struct {
		name, namespace, target       string
		ordinary, gateway, atWaypoint bool
	}{
		{"no target, own namespace", "foo", "", true, true, false},
		{"no target, root namespace", "istio-system", "", true, true, false},
		{"no target, another namespace", "bar", "", false, false, false},
		{"empty selector", "foo", "selector: {}, ", true, true, false},
		{"selector that fits", "foo", "selector: {matchLabels: {app: httpbin}}, ", true, true, false},
		{"selector of the root namespace", "istio-system", "selector: {matchLabels: {app: httpbin}}, ", true, true, false},
		{"selector with one label too many", "foo", "selector: {matchLabels: {app: httpbin, x: z}}, ", false, false, false},
		{"its Gateway", "foo", "targetRefs: [{" + gatewayAPI + ", kind: Gateway, name: gw}], ", false, true, true},
		{"its Gateway, legacy field", "foo", "targetRef: {" + gatewayAPI + ", kind: Gateway, name: gw}, ", false, true, true},
		{"another Gateway", "foo", "targetRefs: [{" + gatewayAPI + ", kind: Gateway, name: other}], ", false, false, false},
		{"one Gateway of two", "foo", "targetRefs: [{" + gatewayAPI + ", kind: Gateway, name: x}, {" + gatewayAPI + ", kind: Gateway, name: gw}], ", false, true, true},
		{"its Gateway from the root namespace", "istio-system", "targetRefs: [{" + gatewayAPI + ", kind: Gateway, name: gw}], ", false, false, false},
		{"its Service", "foo", `targetRefs: [{group: "", kind: Service, name: web}], `, false, false, true},
		{"its Service, core spelled out", "foo", "targetRefs: [{group: core, kind: Service, name: web}], ", false, false, true},
		{"another Service", "foo", "targetRefs: [{kind: Service, name: other}], ", false, false, false},
		{"a Service of that name elsewhere", "bar", "targetRefs: [{kind: Service, name: web}], ", false, false, false},
		{"its ServiceEntry", "bar", "targetRefs: [{group: networking.istio.io, kind: ServiceEntry, name: db}], ", false, false, true},
		{"the waypoint class", "istio-system", "targetRefs: [{" + gatewayAPI + ", kind: GatewayClass, name: istio-waypoint}], ", false, false, true},
		{"the waypoint class, not from the root", "foo", "targetRefs: [{" + gatewayAPI + ", kind: GatewayClass, name: istio-waypoint}], ", false, false, false},
		{"another class", "istio-system", "targetRefs: [{" + gatewayAPI + ", kind: GatewayClass, name: istio}], ", false, false, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			docs := load(t, documentNamed(tc.namespace, "p", "{"+tc.target+"rules: [{}]}"))
			for _, w := range []struct {
				kind     string
				workload policy.Workload
				want     bool
			}{{"ordinary", ordinary, tc.ordinary}, {"gateway", gateway, tc.gateway}, {"waypoint", waypoint, tc.atWaypoint}} {
				if got := bind(t, policy.Mesh{}, docs, w.workload).Evaluate(request()).HasAllow; got != w.want {
					t.Errorf("%s workload: applies = %v, want %v", w.kind, got, w.want)
				}
			}
		})
	}
}

// TestTCP is both tables of §5.
func TestTCP(t *testing.T) {
	t.Parallel()
	foo := named("spiffe://cluster.local/ns/foo/sa/web")
	other := connection(portOf(9))
	at8080 := connection(portOf(8080))
	for _, tc := range []struct {
		name, spec        string
		request           *policy.Request
		allow, deny, audi bool
	}{
		{"ALLOW methods only: nothing", "{rules: [{to: [{operation: {methods: [GET]}}]}]}", at8080, false, false, false},
		{"ALLOW methods beside ports in one rule: rule lost", `{rules: [{to: [{operation: {methods: [GET]}}, {operation: {ports: ["8080"]}}]}]}`, at8080, false, false, false},
		{"ALLOW the same in two rules: port stays", `{rules: [{to: [{operation: {methods: [GET]}}]}, {to: [{operation: {ports: ["8080"]}}]}]}`, at8080, true, false, false},
		{"ALLOW requestPrincipals beside namespaces: rule lost", `{rules: [{from: [{source: {requestPrincipals: ["*"]}}, {source: {namespaces: [foo]}}]}]}`, connection(foo), false, false, false},
		{"ALLOW notPaths: rule lost", "{rules: [{to: [{operation: {notPaths: [/x]}}]}]}", at8080, false, false, false},
		{"ALLOW with an HTTP when: rule lost", "{rules: [{from: [{source: {namespaces: [foo]}}], when: [{key: 'request.headers[x]', notValues: [a]}]}]}", connection(foo), false, false, false},
		{"DENY methods and ports: all of the port", `{action: DENY, rules: [{to: [{operation: {methods: [POST], ports: ["8080"]}}]}]}`, at8080, false, true, false},
		{"DENY methods and ports: other ports stay", `{action: DENY, rules: [{to: [{operation: {methods: [POST], ports: ["8080"]}}]}]}`, other, false, false, false},
		{"DENY paths: all", "{action: DENY, rules: [{to: [{operation: {paths: [/x]}}]}]}", other, false, true, false},
		{"DENY notPaths: all", "{action: DENY, rules: [{to: [{operation: {notPaths: [/public]}}]}]}", other, false, true, false},
		{"DENY notRequestPrincipals: all", `{action: DENY, rules: [{from: [{source: {notRequestPrincipals: ["*"]}}]}]}`, other, false, true, false},
		{"DENY requestPrincipals and port: that port", `{action: DENY, rules: [{from: [{source: {requestPrincipals: ["*"]}}], to: [{operation: {ports: ["80"]}}]}]}`, connection(portOf(80)), false, true, false},
		{"DENY header and namespace: that namespace", "{action: DENY, rules: [{when: [{key: 'request.headers[x]', values: [a]}, {key: source.namespace, values: [foo]}]}]}", connection(foo), false, true, false},
		{"DENY header and namespace: no other", "{action: DENY, rules: [{when: [{key: 'request.headers[x]', values: [a]}, {key: source.namespace, values: [foo]}]}]}", other, false, false, false},
		{"DENY with an HTTP entry beside an L4 entry: all", "{action: DENY, rules: [{from: [{source: {requestPrincipals: [a]}}, {source: {namespaces: [foo]}}]}]}", other, false, true, false},
		{"AUDIT paths: all", "{action: AUDIT, rules: [{to: [{operation: {paths: [/x]}}]}]}", other, false, false, true},
		{"remoteIpBlocks work", "{rules: [{from: [{source: {remoteIpBlocks: [10.0.0.0/8]}}]}]}", at8080, true, false, false},
		{"sni works", "{rules: [{when: [{key: connection.sni, values: [a.example]}]}]}", connection(sniOf("a.example")), true, false, false},
		{"trustDomains work", "{rules: [{from: [{source: {trustDomains: [cluster.local]}}]}]}", connection(foo), true, false, false},
		{"experimental works", "{rules: [{when: [{key: 'experimental.envoy.filters.a[k]', values: [v]}]}]}",
			connection(func(r *policy.Request) { r.Metadata = metadata{"envoy.filters.a": {"k": "v"}} }), true, false, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			v := ask(t, policy.Mesh{}, tc.request, document(tc.spec))
			if (v.Allow != nil) != tc.allow || (v.Deny != nil) != tc.deny || (v.Audit != nil) != tc.audi {
				t.Errorf("verdict %+v, want allow %v, deny %v, audit %v", v, tc.allow, tc.deny, tc.audi)
			}
		})
	}
	t.Run("CUSTOM paths: the provider is asked for every connection", func(t *testing.T) {
		docs := load(t, document("{action: CUSTOM, provider: {name: opa}, rules: [{to: [{operation: {paths: [/x]}}]}]}"))
		if rule, _ := bind(t, policy.Mesh{}, docs, httpbin()).Custom(other, 0); rule == nil {
			t.Error("no CUSTOM rule matches")
		}
	})
	t.Run("dry-run ALLOW with HTTP rules only: an empty set, always denied", func(t *testing.T) {
		doc := "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n" +
			"metadata: {namespace: foo, name: p, annotations: {istio.io/dry-run: \"true\"}}\nspec: {rules: [{to: [{operation: {methods: [GET]}}]}]}\n"
		v := ask(t, policy.Mesh{}, other, doc)
		if !v.HasShadowAllow || v.ShadowAllow != nil || v.HasAllow {
			t.Errorf("verdict %+v", v)
		}
	})
}

// TestReportedRule is §4.3: the lexicographically smallest ID is named.
func TestReportedRule(t *testing.T) {
	t.Parallel()
	never, always := "{to: [{operation: {paths: [/never]}}]}", "{to: [{operation: {paths: [/]}}]}"
	rules := func(match ...int) string {
		out := "{rules: ["
		for i := range 12 {
			rule := never
			for _, m := range match {
				if i == m {
					rule = always
				}
			}
			out += rule + ", "
		}
		return out + "]}"
	}
	for _, tc := range []struct {
		name string
		docs []string
		want string
	}{
		{"rule 2", []string{document(rules(2))}, "ns[foo]-policy[p]-rule[2]"},
		{"rules 2 and 10", []string{document(rules(2, 10))}, "ns[foo]-policy[p]-rule[10]"},
		{"names compare as part of the ID", []string{documentNamed("foo", "p", rules(0)), documentNamed("foo", "p-2", rules(0))}, "ns[foo]-policy[p-2]-rule[0]"},
		{"namespaces too", []string{documentNamed("foo", "a", rules(0)), documentNamed("istio-system", "a", rules(0))}, "ns[foo]-policy[a]-rule[0]"},
		{"an upper bound of the order", []string{documentNamed("foo", "b", rules(1)), documentNamed("foo", "a", rules(11))}, "ns[foo]-policy[a]-rule[11]"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			v := ask(t, policy.Mesh{}, request(), tc.docs...)
			if v.Allow == nil || v.Allow.ID() != tc.want {
				t.Errorf("reported %v, want %s", v.Allow, tc.want)
			}
		})
	}
	t.Run("CUSTOM names its provider", func(t *testing.T) {
		docs := load(t, documentNamed("foo", "a", "{action: CUSTOM, provider: {name: opa}, rules: [{}]}"))
		rule, _ := bind(t, policy.Mesh{}, docs, httpbin()).Custom(request(), 0)
		if rule == nil || rule.ID() != "istio-ext-authz-opa-ns[foo]-policy[a]-rule[0]" {
			t.Errorf("reported %v", rule)
		}
	})
}
