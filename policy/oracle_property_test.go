package policy_test

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"istio.io/api/security/v1beta1"

	"github.com/writ-auth/writ/policy"
)

// scenario is one comparison: documents, for whom, and one request.
type scenario struct {
	mesh     policy.Mesh
	policies []generated
	workload policy.Workload
	request  *policy.Request
}

// decode turns the policies into text and back, and demands that they come back unharmed and valid.
func decode(t testing.TB, policies []generated) []*policy.Document {
	t.Helper()
	var text []string
	for _, g := range policies {
		text = append(text, g.text(t))
	}
	docs := policy.Decode("generated.yaml", []byte(strings.Join(text, "---\n")))
	if len(docs) != len(policies) {
		t.Fatalf("decoded %d of %d documents:\n%s", len(docs), len(policies), strings.Join(text, "---\n"))
	}
	for i, d := range docs {
		if d.Broken() {
			t.Fatalf("valid document refused: %v\n%s", d.Problems, text[i])
		}
		if !proto.Equal(specOf(d), policies[i].Spec) && !proto.Equal(specOf(d), withoutEmptySelector(policies[i].Spec)) {
			t.Fatalf("decoded to %v, want %v", d.Spec, policies[i].Spec)
		}
	}
	return docs
}

// withoutEmptySelector: `selector: {}` means no selector and may be read as such.
func withoutEmptySelector(spec *v1beta1.AuthorizationPolicy) *v1beta1.AuthorizationPolicy {
	spec = proto.CloneOf(spec)
	if len(spec.GetSelector().GetMatchLabels()) == 0 {
		spec.Selector = nil
	}
	return spec
}

// bind compiles the documents and resolves the workload.
func bind(t testing.TB, mesh policy.Mesh, docs []*policy.Document, w policy.Workload) *policy.Ruleset {
	t.Helper()
	bound, err := policy.NewStore(mesh).Update(docs).Resolve(w)
	if err != nil {
		t.Fatalf("resolve %+v: %v", w, err)
	}
	return bound.Rules
}

// compiled asks the product.
func compiled(rules *policy.Ruleset, r *policy.Request) outcome {
	id := func(rule *policy.Rule) string {
		if rule == nil {
			return ""
		}
		return strings.Clone(rule.ID())
	}
	v := rules.Evaluate(r)
	custom := ""
	for rule, next := rules.Custom(r, 0); rule != nil; rule, next = rules.Custom(r, next) {
		custom += id(rule) + " "
	}
	return outcome{
		Custom: custom, Audit: id(v.Audit), Deny: id(v.Deny), Allow: id(v.Allow), HasAllow: v.HasAllow,
		ShadowDeny: id(v.ShadowDeny), ShadowAllow: id(v.ShadowAllow),
		HasShadowDeny: v.HasShadowDeny, HasShadowAllow: v.HasShadowAllow,
	}
}

// disagreement returns both answers when they differ.
func (s scenario) disagreement(t testing.TB) (got, want outcome, differ bool) {
	docs := decode(t, s.policies)
	got = compiled(bind(t, s.mesh, docs, s.workload), s.request)
	o := oracle{docs: docs, mesh: s.mesh, workload: s.workload}
	want = o.decide(s.request)
	return got, want, got != want
}

// report makes the scenario as small as it stays wrong and prints it as a test case.
func (s scenario) report(t testing.TB) {
	t.Helper()
	s = s.shrink(t)
	got, want, _ := s.disagreement(t)
	var text []string
	for _, g := range s.policies {
		text = append(text, g.yaml(t))
	}
	t.Fatalf("compiled and oracle disagree\ncompiled: %+v\noracle:   %+v\nmesh:     %#v\nworkload: %#v\nrequest:  %s\npolicies:\n%s",
		got, want, s.mesh, s.workload, describe(s.request), strings.Join(text, "---\n"))
}

// shrink drops policies, then rules, entries and values, one at a time, while the answers still differ. It gives up
// after a while: a case that is a little too large is better than none.
func (s scenario) shrink(t testing.TB) scenario {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for again := true; again; {
		again = false
		for i := len(s.policies) - 1; i >= 0 && time.Now().Before(deadline); i-- {
			smaller := s
			smaller.policies = slices.Delete(slices.Clone(s.policies), i, i+1)
			if _, _, differ := smaller.disagreement(t); differ {
				s, again = smaller, true
			}
		}
		for i := range s.policies {
			for n := 0; time.Now().Before(deadline); {
				smaller, left := s.without(i, n)
				if !left {
					break
				}
				if !smaller.valid(t, i) {
					n++
				} else if _, _, differ := smaller.disagreement(t); differ {
					s, again = smaller, true
				} else {
					n++
				}
			}
		}
	}
	return s
}

// without is the scenario less the n-th element of all lists of policy i; false when there are fewer.
func (s scenario) without(i, n int) (scenario, bool) {
	s.policies = slices.Clone(s.policies)
	s.policies[i].Spec = proto.CloneOf(s.policies[i].Spec)
	return s, removeNth(reflect.ValueOf(s.policies[i].Spec).Elem(), n)
}

// valid reports whether policy i still is a valid document.
func (s scenario) valid(t testing.TB, i int) bool {
	t.Helper()
	docs := policy.Decode("shrunk.yaml", []byte(s.policies[i].text(t)))
	return len(docs) == 1 && !docs[0].Broken()
}

// removeNth deletes the n-th element of all lists below v, counted depth first; false when there are fewer.
func removeNth(v reflect.Value, n int) bool {
	var visit func(v reflect.Value) bool
	visit = func(v reflect.Value) bool {
		switch v.Kind() {
		case reflect.Pointer:
			return !v.IsNil() && visit(v.Elem())
		case reflect.Struct:
			for i := range v.NumField() {
				if v.Type().Field(i).IsExported() && visit(v.Field(i)) {
					return true
				}
			}
		case reflect.Slice:
			for i := range v.Len() {
				if n == 0 {
					v.Set(reflect.AppendSlice(v.Slice(0, i), v.Slice(i+1, v.Len())))
					return true
				}
				n--
				if visit(v.Index(i)) {
					return true
				}
			}
		}
		return false
	}
	return visit(v)
}

// TestCompiledEqualsOracle is the promise of the compiler: 20,000 answers, each the same as the slow interpreter's, down
// to the rule that is named.
func TestCompiledEqualsOracle(t *testing.T) {
	t.Parallel()
	const sets, workloads, requests = 2000, 2, 5
	var seen struct{ custom, audit, deny, allow, shadow, none int }
	for seed := range uint64(sets) {
		d := drawFrom(seed)
		s := scenario{mesh: genMesh(d), policies: genPolicies(d, 8)}
		docs := decode(t, s.policies)
		snap := policy.NewStore(s.mesh).Update(docs)
		for range workloads {
			s.workload = genWorkload(d)
			bound, err := snap.Resolve(s.workload)
			if err != nil {
				t.Fatalf("seed %d: resolve %+v: %v", seed, s.workload, err)
			}
			o := oracle{docs: docs, mesh: s.mesh, workload: s.workload}
			for range requests {
				s.request = genRequest(d)
				want := o.decide(s.request)
				if got := compiled(bound.Rules, s.request); got != want {
					t.Logf("seed %d", seed)
					s.report(t)
				}
				count(&seen.custom, want.Custom)
				count(&seen.audit, want.Audit)
				count(&seen.deny, want.Deny)
				count(&seen.allow, want.Allow)
				count(&seen.shadow, want.ShadowAllow+want.ShadowDeny)
				if want == (outcome{HasAllow: want.HasAllow}) {
					seen.none++
				}
			}
		}
	}
	t.Logf("%d comparisons: %+v", sets*workloads*requests, seen)
	for name, n := range map[string]int{"CUSTOM": seen.custom, "AUDIT": seen.audit, "DENY": seen.deny, "ALLOW": seen.allow, "dry-run": seen.shadow} {
		if n < 500 {
			t.Errorf("only %d of %d requests hit %s rules: the vocabulary no longer collides", n, sets*workloads*requests, name)
		}
	}
}

func count(n *int, id string) {
	if id != "" {
		*n++
	}
}

// TestOrderOfDocumentsIsIrrelevant: order between policies never changes the result (§1.2).
func TestOrderOfDocumentsIsIrrelevant(t *testing.T) {
	t.Parallel()
	for seed := range uint64(300) {
		d := drawFrom(seed ^ 0xa11)
		mesh, w := genMesh(d), genWorkload(d)
		docs := decode(t, genPolicies(d, 10))
		shuffled := slices.Clone(docs)
		for i := range shuffled {
			j := i + d.below(len(shuffled)-i)
			shuffled[i], shuffled[j] = shuffled[j], shuffled[i]
		}
		one, other := bind(t, mesh, docs, w), bind(t, mesh, shuffled, w)
		for range 10 {
			r := genRequest(d)
			if a, b := compiled(one, r), compiled(other, r); a != b {
				t.Fatalf("seed %d: in order %+v, shuffled %+v, request %s", seed, a, b, describe(r))
			}
		}
	}
}

// TestUnrelatedPoliciesChangeNothing adds policies of another namespace and for other labels.
func TestUnrelatedPoliciesChangeNothing(t *testing.T) {
	t.Parallel()
	w := policy.Workload{Namespace: "foo", Labels: map[string]string{"app": "httpbin"}}
	for seed := range uint64(300) {
		d := drawFrom(seed ^ 0xb22)
		mesh := genMesh(d)
		mine := decode(t, genPolicies(d, 5))
		foreign := genPolicies(d, 5)
		for i := range foreign {
			foreign[i].Name += "-foreign"
			if d.oneIn(2) {
				foreign[i].Namespace = "elsewhere"
				continue
			}
			foreign[i].Spec.Selector = nil
			foreign[i].Spec.TargetRef, foreign[i].Spec.TargetRefs = genTargetRef(d), nil
		}
		alone := bind(t, mesh, mine, w)
		together := bind(t, mesh, slices.Concat(decode(t, foreign), mine), w)
		for range 10 {
			r := genRequest(d)
			if a, b := compiled(alone, r), compiled(together, r); a != b {
				t.Fatalf("seed %d: alone %+v, together %+v, request %s", seed, a, b, describe(r))
			}
		}
	}
}

// TestUnknownLabelsAreAnError: labels nobody supplied matter exactly when a selector in scope could need them.
func TestUnknownLabelsAreAnError(t *testing.T) {
	t.Parallel()
	plain := generated{Namespace: "foo", Name: "plain", Spec: &v1beta1.AuthorizationPolicy{}}
	selecting := generated{Namespace: "foo", Name: "selecting", Spec: &v1beta1.AuthorizationPolicy{}}
	selecting.Spec.Selector = selectorOf("app", "httpbin")
	for _, tc := range []struct {
		name     string
		policies []generated
		workload policy.Workload
		want     error
	}{
		{"no selector in scope", []generated{plain}, policy.Workload{Namespace: "foo"}, nil},
		{"selector in scope", []generated{plain, selecting}, policy.Workload{Namespace: "foo"}, policy.ErrUnknownLabels},
		{"selector in scope, known to have none", []generated{selecting}, policy.Workload{Namespace: "foo", Labels: map[string]string{}}, nil},
		{"selector of another namespace", []generated{selecting}, policy.Workload{Namespace: "bar"}, nil},
		{"no workload at all", []generated{plain}, policy.Workload{}, policy.ErrNoWorkload},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := policy.NewStore(policy.Mesh{}).Update(decode(t, tc.policies)).Resolve(tc.workload)
			if !errors.Is(err, tc.want) {
				t.Errorf("Resolve: %v, want %v", err, tc.want)
			}
		})
	}
}
