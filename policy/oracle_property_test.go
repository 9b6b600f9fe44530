package policy_test

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

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
	return outcome{
		Custom: id(rules.Custom(r)), Audit: id(v.Audit), Deny: id(v.Deny), Allow: id(v.Allow), HasAllow: v.HasAllow,
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
		text = append(text, g.text(t))
	}
	t.Fatalf("compiled and oracle disagree\ncompiled: %+v\noracle:   %+v\nmesh:     %#v\nworkload: %#v\nrequest:  %s\npolicies:\n%s",
		got, want, s.mesh, s.workload, describe(s.request), strings.Join(text, "---\n"))
}

// shrink drops policies, rules, entries and values one at a time while the answers still differ.
func (s scenario) shrink(t testing.TB) scenario {
	t.Helper()
	for again := true; again; {
		again = false
		for i := range s.policies {
			smaller := s
			smaller.policies = slices.Delete(slices.Clone(s.policies), i, i+1)
			if _, _, differ := smaller.disagreement(t); differ {
				s, again = smaller, true
				break
			}
			if spec, ok := s.shrinkSpec(t, i); ok {
				s.policies = slices.Clone(s.policies)
				s.policies[i].Spec, again = spec, true
				break
			}
		}
	}
	return s
}

// shrinkSpec removes one element of one list of policy i, if the policy stays valid and the answers still differ.
func (s scenario) shrinkSpec(t testing.TB, i int) (*v1beta1.AuthorizationPolicy, bool) {
	for n := 0; ; n++ {
		spec := proto.CloneOf(s.policies[i].Spec)
		if !removeNth(reflect.ValueOf(spec).Elem(), n) {
			return nil, false
		}
		smaller := s
		smaller.policies = slices.Clone(s.policies)
		smaller.policies[i].Spec = spec
		docs := policy.Decode("shrunk.yaml", []byte(smaller.policies[i].text(t)))
		if len(docs) != 1 || docs[0].Broken() {
			continue
		}
		if _, _, differ := smaller.disagreement(t); differ {
			return spec, true
		}
	}
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

// TestLargeRulesetsEqualOracle has so many rules that the index chooses among them.
func TestLargeRulesetsEqualOracle(t *testing.T) {
	t.Parallel()
	for _, size := range []int{1, 2, 7, 8, 9, 31, 64, 100, 255, 500, 1000, 2000} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			t.Parallel()
			d := drawFrom(uint64(size))
			s := scenario{mesh: genMesh(d), policies: genLarge(d, size), workload: policy.Workload{Namespace: "foo", Labels: map[string]string{}}}
			docs := decode(t, s.policies)
			rules := bind(t, s.mesh, docs, s.workload)
			o := oracle{docs: docs, mesh: s.mesh, workload: s.workload}
			for range max(10, 4000/size) {
				s.request = genLargeRequest(d, size)
				if got, want := compiled(rules, s.request), o.decide(s.request); got != want {
					s.report(t)
				}
			}
		})
	}
}

// genLarge makes size rules in few policies, most of them keyed by something an index can use.
func genLarge(d draw, size int) []generated {
	actions := []v1beta1.AuthorizationPolicy_Action{
		v1beta1.AuthorizationPolicy_ALLOW, v1beta1.AuthorizationPolicy_DENY, v1beta1.AuthorizationPolicy_AUDIT, v1beta1.AuthorizationPolicy_ALLOW,
	}
	var out []generated
	for n := range size {
		if n%97 == 0 {
			out = append(out, generated{
				Namespace: "foo", Name: fmt.Sprint("p", len(out)),
				Spec: &v1beta1.AuthorizationPolicy{Action: actions[len(out)%len(actions)]},
			})
			if len(out)%4 == 0 {
				out[len(out)-1].DryRun = "true"
			}
		}
		spec := out[len(out)-1].Spec
		spec.Rules = append(spec.Rules, genLargeRule(d, n))
	}
	return out
}

func genLargeRule(d draw, n int) *v1beta1.Rule {
	if d.oneIn(10) {
		rule := genRule(d, false)
		if len(rule.From)+len(rule.To)+len(rule.When) > 1 { // few that match nearly everything
			return rule
		}
	}
	rule := &v1beta1.Rule{}
	id := fmt.Sprint(n)
	switch d.below(4) {
	case 0:
		rule.From = []*v1beta1.Rule_From{{Source: &v1beta1.Source{Principals: d.some([]string{
			"cluster.local/ns/n" + id + "/sa/web", "td1/ns/n" + id + "/sa/*", "*/ns/n" + id + "/sa/web", "cluster.local/ns/n" + id + "*",
		})}}}
	case 1:
		rule.From = []*v1beta1.Rule_From{{Source: &v1beta1.Source{Namespaces: d.some([]string{"n" + id, "n" + id + "*", "*" + id})}}}
	case 2:
		rule.From = []*v1beta1.Rule_From{{Source: &v1beta1.Source{ServiceAccounts: d.some([]string{"n" + id + "/web", "web"})}}}
	}
	if d.oneIn(4) && len(rule.From) > 0 {
		return rule
	}
	op := &v1beta1.Operation{Paths: d.some([]string{
		"/p" + id, "/p" + id + "/*", "/p" + id + "*", "*/s" + id, "/t/{*}/" + id, "/p" + id + "/{**}", "/common",
	})}
	op.Methods = d.maybe(3, vocabMethods)
	if d.oneIn(4) {
		op.Hosts = d.some([]string{"h" + id + ".example", "*.h" + id + ".example", "H" + id + "*"})
	}
	if d.oneIn(6) {
		op.Paths, op.NotPaths = nil, op.Paths
	}
	rule.To = []*v1beta1.Rule_To{{Operation: op}}
	return rule
}

func genLargeRequest(d draw, size int) *policy.Request {
	r := genRequest(d)
	id := func() string { return fmt.Sprint(d.below(size + 3)) }
	if len(r.Names) > 0 {
		r.Names[0] = "spiffe://" + d.pick([]string{"cluster.local", "td1", "old-td"}) + "/ns/n" + id() + "/sa/" + d.pick([]string{"web", "api"})
	}
	if !r.TCP {
		r.Path = d.pick([]string{"/p" + id(), "/p" + id() + "/x", "/x/s" + id(), "/t/x/" + id(), "/common", "/p" + id() + "/x/s" + id()})
		r.RawPath = r.Path
		r.Headers = nil
		if r.HasHost {
			r.Host = d.pick([]string{"h" + id() + ".example", "x.h" + id() + ".EXAMPLE"})
		}
	}
	return r
}

// TestEvaluateDoesNotAllocate is the figure of docs/performance: nothing is allocated for a decision, however many rules.
func TestEvaluateDoesNotAllocate(t *testing.T) {
	d := drawFrom(10_000)
	docs := decode(t, genLarge(d, 10_000))
	rules := bind(t, policy.Mesh{}, docs, policy.Workload{Namespace: "foo", Labels: map[string]string{}})
	requests := make([]*policy.Request, 200)
	for i := range requests {
		requests[i] = genLargeRequest(d, 10_000)
		requests[i].Claims, requests[i].Metadata = nil, nil // the test's own stand-ins allocate
		rules.Evaluate(requests[i])                         // grows the request's buffers once
	}
	next := 0
	if n := testing.AllocsPerRun(1000, func() {
		rules.Evaluate(requests[next%len(requests)])
		next++
	}); n != 0 {
		t.Errorf("Evaluate allocates %v times a call, want 0", n)
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
