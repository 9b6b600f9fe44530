package jwt

import (
	"strings"
	"unsafe"
)

// parsed is a token taken apart, none of it verified. Checks 1 to 17 have passed. Its strings do not point into what it
// was parsed from, except raw and those marked.
type parsed struct {
	raw       string // as received
	signed    string // header.payload, part of raw
	header    header
	claims    *claims
	signature []byte
	canonical bool // every segment is strict base64url
}

// header is what is read of a token's JOSE header.
type header struct {
	algorithm *algorithm
	kid       string // empty if absent
	critical  bool   // crit is there
	embedded  bool   // a member that offers a key is there: jwk, jku, x5u, x5c or x5t. It is not looked at
	text      string
}

// parseToken runs checks 1 to 17 of request-authentication §3.2.
func (w *workspace) parseToken(raw string) (*parsed, Reason) {
	if len(raw) > maxTokenBytes {
		return nil, TooLarge
	}
	head, rest, _ := strings.Cut(raw, ".")
	payload, signature, two := strings.Cut(rest, ".")
	if !two || head == "" || payload == "" || signature == "" || strings.IndexByte(signature, '.') >= 0 {
		return nil, Malformed
	}
	t, d, reason := w.parseHead(raw, head, len(head)+1+len(payload))
	if reason != Valid {
		return nil, reason
	}
	text, ok := d.decode(payload)
	if !ok {
		return nil, PayloadEncoding
	}
	if t.claims, reason = w.parseClaims(asString(text)); reason != Valid {
		return nil, reason
	}
	if t.signature, ok = d.decode(signature); !ok {
		return nil, SignatureEncoding
	}
	t.canonical = d.canonical
	return t, Valid
}

// parseHead begins a token: checks 2 to 6. The decoder is ready for the other segments.
func (w *workspace) parseHead(raw, head string, signed int) (*parsed, decoder, Reason) {
	if len(head) > maxHeaderBytes {
		return nil, decoder{}, TooLarge
	}
	d := newDecoder(len(raw))
	decoded, ok := d.decode(head)
	if !ok {
		return nil, decoder{}, HeaderEncoding
	}
	t := &parsed{raw: raw, signed: raw[:signed]}
	var reason Reason
	t.header, reason = w.parseHeader(asString(decoded))
	return t, d, reason
}

// parseHeader runs checks 3 to 6.
func (w *workspace) parseHeader(text string) (header, Reason) {
	members, ok := w.scanObject(text)
	if !ok {
		return header{}, HeaderJSON
	}
	h := header{text: text}
	var alg, kid value
	for _, m := range members {
		switch m.name {
		case "alg":
			alg = m.value
		case "kid":
			kid = m.value
		case "crit":
			h.critical = true
		case "b64": // RFC 7797 wants it listed in crit; without, it is as little understood
			h.critical = h.critical || m.value.text != "true"
		case "jwk", "jku", "x5u", "x5c", "x5t", "x5t#S256":
			h.embedded = true
		}
	}
	name, ok := alg.str()
	if !ok {
		return header{}, AlgorithmType
	}
	if h.algorithm = findAlgorithm(name); h.algorithm == nil {
		return header{}, AlgorithmUnsupported
	}
	if h.kid, ok = kid.str(); !ok && kid.kind != kindInvalid {
		return header{}, KeyIDType
	}
	if len(h.kid) > maxKeyIDBytes {
		return header{}, TooLarge
	}
	return h, Valid
}

// asString reads bytes that nobody will write again as a string, without copying them.
func asString(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
