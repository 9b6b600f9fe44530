package authz

import (
	"crypto/rand"
	"encoding/binary"
	"strconv"
	"sync/atomic"

	"github.com/writ-auth/writ/jwt"
	"github.com/writ-auth/writ/policy"
)

// Layer is the step of the pipeline that decided (authorization-policy §4.1).
type Layer string

// Layers, in the order they are asked.
const (
	LayerSystem  Layer = "system"  // writ itself could not decide: fail closed
	LayerRevoked Layer = "revoked" // the caller's certificate, key or identity is revoked
	LayerMTLS    Layer = "mtls"    // PeerAuthentication
	LayerCustom  Layer = "custom"  // a CUSTOM policy's provider
	LayerJWT     Layer = "jwt"     // RequestAuthentication
	LayerDeny    Layer = "deny"    // a DENY rule matched
	LayerAllow   Layer = "allow"   // ALLOW policies apply: a rule matched, or none did
	LayerDefault Layer = "default" // no ALLOW policy applies
)

// Reason says why, as a bounded word fit for a metric label.
type Reason string

// Reasons.
const (
	ReasonRevoked           Reason = "revoked"             // the caller's certificate, key or identity is revoked
	ReasonPlaintextRefused  Reason = "plaintext_refused"   // the port is STRICT and the caller has no certificate of the mesh
	ReasonAllowed           Reason = "allowed"             // an ALLOW rule matched
	ReasonNoAllowPolicy     Reason = "no_allow_policy"     // nothing forbids it and no ALLOW policy applies
	ReasonTokenRefused      Reason = "token_refused"       // a token is invalid; Decision.Token says why
	ReasonDenied            Reason = "denied"              // a DENY rule matched
	ReasonNoAllowMatch      Reason = "no_allow_match"      // ALLOW policies apply and none matches
	ReasonBrokenPolicy      Reason = "broken_policy"       // a document that was never valid governs this workload
	ReasonNoSnapshot        Reason = "no_snapshot"         // documents have not been loaded yet
	ReasonUnknownWorkload   Reason = "unknown_workload"    // the proxy does not say whom it protects
	ReasonUnknownLabels     Reason = "unknown_labels"      // a selector needs labels nobody supplied
	ReasonAmbiguousWorkload Reason = "ambiguous_workload"  // registered workloads disagree on the policies
	ReasonBadRequest        Reason = "bad_request"         // the CheckRequest cannot be read
	ReasonPathNotNormalized Reason = "path_not_normalized" // the proxy passed on a path it should have normalized or refused
	ReasonOverloaded        Reason = "overloaded"          // turned away unread: more checks arrived than can be answered
	ReasonInternal          Reason = "internal_error"      // a panic, recovered
)

// Reasons of the CUSTOM layer: what a provider said, or why it said nothing.
const (
	ReasonProviderAllowed     Reason = "provider_allowed"      // never of a decision: the other layers decide
	ReasonProviderDenied      Reason = "provider_denied"       // the provider said no
	ReasonProviderUndefined   Reason = "provider_undefined"    // its policy has no answer for this request
	ReasonProviderUnknown     Reason = "provider_unknown"      // no provider has this name
	ReasonProviderNotReady    Reason = "provider_not_ready"    // it has nothing to answer by yet
	ReasonProviderNoIdentity  Reason = "provider_no_identity"  // there is no certificate to ask it with
	ReasonProviderHTTPOnly    Reason = "provider_http_only"    // it cannot judge a TCP connection
	ReasonProviderOverload    Reason = "provider_overload"     // too many questions are open
	ReasonProviderTimeout     Reason = "provider_timeout"      // no answer in time
	ReasonProviderMemory      Reason = "provider_memory"       // stopped, for it took too much memory
	ReasonProviderUnreachable Reason = "provider_unreachable"  // no connection, or it broke
	ReasonProviderCircuitOpen Reason = "provider_circuit_open" // it failed too often just now, and was not asked
	ReasonProviderBadRequest  Reason = "provider_bad_request"  // the request cannot be put to it, such as a body that is too large or no JSON
	ReasonProviderBadAnswer   Reason = "provider_bad_answer"   // the answer means nothing, or is too large
	ReasonProviderError       Reason = "provider_error"        // any other failure
	ReasonProviderPanic       Reason = "provider_panic"        // recovered
)

// ProviderReasons lists what may become of a question to a provider.
func ProviderReasons() []Reason {
	return []Reason{
		ReasonProviderAllowed, ReasonProviderDenied, ReasonProviderUndefined, ReasonProviderUnknown, ReasonProviderNotReady,
		ReasonProviderNoIdentity, ReasonProviderHTTPOnly, ReasonProviderOverload, ReasonProviderTimeout, ReasonProviderMemory, ReasonProviderUnreachable,
		ReasonProviderCircuitOpen, ReasonProviderBadRequest, ReasonProviderBadAnswer, ReasonProviderError, ReasonProviderPanic,
	}
}

// ID names one decision among those of all authorities, so that the line of an access log leads to that of the decision
// log. The zero value names none.
type ID struct{ process, sequence uint64 }

// Append appends the ID as text: lower-case letters, digits and one dash.
func (id ID) Append(b []byte) []byte {
	b = append(strconv.AppendUint(b, id.process, 36), '-')
	return strconv.AppendUint(b, id.sequence, 36)
}

// String is the ID as text.
func (id ID) String() string { return string(id.Append(nil)) }

// IDs makes the IDs of one process. It is safe for concurrent use.
type IDs struct {
	process  uint64
	sequence atomic.Uint64
}

// NewIDs makes a source of IDs that no other process shares.
func NewIDs() *IDs {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return &IDs{process: binary.NativeEndian.Uint64(b[:])}
}

// Next makes an ID.
func (ids *IDs) Next() ID { return ID{ids.process, ids.sequence.Add(1)} }

// Decision is the answer to one Check, with its reason.
type Decision struct {
	ID  ID
	Raw []byte // the CheckRequest, for providers to judge; set by who asks, nil when there is none

	Allow  bool
	Status int    // HTTP status for the client: 200, 401 or 403, or what a provider says
	Body   string // of a denial
	Layer  Layer
	Reason Reason
	Rule   *policy.Rule // the rule that decided, nil when none did

	Verdict policy.Verdict // AUDIT and dry-run results; meaningful only if Evaluated
	// Evaluated is set when the AUDIT, DENY and ALLOW layers were reached.
	Evaluated bool

	// Asked are the questions to the providers of CUSTOM policies that matched, in their order; empty when none did.
	Asked []Asked
	// Changes are what providers want done to an allowed request and to the answer, or to the denial if theirs it is.
	// Those of the token come on top.
	Changes Changes

	// Token is what became of the request's tokens: why one was refused, or whose the request is, and which headers and
	// parameters of an allowed request to change.
	Token jwt.Result

	Workload   *policy.Bound // nil when not resolved
	Generation uint64        // of the snapshot, 0 when there was none
	Detail     string        // for logs and operators only, never for the client; names the value and the fix

	verified bool   // Token has been looked for
	answer   Answer // of the provider that is being asked
}

// Reset empties the decision for reuse and keeps its ID, the CheckRequest and its memory. An empty decision is no answer.
func (d *Decision) Reset() {
	id, raw, token := d.ID, d.Raw, d.Token
	token.Reset()
	if len(d.Asked) == 0 { // no provider left anything
		*d = Decision{ID: id, Raw: raw, Token: token, Asked: d.Asked, Changes: d.Changes, answer: d.answer}
		return
	}
	clear(d.Asked)
	d.Changes.reset()
	d.answer.reset()
	*d = Decision{ID: id, Raw: raw, Token: token, Asked: d.Asked[:0], Changes: d.Changes, answer: d.answer}
}

// Challenge is the www-authenticate header of a denial, empty when it has none (RFC 6750 §3).
func (d *Decision) Challenge() string {
	if d.Allow || d.Layer != LayerJWT {
		return ""
	}
	return d.Token.Authenticate
}

// DeniedBody is what Envoy's RBAC filter answers (authorization-policy §4.3).
const DeniedBody = "RBAC: access denied"
