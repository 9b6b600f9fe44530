package jwt

import (
	"encoding/base64"
	"strings"
)

// decoder decodes the base64url segments of one token into one piece of memory.
type decoder struct {
	buffer    []byte
	canonical bool // all segments so far are what a token must be
}

func newDecoder(tokenBytes int) decoder {
	return decoder{buffer: make([]byte, 0, base64.RawURLEncoding.DecodedLen(tokenBytes)), canonical: true}
}

// decode returns the bytes of a segment.
//
// Canonical is the alphabet alone, unpadded, unused bits zero (RFC 7515 §2), so that one token has one spelling. Envoy
// also takes padding, white space and any unused bits: ok says whether it would. The caller goes on checking such a
// token, for the answer Envoy gives, and refuses it in the end.
func (d *decoder) decode(segment string) (decoded []byte, ok bool) {
	start := len(d.buffer)
	all, err := base64.RawURLEncoding.Strict().AppendDecode(d.buffer, []byte(segment))
	// The strict decoder, too, skips line breaks; then less comes out than the length says.
	if err != nil || len(all)-start != base64.RawURLEncoding.DecodedLen(len(segment)) {
		d.canonical = false
		if all, ok = decodeLoosely(d.buffer, segment); !ok {
			return nil, false
		}
	}
	d.buffer = all
	return all[start:len(all):len(all)], true
}

func decodeLoosely(dst []byte, segment string) ([]byte, bool) {
	var kept strings.Builder
	padding := 0
	for _, c := range []byte(segment) {
		switch {
		case c == ' ' || '\t' <= c && c <= '\r':
		case c == '=':
			padding++
		case padding > 0:
			return nil, false
		default:
			kept.WriteByte(c)
		}
	}
	if wanted := (4 - kept.Len()%4) % 4; padding != 0 && padding != wanted {
		return nil, false
	}
	decoded, err := base64.RawURLEncoding.AppendDecode(dst, []byte(kept.String()))
	return decoded, err == nil
}
