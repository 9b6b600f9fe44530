package authz

import (
	"context"
	"net/http"
	"slices"

	"github.com/writ-auth/writ/policy"
)

// Engine decides requests. Its zero value is ready; all methods are safe for concurrent use. Its fields are not changed
// once requests are decided.
type Engine struct {
	Tokens  Tokens  // how tokens are verified
	Revoked Revoked // what is revoked; nil when nothing can be

	Providers *Providers // whom CUSTOM policies may ask; nil when nobody
	Shadows   *Shadows   // asks for CUSTOM policies under dry run; nil for nobody
}

// Revoked says what is no longer good, whatever policies say: the kill switch. It is asked with every request, so it
// takes no lock and allocates nothing.
type Revoked interface {
	ID(id string) bool           // a SPIFFE ID
	Serial(serial [16]byte) bool // a certificate
	Key(keyHash [32]byte) bool   // SHA-256 of a subject public key info
}

// Decide answers one request for one workload by the layers of authorization-policy §4.1, in their order, and writes
// the answer to d, whose memory it reuses. Without a snapshot or a workload the answer is a denial. It waits within ctx,
// and only for providers and for the keys of a token. It does not allocate for AUDIT, DENY and ALLOW policies, for CUSTOM
// policies that do not match, nor for a token that was verified before.
func (e *Engine) Decide(ctx context.Context, snap *policy.Snapshot, b *policy.Bound, r *policy.Request, d *Decision) {
	switch {
	case snap == nil:
		Deny(d, ReasonNoSnapshot, "no documents have been loaded yet")
		return
	case b == nil:
		Deny(d, ReasonUnknownWorkload, policy.ErrNoWorkload.Error())
		return
	}
	d.Reset()
	d.Workload, d.Generation = b, snap.Generation()

	if e.Revoked != nil && revoked(e.Revoked, r) {
		d.deny(LayerRevoked, ReasonRevoked, nil)
		return
	}
	if refusedPlaintext(b, r, d) {
		return
	}
	e.Shadows.note(b, r, d)
	if !e.custom(ctx, b, r, d) {
		return
	}
	if !e.Tokens.authenticate(ctx, b.Authentication, r, d) {
		return
	}
	d.Verdict, d.Evaluated = b.Rules.Evaluate(r), true
	switch v := &d.Verdict; {
	case v.Deny != nil: // "any enforced DENY rule matches: 403"
		d.deny(LayerDeny, ReasonDenied, v.Deny)
	case !v.HasAllow: // "no enforced ALLOW policy applies: allow"
		d.allow(LayerDefault, ReasonNoAllowPolicy, nil)
	case v.Allow != nil: // "some rule matches: allow"
		d.allow(LayerAllow, ReasonAllowed, v.Allow)
	default: // "else: 403"
		d.deny(LayerAllow, ReasonNoAllowMatch, nil)
	}
	if d.Allow && len(d.Asked) > 0 {
		d.Changes.underTokens(&d.Token, b.Authentication)
	}
}

// refusedPlaintext denies a caller without an identity on a port that PeerAuthentication makes STRICT, where a proxy has
// "no filter chain: closed" (authorization-policy §8.2). Under PERMISSIVE and DISABLE such a caller is the policies' affair.
func refusedPlaintext(b *policy.Bound, r *policy.Request, d *Decision) bool {
	m := b.MTLS(r.DestPort)
	if m.Mode != policy.ModeStrict || r.HasIdentity() {
		return false
	}
	d.deny(LayerMTLS, ReasonPlaintextRefused, nil)
	if m.Broken {
		d.Reason = ReasonBrokenPolicy
	}
	d.Detail = m.Refusal()
	return true
}

// revoked reports whether any name, the certificate or the key of the caller is revoked.
func revoked(list Revoked, r *policy.Request) bool {
	if slices.ContainsFunc(r.Names, list.ID) {
		return true
	}
	return r.Peer != nil && (list.Serial(r.Peer.Serial) || list.Key(r.Peer.KeyHash))
}

// Deny makes d the denial of a request that could not be decided. detail is for operators: what was wrong, and the fix.
func Deny(d *Decision, reason Reason, detail string) {
	d.Reset()
	d.Status, d.Body, d.Layer, d.Reason, d.Detail = http.StatusForbidden, DeniedBody, LayerSystem, reason, detail
}

func (d *Decision) allow(layer Layer, reason Reason, rule *policy.Rule) {
	d.Allow, d.Status, d.Layer, d.Reason, d.Rule = true, http.StatusOK, layer, reason, rule
}

func (d *Decision) deny(layer Layer, reason Reason, rule *policy.Rule) {
	d.Allow, d.Status, d.Body, d.Layer, d.Reason, d.Rule = false, http.StatusForbidden, DeniedBody, layer, reason, rule
	if len(d.Asked) > 0 { // what providers wanted done to the request that they allowed
		d.Changes.reset()
	}
	if rule != nil && rule.Policy.Broken {
		d.Reason, d.Detail = ReasonBrokenPolicy, "the document has errors, was never valid and fails closed: writ lint names them"
	}
}
