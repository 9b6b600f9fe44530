package main

import (
	"context"
	"fmt"
	"net"
	"time"

	"golang.org/x/net/netutil"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/authz/extauthz"
)

// overloadConfig says what becomes of checks while more arrive than can be answered.
type overloadConfig struct {
	Answer string        `yaml:"answer"` // deny, resource_exhausted or off
	Target time.Duration `yaml:"target"` // how long checks may be at work then
}

// overloadOff answers every check, however late.
const overloadOff = "off"

func defaultOverload() overloadConfig {
	return overloadConfig{Answer: string(extauthz.OverloadDeny), Target: extauthz.DefaultOverloadTarget}
}

// maxAuthzConnections bounds authz.max_connections.
const maxAuthzConnections = 1_000_000

func (d *configDecoder) checkOverload(a *authzConfig) {
	c := a.Overload
	d.oneOf("authz.overload.answer", c.Answer, string(extauthz.OverloadDeny), string(extauthz.OverloadExhausted), overloadOff)
	if c.Target < extauthz.MinOverloadTarget || c.Target > extauthz.MaxOverloadTarget {
		d.bad("authz.overload.target", "%v: want %v to %v", c.Target, extauthz.MinOverloadTarget, extauthz.MaxOverloadTarget)
	}
	if a.MaxConnections < 1 || a.MaxConnections > maxAuthzConnections {
		d.bad("authz.max_connections", "%d: want 1 to %d", a.MaxConnections, maxAuthzConnections)
	}
}

// newLimiter makes the limiter that the configuration asks for, nil if it asks for none, and exempts checks that wait for
// remote providers: they cost nothing meanwhile, and every provider has a bound of its own. Rego is evaluated here, so
// that it counts.
func (a *authority) newLimiter() (*extauthz.Limiter, error) {
	c := a.config.Authz.Overload
	if c.Answer == overloadOff {
		return nil, nil
	}
	l, err := extauthz.NewLimiter(extauthz.LimiterConfig{Answer: extauthz.OverloadAnswer(c.Answer), Target: c.Target, Logger: a.log})
	if err != nil {
		return nil, err
	}
	configs := make([]authz.ProviderConfig, 0, len(a.providers.all))
	for _, p := range a.providers.all {
		config := p.config
		if p.kind != kindOPA {
			config.Provider = exemptProvider{config.Provider, l}
		}
		configs = append(configs, config)
	}
	if a.providers.table, err = authz.NewProviders(a.log, configs...); err != nil {
		return nil, err
	}
	return l, registerOverload(a.metrics.Registry(), l)
}

// exemptProvider is a remote provider.
type exemptProvider struct {
	authz.Provider
	limiter *extauthz.Limiter
}

// Ask implements [authz.Provider].
func (p exemptProvider) Ask(ctx context.Context, q *authz.Question, answer *authz.Answer) error {
	defer p.limiter.Waiting(ctx)()
	return p.Provider.Ask(ctx, q, answer)
}

// maxHTTPConnections is how many connections the bundle endpoint and the diagnostics each accept at a time; more wait. Those
// that say nothing are closed within seconds.
const maxHTTPConnections = 1024

// bounded bounds the connections of a listener for HTTP. The others have bounds of their own.
func bounded(l net.Listener, http bool) net.Listener {
	if http {
		return netutil.LimitListener(l, maxHTTPConnections)
	}
	return l
}

// overloadReport says how many checks were turned away.
type overloadReport struct {
	Answer     string `json:"answer"` // deny, resource_exhausted or off
	Overloaded bool   `json:"overloaded"`
	AtWork     int    `json:"at_work"` // checks, without those that wait for remote providers
	Limit      int    `json:"limit"`   // of them, under overload
	Shed       uint64 `json:"shed"`    // since the start
}

func (a *authority) overloadReport() *overloadReport {
	s := a.limiter.Status()
	return &overloadReport{a.config.Authz.Overload.Answer, s.Overloaded, s.AtWork, s.Limit, s.Shed}
}

// warnings says that checks are being turned away. That does not count for readiness: who took an overloaded replica out
// of service would overload the next.
func (r *overloadReport) warnings() []string {
	if !r.Overloaded {
		return nil
	}
	return []string{fmt.Sprintf("overloaded: more checks arrive than can be answered, at most %d are let in at a time (%d turned away since the start)", r.Limit, r.Shed)}
}

// overload shows what was turned away, if anything was.
func (sw *statusWriter) overload(r *overloadReport) {
	if r != nil && r.Shed > 0 {
		fmt.Fprintf(&sw.b, "  %d turned away under overload (%s)\n", r.Shed, r.Answer)
	}
}
