package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/writ-auth/writ/ca/caserver"
	"github.com/writ-auth/writ/internal/durable"
	"github.com/writ-auth/writ/internal/spiffeid"
)

// localTokenTTL is how long the local agent has to use its join token; it does so within the first seconds.
const localTokenTTL = 10 * time.Minute

// sdsConfig has the authority serve the workloads of its own machine, as an agent would.
type sdsConfig struct {
	Listen     string           `yaml:"listen" rel:"address"`
	SocketMode fileMode         `yaml:"socket_mode"`
	Names      sdsNamesConfig   `yaml:"names"`
	Workloads  []workloadConfig `yaml:"workloads"`
}

// defaults fills the block before what the file says of it is read.
func (s *sdsConfig) defaults() {
	*s = sdsConfig{Listen: "unix:///run/writ/sds.sock", SocketMode: 0o666}
}

// checkSDS looks at what the local agent needs.
func (d *configDecoder) checkSDS(c *config) {
	if c.CA == nil {
		d.bad("sds", "ca is missing: this machine has no authority to serve from; an agent of another authority is writ agent")
		return
	}
	if c.State == "" {
		d.bad("state", "missing: name the directory where the local agent keeps its certificate, such as ./state")
	}
	if a := c.CA.attest(); a.JoinToken == nil || a.ClientCert == nil {
		d.bad("sds", "it needs ca.attest.join_token and ca.attest.client_cert: by them the local agent proves itself")
	}
	if len(c.SDS.Workloads) == 0 {
		d.bad("sds.workloads", "missing: who may have what? List id with uid, gid, path or sha256; nobody else gets anything")
	}
	d.checkSocket("sds.listen", c.SDS.Listen, "callers are told apart by the kernel")
	d.checkNames(c.SDS.Names)
	domain, _ := spiffeid.TrustDomain(c.TrustDomain) // checked with ca
	for i := range c.SDS.Workloads {
		d.checkWorkload(fmt.Sprintf("sds.workloads[%d]", i), &c.SDS.Workloads[i], domain)
	}
}

// newLocalNode makes the agent of the authority's own machine. It is an agent like any other: it proves itself by a join
// token, asks over TLS, and its keys are its own. Only nobody has to set it up.
func (i *issuing) newLocalNode(ctx context.Context, address string) (*node, error) {
	s := i.config.SDS
	cfg := defaultAgentConfig()
	cfg.TrustDomain, cfg.Workloads = i.config.TrustDomain, s.Workloads
	cfg.SDS = agentSDSConfig{Listen: s.Listen, SocketMode: s.SocketMode, Names: s.Names}
	cfg.State = filepath.Join(i.config.State, "agent")
	cfg.Authority = &authorityConfig{Address: address, Bundle: i.bundleFile(), ID: i.domain.String() + serverIDPath}
	cfg.Attest.JoinTokenFile = filepath.Join(i.config.State, "agent-token")
	if err := i.localToken(ctx, cfg.Attest.JoinTokenFile, s.Workloads); err != nil {
		return nil, fmt.Errorf("sds: a join token for the workloads of this machine: %w", err)
	}
	return newNode(cfg, i.log.With("part", "local agent"))
}

// localToken makes a join token for the identities of this machine, as they are configured now.
func (i *issuing) localToken(ctx context.Context, file string, workloads []workloadConfig) error {
	r := caserver.CreateTokenRequest{TTL: caserver.Duration(localTokenTTL), Node: "local agent"}
	for _, w := range workloads {
		id, err := spiffeid.Parse(w.ID)
		if err != nil {
			return err
		}
		if !slices.Contains(r.IDs, id) {
			r.IDs = append(r.IDs, id)
		}
	}
	token, err := i.admin.CreateToken(ctx, "authority:local", r)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	return durable.WriteFile(file, []byte(token.Token+"\n"), 0o600)
}

// runLocal serves until ctx ends.
func (n *node) runLocal(ctx context.Context, l *agentListeners) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return n.agent.Run(ctx) })
	group.Go(func() error { return n.secrets.Serve(ctx, l.sds) })
	return group.Wait()
}

// localMetrics adds those of the local agent to an authority's diagnostics, on a path of their own: an agent counts under
// the same names as the authority's own distribution.
func (a *authority) localMetrics() http.Handler {
	if a.local == nil {
		return http.NotFoundHandler()
	}
	return a.local.metrics
}
