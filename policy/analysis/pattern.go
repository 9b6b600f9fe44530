package analysis

import (
	"iter"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// pattern is a value in comparable form. Two values of one attribute with the same pattern match the same.
type pattern struct {
	how  byte // one of the constants below
	text string
}

const (
	exactly  = '='
	prefix   = '>'
	suffix   = '<'
	anything = '*'
)

// patternOf brings a value into comparable form. What cannot be compared but with itself is taken as exact text.
func (l *linter) patternOf(r *rule, c *condition, v string) pattern {
	switch c.family {
	case famPort:
		if n, err := strconv.ParseUint(v, 10, 16); err == nil {
			return pattern{exactly, strconv.FormatUint(n, 10)}
		}
	case famIP:
		if p, ok := parsePrefix(v); ok {
			return pattern{prefix, p.Masked().String()}
		}
	case famAccount:
		if !strings.Contains(v, "/") {
			v = r.policy.doc.Namespace + "/" + v
		}
	case famRequestPrincipal, famDomain:
		if v == "*" {
			return pattern{anything, ""}
		}
	case famMetadata:
	case famPath:
		if isTemplate(v) {
			return pattern{exactly, v}
		}
		return starPattern(v)
	case famNamespace:
		if strings.Count(v, "*") > 1 {
			return pattern{exactly, v}
		}
		return starPattern(v)
	case famHost:
		return starPattern(strings.ToLower(v))
	case famPrincipal:
		v = strings.TrimPrefix(v, "spiffe://")
		if v != "*" && l.rewritten(v) {
			return pattern{exactly, v}
		}
		return starPattern(v)
	case famString, famHeader:
		return starPattern(v)
	}
	return pattern{exactly, v}
}

func starPattern(v string) pattern {
	switch {
	case v == "*":
		return pattern{anything, ""}
	case strings.HasPrefix(v, "*"):
		return pattern{suffix, v[1:]}
	case strings.HasSuffix(v, "*"):
		return pattern{prefix, v[:len(v)-1]}
	}
	return pattern{exactly, v}
}

// rewritten reports whether a principal may stand for others as well: for the same one of other trust domains.
func (l *linter) rewritten(principal string) bool {
	return strings.Count(principal, "/") == 4 && (len(l.domains) > 1 || l.mesh.TrustDomain != "cluster.local")
}

// operand is a value of a condition, ready to be compared with others of the same attribute.
type operand struct {
	pattern
	family family
	how    byte         // exactly, prefix or suffix: how text is compared with broader texts; 0 if it cannot be
	text   string       // what all that the value matches begins with, ends with or is
	net    netip.Prefix // of an address or a network
}

func (l *linter) operandOf(r *rule, c *condition, v string) operand {
	out := operand{pattern: l.patternOf(r, c, v), family: c.family}
	switch c.family {
	case famPort, famMetadata, famAccount, famRequestPrincipal, famDomain:
		return out
	case famIP:
		if p, ok := parsePrefix(v); ok {
			out.net = p.Masked()
		}
		return out
	case famPath:
		if isTemplate(v) {
			out.how, out.text = prefix, v[:strings.IndexByte(v, '{')]
			return out
		}
	case famPrincipal:
		if out.pattern.how == exactly && l.rewritten(out.pattern.text) {
			return out
		}
	case famNamespace:
		if strings.Contains(out.pattern.text, "*") {
			return out
		}
	case famString, famHeader, famHost:
	}
	if out.pattern.how != anything {
		out.how, out.text = out.pattern.how, out.pattern.text
	}
	return out
}

// widest reports whether the family has a value that matches whatever any other one matches.
func (f family) widest() bool {
	return f != famPort && f != famMetadata && f != famAccount && f != famIP
}

// within reports whether w matches all that v matches. It never errs on the side of yes.
func (v *operand) within(w *operand) bool {
	switch {
	case v.pattern == w.pattern:
		return true
	case v.net.IsValid() && w.net.IsValid():
		return w.net.Bits() <= v.net.Bits() && w.net.Contains(v.net.Addr())
	case w.pattern.how == anything:
		return v.family.widest()
	case w.pattern.text == "":
		return false
	case w.pattern.how == prefix:
		return (v.how == exactly || v.how == prefix) && strings.HasPrefix(v.text, w.pattern.text)
	case w.pattern.how == suffix:
		return (v.how == exactly || v.how == suffix) && strings.HasSuffix(v.text, w.pattern.text)
	}
	return false
}

// patternSet is patterns of one attribute, numbered. It finds the broader ones of a value without trying them all.
type patternSet struct {
	numbers map[pattern]int32
	lengths map[byte][]int // of the patterns: bytes, or bits of a network; in order
}

func newPatternSet() *patternSet {
	return &patternSet{numbers: map[pattern]int32{}, lengths: map[byte][]int{}}
}

// add puts a value's pattern into the set with the number n, unless it is there. It returns the number that it has.
func (s *patternSet) add(v *operand, n int32) (number int32, added bool) {
	if have, ok := s.numbers[v.pattern]; ok {
		return have, false
	}
	s.numbers[v.pattern] = n
	length := len(v.pattern.text)
	if v.net.IsValid() {
		length = v.net.Bits()
	}
	lengths := s.lengths[v.pattern.how]
	if at, ok := slices.BinarySearch(lengths, length); !ok {
		s.lengths[v.pattern.how] = slices.Insert(lengths, at, length)
	}
	return n, true
}

// broader yields the numbers of all patterns that match all that v matches, its own first if it is there.
func (s *patternSet) broader(v *operand) iter.Seq[int32] {
	return func(yield func(int32) bool) {
		for p := range v.broader(s.lengths) {
			if n, ok := s.numbers[p]; ok && !yield(n) {
				return
			}
		}
	}
}

// broader yields every pattern of these lengths that matches all that v matches, v's own first. It agrees with within.
func (v *operand) broader(lengths map[byte][]int) iter.Seq[pattern] {
	return func(yield func(pattern) bool) {
		if !yield(v.pattern) || v.family.widest() && v.pattern.how != anything && !yield(pattern{anything, ""}) {
			return
		}
		if v.net.IsValid() {
			for _, bits := range lengths[prefix] {
				if p, err := v.net.Addr().Prefix(bits); bits < v.net.Bits() && err == nil && !yield(pattern{prefix, p.String()}) {
					return
				}
			}
			return
		}
		for _, how := range []byte{prefix, suffix} {
			if v.how != exactly && v.how != how {
				continue
			}
			for _, n := range lengths[how] {
				if n == 0 || n > len(v.text) {
					continue
				}
				p := pattern{prefix, v.text[:n]}
				if how == suffix {
					p = pattern{suffix, v.text[len(v.text)-n:]}
				}
				if p != v.pattern && !yield(p) {
					return
				}
			}
		}
	}
}
