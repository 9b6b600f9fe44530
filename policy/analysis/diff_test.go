package analysis_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/writ-auth/writ/policy"
	"github.com/writ-auth/writ/policy/analysis"
)

// documents are one AuthorizationPolicy: "NAMESPACE/NAME SPEC" with the spec in YAML flow style.
func documents(t *testing.T, policies ...string) []*policy.Document {
	t.Helper()
	var text strings.Builder
	for _, p := range policies {
		if strings.HasPrefix(p, "apiVersion:") {
			text.WriteString("---\n" + p + "\n")
			continue
		}
		name, spec, _ := strings.Cut(p, " ")
		kind := "AuthorizationPolicy"
		if k, n, ok := strings.Cut(name, ":"); ok {
			kind, name = k, n
		}
		ns, name, _ := strings.Cut(name, "/")
		fmt.Fprintf(&text, "---\napiVersion: security.istio.io/v1\nkind: %s\nmetadata: {name: %s, namespace: %s}\nspec: %s\n", kind, name, ns, spec)
	}
	docs := policy.Decode("test.yaml", []byte(text.String()))
	for _, d := range docs {
		if d.Broken() {
			t.Fatalf("%v\n%s", d.Problems, text.String())
		}
	}
	return docs
}

// lines are the differences and the unknowns of a report, one a line.
func lines(r *analysis.Report) []string {
	out := []string{}
	for _, d := range r.Differences {
		var whom []string
		for _, w := range d.Workloads {
			whom = append(whom, w.String())
		}
		out = append(out, fmt.Sprintf("%s %s [%s]: %s -> %s: %s", d.Kind, strings.Join(d.Traffic, "+"), strings.Join(whom, "; "), d.Old, d.New, request(d.Witness.Request)))
	}
	for _, u := range r.Unknown {
		out = append(out, fmt.Sprintf("unknown %s [%s]: %s", u.Traffic, u.Workloads[0], u.Reason))
	}
	return out
}

// request is a witness on one line.
func request(r analysis.Request) string {
	text, err := json.Marshal(r)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

const (
	idp     = `RequestAuthentication:a/idp {jwtRules: [{issuer: "https://idp", jwks: '{"keys":[]}'}]}`
	forZ    = `RequestAuthentication:a/idp {jwtRules: [{issuer: "https://idp", jwks: '{"keys":[]}', audiences: [z]}]}`
	newKeys = `RequestAuthentication:a/idp {jwtRules: [{issuer: "https://idp", jwksUri: "https://idp/keys"}]}`
)

// TestDiff compares small sets. Wanted is every class, with its witness.
func TestDiff(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name     string
		old, new []string
		want     []string
	}{
		{
			"the same",
			[]string{`a/p {rules: [{from: [{source: {namespaces: [x, w]}}]}]}`},
			[]string{`a/p {rules: [{from: [{source: {namespaces: [x, w]}}]}]}`},
			[]string{},
		},
		{
			"the same in other words",
			[]string{`a/p {rules: [{from: [{source: {namespaces: [x, w]}}]}]}`},
			[]string{`a/p {rules: [{from: [{source: {namespaces: [w]}}, {source: {namespaces: [x, w]}}]}]}`},
			[]string{},
		},
		{
			"one value more and one field more",
			[]string{`a/p {rules: [{from: [{source: {namespaces: [x]}}]}]}`},
			[]string{`a/p {rules: [{from: [{source: {namespaces: [x, w]}}], to: [{operation: {paths: ["/a*"]}}]}]}`},
			[]string{
				`widened http [a]: DENY by no ALLOW rule matches -> ALLOW by a/p rule 0: {"from":"spiffe://cluster.local/ns/w/sa/other","method":"GET","path":"/ax"}`,
				`narrowed http+tcp [a]: ALLOW by a/p rule 0 -> DENY by no ALLOW rule matches: {"from":"spiffe://cluster.local/ns/x/sa/other","method":"GET","path":"/"}`,
			},
		},
		{
			"a template gets deeper, for one workload",
			[]string{`a/p {selector: {matchLabels: {app: q}}, rules: [{to: [{operation: {methods: [GET], paths: ["/a/{*}"]}}]}]}`},
			[]string{`a/p {selector: {matchLabels: {app: q}}, rules: [{to: [{operation: {methods: [GET], paths: ["/a/{**}"]}}]}]}`},
			[]string{
				`widened http [a app=q]: DENY by no ALLOW rule matches -> ALLOW by a/p rule 0: {"method":"GET","path":"/a/x/y"}`,
			},
		},
		{
			"an allowed suffix that a denied prefix used to hide",
			[]string{`a/allow {rules: [{to: [{operation: {paths: ["*.html"]}}]}]}`, `a/deny {action: DENY, rules: [{to: [{operation: {paths: ["/admin/*"]}}]}]}`},
			[]string{`a/allow {rules: [{to: [{operation: {paths: ["*.html"]}}]}]}`},
			[]string{
				`widened http [a]: DENY by a/deny rule 0 -> ALLOW by a/allow rule 0: {"method":"GET","path":"/admin/.html"}`,
			},
		},
		{
			"the first ALLOW policy closes the namespace",
			[]string{},
			[]string{`a/p {rules: [{to: [{operation: {ports: ["80"]}}]}]}`},
			[]string{
				`narrowed http+tcp [a]: ALLOW by no ALLOW policy applies -> DENY by no ALLOW rule matches: {"port":8080,"method":"GET","path":"/"}`,
			},
		},
		{
			"mesh-wide",
			[]string{},
			[]string{`istio-system/p {action: DENY, rules: [{from: [{source: {notPrincipals: ["*"]}}]}]}`},
			[]string{
				`narrowed http+tcp [istio-system; any other namespace]: ALLOW by no ALLOW policy applies -> DENY by istio-system/p rule 0: {"method":"GET","path":"/"}`,
			},
		},
		{
			"STRICT in place of a policy",
			[]string{`a/p {action: DENY, rules: [{from: [{source: {notPrincipals: ["*"]}}]}]}`},
			[]string{`PeerAuthentication:a/m {mtls: {mode: STRICT}}`},
			[]string{
				`narrowed http+tcp [a]: ALLOW by no ALLOW policy applies -> DENY by PeerAuthentication a/m: {"from":"client.example","method":"GET","path":"/"}`,
			},
		},
		{
			"mTLS switched off",
			[]string{`PeerAuthentication:a/m {mtls: {mode: STRICT}}`},
			[]string{`PeerAuthentication:a/m {mtls: {mode: DISABLE}}`},
			[]string{
				`widened http+tcp [a]: DENY by PeerAuthentication a/m -> ALLOW by no ALLOW policy applies: {"method":"GET","path":"/"}`,
				`unknown  [a]: mTLS changed from STRICT to DISABLE: whether callers have an identity changes with it, which the requests here do not show`,
			},
		},
		{
			"a provider is asked",
			[]string{},
			[]string{`a/p {action: CUSTOM, provider: {name: opa}, rules: [{to: [{operation: {paths: ["/admin"]}}]}]}`},
			[]string{
				`narrowed http+tcp [a]: ALLOW by no ALLOW policy applies -> ALLOW if opa does by no ALLOW policy applies: {"method":"GET","path":"/admin"}`,
			},
		},
		{
			"another provider is asked",
			[]string{`a/p {action: CUSTOM, provider: {name: legacy}, rules: [{to: [{operation: {methods: [GET]}}]}]}`},
			[]string{`a/p {action: CUSTOM, provider: {name: opa}, rules: [{to: [{operation: {methods: [GET]}}]}]}`},
			[]string{
				`changed http+tcp [a]: ALLOW if legacy does by no ALLOW policy applies -> ALLOW if opa does by no ALLOW policy applies: {"method":"GET","path":"/"}`,
			},
		},
		{
			"a claim that is a list",
			[]string{idp, `a/r {rules: [{when: [{key: "request.auth.claims[groups]", values: [a, b], notValues: [c]}]}]}`},
			[]string{idp, `a/r {rules: [{when: [{key: "request.auth.claims[groups]", values: [a, b]}]}]}`},
			[]string{
				`widened http [a]: DENY by no ALLOW rule matches -> ALLOW by a/r rule 0: {"method":"GET","path":"/","claims":{"groups":["c","a"],"iss":"https://idp"}}`,
			},
		},
		{
			"tokens for one audience",
			[]string{idp},
			[]string{forZ},
			[]string{
				`narrowed http [a]: ALLOW by no ALLOW policy applies -> DENY by no token rule takes the token: {"method":"GET","path":"/","claims":{"iss":"https://idp"}}`,
			},
		},
		{
			"claims that nobody verifies",
			[]string{`a/r {action: DENY, rules: [{from: [{source: {requestPrincipals: ["*"]}}]}]}`},
			[]string{`a/r {action: DENY, rules: [{from: [{source: {requestPrincipals: ["*"]}}], to: [{operation: {methods: [GET]}}]}]}`},
			[]string{},
		},
		{
			"other keys",
			[]string{idp},
			[]string{newKeys},
			[]string{
				`unknown http [a]: the token rules of issuer https://idp changed in keys, places or claims: which of its tokens verify cannot be told`,
			},
		},
		{
			"networks",
			[]string{`a/p {rules: [{from: [{source: {ipBlocks: [10.0.0.0/8]}}]}]}`},
			[]string{`a/p {rules: [{from: [{source: {ipBlocks: [10.0.0.0/8], notIpBlocks: [10.1.0.0/16]}}]}]}`},
			[]string{
				`narrowed http+tcp [a]: ALLOW by a/p rule 0 -> DENY by no ALLOW rule matches: {"source_ip":"10.1.0.1","method":"GET","path":"/"}`,
			},
		},
		{
			"a request without a path",
			[]string{`a/p {action: DENY, rules: [{to: [{operation: {paths: ["*"]}}]}]}`},
			[]string{`a/p {action: DENY, rules: [{to: [{operation: {hosts: ["*"]}}]}]}`},
			[]string{
				`narrowed http [a]: ALLOW by no ALLOW policy applies -> DENY by a/p rule 0: {"method":"CONNECT","host":"other.example"}`,
			},
		},
		{
			"headers and the query",
			[]string{`a/p {rules: [{when: [{key: "request.headers[x-a]", values: ["*"]}]}]}`},
			[]string{`a/p {rules: [{when: [{key: "request.headers[x-a]", values: ["*"]}, {key: "request.headers[:path]", notValues: ["*debug=1"]}]}]}`},
			[]string{
				`narrowed http [a]: ALLOW by a/p rule 0 -> DENY by no ALLOW rule matches: {"method":"GET","path":"/xdebug=1","headers":{"x-a":"other"}}`,
			},
		},
		{
			"hosts have no case, headers do",
			[]string{`a/p {rules: [{to: [{operation: {hosts: ["A.example"]}}], when: [{key: "request.headers[:authority]", values: ["a.example"]}]}]}`},
			[]string{`a/p {rules: [{to: [{operation: {hosts: ["A.example"]}}]}]}`},
			[]string{
				`widened http [a]: DENY by no ALLOW rule matches -> ALLOW by a/p rule 0: {"method":"GET","path":"/","host":"A.EXAMPLE"}`,
			},
		},
		{
			"a waypoint",
			[]string{},
			[]string{`a/p {targetRefs: [{kind: Service, name: web}], action: DENY, rules: [{to: [{operation: {methods: [PUT]}}]}]}`},
			[]string{
				`narrowed http+tcp [a gateway.istio.io/managed=istio.io-mesh-controller (Service a/web)]: ALLOW by no ALLOW policy applies -> DENY by a/p rule 0: {"method":"PUT","path":"/"}`,
			},
		},
		{
			"metadata of a filter",
			[]string{`a/p {rules: [{when: [{key: "experimental.envoy.filters.http.x[role]", values: ["dev"]}]}]}`},
			[]string{`a/p {rules: [{when: [{key: "experimental.envoy.filters.http.x[role]", values: ["dev", "[dev]"]}]}]}`},
			[]string{
				`widened http+tcp [a]: DENY by no ALLOW rule matches -> ALLOW by a/p rule 0: {"method":"GET","path":"/","metadata":{"envoy.filters.http.x":{"role":["dev"]}}}`,
			},
		},
		{
			"dry run and audit decide nothing",
			[]string{},
			[]string{`a/p {action: AUDIT, rules: [{}]}`},
			[]string{},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r, err := analysis.Diff(documents(t, tc.old...), documents(t, tc.new...), policy.Mesh{}, analysis.DiffOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if got := lines(r); !slices.Equal(got, tc.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(tc.want, "\n"))
			}
		})
	}
}

// TestDiffOfBrokenDocuments: what a broken document means is not known, so nothing is said.
func TestDiffOfBrokenDocuments(t *testing.T) {
	t.Parallel()
	broken := policy.Decode("broken.yaml", []byte("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: a}\nspec: {action: DENIED}\n"))
	for _, sets := range [][2][]*policy.Document{{broken, nil}, {nil, broken}} {
		if r, err := analysis.Diff(sets[0], sets[1], policy.Mesh{}, analysis.DiffOptions{}); err == nil || !strings.Contains(err.Error(), "1 broken documents") {
			t.Errorf("Diff: %+v, %v", r, err)
		}
	}
}

// TestDiffOptions: one kind of traffic, and reasons.
func TestDiffOptions(t *testing.T) {
	t.Parallel()
	old := documents(t, `a/get {rules: [{to: [{operation: {methods: [GET]}}]}]}`, `a/port {rules: [{to: [{operation: {ports: ["80"]}}]}]}`)
	new := documents(t, `a/any {rules: [{to: [{operation: {methods: [GET]}}, {operation: {ports: ["80"]}}]}]}`)
	for _, tc := range []struct {
		options analysis.DiffOptions
		want    []string
	}{
		{analysis.DiffOptions{Traffic: []string{"http"}}, []string{}},
		{analysis.DiffOptions{}, []string{`narrowed tcp [a]: ALLOW by a/port rule 0 -> DENY by no ALLOW rule matches: {"tcp":true,"port":80}`}},
		{analysis.DiffOptions{Traffic: []string{"http"}, Reasons: true}, []string{
			`reason http [a]: ALLOW by a/get rule 0 -> ALLOW by a/any rule 0: {"port":8080,"method":"GET","path":"/"}`,
			`reason http [a]: ALLOW by a/port rule 0 -> ALLOW by a/any rule 0: {"port":80,"method":"POST","path":"/"}`,
		}},
	} {
		r, err := analysis.Diff(old, new, policy.Mesh{}, tc.options)
		if err != nil {
			t.Fatal(err)
		}
		if got := lines(r); !slices.Equal(got, tc.want) {
			t.Errorf("%+v: got\n%s", tc.options, strings.Join(got, "\n"))
		}
	}
}

// TestDiffOfPathsThatNobodySends: a path that the server refuses whatever the documents say stands for nothing, and where
// others are alike, one of them is the example.
func TestDiffOfPathsThatNobodySends(t *testing.T) {
	t.Parallel()
	old := `a/p {rules: [{to: [{operation: {paths: [/a]}}]}]}`
	for pattern, want := range map[string]string{
		"/b/../c": "", "/b/.": "", "/..": "", "/b/./*": "", `/b\c`: "", "/b%2e": "", "/b%2Ex": "", "/b%41": "", "/b%7e*": "", "/%00": "",
		"/b%2Fc": "/b%2Fc", "/b%5Cc": "/b%5Cc", "/b%": "/b%", "/b%4": "/b%4", "/b..": "/b..", "/..b": "/..b", "/b.": "/b.", "/...": "/...",
		"/b/.*": "/b/.x", "*/..x": "/..x", "*.": "/x.", "*..": "/x..", "*/.": "",
	} {
		for raw, shown := range map[bool]bool{false: want != "", true: true} {
			changed := fmt.Sprintf("a/p {rules: [{to: [{operation: {paths: [/a, '%s']}}]}]}", pattern)
			r, err := analysis.Diff(documents(t, old), documents(t, changed), policy.Mesh{}, analysis.DiffOptions{Traffic: []string{"http"}, RawPaths: raw})
			if err != nil {
				t.Fatal(err)
			}
			if (len(r.Differences) == 1) != shown || len(r.Unknown) > 0 {
				t.Errorf("%s, raw paths %v: got\n%s", pattern, raw, strings.Join(lines(r), "\n"))
			} else if !raw && shown && r.Differences[0].Witness.Request.Path != want {
				t.Errorf("%s: example %s, want %s", pattern, r.Differences[0].Witness.Request.Path, want)
			}
		}
	}
}

// TestDiffSaysWhatItLeavesOut: a bound that is reached is UNKNOWN, never silence.
func TestDiffSaysWhatItLeavesOut(t *testing.T) {
	t.Parallel()
	list := func(n int, entry string) string {
		return strings.TrimSuffix(strings.Repeat(entry+", ", n), ", ")
	}
	var selecting []string
	for i := range 12 {
		selecting = append(selecting, fmt.Sprintf(`a/p%d {selector: {matchLabels: {k%d: v}}}`, i, i))
	}
	const (
		cookies = `RequestAuthentication:a/idp {jwtRules: [{issuer: "https://idp", jwks: '{"keys":[]}', fromCookies: [t]}]}`
		params  = `RequestAuthentication:a/idp {jwtRules: [{issuer: "https://idp", jwks: '{"keys":[]}', fromParams: [t]}]}`
	)
	var groups []string
	for i := range 14 {
		groups = append(groups, fmt.Sprintf(`a/r%d {rules: [{when: [{key: "request.auth.claims[groups]", values: [g%d]}]}]}`, i, i))
	}
	for _, tc := range []struct {
		name     string
		old, new []string
		want     string
	}{
		{
			"sources and operations", nil,
			[]string{`a/p {rules: [{from: [` + list(300, `{source: {namespaces: [x]}}`) + `], to: [` + list(300, `{operation: {ports: ["80"]}}`) + `]}]}`},
			"combine more than 50000 sources and operations; nothing was compared",
		},
		{"selectors", nil, selecting, "its selectors combine in more than 2000 ways"},
		{"lists", []string{idp}, append([]string{idp}, groups...), "request.auth.claims[groups]: its values differ in more than 4096 ways"},
		{
			"remote.ip and its header", nil,
			[]string{`a/p {rules: [{from: [{source: {remoteIpBlocks: [10.0.0.0/8]}}], when: [{key: "request.headers[X-Forwarded-For]", values: [x]}]}]}`},
			"its rules look at x-forwarded-for, and at remote.ip, which comes from it",
		},
		{
			"a token and its header", []string{idp},
			[]string{idp, `a/p {rules: [{when: [{key: "request.headers[authorization]", values: ["Bearer *"]}]}]}`},
			"its rules look at authorization, and tokens are looked for in it",
		},
		{
			"a token and its cookie", []string{cookies},
			[]string{cookies, `a/p {rules: [{when: [{key: "request.headers[cookie]", values: ["*"]}]}]}`},
			"its rules look at cookie, and tokens are looked for in it",
		},
		{
			"a token and its parameter", []string{params},
			[]string{params, `a/p {rules: [{when: [{key: "request.headers[:path]", values: ["/a?*"]}]}]}`},
			"its rules look at :path, and tokens are looked for in its query",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r, err := analysis.Diff(documents(t, tc.old...), documents(t, tc.new...), policy.Mesh{}, analysis.DiffOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(lines(r), "\n"); !strings.Contains(got, tc.want) {
				t.Errorf("got %.2000s", got)
			}
		})
	}
}
