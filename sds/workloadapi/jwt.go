package workloadapi

import (
	"context"
	"fmt"
	"slices"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	spiffe "github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/writ-auth/writ/internal/spiffeid"
	"github.com/writ-auth/writ/sds"
)

const (
	maxAudiences = 8
	maxAudience  = 512 // bytes of one
	maxToken     = 16 << 10
)

var errJWTOff = status.Error(codes.Unimplemented, "JWT-SVIDs are not switched on")

// FetchJWTSVID returns a token for the identity that is named, or for each the caller has.
func (s *Server) FetchJWTSVID(ctx context.Context, r *workload.JWTSVIDRequest) (answer *workload.JWTSVIDResponse, err error) {
	c, err := s.begin(ctx, "FetchJWTSVID")
	defer func() { s.end(ctx, "FetchJWTSVID", c, err) }()
	if err != nil {
		return nil, err
	}
	if s.cfg.Minter == nil {
		return nil, errJWTOff
	}
	audiences := r.GetAudience()
	if len(audiences) == 0 || len(audiences) > maxAudiences {
		return nil, status.Errorf(codes.InvalidArgument, "%d audiences: want 1 to %d", len(audiences), maxAudiences)
	}
	for _, a := range audiences {
		if a == "" || len(a) > maxAudience {
			return nil, status.Errorf(codes.InvalidArgument, "an audience of %d bytes: want 1 to %d", len(a), maxAudience)
		}
	}
	e, err := c.entitled(ctx)
	if err != nil {
		return nil, err
	}
	wanted := e.Identities
	if r.GetSpiffeId() != "" {
		id, err := spiffeid.Parse(r.GetSpiffeId())
		if err != nil {
			return nil, status.Error(codes.InvalidArgument, "spiffe_id is no SPIFFE ID")
		}
		if !slices.Contains(e.Identities, id) {
			return nil, errNoIdentity
		}
		wanted = []spiffeid.ID{id}
	}
	answer = &workload.JWTSVIDResponse{}
	for _, id := range wanted {
		token, err := s.token(ctx, id, audiences)
		if err != nil {
			s.cfg.Logger.WarnContext(ctx, "no JWT-SVID", "id", id.String(), "error", err)
			return nil, mintingFailed(err)
		}
		answer.Svids = append(answer.Svids, &workload.JWTSVID{SpiffeId: id.String(), Svid: token.Text})
	}
	return answer, nil
}

// mintingFailed passes on what the caller can do something about; everything else passes.
func mintingFailed(err error) error {
	switch code := status.Code(err); code {
	case codes.InvalidArgument, codes.Unimplemented, codes.PermissionDenied, codes.ResourceExhausted:
		return status.Error(code, status.Convert(err).Message())
	}
	return status.Error(codes.Unavailable, "no JWT-SVID can be had now")
}

// FetchJWTBundles streams the keys by which JWT-SVIDs are verified, for every trust domain that is known.
func (s *Server) FetchJWTBundles(_ *workload.JWTBundlesRequest, stream grpc.ServerStreamingServer[workload.JWTBundlesResponse]) (err error) {
	ctx := stream.Context()
	c, err := s.begin(ctx, "FetchJWTBundles")
	defer func() { s.end(ctx, "FetchJWTBundles", c, err) }()
	if err != nil {
		return err
	}
	if s.cfg.Minter == nil {
		return errJWTOff
	}
	return follow(ctx, c, func(sds.Entitlement) (*workload.JWTBundlesResponse, func(*workload.JWTBundlesResponse) bool) {
		next := s.jwtBundles()
		return next, func(last *workload.JWTBundlesResponse) bool { return proto.Equal(last, next) }
	}, stream.Send)
}

func (s *Server) jwtBundles() *workload.JWTBundlesResponse {
	out := &workload.JWTBundlesResponse{Bundles: map[string][]byte{}}
	for _, b := range s.cfg.Vault.Bundles() {
		if len(b.JWTKeys) > 0 {
			out.Bundles[b.TrustDomain.String()] = b.JWTKeys
		}
	}
	if len(out.Bundles) == 0 {
		return nil
	}
	return out
}

// ValidateJWTSVID verifies a token for one audience, by the keys of the trust domain that its subject is in.
func (s *Server) ValidateJWTSVID(ctx context.Context, r *workload.ValidateJWTSVIDRequest) (answer *workload.ValidateJWTSVIDResponse, err error) {
	c, err := s.begin(ctx, "ValidateJWTSVID")
	defer func() { s.end(ctx, "ValidateJWTSVID", c, err) }()
	if err != nil {
		return nil, err
	}
	if s.cfg.Minter == nil {
		return nil, errJWTOff
	}
	if _, err := c.entitled(ctx); err != nil {
		return nil, err
	}
	switch {
	case r.GetAudience() == "" || len(r.GetAudience()) > maxAudience:
		return nil, status.Errorf(codes.InvalidArgument, "an audience of %d bytes: want 1 to %d", len(r.GetAudience()), maxAudience)
	case r.GetSvid() == "" || len(r.GetSvid()) > maxToken:
		return nil, status.Errorf(codes.InvalidArgument, "a token of %d bytes: want 1 to %d", len(r.GetSvid()), maxToken)
	}
	svid, err := jwtsvid.ParseAndValidate(r.GetSvid(), bundlesOf{s.cfg.Vault}, []string{r.GetAudience()})
	if err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "the token does not verify: %v", err)
	}
	claims, err := structpb.NewStruct(svid.Claims)
	if err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "the token's claims: %v", err)
	}
	return &workload.ValidateJWTSVIDResponse{SpiffeId: svid.ID.String(), Claims: claims}, nil
}

// bundlesOf finds the keys of a trust domain, and of that one only (identity §6.3).
type bundlesOf struct{ vault *sds.Vault }

// GetJWTBundleForTrustDomain implements [jwtbundle.Source].
func (b bundlesOf) GetJWTBundleForTrustDomain(td spiffe.TrustDomain) (*jwtbundle.Bundle, error) {
	bundle := b.vault.Bundle(td.Name())
	if bundle == nil || len(bundle.JWTKeys) == 0 {
		return nil, fmt.Errorf("no keys of trust domain %q", td.Name())
	}
	return jwtbundle.Parse(td, bundle.JWTKeys)
}
