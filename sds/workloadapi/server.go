package workloadapi

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/writ-auth/writ/internal/spiffeid"
	"github.com/writ-auth/writ/sds"
)

// ServiceName is the gRPC service that workloads call. It has no package.
const ServiceName = "SpiffeWorkloadAPI"

// securityHeader keeps requests away that a workload was tricked into making, such as through an HTTP proxy: they cannot
// set it (SPIFFE Workload Endpoint §6.1).
const securityHeader = "workload.spiffe.io"

// Token is a JWT-SVID with its end. It must not be logged.
type Token struct {
	Text    string
	Expires time.Time
}

// Minter makes JWT-SVIDs for identities of this node.
type Minter interface {
	MintJWT(ctx context.Context, id spiffeid.ID, audiences []string) (Token, error)
}

// Config says what a Server answers with. Vault, Authorizer and Caller are required.
type Config struct {
	Vault      *sds.Vault
	Authorizer sds.Authorizer
	// Caller says who is at the other end of a call's connection.
	Caller func(ctx context.Context) (*sds.Caller, error)
	Minter Minter // nil: the JWT-SVID profile answers Unimplemented

	// Observe is called when a call or stream was refused or ended, on its goroutine; nil for none.
	Observe func(*Observation)
	Logger  *slog.Logger     // nil discards
	Now     func() time.Time // nil for time.Now
}

// Observation is one call, for metrics.
type Observation struct {
	Method string // without the service
	Code   codes.Code
}

// Server answers workloads.
type Server struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	cfg   Config
	cache tokenCache
}

// New checks the configuration.
func New(cfg Config) (*Server, error) {
	if cfg.Vault == nil || cfg.Authorizer == nil || cfg.Caller == nil {
		return nil, errors.New("workload API: Vault, Authorizer and Caller are required")
	}
	if cfg.Observe == nil {
		cfg.Observe = func(*Observation) {}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Server{cfg: cfg}, nil
}

// Register adds the service to a gRPC server. The server must listen on a Unix socket, or wherever else Config.Caller can
// prove who calls.
func (s *Server) Register(r grpc.ServiceRegistrar) { workload.RegisterSpiffeWorkloadAPIServer(r, s) }

// call is one call or stream, with whom it is from.
type call struct {
	server *Server
	method string
	caller *sds.Caller
}

// begin proves the caller and checks the header. It does not say what the caller may have: that may change.
func (s *Server) begin(ctx context.Context, method string) (*call, error) {
	headers, _ := metadata.FromIncomingContext(ctx)
	if values := headers.Get(securityHeader); len(values) != 1 || values[0] != "true" {
		return nil, status.Errorf(codes.InvalidArgument, "want the header %s: true", securityHeader)
	}
	caller, err := s.cfg.Caller(ctx)
	if err != nil {
		s.cfg.Logger.WarnContext(ctx, "a workload cannot be told apart", "method", method, "error", err)
		return nil, status.Error(codes.Unavailable, "who calls cannot be told now")
	}
	return &call{server: s, method: method, caller: caller}, nil
}

// end counts and logs what was refused.
func (s *Server) end(ctx context.Context, method string, c *call, err error) {
	code := status.Code(err)
	if err != nil && ctx.Err() != nil {
		code = codes.Canceled // the workload left, which is how streams end
	}
	s.cfg.Observe(&Observation{Method: method, Code: code})
	if code == codes.OK || code == codes.Canceled {
		return
	}
	attrs := []any{"method", method, "code", code.String(), "answer", status.Convert(err).Message()}
	if c != nil {
		attrs = append(attrs, "caller", c.caller.Address)
	}
	s.cfg.Logger.WarnContext(ctx, "a workload got no answer", attrs...)
}

// errNoIdentity is what a workload is told that has no entry. Which entries there are is not its business.
var errNoIdentity = status.Error(codes.PermissionDenied, "no identity issued")

// entitled says what the caller may have now.
func (c *call) entitled(ctx context.Context) (sds.Entitlement, error) {
	e, err := c.server.cfg.Authorizer.Entitled(c.caller)
	switch {
	case err != nil:
		c.server.cfg.Logger.WarnContext(ctx, "a workload cannot be told apart", "method", c.method, "caller", c.caller.Address, "error", err)
		return e, status.Error(codes.Unavailable, "who calls cannot be told now")
	case len(e.Identities) == 0:
		c.server.cfg.Logger.WarnContext(ctx, "a workload without an identity asks for one", "method", c.method,
			"caller", c.caller.Address, "reason", e.Reason)
		return e, errNoIdentity
	}
	return e, nil
}

// follow sends what build makes, at once and whenever it changes, until the workload leaves or loses its right. While
// build has nothing the answer is held (identity §4.3, §10 row 13).
func follow[M any](ctx context.Context, c *call, build func(sds.Entitlement) (message *M, same func(*M) bool), send func(*M) error) error {
	var last *M
	for {
		rights, secrets := c.server.cfg.Authorizer.Changed(), c.server.cfg.Vault.Changed()
		e, err := c.entitled(ctx)
		if err != nil {
			return err
		}
		if next, same := build(e); next != nil && (last == nil || !same(last)) {
			if err := send(next); err != nil {
				return err
			}
			last = next
		}
		select {
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		case <-rights:
		case <-secrets:
		}
	}
}
