package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/writ-auth/writ/internal/testkit"
)

// Ports, counted from -port.
const (
	portOrder = iota
	portPayment
	portInventory
	portCustomer
	portBarista
	portDatabase // TCP, next to inventory-service
	portDiagnostics
	portIdentity  // the identity provider; identityPort if counted from the default
	portAuthority // where writ issues certificates
	portsUsed     // how many there are
)

// member is one service of the shop.
type member struct {
	name      string
	port      int
	labels    string // what its sidecar says of it; empty = nothing, writ goes by certificate and WorkloadEntry
	plaintext bool   // whether its sidecar takes plaintext besides mutual TLS
}

// order-service is PERMISSIVE. All others are STRICT, and their Envoys take no plaintext; but that of payment-service does, as
// if nobody had told it: writ refuses it all the same.
var members = []member{
	{name: "order-service", port: portOrder, labels: "app=order-service,version=v1", plaintext: true},
	{name: "payment-service", port: portPayment, labels: "app=payment-service,version=v1", plaintext: true},
	{name: "inventory-service", port: portInventory, labels: "app=inventory-service,version=v1"},
	{name: "customer-service", port: portCustomer, labels: "app=customer-service,version=v1"},
	{name: "barista-service", port: portBarista},
}

const databaseService = "inventory-database"

// shop is everything that runs.
type shop struct {
	dir       string // configuration, sockets, logs; removed at the end
	policies  string // absolute
	writ      string // binary
	ports     [portsUsed]int
	authority *testkit.Authority
	provider  *testkit.IdentityProvider // of customers
	signed    map[string]string         // key IDs by what tokens signed with them are called
	forged    *tls.Certificate          // the impostor's
	machines  map[string]*machine       // by holder
	sidecars  map[string]*testkit.Envoy // by service

	mu      sync.Mutex
	closers []func() error // last first
}

// open starts the whole shop. After an error, close ends what had started.
func (s *shop) open(ctx context.Context, opts options, stderr io.Writer) error {
	var tee io.Writer
	if opts.verbose {
		tee = stderr
	}
	var err error
	if s.policies, err = filepath.Abs(opts.policies); err != nil {
		return err
	}
	if _, err := os.Stat(s.policies); err != nil {
		return fmt.Errorf("-policies: %w (run this from the checkout, or name the directory)", err)
	}
	// Unix socket paths are short; the system's own folder for temporary files may not be.
	if s.dir, err = os.MkdirTemp("", "coffee-shop-"); err != nil {
		return err
	}
	s.later(func() error { return os.RemoveAll(s.dir) })
	if err := s.checkFolder(); err != nil {
		return err
	}
	if err := s.takePorts(ctx, opts.port); err != nil {
		return err
	}
	if err := s.aimPolicies(); err != nil {
		return err
	}
	if err := s.copyRego(opts.rego); err != nil {
		return err
	}
	if err := s.startIdentityProvider(ctx); err != nil {
		return err
	}
	envoy, err := testkit.EnvoyPath(ctx)
	if err != nil {
		return err
	}
	if s.writ, err = testkit.BuildWrit(ctx, s.dir); err != nil {
		return err
	}
	if err := s.startAuthority(ctx, tee); err != nil {
		return err
	}
	if err := s.forge(); err != nil {
		return err
	}
	return s.startMachines(ctx, envoy, tee)
}

// later registers what close has to do.
func (s *shop) later(do func() error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closers = append(s.closers, do)
}

// close ends everything, in the opposite order of its start.
func (s *shop) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all error
	for i := len(s.closers) - 1; i >= 0; i-- {
		all = errors.Join(all, s.closers[i]())
	}
	s.closers = nil
	return all
}

// takePorts makes sure, before anything starts, that the ports can be had.
func (s *shop) takePorts(ctx context.Context, first int) error {
	var config net.ListenConfig
	var held []net.Listener
	defer func() {
		for _, l := range held {
			_ = l.Close()
		}
	}()
	for i := range s.ports {
		port := 0
		if first > 0 {
			port = first + i
		}
		listener, err := config.Listen(ctx, "tcp", local(port))
		if err != nil {
			return fmt.Errorf("port %d is taken, perhaps by another coffee shop: %w (choose others with -port)", port, err)
		}
		held = append(held, listener)
		s.ports[i] = listener.Addr().(*net.TCPAddr).Port
	}
	return nil
}

func local(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

func (s *shop) file(name string) string { return filepath.Join(s.dir, name) }

// startMachines starts everybody's machine at once, with a backend and an Envoy where there is a service.
func (s *shop) startMachines(ctx context.Context, envoy string, tee io.Writer) error {
	order := new(orderService)
	database, err := testkit.ServeTCPEcho(ctx, "inventory database ready")
	if err != nil {
		return err
	}
	s.later(database.Close)
	configs := map[string]sidecar{}
	for _, m := range members {
		handler := service(m.name)
		if m.port == portOrder {
			handler = order
		}
		backend, err := testkit.ServeHTTP(ctx, handler)
		if err != nil {
			return err
		}
		s.later(backend.Close)
		configs[m.name] = s.sidecar(m, backend.Addr, database.Addr)
	}

	s.machines, s.sidecars = map[string]*machine{}, map[string]*testkit.Envoy{}
	group, ctx := errgroup.WithContext(ctx)
	for _, h := range holders() {
		group.Go(func() error {
			if err := s.startMachine(ctx, h, tee); err != nil {
				return fmt.Errorf("the machine of %s: %w", h.name, err)
			}
			if config, ok := configs[h.name]; ok {
				return s.startSidecar(ctx, envoy, config, tee)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	outbound := s.sidecars["order-service"].Listener("outbound")
	order.outbound.Store(&outbound)
	return nil
}

func (s *shop) sidecar(m member, backend, database string) sidecar {
	config := sidecar{
		Service: m.name, Port: s.ports[m.port], Plaintext: m.plaintext, Labels: m.labels, Backend: backend,
		Agent: s.agentSocket(m.name), Writ: s.file("authz.sock"),
	}
	switch m.port {
	case portInventory:
		config.TCP = &tcpService{Port: s.ports[portDatabase], Labels: "app=" + databaseService, Backend: database}
	case portOrder:
		for _, called := range members {
			if called.port != portOrder {
				config.Calls = append(config.Calls, peer{
					Service: called.name, Address: local(s.ports[called.port]), ID: serviceID(called.name),
				})
			}
		}
	}
	return config
}

func (s *shop) startSidecar(ctx context.Context, binary string, config sidecar, tee io.Writer) error {
	bootstrap, err := config.bootstrap()
	if err != nil {
		return err
	}
	envoy, err := testkit.StartEnvoy(ctx, testkit.EnvoyConfig{
		Name: config.Service, Binary: binary, Bootstrap: bootstrap, Dir: s.dir, Tee: tee,
	})
	if err != nil {
		return err
	}
	s.later(func() error { envoy.Stop(); return nil })
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sidecars[config.Service] = envoy
	return nil
}

// wait returns nil when ctx ends, and an error when one of the processes does.
func (s *shop) wait(ctx context.Context) error {
	ended := make(chan string, len(s.sidecars)+len(s.machines)+1)
	watch := func(p *testkit.Process) {
		select {
		case <-p.Done():
			ended <- p.Name
		case <-ctx.Done():
		}
	}
	go watch(s.authority.Process)
	for _, m := range s.machines {
		go watch(m.agent.Process)
	}
	for _, envoy := range s.sidecars {
		go watch(envoy.Process)
	}
	select {
	case <-ctx.Done():
		return nil
	case name := <-ended:
		return fmt.Errorf("%s ended although nobody asked it to", name)
	}
}
