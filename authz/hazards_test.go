package authz_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/authz/extauthz"
)

// hazard is one row of authorization-policy §9.3, seen from behind ext_authz.
type hazard struct {
	row   string
	setup setup
	tries []try
}

func hazards() []hazard {
	denyAdmin := docs(deny(to("paths: [/admin]")))
	allowAdmin := docs(allow(to("paths: [/admin]")))
	allowHost := docs(allow(to("hosts: [example.com]")))
	return []hazard{
		{"query string", denyAdmin, []try{
			{"stripped", check{path: "/admin?a=/b"}, false}, {"fragment too", check{path: "/admin#x"}, false},
			{"a query that looks like a path", check{path: "/x?/admin"}, true}, {"empty query", check{path: "/admin?"}, false},
		}},
		{"dot segments, backslash, encoded unreserved characters", denyAdmin, []try{
			// A proxy that normalizes never sends these: writ refuses them rather than guess what the backend makes of them.
			{"/a/../admin", check{path: "/a/../admin"}, false}, {"/./admin", check{path: "/./admin"}, false},
			{"/a/%2e%2E/admin", check{path: "/a/%2e%2E/admin"}, false}, {"backslash", check{path: `/x\admin`}, false},
			{"/%61dmin", check{path: "/%61dmin"}, false}, {"in the query they are harmless", check{path: "/x?p=../admin%61"}, true},
			{"dots in a name are no segment", check{path: "/a..b/.hidden/..."}, true},
		}},
		{"double slash", denyAdmin, []try{{"kept, significant", check{path: "//admin"}, true}}},
		{"double slash", docs(allow(to("paths: [//admin]"))), []try{{"matches itself", check{path: "//admin"}, true}, {"is not merged", check{path: "/admin"}, false}}},
		{"%2F and %5C", denyAdmin, []try{{"kept: DENY by exact path misses", check{path: "/x%2F..%2Fadmin"}, true}, {"%5C too", check{path: "/x%5Cadmin"}, true}}},
		{"%2F and %5C", allowAdmin, []try{{"kept: ALLOW does not match", check{path: "/x%2F..%2Fadmin"}, false}}},
		{"%2F and %5C", docs(allow(to(`paths: ["/a/{*}"]`))), []try{{"one segment, never decoded", check{path: "/a/b%2Fc"}, true}}},
		{"path case", denyAdmin, []try{{"not folded", check{path: "/Admin"}, true}}},
		{"%00", denyAdmin, []try{{"refused", check{path: "/x%00"}, false}, {"raw NUL refused", check{path: "/x\x00"}, false}}},
		{"host case", allowHost, []try{{"ASCII folds", check{host: "EXAMPLE.com"}, true}}},
		{"host case", docs(allow(to("hosts: [kube.example]"))), []try{{"KELVIN SIGN does not", check{host: "\u212Aube.example"}, false}}},
		{"host port", allowHost, []try{{"not stripped", check{host: "example.com:443"}, false}}},
		{"host port", docs(allow(to(`hosts: [example.com, "example.com:*"]`))), []try{{"named with a wildcard", check{host: "example.com:443"}, true}}},
		{"trailing dot in host", docs(deny(to("hosts: [example.com]"))), []try{{"not stripped: DENY is weak", check{host: "example.com."}, true}}},
		{"trailing dot in host", allowHost, []try{{"not stripped: ALLOW is not", check{host: "example.com."}, false}}},
		{"method case", docs(allow(to("methods: [GET]"))), []try{{"exact", check{method: "get"}, false}}},
		{"duplicate headers", docs(allow(when("request.headers[x-role]", `values: ["a,b"]`))), []try{
			{"joined with a comma, raw form", check{rawHeaders: []string{"x-role", "a", "x-role", "b"}}, true},
			{"as the proxy joined them", check{headers: map[string]string{"x-role": "a,b"}}, true},
			{"names in another case are the same header", check{rawHeaders: []string{"X-Role", "a", "x-ROLE", "b"}}, true},
		}},
		{"duplicate headers", docs(deny(when("request.headers[x-role]", "values: [b]"))), []try{
			{"no single value matches", check{rawHeaders: []string{"x-role", "a", "x-role", "b"}}, true},
		}},
		{"duplicate headers", docs(deny(when("request.headers[x-role]", `values: ["*"]`))), []try{
			{"presence", check{rawHeaders: []string{"x-role", "", "x-role", ""}}, false},
		}},
		{"non-UTF-8 header bytes", docs(allow(when("request.headers[x-role]", `values: ["*end"]`))), []try{
			{"raw bytes are matched as they are", check{rawHeaders: []string{"x-role", "\xff\xfeend"}}, true},
		}},
		{"non-UTF-8 header bytes", docs(allow(when("request.headers[x-role]", `values: ["!"]`))), []try{
			{"and not as their replacement", check{rawHeaders: []string{"x-role", "\xff"}}, false},
			{"which the map form has", check{headers: map[string]string{"x-role": "!"}}, true},
		}},
		{"CONNECT without :path", docs(allow(to(`paths: ["*"]`))), []try{{"positive path never matches", check{method: "CONNECT", noPath: true}, false}}},
		{"CONNECT without :path", docs(allow(to(`notPaths: [/admin]`))), []try{{"notPaths matches", check{method: "CONNECT", noPath: true}, true}}},
		{"trailing slash, empty segments", denyAdmin, []try{{"trailing slash", check{path: "/admin/"}, true}, {"empty segment", check{path: "/a//admin"}, true}}},
		{"trailing slash, empty segments", docs(allow(to(`paths: ["/a/{*}/b"]`))), []try{{"an empty segment is none", check{path: "/a//b"}, false}}},
	}
}

func TestHazards(t *testing.T) {
	t.Parallel()
	for _, h := range hazards() {
		for _, try := range h.tries {
			t.Run(fmt.Sprintf("hazard %s: %s", h.row, try.name), func(t *testing.T) {
				if d := h.setup.decide(t, try.check); d.Allow != try.allow {
					t.Errorf("allowed %v, want %v (layer %s, reason %s, %s)", d.Allow, try.allow, d.Layer, d.Reason, d.Detail)
				}
			})
		}
	}
}

// TestPathsNotNormalized: refusing says which setting to change, and `paths: none` takes paths as they come.
func TestPathsNotNormalized(t *testing.T) {
	t.Parallel()
	open := docs() // no policy: whatever reaches the rules is allowed
	for _, path := range []string{"/a/../b", "/.", "/..", "/a/.", "/%2e/", "/%2E%2e", "/.%2e/b", `/a\b`, "/%61", "/a%00b", "/%7A", "/%30"} {
		d := open.decide(t, check{path: path})
		if d.Allow || d.Layer != authz.LayerSystem || d.Reason != authz.ReasonPathNotNormalized || d.Status != 403 || d.Detail == "" {
			t.Errorf("%q: %+v", path, d)
		}
		if d := open.decide(t, check{path: path, paths: extauthz.PathsNone}); !d.Allow {
			t.Errorf("%q with paths none: %s %s", path, d.Reason, d.Detail)
		}
	}
	for _, path := range []string{"/", "//", "/a%2Fb", "/a%5Cb", "/a%zz", "/%", "/a%2", "/...", "/a..", "/..a", "/;a", "/a?x=/../b", "/%2F..%2F", "*"} {
		if d := open.decide(t, check{path: path}); !d.Allow {
			t.Errorf("%q, which Envoy passes on: %s %s", path, d.Reason, d.Detail)
		}
	}
}

// TestHazardSourceIsTheDirectPeer: source.ip is the connection's address, never a header's (§9 and §9.2).
func TestHazardSourceIsTheDirectPeer(t *testing.T) {
	t.Parallel()
	forwarded := map[string]string{"x-forwarded-for": "203.0.113.9", "x-real-ip": "203.0.113.9", "forwarded": "for=203.0.113.9"}
	source := docs(allow(from("ipBlocks: [203.0.113.9]")))
	if d := source.decide(t, check{headers: forwarded}); d.Allow {
		t.Error("ipBlocks believes a header")
	}
	if d := source.decide(t, check{source: "203.0.113.9"}); !d.Allow {
		t.Error("ipBlocks does not see the peer")
	}
	remote := docs(allow(from("remoteIpBlocks: [203.0.113.9]")))
	for _, tc := range []struct {
		name  string
		check check
		want  bool
	}{
		{"no header: the connection", check{source: "203.0.113.9"}, true},
		{"an entry that is no address: the connection", check{source: "203.0.113.9", headers: map[string]string{"x-forwarded-for": "1.1.1.1, unknown"}}, true},
		{"fewer entries than trusted hops: the connection", check{source: "203.0.113.9", trustedHops: 2, headers: map[string]string{"x-forwarded-for": "1.1.1.1"}}, true},
		{"(N+1)-th from the right", check{trustedHops: 2, headers: map[string]string{"x-forwarded-for": "9.9.9.9, 203.0.113.9, 10.0.0.2, 10.0.0.3"}}, true},
		{"never the leftmost", check{trustedHops: 1, headers: map[string]string{"x-forwarded-for": "203.0.113.9, 9.9.9.9, 10.0.0.3"}}, false},
		{"repeated headers are one list", check{trustedHops: 1, rawHeaders: []string{"x-forwarded-for", "203.0.113.9", "x-forwarded-for", "10.0.0.3"}}, true},
		{"on TCP: the connection", check{tcp: true, source: "203.0.113.9"}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if d := remote.decide(t, tc.check); d.Allow != tc.want {
				t.Errorf("allowed %v, want %v", d.Allow, tc.want)
			}
		})
	}
}

// hazardsElsewhere are the rows of §9.3 that nothing here can decide, with the reason.
func hazardsElsewhere() map[string]string {
	return map[string]string{
		"no route matched":               "Envoy skips ext_authz without a route and answers 404",
		"long-lived streams, websockets": "checked once at the request, here as in Envoy",
	}
}

// TestEveryHazardIsAccountedFor: each row of §9.3 is tested or says why not.
func TestEveryHazardIsAccountedFor(t *testing.T) {
	t.Parallel()
	var tested []string
	for _, h := range hazards() {
		tested = append(tested, h.row)
	}
	for _, row := range []string{
		"query string", "dot segments, backslash, encoded unreserved characters", "double slash", "%2F and %5C", "path case", "%00",
		"host case", "host port", "trailing dot in host", "method case", "duplicate headers", "non-UTF-8 header bytes", "no route matched",
		"CONNECT without :path", "trailing slash, empty segments", "long-lived streams, websockets",
	} {
		_, excused := hazardsElsewhere()[row]
		if slices.Contains(tested, row) == excused {
			t.Errorf("hazard %q: tested %v, excused %v", row, !excused, excused)
		}
	}
}
