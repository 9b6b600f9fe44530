package analysis

import (
	"fmt"
	"slices"
)

// maxProviders bounds how many providers one request may need, old and new together.
const maxProviders = 6

// compare calls found with one request for every two outcomes that some request has, the one under the old and the other
// under the new documents.
func (m *model) compare(reasons bool, found func(old, new Outcome, r Request)) {
	old, new := m.sides[0].segments, m.sides[1].segments
	before := slices.Clone(m.impossible) // boxes of what comes first
	for i := range old {
		s := &search{model: m, reasons: reasons, found: found, done: make(map[string]bool)}
		for _, b := range old[i].boxes {
			if m.solver.withinOne(b, before) {
				continue
			}
			s.pairs(&old[i], b, b.meeting(before), new)
		}
		before = append(before, old[i].boxes...)
	}
	if m.solver.exhausted {
		m.gaps = append(m.gaps, "the rules overlap in too many ways: some combinations were not searched to the end")
	}
}

// search looks for requests of one old segment.
type search struct {
	model   *model
	reasons bool
	found   func(old, new Outcome, r Request)
	done    map[string]bool // what was found of the segment
}

// pairs looks for requests of the old segment's box b, outside of without, in every new segment.
func (s *search) pairs(old *segment, b box, without []box, new []segment) {
	for j := range new {
		for _, c := range new[j].boxes {
			if !s.worth(old, &new[j]) {
				break
			}
			if !b.meets(c) {
				continue
			}
			if both, ok := b.and(c); ok {
				s.combinations(old, &new[j], both, without)
			}
		}
		without = append(without, b.meeting(new[j].boxes)...)
		if s.model.solver.withinOne(b, new[j].boxes) {
			return // nothing of b comes to later segments
		}
	}
}

// worth reports whether two segments can differ.
func (s *search) worth(old, new *segment) bool {
	a, b := &old.outcome, &new.outcome
	switch {
	case a.Decision != b.Decision:
		return true
	case s.reasons && a.key() != b.key():
		return true
	}
	return a.Decision == Allow && (len(s.model.sides[0].providers) > 0 || len(s.model.sides[1].providers) > 0)
}

// combinations looks for one request of b, outside of without, for every set of providers that its decisions depend on.
func (s *search) combinations(old, new *segment, b box, without []box) {
	var providers []membership
	for i, outcome := range []*Outcome{&old.outcome, &new.outcome} {
		if outcome.Decision == Deny {
			continue
		}
		for _, name := range sortedKeys(s.model.sides[i].providers) {
			providers = append(providers, membership{side: i, name: name, boxes: b.meeting(s.model.sides[i].providers[name])})
		}
	}
	if len(providers) > maxProviders {
		s.gap(fmt.Sprintf("its requests may need more than %d providers", maxProviders))
		return
	}
	for asked := range 1 << len(providers) {
		want := [2]Outcome{old.outcome, new.outcome}
		var within [][]box
		outside := slices.Clip(without)
		for i, p := range providers {
			if asked&(1<<i) == 0 {
				outside = append(outside, p.boxes...)
				continue
			}
			want[p.side].Providers = append(slices.Clone(want[p.side].Providers), p.name)
			within = append(within, p.boxes)
		}
		key := want[0].key() + "\x01" + want[1].key()
		same := kindOf(want[0], want[1]) == Reason && (!s.reasons || old.outcome.key() == new.outcome.key())
		if same || s.done[key] {
			continue
		}
		if p, ok := s.model.solver.findWithin(b, within, outside); ok {
			s.done[key] = true
			s.confirm(p, want)
		}
	}
}

// membership is the requests for which a provider is asked.
type membership struct {
	side  int
	name  string
	boxes []box
}

// confirm has the evaluator decide the request and reports it, as plain as it can be.
func (s *search) confirm(p point, want [2]Outcome) {
	if !s.model.agrees(p, want) {
		s.gap(fmt.Sprintf("the analysis took a request to be %q before and %q after, which the evaluator does not confirm; please report this",
			want[0].String(), want[1].String()))
		return
	}
	s.found(want[0], want[1], s.model.request(s.model.minimise(p, want)))
}

// gap notes once why the comparison is not complete.
func (s *search) gap(reason string) {
	if !slices.Contains(s.model.gaps, reason) {
		s.model.gaps = append(s.model.gaps, reason)
	}
}

// agrees reports whether the evaluator decides the request of a point as wanted.
func (m *model) agrees(p point, want [2]Outcome) bool {
	r := m.request(p)
	for i, s := range m.sides {
		if got := s.decide(r.Policy()); got.key() != want[i].key() {
			return false
		}
	}
	return true
}

// minimise takes away from a request whatever the two outcomes do not need.
func (m *model) minimise(p point, want [2]Outcome) point {
	for d := range p {
		for plainer := range p[d] {
			q := slices.Clone(p)
			q[d] = plainer
			if m.possible(q) && m.agrees(q, want) {
				p = q
				break
			}
		}
	}
	return p
}

// possible reports whether a point stands for a request.
func (m *model) possible(p point) bool {
	return !slices.ContainsFunc(m.impossible, func(b box) bool {
		for d := range b {
			if b[d] != nil && !b[d].has(p[d]) {
				return false
			}
		}
		return true
	})
}
