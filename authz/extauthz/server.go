package extauthz

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/policy"
)

// ServiceName is the gRPC service that Envoy calls, and the name gRPC health checks may ask for.
const ServiceName = "envoy.service.auth.v3.Authorization"

// Defaults and bounds of a [Config].
const (
	DefaultMaxRequestBytes = 4 << 20
	DefaultDrainTimeout    = 10 * time.Second

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
	MaxConcurrentStreams uint32        // per connection, default 1024
}

// Server answers Envoy's Check calls.
type Server struct {
	snapshot        func() *policy.Snapshot
	engine          *authz.Engine
	options         Options
	maxRequestBytes int
	observe         func(*Observation)
	logger          *slog.Logger

	tls          *tls.Config
	reflection   bool
	drainTimeout time.Duration
	maxStreams   uint32

	health *health.Server
	codec  *codec
	frames sync.Pool
	calls  sync.Pool
	panics atomic.Uint64
}

// New checks the configuration. It starts nothing.
func New(cfg Config) (*Server, error) {
	if cfg.Snapshot == nil || cfg.Engine == nil {
		return nil, errors.New("extauthz: Config.Snapshot and Config.Engine are required")
	}
	if cfg.TrustedHops < 0 {
		return nil, fmt.Errorf("extauthz: trusted hops %d: want 0 or more", cfg.TrustedHops)
	}
	switch cfg.Paths {
	case "":
		cfg.Paths = PathsBase
	case PathsBase, PathsNone:
	default:
		return nil, fmt.Errorf("extauthz: paths %q: want %q or %q", cfg.Paths, PathsBase, PathsNone)
	}
	if cfg.MaxRequestBytes == 0 {
		cfg.MaxRequestBytes = DefaultMaxRequestBytes
	}
	if cfg.MaxRequestBytes < 0 || cfg.MaxRequestBytes > maxMessageBytes {
		return nil, fmt.Errorf("extauthz: max request bytes %d: want 1 to %d", cfg.MaxRequestBytes, maxMessageBytes)
	}
	if cfg.DrainTimeout == 0 {
		cfg.DrainTimeout = DefaultDrainTimeout
	}
	if cfg.DrainTimeout < 0 {
		return nil, fmt.Errorf("extauthz: drain timeout %v: want more than 0", cfg.DrainTimeout)
	}
	if cfg.MaxConcurrentStreams == 0 {
		cfg.MaxConcurrentStreams = 1024
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{
		snapshot:        cfg.Snapshot,
		engine:          cfg.Engine,
		options:         Options{TrustedHops: cfg.TrustedHops, Paths: cfg.Paths, certificates: newCertificateCache()},
		maxRequestBytes: cfg.MaxRequestBytes,
		observe:         cfg.Observe,
		logger:          cfg.Logger,
		reflection:      cfg.Reflection,
		drainTimeout:    cfg.DrainTimeout,
		maxStreams:      cfg.MaxConcurrentStreams,
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

// SetReady says whether health checks are answered with SERVING. A new server is not ready.
func (s *Server) SetReady(ready bool) {
	status := healthv1.HealthCheckResponse_NOT_SERVING
	if ready {
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
	server := grpc.NewServer(s.serverOptions()...)
	server.RegisterService(&serviceDesc, s)
	healthv1.RegisterHealthServer(server, s.health)
	if s.reflection {
		reflection.Register(server)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	select {
	case err := <-served:
		server.Stop()
		return fmt.Errorf("extauthz: serve %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	s.SetReady(false)
	s.drain(server)
	<-served // nil, or the error of a listener that failed while it was closed on purpose
	return nil
}

// drain stops accepting, tells clients to go elsewhere, and waits for calls in flight while the timeout lasts.
func (s *Server) drain(server *grpc.Server) {
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		server.GracefulStop()
	}()
	timeout := time.NewTimer(s.drainTimeout)
	defer timeout.Stop()
	select {
	case <-drained:
	case <-timeout.C:
		s.logger.Warn("calls were still in flight at the end of the drain timeout", "timeout", s.drainTimeout)
		server.Stop()
	}
}

// Transport settings. CheckRequests are small and answered at once, so flow control windows are fixed, which spares
// the bandwidth estimator's pings.
const (
	connectionTimeout = 10 * time.Second // for the TLS and HTTP/2 handshakes
	maxHeaderBytes    = 64 << 10         // of the call's own metadata
	streamWindow      = 1 << 20
	connectionWindow  = 16 << 20
	bufferSize        = 32 << 10

	streamWorkers = 64

	// A connection is closed gracefully after this time, give or take a tenth, so that clients spread over new
	// replicas; calls on it have the grace to end.
	maxConnectionAge      = time.Hour
	maxConnectionAgeGrace = time.Minute

	keepaliveTime    = time.Minute // idle time before a connection is probed
	keepaliveTimeout = 20 * time.Second
	minClientPing    = 5 * time.Second // clients may probe this often, with or without calls
)

func (s *Server) serverOptions() []grpc.ServerOption {
	options := []grpc.ServerOption{
		grpc.ForceServerCodecV2(s.codec),
		grpc.MaxRecvMsgSize(maxMessageBytes),
		grpc.MaxConcurrentStreams(s.maxStreams),
		grpc.MaxHeaderListSize(maxHeaderBytes),
		grpc.NumStreamWorkers(streamWorkers),
		grpc.ConnectionTimeout(connectionTimeout),
		grpc.StaticStreamWindowSize(streamWindow),
		grpc.StaticConnWindowSize(connectionWindow),
		grpc.ReadBufferSize(bufferSize),
		grpc.WriteBufferSize(bufferSize),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionAge:      maxConnectionAge,
			MaxConnectionAgeGrace: maxConnectionAgeGrace,
			Time:                  keepaliveTime,
			Timeout:               keepaliveTimeout,
		}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{
			MinTime:             minClientPing,
			PermitWithoutStream: true,
		}),
	}
	if s.tls != nil {
		options = append(options, grpc.Creds(credentials.NewTLS(s.tls)))
	}
	return options
}
