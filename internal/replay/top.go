package replay

import (
	"cmp"
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
	counts map[string]*Counted
}

func newTop(size int) *top { return &top{size: size, counts: map[string]*Counted{}} }

func (t *top) add(value string) {
	value = value[:min(len(value), maxExampleText)]
	if c := t.counts[value]; c != nil {
		c.Count++
		return
	}
	c := &Counted{Count: 1}
	if len(t.counts) == t.size {
		least := ""
		for v, other := range t.counts {
			if c.Error == 0 || other.Count < c.Error {
				least, c.Error = v, other.Count
			}
			if c.Error == 1 {
				break
			}
		}
		delete(t.counts, least)
		c.Count += c.Error
	}
	c.Value = strings.Clone(value)
	t.counts[c.Value] = c
}

// first lists the n most frequent values as they may be shown.
func (t *top) first(n int) []Counted {
	all := make([]Counted, 0, len(t.counts))
	for _, c := range t.counts {
		all = append(all, *c)
	}
	slices.SortFunc(all, func(a, b Counted) int { return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Value, b.Value)) })
	all = all[:min(n, len(all))]
	for i := range all {
		all[i].Value = shown(all[i].Value)
	}
	return all
}
