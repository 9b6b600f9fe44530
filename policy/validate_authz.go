package policy

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	securityv1beta1 "istio.io/api/security/v1beta1"
)

// valueList is one list field with its values, for checks that treat fields alike.
type valueList struct {
	field  string
	values []string
	check  func(v *validator, field, value string) // of each value that is not empty; nil: anything goes
	custom bool                                    // possible with action CUSTOM
	l4     bool                                    // known of a TCP connection, as Istio's DENY warning counts
}

func sourceLists(s *securityv1beta1.Source) []valueList {
	account, domain, address := (*validator).serviceAccount, (*validator).trustDomain, (*validator).address
	return []valueList{
		{"principals", s.GetPrincipals(), nil, false, true},
		{"notPrincipals", s.GetNotPrincipals(), nil, false, true},
		{"requestPrincipals", s.GetRequestPrincipals(), nil, false, false},
		{"notRequestPrincipals", s.GetNotRequestPrincipals(), nil, false, false},
		{"namespaces", s.GetNamespaces(), nil, false, true},
		{"notNamespaces", s.GetNotNamespaces(), nil, false, true},
		{"serviceAccounts", s.GetServiceAccounts(), account, false, true},
		{"notServiceAccounts", s.GetNotServiceAccounts(), account, false, true},
		{"trustDomains", s.GetTrustDomains(), domain, false, false}, // L4, but Istio does not count it (§3.4)
		{"notTrustDomains", s.GetNotTrustDomains(), domain, false, false},
		{"ipBlocks", s.GetIpBlocks(), address, true, true},
		{"notIpBlocks", s.GetNotIpBlocks(), address, true, true},
		{"remoteIpBlocks", s.GetRemoteIpBlocks(), address, true, true},
		{"notRemoteIpBlocks", s.GetNotRemoteIpBlocks(), address, true, true},
	}
}

func operationLists(o *securityv1beta1.Operation) []valueList {
	port, path := (*validator).port, (*validator).path
	return []valueList{
		{"hosts", o.GetHosts(), nil, true, false},
		{"notHosts", o.GetNotHosts(), nil, true, false},
		{"ports", o.GetPorts(), port, true, true},
		{"notPorts", o.GetNotPorts(), port, true, true},
		{"methods", o.GetMethods(), nil, true, false},
		{"notMethods", o.GetNotMethods(), nil, true, false},
		{"paths", o.GetPaths(), path, true, false},
		{"notPaths", o.GetNotPaths(), path, true, false},
	}
}

// authorizationPolicy applies authorization-policy §3.4.
func (v *validator) authorizationPolicy(p *securityv1beta1.AuthorizationPolicy) {
	v.target(p.GetSelector(), p.GetTargetRef(), p.GetTargetRefs())
	action := p.GetAction()
	if !v.o.doc.actionUnread {
		v.action(p)
	}
	v.dryRun(action)
	if n := len(p.GetRules()); n > maxRules {
		v.report(codeSchemaLimit, "spec.rules", fmt.Sprintf("%d rules, the Kubernetes API takes %d", n, maxRules), "split the policy")
	}
	for i, r := range p.GetRules() {
		v.rule("spec.rules["+strconv.Itoa(i)+"]", r, action)
	}
}

// action checks what the action demands of the policy as a whole.
func (v *validator) action(p *securityv1beta1.AuthorizationPolicy) {
	action, provider := p.GetAction(), p.GetProvider()
	deciding := action == securityv1beta1.AuthorizationPolicy_DENY || action == securityv1beta1.AuthorizationPolicy_CUSTOM
	if deciding && len(p.GetRules()) == 0 {
		v.report(codeNoRules, "spec.rules", fmt.Sprintf("a %s policy without rules never matches", action), "add rules, or one empty rule ({}) to match every request")
	}
	switch {
	case action != securityv1beta1.AuthorizationPolicy_CUSTOM && provider != nil:
		v.report(codeProvider, "spec.provider", fmt.Sprintf("a %s policy has a provider", action), "remove provider, or use action CUSTOM")
	case action == securityv1beta1.AuthorizationPolicy_CUSTOM && provider.GetName() == "" && len(p.GetRules()) > 0:
		v.report(codeNoProvider, "spec.provider.name", "a CUSTOM policy names no provider", "write provider: {name: …}")
	}
}

// dryRun checks the annotations (§3.4, 14).
func (v *validator) dryRun(action securityv1beta1.AuthorizationPolicy_Action) {
	custom := action == securityv1beta1.AuthorizationPolicy_CUSTOM
	if field, ok := v.dryRunValue(DryRunAnnotation); ok && !v.o.doc.actionUnread {
		hint := "remove the annotation"
		if custom {
			hint = "write " + CustomDryRunAnnotation + " instead"
		}
		if custom || action == securityv1beta1.AuthorizationPolicy_AUDIT {
			v.report(codeDryRun, field, fmt.Sprintf("a %s policy cannot be dry-run, only ALLOW and DENY can", action), hint)
		}
	}
	if field, ok := v.dryRunValue(CustomDryRunAnnotation); ok && !custom && !v.o.doc.actionUnread {
		v.report(codeDryRun, field, fmt.Sprintf("it is for CUSTOM policies, not for %s", action), "write "+DryRunAnnotation+" instead")
	}
}

// dryRunValue checks the value of one annotation, and reports whether it is there.
func (v *validator) dryRunValue(annotation string) (field string, ok bool) {
	field = "metadata.annotations[" + annotation + "]"
	value, ok := v.o.doc.Annotations[annotation]
	if !ok {
		return field, false
	}
	if _, err := strconv.ParseBool(value); err != nil {
		v.report(codeDryRun, field, quoted(value)+" is neither true nor false", `write "true" or "false"`)
	}
	return field, true
}

func (v *validator) rule(field string, r *securityv1beta1.Rule, action securityv1beta1.AuthorizationPolicy_Action) {
	custom := action == securityv1beta1.AuthorizationPolicy_CUSTOM
	if n := len(r.GetFrom()); n > maxSources {
		v.report(codeSchemaLimit, field+".from", fmt.Sprintf("%d sources, the Kubernetes API takes %d", n, maxSources), "split the rule")
	}
	var sources, operations, l4Sources, l4Operations int
	for i, from := range r.GetFrom() {
		at := field + ".from[" + strconv.Itoa(i) + "].source"
		if from.GetSource() != nil {
			sources++
		}
		lists := sourceLists(from.GetSource())
		l4Sources += v.lists(at, "source", lists, custom)
		if mixesAccounts(from.GetSource()) {
			v.report(codeMixedAccounts, at, "serviceAccounts together with principals or namespaces", "use one of them, or two entries of from")
		}
	}
	for i, to := range r.GetTo() {
		at := field + ".to[" + strconv.Itoa(i) + "].operation"
		if to.GetOperation() != nil {
			operations++
		}
		l4Operations += v.lists(at, "operation", operationLists(to.GetOperation()), custom)
	}
	for i, when := range r.GetWhen() {
		v.condition(field+".when["+strconv.Itoa(i)+"]", when, custom)
	}
	onlyHTTP := operations > 0 && l4Operations == 0 || operations == 0 && sources > 0 && l4Sources == 0
	if onlyHTTP && action == securityv1beta1.AuthorizationPolicy_DENY && !v.o.doc.actionUnread {
		v.report(codeDenyTCP, field, "the rule looks at HTTP only and so denies every TCP connection to the workloads in scope", "add to[].operation.ports")
	}
}

// lists checks the fields of one source or operation and returns how many of them are L4.
func (v *validator) lists(field, what string, lists []valueList, custom bool) (l4 int) {
	set := 0
	for i := range lists {
		l := &lists[i]
		if len(l.values) == 0 {
			continue
		}
		set++
		if l.l4 {
			l4++
		}
		at := field + "." + l.field
		if custom && !l.custom {
			v.report(codeCustomField, at, l.field+" cannot be used with action CUSTOM", "leave it to the provider, or use another action")
		}
		v.values(at, l.values, l.check)
	}
	if entry := strings.TrimSuffix(field, "."+what); set == 0 && !v.undecoded(entry) {
		v.report(codeEmptyMatch, field, "the "+what+" has no fields and would match everything", "add a field, or remove the entry")
	}
	return l4
}

// values checks each value of a list.
func (v *validator) values(field string, values []string, check func(v *validator, field, value string)) {
	for i, value := range values {
		if value != "" && check == nil {
			continue
		}
		at := field + "[" + strconv.Itoa(i) + "]"
		if value == "" {
			v.report(codeEmptyValue, at, "empty value", "remove it; \"*\" stands for any value")
			continue
		}
		check(v, at, value)
	}
	if check != nil && len(values) > maxServiceAccounts && strings.HasSuffix(strings.ToLower(field), "serviceaccounts") {
		v.report(codeServiceAccount, field, fmt.Sprintf("%d service accounts, at most %d", len(values), maxServiceAccounts), "use several entries of from")
	}
}

func mixesAccounts(s *securityv1beta1.Source) bool {
	accounts := len(s.GetServiceAccounts()) + len(s.GetNotServiceAccounts())
	others := len(s.GetPrincipals()) + len(s.GetNotPrincipals()) + len(s.GetNamespaces()) + len(s.GetNotNamespaces())
	return accounts > 0 && others > 0
}

// condition checks one entry of when.
func (v *validator) condition(field string, c *securityv1beta1.Condition, custom bool) {
	if c.GetKey() == "" {
		v.report(codeNoValues, field, "the condition has no key", "write key")
		return
	}
	at := field + ".key"
	k, _, err := lookupKey(c.GetKey())
	if err != nil {
		message, hint := err.Error(), ""
		if bad := (*keyError)(nil); errors.As(err, &bad) {
			message, hint = bad.message, bad.hint
		}
		v.report(codeKey, at, message, hint)
		return
	}
	if custom && k.noCustom {
		v.report(codeCustomField, at, k.name+" cannot be used with action CUSTOM", "leave it to the provider, or use another action")
	}
	if len(c.GetValues()) == 0 && len(c.GetNotValues()) == 0 {
		v.report(codeNoValues, field, "the condition has neither values nor notValues", "add values; [\"*\"] stands for any")
		return
	}
	check := k.check()
	v.values(field+".values", c.GetValues(), check)
	v.values(field+".notValues", c.GetNotValues(), check)
}

// check is how values of the key are checked, nil if anything goes.
func (k *whenKey) check() func(v *validator, field, value string) {
	switch k.family {
	case familyIP:
		return (*validator).address
	case familyPort:
		return (*validator).port
	case familyServiceAccount:
		return (*validator).serviceAccount
	case familyTrustDomain:
		return (*validator).trustDomainKey
	case familyString, familyHeader, familyPrincipal, familyNamespace, familyRequestPrincipal, familyClaim, familyMetadata:
	}
	return nil
}
