package attest

import "strings"

// maxBearerBytes bounds one authorization value; the tokens of this package's methods are smaller.
const maxBearerBytes = 16 << 10

// bearer reads the values of the authorization header: empty if there are none. Schemes compare without regard to case
// (RFC 9110 §11.1). A value sent twice is one value; two different ones are refused, for whoever looks at one of them
// only would see another caller than whoever looks at the other.
func bearer(values []string) (string, *Error) {
	if len(values) == 0 {
		return "", nil
	}
	for _, v := range values[1:] {
		if v != values[0] {
			return "", refuse(BadAuthorization, "%d different authorization values", len(values))
		}
	}
	if len(values[0]) > maxBearerBytes {
		return "", refuse(BadAuthorization, "authorization of %d bytes is longer than %d", len(values[0]), maxBearerBytes)
	}
	scheme, token, ok := strings.Cut(values[0], " ")
	if !ok || !strings.EqualFold(scheme, "bearer") {
		return "", refuse(BadAuthorization, "authorization is not of the form %q", "Bearer TOKEN")
	}
	token = strings.TrimLeft(token, " ")
	if !isToken68(token) {
		return "", refuse(BadAuthorization, "the bearer token is empty or has a character that no token has (RFC 6750 §2.1)")
	}
	return token, nil
}

// isToken68 holds a token to RFC 6750 §2.1: letters, digits and -._~+/ followed by any number of =.
func isToken68(s string) bool {
	s = strings.TrimRight(s, "=")
	for i := range len(s) {
		c := s[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case strings.IndexByte("-._~+/", c) >= 0:
		default:
			return false
		}
	}
	return s != ""
}
