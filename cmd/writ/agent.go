package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// agentHeapPercent is the agent's GOGC: it has little to do and shares its machine with the workloads it is there for, so
// memory is worth more than the collector's time.
const agentHeapPercent = 50

func (c *cli) agent() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "agent -c FILE",
		Short: "Run the node side: get certificates, renew them, serve them to local processes",
		Long: "agent makes keys, has an authority certify them, renews in time, and gives them to the processes of this machine that\n" +
			"workloads names, by Envoy's SDS on a Unix socket. It proves itself by a join token or a service account token once and\n" +
			"by its own certificate from then on. It runs until it is told to stop (SIGINT or SIGTERM); workloads are read again\n" +
			"when the file changes, and on SIGHUP.",
		Example: "  writ agent -c agent.yaml\n  WRIT_LOG_LEVEL=debug writ agent -c agent.yaml",
		Args:    cobra.NoArgs,
	}
	file := cmd.Flags().StringP("config", "c", "", "configuration `file`")
	sets := cmd.Flags().StringArray("set", nil, "override one `key=value`, e.g. authority.address=127.0.0.1:8081")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *file == "" {
			return usagef("which configuration? writ agent -c agent.yaml")
		}
		cfg, err := c.loadAgentConfig(*file, *sets)
		if err != nil {
			return err
		}
		return c.runAgent(cmd.Context(), cfg, *file, *sets)
	}
	return cmd
}

// runAgent builds the agent, opens its listeners and runs it until ctx ends.
func (c *cli) runAgent(ctx context.Context, cfg *agentConfig, file string, sets []string) (err error) {
	log := newLogger(c.err, cfg.Log)
	for name, meant := range misspeltOf(cfg, c.environ) {
		log.Warn("an environment variable is near a key and is none", "variable", name, "meant", meant)
	}
	if gogc, ok := c.env("GOGC"); !ok || gogc == "" {
		debug.SetGCPercent(agentHeapPercent)
	}
	n, err := newNode(cfg, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.agent.Close()) }()
	n.reread = func() (*agentConfig, error) { return loadAgentConfig(file, c.env, sets) }
	n.file = file
	l, err := openAgentListeners(cfg)
	if err != nil {
		return err
	}
	stop := c.notifySystemd(ctx, log, n.readiness, func() bool { return !n.agent.Stuck() })
	defer stop()
	return n.run(ctx, l)
}

func openAt(key, text string, mode fileMode) (net.Listener, error) {
	where, err := parseAddress(text)
	if err != nil {
		return nil, err
	}
	l, err := listen(where, mode)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	return l, nil
}

// agentListeners are what an agent listens on; nil where nothing is configured.
type agentListeners struct{ sds, admin, diagnostics net.Listener }

// openAgentListeners opens all or none.
func openAgentListeners(cfg *agentConfig) (*agentListeners, error) {
	l := &agentListeners{}
	var opened []net.Listener
	for _, want := range []struct {
		key, address string
		mode         fileMode
		into         *net.Listener
	}{
		{"sds.listen", cfg.SDS.Listen, cfg.SDS.SocketMode, &l.sds}, {"admin", cfg.Admin, 0o600, &l.admin},
		{"diagnostics.listen", cfg.Diagnostics.Listen, 0, &l.diagnostics},
	} {
		if want.address == "" {
			continue
		}
		listener, err := openAt(want.key, want.address, want.mode)
		if err != nil {
			for _, one := range opened {
				_ = one.Close()
			}
			return nil, err
		}
		*want.into = listener
		opened = append(opened, listener)
	}
	return l, nil
}
