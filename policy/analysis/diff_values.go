package analysis

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/writ-auth/writ/policy"
)

// examples are values that the patterns of the attribute match, as people would write them. They only decide which value
// stands for a cell: the automaton finds the cells they miss.
func (d *dimension) examples() []string {
	var out []string
	for _, t := range d.terms {
		p := t.pattern
		if p.Kind == policy.PatternRequestPrincipal {
			p = p.Subject
		}
		out = append(out, d.example(p)...)
	}
	return out
}

func (d *dimension) example(p *policy.Pattern) []string {
	const td = "spiffe://cluster.local"
	lit := p.Literal
	switch p.Kind {
	case policy.PatternExact:
		return []string{lit}
	case policy.PatternPrefix:
		if d.attribute.Kind == policy.AttributeNames {
			return d.principals(lit)
		}
		return []string{lit + "x", lit}
	case policy.PatternSuffix:
		if d.attribute.Kind == policy.AttributePath && !strings.HasPrefix(lit, "/") {
			return []string{"/x" + lit}
		}
		return []string{"x" + lit, lit}
	case policy.PatternSpiffeSuffix:
		return []string{td + "/ns/other" + lit, td + lit, "spiffe://x" + lit}
	case policy.PatternNamespace:
		return []string{td + strings.Join(p.Parts, "x") + "sa/other", td + strings.Join(p.Parts, "") + "sa/other"}
	case policy.PatternServiceAccount:
		return []string{td + "/ns/" + lit + "/sa/" + p.Account}
	case policy.PatternTrustDomain:
		return []string{"spiffe://" + strings.Join(p.Parts, "x") + "/ns/other/sa/other"}
	case policy.PatternTemplate:
		path := strings.Join(p.Parts, "x")
		if p.Deep {
			return []string{path + "x" + p.Tail, path + "x/y" + p.Tail, path + p.Tail}
		}
		return []string{path}
	case policy.PatternNonEmpty, policy.PatternExists, policy.PatternCIDR, policy.PatternPort, policy.PatternRequestPrincipal:
	}
	return nil
}

// principals completes the beginning of a name to an identity.
func (d *dimension) principals(prefix string) []string {
	bare := strings.TrimPrefix(prefix, "spiffe://")
	parts := strings.Split(bare, "/")
	whole := []string{"x", "ns", "other", "sa", "other"}
	if parts[0] == "" {
		parts[0] = "cluster.local"
	}
	last := len(parts) - 1
	for i := last; i < len(whole); i++ {
		switch {
		case i > last:
			parts = append(parts, whole[i])
		case parts[i] == "":
			parts[i] = whole[i]
		case i%2 == 0 && i > 0:
			parts[i] += "x"
		case i%2 == 1:
			parts[i] = whole[i]
		}
	}
	return []string{"spiffe://" + strings.Join(parts, "/"), prefix + "x"}
}

// dividePorts finds the cells of the port: every port a rule names, and one that none does.
func (d *dimension) dividePorts() {
	var named []uint16
	for i := range d.features {
		for _, p := range d.features[i].patterns {
			if p.Port != 0 && !slices.Contains(named, p.Port) {
				named = append(named, p.Port)
			}
		}
	}
	other := uint16(8080)
	for slices.Contains(named, other) {
		other++
	}
	slices.Sort(named)
	for _, port := range append([]uint16{other}, named...) {
		bits := newBitset(len(d.features))
		for i := range d.features {
			if slices.ContainsFunc(d.features[i].patterns, func(p policy.Pattern) bool { return p.Port == port }) {
				bits.set(i)
			}
		}
		d.add(bits, value{port: port})
	}
}

// divideAddresses finds the cells of an address. Two networks are disjoint or one holds the other, so there is one cell
// for each network, less the networks inside it, and one for all the rest of either family.
func (d *dimension) divideAddresses() {
	var networks []netip.Prefix
	for i := range d.features {
		for _, p := range d.features[i].patterns {
			if p.Kind == policy.PatternCIDR && !p.Prefix.Addr().Is4In6() { // peers with IPv4 addresses are IPv4 peers
				networks = append(networks, p.Prefix.Masked())
			}
		}
	}
	all := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
	for _, network := range append(all, networks...) {
		var inside []netip.Prefix
		for _, n := range networks {
			if n.Addr().BitLen() == network.Addr().BitLen() && n.Bits() > network.Bits() && network.Contains(n.Addr()) {
				inside = append(inside, n)
			}
		}
		addr, found := outside(network, inside)
		if !found {
			continue
		}
		bits := newBitset(len(d.features))
		for i := range d.features {
			if slices.ContainsFunc(d.features[i].patterns, func(p policy.Pattern) bool { return p.Kind == policy.PatternCIDR && p.Prefix.Contains(addr) }) {
				bits.set(i)
			}
		}
		d.add(bits, value{addr: addr})
	}
}

// outside finds an address of a network that is in none of the networks inside it.
func outside(network netip.Prefix, inside []netip.Prefix) (netip.Addr, bool) {
	if len(inside) == 0 {
		if next := network.Addr().Next(); network.Contains(next) { // the first is the network's own
			return next, true
		}
		return network.Addr(), true
	}
	if slices.Contains(inside, network) || network.Bits() == network.Addr().BitLen() {
		return netip.Addr{}, false
	}
	low := netip.PrefixFrom(network.Addr(), network.Bits()+1)
	for _, half := range []netip.Prefix{low, netip.PrefixFrom(upper(low), low.Bits())} {
		var within []netip.Prefix
		for _, n := range inside {
			if half.Contains(n.Addr()) {
				within = append(within, n)
			}
		}
		if addr, found := outside(half, within); found {
			return addr, true
		}
	}
	return netip.Addr{}, false
}

// upper is the address of the other half: the last bit of the lower half's prefix is set.
func upper(low netip.Prefix) netip.Addr {
	bytes := low.Addr().AsSlice()
	bit := low.Bits() - 1
	bytes[bit/8] |= 0x80 >> (bit % 8)
	addr, _ := netip.AddrFromSlice(bytes)
	return addr
}
