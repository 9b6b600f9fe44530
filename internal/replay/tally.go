package replay

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Bounds of what is kept of differences.
const (
	maxGroups       = 256 // of differences of one kind between the same two rules
	DefaultExamples = 3   // kept of each group
	maxExamples     = 100
)

// Group is all differences of one kind between the same two answers.
type Group struct {
	Kind     Kind      `json:"kind"`
	Old      Answer    `json:"old"`
	New      Answer    `json:"new"`
	Count    uint64    `json:"count"`
	Examples []Example `json:"examples"` // the first ones
}

// Answer is an outcome as people and programs read it.
type Answer struct {
	Decision string `json:"decision"` // ALLOW, DENY or UNKNOWN
	By       string `json:"by"`       // namespace/name[rule], a reason, or what is not known
	Layer    string `json:"layer,omitempty"`
	Status   int    `json:"status,omitempty"`
}

func answerOf(o *Outcome) Answer {
	return Answer{Decision: o.Word(), By: o.By(), Layer: string(o.Layer), Status: o.Status}
}

// Tally counts differences and keeps the first examples of each group. It is safe for concurrent use and bounded: of
// groups beyond the first 256 only the counts by kind are kept.
type Tally struct {
	counts   [kinds]atomic.Uint64
	examples int

	mu      sync.Mutex // guards what follows
	since   time.Time
	groups  map[groupKey]*Group
	omitted uint64 // differences that belong to no group because there are too many
}

type groupKey struct {
	kind     Kind
	old, new Outcome
}

// NewTally keeps so many examples of each group.
func NewTally(examples int) *Tally {
	return &Tally{examples: min(max(examples, 1), maxExamples), groups: map[groupKey]*Group{}, since: time.Now()}
}

// Reset forgets the groups, for they compare with what is no longer there. The counts go on.
func (t *Tally) Reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.groups)
	t.omitted, t.since = 0, time.Now()
}

// Count is how many differences of a kind there were.
func (t *Tally) Count(k Kind) uint64 { return t.counts[k].Load() }

// Counts are all of them, by word.
func (t *Tally) Counts() map[string]uint64 {
	out := map[string]uint64{}
	for _, k := range Kinds() {
		out[k.String()] = t.Count(k)
	}
	return out
}

// add counts one request. It reports whether an example of it is wanted, which illustrate takes.
func (t *Tally) add(kind Kind, before, after *Outcome) (wanted bool) {
	t.counts[kind].Add(1)
	if kind == Same {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	key := groupKey{kind, *before, *after}
	g := t.groups[key]
	if g == nil {
		if len(t.groups) == maxGroups {
			t.omitted++
			return false
		}
		g = &Group{Kind: kind, Old: answerOf(before), New: answerOf(after), Examples: []Example{}}
		t.groups[key] = g
	}
	g.Count++
	return len(g.Examples) < t.examples
}

// illustrate keeps an example. It returns the group if this is its first.
func (t *Tally) illustrate(kind Kind, before, after *Outcome, e *Example) (fresh *Group) {
	t.mu.Lock()
	defer t.mu.Unlock()
	g := t.groups[groupKey{kind, *before, *after}]
	if g == nil || len(g.Examples) >= t.examples { // forgotten meanwhile, or others were faster
		return nil
	}
	g.Examples = append(g.Examples, *e)
	if len(g.Examples) > 1 {
		return nil
	}
	copied := *g
	copied.Examples = slices.Clone(g.Examples)
	return &copied
}

// Groups lists the groups: what widens first, then by how many requests, and since when they are counted.
func (t *Tally) Groups() (groups []Group, omitted uint64, since time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	groups = make([]Group, 0, len(t.groups))
	for g := range maps.Values(t.groups) {
		copied := *g
		copied.Examples = slices.Clone(g.Examples)
		groups = append(groups, copied)
	}
	slices.SortFunc(groups, func(a, b Group) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(b.Count, a.Count), cmp.Compare(a.Old.By, b.Old.By),
			cmp.Compare(a.New.By, b.New.By), cmp.Compare(a.Old.Decision, b.Old.Decision), cmp.Compare(a.Old.Status, b.Old.Status),
			cmp.Compare(a.New.Status, b.New.Status))
	})
	return groups, t.omitted, t.since
}
