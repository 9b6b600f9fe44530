package jwt

import (
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// A token's JSON is read by this package itself. encoding/json accepts a repeated name (the last one wins, so what was
// checked may not be what is used), replaces invalid UTF-8 and takes 10,000 levels of nesting; and it costs a quarter of
// an RSA verification where one pass over the bytes costs a fiftieth (request-authentication §3.7, §7).

// kind is the type of a JSON value.
type kind uint8

const (
	kindInvalid kind = iota
	kindNull
	kindBool
	kindNumber
	kindString
	kindArray
	kindObject
)

// value is a JSON value that scanObject found well-formed.
type value struct {
	text string // as received, without surrounding space; of a string with its quotes
	kind kind
}

// member is a name and value of an object.
type member struct {
	name  string // decoded
	value value
}

// scanObject returns the members of text in order if text is exactly one JSON object (RFC 8259) in valid UTF-8, nested at
// most maxDepth deep, without a repeated name or a number beyond a double at any depth. The members hold until the
// workspace is used again.
func (w *workspace) scanObject(text string) ([]member, bool) {
	s := scanner{text: text, room: maxDepth, names: w.names[:0], members: w.members[:0]}
	s.space()
	ok := s.pos < len(text) && text[s.pos] == '{' && s.object(true)
	s.space()
	w.names, w.members = s.names, s.members
	return s.members, ok && s.pos == len(text)
}

// workspace is memory that parsing one token needs and parsing the next may use again.
type workspace struct {
	names   []string
	members []member
}

// reset lets go of the tokens parsed.
func (w *workspace) reset() {
	clear(w.names[:cap(w.names)])
	clear(w.members[:cap(w.members)])
	if cap(w.names) > maxWorkspace || cap(w.members) > maxWorkspace {
		*w = workspace{}
	}
}

// scanner walks a text once. Its methods return false for anything that is not JSON.
type scanner struct {
	text    string
	pos     int
	room    int      // levels of nesting left
	names   []string // of the objects that are open, the innermost last
	members []member // of the outermost object
}

func (s *scanner) space() {
	for s.pos < len(s.text) {
		switch s.text[s.pos] {
		case ' ', '\t', '\n', '\r':
			s.pos++
		default:
			return
		}
	}
}

// next skips space and consumes c if that is what follows.
func (s *scanner) next(c byte) bool {
	s.space()
	if s.pos < len(s.text) && s.text[s.pos] == c {
		s.pos++
		return true
	}
	return false
}

// value consumes one value; pos is at its first byte.
func (s *scanner) value() kind {
	if s.pos == len(s.text) {
		return kindInvalid
	}
	var found kind
	var ok bool
	switch c := s.text[s.pos]; c {
	case '"':
		found = kindString
		_, ok = s.str()
	case '{':
		found, ok = kindObject, s.object(false)
	case '[':
		found, ok = kindArray, s.array()
	case 't':
		found, ok = kindBool, s.word("true")
	case 'f':
		found, ok = kindBool, s.word("false")
	case 'n':
		found, ok = kindNull, s.word("null")
	default:
		found, ok = kindNumber, s.number()
	}
	if !ok {
		return kindInvalid
	}
	return found
}

func (s *scanner) word(w string) bool {
	if !strings.HasPrefix(s.text[s.pos:], w) {
		return false
	}
	s.pos += len(w)
	return true
}

func (s *scanner) array() bool {
	if s.room == 0 {
		return false
	}
	s.room--
	s.pos++
	if !s.next(']') {
		for {
			s.space()
			if s.value() == kindInvalid {
				return false
			}
			if s.next(']') {
				break
			}
			if !s.next(',') {
				return false
			}
		}
	}
	s.room++
	return true
}

// object consumes an object; pos is at its brace.
func (s *scanner) object(outermost bool) bool {
	if s.room == 0 {
		return false
	}
	s.room--
	s.pos++
	first := len(s.names)
	var seen nameSet
	if !s.next('}') {
		for {
			s.space()
			name, ok := s.name()
			if !ok || seen.has(s.names[first:], name) || !s.next(':') {
				return false
			}
			s.names = append(s.names, name)
			s.space()
			start := s.pos
			found := s.value()
			if found == kindInvalid {
				return false
			}
			if outermost {
				s.members = append(s.members, member{name, value{s.text[start:s.pos], found}})
			}
			if s.next('}') {
				break
			}
			if !s.next(',') {
				return false
			}
		}
	}
	s.names = s.names[:first]
	s.room++
	return true
}

// nameSet tells whether an object has a name already. Comparing with each is fastest for the objects of real tokens; a
// map keeps a hostile one from costing the square of its size.
type nameSet struct{ large map[string]struct{} }

const smallObject = 24

func (n *nameSet) has(names []string, name string) bool {
	if len(names) < smallObject {
		return slices.Contains(names, name)
	}
	if n.large == nil {
		n.large = make(map[string]struct{}, 2*smallObject)
		for _, other := range names {
			n.large[other] = struct{}{}
		}
	}
	if _, ok := n.large[name]; ok {
		return true
	}
	n.large[name] = struct{}{}
	return false
}

func (s *scanner) name() (string, bool) {
	if s.pos == len(s.text) || s.text[s.pos] != '"' {
		return "", false
	}
	start := s.pos
	escaped, ok := s.str()
	if !ok {
		return "", false
	}
	if escaped {
		return unescape(s.text[start+1 : s.pos-1]), true
	}
	return s.text[start+1 : s.pos-1], true
}

// str consumes a string and says whether it has escapes; pos is at its opening quote.
func (s *scanner) str() (escaped, ok bool) {
	s.pos++
	start, ascii := s.pos, true
	for s.pos < len(s.text) {
		switch c := s.text[s.pos]; {
		case c == '"':
			ok = ascii || utf8.ValidString(s.text[start:s.pos])
			s.pos++
			return escaped, ok
		case c == '\\':
			escaped = true
			if !s.escape() {
				return false, false
			}
		case c < ' ':
			return false, false
		case c >= utf8.RuneSelf:
			ascii = false
			s.pos++
		default:
			s.pos++
		}
	}
	return false, false
}

// escape consumes an escape sequence, two for a surrogate pair. Half a pair is refused.
func (s *scanner) escape() bool {
	rest := s.text[s.pos:]
	if len(rest) < 2 {
		return false
	}
	if rest[1] != 'u' {
		s.pos += 2
		return strings.IndexByte(`"\/bfnrt`, rest[1]) >= 0
	}
	r, size := unicodeEscape(rest)
	s.pos += size
	return r >= 0
}

// unicodeEscape decodes the \uXXXX or pair of them text begins with; the rune is negative if it is not one.
func unicodeEscape(text string) (r rune, size int) {
	high := hex4(text)
	switch {
	case high < 0xd800 || high > 0xdfff:
		return high, 6
	case high >= 0xdc00:
		return -1, 0
	}
	low := hex4(text[6:])
	if low < 0xdc00 || low > 0xdfff {
		return -1, 0
	}
	return 0x10000 + (high-0xd800)<<10 + (low - 0xdc00), 12
}

// hex4 is the number of the \uXXXX text begins with, negative if it does not.
func hex4(text string) rune {
	if len(text) < 6 || text[0] != '\\' || text[1] != 'u' {
		return -1
	}
	var r rune
	for _, c := range []byte(text[2:6]) {
		digit := unhex(c)
		if digit < 0 {
			return -1
		}
		r = r<<4 | rune(digit)
	}
	return r
}

// unhex is the value of a hexadecimal digit, negative if c is none.
func unhex(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// number consumes a number. One that overflows a double is refused, as by every parser that reads into one.
func (s *scanner) number() bool {
	start := s.pos
	if s.text[s.pos] == '-' {
		s.pos++
	}
	whole := s.digits()
	if whole == 0 || whole > 1 && s.text[s.pos-whole] == '0' {
		return false
	}
	if s.pos < len(s.text) && s.text[s.pos] == '.' {
		s.pos++
		if s.digits() == 0 {
			return false
		}
	}
	exponent := s.pos < len(s.text) && s.text[s.pos]|0x20 == 'e'
	if exponent {
		s.pos++
		if s.pos < len(s.text) && (s.text[s.pos] == '+' || s.text[s.pos] == '-') {
			s.pos++
		}
		if s.digits() == 0 {
			return false
		}
	}
	if exponent || whole > 300 {
		_, err := strconv.ParseFloat(s.text[start:s.pos], 64)
		return err == nil
	}
	return true
}

func (s *scanner) digits() (n int) {
	for s.pos < len(s.text) && '0' <= s.text[s.pos] && s.text[s.pos] <= '9' {
		s.pos++
		n++
	}
	return n
}

// unescape decodes the inside of a string that has been scanned.
func unescape(text string) string {
	if strings.IndexByte(text, '\\') < 0 {
		return text
	}
	decoded := make([]byte, 0, len(text))
	for i := 0; i < len(text); {
		if text[i] != '\\' {
			decoded = append(decoded, text[i])
			i++
			continue
		}
		if text[i+1] == 'u' {
			r, size := unicodeEscape(text[i:])
			decoded = utf8.AppendRune(decoded, r)
			i += size
			continue
		}
		at := strings.IndexByte(`"\/bfnrt`, text[i+1])
		decoded = append(decoded, "\"\\/\b\f\n\r\t"[at])
		i += 2
	}
	return string(decoded)
}
