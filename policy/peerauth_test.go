package policy_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/writ-auth/writ/policy"
)

// peer is a PeerAuthentication; created is its creationTimestamp, or "".
func peer(namespace, name, created, spec string) string {
	meta := fmt.Sprintf("namespace: %s, name: %s", namespace, name)
	if created != "" {
		meta += ", creationTimestamp: " + created
	}
	return fmt.Sprintf("apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {%s}\nspec: {%s}\n", meta, spec)
}

const (
	first, second = "2024-01-01T00:00:00Z", "2025-01-01T00:00:00Z"
	strict        = "mtls: {mode: STRICT}"
	permissive    = "mtls: {mode: PERMISSIVE}"
	disable       = "mtls: {mode: DISABLE}"
	unset         = "mtls: {mode: UNSET}"
	root          = "istio-system"
)

// modes are the modes of a workload in short: that of all ports, then port=mode of those with one of their own.
func modes(t *testing.T, w policy.Workload, text ...string) string {
	t.Helper()
	return modesOf(t, policy.NewSnapshot(load(t, text...), policy.Mesh{}), w)
}

func modesOf(t *testing.T, snap *policy.Snapshot, w policy.Workload) string {
	t.Helper()
	bound, err := snap.Resolve(w)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, p := range bound.MTLSPorts() {
		word := p.Mode.String()
		if p.Port != 0 {
			word = fmt.Sprintf("%d=%s", p.Port, p.Mode)
			if got := bound.MTLS(p.Port); got != p {
				t.Errorf("MTLS(%d) is %+v, listed as %+v", p.Port, got, p)
			}
		} else if got := bound.MTLS(9); got.Mode != p.Mode {
			t.Errorf("a port without a mode of its own is %v, want %v", got.Mode, p.Mode)
		}
		out = append(out, word)
	}
	return strings.Join(out, " ")
}

// TestPeerAuthentication is the table of authorization-policy §8.1, row by row, and what surrounds it.
func TestPeerAuthentication(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		docs []string
		want string
	}{
		{"nothing", nil, "PERMISSIVE"},
		{"mesh UNSET", []string{peer(root, "m", "", unset)}, "PERMISSIVE"},
		{"mesh without mtls", []string{peer(root, "m", "", "")}, "PERMISSIVE"},
		{"mesh STRICT; namespace without mtls", []string{peer(root, "m", "", strict), peer("foo", "n1", "", "")}, "STRICT"},
		{"mesh STRICT; namespace PERMISSIVE; workload UNSET with 80=DISABLE, 81=UNSET, 82=null",
			[]string{peer(root, "m", "", strict), peer("foo", "n1", "", permissive),
				peer("foo", "w", "", selectHTTPBin+", "+unset+", portLevelMtls: {80: {mode: DISABLE}, 81: {mode: UNSET}, 82: null}")},
			"PERMISSIVE 80=DISABLE 81=PERMISSIVE 82=PERMISSIVE"},
		{"mesh m1 STRICT (newer), m2 DISABLE (older)", []string{peer(root, "m1", second, strict), peer(root, "m2", first, disable)}, "DISABLE"},
		{"namespace n1 UNSET (older), n2 STRICT (newer): surprise 58", []string{peer("foo", "n1", first, unset), peer("foo", "n2", second, strict)}, "PERMISSIVE"},
		{"workload w1 UNSET (older), w2 STRICT with ports (newer)",
			[]string{peer("foo", "w1", first, selectHTTPBin+", "+unset), peer("foo", "w2", second, selectHTTPBin+", "+strict+", portLevelMtls: {80: {mode: DISABLE}}")}, "PERMISSIVE"},
		{"root namespace with selector STRICT: surprise 59", []string{peer(root, "m", "", selectHTTPBin+", "+strict)}, "PERMISSIVE"},

		{"workload over namespace over mesh", []string{peer(root, "m", "", disable), peer("foo", "n1", "", permissive), peer("foo", "w", "", selectHTTPBin+", "+strict)}, "STRICT"},
		{"narrower can be weaker", []string{peer(root, "m", "", strict), peer("foo", "w", "", selectHTTPBin+", "+disable)}, "DISABLE"},
		{"mesh STRICT, nothing narrower", []string{peer(root, "m", "", strict)}, "STRICT"},
		{"empty selector is no selector", []string{peer("foo", "n1", "", "selector: {}, "+strict)}, "STRICT"},
		{"selector of another workload", []string{peer("foo", "w", "", selectOther+", "+strict)}, "PERMISSIVE"},
		{"another namespace", []string{peer("bar", "n1", "", strict), peer("bar", "w", "", selectHTTPBin+", "+strict)}, "PERMISSIVE"},
		{"ties go by name", []string{peer("foo", "b", first, strict), peer("foo", "a", first, disable)}, "DISABLE"},
		{"without an age is oldest", []string{peer("foo", "a", first, disable), peer("foo", "b", "", strict)}, "STRICT"},
		{"ports only, the rest inherits", []string{peer(root, "m", "", permissive), peer("foo", "w", "", selectHTTPBin+", portLevelMtls: {8443: {mode: STRICT}, 80: {mode: DISABLE}}")},
			"PERMISSIVE 80=DISABLE 8443=STRICT"},
		{"ports UNSET take the merged mode", []string{peer("foo", "n1", "", disable), peer("foo", "w", "", selectHTTPBin+", "+strict+", portLevelMtls: {80: {}}")}, "STRICT 80=STRICT"},
		{"the enumeration by number, quoted ports, old version", []string{strings.Replace(
			peer("foo", "w", "", selectHTTPBin+`, mtls: {mode: 3}, port_level_mtls: {"80": {mode: 1}}`), "io/v1\n", "io/v1beta1\n", 1)}, "STRICT 80=DISABLE"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			for range 2 { // the order of documents is of no importance
				if got := modes(t, httpbin(), tc.docs...); got != tc.want {
					t.Errorf("got %s, want %s", got, tc.want)
				}
				tc.docs = slices.Clone(tc.docs)
				slices.Reverse(tc.docs)
			}
		})
	}
}

// TestPeerAuthenticationOfRootWorkloads: the root namespace has one level only, for its own workloads too.
func TestPeerAuthenticationOfRootWorkloads(t *testing.T) {
	t.Parallel()
	w := policy.Workload{Namespace: root, Labels: map[string]string{"app": "httpbin"}}
	if got := modes(t, w, peer(root, "m", "", permissive), peer(root, "w", "", selectHTTPBin+", "+strict)); got != "PERMISSIVE" {
		t.Errorf("got %s, want PERMISSIVE", got)
	}
	if got := modes(t, w, peer(root, "m", "", strict)); got != "STRICT" {
		t.Errorf("got %s, want STRICT", got)
	}
}

// TestPeerAuthenticationDoesNotGovern: gateways and waypoints. A Gateway of another namespace makes nobody a gateway,
// or who may write there could lift somebody else's STRICT.
func TestPeerAuthenticationDoesNotGovern(t *testing.T) {
	t.Parallel()
	gateway := func(namespace, selector string) string {
		return fmt.Sprintf("apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {namespace: %s, name: front}\n"+
			"spec: {%sservers: [{port: {number: 80, protocol: HTTP, name: http}, hosts: ['*']}]}\n", namespace, selector)
	}
	for _, tc := range []struct {
		name     string
		workload policy.Workload
		docs     []string
		want     string
	}{
		{"Kubernetes Gateway", policy.Workload{Namespace: "foo", Labels: map[string]string{gatewayNameLabel: "gw"}}, nil, "UNSET"},
		{"waypoint by label", policy.Workload{Namespace: "foo", Labels: map[string]string{managedLabel: waypointManager}}, nil, "UNSET"},
		{"waypoint by services", policy.Workload{Namespace: "foo", Services: []string{"Service foo/a"}}, nil, "UNSET"},
		{"selected by a Gateway of its namespace", httpbin(), []string{gateway("foo", "selector: {app: httpbin}, ")}, "UNSET"},
		{"selected by a Gateway of the root namespace", httpbin(), []string{gateway(root, "selector: {app: httpbin}, ")}, "UNSET"},
		{"selected by a Gateway of another namespace", httpbin(), []string{gateway("bar", "selector: {app: httpbin}, ")}, "STRICT"},
		{"not selected", httpbin(), []string{gateway("foo", "selector: {app: other}, ")}, "STRICT"},
		{"Gateway without selector", httpbin(), []string{gateway("foo", "")}, "STRICT"},
		{"labels unknown", policy.Workload{Namespace: "foo"}, []string{gateway("foo", "selector: {app: httpbin}, ")}, "STRICT"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			if got := modes(t, tc.workload, append(tc.docs, peer(root, "m", "", strict))...); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
}

// TestMTLSOfUnknownPort: a port that is not known may be any, and the strictest counts.
func TestMTLSOfUnknownPort(t *testing.T) {
	t.Parallel()
	for spec, want := range map[string]policy.Mode{
		strict: policy.ModeStrict,
		disable + ", portLevelMtls: {80: {mode: STRICT}}":     policy.ModeStrict,
		strict + ", portLevelMtls: {80: {mode: DISABLE}}":     policy.ModeStrict,
		disable + ", portLevelMtls: {80: {mode: PERMISSIVE}}": policy.ModePermissive,
	} {
		bound, err := policy.NewSnapshot(load(t, peer("foo", "w", "", selectHTTPBin+", "+spec)), policy.Mesh{}).Resolve(httpbin())
		if err != nil {
			t.Fatal(err)
		}
		if got := bound.MTLS(0).Mode; got != want {
			t.Errorf("%s: %v, want %v", spec, got, want)
		}
	}
	if got := new(policy.Bound).MTLS(80); got.Mode != policy.ModePermissive || got.By != "" {
		t.Errorf("a Bound of nothing has %+v", got)
	}
}

// TestMTLSSaysWho: the document a mode comes from is named, and so is the fix.
func TestMTLSSaysWho(t *testing.T) {
	bound, err := policy.NewSnapshot(load(t, peer(root, "m", "", strict),
		peer("foo", "w", "", selectHTTPBin+", portLevelMtls: {80: {mode: DISABLE}, 81: {}, 82: {mode: STRICT}}")), policy.Mesh{}).Resolve(httpbin())
	if err != nil {
		t.Fatal(err)
	}
	for port, by := range map[uint16]string{79: "istio-system/m", 80: "foo/w", 81: "istio-system/m", 82: "foo/w"} {
		got := bound.MTLS(port)
		if got.By != by || got.Broken {
			t.Errorf("port %d: %+v, want by %s", port, got, by)
		}
		if refusal := got.Refusal(); (got.Mode == policy.ModeStrict) != strings.Contains(refusal, by) {
			t.Errorf("port %d: refusal %q", port, refusal)
		}
	}
	if n := testing.AllocsPerRun(100, func() { _ = bound.MTLS(82).Refusal() }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestHasIdentity: only a SPIFFE ID is an identity of a mesh.
func TestHasIdentity(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		names []string
		want  bool
	}{
		{nil, false},
		{[]string{"spiffe://td/ns/a/sa/b"}, true},
		{[]string{"client.example.com", "spiffe://td/ns/a/sa/b"}, true},
		{[]string{"client.example.com", "CN=client"}, false},
		{[]string{"https://td/spiffe://"}, false},
		{[]string{""}, false},
	} {
		if got := request(named(tc.names...)).HasIdentity(); got != tc.want {
			t.Errorf("%q: %v, want %v", tc.names, got, tc.want)
		}
	}
}

// TestPeerAuthenticationNeedsLabels: labels that nobody knows matter only where they decide whether somebody is refused.
func TestPeerAuthenticationNeedsLabels(t *testing.T) {
	t.Parallel()
	entry := func(name, label string) string {
		return fmt.Sprintf("apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {namespace: foo, name: %s}\n"+
			"spec: {address: 10.0.0.9, serviceAccount: web, labels: {app: %s}}\n", name, label)
	}
	for _, tc := range []struct {
		name string
		docs []string
		want error
	}{
		{"STRICT by selector", []string{peer("foo", "w", "", selectHTTPBin+", "+strict)}, policy.ErrUnknownLabels},
		{"weaker than STRICT by selector", []string{peer(root, "m", "", strict), peer("foo", "w", "", selectHTTPBin+", "+permissive)}, policy.ErrUnknownLabels},
		{"STRICT of a port by selector", []string{peer("foo", "w", "", selectHTTPBin+", portLevelMtls: {80: {mode: STRICT}}")}, policy.ErrUnknownLabels},
		{"by selector, nothing STRICT", []string{peer("foo", "w", "", selectHTTPBin+", "+disable)}, nil},
		{"root namespace with selector", []string{peer(root, "w", "", selectHTTPBin+", "+strict)}, nil},
		{"another namespace", []string{peer("bar", "w", "", selectHTTPBin+", "+strict)}, nil},
		{"no selector", []string{peer("foo", "n1", "", strict)}, nil},
		{"registered, one selected", []string{peer("foo", "w", "", selectHTTPBin+", "+strict), entry("a", "httpbin"), entry("b", "other")}, policy.ErrAmbiguous},
		{"registered, both alike", []string{peer("foo", "w", "", selectHTTPBin+", "+strict), entry("a", "httpbin"), entry("b", "httpbin")}, nil},
		{"registered, differing in nothing that refuses", []string{peer("foo", "w", "", selectHTTPBin+", "+disable), entry("a", "httpbin"), entry("b", "other")}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			_, err := policy.NewSnapshot(load(t, tc.docs...), policy.Mesh{}).Resolve(policy.Workload{Namespace: "foo", ServiceAccount: "web"})
			if !errors.Is(err, tc.want) {
				t.Errorf("error %v, want %v", err, tc.want)
			}
		})
	}
}

// TestBrokenPeerAuthentication: a document with errors that was never valid may have been STRICT, and counts as that; the
// last good version stays if there was one.
func TestBrokenPeerAuthentication(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		docs []string
		want string
	}{
		{"unknown mode, namespace", []string{peer("foo", "n1", "", "mtls: {mode: STRCT}")}, "STRICT"},
		{"unknown mode, mesh", []string{peer(root, "m", "", "mtls: {mode: strict}")}, "STRICT"},
		{"unknown mode, mesh; namespace PERMISSIVE", []string{peer(root, "m", "", "mtls: {mode: x1}"), peer("foo", "n1", "", permissive)}, "PERMISSIVE"},
		{"unknown mode of a port", []string{peer("foo", "w", "", selectHTTPBin+", portLevelMtls: {80: {mode: DISABLED}}")}, "STRICT"},
		{"unknown mode, other workload", []string{peer("foo", "w", "", selectOther+", mtls: {mode: x1}")}, "PERMISSIVE"},
		{"unknown mode, root namespace with selector", []string{peer(root, "w", "", selectHTTPBin+", mtls: {mode: x1}")}, "PERMISSIVE"},
		{"unknown mode, another namespace", []string{peer("bar", "n1", "", "mtls: {mode: x1}")}, "PERMISSIVE"},
		{"the older one is whole", []string{peer("foo", "a", first, permissive), peer("foo", "b", second, "mtls: {mode: x1}")}, "PERMISSIVE"},
		{"unknown field in place of mtls", []string{peer("foo", "n1", "", "mlts: {mode: STRICT}"), peer("foo", "w", "", selectHTTPBin+", "+disable)}, "STRICT"},
		{"selector that cannot be read", []string{peer("foo", "w", "", "selector: {matchLabels: {app: 7}}, "+disable)}, "STRICT"},
		{"selector that cannot be read, mesh", []string{peer(root, "m", "", "selector: 7, "+disable)}, "STRICT"},
		{"selector that cannot be read, mesh; namespace PERMISSIVE", []string{peer(root, "m", "", "selector: 7"), peer("foo", "n1", "", permissive)}, "PERMISSIVE"},
		{"ports without selector: invalid", []string{peer("foo", "n1", "", disable+", portLevelMtls: {80: {mode: DISABLE}}")}, "STRICT"},
		{"namespace that cannot be read", []string{peer("Foo_", "n1", "", permissive), peer("foo", "w", "", selectHTTPBin+", "+disable)}, "STRICT"},
		{"defined twice", []string{peer("foo", "n1", "", permissive), peer("foo", "n1", "", permissive)}, "STRICT"},
		{"does not parse", []string{"apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata:\n  namespace: foo\n  name: n1\nspec: {mtls: {mode: STRICT\n"}, "STRICT"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			docs := policy.Decode("t.yaml", []byte(strings.Join(tc.docs, "---\n")))
			if !slices.ContainsFunc(docs, (*policy.Document).Broken) && tc.name != "defined twice" {
				t.Fatalf("nothing is broken:\n%s", describeDocuments(docs))
			}
			if got := modesOf(t, policy.NewSnapshot(docs, policy.Mesh{}), httpbin()); got != tc.want {
				t.Errorf("got %s, want %s\n%s", got, tc.want, describeDocuments(docs))
			}
		})
	}
	t.Run("last good version", func(t *testing.T) {
		t.Parallel()
		store := policy.NewStore(policy.Mesh{})
		store.Update(load(t, peer("foo", "n1", "", disable)))
		snap := store.Update(policy.Decode("test.yaml", []byte(peer("foo", "n1", "", "mtls: {mode: x1}"))))
		if got := modesOf(t, snap, httpbin()); got != "DISABLE" {
			t.Errorf("got %s, want DISABLE", got)
		}
	})
}

// TestPeerAuthenticationWarms: the modes of a new snapshot are those of its documents, for workloads known from the last one.
func TestPeerAuthenticationWarms(t *testing.T) {
	t.Parallel()
	store := policy.NewStore(policy.Mesh{})
	key := []byte("httpbin")
	if _, err := store.Update(nil).Bind(key, httpbin()); err != nil {
		t.Fatal(err)
	}
	bound := store.Update(load(t, peer("foo", "n1", "", strict))).Cached(key)
	if bound == nil || bound.MTLS(80).Mode != policy.ModeStrict {
		t.Errorf("got %+v, want a bound workload with STRICT", bound)
	}
	if a, b := store.Update(nil).Hash(), store.Update(load(t, peer("foo", "n1", "", strict))).Hash(); a == b {
		t.Error("a PeerAuthentication does not change the snapshot's hash")
	}
}

// TestExplainMTLS: the trace says which mode the port has, and who says so.
func TestExplainMTLS(t *testing.T) {
	t.Parallel()
	snap := policy.NewSnapshot(load(t, peer("foo", "n1", "", strict)), policy.Mesh{})
	trace := snap.Explain(httpbin(), request())
	if m := trace.MTLS; m == nil || m.Mode != policy.ModeStrict || m.By != "foo/n1" || !m.Refused {
		t.Errorf("plaintext: %+v", m)
	}
	if m := snap.Explain(httpbin(), request(named("spiffe://td/ns/a/sa/b"))).MTLS; m == nil || m.Refused {
		t.Errorf("mTLS: %+v", m)
	}
	if m := policy.NewSnapshot(nil, policy.Mesh{}).Explain(httpbin(), request()).MTLS; m != nil {
		t.Errorf("no document: %+v", m)
	}
}
