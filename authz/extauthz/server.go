package extauthz

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/netutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/internal/grpcserve"
	"github.com/writ-auth/writ/policy"
)

// ServiceName is the gRPC service that Envoy calls, and the name gRPC health checks may ask for.
const ServiceName = "envoy.service.auth.v3.Authorization"

// Defaults and bounds of a [Config].
const (
	DefaultMaxRequestBytes = 4 << 20
	DefaultDrainTimeout    = 10 * time.Second

	DefaultMaxConcurrentStreams = 1024
	DefaultMaxConnections       = 10_000

	// maxMessageBytes is where the transport gives up. Between MaxRequestBytes and this, a request is read and
	// denied in the response; above it gRPC itself answers with an error.
	maxMessageBytes = 64 << 20
)

// Config says what a Server answers with. Snapshot and Engine are required, every other zero value is a safe
// default.
type Config struct {
	// Snapshot returns the snapshot to decide by, nil while there is none. It is called once for each request.
	Snapshot func() *policy.Snapshot
	Engine   *authz.Engine

	TrustedHops int      // x-forwarded-for entries, from the right, that are ours (remote.ip)
	Paths       PathMode // default PathsBase

	// MaxRequestBytes is the largest CheckRequest that is read, default DefaultMaxRequestBytes, at most 64 MiB.
	// A larger one is denied.
	MaxRequestBytes int

	// Observe is called with every answer before it is sent, on the request's goroutine. It must not keep
	// anything it is given.
	Observe func(*Observation)

	Logger *slog.Logger // nil discards

	TLS                  *tls.Config   // nil serves plaintext; versions before TLS 1.2 are refused
	Reflection           bool          // offer gRPC server reflection
	DrainTimeout         time.Duration // how long calls in flight may take to end, default DefaultDrainTimeout
	MaxConcurrentStreams uint32        // per connection, default DefaultMaxConcurrentStreams
	MaxConnections       int           // more wait to be accepted, default DefaultMaxConnections

	// Limiter turns checks away under overload; nil answers all of them, however late.
	Limiter *Limiter
}

// Server answers Envoy's Check calls.
type Server struct {
	snapshot        func() *policy.Snapshot
	engine          *authz.Engine
	ids             *authz.IDs
	options         Options
	maxRequestBytes int
	observe         func(*Observation)
	logger          *slog.Logger

	tls          *tls.Config
	reflection   bool
	drainTimeout time.Duration
	maxStreams   uint32
	maxConns     int
	limiter      *Limiter

	health *health.Server
	codec  *codec
	frames sync.Pool
	calls  sync.Pool
	panics atomic.Uint64

	mu              sync.Mutex // guards what follows
	ready, draining bool
}

// checked returns cfg with its defaults, or what is wrong with it.
func (cfg Config) checked() (Config, error) {
	switch {
	case cfg.Snapshot == nil || cfg.Engine == nil:
		return cfg, errors.New("extauthz: Config.Snapshot and Config.Engine are required")
	case cfg.TrustedHops < 0:
		return cfg, fmt.Errorf("extauthz: trusted hops %d: want 0 or more", cfg.TrustedHops)
	case cfg.Paths != "" && cfg.Paths != PathsBase && cfg.Paths != PathsNone:
		return cfg, fmt.Errorf("extauthz: paths %q: want %q or %q", cfg.Paths, PathsBase, PathsNone)
	case cfg.MaxRequestBytes < 0 || cfg.MaxRequestBytes > maxMessageBytes:
		return cfg, fmt.Errorf("extauthz: max request bytes %d: want 1 to %d", cfg.MaxRequestBytes, maxMessageBytes)
	case cfg.MaxConnections < 0:
		return cfg, fmt.Errorf("extauthz: max connections %d: want 1 or more", cfg.MaxConnections)
	case cfg.DrainTimeout < 0:
		return cfg, fmt.Errorf("extauthz: drain timeout %v: want more than 0", cfg.DrainTimeout)
	}
	cfg.Paths = cmp.Or(cfg.Paths, PathsBase)
	cfg.MaxRequestBytes = cmp.Or(cfg.MaxRequestBytes, DefaultMaxRequestBytes)
	cfg.DrainTimeout = cmp.Or(cfg.DrainTimeout, DefaultDrainTimeout)
	cfg.MaxConnections = cmp.Or(cfg.MaxConnections, DefaultMaxConnections)
	cfg.MaxConcurrentStreams = cmp.Or(cfg.MaxConcurrentStreams, DefaultMaxConcurrentStreams)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return cfg, nil
}

// New checks the configuration. It starts nothing.
func New(cfg Config) (*Server, error) {
	cfg, err := cfg.checked()
	if err != nil {
		return nil, err
	}
	s := &Server{
		snapshot:        cfg.Snapshot,
		engine:          cfg.Engine,
		ids:             authz.NewIDs(),
		options:         Options{TrustedHops: cfg.TrustedHops, Paths: cfg.Paths, certificates: newCertificateCache()},
		maxRequestBytes: cfg.MaxRequestBytes,
		observe:         cfg.Observe,
		logger:          cfg.Logger,
		reflection:      cfg.Reflection,
		drainTimeout:    cfg.DrainTimeout,
		maxStreams:      cfg.MaxConcurrentStreams,
		maxConns:        cfg.MaxConnections,
		limiter:         cfg.Limiter,
		health:          health.NewServer(),
	}
	if cfg.TLS != nil {
		s.tls = cfg.TLS.Clone()
		s.tls.MinVersion = max(s.tls.MinVersion, tls.VersionTLS12)
	}
	s.frames.New = func() any { return new(frame) }
	s.calls.New = func() any { return new(call) }
	s.codec = &codec{
		standard: encoding.GetCodecV2(codecName),
		limit:    cfg.MaxRequestBytes,
		frames:   &s.frames,
		buffers:  newResponseBuffers(),
	}
	s.SetReady(false)
	return s, nil
}

// SetReady says whether health checks are answered with SERVING. A new server is not ready, and one that drains never is.
func (s *Server) SetReady(ready bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ready = ready
	s.report()
}

func (s *Server) setDraining(draining bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.draining = draining
	if draining {
		s.ready = false
	}
	s.report()
}

// report answers health checks. The caller holds mu.
func (s *Server) report() {
	status := healthv1.HealthCheckResponse_NOT_SERVING
	if s.ready && !s.draining {
		status = healthv1.HealthCheckResponse_SERVING
	}
	s.health.SetServingStatus("", status)
	s.health.SetServingStatus(ServiceName, status)
}

// Panics is how many panics were recovered and answered with a denial.
func (s *Server) Panics() uint64 { return s.panics.Load() }

// Decide answers one CheckRequest without a network, by the code that serves. If w is not nil it names the workload,
// and raw is not asked for it. The decision may refer to raw, which must not change while it is in use.
func (s *Server) Decide(ctx context.Context, raw []byte, w *policy.Workload) authz.Decision {
	c := new(call)
	s.answer(ctx, c, input{raw, len(raw)}, w)
	return c.decision
}

// Serve answers on l until ctx is done, then lets calls in flight end, for DrainTimeout at most, and returns nil.
// It closes l. It may be called for several listeners, at the same time or one after the other.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	s.setDraining(false)
	server := grpc.NewServer(s.serverOptions()...)
	server.RegisterService(&serviceDesc, s)
	healthv1.RegisterHealthServer(server, s.health)
	if s.reflection {
		reflection.Register(server)
	}
	err := grpcserve.Serve(ctx, server, netutil.LimitListener(l, s.maxConns), grpcserve.Drain{
		Timeout: s.drainTimeout,
		Begin:   func() { s.setDraining(true) },
		Late: func() {
			s.logger.Warn("calls were still in flight at the end of the drain timeout", "timeout", s.drainTimeout)
		},
	})
	if err != nil {
		return fmt.Errorf("extauthz: %w", err)
	}
	return nil
}
