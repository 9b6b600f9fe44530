package jwt

import (
	"strings"
	"time"
)

// Inspection is what a token says of itself, for people to read. Nothing of it is verified, so nothing may be decided by
// it; it is no [Token].
type Inspection struct {
	Reason      Reason // the first of checks 1 to 17 that fails, Valid if none does; what follows is then incomplete
	Header      string // JSON, if the token got that right
	Payload     string // JSON, if the token got that right; names people
	Algorithm   string
	KeyID       string // printable
	Issuer      string
	Audiences   []string
	IssuedAt    time.Time // zero when absent
	NotBefore   time.Time // zero when absent
	Expires     time.Time // zero when absent
	Critical    bool      // has a crit header, for which it will be refused
	EmbeddedKey bool      // its header offers a key, which will not be looked at
	Canonical   bool      // its base64 is as it must be, else it will be refused
}

// Inspect takes a token apart without verifying it.
func Inspect(token string) Inspection {
	var i Inspection
	t, reason := new(workspace).parseToken(token)
	i.Reason = reason
	if reason == TooLarge {
		return i
	}
	segments := strings.SplitN(token, ".", 3)
	i.Header = decodedText(segments[0])
	if len(segments) > 1 {
		i.Payload = decodedText(segments[1])
	}
	if t == nil {
		return i
	}
	c := t.claims
	i.Algorithm, i.KeyID = t.header.algorithm.name, printableKeyID(t.header.kid)
	i.Critical, i.EmbeddedKey, i.Canonical = t.header.critical, t.header.embedded, t.canonical
	i.Issuer, i.Audiences = c.issuer, c.audiences
	i.IssuedAt, i.NotBefore = timeOrZero(c.issuedAt, c.issuedAt > 0), timeOrZero(c.notBefore, c.notBefore > 0)
	i.Expires = timeOrZero(c.expires, c.expiring)
	return i
}

func decodedText(segment string) string {
	d := newDecoder(len(segment))
	text, _ := d.decode(segment)
	return string(text)
}

func timeOrZero(n uint64, present bool) time.Time {
	if !present {
		return time.Time{}
	}
	return atSeconds(n)
}
