package policy

import (
	"net/netip"
	"slices"
)

// fileHow is how a value opens a drawer.
type fileHow uint8

const (
	fileExact fileHow = iota
	filePort
	fileCIDR
	filePrefix
	fileSuffix
	filePresent
)

// fileKey names one drawer. It is comparable: equal keys share a drawer.
type fileKey struct {
	kind dimKind
	how  fileHow
	port uint16
	arg  int // interned attribute argument
	lit  string
	net  netip.Prefix
}

// keyID numbers the keys of one filing: comparing and counting numbers costs a fraction of hashing keys.
type keyID int32

// option is a set of keys under which a rule can be filed: every request that matches the rule opens at least one.
type option []keyID

// filing builds the nodes of one index.
type filing struct {
	options [][]option // of each rule
	room    []int32    // of each rule, how many drawers it may be copied to
	keys    []fileKey  // by their number
	idOf    map[fileKey]keyID
	args    []attribute
	argOf   map[string]int

	// Both are all zeros but while rules are shared out among the drawers of one node.
	counts []int32 // of each key, how many rules could be filed under it
	place  []int32 // of each key, where its drawer stands among the node's, from one
}

// filed is a rule on its way into a drawer, with the options already used up on the way.
type filed struct {
	ord    int32
	copies int32 // drawers of the same depth that hold the rule, this one included
	used   uint64
}

// maxOptions is how many options of a rule are considered; it bounds the depth of the index.
const maxOptions = 64

// copiesPerKey bounds how often a rule is copied, for each key it can be filed by. A rule of several conditions with many
// values each would otherwise be filed under every combination of them.
const copiesPerKey = 4

func newFiling(bodies []*ruleBody) *filing {
	f := &filing{
		options: make([][]option, len(bodies)), room: make([]int32, len(bodies)),
		idOf: make(map[fileKey]keyID, len(bodies)), args: []attribute{{}}, argOf: map[string]int{},
	}
	for i, b := range bodies {
		f.options[i] = f.ruleOptions(b)
		for _, o := range f.options[i] {
			f.room[i] += copiesPerKey * int32(len(o)) //nolint:gosec // a file has at most maxNodes values
		}
	}
	f.idOf = nil
	f.counts, f.place = make([]int32, len(f.keys)), make([]int32, len(f.keys))
	return f
}

// open reports whether a rule may be filed by option i: it is not used up, and does not copy the rule too often. The
// first option with several keys always may.
func (f *filing) open(e *filed, i int) bool {
	if e.used&(1<<i) != 0 {
		return false
	}
	keys := len(f.options[e.ord][i])
	return e.copies == 1 || keys == 1 || int(e.copies)*keys <= int(f.room[e.ord])
}

func (f *filing) root() *node {
	all := make([]filed, len(f.options))
	for i := range all {
		all[i].ord, all[i].copies = int32(i), 1
	}
	return f.node(all)
}

// node files rules, each under the option whose fullest drawer is the emptiest.
func (f *filing) node(rules []filed) *node {
	n := &node{least: none}
	for _, e := range rules {
		n.least = min(n.least, e.ord)
	}
	if len(rules) <= scanMax {
		n.scan = ordinals(rules)
		return n
	}
	best := make([]int8, len(rules))
	f.eachKey(rules, func(k keyID) { f.counts[k]++ })
	for i := range rules {
		best[i] = f.choose(&rules[i], len(rules))
	}
	f.eachKey(rules, func(k keyID) { f.counts[k] = 0 })
	drawers := f.share(n, rules, best)
	f.attach(n, drawers)
	return n
}

// drawer is what becomes a node of its own.
type drawer struct {
	key   keyID
	size  int // how many rules it has room for
	rules []filed
}

// share puts each rule into the drawers of its best option, or leaves it to be scanned when it has none. Drawers are in
// order of first use, so that equal documents build equal trees.
func (f *filing) share(n *node, rules []filed, best []int8) []drawer {
	var drawers []drawer
	total := 0
	for i := range rules {
		if best[i] < 0 {
			n.scan = append(n.scan, rules[i].ord)
			continue
		}
		for _, k := range f.options[rules[i].ord][best[i]] {
			if f.place[k] == 0 {
				drawers = append(drawers, drawer{key: k})
				f.place[k] = int32(len(drawers)) //nolint:gosec // a file has at most maxNodes values
			}
			drawers[f.place[k]-1].size++
			total++
		}
	}
	room := make([]filed, total)
	for i := range drawers {
		d := &drawers[i]
		d.rules, room = room[:0:d.size], room[d.size:]
	}
	for i, e := range rules {
		if best[i] < 0 {
			continue
		}
		keys := f.options[e.ord][best[i]]
		e.used |= 1 << best[i]
		e.copies *= int32(len(keys)) //nolint:gosec // bounded by open
		for _, k := range keys {
			d := &drawers[f.place[k]-1]
			if len(d.rules) == 0 || d.rules[len(d.rules)-1].ord != e.ord {
				d.rules = append(d.rules, e)
			}
		}
	}
	for i := range drawers {
		f.place[drawers[i].key] = 0
	}
	return drawers
}

// eachKey calls do with each key that each rule could be filed under.
func (f *filing) eachKey(rules []filed, do func(keyID)) {
	for i := range rules {
		e := &rules[i]
		for j, o := range f.options[e.ord] {
			if !f.open(e, j) {
				continue
			}
			for _, k := range o {
				do(k)
			}
		}
	}
}

// choose returns the option to file by, or -1 when none would tell the rule from the others.
func (f *filing) choose(e *filed, total int) int8 {
	best, bestCost := int8(-1), 0
	for i, o := range f.options[e.ord] {
		if !f.open(e, i) {
			continue
		}
		fullest := 0
		for _, k := range o {
			fullest = max(fullest, int(f.counts[k]))
		}
		if fullest >= total {
			continue
		}
		// drawers that are small enough are all the same; then fewer kinds of them are better
		if cost := max(fullest, scanMax)<<16 | f.rank(o); best < 0 || cost < bestCost {
			best, bestCost = int8(i), cost //nolint:gosec // at most maxOptions
		}
	}
	return best
}

// manyHeaders is the number of header dimensions from which it is cheaper to go through the request's own headers.
const manyHeaders = 8

// attach hangs a node for each drawer into the dimension it belongs to.
func (f *filing) attach(n *node, drawers []drawer) {
	type id struct {
		kind dimKind
		arg  int
	}
	var dims []*dimension
	byID, keysOf := map[id]*dimension{}, map[*dimension]int{}
	in := make([]*dimension, len(drawers))
	for i := range drawers {
		k := &f.keys[drawers[i].key]
		d := byID[id{k.kind, k.arg}]
		if d == nil {
			d = &dimension{kind: k.kind, attr: f.args[k.arg]}
			byID[id{k.kind, k.arg}] = d
			dims = append(dims, d)
		}
		in[i] = d
		keysOf[d]++
	}
	for i, d := range in {
		d.hang(&f.keys[drawers[i].key], f.node(drawers[i].rules), keysOf[d])
	}
	headers := 0
	for _, d := range dims {
		if d.kind == dimHeader {
			headers++
		}
	}
	for _, d := range dims {
		if d.kind == dimHeader && headers > manyHeaders {
			if n.headers == nil {
				n.headers = make(map[string]*dimension, headers)
			}
			n.headers[d.attr.name] = d
			continue
		}
		n.dims = append(n.dims, *d)
	}
}

// hang puts the drawer of one of so many keys into the dimension.
func (d *dimension) hang(k *fileKey, child *node, keys int) {
	switch k.how {
	case fileExact:
		if d.exact == nil {
			d.exact = make(map[string]*node, keys)
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
		d.ports[k.port] = child
	case fileCIDR:
		d.level(k.net)[k.net] = child
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

func ordinals(rules []filed) []int32 {
	out := make([]int32, len(rules))
	for i, e := range rules {
		out[i] = e.ord
	}
	return out
}
