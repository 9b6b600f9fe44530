package replay

import (
	"context"
	"errors"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/authz/extauthz"
	"github.com/writ-auth/writ/jwt"
)

// refusalOf is why nobody can tell which workload a request is for.
func refusalOf(err error) authz.Reason {
	var refused *extauthz.RequestError
	if errors.As(err, &refused) {
		return refused.Reason
	}
	return authz.ReasonUnknownWorkload
}

// takenOver makes providers that answer as those of the enforcing engine just did.
func takenOver(configs []authz.ProviderConfig) (*authz.Providers, error) {
	out := make([]authz.ProviderConfig, 0, len(configs))
	for _, c := range configs {
		out = append(out, authz.ProviderConfig{
			Name: c.Name, Provider: recordedProvider(c.Name), FailOpen: c.FailOpen, StatusOnError: c.StatusOnError, HTTPOnly: c.HTTPOnly,
			MaxConcurrent: authz.MaxMaxConcurrent, // the bound of the real one does not count twice
		})
	}
	return authz.NewProviders(nil, out...)
}

// recordedProvider answers as the provider of that name answered when the request was decided.
type recordedProvider string

// Ask implements [authz.Provider].
func (p recordedProvider) Ask(ctx context.Context, _ *authz.Question, a *authz.Answer) error {
	e, ok := ctx.Value(evaluationKey{}).(*evaluation)
	if !ok {
		return errors.New("asked outside of a trial")
	}
	for i := range e.enforced.Asked {
		asked := &e.enforced.Asked[i]
		if asked.Provider != string(p) {
			continue
		}
		if asked.Outcome == authz.ReasonProviderAllowed {
			a.Allow = true
			return nil
		}
		last := i == len(e.enforced.Asked)-1
		if last && e.enforced.Layer == authz.LayerCustom { // it denied, in its own words or for want of an answer
			a.Reason, a.Status = asked.Outcome, e.enforced.Status
			return nil
		}
		return &authz.Fault{Reason: asked.Outcome, Err: errors.New("it gave no answer when the request was decided")}
	}
	e.provider = "the answer of provider " + string(p)
	a.Allow = true // go on: a denial by another layer is certain, an allow is not
	return nil
}

// keysAtHand verifies tokens with the keys that are there, and has none fetched.
func keysAtHand(t authz.Tokens) authz.Tokens {
	source := t.Source
	if source == nil {
		return t
	}
	t.Source = func(w jwt.Wanted) jwt.Source {
		if real := source(w); real != nil {
			return heldKeys{real, w}
		}
		return nil
	}
	return t
}

// heldKeys is a source of keys that never fetches.
type heldKeys struct {
	jwt.Source
	wanted jwt.Wanted
}

// Refetch implements [jwt.Source]. It says that the right key may be one that is not held.
func (h heldKeys) Refetch(ctx context.Context) *jwt.KeySet {
	if e, ok := ctx.Value(evaluationKey{}).(*evaluation); ok {
		e.keys = "the keys of issuer " + h.wanted.Issuer
	}
	return h.Keys()
}
