package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/authz/extauthz"
	"github.com/writ-auth/writ/authz/provider"
	"github.com/writ-auth/writ/authz/provider/opa"
	"github.com/writ-auth/writ/internal/telemetry"
	"github.com/writ-auth/writ/policy"
)

// Kinds of providers, as the configuration calls them.
const (
	kindOPA  = "opa"
	kindGRPC = "grpc"
	kindHTTP = "http"
)

// runningProvider is one provider with what it is.
type runningProvider struct {
	name, kind, where string
	config            authz.ProviderConfig
	opa               *opa.Provider           // nil for one that is somewhere else
	circuit           func() provider.Circuit // of one that is
	identity          *provider.Identity      // who writ is to it; nil for nobody, or for files
	close             io.Closer
	notes             []string // what differs from what Istio does with the entry
}

// providers are all that CUSTOM policies may ask.
type providers struct {
	all        []*runningProvider
	table      *authz.Providers
	identities identities
}

// newProviders makes what the configuration lists. It asks nobody and reads no policies yet; files of certificates it
// reads. Errors say which provider they are of. now is what policies take for the time; nil is the clock.
func newProviders(a *authzConfig, log *slog.Logger, now func() time.Time) (*providers, error) {
	ps := &providers{identities: identities{log: log}}
	var problems []error
	add := func(key string, p *runningProvider, err error) {
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", key, err))
			return
		}
		ps.all = append(ps.all, p)
	}
	for i := range a.Providers {
		p, err := ps.newProvider(&a.Providers[i], log, now)
		add(fmt.Sprintf("authz.providers[%d]", i), p, err)
	}
	for i := range a.ExtensionProviders {
		p, err := newExtension(&a.ExtensionProviders[i])
		add(fmt.Sprintf("authz.extension_providers[%d]", i), p, err)
	}
	configs := make([]authz.ProviderConfig, 0, len(ps.all))
	for _, p := range ps.all {
		configs = append(configs, p.config)
	}
	table, err := authz.NewProviders(log, configs...)
	if err = errors.Join(append(problems, err)...); err != nil {
		ps.close()
		return nil, err
	}
	ps.table = table
	return ps, nil
}

func (ps *providers) newProvider(c *providerConfig, log *slog.Logger, now func() time.Time) (*runningProvider, error) {
	p := &runningProvider{name: c.Name, config: authz.ProviderConfig{
		Name: c.Name, Timeout: c.timeout(), FailOpen: c.FailOpen, StatusOnError: c.StatusOnError, MaxConcurrent: c.MaxConcurrent,
		AllowHeaders: c.AllowHeaders,
	}}
	if c.OPA != nil {
		config := c.OPA.config(c.Name)
		config.Logger, config.Now = log, now
		made, err := opa.New(config)
		if err != nil {
			return nil, err
		}
		p.kind, p.where, p.opa, p.config.Provider = kindOPA, made.Status().Bundle, made, made
		return p, nil
	}
	_, security := c.tls()
	identity, err := ps.identities.of(security)
	if err != nil {
		return nil, err
	}
	p.identity = identity
	if c.GRPC != nil {
		return p.withGRPC(c.GRPC.config(identity))
	}
	return p.withHTTP(c.HTTP.config(identity))
}

func newExtension(c *extensionConfig) (*runningProvider, error) {
	e, err := provider.ParseExtension(c.text)
	if err != nil {
		return nil, err
	}
	p := &runningProvider{name: e.Name, notes: e.Notes, config: authz.ProviderConfig{
		Name: e.Name, Timeout: e.Timeout, FailOpen: e.FailOpen, StatusOnError: e.StatusOnError,
	}}
	if e.GRPC != nil {
		return p.withGRPC(*e.GRPC)
	}
	return p.withHTTP(*e.HTTP)
}

func (p *runningProvider) withGRPC(c provider.GRPCConfig) (*runningProvider, error) {
	made, err := provider.NewGRPC(c)
	if err != nil {
		return nil, err
	}
	p.kind, p.where, p.circuit, p.close, p.config.Provider = kindGRPC, c.Target, made.Circuit, made, made
	return p, nil
}

func (p *runningProvider) withHTTP(c provider.HTTPConfig) (*runningProvider, error) {
	made, err := provider.NewHTTP(c)
	if err != nil {
		return nil, err
	}
	p.kind, p.where, p.circuit, p.close, p.config.Provider = kindHTTP, c.Target, made.Circuit, made, made
	p.config.HTTPOnly = true
	return p, nil
}

// loadLocal reads the policies of providers that have them in files, so that the first request does not wait for them.
// What is wrong with them is logged and shown.
func (ps *providers) loadLocal(ctx context.Context) {
	for _, p := range ps.all {
		if p.opa != nil && p.opa.Local() {
			_ = p.opa.Load(ctx)
		}
	}
}

// checkProviderFiles makes the providers and reads what they have on this machine: certificates and policies.
func (a *authzConfig) checkProviderFiles(ctx context.Context) []error {
	ps, err := newProviders(a, nil, nil)
	if err != nil {
		return []error{err}
	}
	defer ps.close()
	var problems []error
	for _, p := range ps.all {
		if p.opa == nil || !p.opa.Local() {
			continue
		}
		if err := p.opa.Load(ctx); err != nil {
			problems = append(problems, fmt.Errorf("provider %s: %w", p.name, err))
		}
	}
	return problems
}

// run keeps policies and certificates in step with where they come from, and closes what is open in the end.
func (ps *providers) run(ctx context.Context, g *errgroup.Group) {
	for _, p := range ps.all {
		if p.opa != nil {
			g.Go(func() error { return p.opa.Run(ctx) })
		}
	}
	for _, identity := range ps.identities.all {
		g.Go(func() error { return identity.Run(ctx) })
	}
	g.Go(func() error {
		<-ctx.Done()
		ps.close()
		return nil
	})
}

// shadowProviders has the engine ask for CUSTOM policies under dry run.
func (a *authority) shadowProviders(e *authz.Engine) {
	options := extauthz.Options{TrustedHops: a.config.Authz.TrustedHops, Paths: extauthz.PathMode(a.config.Authz.Paths)}
	decode := func(raw []byte) (*policy.Request, error) {
		r := new(policy.Request)
		_, err := extauthz.DecodeRequest(raw, options, r)
		return r, err
	}
	a.shadows = authz.NewShadows(e, decode, func(answer *authz.ShadowAnswer) {
		a.metrics.ObserveShadow(answer)
		a.decisions.ObserveShadow(time.Now(), answer)
	})
	e.Shadows = a.shadows
	a.metrics.WatchShadows(a.shadows)
}

// reload has policies looked at now.
func (ps *providers) reload() {
	for _, p := range ps.all {
		if p.opa != nil {
			p.opa.Reload()
		}
	}
}

func (ps *providers) close() {
	for _, p := range ps.all {
		if p.close != nil {
			_ = p.close.Close() // ends calls and connections; nothing is left to be done about an error
		}
	}
}

// announce says what is open on purpose, and what differs from Istio.
func (ps *providers) announce(log *slog.Logger) {
	for _, p := range ps.all {
		attrs := []any{"provider", p.name, "kind", p.kind, "at", p.where}
		if p.identity != nil {
			attrs = append(attrs, "identity", p.identity.Status().ID)
		}
		log.Info("provider", attrs...)
		if p.config.FailOpen {
			log.Warn("a provider fails open: requests that need it pass to the other layers while it gives no answer", "provider", p.name)
		}
		for _, note := range p.notes {
			log.Warn("a provider of authz.extension_providers", "provider", p.name, "note", note)
		}
	}
}

// notReady says which providers have nothing to answer by.
func (ps *providers) notReady() []string {
	var reasons []string
	for _, p := range ps.all {
		if p.identity != nil {
			if s := p.identity.Status(); !s.Ready {
				reasons = append(reasons, "provider "+p.name+" is not asked, and whoever needs it is denied: "+s.Error)
			}
		}
		if p.opa == nil {
			continue
		}
		if s := p.opa.Status(); !s.Ready {
			reason := "provider " + p.name + " has no policies: whoever asks it is denied"
			if s.Error != "" {
				reason += ": " + s.Error
			}
			reasons = append(reasons, reason)
		}
	}
	return reasons
}

// sources are the providers as metrics show them.
func (ps *providers) sources() []telemetry.CustomSource {
	out := make([]telemetry.CustomSource, 0, len(ps.all))
	for _, p := range ps.all {
		s := telemetry.CustomSource{Name: p.name, InFlight: func() int { return ps.table.InFlight(p.name) }}
		if p.opa != nil {
			s.Ready = func() bool { return p.opa.Status().Ready }
			s.Failing = func() bool { return p.opa.Status().Error != "" }
		}
		if p.identity != nil {
			s.IdentityEnds = func() time.Time { return identityEnds(p.identity) }
		}
		out = append(out, s)
	}
	return out
}

// providerReport is one provider in the status.
type providerReport struct {
	Name     string         `json:"name"`
	Kind     string         `json:"kind"` // opa, grpc or http
	Where    string         `json:"where"`
	FailOpen bool           `json:"fail_open,omitempty"`
	InFlight int            `json:"in_flight"`
	Policies *opa.Status    `json:"policies,omitempty"` // of opa
	Circuit  *circuitReport `json:"circuit,omitempty"`  // of grpc and http

	Identity *provider.IdentityStatus `json:"identity,omitempty"` // who writ is to it, if that is not in files
}

// circuitReport says whether a server that is somewhere else answers.
type circuitReport struct {
	Open     bool      `json:"open"` // it is not asked
	Failures int       `json:"failures"`
	Since    time.Time `json:"since,omitzero"`
	RetryAt  time.Time `json:"retry_at,omitzero"`
	Error    string    `json:"error,omitempty"`
}

func (ps *providers) report() []providerReport {
	var out []providerReport
	for _, p := range ps.all {
		r := providerReport{Name: p.name, Kind: p.kind, Where: p.where, FailOpen: p.config.FailOpen, InFlight: ps.table.InFlight(p.name)}
		if p.opa != nil {
			s := p.opa.Status()
			r.Policies = &s
		}
		if p.identity != nil {
			s := p.identity.Status()
			r.Identity = &s
		}
		if p.circuit != nil {
			c := p.circuit()
			r.Circuit = &circuitReport{Open: c.Open, Failures: c.Failures, Since: c.Since, RetryAt: c.RetryAt}
			if c.Last != nil {
				r.Circuit.Error = c.Last.Error()
			}
		}
		out = append(out, r)
	}
	return out
}

// warnings are what does not work while what is in force goes on to work, and what is open on purpose.
func (ps *providers) warnings() []string {
	var out []string
	for _, r := range ps.report() {
		if s := r.Policies; s != nil && s.Ready && s.Error != "" {
			out = append(out, "provider "+r.Name+": its policies cannot be renewed, the last good ones are in force: "+s.Error)
		}
		if c := r.Circuit; c != nil && c.Open {
			out = append(out, "provider "+r.Name+" does not answer and is not asked until "+c.RetryAt.Format(time.RFC3339)+": "+c.Error)
		}
		if s := r.Identity; s != nil && s.Ready && s.Error != "" {
			out = append(out, "provider "+r.Name+": the certificate for it, which ends at "+s.NotAfter.UTC().Format(time.RFC3339)+", may not be renewed: "+s.Error)
		}
		if r.FailOpen {
			out = append(out, "provider "+r.Name+" fails open")
		}
	}
	return out
}

// providers shows whom CUSTOM policies may ask, one a line.
func (sw *statusWriter) providers(all []providerReport) {
	if len(all) == 0 {
		return
	}
	sw.b.WriteString("\n" + sw.colours.bold("providers") + "\n")
	rows := make([][]string, 0, len(all))
	for i := range all {
		r := &all[i]
		state := "answers"
		switch {
		case r.Policies != nil && !r.Policies.Ready:
			state = "no policies"
		case r.Policies != nil && r.Policies.Error != "":
			state = "last good"
		case r.Policies != nil:
			state = "active"
		case r.Identity != nil && !r.Identity.Ready, r.Circuit != nil && r.Circuit.Open:
			state = "not asked"
		case r.Circuit != nil && r.Circuit.Failures > 0:
			state = "failing"
		}
		detail := ""
		if r.Policies != nil && r.Policies.Ready {
			detail = plural(r.Policies.Modules, "module") + ", loaded " + sw.since(r.Policies.Loaded) + " ago"
		}
		if r.Identity != nil {
			detail = identityNote(r.Identity)
		}
		rows = append(rows, []string{state, printable(r.Name), r.Kind, printable(r.Where), detail})
	}
	sw.table(rows)
}
