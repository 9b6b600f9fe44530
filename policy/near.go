package policy

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// nearestValue finds the value that a request came nearest to, and says in words what was between them.
func nearestValue(c *condition, got []string) (value, why string, nearness float64) {
	best := -1.0
	for _, g := range got {
		for i := range c.values {
			m := &c.values[i]
			score, words := near(c.attr.kind, m, g)
			if score > best {
				best, value = score, m.text
				why = fmt.Sprintf("%q is not %s", g, words)
			}
		}
	}
	return value, why, max(best, 0)
}

// near compares one value of a request with one matcher it misses.
func near(kind attrKind, m *matcher, got string) (score float64, words string) {
	want := fmt.Sprintf("%q", m.text)
	switch {
	case m.op == opCIDR:
		return nearAddr(m, got)
	case m.op == opPort:
		return 0, want
	case kind == attrNames:
		return nearIdentity(m, got)
	case m.op == opRequestPrincipal:
		return 0.3, want + " (issuer and subject are compared apart, split at the last slash)"
	}
	lit := m.lit
	if m.op == opTemplate {
		lit = m.text
	}
	g := got
	if kind == attrHost {
		g = asciiLower(got)
	}
	switch {
	case strings.EqualFold(lit, g) && m.op == opExact:
		return 0.98, want + ": it differs only in case"
	case kind == attrPath && strings.TrimRight(g, "/") == strings.TrimRight(lit, "/") && m.op == opExact:
		return 0.97, want + ": it differs only in a trailing slash"
	case kind == attrHost && hostOnly(g) == hostOnly(lit):
		return 0.97, want + ": it differs only in the port (list both, " + hostOnly(lit) + " and " + hostOnly(lit) + ":*)"
	case m.op == opExact && strings.HasPrefix(g, lit) && lit != "":
		return 0.9, want + ": it goes on after it (" + lit + "* would match)"
	case m.op == opPrefix && foldedPrefix(g, lit):
		return 0.95, want + ": its start differs only in case"
	case m.op == opExact && strings.Contains(m.text, "*"):
		return commonShare(lit, g), want + ": a star inside a value is an ordinary character" + templateHint(kind)
	}
	n := commonPrefix(lit, g)
	if n > 1 {
		return commonShare(lit, g), fmt.Sprintf("%s: they agree up to %q", want, g[:n])
	}
	return commonShare(lit, g), want
}

func templateHint(kind attrKind) string {
	if kind == attrPath {
		return ", use {*}"
	}
	return ""
}

func foldedPrefix(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}

func hostOnly(h string) string {
	if host, _, err := net.SplitHostPort(h); err == nil {
		return host
	}
	return h
}

// commonShare is how much of two texts is a common start, from 0 to 0.8.
func commonShare(a, b string) float64 {
	longest := max(len(a), len(b))
	if longest == 0 {
		return 0
	}
	return 0.8 * float64(commonPrefix(a, b)) / float64(longest)
}

// nearIdentity compares SPIFFE identities part by part.
func nearIdentity(m *matcher, got string) (float64, string) {
	want := fmt.Sprintf("%q", m.text)
	td, ns, sa, ok := identityParts(got)
	if !ok {
		return 0, want + ": it is not of the form spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT"
	}
	switch m.op {
	case opServiceAccount:
		switch {
		case ns == m.lit:
			return 0.6, fmt.Sprintf("%s: same namespace %s, service account %q", want, ns, sa)
		case sa == m.sub:
			return 0.5, fmt.Sprintf("%s: same service account, namespace %q instead of %q", want, ns, m.lit)
		}
		return 0, fmt.Sprintf("%s (service account %s of namespace %s)", want, m.sub, m.lit)
	case opNamespace:
		return 0, fmt.Sprintf("%s: its namespace is %q", want, ns)
	case opTrustDomain:
		return 0, fmt.Sprintf("%s: its trust domain is %q", want, td)
	}
	wtd, wns, wsa, ok := identityParts(m.lit)
	if !ok || m.op != opExact {
		return commonShare(m.lit, got), want
	}
	var differ []string
	if td != wtd {
		differ = append(differ, fmt.Sprintf("trust domain %q", td))
	}
	if ns != wns {
		differ = append(differ, fmt.Sprintf("namespace %q", ns))
	}
	if sa != wsa {
		differ = append(differ, fmt.Sprintf("service account %q", sa))
	}
	return 0.9 - 0.3*float64(len(differ)), want + ": it has " + strings.Join(differ, " and ")
}

// identityParts splits a canonical SPIFFE identity of a mesh.
func identityParts(id string) (td, ns, sa string, ok bool) {
	p := strings.Split(strings.TrimPrefix(id, spiffeScheme), "/")
	if !strings.HasPrefix(id, spiffeScheme) || len(p) != 5 || p[1] != "ns" || p[3] != "sa" {
		return "", "", "", false
	}
	return p[0], p[2], p[4], true
}

func nearAddr(m *matcher, got string) (float64, string) {
	a, err := netip.ParseAddr(got)
	want := fmt.Sprintf("in %s", m.text)
	if err != nil {
		return 0, want
	}
	if a.Is4() != m.prefix.Addr().Is4() {
		return 0, want + ": IPv4 and IPv6 never match each other"
	}
	for bits := m.prefix.Bits() - 1; bits > 0; bits-- {
		if p, err := m.prefix.Addr().Prefix(bits); err == nil && p.Contains(a) {
			return 0.8 * float64(bits) / float64(m.prefix.Bits()), fmt.Sprintf("%s: both are in %s", want, p)
		}
	}
	return 0, want
}
