package analysis

import (
	"github.com/writ-auth/writ/policy"
)

// Layers of a decision, as check and the decision log name them.
const (
	layerMTLS    = "mtls"
	layerJWT     = "jwt"
	layerDeny    = "deny"
	layerAllow   = "allow"
	layerDefault = "default"
)

// build makes the boxes of a side: what its CUSTOM policies ask for, and its segments in the order of the layers
// (authorization-policy §4.1).
func (m *model) build(s *side) {
	for provider, rules := range s.custom {
		for _, r := range rules {
			s.providers[provider] = append(s.providers[provider], m.ruleBoxes(s, r)...)
		}
	}
	m.buildMTLS(s)
	m.buildTokens(s)
	for _, r := range s.deny {
		s.segments = append(s.segments, segment{outcomeOf(Deny, layerDeny, r), m.ruleBoxes(s, r)})
	}
	for _, r := range s.allow {
		s.segments = append(s.segments, segment{outcomeOf(Allow, layerAllow, r), m.ruleBoxes(s, r)})
	}
	rest := outcomeOf(Allow, layerDefault, nil)
	if s.closed {
		rest = outcomeOf(Deny, layerAllow, nil)
	}
	s.segments = append(s.segments, segment{rest, []box{m.solver.everything()}})
}

func outcomeOf(d Decision, layer string, r *policy.Rule) Outcome {
	o := Outcome{Decision: d, Layer: layer}
	if r != nil {
		index := r.Index
		o.Policy, o.Rule = r.Policy.String(), &index
	}
	return o
}

// buildMTLS adds the callers without an identity on ports that are STRICT.
func (m *model) buildMTLS(s *side) {
	ports := s.bound.MTLSPorts()
	for i, p := range ports {
		if p.Mode != policy.ModeStrict {
			continue
		}
		b := m.solver.everything()
		caller, identity := m.identity()
		b[caller] = m.solver.full[caller].minus(m.dims[caller].has(identity))
		if p.Port != 0 {
			dim, port := m.port(p.Port)
			b[dim] = m.dims[dim].has(port)
		}
		for _, own := range ports {
			if i == 0 && own.Port != 0 {
				dim, port := m.port(own.Port)
				b[dim] = m.solver.of(b, dim).minus(m.dims[dim].has(port))
			}
		}
		if !anyEmpty(b) {
			s.segments = append(s.segments, segment{Outcome{Decision: Deny, Layer: layerMTLS, Policy: p.By}, []box{b}})
		}
	}
}

// buildTokens adds the tokens that no rule of the side takes: those of other issuers, and for other audiences.
func (m *model) buildTokens(s *side) {
	if s.tokens == nil {
		return
	}
	var boxes []box
	token, _ := m.dimension(policy.Attribute{Kind: policy.AttributeRequestPrincipal})
	for _, iss := range m.issuers {
		b := m.solver.everything()
		b[token] = m.dims[token].that(func(v *value) bool { return !v.absent && v.text == iss })
		known, open := false, false
		for _, r := range s.tokens {
			if r.Spec.GetIssuer() != iss {
				continue
			}
			known = true
			if len(r.Spec.GetAudiences()) == 0 {
				open = true
				continue
			}
			aud, wanted := m.audiences(r.Spec.GetAudiences())
			b[aud] = m.solver.of(b, aud).minus(m.dims[aud].has(wanted))
		}
		if (!known || !open) && !anyEmpty(b) {
			boxes = append(boxes, b)
		}
	}
	s.segments = append(s.segments, segment{Outcome{Decision: Deny, Layer: layerJWT}, boxes})
}

// ruleBoxes are the requests that a rule matches.
func (m *model) ruleBoxes(s *side, r *policy.Rule) []box {
	form, ok := r.Form(m.tcp)
	if !ok {
		return nil
	}
	when, ok := m.demands(s, m.solver.everything(), form.When)
	if !ok {
		return nil
	}
	var out []box
	for _, from := range orOne(form.From) {
		source, ok := m.demands(s, when, from)
		if !ok {
			continue
		}
		for _, to := range orOne(form.To) {
			if b, ok := m.demands(s, source, to); ok {
				out = append(out, b)
			}
		}
	}
	return out
}

// orOne is the alternatives, or one that demands nothing if there are none.
func orOne(alternatives [][]policy.Demand) [][]policy.Demand {
	if len(alternatives) == 0 {
		return [][]policy.Demand{nil}
	}
	return alternatives
}

// demands is the part of b that meets all demands, false if nothing does.
func (m *model) demands(s *side, b box, demands []policy.Demand) (box, bool) {
	out := append(box(nil), b...)
	for i := range demands {
		if ofTokens(demands[i].Attribute) && s.tokens == nil { // there is no token: only not-values are met
			if len(demands[i].Values) > 0 {
				return nil, false
			}
			continue
		}
		dim, values, not := m.demand(&demands[i])
		if values >= 0 {
			out[dim] = m.solver.of(out, dim).and(m.dims[dim].has(values))
		}
		if not >= 0 {
			out[dim] = m.solver.of(out, dim).minus(m.dims[dim].has(not))
		}
	}
	return out, !anyEmpty(out)
}

func anyEmpty(b box) bool {
	for _, cells := range b {
		if cells != nil && cells.empty() {
			return true
		}
	}
	return false
}
