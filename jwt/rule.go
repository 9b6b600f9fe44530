package jwt

import (
	"crypto/sha256"
	"encoding/json"
	"strings"
	"time"
)

// Rule is one entry of a RequestAuthentication's jwtRules (request-authentication §1.2): whose tokens to accept, where
// they are found and what they publish. It is assumed to have passed the validation of §1.3.
type Rule struct {
	ID string // names the rule in logs, as "ns/name jwtRules[0]"; never shown to clients

	Issuer    string   // must equal iss byte for byte; empty accepts any iss, or none
	Audiences []string // one of them must be in aud; empty leaves aud unchecked

	JWKSURI string        // where the keys are
	JWKS    string        // the keys themselves; wins over JWKSURI
	Timeout time.Duration // bounds one fetch of the keys

	// If all three are empty the token is looked for in "Authorization: Bearer" and in the parameter access_token.
	FromHeaders []HeaderLocation
	FromParams  []string
	FromCookies []string

	OutputPayloadToHeader string        // gets the payload segment as received
	OutputClaimToHeaders  []OutputClaim // each gets one claim
	ForwardOriginalToken  bool          // leave the token in the request; a cookie is always left

	SpaceDelimitedClaims []string // claims to split into words, besides scope and permission
	Required             bool     // presence: REQUIRED; a request without this rule's token is refused
}

// HeaderLocation is a header that carries a token after a prefix. The name is compared without regard to case.
type HeaderLocation struct{ Name, Prefix string }

// OutputClaim copies a claim, a path of names joined by dots, to a request header.
type OutputClaim struct{ Header, Claim string }

// rule is a Rule made ready for requests.
type rule struct {
	Rule
	identity  [sha256.Size]byte // of everything in the Rule; what verified tokens are cached under
	source    Source            // nil if there is none; then no token passes
	audiences []string          // normalised
	locations []int             // into finder.locations, ascending
	outputs   []output
}

// output is a header a verified token's claim goes to; path is nil for the payload.
type output struct {
	header string // lower case
	path   []string
}

func newRule(r Rule, source Source) *rule {
	made := &rule{Rule: r, source: source}
	if document, err := json.Marshal(r); err == nil { // strings and numbers cannot fail
		made.identity = sha256.Sum256(document)
	}
	for _, audience := range r.Audiences {
		made.audiences = append(made.audiences, normalAudience(audience))
	}
	if isHeaderName(r.OutputPayloadToHeader) { // Istio's admission lets any text through
		made.outputs = append(made.outputs, output{header: strings.ToLower(r.OutputPayloadToHeader)})
	}
	for _, claim := range r.OutputClaimToHeaders {
		made.outputs = append(made.outputs, output{strings.ToLower(claim.Header), strings.Split(claim.Claim, ".")})
	}
	return made
}

// isHeaderName reports whether a proxy can set a header of that name (RFC 9110 §5.1, letters, digits and the signs that
// headers use).
func isHeaderName(name string) bool {
	for i := range len(name) {
		c := name[i]
		if c|0x20 < 'a' || c|0x20 > 'z' {
			if (c < '0' || c > '9') && c != '-' && c != '_' && c != '.' {
				return false
			}
		}
	}
	return name != ""
}

// normalAudience strips one leading http:// or https:// and one trailing slash (request-authentication §3.5).
func normalAudience(audience string) string {
	rest, found := strings.CutPrefix(audience, "https://")
	if !found {
		rest = strings.TrimPrefix(audience, "http://")
	}
	return strings.TrimSuffix(rest, "/")
}
