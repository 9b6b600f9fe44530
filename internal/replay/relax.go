package replay

import (
	"google.golang.org/protobuf/proto"
	securityv1beta1 "istio.io/api/security/v1beta1"

	"github.com/writ-auth/writ/policy"
)

// relaxed are the rules of a set for records of one shape: what they read and the record lacks is taken once in favour of
// the request and once against it. An ALLOW rule that may match does so in favour; a DENY or CUSTOM rule that may match
// does so against. Whatever the lacking values were, the answer lies between the two.
type relaxed struct {
	favour, against *policy.Snapshot
	lacked          map[ruleName]string // by rule that was relaxed, the first attribute that its conditions lack
	policies        map[[2]string]bool  // namespace and name of those that have such rules
}

// touch reports whether any of the policies has a rule that was relaxed and that may decide.
func (r *relaxed) touch(policies []*policy.Policy) bool {
	for _, p := range policies {
		if !p.DryRun && p.Action != policy.ActionAudit && r.policies[[2]string{p.Namespace, p.Name}] {
			return true
		}
	}
	return false
}

type ruleName struct {
	namespace, policy string
	rule              int
}

// relax compiles the documents for a shape. If no rule reads what the shape lacks, both are the set as it is.
func (s *shape) relax(docs []*policy.Document, exact *policy.Snapshot) *relaxed {
	r := &relaxed{favour: exact, against: exact, lacked: map[ruleName]string{}, policies: map[[2]string]bool{}}
	favour, against := make([]*policy.Document, len(docs)), make([]*policy.Document, len(docs))
	for i, d := range docs {
		favour[i], against[i] = d, d
		spec, ok := d.Spec.(*securityv1beta1.AuthorizationPolicy)
		if !ok || !s.touches(d, spec, r.lacked) {
			continue
		}
		r.policies[[2]string{d.Namespace, d.Name}] = true
		possible, certain := s.documents(d, spec)
		favour[i], against[i] = certain, possible
		if spec.GetAction() == securityv1beta1.AuthorizationPolicy_ALLOW {
			favour[i], against[i] = possible, certain
		}
	}
	if len(r.lacked) > 0 {
		mesh := exact.Mesh()
		r.favour, r.against = policy.NewSnapshot(favour, mesh), policy.NewSnapshot(against, mesh)
	}
	return r
}

// touches notes the rules of a policy that read what the shape lacks.
func (s *shape) touches(d *policy.Document, spec *securityv1beta1.AuthorizationPolicy, lacked map[ruleName]string) (any bool) {
	for i, rule := range spec.GetRules() {
		if rule == nil {
			continue
		}
		if _, name := s.possible(rule); name != "" {
			lacked[ruleName{d.Namespace, d.Name, i}], any = name, true
		}
	}
	return any
}

// documents returns a policy whose rules match whenever they may, and one whose rules match only when they must.
func (s *shape) documents(d *policy.Document, spec *securityv1beta1.AuthorizationPolicy) (possible, certain *policy.Document) {
	loose, tight := shallow(spec), shallow(spec)
	for _, rule := range spec.GetRules() {
		if rule == nil {
			rule = &securityv1beta1.Rule{}
		}
		p, _ := s.possible(rule)
		loose.Rules = append(loose.Rules, p)
		tight.Rules = append(tight.Rules, s.certain(rule))
	}
	a, b := *d, *d
	a.Spec, b.Spec = loose, tight
	return &a, &b
}

// shallow copies a spec without its rules.
func shallow(spec *securityv1beta1.AuthorizationPolicy) *securityv1beta1.AuthorizationPolicy {
	copied := clone(spec)
	copied.Rules = nil
	return copied
}

func clone[M proto.Message](m M) M {
	copied, _ := proto.Clone(m).(M)
	return copied
}

// possible is the rule without the conditions that read what is lacking, and the name of the first of them.
func (s *shape) possible(rule *securityv1beta1.Rule) (out *securityv1beta1.Rule, lacked string) {
	out = clone(rule)
	note := func(name string) {
		if lacked == "" {
			lacked = name
		}
	}
	for _, f := range out.GetFrom() {
		if f.GetSource() != nil {
			note(s.relaxLists(sourceLists(f.GetSource())))
		}
	}
	for _, t := range out.GetTo() {
		if t.GetOperation() != nil {
			note(s.relaxLists(operationLists(t.GetOperation())))
		}
	}
	when := out.When
	out.When = nil
	for _, w := range when {
		if s.key(w.GetKey()) {
			note(w.GetKey())
		} else {
			out.When = append(out.When, w)
		}
	}
	return out, lacked
}

// certain is the rule without the alternatives that depend on what is lacking. One that then has none left never matches.
func (s *shape) certain(rule *securityv1beta1.Rule) *securityv1beta1.Rule {
	out := clone(rule)
	out.From, out.To = nil, nil
	for _, f := range rule.GetFrom() {
		if f.GetSource() == nil || s.relaxLists(sourceLists(clone(f.GetSource()))) == "" {
			out.From = append(out.From, f)
		}
	}
	for _, t := range rule.GetTo() {
		if t.GetOperation() == nil || s.relaxLists(operationLists(clone(t.GetOperation()))) == "" {
			out.To = append(out.To, t)
		}
	}
	if len(rule.GetFrom()) > 0 && len(out.GetFrom()) == 0 || len(rule.GetTo()) > 0 && len(out.GetTo()) == 0 {
		return never()
	}
	for _, w := range rule.GetWhen() {
		if s.key(w.GetKey()) {
			return never()
		}
	}
	return out
}

// never is a rule that matches nothing, in the place of one that keeps its index.
func never() *securityv1beta1.Rule {
	return &securityv1beta1.Rule{To: []*securityv1beta1.Rule_To{{Operation: &securityv1beta1.Operation{Ports: []string{"1"}, NotPorts: []string{"1"}}}}}
}
