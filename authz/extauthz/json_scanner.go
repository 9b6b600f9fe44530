package extauthz

import (
	"bytes"
	"encoding/binary"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// jsonScanner reads JSON (RFC 8259) value by value. What it does not take, another reader has to judge: it is strict, and
// refuses more than it must.
type jsonScanner struct {
	in      []byte
	at      int
	scratch []byte // texts that had to be unescaped
}

func (s *jsonScanner) reset(in []byte) { s.in, s.at, s.scratch = in, 0, s.scratch[:0] }

// peek is the next byte that is no white space, 0 at the end.
func (s *jsonScanner) peek() byte {
	for s.at < len(s.in) {
		switch c := s.in[s.at]; c {
		case ' ', '\t', '\n', '\r':
			s.at++
		default:
			return c
		}
	}
	return 0
}

// end reports whether nothing is left.
func (s *jsonScanner) end() bool { return s.peek() == 0 && s.at == len(s.in) }

// next takes c, if it is next.
func (s *jsonScanner) next(c byte) bool {
	if s.peek() != c || s.at == len(s.in) {
		return false
	}
	s.at++
	return true
}

// object reads an object. member is called with each key and reads the value.
func (s *jsonScanner) object(member func(key []byte) bool) bool {
	if !s.next('{') {
		return false
	}
	if s.next('}') {
		return true
	}
	for {
		key, ok := s.text()
		if !ok || !s.next(':') || !member(key) {
			return false
		}
		if !s.next(',') {
			return s.next('}')
		}
	}
}

// array reads an array. element reads one.
func (s *jsonScanner) array(element func() bool) bool {
	if !s.next('[') {
		return false
	}
	if s.next(']') {
		return true
	}
	for element() {
		if !s.next(',') {
			return s.next(']')
		}
	}
	return false
}

// literal reads a word. What may follow it is for the caller to see.
func (s *jsonScanner) literal(word string) bool {
	s.peek()
	if !bytes.HasPrefix(s.in[s.at:], []byte(word)) {
		return false
	}
	s.at += len(word)
	return true
}

func (s *jsonScanner) null() bool { return s.peek() == 'n' && s.literal("null") }

// number reads as many bytes as a number is made of, none if there is no number in the grammar of JSON.
func (s *jsonScanner) number() []byte {
	s.peek()
	rest := s.in[s.at:]
	n := 0
	if n < len(rest) && rest[n] == '-' {
		n++
	}
	whole := digits(rest[n:])
	if whole == 0 || whole > 1 && rest[n] == '0' {
		return nil
	}
	n += whole
	if n < len(rest) && rest[n] == '.' {
		fraction := digits(rest[n+1:])
		if fraction == 0 {
			return nil
		}
		n += 1 + fraction
	}
	if n < len(rest) && (rest[n] == 'e' || rest[n] == 'E') {
		n++
		if n < len(rest) && (rest[n] == '+' || rest[n] == '-') {
			n++
		}
		exponent := digits(rest[n:])
		if exponent == 0 {
			return nil
		}
		n += exponent
	}
	s.at += n
	return rest[:n]
}

// digits is how many digits b begins with.
func digits(b []byte) int {
	n := 0
	for n < len(b) && '0' <= b[n] && b[n] <= '9' {
		n++
	}
	return n
}

// integer reads an integer, as a number or as text, in plain digits.
func (s *jsonScanner) integer(least, most int64) (int64, bool) {
	var written []byte
	if s.peek() == '"' {
		text, ok := s.text()
		if !ok {
			return 0, false
		}
		inner := jsonScanner{in: text}
		if written = inner.number(); len(written) != len(text) {
			return 0, false
		}
	} else {
		written = s.number()
	}
	n, err := strconv.ParseInt(string(written), 10, 64) // refuses fractions and exponents
	return n, err == nil && n >= least && n <= most
}

// text reads a string. The result is part of the input, or of what was unescaped since the last reset.
func (s *jsonScanner) text() ([]byte, bool) {
	if !s.next('"') {
		return nil, false
	}
	rest := s.in[s.at:]
	n := bytes.IndexByte(rest, '"')
	if n < 0 {
		return nil, false
	}
	plain := rest[:n]
	if !isPlain(plain) {
		if bytes.IndexByte(plain, '\\') >= 0 {
			return s.unescape()
		}
		if !isText(plain) {
			return nil, false
		}
	}
	s.at += n + 1
	return plain, true
}

// isPlain reports whether b is printable ASCII without backslash: eight bytes at a time.
func isPlain(b []byte) bool {
	const (
		ones  = 0x0101010101010101
		highs = 0x80 * ones
	)
	for ; len(b) >= 8; b = b[8:] {
		w := binary.LittleEndian.Uint64(b)
		slash := w ^ '\\'*ones
		if (w|(w-' '*ones)&^w|(slash-ones)&^slash)&highs != 0 {
			return false
		}
	}
	for _, c := range b {
		if c < ' ' || c >= utf8.RuneSelf || c == '\\' {
			return false
		}
	}
	return true
}

// isText reports whether b is what a string may hold as it is.
func isText(b []byte) bool {
	for _, c := range b {
		if c < ' ' {
			return false
		}
	}
	return utf8.Valid(b)
}

// unescape reads the rest of a string that has escapes.
func (s *jsonScanner) unescape() ([]byte, bool) {
	start := len(s.scratch)
	for s.at < len(s.in) {
		rest := s.in[s.at:]
		n := bytes.IndexAny(rest, `"\`)
		if n < 0 || !isText(rest[:n]) {
			return nil, false
		}
		s.scratch = append(s.scratch, rest[:n]...)
		s.at += n + 1
		if rest[n] == '"' {
			return s.scratch[start:], true
		}
		if !s.escape() {
			return nil, false
		}
	}
	return nil, false
}

// escape reads what follows a backslash. Surrogates are for another reader.
func (s *jsonScanner) escape() bool {
	if s.at == len(s.in) {
		return false
	}
	c := s.in[s.at]
	s.at++
	switch c {
	case '"', '\\', '/':
	case 'b':
		c = '\b'
	case 'f':
		c = '\f'
	case 'n':
		c = '\n'
	case 'r':
		c = '\r'
	case 't':
		c = '\t'
	case 'u':
		if len(s.in)-s.at < 4 {
			return false
		}
		v, err := strconv.ParseUint(string(s.in[s.at:s.at+4]), 16, 16)
		if err != nil || utf16.IsSurrogate(rune(v)) {
			return false
		}
		s.at += 4
		s.scratch = utf8.AppendRune(s.scratch, rune(v))
		return true
	default:
		return false
	}
	s.scratch = append(s.scratch, c)
	return true
}
