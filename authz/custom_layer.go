package authz

import (
	"context"
	"errors"
	"time"

	"github.com/writ-auth/writ/jwt"
	"github.com/writ-auth/writ/policy"
)

var errUnknownProvider = errors.New("no provider has this name: add it to authz.providers")

// Asked is what became of one question to a provider.
type Asked struct {
	Provider string
	Rule     *policy.Rule  // that matched
	Outcome  Reason        // ReasonProviderAllowed, or why not
	Open     bool          // there was no answer, and the provider fails open: the request went on
	Refused  int           // changes the provider wanted and may not make
	Took     time.Duration // from question to answer
}

// custom asks the providers of the CUSTOM rules that match (authorization-policy §4.1: "per provider, decide whether an
// enforced CUSTOM rule matches; if so call the provider"). It reports false, with d the denial, when one of them does not
// allow the request. Providers are asked one after the other in the order of their names, and all of them must allow.
func (e *Engine) custom(ctx context.Context, b *policy.Bound, r *policy.Request, d *Decision) bool {
	rule, next := b.Rules.Custom(r, 0)
	if rule == nil {
		return true
	}
	if e.Tokens.Mode == TokensMetadata {
		r.Claims = r.ProxyClaims
	}
	q := &Question{Raw: d.Raw, Request: r, Workload: b, ID: d.ID}
	q.Token = func(ctx context.Context) *jwt.Result {
		e.Tokens.verify(ctx, b.Authentication, r, d)
		return &d.Token
	}
	for ; rule != nil; rule, next = b.Rules.Custom(r, next) {
		q.Rule = rule
		if rule.Policy.Broken {
			d.deny(LayerCustom, ReasonBrokenPolicy, rule)
			return false
		}
		if !e.ask(ctx, q, d) {
			return false
		}
	}
	return true
}

// ask puts the question to the provider of the rule. It reports whether the request goes on.
func (e *Engine) ask(ctx context.Context, q *Question, d *Decision) bool {
	name := q.Rule.Policy.Provider
	d.Asked = append(d.Asked, Asked{Provider: name, Rule: q.Rule})
	asked := &d.Asked[len(d.Asked)-1]
	g := e.Providers.lookup(name)
	if g == nil {
		asked.Outcome = ReasonProviderUnknown
		d.deny(LayerCustom, ReasonProviderUnknown, q.Rule)
		d.Detail = "a CUSTOM policy names the provider " + name + ": " + errUnknownProvider.Error()
		return false
	}
	a := &d.answer
	a.reset()
	start := time.Now()
	fault := g.ask(ctx, q, a)
	asked.Took = time.Since(start)
	if fault == nil {
		fault = a.check()
	}
	if fault != nil {
		return d.fault(g, q, asked, fault)
	}
	if !a.Allow {
		d.refuse(g, q, asked)
		return false
	}
	asked.Outcome = ReasonProviderAllowed
	asked.Refused = d.Changes.merge(&changing{g: g, workload: q.Workload, request: q.Request}, &a.Changes)
	return true
}

// fault deals with a provider that gave no answer (§4.2: "failOpen true: rows above decide; false: statusOnError").
func (d *Decision) fault(g *delegate, q *Question, asked *Asked, f *Fault) (goesOn bool) {
	asked.Outcome, asked.Open = f.Reason, g.opens(f)
	g.warn(q, f, asked.Open)
	if asked.Open {
		return true
	}
	d.deny(LayerCustom, f.Reason, q.Rule)
	d.Status, d.Detail = g.StatusOnError, "provider "+g.Name+": "+f.Err.Error()
	return false
}

// refuse makes d the provider's denial: its status, headers and body go to the client.
func (d *Decision) refuse(g *delegate, q *Question, asked *Asked) {
	a := &d.answer
	reason := a.Reason
	if reason == "" {
		reason = ReasonProviderDenied
	}
	asked.Outcome = reason
	d.deny(LayerCustom, reason, q.Rule)
	d.Body, d.Detail = a.Body, a.Detail
	if a.Status != 0 {
		d.Status = a.Status
	}
	asked.Refused = d.Changes.merge(&changing{g: g, workload: q.Workload, request: q.Request}, &Changes{
		ResponseHeaders: a.ResponseHeaders, Metadata: a.Metadata,
	})
}
