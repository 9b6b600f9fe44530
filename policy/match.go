package policy

import (
	"net/netip"
	"strings"
)

const spiffeScheme = "spiffe://"

// op says how one policy value is compared with an attribute's text, address or number. The families of
// authorization-policy §1.3 are sets of these.
type op uint8

const (
	opExact            op = iota // equal to lit
	opPrefix                     // starts with lit
	opSuffix                     // ends with lit
	opNonEmpty                   // any non-empty text: STR "*"
	opExists                     // present at all, even empty: HDR "*"
	opSpiffeSuffix               // spiffe:// + anything + lit: PRIN "*X"
	opNamespace                  // contains /ns/ + parts with anything between them + /
	opServiceAccount             // spiffe://…/ns/lit/[…/]sa/sub[/…]
	opTrustDomain                // spiffe:// + parts[0] + [^/]* + parts[1] + /
	opTemplate                   // path template
	opCIDR                       // address inside prefix
	opPort                       // equal to port
	opRequestPrincipal           // iss and sub, each by its own matcher
)

// matcher is one compiled value of one condition.
type matcher struct {
	op       op
	element  bool // META [v]: compared with the elements of a list
	port     uint16
	lit      string
	sub      string       // opServiceAccount: the account's name
	parts    []string     // opNamespace, opTrustDomain: literal parts around the stars
	prefix   netip.Prefix // opCIDR
	template *template    // opTemplate
	iss, jwt *matcher     // opRequestPrincipal: issuer and subject
	text     string       // the value as the document has it (after alias expansion), for people
}

// matchText compares one text value. Only text operations reach it.
func (m *matcher) matchText(v string) bool {
	switch m.op {
	case opExact:
		return v == m.lit
	case opPrefix:
		return strings.HasPrefix(v, m.lit)
	case opSuffix:
		return strings.HasSuffix(v, m.lit)
	case opNonEmpty:
		return v != ""
	case opExists:
		return true
	case opSpiffeSuffix:
		return len(v) >= len(spiffeScheme)+len(m.lit) && strings.HasPrefix(v, spiffeScheme) && strings.HasSuffix(v, m.lit)
	case opNamespace:
		return containsInOrder(v, m.parts)
	case opServiceAccount:
		return hasServiceAccount(v, m.lit, m.sub)
	case opTrustDomain:
		return hasTrustDomain(v, m.parts)
	case opTemplate:
		return m.template.match(v)
	case opCIDR, opPort, opRequestPrincipal:
		return false // compared by address, number and token, never as text
	}
	return false
}

// containsInOrder reports whether v holds all parts, one after the other, with anything between them.
func containsInOrder(v string, parts []string) bool {
	for _, p := range parts {
		i := strings.Index(v, p)
		if i < 0 {
			return false
		}
		v = v[i+len(p):]
	}
	return true
}

// hasServiceAccount reports whether an identity names service account sa of namespace ns, as Istio's pattern does: it
// tolerates further path segments around the two and ignores the trust domain (§1.4).
func hasServiceAccount(v, ns, sa string) bool {
	if !strings.HasPrefix(v, spiffeScheme) {
		return false
	}
	v = v[len(spiffeScheme):]
	for from := 1; from < len(v); { // the trust domain has at least one character
		i := strings.Index(v[from:], "/ns/")
		if i < 0 {
			return false
		}
		rest := v[from+i+len("/ns/"):]
		if tail, ok := strings.CutPrefix(rest, ns); ok && strings.HasPrefix(tail, "/") && hasAccountSegment(tail[1:], sa) {
			return true
		}
		from += i + 1
	}
	return false
}

// hasAccountSegment reports whether rest is "sa/NAME", possibly after and before other non-empty path text.
func hasAccountSegment(rest, sa string) bool {
	for at := 0; ; {
		if tail, ok := strings.CutPrefix(rest[at:], "sa/"); ok {
			if tail, ok = strings.CutPrefix(tail, sa); ok && (tail == "" || len(tail) > 1 && tail[0] == '/') {
				return true
			}
		}
		// the next candidate starts after a slash that has at least one character before it
		at = max(at, 1)
		if at > len(rest) {
			return false
		}
		next := strings.IndexByte(rest[at:], '/')
		if next < 0 {
			return false
		}
		at += next + 1
	}
}

// hasTrustDomain reports whether v is spiffe:// + parts joined by characters other than "/", + "/" + anything.
func hasTrustDomain(v string, parts []string) bool {
	v, ok := strings.CutPrefix(v, spiffeScheme)
	if !ok {
		return false
	}
	if len(parts) == 1 {
		tail, ok := strings.CutPrefix(v, parts[0])
		return ok && strings.HasPrefix(tail, "/")
	}
	v, ok = strings.CutPrefix(v, parts[0])
	if !ok {
		return false
	}
	if parts[1] == "" { // TD*: the rest of the segment is free
		return strings.IndexByte(v, '/') >= 0
	}
	i := strings.Index(v, parts[1]+"/") // *TD: the leftmost place is the only one with no slash before it
	return i >= 0 && strings.IndexByte(v[:i], '/') < 0
}

// matchClaims compares a token's issuer and subject (§1.5). Both must be present as strings.
func (m *matcher) matchClaims(c Claims) bool {
	if m.op != opRequestPrincipal {
		return false
	}
	return m.iss.matchClaim(c, c.Issuer(), issuerPath) && m.jwt.matchClaim(c, c.Subject(), subjectPath)
}

// Paths of the claims that make a request principal. Read only.
var (
	issuerPath  = []string{"iss"}
	subjectPath = []string{"sub"}
)

// matchClaim compares the string at path. An absent claim is no empty string.
func (m *matcher) matchClaim(c Claims, v string, path []string) bool {
	return m.matchText(v) && (v != "" || len(c.Strings(path)) == 1)
}

// condition is one field of a source or operation, or one when key, with its values and its not-values.
type condition struct {
	field     string // as written: principals, paths, or the when key
	attr      attribute
	httpOnly  bool
	values    []matcher
	notValues []matcher
}

// matches: (values empty OR some value matches) AND (notValues empty OR no notValue matches), §3.1. A missing attribute
// therefore satisfies notValues and never values (§3.3).
func (c *condition) matches(r *Request) bool {
	if len(c.values) > 0 && c.attr.match(c.values, r) == nil {
		return false
	}
	return len(c.notValues) == 0 || c.attr.match(c.notValues, r) == nil
}

// attrKind is a thing of a request that conditions read.
type attrKind uint8

const (
	attrNames            attrKind = iota // names of the peer certificate
	attrSourceIP                         // direct peer
	attrRemoteIP                         // after PROXY protocol and x-forwarded-for
	attrDestIP                           // local address
	attrDestPort                         // local port
	attrSNI                              // server name of the TLS hello
	attrMethod                           // :method
	attrPath                             // :path without query
	attrHost                             // :authority, case folded
	attrHeader                           // a request header, by name
	attrRequestPrincipal                 // iss and sub of the verified token
	attrClaim                            // a claim of it, by path
	attrMetadata                         // dynamic metadata, by namespace and key
)

// attribute is an attrKind with its argument.
type attribute struct {
	kind attrKind
	name string   // header name in lower case, or metadata namespace
	path []string // claim path, or the metadata key alone
}

// match returns the first matcher that some value of the attribute satisfies, or nil.
func (a *attribute) match(ms []matcher, r *Request) *matcher {
	switch a.kind {
	case attrNames:
		return matchAny(ms, r.Names)
	case attrSourceIP:
		return matchAddr(ms, r.SourceIP)
	case attrRemoteIP:
		return matchAddr(ms, r.RemoteIP)
	case attrDestIP:
		return matchAddr(ms, r.DestIP)
	case attrDestPort:
		return matchPort(ms, r.DestPort)
	case attrSNI:
		return matchOne(ms, r.SNI, r.SNI != "")
	case attrMethod:
		return matchOne(ms, r.Method, r.HasMethod)
	case attrPath:
		return matchOne(ms, r.Path, r.Path != "")
	case attrHost:
		return matchOne(ms, r.foldedHost(), r.HasHost)
	case attrHeader:
		v, ok := r.Header(a.name)
		return matchOne(ms, v, ok)
	case attrRequestPrincipal:
		if r.Claims == nil {
			return nil
		}
		for i := range ms {
			if ms[i].matchClaims(r.Claims) {
				return &ms[i]
			}
		}
		return nil
	case attrClaim:
		if r.Claims == nil {
			return nil
		}
		return matchAny(ms, r.Claims.Strings(a.path))
	case attrMetadata:
		return a.matchMetadata(ms, r.Metadata)
	}
	return nil
}

// matchMetadata: v is compared with a string value, [v] with the elements of a list (§1.3 META).
func (a *attribute) matchMetadata(ms []matcher, md Metadata) *matcher {
	if md == nil {
		return nil
	}
	text, isText := md.Text(a.name, a.path[0])
	list := md.List(a.name, a.path[0])
	for i := range ms {
		switch {
		case ms[i].element && matchAny(ms[i:i+1], list) != nil, !ms[i].element && isText && ms[i].matchText(text):
			return &ms[i]
		}
	}
	return nil
}

func matchOne(ms []matcher, v string, present bool) *matcher {
	if !present {
		return nil
	}
	for i := range ms {
		if ms[i].matchText(v) {
			return &ms[i]
		}
	}
	return nil
}

func matchAny(ms []matcher, vs []string) *matcher {
	for _, v := range vs {
		if m := matchOne(ms, v, true); m != nil {
			return m
		}
	}
	return nil
}

func matchAddr(ms []matcher, a netip.Addr) *matcher {
	if !a.IsValid() {
		return nil
	}
	for i := range ms {
		if ms[i].op == opCIDR && ms[i].prefix.Contains(a) {
			return &ms[i]
		}
	}
	return nil
}

func matchPort(ms []matcher, port uint16) *matcher {
	if port == 0 { // absent
		return nil
	}
	for i := range ms {
		if ms[i].op == opPort && ms[i].port == port {
			return &ms[i]
		}
	}
	return nil
}
