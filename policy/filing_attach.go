package policy

import (
	"net/netip"
	"slices"
)

// manyHeaders is the number of header dimensions from which it is cheaper to go through the request's own headers.
const manyHeaders = 8

// attach hangs a node for each drawer into the dimension it belongs to.
func (f *filing) attach(n *node, drawers []drawer) {
	dims, exact := f.dimensions(drawers)
	children := make([]node, len(drawers))
	for i := range drawers {
		k := &f.keys[drawers[i].key]
		at := f.stand[k.shelf] - 1
		f.hang(&dims[at], k, &children[i], exact[at])
	}
	headers := 0
	for i := range drawers { // the same memory serves the nodes below
		f.stand[f.keys[drawers[i].key].shelf] = 0
	}
	for i := range dims {
		if dims[i].kind == dimHeader {
			headers++
		}
	}
	if headers <= manyHeaders {
		n.dims = dims
	} else {
		n.headers = make(map[string]*dimension, headers)
		for i := range dims {
			if d := &dims[i]; d.kind == dimHeader {
				n.headers[d.attr.name] = d
			} else {
				n.dims = append(n.dims, *d)
			}
		}
	}
	for i := range drawers {
		f.fill(&children[i], drawers[i].rules)
	}
}

// dimensions makes those that the drawers belong to, in order of first use, and counts the exact keys of each. Until the
// caller clears it, stand says which is whose.
func (f *filing) dimensions(drawers []drawer) (dims []dimension, exact []int) {
	for i := range drawers {
		k := &f.keys[drawers[i].key]
		if f.stand[k.shelf] == 0 {
			s := &f.shelf[k.shelf]
			dims, exact = append(dims, dimension{kind: s.kind, attr: s.attr}), append(exact, 0)
			f.stand[k.shelf] = int32(len(dims)) //nolint:gosec // memory ends long before
		}
		if k.how == fileExact {
			exact[f.stand[k.shelf]-1]++
		}
	}
	return dims, exact
}

// hang puts the drawer of one key into the dimension, which has so many exact ones.
func (f *filing) hang(d *dimension, k *fileKey, child *node, exact int) {
	switch k.how {
	case fileExact:
		if d.exact == nil {
			d.exact = make(map[string]*node, exact)
		}
		d.exact[k.lit] = child
	case filePrefix:
		if d.prefix == nil {
			d.prefix = &radix{}
		}
		d.prefix.insert(k.lit).node = child
	case fileSuffix:
		if d.suffix == nil {
			d.suffix = &radix{reversed: true}
		}
		d.suffix.insert(k.lit).node = child
	case filePresent:
		d.present = child
	case filePort:
		if d.ports == nil {
			d.ports = map[uint16]*node{}
		}
		d.ports[uint16(k.number)] = child //nolint:gosec // G115: it was one
	case fileCIDR:
		net := f.nets[k.number]
		d.level(net)[net] = child
	}
}

func (d *dimension) level(p netip.Prefix) map[netip.Prefix]*node {
	i := slices.IndexFunc(d.cidrs, func(l cidrLevel) bool { return l.bits == p.Bits() && l.is4 == p.Addr().Is4() })
	if i < 0 {
		i = len(d.cidrs)
		d.cidrs = append(d.cidrs, cidrLevel{bits: p.Bits(), is4: p.Addr().Is4(), nets: map[netip.Prefix]*node{}})
	}
	return d.cidrs[i].nets
}
