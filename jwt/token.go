package jwt

import (
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// Token is a bearer token whose signature, times, issuer and audience have been verified for one rule. Nothing but a
// verification makes one. It is safe for concurrent use, and does not show its claims when printed or logged.
type Token struct {
	claims    *claims
	segment   string // the payload as received
	algorithm string
	keyID     string   // of the key that verified it, "" if that has none
	shownID   string   // keyID, printable
	words     []string // names of claims to split at spaces, besides scope and permission
	outputs   []Header // what the rule copies to request headers
	found     atomic.Pointer[[]found]
}

// found is an answer of Strings.
type found struct{ path, values []string }

// Issuer is the iss claim, empty when absent.
func (t *Token) Issuer() string { return t.claims.issuer }

// Subject is the sub claim, empty when absent.
func (t *Token) Subject() string { return t.claims.subject }

// Audiences is the aud claim as received. The list must not be changed.
func (t *Token) Audiences() []string { return t.claims.audiences }

// Algorithm is the alg the token was signed with.
func (t *Token) Algorithm() string { return t.algorithm }

// KeyID is the kid of the key that verified the token, empty if the key has none.
func (t *Token) KeyID() string { return t.keyID }

// Expiry is when the token expires, and whether it ever does. The allowed skew is not included.
func (t *Token) Expiry() (at time.Time, ok bool) {
	return atSeconds(t.claims.expires), t.claims.expiring
}

// Payload is the second segment of the token as received: base64url without padding.
func (t *Token) Payload() string { return t.segment }

// JSON is the claims as received. It may name people: it is for those who hold the token.
func (t *Token) JSON() string { return t.claims.text }

// Strings returns the claim at path, walking objects: a string as a list of one, of a list its string elements, and nil
// for anything else, so that numbers and booleans never match a policy (request-authentication §5.3). A claim whose words
// are separated by spaces comes as the list of its words.
//
// The answer is remembered, and must not be changed.
func (t *Token) Strings(path []string) []string {
	known := t.found.Load()
	if known != nil {
		for i := range *known {
			if slices.Equal((*known)[i].path, path) {
				return (*known)[i].values
			}
		}
	}
	values := t.lookup(path)
	t.remember(known, path, values)
	return values
}

func (t *Token) lookup(path []string) []string {
	v := t.claims.lookup(path)
	if len(path) == 1 && v.kind == kindString && t.isWordList(path[0]) {
		text, _ := v.str()
		if words := strings.FieldsFunc(text, func(r rune) bool { return r == ' ' }); len(words) > 0 {
			return words
		}
	}
	return v.strings()
}

func (t *Token) isWordList(name string) bool {
	return name == "scope" || name == "permission" || slices.Contains(t.words, name)
}

// remember adds to what is known, unless somebody else just did, which is as good.
func (t *Token) remember(known *[]found, path, values []string) {
	var more []found
	if known != nil {
		if len(*known) >= maxLookups {
			return
		}
		more = *known
	}
	more = append(slices.Clip(more), found{slices.Clone(path), values})
	t.found.CompareAndSwap(known, &more)
}

// String says whose token it is, not what it says.
func (t *Token) String() string {
	return "token of " + t.claims.issuer + " (" + t.algorithm + ", claims withheld)"
}

// GoString implements [fmt.GoStringer]: %#v withholds the claims, too.
func (t *Token) GoString() string { return "&jwt.Token{" + t.String() + "}" }

// LogValue implements [slog.LogValuer] without any claim that names the subject.
func (t *Token) LogValue() slog.Value {
	attrs := []slog.Attr{
		slog.String("issuer", t.claims.issuer),
		slog.String("alg", t.algorithm),
		slog.String("kid", t.shownID),
	}
	if at, ok := t.Expiry(); ok {
		attrs = append(attrs, slog.Time("expires", at))
	}
	return slog.GroupValue(attrs...)
}

// atSeconds is a time in seconds since 1970, the last one there is if it is beyond that.
func atSeconds(n uint64) time.Time {
	const last = 253402300799 // the end of the year 9999, the last that RFC 3339 can write
	return time.Unix(int64(min(n, last)), 0).UTC()
}

// printableKeyID makes a kid that anybody may have chosen fit for a log.
func printableKeyID(kid string) string {
	const most = 64
	cut := kid
	if len(cut) > most {
		cut = cut[:most]
	}
	cut = strings.Map(func(r rune) rune {
		if r > ' ' && r < 0x7f {
			return r
		}
		return '?'
	}, cut)
	if len(kid) > most {
		cut += "..."
	}
	return cut
}
