package extauthz

import "slices"

// Where Envoy's jwt_authn filter publishes the payload of the token it verified (request-authentication §5.4).
const (
	jwtNamespace = "envoy.filters.http.jwt_authn"
	jwtPayload   = "payload"
)

// proxyClaims is the payload that the proxy's own filter verified, read from its metadata when a policy asks. It
// implements [policy.Claims]. It is only as good as the proxy's word, which is why an operator has to choose it.
type proxyClaims struct {
	payload []byte   // Struct
	out     []string // all answers of Strings, one after the other
	known   []answer
}

// answer says where in out the answer for a path is.
type answer struct {
	path       []string
	start, end int
}

func (c *proxyClaims) reset() {
	clear(c.out)
	clear(c.known)
	*c = proxyClaims{out: c.out[:0], known: c.known[:0]}
}

// from finds the payload in checked metadata.
func (c *proxyClaims) from(m *dynamicMetadata) bool {
	var found bool
	c.payload, found = structOf(m.value(jwtNamespace, jwtPayload))
	return found
}

// Issuer implements [policy.Claims].
func (c *proxyClaims) Issuer() string { return c.text("iss") }

// Subject implements [policy.Claims].
func (c *proxyClaims) Subject() string { return c.text("sub") }

func (c *proxyClaims) text(claim string) string {
	value, _ := lookup(c.payload, claim)
	s, _ := textOf(value)
	return s
}

// Strings implements [policy.Claims]. The proxy has split claims of several words into lists already. An answer holds
// until reset: whoever goes through it may ask for other claims on the way.
func (c *proxyClaims) Strings(path []string) []string {
	for i := range c.known {
		if slices.Equal(c.known[i].path, path) {
			return c.answer(&c.known[i])
		}
	}
	start := len(c.out)
	value := c.lookup(path)
	if s, ok := textOf(value); ok {
		c.out = append(c.out, s)
	} else {
		c.out = appendList(c.out, value)
	}
	c.known = append(c.known, answer{path, start, len(c.out)})
	return c.answer(&c.known[len(c.known)-1])
}

func (c *proxyClaims) answer(a *answer) []string {
	if a.start == a.end {
		return nil
	}
	return c.out[a.start:a.end:a.end]
}

func (c *proxyClaims) lookup(path []string) (value []byte) {
	fields := c.payload
	for i, name := range path {
		value, _ = lookup(fields, name)
		if i < len(path)-1 {
			fields, _ = structOf(value)
		}
	}
	return value
}

// structOf is the fields of the object that a Value holds, if it holds one.
func structOf(value []byte) (fields []byte, ok bool) {
	var f field
	for len(value) > 0 {
		if value, _ = f.next(value); f.tag == valueStruct {
			fields, ok = f.val, true
		}
	}
	return fields, ok
}
