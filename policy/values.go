package policy

import (
	"fmt"
	"strconv"
	"strings"
)

// The builders below compile one policy value of each family of authorization-policy §1.3.

// buildString is STR: "*" is any non-empty text, a leading star a suffix, a trailing star a prefix, else exact.
func buildString(_ *compiler, v string) ([]matcher, error) {
	return []matcher{starred(v, opNonEmpty)}, nil
}

// buildHeaderValue is HDR: as STR, but "*" matches a header that is present and empty too.
func buildHeaderValue(_ *compiler, v string) ([]matcher, error) {
	return []matcher{starred(v, opExists)}, nil
}

// buildHost is HOST: HDR on :authority without regard to case (ASCII).
func buildHost(_ *compiler, v string) ([]matcher, error) {
	m := starred(asciiLower(v), opExists)
	m.text = v
	return []matcher{m}, nil
}

func starred(v string, star op) matcher {
	switch {
	case v == "*":
		return matcher{op: star, text: v}
	case strings.HasPrefix(v, "*"):
		return matcher{op: opSuffix, lit: v[1:], text: v}
	case strings.HasSuffix(v, "*"):
		return matcher{op: opPrefix, lit: v[:len(v)-1], text: v}
	}
	return matcher{op: opExact, lit: v, text: v}
}

// buildPath is STR, or a template when the value holds {*} or {**} (§1.7).
func buildPath(c *compiler, v string) ([]matcher, error) {
	if isTemplate(v) {
		return []matcher{{op: opTemplate, template: newTemplate(v), text: v}}, nil
	}
	return buildString(c, v)
}

// buildPrincipal is PRIN, after trust-domain aliases. The policy value has no scheme; Istio never matches one that has
// it, here it is taken as meant.
func buildPrincipal(c *compiler, v string) ([]matcher, error) {
	bare, hadScheme := strings.CutPrefix(v, spiffeScheme)
	if hadScheme && bare == "*" {
		return []matcher{{op: opPrefix, lit: spiffeScheme, text: v}}, nil
	}
	expanded := c.expandPrincipal(bare)
	out := make([]matcher, 0, len(expanded))
	for _, e := range expanded {
		m := starred(e, opNonEmpty)
		switch m.op {
		case opExact, opPrefix:
			m.lit = spiffeScheme + m.lit
		case opSuffix:
			m.op = opSpiffeSuffix
		}
		out = append(out, m)
	}
	return out, nil
}

// expandPrincipal rewrites the trust domain of a principal for every name the mesh's own trust domain has (§1.6).
// Only values of exactly five parts, td/ns/NS/sa/SA, are rewritten.
func (c *compiler) expandPrincipal(v string) []string {
	if strings.Count(v, "/") != 4 {
		return []string{v}
	}
	td, rest, _ := strings.Cut(v, "/")
	if td == "*" || td != "cluster.local" && !c.inMesh(td) {
		return []string{v}
	}
	var out []string
	kept := false
	for _, d := range c.domains {
		if suffix, ok := strings.CutPrefix(td, "*"); ok && strings.HasSuffix(d, suffix) {
			if !kept { // the wildcard already covers this name
				out, kept = append(out, v), true
			}
			continue
		}
		out = append(out, d+"/"+rest)
	}
	return out
}

// inMesh reports whether a trust-domain pattern and some name of the mesh's trust domain match, either way.
func (c *compiler) inMesh(td string) bool {
	for _, d := range c.domains {
		if starMatch(td, d) || starMatch(d, td) {
			return true
		}
	}
	return false
}

// starMatch compares v with a pattern that may start or end with a star.
func starMatch(pattern, v string) bool {
	m := starred(pattern, opExists)
	return m.matchText(v)
}

// buildNamespace is NS: every star is any text; the identity must contain /ns/PATTERN/.
func buildNamespace(_ *compiler, v string) ([]matcher, error) {
	parts := strings.Split(v, "*")
	parts[0] = "/ns/" + parts[0]
	parts[len(parts)-1] += "/"
	return []matcher{{op: opNamespace, parts: parts, text: v}}, nil
}

// buildServiceAccount is SA: ns/sa, or sa in the policy's own namespace.
func buildServiceAccount(c *compiler, v string) ([]matcher, error) {
	ns, sa, ok := strings.Cut(v, "/")
	if !ok {
		ns, sa = c.namespace, v
	}
	return []matcher{{op: opServiceAccount, lit: ns, sub: sa, text: v}}, nil
}

// buildTrustDomain is TD. A value equal to a name of the mesh's trust domain means all of them (§1.6).
func buildTrustDomain(c *compiler, v string) ([]matcher, error) {
	if v == "*" {
		return []matcher{{op: opPrefix, lit: spiffeScheme, text: v}}, nil
	}
	values := []string{v}
	for _, d := range c.domains {
		if d == v {
			values = c.domains
		}
	}
	out := make([]matcher, 0, len(values))
	for _, v := range values {
		out = append(out, matcher{op: opTrustDomain, parts: strings.SplitN(v, "*", 2), text: v})
	}
	return out, nil
}

// buildCIDR is IP: an address or a network; host bits are ignored and families never mix (§1.4).
func buildCIDR(_ *compiler, v string) ([]matcher, error) {
	p, err := parsePrefix(v)
	if err != nil {
		return nil, fmt.Errorf("%q is neither an IP address nor a CIDR", v)
	}
	return []matcher{{op: opCIDR, prefix: p, text: v}}, nil
}

// buildPort is PORT: a decimal number, leading zeros allowed.
func buildPort(_ *compiler, v string) ([]matcher, error) {
	n, err := strconv.ParseUint(v, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("%q is not a port", v)
	}
	return []matcher{{op: opPort, port: uint16(n), text: v}}, nil
}

// buildRequestPrincipal is RP: the value is split at its last slash into issuer and subject (§1.5).
func buildRequestPrincipal(_ *compiler, v string) ([]matcher, error) {
	iss, sub := requestPrincipal(v)
	return []matcher{{op: opRequestPrincipal, iss: &iss, jwt: &sub, text: v}}, nil
}

func requestPrincipal(v string) (iss, sub matcher) {
	any := matcher{op: opNonEmpty}
	exact := func(s string) matcher { return matcher{op: opExact, lit: s} }
	i := strings.LastIndexByte(v, '/')
	switch {
	case v == "*":
		return any, any
	case strings.HasPrefix(v, "*") && i < 0: // *X
		return any, matcher{op: opSuffix, lit: v[1:]}
	case strings.HasPrefix(v, "*"): // */S and *X/S: the subject is literal
		if i == 1 {
			return any, exact(v[i+1:])
		}
		return matcher{op: opSuffix, lit: v[1:i]}, exact(v[i+1:])
	case strings.HasSuffix(v, "*") && i < 0: // P*
		return matcher{op: opPrefix, lit: v[:len(v)-1]}, any
	case strings.HasSuffix(v, "/*"): // I/*
		return exact(v[:i]), any
	case strings.HasSuffix(v, "*"): // I/P*
		return exact(v[:i]), matcher{op: opPrefix, lit: v[i+1 : len(v)-1]}
	case i < 0: // I: a subject that is the empty text, in practice never
		return exact(v), exact("")
	}
	return exact(v[:i]), exact(v[i+1:])
}

func asciiLower(s string) string {
	for i := range len(s) {
		if 'A' <= s[i] && s[i] <= 'Z' {
			return strings.Map(func(r rune) rune {
				if 'A' <= r && r <= 'Z' {
					return r + ('a' - 'A')
				}
				return r
			}, s)
		}
	}
	return s
}

// buildMetadata is META: [v] matches an element of a list, v a string value; both are STR (§1.3).
func buildMetadata(_ *compiler, v string) ([]matcher, error) {
	m := starred(v, opNonEmpty)
	if inner, ok := strings.CutPrefix(v, "["); ok && strings.HasSuffix(inner, "]") {
		m = starred(strings.TrimSuffix(inner, "]"), opNonEmpty)
		m.element = true
	}
	m.text = v
	return []matcher{m}, nil
}
