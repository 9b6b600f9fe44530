package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"reflect"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/writ-auth/writ/internal/spiffeid"
	"github.com/writ-auth/writ/sds"
	"github.com/writ-auth/writ/sds/agent"
	"github.com/writ-auth/writ/sds/workloadapi"
)

const (
	configEvery = 5 * time.Second // between looks at whether an agent's configuration changed
	slimEvery   = time.Minute     // between times at which an agent lets go of memory that it needs no more
)

// node is one running writ agent.
type node struct {
	config    *agentConfig
	build     buildInfo
	started   time.Time
	log       *slog.Logger
	vault     *sds.Vault
	workloads *agent.Workloads
	agent     *agent.Agent
	secrets   *sds.Server
	metrics   http.Handler
	listening []listenerStatus // set before anything runs

	file   string // of the configuration
	reread func() (*agentConfig, error)

	mu        sync.Mutex // guards what follows
	reloadErr error      // of the last attempt
}

// newNode prepares what the configuration says. It starts nothing and asks nobody.
func newNode(cfg *agentConfig, log *slog.Logger) (*node, error) {
	n := &node{config: cfg, build: readBuildInfo(), started: time.Now(), log: log, vault: &sds.Vault{}}
	settings, err := cfg.agent()
	if err != nil {
		return nil, invalidf("%w", err)
	}
	rules, err := cfg.workloads()
	if err != nil {
		return nil, invalidf("workloads: %w", err)
	}
	if n.workloads, err = agent.NewWorkloads(settings.TrustDomain, rules); err != nil {
		return nil, invalidf("%w", err)
	}
	if n.secrets, err = n.newServer(settings.TrustDomain); err != nil {
		return nil, err
	}
	metrics := agent.NewMetrics(n.build.Version, n.build.Revision, n.build.Go)
	n.metrics = metrics.Handler()
	settings.Vault, settings.Identities, settings.Logger, settings.Observe = n.vault, n.workloads.Identities(), log, metrics.Observe
	settings.Consumers = n.secrets.Inventory().Consumers
	if n.agent, err = agent.New(settings); err != nil {
		return nil, err
	}
	metrics.Watch(n.agent)
	sds.NewMetrics(metrics.Registry(), n.secrets)
	return n, nil
}

// newServer prepares what is served on the Unix socket: SDS, and the SPIFFE Workload API beside it, by the same rules.
func (n *node) newServer(domain spiffeid.ID) (*sds.Server, error) {
	api, err := workloadapi.New(workloadapi.Config{
		Vault: n.vault, Authorizer: n.workloads, Minter: minter{n}, Logger: n.log,
		Caller: func(ctx context.Context) (*sds.Caller, error) { return n.secrets.Identify(ctx) },
	})
	if err != nil {
		return nil, err
	}
	return sds.New(sds.Config{
		Vault: n.vault, Authorizer: n.workloads, TrustDomain: domain, Names: n.config.SDS.Names.names(), Logger: n.log, Services: api.Register,
		Why: func(id spiffeid.ID) string { return n.agent.Why(id) },
	})
}

// minter has the agent's authority make JWT-SVIDs.
type minter struct{ node *node }

func (m minter) MintJWT(ctx context.Context, id spiffeid.ID, audiences []string) (workloadapi.Token, error) {
	return m.node.agent.MintJWT(ctx, id, audiences)
}

// run serves until ctx ends.
func (n *node) run(ctx context.Context, l *agentListeners) error {
	n.announce(l)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return n.agent.Run(ctx) })
	group.Go(func() error { return n.secrets.Serve(ctx, l.sds) })
	group.Go(func() error { return n.watch(ctx) })
	group.Go(func() error { return n.slim(ctx) })
	if l.diagnostics != nil {
		group.Go(func() error { return ignoreClosed(serveHTTP(ctx, l.diagnostics, n.diagnostics())) })
	}
	if l.admin != nil {
		group.Go(func() error { return ignoreClosed(serveHTTP(ctx, adminListener{l.admin, n.log}, n.admin())) })
	}
	err := group.Wait()
	n.log.Info("stopped")
	return err
}

// announce logs what listens where.
func (n *node) announce(l *agentListeners) {
	for _, open := range []struct {
		name     string
		listener net.Listener
	}{{"sds", l.sds}, {"admin", l.admin}, {"diagnostics", l.diagnostics}} {
		if open.listener == nil {
			continue
		}
		addr := open.listener.Addr()
		status := listenerStatus{Name: open.name, Address: address{addr.Network(), addr.String()}.String()}
		n.listening = append(n.listening, status)
		n.log.Info("listening", "for", status.Name, "address", status.Address, "tls", false)
	}
	if n.config.State == "" {
		n.log.Warn("state is not set: a restart takes the proof of identity anew, which a join token is not good for")
	}
	if len(n.config.Workloads) == 0 {
		n.log.Warn("workloads is empty: no process gets anything")
	}
	n.log.Info("writ agent runs", "version", n.build.Version, "trust_domain", n.config.TrustDomain, "authorities", n.config.Authority.addresses(),
		"workloads", len(n.config.Workloads))
}

// slim gives back the memory that starting up took, once everything is there, and every minute the pages of the program
// that were needed in a burst of work and are not any more: an agent sleeps most of the time, on a machine that is there
// for its workloads.
func (n *node) slim(ctx context.Context) error {
	ticker := time.NewTicker(configEvery)
	defer ticker.Stop()
	for slimmed := false; ; {
		if !slimmed && n.readiness(ctx).Ready {
			slimmed = true
			debug.FreeOSMemory()
			ticker.Reset(slimEvery)
		}
		if slimmed {
			if err := forgetProgram(); err != nil {
				n.log.DebugContext(ctx, "the program's own pages stay in memory", "error", err)
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// watch reads workloads again when the configuration changes, and on SIGHUP. Looking is enough: a file is replaced in more
// ways than a watch of one of them would see, and what it says is wanted within seconds.
func (n *node) watch(ctx context.Context) error {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	ticker := time.NewTicker(configEvery)
	defer ticker.Stop()
	last, _ := readBounded(n.file, maxConfigBytes)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-hup:
			last, _ = readBounded(n.file, maxConfigBytes)
			n.reload("SIGHUP")
		case <-ticker.C:
			if now, err := readBounded(n.file, maxConfigBytes); err == nil && !bytes.Equal(now, last) {
				last = now
				n.reload("change")
			}
		}
	}
}

// reload puts the workloads of the configuration in force, or keeps those that are.
func (n *node) reload(trigger string) {
	err := n.replaceWorkloads()
	n.mu.Lock()
	n.reloadErr = err
	n.mu.Unlock()
	if err != nil {
		n.log.Error("the configuration cannot be used, the last good workloads stay in force", "file", n.file, "trigger", trigger, "error", err)
	}
}

func (n *node) replaceWorkloads() error {
	cfg, err := n.reread()
	if err != nil {
		return err
	}
	rules, err := cfg.workloads()
	if err != nil {
		return err
	}
	if err := n.workloads.Set(rules); err != nil {
		return err
	}
	n.agent.SetIdentities(n.workloads.Identities())
	n.log.Info("workloads in force", "workloads", len(rules), "identities", len(n.workloads.Identities()))
	now, before := *cfg, *n.config
	now.Workloads, before.Workloads = nil, nil
	if !reflect.DeepEqual(now, before) {
		return errors.New("the workloads are in force; what else changed needs a restart of the agent")
	}
	return nil
}

// readiness says whether every identity is there and good.
func (n *node) readiness(context.Context) readiness {
	reasons := n.agent.NotReady()
	return readiness{Ready: len(reasons) == 0, Reasons: reasons}
}

// diagnostics serves /metrics, /livez, /readyz and, if switched on, /debug/pprof.
func (n *node) diagnostics() http.Handler {
	return diagnosticsOf(n.metrics, n.readiness, n.config.Diagnostics.Pprof)
}

// admin serves the status, and reloads on request, to whoever may open the admin socket.
func (n *node) admin() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, n.status())
	})
	mux.HandleFunc("POST /reload", func(w http.ResponseWriter, r *http.Request) {
		n.reload("admin")
		writeJSON(w, http.StatusOK, n.readiness(r.Context()))
	})
	return mux
}

// status is the whole picture, for GET /status.
func (n *node) status() statusReport {
	report := agentReport{n.agent.Status(), n.secrets.Inventory().Snapshot()}
	r := statusReport{
		readiness: n.readiness(context.Background()), Warnings: n.agent.Alarms(), Build: n.build, Started: n.started,
		Listeners: n.listening, Agent: &report,
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.reloadErr != nil {
		r.Warnings = append(r.Warnings, fmt.Sprintf("%s: %v", n.file, n.reloadErr))
	}
	return r
}
