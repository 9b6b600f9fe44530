package analysis

import (
	"encoding/binary"
	"slices"
	"unicode/utf8"

	"github.com/writ-auth/writ/policy"
)

// byteSet is a set of bytes.
type byteSet [256]bool

func bytesOf(s string) *byteSet {
	var set byteSet
	for i := range len(s) {
		set[s[i]] = true
	}
	return &set
}

// printableExcept is printable ASCII and every byte of longer UTF-8 sequences, without those of s.
func printableExcept(s string) *byteSet {
	var set byteSet
	for c := ' '; c < 256; c++ {
		set[c] = c != 0x7f
	}
	for i := range len(s) {
		set[s[i]] = false
	}
	return &set
}

const (
	letters       = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	digits        = "0123456789"
	templateBytes = letters + digits + "-._~%!$&'()+,;:@=" // of {*}, authorization-policy §1.7
)

// node is one step of a pattern: a byte, one of a set of bytes, any number of a set, or the end.
type node struct {
	set     *byteSet // nil: the byte lit, or its other case alt
	lit     byte
	alt     byte // equal to lit, if case counts
	loop    bool // any number of set, then the next node
	end     bool // the pattern matches here
	feature int32
}

// universe is the feature that stands for the values an attribute can have at all.
const universe = -1

// automaton runs all patterns on the values of one attribute at once. A state is the sorted list of the nodes that are
// reached; features are lists of patterns, of which one has to match.
type automaton struct {
	nodes     []node
	starts    []int32
	fold      bool // literals that are added match in either case
	templates bool // some pattern has an alphabet of its own
	canonical bool // values are spiffe://TD/ns/NS/sa/SA: patterns that look for parts of it know where
	any       *byteSet
	features  int
	sure      map[int32]int32 // scratch of tidy
}

// piece is a part of a pattern in the making.
type piece struct {
	text string
	set  *byteSet
	loop bool
}

func text(s string) piece        { return piece{text: s} }
func some(set *byteSet) []piece  { return []piece{{set: set}, {set: set, loop: true}} }
func anyNumber(s *byteSet) piece { return piece{set: s, loop: true} }
func with(p ...[]piece) []piece  { return slices.Concat(p...) }

// add adds one pattern to a feature.
func (a *automaton) add(feature int, pieces ...piece) {
	a.starts = append(a.starts, int32(len(a.nodes))) //nolint:gosec // bounded by the size of documents
	f := int32(feature)                              //nolint:gosec // as above
	for _, p := range pieces {
		if p.set != nil {
			a.nodes = append(a.nodes, node{set: p.set, loop: p.loop, feature: f})
			continue
		}
		for i := range len(p.text) {
			n := node{lit: p.text[i], alt: p.text[i], feature: f}
			if 'a' <= n.lit && n.lit <= 'z' && a.fold {
				n.alt = n.lit - 'a' + 'A'
			}
			a.nodes = append(a.nodes, n)
		}
	}
	a.nodes = append(a.nodes, node{end: true, feature: f})
}

// addPattern adds a text pattern of a document to a feature. tail follows it, and stands for what comes after the value.
func (a *automaton) addPattern(feature int, p *policy.Pattern, anything *byteSet, tail ...piece) {
	const scheme = "spiffe://"
	add := func(pieces ...piece) { a.add(feature, append(pieces, tail...)...) }
	rest := anyNumber(anything)
	switch p.Kind {
	case policy.PatternExact:
		add(text(p.Literal))
	case policy.PatternPrefix:
		add(text(p.Literal), rest)
	case policy.PatternSuffix:
		add(rest, text(p.Literal))
	case policy.PatternNonEmpty:
		add(some(anything)...)
	case policy.PatternExists:
		add(rest)
	case policy.PatternSpiffeSuffix:
		add(text(scheme), rest, text(p.Literal))
	case policy.PatternNamespace:
		if a.canonical && len(p.Parts) == 1 && p.Parts[0] != "/ns/sa/" { // which is in /ns/ns/sa/ as well
			add(with([]piece{text(scheme)}, some(printableExcept("/")), []piece{text(p.Parts[0]), rest})...)
			return
		}
		var pieces []piece
		for _, part := range p.Parts {
			pieces = append(pieces, rest, text(part))
		}
		add(append(pieces, rest)...)
	case policy.PatternServiceAccount:
		if a.canonical {
			add(with([]piece{text(scheme)}, some(printableExcept("/")), []piece{text("/ns/" + p.Literal + "/sa/" + p.Account)})...)
			return
		}
		head := with([]piece{text(scheme)}, some(anything), []piece{text("/ns/" + p.Literal + "/")})
		within := append(some(anything), text("/"))
		name, after := []piece{text("sa/" + p.Account)}, append([]piece{text("/")}, some(anything)...)
		add(with(head, name)...)
		add(with(head, within, name)...)
		add(with(head, name, after)...)
		add(with(head, within, name, after)...)
	case policy.PatternTrustDomain:
		pieces := []piece{text(scheme + p.Parts[0])}
		for _, part := range p.Parts[1:] {
			pieces = append(pieces, anyNumber(printableExcept("/")), text(part))
		}
		add(append(pieces, text("/"), rest)...)
	case policy.PatternTemplate:
		a.templates = true
		var pieces []piece
		for i, part := range p.Parts {
			if i > 0 {
				pieces = append(pieces, some(bytesOf(templateBytes))...)
			}
			pieces = append(pieces, text(part))
		}
		if p.Deep {
			pieces = append(pieces, anyNumber(bytesOf(templateBytes+"/")), text(p.Tail))
		}
		add(pieces...)
	case policy.PatternCIDR, policy.PatternPort, policy.PatternRequestPrincipal: // no text
	}
}

// reach adds a node, and the one after it if the node may be passed over.
func (a *automaton) reach(state []int32, id int32) []int32 {
	for {
		state = append(state, id)
		if n := &a.nodes[id]; n.end || !n.loop {
			return state
		}
		id++
	}
}

// tidy sorts a state, and drops the nodes of features that are true whatever follows.
func (a *automaton) tidy(state []int32) []int32 {
	slices.Sort(state)
	state = slices.Compact(state)
	if !slices.ContainsFunc(state, a.forever) {
		return state
	}
	if a.sure == nil {
		a.sure = map[int32]int32{}
	}
	clear(a.sure)
	for _, id := range state {
		if a.forever(id) {
			a.sure[a.nodes[id].feature] = id
		}
	}
	return slices.DeleteFunc(state, func(id int32) bool {
		keep, known := a.sure[a.nodes[id].feature]
		return known && id != keep && id != keep+1
	})
}

// forever reports whether a node's feature is true whatever follows.
func (a *automaton) forever(id int32) bool {
	n := &a.nodes[id]
	return n.feature != universe && n.loop && n.set == a.any && a.nodes[id+1].end // of refused as well
}

func (a *automaton) start() []int32 {
	var state []int32
	for _, id := range a.starts {
		state = a.reach(state, id)
	}
	return a.tidy(state)
}

func (a *automaton) step(state []int32, c byte) []int32 {
	var next []int32
	for _, id := range state {
		switch n := &a.nodes[id]; {
		case n.end:
		case n.set == nil:
			if n.lit == c || n.alt == c {
				next = a.reach(next, id+1)
			}
		case n.set[c] && n.loop:
			next = a.reach(next, id)
		case n.set[c]:
			next = a.reach(next, id+1)
		}
	}
	return a.tidy(next)
}

// accepts returns the features that hold of a value that ends in state; within is whether there is such a value.
func (a *automaton) accepts(state []int32) (bits bitset, within bool) {
	bits = newBitset(a.features)
	for _, id := range state {
		switch n := &a.nodes[id]; {
		case !n.end:
		case n.feature == universe:
			within = true
		case n.feature == refused:
			return bits, false
		default:
			bits.set(int(n.feature))
		}
	}
	return bits, within
}

// run returns the features of one value.
func (a *automaton) run(v string) (bits bitset, within bool) {
	state := a.start()
	for i := range len(v) {
		state = a.step(state, v[i])
	}
	return a.accepts(state)
}

// alive reports whether there may still be a value that begins like this.
func (a *automaton) alive(state []int32) bool {
	return slices.ContainsFunc(state, func(id int32) bool { return a.nodes[id].feature == universe }) &&
		!slices.ContainsFunc(state, func(id int32) bool { return a.nodes[id].feature == refused && a.forever(id) })
}

// symbols are the bytes that can lead from state to different states: those that patterns name, and one of each kind
// that none does.
func (a *automaton) symbols(state []int32) []byte {
	var named byteSet
	for _, id := range state {
		if n := &a.nodes[id]; !n.end && n.set == nil {
			named[n.lit], named[n.alt] = true, true
		}
	}
	var out []byte
	kinds := []string{letters + digits + "-", "/"}
	if a.templates {
		kinds = append(kinds, `*|^<>{}"`)
	}
	for _, kind := range kinds {
		for i := range len(kind) {
			if c := kind[(i+len("abcdefghijklmnopqrstuvw"))%len(kind)]; !named[c] { // x first
				out = append(out, c)
				break
			}
		}
	}
	for c := range len(named) {
		if named[c] {
			out = append(out, byte(c)) //nolint:gosec // an index of byteSet
		}
	}
	return out
}

// trail is how a state was reached first.
type trail struct {
	state  []int32
	parent int
	by     byte
}

// walk calls visit with a shortest value for every set of features that values of the universe have. It is false when
// there are more than limit states, and it gave up.
func (a *automaton) walk(limit int, visit func(bits bitset, value string)) bool {
	known := map[string]bool{}
	trails := []trail{{state: a.start(), parent: -1}}
	known[stateKey(trails[0].state)] = true
	for i := 0; i < len(trails); i++ {
		state := trails[i].state
		if bits, within := a.accepts(state); within {
			if v := spell(trails, i); utf8.ValidString(v) {
				visit(bits, v)
			}
		}
		for _, c := range a.symbols(state) {
			next := a.step(state, c)
			if !a.alive(next) || known[stateKey(next)] {
				continue
			}
			if len(trails) == limit {
				return false
			}
			known[stateKey(next)] = true
			trails = append(trails, trail{next, i, c})
		}
	}
	return true
}

func stateKey(state []int32) string {
	key := make([]byte, 0, 4*len(state))
	for _, id := range state {
		key = binary.LittleEndian.AppendUint32(key, uint32(id)) //nolint:gosec // an index
	}
	return string(key)
}

func spell(trails []trail, i int) string {
	var v []byte
	for ; trails[i].parent >= 0; i = trails[i].parent {
		v = append(v, trails[i].by)
	}
	slices.Reverse(v)
	return string(v)
}
