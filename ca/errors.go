package ca

import (
	"errors"
	"fmt"
)

// Errors of issuing. Callers compare with errors.Is.
var (
	// ErrCSR is every fault of a certificate request; errors.As with a *CSRError tells which.
	ErrCSR = errors.New("the certificate request is refused")
	// ErrIdentity says that nobody may have a certificate for the identity: it is of another trust domain, has no path
	// or is reserved.
	ErrIdentity = errors.New("no certificate for this identity")
	// ErrRevoked says that the identity or the key is on the deny list.
	ErrRevoked = errors.New("revoked")
	// ErrRedeemed says that an approval was used before.
	ErrRedeemed = errors.New("the approval was used already")
	// ErrNotReady says that nothing can sign at the moment: no signer, or one that is not yet or soon no longer valid.
	ErrNotReady = errors.New("the authority cannot sign")
	// ErrReason says that a revocation's reason is none that a CRL knows; errors.As with a *ReasonError tells which it was.
	ErrReason = errors.New("no such reason for a revocation")
	// ErrSelfCheck says that what was built or signed is not what was approved. Nothing left the authority.
	ErrSelfCheck = errors.New("the certificate is not what was approved")
)

// Errors of starting. Callers compare with errors.Is.
var (
	// ErrNotInitialised: there is no authority yet and nothing that one has issued. Run Init.
	ErrNotInitialised = errors.New("there is no authority yet")
	// ErrInitialised: there is an authority already.
	ErrInitialised = errors.New("there is an authority already")
	// ErrStateLost: certificates or a bundle exist, but not the authority that made them. A new root would cut off
	// everyone who trusts the old one; restore a backup instead.
	ErrStateLost = errors.New("the authority's keys are missing although it has issued certificates")
	// ErrSealed: the keys do not open with this passphrase.
	ErrSealed = errors.New("the passphrase does not open the key")
	// ErrCorrupt: what was read is not what was written.
	ErrCorrupt = errors.New("the authority's state is damaged")
)

// Reason is why a request was refused, from a small fixed set that fits a metric's label.
type Reason string

// The reasons of a [CSRError].
const (
	ReasonSize               Reason = "size"
	ReasonFraming            Reason = "framing"
	ReasonSyntax             Reason = "syntax"
	ReasonKeyAlgorithm       Reason = "key_algorithm"
	ReasonKeySize            Reason = "key_size"
	ReasonSignatureAlgorithm Reason = "signature_algorithm"
	ReasonSignature          Reason = "signature"
	ReasonName               Reason = "name"
	ReasonExtension          Reason = "extension"
	ReasonKeyReused          Reason = "key_reused"
	ReasonKeyBlocked         Reason = "key_blocked"
)

// Reasons lists every [Reason].
func Reasons() []Reason {
	return []Reason{
		ReasonSize, ReasonFraming, ReasonSyntax, ReasonKeyAlgorithm, ReasonKeySize, ReasonSignatureAlgorithm,
		ReasonSignature, ReasonName, ReasonExtension, ReasonKeyReused, ReasonKeyBlocked,
	}
}

// CSRError says why a certificate request was refused. It is an [ErrCSR].
type CSRError struct {
	Reason Reason
	Detail string
}

// Error names the fault and the value that has it.
func (e *CSRError) Error() string { return fmt.Sprintf("%v: %s", ErrCSR, e.Detail) }

// Is makes every CSRError an [ErrCSR].
func (e *CSRError) Is(target error) bool { return target == ErrCSR }

func refuse(r Reason, format string, args ...any) error {
	return &CSRError{Reason: r, Detail: fmt.Sprintf(format, args...)}
}
