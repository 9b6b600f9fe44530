package analysis

import (
	"slices"
	"strings"

	"github.com/writ-auth/writ/policy"
)

// entangled notes attributes that the search takes to be independent of one another and that come from the same header:
// remote.ip from x-forwarded-for, and a token from wherever its rules look for it.
func (m *model) entangled() {
	for _, d := range m.dims {
		a := d.attribute
		if a.Kind == policy.AttributePath && m.tokenParams() && slices.ContainsFunc(d.features, func(f feature) bool { return f.role == roleRaw }) {
			m.gaps = append(m.gaps, "its rules look at :path, and tokens are looked for in its query: what the one says of the other was not compared")
		}
		if a.Kind != policy.AttributeHeader {
			continue
		}
		if a.Name == "x-forwarded-for" && slices.ContainsFunc(m.dims, func(o *dimension) bool { return o.attribute.Kind == policy.AttributeRemoteIP }) {
			m.gaps = append(m.gaps, "its rules look at x-forwarded-for, and at remote.ip, which comes from it: what the one says of the other was not compared")
		}
		if m.looksAtTokens() && slices.Contains(m.tokenHeaders(), a.Name) {
			m.gaps = append(m.gaps, "its rules look at "+a.Name+", and tokens are looked for in it: what the one says of the other was not compared")
		}
	}
}

// tokenHeaders are the headers in which some rule looks for tokens (request-authentication §2).
func (m *model) tokenHeaders() []string {
	var out []string
	for _, s := range m.sides {
		for _, r := range s.tokens {
			from, params, cookies := r.Spec.GetFromHeaders(), r.Spec.GetFromParams(), r.Spec.GetFromCookies()
			for _, h := range from {
				out = append(out, strings.ToLower(h.GetName()))
			}
			if len(cookies) > 0 {
				out = append(out, "cookie")
			}
			if len(from)+len(params)+len(cookies) == 0 {
				out = append(out, "authorization")
			}
		}
	}
	return out
}

// tokenParams reports whether some rule looks for tokens in named parameters of the query.
func (m *model) tokenParams() bool {
	return slices.ContainsFunc(m.sides[:], func(s *side) bool {
		return slices.ContainsFunc(s.tokens, func(r policy.JWTRule) bool { return len(r.Spec.GetFromParams()) > 0 })
	})
}
