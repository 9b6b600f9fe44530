package analysis

import "slices"

// box is a product of sets of cells, one for each dimension. A nil set is every cell.
type box []bitset

// meets reports whether two boxes share a point.
func (b box) meets(o box) bool {
	for d := range b {
		if b[d] != nil && o[d] != nil && !b[d].meets(o[d]) {
			return false
		}
	}
	return true
}

// and is what two boxes share. It is false when that is nothing.
func (b box) and(o box) (box, bool) {
	out := slices.Clone(b)
	for d := range o {
		switch {
		case o[d] == nil:
		case out[d] == nil:
			out[d] = o[d]
		default:
			if out[d] = out[d].and(o[d]); out[d].empty() {
				return nil, false
			}
		}
	}
	return out, true
}

// meeting returns those boxes that share a point with b.
func (b box) meeting(others []box) []box {
	var out []box
	for _, o := range others {
		if b.meets(o) {
			out = append(out, o)
		}
	}
	return out
}

// withinOne reports whether one of the others holds all of b.
func (s *solver) withinOne(b box, others []box) bool {
	return slices.ContainsFunc(others, func(o box) bool { return b.meets(o) && s.excess(b, o) == 0 })
}

// point is one cell of every dimension.
type point []int

// solver looks for points in boxes and outside of others. It is exact within its budget.
type solver struct {
	full      []bitset // all cells of each dimension
	left      int      // of the work for the search under way
	work      int      // done so far
	exhausted bool     // a search ran out of work: what it found nothing of is not known to be empty
}

func newSolver(dims []*dimension) *solver {
	s := &solver{full: make([]bitset, len(dims))}
	for d := range dims {
		s.full[d] = dims[d].that(func(*value) bool { return true })
	}
	return s
}

// everything is the box of all points.
func (s *solver) everything() box { return make(box, len(s.full)) }

// excess counts the dimensions in which b is larger than o.
func (s *solver) excess(b, o box) int {
	n := 0
	for d := range b {
		if o[d] != nil && !s.of(b, d).within(o[d]) {
			n++
		}
	}
	return n
}

func (s *solver) of(b box, d int) bitset {
	if b[d] == nil {
		return s.full[d]
	}
	return b[d]
}

// Bounds of the search, in pairs of boxes that are compared: of one, and of all searches of one model. The first keeps a
// search that is hopeless from taking what others need.
const (
	maxSearch = 1_000_000
	maxWork   = 4_000_000
)

// find returns a point of b that is in none of without.
func (s *solver) find(b box, without []box) (point, bool) {
	s.left = min(maxSearch, maxWork-s.work)
	before := s.left
	p, found := s.search(b, without)
	s.work += before - s.left
	return p, found
}

// findWithin returns a point of b that is in some box of each of the lists, and in none of without.
func (s *solver) findWithin(b box, lists [][]box, without []box) (point, bool) {
	outside, ok := s.outside(b, without)
	if !ok {
		return nil, false
	}
	if len(lists) == 0 {
		return s.find(b, outside)
	}
	for _, c := range lists[0] {
		if !b.meets(c) {
			continue
		}
		if both, ok := b.and(c); ok {
			if p, found := s.findWithin(both, lists[1:], outside); found {
				return p, true
			}
		}
	}
	return nil, false
}

// outside returns those of without that keep b from being free of them. It is false when one of them holds all of b.
func (s *solver) outside(b box, without []box) ([]box, bool) {
	if s.work += len(without) / 8; s.work > maxWork { // cheaper than a step of a search
		s.exhausted = true
		return nil, false
	}
	var out []box
	for _, w := range without {
		if !b.meets(w) {
			continue
		}
		if s.excess(b, w) == 0 {
			return nil, false
		}
		out = append(out, w)
	}
	return out, true
}

// search takes the box of without that leaves the fewest ways out of it, and tries these one after the other.
func (s *solver) search(b box, without []box) (point, bool) {
	if s.left -= 1 + len(without); s.left < 0 {
		s.exhausted = true
		return nil, false
	}
	var rest []box
	best, ways := -1, 0
	for _, w := range without {
		if !b.meets(w) {
			continue
		}
		n := s.excess(b, w)
		if n == 0 {
			return nil, false
		}
		if best < 0 || n < ways {
			best, ways = len(rest), n
		}
		rest = append(rest, w)
	}
	if best < 0 {
		return s.plainest(b), true
	}
	w := rest[best]
	rest = slices.Delete(rest, best, best+1)
	left := slices.Clone(b)
	for d := range left {
		if w[d] == nil || s.of(left, d).within(w[d]) {
			continue
		}
		out := slices.Clone(left)
		out[d] = s.of(left, d).minus(w[d])
		if p, found := s.search(out, rest); found {
			return p, true
		}
		left[d] = s.of(left, d).and(w[d])
	}
	return nil, false
}

// plainest is the point of b with the first cell of each dimension, which is the plainest one.
func (s *solver) plainest(b box) point {
	p := make(point, len(b))
	for d := range b {
		p[d] = s.of(b, d).first()
	}
	return p
}
