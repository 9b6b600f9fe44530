package jwt

import (
	"iter"
	"strconv"
	"strings"
)

// What is below reads text that scanObject has accepted, and relies on that.

// str is the decoded string, "" and false for any other kind.
func (v value) str() (string, bool) {
	if v.kind != kindString {
		return "", false
	}
	return unescape(v.text[1 : len(v.text)-1]), true
}

// number is the value as the double every JSON number is here, so that 9007199254740993 is 9007199254740992
// (request-authentication §3.7).
func (v value) number() (float64, bool) {
	if v.kind != kindNumber {
		return 0, false
	}
	if len(v.text) <= 15 { // an integer this short is exact
		if n, err := strconv.ParseUint(v.text, 10, 64); err == nil {
			return float64(n), true
		}
	}
	n, err := strconv.ParseFloat(v.text, 64)
	return n, err == nil
}

// strings returns a string as a list of one, of a list its string elements, and nil for anything else
// (request-authentication §5.3).
func (v value) strings() []string {
	switch v.kind {
	case kindString:
		s, _ := v.str()
		return []string{s}
	case kindArray:
		found := []string{}
		for element := range v.elements() {
			if s, ok := element.str(); ok {
				found = append(found, s)
			}
		}
		return found
	}
	return nil
}

// elements walks a list.
func (v value) elements() iter.Seq[value] {
	return func(yield func(value) bool) {
		s := scanner{text: v.text, pos: 1, room: maxDepth}
		for !s.next(']') {
			s.space()
			start := s.pos
			found := s.skip()
			if !yield(value{v.text[start:s.pos], found}) {
				return
			}
			s.next(',')
		}
	}
}

// get returns the named member of an object; kindInvalid when there is none or v is not an object.
func (v value) get(name string) value {
	if v.kind != kindObject {
		return value{}
	}
	s := scanner{text: v.text, pos: 1, room: maxDepth}
	for !s.next('}') {
		s.space()
		this, _ := s.name()
		s.next(':')
		s.space()
		start := s.pos
		found := s.skip()
		if this == name {
			return value{v.text[start:s.pos], found}
		}
		s.next(',')
	}
	return value{}
}

// skip consumes one value like scanner.value, without checking it again.
func (s *scanner) skip() kind {
	switch s.text[s.pos] {
	case '"':
		s.skipString()
		return kindString
	case '{':
		s.skipNested()
		return kindObject
	case '[':
		s.skipNested()
		return kindArray
	}
	end := strings.IndexAny(s.text[s.pos:], ",]} \t\r\n")
	if end < 0 {
		end = len(s.text) - s.pos
	}
	first := s.text[s.pos]
	s.pos += end
	switch first {
	case 't', 'f':
		return kindBool
	case 'n':
		return kindNull
	}
	return kindNumber
}

func (s *scanner) skipString() {
	for s.pos++; s.text[s.pos] != '"'; s.pos++ {
		if s.text[s.pos] == '\\' {
			s.pos++
		}
	}
	s.pos++
}

func (s *scanner) skipNested() {
	for level := 0; ; s.pos++ {
		switch s.text[s.pos] {
		case '"':
			s.skipString()
			s.pos--
		case '{', '[':
			level++
		case '}', ']':
			if level--; level == 0 {
				s.pos++
				return
			}
		}
	}
}
