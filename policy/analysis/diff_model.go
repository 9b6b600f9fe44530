package analysis

import (
	"fmt"
	"slices"
	"strings"

	"github.com/writ-auth/writ/policy"
)

// maxBoxes bounds how many combinations of sources and operations the rules of one workload may have.
const maxBoxes = 50_000

// model is everything that can be asked of one workload by one kind of traffic, under the old and the new documents.
type model struct {
	tcp      bool
	rawPaths bool // as in [DiffOptions]
	dims     []*dimension
	byKey    map[string]int
	issuers  []string // of the token rules of either side, and one of none
	sides    [2]*side
	solver   *solver
	// impossible are points that stand for no request.
	impossible []box
	gaps       []string // why the model is not complete
	built      bool     // there is something to compare
}

// side is one of the two sets of documents, for one workload.
type side struct {
	bound  *policy.Bound
	tokens []policy.JWTRule // nil: tokens are not looked at
	custom map[string][]*policy.Rule
	deny   []*policy.Rule // in the order in which they are named
	allow  []*policy.Rule
	closed bool // an enforced ALLOW policy applies

	providers map[string][]box
	segments  []segment
}

// segment is the requests that are decided by one thing, unless an earlier segment has them.
type segment struct {
	outcome Outcome // without Providers
	boxes   []box
}

func newModel(old, new *policy.Bound, tcp, rawPaths bool) *model {
	m := &model{tcp: tcp, rawPaths: rawPaths, byKey: map[string]int{}}
	for i, b := range []*policy.Bound{old, new} {
		m.sides[i] = newSide(b, tcp)
	}
	m.collectIssuers()
	m.collectFeatures()
	for _, d := range m.dims {
		d.divide(m.issuers)
		if d.gap != "" {
			m.gaps = append(m.gaps, d.name()+": "+d.gap)
		}
	}
	m.entangled()
	m.solver = newSolver(m.dims)
	m.findImpossible()
	if m.sides[0].size(tcp)+m.sides[1].size(tcp) > maxBoxes {
		m.gaps = append(m.gaps, fmt.Sprintf("the rules combine more than %d sources and operations; nothing was compared", maxBoxes))
		return m
	}
	for _, s := range m.sides {
		m.build(s)
	}
	m.built = true
	return m
}

// size counts the boxes of the side's rules.
func (s *side) size(tcp bool) int {
	n := 0
	s.rules(func(r *policy.Rule) {
		form, _ := r.Form(tcp)
		n += max(1, len(form.From)) * max(1, len(form.To))
	})
	return n
}

func newSide(b *policy.Bound, tcp bool) *side {
	s := &side{bound: b, custom: map[string][]*policy.Rule{}, providers: map[string][]box{}}
	if b.Authentication != nil && !tcp {
		s.tokens = b.Authentication.Rules
	}
	for _, p := range b.Rules.Policies() {
		switch {
		case p.DryRun || p.Action == policy.ActionAudit:
		case p.Action == policy.ActionCustom:
			s.custom[p.Provider] = append(s.custom[p.Provider], p.Rules()...)
		case p.Action == policy.ActionDeny:
			s.deny = append(s.deny, p.Rules()...)
		default:
			s.allow, s.closed = append(s.allow, p.Rules()...), true
		}
	}
	byID := func(a, b *policy.Rule) int { return strings.Compare(a.ID(), b.ID()) }
	slices.SortStableFunc(s.deny, byID)
	slices.SortStableFunc(s.allow, byID)
	return s
}

// rules calls f for every enforced rule of the side.
func (s *side) rules(f func(*policy.Rule)) {
	for _, rules := range s.custom {
		for _, r := range rules {
			f(r)
		}
	}
	for _, r := range slices.Concat(s.deny, s.allow) {
		f(r)
	}
}

// dimension returns the index of an attribute's dimension, and what of it a demand looks at.
func (m *model) dimension(a policy.Attribute) (int, role) {
	r := roleValue
	switch {
	case a.Kind == policy.AttributeRemoteIP && m.tcp: // without x-forwarded-for they are one
		a.Kind = policy.AttributeSourceIP
	case a.Kind == policy.AttributeHeader && a.Name == ":method":
		a = policy.Attribute{Kind: policy.AttributeMethod}
	case a.Kind == policy.AttributeHeader && a.Name == ":path":
		a, r = policy.Attribute{Kind: policy.AttributePath}, roleRaw
	case a.Kind == policy.AttributeHeader && a.Name == ":authority":
		a, r = policy.Attribute{Kind: policy.AttributeHost}, roleRaw
	case a.Kind == policy.AttributeRequestPrincipal:
		r = rolePrincipal
	case a.Kind == policy.AttributeClaim && len(a.Path) == 1 && a.Path[0] == "iss":
		a, r = policy.Attribute{Kind: policy.AttributeRequestPrincipal}, roleIssuer
	case a.Kind == policy.AttributeClaim && len(a.Path) == 1 && a.Path[0] == "sub":
		a, r = policy.Attribute{Kind: policy.AttributeRequestPrincipal}, roleSubject
	}
	key := fmt.Sprintf("%d %q %q", a.Kind, a.Name, a.Path)
	i, ok := m.byKey[key]
	if !ok {
		i = len(m.dims)
		m.byKey[key] = i
		m.dims = append(m.dims, &dimension{key: key, attribute: a, byKey: map[string]int{}, rawPaths: m.rawPaths})
	}
	return i, r
}

// ofTokens reports whether an attribute comes from a token.
func ofTokens(a policy.Attribute) bool {
	return a.Kind == policy.AttributeRequestPrincipal || a.Kind == policy.AttributeClaim
}

func (m *model) looksAtTokens() bool { return m.sides[0].tokens != nil || m.sides[1].tokens != nil }

func (m *model) collectIssuers() {
	if !m.looksAtTokens() {
		return
	}
	for _, s := range m.sides {
		for _, r := range s.tokens {
			if iss := r.Spec.GetIssuer(); !slices.Contains(m.issuers, iss) {
				m.issuers = append(m.issuers, iss)
			}
		}
	}
	m.issuers = append(m.issuers, "https://other-issuer.example")
}

// collectFeatures registers what both sides ask of requests.
func (m *model) collectFeatures() {
	for _, s := range m.sides {
		s.rules(func(r *policy.Rule) {
			form, _ := r.Form(m.tcp)
			for _, ds := range slices.Concat(form.From, form.To, [][]policy.Demand{form.When}) {
				for i := range ds {
					m.demand(&ds[i])
				}
			}
		})
		for _, p := range s.bound.MTLSPorts() {
			if p.Mode == policy.ModeStrict {
				m.identity()
			}
			if p.Port != 0 {
				m.port(p.Port)
			}
		}
	}
	if m.looksAtTokens() {
		token, _ := m.dimension(policy.Attribute{Kind: policy.AttributeRequestPrincipal})
		for _, iss := range m.issuers {
			m.dims[token].feature(roleIssuer, []policy.Pattern{{Kind: policy.PatternExact, Literal: iss}})
		}
		for _, s := range m.sides {
			for _, r := range s.tokens {
				if len(r.Spec.GetAudiences()) > 0 {
					m.audiences(r.Spec.GetAudiences())
				}
			}
		}
	}
	for _, d := range m.dims {
		if d.attribute.Kind == policy.AttributePath { // only CONNECT has no path
			m.connect()
		}
	}
}

// demand returns the dimension of a demand and its features, -1 where a list is empty. A demand of tokens where neither
// side looks at them has no dimension.
func (m *model) demand(d *policy.Demand) (dim, values, notValues int) {
	values, notValues = -1, -1
	if ofTokens(d.Attribute) && !m.looksAtTokens() {
		return -1, values, notValues
	}
	dim, role := m.dimension(d.Attribute)
	if len(d.Values) > 0 {
		values = m.dims[dim].feature(role, d.Values)
	}
	if len(d.NotValues) > 0 {
		notValues = m.dims[dim].feature(role, d.NotValues)
	}
	return dim, values, notValues
}

// identity is the feature of a caller with a SPIFFE ID.
func (m *model) identity() (dim, feature int) {
	dim, _ = m.dimension(policy.Attribute{Kind: policy.AttributeNames})
	return dim, m.dims[dim].feature(roleValue, []policy.Pattern{{Kind: policy.PatternPrefix, Literal: "spiffe://"}})
}

func (m *model) port(port uint16) (dim, feature int) {
	dim, _ = m.dimension(policy.Attribute{Kind: policy.AttributeDestPort})
	return dim, m.dims[dim].feature(roleValue, []policy.Pattern{{Kind: policy.PatternPort, Port: port}})
}

func (m *model) connect() (dim, feature int) {
	dim, _ = m.dimension(policy.Attribute{Kind: policy.AttributeMethod})
	return dim, m.dims[dim].feature(roleValue, []policy.Pattern{{Kind: policy.PatternExact, Literal: "CONNECT"}})
}

// audiences is the feature of a token that one of some audiences lets pass: a scheme and a trailing slash do not count
// (request-authentication §3.5).
func (m *model) audiences(audiences []string) (dim, feature int) {
	dim, _ = m.dimension(policy.Attribute{Kind: policy.AttributeClaim, Path: []string{"aud"}})
	var patterns []policy.Pattern
	for _, a := range audiences {
		for _, scheme := range []string{"", "https://", "http://"} {
			for _, slash := range []string{"", "/"} {
				patterns = append(patterns, policy.Pattern{Kind: policy.PatternExact, Literal: scheme + normalAudience(a) + slash})
			}
		}
	}
	return dim, m.dims[dim].feature(roleValue, patterns)
}

func normalAudience(a string) string {
	rest, found := strings.CutPrefix(a, "https://")
	if !found {
		rest = strings.TrimPrefix(a, "http://")
	}
	return strings.TrimSuffix(rest, "/")
}

// findImpossible lists what no request is: claims without a token, a claim that is both a text and an object, and a
// request without a path that is no CONNECT.
func (m *model) findImpossible() {
	absent := func(v *value) bool { return v.absent }
	present := func(v *value) bool { return !v.absent }
	exclude := func(a int, cells bitset, b int, others bitset) {
		if !cells.empty() && !others.empty() {
			out := m.solver.everything()
			out[a], out[b] = cells, others
			m.impossible = append(m.impossible, out)
		}
	}
	for i, d := range m.dims {
		switch d.attribute.Kind {
		case policy.AttributePath:
			method, connect := m.connect()
			exclude(i, d.that(absent), method, m.solver.full[method].minus(m.dims[method].has(connect)))
		case policy.AttributeClaim:
			token, _ := m.dimension(policy.Attribute{Kind: policy.AttributeRequestPrincipal})
			exclude(i, d.that(present), token, m.dims[token].that(absent))
			for j, o := range m.dims {
				if o.attribute.Kind == policy.AttributeClaim && len(o.attribute.Path) > len(d.attribute.Path) &&
					slices.Equal(d.attribute.Path, o.attribute.Path[:len(d.attribute.Path)]) {
					exclude(i, d.that(present), j, o.that(present))
				}
			}
		default:
		}
	}
}

// name is the attribute in words.
func (d *dimension) name() string {
	a := d.attribute
	switch a.Kind {
	case policy.AttributeNames:
		return "callers"
	case policy.AttributeSourceIP:
		return "source.ip"
	case policy.AttributeRemoteIP:
		return "remote.ip"
	case policy.AttributeDestIP:
		return "destination.ip"
	case policy.AttributeDestPort:
		return "ports"
	case policy.AttributeSNI:
		return "connection.sni"
	case policy.AttributeMethod:
		return "methods"
	case policy.AttributePath:
		return "paths"
	case policy.AttributeHost:
		return "hosts"
	case policy.AttributeHeader:
		return "request.headers[" + a.Name + "]"
	case policy.AttributeRequestPrincipal:
		return "requestPrincipals"
	case policy.AttributeClaim:
		return "request.auth.claims[" + strings.Join(a.Path, "][") + "]"
	default:
		return "experimental." + a.Name + "[" + strings.Join(a.Path, "") + "]"
	}
}
