package caserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime/debug"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/structpb"
	securityv1 "istio.io/api/security/v1alpha1"

	"github.com/writ-auth/writ/ca"
	"github.com/writ-auth/writ/ca/attest"
	"github.com/writ-auth/writ/internal/spiffeid"
)

const (
	maxSignerName = 253
	maxLogged     = 256 // bytes of text that a caller chose
)

// The keys of a request's metadata that mean something (identity §2.1), and the headers of our answers.
const (
	keySigner       = "CertSigner"
	keyImpersonated = "ImpersonatedIdentity"

	headerTTLRule  = "writ-ttl-rule"  // what set the lifetime: requested, default, min, max, issuer
	headerNotAfter = "writ-not-after" // RFC 3339
)

// service is the gRPC service of a server.
type service struct {
	securityv1.UnimplementedIstioCertificateServiceServer
	server *Server
}

// CreateCertificate answers one call.
func (v *service) CreateCertificate(ctx context.Context, r *securityv1.IstioCertificateRequest) (*securityv1.IstioCertificateResponse, error) {
	s := v.server
	s.inFlight.Add(1)
	defer s.inFlight.Add(-1)
	o := &Observation{Time: s.cfg.Now()}
	start := time.Now()
	if headers, ok := metadata.FromIncomingContext(ctx); ok {
		if values := headers.Get("clusterid"); len(values) > 0 {
			o.Cluster = values[0]
		}
	}
	working, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	o.Issued, o.Err = s.guarded(working, r, o)
	o.Outcome, o.Reason = conclude(working, o.Err)
	o.Duration = time.Since(start)
	s.report(ctx, o)
	if o.Err != nil {
		return nil, o.status()
	}
	// An answer whose headers cannot be sent is an answer still.
	_ = grpc.SetHeader(ctx, metadata.Pairs(headerTTLRule, o.Issued.TTLRule, headerNotAfter, o.Issued.NotAfter.UTC().Format(time.RFC3339)))
	return &securityv1.IstioCertificateResponse{CertChain: o.Issued.Chain}, nil
}

// guarded admits a call, and turns a panic into an error: one bad request does not end the others.
func (s *Server) guarded(ctx context.Context, r *securityv1.IstioCertificateRequest, o *Observation) (issued *ca.Issued, err error) {
	defer func() {
		if p := recover(); p != nil {
			s.cfg.Logger.ErrorContext(ctx, "panic while issuing a certificate", "panic", p, "stack", string(debug.Stack()))
			issued, err = nil, fmt.Errorf("%w: %v", errPanic, p)
		}
	}()
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	default:
		return nil, errOverloaded
	}
	return s.create(ctx, r, o)
}

// create goes from a call to a certificate, and fills in who and for whom on the way.
func (s *Server) create(ctx context.Context, r *securityv1.IstioCertificateRequest, o *Observation) (*ca.Issued, error) {
	// 1. What is asked for. What is wrong with it comes up once it is known who asks, or when a join token is at stake.
	asked, slip := s.read(r)
	o.Asked = asked.identity
	// 2. Who asks.
	e, from := evidence(ctx)
	o.From = from
	e.BeforeJoin = func() ([32]byte, error) { return s.beforeJoin(asked, slip, from) }
	caller, err := s.cfg.Attestor.Attest(ctx, e)
	if err != nil {
		return nil, err
	}
	o.Caller = caller
	if slip != nil {
		return nil, slip
	}
	if caller.Method != attest.MethodJoinToken && !s.limits.allow(newSource(caller.ID, from)) {
		return nil, errRateLimited
	}
	// 3. For whom: itself, or whom its join token names.
	id, err := s.cfg.Attestor.Grant(ctx, caller, asked.identity)
	if err != nil {
		return nil, err
	}
	o.ID = id
	if id == s.cfg.Names.ID { // whoever had it would be taken for the authority by those who verify the server by identity
		return nil, fmt.Errorf("%w: %s is the authority's own server", ca.ErrIdentity, id)
	}
	// 4. The certificate.
	approval, err := ca.Approve(id, asked.csr, ca.ApprovalRequest{Profile: asked.profile, Caller: caller.String(), Seconds: asked.seconds})
	if err != nil {
		return nil, err
	}
	issued, err := s.cfg.Authority.Issue(ctx, approval)
	if err != nil {
		return nil, err
	}
	if len(issued.Chain) < 2 { // every agent would fail with "invalid empty CertChain" (identity §2.6)
		return nil, fmt.Errorf("%w: a chain of %d elements", ca.ErrSelfCheck, len(issued.Chain))
	}
	return issued, nil
}

// asking is a request taken apart.
type asking struct {
	csr      []byte
	seconds  int64
	profile  *ca.Profile
	identity string // to impersonate; empty for none
}

// read takes a request apart. Agents always send CertSigner, usually empty; other keys of the metadata mean nothing.
func (s *Server) read(r *securityv1.IstioCertificateRequest) (asking, error) {
	a := asking{csr: []byte(r.GetCsr()), seconds: r.GetValidityDuration(), profile: s.cfg.Profile}
	signer, err := text(r.GetMetadata(), keySigner)
	if err != nil {
		return a, err
	}
	if a.identity, err = text(r.GetMetadata(), keyImpersonated); err != nil {
		return a, err
	}
	if signer == "" {
		return a, nil
	}
	profile, ok := s.cfg.Signers[signer]
	if !ok {
		return a, fmt.Errorf("%w: %q", errUnknownSigner, clip(signer))
	}
	a.profile = profile
	return a, nil
}

// text reads a string of the metadata: empty if it is absent or null.
func text(m *structpb.Struct, key string) (string, error) {
	switch v := m.GetFields()[key].GetKind().(type) {
	case nil, *structpb.Value_NullValue:
		return "", nil
	case *structpb.Value_StringValue:
		return v.StringValue, nil
	default:
		return "", fmt.Errorf("%w: %s is not a string", errBadMetadata, key)
	}
}

// beforeJoin finds what would make a call with a join token fail, while the token is still good, and says which key the
// caller holds. It cannot know yet which identity a token without an impersonated one names, so names in the request are
// looked at later.
func (s *Server) beforeJoin(a asking, slip error, from netip.Addr) (key [32]byte, err error) {
	if slip != nil {
		return key, slip
	}
	if !s.limits.allow(newSource(spiffeid.ID{}, from)) {
		return key, errRateLimited
	}
	id := s.cfg.Names.ID
	if a.identity != "" {
		if id, err = spiffeid.Parse(a.identity); err != nil {
			return key, fmt.Errorf("%w: %s: %w", errBadMetadata, keyImpersonated, err)
		}
	}
	_, err = ca.Approve(id, a.csr, ca.ApprovalRequest{Profile: a.profile, Caller: string(attest.MethodJoinToken) + ":unknown", Seconds: a.seconds})
	if e, ok := errors.AsType[*ca.CSRError](err); ok && e.Reason == ca.ReasonName && a.identity == "" {
		err = nil
	}
	if err != nil {
		return key, err
	}
	return ca.ProvenKey(a.csr, a.profile)
}

// report tells the log and the observer.
func (s *Server) report(ctx context.Context, o *Observation) {
	attrs := []slog.Attr{
		slog.String("outcome", string(o.Outcome)), slog.String("from", o.From.String()), slog.Duration("took", o.Duration),
	}
	if o.Caller != nil {
		attrs = append(attrs, slog.Any("caller", o.Caller))
	}
	for _, given := range []struct{ key, value string }{
		{"reason", o.Reason}, {"asked", clip(o.Asked)}, {"cluster", clip(o.Cluster)}, {"id", o.ID.String()},
	} {
		if given.value != "" {
			attrs = append(attrs, slog.String(given.key, given.value))
		}
	}
	level, message := slog.LevelInfo, "certificate issued"
	switch o.Outcome {
	case Issued:
		attrs = append(attrs, slog.Any("serial", o.Issued.Serial), slog.Time("not_after", o.Issued.NotAfter),
			slog.Duration("ttl", o.Issued.TTL), slog.String("ttl_rule", o.Issued.TTLRule), slog.String("issuer", o.Issued.Issuer))
	case Failed, NotReady, TimedOut:
		level, message = slog.LevelError, "certificate not issued"
	default:
		level, message = slog.LevelWarn, "certificate refused"
	}
	if o.Err != nil {
		attrs = append(attrs, slog.String("error", o.Err.Error()))
	}
	s.cfg.Logger.LogAttrs(ctx, level, message, attrs...)
	s.cfg.Observe(o)
}

// clip bounds text from outside; log formats and %q make it fit for a line.
func clip(text string) string { return text[:min(len(text), maxLogged)] }
