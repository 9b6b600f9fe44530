package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"

	"github.com/spf13/cobra"

	"github.com/writ-auth/writ/internal/telemetry"
)

func (c *cli) serve() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve -c FILE",
		Short: "Run the authority: answer Envoy's ext_authz checks, issue certificates",
		Long: "serve does what the configuration has a block for, until it is told to stop (SIGINT or SIGTERM): authz answers checks\n" +
			"by the documents, ca issues certificates. Changed documents are loaded as they change, and on SIGHUP, which also\n" +
			"reopens the decision log. The very first start of a certificate authority makes its root.",
		Example: "  writ serve -c writ.yaml\n  WRIT_AUTHZ_LISTEN=unix:///run/writ/authz.sock writ serve -c writ.yaml",
		Args:    cobra.NoArgs,
	}
	file := cmd.Flags().StringP("config", "c", "", "configuration `file`")
	sets := cmd.Flags().StringArray("set", nil, "override one `key=value`, e.g. authz.listen=127.0.0.1:9191")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *file == "" {
			return usagef("which configuration? writ serve -c writ.yaml")
		}
		cfg, err := c.loadConfig(*file, *sets)
		if err != nil {
			return err
		}
		return c.runAuthority(cmd.Context(), cfg)
	}
	return cmd
}

// runAuthority builds the authority, opens its listeners and runs it until ctx ends.
func (c *cli) runAuthority(ctx context.Context, cfg *config) (err error) {
	log := newLogger(c.err, cfg.Log)
	for name, meant := range misspelt(c.environ) {
		log.Warn("an environment variable is near a key and is none", "variable", name, "meant", meant)
	}
	decisions, err := c.decisionLog(cfg.Authz, log)
	if err != nil {
		return err
	}
	state, err := c.servedState(ctx, cfg, log)
	if err != nil {
		return err
	}
	if state != nil { // last of all: what was answered is in the ledger
		defer func() { err = errors.Join(err, state.close()) }()
	}
	a, err := newAuthority(ctx, cfg, log, decisions, state)
	if err != nil {
		return err
	}
	if gogc, ok := c.env("GOGC"); !ok || gogc == "" {
		stop := paceCollector(setCollectorPercent)
		defer stop()
	}
	listeners, err := openListeners(cfg)
	if err != nil {
		return err
	}
	stop := c.notifySystemd(ctx, log, a.readiness, nil)
	defer stop()
	if cfg.SDS != nil {
		if a.local, err = a.issuing.newLocalNode(ctx, listeners.ca.Addr().String()); err != nil {
			listeners.close()
			return err
		}
		defer func() { err = errors.Join(err, a.local.agent.Close()) }()
	}
	return a.run(ctx, listeners)
}

// decisionLog opens the decision log; without checks there is none to write.
func (c *cli) decisionLog(cfg *authzConfig, log *slog.Logger) (*telemetry.DecisionLog, error) {
	if cfg == nil {
		return telemetry.NewDecisionLog(telemetry.DecisionLogConfig{Log: telemetry.LogOff})
	}
	return telemetry.NewDecisionLog(telemetry.DecisionLogConfig{
		To: cfg.DecisionLog.To, Log: telemetry.LogWhat(cfg.DecisionLog.Log), Subjects: cfg.DecisionLog.Subjects,
		Stdout: c.out, Stderr: c.err, Logger: log,
	})
}

// servedState opens the certificate authority's state and loads it; nil if there is none to serve.
func (c *cli) servedState(ctx context.Context, cfg *config, log *slog.Logger) (*caState, error) {
	if cfg.CA == nil {
		return nil, nil
	}
	state, err := awaitCAState(ctx, cfg, c.env, log)
	if err != nil {
		return nil, err
	}
	if err := state.loadOrInit(ctx); err != nil {
		return nil, errors.Join(err, state.close())
	}
	return state, nil
}

// listeners are what the authority listens on; nil where nothing is configured.
type listeners struct{ authz, ca, bundle, sds, admin, diagnostics net.Listener }

// openListeners opens all or none.
func openListeners(cfg *config) (*listeners, error) {
	l := &listeners{}
	if err := l.open(cfg); err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

func (l *listeners) open(cfg *config) error {
	type wanted struct {
		key, address string
		mode         fileMode
		into         *net.Listener
	}
	all := []wanted{{"admin", cfg.Admin, 0o600, &l.admin}, {"diagnostics.listen", cfg.Diagnostics.Listen, 0, &l.diagnostics}}
	if cfg.Authz != nil {
		all = append(all, wanted{"authz.listen", cfg.Authz.Listen, cfg.Authz.SocketMode, &l.authz})
	}
	if cfg.CA != nil {
		all = append(all, wanted{"ca.listen", cfg.CA.Listen, 0, &l.ca})
		if e := cfg.CA.BundleEndpoint; e != nil {
			all = append(all, wanted{"ca.bundle_endpoint.listen", e.Listen, 0, &l.bundle})
		}
	}
	if cfg.SDS != nil {
		all = append(all, wanted{"sds.listen", cfg.SDS.Listen, cfg.SDS.SocketMode, &l.sds})
	}
	for _, want := range all {
		if want.address == "" {
			continue
		}
		address, err := parseAddress(want.address)
		if err != nil {
			return err
		}
		opened, err := listen(address, want.mode)
		if err != nil {
			return fmt.Errorf("%s: %w", want.key, err)
		}
		*want.into = bounded(opened, want.into == &l.bundle || want.into == &l.diagnostics)
	}
	return nil
}

func (l *listeners) close() {
	for _, open := range []net.Listener{l.authz, l.ca, l.bundle, l.sds, l.admin, l.diagnostics} {
		if open != nil {
			_ = open.Close()
		}
	}
}

// ignoreClosed drops the error of a listener that was closed on purpose.
func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) || errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}
