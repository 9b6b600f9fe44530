package jwt

import (
	"math"
	"slices"
)

// claims is a payload. Checks 8 to 16 of request-authentication §3.2 have passed; it is immutable.
type claims struct {
	text      string
	members   []member
	issuer    string   // "" when absent
	subject   string   // "" when absent
	audiences []string // as received
	notBefore uint64   // seconds since 1970, 0 when absent
	expires   uint64   // seconds since 1970
	expiring  bool     // exp is there
	issuedAt  uint64   // seconds since 1970, 0 when absent
}

// registered are the claims with a type of their own.
type registered struct{ iss, sub, aud, iat, nbf, exp, jti value }

func (w *workspace) parseClaims(text string) (*claims, Reason) {
	members, ok := w.scanObject(text)
	if !ok {
		return nil, PayloadJSON
	}
	c := &claims{text: text, members: slices.Clone(members)}
	var r registered
	for i := range c.members {
		v := c.members[i].value
		switch c.members[i].name {
		case "iss":
			r.iss = v
		case "sub":
			r.sub = v
		case "aud":
			r.aud = v
		case "iat":
			r.iat = v
		case "nbf":
			r.nbf = v
		case "exp":
			r.exp = v
		case "jti":
			r.jti = v
		}
	}
	return c, c.read(&r)
}

// read runs checks 9 to 16, in their order.
func (c *claims) read(r *registered) (reason Reason) {
	var ok bool
	if c.issuer, ok = r.iss.str(); !ok && r.iss.kind != kindInvalid {
		return IssuerType
	}
	if c.subject, ok = r.sub.str(); !ok && r.sub.kind != kindInvalid {
		return SubjectType
	}
	if c.issuedAt, _, reason = seconds(r.iat, IssuedAtType); reason != Valid {
		return reason
	}
	if c.notBefore, _, reason = seconds(r.nbf, NotBeforeType); reason != Valid {
		return reason
	}
	if c.expires, c.expiring, reason = seconds(r.exp, ExpiryType); reason != Valid {
		return reason
	}
	if r.jti.kind != kindString && r.jti.kind != kindInvalid {
		return TokenIDType
	}
	if c.audiences, ok = stringList(r.aud); !ok {
		return AudienceType
	}
	return Valid
}

// seconds reads a time: a number of seconds, any fraction cut off. The reason for one out of range follows that for one
// of the wrong type.
func seconds(v value, wrongType Reason) (n uint64, present bool, reason Reason) {
	if v.kind == kindInvalid {
		return 0, false, Valid
	}
	f, ok := v.number()
	if !ok {
		return 0, false, wrongType
	}
	if f < 0 || f >= math.MaxUint64 { // the constant rounds to 2^64
		return 0, false, wrongType + 1
	}
	return uint64(f), true, Valid
}

// stringList reads a string or a list of nothing but strings. Absent is an empty list.
func stringList(v value) ([]string, bool) {
	switch v.kind {
	case kindInvalid:
		return nil, true
	case kindString:
		return v.strings(), true
	case kindArray:
		for element := range v.elements() {
			if element.kind != kindString {
				return nil, false
			}
		}
		return v.strings(), true
	default:
		return nil, false
	}
}

// lookup walks objects along path; kindInvalid when there is nothing at its end. A list in the middle ends the walk.
func (c *claims) lookup(path []string) value {
	if len(path) == 0 {
		return value{}
	}
	for i := range c.members {
		if c.members[i].name == path[0] {
			v := c.members[i].value
			for _, name := range path[1:] {
				v = v.get(name)
			}
			return v
		}
	}
	return value{}
}

// skew is how far, in seconds, a token's clock may be from ours, both ways (request-authentication §3.4).
const skew = 60

// checkTime runs checks 19 and 20. now is in seconds since 1970. An exp of 0 has expired: Envoy takes it for absent.
func (c *claims) checkTime(now uint64) Reason {
	if now+skew < c.notBefore {
		return NotYetValid
	}
	if c.expiring && now > skew && now-skew > c.expires {
		return Expired
	}
	return Valid
}

// check runs checks 18 to 21 for one rule.
func (c *claims) check(r *rule, now uint64) Reason {
	if r.Issuer != "" && c.issuer != r.Issuer {
		return IssuerUnknown
	}
	if reason := c.checkTime(now); reason != Valid {
		return reason
	}
	if len(r.audiences) == 0 {
		return Valid
	}
	for _, audience := range c.audiences {
		if slices.Contains(r.audiences, normalAudience(audience)) {
			return Valid
		}
	}
	return AudienceDenied
}
