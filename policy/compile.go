package policy

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"

	securityv1beta1 "istio.io/api/security/v1beta1"
)

// Policy is one compiled AuthorizationPolicy.
type Policy struct {
	Namespace, Name string
	Action          Action
	DryRun          bool
	Provider        string // CUSTOM only
	// Broken is set on the stand-in for a document that was never valid: it fails closed for whom it targets.
	Broken bool

	target
	ordinal int // position in the snapshot
	doc     *Document
	rules   []*Rule
}

// Document is the document the policy was compiled from.
func (p *Policy) Document() *Document { return p.doc }

// String is "namespace/name".
func (p *Policy) String() string { return p.Namespace + "/" + p.Name }

// Action is what an AuthorizationPolicy does with a request it matches.
type Action int

// Actions, in Istio's numbering.
const (
	ActionAllow Action = iota
	ActionDeny
	ActionAudit
	ActionCustom
)

// String is the action as documents spell it.
func (a Action) String() string {
	switch a {
	case ActionAllow:
		return "ALLOW"
	case ActionDeny:
		return "DENY"
	case ActionAudit:
		return "AUDIT"
	case ActionCustom:
		return "CUSTOM"
	}
	return "Action(" + strconv.Itoa(int(a)) + ")"
}

// MarshalText writes the action as documents spell it.
func (a Action) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// Rule is one rule of one policy, as it is named in verdicts.
type Rule struct {
	Policy *Policy
	Index  int // 0-based position in spec.rules

	id   string
	http *ruleBody
	tcp  *ruleBody // nil when the rule is lost on TCP (§5); http itself when it holds nothing of HTTP
}

// ID is Envoy's name of the rule, ns[NS]-policy[NAME]-rule[INDEX], with a prefix for CUSTOM (§4.3).
func (r *Rule) ID() string { return r.id }

// ruleBody is what a rule demands of one kind of traffic: some from AND some to AND every when. An absent list is true.
type ruleBody struct {
	from, to []clause
	when     clause
}

// clause is the conditions of one source or one operation, all of which must hold.
type clause []condition

func (c clause) matches(r *Request) bool {
	for i := range c {
		if !c[i].matches(r) {
			return false
		}
	}
	return true
}

func (b *ruleBody) matches(r *Request) bool {
	return anyClause(b.from, r) && anyClause(b.to, r) && b.when.matches(r)
}

func anyClause(cs []clause, r *Request) bool {
	for _, c := range cs {
		if c.matches(r) {
			return true
		}
	}
	return len(cs) == 0
}

// compiler turns one valid document into a Policy.
type compiler struct {
	mesh      Mesh
	domains   []string // trust domain, then its aliases (§1.6)
	namespace string   // of the policy being compiled
}

func newCompiler(mesh Mesh) *compiler {
	c := &compiler{mesh: mesh, domains: []string{mesh.TrustDomain}}
	for _, a := range mesh.TrustDomainAliases {
		if a != "" && a != mesh.TrustDomain {
			c.domains = append(c.domains, a)
		}
	}
	return c
}

// policy compiles doc, which must be an AuthorizationPolicy without errors.
func (c *compiler) policy(doc *Document) (*Policy, error) {
	spec, ok := doc.Spec.(*securityv1beta1.AuthorizationPolicy)
	if !ok {
		return nil, fmt.Errorf("%s: no AuthorizationPolicy spec", doc.Object)
	}
	c.namespace = doc.Namespace
	p := &Policy{
		Namespace: doc.Namespace,
		Name:      doc.Name,
		Action:    Action(spec.GetAction()),
		DryRun:    dryRun(doc),
		Provider:  spec.GetProvider().GetName(),
		target:    newTarget(doc.Namespace, spec),
		doc:       doc,
		rules:     make([]*Rule, 0, len(spec.GetRules())),
	}
	for i, r := range spec.GetRules() {
		body, err := c.body(r)
		if err != nil {
			return nil, fmt.Errorf("%s: spec.rules[%d]: %w", doc.Object, i, err)
		}
		p.rules = append(p.rules, &Rule{Policy: p, Index: i, id: ruleID(p, i), http: body, tcp: tcpForm(p.Action, body)})
	}
	return p, nil
}

// ruleID is the name that Istio gives a rule in Envoy's configuration (§4.3).
func ruleID(p *Policy, i int) string {
	provider := ""
	if p.Action == ActionCustom {
		provider = "istio-ext-authz-" + p.Provider + "-"
	}
	return provider + "ns[" + p.Namespace + "]-policy[" + p.Name + "]-rule[" + strconv.Itoa(i) + "]"
}

// dryRun reads the annotation as Istio does: any Go boolean; a text that is none counts as enforced (§7).
func dryRun(doc *Document) bool {
	for _, annotation := range [...]string{DryRunAnnotation, CustomDryRunAnnotation} {
		if on, err := strconv.ParseBool(doc.Annotations[annotation]); err == nil && on {
			return true
		}
	}
	return false
}

// brokenPolicy stands in for a document that was never valid, so that nothing it was meant to forbid gets through:
// DENY and CUSTOM match everything in its scope, ALLOW matches nothing but counts as present. What cannot be read is
// taken at its widest: an unknown action is DENY, an unknown selector is the whole namespace, an unknown namespace is
// the root namespace. AUDIT and dry-run documents enforce nothing and have no stand-in. A RequestAuthentication denies:
// without its rules nobody's token can be told from a forged one.
func (c *compiler) brokenPolicy(doc *Document) *Policy {
	p := &Policy{Namespace: doc.Namespace, Name: doc.Name, Action: ActionDeny, Broken: true, doc: doc}
	if p.Namespace == "" {
		p.Namespace = c.mesh.RootNamespace
	}
	if p.Name == "" { // say where it is, for a log that has only the name
		p.Name = fmt.Sprintf("(%s:%d)", filepath.Base(doc.File), doc.Line)
	}
	p.target = target{namespace: p.Namespace}
	if spec, ok := doc.Spec.(targeted); ok && !doc.targetUnread {
		p.target = newTarget(p.Namespace, spec)
	}
	if spec, ok := doc.Spec.(*securityv1beta1.AuthorizationPolicy); ok && !doc.actionUnread {
		p.Action = Action(spec.GetAction())
		p.Provider = spec.GetProvider().GetName()
	}
	if p.Action == ActionAudit || dryRun(doc) && !doc.problemAt("metadata") {
		return nil
	}
	if p.Action != ActionAllow {
		p.rules = []*Rule{{Policy: p, id: ruleID(p, 0), http: &ruleBody{}, tcp: &ruleBody{}}}
	}
	return p
}

// problemAt reports whether an error lies at field, inside it, or above it (a document that does not parse at all).
func (d *Document) problemAt(field string) bool {
	for i := range d.Problems {
		p := &d.Problems[i]
		if p.Severity == SeverityError && (strings.HasPrefix(p.Field, field) || p.Field == "" || p.Field == "spec") {
			return true
		}
	}
	return false
}

func (c *compiler) body(r *securityv1beta1.Rule) (*ruleBody, error) {
	b := &ruleBody{}
	for i, f := range r.GetFrom() {
		cl, err := c.source(f.GetSource())
		if err != nil {
			return nil, fmt.Errorf("from[%d].source.%w", i, err)
		}
		b.from = append(b.from, cl)
	}
	for i, t := range r.GetTo() {
		cl, err := c.operation(t.GetOperation())
		if err != nil {
			return nil, fmt.Errorf("to[%d].operation.%w", i, err)
		}
		b.to = append(b.to, cl)
	}
	for i, w := range r.GetWhen() {
		cond, err := c.when(w)
		if err != nil {
			return nil, fmt.Errorf("when[%d]: %w", i, err)
		}
		b.when = append(b.when, cond)
	}
	return b, nil
}

// builder compiles one value of a family; it may return several (trust-domain aliases).
type builder func(c *compiler, v string) ([]matcher, error)

// condition compiles one field. Both lists empty gives no condition.
func (c *compiler) condition(field string, attr attribute, httpOnly bool, build builder, values, notValues []string) (condition, error) {
	cond := condition{field: field, attr: attr, httpOnly: httpOnly}
	var err error
	if cond.values, err = c.matchers(build, values); err != nil {
		return cond, fmt.Errorf("%s: %w", field, err)
	}
	if cond.notValues, err = c.matchers(build, notValues); err != nil {
		return cond, fmt.Errorf("%s: %w", notField(field), err)
	}
	return cond, nil
}

func (c *compiler) matchers(build builder, values []string) ([]matcher, error) {
	if len(values) == 0 {
		return nil, nil
	}
	out := make([]matcher, 0, len(values))
	for _, v := range values {
		ms, err := build(c, v)
		if err != nil {
			return nil, err
		}
		out = append(out, ms...)
	}
	return out, nil
}

// notField is the name of a field's negative twin.
func notField(field string) string { return "not" + strings.ToUpper(field[:1]) + field[1:] }

type fieldValues struct {
	field     string
	attr      attrKind
	httpOnly  bool
	build     builder
	values    []string
	notValues []string
}

func (c *compiler) clause(fields []fieldValues) (clause, error) {
	var cl clause
	for i := range fields {
		f := &fields[i]
		if len(f.values) == 0 && len(f.notValues) == 0 {
			continue
		}
		cond, err := c.condition(f.field, attribute{kind: f.attr}, f.httpOnly, f.build, f.values, f.notValues)
		if err != nil {
			return nil, err
		}
		cl = append(cl, cond)
	}
	return cl, nil
}

// source compiles the fields of §1.4. ipBlocks is the direct peer, remoteIpBlocks the address after x-forwarded-for.
func (c *compiler) source(s *securityv1beta1.Source) (clause, error) {
	return c.clause([]fieldValues{
		{"principals", attrNames, false, buildPrincipal, s.GetPrincipals(), s.GetNotPrincipals()},
		{"requestPrincipals", attrRequestPrincipal, true, buildRequestPrincipal, s.GetRequestPrincipals(), s.GetNotRequestPrincipals()},
		{"namespaces", attrNames, false, buildNamespace, s.GetNamespaces(), s.GetNotNamespaces()},
		{"serviceAccounts", attrNames, false, buildServiceAccount, s.GetServiceAccounts(), s.GetNotServiceAccounts()},
		{"trustDomains", attrNames, false, buildTrustDomain, s.GetTrustDomains(), s.GetNotTrustDomains()},
		{"ipBlocks", attrSourceIP, false, buildCIDR, s.GetIpBlocks(), s.GetNotIpBlocks()},
		{"remoteIpBlocks", attrRemoteIP, false, buildCIDR, s.GetRemoteIpBlocks(), s.GetNotRemoteIpBlocks()},
	})
}

func (c *compiler) operation(o *securityv1beta1.Operation) (clause, error) {
	return c.clause([]fieldValues{
		{"paths", attrPath, true, buildPath, o.GetPaths(), o.GetNotPaths()},
		{"methods", attrMethod, true, buildHeaderValue, o.GetMethods(), o.GetNotMethods()},
		{"hosts", attrHost, true, buildHost, o.GetHosts(), o.GetNotHosts()},
		{"ports", attrDestPort, false, buildPort, o.GetPorts(), o.GetNotPorts()},
	})
}

// tcpForm is the rule as it applies to a TCP connection (§5): ALLOW loses a rule that needs HTTP, the other actions
// take each HTTP condition as true.
func tcpForm(action Action, b *ruleBody) *ruleBody {
	if !b.needsHTTP() {
		return b
	}
	if action == ActionAllow {
		return nil
	}
	t := &ruleBody{when: dropHTTP(b.when)}
	for _, c := range b.from {
		t.from = append(t.from, dropHTTP(c))
	}
	for _, c := range b.to {
		t.to = append(t.to, dropHTTP(c))
	}
	return t
}

func (b *ruleBody) needsHTTP() bool {
	for _, c := range append(append([]clause{b.when}, b.from...), b.to...) {
		for i := range c {
			if c[i].httpOnly {
				return true
			}
		}
	}
	return false
}

func dropHTTP(c clause) clause {
	var out clause
	for i := range c {
		if !c[i].httpOnly {
			out = append(out, c[i])
		}
	}
	return out
}

func parsePrefix(v string) (netip.Prefix, error) {
	if strings.Contains(v, "/") {
		p, err := netip.ParsePrefix(v)
		return p.Masked(), err
	}
	a, err := netip.ParseAddr(v)
	if err != nil {
		return netip.Prefix{}, err
	}
	a = a.WithZone("")
	return netip.PrefixFrom(a, a.BitLen()), nil
}

// familyBuilders compile the values of a when key by its family.
var familyBuilders = map[family]builder{
	familyString:           buildString,
	familyHeader:           buildHeaderValue,
	familyPrincipal:        buildPrincipal,
	familyNamespace:        buildNamespace,
	familyServiceAccount:   buildServiceAccount,
	familyTrustDomain:      buildTrustDomain,
	familyRequestPrincipal: buildRequestPrincipal,
	familyClaim:            buildString,
	familyIP:               buildCIDR,
	familyPort:             buildPort,
	familyMetadata:         buildMetadata,
}

// when compiles one when entry. Its row in the table of keys says all there is to know of it.
func (c *compiler) when(w *securityv1beta1.Condition) (condition, error) {
	key, attr, err := lookupKey(w.GetKey())
	if err != nil {
		return condition{}, err
	}
	return c.condition(w.GetKey(), attr, key.httpOnly, familyBuilders[key.family], w.GetValues(), w.GetNotValues())
}
