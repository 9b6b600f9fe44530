package replay

import (
	"cmp"
	"container/heap"
	"slices"
	"strings"
)

// Counted is a value with how often it came up: exactly, or at most Count and at least Count-Error times once there were
// more values than are counted at a time.
type Counted struct {
	Value string `json:"value"`
	Count uint64 `json:"count"`
	Error uint64 `json:"error,omitempty"`
}

// top finds the most frequent values in bounded memory (Metwally, Agrawal, El Abbadi: space saving).
type top struct {
	size   int
	values map[string]*ranked
	ranks  ranking
}

// ranked is a value with its place in the ranking.
type ranked struct {
	Counted
	at int
}

func newTop(size int) *top { return &top{size: size, values: map[string]*ranked{}} }

func (t *top) add(value string) {
	value = value[:min(len(value), maxExampleText)]
	if v := t.values[value]; v != nil {
		v.Count++
		heap.Fix(&t.ranks, v.at)
		return
	}
	value = strings.Clone(value)
	if len(t.ranks) < t.size {
		v := &ranked{Counted: Counted{Value: value, Count: 1}}
		t.values[value] = v
		heap.Push(&t.ranks, v)
		return
	}
	v := t.ranks[0] // the rarest makes room
	delete(t.values, v.Value)
	v.Counted = Counted{Value: value, Count: v.Count + 1, Error: v.Count}
	t.values[value] = v
	heap.Fix(&t.ranks, 0)
}

// first lists the n most frequent values as they may be shown.
func (t *top) first(n int) []Counted {
	all := make([]Counted, 0, len(t.ranks))
	for _, v := range t.ranks {
		all = append(all, v.Counted)
	}
	slices.SortFunc(all, func(a, b Counted) int { return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Value, b.Value)) })
	all = all[:min(n, len(all))]
	for i := range all {
		all[i].Value = shown(all[i].Value)
	}
	return all
}

// ranking is a heap with the rarest value first. It implements [heap.Interface].
type ranking []*ranked

func (r ranking) Len() int           { return len(r) }
func (r ranking) Less(i, j int) bool { return r[i].Count < r[j].Count }

func (r ranking) Swap(i, j int) {
	r[i], r[j] = r[j], r[i]
	r[i].at, r[j].at = i, j
}

// Push is called by [heap.Push] only.
func (r *ranking) Push(x any) {
	v := x.(*ranked)
	v.at = len(*r)
	*r = append(*r, v)
}

// Pop is called by nobody: values are replaced.
func (r *ranking) Pop() any {
	last := (*r)[len(*r)-1]
	*r = (*r)[:len(*r)-1]
	return last
}
