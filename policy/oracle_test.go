package policy_test

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"istio.io/api/security/v1beta1"

	"github.com/writ-auth/writ/policy"
)

// oracle decides requests the slow and obvious way: it reads the decoded documents again for every request and follows
// the sentences of the specification one by one, with regular expressions where Istio has them. Nothing is prepared,
// indexed or shared with the product. It is the second opinion every optimisation of package policy has to face.
//
// Documents have to be valid; what becomes of broken ones is tested by name elsewhere.
type oracle struct {
	docs     []*policy.Document
	mesh     policy.Mesh
	workload policy.Workload
}

// outcome is a verdict by rule IDs; "" = no rule matched. Custom has one ID for each provider, in the order of their names.
type outcome struct {
	Custom, Audit, Deny, Allow    string
	HasAllow                      bool
	ShadowDeny, ShadowAllow       string
	HasShadowDeny, HasShadowAllow bool
}

// governing are the AuthorizationPolicies that apply to the workload (authorization-policy §1.2).
func (o *oracle) governing() []*policy.Document {
	var out []*policy.Document
	for _, d := range o.docs {
		if d.Kind == policy.KindAuthorizationPolicy && o.applies(d) {
			out = append(out, d)
		}
	}
	return out
}

// decide evaluates every rule of every policy that applies.
func (o *oracle) decide(r *policy.Request) outcome {
	var out outcome
	custom := map[string]string{} // §4.4: each provider is asked if one of its rules matches
	for _, d := range o.governing() {
		spec := specOf(d)
		hit := o.smallestMatch(d, r)
		dryRun, err := strconv.ParseBool(d.Annotations[policy.DryRunAnnotation])
		dryRun = dryRun && err == nil // §7: an annotation that is not a bool would be enforced
		switch spec.GetAction() {
		case v1beta1.AuthorizationPolicy_CUSTOM:
			best := custom[spec.GetProvider().GetName()]
			keepSmallest(&best, hit)
			custom[spec.GetProvider().GetName()] = best
		case v1beta1.AuthorizationPolicy_AUDIT:
			keepSmallest(&out.Audit, hit)
		case v1beta1.AuthorizationPolicy_DENY:
			if dryRun {
				out.HasShadowDeny = true
				keepSmallest(&out.ShadowDeny, hit)
			} else {
				keepSmallest(&out.Deny, hit)
			}
		case v1beta1.AuthorizationPolicy_ALLOW:
			if dryRun {
				out.HasShadowAllow = true
				keepSmallest(&out.ShadowAllow, hit)
			} else {
				out.HasAllow = true // counts policies, not rules (§4.2)
				keepSmallest(&out.Allow, hit)
			}
		}
	}
	for _, provider := range slices.Sorted(maps.Keys(custom)) {
		if custom[provider] != "" {
			out.Custom += custom[provider] + " "
		}
	}
	if out.Deny != "" { // denied whatever ALLOW says; Evaluate leaves it unsaid
		out.Allow = ""
	}
	return out
}

// keepSmallest implements §4.3: of several matching rules the lexicographically smallest ID is reported.
func keepSmallest(best *string, id string) {
	if id != "" && (*best == "" || id < *best) {
		*best = id
	}
}

// smallestMatch is the smallest ID among the policy's matching rules, or "".
func (o *oracle) smallestMatch(d *policy.Document, r *policy.Request) string {
	best := ""
	for i, rule := range specOf(d).GetRules() {
		if o.ruleMatches(d, rule, r) {
			keepSmallest(&best, ruleID(d, i))
		}
	}
	return best
}

func specOf(d *policy.Document) *v1beta1.AuthorizationPolicy {
	return d.Spec.(*v1beta1.AuthorizationPolicy)
}

// ruleID names a rule as Envoy does (§4.3).
func ruleID(d *policy.Document, index int) string {
	id := fmt.Sprintf("ns[%s]-policy[%s]-rule[%d]", d.Namespace, d.Name, index)
	if spec := specOf(d); spec.GetAction() == v1beta1.AuthorizationPolicy_CUSTOM {
		id = "istio-ext-authz-" + spec.GetProvider().GetName() + "-" + id
	}
	return id
}

// ruleMatches is §3.1: (OR over from) AND (OR over to) AND (AND over when); an absent list is true. On TCP an ALLOW rule
// with any HTTP-only condition is gone as a whole (§5).
func (o *oracle) ruleMatches(d *policy.Document, rule *v1beta1.Rule, r *policy.Request) bool {
	if r.TCP && specOf(d).GetAction() == v1beta1.AuthorizationPolicy_ALLOW && o.hasHTTPCondition(d, rule) {
		return false
	}
	from := func(f *v1beta1.Rule_From) bool { return o.all(o.sourceConditions(d, f.GetSource()), r) }
	to := func(t *v1beta1.Rule_To) bool { return o.all(o.operationConditions(d, t.GetOperation()), r) }
	if len(rule.GetFrom()) > 0 && !slices.ContainsFunc(rule.GetFrom(), from) {
		return false
	}
	if len(rule.GetTo()) > 0 && !slices.ContainsFunc(rule.GetTo(), to) {
		return false
	}
	for _, w := range rule.GetWhen() {
		if !o.all([]condition{o.whenCondition(d, w)}, r) {
			return false
		}
	}
	return true
}

func (o *oracle) hasHTTPCondition(d *policy.Document, rule *v1beta1.Rule) bool {
	var all []condition
	for _, f := range rule.GetFrom() {
		all = append(all, o.sourceConditions(d, f.GetSource())...)
	}
	for _, t := range rule.GetTo() {
		all = append(all, o.operationConditions(d, t.GetOperation())...)
	}
	for _, w := range rule.GetWhen() {
		all = append(all, o.whenCondition(d, w))
	}
	return slices.ContainsFunc(all, func(c condition) bool {
		return c.http && (len(c.values) > 0 || len(c.notValues) > 0)
	})
}

// condition is one field with its twin, or one when entry.
type condition struct {
	http              bool // not visible on TCP
	values, notValues []string
	match             func(value string, r *policy.Request) bool
}

// all is §3.1: (values empty OR some value matches) AND (notValues empty OR no notValue matches), for each condition.
// On TCP an HTTP-only condition is true, whether positive or negative (§5).
func (o *oracle) all(conditions []condition, r *policy.Request) bool {
	for _, c := range conditions {
		if c.http && r.TCP {
			continue
		}
		matches := func(v string) bool { return c.match(v, r) }
		if len(c.values) > 0 && !slices.ContainsFunc(c.values, matches) {
			return false
		}
		if slices.ContainsFunc(c.notValues, matches) {
			return false
		}
	}
	return true
}

// sourceConditions is the first table of §1.4.
func (o *oracle) sourceConditions(d *policy.Document, s *v1beta1.Source) []condition {
	return []condition{
		{values: s.GetPrincipals(), notValues: s.GetNotPrincipals(), match: o.principal},
		{http: true, values: s.GetRequestPrincipals(), notValues: s.GetNotRequestPrincipals(), match: requestPrincipal},
		{values: s.GetNamespaces(), notValues: s.GetNotNamespaces(), match: sourceNamespace},
		{values: s.GetServiceAccounts(), notValues: s.GetNotServiceAccounts(), match: serviceAccountOf(d.Namespace)},
		{values: s.GetTrustDomains(), notValues: s.GetNotTrustDomains(), match: o.trustDomain},
		{values: s.GetIpBlocks(), notValues: s.GetNotIpBlocks(), match: sourceIP},
		{values: s.GetRemoteIpBlocks(), notValues: s.GetNotRemoteIpBlocks(), match: remoteIP},
	}
}

// operationConditions is the second table of §1.4.
func (o *oracle) operationConditions(_ *policy.Document, op *v1beta1.Operation) []condition {
	return []condition{
		{http: true, values: op.GetHosts(), notValues: op.GetNotHosts(), match: host},
		{values: op.GetPorts(), notValues: op.GetNotPorts(), match: destinationPort},
		{http: true, values: op.GetMethods(), notValues: op.GetNotMethods(), match: method},
		{http: true, values: op.GetPaths(), notValues: op.GetNotPaths(), match: path},
	}
}

// whenCondition is the table of §2.
func (o *oracle) whenCondition(d *policy.Document, w *v1beta1.Condition) condition {
	c := condition{values: w.GetValues(), notValues: w.GetNotValues()}
	key, inBrackets, _ := strings.Cut(strings.TrimSuffix(w.GetKey(), "]"), "[")
	c.http = strings.HasPrefix(key, "request.")
	switch {
	case key == "request.headers":
		c.match = headerNamed(inBrackets)
	case key == "request.auth.claims":
		c.match = claimAt(claimPath(inBrackets))
	case strings.HasPrefix(key, "experimental.envoy.filters."):
		c.match = metadataAt(strings.TrimPrefix(key, "experimental."), inBrackets)
	default:
		c.match = map[string]func(string, *policy.Request) bool{
			"source.ip":              sourceIP,
			"remote.ip":              remoteIP,
			"source.namespace":       sourceNamespace,
			"source.principal":       o.principal,
			"source.serviceAccount":  serviceAccountOf(d.Namespace),
			"source.trustDomain":     o.trustDomain,
			"request.auth.principal": requestPrincipal,
			"request.auth.audiences": claimAt([]string{"aud"}),
			"request.auth.presenter": claimAt([]string{"azp"}),
			"destination.ip":         destinationIP,
			"destination.port":       destinationPort,
			"connection.sni":         sni,
		}[w.GetKey()]
	}
	return c
}
