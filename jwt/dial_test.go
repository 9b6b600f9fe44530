package jwt_test

import (
	"net/netip"
	"testing"

	"github.com/writ-auth/writ/jwt"
)

func prefixes(texts ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, text := range texts {
		out = append(out, netip.MustParsePrefix(text))
	}
	return out
}

func TestAddressFilter(t *testing.T) {
	var (
		public    = jwt.Networks{}
		private   = jwt.Networks{Allow: prefixes("10.0.0.0/8", "127.0.0.0/8", "::1/128", "fc00::/7")}
		wide      = jwt.Networks{Allow: prefixes("0.0.0.0/0", "::/0")}
		exact     = jwt.Networks{Allow: prefixes("169.254.169.254/32", "fe80::1/128", "0.0.0.0/32", "224.0.0.1/32")}
		denied    = jwt.Networks{Allow: prefixes("10.0.0.0/8"), Deny: prefixes("10.9.0.0/16", "8.8.8.0/24")}
		allowlist = jwt.Networks{Allow: prefixes("10.0.0.0/8", "93.184.216.0/24", "2606:2800::/32"), OnlyAllowed: true}
	)
	for _, tt := range []struct {
		name    string
		n       jwt.Networks
		address string
		want    bool
	}{
		{"public IPv4", public, "93.184.216.34", true},
		{"public IPv6", public, "2606:2800:220:1::1", true},
		{"RFC 1918 10/8", public, "10.1.2.3", false},
		{"RFC 1918 172.16/12", public, "172.31.255.255", false},
		{"just above 172.16/12", public, "172.32.0.0", true},
		{"RFC 1918 192.168/16", public, "192.168.0.1", false},
		{"shared 100.64/10", public, "100.64.0.1", false},
		{"loopback", public, "127.0.0.1", false},
		{"all of loopback", public, "127.9.9.9", false},
		{"loopback IPv6", public, "::1", false},
		{"ULA", public, "fd12::1", false},
		{"site-local", public, "fec0::1", false},
		{"unassigned IPv6", public, "4000::1", false},
		{"class E", public, "240.0.0.1", false},
		{"link-local, cloud metadata", public, "169.254.169.254", false},
		{"link-local IPv6", public, "fe80::1", false},
		{"link-local IPv6 with a zone", public, "fe80::1%eth0", false},
		{"metadata, Alibaba", public, "100.100.100.200", false},
		{"metadata, AWS IPv6", public, "fd00:ec2::254", false},
		{"platform agent, Azure", public, "168.63.129.16", false},
		{"its neighbour", public, "168.63.129.17", true},
		{"unspecified", public, "0.0.0.0", false},
		{"this network", public, "0.1.2.3", false},
		{"unspecified IPv6", public, "::", false},
		{"multicast", public, "224.0.0.251", false},
		{"multicast IPv6", public, "ff02::1", false},
		{"multicast IPv6, global", public, "ff0e::1", false},
		{"broadcast", public, "255.255.255.255", false},

		{"mapped public", public, "::ffff:93.184.216.34", true},
		{"mapped private", public, "::ffff:10.0.0.1", false},
		{"mapped metadata", public, "::ffff:169.254.169.254", false},
		{"NAT64 public", public, "64:ff9b::5db8:d822", true},
		{"NAT64 private", public, "64:ff9b::10.0.0.1", false},
		{"NAT64 metadata", public, "64:ff9b::169.254.169.254", false},
		{"NAT64 local use", public, "64:ff9b:1::1", false},
		{"6to4 private", public, "2002:a00:1::1", false},
		{"6to4 metadata", public, "2002:a9fe:a9fe::1", false},
		{"Teredo client on a private network", public, "2001:0:5db8:d822::f5ff:fffe", false},
		{"Teredo server at the metadata address", public, "2001:0:a9fe:a9fe::a247:27dd", false},
		{"ISATAP metadata", public, "2606:2800::5efe:169.254.169.254", false},
		{"ISATAP metadata, universal bit", public, "2606:2800::200:5efe:169.254.169.254", false},
		{"compatible metadata", public, "::169.254.169.254", false},
		{"translated metadata", public, "::ffff:0:169.254.169.254", false},

		{"allowed private", private, "10.1.2.3", true},
		{"allowed private, mapped", private, "::ffff:10.1.2.3", true},
		{"allowed private, NAT64", private, "64:ff9b::10.1.2.3", true},
		{"allowed loopback", private, "127.0.0.1", true},
		{"allowed loopback IPv6", private, "::1", true},
		{"allowed ULA", private, "fd12::1", true},
		{"another private", private, "192.168.0.1", false},
		{"metadata inside an allowed ULA network", private, "fd00:ec2::254", false},
		{"link-local is not", private, "169.254.169.254", false},

		{"a wide network allows private", wide, "192.168.0.1", true},
		{"a wide network does not allow metadata", wide, "169.254.169.254", false},
		{"nor NAT64 metadata", wide, "64:ff9b::169.254.169.254", false},
		{"nor link-local IPv6", wide, "fe80::1%eth0", false},
		{"nor Alibaba's", wide, "100.100.100.200", false},
		{"nor unspecified", wide, "0.0.0.0", false},
		{"nor multicast", wide, "224.0.0.1", false},

		{"metadata listed itself", exact, "169.254.169.254", true},
		{"its neighbour is not", exact, "169.254.169.253", false},
		{"link-local IPv6 listed itself", exact, "fe80::1%eth0", true},
		{"unspecified listed itself", exact, "0.0.0.0", false},
		{"multicast listed itself", exact, "224.0.0.1", false},

		{"denied inside allowed", denied, "10.9.1.1", false},
		{"denied public", denied, "8.8.8.8", false},
		{"denied public, NAT64", denied, "64:ff9b::8.8.8.8", false},
		{"beside denied", denied, "10.8.1.1", true},

		{"allow-list: listed public", allowlist, "93.184.216.34", true},
		{"allow-list: listed public through NAT64", allowlist, "64:ff9b::93.184.216.34", true},
		{"allow-list: other public", allowlist, "1.1.1.1", false},
		{"allow-list: other public through NAT64", allowlist, "64:ff9b::1.1.1.1", false},
		{"allow-list: other public that embeds a listed address", allowlist, "2a00::5efe:10.0.0.1", false},
		{"allow-list: listed IPv6", allowlist, "2606:2800::1", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := jwt.CheckAddress(tt.n, netip.MustParseAddr(tt.address)); got != tt.want {
				t.Errorf("%s may be dialled: %v, want %v", tt.address, got, tt.want)
			}
		})
	}
	if jwt.CheckAddress(wide, netip.Addr{}) {
		t.Error("the zero address may be dialled")
	}
}
