package policy

import "net/netip"

// filing builds the nodes of one index. All of it is garbage when the index is done, so what it needs for each rule, option
// and value lies in a few long slices without pointers: a load makes many indexes, and a request may wait for one.
type filing struct {
	options []option // of all rules, one rule's after another's
	first   []int    // of each rule, where its options start; and where the last one's end
	ids     []keyID  // of all options, likewise
	room    []int32  // of each rule, how many drawers it may be copied to

	keyNumbers
	nets   []netip.Prefix // of the keys that are one
	netOf  map[netip.Prefix]uint32
	shelf  []shelf // by their number
	argOf  map[string]shelfID
	ordsOf []int32 // what is left of the last piece of memory that nodes keep ordinals in

	// All are zeros but while rules are shared out among the drawers of one node.
	counts []int32 // of each key, how many rules could be filed under it
	place  []int32 // of each key, where its drawer stands among the node's, from one
	stand  []int32 // of each shelf, where its dimension stands among the node's, from one
}

// option is a set of keys under which a rule can be filed: every request that matches the rule opens at least one.
type option struct {
	from int   // of filing.ids
	keys int32 // how many from there
	rank int32 // see filing.rank
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

// For each rule, room is made beforehand for so many keys, and so many that it shares with no other rule: a caller and its
// namespace, a method, a path, a token's subject and issuer.
const usualKeys, usualOwnKeys = 6, 2

func newFiling(bodies []*ruleBody) *filing {
	n := len(bodies)
	f := &filing{
		options: make([]option, 0, usualKeys*n), first: make([]int, 1, n+1), ids: make([]keyID, 0, usualKeys*n), room: make([]int32, n),
		keyNumbers: newKeyNumbers(usualOwnKeys * n), shelf: plainShelves(),
		netOf: map[netip.Prefix]uint32{}, argOf: map[string]shelfID{},
	}
	for i, b := range bodies {
		f.ruleOptions(b)
		f.first = append(f.first, len(f.options))
		for _, o := range f.of(i) {
			f.room[i] += copiesPerKey * o.keys
		}
	}
	f.slots, f.netOf, f.argOf = nil, nil, nil
	f.counts, f.place, f.stand = make([]int32, len(f.keys)), make([]int32, len(f.keys)), make([]int32, len(f.shelf))
	return f
}

// of lists the options of a rule.
func (f *filing) of(ord int) []option { return f.options[f.first[ord]:f.first[ord+1]] }

// keysOf lists the keys of an option.
func (f *filing) keysOf(o *option) []keyID { return f.ids[o.from : o.from+int(o.keys)] }

// open reports whether a rule may be filed by its option i: it is not used up, and does not copy the rule too often. The
// first option with several keys always may.
func (f *filing) open(e *filed, i int, o *option) bool {
	if e.used&(1<<i) != 0 {
		return false
	}
	return e.copies == 1 || o.keys == 1 || int(e.copies)*int(o.keys) <= int(f.room[e.ord])
}

func (f *filing) root() *node {
	all := make([]filed, len(f.room))
	for i := range all {
		all[i].ord, all[i].copies = int32(i), 1 //nolint:gosec // memory ends long before
	}
	n := &node{}
	f.fill(n, all)
	return n
}

// fill files rules in n, each under the option whose fullest drawer is the emptiest.
func (f *filing) fill(n *node, rules []filed) {
	n.least = none
	for i := range rules {
		n.least = min(n.least, rules[i].ord)
	}
	if len(rules) <= scanMax {
		n.scan = f.ordinals(rules)
		return
	}
	best := make([]int8, len(rules))
	f.eachKey(rules, func(k keyID) { f.counts[k]++ })
	for i := range rules {
		best[i] = f.choose(&rules[i], len(rules))
	}
	f.eachKey(rules, func(k keyID) { f.counts[k] = 0 })
	f.attach(n, f.share(n, rules, best))
}

// drawer is what becomes a node of its own.
type drawer struct {
	key   keyID
	size  int32 // how many rules it has room for
	rules []filed
}

// share puts each rule into the drawers of its best option, or leaves it to be scanned when it has none. Drawers are in
// order of first use, so that equal documents build equal trees.
func (f *filing) share(n *node, rules []filed, best []int8) []drawer {
	drawers, total := f.drawers(n, rules, best)
	room := make([]filed, total)
	for i := range drawers {
		d := &drawers[i]
		d.rules, room = room[:0:d.size], room[d.size:]
	}
	for i, e := range rules {
		if best[i] < 0 {
			continue
		}
		o := &f.of(int(e.ord))[best[i]]
		e.used |= 1 << best[i]
		e.copies *= o.keys
		for _, k := range f.keysOf(o) {
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

// drawers lists the drawers that rules go into, empty yet, and how many rules there are in all of them.
func (f *filing) drawers(n *node, rules []filed, best []int8) (drawers []drawer, total int) {
	distinct := 0
	for i := range rules {
		if best[i] < 0 {
			n.scan = append(n.scan, rules[i].ord)
			continue
		}
		for _, k := range f.keysOf(&f.of(int(rules[i].ord))[best[i]]) {
			if f.counts[k] == 0 {
				distinct++
			}
			f.counts[k]++
			total++
		}
	}
	drawers = make([]drawer, 0, distinct)
	for i := range rules {
		if best[i] < 0 {
			continue
		}
		for _, k := range f.keysOf(&f.of(int(rules[i].ord))[best[i]]) {
			if f.place[k] == 0 {
				drawers = append(drawers, drawer{key: k, size: f.counts[k]})
				f.place[k] = int32(len(drawers)) //nolint:gosec // memory ends long before
				f.counts[k] = 0
			}
		}
	}
	return drawers, total
}

// eachKey calls do with each key that each rule could be filed under.
func (f *filing) eachKey(rules []filed, do func(keyID)) {
	for i := range rules {
		e := &rules[i]
		options := f.of(int(e.ord))
		for j := range options {
			if !f.open(e, j, &options[j]) {
				continue
			}
			for _, k := range f.keysOf(&options[j]) {
				do(k)
			}
		}
	}
}

// choose returns the option to file by, or -1 when none would tell the rule from the others.
func (f *filing) choose(e *filed, total int) int8 {
	best, bestCost := int8(-1), 0
	options := f.of(int(e.ord))
	for i := range options {
		o := &options[i]
		if !f.open(e, i, o) {
			continue
		}
		fullest := 0
		for _, k := range f.keysOf(o) {
			fullest = max(fullest, int(f.counts[k]))
		}
		if fullest >= total {
			continue
		}
		// drawers that are small enough are all the same; then fewer kinds of them are better
		if cost := max(fullest, scanMax)<<16 | int(o.rank); best < 0 || cost < bestCost {
			best, bestCost = int8(i), cost //nolint:gosec // at most maxOptions
		}
	}
	return best
}

// ordinals keeps the ordinals of a few rules beside those of other nodes.
func (f *filing) ordinals(rules []filed) []int32 {
	if len(f.ordsOf) < len(rules) {
		f.ordsOf = make([]int32, len(f.room))
	}
	out := f.ordsOf[:len(rules):len(rules)]
	f.ordsOf = f.ordsOf[len(rules):]
	for i := range rules {
		out[i] = rules[i].ord
	}
	return out
}
