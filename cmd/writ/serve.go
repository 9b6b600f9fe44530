package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"

	"github.com/spf13/cobra"

	"github.com/writ-auth/writ/internal/telemetry"
)

func (c *cli) serve() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve -c FILE",
		Short: "Run the authority: answer Envoy's ext_authz checks",
		Long: "serve loads the documents that the configuration names, and answers checks until it is told to stop (SIGINT or\n" +
			"SIGTERM). Changed documents are loaded as they change, and on SIGHUP, which also reopens the decision log.",
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
func (c *cli) runAuthority(ctx context.Context, cfg *config) error {
	log := newLogger(c.err, cfg.Log)
	for name, meant := range misspelt(c.environ) {
		log.Warn("an environment variable is near a key and is none", "variable", name, "meant", meant)
	}
	decisions, err := telemetry.NewDecisionLog(telemetry.DecisionLogConfig{
		To: cfg.Authz.DecisionLog.To, Log: telemetry.LogWhat(cfg.Authz.DecisionLog.Log), Subjects: cfg.Authz.DecisionLog.Subjects,
		Stdout: c.out, Stderr: c.err, Logger: log,
	})
	if err != nil {
		return err
	}
	a, err := newAuthority(cfg, log, decisions)
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
	return a.run(ctx, listeners)
}

// listeners are what the authority listens on; nil where nothing is configured.
type listeners struct{ authz, admin, diagnostics net.Listener }

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
	for _, want := range []struct {
		key, address string
		mode         fileMode
		into         *net.Listener
	}{
		{"authz.listen", cfg.Authz.Listen, cfg.Authz.SocketMode, &l.authz},
		{"admin", cfg.Admin, 0o600, &l.admin},
		{"diagnostics.listen", cfg.Diagnostics.Listen, 0, &l.diagnostics},
	} {
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
		*want.into = opened
	}
	return nil
}

func (l *listeners) close() {
	for _, open := range []net.Listener{l.authz, l.admin, l.diagnostics} {
		if open != nil {
			_ = open.Close()
		}
	}
}

func newLogger(w io.Writer, c logConfig) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.Level)); err != nil { // checked with the configuration
		level = slog.LevelInfo
	}
	options := &slog.HandlerOptions{Level: level}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

// ignoreClosed drops the error of a listener that was closed on purpose.
func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) || errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}
