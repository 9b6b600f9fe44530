package analysis_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/writ-auth/writ/policy"
	"github.com/writ-auth/writ/policy/analysis"
)

// lint decodes documents that must be valid and returns their hazards as "CODE field".
func lint(t *testing.T, mesh policy.Mesh, text string) []policy.Problem {
	t.Helper()
	docs := policy.Decode("test.yaml", []byte(text))
	for _, d := range docs {
		for _, p := range d.Problems {
			if p.Severity == policy.SeverityError {
				t.Fatalf("the test's document is broken: %v", p)
			}
		}
	}
	return analysis.Lint(docs, mesh)
}

func codes(problems []policy.Problem) []string {
	var out []string
	for _, p := range problems {
		out = append(out, strings.TrimSpace(p.Code+" "+p.Field))
	}
	return out
}

// authz is an AuthorizationPolicy of namespace shop with this spec.
func authz(name, spec string) string {
	return in("shop", name, spec)
}

func in(namespace, name, spec string) string {
	return fmt.Sprintf("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: %s, namespace: %s}\nspec:\n  %s\n---\n",
		name, namespace, strings.ReplaceAll(spec, "\n", "\n  "))
}

func workload(name, labels, ports string) string {
	return fmt.Sprintf("apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: %s, namespace: shop}\nspec: {address: 10.0.0.1, labels: %s, ports: %s}\n---\n", name, labels, ports)
}

func peerAuthentication(namespace string) string {
	return fmt.Sprintf("apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: default, namespace: %s}\nspec: {mtls: {mode: STRICT}}\n---\n", namespace)
}

// hazardCase is a document set that triggers a code, and one nearly the same that does not.
type hazardCase struct {
	code  string
	name  string
	mesh  policy.Mesh
	fires string
	field string // where it is reported
	quiet string
	says  string // part of the message or the hint
}

var otherDomain = policy.Mesh{TrustDomain: "shop.example"}
var aliases = policy.Mesh{TrustDomain: "shop.example", TrustDomainAliases: []string{"old.example"}}

var hazardCases = []hazardCase{
	{code: "WRIT301", name: "exact path",
		fires: authz("a", `{action: DENY, rules: [{to: [{operation: {paths: ["/admin"]}}]}]}`),
		quiet: authz("a", `{action: ALLOW, rules: [{to: [{operation: {paths: ["/admin"]}}]}]}`),
		field: "spec.rules[0].to[0].operation.paths", says: `"//admin"`},
	{code: "WRIT301", name: "prefix and suffix",
		fires: authz("a", `{action: DENY, rules: [{to: [{operation: {paths: ["*.key", "/admin*"]}}]}]}`),
		quiet: authz("a", `{action: DENY, rules: [{to: [{operation: {paths: ["*"]}}, {operation: {paths: ["/*"]}}]}]}`),
		field: "spec.rules[0].to[0].operation.paths", says: `"/x.key/"`},
	{code: "WRIT301", name: "everything but a path is the safe form",
		fires: authz("a", `{action: DENY, rules: [{to: [{operation: {paths: ["/admin/{**}"]}}]}]}`),
		quiet: authz("a", `{action: DENY, rules: [{to: [{operation: {notPaths: ["/public/{**}"]}}]}]}`),
		field: "spec.rules[0].to[0].operation.paths"},
	{code: "WRIT301", name: "gRPC methods have one spelling",
		fires: authz("a", `{action: DENY, rules: [{to: [{operation: {paths: ["/shop/v1.Orders/Delete"]}}]}]}`),
		quiet: authz("a", `{action: DENY, rules: [{to: [{operation: {paths: ["/shop.v1.Orders/Delete", "/shop.v1.Admin/*"]}}]}]}`),
		field: "spec.rules[0].to[0].operation.paths"},

	{code: "WRIT302", name: "host",
		fires: authz("a", `{action: DENY, rules: [{to: [{operation: {hosts: ["admin.example.com"]}}]}]}`),
		quiet: authz("a", `{action: DENY, rules: [{to: [{operation: {hosts: ["admin.example.com*"]}}]}]}`),
		field: "spec.rules[0].to[0].operation.hosts", says: `"admin.example.com.:8443"`},
	{code: "WRIT302", name: "notHosts is the safe form",
		fires: authz("a", `{action: DENY, rules: [{to: [{operation: {hosts: ["*.example.com"]}}]}]}`),
		quiet: authz("a", `{action: DENY, rules: [{to: [{operation: {notHosts: ["*.example.com"]}}]}]}`),
		field: "spec.rules[0].to[0].operation.hosts"},

	{code: "WRIT303", name: "host without port variant",
		fires: authz("a", `{rules: [{to: [{operation: {hosts: ["example.com"]}}]}]}`),
		quiet: authz("a", `{rules: [{to: [{operation: {hosts: ["example.com", "example.com:*"]}}]}]}`),
		field: "spec.rules[0].to[0].operation.hosts", says: `"example.com:*"`},
	{code: "WRIT303", name: "a particular port is meant",
		fires: authz("a", `{rules: [{to: [{operation: {hosts: ["example.com"]}}]}]}`),
		quiet: authz("a", `{rules: [{to: [{operation: {hosts: ["example.com:8080"]}}]}]}`),
		field: "spec.rules[0].to[0].operation.hosts"},

	{code: "WRIT304", name: "star inside a path",
		fires: authz("a", `{rules: [{to: [{operation: {paths: ["/orders/*/items"]}}]}]}`),
		quiet: authz("a", `{rules: [{to: [{operation: {paths: ["/orders/{*}/items", "/orders/*"]}}]}]}`),
		field: "spec.rules[0].to[0].operation.paths[0]", says: `"/orders/{*}/items"`},
	{code: "WRIT304", name: "two stars",
		fires: authz("a", `{rules: [{to: [{operation: {paths: ["/orders/**"]}}]}]}`),
		quiet: authz("a", `{rules: [{to: [{operation: {paths: ["/orders/{**}"]}}]}]}`),
		field: "spec.rules[0].to[0].operation.paths[0]", says: `"/orders/{**}"`},
	{code: "WRIT304", name: "star inside a principal",
		fires: authz("a", `{rules: [{from: [{source: {principals: ["cluster.local/ns/*/sa/till"]}}]}]}`),
		quiet: authz("a", `{rules: [{from: [{source: {principals: ["*/ns/shop/sa/till"]}}]}]}`),
		field: "spec.rules[0].from[0].source.principals[0]"},
	{code: "WRIT304", name: "namespaces take stars anywhere",
		fires: authz("a", `{rules: [{to: [{operation: {hosts: ["api.*.example.com:*"]}}]}]}`),
		quiet: authz("a", `{rules: [{from: [{source: {namespaces: ["prod-*-eu", "*a*"]}}]}]}`),
		field: "spec.rules[0].to[0].operation.hosts[0]"},
	{code: "WRIT304", name: "star inside a when value",
		fires: authz("a", `{rules: [{when: [{key: "request.headers[x-team]", values: ["a*b"]}]}]}`),
		quiet: authz("a", `{rules: [{when: [{key: "request.headers[x-team]", values: ["*b"]}]}]}`),
		field: "spec.rules[0].when[0].values[0]"},

	{code: "WRIT305", name: "method",
		fires: authz("a", `{rules: [{to: [{operation: {methods: ["GET", "post"]}}]}]}`),
		quiet: authz("a", `{rules: [{to: [{operation: {methods: ["GET", "POST", "*"]}}]}]}`),
		field: "spec.rules[0].to[0].operation.methods[1]", says: `"POST"`},

	{code: "WRIT306", name: "query",
		fires: authz("a", `{rules: [{to: [{operation: {paths: ["/menu?size=l"]}}]}]}`),
		quiet: authz("a", `{rules: [{to: [{operation: {paths: ["/menu=l"]}}]}]}`),
		field: "spec.rules[0].to[0].operation.paths[0]", says: `"/menu"`},
	{code: "WRIT306", name: "no leading slash",
		fires: authz("a", `{rules: [{to: [{operation: {notPaths: ["menu"]}}]}]}`),
		quiet: authz("a", `{rules: [{to: [{operation: {notPaths: ["*menu"]}}]}]}`),
		field: "spec.rules[0].to[0].operation.notPaths[0]", says: `"/menu"`},
	{code: "WRIT306", name: "dot segment",
		fires: authz("a", `{rules: [{to: [{operation: {paths: ["/a/../menu"]}}]}]}`),
		quiet: authz("a", `{rules: [{to: [{operation: {paths: ["/a/..menu", "/.well-known/x"]}}]}]}`),
		field: "spec.rules[0].to[0].operation.paths[0]"},
	{code: "WRIT306", name: "escaped letter",
		fires: authz("a", `{rules: [{to: [{operation: {paths: ["/%6denu"]}}]}]}`),
		quiet: authz("a", `{rules: [{to: [{operation: {paths: ["/%20menu", "/a%2Fb", "/100%"]}}]}]}`),
		field: "spec.rules[0].to[0].operation.paths[0]", says: "%6d"},
	{code: "WRIT306", name: "backslash",
		fires: authz("a", `{rules: [{to: [{operation: {paths: ['/a\b']}}]}]}`),
		quiet: authz("a", `{rules: [{to: [{operation: {paths: ['/a%5Cb']}}]}]}`),
		field: "spec.rules[0].to[0].operation.paths[0]"},

	{code: "WRIT307", name: "host with a scheme",
		fires: authz("a", `{rules: [{to: [{operation: {hosts: ["https://example.com/*"]}}]}]}`),
		quiet: authz("a", `{rules: [{to: [{operation: {hosts: ["example.com", "example.com:*"]}}]}]}`),
		field: "spec.rules[0].to[0].operation.hosts[0]", says: `"example.com"`},

	{code: "WRIT308", name: "scheme",
		fires: authz("a", `{rules: [{from: [{source: {principals: ["spiffe://cluster.local/ns/shop/sa/till"]}}]}]}`),
		quiet: authz("a", `{rules: [{from: [{source: {principals: ["cluster.local/ns/shop/sa/till"]}}]}]}`),
		field: "spec.rules[0].from[0].source.principals[0]", says: `"cluster.local/ns/shop/sa/till"`},
	{code: "WRIT308", name: "scheme in when",
		fires: authz("a", `{rules: [{when: [{key: source.principal, notValues: ["spiffe://cluster.local/ns/shop/sa/till"]}], from: [{source: {namespaces: [shop]}}]}]}`),
		quiet: authz("a", `{rules: [{when: [{key: "request.headers[x-id]", notValues: ["spiffe://cluster.local/ns/shop/sa/till"]}], from: [{source: {namespaces: [shop]}}]}]}`),
		field: "spec.rules[0].when[0].notValues[0]"},

	{code: "WRIT309", name: "no trust domain", mesh: otherDomain,
		fires: authz("a", `{rules: [{from: [{source: {principals: ["ns/shop/sa/till"]}}]}]}`),
		quiet: authz("a", `{rules: [{from: [{source: {principals: ["*/ns/shop/sa/till"]}}]}]}`),
		field: "spec.rules[0].from[0].source.principals[0]", says: `"shop.example/ns/shop/sa/till"`},
	{code: "WRIT309", name: "only an account",
		fires: authz("a", `{rules: [{from: [{source: {principals: ["till"]}}]}]}`),
		quiet: authz("a", `{rules: [{from: [{source: {principals: ["till.example/vm/7"]}}]}]}`),
		field: "spec.rules[0].from[0].source.principals[0]"},

	{code: "WRIT310", name: "cluster.local in another mesh", mesh: otherDomain,
		fires: authz("a", `{rules: [{from: [{source: {principals: ["cluster.local/ns/shop/*"]}}]}]}`),
		quiet: authz("a", `{rules: [{from: [{source: {principals: ["cluster.local/ns/shop/sa/*"]}}]}]}`),
		field: "spec.rules[0].from[0].source.principals[0]", says: `"shop.example/ns/shop/*"`},
	{code: "WRIT310", name: "aliases", mesh: aliases,
		fires: authz("a", `{rules: [{from: [{source: {principals: ["shop.example/ns/shop/*"]}}]}]}`),
		quiet: authz("a", `{rules: [{from: [{source: {principals: ["shop.example/ns/shop/sa/*"]}}]}]}`),
		field: "spec.rules[0].from[0].source.principals[0]"},
	{code: "WRIT310", name: "another mesh is meant as written", mesh: aliases,
		fires: authz("a", `{rules: [{from: [{source: {principals: ["old.example/ns/shop/*"]}}]}]}`),
		quiet: authz("a", `{rules: [{from: [{source: {principals: ["partner.example/ns/shop/*"]}}]}]}`),
		field: "spec.rules[0].from[0].source.principals[0]"},

	{code: "WRIT311", name: "trust domain", mesh: otherDomain,
		fires: authz("a", `{rules: [{when: [{key: source.trustDomain, values: ["cluster.local"]}]}]}`),
		quiet: authz("a", `{rules: [{when: [{key: source.trustDomain, values: ["shop.example"]}]}]}`),
		field: "spec.rules[0].when[0].values[0]", says: `"shop.example"`},

	{code: "WRIT312", name: "issuer and star without a slash",
		fires: authz("a", `{rules: [{from: [{source: {requestPrincipals: ["https://idp.example*"]}}]}]}`),
		quiet: authz("a", `{rules: [{from: [{source: {requestPrincipals: ["https://idp.example/*"]}}]}]}`),
		field: "spec.rules[0].from[0].source.requestPrincipals[0]", says: `"https://idp.example/*"`},
	{code: "WRIT312", name: "issuer only",
		fires: authz("a", `{rules: [{from: [{source: {requestPrincipals: ["idp"]}}]}]}`),
		quiet: authz("a", `{rules: [{from: [{source: {requestPrincipals: ["idp*", "*alice"]}}]}]}`),
		field: "spec.rules[0].from[0].source.requestPrincipals[0]", says: `"idp/*"`},
	{code: "WRIT312", name: "two stars",
		fires: authz("a", `{rules: [{from: [{source: {requestPrincipals: ["*/*"]}}]}]}`),
		quiet: authz("a", `{rules: [{from: [{source: {requestPrincipals: ["*"]}}]}]}`),
		field: "spec.rules[0].from[0].source.requestPrincipals[0]"},
	{code: "WRIT312", name: "subject with a slash",
		fires: authz("a", `{rules: [{from: [{source: {requestPrincipals: ["https://idp.example/team/alice"]}}]}]}`) + requestAuthentication("https://idp.example"),
		quiet: authz("a", `{rules: [{from: [{source: {requestPrincipals: ["https://idp.example/team/alice"]}}]}]}`) + requestAuthentication("https://idp.example/team"),
		field: "spec.rules[0].from[0].source.requestPrincipals[0]", says: `"team/alice"`},

	{code: "WRIT313", name: "mapped address",
		fires: authz("a", `{rules: [{from: [{source: {ipBlocks: ["::ffff:10.1.2.3"]}}]}]}`),
		quiet: authz("a", `{rules: [{from: [{source: {ipBlocks: ["10.1.2.3"]}}]}]}`),
		field: "spec.rules[0].from[0].source.ipBlocks[0]", says: `"10.1.2.3"`},
	{code: "WRIT313", name: "mapped network",
		fires: authz("a", `{rules: [{when: [{key: destination.ip, values: ["::ffff:10.1.0.0/112"]}]}]}`),
		quiet: authz("a", `{rules: [{when: [{key: destination.ip, values: ["2001:db8::/112"]}]}]}`),
		field: "spec.rules[0].when[0].values[0]", says: `"10.1.0.0/16"`},

	{code: "WRIT314", name: "IPv4 only",
		fires: authz("a", `{rules: [{from: [{source: {ipBlocks: ["0.0.0.0/0"]}}]}]}`),
		quiet: authz("a", `{rules: [{from: [{source: {ipBlocks: ["0.0.0.0/0", "::/0"]}}]}]}`),
		field: "spec.rules[0].from[0].source.ipBlocks"},
	{code: "WRIT314", name: "IPv6 only",
		fires: authz("a", `{action: DENY, rules: [{from: [{source: {notRemoteIpBlocks: ["::/0"]}}]}]}`),
		quiet: authz("a", `{action: DENY, rules: [{from: [{source: {notRemoteIpBlocks: ["2001:db8::/32"]}}]}]}`),
		field: "spec.rules[0].from[0].source.notRemoteIpBlocks"},

	{code: "WRIT315", name: "host bits",
		fires: authz("a", `{rules: [{from: [{source: {ipBlocks: ["10.1.2.3/8"]}}]}]}`),
		quiet: authz("a", `{rules: [{from: [{source: {ipBlocks: ["10.0.0.0/8", "10.1.2.3/32"]}}]}]}`),
		field: "spec.rules[0].from[0].source.ipBlocks[0]", says: `"10.0.0.0/8"`},

	{code: "WRIT316", name: "dotted claim",
		fires: authz("a", `{rules: [{when: [{key: "request.auth.claims[realm.role]", values: [barista]}]}]}`),
		quiet: authz("a", `{rules: [{when: [{key: "request.auth.claims[realm][role]", values: [barista]}]}]}`),
		field: "spec.rules[0].when[0].key", says: "claims[realm][role]"},
	{code: "WRIT316", name: "a URL is one name",
		fires: authz("a", `{rules: [{when: [{key: "request.auth.claims[realm.role]", notValues: [barista]}], from: [{source: {requestPrincipals: ["*"]}}]}]}`),
		quiet: authz("a", `{rules: [{when: [{key: "request.auth.claims[https://shop.example/role]", values: [barista]}]}]}`),
		field: "spec.rules[0].when[0].key"},

	{code: "WRIT317", name: "twice",
		fires: authz("a", `{rules: [{to: [{operation: {methods: [GET, POST, GET]}}]}]}`),
		quiet: authz("a", `{rules: [{to: [{operation: {methods: [GET, POST]}}]}]}`),
		field: "spec.rules[0].to[0].operation.methods[2]", says: `"GET" is in the list twice`},
	{code: "WRIT317", name: "within a prefix",
		fires: authz("a", `{action: AUDIT, rules: [{to: [{operation: {notPaths: [/a/b, "/a/*"]}}]}]}`),
		quiet: authz("a", `{action: AUDIT, rules: [{to: [{operation: {paths: [/a/b], notPaths: ["/a/*"]}}]}]}`),
		field: "spec.rules[0].to[0].operation.notPaths[0]", says: `"/a/*" of the same list`},
	{code: "WRIT317", name: "within a network",
		fires: authz("a", `{rules: [{from: [{source: {ipBlocks: [10.0.0.0/8, 10.1.0.0/16]}}]}]}`),
		quiet: authz("a", `{rules: [{from: [{source: {ipBlocks: [10.0.0.0/8, 11.1.0.0/16, "::a00:0/104"]}}]}]}`),
		field: "spec.rules[0].from[0].source.ipBlocks[1]"},
	{code: "WRIT317", name: "the same account",
		fires: authz("a", `{rules: [{from: [{source: {serviceAccounts: [till, shop/till]}}]}]}`),
		quiet: authz("a", `{rules: [{from: [{source: {serviceAccounts: [till, bakery/till]}}]}]}`),
		field: "spec.rules[0].from[0].source.serviceAccounts[1]"},
	{code: "WRIT317", name: "principals that may be rewritten are not compared", mesh: aliases,
		fires: authz("a", `{rules: [{from: [{source: {principals: [shop.example/ns/shop/sa/a, shop.example/ns/shop/sa/a]}}]}]}`),
		quiet: authz("a", `{rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/a, "shop.example/*"]}}]}]}`),
		field: "spec.rules[0].from[0].source.principals[1]"},

	{code: "WRIT320", name: "empty rule",
		fires: authz("a", `{rules: [{}]}`) + authz("b", `{rules: [{from: [{source: {namespaces: [shop]}}]}]}`),
		quiet: authz("a", `{rules: [{to: [{operation: {ports: ["8080"]}}]}]}`) + authz("b", `{rules: [{from: [{source: {namespaces: [shop]}}]}]}`),
		field: "spec.rules[0]", says: "shop/b rule 0"},
	{code: "WRIT320", name: "null is an empty rule",
		fires: authz("a", "rules:\n- "),
		quiet: authz("a", "rules:\n- to: [{operation: {ports: ['80']}}]"),
		field: "spec.rules[0]"},

	{code: "WRIT321", name: "any certificate",
		fires: authz("a", `{rules: [{from: [{source: {principals: ["*"]}}]}]}`),
		quiet: authz("a", `{rules: [{from: [{source: {principals: ["*"]}}], to: [{operation: {ports: ["8080"]}}]}]}`),
		field: "spec.rules[0]", says: `"cluster.local/*"`},

	{code: "WRIT323", name: "a dash too many",
		fires: authz("a", "rules:\n- from: [{source: {namespaces: [shop]}}]\n- to: [{operation: {methods: [GET]}}]"),
		quiet: authz("a", "rules:\n- from: [{source: {namespaces: [shop]}}]\n  to: [{operation: {methods: [GET]}}]"),
		field: "spec.rules[1]", says: "no dash before to"},
	{code: "WRIT323", name: "health checks for anybody are meant so",
		fires: authz("a", "rules:\n- from: [{source: {namespaces: [shop]}}]\n- to: [{operation: {paths: [/healthz, /orders]}}]"),
		quiet: authz("a", "rules:\n- from: [{source: {namespaces: [shop]}}]\n- to: [{operation: {paths: [/healthz, /metrics]}}]"),
		field: "spec.rules[1]"},
	{code: "WRIT323", name: "two rules of the same kind",
		fires: authz("a", "rules:\n- from: [{source: {namespaces: [shop]}}]\n- to: [{operation: {ports: ['80']}}]"),
		quiet: authz("a", "rules:\n- from: [{source: {namespaces: [shop]}}]\n- from: [{source: {namespaces: [till]}}]\n  to: [{operation: {ports: ['80']}}]"),
		field: "spec.rules[1]"},

	{code: "WRIT324", name: "no rules",
		fires: authz("a", `{}`),
		quiet: authz("a", `{action: AUDIT}`),
		field: "spec", says: "every workload of namespace shop"},

	{code: "WRIT325", name: "deny everything",
		fires: authz("a", `{action: DENY, rules: [{}]}`),
		quiet: authz("a", `{action: DENY, rules: [{to: [{operation: {ports: ["22"]}}]}]}`),
		field: "spec.rules[0]"},

	{code: "WRIT326", name: "off",
		fires: annotated("false"), quiet: annotated("true"),
		field: "metadata.annotations[istio.io/dry-run]"},

	{code: "WRIT330", name: "well-known port, ALLOW",
		fires: authz("a", `{rules: [{to: [{operation: {methods: [GET], ports: ["5432"]}}]}]}`),
		quiet: authz("a", `{rules: [{to: [{operation: {methods: [GET], ports: ["8080"]}}]}]}`),
		field: "spec.rules[0].to[0].operation.ports[0]", says: "PostgreSQL"},
	{code: "WRIT330", name: "DENY by token",
		fires: authz("a", `{action: DENY, rules: [{from: [{source: {notRequestPrincipals: ["*"]}}], to: [{operation: {ports: ["6379"]}}]}]}`),
		quiet: authz("a", `{action: DENY, rules: [{from: [{source: {notNamespaces: [shop]}}], to: [{operation: {ports: ["6379"]}}]}]}`),
		field: "spec.rules[0].to[0].operation.ports[0]"},
	{code: "WRIT330", name: "port named by the workload",
		fires: authz("a", `{selector: {matchLabels: {app: till}}, rules: [{to: [{operation: {methods: [GET], ports: ["9000"]}}]}]}`) + workload("w", "{app: till}", "{tcp-admin: 9000}"),
		quiet: authz("a", `{selector: {matchLabels: {app: till}}, rules: [{to: [{operation: {methods: [GET], ports: ["9000"]}}]}]}`) + workload("w", "{app: till}", "{http-admin: 9000}"),
		field: "spec.rules[0].to[0].operation.ports[0]", says: "tcp"},
	{code: "WRIT330", name: "HTTP on a database's port",
		fires: authz("a", `{rules: [{to: [{operation: {paths: [/x], ports: ["5432"]}}]}]}`) + workload("w", "{app: till}", "{tcp-db: 5432}"),
		quiet: authz("a", `{rules: [{to: [{operation: {paths: [/x], ports: ["5432"]}}]}]}`) + workload("w", "{app: till}", "{http: 5432}"),
		field: "spec.rules[0].to[0].operation.ports[0]"},

	{code: "WRIT331", name: "ports beside methods",
		fires: authz("a", `{rules: [{to: [{operation: {methods: [GET]}}, {operation: {ports: ["8080"]}}]}]}`),
		quiet: authz("a", `{rules: [{to: [{operation: {methods: [GET]}}]}, {to: [{operation: {ports: ["8080"]}}]}]}`),
		field: "spec.rules[0].to[1].operation.ports"},

	{code: "WRIT340", name: "selector",
		fires: authz("a", `{selector: {matchLabels: {app: tills}}, rules: [{from: [{source: {namespaces: [shop]}}]}]}`) + workload("w", "{app: till}", "{}"),
		quiet: authz("a", `{selector: {matchLabels: {app: till}}, rules: [{from: [{source: {namespaces: [shop]}}]}]}`) + workload("w", "{app: till, version: v1}", "{}"),
		field: "spec.selector.matchLabels", says: `app is "till" there`},
	{code: "WRIT340", name: "a namespace without registered workloads says nothing",
		fires: in("istio-system", "a", `{selector: {matchLabels: {app: x}}, rules: [{from: [{source: {namespaces: [shop]}}]}]}`) + workload("w", "{app: till}", "{}"),
		quiet: in("bakery", "a", `{selector: {matchLabels: {app: x}}, rules: [{from: [{source: {namespaces: [shop]}}]}]}`) + workload("w", "{app: till}", "{}"),
		field: "spec.selector.matchLabels"},

	{code: "WRIT340", name: "workloads that are known elsewhere",
		fires: selecting("till") + selecting("tills") + workload("w", "{app: till}", "{}"),
		quiet: selecting("till") + selecting("oven") + selecting("sink") + selecting("cat") + workload("w", "{app: till}", "{}"),
		field: "spec.selector.matchLabels", says: "app=tills"},

	{code: "WRIT341", name: "account in the root namespace",
		fires: in("istio-system", "a", `{rules: [{from: [{source: {serviceAccounts: [till]}}]}]}`),
		quiet: in("istio-system", "a", `{rules: [{from: [{source: {serviceAccounts: [shop/till]}}]}]}`),
		field: "spec.rules[0].from[0].source.serviceAccounts[0]", says: "istio-system/till"},
	{code: "WRIT341", name: "account in its own namespace",
		fires: in("istio-system", "a", `{rules: [{when: [{key: source.serviceAccount, values: [till]}]}]}`),
		quiet: authz("a", `{rules: [{when: [{key: source.serviceAccount, values: [till]}]}]}`),
		field: "spec.rules[0].when[0].values[0]"},

	{code: "WRIT342", name: "gateway that is not there",
		fires: authz("a", `{targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: front}], rules: [{from: [{source: {namespaces: [shop]}}]}]}`) + workload("w", "{app: till}", "{}"),
		quiet: authz("a", `{targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: front}], rules: [{from: [{source: {namespaces: [shop]}}]}]}`) + workload("w", "{app: till}", "{}") +
			"apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: front, namespace: shop}\nspec: {}\n",
		field: "spec.targetRefs[0]"},

	{code: "WRIT350", name: "notPrincipals",
		fires: authz("a", `{rules: [{from: [{source: {notPrincipals: ["cluster.local/ns/shop/sa/thief"]}}]}]}`),
		quiet: authz("a", `{rules: [{from: [{source: {principals: ["*"], notPrincipals: ["cluster.local/ns/shop/sa/thief"]}}]}]}`),
		field: "spec.rules[0].from[0].source.notPrincipals"},
	{code: "WRIT350", name: "mTLS required",
		fires: authz("a", `{rules: [{when: [{key: source.namespace, notValues: [street]}]}]}`) + peerAuthentication("bakery"),
		quiet: authz("a", `{rules: [{when: [{key: source.namespace, notValues: [street]}]}]}`) + peerAuthentication("istio-system"),
		field: "spec.rules[0].when[0].notValues"},

	{code: "WRIT351", name: "DENY by principal",
		fires: authz("a", `{action: DENY, rules: [{from: [{source: {namespaces: [street]}}], to: [{operation: {ports: ["80"]}}]}]}`),
		quiet: authz("a", `{action: DENY, rules: [{from: [{source: {notNamespaces: [shop]}}], to: [{operation: {ports: ["80"]}}]}]}`),
		field: "spec.rules[0].from[0].source.namespaces"},
	{code: "WRIT351", name: "mTLS required",
		fires: authz("a", `{action: DENY, rules: [{from: [{source: {serviceAccounts: [thief]}}], to: [{operation: {ports: ["80"]}}]}]}`),
		quiet: authz("a", `{action: DENY, rules: [{from: [{source: {serviceAccounts: [thief]}}], to: [{operation: {ports: ["80"]}}]}]}`) + peerAuthentication("shop"),
		field: "spec.rules[0].from[0].source.serviceAccounts"},

	{code: "WRIT352", name: "notRequestPrincipals",
		fires: authz("a", `{rules: [{from: [{source: {notRequestPrincipals: ["https://idp.example/mallory"]}}]}]}`),
		quiet: authz("a", `{rules: [{from: [{source: {requestPrincipals: ["*"], notRequestPrincipals: ["https://idp.example/mallory"]}}]}]}`),
		field: "spec.rules[0].from[0].source.notRequestPrincipals"},
	{code: "WRIT352", name: "without a token is what is meant",
		fires: authz("a", `{rules: [{when: [{key: "request.auth.claims[role]", notValues: [guest]}]}]}`),
		quiet: authz("a", `{rules: [{from: [{source: {notRequestPrincipals: ["*"]}}], to: [{operation: {methods: [GET]}}]}]}`),
		field: "spec.rules[0].when[0].notValues"},

	{code: "WRIT360", name: "name within name",
		fires: custom("a", "opa") + custom("b", "opa-strict"),
		quiet: custom("a", "opa") + custom("b", "opa"),
		field: "spec.provider.name", says: "shop/a"},
	{code: "WRIT361", name: "two providers",
		fires: custom("a", "opa") + custom("b", "ldap"),
		quiet: custom("a", "opa") + strings.ReplaceAll(custom("b", "ldap"), "namespace: shop", "namespace: bakery"),
		field: "spec.provider.name", says: "shop/a"},
	{code: "WRIT362", name: "upper case",
		fires: custom("a", "MyAuthz"), quiet: custom("a", "my-authz"),
		field: "spec.provider.name"},
}

func requestAuthentication(issuer string) string {
	return fmt.Sprintf("apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: r, namespace: shop}\nspec: {jwtRules: [{issuer: %q}]}\n---\n", issuer)
}

func selecting(app string) string {
	return authz(app, fmt.Sprintf("{selector: {matchLabels: {app: %s}}, rules: [{from: [{source: {namespaces: [shop]}}]}]}", app))
}

func annotated(value string) string {
	return strings.Replace(authz("a", `{rules: [{from: [{source: {namespaces: [shop]}}]}]}`), "namespace: shop", fmt.Sprintf("namespace: shop, annotations: {istio.io/dry-run: %q}", value), 1)
}

func custom(name, provider string) string {
	return authz(name, fmt.Sprintf(`{action: CUSTOM, provider: {name: %s}, rules: [{to: [{operation: {paths: [%q]}}]}]}`, provider, "/"+name))
}

func TestHazards(t *testing.T) {
	for _, tt := range slices.Concat(hazardCases, tokenCases, mtlsCases) {
		t.Run(tt.code+"/"+tt.name, func(t *testing.T) {
			var hit *policy.Problem
			got := lint(t, tt.mesh, tt.fires)
			for i := range got {
				if got[i].Code == tt.code && got[i].Field == tt.field {
					hit = &got[i]
				}
			}
			if hit == nil {
				t.Fatalf("not reported at %s; got %v", tt.field, codes(got))
			}
			if hit.Line == 0 || hit.Column == 0 || hit.File != "test.yaml" || hit.Message == "" || hit.Hint == "" {
				t.Errorf("incomplete: %+v", *hit)
			}
			if !strings.Contains(hit.Message+hit.Hint, tt.says) {
				t.Errorf("%q is in neither message nor hint: %v", tt.says, hit)
			}
			for _, p := range lint(t, tt.mesh, tt.quiet) {
				if p.Code == tt.code {
					t.Errorf("reported without reason: %v", p)
				}
			}
		})
	}
}

// A document that does what it looks like has no findings at all.
func TestHarmless(t *testing.T) {
	const text = `
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: payment, namespace: shop}
spec:
  selector: {matchLabels: {app: payment}}
  rules:
  - from: [{source: {principals: [cluster.local/ns/shop/sa/order, cluster.local/ns/shop/sa/till]}}]
    to: [{operation: {methods: [POST], paths: [/charge, "/refund/{*}"]}}]
    when: [{key: "request.headers[x-team]", values: [coffee*]}]
  - from: [{source: {namespaces: [monitoring], ipBlocks: [10.0.0.0/8]}}]
    to: [{operation: {methods: [GET], paths: [/metrics]}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-token-no-refund, namespace: shop}
spec:
  action: DENY
  selector: {matchLabels: {app: payment}}
  rules:
  - from: [{source: {notRequestPrincipals: ["*"]}}]
    to: [{operation: {ports: ["8443"]}}]
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: idp, namespace: shop}
spec:
  selector: {matchLabels: {app: payment}}
  jwtRules: [{issuer: https://idp.example, audiences: [payment]}]
`
	if got := lint(t, policy.Mesh{}, text); len(got) > 0 {
		t.Errorf("got %v", got)
	}
}

// Broken documents are the business of Decode.
func TestBrokenIsPassedOver(t *testing.T) {
	docs := policy.Decode("test.yaml", []byte(authz("a", `{action: DENY, rules: [{to: [{operation: {paths: ["/admin"], ports: ["x"]}}]}]}`)))
	if len(docs) != 1 || !docs[0].Broken() {
		t.Fatalf("want one broken document, got %+v", docs)
	}
	if got := analysis.Lint(docs, policy.Mesh{}); len(got) > 0 {
		t.Errorf("got %v", got)
	}
}

func TestNothingToLint(t *testing.T) {
	if got := analysis.Lint(nil, policy.Mesh{}); len(got) > 0 {
		t.Errorf("got %v", got)
	}
	other := "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: v, namespace: shop}\nspec: {hosts: [x]}\n"
	if got := lint(t, policy.Mesh{}, other); len(got) > 0 {
		t.Errorf("got %v", got)
	}
}

// The order is that of documents, then lines, and every finding's severity is that of its code.
func TestOrderAndSeverity(t *testing.T) {
	severity := map[string]policy.Severity{}
	for _, c := range analysis.Codes() {
		severity[c.Code] = c.Severity
	}
	text := authz("b", "action: DENY\nrules:\n- to: [{operation: {paths: [/b], methods: [get]}}]\n- to: [{operation: {paths: [/a]}}]") + authz("a", "{}")
	got := lint(t, policy.Mesh{}, text)
	want := []string{
		"WRIT301 spec.rules[0].to[0].operation.paths", "WRIT305 spec.rules[0].to[0].operation.methods[0]",
		"WRIT301 spec.rules[1].to[0].operation.paths", "WRIT324 spec",
	}
	if !slices.Equal(codes(got), want) {
		t.Errorf("got %q, want %q", codes(got), want)
	}
	for _, p := range got {
		if p.Severity != severity[p.Code] || p.Severity == policy.SeverityError {
			t.Errorf("%s has severity %v, its code %v", p.Code, p.Severity, severity[p.Code])
		}
	}
}

func TestTooManyFindings(t *testing.T) {
	values := "m"
	for i := range 150 {
		values += fmt.Sprintf(", m%d", i)
	}
	got := lint(t, policy.Mesh{}, authz("a", "{rules: [{to: [{operation: {methods: ["+values+"]}}]}]}"))
	last := slices.IndexFunc(got, func(p policy.Problem) bool { return p.Code == "WRIT300" })
	if len(got) != 101 || last < 0 || !strings.Contains(got[last].Message, "51 more") {
		t.Errorf("%d findings, WRIT300 at %d", len(got), last)
	}
}
