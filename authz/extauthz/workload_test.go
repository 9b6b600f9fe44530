package extauthz_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/metadata"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/authz/extauthz"
	"github.com/writ-auth/writ/policy"
)

// shop is a namespace in which every workload but app=open denies everything, and app=open allows GET only.
const shop = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: get-only, namespace: shop}
spec:
  selector: {matchLabels: {app: open}}
  rules: [{to: [{operation: {methods: [GET]}}]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-admin, namespace: shop}
spec:
  action: DENY
  rules: [{to: [{operation: {paths: [/admin]}}]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: trial, namespace: shop, annotations: {istio.io/dry-run: "true"}}
spec:
  action: DENY
  rules: [{to: [{operation: {methods: [POST]}}]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: look, namespace: shop}
spec:
  action: AUDIT
  rules: [{}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: closed, namespace: quiet}
spec: {}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: vm-1, namespace: shop}
spec: {address: 10.0.0.1, serviceAccount: vm, labels: {app: open}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: twin-1, namespace: shop}
spec: {address: 10.0.0.2, serviceAccount: twin, labels: {app: open}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: twin-2, namespace: shop}
spec: {address: 10.0.0.3, serviceAccount: twin, labels: {app: other}}
`

// storeOf compiles documents.
func storeOf(t testing.TB, documents string) *policy.Store {
	t.Helper()
	store := policy.NewStore(policy.Mesh{})
	if snapshot := store.Update(policy.Decode("test.yaml", []byte(documents))); snapshot.Broken() > 0 {
		t.Fatal(snapshot.Problems())
	}
	return store
}

func newServer(t testing.TB, cfg extauthz.Config) *extauthz.Server {
	t.Helper()
	cfg.Engine = &authz.Engine{}
	server, err := extauthz.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return server
}

func TestWorkload(t *testing.T) {
	const fromShop = `"destination":{"principal":"spiffe://cluster.local/ns/shop/sa/vm"},`
	tests := []struct {
		name       string
		attributes string      // JSON, with a trailing comma
		initial    metadata.MD // of the gRPC call
		reason     authz.Reason
		labels     map[string]string
		detail     string
	}{{
		name:       "context_extensions",
		attributes: `"contextExtensions":{"writ.namespace":"shop","writ.labels":"app=open,version=v1"},`,
		reason:     authz.ReasonAllowed, labels: map[string]string{"app": "open", "version": "v1"},
	}, {
		name:       "context_extensions win over everything",
		attributes: `"contextExtensions":{"writ.namespace":"shop","writ.labels":"app=other"},` + fromShop,
		initial:    metadata.Pairs("writ-namespace", "quiet", "writ-labels", "app=open"),
		reason:     authz.ReasonNoAllowPolicy, labels: map[string]string{"app": "other"},
	}, {
		name:       "labels known to be none",
		attributes: `"contextExtensions":{"writ.namespace":"shop","writ.labels":""},`,
		reason:     authz.ReasonNoAllowPolicy, labels: map[string]string{},
	}, {
		name:       "labels not named, and needed",
		attributes: `"contextExtensions":{"writ.namespace":"shop"},`,
		reason:     authz.ReasonUnknownLabels, detail: "writ.labels",
	}, {
		name:       "labels of another source do not fill in",
		attributes: `"contextExtensions":{"writ.namespace":"shop"},"destination":{"principal":"spiffe://td/ns/shop/sa/x","labels":{"app":"open"}},`,
		initial:    metadata.Pairs("writ-namespace", "shop", "writ-labels", "app=open"),
		reason:     authz.ReasonUnknownLabels, detail: "writ.labels",
	}, {
		name:       "labels not named and not needed",
		attributes: `"contextExtensions":{"writ.namespace":"quiet"},`,
		reason:     authz.ReasonNoAllowMatch,
	}, {
		name:       "a namespace without policies",
		attributes: `"contextExtensions":{"writ.namespace":"nowhere"},`,
		reason:     authz.ReasonNoAllowPolicy,
	}, {
		name:       "labels from a WorkloadEntry of the service account",
		attributes: `"contextExtensions":{"writ.namespace":"shop","writ.service_account":"vm"},`,
		reason:     authz.ReasonAllowed, labels: map[string]string{"app": "open"},
	}, {
		name:       "registered workloads that disagree",
		attributes: `"contextExtensions":{"writ.namespace":"shop","writ.service_account":"twin"},`,
		reason:     authz.ReasonAmbiguousWorkload, detail: "writ.labels",
	}, {
		name:       "registered workloads that disagree, one named",
		attributes: `"contextExtensions":{"writ.namespace":"shop","writ.service_account":"twin","writ.name":"twin-1"},`,
		reason:     authz.ReasonAllowed, labels: map[string]string{"app": "open"},
	}, {
		name:       "malformed labels",
		attributes: `"contextExtensions":{"writ.namespace":"shop","writ.labels":"app"},`,
		reason:     authz.ReasonUnknownLabels, detail: `"app" is not k=v`,
	}, {
		name:       "malformed namespace",
		attributes: `"contextExtensions":{"writ.namespace":"Shop"},`,
		reason:     authz.ReasonUnknownWorkload, detail: `"Shop"`,
	}, {
		name:       "a namespace named as nothing does not fall through",
		attributes: `"contextExtensions":{"writ.namespace":""},` + fromShop,
		reason:     authz.ReasonUnknownWorkload, detail: `namespace ""`,
	}, {
		name:       "malformed service",
		attributes: `"contextExtensions":{"writ.namespace":"shop","writ.labels":"","writ.service":"reviews"},`,
		reason:     authz.ReasonUnknownWorkload, detail: "NAMESPACE/NAME",
	}, {
		name:    "initial_metadata",
		initial: metadata.Pairs("writ-namespace", "shop", "writ-labels", "app=open"),
		reason:  authz.ReasonAllowed, labels: map[string]string{"app": "open"},
	}, {
		name:       "initial_metadata wins over the certificate",
		attributes: fromShop,
		initial:    metadata.Pairs("writ-namespace", "quiet"),
		reason:     authz.ReasonNoAllowMatch,
	}, {
		name:       "initial_metadata without namespace does not count",
		attributes: fromShop,
		initial:    metadata.Pairs("writ-labels", "app=other"),
		reason:     authz.ReasonAllowed, labels: map[string]string{"app": "open"},
	}, {
		name:    "initial_metadata twice",
		initial: metadata.Pairs("writ-namespace", "shop", "writ-namespace", "quiet"),
		reason:  authz.ReasonUnknownWorkload, detail: "writ-namespace is set 2 times",
	}, {
		name:       "destination.principal, labels registered",
		attributes: fromShop,
		reason:     authz.ReasonAllowed, labels: map[string]string{"app": "open"},
	}, {
		name:       "destination.principal and destination.labels",
		attributes: `"destination":{"principal":"spiffe://td/ns/shop/sa/x","labels":{"app":"open","z":"1"}},`,
		reason:     authz.ReasonAllowed, labels: map[string]string{"app": "open", "z": "1"},
	}, {
		name:       "destination.principal alone, labels needed",
		attributes: `"destination":{"principal":"spiffe://td/ns/shop/sa/unregistered"},`,
		reason:     authz.ReasonUnknownLabels, detail: "WorkloadEntry",
	}, {
		name:       "destination.principal of another form",
		attributes: `"destination":{"principal":"spiffe://td/ns/shop/sa/x/extra"},`,
		reason:     authz.ReasonUnknownWorkload, detail: `"spiffe://td/ns/shop/sa/x/extra"`,
	}, {
		name:   "nothing names it",
		reason: authz.ReasonUnknownWorkload, detail: "context_extensions writ.namespace",
	}}
	server := newServer(t, extauthz.Config{Snapshot: storeOf(t, shop).Load})
	for _, c := range tests {
		t.Run(c.name, func(t *testing.T) {
			raw := fromJSON(t, `{"attributes":{`+c.attributes+`"request":{"http":{"method":"GET","path":"/"}}}}`)
			ctx := t.Context()
			if c.initial != nil {
				ctx = metadata.NewIncomingContext(ctx, c.initial)
			}
			for range 2 { // once to bind, once from the cache
				d := server.Decide(ctx, raw, nil)
				if d.Reason != c.reason || !strings.Contains(d.Detail, c.detail) {
					t.Fatalf("got %s: %s; want %s: %s", d.Reason, d.Detail, c.reason, c.detail)
				}
				if c.labels != nil && !maps.Equal(d.Workload.Workload.Labels, c.labels) {
					t.Errorf("labels: got %v, want %v", d.Workload.Workload.Labels, c.labels)
				}
			}
		})
	}
}

// The same words from two sources, or cut at different places, are different workloads.
func TestWorkloadKeysDoNotCollide(t *testing.T) {
	server := newServer(t, extauthz.Config{Snapshot: storeOf(t, shop).Load})
	ask := func(extensions string) string {
		raw := fromJSON(t, `{"attributes":{"contextExtensions":{`+extensions+`},"request":{"http":{"method":"GET","path":"/"}}}}`)
		d := server.Decide(t.Context(), raw, nil)
		return string(d.Reason)
	}
	for extensions, want := range map[string]authz.Reason{
		// what stands behind a waypoint is not governed by selectors
		`"writ.namespace":"shop","writ.labels":"app=open"`:                               authz.ReasonAllowed,
		`"writ.namespace":"shop","writ.service_account":"app=open"`:                      authz.ReasonUnknownLabels,
		`"writ.namespace":"shop","writ.name":"app=open"`:                                 authz.ReasonUnknownLabels,
		`"writ.namespace":"shop","writ.labels":""`:                                       authz.ReasonNoAllowPolicy,
		`"writ.namespace":"shop"`:                                                        authz.ReasonUnknownLabels,
		`"writ.namespace":"shop","writ.labels":"","writ.service_account":"vm"`:           authz.ReasonNoAllowPolicy,
		`"writ.namespace":"shop","writ.service_account":"vm"`:                            authz.ReasonAllowed,
		`"writ.namespace":"shop","writ.service_account":"twin","writ.name":"twin-1"`:     authz.ReasonAllowed,
		`"writ.namespace":"shop","writ.service_account":"twin","writ.name":"twin-2"`:     authz.ReasonNoAllowPolicy,
		`"writ.namespace":"shop","writ.service_account":"twin","writ.service":"a/twin2"`: authz.ReasonNoAllowPolicy,
	} {
		if got := ask(extensions); got != string(want) {
			t.Errorf("%s: got %s, want %s", extensions, got, want)
		}
	}
}

func TestWorkloadGivenByTheCaller(t *testing.T) {
	server := newServer(t, extauthz.Config{Snapshot: storeOf(t, shop).Load})
	raw := fromJSON(t, `{"attributes":{"contextExtensions":{"writ.namespace":"quiet"},"request":{"http":{"method":"GET","path":"/"}}}}`)
	for _, c := range []struct {
		workload policy.Workload
		want     authz.Reason
	}{
		{policy.Workload{Namespace: "shop", Labels: map[string]string{"app": "open"}}, authz.ReasonAllowed},
		{policy.Workload{Namespace: "shop", Labels: map[string]string{"app": "x"}}, authz.ReasonNoAllowPolicy},
		{policy.Workload{Namespace: "shop", Labels: map[string]string{}}, authz.ReasonNoAllowPolicy},
		{policy.Workload{Namespace: "shop"}, authz.ReasonUnknownLabels},
		{policy.Workload{Namespace: "quiet"}, authz.ReasonNoAllowMatch},
		{policy.Workload{}, authz.ReasonUnknownWorkload},
	} {
		for range 2 {
			if d := server.Decide(t.Context(), raw, &c.workload); d.Reason != c.want {
				t.Errorf("%+v: got %s, want %s", c.workload, d.Reason, c.want)
			}
		}
	}
}

func TestParseLabels(t *testing.T) {
	for text, want := range map[string]map[string]string{
		"":                     {},
		" ":                    {},
		"app=a":                {"app": "a"},
		"app=a,version=v1.2_3": {"app": "a", "version": "v1.2_3"},
		"app=a, version=v1":    {"app": "a", "version": "v1"},
		"app=":                 {"app": ""},
		"gateway.networking.k8s.io/gateway-name=g": {"gateway.networking.k8s.io/gateway-name": "g"},
		"app=a,app=a":     {"app": "a"},
		"app":             nil,
		"=a":              nil,
		"app=a,":          nil,
		",app=a":          nil,
		"app=a;version=b": nil,
		"app=a=b":         nil,
		"app=a b":         nil,
		"app=a,app=b":     nil,
		"app=\"a\"":       nil,
		"{app: a}":        nil,
	} {
		got, err := extauthz.ParseLabels(text)
		if want == nil {
			if err == nil {
				t.Errorf("%q: got %v, want an error", text, got)
			}
			continue
		}
		if err != nil || got == nil || !maps.Equal(got, want) {
			t.Errorf("%q: got %v, %v, want %v", text, got, err, want)
		}
	}
}

func TestParseServices(t *testing.T) {
	for text, want := range map[string][]string{
		"":                                  {},
		"shop/reviews":                      {"Service shop/reviews"},
		"shop/a, shop/b":                    {"Service shop/a", "Service shop/b"},
		"ServiceEntry shop/ext,Service a/b": {"ServiceEntry shop/ext", "Service a/b"},
		"reviews":                           nil,
		"shop/":                             nil,
		"/reviews":                          nil,
		"shop/a/b":                          nil,
		"Gateway shop/a":                    nil,
		"shop/a,":                           nil,
	} {
		got, err := extauthz.ParseServices(text)
		if (err != nil) != (want == nil) || !slices.Equal(got, want) && want != nil {
			t.Errorf("%q: got %q, %v, want %q", text, got, err, want)
		}
	}
}

func TestParsePrincipal(t *testing.T) {
	for id, want := range map[string][2]string{
		"spiffe://cluster.local/ns/shop/sa/web": {"shop", "web"},
		"spiffe://td/ns/a/sa/b.c":               {"a", "b.c"},
		"":                                      {},
		"cluster.local/ns/shop/sa/web":          {},
		"SPIFFE://cluster.local/ns/shop/sa/web": {},
		"spiffe:///ns/shop/sa/web":              {},
		"spiffe://td/ns/shop/sa/web/v/1":        {},
		"spiffe://td/ns/shop/sa/web/":           {},
		"spiffe://td/ns/shop/sa/":               {},
		"spiffe://td/ns//sa/web":                {},
		"spiffe://td/ns/shop":                   {},
		"spiffe://td/vm/ns/shop/sa/web":         {},
		"spiffe://td/sa/web/ns/shop":            {},
		"spiffe://td/ns/Shop/sa/web":            {},
		"web.example":                           {},
	} {
		namespace, account, ok := extauthz.ParsePrincipal(id)
		if ok != (want[0] != "") || ok && (namespace != want[0] || account != want[1]) {
			t.Errorf("%q: got %q, %q, %v", id, namespace, account, ok)
		}
	}
}
