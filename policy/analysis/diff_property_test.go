package analysis_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/writ-auth/writ/policy"
	"github.com/writ-auth/writ/policy/analysis"
)

// decided is what the evaluator says of a request, by the steps of authorization-policy §4.1: what, and by what.
func decided(t testing.TB, snap *policy.Snapshot, w policy.Workload, request analysis.Request) (what, by string) {
	t.Helper()
	b, err := snap.Resolve(w)
	if err != nil {
		t.Fatal(err)
	}
	r := request.Policy()
	token := r.Claims
	r.Claims = nil
	if m := b.MTLS(r.DestPort); m.Mode == policy.ModeStrict && !r.HasIdentity() {
		return "DENY", "mtls " + m.By
	}
	var providers []string
	for rule, next := b.Rules.Custom(r, 0); rule != nil; rule, next = b.Rules.Custom(r, next) {
		providers = append(providers, rule.Policy.Provider)
	}
	if b.Authentication != nil && !r.TCP && token != nil {
		taken := false
		for _, rule := range b.Authentication.Rules {
			taken = taken || rule.Spec.GetIssuer() == token.Issuer() && audienceTaken(rule.Spec.GetAudiences(), token.Strings([]string{"aud"}))
		}
		if !taken {
			return "DENY", "jwt"
		}
		r.Claims = token
	}
	what = strings.Join(append([]string{"ALLOW"}, providers...), " ")
	name := func(rule *policy.Rule) string { return fmt.Sprintf("%s %d", rule.Policy, rule.Index) }
	switch v := b.Rules.Evaluate(r); {
	case v.Deny != nil:
		return "DENY", name(v.Deny)
	case v.Allow != nil:
		return what, name(v.Allow)
	case v.HasAllow:
		return "DENY", "none"
	}
	return what, "default"
}

func audienceTaken(wanted, got []string) bool {
	normal := func(s string) string {
		return strings.TrimSuffix(strings.TrimPrefix(strings.TrimPrefix(s, "https://"), "http://"), "/")
	}
	return len(wanted) == 0 || slices.ContainsFunc(got, func(g string) bool {
		return slices.ContainsFunc(wanted, func(w string) bool { return normal(w) == normal(g) })
	})
}

// of is an outcome as decided says it.
func of(o analysis.Outcome) (what, by string) {
	what = strings.Join(append([]string{string(o.Decision)}, o.Providers...), " ")
	switch {
	case o.Rule != nil:
		by = fmt.Sprintf("%s %d", o.Policy, *o.Rule)
	case o.Layer == "mtls":
		by = "mtls " + o.Policy
	case o.Layer == "jwt":
		by = "jwt"
	case o.Layer == "default":
		by = "default"
	default:
		by = "none"
	}
	return what, by
}

// class names the documents that apply to a workload, in both sets.
func class(t testing.TB, snaps [2]*policy.Snapshot, w policy.Workload) string {
	t.Helper()
	key := ""
	for _, snap := range snaps {
		b, err := snap.Resolve(w)
		if err != nil {
			t.Fatal(err)
		}
		key += fmt.Sprintf("%p %p %v;", b.Rules, b.Authentication, b.MTLSPorts())
	}
	return key
}

// TestDiffFindsEveryDifference is the promise of diff: whatever random requests find is in a class that was reported, and
// every witness differs as its class says. WRIT_DIFF_REQUESTS sets how many requests each pair is asked.
func TestDiffFindsEveryDifference(t *testing.T) {
	t.Parallel()
	pairs, requests := 200, 500
	if n, err := strconv.Atoi(os.Getenv("WRIT_DIFF_REQUESTS")); err == nil {
		requests = n
	}
	var classes, differing int
	for seed := range uint64(pairs) {
		d := draw{rand.New(rand.NewPCG(seed, 0x64696666))} //nolint:gosec // reproducible on purpose
		olds, news := d.pair()
		old, new := decode(t, olds), decode(t, news)
		mesh := policy.Mesh{TrustDomainAliases: []string{"td1"}}
		report, err := analysis.Diff(old, new, mesh, analysis.DiffOptions{Reasons: seed%4 == 0})
		if err != nil {
			t.Fatal(err)
		}
		snaps := [2]*policy.Snapshot{policy.NewSnapshot(old, mesh), policy.NewSnapshot(new, mesh)}
		known := map[string]bool{}
		for i := range report.Differences {
			noteClass(t, snaps, &report.Differences[i], known)
		}
		classes += len(report.Differences)
		for _, u := range report.Unknown {
			t.Errorf("seed %d: unknown %s: %s", seed, u.Workloads[0], u.Reason)
		}
		for range requests {
			w, r := d.workload(), d.request()
			oldWhat, oldBy := decided(t, snaps[0], w, r)
			newWhat, newBy := decided(t, snaps[1], w, r)
			if oldWhat == newWhat {
				continue
			}
			differing++
			kind := "http"
			if r.TCP {
				kind = "tcp"
			}
			if key := fmt.Sprint(class(t, snaps, w), kind, oldWhat, oldBy, newWhat, newBy); !known[key] {
				t.Fatalf("seed %d: %+v of %+v\nold: %s by %s\nnew: %s by %s\nis in no class of\n%s", seed, r, w, oldWhat, oldBy, newWhat, newBy, strings.Join(lines(report), "\n"))
			}
		}
	}
	t.Logf("%d pairs, %d classes, %d of %d requests differ", pairs, classes, differing, pairs*requests)
	if differing < pairs*requests/20 {
		t.Error("the vocabularies no longer collide")
	}
}

// noteClass notes the class of a difference for each of its workloads, and holds the witness to it.
func noteClass(t *testing.T, snaps [2]*policy.Snapshot, d *analysis.Difference, known map[string]bool) {
	t.Helper()
	oldWhat, oldBy := of(d.Old)
	newWhat, newBy := of(d.New)
	w := policy.Workload{Namespace: d.Witness.Workload.Namespace, Labels: d.Witness.Workload.Labels, Services: d.Witness.Workload.Services}
	for i, want := range [][2]string{{oldWhat, oldBy}, {newWhat, newBy}} {
		if what, by := decided(t, snaps[i], w, d.Witness.Request); what != want[0] || by != want[1] {
			t.Errorf("witness %s: %s by %s, the class says %v", request(d.Witness.Request), what, by, want)
		}
	}
	for _, workload := range d.Workloads {
		for _, traffic := range d.Traffic {
			w := policy.Workload{Namespace: workload.Namespace, Labels: workload.Labels, Services: workload.Services}
			known[fmt.Sprint(class(t, snaps, w), traffic, oldWhat, oldBy, newWhat, newBy)] = true
		}
	}
}
