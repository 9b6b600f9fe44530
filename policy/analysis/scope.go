package analysis

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	networkingv1alpha3 "istio.io/api/networking/v1alpha3"
	typev1beta1 "istio.io/api/type/v1beta1"

	"github.com/writ-auth/writ/policy"
)

// scope is whom a policy applies to (authorization-policy §1.2).
type scope struct {
	namespace string
	root      bool // in the root namespace: every namespace
	labels    map[string]string
	refs      []string // "Kind/name" of targetRefs, sorted; such a policy reaches no workload's own proxy
}

// targeted is a spec that says whom it applies to.
type targeted interface {
	GetSelector() *typev1beta1.WorkloadSelector
	GetTargetRef() *typev1beta1.PolicyTargetReference
	GetTargetRefs() []*typev1beta1.PolicyTargetReference
}

func newScope(doc *policy.Document, spec targeted, root string) scope {
	s := scope{namespace: doc.Namespace, root: doc.Namespace == root, labels: spec.GetSelector().GetMatchLabels()}
	for _, ref := range targetRefs(spec) {
		s.refs = append(s.refs, ref.GetKind()+"/"+ref.GetName())
	}
	slices.Sort(s.refs)
	return s
}

// targetRefs reads the list, or the older single field when the list is empty.
func targetRefs(spec targeted) []*typev1beta1.PolicyTargetReference {
	if refs := spec.GetTargetRefs(); len(refs) > 0 || spec.GetTargetRef() == nil {
		return refs
	}
	return []*typev1beta1.PolicyTargetReference{spec.GetTargetRef()}
}

// covers reports whether everything that o applies to, s applies to as well.
func (s scope) covers(o scope) bool {
	if len(s.refs)+len(o.refs) > 0 {
		return s.namespace == o.namespace && slices.Equal(s.refs, o.refs)
	}
	return (s.root || s.namespace == o.namespace) && within(s.labels, o.labels)
}

// overlaps reports whether some workload may be under both.
func (s scope) overlaps(o scope) bool {
	if len(s.refs)+len(o.refs) > 0 {
		return s.namespace == o.namespace && slices.Equal(s.refs, o.refs)
	}
	if !s.root && !o.root && s.namespace != o.namespace {
		return false
	}
	for k, v := range s.labels {
		if other, ok := o.labels[k]; ok && other != v {
			return false
		}
	}
	return true
}

// whom is the scope in words, for messages.
func (s scope) whom() string {
	switch {
	case len(s.refs) > 0:
		return strings.Join(s.refs, ", ")
	case len(s.labels) > 0:
		return "the selected workloads"
	case s.root:
		return "every workload of the mesh"
	}
	return "every workload of namespace " + s.namespace
}

// within reports whether all of sub is in labels.
func within(sub, labels map[string]string) bool {
	for k, v := range sub {
		if have, ok := labels[k]; !ok || have != v {
			return false
		}
	}
	return true
}

// registered is a workload that the documents themselves make known.
type registered struct {
	namespace string
	labels    map[string]string
	ports     map[string]uint32 // by name
}

// registeredIn returns the workload that a WorkloadEntry or a WorkloadGroup registers.
func registeredIn(doc *policy.Document) []registered {
	switch spec := doc.Spec.(type) {
	case *networkingv1alpha3.WorkloadEntry:
		return []registered{{doc.Namespace, merged(spec.GetLabels(), doc.Labels), spec.GetPorts()}}
	case *networkingv1alpha3.WorkloadGroup:
		labels := merged(spec.GetMetadata().GetLabels(), spec.GetTemplate().GetLabels())
		return []registered{{doc.Namespace, labels, spec.GetTemplate().GetPorts()}}
	}
	return nil
}

func merged(a, b map[string]string) map[string]string {
	out := make(map[string]string, len(a)+len(b))
	maps.Copy(out, a)
	maps.Copy(out, b)
	return out
}

// candidates are the registered workloads in the scope's namespaces; selected are those its labels select.
func (l *linter) candidates(s scope) (candidates, selected []registered) {
	for _, w := range l.workloads {
		if s.root || w.namespace == s.namespace {
			candidates = append(candidates, w)
			if within(s.labels, w.labels) {
				selected = append(selected, w)
			}
		}
	}
	return candidates, selected
}

// checkScope reports targets that the documents do not hold, next to workloads that they do.
func checkScope(l *linter, p *view) {
	if len(p.scope.refs) == 0 {
		return
	}
	if candidates, _ := l.candidates(p.scope); len(candidates) > 0 {
		targetMissing(l, p)
	}
}

// checkSelectors reports selectors that select none of the registered workloads. Where several selectors of a namespace
// do, its workloads evidently are known elsewhere (pods, or proxies that name their labels), and nothing is reported.
func checkSelectors(l *linter) {
	idle := map[string][]*view{}             // by namespace
	distinct := map[string]map[string]bool{} // by namespace, then selector: whether it selects something
	for _, p := range l.policies {
		candidates, selected := l.candidates(p.scope)
		if len(p.scope.labels) == 0 || len(candidates) == 0 {
			continue
		}
		ns := p.scope.namespace
		if distinct[ns] == nil {
			distinct[ns] = map[string]bool{}
		}
		distinct[ns][labelText(p.scope.labels)] = len(selected) > 0
		if len(selected) == 0 {
			idle[ns] = append(idle[ns], p)
		}
	}
	for ns, policies := range idle {
		balance := 0
		for _, selects := range distinct[ns] {
			if selects {
				balance++
			} else {
				balance--
			}
		}
		if balance < -1 {
			continue
		}
		for _, p := range policies {
			l.selectsNothing(p)
		}
	}
}

func (l *linter) selectsNothing(p *view) {
	candidates, _ := l.candidates(p.scope)
	where := "namespace " + p.scope.namespace
	if p.scope.root {
		where = "any namespace"
	}
	l.report(p.doc, codeSelectsNothing, "spec.selector.matchLabels",
		fmt.Sprintf("no registered workload of %s has the labels %s%s", where, labelText(p.scope.labels), nearMiss(p.scope.labels, candidates)),
		"correct the labels, or register the workload (WorkloadEntry, WorkloadGroup)")
}

// nearMiss names the values that registered workloads do have for the first label that none of them satisfies.
func nearMiss(labels map[string]string, candidates []registered) string {
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		seen := map[string]bool{}
		for _, w := range candidates {
			if v, ok := w.labels[key]; ok {
				seen[v] = true
			}
		}
		if !seen[labels[key]] {
			if len(seen) == 0 {
				return fmt.Sprintf(" (none has a label %s)", key)
			}
			return fmt.Sprintf(" (%s is %s there)", key, quoted(slices.Sorted(maps.Keys(seen))))
		}
	}
	return ""
}

func labelText(labels map[string]string) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		parts = append(parts, k+"="+labels[k])
	}
	return strings.Join(parts, ",")
}

func targetMissing(l *linter, p *view) {
	for i, ref := range targetRefs(p.spec) {
		if l.objects[policy.Object{Kind: ref.GetKind(), Namespace: p.doc.Namespace, Name: ref.GetName()}] || ref.GetKind() == "GatewayClass" {
			continue
		}
		field := fmt.Sprintf("spec.targetRefs[%d]", i)
		if len(p.spec.GetTargetRefs()) == 0 {
			field = "spec.targetRef"
		}
		l.report(p.doc, codeTargetMissing, field,
			fmt.Sprintf("these documents hold workloads of namespace %s and no %s %s; the policy does not apply to the workloads' own proxies", p.doc.Namespace, ref.GetKind(), ref.GetName()),
			"to protect workloads use spec.selector.matchLabels")
	}
}
