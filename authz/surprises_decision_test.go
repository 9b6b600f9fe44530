package authz_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/policy"
)

// TestDecisionTable is authorization-policy §4.2: which layers apply, which of them hit, and the answer. A CUSTOM hit is
// the row "provider unusable", for none is configured; TestCustom… has the other rows.
func TestDecisionTable(t *testing.T) {
	t.Parallel()
	const none, miss, hit = "none", "no hit", "hit"
	policyOf := func(action, state string) []string {
		path := map[string]string{miss: "/never", hit: "/"}[state]
		if path == "" {
			return nil
		}
		provider := ""
		if action == "CUSTOM" {
			provider = "provider: {name: opa}, "
		}
		return []string{named("foo", "p-"+strings.ToLower(action), "{action: "+action+", "+provider+"rules: ["+to("paths: ["+path+"]")+"]}")}
	}
	for _, row := range []struct {
		custom, deny, allow string
		want                bool
		layer               authz.Layer
		reason              authz.Reason
		rule                string // policy that is named, "" = none
	}{
		{none, none, none, true, authz.LayerDefault, authz.ReasonNoAllowPolicy, ""},
		{none, hit, none, false, authz.LayerDeny, authz.ReasonDenied, "p-deny"},
		{none, miss, none, true, authz.LayerDefault, authz.ReasonNoAllowPolicy, ""},
		{none, none, hit, true, authz.LayerAllow, authz.ReasonAllowed, "p-allow"},
		{none, none, miss, false, authz.LayerAllow, authz.ReasonNoAllowMatch, ""},
		{none, hit, hit, false, authz.LayerDeny, authz.ReasonDenied, "p-deny"},
		{none, hit, miss, false, authz.LayerDeny, authz.ReasonDenied, "p-deny"},
		{none, miss, hit, true, authz.LayerAllow, authz.ReasonAllowed, "p-allow"},
		{none, miss, miss, false, authz.LayerAllow, authz.ReasonNoAllowMatch, ""},
		{miss, none, none, true, authz.LayerDefault, authz.ReasonNoAllowPolicy, ""},
		{miss, miss, hit, true, authz.LayerAllow, authz.ReasonAllowed, "p-allow"},
		{miss, hit, hit, false, authz.LayerDeny, authz.ReasonDenied, "p-deny"},
		{hit, none, none, false, authz.LayerCustom, authz.ReasonProviderUnknown, "p-custom"},
		{hit, miss, hit, false, authz.LayerCustom, authz.ReasonProviderUnknown, "p-custom"},
		{hit, hit, hit, false, authz.LayerCustom, authz.ReasonProviderUnknown, "p-custom"},
	} {
		t.Run(fmt.Sprintf("C %s, D %s, A %s", row.custom, row.deny, row.allow), func(t *testing.T) {
			var s setup
			s.docs = append(s.docs, policyOf("CUSTOM", row.custom)...)
			s.docs = append(s.docs, policyOf("DENY", row.deny)...)
			s.docs = append(s.docs, policyOf("ALLOW", row.allow)...)
			d := s.decide(t, check{})
			got := ""
			if d.Rule != nil {
				got = d.Rule.Policy.Name
			}
			if d.Allow != row.want || d.Layer != row.layer || d.Reason != row.reason || got != row.rule {
				t.Errorf("allow %v, layer %s, reason %s, policy %q; want %v, %s, %s, %q",
					d.Allow, d.Layer, d.Reason, got, row.want, row.layer, row.reason, row.rule)
			}
			status, body := 200, ""
			if !row.want {
				status, body = 403, "RBAC: access denied" // the caller cannot tell a DENY hit from an ALLOW miss (§4.3)
			}
			if d.Status != status || d.Body != body {
				t.Errorf("answer %d %q, want %d %q", d.Status, d.Body, status, body)
			}
		})
	}
}

// TestDecisionTableFootnotes are the sentences under the table of §4.2.
func TestDecisionTableFootnotes(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name  string
		setup setup
		want  bool
	}{
		{"an ALLOW policy without rules is present", docs(named("foo", "p", "{}")), false},
		{"a dry-run ALLOW does not count", docs(dryRun("p", "{}")), true},
		{"a dry-run DENY does not count", docs(dryRun("p", "{action: DENY, rules: [{}]}")), true},
		{"AUDIT does not count", docs(named("foo", "p", "{action: AUDIT, rules: [{}]}")), true},
		{"a root-namespace ALLOW makes default-deny mesh-wide", docs(named("istio-system", "p", "{}")), false},
		{"a namespace ALLOW cannot lift a root DENY", docs(named("istio-system", "d", "{action: DENY, rules: [{}]}"), named("foo", "a", "{rules: [{}]}")), false},
		{"a namespace ALLOW extends a root ALLOW", docs(named("istio-system", "a", "{}"), named("foo", "a", "{rules: [{}]}")), true},
		{"a workload ALLOW extends a namespace ALLOW", docs(named("foo", "a", "{}"), named("foo", "b", "{selector: {matchLabels: {app: httpbin}}, rules: [{}]}")), true},
		{"dry-run DENY beside an enforced ALLOW that hits", docs(dryRun("p", "{action: DENY, rules: [{}]}"), allow("{}")), true},
		{"an ALLOW whose TCP rules are all lost is present", docs(allow(to("methods: [GET]"))), false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if d := tc.setup.decide(t, check{tcp: tc.name == "an ALLOW whose TCP rules are all lost is present"}); d.Allow != tc.want {
				t.Errorf("allowed %v, want %v (%s, %s)", d.Allow, tc.want, d.Layer, d.Reason)
			}
		})
	}
	t.Run("AUDIT and dry-run results are reported beside the answer", func(t *testing.T) {
		s := docs(named("foo", "audit", "{action: AUDIT, rules: [{}]}"), dryRun("trial", "{action: DENY, rules: [{}]}"), deny("{}"))
		d := s.decide(t, check{})
		if d.Allow || !d.Evaluated || d.Verdict.Audit == nil || d.Verdict.ShadowDeny == nil || !d.Verdict.HasShadowDeny || d.Verdict.HasShadowAllow {
			t.Errorf("%+v", d)
		}
	})
}

// TestNothingToDecideBy: no snapshot, no workload.
func TestNothingToDecideBy(t *testing.T) {
	t.Parallel()
	snap := policy.NewSnapshot(nil, policy.Mesh{})
	bound, err := snap.Resolve(policy.Workload{Namespace: "foo", Labels: map[string]string{}})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name   string
		snap   *policy.Snapshot
		bound  *policy.Bound
		reason authz.Reason
	}{
		{"no snapshot", nil, bound, authz.ReasonNoSnapshot},
		{"no snapshot, no workload", nil, nil, authz.ReasonNoSnapshot},
		{"no workload", snap, nil, authz.ReasonUnknownWorkload},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := authz.Decision{Allow: true, Status: 200, Evaluated: true} // left from the last request
			(&authz.Engine{}).Decide(t.Context(), tc.snap, tc.bound, &policy.Request{}, &d)
			if d.Allow || d.Status != 403 || d.Body != authz.DeniedBody || d.Layer != authz.LayerSystem || d.Reason != tc.reason || d.Evaluated {
				t.Errorf("%+v", d)
			}
		})
	}
}

// TestDecideLeavesNothingOfTheLastDecision: decisions are reused from request to request.
func TestDecideLeavesNothingOfTheLastDecision(t *testing.T) {
	t.Parallel()
	snap := policy.NewSnapshot(policy.Decode("t.yaml", []byte(
		named("foo", "c", "{action: CUSTOM, provider: {name: opa}, rules: ["+to("paths: [/c]")+"]}")+"---\n"+deny(to("paths: [/d]")))), policy.Mesh{})
	bound, err := snap.Resolve(policy.Workload{Namespace: "foo", Labels: map[string]string{}})
	if err != nil {
		t.Fatal(err)
	}
	ask := func(d *authz.Decision, path string) authz.Decision {
		(&authz.Engine{}).Decide(t.Context(), snap, bound, &policy.Request{Method: "GET", HasMethod: true, Path: path, RawPath: path}, d)
		return *d
	}
	var reused authz.Decision
	for _, path := range []string{"/d", "/c", "/", "/c", "/d", "/", "/c"} {
		var fresh authz.Decision
		// %+v does not tell an empty list, whose memory is kept, from none
		if got, want := fmt.Sprintf("%+v", ask(&reused, path)), fmt.Sprintf("%+v", ask(&fresh, path)); got != want {
			t.Errorf("%s: reused %s, fresh %s", path, got, want)
		}
	}
}

// TestBrokenDocumentsStayAtHome: a document that was never valid fails closed for whom it targets and for nobody else.
func TestBrokenDocumentsStayAtHome(t *testing.T) {
	t.Parallel()
	const badRule = "rules: [{from: [{source: {ipBlocks: [10.0.0.300]}}]}]"
	for _, tc := range []struct {
		name, namespace, spec string
		allow                 bool
	}{
		{"DENY for all of the namespace", "foo", "{action: DENY, " + badRule + "}", false},
		{"DENY for these labels", "foo", "{action: DENY, selector: {matchLabels: {app: httpbin}}, " + badRule + "}", false},
		{"DENY for other labels", "foo", "{action: DENY, selector: {matchLabels: {app: other}}, " + badRule + "}", true},
		{"DENY for another namespace", "bar", "{action: DENY, " + badRule + "}", true},
		{"DENY for the mesh", "istio-system", "{action: DENY, " + badRule + "}", false},
		{"CUSTOM", "foo", "{action: CUSTOM, provider: {name: opa}, " + badRule + "}", false},
		{"ALLOW matches nothing, and the other ALLOW still does", "foo", "{action: ALLOW, " + badRule + "}", true},
		{"AUDIT decides nothing", "foo", "{action: AUDIT, " + badRule + "}", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := brokenDocs(named(tc.namespace, "broken", tc.spec), allow("{}")).decide(t, check{})
			if d.Allow != tc.allow {
				t.Errorf("allowed %v, want %v (%s, %s)", d.Allow, tc.allow, d.Layer, d.Reason)
			}
			if !tc.allow && d.Reason != authz.ReasonBrokenPolicy {
				t.Errorf("reason %s, want %s", d.Reason, authz.ReasonBrokenPolicy)
			}
		})
	}
}
