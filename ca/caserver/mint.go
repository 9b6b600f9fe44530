package caserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/writ-auth/writ/ca"
	"github.com/writ-auth/writ/ca/attest"
	"github.com/writ-auth/writ/internal/spiffeid"
)

// JWTServiceName is the gRPC service by which agents get JWT-SVIDs for their workloads, and MethodMintJWT its one method.
// Its messages are those of the SPIFFE Workload API: a request names audiences and one identity, and the answer has one
// token.
const (
	JWTServiceName = "writ.v1.JWTService"
	MethodMintJWT  = "/" + JWTServiceName + "/FetchJWTSVID"
)

// Minter makes JWT-SVIDs; [*ca.Authority] does.
type Minter interface {
	MintJWT(ctx context.Context, id spiffeid.ID, audiences []string) (*ca.MintedJWT, error)
}

// jwtService is the handler type of the service.
type jwtService interface {
	FetchJWTSVID(ctx context.Context, r *workload.JWTSVIDRequest) (*workload.JWTSVIDResponse, error)
}

func jwtServiceDesc() *grpc.ServiceDesc {
	return &grpc.ServiceDesc{
		ServiceName: JWTServiceName,
		HandlerType: (*jwtService)(nil),
		Methods: []grpc.MethodDesc{{
			MethodName: "FetchJWTSVID",
			Handler: func(service any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
				r := new(workload.JWTSVIDRequest)
				if err := decode(r); err != nil {
					return nil, err
				}
				return service.(jwtService).FetchJWTSVID(ctx, r) //nolint:errcheck // gRPC checked the type on registration
			},
		}},
	}
}

// errOnlyToJoin keeps a join token for what it is good for.
var errOnlyToJoin = errors.New("a join token is for the first certificate: get that, and come back with it")

// minting counts tokens by outcome.
type minting struct {
	server *Server
	counts [16]atomic.Uint64 // as outcomeTable
}

// Minted is how many calls for JWT-SVIDs ended in an outcome.
func (s *Server) Minted(o Outcome) uint64 {
	for i, row := range outcomeTable {
		if row.outcome == o {
			return s.minting.counts[i].Load()
		}
	}
	return 0
}

// FetchJWTSVID answers one call for a token.
func (m *minting) FetchJWTSVID(ctx context.Context, r *workload.JWTSVIDRequest) (*workload.JWTSVIDResponse, error) {
	s := m.server
	s.inFlight.Add(1)
	defer s.inFlight.Add(-1)
	working, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	o := &Observation{Time: s.cfg.Now(), Asked: r.GetSpiffeId()}
	minted, err := m.guarded(working, r, o)
	o.Err = err
	o.Outcome, o.Reason = conclude(working, err)
	m.report(ctx, o)
	if err != nil {
		return nil, mintStatus(o)
	}
	return &workload.JWTSVIDResponse{Svids: []*workload.JWTSVID{{SpiffeId: minted.ID.String(), Svid: minted.Token}}}, nil
}

// guarded admits a call, and turns a panic into an error.
func (m *minting) guarded(ctx context.Context, r *workload.JWTSVIDRequest, o *Observation) (minted *ca.MintedJWT, err error) {
	defer func() {
		if p := recover(); p != nil {
			m.server.cfg.Logger.ErrorContext(ctx, "panic while minting a JWT-SVID", "panic", p, "stack", string(debug.Stack()))
			minted, err = nil, fmt.Errorf("%w: %v", errPanic, p)
		}
	}()
	select {
	case m.server.slots <- struct{}{}:
		defer func() { <-m.server.slots }()
	default:
		return nil, errOverloaded
	}
	return m.mint(ctx, r, o)
}

func (m *minting) mint(ctx context.Context, r *workload.JWTSVIDRequest, o *Observation) (*ca.MintedJWT, error) {
	s := m.server
	caller, from, err := s.proven(ctx)
	o.From, o.Caller = from, caller
	if err != nil {
		return nil, err
	}
	if !s.limits.allow(newSource(caller.ID, from)) {
		return nil, errRateLimited
	}
	if o.ID, err = s.cfg.Attestor.Grant(ctx, caller, r.GetSpiffeId()); err != nil {
		return nil, err
	}
	return s.cfg.Minter.MintJWT(ctx, o.ID, r.GetAudience())
}

// proven says who calls, by anything but a join token.
func (s *Server) proven(ctx context.Context) (*attest.Caller, netip.Addr, error) {
	e, from := evidence(ctx)
	e.BeforeJoin = func() ([32]byte, error) { return [32]byte{}, errOnlyToJoin }
	caller, err := s.cfg.Attestor.Attest(ctx, e)
	return caller, from, err
}

// Caller says who calls, for other services on the same listener: those in [Config.Services]. The error is fit for the
// caller.
func (s *Server) Caller(ctx context.Context) (id spiffeid.ID, notAfter time.Time, from netip.Addr, err error) {
	caller, from, err := s.proven(ctx)
	if err != nil {
		o := &Observation{From: from, Err: err}
		o.Outcome, o.Reason = conclude(ctx, err)
		s.cfg.Logger.WarnContext(ctx, "a stream was refused", "from", from.String(), "outcome", string(o.Outcome), "error", err)
		return spiffeid.ID{}, time.Time{}, from, o.status()
	}
	return caller.ID, caller.NotAfter, from, nil
}

// mintStatus is what the caller is told.
func mintStatus(o *Observation) error {
	switch {
	case errors.Is(o.Err, ca.ErrNoJWT):
		return status.Error(codes.Unimplemented, "JWT-SVIDs are not switched on")
	case errors.Is(o.Err, ca.ErrAudience):
		return status.Error(codes.InvalidArgument, "audience refused")
	}
	err := o.status()
	return status.Error(status.Code(err), strings.Replace(status.Convert(err).Message(), "certificates", "JWT-SVIDs", 1))
}

// report tells the log, without the token.
func (m *minting) report(ctx context.Context, o *Observation) {
	for i, row := range outcomeTable {
		if row.outcome == o.Outcome {
			m.counts[i].Add(1)
		}
	}
	attrs := []slog.Attr{slog.String("outcome", string(o.Outcome)), slog.String("from", o.From.String())}
	if o.Caller != nil {
		attrs = append(attrs, slog.Any("caller", o.Caller))
	}
	if !o.ID.IsZero() {
		attrs = append(attrs, slog.String("id", o.ID.String()))
	}
	level, message := slog.LevelDebug, "JWT-SVID minted" // debug: one for each audience and workload every few minutes
	if o.Err != nil {
		level, message = slog.LevelWarn, "JWT-SVID refused"
		attrs = append(attrs, slog.String("asked", clip(o.Asked)), slog.String("error", o.Err.Error()))
	}
	m.server.cfg.Logger.LogAttrs(ctx, level, message, attrs...)
}
