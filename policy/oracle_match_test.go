package policy_test

import (
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/writ-auth/writ/policy"
)

// This file is §1.3: the value families of the oracle, each as literally as the specification has it.

// fullMatch matches the whole of s, as Envoy does; parts of the pattern that are not meant as one are quoted by the caller.
func fullMatch(pattern, s string) bool {
	re, known := compiledPatterns.Load(pattern)
	if !known {
		re, _ = compiledPatterns.LoadOrStore(pattern, regexp.MustCompile(`^(?:`+pattern+`)$`))
	}
	return re.(*regexp.Regexp).MatchString(s)
}

// compiledPatterns spares fullMatch from compiling the same pattern for every request.
var compiledPatterns sync.Map

// str is STR: `*` = any non-empty string, then suffix, then prefix, then exact.
func str(pattern, s string) bool {
	switch {
	case pattern == "*":
		return s != ""
	case strings.HasPrefix(pattern, "*"):
		return strings.HasSuffix(s, pattern[1:])
	case strings.HasSuffix(pattern, "*"):
		return strings.HasPrefix(s, pattern[:len(pattern)-1])
	}
	return s == pattern
}

// hdr is HDR: `*` = the header exists, even empty; the rest as STR, on a header that exists.
func hdr(pattern, s string, exists bool) bool {
	return exists && (pattern == "*" || str(pattern, s))
}

// foldASCII lowers ASCII letters and nothing else (§9.3 "host case").
func foldASCII(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}

func host(pattern string, r *policy.Request) bool {
	return hdr(foldASCII(pattern), foldASCII(r.Host), r.HasHost)
}

func method(pattern string, r *policy.Request) bool { return hdr(pattern, r.Method, r.HasMethod) }

func sni(pattern string, r *policy.Request) bool { return str(pattern, r.SNI) }

// path is STR, or TMPL when the value holds an operator (§1.7).
func path(pattern string, r *policy.Request) bool {
	if !strings.Contains(pattern, "{*}") && !strings.Contains(pattern, "{**}") {
		return str(pattern, r.Path)
	}
	const segmentChars = `a-zA-Z0-9\-._~%!$&'()+,;:@=`
	re := regexp.QuoteMeta(pattern)
	re = strings.ReplaceAll(re, regexp.QuoteMeta("{**}"), `[`+segmentChars+`/]*`)
	re = strings.ReplaceAll(re, regexp.QuoteMeta("{*}"), `[`+segmentChars+`]+`)
	return fullMatch(re, r.Path)
}

// headerNamed finds the header itself, so that repeated ones are joined here and not by the product.
func headerNamed(name string) func(string, *policy.Request) bool {
	name = strings.ToLower(name)
	if name == "host" { // Envoy keeps one header under both names (measured, 1.40)
		name = ":authority"
	}
	return func(pattern string, r *policy.Request) bool {
		var values []string
		for _, h := range r.Headers {
			if h.Name == name {
				values = append(values, h.Value)
			}
		}
		if len(values) > 0 {
			return hdr(pattern, strings.Join(values, ","), true)
		}
		switch name { // attributes the proxy sends apart from the header list
		case ":authority":
			return hdr(pattern, r.Host, r.HasHost)
		case ":method":
			return hdr(pattern, r.Method, r.HasMethod)
		case ":path":
			return hdr(pattern, r.RawPath, r.RawPath != "")
		}
		return false
	}
}

// anyName is §1.4: a pattern on the peer holds when any name of its certificate matches.
func anyName(r *policy.Request, match func(name string) bool) bool {
	return slices.ContainsFunc(r.Names, match)
}

// principal is PRIN after alias expansion. writ strips a scheme the author wrote, where Istio would never match; of
// spiffe://* that leaves every SPIFFE ID, not every name.
func (o *oracle) principal(pattern string, r *policy.Request) bool {
	if pattern == "spiffe://*" {
		return anyName(r, func(name string) bool { return strings.HasPrefix(name, "spiffe://") })
	}
	pattern = strings.TrimPrefix(pattern, "spiffe://")
	return slices.ContainsFunc(o.expandPrincipal(pattern), func(p string) bool {
		return anyName(r, func(name string) bool {
			switch {
			case p == "*":
				return name != ""
			case strings.HasPrefix(p, "*"):
				return fullMatch(`spiffe://.*`+regexp.QuoteMeta(p[1:]), name)
			case strings.HasSuffix(p, "*"):
				return strings.HasPrefix(name, "spiffe://"+p[:len(p)-1])
			}
			return name == "spiffe://"+p
		})
	})
}

func sourceNamespace(pattern string, r *policy.Request) bool {
	re := `.*/ns/` + strings.ReplaceAll(regexp.QuoteMeta(pattern), `\*`, `.*`) + `/.*`
	return anyName(r, func(name string) bool { return fullMatch(re, name) })
}

func serviceAccountOf(policyNamespace string) func(string, *policy.Request) bool {
	return func(value string, r *policy.Request) bool {
		ns, sa, found := strings.Cut(value, "/")
		if !found {
			ns, sa = policyNamespace, value
		}
		re := `spiffe://.+/ns/` + regexp.QuoteMeta(ns) + `/(.+/)?sa/` + regexp.QuoteMeta(sa) + `(/.+)?`
		return anyName(r, func(name string) bool { return fullMatch(re, name) })
	}
}

func (o *oracle) trustDomain(pattern string, r *policy.Request) bool {
	values := []string{pattern}
	if slices.Contains(o.trustDomains(), pattern) {
		values = o.trustDomains()
	}
	return slices.ContainsFunc(values, func(v string) bool {
		re := `spiffe://.*`
		if v != "*" {
			re = `spiffe://` + strings.ReplaceAll(regexp.QuoteMeta(v), `\*`, `[^/]*`) + `/.*`
		}
		return anyName(r, func(name string) bool { return fullMatch(re, name) })
	})
}

// requestPrincipal is the table of §1.5, row by row. Both claims must be there, as strings.
func requestPrincipal(value string, r *policy.Request) bool {
	iss, hasIss := stringClaim(r, "iss")
	sub, hasSub := stringClaim(r, "sub")
	if !hasIss || !hasSub {
		return false
	}
	i := strings.LastIndex(value, "/")
	slash := i >= 0
	issPart, subPart := value, ""
	if slash {
		issPart, subPart = value[:i], value[i+1:]
	}
	switch {
	case value == "*":
		return iss != "" && sub != ""
	case strings.HasPrefix(value, "*") && slash && issPart == "*":
		return iss != "" && sub == subPart
	case strings.HasPrefix(value, "*") && slash:
		return strings.HasSuffix(iss, issPart[1:]) && sub == subPart
	case strings.HasPrefix(value, "*"):
		return iss != "" && strings.HasSuffix(sub, value[1:])
	case strings.HasSuffix(value, "*") && slash && subPart == "*":
		return iss == issPart && sub != ""
	case strings.HasSuffix(value, "*") && slash:
		return iss == issPart && strings.HasPrefix(sub, subPart[:len(subPart)-1])
	case strings.HasSuffix(value, "*"):
		return strings.HasPrefix(iss, value[:len(value)-1]) && sub != ""
	}
	return iss == issPart && sub == subPart
}

func stringClaim(r *policy.Request, name string) (string, bool) {
	if r.Claims == nil {
		return "", false
	}
	s, ok := r.Claims.(claims)[name].(string)
	return s, ok
}

// claimAt is CLAIM: STR against a string, or against each string element of a list.
func claimAt(path []string) func(string, *policy.Request) bool {
	return func(pattern string, r *policy.Request) bool {
		if r.Claims == nil {
			return false
		}
		return slices.ContainsFunc(stringsAt(map[string]any(r.Claims.(claims)), path), func(s string) bool {
			return str(pattern, s)
		})
	}
}

// claimPath reads what stands between the first `[` and the last `]` of a claims key: `a][b` walks, any other bracket
// makes the whole text one literal name (§2).
func claimPath(inBrackets string) []string {
	path := strings.Split(inBrackets, "][")
	for _, p := range path {
		if strings.ContainsAny(p, "[]") {
			return []string{inBrackets}
		}
	}
	return path
}

// metadataAt is META: `[v]` looks into a list, `v` at a string.
func metadataAt(namespace, key string) func(string, *policy.Request) bool {
	return func(pattern string, r *policy.Request) bool {
		if r.Metadata == nil {
			return false
		}
		switch v := r.Metadata.(metadata)[namespace][key].(type) {
		case string:
			return !isListPattern(pattern) && str(pattern, v)
		case []any:
			return isListPattern(pattern) && slices.ContainsFunc(v, func(e any) bool {
				s, ok := e.(string)
				return ok && str(strings.Trim(pattern, "[]"), s)
			})
		}
		return false
	}
}

func isListPattern(v string) bool { return strings.HasPrefix(v, "[") && strings.HasSuffix(v, "]") }

func sourceIP(block string, r *policy.Request) bool      { return inBlock(block, r.SourceIP) }
func remoteIP(block string, r *policy.Request) bool      { return inBlock(block, r.RemoteIP) }
func destinationIP(block string, r *policy.Request) bool { return inBlock(block, r.DestIP) }

// inBlock is IP (§1.4): host bits are ignored, a zone is dropped, families never mix.
func inBlock(block string, ip netip.Addr) bool {
	if !ip.IsValid() {
		return false
	}
	address, bits, isBlock := strings.Cut(block, "/")
	a := netip.MustParseAddr(address).WithZone("")
	n := a.BitLen()
	if isBlock {
		n, _ = strconv.Atoi(bits)
	}
	if a.Is4() != ip.Is4() {
		return false
	}
	want, got := a.AsSlice(), ip.AsSlice()
	for bit := range n {
		mask := byte(0x80) >> (bit % 8)
		if want[bit/8]&mask != got[bit/8]&mask {
			return false
		}
	}
	return true
}

func destinationPort(value string, r *policy.Request) bool {
	port, _ := strconv.Atoi(value)
	return r.DestPort != 0 && int(r.DestPort) == port
}
