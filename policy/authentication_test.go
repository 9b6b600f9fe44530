package policy_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/writ-auth/writ/policy"
)

// authentication is a RequestAuthentication with rules for these issuers; created is its creationTimestamp, or "".
func authentication(namespace, name, created, target string, issuers ...string) string {
	meta := fmt.Sprintf("namespace: %s, name: %s", namespace, name)
	if created != "" {
		meta += ", creationTimestamp: " + created
	}
	rules := make([]string, 0, len(issuers))
	for _, issuer := range issuers {
		rules = append(rules, fmt.Sprintf("{issuer: %q, jwksUri: https://idp.example/keys}", issuer))
	}
	if target != "" {
		target += ", "
	}
	return fmt.Sprintf("apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {%s}\nspec: {%sjwtRules: [%s]}\n",
		meta, target, strings.Join(rules, ", "))
}

const (
	selectHTTPBin = "selector: {matchLabels: {app: httpbin}}"
	selectOther   = "selector: {matchLabels: {app: other}}"
	targetGateway = "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: gw}]"
	targetService = `targetRefs: [{group: "", kind: Service, name: web}]`
	targetClass   = "targetRefs: [{group: gateway.networking.k8s.io, kind: GatewayClass, name: istio-waypoint}]"
)

// ruleIDs are the token rules of a workload, in order; nil when no RequestAuthentication applies.
func ruleIDs(t *testing.T, w policy.Workload, text ...string) []string {
	t.Helper()
	bound, err := policy.NewSnapshot(load(t, text...), policy.Mesh{}).Resolve(w)
	if err != nil {
		t.Fatal(err)
	}
	if bound.Authentication == nil {
		return nil
	}
	ids := []string{}
	for _, r := range bound.Authentication.Rules {
		ids = append(ids, r.ID)
	}
	return ids
}

// TestAuthenticationSelection: which RequestAuthentications apply (request-authentication §1.4, authorization-policy §1.2).
func TestAuthenticationSelection(t *testing.T) {
	t.Parallel()
	gatewayPod := policy.Workload{Namespace: "foo", Labels: map[string]string{"app": "httpbin", gatewayNameLabel: "gw"}}
	waypoint := policy.Workload{Namespace: "foo", Labels: map[string]string{managedLabel: waypointManager}, Services: []string{"Service bar/web"}}
	for _, tc := range []struct {
		name, namespace, target string
		workload                policy.Workload
		applies                 bool
	}{
		{"no selector", "foo", "", httpbin(), true},
		{"empty selector", "foo", "selector: {}", httpbin(), true},
		{"selector that matches", "foo", selectHTTPBin, httpbin(), true},
		{"selector that does not", "foo", selectOther, httpbin(), false},
		{"root namespace", "istio-system", "", httpbin(), true},
		{"root namespace with selector that matches", "istio-system", selectHTTPBin, httpbin(), true},
		{"root namespace with selector that does not", "istio-system", selectOther, httpbin(), false},
		{"other namespace", "bar", "", httpbin(), false},
		{"other namespace with selector that matches", "bar", selectHTTPBin, httpbin(), false},
		{"targetRefs and a sidecar", "foo", targetGateway, httpbin(), false},
		{"targetRefs and the gateway's pod", "foo", targetGateway, gatewayPod, true},
		{"targetRefs in another namespace than the gateway's pod", "istio-system", targetGateway, gatewayPod, false},
		{"selector and a gateway's pod", "foo", selectHTTPBin, gatewayPod, true},
		{"no selector and a waypoint", "foo", "", waypoint, false},
		{"Service of a waypoint", "bar", targetService, waypoint, true},
		{"Service of the same name elsewhere", "foo", targetService, waypoint, false},
		{"class of all waypoints", "istio-system", targetClass, waypoint, true},
		{"class of all waypoints, outside the root namespace", "foo", targetClass, waypoint, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			got := ruleIDs(t, tc.workload, authentication(tc.namespace, "idp", "", tc.target, "i"))
			if applies := got != nil; applies != tc.applies {
				t.Errorf("applies %v, want %v", applies, tc.applies)
			}
		})
	}
}

// TestAuthenticationMerge: rules are concatenated, never merged or overridden, and then sorted by issuer; rules of one
// issuer stay in the order of their documents: own namespace, root, those of a waypoint's services, inside each the oldest first.
func TestAuthenticationMerge(t *testing.T) {
	t.Parallel()
	const older, newer = "2024-01-01T00:00:00Z", "2025-01-01T00:00:00Z"
	waypoint := policy.Workload{Namespace: "foo", Labels: map[string]string{gatewayNameLabel: "gw", managedLabel: waypointManager},
		Services: []string{"Service zoo/web", "Service bar/web"}}
	for _, tc := range []struct {
		name     string
		workload policy.Workload
		docs     []string
		want     []string
	}{
		{"nothing", httpbin(), nil, nil},
		{"a document without rules is as none", httpbin(), []string{authentication("foo", "a", "", "")}, nil},
		{"and lifts nobody else's", httpbin(), []string{authentication("foo", "a", "", ""), authentication("istio-system", "b", "", "", "i")},
			[]string{"istio-system/b jwtRules[0]"}},
		{"narrower adds, nothing is removed", httpbin(),
			[]string{authentication("istio-system", "mesh", "", "", "m"), authentication("foo", "ns", "", "", "n"), authentication("foo", "w", "", selectHTTPBin, "w")},
			[]string{"istio-system/mesh jwtRules[0]", "foo/ns jwtRules[0]", "foo/w jwtRules[0]"}},
		{"surprise 62: a rule of the same issuer overrides nothing", httpbin(),
			[]string{authentication("istio-system", "mesh", "", "", "i"), authentication("foo", "ns", "", "", "i")},
			[]string{"foo/ns jwtRules[0]", "istio-system/mesh jwtRules[0]"}},
		{"sorted by issuer, bytewise, without one first", httpbin(), []string{authentication("foo", "a", "", "", "b", "a", "B", "a/b", "")},
			[]string{"foo/a jwtRules[4]", "foo/a jwtRules[2]", "foo/a jwtRules[1]", "foo/a jwtRules[3]", "foo/a jwtRules[0]"}},
		{"one issuer, one document: order kept", httpbin(), []string{authentication("foo", "a", "", "", "i", "h", "i")},
			[]string{"foo/a jwtRules[1]", "foo/a jwtRules[0]", "foo/a jwtRules[2]"}},
		{"one issuer: own namespace before root, whatever their age and name", httpbin(),
			[]string{authentication("istio-system", "a", older, "", "i"), authentication("foo", "z", newer, "", "i")},
			[]string{"foo/z jwtRules[0]", "istio-system/a jwtRules[0]"}},
		{"one issuer: the oldest first", httpbin(),
			[]string{authentication("foo", "a", newer, "", "i"), authentication("foo", "b", older, "", "i")},
			[]string{"foo/b jwtRules[0]", "foo/a jwtRules[0]"}},
		{"one issuer: ages compare as times, not as text", httpbin(),
			[]string{authentication("foo", "a", "2025-01-01T01:30:00+02:00", "", "i"), authentication("foo", "b", "2025-01-01T00:00:00Z", "", "i")},
			[]string{"foo/a jwtRules[0]", "foo/b jwtRules[0]"}},
		{"one issuer: without an age is oldest, as a zero time is in Istio", httpbin(),
			[]string{authentication("foo", "a", older, "", "i"), authentication("foo", "b", "", "", "i"), authentication("foo", "c", "null", "", "i")},
			[]string{"foo/b jwtRules[0]", "foo/c jwtRules[0]", "foo/a jwtRules[0]"}},
		{"one issuer, one age: by name", httpbin(),
			[]string{authentication("foo", "b", older, "", "i"), authentication("foo", "a", older, "", "i")},
			[]string{"foo/a jwtRules[0]", "foo/b jwtRules[0]"}},
		{"behind a waypoint: own, root, services in their order", waypoint,
			[]string{authentication("bar", "r", "", targetService, "i"), authentication("zoo", "r", "", targetService, "i"),
				authentication("istio-system", "r", "", targetClass, "i"), authentication("foo", "r", "", targetGateway, "i")},
			[]string{"foo/r jwtRules[0]", "istio-system/r jwtRules[0]", "zoo/r jwtRules[0]", "bar/r jwtRules[0]"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			want := tc.want
			for range 2 { // the order of documents is of no importance
				if got := ruleIDs(t, tc.workload, tc.docs...); !slices.Equal(got, want) {
					t.Errorf("got %q, want %q", got, want)
				}
				tc.docs = slices.Clone(tc.docs)
				slices.Reverse(tc.docs)
			}
		})
	}
}

// TestAuthenticationIsShared: what is compiled of the rules is made once for all workloads with the same documents.
func TestAuthenticationIsShared(t *testing.T) {
	t.Parallel()
	snap := policy.NewSnapshot(load(t, authentication("foo", "ns", "", "", "i"), authentication("foo", "w", "", selectHTTPBin, "i")), policy.Mesh{})
	of := func(app, version string) *policy.Authentication {
		bound, err := snap.Resolve(policy.Workload{Namespace: "foo", Labels: map[string]string{"app": app, "version": version}})
		if err != nil {
			t.Fatal(err)
		}
		return bound.Authentication
	}
	if of("httpbin", "1") != of("httpbin", "2") {
		t.Error("two workloads under the same documents do not share their rules")
	}
	if of("httpbin", "1") == of("other", "1") {
		t.Error("workloads under different documents share their rules")
	}
	built := 0
	for range 3 {
		of("httpbin", "1").Compiled(func([]policy.JWTRule) any { built++; return built })
	}
	if built != 1 {
		t.Errorf("compiled %d times", built)
	}
}

// TestAuthenticationNeedsLabels: a selector in scope and labels that nobody knows, or registered workloads that it tells apart.
func TestAuthenticationNeedsLabels(t *testing.T) {
	t.Parallel()
	snap := policy.NewSnapshot(load(t, authentication("istio-system", "w", "", selectHTTPBin, "i")), policy.Mesh{})
	if bound, err := snap.Resolve(policy.Workload{Namespace: "foo", ServiceAccount: "web"}); err == nil {
		t.Errorf("resolved to %+v", bound)
	}
}

// TestAllTokenRules: whoever fetches keys is told of all rules, bound or not, in a fixed order.
func TestAllTokenRules(t *testing.T) {
	t.Parallel()
	snap := policy.NewSnapshot(load(t, authentication("zoo", "a", "", "", "i"), authentication("bar", "b", "2025-01-01T00:00:00Z", selectOther, "i"),
		authentication("bar", "c", "2024-01-01T00:00:00Z", "", "j", "i")), policy.Mesh{})
	var got []string
	for _, r := range snap.JWTRules() {
		got = append(got, r.ID)
	}
	want := []string{"bar/c jwtRules[0]", "bar/c jwtRules[1]", "bar/b jwtRules[0]", "zoo/a jwtRules[0]"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestCreated: metadata.creationTimestamp is read as Kubernetes writes it, and refused otherwise.
func TestCreated(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		text   string
		want   string // RFC 3339, "" = zero
		broken bool
	}{
		{"2025-03-01T10:00:00Z", "2025-03-01T10:00:00Z", false},
		{`"2025-03-01T10:00:00Z"`, "2025-03-01T10:00:00Z", false},
		{"2025-03-01T10:00:00.5+01:00", "2025-03-01T10:00:00.5+01:00", false},
		{"null", "", false},
		{"", "", false},
		{"2025-03-01", "", true},
		{"yesterday", "", true},
		{"1740823200", "", true},
		{"[2025-03-01T10:00:00Z]", "", true},
	} {
		t.Run(tc.text, func(t *testing.T) {
			t.Parallel()
			text := "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  namespace: foo\n  name: p\n  creationTimestamp: " + tc.text + "\n"
			docs := policy.Decode("t.yaml", []byte(text))
			if len(docs) != 1 || docs[0].Broken() != tc.broken {
				t.Fatalf("got %s", describeDocuments(docs))
			}
			if got := docs[0].Created; got.IsZero() != (tc.want == "") || !got.IsZero() && got.Format("2006-01-02T15:04:05.999Z07:00") != tc.want {
				t.Errorf("created %v, want %q", got, tc.want)
			}
		})
	}
}
