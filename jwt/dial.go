package jwt

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"
)

// Networks says which addresses keys may be fetched from. Whoever can write a RequestAuthentication names an address that
// the authority then visits, so the zero value visits public addresses only.
//
// An address is judged when it is dialled, after the name was resolved: redirects, discovery documents and names that
// change their answer get no further than the first address does (request-authentication §6.5). An IPv4 address inside an
// IPv6 one (mapped, NAT64, 6to4, Teredo, ISATAP) is judged as well.
type Networks struct {
	// Allow lists private, shared and loopback networks that may be dialled, as in-cluster identity providers need it.
	// Link-local and cloud metadata addresses are dialled only if listed as a single address (/32, /128), never
	// because a network holds them; multicast, broadcast and unspecified addresses never are.
	Allow []netip.Prefix
	// Deny lists networks that are never dialled, whatever Allow says.
	Deny []netip.Prefix
	// OnlyAllowed refuses public addresses, too, unless Allow lists them.
	OnlyAllowed bool
}

// addressKind is what an address is for; the higher, the less it is dialled.
type addressKind int

const (
	addressPublic    addressKind = iota
	addressPrivate               // dialled if a network that holds it is allowed
	addressLinkLocal             // dialled if listed itself
	addressNever
)

func (k addressKind) String() string {
	switch k {
	case addressPublic:
		return "public"
	case addressPrivate:
		return "private or loopback"
	case addressLinkLocal:
		return "link-local or cloud metadata"
	default:
		return "no host's address"
	}
}

// addressTable says what each range is; a range stands before those that hold it. Sources: IANA's special-purpose
// registries (RFC 6890), the clouds' metadata services, request-authentication §6.5.
var addressTable = []struct {
	prefix netip.Prefix
	kind   addressKind
}{
	{netip.MustParsePrefix("169.254.0.0/16"), addressLinkLocal},     // RFC 3927; metadata of most clouds
	{netip.MustParsePrefix("100.100.100.200/32"), addressLinkLocal}, // metadata, Alibaba
	{netip.MustParsePrefix("168.63.129.16/32"), addressLinkLocal},   // platform agent, Azure
	{netip.MustParsePrefix("192.0.0.192/32"), addressLinkLocal},     // metadata, Oracle
	{netip.MustParsePrefix("0.0.0.0/8"), addressNever},              // this network
	{netip.MustParsePrefix("224.0.0.0/4"), addressNever},            // multicast
	{netip.MustParsePrefix("255.255.255.255/32"), addressNever},     // broadcast
	{netip.MustParsePrefix("10.0.0.0/8"), addressPrivate},           // RFC 1918
	{netip.MustParsePrefix("172.16.0.0/12"), addressPrivate},        // RFC 1918
	{netip.MustParsePrefix("192.168.0.0/16"), addressPrivate},       // RFC 1918
	{netip.MustParsePrefix("127.0.0.0/8"), addressPrivate},          // loopback
	{netip.MustParsePrefix("100.64.0.0/10"), addressPrivate},        // shared, RFC 6598
	{netip.MustParsePrefix("192.0.0.0/24"), addressPrivate},         // protocol assignments
	{netip.MustParsePrefix("198.18.0.0/15"), addressPrivate},        // benchmarking
	{netip.MustParsePrefix("240.0.0.0/4"), addressPrivate},          // reserved, used inside some networks
	{netip.MustParsePrefix("0.0.0.0/0"), addressPublic},

	{netip.MustParsePrefix("fe80::/10"), addressLinkLocal},
	{netip.MustParsePrefix("fd00:ec2::/32"), addressLinkLocal},          // metadata, AWS
	{netip.MustParsePrefix("fd20:ce::254/128"), addressLinkLocal},       // metadata, Google
	{netip.MustParsePrefix("fd00:c1::a9fe:a9fe/128"), addressLinkLocal}, // metadata, Oracle
	{netip.MustParsePrefix("::/128"), addressNever},                     // unspecified
	{netip.MustParsePrefix("ff00::/8"), addressNever},                   // multicast
	{netip.MustParsePrefix("64:ff9b::/96"), addressPublic},              // NAT64: the address inside decides
	{netip.MustParsePrefix("2000::/3"), addressPublic},                  // all that is assigned as global unicast
	{netip.MustParsePrefix("::/0"), addressPrivate},                     // loopback, ULA, site-local, and what nobody assigned
}

func kindOf(a netip.Addr) addressKind {
	for _, row := range addressTable {
		if row.prefix.Contains(a) {
			return row.kind
		}
	}
	return addressNever // the zero Addr
}

// formsOf lists the address itself, without zone and not as a mapped one, and the IPv4 addresses it embeds.
func formsOf(a netip.Addr) []netip.Addr {
	a = a.Unmap().WithZone("")
	forms := []netip.Addr{a}
	if !a.Is6() {
		return forms
	}
	b := a.As16()
	v4 := func(at int) netip.Addr { return netip.AddrFrom4([4]byte(b[at : at+4])) }
	switch {
	case isNAT64(a),
		netip.MustParsePrefix("::ffff:0:0:0/96").Contains(a),                    // translated, RFC 2765
		netip.MustParsePrefix("::/96").Contains(a) && a != netip.IPv6Loopback(): // compatible, RFC 4291 §2.5.5.1
		forms = append(forms, v4(12))
	case netip.MustParsePrefix("2002::/16").Contains(a): // 6to4, RFC 3056
		forms = append(forms, v4(2))
	case netip.MustParsePrefix("2001::/32").Contains(a): // Teredo, RFC 4380: the server, and the client's bits inverted
		forms = append(forms, v4(4), netip.AddrFrom4([4]byte{^b[12], ^b[13], ^b[14], ^b[15]}))
	}
	if b[8]&^2 == 0 && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe { // ISATAP, RFC 5214
		forms = append(forms, v4(12))
	}
	return forms
}

// isNAT64 says whether the address is nothing but an IPv4 address on its way through a translator (RFC 6052): what it
// embeds decides alone.
func isNAT64(a netip.Addr) bool { return netip.MustParsePrefix("64:ff9b::/96").Contains(a) }

// addressFilter is Networks, checked.
type addressFilter struct {
	allow, deny []netip.Prefix
	only        bool
}

func newAddressFilter(n Networks) (*addressFilter, error) {
	f := &addressFilter{only: n.OnlyAllowed}
	for _, list := range []struct {
		name string
		from []netip.Prefix
		to   *[]netip.Prefix
	}{{"allowed", n.Allow, &f.allow}, {"denied", n.Deny, &f.deny}} {
		for _, p := range list.from {
			if !p.IsValid() || p.Addr().Is4In6() {
				return nil, fmt.Errorf("%s network %v: write it as in 10.0.0.0/8 or fd00::/8", list.name, p)
			}
			*list.to = append(*list.to, p.Masked())
		}
	}
	return f, nil
}

// check says why the address may not be dialled, nil if it may.
func (f *addressFilter) check(a netip.Addr) *fetchError {
	forms := formsOf(a)
	for _, form := range forms {
		if holds(f.deny, form) {
			return refuseAddress(a, form, "in a denied network")
		}
	}
	for _, form := range forms {
		kind := kindOf(form)
		var ok bool
		switch kind {
		case addressPublic:
			ok = !f.only || holds(f.allow, form) || holds(f.allow, forms[0]) || isNAT64(form)
		case addressPrivate:
			ok = holds(f.allow, form) || holds(f.allow, forms[0])
		case addressLinkLocal:
			ok = slices.Contains(f.allow, single(form)) || slices.Contains(f.allow, single(forms[0]))
		}
		if !ok {
			return refuseAddress(a, form, kind.String()+" and not allowed")
		}
	}
	return nil
}

func holds(networks []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(networks, func(p netip.Prefix) bool { return p.Contains(a) })
}

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

func refuseAddress(a, form netip.Addr, why string) *fetchError {
	detail := a.String() + " is " + why
	if form != a {
		detail = fmt.Sprintf("%s (in %s) is %s", form, a, why)
	}
	return &fetchError{result: FetchRefusedAddress, detail: detail}
}

// control is a [net.Dialer.ControlContext]: it sees each address after the name was resolved, before a packet leaves.
func (f *addressFilter) control(_ context.Context, network, address string, _ syscall.RawConn) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil || !strings.HasPrefix(network, "tcp") {
		return &fetchError{result: FetchRefusedAddress, detail: "not a TCP address"}
	}
	if e := f.check(ap.Addr()); e != nil {
		return e
	}
	return nil
}
