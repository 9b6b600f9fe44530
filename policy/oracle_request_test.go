package policy_test

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/writ-auth/writ/policy"
)

// claims is a verified token's payload.
type claims map[string]any

func (c claims) Issuer() string  { s, _ := c["iss"].(string); return s }
func (c claims) Subject() string { s, _ := c["sub"].(string); return s }

func (c claims) Strings(path []string) []string { return stringsAt(c, path) }

// stringsAt walks objects along path and returns what stands there as strings: one, the string elements of a list, or
// nothing.
func stringsAt(at map[string]any, path []string) []string {
	for _, p := range path[:len(path)-1] {
		next, ok := at[p].(map[string]any)
		if !ok {
			return nil
		}
		at = next
	}
	return stringsOf(at[path[len(path)-1]])
}

func stringsOf(v any) []string {
	switch v := v.(type) {
	case string:
		return []string{v}
	case []any:
		var out []string
		for _, e := range v {
			if s, ok := e.(string); ok {
				out = append(out, s)
			}
		}
		return out
	}
	return nil
}

// metadata is dynamic metadata of the proxy: filter, key, value.
type metadata map[string]map[string]any

func (m metadata) Text(namespace, key string) (string, bool) {
	s, ok := m[namespace][key].(string)
	return s, ok
}

func (m metadata) List(namespace, key string) []string {
	list, _ := m[namespace][key].([]any)
	return stringsOf(list)
}

var (
	requestNames = []string{
		"spiffe://cluster.local/ns/foo/sa/web", "spiffe://td1/ns/foo/sa/web", "spiffe://old-td/ns/foo/sa/web",
		"spiffe://other.td/ns/foo/sa/web", "spiffe://td1/ns/foo/sa/web-2", "spiffe://td1/ns/foo-bar/sa/web-2",
		"spiffe://cluster.local/ns/bar/sa/web", "spiffe://cluster.local/ns/foo/sa/admin", "spiffe://td1/ns/bar/sa/admin",
		"spiffe://td1/ns/foo/sa/web/v/1", "spiffe://cluster.local/x/ns/foo/k/v/sa/web", "spiffe://td1/ns/other/ns/foo/sa/web",
		"spiffe://td1/ns/foo", "spiffe://cluster.local/ns/foo/sa/web/", "spiffe://td1", "spiffe://old-td/ns/f/b/sa/w-b",
		"https://td1/ns/foo/sa/web", "client.example.com", "CN=web,O=foo", "cluster.local/ns/foo/sa/web", "",
		"spiffe://cluster.local/ns/istio-system/sa/web", "spiffe://a/b/c/d/e", "spiffe://cluster.local/ns/foo/sa/w.b",
		"spiffe://td1/ns/foo//sa/web", "spiffe://td1/ns/foo///sa/web", "spiffe://td1/ns/foo/xsa/web", "spiffe://td1/ns/foo/sa/sa/web",
		"spiffe://td1/ns/foo/sa/web/sa/admin", "spiffe:///ns/foo/sa/web", "spiffe://a/ns/ns/foo/sa/web", "spiffe://td1/ns/foo/ns/bar/sa/web",
		"spiffe://td1/ns//ns/foo/sa/web", "spiffe://ns/ns/ns/sa/web", "spiffe://td1/ns/foo/sa/sa", "spiffe://td1/ns/foo/sa//sa/web", "spiffe://td1/x-td/ns/foo/sa/web",
	}
	requestIPs = []string{
		"127.0.0.1", "10.1.2.3", "10.1.2.2", "10.1.9.9", "10.9.9.9", "203.0.113.9", "2001:db8::1", "2001:db8::2", "fe80::1", "127.0.0.5",
	}
	requestHosts = []string{
		"example.com", "EXAMPLE.COM", "api.example.com", "api.example.com:8080", "example.com:443", "httpbin.foo", "example.org",
		"", ".example.com", "Kube.example", "\u212Aube.example", "\u212AUBE.example", "caf\u00c9.example", "caf\u00e9.example",
	}
	requestMethods = []string{"GET", "POST", "PUT", "DELETE", "HEAD", "PATCH", "get"}
	requestPaths   = []string{
		"/", "/admin", "/admin/", "/Admin", "/admin/x", "/administrator", "/foo/bar", "/foo/", "/foo", "/foo//", "/foo/a/b", "/foo/x/bar/",
		"/foo/x/bar", "/foo/x/bar/y/z", "/foo/a*b", "/foo/é", "/foo/a%2Fb", "/foo/x/info", "/info", "/a/b/info", "/a/*/b", "/a/x/b",
		"/API", "/api", "/index.html", "/public", "*", "", "/foo/bar/", "a*", "xa*", "/foo/a b", "/foo/ab;c=d,e@f:g",
	}
	requestPorts = []uint16{80, 8080, 9, 0, 65535, 443}
	requestSNIs  = []string{"", "example.com", "api.example.com", "EXAMPLE.com", "com"}
)

// genRequest makes an HTTP request, or one time in four a TCP connection.
func genRequest(d draw) *policy.Request {
	r := &policy.Request{
		SourceIP: genAddr(d), RemoteIP: genAddr(d), DestIP: genAddr(d),
		DestPort: requestPorts[d.below(len(requestPorts))],
		SNI:      d.pick(requestSNIs),
	}
	if !d.oneIn(5) {
		r.Names = append(r.Names, d.pick(requestNames))
		if d.oneIn(6) {
			r.Names = append(r.Names, d.pick(requestNames))
		}
	}
	if d.oneIn(3) {
		r.Metadata = genMetadata(d)
	}
	if d.oneIn(4) {
		r.TCP = true
		return r
	}
	if !d.oneIn(10) {
		r.Host, r.HasHost = d.pick(requestHosts), true
	}
	if !d.oneIn(20) {
		r.Method, r.HasMethod = d.pick(requestMethods), true
	}
	r.Path = d.pick(requestPaths)
	r.RawPath = r.Path + d.pick([]string{"", "", "?x=1"})
	r.Headers = genHeaders(d, r)
	if d.oneIn(2) {
		r.Claims = genClaims(d)
	}
	return r
}

func genAddr(d draw) netip.Addr {
	if d.oneIn(10) {
		return netip.Addr{}
	}
	return netip.MustParseAddr(d.pick(requestIPs))
}

func genHeaders(d draw, r *policy.Request) []policy.Header {
	var out []policy.Header
	if d.oneIn(2) { // some proxies put the pseudo headers into the list, some only into their own fields
		if r.HasHost {
			out = append(out, policy.Header{Name: ":authority", Value: r.Host})
		}
		if r.HasMethod {
			out = append(out, policy.Header{Name: ":method", Value: r.Method})
		}
		if r.RawPath != "" {
			out = append(out, policy.Header{Name: ":path", Value: r.RawPath})
		}
	}
	for range d.below(4) {
		out = append(out, policy.Header{
			Name:  d.pick([]string{"x-role", "x-team", "x-empty", "x[0]", "x-other"}),
			Value: d.pick([]string{"dev", "", "a", "b", "a,b", "Dev", "dev "}),
		})
	}
	return out
}

func genClaims(d draw) claims {
	c := claims{}
	value := func() any {
		return []any{
			"dev", "", "read", "read write", []any{"read", "dev"}, []any{}, []any{3.0, "de"}, 3.0, true, nil,
			map[string]any{"team": "dev"}, []any{map[string]any{"team": "dev"}},
		}[d.below(12)]
	}
	for _, name := range []string{"level", "groups", "a.b", "[foo]", "a]b[c", "https://a/b", "azp"} {
		if d.oneIn(4) {
			c[name] = value()
		}
	}
	if d.oneIn(3) {
		c["aud"] = []any{"dev", []any{"read", "dev"}, ""}[d.below(3)]
	}
	if d.oneIn(3) {
		c["nested"] = map[string]any{"team": value()}
	}
	if !d.oneIn(6) {
		c["iss"] = d.pick([]string{"https://idp.example", "https://other.example", "issuer", "https:/", "", "https://idp.example/team"})
	}
	if !d.oneIn(6) {
		c["sub"] = d.pick([]string{"alice", "bob", "", "team/alice", "*", "idp.example", "al*", "*ce"})
	}
	return c
}

func genMetadata(d draw) metadata {
	value := func() any {
		return []any{"dev", "", "de", []any{"dev"}, []any{"x", "dev"}, []any{3.0, ""}, 3.0, "[dev]"}[d.below(8)]
	}
	return metadata{"envoy.filters.http.x": {"role": value()}, "envoy.filters.a.b": {"k": value()}}
}

// genWorkload makes an ordinary workload, a gateway's pod or a waypoint.
func genWorkload(d draw) policy.Workload {
	w := policy.Workload{
		Namespace: d.pick([]string{"foo", "foo", "foo-bar", "bar", "istio-system"}),
		Labels:    map[string]string{},
	}
	if !d.oneIn(4) {
		w.Labels["app"] = d.pick([]string{"httpbin", "httpbin", "other"})
	}
	if d.oneIn(2) {
		w.Labels["version"] = d.pick([]string{"v1", "v2"})
	}
	switch d.below(8) {
	case 6:
		w.Labels[gatewayNameLabel] = d.pick([]string{"gw", "gw-2"})
	case 7:
		w.Labels[gatewayNameLabel] = d.pick([]string{"gw", "gw-2"})
		w.Labels[managedLabel] = waypointManager
		w.Services = d.some([]string{"Service foo/web", "Service bar/web", "ServiceEntry foo/web", "Service foo/other"})
	}
	return w
}

func genMesh(d draw) policy.Mesh {
	return []policy.Mesh{
		{},
		{TrustDomain: "td1", TrustDomainAliases: []string{"cluster.local", "old-td"}, RootNamespace: "istio-system"},
		{TrustDomain: "td1", TrustDomainAliases: []string{"old-td"}},
		{TrustDomain: "td1"},
		{TrustDomain: "cluster.local", TrustDomainAliases: []string{"old-td"}},
		{TrustDomain: "old-td", TrustDomainAliases: []string{"new-td", "td1"}, RootNamespace: "bar"},
	}[d.below(6)]
}

// describe prints a request as Go source, ready for a table.
func describe(r *policy.Request) string {
	var b strings.Builder
	field := func(name string, set bool, value string) {
		if set {
			fmt.Fprintf(&b, "\t%s: %s,\n", name, value)
		}
	}
	addr := func(a netip.Addr) string { return fmt.Sprintf("netip.MustParseAddr(%q)", a) }
	b.WriteString("&policy.Request{\n")
	field("TCP", r.TCP, "true")
	field("Names", len(r.Names) > 0, fmt.Sprintf("%#v", r.Names))
	field("SourceIP", r.SourceIP.IsValid(), addr(r.SourceIP))
	field("RemoteIP", r.RemoteIP.IsValid(), addr(r.RemoteIP))
	field("DestIP", r.DestIP.IsValid(), addr(r.DestIP))
	field("DestPort", r.DestPort != 0, fmt.Sprint(r.DestPort))
	field("SNI", r.SNI != "", fmt.Sprintf("%q", r.SNI))
	field("Method", r.HasMethod, fmt.Sprintf("%q, HasMethod: true", r.Method))
	field("Path", r.RawPath != "", fmt.Sprintf("%q, RawPath: %q", r.Path, r.RawPath))
	field("Host", r.HasHost, fmt.Sprintf("%q, HasHost: true", r.Host))
	field("Headers", len(r.Headers) > 0, fmt.Sprintf("%#v", r.Headers))
	field("Claims", r.Claims != nil, fmt.Sprintf("%#v", r.Claims))
	field("Metadata", r.Metadata != nil, fmt.Sprintf("%#v", r.Metadata))
	b.WriteString("}")
	return b.String()
}
