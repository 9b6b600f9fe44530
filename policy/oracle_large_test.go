package policy_test

import (
	"fmt"
	"sync"
	"testing"

	"istio.io/api/security/v1beta1"

	"github.com/writ-auth/writ/policy"
)

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

// TestEvaluateTenThousandRulesDoesNotAllocate: no decision allocates, however many rules there are and whatever they ask for.
func TestEvaluateTenThousandRulesDoesNotAllocate(t *testing.T) {
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

// TestDenseRulesetsEqualOracle has many narrow rules of the same small vocabulary: every drawer of the index is shared,
// rules differ in their last condition only, and no rule that matches everything hides the others.
func TestDenseRulesetsEqualOracle(t *testing.T) {
	t.Parallel()
	hits := 0
	for seed := range uint64(100) {
		d := drawFrom(seed ^ 0xde45e)
		s := scenario{mesh: genMesh(d), policies: genDense(d), workload: policy.Workload{Namespace: "foo", Labels: map[string]string{}}}
		docs := decode(t, s.policies)
		rules := bind(t, s.mesh, docs, s.workload)
		o := oracle{docs: docs, mesh: s.mesh, workload: s.workload}
		for range 60 {
			s.request = genRequest(d)
			for range d.below(12) {
				s.request.Headers = append(s.request.Headers, policy.Header{Name: denseHeader(d), Value: d.pick(denseValues)})
			}
			got, want := compiled(rules, s.request), o.decide(s.request)
			if got != want {
				t.Logf("seed %d", seed)
				s.report(t)
			}
			count(&hits, want.Allow+want.Deny)
		}
	}
	if hits < 1000 {
		t.Errorf("only %d of 6000 requests hit a rule", hits)
	}
}

var denseValues = []string{"a", "ab", "abc", "b", "a,b", ""}

func denseHeader(d draw) string { return fmt.Sprint("x-h", d.below(16)) }

func genDense(d draw) []generated {
	actions := []v1beta1.AuthorizationPolicy_Action{v1beta1.AuthorizationPolicy_ALLOW, v1beta1.AuthorizationPolicy_DENY}
	var out []generated
	for n := range 1 + d.below(3) {
		spec := &v1beta1.AuthorizationPolicy{Action: actions[d.below(2)]}
		for range 5 + d.below(60) {
			spec.Rules = append(spec.Rules, genDenseRule(d))
		}
		out = append(out, generated{Namespace: "foo", Name: fmt.Sprint("p", n), Spec: spec})
	}
	return out
}

// genDenseRule has at least two positive conditions.
func genDenseRule(d draw) *v1beta1.Rule {
	rule := genRule(d, false)
	if len(rule.From)+len(rule.To) == 0 {
		rule.To = []*v1beta1.Rule_To{{Operation: &v1beta1.Operation{Paths: d.some(vocabPaths), Methods: d.some(vocabMethods)}}}
	}
	header := func() *v1beta1.Condition {
		return &v1beta1.Condition{Key: "request.headers[" + denseHeader(d) + "]", Values: d.some([]string{"a*", "*b", "ab", "abc", "*", "b"})}
	}
	if d.oneIn(3) {
		rule.When = append(rule.When, header())
	} else {
		rule.When = append(rule.When, genCondition(d, false))
	}
	if d.oneIn(40) { // more conditions than an index would ever consider
		for range 70 {
			rule.When = append(rule.When, &v1beta1.Condition{Key: "request.headers[x-h1]", Values: []string{"*"}})
		}
		rule.When = append(rule.When, header())
	}
	return rule
}

// TestEvaluateConcurrently: a ruleset is shared by all requests and indexed when it is first needed.
func TestEvaluateConcurrently(t *testing.T) {
	t.Parallel()
	d := drawFrom(7)
	docs := decode(t, genLarge(d, 300))
	w := policy.Workload{Namespace: "foo", Labels: map[string]string{}}
	rules, reference := bind(t, policy.Mesh{}, docs, w), bind(t, policy.Mesh{}, docs, w)
	var wg sync.WaitGroup
	for seed := range uint64(8) {
		wg.Go(func() {
			d := drawFrom(seed)
			for range 200 {
				r := genLargeRequest(d, 300)
				if got, want := compiled(rules, r), compiled(reference, r); got != want {
					t.Errorf("%+v, want %+v, request %s", got, want, describe(r))
					return
				}
			}
		})
	}
	wg.Wait()
}
