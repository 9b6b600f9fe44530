package analysis

import (
	"fmt"
	"net/netip"
	"strings"

	securityv1beta1 "istio.io/api/security/v1beta1"

	"github.com/writ-auth/writ/policy"
)

// family is how the values of a condition are read (the value syntaxes of docs/semantics.md).
type family int

const (
	famString family = iota // STR, also claims
	famHeader
	famHost
	famPath
	famPrincipal
	famNamespace
	famAccount
	famDomain
	famRequestPrincipal
	famIP
	famPort
	famMetadata
)

// condition is one field, or one when entry, with both its lists.
type condition struct {
	attr      string // what it reads: the field's name, also for the when key that reads the same
	label     string // as the document names it
	family    family
	http      bool // absent on TCP
	values    []string
	notValues []string
	field     string // where values stand
	notField  string // where notValues stand
}

// conditions are the conditions of one source, one operation or all of when: all of them must hold.
type conditions []condition

// find returns the condition on attr, or nil.
func (cs conditions) find(attr string) *condition {
	for i := range cs {
		if cs[i].attr == attr {
			return &cs[i]
		}
	}
	return nil
}

func (cs conditions) http() bool {
	for i := range cs {
		if cs[i].http {
			return true
		}
	}
	return false
}

// rule is one rule, taken apart.
type rule struct {
	policy   *view
	index    int
	field    string // spec.rules[N]
	from, to []conditions
	when     conditions
}

// all calls f for every condition of the rule.
func (r *rule) all(f func(*condition)) {
	for _, group := range append(append([]conditions{r.when}, r.from...), r.to...) {
		for i := range group {
			f(&group[i])
		}
	}
}

func (r *rule) empty() bool { return len(r.from) == 0 && len(r.to) == 0 && len(r.when) == 0 }

func (r *rule) http() bool {
	found := false
	r.all(func(c *condition) { found = found || c.http })
	return found
}

// String names the rule for messages about another one.
func (r *rule) String() string {
	return fmt.Sprintf("%s/%s rule %d", r.policy.doc.Namespace, r.policy.doc.Name, r.index)
}

// view is one AuthorizationPolicy, taken apart.
type view struct {
	doc      *policy.Document
	spec     *securityv1beta1.AuthorizationPolicy
	action   securityv1beta1.AuthorizationPolicy_Action
	dryRun   bool
	provider string
	scope    scope
	rules    []rule

	issuers *issuers      // as far as they were asked for
	modes   map[mode]bool // whether a mode is certain, for those that were asked about
}

type sourceField struct {
	name, not   string
	family      family
	http        bool
	get, getNot func(*securityv1beta1.Source) []string
}

type operationField struct {
	name, not   string
	family      family
	http        bool
	get, getNot func(*securityv1beta1.Operation) []string
}

// sourceFields and operationFields are only read.
var sourceFields = []sourceField{
	{"principals", "notPrincipals", famPrincipal, false, (*securityv1beta1.Source).GetPrincipals, (*securityv1beta1.Source).GetNotPrincipals},
	{"requestPrincipals", "notRequestPrincipals", famRequestPrincipal, true, (*securityv1beta1.Source).GetRequestPrincipals, (*securityv1beta1.Source).GetNotRequestPrincipals},
	{"namespaces", "notNamespaces", famNamespace, false, (*securityv1beta1.Source).GetNamespaces, (*securityv1beta1.Source).GetNotNamespaces},
	{"serviceAccounts", "notServiceAccounts", famAccount, false, (*securityv1beta1.Source).GetServiceAccounts, (*securityv1beta1.Source).GetNotServiceAccounts},
	{"trustDomains", "notTrustDomains", famDomain, false, (*securityv1beta1.Source).GetTrustDomains, (*securityv1beta1.Source).GetNotTrustDomains},
	{"ipBlocks", "notIpBlocks", famIP, false, (*securityv1beta1.Source).GetIpBlocks, (*securityv1beta1.Source).GetNotIpBlocks},
	{"remoteIpBlocks", "notRemoteIpBlocks", famIP, false, (*securityv1beta1.Source).GetRemoteIpBlocks, (*securityv1beta1.Source).GetNotRemoteIpBlocks},
}

var operationFields = []operationField{
	{"hosts", "notHosts", famHost, true, (*securityv1beta1.Operation).GetHosts, (*securityv1beta1.Operation).GetNotHosts},
	{"ports", "notPorts", famPort, false, (*securityv1beta1.Operation).GetPorts, (*securityv1beta1.Operation).GetNotPorts},
	{"methods", "notMethods", famHeader, true, (*securityv1beta1.Operation).GetMethods, (*securityv1beta1.Operation).GetNotMethods},
	{"paths", "notPaths", famPath, true, (*securityv1beta1.Operation).GetPaths, (*securityv1beta1.Operation).GetNotPaths},
}

// whenKeys maps a key, or its part before the bracket, to what it reads. It is only read.
var whenKeys = []struct {
	key, attr string
	family    family
	http      bool
}{
	{"source.principal", "principals", famPrincipal, false},
	{"source.namespace", "namespaces", famNamespace, false},
	{"source.serviceAccount", "serviceAccounts", famAccount, false},
	{"source.trustDomain", "trustDomains", famDomain, false},
	{"source.ip", "ipBlocks", famIP, false},
	{"remote.ip", "remoteIpBlocks", famIP, false},
	{"request.auth.principal", "requestPrincipals", famRequestPrincipal, true},
	{"destination.port", "ports", famPort, false},
	{"destination.ip", "destination.ip", famIP, false},
	{"connection.sni", "connection.sni", famString, false},
	{"request.headers", "", famHeader, true},
	{"request.auth.", "", famString, true},
	{"experimental.", "", famMetadata, false},
}

func newView(doc *policy.Document, spec *securityv1beta1.AuthorizationPolicy, root string) *view {
	v := &view{
		doc:      doc,
		spec:     spec,
		action:   spec.GetAction(),
		dryRun:   dryRun(doc),
		provider: spec.GetProvider().GetName(),
		scope:    newScope(doc, spec, root),
		rules:    make([]rule, len(spec.GetRules())),
	}
	for i, r := range spec.GetRules() {
		field := fmt.Sprintf("spec.rules[%d]", i)
		out := &v.rules[i]
		*out = rule{policy: v, index: i, field: field, when: whenConditions(r.GetWhen(), field)}
		for j, from := range r.GetFrom() {
			out.from = append(out.from, sourceConditions(from.GetSource(), fmt.Sprintf("%s.from[%d].source", field, j)))
		}
		for j, to := range r.GetTo() {
			out.to = append(out.to, operationConditions(to.GetOperation(), fmt.Sprintf("%s.to[%d].operation", field, j)))
		}
	}
	return v
}

func sourceConditions(s *securityv1beta1.Source, field string) conditions {
	var out conditions
	for _, f := range sourceFields {
		if values, not := f.get(s), f.getNot(s); len(values)+len(not) > 0 {
			out = append(out, condition{f.name, f.name, f.family, f.http, values, not, field + "." + f.name, field + "." + f.not})
		}
	}
	return out
}

func operationConditions(o *securityv1beta1.Operation, field string) conditions {
	var out conditions
	for _, f := range operationFields {
		if values, not := f.get(o), f.getNot(o); len(values)+len(not) > 0 {
			out = append(out, condition{f.name, f.name, f.family, f.http, values, not, field + "." + f.name, field + "." + f.not})
		}
	}
	return out
}

func whenConditions(when []*securityv1beta1.Condition, ruleField string) conditions {
	var out conditions
	for i, w := range when {
		field := fmt.Sprintf("%s.when[%d]", ruleField, i)
		c := condition{w.GetKey(), w.GetKey(), famString, false, w.GetValues(), w.GetNotValues(), field + ".values", field + ".notValues"}
		for _, k := range whenKeys {
			if c.label == k.key || k.attr == "" && strings.HasPrefix(c.label, k.key) {
				c.family, c.http = k.family, k.http
				if k.attr != "" {
					c.attr = k.attr
				}
				break
			}
		}
		if strings.HasPrefix(c.attr, "request.headers[") {
			c.attr = strings.ToLower(c.attr)
		}
		out = append(out, c)
	}
	return out
}

// parsePrefix reads an address or a CIDR; the second result is false for anything else.
func parsePrefix(v string) (netip.Prefix, bool) {
	if p, err := netip.ParsePrefix(v); err == nil {
		return p, true
	}
	a, err := netip.ParseAddr(v)
	if err != nil {
		return netip.Prefix{}, false
	}
	a = a.WithZone("")
	return netip.PrefixFrom(a, a.BitLen()), true
}
