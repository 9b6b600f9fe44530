package analysis

import (
	"cmp"
	"slices"
	"strings"

	securityv1beta1 "istio.io/api/security/v1beta1"
)

// This file looks up the rules that may cover a given one, so that not every pair is compared.
//
// A rule demands marks of those that it covers: they apply to the same namespace, have a value of paths that is within one of
// its own, and so on. It is filed under its rarest demands, in a tree: one demand a level. A rule shows marks, and may be
// covered by those that are filed under nothing but marks that it shows.

const (
	maxDepth  = 4  // demands that a rule is filed under
	maxBranch = 64 // places that a rule is filed in, unless a single demand has more alternatives
	maxBucket = 8  // rules of a node that are not told apart by their next demand
	maxTried  = 32 // values, or options, of which the one with the rarest marks is chosen
)

// part is where a mark is from.
type part byte

const (
	partScope part = iota
	partFrom
	partTo
	partWhen
)

// slot is what a mark is about.
type slot struct {
	part part
	not  bool // among the excluded values
	attr string
}

// kind keeps rules apart that never cover each other.
type kind struct {
	action   securityv1beta1.AuthorizationPolicy_Action
	dryRun   bool
	provider string
}

func (r *rule) kind() kind { return kind{r.policy.action, r.policy.dryRun, r.policy.provider} }

// coverIndex finds candidates. Marks are numbered; shown has the number of the last question in which a mark was shown.
type coverIndex struct {
	sets   map[slot]*patternSet
	counts []int // rules that have the mark, by its number

	trees    map[kind]*coverNode
	shown    []int32
	question int32
}

// coverNode is a level of the tree. Until it is split, here holds all below it.
type coverNode struct {
	here  []entry
	below map[int32]*coverNode // by the next demand; nil until it is split
}

// entry is a rule with those demands that its node does not stand for.
type entry struct {
	rule int32 // its order
	rest []int32
}

func newCoverIndex(all []*matcher) *coverIndex {
	ix := &coverIndex{sets: map[slot]*patternSet{}, trees: map[kind]*coverNode{}}
	ix.number(all)
	ix.shown = make([]int32, len(ix.counts))
	for _, m := range all {
		if !m.mayCover() {
			continue
		}
		root := ix.trees[m.kind()]
		if root == nil {
			root = &coverNode{}
			ix.trees[m.kind()] = root
		}
		for _, path := range paths(ix.demands(m)) {
			root.insert(entry{int32(m.order), path})
		}
	}
	return ix
}

// number gives every mark its number: a pattern of a slot is one.
func (ix *coverIndex) number(all []*matcher) {
	add := func(s slot, v *operand) {
		set := ix.sets[s]
		if set == nil {
			set = newPatternSet()
			ix.sets[s] = set
		}
		n, added := set.add(v, int32(len(ix.counts)))
		if added {
			ix.counts = append(ix.counts, 0)
		}
		ix.counts[n]++
	}
	for _, m := range all {
		for _, s := range m.scopeMarks() {
			add(s.slot, &s.operand)
		}
		m.each(func(p part, c *clause) {
			for i := range c.values {
				add(slot{p, false, c.attr}, &c.values[i])
			}
			for i := range c.not {
				add(slot{p, true, c.attr}, &c.not[i])
			}
		})
	}
}

// mark is the number of a pattern that there is.
func (ix *coverIndex) mark(s slot, v *operand) int32 { return ix.sets[s].numbers[v.pattern] }

// broader is the marks of all patterns of a slot that match all that v matches.
func (ix *coverIndex) broader(s slot, v *operand) []int32 {
	if set := ix.sets[s]; set != nil {
		return slices.Collect(set.broader(v))
	}
	return nil
}

func (m *matcher) each(f func(part, *clause)) {
	for p, options := range [][]clauses{partFrom: m.from, partTo: m.to, partWhen: {m.when}} {
		for _, cs := range options {
			for i := range cs {
				f(part(p), &cs[i])
			}
		}
	}
}

// scopeMark is a mark of a rule's scope.
type scopeMark struct {
	slot
	operand
}

// scopeMarks are what a rule demands of the scope of another one; what it shows is the same, and its namespace always.
func (m *matcher) scopeMarks() []scopeMark {
	s := m.policy.scope
	at := func(attr, text string) scopeMark {
		return scopeMark{slot{partScope, false, attr}, operand{pattern: pattern{exactly, text}, family: famPort}}
	}
	if len(s.refs) > 0 {
		return []scopeMark{at("namespace", s.namespace), at("targets", strings.Join(s.refs, " "))}
	}
	out := []scopeMark{at("namespace", s.namespace)}
	for k, v := range s.labels {
		out = append(out, at("label "+k, v))
	}
	return out
}

// demand is a list of marks of which every rule that is covered shows at least one.
type demand []int32

// rules is how many rules have one of the marks, at most.
func (ix *coverIndex) rules(marks []int32) int {
	n := 0
	for _, m := range marks {
		n += ix.counts[m]
	}
	return n
}

// demands are all of m's, the rarest first.
func (ix *coverIndex) demands(m *matcher) []demand {
	var out []demand
	for _, s := range m.scopeMarks() {
		if s.attr != "namespace" || !m.policy.scope.root || len(m.policy.scope.refs) > 0 {
			out = append(out, demand{ix.mark(s.slot, &s.operand)})
		}
	}
	for p, options := range [][]clauses{partFrom: m.from, partTo: m.to, partWhen: {m.when}} {
		switch len(options) {
		case 0:
		case 1:
			out = append(out, ix.demandsOf(part(p), options[0])...)
		default: // any of the options may be the one that covers
			var either demand
			for _, cs := range options {
				demands := ix.demandsOf(part(p), cs)
				if len(demands) == 0 {
					either = nil
					break
				}
				either = append(either, ix.rarest(demands)...)
			}
			if len(either) > 0 {
				slices.Sort(either)
				out = append(out, slices.Compact(either))
			}
		}
	}
	slices.SortStableFunc(out, func(a, b demand) int {
		return cmp.Or(cmp.Compare(ix.rules(a), ix.rules(b)), slices.Compare(a, b))
	})
	return out
}

func (ix *coverIndex) rarest(demands []demand) demand {
	return slices.MinFunc(demands, func(a, b demand) int { return cmp.Compare(ix.rules(a), ix.rules(b)) })
}

// demandsOf are those of one source, one operation or when.
func (ix *coverIndex) demandsOf(p part, cs clauses) []demand {
	var out []demand
	for i := range cs {
		c := &cs[i]
		if len(c.values) > 0 {
			d := make(demand, 0, len(c.values))
			for j := range c.values {
				d = append(d, ix.mark(slot{p, false, c.attr}, &c.values[j]))
			}
			slices.Sort(d)
			out = append(out, slices.Compact(d))
		}
		if len(c.not) > 0 { // whoever is covered excludes a broader value
			out = append(out, ix.rarestValue(slot{p, true, c.attr}, c.not))
		}
	}
	return out
}

// rarestValue is the marks broader than one of the values, of which one is chosen that has few.
func (ix *coverIndex) rarestValue(s slot, values []operand) demand {
	best, fewest := demand(nil), 0
	for i := range values[:min(len(values), maxTried)] {
		marks := ix.broader(s, &values[i])
		if n := ix.rules(marks); i == 0 || n < fewest {
			best, fewest = marks, n
		}
	}
	return best
}

// paths are the ways through the tree that lead to a rule with these demands.
func paths(demands []demand) [][]int32 {
	out := [][]int32{nil}
	for depth, d := range demands {
		if depth == maxDepth || depth > 0 && len(out)*len(d) > max(len(out), maxBranch) {
			break
		}
		longer := make([][]int32, 0, len(out)*len(d))
		for _, path := range out {
			for _, m := range d {
				longer = append(longer, append(slices.Clip(path), m))
			}
		}
		out = longer
	}
	return out
}

func (n *coverNode) insert(e entry) {
	if n.below == nil {
		n.here = append(n.here, e)
		if len(n.here) > maxBucket {
			n.split()
		}
		return
	}
	if len(e.rest) == 0 {
		n.here = append(n.here, e)
		return
	}
	child := n.below[e.rest[0]]
	if child == nil {
		child = &coverNode{}
		n.below[e.rest[0]] = child
	}
	child.insert(entry{e.rule, e.rest[1:]})
}

func (n *coverNode) split() {
	all := n.here
	n.here, n.below = nil, map[int32]*coverNode{}
	for _, e := range all {
		n.insert(e)
	}
}

// candidates are the rules that may cover m, in lists that are each in order.
func (ix *coverIndex) candidates(m *matcher) [][]entry {
	root := ix.trees[m.kind()]
	if root == nil {
		return nil
	}
	marks := ix.marksOf(m)
	var out [][]entry
	var visit func(n *coverNode)
	visit = func(n *coverNode) {
		out = append(out, ix.possible(n.here))
		if len(n.below) < len(marks) {
			for mark, child := range n.below {
				if ix.shown[mark] == ix.question {
					visit(child)
				}
			}
			return
		}
		for _, mark := range marks {
			if child := n.below[mark]; child != nil {
				visit(child)
			}
		}
	}
	visit(root)
	return out
}

// possible leaves out those that demand what is not shown.
func (ix *coverIndex) possible(entries []entry) []entry {
	if !slices.ContainsFunc(entries, ix.impossible) {
		return entries
	}
	return slices.DeleteFunc(slices.Clone(entries), ix.impossible)
}

func (ix *coverIndex) impossible(e entry) bool {
	return slices.ContainsFunc(e.rest, func(mark int32) bool { return ix.shown[mark] != ix.question })
}

// marksOf is what m shows, each mark once.
func (ix *coverIndex) marksOf(m *matcher) []int32 {
	var out []int32
	ix.question++
	show := func(marks ...int32) {
		for _, n := range marks {
			if ix.shown[n] != ix.question {
				ix.shown[n] = ix.question
				out = append(out, n)
			}
		}
	}
	for _, s := range m.scopeMarks() {
		show(ix.mark(s.slot, &s.operand))
	}
	for p, options := range [][]clauses{partFrom: m.from, partTo: m.to, partWhen: {m.when}} {
		if len(options) > 0 {
			show(ix.option(part(p), options)...)
		}
	}
	return out
}

// option is the marks of one of the options: whoever covers all of them covers it. One is chosen that has few.
func (ix *coverIndex) option(p part, options []clauses) []int32 {
	var best []int32
	fewest := 0
	for i, cs := range options[:min(len(options), maxTried)] {
		var marks []int32
		for j := range cs {
			c := &cs[j]
			if len(c.values) > 0 {
				marks = append(marks, ix.rarestValue(slot{p, false, c.attr}, c.values)...)
			}
			for k := range c.not {
				marks = append(marks, ix.mark(slot{p, true, c.attr}, &c.not[k]))
			}
		}
		if n := ix.rules(marks); i == 0 || n < fewest {
			best, fewest = marks, n
		}
	}
	return best
}
