package caserver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/net/netutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	securityv1 "istio.io/api/security/v1alpha1"

	"github.com/writ-auth/writ/ca"
	"github.com/writ-auth/writ/ca/attest"
	"github.com/writ-auth/writ/internal/grpcserve"
	"github.com/writ-auth/writ/internal/spiffeid"
)

// ServiceName is the gRPC service that agents call, and the name gRPC health checks may ask for.
const ServiceName = "istio.v1.auth.IstioCertificateService"

// Defaults of a [Config].
const (
	DefaultTimeout        = 10 * time.Second
	DefaultMaxConcurrent  = 512
	DefaultMaxConnections = 10_000
	DefaultRate           = 100
	DefaultBurst          = 1000
	DefaultDrainTimeout   = 15 * time.Second
)

const (
	maxMessageBytes  = 256 << 10 // a certificate request has at most 16 KiB; Envoy's node, in a request for secrets, some 64
	maxHeaderBytes   = 64 << 10
	maxStreams       = 256 // of one connection
	handshakeTimeout = 10 * time.Second
	connectionIdle   = 15 * time.Minute
	// connectionAge spreads agents over replicas, and has them read the server's certificate again.
	connectionAge = time.Hour
)

// Authority signs; [*ca.Authority] does.
type Authority interface {
	Issue(ctx context.Context, a *ca.Approval) (*ca.Issued, error)
	Bundle() *ca.Bundle
	Issuer() string // what signs now, as Issued.Issuer names it; empty while nothing can
	Ready(ctx context.Context) error
}

// Attestor says who calls and what they may have; [*attest.Attestor] does.
type Attestor interface {
	Attest(ctx context.Context, e attest.Evidence) (*attest.Caller, error)
	Grant(ctx context.Context, c *attest.Caller, asked string) (spiffeid.ID, error)
}

// Names are what the server's own certificate says.
type Names struct {
	// ID is the server's identity, such as spiffe://TRUST-DOMAIN/writ/authority; required.
	ID spiffeid.ID
	// DNS and IPs are what clients dial, at least one of the two. Istio's agents verify istiod.istio-system.svc whenever
	// they are told to dial localhost (identity §3.1).
	DNS []string
	IPs []netip.Addr
}

// Config says what a Server answers with. Authority, Attestor, Profile, ServerProfile and Names are required; every other
// zero value is a safe default.
type Config struct {
	Authority Authority
	Attestor  Attestor

	Profile *ca.Profile            // of requests that name no signer
	Signers map[string]*ca.Profile // of requests that do, by the name in their metadata's CertSigner

	Minter Minter // makes JWT-SVIDs; nil: calls for them are answered Unimplemented
	// Services registers what else is served on the same listener; its callers are proven by [Server.Caller]. May be nil.
	Services func(grpc.ServiceRegistrar)

	Names         Names
	ServerProfile *ca.Profile // of the server's own certificate

	Timeout        time.Duration // for all the work of a call; agents set none
	MaxConcurrent  int           // calls at work; more are answered ResourceExhausted at once
	MaxConnections int           // more wait to be accepted
	Rate           float64       // calls a second that one identity at one address may make, over time
	Burst          int           // and how many at once
	DrainTimeout   time.Duration // how long calls in flight may take to end

	// Observe is called with every call after it was answered, on the call's goroutine. It must not keep what it is given.
	Observe func(*Observation)
	Logger  *slog.Logger // nil discards

	Now func() time.Time // nil for time.Now
}

// checked returns cfg with its defaults, or what is wrong with it.
func (cfg Config) checked() (Config, error) {
	switch {
	case cfg.Authority == nil || cfg.Attestor == nil:
		return cfg, errors.New("an Authority and an Attestor are required")
	case cfg.Profile == nil || cfg.ServerProfile == nil:
		return cfg, errors.New("a Profile and a ServerProfile are required")
	case cfg.Names.ID.IsZero():
		return cfg, errors.New("the server's own certificate needs an identity")
	case len(cfg.Names.DNS) == 0 && len(cfg.Names.IPs) == 0:
		return cfg, errors.New("the server's own certificate needs a DNS name or an IP address: what agents dial")
	case cfg.Timeout < 0, cfg.DrainTimeout < 0, cfg.MaxConcurrent < 0, cfg.MaxConnections < 0, cfg.Rate < 0, cfg.Burst < 0:
		return cfg, errors.New("bounds: want 0 for the default, or more")
	}
	for name, profile := range cfg.Signers {
		if name == "" || len(name) > maxSignerName || profile == nil {
			return cfg, fmt.Errorf("signer %q: want a name of at most %d bytes, and a profile", name, maxSignerName)
		}
	}
	cfg.Signers = maps.Clone(cfg.Signers)
	cfg.Timeout = cmp.Or(cfg.Timeout, DefaultTimeout)
	cfg.MaxConcurrent = cmp.Or(cfg.MaxConcurrent, DefaultMaxConcurrent)
	cfg.MaxConnections = cmp.Or(cfg.MaxConnections, DefaultMaxConnections)
	cfg.Rate = cmp.Or(cfg.Rate, DefaultRate)
	cfg.Burst = cmp.Or(cfg.Burst, DefaultBurst)
	cfg.DrainTimeout = cmp.Or(cfg.DrainTimeout, DefaultDrainTimeout)
	if cfg.Observe == nil {
		cfg.Observe = func(*Observation) {}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return cfg, nil
}

// Server answers agents' calls for certificates.
type Server struct {
	cfg      Config
	slots    chan struct{} // one for each call at work
	limits   *limiter
	health   *health.Server
	identity identity
	minting  minting
	inFlight atomic.Int64
	serving  atomic.Bool
}

// New checks the configuration. It starts nothing.
func New(cfg Config) (*Server, error) {
	cfg, err := cfg.checked()
	if err != nil {
		return nil, fmt.Errorf("caserver: %w", err)
	}
	s := &Server{
		cfg:    cfg,
		slots:  make(chan struct{}, cfg.MaxConcurrent),
		limits: newLimiter(cfg.Rate, cfg.Burst, cfg.Now),
		health: health.NewServer(),
	}
	s.setServing(false)
	return s, nil
}

// InFlight is how many calls are at work.
func (s *Server) InFlight() int { return int(s.inFlight.Load()) }

// Serve answers on l until ctx is done, then lets calls in flight end, for DrainTimeout at most, and returns nil. It
// closes l, and keeps the server's own certificate current in the meantime. Call it once.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	renewing := make(chan struct{})
	go func() {
		defer close(renewing)
		s.keepIdentity(background)
	}()
	defer func() {
		stop()
		<-renewing
	}()

	server := grpc.NewServer(s.options()...)
	securityv1.RegisterIstioCertificateServiceServer(server, &service{server: s})
	healthv1.RegisterHealthServer(server, s.health)
	if s.cfg.Minter != nil {
		s.minting.server = s
		server.RegisterService(jwtServiceDesc(), &s.minting)
	}
	if s.cfg.Services != nil {
		s.cfg.Services(server)
	}
	err := grpcserve.Serve(ctx, server, netutil.LimitListener(l, s.cfg.MaxConnections), grpcserve.Drain{
		Timeout: s.cfg.DrainTimeout, Begin: s.health.Shutdown, Late: func() {
			s.cfg.Logger.Warn("calls for certificates were still in flight at the end of the drain timeout", "timeout", s.cfg.DrainTimeout)
		},
	})
	if err != nil {
		return fmt.Errorf("caserver: %w", err)
	}
	return nil
}

func (s *Server) options() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.Creds(s.transport()),
		grpc.MaxRecvMsgSize(maxMessageBytes),
		grpc.MaxHeaderListSize(maxHeaderBytes),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.ConnectionTimeout(handshakeTimeout),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionIdle: connectionIdle, MaxConnectionAge: connectionAge, MaxConnectionAgeGrace: time.Minute,
			Time: 30 * time.Second, Timeout: 10 * time.Second,
		}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
	}
}

// setServing says what health checks are answered.
func (s *Server) setServing(serving bool) {
	status := healthv1.HealthCheckResponse_NOT_SERVING
	if serving {
		status = healthv1.HealthCheckResponse_SERVING
	}
	s.health.SetServingStatus("", status)
	s.health.SetServingStatus(ServiceName, status)
	s.serving.Store(serving)
}
