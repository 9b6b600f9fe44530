package extauthz

import (
	"net/netip"
	"strings"

	"github.com/writ-auth/writ/policy"
)

// headerFilter remembers, lossily, which names of http.headers were seen, so that the usual message, in which no
// name comes twice, is decoded without comparing every name with every other.
type headerFilter [4]uint64

// add reports whether name may have been added before.
func (h *headerFilter) add(name string) bool {
	var sum uint
	if n := len(name); n > 0 {
		sum = uint(n)*7 + uint(name[0])*31 + uint(name[n/2])*13 + uint(name[n-1])*97
	}
	word, bit := &h[sum>>6&3], uint64(1)<<(sum&63)
	before := *word&bit != 0
	*word |= bit
	return before
}

func (m *message) decodeHTTP(b []byte) (err error) {
	var f field
	for len(b) > 0 {
		if b, err = f.next(b); err != nil {
			return err
		}
		switch f.tag {
		case httpMethod:
			err = setText(&m.request.Method, f.val)
		case httpPath:
			err = setText(&m.request.RawPath, f.val)
		case httpHost:
			err = setText(&m.request.Host, f.val)
		case httpScheme:
			err = setText(&m.request.Scheme, f.val)
		case httpHeaders:
			m.fromMap = true
			err = at("headers", m.addMapHeader(f.val))
		case httpHeaderMap:
			err = at("header_map", m.decodeHeaderMap(f.val))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// addMapHeader adds one entry of map<string, string> headers: a key that comes again replaces the first.
func (m *message) addMapHeader(b []byte) error {
	key, raw, err := entry(b)
	if err != nil {
		return err
	}
	value, err := text(raw)
	if err != nil {
		return err
	}
	headers := m.request.Headers
	if m.seen.add(key) {
		for i := range headers {
			if headers[i].Name == key {
				headers[i].Value = value
				return nil
			}
		}
	}
	return m.addHeader(key, value)
}

func (m *message) addHeader(name, value string) error {
	if len(m.request.Headers) == maxHeaders {
		return errManyHeaders
	}
	m.request.Headers = append(m.request.Headers, policy.Header{Name: name, Value: value})
	return nil
}

// decodeHeaderMap reads the raw form (encode_raw_headers), in which repeated headers stay apart.
func (m *message) decodeHeaderMap(b []byte) (err error) {
	var f, h field
	for len(b) > 0 {
		if b, err = f.next(b); err != nil {
			return err
		}
		if f.tag != headerMapHeaders {
			continue
		}
		m.fromRaw = true
		var name, value string
		var raw []byte
		for v := f.val; len(v) > 0; {
			if v, err = h.next(v); err != nil {
				return err
			}
			switch h.tag {
			case headerKey:
				err = setText(&name, h.val)
			case headerValue:
				err = setText(&value, h.val)
			case headerRawValue:
				raw = h.val
			}
			if err != nil {
				return err
			}
		}
		if len(raw) > 0 {
			value = bytesAsString(raw)
		}
		if err = m.addHeader(name, value); err != nil {
			return err
		}
	}
	return nil
}

// finishHeaders folds names to lower case, lets pseudo headers stand in for fields that are absent, finds the
// headers the server itself reads, and refuses an HTTP request that no HTTP request can be.
func (m *message) finishHeaders() error {
	if m.fromMap && m.fromRaw {
		return errTwoHeaders
	}
	r := &m.request
	r.RawHeaders = m.fromRaw
	for i := range r.Headers {
		h := &r.Headers[i]
		if hasUpper(h.Name) { // Envoy never sends one; a CheckRequest written by hand may
			h.Name = m.fold(h.Name)
		}
		switch h.Name {
		case ":authority":
			r.HasHost = true
			if r.Host == "" {
				r.Host = h.Value
			}
		case ":method":
			if r.Method == "" {
				r.Method = h.Value
			}
		case ":path":
			if r.RawPath == "" {
				r.RawPath = h.Value
			}
		case "x-request-id":
			m.requestID = i
		case "x-forwarded-for":
			m.forwarded = i
		}
	}
	r.HasHost = r.HasHost || r.Host != ""
	r.HasMethod = r.Method != ""
	switch {
	case !r.HasMethod:
		return errNoMethod
	case r.RawPath == "" && r.Method != "CONNECT":
		return errNoPath
	}
	return nil
}

func hasUpper(s string) bool {
	for i := range len(s) {
		if c := s[i]; c >= 'A' && c <= 'Z' {
			return true
		}
	}
	return false
}

// fold is the ASCII lower case of s, stored in m. Growing the storage leaves earlier strings where they are.
func (m *message) fold(s string) string {
	start := len(m.lower)
	for i := range len(s) {
		c := s[i]
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		m.lower = append(m.lower, c)
	}
	return bytesAsString(m.lower[start:])
}

// remoteIP is the (hops+1)-th address from the right of x-forwarded-for, as Envoy reads it: entries of repeated
// headers count as one list, blanks around an entry are ignored, and when there are too few entries or the one
// meant is no address, the connection's own address stands (authorization-policy §9.2). headers ends with the last
// x-forwarded-for.
func remoteIP(headers []policy.Header, hops int, connection netip.Addr) netip.Addr {
	for i := len(headers) - 1; i >= 0; i-- {
		if headers[i].Name != "x-forwarded-for" {
			continue
		}
		rest, more := headers[i].Value, true
		for more {
			var last string
			if comma := strings.LastIndexByte(rest, ','); comma >= 0 {
				rest, last = rest[:comma], rest[comma+1:]
			} else {
				last, more = rest, false
			}
			if hops > 0 {
				hops--
				continue
			}
			if a := parseIP(strings.Trim(last, " \t\r\n\v\f")); a.IsValid() {
				return a
			}
			return connection
		}
	}
	return connection
}
