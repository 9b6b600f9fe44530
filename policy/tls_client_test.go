package policy_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/writ-auth/writ/policy"
)

// rule is a DestinationRule; created is its creationTimestamp, or "".
func rule(namespace, name, created, spec string) string {
	meta := fmt.Sprintf("namespace: %s, name: %s", namespace, name)
	if created != "" {
		meta += ", creationTimestamp: " + created
	}
	return fmt.Sprintf("apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {%s}\nspec: {%s}\n", meta, spec)
}

const (
	reviews = "reviews.shop.svc.cluster.local"
	simple  = ", trafficPolicy: {tls: {mode: SIMPLE}}"
	istio   = ", trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}"
	mutual  = ", trafficPolicy: {tls: {mode: MUTUAL, clientCertificate: c, privateKey: k}}"
	off     = ", trafficPolicy: {tls: {mode: DISABLE}}"
)

// TestClientTLS: which DestinationRule decides for a client in namespace foo that calls reviews.shop on port 80, and what
// it says (authorization-policy §8.3).
func TestClientTLS(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name    string
		docs    []string
		to      policy.Destination // zero: reviews, port 80
		want    string             // MODE, then by whom
		ignored []string
	}{
		{"nothing: automatic", nil, policy.Destination{}, "AUTOMATIC", nil},
		{"DISABLE", []string{rule("shop", "r", "", "host: "+reviews+off)}, policy.Destination{}, "DISABLE DestinationRule shop/r", nil},
		{"SIMPLE", []string{rule("shop", "r", "", "host: "+reviews+simple)}, policy.Destination{}, "SIMPLE DestinationRule shop/r", nil},
		{"MUTUAL", []string{rule("shop", "r", "", "host: "+reviews+mutual)}, policy.Destination{}, "MUTUAL DestinationRule shop/r", nil},
		{"ISTIO_MUTUAL", []string{rule("shop", "r", "", "host: "+reviews+istio)}, policy.Destination{}, "ISTIO_MUTUAL DestinationRule shop/r", nil},
		{"tls without a mode is DISABLE", []string{rule("shop", "r", "", "host: "+reviews+", trafficPolicy: {tls: {}}")}, policy.Destination{}, "DISABLE DestinationRule shop/r", nil},
		{"no tls: automatic", []string{rule("shop", "r", "", "host: "+reviews+", trafficPolicy: {connectionPool: {tcp: {maxConnections: 1}}}")},
			policy.Destination{}, "AUTOMATIC DestinationRule shop/r", nil},

		{"automatic, namespace DISABLE", []string{peer("shop", "p", "", disable)}, policy.Destination{}, "DISABLE PeerAuthentication shop/p", nil},
		{"automatic, mesh DISABLE", []string{peer(root, "p", "", disable)}, policy.Destination{}, "DISABLE PeerAuthentication istio-system/p", nil},
		{"automatic, mesh DISABLE, namespace not", []string{peer(root, "p", "", disable), peer("shop", "p", "", permissive)}, policy.Destination{}, "AUTOMATIC", nil},
		{"automatic, workload and port level are not looked at", []string{
			peer("shop", "p", "", "selector: {matchLabels: {app: reviews}}, "+disable+", portLevelMtls: {80: {mode: DISABLE}}")}, policy.Destination{}, "AUTOMATIC", nil},
		{"automatic, the client's namespace is not looked at", []string{peer("foo", "p", "", disable)}, policy.Destination{}, "AUTOMATIC", nil},
		{"a rule beats DISABLE", []string{peer("shop", "p", "", disable), rule("shop", "r", "", "host: "+reviews+istio)}, policy.Destination{}, "ISTIO_MUTUAL DestinationRule shop/r", nil},

		{"client's namespace before the service's", []string{rule("shop", "r", "", "host: "+reviews+simple), rule("foo", "r", "", "host: "+reviews+istio)},
			policy.Destination{}, "ISTIO_MUTUAL DestinationRule foo/r", nil},
		{"the service's before root", []string{rule(root, "r", "", "host: "+reviews+simple), rule("shop", "r", "", "host: "+reviews+istio)},
			policy.Destination{}, "ISTIO_MUTUAL DestinationRule shop/r", nil},
		{"root last", []string{rule(root, "r", "", "host: \"*.local\""+simple)}, policy.Destination{}, "SIMPLE DestinationRule istio-system/r", nil},
		{"a wildcard of a nearer namespace beats the very host of a farther one",
			[]string{rule("shop", "r", "", "host: "+reviews+simple), rule("foo", "r", "", `host: "*"`+istio)}, policy.Destination{}, "ISTIO_MUTUAL DestinationRule foo/r", nil},
		{"a third namespace is not looked at", []string{rule("bar", "r", "", "host: "+reviews+simple)}, policy.Destination{}, "AUTOMATIC", nil},

		{"exact before wildcard", []string{rule("foo", "a", first, `host: "*.shop.svc.cluster.local"`+simple), rule("foo", "b", second, "host: "+reviews+istio)},
			policy.Destination{}, "ISTIO_MUTUAL DestinationRule foo/b", nil},
		{"the longest wildcard", []string{rule("foo", "a", first, `host: "*.local"`+simple), rule("foo", "b", second, `host: "*.shop.svc.cluster.local"`+istio)},
			policy.Destination{}, "ISTIO_MUTUAL DestinationRule foo/b", nil},
		{"star alone", []string{rule("foo", "a", "", `host: "*"`+simple)}, policy.Destination{}, "SIMPLE DestinationRule foo/a", nil},
		{"another host", []string{rule("foo", "a", "", "host: ratings.shop.svc.cluster.local"+simple), rule("foo", "b", "", `host: "*.example.com"`+simple)},
			policy.Destination{}, "AUTOMATIC", nil},
		{"a short host is of the rule's namespace", []string{rule("foo", "a", "", "host: reviews"+simple), rule("shop", "a", "", "host: reviews"+istio)},
			policy.Destination{}, "ISTIO_MUTUAL DestinationRule shop/a", nil},
		{"an outside host, its namespace not known", []string{rule("shop", "a", "", "host: api.example.com"+simple)},
			policy.Destination{Host: "api.example.com", Port: 443}, "AUTOMATIC", nil},
		{"an outside host, its namespace given", []string{rule("shop", "a", "", "host: api.example.com"+simple)},
			policy.Destination{Host: "api.example.com", Namespace: "shop", Port: 443}, "SIMPLE DestinationRule shop/a", nil},

		{"two for one host: the oldest", []string{rule("foo", "a", second, "host: "+reviews+simple), rule("foo", "b", first, "host: "+reviews+istio)},
			policy.Destination{}, "ISTIO_MUTUAL DestinationRule foo/b", []string{"DestinationRule foo/a"}},
		{"two for one host: the oldest with a trafficPolicy", []string{rule("foo", "a", first, "host: "+reviews), rule("foo", "b", second, "host: "+reviews+istio)},
			policy.Destination{}, "ISTIO_MUTUAL DestinationRule foo/b", nil},
		{"two for one host: the oldest trafficPolicy, with TLS or without", []string{
			rule("foo", "a", first, "host: "+reviews+", trafficPolicy: {connectionPool: {tcp: {maxConnections: 1}}}"), rule("foo", "b", second, "host: "+reviews+istio)},
			policy.Destination{}, "AUTOMATIC DestinationRule foo/a", []string{"DestinationRule foo/b"}},
		{"workloadSelector before none", []string{rule("foo", "a", first, "host: "+reviews+simple), rule("foo", "b", second, "host: "+reviews+istio+", workloadSelector: {matchLabels: {app: httpbin}}")},
			policy.Destination{}, "ISTIO_MUTUAL DestinationRule foo/b", nil},
		{"workloadSelector of another client", []string{rule("foo", "a", first, "host: "+reviews+simple), rule("foo", "b", second, "host: "+reviews+istio+", workloadSelector: {matchLabels: {app: other}}")},
			policy.Destination{}, "SIMPLE DestinationRule foo/a", nil},
		{"only for other clients: automatic, and no other namespace is asked", []string{rule("shop", "a", first, "host: "+reviews+simple),
			rule("foo", "b", second, "host: "+reviews+istio+", workloadSelector: {matchLabels: {app: other}}")}, policy.Destination{}, "AUTOMATIC", nil},
		{"workloadSelector in the service's namespace is for clients there", []string{rule("shop", "a", first, "host: "+reviews+simple+", workloadSelector: {matchLabels: {app: httpbin}}")},
			policy.Destination{}, "AUTOMATIC", nil},

		{"exportTo this namespace only", []string{rule("shop", "a", "", "host: "+reviews+simple+`, exportTo: ["."]`)}, policy.Destination{}, "AUTOMATIC", nil},
		{"exportTo everybody", []string{rule("shop", "a", "", "host: "+reviews+simple+`, exportTo: ["*"]`)}, policy.Destination{}, "SIMPLE DestinationRule shop/a", nil},
		{"exportTo the client", []string{rule("shop", "a", "", "host: "+reviews+simple+`, exportTo: [foo, bar]`)}, policy.Destination{}, "SIMPLE DestinationRule shop/a", nil},
		{"exportTo others: hides a wildcard of its namespace", []string{rule("shop", "a", "", "host: "+reviews+simple+`, exportTo: [bar, zoo]`), rule("shop", "b", "", `host: "*"`+istio)},
			policy.Destination{}, "AUTOMATIC", nil},
		{"exportTo others is not for its own namespace", []string{rule("foo", "a", "", "host: "+reviews+simple+`, exportTo: [bar]`)}, policy.Destination{}, "AUTOMATIC", nil},

		{"port with settings", []string{rule("foo", "a", "", "host: "+reviews+", trafficPolicy: {tls: {mode: SIMPLE}, portLevelSettings: [{port: {number: 80}, tls: {mode: ISTIO_MUTUAL}}]}")},
			policy.Destination{}, "ISTIO_MUTUAL DestinationRule foo/a", nil},
		{"another port with settings", []string{rule("foo", "a", "", "host: "+reviews+", trafficPolicy: {tls: {mode: SIMPLE}, portLevelSettings: [{port: {number: 81}, tls: {mode: ISTIO_MUTUAL}}]}")},
			policy.Destination{}, "SIMPLE DestinationRule foo/a", nil},
		{"port with settings and no tls: automatic, not the destination's", []string{
			rule("foo", "a", "", "host: "+reviews+", trafficPolicy: {tls: {mode: SIMPLE}, portLevelSettings: [{port: {number: 80}, connectionPool: {tcp: {maxConnections: 1}}}]}")},
			policy.Destination{}, "AUTOMATIC DestinationRule foo/a", nil},
		{"subsets are named, not used", []string{rule("foo", "a", "", "host: "+reviews+simple+", subsets: [{name: v1, labels: {v: '1'}}, {name: v2, labels: {v: '2'}"+off+"}]")},
			policy.Destination{}, "SIMPLE DestinationRule foo/a", []string{"subset v2 of DestinationRule foo/a"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			to := tc.to
			if to.Host == "" {
				to = policy.Destination{Host: reviews, Port: 80}
			}
			for range 2 { // the order of documents is of no importance
				got, err := policy.NewSnapshot(load(t, tc.docs...), policy.Mesh{}).ClientTLS(httpbin(), to)
				if err != nil {
					t.Fatal(err)
				}
				if word := strings.TrimSpace(got.Mode.String() + " " + got.By); word != tc.want || !slices.Equal(got.Ignored, tc.ignored) {
					t.Errorf("got %s, ignored %q; want %s, %q", word, got.Ignored, tc.want, tc.ignored)
				}
				if (got.Settings != nil) != (strings.Contains(tc.want, "DestinationRule") && !strings.HasPrefix(tc.want, "AUTOMATIC")) {
					t.Errorf("settings %v", got.Settings)
				}
				tc.docs = slices.Clone(tc.docs)
				slices.Reverse(tc.docs)
			}
		})
	}
}

// TestClientTLSOfRoot: clients in the root namespace see what is private to it first, what it tells the mesh last.
func TestClientTLSOfRoot(t *testing.T) {
	t.Parallel()
	catchAll, private := rule(root, "all", "", `host: "*"`+simple), rule(root, "own", "", `host: "*", exportTo: ["."]`+mutual)
	service := rule("shop", "r", "", "host: "+reviews+istio)
	for want, docs := range map[string][]string{
		"SIMPLE": {catchAll}, "ISTIO_MUTUAL": {catchAll, service}, "MUTUAL": {catchAll, service, private},
	} {
		got, err := policy.NewSnapshot(load(t, docs...), policy.Mesh{}).ClientTLS(policy.Workload{Namespace: root}, policy.Destination{Host: reviews})
		if err != nil || got.Mode.String() != want {
			t.Errorf("got %v by %s, error %v, want %s", got.Mode, got.By, err, want)
		}
	}
}

// TestClientTLSBroken: a broken document does not turn into plaintext, nor into anything else.
func TestClientTLSBroken(t *testing.T) {
	t.Parallel()
	bad := ", trafficPolicy: {tls: {mode: SIMPEL}}"
	for _, tc := range []struct {
		name string
		docs []string
		fail bool
	}{
		{"of this host", []string{rule("shop", "r", "", "host: "+reviews+bad)}, true},
		{"of another host", []string{rule("shop", "r", "", "host: ratings"+bad)}, false},
		{"of a less specific host", []string{rule("foo", "r", "", `host: "*"`+bad), rule("foo", "s", "", "host: "+reviews+istio)}, false},
		{"younger than a whole one", []string{rule("foo", "a", first, "host: "+reviews+istio), rule("foo", "b", second, "host: "+reviews+bad)}, false},
		{"older than a whole one", []string{rule("foo", "b", second, "host: "+reviews+istio), rule("foo", "a", first, "host: "+reviews+bad)}, true},
		{"of a host that cannot be read", []string{rule("foo", "r", "", "hots: "+reviews+simple)}, true},
		{"of a host that cannot be read, farther away", []string{rule("foo", "s", "", "host: "+reviews+istio), rule("shop", "r", "", "host: []"+simple)}, false},
		{"of a host that cannot be read, elsewhere", []string{rule("bar", "r", "", "host: []"+simple)}, false},
		{"of a namespace that cannot be read", []string{rule("Bar_", "r", "", "host: x"+simple)}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			docs := policy.Decode("t.yaml", []byte(strings.Join(tc.docs, "---\n")))
			got, err := policy.NewSnapshot(docs, policy.Mesh{}).ClientTLS(httpbin(), policy.Destination{Host: reviews, Port: 80})
			if errors.Is(err, policy.ErrBrokenTLS) != tc.fail {
				t.Errorf("got %+v, error %v, want an error: %v", got, err, tc.fail)
			}
		})
	}
}
