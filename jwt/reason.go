package jwt

import "net/http"

// Reason says why a token was refused, in our words; there is one for each check of request-authentication §3.2, in that
// order, and for each of our own. Its name is fit for a metric label.
type Reason uint8

// The reasons, in the order the checks run.
const (
	Valid Reason = iota // nothing was refused
	Missing
	Malformed
	HeaderEncoding
	HeaderJSON
	AlgorithmType
	AlgorithmUnsupported
	KeyIDType
	PayloadEncoding
	PayloadJSON
	IssuerType
	SubjectType
	IssuedAtType
	IssuedAtRange
	NotBeforeType
	NotBeforeRange
	ExpiryType
	ExpiryRange
	TokenIDType
	AudienceType
	SignatureEncoding
	IssuerUnknown
	NotYetValid
	Expired
	AudienceDenied
	NoUsableKey
	KeysUnavailable
	KeyUnknown
	SignatureLength
	SignatureInvalid

	// What Envoy does not look at. The client is told that the verification failed.

	TooLarge      // token or header segment above its bound
	TooManyTokens // in one request
	NotCanonical  // padding, white space or unused bits in base64
	Critical      // a crit header: no extension is understood (RFC 7515 §4.1.11)
)

// reasonTable has a row for each reason: its name for logs and metrics, and the body Envoy answers with.
var reasonTable = [...]struct{ name, body string }{
	Valid:                {"valid", ""},
	Missing:              {"missing", "Jwt is missing"},
	Malformed:            {"malformed", "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections"},
	HeaderEncoding:       {"header_encoding", "Jwt header is an invalid Base64url encoded"},
	HeaderJSON:           {"header_json", "Jwt header is an invalid JSON"},
	AlgorithmType:        {"algorithm_type", "Jwt header [alg] field is required and must be a string"},
	AlgorithmUnsupported: {"algorithm_unsupported", "Jwt header [alg] is not supported"},
	KeyIDType:            {"key_id_type", "Jwt header [kid] field is not a string"},
	PayloadEncoding:      {"payload_encoding", "Jwt payload is an invalid Base64url encoded"},
	PayloadJSON:          {"payload_json", "Jwt payload is an invalid JSON"},
	IssuerType:           {"issuer_type", "Jwt payload [iss] field is not a string"},
	SubjectType:          {"subject_type", "Jwt payload [sub] field is not a string"},
	IssuedAtType:         {"issued_at_type", "Jwt payload [iat] field is not an integer"},
	IssuedAtRange:        {"issued_at_range", "Jwt payload [iat] field is not a positive 64 bit integer"},
	NotBeforeType:        {"not_before_type", "Jwt payload [nbf] field is not an integer"},
	NotBeforeRange:       {"not_before_range", "Jwt payload [nbf] field is not a positive 64 bit integer"},
	ExpiryType:           {"expiry_type", "Jwt payload [exp] field is not an integer"},
	ExpiryRange:          {"expiry_range", "Jwt payload [exp] field is not a positive 64 bit integer"},
	TokenIDType:          {"token_id_type", "Jwt payload [jti] field is not a string"},
	AudienceType:         {"audience_type", "Jwt payload [aud] field is not a string or string list"},
	SignatureEncoding:    {"signature_encoding", "Jwt signature is an invalid Base64url encoded"},
	IssuerUnknown:        {"issuer_unknown", "Jwt issuer is not configured"},
	NotYetValid:          {"not_yet_valid", "Jwt not yet valid"},
	Expired:              {"expired", "Jwt is expired"},
	AudienceDenied:       {"audience_denied", "Audiences in Jwt are not allowed"},
	NoUsableKey:          {"no_usable_key", "Jwks doesn't have any valid public key"},
	KeysUnavailable:      {"keys_unavailable", "Jwks remote fetch is failed"},
	KeyUnknown:           {"key_unknown", "Jwks doesn't have key to match kid or alg from Jwt"},
	SignatureLength:      {"signature_length", "Jwt ED25519 signature is wrong length"},
	SignatureInvalid:     {"signature_invalid", "Jwt verification fails"},
	TooLarge:             {"too_large", "Jwt verification fails"},
	TooManyTokens:        {"too_many_tokens", "Jwt verification fails"},
	NotCanonical:         {"not_canonical", "Jwt verification fails"},
	Critical:             {"critical", "Jwt verification fails"},
}

// Reasons returns every reason a token can be refused for, to make metrics of.
func Reasons() []Reason {
	all := make([]Reason, 0, len(reasonTable)-1)
	for r := range reasonTable[Missing:] {
		all = append(all, Missing+Reason(r))
	}
	return all
}

// String is the reason's name: lower case, words joined by underscores.
func (r Reason) String() string {
	if int(r) >= len(reasonTable) {
		return "unknown"
	}
	return reasonTable[r].name
}

// Error is a refused token.
type Error struct{ Reason Reason }

// Error implements error.
func (e Error) Error() string { return "token refused: " + e.Reason.String() }

// Body is the text a client is answered with: Envoy's, to the byte.
func (r Reason) Body() string {
	if int(r) >= len(reasonTable) {
		return reasonTable[SignatureInvalid].body
	}
	return reasonTable[r].body
}

// Status is the HTTP status a client is answered with: 200 for Valid, 403 for AudienceDenied, else 401.
func (r Reason) Status() int {
	switch r {
	case Valid:
		return http.StatusOK
	case AudienceDenied:
		return http.StatusForbidden
	default:
		return http.StatusUnauthorized
	}
}
