package sds

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"

	"github.com/writ-auth/writ/internal/grpcserve"
	"github.com/writ-auth/writ/internal/spiffeid"
)

// Defaults of a [Config].
const (
	DefaultMaxStreams     = 16384
	DefaultMaxPerCaller   = 1024
	DefaultMaxConnections = 4096
	DefaultFetchTimeout   = 15 * time.Second
	DefaultDrainTimeout   = 5 * time.Second
	DefaultRemember       = 10 * time.Minute
)

// Config says what a Server gives to whom. Vault, Authorizer and TrustDomain are required; every other zero value is a safe
// default.
type Config struct {
	Vault       *Vault
	Authorizer  Authorizer
	TrustDomain spiffeid.ID // of which Names.Roots and Names.Bundle are
	Names       Names

	// Caller says who opened a stream on a connection that is not of the Unix socket; nil for [CallerByCertificate]. An error
	// refuses the stream, and is logged: with its own code if it is a gRPC status, else as Unauthenticated.
	Caller func(context.Context) (*Caller, error)
	// KeysOverNetwork gives private keys through other connections than the Unix socket, too. Whoever opens one of those
	// without being the caller that it claims to be has the key.
	KeysOverNetwork bool

	// Why says why there is no certificate of an identity, or no bundle of a trust domain, for status; nil or an empty answer
	// for a general reason. It is called often, must be quick, and must not call the server.
	Why func(spiffeid.ID) string

	// Services registers what else is served on the Unix socket, such as the SPIFFE Workload API. Its callers are told by
	// [Server.Identify]. May be nil.
	Services func(grpc.ServiceRegistrar)

	MaxStreams     int           // of all callers, FetchSecrets calls that wait included
	MaxPerCaller   int           // the same of one process, or of one client certificate's identity
	MaxConnections int           // to the Unix socket; one user may have three quarters of them
	FetchTimeout   time.Duration // how long FetchSecrets waits for a secret that is not there yet
	DrainTimeout   time.Duration // how long calls may take to end when the server does
	// Remember is how long followers of the bundle that identified themselves by no certificate stay in the inventory after
	// their last stream. Others stay until their certificate ends.
	Remember time.Duration

	Logger *slog.Logger     // nil discards
	Now    func() time.Time // nil for time.Now
}

func (cfg Config) checked() (Config, error) {
	switch {
	case cfg.Vault == nil || cfg.Authorizer == nil:
		return cfg, errors.New("a Vault and an Authorizer are required")
	case cfg.TrustDomain.IsZero() || cfg.TrustDomain.Path() != "":
		return cfg, fmt.Errorf("trust domain %q: want the ID of one", cfg.TrustDomain)
	case cfg.MaxStreams < 0, cfg.MaxPerCaller < 0, cfg.MaxConnections < 0, cfg.FetchTimeout < 0, cfg.DrainTimeout < 0, cfg.Remember < 0:
		return cfg, errors.New("bounds: want 0 for the default, or more")
	}
	var err error
	if cfg.Names, err = cfg.Names.checked(); err != nil {
		return cfg, err
	}
	cfg.MaxStreams = cmp.Or(cfg.MaxStreams, DefaultMaxStreams)
	cfg.MaxPerCaller = cmp.Or(cfg.MaxPerCaller, DefaultMaxPerCaller)
	cfg.MaxConnections = cmp.Or(cfg.MaxConnections, DefaultMaxConnections)
	cfg.FetchTimeout = cmp.Or(cfg.FetchTimeout, DefaultFetchTimeout)
	cfg.DrainTimeout = cmp.Or(cfg.DrainTimeout, DefaultDrainTimeout)
	cfg.Remember = cmp.Or(cfg.Remember, DefaultRemember)
	if cfg.Caller == nil {
		cfg.Caller = CallerByCertificate
	}
	if cfg.Why == nil {
		cfg.Why = func(spiffeid.ID) string { return "" }
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return cfg, nil
}

// Server is Envoy's Secret Discovery Service. Start with [New], then [Server.Serve] on a Unix socket, or
// [Server.Register] on a gRPC server that identifies its clients, with [Server.Run] beside it, or both.
type Server struct {
	cfg       Config
	inventory *Inventory
	counts    counts
	// current is what requests are answered from. It follows the vault when all streams with roots have been sent those.
	current atomic.Pointer[contents]

	mu        sync.Mutex // guards what follows
	streams   map[*stream]struct{}
	calls     int            // streams, and fetches that wait
	perCaller map[string]int // calls
	running   int            // how many Runs are at work
}

// counts are what metrics tell.
type counts struct {
	pushes, acks, nacks [4]atomic.Int64 // by Kind
	refused             map[Reason]*atomic.Int64
}

// New checks the configuration. It starts nothing.
func New(cfg Config) (*Server, error) {
	cfg, err := cfg.checked()
	if err != nil {
		return nil, fmt.Errorf("sds: %w", err)
	}
	s := &Server{cfg: cfg, streams: map[*stream]struct{}{}, perCaller: map[string]int{}}
	s.inventory = newInventory(s)
	s.counts.refused = map[Reason]*atomic.Int64{} // not changed from here on
	for _, reason := range Reasons() {
		s.counts.refused[reason] = new(atomic.Int64)
	}
	return s, nil
}

// Inventory knows what every stream holds.
func (s *Server) Inventory() *Inventory { return s.inventory }

// Register adds the service to a gRPC server, which has to prove who its clients are: see Config.Caller. Streams are
// answered while [Server.Run] or [Server.Serve] is at work.
func (s *Server) Register(r grpc.ServiceRegistrar) { r.RegisterService(serviceDesc(), s) }

// Run tells streams of what has changed, roots before identities, until ctx is done. Then it ends all streams with
// Unavailable: proxies keep what they have and come back (identity §4.3). It returns nil.
func (s *Server) Run(ctx context.Context) error {
	s.begin()
	s.follow(ctx)
	return nil
}

// begin has streams answered.
func (s *Server) begin() {
	s.advance(s.cfg.Vault.load())
	s.setRunning(1)
}

// follow does the work of Run after begin.
func (s *Server) follow(ctx context.Context) {
	defer func() {
		if s.setRunning(-1) == 0 {
			stopping := refuse(codes.Unavailable, ReasonUncertain, "the server is stopping")
			stopping.noted = true
			s.endAll(stopping)
		}
	}()
	entitlement := s.cfg.Authorizer.Changed()
	for first := true; ; first = false {
		contents, asked := s.cfg.Vault.Changed(), false
		select {
		case <-entitlement:
			entitlement, asked = s.cfg.Authorizer.Changed(), true
		default:
		}
		s.update(s.cfg.Vault.load(), asked || first)
		select {
		case <-ctx.Done():
			return
		case <-contents:
		case <-entitlement:
		}
	}
}

// update has every stream send what it lacks: first those with roots, then, when requests are answered from the new
// contents too, the others.
func (s *Server) update(c *contents, entitlement bool) {
	for _, st := range s.all() {
		st.update(c, entitlement, true)
	}
	s.advance(c)
	for _, st := range s.all() {
		st.update(c, false, false)
	}
}

// advance has requests answered from c.
func (s *Server) advance(c *contents) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if current := s.current.Load(); current == nil || current.generation < c.generation {
		s.current.Store(c)
	}
}

func (s *Server) all() []*stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]*stream, 0, len(s.streams))
	for st := range s.streams {
		list = append(list, st)
	}
	return list
}

func (s *Server) endAll(r *refusal) {
	for _, st := range s.all() {
		st.mu.Lock()
		st.end(r)
		st.mu.Unlock()
	}
}

func (s *Server) setRunning(n int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running += n
	return s.running
}

// Serve answers on a Unix socket until ctx is done, then ends all streams and returns nil. It closes l. Callers are
// identified by the kernel (SO_PEERCRED); a listener that is no Unix socket is refused. It does what [Server.Run] does.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	if l.Addr().Network() != "unix" {
		return errors.Join(fmt.Errorf("sds: %s is no Unix socket: private keys are not served there", l.Addr()), l.Close())
	}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	stopped := make(chan struct{})
	s.begin() // before the first stream comes
	go func() {
		defer close(stopped)
		s.follow(running)
	}()
	defer func() {
		stop()
		<-stopped
	}()

	server := grpc.NewServer(s.options()...)
	s.Register(server)
	if s.cfg.Services != nil {
		s.cfg.Services(server)
	}
	err := grpcserve.Serve(ctx, server, &unixListener{Listener: l, server: s, users: map[uint32]int{}}, grpcserve.Drain{
		Timeout: s.cfg.DrainTimeout,
		Begin: func() { // streams last until they are ended
			stop()
			<-stopped
		},
		Late: func() {
			s.cfg.Logger.Warn("SDS calls had not ended at the end of the drain timeout", "timeout", s.cfg.DrainTimeout)
		},
	})
	if err != nil {
		return fmt.Errorf("sds: %w", err)
	}
	return nil
}

const (
	maxMessageBytes   = 1 << 20 // Envoy's node lists all its extensions
	maxHeaderBytes    = 16 << 10
	streamsPerConn    = 1024 // Envoy opens a stream for each secret
	handshakeTimeout  = 10 * time.Second
	connectionIdle    = 10 * time.Minute
	readBufferBytes   = 1 << 10 // answers of proxies are short
	writeBufferBytes  = 4 << 10 // a certificate with its key
	flowControlWindow = 64 << 10
)

// options bound what a connection may do, and keep small what it costs while nothing happens on it, which is most of the
// time: buffers are short or shared, and there is no second goroutine for a stream.
func (s *Server) options() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.Creds(unixTransport{}),
		grpc.ForceServerCodecV2(newCodec()),
		grpc.MaxRecvMsgSize(maxMessageBytes),
		grpc.MaxHeaderListSize(maxHeaderBytes),
		grpc.MaxConcurrentStreams(streamsPerConn),
		grpc.ConnectionTimeout(handshakeTimeout),
		grpc.ReadBufferSize(readBufferBytes),
		grpc.WriteBufferSize(writeBufferBytes),
		grpc.HeaderTableSize(0), // a call's headers come once
		grpc.StaticStreamWindowSize(flowControlWindow),
		grpc.StaticConnWindowSize(flowControlWindow),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: connectionIdle}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
	}
}
