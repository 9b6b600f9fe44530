package main

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/internal/policytest"
	"github.com/writ-auth/writ/jwt"
	"github.com/writ-auth/writ/policy"
)

// tokenTrace is the story of a request's tokens: where they were found, what each rule says of them, and whose the
// request is. It holds no token, and no values of claims but those that name the caller and the audience.
type tokenTrace struct {
	Mode     authz.TokenMode  `json:"mode"`
	Time     time.Time        `json:"time"` // at which they were verified
	Rules    []tokenRuleTrace `json:"rules"`
	Identity *identity        `json:"identity,omitempty"`
}

// tokenRuleTrace is what one rule of a RequestAuthentication says of a request.
type tokenRuleTrace struct {
	Rule   string       `json:"rule"`
	File   string       `json:"file"`
	Line   int          `json:"line"`
	Issuer string       `json:"issuer"`
	Keys   string       `json:"keys"`   // inline, given (by --jwks) or missing
	Result string       `json:"result"` // valid, unverified, none, unknown, or why it refuses
	Found  []tokenFound `json:"found,omitempty"`
}

// tokenFound is a place of a request with a token.
type tokenFound struct {
	Place  string `json:"place"` // such as "header authorization"
	Result string `json:"result"`
	KeyID  string `json:"key_id,omitempty"`
}

// identity is what a verified token says that policies ask for.
type identity struct {
	Principal   string    `json:"principal,omitempty"` // issuer/subject; empty without a subject, and then no requestPrincipals match
	Issuer      string    `json:"issuer"`
	Subject     string    `json:"subject"`
	Audiences   []string  `json:"audiences,omitempty"`
	Presenter   []string  `json:"presenter,omitempty"`
	OtherClaims []string  `json:"other_claims,omitempty"` // their names
	Algorithm   string    `json:"algorithm,omitempty"`
	KeyID       string    `json:"key_id,omitempty"`
	Expires     time.Time `json:"expires,omitzero"`
}

// traceTokens tells the story of r's tokens for a workload, nil if there is none to tell. d is the decision; the rules
// are asked anew, each by itself.
func (s *session) traceTokens(ctx context.Context, r *policy.Request, d *authz.Decision) *tokenTrace {
	if d.Workload == nil || r.TCP {
		return nil
	}
	t := &tokenTrace{Mode: cmp.Or(s.tokens.Mode, authz.TokensVerify), Time: s.tokens.Now().UTC(), Rules: []tokenRuleTrace{}}
	if t.Mode == authz.TokensMetadata {
		if r.ProxyClaims == nil {
			return nil
		}
		t.Identity = identityOf(r.ProxyClaims)
		return t
	}
	if d.Workload.Authentication == nil {
		return nil
	}
	in := jwt.Input{Headers: r.Headers, Raw: r.RawHeaders, Method: r.Method, Path: r.RawPath, Host: r.Host, Scheme: r.Scheme, Now: t.Time}
	for _, rule := range d.Workload.Authentication.Rules {
		t.Rules = append(t.Rules, s.traceTokenRule(ctx, rule, in))
	}
	if d.Token.Token != nil && len(s.keys.missing) == 0 {
		t.Identity = identityOfToken(d.Token.Token)
	}
	return t
}

func (s *session) traceTokenRule(ctx context.Context, rule policy.JWTRule, in jwt.Input) tokenRuleTrace {
	t := tokenRuleTrace{Rule: rule.ID, Issuer: rule.Spec.GetIssuer(), Keys: s.keys.described(rule)}
	t.File, t.Line = rulePlaceOf(rule, s.docs)
	t.Result, _ = s.ask(ctx, rule, in)
	for _, p := range policytest.PlacesOf(rule.Spec) {
		narrowed := in
		if p.NoQuery {
			narrowed.Path, _, _ = strings.Cut(in.Path, "?")
		}
		result, key := s.ask(ctx, policy.JWTRule{ID: rule.ID, Spec: p.Spec}, narrowed)
		if result != "none" {
			t.Found = append(t.Found, tokenFound{p.Name, result, key})
		}
	}
	return t
}

// ask says what a rule alone says of a request: "valid", "none", "unknown", or the reason it refuses for.
func (s *session) ask(ctx context.Context, rule policy.JWTRule, in jwt.Input) (result, key string) {
	before := s.keys.missing
	defer func() { s.keys.missing = before }()
	s.keys.missing = nil
	var out jwt.Result
	s.tokens.Validator(&policy.Authentication{Rules: []policy.JWTRule{rule}}).Validate(ctx, &in, &out)
	switch {
	case len(s.keys.missing) > 0:
		return "unknown", out.KeyID
	case out.Status == 0 && out.Token == nil:
		return "none", ""
	}
	return out.Reason.String(), out.KeyID
}

// described says where a rule's keys are: inline, given or missing.
func (k *offlineKeys) described(r policy.JWTRule) string {
	rule := authz.TokenRule(r)
	switch {
	case rule.JWKS != "":
		return "inline"
	case k.find(jwt.Wanted{JWKSURI: rule.JWKSURI, Issuer: rule.Issuer}) != nil:
		return "given"
	}
	return "missing"
}

func identityOf(claims policy.Claims) *identity {
	id := &identity{
		Issuer: claims.Issuer(), Subject: claims.Subject(),
		Audiences: slices.Clone(claims.Strings([]string{"aud"})), Presenter: slices.Clone(claims.Strings([]string{"azp"})),
	}
	if id.Issuer != "" && id.Subject != "" {
		id.Principal = id.Issuer + "/" + id.Subject
	}
	return id
}

func identityOfToken(t *jwt.Token) *identity {
	id := identityOf(t)
	id.Algorithm, id.KeyID = t.Algorithm(), t.KeyID()
	if at, ok := t.Expiry(); ok {
		id.Expires = at
	}
	var claims map[string]json.RawMessage
	if json.Unmarshal([]byte(t.JSON()), &claims) == nil { // it was verified, so it is an object
		for _, shown := range []string{"iss", "sub", "aud", "azp", "exp"} {
			delete(claims, shown)
		}
		id.OtherClaims = slices.Sorted(maps.Keys(claims))
	}
	return id
}
