package main

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/authz/extauthz"
	"github.com/writ-auth/writ/internal/telemetry"
	"github.com/writ-auth/writ/jwt"
	"github.com/writ-auth/writ/policy"
)

const (
	certificatesEvery = 30 * time.Second // between looks at certificate files for a renewal
	watchAgain        = 10 * time.Second // between loads while the documents cannot be watched
)

// authority is one running writ serve.
type authority struct {
	config    *config
	build     buildInfo
	started   time.Time
	log       *slog.Logger
	directory policy.Directory
	store     *policy.Store
	checks    *extauthz.Server
	certs     *certificates  // nil without TLS
	sources   *jwt.Sources   // of keys; nil if tokens are not verified here
	cache     *jwt.Cache     // of verified tokens; nil without one
	providers *providers     // that CUSTOM policies may ask; nil without checks
	shadows   *authz.Shadows // asks them for policies under dry run; nil without checks
	trials    *trials        // of other documents on live traffic; nil without checks
	metrics   *telemetry.Metrics
	decisions *telemetry.DecisionLog
	issuing   *issuing         // nil without a certificate authority
	local     *node            // agent of this machine's workloads; nil without one
	listening []listenerStatus // set before anything runs

	limiter *extauthz.Limiter // turns checks away under overload; nil if configured so

	loading sync.Mutex // one load at a time

	mu       sync.Mutex // guards what follows
	lastLoad loadReport
	loaded   time.Time // when the snapshot in force was made
	draining bool
}

// newAuthority prepares what the configuration switches on. state is the certificate authority's, nil without one.
func newAuthority(ctx context.Context, cfg *config, log *slog.Logger, decisions *telemetry.DecisionLog, state *caState) (*authority, error) {
	build := readBuildInfo()
	a := &authority{
		config:    cfg,
		build:     build,
		started:   time.Now(),
		log:       log,
		directory: policy.Directory{Path: cfg.Documents},
		store:     policy.NewStore(cfg.mesh()),
		metrics:   telemetry.NewMetrics(telemetry.Build{Version: build.Version, Revision: build.Revision, Go: build.Go}),
		decisions: decisions,
	}
	a.metrics.WatchDecisionLog(decisions)
	if state != nil {
		issuing, err := newIssuing(ctx, cfg, a.metrics, state)
		if err != nil {
			return nil, err
		}
		a.issuing = issuing
	}
	if cfg.Authz == nil {
		return a, nil
	}
	return a, a.newChecks(ctx)
}

// newChecks prepares the server that answers checks.
func (a *authority) newChecks(ctx context.Context) error {
	cfg := a.config
	var serverTLS *tls.Config
	if cfg.Authz.TLS != nil {
		certs, err := newCertificates(cfg.Authz.TLS)
		if err != nil {
			return invalidf("authz.tls: %w", err)
		}
		a.certs, serverTLS = certs, certs.config()
	}
	tokens, err := a.tokens()
	if err != nil {
		return invalidf("authz.jwks: %w", err)
	}
	if a.providers, err = newProviders(cfg.Authz, a.log, nil); err != nil {
		return invalidf("%w", err)
	}
	if a.limiter, err = a.newLimiter(); err != nil {
		return err
	}
	a.metrics.WatchCustom(a.providers.sources())
	a.providers.loadLocal(ctx)
	engine := &authz.Engine{Tokens: tokens, Providers: a.providers.table}
	a.shadowProviders(engine)
	if a.issuing != nil {
		engine.Revoked = denyList{a.issuing.authority.Deny()}
	}
	if a.trials, err = a.newTrials(tokens); err != nil {
		return err
	}
	a.checks, err = extauthz.New(extauthz.Config{
		Snapshot:        a.store.Load,
		Engine:          engine,
		TrustedHops:     cfg.Authz.TrustedHops,
		Paths:           extauthz.PathMode(cfg.Authz.Paths),
		MaxRequestBytes: cfg.Authz.MaxRequestBytes,
		Observe:         a.observe,
		Logger:          a.log,
		TLS:             serverTLS,
		Reflection:      cfg.Authz.Reflection,
		DrainTimeout:    cfg.Authz.DrainTimeout,
		Limiter:         a.limiter,
		MaxConnections:  cfg.Authz.MaxConnections,
	})
	return err
}

// observe counts and logs one check. It runs on the check's own goroutine.
func (a *authority) observe(o *extauthz.Observation) {
	c := telemetry.Check{Time: time.Now(), Duration: o.Duration, RequestID: o.RequestID, Request: o.Request, Decision: o.Decision}
	a.metrics.ObserveCheck(&c)
	a.decisions.Observe(&c)
	a.trials.observe(o)
}

// run serves until ctx ends, then drains: readiness goes first, then checks in flight end, then the rest stops, so that
// the last decisions are still logged and counted.
func (a *authority) run(ctx context.Context, l *listeners) error {
	a.announce(l)
	supporting, stopSupporting := context.WithCancel(context.WithoutCancel(ctx))
	defer stopSupporting()
	back, backCtx := errgroup.WithContext(supporting)
	a.support(backCtx, back, l)
	front, frontCtx := errgroup.WithContext(ctx)
	a.serve(frontCtx, front, l)
	front.Go(func() error { return a.hangups(frontCtx) })
	front.Go(func() error { return a.sayDraining(frontCtx) })
	front.Go(func() error { // what supports the checks must not end before them
		select {
		case <-frontCtx.Done():
			return nil
		case <-backCtx.Done():
			return errors.New("a supporting listener ended")
		}
	})
	err := front.Wait()
	stopSupporting()
	err = errors.Join(err, back.Wait())
	a.log.Info("stopped")
	return err
}

// support starts what those who answer need.
func (a *authority) support(ctx context.Context, back *errgroup.Group, l *listeners) {
	back.Go(func() error { return a.decisions.Run(ctx) })
	if a.sources != nil {
		back.Go(func() error { return a.sources.Run(ctx) })
	}
	if a.providers != nil {
		a.providers.run(ctx, back)
		back.Go(func() error { return a.shadows.Run(ctx) })
	}
	a.trials.run(ctx, back)
	if l.diagnostics != nil {
		back.Go(func() error { return ignoreClosed(serveHTTP(ctx, l.diagnostics, a.diagnostics())) })
	}
	if l.admin != nil {
		back.Go(func() error { return ignoreClosed(serveHTTP(ctx, adminListener{l.admin, a.log}, a.admin())) })
	}
	if a.issuing != nil {
		a.issuing.support(ctx, back)
	}
}

// serve starts those who answer.
func (a *authority) serve(ctx context.Context, front *errgroup.Group, l *listeners) {
	if a.checks != nil {
		loaded := make(chan struct{})
		front.Go(func() error { return a.watch(ctx, loaded) })
		front.Go(func() error {
			select {
			case <-loaded: // checks that arrive before wait in the listener's queue
			case <-ctx.Done():
			}
			return a.checks.Serve(ctx, l.authz)
		})
	}
	if a.issuing != nil {
		front.Go(func() error { return a.issuing.server.Serve(ctx, l.ca) })
		front.Go(func() error { return a.issuing.distribution.run(ctx) }) // its streams end before that server drains
		if a.issuing.endpoint != nil {
			front.Go(func() error { return a.issuing.endpoint.serve(ctx, l.bundle) })
		}
	}
	if a.local != nil {
		front.Go(func() error { return a.local.runLocal(ctx, &agentListeners{sds: l.sds}) })
	}
}

// announce logs what listens where.
func (a *authority) announce(l *listeners) {
	for _, open := range []struct {
		name     string
		listener net.Listener
		tls      bool
	}{{"authz", l.authz, a.certs != nil}, {"ca", l.ca, true}, {"bundle endpoint", l.bundle, true}, {"sds", l.sds, false}, {"admin", l.admin, false}, {"diagnostics", l.diagnostics, false}} {
		if open.listener == nil {
			continue
		}
		addr := open.listener.Addr()
		status := listenerStatus{Name: open.name, Address: address{addr.Network(), addr.String()}.String(), TLS: open.tls}
		a.listening = append(a.listening, status)
		a.log.Info("listening", "for", status.Name, "address", status.Address, "tls", status.TLS)
	}
	if a.certs != nil && a.config.Authz.TLS.ClientCA == "" {
		a.log.Warn("authz.tls.client_ca is not set: whoever reaches the port may ask for decisions")
	}
	if a.providers != nil {
		a.providers.announce(a.log)
	}
	attrs := []any{"version", a.build.Version, "trust_domain", a.config.TrustDomain}
	if c := a.config.Authz; c != nil {
		attrs = append(attrs, "root_namespace", a.config.RootNamespace, "jwt", c.JWT, "decision_log", c.DecisionLog.Log)
	}
	if c := a.config.CA; c != nil {
		attrs = append(attrs, "default_ttl", c.DefaultTTL, "max_ttl", c.MaxTTL)
	}
	a.log.Info("writ serves", attrs...)
}

// load reloads the documents and tells health checks once there is something to decide by.
func (a *authority) load(trigger string) {
	if a.checks == nil {
		return
	}
	a.reload(trigger)
	a.trials.load(trigger)
	a.providers.reload()
	if a.store.Load() != nil {
		a.checks.SetReady(true)
	}
}

// watch loads the documents, closes loaded, and loads them again whenever they change. A system that cannot watch them
// (inotify has limits) does not end the authority: they are then loaded again and again instead.
func (a *authority) watch(ctx context.Context, loaded chan<- struct{}) error {
	trigger := "start"
	first := sync.OnceFunc(func() { trigger = "change"; close(loaded) })
	for {
		load := func() {
			a.load(trigger)
			first()
		}
		err := a.directory.Watch(ctx, load)
		if ctx.Err() != nil {
			return nil
		}
		a.log.Error("the documents cannot be watched, they are loaded again from time to time", "path", a.config.Documents,
			"every", watchAgain, "error", err)
		load()
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(watchAgain):
		}
	}
}

// hangups reloads everything that lives in files on SIGHUP, and renewed certificates without being told.
func (a *authority) hangups(ctx context.Context) error {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	ticker := time.NewTicker(certificatesEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			a.renewCertificates()
		case <-hup:
			a.decisions.Reopen()
			a.renewCertificates()
			a.reloadPlugged(ctx, "authority:SIGHUP")
			a.load("SIGHUP")
		}
	}
}

func (a *authority) renewCertificates() {
	if a.certs == nil {
		return
	}
	switch changed, err := a.certs.reload(); {
	case err != nil:
		a.log.Error("the renewed certificate cannot be used, the last good one stays in force", "error", err)
	case changed:
		a.log.Info("certificate renewed", "cert", a.config.Authz.TLS.Cert)
	}
}

// reloadPlugged has a plugged-in certificate authority read its files again; what is wrong with them is logged and shown.
func (a *authority) reloadPlugged(ctx context.Context, by string) {
	if a.issuing != nil {
		_ = a.issuing.reload(ctx, by, true)
	}
}

// sayDraining turns readiness off as soon as the authority is told to stop.
func (a *authority) sayDraining(ctx context.Context) error {
	<-ctx.Done()
	a.mu.Lock()
	a.draining = true
	a.mu.Unlock()
	a.log.Info("draining", "timeout", a.drainTimeout())
	return nil
}

// drainTimeout is how long what is in flight may take to end.
func (a *authority) drainTimeout() time.Duration {
	longest := time.Duration(0)
	if a.config.Authz != nil {
		longest = a.config.Authz.DrainTimeout
	}
	if a.config.CA != nil {
		longest = max(longest, a.config.CA.DrainTimeout)
	}
	return longest
}
