package policy

import "strings"

// template is a compiled path template (authorization-policy §1.7): literal text with {*} (one or more characters of one
// segment) and at most one {**} (any characters, slashes included), which only literal text follows.
type template struct {
	head []string // literals before, between and after the {*} operators that precede {**} (or all of them)
	tail string   // literal after {**}
	deep bool     // {**} is present
}

// isTemplate reports whether a path value is a template rather than a plain STR value.
func isTemplate(path string) bool {
	return strings.Contains(path, "{*}") || strings.Contains(path, "{**}")
}

// newTemplate compiles a template that validation accepted.
func newTemplate(path string) *template {
	t := &template{}
	path, t.tail, t.deep = strings.Cut(path, "{**}")
	t.head = strings.Split(path, "{*}")
	return t
}

// match reports whether the whole path fits. Each {*} ends at the next slash, for its alphabet has none, so there is
// nothing to try twice.
func (t *template) match(path string) bool {
	rest, ok := strings.CutPrefix(path, t.head[0])
	if !ok {
		return false
	}
	for _, lit := range t.head[1:] {
		n := segmentLen(rest)
		if n == 0 {
			return false
		}
		if rest, ok = strings.CutPrefix(rest[n:], lit); !ok {
			return false
		}
	}
	if !t.deep {
		return rest == ""
	}
	rest, ok = strings.CutSuffix(rest, t.tail)
	if !ok {
		return false
	}
	for i := range len(rest) {
		if rest[i] != '/' && !templateChar[rest[i]] {
			return false
		}
	}
	return true
}

// segmentLen counts the leading bytes that {*} takes: all of the alphabet up to the first other byte.
func segmentLen(s string) int {
	for i := range len(s) {
		if !templateChar[s[i]] {
			return i
		}
	}
	return len(s)
}

// templateChar is the alphabet of {*}: no slash, no star, nothing outside ASCII.
var templateChar = func() (set [256]bool) {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~%!$&'()+,;:@="
	for i := range len(alphabet) {
		set[alphabet[i]] = true
	}
	return set
}()
