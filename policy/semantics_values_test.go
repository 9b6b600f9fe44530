package policy_test

import (
	"testing"

	"github.com/writ-auth/writ/policy"
)

// The tables of authorization-policy §1.3 and §1.4: value syntaxes, one test a family.

func TestValuesSTR(t *testing.T) {
	t.Parallel()
	p := func(v, path string, want bool) value {
		return value{operation(`paths: ["` + v + `"]`), request(pathOf(path)), want}
	}
	s := func(v, name string, want bool) value {
		return value{when(`key: connection.sni, values: ["` + v + `"]`), request(sniOf(name)), want}
	}
	runValues(t, policy.Mesh{}, []value{
		p("*", "/", true), p("*", "", false), // non-empty
		p("*/info", "/a/info", true), p("*/info", "/info", true), p("*/info", "/info/", false),
		p("/admin*", "/admin", true), p("/admin*", "/administrator", true), p("/admin*", "/adm", false), p("/admin*", "/x/admin", false),
		p("/admin", "/admin", true), p("/admin", "/Admin", false), p("/admin", "/admin/", false),
		p("*a*", "/xa*", true), p("*a*", "/xax", false), // suffix of the literal a*
		p("/a*b", "/a*b", true), p("/a*b", "/axb", false), // exact
		p("**", "/*", true), p("**", "/x", false), // suffix of the literal *
		p("/admin", "/admin?x=1", true), p("/admin", "/admin#f", true), p("*x=1", "/admin?x=1", false),
		p("/pkg.Service/Method", "/pkg.Service/Method", true),
		s("*", "", false), s("*", "a", true), s("*.example.com", "api.example.com", true), s("api*", "api.example.com", true),
		s("example.com", "EXAMPLE.com", false),
	})
}

func TestValuesHDR(t *testing.T) {
	t.Parallel()
	h := func(v string, want bool, change ...func(*policy.Request)) value {
		return value{when(`key: "request.headers[X-Role]", values: ["` + v + `"]`), request(change...), want}
	}
	m := func(v, method string, want bool) value {
		return value{operation(`methods: ["` + v + `"]`), request(methodOf(method)), want}
	}
	pseudo := func(name, v string, want bool) value {
		return value{when(`key: "request.headers[` + name + `]", values: ["` + v + `"]`), request(pathOf("/a?x=1")), want}
	}
	runValues(t, policy.Mesh{}, []value{
		h("*", false), h("*", true, header("x-role", "")), h("*", true, header("x-role", "a")), // exists, even empty
		h("dev", true, header("x-role", "dev")), h("dev", false, header("x-role", "Dev")), // value sensitive, name not
		h("de*", true, header("x-role", "dev")), h("*ev", true, header("x-role", "dev")), h("*ev", false, header("x-role", "ev!")),
		h("a,b", true, header("x-role", "a"), header("x-role", "b")), // joined before matching
		h("b", false, header("x-role", "a"), header("x-role", "b")),
		h("a,,b", true, header("x-role", "a"), header("x-role", ""), header("x-other", "z"), header("x-role", "b")),
		m("GET", "GET", true), m("get", "GET", false), m("P*", "PUT", true), m("*T", "PUT", true), m("*", "PATCH", true), m("*E*", "DELETE", false),
		{operation(`methods: ["*"]`), request(func(r *policy.Request) { r.Method, r.HasMethod = "", false }), false},
		pseudo(":method", "GET", true), pseudo(":authority", "example.com", true), pseudo(":path", "/a?x=1", true), pseudo(":path", "/a", false),
		pseudo("host", "example.com", true), pseudo("Host", "EXAMPLE.com", false), pseudo("host", "*", true), // host is :authority (measured, Envoy 1.40)
		{when(`key: "request.headers[x[0]]", values: [v]`), request(header("x[0]", "v")), true}, // first [ to final ]
	})
}

func TestValuesHOST(t *testing.T) {
	t.Parallel()
	h := func(v, host string, want bool) value {
		return value{operation(`hosts: ["` + v + `"]`), request(hostOf(host)), want}
	}
	runValues(t, policy.Mesh{}, []value{
		h("example.com", "EXAMPLE.com", true), h("EXAMPLE.com", "example.com", true),
		h("example.com", "example.com:8080", false), h("example.com:*", "example.com:8080", true), h("example.com:8080", "example.com:8080", true),
		h("*.example.com", "API.example.COM", true), h("*.example.com", "example.com", false), h("example.*", "Example.org", true),
		h("*", "", true), // :authority sent, even empty
		{operation(`hosts: ["*"]`), request(func(r *policy.Request) { r.Host, r.HasHost = "", false }), false},
		h("kube.example", "\u212Aube.example", false), // KELVIN SIGN folds to k in Unicode, not in ASCII
		h("caf\u00e9.example", "caf\u00c9.example", false), h("caf\u00e9.example", "CAF\u00e9.example", true),
		h("example.com", "example.com.", false),
	})
}

func TestValuesPRIN(t *testing.T) {
	t.Parallel()
	const web = "spiffe://cluster.local/ns/foo/sa/web"
	p := func(v string, want bool, names ...string) value {
		return value{source(`principals: ["` + v + `"]`), request(named(names...)), want}
	}
	runValues(t, policy.Mesh{}, []value{
		p("*", false), p("*", true, web), p("*", true, "client.example.com"), p("*", true, "CN=web"), // any non-empty name
		p("cluster.local/ns/foo/sa/web", true, web), p("cluster.local/ns/foo/sa/web", false, "cluster.local/ns/foo/sa/web"),
		p("cluster.local/ns/foo/sa/we", false, web), p("cluster.local/ns/foo/sa/WEB", false, web),
		p("*/sa/web", true, web), p("*/sa/web", false, "https://cluster.local/ns/foo/sa/web"), // leading star: spiffe:// stays
		p("cluster.local/*", true, web), p("clus*", true, web), p("client*", false, "client.example.com"),
		p("cluster.local/ns/*/sa/web", false, web), p("cluster.local/ns/*/sa/web", true, "spiffe://cluster.local/ns/*/sa/web"),
		p("client.example.com", false, "client.example.com"), // no scheme, never equal
		p("spiffe://cluster.local/ns/foo/sa/web", true, web), // writ strips the scheme; Istio would never match
		p("spiffe://cluster.local/ns/foo/*", true, web),
		p("cluster.local/ns/foo/sa/web", true, "CN=x", "a.example", web), p("*/sa/web", true, "spiffe://td/x", web), // any name counts
		{source(`notPrincipals: [cluster.local/ns/foo/sa/web]`), request(named("CN=x", web)), false},
		{when(`key: source.principal, values: ["*/sa/web"]`), request(named(web)), true},
	})
}

func TestValuesIdentityParts(t *testing.T) {
	t.Parallel()
	// The table of §1.4: identity, namespaces [foo], serviceAccounts [foo/bar].
	for _, row := range []struct {
		identity   string
		namespace  bool
		serviceAcc bool
	}{
		{"spiffe://td/ns/foo/sa/bar", true, true},
		{"spiffe://td/ns/foo/sa/bar/v/1", true, true},
		{"spiffe://td/x/ns/foo/k/v/sa/bar", true, true},
		{"spiffe://td/ns/foo/sa/bar-2", true, false},
		{"spiffe://td/ns/other/ns/foo/sa/bar", true, true},
		{"spiffe://td/ns/foo", false, false},
		{"spiffe://td/ns/foo/sa/xbar", true, false},
		{"spiffe://td/ns/foo/xsa/bar", true, false},
		{"spiffe://td/ns/foo2/sa/bar", false, false},
		{"spiffe:///ns/foo/sa/bar", true, false}, // 1+ characters before /ns/
		{"https://td/ns/foo/sa/bar", true, false},
	} {
		t.Run(row.identity, func(t *testing.T) {
			r := request(named(row.identity))
			for rule, want := range map[string]bool{
				source(`namespaces: [foo]`):                                row.namespace,
				when(`key: source.namespace, values: [foo]`):               row.namespace,
				source(`serviceAccounts: [foo/bar]`):                       row.serviceAcc,
				source(`serviceAccounts: [bar]`):                           row.serviceAcc, // the policy is in namespace foo
				when(`key: source.serviceAccount, values: [bar, other/x]`): row.serviceAcc,
				source(`serviceAccounts: [elsewhere/bar]`):                 false,
				source(`notServiceAccounts: [foo/bar]`):                    !row.serviceAcc,
			} {
				if got := matches(t, policy.Mesh{}, rule, r); got != want {
					t.Errorf("%s: %v, want %v", rule, got, want)
				}
			}
		})
	}
}

func TestValuesNS(t *testing.T) {
	t.Parallel()
	n := func(v, identity string, want bool) value {
		return value{source(`namespaces: ["` + v + `"]`), request(named(identity)), want}
	}
	runValues(t, policy.Mesh{}, []value{
		n("prod-*", "spiffe://td/ns/prod-eu/sa/a", true), n("*-eu", "spiffe://td/ns/prod-eu/sa/a", true),
		n("p*d-*u", "spiffe://td/ns/prod-eu/sa/a", true), n("prod-*", "spiffe://td/ns/prod/sa/a", false),
		n("*", "spiffe://td/ns/x/sa/a", true), n("*", "spiffe://td/x", false), n("*", "spiffe://td/ns//x", true),
		n("p*a", "spiffe://td/ns/prod/sa/a/b", true), // spans slashes
		n("p.od", "spiffe://td/ns/prod/sa/a", false), // other characters literal
		n("prod", "spiffe://td/ns/PROD/sa/a", false),
		n("ab*ba", "spiffe://td/ns/aba/sa/x", false), // the two ends of a pattern do not overlap
	})
}

func TestValuesTD(t *testing.T) {
	t.Parallel()
	td := func(v, identity string, want bool) value {
		return value{source(`trustDomains: ["` + v + `"]`), request(named(identity)), want}
	}
	runValues(t, policy.Mesh{TrustDomain: "td1", TrustDomainAliases: []string{"old-td"}}, []value{
		td("*", "spiffe://x/y", true), td("*", "client.example.com", false), td("*", "spiffe://", true),
		td("other", "spiffe://other/x", true), td("other", "spiffe://other", false), td("other", "spiffe://other2/x", false),
		td("*-td", "spiffe://new-td/x", true), td("*-td", "spiffe://a/b-td/x", false), td("oth*", "spiffe://other/x", true),
		td("oth*", "spiffe://o/th/x", false), td("Other", "spiffe://other/x", false),
		td("td1", "spiffe://old-td/x", true), td("old-td", "spiffe://td1/x", true), // aliases expand
		td("cluster.local", "spiffe://td1/x", false), td("cluster.local", "spiffe://cluster.local/x", true), // no pointer meaning
		{when(`key: source.trustDomain, values: [td1]`), request(named("spiffe://old-td/x")), true},
		{source(`notTrustDomains: [td1]`), request(named("spiffe://old-td/x")), false},
	})
}

func TestValuesIP(t *testing.T) {
	t.Parallel()
	ip := func(v, peer string, want bool) value {
		return value{source(`ipBlocks: ["` + v + `"]`), request(sourceIPOf(peer)), want}
	}
	runValues(t, policy.Mesh{}, []value{
		ip("10.1.2.3", "10.1.2.3", true), ip("10.1.2.3", "10.1.2.4", false),
		ip("10.1.2.3/8", "10.200.0.1", true), ip("10.0.0.0/8", "11.0.0.1", false), ip("10.1.2.2/31", "10.1.2.3", true), ip("10.1.2.2/31", "10.1.2.4", false),
		ip("0.0.0.0/0", "255.255.255.255", true), ip("0.0.0.0/0", "::1", false), ip("::/0", "10.0.0.1", false), ip("::/0", "::1", true),
		ip("::ffff:10.1.2.3", "10.1.2.3", false), ip("fe80::1%eth0", "fe80::1", true), ip("2001:db8::/33", "2001:db8:8000::1", false),
		{source(`notIpBlocks: [10.0.0.0/8]`), request(sourceIPOf("::1")), true},
		{source(`remoteIpBlocks: [10.0.0.2]`), request(sourceIPOf("10.0.0.2")), false}, // not the direct peer
		{source(`ipBlocks: [10.0.0.1]`), request(sourceIPOf("10.0.0.2")), false},
		{when(`key: remote.ip, values: [10.0.0.1]`), request(sourceIPOf("10.0.0.2")), true},
		{when(`key: source.ip, values: [10.0.0.2]`), request(sourceIPOf("10.0.0.2")), true},
		{when(`key: destination.ip, values: [10.9.0.0/16]`), request(), true},
	})
}

func TestValuesPORT(t *testing.T) {
	t.Parallel()
	p := func(v string, port uint16, want bool) value {
		return value{operation(`ports: ["` + v + `"]`), request(portOf(port)), want}
	}
	runValues(t, policy.Mesh{}, []value{
		p("80", 80, true), p("080", 80, true), p("80", 8080, false), p("65535", 65535, true), p("0", 80, false),
		p("0", 0, false), {operation(`notPorts: ["0"]`), request(portOf(0)), true}, // no port is not port 0
		{when(`key: destination.port, values: ["080"]`), request(portOf(80)), true},
		{when(`key: destination.port, notValues: ["80"]`), request(portOf(80)), false},
	})
}

func TestValuesMETA(t *testing.T) {
	t.Parallel()
	m := func(v string, set any, want bool) value {
		return value{when(`key: "experimental.envoy.filters.a.b[k]", values: ["` + v + `"]`), request(func(r *policy.Request) {
			r.Metadata = metadata{"envoy.filters.a.b": {"k": set}}
		}), want}
	}
	runValues(t, policy.Mesh{}, []value{
		m("dev", "dev", true), m("de*", "dev", true), m("*", "", false), m("*", "x", true),
		m("[dev]", []any{"x", "dev"}, true), m("[*v]", []any{"x", "dev"}, true), m("[*]", []any{""}, false),
		m("[dev]", "dev", false), m("dev", []any{"dev"}, false), m("3", 3.0, false),
		{when(`key: "experimental.envoy.filters.a.b[k]", values: [x]`), request(), false},
		{when(`key: "experimental.envoy.filters.a.b[k]", notValues: [x]`), request(), true},
	})
}

// TestRequestPrincipals is the table of §1.5.
func TestRequestPrincipals(t *testing.T) {
	t.Parallel()
	const idp = "https://idp.example"
	p := func(v string, iss, sub any, want bool) value {
		return value{source(`requestPrincipals: ["` + v + `"]`), request(token(claims{"iss": iss, "sub": sub})), want}
	}
	runValues(t, policy.Mesh{}, []value{
		p("*", idp, "alice", true), p("*", "", "alice", false), p("*", idp, "", false), p("*", idp, nil, false), p("*", nil, "alice", false),
		p(idp+"/alice", idp, "alice", true), p(idp+"/alice", idp, "Alice", false), p(idp+"/alice", idp+"/", "alice", false),
		p(idp+"/*", idp, "bob", true), p(idp+"/*", idp, "", false), p(idp+"/*", "x", "bob", false),
		p(idp+"/al*", idp, "alice", true), p(idp+"/al*", idp, "bob", false),
		p("*/alice", "anything", "alice", true), p("*/alice", "", "alice", false), p("*/*", idp, "alice", false), p("*/*", idp, "*", true),
		p("*.example/alice", idp, "alice", true), p("*.example/alice", "https://idp.other", "alice", false),
		p("*lice", idp, "alice", true), p("*lice", idp, "bob", false), p("iss*", "issuer", "bob", true), p("iss*", "issuer", "", false),
		p(idp+"*", idp, "alice", false), // splits to issuer https:/
		p(idp, idp, "", false), p(idp+"/team/alice", idp, "team/alice", false), p(idp+"/team/alice", idp+"/team", "alice", true),
		{when(`key: request.auth.principal, values: ["` + idp + `/alice"]`), request(token(claims{"iss": idp, "sub": "alice"})), true},
		p("issuer", "issuer", "", true), p("issuer", "issuer", nil, false), // no subject is not an empty subject
		{source(`requestPrincipals: ["*"]`), request(), false},
		{source(`notRequestPrincipals: ["*"]`), request(), true},
		{source(`notRequestPrincipals: ["*"]`), request(token(claims{"iss": idp})), true},
	})
}

// TestTrustDomainAliases is §1.6.
func TestTrustDomainAliases(t *testing.T) {
	t.Parallel()
	type row struct {
		mesh  policy.Mesh
		value string
		yes   []string // trust domains of identities .../ns/a/sa/b that match
		no    []string
	}
	two := policy.Mesh{TrustDomain: "td1", TrustDomainAliases: []string{"td2"}}
	old := policy.Mesh{TrustDomain: "td1", TrustDomainAliases: []string{"old-td"}}
	all := []string{"td1", "td2", "old-td", "new-td", "cluster.local", "other"}
	for _, tc := range []row{
		{two, "cluster.local/ns/a/sa/b", []string{"td1", "td2"}, []string{"cluster.local", "other"}},
		{two, "cluster.local/ns/a/sa/*", []string{"td1", "td2"}, []string{"cluster.local"}},
		{two, "cluster.local/ns/a/*", []string{"cluster.local"}, []string{"td1", "td2"}}, // 4 parts: as it stands
		{two, "cluster.local/*", []string{"cluster.local"}, []string{"td1"}},
		{two, "td2/ns/a/sa/b", []string{"td1", "td2"}, []string{"other"}},
		{two, "td2/ns/a/*", []string{"td2"}, []string{"td1"}},
		{two, "td*/ns/a/sa/b", []string{"td1", "td2"}, []string{"other"}},
		{two, "*/ns/a/sa/b", all, nil},
		{two, "other/ns/a/sa/b", []string{"other"}, []string{"td1", "cluster.local"}},
		{old, "*-td/ns/a/sa/b", []string{"td1", "old-td", "new-td"}, []string{"td2"}},
		{policy.Mesh{}, "cluster.local/ns/a/sa/b", []string{"cluster.local"}, []string{"td1"}},
		{policy.Mesh{TrustDomain: "td1", TrustDomainAliases: []string{"cluster.local"}}, "td1/ns/a/sa/b", []string{"td1", "cluster.local"}, []string{"td2"}},
		{two, "spiffe://cluster.local/ns/a/sa/b", []string{"td1", "td2"}, []string{"cluster.local"}},
	} {
		t.Run(tc.value, func(t *testing.T) {
			check := func(trustDomains []string, want bool) {
				for _, td := range trustDomains {
					r := request(named("spiffe://" + td + "/ns/a/sa/b"))
					for rule, want := range map[string]bool{
						source(`principals: ["` + tc.value + `"]`):                     want,
						source(`notPrincipals: ["` + tc.value + `"]`):                  !want,
						when(`key: source.principal, values: ["` + tc.value + `"]`):    want,
						when(`key: source.principal, notValues: ["` + tc.value + `"]`): !want,
					} {
						if got := matches(t, tc.mesh, rule, r); got != want {
							t.Errorf("%s of trust domain %s: %v, want %v", rule, td, got, want)
						}
					}
				}
			}
			check(tc.yes, true)
			check(tc.no, false)
		})
	}
}

// TestPathTemplates is the table of §1.7.
func TestPathTemplates(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		template string
		yes, no  []string
	}{
		{"/foo/{*}", []string{"/foo/bar", "/foo/a%2Fb", "/foo/a=b", "/foo/-._~%!$&'()+,;:@=", "/foo/bar?x=/y"},
			[]string{"/foo/", "/foo", "/foo/bar/", "/foo/a/b", "/foo/a*b", "/foo/é", "/foo/a b", "/x/foo/bar", "/foo/a\"b"}},
		{"/foo/{**}", []string{"/foo/", "/foo/a/b/", "/foo//", "/foo/?x"}, []string{"/foo", "/foo/a*b", "/foo/a/é"}},
		{"/foo/{**}/", []string{"/foo//", "/foo/bar/", "/foo/a/b/"}, []string{"/foo/bar", "/foo/", "/foo/bar/baz.txt"}},
		{"/foo/{*}/bar/{**}", []string{"/foo/x/bar/", "/foo/x/bar/y/z"}, []string{"/foo/x/bar", "/foo//bar/", "/foo/x/y/bar/z"}},
		{"/{**}/bar", []string{"/a/b/bar", "//bar", "/bar/bar", "/a/bar/bar"}, []string{"/bar", "/a/bar/", "/a/xbar"}},
		{"/{*}/{*}/end", []string{"/a/b/end"}, []string{"/a/end", "/a/b/c/end", "//b/end"}},
		{"/a.b/{*}", []string{"/a.b/c"}, []string{"/axb/c"}}, // literal parts are literal
		{"/{*}/a/{**}/a", []string{"/x/a/a/a", "/x/a//a", "/x/a/b/a"}, []string{"/x/a", "/x/a/a"}},
	} {
		t.Run(tc.template, func(t *testing.T) {
			check := func(paths []string, want bool) {
				for _, path := range paths {
					r := request(pathOf(path))
					if got := matches(t, policy.Mesh{}, operation(`paths: ["`+tc.template+`"]`), r); got != want {
						t.Errorf("paths on %q: %v, want %v", path, got, want)
					}
					if got := matches(t, policy.Mesh{}, operation(`notPaths: ["`+tc.template+`"]`), r); got == want {
						t.Errorf("notPaths on %q: %v, want %v", path, got, !want)
					}
				}
			}
			check(tc.yes, true)
			check(tc.no, false)
		})
	}
}
