package provider

import (
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// headerList says which headers are meant, by names in lower case (authorization-policy §6: exact, `x*` and `*x`).
type headerList struct {
	names              map[string]bool
	prefixes, suffixes []string
}

// newHeaderList takes a list that checkHeaderList accepts.
func newHeaderList(list []string) headerList {
	l := headerList{names: make(map[string]bool, len(list))}
	for _, name := range list {
		name = strings.ToLower(name)
		switch {
		case strings.HasPrefix(name, "*"):
			l.suffixes = append(l.suffixes, name[1:])
		case strings.HasSuffix(name, "*"):
			l.prefixes = append(l.prefixes, name[:len(name)-1])
		default:
			l.names[name] = true
		}
	}
	return l
}

// has reports whether the list means the header of this name, which is in lower case.
func (l *headerList) has(name string) bool {
	return l.names[name] ||
		slices.ContainsFunc(l.prefixes, func(p string) bool { return strings.HasPrefix(name, p) }) ||
		slices.ContainsFunc(l.suffixes, func(s string) bool { return strings.HasSuffix(name, s) })
}

func checkHeaderList(p *Problems, field string, list []string) {
	if len(list) > maxHeaderList {
		p.add(field, "%d entries: want at most %d", len(list), maxHeaderList)
	}
	for _, name := range list {
		inner := strings.TrimPrefix(name, "*")
		if inner == name {
			inner = strings.TrimSuffix(name, "*")
		}
		switch {
		case name == "*":
			p.add(field, `"*" would mean every header: name them, or use x* or *x`)
		case strings.Contains(inner, "*"):
			p.add(field, "%q: a star stands at the beginning or at the end, once", name)
		case !httpguts.ValidHeaderFieldName(inner):
			p.add(field, "%q is no header name", name)
		}
	}
}

// isConnectionHeader reports whether a header, by its name in lower case, is about the connection it came on or about
// how its message is framed (RFC 9110 §7.6.1). Such a header is never passed from one connection to another.
func isConnectionHeader(name string) bool {
	switch name {
	case "connection", "content-length", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade":
		return true
	}
	return false
}

// validPath reports whether a path can stand in a request line: no space and no control character.
func validPath(path string) bool {
	for i := range len(path) {
		if c := path[i]; c <= ' ' || c == 0x7f {
			return false
		}
	}
	return path != ""
}
