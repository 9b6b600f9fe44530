package attest

import (
	"errors"
	"fmt"
)

// Reason says why a caller was turned away. It is fit for a metric label.
type Reason string

// The reasons.
const (
	NoCredentials        Reason = "no_credentials"         // the call proves nothing
	BadAuthorization     Reason = "bad_authorization"      // the authorization header cannot be read
	MethodOff            Reason = "method_off"             // a credential of a kind that is not accepted here
	CertificateInvalid   Reason = "certificate_invalid"    // no chain to a root of ours, or not an X509-SVID
	CertificateExpired   Reason = "certificate_expired"    //
	CertificateRevoked   Reason = "certificate_revoked"    // or its identity, or its key
	CertificateForged    Reason = "certificate_forged"     // another certificate with this serial number is in the ledger
	ForeignTrustDomain   Reason = "foreign_trust_domain"   //
	TokenInvalid         Reason = "token_invalid"          // signature, issuer, audience or claims
	TokenExpired         Reason = "token_expired"          // or not valid yet, or issued too long ago
	TokenKeysUnavailable Reason = "token_keys_unavailable" //
	JoinTokenRefused     Reason = "join_token_refused"     //nolint:gosec // no secret; unknown, used or expired: one answer for all
	PeerUnknown          Reason = "peer_unknown"           // no rule for this uid, gid and program, or it is gone
	Disagreement         Reason = "disagreement"           // two proofs, two identities
	NotGranted           Reason = "not_granted"            // proven, but not entitled to the identity it asks for
	StoreUnavailable     Reason = "store_unavailable"      //
)

// Reasons returns every reason, to make metrics of.
func Reasons() []Reason {
	return []Reason{
		NoCredentials, BadAuthorization, MethodOff, CertificateInvalid, CertificateExpired, CertificateRevoked,
		CertificateForged, ForeignTrustDomain, TokenInvalid, TokenExpired, TokenKeysUnavailable, JoinTokenRefused,
		PeerUnknown, Disagreement, NotGranted, StoreUnavailable,
	}
}

// Kind is what a caller may be told: nothing else of an [Error] is for its eyes.
type Kind uint8

// The kinds. The zero value is the answer to everything that is not understood.
const (
	Unauthenticated Kind = iota // who it is was not proven; asking again with the same proof is no use
	Denied                      // it is known who asks, and it may not
	Unavailable                 // nobody can tell now; ask again
)

// Kind is what a caller turned away for this reason may be told.
func (r Reason) Kind() Kind {
	switch r {
	case NotGranted, CertificateRevoked:
		return Denied
	case TokenKeysUnavailable, StoreUnavailable:
		return Unavailable
	default:
		return Unauthenticated
	}
}

// Error is a caller turned away.
type Error struct {
	Reason Reason
	Err    error // the whole story, not for the caller
}

// Error implements error.
func (e *Error) Error() string { return string(e.Reason) + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

func refuse(r Reason, format string, args ...any) *Error {
	return &Error{Reason: r, Err: fmt.Errorf(format, args...)}
}

// ReasonOf finds the reason in an error, empty if it is none of this package's.
func ReasonOf(err error) Reason {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Reason
	}
	return ""
}
