package policy

import (
	"net/netip"
	"slices"
	"strings"
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

// option is a set of keys under which a rule can be filed: every request that matches the rule opens at least one.
type option []fileKey

// filing builds the nodes of one index.
type filing struct {
	options [][]option // of each rule
	room    []int32    // of each rule, how many drawers it may be copied to
	args    []attribute
	argOf   map[string]int
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
	f := &filing{options: make([][]option, len(bodies)), room: make([]int32, len(bodies)), args: []attribute{{}}, argOf: map[string]int{}}
	for i, b := range bodies {
		f.options[i] = f.ruleOptions(b)
		for _, o := range f.options[i] {
			f.room[i] += copiesPerKey * int32(len(o)) //nolint:gosec // a file has at most maxNodes values
		}
	}
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

// ruleOptions lists the ways to file a rule. A lone source (or operation) is a conjunction, so each of its conditions
// will do; of several, each must be filed by one of its own, together.
func (f *filing) ruleOptions(b *ruleBody) []option {
	var out []option
	for _, group := range [][]clause{b.from, b.to, {b.when}} {
		if len(group) == 1 {
			for i := range group[0] {
				out = append(out, f.conditionOptions(&group[0][i])...)
			}
			continue
		}
		if o := f.groupOption(group); o != nil {
			out = append(out, o)
		}
	}
	return out[:min(len(out), maxOptions)]
}

// groupOption files a rule of several alternative clauses under all of them, each by its most telling condition.
func (f *filing) groupOption(group []clause) option {
	var all option
	for _, c := range group {
		var best option
		for i := range c {
			for _, o := range f.conditionOptions(&c[i]) {
				if best == nil || rank(o) < rank(best) {
					best = o
				}
			}
		}
		if best == nil {
			return nil
		}
		all = append(all, best...)
	}
	return all
}

// rank orders options when nothing is known of how common their keys are: exact before pattern, names before methods.
func rank(o option) int {
	worst := 0
	for _, k := range o {
		worst = max(worst, int(k.how)<<8|int(k.kind))
	}
	return worst
}

// conditionOptions lists the ways to file by one condition: its values, when each of them can be looked up.
func (f *filing) conditionOptions(c *condition) []option {
	var out []option
	if o := f.valuesOption(c, f.key); o != nil {
		out = append(out, o)
	}
	if o := f.valuesOption(c, f.secondKey); o != nil {
		out = append(out, o)
	}
	return out
}

func (f *filing) valuesOption(c *condition, key func(*attribute, *matcher) (fileKey, bool)) option {
	if len(c.values) == 0 {
		return nil
	}
	o := make(option, 0, len(c.values))
	for i := range c.values {
		k, ok := key(&c.attr, &c.values[i])
		if !ok {
			return nil
		}
		o = append(o, k)
	}
	return o
}

// key is the drawer for one value, if it can be looked up at all.
func (f *filing) key(a *attribute, m *matcher) (fileKey, bool) {
	switch m.op {
	case opServiceAccount:
		return fileKey{kind: dimServiceAccount, lit: m.sub}, true
	case opNamespace:
		return namespaceKey(m)
	case opTrustDomain:
		return fileKey{kind: dimTrustDomain, lit: m.parts[0]}, len(m.parts) == 1 && !strings.Contains(m.parts[0], "/")
	case opSpiffeSuffix:
		return fileKey{kind: dimName, how: fileSuffix, lit: m.lit}, true
	case opTemplate:
		return fileKey{kind: dimPath, how: filePrefix, lit: m.template.head[0]}, true
	case opRequestPrincipal:
		if m.jwt.op == opExact {
			return fileKey{kind: dimSubject, lit: m.jwt.lit}, true
		}
		return fileKey{kind: dimIssuer, lit: m.iss.lit}, m.iss.op == opExact
	case opCIDR:
		kind, ok := addrDims[a.kind]
		return fileKey{kind: kind, how: fileCIDR, net: m.prefix}, ok
	case opPort:
		return fileKey{kind: dimPort, how: filePort, port: m.port}, true
	}
	kind, ok := textDims[a.kind]
	return fileKey{kind: kind, how: textHow[m.op], arg: f.arg(a), lit: m.lit}, ok
}

// secondKey is another drawer for values that name two things.
func (f *filing) secondKey(_ *attribute, m *matcher) (fileKey, bool) {
	switch {
	case m.op == opServiceAccount:
		return fileKey{kind: dimNamespace, lit: m.lit}, true
	case m.op == opRequestPrincipal && m.jwt.op == opExact && m.iss.op == opExact:
		return fileKey{kind: dimIssuer, lit: m.iss.lit}, true
	case m.op == opTemplate && m.template.deep && m.template.tail != "":
		return fileKey{kind: dimPath, how: fileSuffix, lit: m.template.tail}, true
	}
	return fileKey{}, false
}

func namespaceKey(m *matcher) (fileKey, bool) {
	first := strings.TrimPrefix(m.parts[0], "/ns/")
	if len(m.parts) == 1 && strings.IndexByte(first, '/') == len(first)-1 {
		return fileKey{kind: dimNamespace, lit: first[:len(first)-1]}, true
	}
	return fileKey{kind: dimNamespace, how: filePrefix, lit: first}, first != ""
}

var textHow = map[op]fileHow{
	opExact: fileExact, opPrefix: filePrefix, opSuffix: fileSuffix, opNonEmpty: filePresent, opExists: filePresent,
}

var textDims = map[attrKind]dimKind{
	attrNames: dimName, attrSNI: dimSNI, attrMethod: dimMethod, attrPath: dimPath, attrHost: dimHost,
	attrHeader: dimHeader, attrClaim: dimClaim,
}

var addrDims = map[attrKind]dimKind{attrSourceIP: dimSourceIP, attrRemoteIP: dimRemoteIP, attrDestIP: dimDestIP}

// arg interns an attribute's argument; 0 for those without.
func (f *filing) arg(a *attribute) int {
	if a.name == "" && len(a.path) == 0 {
		return 0
	}
	id := string(rune(a.kind)) + a.name + "\x00" + strings.Join(a.path, "\x00")
	n, ok := f.argOf[id]
	if !ok {
		n = len(f.args)
		f.args = append(f.args, *a)
		f.argOf[id] = n
	}
	return n
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
	counts := f.count(rules)
	drawers := make(map[fileKey][]filed, len(rules))
	var keys []fileKey // in order of first use, so that equal documents build equal trees
	for _, e := range rules {
		best := f.choose(e, counts, len(rules))
		if best < 0 {
			n.scan = append(n.scan, e.ord)
			continue
		}
		e.used |= 1 << best
		e.copies *= int32(len(f.options[e.ord][best])) //nolint:gosec // bounded by open
		for _, k := range f.options[e.ord][best] {
			in, ok := drawers[k]
			if !ok {
				keys = append(keys, k)
			}
			if len(in) == 0 || in[len(in)-1].ord != e.ord {
				drawers[k] = append(in, e)
			}
		}
	}
	f.attach(n, keys, drawers)
	return n
}

func (f *filing) count(rules []filed) map[fileKey]int {
	counts := make(map[fileKey]int, len(rules))
	for _, e := range rules {
		for i, o := range f.options[e.ord] {
			if !f.open(&e, i) {
				continue
			}
			for _, k := range o {
				counts[k]++
			}
		}
	}
	return counts
}

// choose returns the option to file by, or -1 when none would tell the rule from the others.
func (f *filing) choose(e filed, counts map[fileKey]int, total int) int {
	best, bestCost := -1, 0
	for i, o := range f.options[e.ord] {
		if !f.open(&e, i) {
			continue
		}
		fullest := 0
		for _, k := range o {
			fullest = max(fullest, counts[k])
		}
		if fullest >= total {
			continue
		}
		// drawers that are small enough are all the same; then fewer kinds of them are better
		if cost := max(fullest, scanMax)<<16 | rank(o); best < 0 || cost < bestCost {
			best, bestCost = i, cost
		}
	}
	return best
}

// manyHeaders is the number of header dimensions from which it is cheaper to go through the request's own headers.
const manyHeaders = 8

// attach hangs a node for each drawer into the dimension it belongs to.
func (f *filing) attach(n *node, keys []fileKey, drawers map[fileKey][]filed) {
	type id struct {
		kind dimKind
		arg  int
	}
	var dims []*dimension
	byID := map[id]*dimension{}
	for _, k := range keys {
		d := byID[id{k.kind, k.arg}]
		if d == nil {
			d = &dimension{kind: k.kind, attr: f.args[k.arg]}
			byID[id{k.kind, k.arg}] = d
			dims = append(dims, d)
		}
		d.hang(k, f.node(drawers[k]))
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

// hang puts the drawer of one key into the dimension.
func (d *dimension) hang(k fileKey, child *node) {
	switch k.how {
	case fileExact:
		if d.exact == nil {
			d.exact = map[string]*node{}
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
