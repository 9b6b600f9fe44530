package extauthz

import "strings"

// PathMode says what an authority assumes of the paths its proxies send (authorization-policy §9.3).
type PathMode string

// Path modes.
const (
	// PathsBase expects normalize_path: true (Istio's pathNormalization BASE). A path that such a proxy cannot send
	// proves that it does not normalize, so that policies by path could be dodged: the request is denied.
	PathsBase PathMode = "base"
	// PathsNone accepts every path as it comes (pathNormalization NONE).
	PathsNone PathMode = "none"
)

const normalizeFix = "; set normalize_path: true in Envoy's HTTP connection manager, or accept raw paths on purpose (paths: none)"

// What pathHazard finds. Details are constants: a client that sends such paths must not cost an allocation.
const (
	hazardBackslash = `the path holds a backslash` + normalizeFix
	hazardNUL       = `the path holds a NUL byte` + normalizeFix
	hazardDots      = `the path holds a "." or ".." segment` + normalizeFix
	hazardEscape    = `the path holds a percent-encoded letter or digit, or one of -._~` + normalizeFix
)

// pathHazard says what in path (without query) a normalizing proxy would have removed or refused, or "". Envoy with
// normalize_path resolves dot segments, written plainly or as %2e, turns a backslash into a slash, decodes escaped
// letters, digits and "-._~" (RFC 3986 §2.3), and refuses %00. It leaves %2F, %5C and "//" alone, so they pass: "/x%2F..%2Fadmin" has one
// segment and no dot segment.
func pathHazard(path string) string {
	if strings.IndexByte(path, '\\') >= 0 {
		return hazardBackslash
	}
	if strings.IndexByte(path, 0) >= 0 {
		return hazardNUL
	}
	escaped := strings.IndexByte(path, '%')
	if escaped < 0 && strings.IndexByte(path, '.') < 0 {
		return ""
	}
	for rest, more := path, true; more; {
		var segment string
		segment, rest, more = strings.Cut(rest, "/")
		if isDotSegment(segment) {
			return hazardDots
		}
	}
	for i := escaped; i >= 0 && i+2 < len(path); i++ {
		if path[i] != '%' {
			continue
		}
		switch c, ok := unhex(path[i+1], path[i+2]); {
		case !ok:
		case c == 0:
			return hazardNUL
		case c >= '0' && c <= '9', c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c == '-', c == '.', c == '_', c == '~':
			return hazardEscape
		}
	}
	return ""
}

// isDotSegment reports whether s is "." or "..", each dot possibly written %2e.
func isDotSegment(s string) bool {
	dots := 0
	for len(s) > 0 {
		switch {
		case s[0] == '.':
			s = s[1:]
		case len(s) >= 3 && s[0] == '%' && s[1] == '2' && s[2]|0x20 == 'e':
			s = s[3:]
		default:
			return false
		}
		if dots++; dots > 2 {
			return false
		}
	}
	return dots > 0
}

func unhex(hi, lo byte) (byte, bool) {
	h, ok1 := nibble(hi)
	l, ok2 := nibble(lo)
	return h<<4 | l, ok1 && ok2
}

func nibble(c byte) (byte, bool) {
	switch {
	case c >= '0' && c <= '9':
		return c - '0', true
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10, true
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}
