package authz

import (
	"context"
	"time"

	"github.com/writ-auth/writ/jwt"
	"github.com/writ-auth/writ/policy"
)

// TokenMode says who verifies the tokens of requests.
type TokenMode string

// Token modes.
const (
	// TokensVerify verifies the tokens that RequestAuthentication documents name.
	TokensVerify TokenMode = "verify"
	// TokensMetadata takes the claims that Envoy's own jwt_authn filter verified and passed on as metadata. The filter
	// refuses bad tokens itself.
	TokensMetadata TokenMode = "metadata"
)

// Tokens says how the tokens of requests are verified. The zero value verifies with inline keys, without a cache.
type Tokens struct {
	Mode TokenMode // default TokensVerify
	// Source returns where a rule's keys are fetched from; nil when none are.
	Source func(jwt.Wanted) jwt.Source
	Cache  *jwt.Cache       // nil verifies every token on every request
	Now    func() time.Time // nil is time.Now
}

// WantedKeys lists the key sets that the RequestAuthentication documents of a snapshot need.
func WantedKeys(snap *policy.Snapshot) []jwt.Wanted {
	var out []jwt.Wanted
	for _, r := range snap.JWTRules() {
		if rule := TokenRule(r); rule.JWKS == "" {
			out = append(out, wanted(rule))
		}
	}
	return out
}

func wanted(r jwt.Rule) jwt.Wanted {
	return jwt.Wanted{JWKSURI: r.JWKSURI, Issuer: r.Issuer, Timeout: r.Timeout}
}

// TokenRule reads one entry of jwtRules.
func TokenRule(r policy.JWTRule) jwt.Rule {
	s := r.Spec
	rule := jwt.Rule{
		ID:                    r.ID,
		Issuer:                s.GetIssuer(),
		Audiences:             s.GetAudiences(),
		JWKSURI:               s.GetJwksUri(),
		JWKS:                  s.GetJwks(),
		Timeout:               s.GetTimeout().AsDuration(),
		FromParams:            s.GetFromParams(),
		FromCookies:           s.GetFromCookies(),
		OutputPayloadToHeader: s.GetOutputPayloadToHeader(),
		ForwardOriginalToken:  s.GetForwardOriginalToken(),
		SpaceDelimitedClaims:  s.GetSpaceDelimitedClaims(),
	}
	for _, h := range s.GetFromHeaders() {
		rule.FromHeaders = append(rule.FromHeaders, jwt.HeaderLocation{Name: h.GetName(), Prefix: h.GetPrefix()})
	}
	for _, c := range s.GetOutputClaimToHeaders() {
		rule.OutputClaimToHeaders = append(rule.OutputClaimToHeaders, jwt.OutputClaim{Header: c.GetHeader(), Claim: c.GetClaim()})
	}
	return rule
}

// Validator returns the verifier of a workload's token rules, made on first use.
func (t *Tokens) Validator(a *policy.Authentication) *jwt.Validator {
	v, _ := a.Compiled(func(rules []policy.JWTRule) any {
		converted := make([]jwt.Rule, 0, len(rules))
		for _, r := range rules {
			converted = append(converted, TokenRule(r))
		}
		return jwt.NewValidator(converted, t.source, jwt.Options{Cache: t.Cache})
	}).(*jwt.Validator)
	return v
}

// source finds the keys of a rule: inline ones win (request-authentication §6.1). A rule whose keys cannot be had
// refuses every token.
func (t *Tokens) source(r jwt.Rule) jwt.Source {
	if r.JWKS != "" {
		set, err := jwt.ParseKeySet([]byte(r.JWKS))
		if err != nil {
			return nil // validated at load; without a usable key the tokens of this rule are refused
		}
		return set
	}
	if t.Source == nil {
		return nil
	}
	return t.Source(wanted(r))
}

// authenticate finds out who the request is from by its token. It reports false, with d the refusal, when a token is
// refused (authorization-policy §4.1: "an invalid token: 401, a missing one is fine").
func (t *Tokens) authenticate(ctx context.Context, a *policy.Authentication, r *policy.Request, d *Decision) bool {
	if t.Mode == TokensMetadata {
		r.Claims = r.ProxyClaims
		return true
	}
	t.verify(ctx, a, r, d)
	if d.Token.Status != 0 {
		if len(d.Asked) > 0 {
			d.Changes.reset()
		}
		d.Allow, d.Status, d.Body, d.Layer, d.Reason = false, d.Token.Status, d.Token.Body, LayerJWT, ReasonTokenRefused
		return false
	}
	if d.Token.Token != nil {
		r.Claims = d.Token.Token
	}
	return true
}

// verify writes to d.Token what becomes of the request's tokens. It does so once: a provider may have asked before.
func (t *Tokens) verify(ctx context.Context, a *policy.Authentication, r *policy.Request, d *Decision) {
	if d.verified || t.Mode == TokensMetadata || a == nil || r.TCP {
		return
	}
	d.verified = true
	now := time.Now
	if t.Now != nil {
		now = t.Now
	}
	in := jwt.Input{
		Headers: r.Headers, Raw: r.RawHeaders, Method: r.Method, Path: r.RawPath, Host: r.Host, Scheme: r.Scheme, Now: now(),
	}
	t.Validator(a).Validate(ctx, &in, &d.Token)
}
