package policy

import (
	"net/netip"
	"slices"
)

// Form is what a rule demands of one kind of traffic, for those who reason about rules instead of asking them: some of
// From AND some of To AND all of When; an empty list is true (authorization-policy §3.1). It is a copy.
type Form struct {
	From, To [][]Demand // alternatives; all demands of one must hold
	When     []Demand
}

// Demand is one field of a source or operation, or one when key: (Values empty OR some value matches) AND (NotValues
// empty OR no notValue matches).
type Demand struct {
	Attribute         Attribute
	Values, NotValues []Pattern
}

// Attribute is what a demand reads.
type Attribute struct {
	Kind AttributeKind
	Name string   // header name in lower case, or metadata namespace
	Path []string // claim path, or the metadata key alone
}

// AttributeKind is a thing of a request that demands read.
type AttributeKind uint8

// Attribute kinds; see the fields of [Request].
const (
	AttributeNames            = AttributeKind(attrNames)
	AttributeSourceIP         = AttributeKind(attrSourceIP)
	AttributeRemoteIP         = AttributeKind(attrRemoteIP)
	AttributeDestIP           = AttributeKind(attrDestIP)
	AttributeDestPort         = AttributeKind(attrDestPort)
	AttributeSNI              = AttributeKind(attrSNI)
	AttributeMethod           = AttributeKind(attrMethod)
	AttributePath             = AttributeKind(attrPath)
	AttributeHost             = AttributeKind(attrHost)
	AttributeHeader           = AttributeKind(attrHeader)
	AttributeRequestPrincipal = AttributeKind(attrRequestPrincipal)
	AttributeClaim            = AttributeKind(attrClaim)
	AttributeMetadata         = AttributeKind(attrMetadata)
)

// PatternKind says how a [Pattern] compares.
type PatternKind uint8

// Pattern kinds (authorization-policy §1.3).
const (
	PatternExact            = PatternKind(opExact)            // equal to Literal
	PatternPrefix           = PatternKind(opPrefix)           // starts with Literal
	PatternSuffix           = PatternKind(opSuffix)           // ends with Literal
	PatternNonEmpty         = PatternKind(opNonEmpty)         // any non-empty text
	PatternExists           = PatternKind(opExists)           // any text
	PatternSpiffeSuffix     = PatternKind(opSpiffeSuffix)     // spiffe:// + anything + Literal
	PatternNamespace        = PatternKind(opNamespace)        // contains Parts in this order
	PatternServiceAccount   = PatternKind(opServiceAccount)   // spiffe://…/ns/Literal/[…/]sa/Account[/…]
	PatternTrustDomain      = PatternKind(opTrustDomain)      // spiffe:// + Parts, no slash between them, + /
	PatternTemplate         = PatternKind(opTemplate)         // Parts with {*} between them; if Deep {**} and Tail follow
	PatternCIDR             = PatternKind(opCIDR)             // address inside Prefix
	PatternPort             = PatternKind(opPort)             // equal to Port
	PatternRequestPrincipal = PatternKind(opRequestPrincipal) // Issuer and Subject
)

// Pattern is one value of a demand as it is compared, after trust-domain aliases.
type Pattern struct {
	Kind             PatternKind
	Literal, Account string
	Parts            []string
	Deep             bool
	Tail             string
	Prefix           netip.Prefix
	Port             uint16
	Element          bool // of metadata: compared with the elements of a list
	Issuer, Subject  *Pattern
}

// Rules lists the policy's rules in the order of the document.
func (p *Policy) Rules() []*Rule { return slices.Clone(p.rules) }

// Form is what the rule demands of a TCP connection or of an HTTP request. It is false when the rule is lost on TCP (§5).
func (r *Rule) Form(tcp bool) (Form, bool) {
	body := r.http
	if tcp {
		body = r.tcp
	}
	if body == nil {
		return Form{}, false
	}
	return Form{From: demandLists(body.from), To: demandLists(body.to), When: demands(body.when)}, true
}

func demandLists(cs []clause) [][]Demand {
	var out [][]Demand
	for _, c := range cs {
		out = append(out, demands(c))
	}
	return out
}

func demands(c clause) []Demand {
	var out []Demand
	for i := range c {
		out = append(out, Demand{
			Attribute: c[i].attr.public(),
			Values:    patterns(c[i].values),
			NotValues: patterns(c[i].notValues),
		})
	}
	return out
}

func (a *attribute) public() Attribute {
	return Attribute{Kind: AttributeKind(a.kind), Name: a.name, Path: slices.Clone(a.path)}
}

func patterns(ms []matcher) []Pattern {
	var out []Pattern
	for i := range ms {
		out = append(out, ms[i].pattern())
	}
	return out
}

func (m *matcher) pattern() Pattern {
	p := Pattern{
		Kind: PatternKind(m.op), Literal: m.lit, Account: m.sub, Parts: slices.Clone(m.parts), Prefix: m.prefix, Port: m.port, Element: m.element,
	}
	if m.op == opTemplate {
		p.Parts, p.Deep, p.Tail = slices.Clone(m.template.head), m.template.deep, m.template.tail
	}
	if m.op == opRequestPrincipal {
		iss, sub := m.iss.pattern(), m.jwt.pattern()
		p.Issuer, p.Subject = &iss, &sub
	}
	return p
}
