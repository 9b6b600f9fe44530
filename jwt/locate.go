package jwt

import (
	"cmp"
	"slices"
	"strings"
)

// place is the kind of a location, in the order tokens are extracted (request-authentication §2.1).
type place uint8

const (
	inHeader place = iota
	inParam
	inCookie
)

// location is where a token may be. name is in lower case for a header.
type location struct {
	place  place
	name   string
	prefix string
	scheme bool // the default location: its scheme is compared without regard to case (RFC 9110 §11.1)
}

func compareLocations(a, b location) int {
	return cmp.Or(cmp.Compare(a.place, b.place), cmp.Compare(a.name, b.name), cmp.Compare(a.prefix, b.prefix),
		compareBools(a.scheme, b.scheme))
}

func compareBools(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// locationsOf lists where a rule looks, without repetition. Naming any location turns both default ones off.
func locationsOf(r *Rule) []location {
	var all []location
	for _, h := range r.FromHeaders {
		all = append(all, location{inHeader, strings.ToLower(h.Name), h.Prefix, false})
	}
	for _, name := range r.FromParams {
		all = append(all, location{place: inParam, name: name})
	}
	for _, name := range r.FromCookies {
		all = append(all, location{place: inCookie, name: name})
	}
	if len(all) == 0 {
		all = []location{{inHeader, "authorization", "Bearer ", true}, {place: inParam, name: "access_token"}}
	}
	slices.SortFunc(all, compareLocations)
	return slices.Compact(all)
}

// finder knows where all the rules of a validator look, in the order tokens are extracted.
type finder struct {
	locations []location
	headers   int // locations[:headers] are headers
	params    int // locations[headers:params] are parameters, the rest cookies
}

func newFinder(rules []*rule) *finder {
	f := new(finder)
	for _, r := range rules {
		f.locations = append(f.locations, locationsOf(&r.Rule)...)
	}
	slices.SortFunc(f.locations, compareLocations)
	f.locations = slices.Compact(f.locations)
	for _, l := range f.locations {
		if l.place == inHeader {
			f.headers++
		}
		if l.place != inCookie {
			f.params++
		}
	}
	for _, r := range rules {
		for _, l := range locationsOf(&r.Rule) {
			i, _ := slices.BinarySearchFunc(f.locations, l, compareLocations)
			r.locations = append(r.locations, i)
		}
	}
	return f
}

// candidate is a token found in a request, and what is known of it. Its strings point into the request.
type candidate struct {
	token    string
	location int    // into finder.locations
	name     string // of the parameter, as sent
	// repeated says that a parameter or cookie of this name came before it. Envoy reads that one only, so this one has to
	// be good and publishes nothing.
	repeated bool
	hash     uint64
	hashed   bool
	known    *claims // of the same token, verified for some rule: enough to refuse it by, not to accept it
	parsed   *parsed // nil if not parsed yet, or refused
	reason   Reason  // of the refusal
}

// candidates is a list of bounded length.
type candidates struct {
	all     []candidate
	tooMany bool
}

func (c *candidates) add(location int, token string) {
	if len(c.all) >= maxTokens {
		c.tooMany = true
		return
	}
	c.all = append(c.all, candidate{location: location, token: token})
}

// addNamed is add for a parameter or a cookie, whose locations have one name each.
func (c *candidates) addNamed(location int, name, token string) {
	repeated := slices.ContainsFunc(c.all, func(before candidate) bool { return before.location == location })
	before := len(c.all)
	if c.add(location, token); len(c.all) > before {
		c.all[before].name, c.all[before].repeated = name, repeated
	}
}

// find collects the tokens of a request, in the order of their locations and there in the order sent. scratch is where
// percent-decoded tokens go; it is returned for reuse.
func (f *finder) find(in *Input, into *candidates, scratch []byte) []byte {
	for i := range in.Headers {
		h := &in.Headers[i]
		for l := range f.headers {
			if f.locations[l].name == h.Name {
				f.locations[l].findHeader(l, h.Value, in.Raw, into)
			}
		}
		if f.params < len(f.locations) && h.Name == "cookie" {
			f.findCookies(h.Value, in.Raw, into)
		}
	}
	if f.headers < f.params {
		if _, query, ok := strings.Cut(in.Path, "?"); ok {
			scratch = f.findParams(query, into, scratch)
		}
	}
	if len(into.all) > 1 {
		slices.SortStableFunc(into.all, func(a, b candidate) int { return a.location - b.location })
	}
	return scratch
}

// findHeader looks at one header line. Without raw headers a line may be several that the proxy joined at commas, which
// no token contains; only authorization is one line in either case (request-authentication §2.2).
func (l *location) findHeader(index int, line string, raw bool, into *candidates) {
	// A prefix with a comma is not found in parts; with it, what follows the first token makes that token malformed.
	if raw || l.name == "authorization" || strings.IndexByte(line, ',') < 0 || strings.IndexByte(l.prefix, ',') >= 0 {
		if token, ok := l.token(line); ok {
			into.add(index, token)
		}
		return
	}
	any := false
	for part := range strings.SplitSeq(line, ",") {
		token, ok := l.token(part)
		if !ok && !any {
			continue
		}
		any = true
		if !ok { // what follows a token is another line, or part of it: it is not for us to ignore
			token = part
		}
		into.add(index, token)
	}
}

// token is what a header value carries.
func (l *location) token(text string) (string, bool) {
	text = strings.Trim(text, " \t")
	if l.prefix == "" {
		return text, true
	}
	at := l.indexPrefix(text)
	if at < 0 {
		return "", false
	}
	for i := at + len(l.prefix); i < len(text); i++ {
		if isTokenByte(text[i]) {
			return text[i:], true
		}
	}
	return text, true // nothing usable behind the prefix: Envoy takes the whole, and finds it malformed
}

func (l *location) indexPrefix(text string) int {
	if !l.scheme {
		return strings.Index(text, l.prefix)
	}
	for i := 0; i+len(l.prefix) <= len(text); i++ {
		if text[i]|0x20 == 'b' && strings.EqualFold(text[i:i+len(l.prefix)], l.prefix) {
			return i
		}
	}
	return -1
}

func isTokenByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_' || c == '.'
}

// findParams looks through a query. Envoy reads the first of parameters of the same name; here each is a token.
func (f *finder) findParams(query string, into *candidates, scratch []byte) []byte {
	for pair := range strings.SplitSeq(query, "&") {
		name, text, _ := strings.Cut(pair, "=")
		for l := f.headers; l < f.params; l++ {
			if !percentEqual(name, f.locations[l].name) {
				continue
			}
			if strings.IndexByte(text, '%') >= 0 {
				start := len(scratch)
				scratch = appendPercentDecoded(scratch, text)
				text = asString(scratch[start:len(scratch):len(scratch)])
			}
			into.addNamed(l, name, text)
		}
	}
	return scratch
}

// percentEqual says whether encoded decodes to plain.
func percentEqual(encoded, plain string) bool {
	for encoded != "" {
		if plain == "" {
			return false
		}
		c, size := percentDecode(encoded)
		if c != plain[0] {
			return false
		}
		encoded, plain = encoded[size:], plain[1:]
	}
	return plain == ""
}

func appendPercentDecoded(dst []byte, text string) []byte {
	for text != "" {
		c, size := percentDecode(text)
		dst = append(dst, c)
		text = text[size:]
	}
	return dst
}

// percentDecode decodes the first byte; a percent sign without two hexadecimal digits stands for itself.
func percentDecode(text string) (c byte, size int) {
	if text[0] == '%' && len(text) >= 3 {
		if high, low := unhex(text[1]), unhex(text[2]); high >= 0 && low >= 0 {
			return byte(high<<4 | low), 3
		}
	}
	return text[0], 1
}

// findCookies looks through a Cookie line. Envoy reads the first of cookies of the same name; here each is a token.
func (f *finder) findCookies(line string, raw bool, into *candidates) {
	for piece := range strings.SplitSeq(line, ";") {
		if raw {
			f.findCookie(piece, into)
			continue
		}
		for part := range strings.SplitSeq(piece, ",") { // lines the proxy joined
			f.findCookie(part, into)
		}
	}
}

func (f *finder) findCookie(piece string, into *candidates) {
	name, text, ok := strings.Cut(strings.Trim(piece, " \t"), "=")
	if !ok {
		return
	}
	if len(text) >= 2 && text[0] == '"' && text[len(text)-1] == '"' {
		text = text[1 : len(text)-1]
	}
	for l := f.params; l < len(f.locations); l++ {
		if f.locations[l].name == name {
			into.addNamed(l, name, text)
		}
	}
}
