package policytest

import (
	"context"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/jwt"
	"github.com/writ-auth/writ/policy"
)

// probe asks one token rule alone, as a whole and place by place.
type probe struct {
	rule   *policy.Authentication
	places []placeProbe
}

type placeProbe struct {
	name string
	rule *policy.Authentication
}

func newProbe(rule policy.JWTRule) *probe {
	alone := func(r policy.JWTRule) *policy.Authentication {
		return &policy.Authentication{Rules: []policy.JWTRule{r}}
	}
	p := &probe{rule: alone(rule)}
	places := PlacesOf(rule.Spec)
	if places[0].NoQuery { // it names no place, so there is none to exercise
		return p
	}
	for _, place := range places {
		p.places = append(p.places, placeProbe{place.Name, alone(policy.JWTRule{ID: rule.ID, Spec: place.Spec})})
	}
	return p
}

// tokensSeen says what each token rule for the workload makes of a request, nil if none was asked.
func (r *Runner) tokensSeen(ctx context.Context, d *authz.Decision, q *policy.Request) []policy.TokenSeen {
	asked := d.Evaluated || d.Layer == authz.LayerJWT
	if !asked || r.tokens == authz.TokensMetadata || d.Workload.Authentication == nil || q.TCP {
		return nil
	}
	in := jwt.Input{
		Headers: q.Headers, Raw: q.RawHeaders, Method: q.Method, Path: q.RawPath, Host: q.Host, Scheme: q.Scheme, Now: r.Now(),
	}
	carries := d.Token.Token != nil || d.Token.Status != 0
	seen := make([]policy.TokenSeen, 0, len(d.Workload.Authentication.Rules))
	for _, rule := range d.Workload.Authentication.Rules {
		s := policy.TokenSeen{Rule: rule, State: policy.TokenNone}
		if carries {
			r.seeToken(ctx, d, &in, &s)
		}
		seen = append(seen, s)
	}
	return seen
}

// seeToken asks one rule alone.
func (r *Runner) seeToken(ctx context.Context, d *authz.Decision, in *jwt.Input, s *policy.TokenSeen) {
	p := r.probes[s.Rule.Spec]
	if p == nil {
		p = newProbe(s.Rule)
		r.probes[s.Rule.Spec] = p
	}
	var alone jwt.Result
	r.verifier.Validator(p.rule).Validate(ctx, in, &alone)
	switch {
	case alone.Status == 0 && alone.Token == nil:
		return
	case alone.Status == 0:
		s.State = policy.TokenGood
	case d.Layer == authz.LayerJWT && (d.Token.Rule == s.Rule.ID || d.Token.Rule == "" || alone.Reason != jwt.IssuerUnknown):
		s.State = policy.TokenRefused
	default:
		s.State = policy.TokenOther
	}
	for _, place := range p.places {
		var there jwt.Result
		r.verifier.Validator(place.rule).Validate(ctx, in, &there)
		if there.Status != 0 || there.Token != nil {
			s.Places = append(s.Places, place.name)
		}
	}
}
